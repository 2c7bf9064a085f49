"""Any Gymnasium environment in this kit's form: flat states (and cameras), actions in [-1, 1]^A, `success` in info."""

from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TransformAction

from wsrl_kit.envs.observations import STATE, flat_observations
from wsrl_kit.errors import ExperimentError

SUCCESS_KEYS = ("success", "is_success", "succeed")
"""Names under which tasks report success in `info`: Metaworld's, Gymnasium-Robotics' and gym-hil's, HIL-SERL's."""


class SuccessInfo(gymnasium.Wrapper):
    """Report `info["success"]` as a bool at every step where the task reports success under one of its usual names."""

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        for key in SUCCESS_KEYS:
            if key in info:
                info["success"] = bool(info[key])
                break
        return observation, reward, terminated, truncated, info


class FiniteNumbers(gymnasium.Wrapper):
    """Refuse observations and rewards that are not finite in float32, before anybody stores them.

    Args:
        environment: with flat states, perhaps beside cameras.
        name: of the experiment, for the error.
    """

    def __init__(self, environment: gymnasium.Env, name: str) -> None:
        super().__init__(environment)
        self._name = name
        self._step = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode.

        Raises:
            ExperimentError: the observation holds NaN or infinity.
        """
        observation, info = self.env.reset(seed=seed, options=options)
        self._step = 0
        self._check("observation", observation[STATE] if isinstance(observation, dict) else observation)
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """One step of the task.

        Raises:
            ExperimentError: the observation holds NaN or infinity, or the reward is no finite number.
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._step += 1
        self._check("observation", observation[STATE] if isinstance(observation, dict) else observation)
        try:
            with np.errstate(over="ignore"):
                number = np.asarray(reward, np.float32).item()
        except (TypeError, ValueError):
            raise ExperimentError(
                f"{self._name!r} gave the reward {reward!r} at step {self._step} of an episode: expected one number"
            ) from None
        self._check("reward", number)
        return observation, number, terminated, truncated, info

    def _check(self, what: str, values: Any) -> None:
        if np.isfinite(values).all():
            return
        place = "" if np.ndim(values) == 0 else f" at place {np.flatnonzero(~np.isfinite(values))[0]}"
        found = np.asarray(values)[~np.isfinite(values)][0]
        raise ExperimentError(
            f"{self._name!r} gave the {what} {found}{place} at step {self._step} of an episode: expected finite "
            "numbers (float32)"
        )


class SuccessReward(gymnasium.Wrapper):
    """Reward 1 at the first success, which terminates the episode, and 0 at every other step: HIL-SERL's convention.

    What ends the task otherwise, such as a failure, still does, with reward 0.

    Args:
        environment: reports `info["success"]`, as `SuccessInfo` does.
        name: of the experiment, for the error.
    """

    def __init__(self, environment: gymnasium.Env, name: str) -> None:
        super().__init__(environment)
        self._name = name
        self._reported = False

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """One step of the task.

        Raises:
            ExperimentError: an episode has ended without a word on success.
        """
        observation, _, terminated, truncated, info = self.env.step(action)
        self._reported |= "success" in info
        if (terminated or truncated) and not self._reported:
            raise ExperimentError(
                f"success_reward needs a task that reports success in its info (as {', '.join(SUCCESS_KEYS)}), "
                f"which {self._name!r} does not"
            )
        success = info.get("success", False)
        return observation, float(success), terminated or success, truncated, info


def flatten(environment: gymnasium.Env, name: str) -> gymnasium.Env:
    """Wrap `environment`: flat float32 states (and cameras), actions in [-1, 1]^A, `success` in info.

    Raises:
        ExperimentError: the actions are not a bounded Box, or the observations can't be flattened.
    """
    return SuccessInfo(_flat_actions(flat_observations(environment, name), name))


def _flat_actions(environment: gymnasium.Env, name: str) -> gymnasium.Env:
    space = environment.action_space
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        raise ExperimentError(f"the actions of {name!r} must be continuous (a Box of floats), found {space}")
    if not space.is_bounded():
        raise ExperimentError(f"the actions of {name!r} must have finite bounds, found {space}")
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)

    def rescale(action: np.ndarray) -> np.ndarray:
        share = (np.reshape(action, space.shape).astype(np.float64) + 1.0) / 2.0
        # Clipped, so that rounding or an action beyond [-1, 1] can't leave the task's own bounds.
        return np.clip(low + share * (high - low), low, high).astype(space.dtype)

    return TransformAction(environment, rescale, spaces.Box(-1.0, 1.0, (low.size,), np.float32))


def succeeded(before: bool | None, info: dict[str, Any], key: str = "success") -> bool | None:
    """Whether an episode has succeeded, given whether it had before its last step: success at any step counts.

    None as long as nothing was reported.

    Args:
        key: whose word counts: "success", or "task_success" for the task's own beside that of a classifier.
    """
    return bool(before or info[key]) if key in info else before
