"""Pytrees of arrays in one file: written whole or not at all, read without running code, checked by shape."""

import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from wsrl_kit.errors import CheckpointError

METADATA = "__metadata__"


def save(path: Path, tree: PyTree, metadata: dict[str, Any]) -> None:
    """Writes arrays and JSON metadata to an `.npz` file, by a temporary file and an atomic rename.

    Raises:
        CheckpointError: it can't be written (a full disk, no permission); an earlier file at `path` is untouched.
    """
    arrays = {name: np.asarray(leaf) for name, leaf in _named_leaves(tree)}
    arrays[METADATA] = np.frombuffer(json.dumps(metadata).encode(), np.uint8)
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = file.name
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise CheckpointError(
            f"{path} could not be written ({error.strerror or error}); an earlier checkpoint there is intact"
        ) from error


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata alone.

    Raises:
        CheckpointError: no such file, or not a checkpoint of this kit.
    """
    return json.loads(_read(path, only=METADATA)[METADATA].tobytes())


def load(path: Path, template: PyTree) -> PyTree:
    """The arrays, in the structure of `template`.

    Args:
        template: a tree with the names, shapes and types that are needed, such as a fresh agent.

    Raises:
        CheckpointError: no such file, damaged, or a leaf differs in name, shape or type: of another network.
    """
    arrays = _read(path)
    leaves = []
    for name, wanted in _named_leaves(template):
        wanted = np.asarray(wanted)
        if name not in arrays:
            raise CheckpointError(f"{path} has no {name}: expected a checkpoint of the configured network")
        found = arrays[name]
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            raise CheckpointError(
                f"{path} holds {name} as {found.dtype}{list(found.shape)}, "
                f"but the configured network needs {wanted.dtype}{list(wanted.shape)}"
            )
        leaves.append(jax.numpy.asarray(found))
    extra = set(arrays) - {name for name, _ in _named_leaves(template)} - {METADATA}
    if extra:
        raise CheckpointError(f"{path} holds {min(extra)}, which the configured network does not have")
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _named_leaves(tree: PyTree) -> list[tuple[str, Any]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]


def _read(path: Path, only: str | None = None) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist: expected a checkpoint file")
    try:
        with np.load(path, allow_pickle=False) as file:
            if METADATA not in file.files:
                raise CheckpointError(f"{path} is not a checkpoint of wsrl_kit: it has no metadata")
            return {name: file[name] for name in ([only] if only else file.files)}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is damaged or not a checkpoint: {error}") from error
