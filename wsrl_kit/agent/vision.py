"""Camera images to one vector: encoders (HIL-SERL's ResNet-10, or a small network), random crops, pretrained weights.

A `Trunk` turns frames into feature maps; a `PixelEncoder` turns all cameras' maps and the state into one vector. With
HIL-SERL's parameters they give its features (rail-berkeley/hil-serl, `resnet_v1.py`, `encoding.py`). Departures:

- HIL-SERL always stops the gradient at the trunk's output; here the caller decides.
- HIL-SERL stacks frames as channels before the trunk; here each frame passes alone and the maps are joined.

Random crops follow DrQ (Kostrikov et al. 2021, arXiv 2004.13649), padded with edge values as in HIL-SERL.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen
from jax import Array
from jaxtyping import Float, PRNGKeyArray, PyTree, Shaped, UInt8

from wsrl_kit.agent import networks
from wsrl_kit.agent.networks import NormalisedTanh
from wsrl_kit.agent.transition import Images
from wsrl_kit.data.formats.safe_pickle import load_pickle
from wsrl_kit.errors import DataError
from wsrl_kit.files import reading

RESNET_IMAGE_SIZE = (128, 128)
"""Height and width to which ResNet-10 resizes images, as HIL-SERL does."""

PIXEL_MEAN, PIXEL_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's statistics per channel, in [0, 1]."""

RESNET_CHANNELS = (64, 128, 256, 512)
"""Per block; every block but the first halves height and width."""

SMALL_CHANNELS = (32, 64, 128, 256)
"""Per layer (SERL's); each halves height and width."""

DROPOUT_RATE = 0.1
"""Share of spatial features dropped in training."""


def _convolution(channels: int, size: int, stride: int, name: str) -> linen.Conv:
    initialiser = linen.initializers.kaiming_normal()
    return linen.Conv(channels, (size, size), (stride, stride), use_bias=False, kernel_init=initialiser, name=name)


def _group_norm(name: str) -> linen.GroupNorm:
    return linen.GroupNorm(num_groups=4, epsilon=1e-5, name=name)


class HalvingConvolution(linen.Module):
    """`linen.Conv(channels, (3, 3), (2, 2))` as one matrix product.

    XLA's convolutions inside a loop are far slower on processors (a whole update with two 128x128 cameras: 7 times).
    """

    channels: int

    @linen.compact
    def __call__(self, inputs: Float[Array, "batch height width input"]) -> Float[Array, "batch h w channels"]:
        kernel = self.param("kernel", linen.initializers.lecun_normal(), (3, 3, inputs.shape[-1], self.channels))
        bias = self.param("bias", linen.initializers.zeros, (self.channels,))
        height, width = (-(-size // 2) for size in inputs.shape[1:3])
        # The padding of "SAME": what does not divide evenly goes to the end.
        missing = [
            max(2 * (half - 1) + 3 - size, 0) for half, size in zip((height, width), inputs.shape[1:3], strict=True)
        ]
        padded = jnp.pad(inputs, ((0, 0), *((total // 2, total - total // 2) for total in missing), (0, 0)))
        windows = jnp.concatenate(
            [
                padded[:, row : row + 2 * height - 1 : 2, column : column + 2 * width - 1 : 2]
                for row in range(3)
                for column in range(3)
            ],
            axis=-1,
        )
        output = windows.reshape(-1, windows.shape[-1]) @ kernel.reshape(-1, self.channels)
        return output.reshape(*windows.shape[:3], self.channels) + bias


class ResidualBlock(linen.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016), with group normalisation."""

    channels: int
    stride: int

    @linen.compact
    def __call__(self, inputs: Float[Array, "batch height width input"]) -> Float[Array, "batch h w channels"]:
        hidden = _convolution(self.channels, 3, self.stride, "Conv_0")(inputs)
        hidden = linen.relu(_group_norm("MyGroupNorm_0")(hidden))
        hidden = _group_norm("MyGroupNorm_1")(_convolution(self.channels, 3, 1, "Conv_1")(hidden))
        if hidden.shape != inputs.shape:
            inputs = _group_norm("norm_proj")(_convolution(self.channels, 1, self.stride, "conv_proj")(inputs))
        return linen.relu(inputs + hidden)


class Trunk(linen.Module):
    """Frames to feature maps.

    Attributes:
        kind: "resnet10": 4x4 maps of 512 channels for any image size; "small": 256 channels, 1/16 of height and width.
    """

    kind: str

    @linen.compact
    def __call__(self, images: UInt8[Array, "batch height width 3"]) -> Float[Array, "batch h w channels"]:
        return {"resnet10": self._resnet10, "small": self._small}[self.kind](images)

    def _resnet10(self, images: UInt8[Array, "batch height width 3"]) -> Float[Array, "batch 4 4 512"]:
        pixels = images.astype(jnp.float32)
        if images.shape[1:3] != RESNET_IMAGE_SIZE:
            pixels = jax.image.resize(pixels, (len(images), *RESNET_IMAGE_SIZE, 3), "bilinear")
        pixels = (pixels / 255.0 - jnp.array(PIXEL_MEAN)) / jnp.array(PIXEL_DEVIATION)
        hidden = linen.Conv(
            RESNET_CHANNELS[0],
            (7, 7),
            (2, 2),
            padding=3,
            use_bias=False,
            kernel_init=linen.initializers.kaiming_normal(),
            name="conv_init",
        )(pixels)
        hidden = linen.relu(_group_norm("norm_init")(hidden))
        hidden = linen.max_pool(hidden, (3, 3), (2, 2), "SAME")
        for index, channels in enumerate(RESNET_CHANNELS):
            hidden = ResidualBlock(channels, 1 if index == 0 else 2, name=f"ResNetBlock_{index}")(hidden)
        return hidden

    def _small(self, images: UInt8[Array, "batch height width 3"]) -> Float[Array, "batch h w 256"]:
        hidden = images.astype(jnp.float32) / 255.0
        for index, channels in enumerate(SMALL_CHANNELS):
            hidden = linen.relu(HalvingConvolution(channels, name=f"Conv_{index}")(hidden))
        return hidden


class SpatialLearnedEmbeddings(linen.Module):
    """Weighted sums over each channel's positions."""

    features: int

    @linen.compact
    def __call__(self, maps: Float[Array, "batch h w channels"]) -> Float[Array, "batch features"]:
        kernel = self.param("kernel", linen.initializers.lecun_normal(), (*maps.shape[1:], self.features))
        return jnp.einsum("bhwc,hwcf->bcf", maps, kernel).reshape(len(maps), -1)


class CameraEncoder(linen.Module):
    """One camera's feature maps to a vector."""

    width: int
    spatial_features: int

    @linen.compact
    def __call__(self, maps: Float[Array, "batch h w channels"], train: bool) -> Float[Array, "batch width"]:
        features = SpatialLearnedEmbeddings(self.spatial_features)(maps)
        features = linen.Dropout(DROPOUT_RATE, deterministic=not train)(features)
        return NormalisedTanh(name="LayerNorm_0")(
            linen.Dense(self.width, kernel_init=linen.initializers.lecun_normal())(features)
        )


class PixelEncoder(linen.Module):
    """All cameras' feature maps, then the state, to one vector; fields as in `PixelConfig`."""

    cameras: Sequence[str]
    camera_width: int
    state_width: int
    spatial_features: int

    @linen.compact
    def __call__(
        self,
        maps: Mapping[str, Float[Array, "batch horizon h w channels"]],
        state: Float[Array, "batch state"],
        train: bool,
    ) -> Float[Array, "batch encoded"]:
        encoders = {
            camera: CameraEncoder(self.camera_width, self.spatial_features, name=f"encoder_{camera}")
            for camera in self.cameras
        }
        encoded = [encoders[camera](_joined(maps[camera]), train) for camera in self.cameras]
        if self.state_width == 0:
            return jnp.concatenate(encoded, axis=-1)
        state = linen.Dense(self.state_width, kernel_init=linen.initializers.xavier_uniform())(state)
        return jnp.concatenate([*encoded, NormalisedTanh(name="LayerNorm_0")(state)], axis=-1)


def _joined(maps: Float[Array, "batch horizon h w channels"]) -> Float[Array, "batch h w joined"]:
    """A stack's maps as channels of one map, oldest frame first."""
    batch, _, height, width, _ = maps.shape
    return maps.transpose(0, 2, 3, 1, 4).reshape(batch, height, width, -1)


FROZEN = "_frozen"
"""Suffix of encoders with an untrained trunk."""

SHARED_TRUNK = "all cameras"
"""Name of a trunk that all cameras share."""

FeatureMaps = Mapping[str, Shaped[Array | np.ndarray, "*batch horizon h w channels"]]


@dataclass(frozen=True)
class PixelConfig:
    """Static part of an image encoder.

    Attributes:
        cameras: names, in encoding order.
        image_height, image_width: pixels, equal for all cameras.
        observation_horizon: frames per observation.
        encoder: "small" (one trunk per camera) or "resnet10" (shared).
        augmentation_padding: pixels; 0: no random crop.
        camera_width, state_width: encoded sizes; state_width 0 ignores the state.
        spatial_features: weighted sums per channel of a feature map.
    """

    cameras: tuple[str, ...]
    image_height: int
    image_width: int
    observation_horizon: int = 1
    encoder: str = "resnet10"
    is_frozen: bool = True
    augmentation_padding: int = 4
    camera_width: int = 256
    state_width: int = 64
    spatial_features: int = 8

    @property
    def image_shape(self) -> tuple[int, int, int, int]:
        """Observation horizon, height, width, channels."""
        return self.observation_horizon, self.image_height, self.image_width, 3

    @property
    def encoder_name(self) -> str:
        """The parameter's value, such as "resnet10_frozen"."""
        return self.encoder + FROZEN * self.is_frozen

    @property
    def encoded_size(self) -> int:
        return len(self.cameras) * self.camera_width + self.state_width

    @property
    def trunk_of(self) -> dict[str, str]:
        """Camera -> name of its trunk."""
        return {camera: SHARED_TRUNK if self.encoder == "resnet10" else camera for camera in self.cameras}


def for_cameras(cameras: Mapping[str, tuple[int, ...]], encoder_name: str, augmentation_padding: int) -> PixelConfig:
    """The encoder's configuration.

    Args:
        cameras: name -> (observation horizon, height, width, channels), all equal.
    """
    ((horizon, height, width, _),) = set(cameras.values())
    return PixelConfig(
        cameras=tuple(cameras),
        image_height=height,
        image_width=width,
        observation_horizon=horizon,
        encoder=encoder_name.removesuffix(FROZEN),
        is_frozen=encoder_name.endswith(FROZEN),
        augmentation_padding=augmentation_padding,
    )


def create_trunks(config: PixelConfig, key: PRNGKeyArray) -> dict[str, PyTree]:
    """Fresh trunk parameters by name."""
    names = sorted(set(config.trunk_of.values()))
    image = jnp.zeros((1, config.image_height, config.image_width, 3), jnp.uint8)
    # Compiled, so that the forward pass, which nothing uses, is left out.
    init = jax.jit(_trunk(config).init)
    return {name: init(key, image) for name, key in zip(names, jax.random.split(key, len(names)), strict=True)}


def create_encoder(config: PixelConfig, key: PRNGKeyArray, state_size: int) -> PyTree:
    """Fresh encoder parameters."""
    shape = (1, config.observation_horizon, *feature_map_shape(config))
    maps = {camera: jnp.zeros(shape) for camera in config.cameras}
    return _encoder(config).init(key, maps, jnp.zeros((1, state_size)), False)


def feature_map_shape(config: PixelConfig) -> tuple[int, int, int]:
    """Height, width and channels of one frame's feature map."""
    image = jax.ShapeDtypeStruct((1, config.image_height, config.image_width, 3), jnp.uint8)
    trunk = _trunk(config)
    maps = jax.eval_shape(trunk.apply, jax.eval_shape(trunk.init, jax.random.key(0), image), image)
    return maps.shape[1:]


def trunk_features(
    config: PixelConfig, trunks: Mapping[str, PyTree], images: Images
) -> dict[str, Float[Array, "*batch horizon h w channels"]]:
    """Every frame's feature map, by camera; the gradient flows into `trunks`.

    Args:
        images: (*batch, horizon, height, width, 3) per camera.
    """
    maps: dict[str, Array] = {}
    for name, parameters in trunks.items():
        cameras = [camera for camera in config.cameras if config.trunk_of[camera] == name]
        frames = jnp.stack([jnp.asarray(images[camera]) for camera in cameras])
        flat = _trunk(config).apply(parameters, frames.reshape(-1, *frames.shape[-3:]))
        maps |= dict(zip(cameras, flat.reshape(*frames.shape[:-3], *flat.shape[1:]), strict=True))
    return maps


def encode(
    config: PixelConfig,
    encoder: PyTree,
    maps: FeatureMaps,
    state: Float[Array, "*batch state"],
    dropout_key: PRNGKeyArray | None = None,
) -> Float[Array, "*batch encoded"]:
    """One vector from feature maps and state.

    Args:
        dropout_key: None: no dropout. (HIL-SERL drops features for the actor only.)
    """
    flat_maps = {camera: jnp.asarray(leaf).reshape(-1, *leaf.shape[-4:]) for camera, leaf in maps.items()}
    # Without -1, which a state of size 0 leaves open.
    flat_state = state.reshape(math.prod(state.shape[:-1]), state.shape[-1])
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    encoded = _encoder(config).apply(encoder, flat_maps, flat_state, dropout_key is not None, rngs=rngs)
    return encoded.reshape(*state.shape[:-1], config.encoded_size)


def _trunk(config: PixelConfig) -> networks.Network:
    return Trunk(config.encoder)


def _encoder(config: PixelConfig) -> networks.Network:
    return PixelEncoder(config.cameras, config.camera_width, config.state_width, config.spatial_features)


def random_crops(key: PRNGKeyArray, images: Images, padding: int) -> Images:
    """Random crops, with offsets of its own for each camera."""
    keys = jax.random.split(key, len(images))
    return {
        camera: random_crop(key, jnp.asarray(images[camera]), padding)
        for camera, key in zip(sorted(images), keys, strict=True)
    }


def random_crop(
    key: PRNGKeyArray, images: UInt8[Array, "*batch horizon height width channel"], padding: int
) -> UInt8[Array, "*batch horizon height width channel"]:
    """A window of the original size from each image padded with its edge pixels.

    The offset is uniform, one per example: frames of a stack move together.
    """
    if padding == 0:
        return images
    *batch, horizon, height, width, channel = images.shape
    shift = jax.random.randint(key, (math.prod(batch), 2), -padding, padding + 1)
    shift = jnp.repeat(shift, horizon, axis=0, total_repeat_length=len(shift) * horizon)
    # Indices held within the image are its padded edges, without the copy that padding makes; a gather takes a quarter
    # of the time of a dynamic slice for each image (on a processor, 256 images of 128x128: 1.9 ms and 7.5 ms).
    rows = jnp.clip(jnp.arange(height) + shift[:, :1], 0, height - 1)
    columns = jnp.clip(jnp.arange(width) + shift[:, 1:], 0, width - 1)
    frames = images.reshape(-1, height, width, channel)
    cropped = frames.at[jnp.arange(len(frames))[:, None, None], rows[:, :, None], columns[:, None, :]].get(
        mode="promise_in_bounds"
    )
    return cropped.reshape(images.shape)


def load_resnet10(path: Path | str) -> dict[str, Any]:
    """Parameters of `Trunk("resnet10")` from a pickled tree of arrays; runs no code from the file.

    Raises:
        DataError: no such file, not a tree of weights, or a parameter is missing or has another shape.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist: expected HIL-SERL's file of ResNet-10 weights, resnet10_params.pkl")
    with reading(path, DataError):
        return {"params": _matching(path, load_pickle(path), _wanted())}


@functools.cache
def _wanted() -> dict[str, Any]:
    """Shapes of the trunk's parameters."""
    trunk: networks.Network = Trunk("resnet10")
    image = jnp.zeros((1, *RESNET_IMAGE_SIZE, 3), jnp.uint8)
    return jax.eval_shape(trunk.init, jax.random.key(0), image)["params"]


def _matching(path: Path, found: Any, wanted: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The wanted part of a tree, every leaf with its wanted shape."""
    parameters: dict[str, Any] = {}
    for name, leaf in wanted.items():
        full_name = prefix + name
        if not isinstance(found, dict) or name not in found:
            raise DataError(f"{path} is not HIL-SERL's file of ResNet-10 weights: it has no {full_name}")
        value = found[name]
        if isinstance(leaf, dict):
            parameters[name] = _matching(path, value, leaf, f"{full_name}/")
            continue
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
            raise DataError(
                f"{path} is not HIL-SERL's file of ResNet-10 weights: {full_name} must be an array of floats, found "
                f"{getattr(value, 'dtype', type(value).__name__)}"
            )
        if value.shape != leaf.shape:
            raise DataError(
                f"{path} holds weights of another network: {full_name} must have shape {leaf.shape}, "
                f"found {value.shape}"
            )
        parameters[name] = np.asarray(value, np.float32)
    return parameters
