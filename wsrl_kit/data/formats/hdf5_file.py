"""Untrusted HDF5 files: reads only data inside the file, and no more than it can hold.

Links, external storage, virtual datasets, filters that load code, and sizes beyond the file are refused before HDF5
follows them.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from wsrl_kit.data.recording import LONGEST_NAME
from wsrl_kit.errors import DataError
from wsrl_kit.files import check_size

_PORTION = 2**26
"""Bytes of text read at once."""

_DEEPEST, _MOST_LEAVES = 5, 1000
"""Groups in groups, and arrays in one: a file may hold groups that hold themselves."""


def require_h5py(path: Path) -> Any:
    """h5py, or a DataError that says how to install it."""
    try:
        import h5py
    except ImportError as error:
        raise DataError(f"{path} needs h5py, which `pip install 'wsrl-kit[data]'` installs.") from error
    return h5py


class File:
    """An open file; `size` in bytes."""

    def __init__(self, path: Path, root: Any) -> None:
        self.path = path
        self.root = root
        self.size = path.stat().st_size
        self._h5py = require_h5py(path)
        self._declared = 0

    def find(self, name: str, group: Any = None) -> Any:
        """The group or dataset `name` below `group` (None: the root); None if missing.

        Raises:
            DataError: it is a link.
        """
        h5py = self._h5py
        found = self.root if group is None else group
        for part in name.split("/"):
            # This looks at the link itself, and does not follow it.
            if not isinstance(found, h5py.Group) or not found.id.links.exists(part.encode()):
                return None
            if found.id.links.get_info(part.encode()).type != h5py.h5l.TYPE_HARD:
                raise DataError(f"{self.path}: {name!r} is a link to another place, expected the data themselves.")
            found = found[part]
        return found

    def names_in(self, name: str, group: Any = None) -> list[str]:
        """The names in a group, without those longer than `LONGEST_NAME`."""
        found = self.find(name, group)
        names = list(found) if isinstance(found, self._h5py.Group) else []
        return [each for each in names if len(each) <= LONGEST_NAME]

    def leaves(self, found: Any, name: str) -> list[tuple[str, Any]]:
        """(path, dataset) of all that a group holds, or of a dataset alone; alphabetical, as Gymnasium flattens a Dict.

        Raises:
            DataError: a link, an odd name, or groups in groups without an end.
        """
        leaves: list[tuple[str, Any]] = []
        waiting = [(name, found)]
        while waiting:
            path, found = waiting.pop()
            if not path.isprintable() or len(path) > LONGEST_NAME:
                raise DataError(f"{self.path}: {name!r} holds names that are not printable or too long.")
            if not isinstance(found, self._h5py.Group):
                leaves.append((path, found))
            elif path.count("/") - name.count("/") == _DEEPEST or len(waiting) + len(leaves) > _MOST_LEAVES:
                raise DataError(f"{self.path}: {name!r} holds more groups in groups than any observation.")
            else:
                waiting += [(f"{path}/{key}", self.find(key, found)) for key in sorted(found, reverse=True)]
        return leaves

    def numbers(self, dataset: Any) -> np.ndarray:
        """Numbers, or text of fixed length.

        Raises:
            DataError: another kind, outside the file, another filter, or too large.
        """
        self._check(dataset)
        if dataset.dtype.kind not in "biufS":
            raise DataError(f"{self.path}: {dataset.name!r} has dtype {dataset.dtype}, expected numbers.")
        values = dataset[()]
        return values.view(np.uint8) != 0 if values.dtype.kind == "b" else values

    def names(self, dataset: Any) -> list[str]:
        """Texts of at most `LONGEST_NAME` characters.

        Raises:
            DataError: as `numbers`, or a text is longer.
        """
        self._check(dataset)
        if self._h5py.check_string_dtype(dataset.dtype) is None:
            raise DataError(f"{self.path}: {dataset.name!r} has dtype {dataset.dtype}, expected text.")
        if dataset.shape == ():
            return [str(dataset.asstr()[()])]
        # Every row may refer to one long text: portions of a length that is harmless even then.
        length = max(_PORTION // max(self.size, 1), 64)
        texts: list[str] = []
        for start in range(0, len(dataset), length):
            portion = dataset.asstr()[start : start + length].ravel().tolist()
            if max(map(len, portion), default=0) > LONGEST_NAME:
                raise DataError(f"{self.path}: {dataset.name!r} holds names of more than {LONGEST_NAME} characters.")
            texts += portion
        return texts

    def _check(self, dataset: Any) -> None:
        h5py = self._h5py
        if not isinstance(dataset, h5py.Dataset):
            raise DataError(f"{self.path}: {getattr(dataset, 'name', dataset)!r} is no array.")
        properties = dataset.id.get_create_plist()
        if properties.get_external_count() or properties.get_layout() == h5py.h5d.VIRTUAL:
            raise DataError(f"{self.path}: {dataset.name!r} lies in other files, expected the data themselves.")
        known = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF)
        for index in range(properties.get_nfilters()):
            if (number := properties.get_filter(index)[0]) not in known:
                raise DataError(
                    f"{self.path}: {dataset.name!r} is stored by filter {number}, expected gzip, lzf, shuffle or none."
                )
        if dataset.shape is None:
            raise DataError(f"{self.path}: {dataset.name!r} is empty.")
        # The files' types and numpy's: h5py converts between them.
        item = max(dataset.dtype.itemsize, dataset.id.get_type().get_size(), 1)
        self._declared += item * math.prod(dataset.shape)
        # A chunk is read as a whole, whatever is wanted of it.
        check_size(self._declared + item * math.prod(dataset.chunks or ()), self.size)


@contextmanager
def open_hdf5(path: Path) -> Iterator[File]:
    """Use inside `reading`: a damaged file raises nearly anything."""
    with require_h5py(path).File(path, "r") as root:
        yield File(path, root)
