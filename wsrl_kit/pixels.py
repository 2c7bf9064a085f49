"""What a policy with cameras sees: sizes of its images and encoders, and the pure functions from images to a vector.

Images become feature maps by a trunk, and these, with the state, one vector by an encoder. Their parameters are apart,
so that those of a frozen trunk are no optimizer's, and its feature maps can be computed once for each frame.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, PRNGKeyArray, PyTree, Shaped

from wsrl_kit.networks import mlp, pixels
from wsrl_kit.types import Images

FROZEN = "_frozen"
"""End of the names of encoders whose trunk is not trained."""

SHARED_TRUNK = "all cameras"
"""The name of a trunk that all cameras share."""

FeatureMaps = Mapping[str, Shaped[Array | np.ndarray, "*batch horizon h w channels"]]


@dataclass(frozen=True)
class PixelConfig:
    """The static part of a policy's sight.

    Attributes:
        cameras: names, in the order of the encoded vector.
        image_height: pixels, the same for all cameras; so is `image_width`.
        observation_horizon: frames in the stack of one observation.
        encoder: "small", four convolutions of its own for each camera; or "resnet10", HIL-SERL's ResNet-10, one for all
            cameras.
        is_frozen: the trunk is never trained.
        augmentation_padding: pixels of the random crop; 0: none.
        camera_width: of each camera's part of the encoded vector.
        state_width: of the state's part; 0: the state is not looked at.
        spatial_features: weighted sums over the places of a feature map, for each of its channels.
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
        """Of one observation's images of a camera: observation horizon, height, width, channels."""
        return self.observation_horizon, self.image_height, self.image_width, 3

    @property
    def encoder_name(self) -> str:
        """As users name an encoder and whether it is frozen, and as `for_cameras` takes it."""
        return self.encoder + FROZEN * self.is_frozen

    @property
    def encoded_size(self) -> int:
        """Of the vector that `encode` gives."""
        return len(self.cameras) * self.camera_width + self.state_width

    @property
    def trunk_of(self) -> dict[str, str]:
        """Each camera's trunk, by name."""
        return {camera: SHARED_TRUNK if self.encoder == "resnet10" else camera for camera in self.cameras}


def for_cameras(cameras: Mapping[str, tuple[int, ...]], encoder_name: str, augmentation_padding: int) -> PixelConfig:
    """The sight of a policy with these cameras.

    Args:
        cameras: by name, in the order of the encoded vector: observation horizon, height, width, channels; all equal.
        encoder_name: as users name them, such as "resnet10_frozen".
        augmentation_padding: pixels of the random crop; 0: none.
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
    """Fresh parameters of every trunk, by its name."""
    names = sorted(set(config.trunk_of.values()))
    image = jnp.zeros((1, config.image_height, config.image_width, 3), jnp.uint8)
    # Compiled, so that the forward pass, which nothing uses, is left out.
    init = jax.jit(_trunk(config).init)
    return {name: init(key, image) for name, key in zip(names, jax.random.split(key, len(names)), strict=True)}


def create_encoder(config: PixelConfig, key: PRNGKeyArray, state_size: int) -> PyTree:
    """Fresh parameters of the encoder."""
    shape = (1, config.observation_horizon, *feature_map_shape(config))
    maps = {camera: jnp.zeros(shape) for camera in config.cameras}
    return _encoder(config).init(key, maps, jnp.zeros((1, state_size)), False)


def feature_map_shape(config: PixelConfig) -> tuple[int, int, int]:
    """Height, width and channels of the feature map of one frame."""
    image = jax.ShapeDtypeStruct((1, config.image_height, config.image_width, 3), jnp.uint8)
    trunk = _trunk(config)
    maps = jax.eval_shape(trunk.apply, jax.eval_shape(trunk.init, jax.random.key(0), image), image)
    return maps.shape[1:]


def trunk_features(
    config: PixelConfig, trunks: Mapping[str, PyTree], images: Images
) -> dict[str, Float[Array, "*batch horizon h w channels"]]:
    """The feature map of every frame, each for itself.

    Args:
        trunks: parameters, as `create_trunks` gives; the gradient flows into them.
        images: (*batch, horizon, height, width, 3) for each camera.

    Returns:
        (*batch, horizon, h, w, channels) for each camera, `feature_map_shape` with the images' leading axes.
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
    """One vector of what the cameras show and the state: the cameras in their order, then the state.

    Args:
        encoder: parameters, as `create_encoder` gives.
        dropout_key: drops a tenth of the spatial features; None: nothing is dropped. (HIL-SERL drops where the actor's
            loss and the actions at next observations are computed, not in the critics.)
    """
    flat_maps = {camera: jnp.asarray(leaf).reshape(-1, *leaf.shape[-4:]) for camera, leaf in maps.items()}
    # Without -1, which a state of size 0 leaves open.
    flat_state = state.reshape(math.prod(state.shape[:-1]), state.shape[-1])
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    encoded = _encoder(config).apply(encoder, flat_maps, flat_state, dropout_key is not None, rngs=rngs)
    return encoded.reshape(*state.shape[:-1], config.encoded_size)


def _trunk(config: PixelConfig) -> mlp.Network:
    return pixels.Trunk(config.encoder)


def _encoder(config: PixelConfig) -> mlp.Network:
    return pixels.PixelEncoder(config.cameras, config.camera_width, config.state_width, config.spatial_features)
