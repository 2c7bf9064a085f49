"""The transition and batch types of replay and updates."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jax import Array
from jaxtyping import Float, Integer, Shaped

Images = Mapping[str, Shaped[Array | np.ndarray, "*batch horizon _height _width _channel"]]
"""Camera -> the last `horizon` frames, oldest first: uint8, or float32 features from a frozen trunk."""

NO_IMAGES: Images = {}


class Transition(NamedTuple):
    """One transition or a batch, with any leading axes.

    Attributes:
        observation: flat, in the environment's units.
        action: in [-1, 1].
        mask: 1 - terminated; 1 at a time limit.
        weight: loss weight; 1 for online data.
        monte_carlo_return: discounted return to the episode's end; -inf: unknown.
        images, next_images: empty without cameras.
        grasp_penalty: 0 or less; None without a learned gripper.
    """

    observation: Float[Array, "*batch observation"]
    action: Float[Array, "*batch action"]
    reward: Float[Array, "*batch"]
    next_observation: Float[Array, "*batch observation"]
    mask: Float[Array, "*batch"]
    weight: Float[Array, "*batch"]
    monte_carlo_return: Float[Array, "*batch"]
    images: Images = NO_IMAGES
    next_images: Images = NO_IMAGES
    grasp_penalty: Float[Array, "*batch"] | None = None


class Batch(NamedTuple):
    """Sampled transitions with their storage rows; PER's importance weight multiplies `weight`."""

    transition: Transition
    row: Integer[Array, "*batch"]
