"""Pytrees of arrays in one file: written whole or not at all, read without running code, checked by shape."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from wsrl_kit.errors import CheckpointError
from wsrl_kit.writing import written_whole

METADATA = "__metadata__"


def save(path: Path, tree: PyTree, metadata: dict[str, Any]) -> None:
    """Writes arrays and JSON metadata to an `.npz` file, by a temporary file and an atomic rename.

    Raises:
        CheckpointError: it can't be written (a full disk, no permission); an earlier file at `path` is untouched.
    """
    arrays = {name: np.asarray(leaf) for name, leaf in named_leaves(tree)}
    arrays[METADATA] = np.frombuffer(json.dumps(metadata).encode(), np.uint8)
    with written_whole(path, CheckpointError) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata alone.

    Raises:
        CheckpointError: no such file, or not a checkpoint of this kit.
    """
    content = read(path, METADATA)[METADATA].tobytes()
    try:
        return json.loads(content)
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged or not a checkpoint: its metadata are no JSON ({error})") from error


def load(path: Path, template: PyTree, prefix: str = "") -> PyTree:
    """The arrays, in the structure of `template`.

    Args:
        template: a tree with the names, shapes and types that are needed, such as a fresh agent. Where it holds JAX's
            arrays the result does; numpy's stay numpy's, since JAX would halve 64 bits.
        prefix: of the names that `template` holds, where it is a part of the file.

    Raises:
        CheckpointError: no such file, damaged, or a leaf differs in name, shape or type: of another network.
    """
    arrays = read(path, prefix)
    leaves = []
    for name, leaf in named_leaves(template):
        wanted = np.asarray(leaf)
        if name not in arrays:
            raise CheckpointError(f"{path} has no {name}: expected a checkpoint of the configured network")
        found = arrays[name]
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            raise CheckpointError(
                f"{path} holds {name} as {found.dtype}{list(found.shape)}, "
                f"but the configured network needs {wanted.dtype}{list(wanted.shape)}"
            )
        leaves.append(jax.numpy.asarray(found) if isinstance(leaf, jax.Array) else found)
    extra = set(arrays) - {name for name, _ in named_leaves(template)} - {METADATA}
    if extra:
        raise CheckpointError(f"{path} holds {min(extra)}, which the configured network does not have")
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def read(path: Path, prefix: str = "") -> dict[str, np.ndarray]:
    """The arrays whose names begin with `prefix`, as they are: by default all, the metadata's bytes among them.

    Raises:
        CheckpointError: no such file, or not a checkpoint of this kit.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist: expected a checkpoint file")
    try:
        # Opened here, since np.load leaves a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if METADATA in arrays.files:
                return {name: arrays[name] for name in arrays.files if name.startswith(prefix)}
    # Damaged bytes can make numpy and zipfile raise nearly anything: BadZipFile, NotImplementedError, TypeError ...
    except Exception as error:
        raise CheckpointError(f"{path} is damaged or not a checkpoint: {error}") from error
    raise CheckpointError(f"{path} is not a checkpoint of wsrl_kit: it has no metadata")


def named_leaves(tree: PyTree) -> list[tuple[str, Any]]:
    """A tree's leaves in order, each with the name that it has in a file."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]
