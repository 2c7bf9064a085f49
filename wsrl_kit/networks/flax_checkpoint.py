"""Files of flax's checkpoints: named arrays in, named arrays out, without the program that made them."""

import math
import warnings
from pathlib import Path
from typing import Any

import jax
import msgpack
import numpy as np
from flax import serialization, traverse_util

from wsrl_kit.reading import check_size

SEPARATOR = "/"

MOST_ENTRIES = 10_000
"""Of a list; flax's hold shapes and parts of arrays."""

Leaves = dict[str, Any]
"""Arrays and numbers by the path of their entry; `{}` where an entry is empty."""


def read(path: Path) -> Leaves:
    """The leaves of a checkpoint in either of flax's formats, with numpy's arrays; empty entries are left out.

    Args:
        path: a msgpack file; a folder of orbax's, which flax's `save_checkpoint` writes by default; or a folder
            with several checkpoints, of which the latest is read.

    Raises:
        Exception: of nearly any kind, where the file is missing, damaged, or something else.
    """
    if path.is_file():
        tree = _read_msgpack(path)
    else:
        # Only for folders: orbax takes seconds to import.
        from flax.training import checkpoints

        latest = checkpoints.latest_checkpoint(path.absolute())
        chosen = path.absolute() if latest is None else Path(latest)
        tree = _read_msgpack(chosen) if chosen.is_file() else _read_orbax(chosen)
    leaves = traverse_util.flatten_dict(tree, sep=SEPARATOR)
    return {name: np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf for name, leaf in leaves.items()}


def _read_msgpack(path: Path) -> Any:
    content = path.read_bytes()
    # Lists are allocated before they are read: those that declare more entries than any of flax's are refused first.
    msgpack.unpackb(content, ext_hook=_check_array, max_array_len=MOST_ENTRIES, strict_map_key=False)
    return serialization.msgpack_restore(content)


def _check_array(_code: int, content: bytes) -> None:
    msgpack.unpackb(content, max_array_len=MOST_ENTRIES)


def _read_orbax(path: Path) -> Any:
    from flax.training import checkpoints
    from orbax.checkpoint import PyTreeCheckpointer

    if any(not entry.resolve().is_relative_to(path.resolve()) for entry in path.rglob("*")):
        raise ValueError("it holds links to other places")
    declared = jax.tree.leaves(PyTreeCheckpointer().metadata(path).item_metadata.tree)
    sizes = [math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in declared if hasattr(leaf, "shape")]
    check_size(sum(sizes), sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file()))
    with warnings.catch_warnings():
        # That the arrays come back to another kind of device than they were on is what is wanted.
        warnings.filterwarnings("ignore", "Sharding info not provided", UserWarning)
        return checkpoints.restore_checkpoint(path, None)


def write(path: Path, leaves: Leaves) -> None:
    """Writes leaves as a msgpack file, which flax's `restore_checkpoint` reads in every version.

    Raises:
        OSError: it can't be written.
    """
    path.write_bytes(serialization.msgpack_serialize(traverse_util.unflatten_dict(leaves, sep=SEPARATOR)))
