"""The weights of HIL-SERL's ResNet-10, pretrained on ImageNet, from its file `resnet10_params.pkl`."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wsrl_kit.data.safe_pickle import load_pickle
from wsrl_kit.errors import DataError
from wsrl_kit.networks import mlp, pixels
from wsrl_kit.reading import reading


def load_resnet10(path: Path | str) -> dict[str, Any]:
    """Parameters of `networks.pixels.Trunk("resnet10")`, float32.

    The file holds a pickled tree of arrays by name (`conv_init`, `norm_init`, `ResNetBlock_0` to `_3`), of numpy or of
    JAX; entries that the trunk does not have, such as the classifier's, are left out, as HIL-SERL does. No code in the
    file is run.

    Raises:
        DataError: no such file, not a tree of weights, or a parameter that is missing or of another shape.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist: expected HIL-SERL's file of ResNet-10 weights, resnet10_params.pkl")
    with reading(path, DataError):
        return {"params": _matching(path, load_pickle(path), _wanted(), "")}


@functools.cache
def _wanted() -> dict[str, Any]:
    """The shapes of the trunk's parameters."""
    trunk: mlp.Network = pixels.Trunk("resnet10")
    image = jnp.zeros((1, *pixels.RESNET_IMAGE_SIZE, 3), jnp.uint8)
    return jax.eval_shape(trunk.init, jax.random.key(0), image)["params"]


def _matching(path: Path, found: Any, wanted: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The part of a tree that is wanted, every leaf with its wanted shape."""
    return {name: _entry(path, found, name, leaf, f"{prefix}{name}") for name, leaf in wanted.items()}


def _entry(path: Path, found: Any, name: str, wanted: Any, full_name: str) -> Any:
    if not isinstance(found, dict) or name not in found:
        raise DataError(f"{path} is not HIL-SERL's file of ResNet-10 weights: it has no {full_name}")
    if isinstance(wanted, dict):
        return _matching(path, found[name], wanted, f"{full_name}/")
    value = found[name]
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        raise DataError(
            f"{path} is not HIL-SERL's file of ResNet-10 weights: {full_name} must be an array of floats, found "
            f"{getattr(value, 'dtype', type(value).__name__)}"
        )
    if value.shape != wanted.shape:
        raise DataError(
            f"{path} holds weights of another network: {full_name} must have shape {wanted.shape}, found {value.shape}"
        )
    return np.asarray(value, np.float32)
