"""Encoders have HIL-SERL's parameters and give its features; what each camera shows has a place of its own."""

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies

from wsrl_kit.agent import vision
from wsrl_kit.agent.vision import SHARED_TRUNK, PixelConfig

HIL_SERL = json.loads((Path(__file__).parents[1] / "samples" / "hil_serl_encoder.json").read_text())
"""What HIL-SERL's own code gives for two cameras and a state of 19: the shape of every parameter of its encoder, and
the features of `one_observation` with `parameters_by_name`."""

SHAPES: dict[str, list[int]] = HIL_SERL["shapes"]
TRUNK_PREFIX = "encoder_wrist_1/pretrained_encoder/"

RESNET = PixelConfig(("wrist_1", "wrist_2"), 96, 64)
SMALL = PixelConfig(
    ("left", "right"), 32, 32, 2, "small", is_frozen=False, camera_width=6, state_width=4, spatial_features=2
)


def parameters_by_name() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    parameters = {}
    for name, shape in sorted(SHAPES.items()):
        value = random.standard_normal(shape, np.float32)
        if name.endswith("kernel"):
            value *= np.float32(np.sqrt(2 / np.prod(shape[:-1])))
        else:
            value = np.float32(0.1) * value + np.float32(name.endswith("scale"))
        parameters[name] = value
    return parameters


def one_observation() -> tuple[dict[str, np.ndarray], np.ndarray]:
    random = np.random.default_rng(1)
    images = {camera: random.integers(0, 256, (1, 1, 96, 64, 3), dtype=np.uint8) for camera in RESNET.cameras}
    return images, random.normal(size=(1, 19)).astype(np.float32)


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *branches, leaf = name.split("/")
        node = tree
        for branch in branches:
            node = node.setdefault(branch, {})
        node[leaf] = value
    return tree


def split(flat: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters of the trunk, and those of the encoder, of HIL-SERL's by name."""
    trunk = {name.removeprefix(TRUNK_PREFIX): leaf for name, leaf in flat.items() if name.startswith(TRUNK_PREFIX)}
    rest = {name: leaf for name, leaf in flat.items() if not name.startswith(TRUNK_PREFIX)}
    return {"params": nested(trunk)}, {"params": nested(rest)}


create_trunks = jax.jit(partial(vision.create_trunks, SMALL))
create_encoder = jax.jit(partial(vision.create_encoder, SMALL), static_argnums=1)


def small_parts() -> tuple[dict[str, Any], Any]:
    return create_trunks(jax.random.key(0)), create_encoder(jax.random.key(1), 5)


def small_images(*batch: int) -> dict[str, jax.Array]:
    random = np.random.default_rng(0)
    shape = (*batch, 2, 32, 32, 3)
    return {camera: jnp.asarray(random.integers(0, 256, shape, dtype=np.uint8)) for camera in SMALL.cameras}


small_maps = jax.jit(partial(vision.trunk_features, SMALL))
small_vector = jax.jit(partial(vision.encode, SMALL))


def test_every_parameter_has_the_name_and_the_shape_of_hil_serls() -> None:
    config = PixelConfig(("wrist_1", "wrist_2"), 128, 128)
    key = jax.random.key(0)
    trunks = jax.eval_shape(partial(vision.create_trunks, config), key)
    encoder = jax.eval_shape(lambda: vision.create_encoder(config, key, 19))
    trunk_shapes, encoder_shapes = split(SHAPES)
    assert jax.tree.map(lambda leaf: list(leaf.shape), trunks) == {SHARED_TRUNK: trunk_shapes}
    assert jax.tree.map(lambda leaf: list(leaf.shape), encoder) == encoder_shapes


def test_hil_serls_parameters_give_its_features() -> None:
    trunk, encoder = split(parameters_by_name())
    images, state = one_observation()
    maps = jax.jit(partial(vision.trunk_features, RESNET))({SHARED_TRUNK: trunk}, images)
    found = jax.jit(partial(vision.encode, RESNET))(encoder, maps, state)
    np.testing.assert_allclose(found[0], HIL_SERL["encoded"], atol=1e-5)


@settings(max_examples=5, deadline=None)
@given(height=strategies.integers(16, 200), width=strategies.integers(16, 200))
def test_images_of_any_size_have_a_feature_map(height: int, width: int) -> None:
    small = PixelConfig(("wrist",), height, width, encoder="small")
    assert vision.feature_map_shape(small) == (math.ceil(height / 16), math.ceil(width / 16), 256)
    assert vision.feature_map_shape(PixelConfig(("wrist",), height, width)) == (4, 4, 512)


def test_the_small_trunk_by_hand() -> None:
    trunks, _ = small_parts()

    def picks_one_pixel(leaf: jax.Array) -> np.ndarray:
        picked = np.zeros(leaf.shape, np.float32)
        if leaf.ndim == 4:
            picked[1, 1, 0, 0] = 1.0
        return picked

    images = small_images(2)
    maps = small_maps(jax.tree.map(picks_one_pixel, trunks), images)
    for camera, image in images.items():
        # A layer starts at the first pixel and its middle is the second: 2i + 1, four times.
        np.testing.assert_allclose(maps[camera][..., 0], image[..., 15::16, 15::16, 0] / 255, rtol=1e-6)
        assert not np.any(maps[camera][..., 1:])


def test_each_frame_goes_through_the_trunk_of_its_camera_alone() -> None:
    trunks, _ = small_parts()
    images = small_images(2, 3)
    maps = small_maps(trunks, images)
    assert maps["left"].shape == (2, 3, 2, 2, 2, 256)
    swapped = {camera: image[:, :, ::-1] for camera, image in images.items()}
    for camera, found in small_maps(trunks, swapped).items():
        np.testing.assert_allclose(found[:, :, ::-1], maps[camera], rtol=1e-4, atol=1e-6)
    others = small_maps(trunks, {"left": images["right"], "right": images["left"]})
    assert np.abs(others["left"] - maps["right"]).max() > 0.01


def test_the_vector_holds_the_cameras_in_their_order_and_then_the_state() -> None:
    trunks, encoder = small_parts()
    images, state = small_images(2), jnp.ones((2, 5))
    maps = small_maps(trunks, images)
    vector = small_vector(encoder, maps, state)
    assert vector.shape == (2, SMALL.encoded_size) and np.all(np.abs(vector) < 1)
    parts = {"left": slice(0, 6), "right": slice(6, 12), "state": slice(12, 16)}
    changed = {
        "left": small_vector(encoder, maps | {"left": maps["left"] + 1}, state),
        "right": small_vector(encoder, maps | {"right": maps["right"] + 1}, state),
        "state": small_vector(encoder, maps, state.at[:, 0].set(-1.0)),
    }
    for name, found in changed.items():
        for part, where in parts.items():
            assert np.any(np.abs(found[:, where] - vector[:, where]) > 1e-4) == (part == name)


def test_the_older_frame_comes_first_among_the_channels() -> None:
    trunks, encoder = small_parts()
    maps, state = small_maps(trunks, small_images(2)), jnp.ones((2, 5))
    kernel = encoder["params"]["encoder_left"]["SpatialLearnedEmbeddings_0"]["kernel"]
    assert kernel.shape == (2, 2, 2 * 256, 2)
    encoder["params"]["encoder_left"]["SpatialLearnedEmbeddings_0"]["kernel"] = kernel.at[:, :, 256:].set(0.0)
    vector = small_vector(encoder, maps, state)
    newest, oldest = (small_vector(encoder, maps | {"left": maps["left"].at[:, i].add(1.0)}, state) for i in (1, 0))
    np.testing.assert_array_equal(newest, vector)
    assert np.abs(oldest - vector).max() > 1e-4


def test_leading_axes_are_free() -> None:
    trunks, encoder = small_parts()
    maps = small_maps(trunks, small_images(2, 3))
    state = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 5)), jnp.float32)
    vector = small_vector(encoder, maps, state)
    flat_maps = {camera: leaf.reshape(6, *leaf.shape[2:]) for camera, leaf in maps.items()}
    rows = small_vector(encoder, flat_maps, state.reshape(6, 5))
    np.testing.assert_allclose(vector.reshape(6, -1), rows, rtol=1e-5, atol=1e-6)


def test_dropout_acts_on_what_the_cameras_show_and_only_with_a_key() -> None:
    trunks, encoder = small_parts()
    maps, state = small_maps(trunks, small_images(2)), jnp.ones((2, 5))
    one, again, other = (small_vector(encoder, maps, state, jax.random.key(seed)) for seed in (0, 0, 1))
    without = small_vector(encoder, maps, state)
    np.testing.assert_array_equal(one, again)
    np.testing.assert_array_equal(one[:, -4:], without[:, -4:])
    for vector in (other, without):
        assert np.abs(one - vector)[:, :-4].max() > 1e-4


def test_a_tenth_of_the_spatial_features_is_dropped() -> None:
    config = PixelConfig(("wrist",), 16, 16, encoder="small", camera_width=512, spatial_features=2)
    shapes = jax.eval_shape(lambda: vision.create_encoder(config, jax.random.key(0), 1))
    encoder = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    camera = encoder["params"]["encoder_wrist"]
    # Every spatial feature is 1, and each has an output of its own, which the norm puts on one of two values.
    camera["SpatialLearnedEmbeddings_0"]["kernel"] += 1 / 256
    camera["Dense_0"]["kernel"] += np.eye(512, dtype=np.float32)
    camera["LayerNorm_0"]["scale"] += 1.0
    maps, state = {"wrist": np.full((100, 1, 1, 1, 256), 256, np.float32)}, np.zeros((100, 1), np.float32)
    vector = jax.jit(partial(vision.encode, config))(encoder, maps, state, jax.random.key(0))
    assert np.mean(vector[:, :512] < 0) == pytest.approx(0.1, abs=4 * 0.3 / np.sqrt(51_200))


@pytest.mark.parametrize(("encoder", "names"), [("resnet10", {SHARED_TRUNK}), ("small", {"left", "right"})])
def test_a_resnet_is_shared_by_the_cameras_and_a_small_trunk_is_not(encoder: str, names: set[str]) -> None:
    config = PixelConfig(("left", "right"), 16, 16, encoder=encoder)
    trunks = jax.eval_shape(partial(vision.create_trunks, config), jax.random.key(0))
    assert set(trunks) == names == set(config.trunk_of.values())
