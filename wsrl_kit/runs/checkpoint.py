"""Pytrees of arrays in one file: written atomically, read without running code, checked by shape."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from wsrl_kit.errors import CheckpointError
from wsrl_kit.files import LARGEST_JSON, load_arrays, reading, written_whole

METADATA = "__metadata__"
DAMAGED = "is damaged or not a checkpoint"


def save(path: Path, tree: PyTree, metadata: dict[str, Any]) -> None:
    """Writes arrays and JSON metadata to an `.npz` file.

    Raises:
        CheckpointError: it can't be written; an earlier file is untouched.
    """
    arrays = named_arrays(tree)
    arrays[METADATA] = np.frombuffer(json.dumps(metadata).encode(), np.uint8)
    with written_whole(path, CheckpointError) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata alone.

    Raises:
        CheckpointError: no such file, or no checkpoint of this kit.
    """
    content = read(path, METADATA)[METADATA]
    with reading(path, CheckpointError, DAMAGED):
        if content.nbytes > LARGEST_JSON or not isinstance(metadata := json.loads(content.tobytes()), dict):
            raise CheckpointError(f"{path} {DAMAGED}: its metadata are no JSON object")
        return metadata


def load(path: Path, template: PyTree, prefix: str = "") -> PyTree:
    """The arrays, in the structure of `template`.

    Args:
        template: expected names, shapes and types. NumPy leaves stay NumPy: JAX would halve 64 bits.
        prefix: reads only names that begin with it.

    Raises:
        CheckpointError: no such file, damaged, or a leaf differs.
    """
    return fitted(str(path), read(path, prefix), template)


def fitted(source: str, arrays: Mapping[str, np.ndarray], template: PyTree) -> PyTree:
    """Arrays by name, in the structure of `template`, as `load` returns them.

    Args:
        source: where they come from, for error messages.

    Raises:
        CheckpointError: a leaf differs.
    """
    leaves = []
    for name, leaf in named_leaves(template):
        # Only numbers of Python's own have no shape.
        wanted = leaf if hasattr(leaf, "shape") else np.asarray(leaf)
        if name not in arrays:
            raise CheckpointError(f"{source} has no {name}: expected a checkpoint of the configured network")
        found = arrays[name]
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            raise CheckpointError(
                f"{source} holds {name} as {found.dtype}{list(found.shape)}, "
                f"but the configured network needs {wanted.dtype}{list(wanted.shape)}"
            )
        is_jax = isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)
        # Unlike `jnp.asarray`, this compiles nothing.
        leaves.append(jax.device_put(found, may_alias=False) if is_jax else found)
    extra = set(arrays) - {name for name, _ in named_leaves(template)} - {METADATA}
    if extra:
        raise CheckpointError(f"{source} holds {min(extra)}, which the configured network does not have")
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def read(path: Path, prefix: str = "") -> dict[str, np.ndarray]:
    """The arrays whose names begin with `prefix`, metadata bytes included.

    Raises:
        CheckpointError: no such file, or no checkpoint of this kit.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist: expected a checkpoint file")
    with reading(path, CheckpointError, DAMAGED):
        found = load_arrays(path, lambda name: name.startswith(prefix))
        if METADATA not in found:
            raise CheckpointError(f"{path} is not a checkpoint of wsrl_kit: it has no metadata")
        return {name: array for name, array in found.items() if array is not None}


def named_arrays(tree: PyTree) -> dict[str, np.ndarray]:
    """A tree's leaves by name, in host memory; `fitted` reads them back."""
    return {name: np.asarray(leaf) for name, leaf in named_leaves(tree)}


def named_leaves(tree: PyTree) -> list[tuple[str, Any]]:
    """A tree's leaves in order, with their names in a file."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]
