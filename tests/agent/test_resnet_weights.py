"""HIL-SERL's file of ResNet-10 weights becomes the trunk's parameters, or is refused in one sentence."""

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import freeze

from wsrl_kit.agent.vision import load_resnet10
from wsrl_kit.errors import DataError

PREFIX = "encoder_wrist_1/pretrained_encoder/"
SHAPES = json.loads((Path(__file__).parents[1] / "samples" / "hil_serl_encoder.json").read_text())["shapes"]


def weights() -> dict[str, Any]:
    """A tree as HIL-SERL's file has it."""
    random = np.random.default_rng(0)
    tree: dict[str, Any] = {}
    for name, shape in SHAPES.items():
        if name.startswith(PREFIX):
            *branches, leaf = name.removeprefix(PREFIX).split("/")
            node = tree
            for branch in branches:
                node = node.setdefault(branch, {})
            node[leaf] = random.standard_normal(shape, np.float32)
    return tree


def written(folder: Path, content: Any) -> Path:
    path = folder / "resnet10_params.pkl"
    path.write_bytes(pickle.dumps(content))
    return path


@pytest.mark.parametrize("made_by", ["numpy", "flax"])
def test_the_weights_of_the_file_are_the_trunks_parameters(tmp_path: Path, made_by: str) -> None:
    tree = weights()
    content = tree | {"output_head": {"bias": np.zeros(1000, np.float32)}}
    found = load_resnet10(
        written(tmp_path, freeze(jax.tree.map(jnp.asarray, content)) if made_by == "flax" else content)
    )
    jax.tree.map(np.testing.assert_array_equal, found, {"params": tree})
    assert {(type(leaf), leaf.dtype) for leaf in jax.tree.leaves(found)} == {(np.ndarray, np.dtype(np.float32))}


def without_a_layer(tree: dict[str, Any]) -> Any:
    del tree["ResNetBlock_2"]["Conv_1"]
    return tree


def with_a_wide_layer(tree: dict[str, Any]) -> Any:
    tree["conv_init"]["kernel"] = np.zeros((7, 7, 4, 64), np.float32)
    return tree


def with_integers(tree: dict[str, Any]) -> Any:
    tree["norm_init"]["bias"] = np.zeros(64, np.int32)
    return tree


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda _: [1, 2], "is not HIL-SERL's file of ResNet-10 weights: it has no ResNetBlock_0"),
        (without_a_layer, "is not HIL-SERL's file of ResNet-10 weights: it has no ResNetBlock_2/Conv_1"),
        (
            with_integers,
            "is not HIL-SERL's file of ResNet-10 weights: norm_init/bias must be an array of floats, found int32",
        ),
        (
            with_a_wide_layer,
            "holds weights of another network: conv_init/kernel must have shape (7, 7, 3, 64), found (7, 7, 4, 64)",
        ),
    ],
)
def test_another_file_is_refused_in_one_sentence(tmp_path: Path, change: Callable[[Any], Any], sentence: str) -> None:
    path = written(tmp_path, change(weights()))
    with pytest.raises(DataError, match=re.escape(f"{path} {sentence}")):
        load_resnet10(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none.pkl does not exist: expected HIL-SERL's file of ResNet-10 weights"):
        load_resnet10(tmp_path / "none.pkl")
