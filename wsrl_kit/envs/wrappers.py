"""Any Gymnasium environment in this kit's form: flat states (and cameras), actions in [-1, 1]^A, `success` in info."""

import textwrap
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TransformAction
from jaxtyping import Float64

from wsrl_kit.bounds import has_bounds
from wsrl_kit.envs.observations import STATE, flat_observations
from wsrl_kit.errors import ExperimentError
from wsrl_kit.success import SUCCESS_KEYS, hint, similar_keys

TASK_SUCCESS = "task_success"
"""Key of `info` for the task's own word beside that of a reward classifier, see `ClassifierReward`."""


class SuccessInfo(gymnasium.Wrapper):
    """Report `info["success"]` at every step where the task reports success: True, False, or None for "not known".

    The task's word may be a bool, a number (a success above 0), or None or nan, where it does not know.

    Args:
        environment: the task.
        name: of the experiment, for the error.
        key: the name in `info` under which the task reports success; None: one of `SUCCESS_KEYS`.

    Attributes:
        keys: the names that are looked for.
        similar_keys: names in `info` that sound like success, where success was not reported.
    """

    def __init__(self, environment: gymnasium.Env, name: str, key: str | None = None) -> None:
        super().__init__(environment)
        self._name = name
        self.keys = SUCCESS_KEYS if key is None else (key,)
        self.similar_keys: tuple[str, ...] = ()

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """One step of the task.

        Raises:
            ExperimentError: what the task reports as success is a text, several values, or something else.
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        key = next((key for key in self.keys if key in info), None)
        success = None if key is None else self._truth(key, info[key])
        if key is None:
            self.similar_keys = similar_keys(info)
        # A classifier's wrapper reports the task's own success under this name, and nobody else may.
        info = {name: value for name, value in info.items() if name not in ("success", TASK_SUCCESS)}
        return observation, reward, terminated, truncated, info if key is None else info | {"success": success}

    def _truth(self, key: str, said: Any) -> bool | None:
        """One truth value; None where it is not known."""
        if said is None:
            return None
        try:
            value = np.asarray(said)
        except (TypeError, ValueError, RuntimeError):
            value = np.asarray("")
        if value.dtype.kind not in "biuf" or value.size != 1:
            raise ExperimentError(
                f"the success that {self._name!r} reports as info[{key!r}] must be one truth value, or None or nan "
                f"where it is not known, found {textwrap.shorten(repr(said), 60)}"
            )
        return None if np.isnan(value.item()) else bool(value.item() > 0)


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
            number = float(np.asarray(reward).item())
        except (TypeError, ValueError):
            raise ExperimentError(
                f"{self._name!r} gave the reward {reward!r} at step {self._step} of an episode: expected one number"
            ) from None
        with np.errstate(over="ignore"):
            self._check("reward", np.float32(number))
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

    Success that is not known is none.

    Args:
        environment: the task.
        name: of the experiment, for the error.
    """

    def __init__(self, environment: SuccessInfo, name: str) -> None:
        super().__init__(environment)
        self._task = environment
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
                f"success_reward needs a task that reports success in its info (as {', '.join(self._task.keys)}), "
                f"which {self._name!r} does not{hint(self._task.similar_keys)}"
            )
        success = bool(info.get("success"))
        return observation, float(success), terminated or success, truncated, info


def flatten(environment: gymnasium.Env, name: str, success_key: str | None = None) -> SuccessInfo:
    """Wrap `environment`: flat float32 states (and cameras), actions in [-1, 1]^A, `success` in info.

    Args:
        environment: the task.
        name: of the experiment, for errors.
        success_key: as for `SuccessInfo`.

    Raises:
        ExperimentError: the actions are not a bounded Box, or the observations can't be flattened.
    """
    return SuccessInfo(_flat_actions(flat_observations(environment, name), name), name, success_key)


def _flat_actions(environment: gymnasium.Env, name: str) -> gymnasium.Env:
    space = environment.action_space
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        raise ExperimentError(f"the actions of {name!r} must be continuous (a Box of floats), found {space}")
    if not has_bounds(space.low, space.high):
        raise ExperimentError(f"the actions of {name!r} must have finite bounds, found {space}")
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)

    def rescale(action: np.ndarray) -> np.ndarray:
        share = (np.reshape(action, space.shape).astype(np.float64) + 1.0) / 2.0
        # Clipped, so that rounding or an action beyond [-1, 1] can't leave the task's own bounds.
        return np.clip(low + share * (high - low), low, high).astype(space.dtype)

    return TransformAction(environment, rescale, spaces.Box(-1.0, 1.0, (low.size,), np.float32))


def action_bounds(environment: gymnasium.Env) -> tuple[Float64[np.ndarray, " action"], Float64[np.ndarray, " action"]]:
    """The lowest and highest actions in the task's own units, which -1 and 1 stand for; -1 and 1 where it takes these.

    Args:
        environment: as `envs.make` gives.
    """
    space = environment.action_space
    layer = environment
    while isinstance(layer, gymnasium.Wrapper):
        if isinstance(layer, TransformAction):
            space = layer.env.action_space
            break
        layer = layer.env
    assert isinstance(space, spaces.Box)
    return space.low.reshape(-1).astype(np.float64), space.high.reshape(-1).astype(np.float64)


def succeeded(before: bool | None, info: dict[str, Any], key: str = "success") -> bool | None:
    """Whether an episode has succeeded, given whether it had before its last step: success at any step counts.

    None as long as nothing was reported or known.

    Args:
        key: whose word counts: "success", or `TASK_SUCCESS` for the task's own beside that of a classifier.
    """
    said = info.get(key)
    return before if said is None else bool(before or said)
