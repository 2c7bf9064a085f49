"""Encoders of camera images: HIL-SERL's ResNet-10 or a small convolutional network, and what makes them a vector.

Two parts, so that what a frozen trunk gives can be computed once: a `Trunk` turns frames into feature maps, and a
`PixelEncoder` turns the maps of all cameras and the state into one vector. Names of parameters, initialisers and
arithmetic are HIL-SERL's (rail-berkeley/hil-serl, `resnet_v1.py`, `encoding.py`): with its parameters they give its
features. Departures from its code:
    - its trunk's output always stops the gradient, also where it is meant to be trained; here the caller decides;
    - it hands the stack of an observation horizon to the trunk as channels, which its image normalisation refuses for
      more than one frame; here each frame goes through the trunk alone, and the maps are joined.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import linen
from jax import Array
from jaxtyping import Float, UInt8

from wsrl_kit.networks.layers import Dense, NormalisedTanh, product

RESNET_IMAGE_SIZE = (128, 128)
"""Height and width that the ResNet-10 sees; images of other sizes are resized to it, as HIL-SERL does."""

PIXEL_MEAN, PIXEL_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's channels red, green and blue, on a scale from 0 to 1."""

RESNET_CHANNELS = (64, 128, 256, 512)
"""Of the blocks of a ResNet-10; every block but the first halves height and width."""

SMALL_CHANNELS = (32, 64, 128, 256)
"""Of the layers of the small network, which are SERL's; each halves height and width."""

DROPOUT_RATE = 0.1
"""Share of spatial features dropped in training."""


def _convolution(channels: int, size: int, stride: int, name: str) -> linen.Conv:
    initialiser = linen.initializers.kaiming_normal()
    return linen.Conv(channels, (size, size), (stride, stride), use_bias=False, kernel_init=initialiser, name=name)


def _group_norm(name: str) -> linen.GroupNorm:
    return linen.GroupNorm(num_groups=4, epsilon=1e-5, name=name)


class HalvingConvolution(linen.Module):
    """What `linen.Conv(channels, (3, 3), (2, 2))` computes, parameters alike, by one matrix product.

    On processors XLA's own convolutions within a loop, and updates are one, take many times as long (a whole update
    with two 128x128 cameras: 7 times).
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
        output = product(windows.reshape(-1, windows.shape[-1]), kernel.reshape(-1, self.channels))
        return output.reshape(*windows.shape[:3], self.channels) + bias


class ResidualBlock(linen.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016), with group normalisation."""

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
        kind: "resnet10", HIL-SERL's, with a 4x4 map of 512 channels for images of any size; or "small", four
            convolutions with a map of 256 channels and a sixteenth of the image's height and width (rounded up).
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
    """For each channel of a feature map, `features` weighted sums over its places."""

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
        return NormalisedTanh(name="LayerNorm_0")(Dense(self.width, linen.initializers.lecun_normal())(features))


class PixelEncoder(linen.Module):
    """Feature maps of every camera, and the state, to one vector: the cameras in their given order, then the state.

    Attributes:
        cameras: names, in the order of the output.
        camera_width: of each camera's part of the output.
        state_width: of the state's part; 0: the state is not looked at.
        spatial_features: weighted sums over the places of a feature map, for each of its channels.
    """

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
        """The vector, (batch, cameras * camera_width + state_width).

        Args:
            maps: what the trunk gave for each frame of each camera's stack, oldest first.
            state: flat.
            train: dropout is active (and needs the random stream "dropout").
        """
        encoders = {
            camera: CameraEncoder(self.camera_width, self.spatial_features, name=f"encoder_{camera}")
            for camera in self.cameras
        }
        encoded = [encoders[camera](_joined(maps[camera]), train) for camera in self.cameras]
        if self.state_width == 0:
            return jnp.concatenate(encoded, axis=-1)
        state = Dense(self.state_width, linen.initializers.xavier_uniform())(state)
        return jnp.concatenate([*encoded, NormalisedTanh(name="LayerNorm_0")(state)], axis=-1)


def _joined(maps: Float[Array, "batch horizon h w channels"]) -> Float[Array, "batch h w joined"]:
    """The maps of a stack's frames as channels of one map, the oldest frame's first."""
    batch, _, height, width, _ = maps.shape
    return maps.transpose(0, 2, 3, 1, 4).reshape(batch, height, width, -1)
