"""The two records that flow through learning: what replay stores, and what an update consumes."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jax import Array
from jaxtyping import Float, Integer, Shaped

Images = Mapping[str, Shaped[Array | np.ndarray, "*batch horizon _height _width _channel"]]
"""By camera, the last frames, the newest at the end: uint8; or float32 features that a frozen trunk made of them."""

NO_IMAGES: Images = {}


class Transition(NamedTuple):
    """What replay stores. Leading axes are free: one transition, or a batch of them.

    Attributes:
        observation: flat observation, in the environment's units.
        action: entries in [-1, 1].
        reward: reward of the step.
        next_observation: the observation the step led to, also at the end of an episode.
        mask: bootstrap mask, 1 - terminated; 1 at a time limit.
        weight: loss weight of the example (source x quality, mean 1 over a dataset; 1 for online data).
        monte_carlo_return: discounted sum of rewards from here to the episode's end, Cal-QL's lower bound of a value;
            -inf where it is not known (yet).
        images, next_images: what the cameras see at either observation; empty where there is no camera.
        grasp_penalty: what the grasp action cost (0 or less); None where no gripper is learned.
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
    """Sampled transitions with where they came from, so that priorities can be written back.

    Attributes:
        transition: the examples; their `weight` already includes PER's importance weight.
        row: row of each example in the storage it comes from.
    """

    transition: Transition
    row: Integer[Array, "*batch"]
