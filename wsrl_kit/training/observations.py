"""The two parts of what an environment gives: the flat state, and images by camera where there are any."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float32, Shaped

from wsrl_kit.envs.observations import STATE

CameraImages = dict[str, Shaped[np.ndarray, "*batch horizon height width channel"]]


def state_space(environment: gymnasium.Env) -> gymnasium.spaces.Box:
    """Bounds of the flat state."""
    space = environment.observation_space
    if isinstance(space, gymnasium.spaces.Dict):
        space = space[STATE]
    assert isinstance(space, gymnasium.spaces.Box)
    return space


def camera_shapes(environment: gymnasium.Env) -> dict[str, tuple[int, ...]]:
    """(horizon, height, width, channels) of each camera, by name; empty where there are none."""
    space = environment.observation_space
    if not isinstance(space, gymnasium.spaces.Dict):
        return {}
    return {name: box.shape for name, box in sorted(space.items()) if name != STATE and box.shape is not None}


def parts(observation: Any) -> tuple[Float32[np.ndarray, " observation"], CameraImages]:
    """State and images of one observation."""
    if not isinstance(observation, Mapping):
        return observation, {}
    return observation[STATE], {name: observation[name] for name in sorted(observation) if name != STATE}


def stacked(observations: Sequence[Any]) -> tuple[Float32[np.ndarray, "batch observation"], CameraImages]:
    """States and images of several observations, each with a leading axis."""
    states, images = zip(*map(parts, observations), strict=True)
    return np.stack(states), {name: np.stack([each[name] for each in images]) for name in images[0]}
