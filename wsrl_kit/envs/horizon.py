"""Observations that hold the last few, as one."""

from collections import deque
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from jaxtyping import Float32

from wsrl_kit.envs.observations import STATE


class ObservationHorizon(gymnasium.Wrapper):
    """The last k observations as one, oldest first; at a reset the first is repeated (HIL-SERL's `ChunkingWrapper`).

    States follow one another in one flat vector (k x S,); the images of a camera stack to (k, height, width, 3), also
    at k = 1.

    Args:
        environment: observes a flat state, or a dict of `state` and cameras.
        horizon: k.
    """

    def __init__(self, environment: gymnasium.Env, horizon: int) -> None:
        super().__init__(environment)
        self.observation_horizon = horizon
        self._last: deque[Any] = deque(maxlen=horizon)
        self.observation_space = _stacked_space(environment.observation_space, horizon)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._last.extend([observation] * self.observation_horizon)
        return self._stacked(), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._last.append(observation)
        return self._stacked(), reward, terminated, truncated, info

    def _stacked(self) -> Any:
        if not isinstance(self._last[-1], Mapping):
            return np.concatenate(self._last)
        stacked = {key: np.stack([each[key] for each in self._last]) for key in self._last[-1]}
        return stacked | {STATE: stacked[STATE].reshape(-1)}


def observation_horizon(environment: gymnasium.Env) -> int:
    """How many observations each observation of an environment from `make` holds."""
    has_one = environment.has_wrapper_attr("observation_horizon")
    return environment.get_wrapper_attr("observation_horizon") if has_one else 1


def newest_state(observation: Any, horizon: int) -> Float32[np.ndarray, " state"]:
    """The flat state of now, from an observation of an environment from `make`."""
    states = observation[STATE] if isinstance(observation, Mapping) else observation
    return states.reshape(horizon, -1)[-1]


def _stacked_space(space: spaces.Space, horizon: int) -> spaces.Space:
    if isinstance(space, spaces.Dict):
        images = {key: _repeated(entry, horizon) for key, entry in space.spaces.items() if key != STATE}
        return spaces.Dict({STATE: _stacked_space(space[STATE], horizon), **images})
    assert isinstance(space, spaces.Box)
    return spaces.Box(np.tile(space.low, horizon), np.tile(space.high, horizon), dtype=np.float32)


def _repeated(space: spaces.Space, horizon: int) -> spaces.Box:
    return spaces.Box(0, 255, (horizon, *(space.shape or ())), np.uint8)
