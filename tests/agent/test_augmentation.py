"""A random crop is a window on the image padded by its edges, at a uniform place, one for the frames of a stack."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies

from wsrl_kit.agent.vision import random_crop, random_crops

cropped = jax.jit(random_crop, static_argnums=2)


def noise(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def place(original: np.ndarray, crop: np.ndarray, padding: int) -> tuple[int, int]:
    """The only window on the padded (horizon, height, width, channel) image that the crop can be."""
    padded = np.pad(original, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, crop.shape)[0, :, :, 0]
    (found,) = np.argwhere((windows == crop).all(axis=(2, 3, 4, 5)))
    return tuple(found.tolist())


@settings(max_examples=4, deadline=None)
@given(
    batch=strategies.sampled_from([(), (3,), (2, 3)]),
    horizon=strategies.integers(1, 3),
    size=strategies.sampled_from([(6, 6), (5, 9)]),
    padding=strategies.integers(1, 4),
    seed=strategies.integers(0, 2**31),
)
def test_every_stack_is_one_window_on_its_padded_images(
    batch: tuple[int, ...], horizon: int, size: tuple[int, int], padding: int, seed: int
) -> None:
    images = noise(*batch, horizon, *size, 3, seed=seed)
    crops = cropped(jax.random.key(seed), images, padding)
    assert crops.dtype == jnp.uint8 and crops.shape == images.shape
    flat = (np.asarray(leaf).reshape(-1, horizon, *size, 3) for leaf in (images, crops))
    for original, crop in zip(*flat, strict=True):
        place(original, crop, padding)


def test_a_crop_by_hand() -> None:
    image = jnp.arange(4, dtype=jnp.uint8).reshape(1, 2, 2, 1)
    windows = {
        ((0, 0), (0, 0)), ((0, 1), (0, 1)), ((1, 1), (1, 1)),
        ((0, 0), (2, 2)), ((0, 1), (2, 3)), ((1, 1), (3, 3)),
        ((2, 2), (2, 2)), ((2, 3), (2, 3)), ((3, 3), (3, 3)),
    }  # fmt: skip
    found = cropped(jax.random.key(0), jnp.broadcast_to(image, (200, *image.shape)), 1)
    assert {tuple(map(tuple, crop)) for crop in found[:, 0, :, :, 0].tolist()} == windows


@pytest.mark.slow
def test_all_places_are_equally_likely_and_independent_between_cameras() -> None:
    count, padding = 20_000, 2
    # Rows and columns are told apart by value, so that one pixel says where the window lies.
    image = (8 * jnp.arange(5)[:, None] + jnp.arange(5)[None]).astype(jnp.uint8)[None, :, :, None]
    images = jnp.broadcast_to(image, (count, *image.shape))
    crops = random_crops(jax.random.key(0), {"one": images, "other": images}, padding)
    middle = {camera: np.asarray(crop[:, 0, padding, padding, 0]) for camera, crop in crops.items()}
    places = {camera: 5 * (pixel // 8) + pixel % 8 for camera, pixel in middle.items()}
    expected = count / 25
    for found in places.values():
        # 58.6: the value of chi-square with 24 degrees of freedom that one in ten thousand exceeds.
        assert np.sum((np.bincount(found, minlength=25) - expected) ** 2 / expected) < 58.6
    rows, columns = (np.stack([part(place, 5) for place in places.values()]) for part in (np.floor_divide, np.mod))
    for one, other in ((rows[0], rows[1]), (columns[0], columns[1]), (rows[0], columns[0])):
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(count)


def test_the_key_alone_decides() -> None:
    images = {"one": noise(4, 2, 8, 8, 3), "other": noise(4, 2, 8, 8, 3, seed=1)}
    crops = jax.jit(random_crops, static_argnums=2)
    first, again, other = (crops(jax.random.key(seed), images, 4) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.array_equal(first["one"], other["one"])


def test_no_padding_takes_no_operations() -> None:
    images = noise(2, 1, 8, 8, 3)
    np.testing.assert_array_equal(random_crop(jax.random.key(0), images, 0), images)
    program = jax.make_jaxpr(random_crop, static_argnums=2)(jax.random.key(0), images, 0)
    assert program.eqns == []
