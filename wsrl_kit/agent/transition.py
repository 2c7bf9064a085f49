"""A transition, and its form in replay: one row of numbers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jax import Array
from jaxtyping import Float, Float32, Shaped

Images = Mapping[str, Shaped[Array | np.ndarray, "*batch horizon _height _width _channel"]]
"""Camera -> the last `horizon` frames, oldest first: uint8, or float32 features from a frozen trunk."""

NO_IMAGES: Images = {}


class Transition(NamedTuple):
    """One transition or a batch, with any leading axes; NumPy arrays on the host.

    Attributes:
        observation: flat, in the environment's units.
        action: in [-1, 1].
        mask: 1 - terminated; 1 at a time limit.
        weight: loss weight; 1 for online data.
        monte_carlo_return: discounted return to the episode's end; -inf: unknown.
        images, next_images: empty without cameras.
        cloned: 1: behavior cloning imitates the action; 0: it is the agent's own. None: 1.
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
    cloned: Float[Array, "*batch"] | None = None
    grasp_penalty: Float[Array, "*batch"] | None = None


MONTE_CARLO_RETURN = -1
"""Column of a row."""


def row_width(observation_size: int, action_size: int, has_penalty: bool) -> int:
    """Numbers in a row."""
    return 2 * observation_size + action_size + has_penalty + 5


def packed(transition: Transition) -> Float32[np.ndarray, "*batch width"]:
    """Rows of everything but images: observation, next observation, action, [grasp penalty], and five numbers."""
    sizes = (transition.observation.shape[-1], transition.action.shape[-1])
    width = row_width(*sizes, transition.grasp_penalty is not None)
    rows = np.empty((*np.shape(transition.reward), width), np.float32)
    places: Any = unpacked(rows, *sizes)
    for place, value in zip(places, transition, strict=True):
        if isinstance(place, np.ndarray):
            place[...] = 1.0 if value is None else value
    return rows


def unpacked(rows: Any, observation_size: int, action_size: int) -> Transition:
    """What `packed` took, but for images.

    Args:
        rows: Float[Array | np.ndarray, "*batch width"].
    """
    ends = (observation_size, 2 * observation_size, 2 * observation_size + action_size)
    observation, next_observation, action = (rows[..., start:end] for start, end in zip((0, *ends), ends, strict=False))
    has_penalty = rows.shape[-1] > row_width(observation_size, action_size, False)
    return Transition(
        observation=observation,
        action=action,
        reward=rows[..., -4],
        next_observation=next_observation,
        mask=rows[..., -3],
        weight=rows[..., -2],
        monte_carlo_return=rows[..., MONTE_CARLO_RETURN],
        cloned=rows[..., -5],
        grasp_penalty=rows[..., -6] if has_penalty else None,
    )
