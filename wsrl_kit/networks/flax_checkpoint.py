"""Files of flax's checkpoints: named arrays in, named arrays out, without the program that made them."""

import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import serialization, traverse_util

SEPARATOR = "/"

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
        tree = serialization.msgpack_restore(path.read_bytes())
    else:
        # Only for folders: orbax takes seconds to import.
        from flax.training import checkpoints

        with warnings.catch_warnings():
            # That the arrays come back to another kind of device than they were on is what is wanted.
            warnings.filterwarnings("ignore", "Sharding info not provided", UserWarning)
            tree = checkpoints.restore_checkpoint(path.absolute(), None)
    leaves = traverse_util.flatten_dict(tree, sep=SEPARATOR)
    return {name: np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf for name, leaf in leaves.items()}


def write(path: Path, leaves: Leaves) -> None:
    """Writes leaves as a msgpack file, which flax's `restore_checkpoint` reads in every version.

    Raises:
        OSError: it can't be written.
    """
    path.write_bytes(serialization.msgpack_serialize(traverse_util.unflatten_dict(leaves, sep=SEPARATOR)))
