"""What replay stores, and what an update takes."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jax import Array
from jaxtyping import Float, Integer, Shaped

Images = Mapping[str, Shaped[Array | np.ndarray, "*batch horizon _height _width _channel"]]
"""Camera -> the last `horizon` frames, oldest first: uint8, or float32 features from a frozen trunk."""

NO_IMAGES: Images = {}


class Transition(NamedTuple):
    """One transition, or a batch of them: leading axes are free.

    Attributes:
        observation: flat observation, in the environment's units.
        action: entries in [-1, 1].
        reward: reward of the step.
        next_observation: the observation the step led to, also at the end of an episode.
        mask: bootstrap mask, 1 - terminated; 1 at a time limit.
        weight: loss weight (mean 1 over a dataset; 1 for online data).
        monte_carlo_return: discounted sum of rewards from here to the episode's end; -inf where it is not known.
        images, next_images: images of either observation; empty without cameras.
        grasp_penalty: cost of the grasp action (0 or less); None where no gripper is learned.
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
    """Sampled transitions.

    Attributes:
        transition: the examples; their `weight` includes PER's importance weight.
        row: row of each example in its storage.
    """

    transition: Transition
    row: Integer[Array, "*batch"]
