"""Any task's observations in this kit's form: one flat float32 state, and where there are cameras their images."""

from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TransformObservation
from jaxtyping import Float32

from wsrl_kit.bounds import LARGEST_BOUND
from wsrl_kit.errors import ExperimentError

STATE = "state"
"""Name of the flat state among the observations of a task with cameras; no camera is called so."""

_SMALLEST_IMAGE = 8
"""An array of floats, two of whose three axes are at least this long, is an image."""

_Path = tuple[str | int, ...]


def flat_observations(environment: gymnasium.Env, name: str) -> gymnasium.Env:
    """Sort the entries of any observation into numbers and images.

    Numbers make the flat float32 state, in the order of the space (of a Dict alphabetical, a discrete entry as
    one-hot). uint8 entries of (height, width, 3) are cameras, named by their key ("pixels/front" is "front", as long as
    no other camera has that name). Without cameras the observation is the state; with cameras it is a dict of `state`
    and one image per camera. A task with images alone has the state (0.0,).

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
        # Values beyond float32 become infinity, which is then refused as such.
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
    """Where every entry of a nested space is, and its own space, in the order in which Gymnasium flattens them."""
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
    """The last part of each path where it tells the cameras apart, otherwise the whole; in alphabetical order."""
    short = [str(path[-1]) if path else "image" for path in paths]
    names = {}
    for path, last in zip(paths, short, strict=True):
        unique = short.count(last) == 1 and last != STATE
        names[last if unique else "/".join(map(str, path))] = path
    return dict(sorted(names.items()))
