"""Any Gymnasium environment in the kit's form."""

import textwrap
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TransformAction, TransformObservation
from jaxtyping import Float32, Float64, Shaped

from wsrl_kit.data.conventions import LARGEST_BOUND, SUCCESS_KEYS, has_bounds, hint, similar_keys
from wsrl_kit.errors import ExperimentError

STATE = "state"
"""Key of the flat state beside cameras; no camera has this name."""

TASK_SUCCESS = "task_success"
"""`info`: the task's own success beside `ClassifierReward`'s."""

CameraImages = dict[str, Shaped[np.ndarray, "*batch horizon height width channel"]]

_SMALLEST_IMAGE = 8
"""A float array with two of three axes at least this long is an image."""

_Path = tuple[str | int, ...]


def flatten(environment: gymnasium.Env, name: str, success_key: str | None = None) -> "SuccessInfo":
    """Flat float32 states (and cameras), actions in [-1, 1]^A, `success` in info.

    Raises:
        ExperimentError: unbounded actions, or observations that can't be flattened.
    """
    return SuccessInfo(_flat_actions(flat_observations(environment, name), name), name, success_key)


def flat_observations(environment: gymnasium.Env, name: str) -> gymnasium.Env:
    """Sorts the entries of any observation into numbers and images.

    Numbers make the flat float32 state, in the order of the space (Dict: alphabetical; Discrete: one-hot). uint8
    entries (height, width, 3) are cameras, named by their key ("pixels/front" is "front" if unique); with cameras the
    observation is a dict of `state` and images. A task with images alone has the state (0.0,).

    Raises:
        ExperimentError: an entry is neither a fixed number of values nor an RGB image of bytes.
    """
    space = environment.observation_space
    entries = list(_entries(space))
    cameras = {path: entry for path, entry in entries if _is_image(path, entry, name)}
    numbers = {path: entry for path, entry in entries if path not in cameras}
    low, high = _bounds(numbers, space, name)

    def state(observation: Any) -> Float32[np.ndarray, " state"]:
        parts: list[Any] = [spaces.flatten(entry, _at(observation, path)) for path, entry in numbers.items()]
        # Values beyond float32 become infinity, which `FiniteNumbers` refuses.
        with np.errstate(over="ignore"):
            return np.concatenate(parts, dtype=np.float32, casting="unsafe") if parts else np.zeros(1, np.float32)

    if not cameras:
        return TransformObservation(environment, state, spaces.Box(low, high))
    names = _camera_names(list(cameras))

    def sort(observation: Any) -> dict[str, np.ndarray]:
        return {STATE: state(observation)} | {key: _at(observation, path) for key, path in names.items()}

    images = {key: cameras[path] for key, path in names.items()}
    return TransformObservation(environment, sort, spaces.Dict({STATE: spaces.Box(low, high), **images}))


def _entries(space: spaces.Space, path: _Path = ()) -> Iterator[tuple[_Path, spaces.Space]]:
    """(path, space) of a nested space, in Gymnasium's order of flattening."""
    if isinstance(space, spaces.Dict):
        inner: Any = space.spaces.items()
    elif isinstance(space, spaces.Tuple):
        inner = enumerate(space.spaces)
    else:
        yield path, space
        return
    for key, entry in inner:
        yield from _entries(entry, (*path, key))


def _at(observation: Any, path: _Path) -> Any:
    for key in path:
        observation = observation[key]
    return observation


def _is_image(path: _Path, space: spaces.Space, name: str) -> bool:
    if not isinstance(space, spaces.Box):
        return False
    shape, is_bytes = space.shape, space.dtype == np.uint8
    if is_bytes and len(shape) == 3 and shape[-1] == 3:
        return True
    looks_like_one = len(shape) == 3 and sorted(shape)[1] >= _SMALLEST_IMAGE and sorted(shape)[0] in (1, 3, 4)
    if looks_like_one or (is_bytes and len(shape) >= 3):
        order = ", channels first," if looks_like_one and shape[0] <= 4 else ""
        raise ExperimentError(
            f"the images of {name!r} must be uint8 of shape (height, width, 3), found {space.dtype}{order} "
            f"of shape {shape} as {'/'.join(map(str, path)) or 'the observation'}"
        )
    return False


def _bounds(
    numbers: Mapping[_Path, spaces.Space], space: spaces.Space, name: str
) -> tuple[Float32[np.ndarray, " state"], Float32[np.ndarray, " state"]]:
    flat = [spaces.flatten_space(entry) for entry in numbers.values()] or [spaces.Box(0.0, 0.0, (1,), np.float32)]
    boxes = [each for each in flat if isinstance(each, spaces.Box)]
    if len(boxes) < len(flat):
        raise ExperimentError(f"the observations of {name!r} must flatten to a fixed number of values, found {space}")
    low = np.concatenate([box.low.astype(np.float64) for box in boxes])
    high = np.concatenate([box.high.astype(np.float64) for box in boxes])
    low[low < -LARGEST_BOUND], high[high > LARGEST_BOUND] = -np.inf, np.inf
    return low.astype(np.float32), high.astype(np.float32)


def _camera_names(paths: list[_Path]) -> dict[str, _Path]:
    """Paths by their last part if unique, else by the whole path; sorted."""
    short = [str(path[-1]) if path else "image" for path in paths]
    names = {}
    for path, last in zip(paths, short, strict=True):
        unique = short.count(last) == 1 and last != STATE
        names[last if unique else "/".join(map(str, path))] = path
    return dict(sorted(names.items()))


def _flat_actions(environment: gymnasium.Env, name: str) -> gymnasium.Env:
    space = environment.action_space
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        raise ExperimentError(f"the actions of {name!r} must be continuous (a Box of floats), found {space}")
    if not has_bounds(space.low, space.high):
        raise ExperimentError(f"the actions of {name!r} must have finite bounds, found {space}")
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)

    def rescale(action: np.ndarray) -> np.ndarray:
        share = (np.reshape(action, space.shape).astype(np.float64) + 1.0) / 2.0
        # Clipped, so that neither rounding nor an action beyond [-1, 1] leaves the task's bounds.
        return np.clip(low + share * (high - low), low, high).astype(space.dtype)

    return TransformAction(environment, rescale, spaces.Box(-1.0, 1.0, (low.size,), np.float32))


def action_bounds(environment: gymnasium.Env) -> tuple[Float64[np.ndarray, " action"], Float64[np.ndarray, " action"]]:
    """The task's own actions for -1 and 1."""
    space = environment.action_space
    layer = environment
    while isinstance(layer, gymnasium.Wrapper):
        if isinstance(layer, TransformAction):
            space = layer.env.action_space
            break
        layer = layer.env
    assert isinstance(space, spaces.Box)
    return space.low.reshape(-1).astype(np.float64), space.high.reshape(-1).astype(np.float64)


class SuccessInfo(gymnasium.Wrapper):
    """Sets `info["success"]` if reported (bool, number above 0, None or nan): True, False, or None (unknown).

    Any other report raises ExperimentError. `key` is the success in the task's `info`; None: one of `SUCCESS_KEYS`.

    Attributes:
        similar_keys: names like success, if no key was found.
    """

    def __init__(self, environment: gymnasium.Env, name: str, key: str | None = None) -> None:
        super().__init__(environment)
        self._name = name
        self.keys = SUCCESS_KEYS if key is None else (key,)
        self.similar_keys: tuple[str, ...] = ()

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        key = next((key for key in self.keys if key in info), None)
        success = None if key is None else self._truth(key, info[key])
        if key is None:
            self.similar_keys = similar_keys(info)
        # `TASK_SUCCESS` is a classifier wrapper's key; a task may not set it.
        info = {name: value for name, value in info.items() if name not in ("success", TASK_SUCCESS)}
        return observation, reward, terminated, truncated, info if key is None else info | {"success": success}

    def _truth(self, key: str, said: Any) -> bool | None:
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


class SuccessReward(gymnasium.Wrapper):
    """Reward 1 at the first success, which terminates, and else 0, as in HIL-SERL.

    The task's other ends remain. Unknown success is no success; an episode without any report raises ExperimentError.
    """

    def __init__(self, environment: SuccessInfo, name: str) -> None:
        super().__init__(environment)
        self._task = environment
        self._name = name
        self._reported = False

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = self.env.step(action)
        self._reported |= "success" in info
        if (terminated or truncated) and not self._reported:
            raise ExperimentError(
                f"success_reward needs a task that reports success in its info (as {', '.join(self._task.keys)}), "
                f"which {self._name!r} does not{hint(self._task.similar_keys)}"
            )
        success = bool(info.get("success"))
        return observation, float(success), terminated or success, truncated, info


def succeeded(before: bool | None, info: dict[str, Any], key: str = "success") -> bool | None:
    """Whether an episode has succeeded so far; None: unknown. `before` is the result of earlier steps."""
    said = info.get(key)
    return before if said is None else bool(before or said)


class FiniteNumbers(gymnasium.Wrapper):
    """Raises ExperimentError for observations and rewards that are not finite in float32."""

    def __init__(self, environment: gymnasium.Env, name: str) -> None:
        super().__init__(environment)
        self._name = name
        self._step = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._step = 0
        self._check("observation", _states(observation))
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._step += 1
        self._check("observation", _states(observation))
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


class ObservationHorizon(gymnasium.Wrapper):
    """The last k observations as one, oldest first; a reset repeats its first (HIL-SERL's `ChunkingWrapper`).

    States join to (k x S,); images stack to (k, height, width, 3), also for k = 1.
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


def _stacked_space(space: spaces.Space, horizon: int) -> spaces.Space:
    if isinstance(space, spaces.Dict):
        images = {
            key: spaces.Box(0, 255, (horizon, *(entry.shape or ())), np.uint8)
            for key, entry in space.spaces.items()
            if key != STATE
        }
        return spaces.Dict({STATE: _stacked_space(space[STATE], horizon), **images})
    assert isinstance(space, spaces.Box)
    return spaces.Box(np.tile(space.low, horizon), np.tile(space.high, horizon), dtype=np.float32)


def observation_horizon(environment: gymnasium.Env) -> int:
    """Frames per observation of an environment from `make`."""
    has_one = environment.has_wrapper_attr("observation_horizon")
    return environment.get_wrapper_attr("observation_horizon") if has_one else 1


def newest_state(observation: Any, horizon: int) -> Float32[np.ndarray, " state"]:
    """The newest flat state of an observation from `make`."""
    return _states(observation).reshape(horizon, -1)[-1]


def state_space(environment: gymnasium.Env) -> spaces.Box:
    """The space of the flat state."""
    space = environment.observation_space
    if isinstance(space, spaces.Dict):
        space = space[STATE]
    assert isinstance(space, spaces.Box)
    return space


def camera_shapes(environment: gymnasium.Env) -> dict[str, tuple[int, ...]]:
    """(horizon, height, width, channels) by camera."""
    space = environment.observation_space
    if not isinstance(space, spaces.Dict):
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


def _states(observation: Any) -> Any:
    return observation[STATE] if isinstance(observation, Mapping) else observation
