"""Reads pickles that hold only NumPy arrays, containers, text and numbers.

Python's unpickler runs what a file says: even with harmless stand-ins for all names it calls, sets states, allocates
and hashes as the file likes; each has been an attack. So the kit's stack machine (`pickle_machine`) checks each
instruction of the whole file before NumPy is touched, and leaves records (`pickle_names`). This module makes arrays
from them, in one pass that bounds what repeated references make of a small file.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from wsrl_kit.data.formats.pickle_machine import Machine
from wsrl_kit.data.formats.pickle_names import Array, Bytearray, Damaged, Name, Refused
from wsrl_kit.errors import DataError

DEEPEST = 50
"""Most containers inside one another."""

# Whoever walks what was read visits an object as often as it is referred to. Observations of horizon k show each frame
# 2 k times.
_LARGEST_RATIO = 32
_SPARE_BYTES = 16 * 2**20
_OBJECT_BYTES = 32


def load_pickle(path: Path) -> Any:
    """The content of the one pickle in a file; arrays are read-only.

    Raises:
        DataError: it asks for anything else (never run), is incomplete, or holds several.
    """
    found = load_pickles(path)
    if len(found) > 1:
        raise DataError(f"{path} holds {len(found)} pickles after one another, expected one.")
    return found[0]


def load_pickles(path: Path) -> list[Any]:
    """The content of each pickle in a file.

    Raises:
        DataError: as `load_pickle`.
    """
    # Opening a pipe waits for a writer.
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is not a file.")
    try:
        # From the file itself: one copy of large images in memory, not two.
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            records = list(Machine(file, size).pickles())
        builder = _Builder(_SPARE_BYTES + _LARGEST_RATIO * size)
        return [builder.build(record)[0] for record in records]
    except Refused as refused:
        raise DataError(
            f"{path} is refused: it asks for {refused}, and a data file may hold only numpy arrays, containers "
            "and numbers (nothing of it was run)."
        ) from None
    except Damaged as reason:
        raise DataError(f"{path} is truncated or damaged: it {reason}.") from None
    except MemoryError:
        raise DataError(f"{path} does not fit into memory.") from None
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}.") from error


class _Builder:
    """Replaces records by arrays, in place in mutable containers, and measures the result."""

    def __init__(self, largest_size: int) -> None:
        self._largest_size = largest_size
        # Id of a record or container -> it, what became of it, its size and its height; None: it is being built.
        self._built: dict[int, tuple[Any, Any, int, int] | None] = {}

    def build(self, record: Any, depth: int = 0) -> tuple[Any, int, int]:
        """(value, size in bytes counting every reference, height) of a record."""
        kind = type(record)
        if kind in _PLAIN:
            return record, _plain_size(record), 0
        key = id(record)
        if key in self._built:
            known = self._built[key]
            if known is None:
                raise Damaged("holds a container that holds itself")
            return known[1:]
        if kind is Array:
            value, height = _array(record), 0
            size = _OBJECT_BYTES + value.nbytes
        elif kind is Bytearray:
            value, size, height = bytearray(record.content), _OBJECT_BYTES + len(record.content), 0
        elif kind in (list, dict, tuple):
            if depth == DEEPEST:
                raise Damaged(f"nests more than {DEEPEST} containers")
            self._built[key] = None
            value, size, height = self._container(record, depth)
        elif kind in (set, frozenset):
            # Of text and numbers, as the machine has checked.
            value, size, height = record, sum(map(_plain_size, record), _OBJECT_BYTES), 1
        else:
            raise Refused(f"{record.title if kind is Name else 'a dtype'} as a value")
        if height > DEEPEST:
            raise Damaged(f"nests more than {DEEPEST} containers")
        if size > self._largest_size:
            raise Damaged("repeats its content so often that it would fill the memory")
        self._built[key] = record, value, size, height
        return value, size, height

    def _container(self, record: Any, depth: int) -> tuple[Any, int, int]:
        size, height, values = _OBJECT_BYTES, 0, []
        for element in record.values() if type(record) is dict else record:
            if type(element) in _PLAIN:
                values.append(element)
                size += _plain_size(element)
                continue
            value, its_size, its_height = self.build(element, depth + 1)
            values.append(value)
            size += its_size
            if its_height > height:
                height = its_height
        if type(record) is tuple:
            return tuple(values), size, height + 1
        if type(record) is list:
            record[:] = values
            return record, size, height + 1
        for key, value in zip(record, values, strict=True):
            record[key] = value
            size += _plain_size(key)
        return record, size, height + 1


_NUMBERS = frozenset((int, float, bool, complex, type(None)))
_PLAIN = frozenset((*_NUMBERS, str, bytes))


def _plain_size(value: Any) -> int:
    return _OBJECT_BYTES if type(value) in _NUMBERS else _OBJECT_BYTES + len(value)


def _array(record: Array) -> Any:
    if record.content is None:
        raise Damaged("holds an array without content")
    flat = np.frombuffer(record.content, np.dtype(record.code), record.count, record.offset)
    array = flat.reshape(record.shape, order="F" if record.is_fortran else "C")
    if record.is_scalar:
        return array[()]
    return array if record.axes is None else array.transpose(record.axes)
