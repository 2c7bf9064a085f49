"""D4RL's and RLPD's flat `.hdf5` files, and what other hdf5 files share with them.

Observations are an array, or a group of arrays by name. Numbers make the state, in alphabetical order as in an
environment with Dict observations. uint8 entries (row, height, width, 3) are cameras, named by the last part of their
path if that is unique.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from wsrl_kit.data.formats.hdf5_file import File, open_hdf5
from wsrl_kit.data.formats.npz import check_rows, flat_recording
from wsrl_kit.data.recording import CameraChoice, Recording
from wsrl_kit.errors import DataError

_NAMES = {
    "observations": "observations",
    "actions": "actions",
    "rewards": "rewards",
    "terminals": "terminated",
    "timeouts": "truncated",
    "next_observations": "next_observations",
    "infos/success": "success",
    "infos/source": "source",
    "infos/weight": "weight",
    "infos/grasp_penalty": "grasp_penalty",
}

# By camera.
_Images = dict[str, UInt8[np.ndarray, "row _height _width 3"]]


def read_hdf5(path: Path, cameras: CameraChoice) -> Recording:
    """Reads `observations, actions, rewards, terminals`, and optionally `timeouts, next_observations, infos/success`.

    Without `next_observations`, `timeouts` are needed, and the next row's observation is used. An episode's last row is
    dropped if truncated (as in D4RL's `qlearning_dataset`), and repeats its own if terminal, where the bootstrap value
    is 0.

    Raises:
        DataError: damaged, an array or ends of episodes missing.
    """
    with open_hdf5(path) as file:
        arrays, images, next_images = read_arrays(file, None, _NAMES, cameras)
    for key in ("observations", "actions", "rewards", "terminals"):
        if _NAMES[key] not in arrays:
            raise DataError(f"{path} is no D4RL file: it has no {key!r}.")
    check_rows(path, arrays, {name: key for key, name in _NAMES.items()})
    return build_recording(path, arrays, images, next_images, "D4RL hdf5")


def read_arrays(
    file: File, group: Any, names: Mapping[str, str], cameras: CameraChoice
) -> tuple[dict[str, np.ndarray], _Images, _Images]:
    """What is found in a group: arrays by the kit's names, images of observations and of next observations."""
    arrays: dict[str, np.ndarray] = {}
    images: dict[str, _Images] = {}
    for key, name in names.items():
        if (found := file.find(key, group)) is None:
            continue
        if name in ("observations", "next_observations"):
            arrays[name], images[name] = _observations(file, found, key, cameras)
        else:
            arrays[name] = np.array(file.names(found), object) if name == "source" else file.numbers(found)
    return arrays, images.get("observations", {}), images.get("next_observations", {})


def _observations(file: File, found: Any, key: str, cameras: CameraChoice) -> tuple[np.ndarray, _Images]:
    """The state of every row, and images."""
    leaves = file.leaves(found, key)
    if leaves and leaves[0][0] == key:
        cameras.of_file(file.path, ())
        return file.numbers(found), {}
    pictured = {path: each for path, each in leaves if getattr(each, "ndim", 0) > (2 if each.dtype == np.uint8 else 3)}
    last = [path.rsplit("/", 1)[1] for path in pictured]
    named = {part if last.count(part) == 1 else path: path for path, part in zip(pictured, last, strict=True)}
    chosen = cameras.of_file(file.path, named)
    images = {name: file.numbers(pictured[named[camera]]) for camera, name in chosen.items()}
    for name, array in images.items():
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3 or array.size == 0:
            raise DataError(
                f"{file.path}: images of {name!r} under {key!r} are {array.dtype} {array.shape}, expected uint8 (row, "
                "height, width, 3)."
            )
    numbers = {path: file.numbers(each) for path, each in leaves if path not in pictured}
    counts = {len(array) if array.ndim else 0 for array in (*numbers.values(), *images.values())}
    if len(counts) != 1 or counts == {0}:
        found_counts = " and ".join(map(str, sorted(counts)[:2])) or "none"
        raise DataError(f"{file.path}: {key!r} must hold arrays of equally many rows, found {found_counts}.")
    (count,) = counts
    # As in an environment with images alone.
    flat = [array.reshape(count, -1) for array in numbers.values()] or [np.zeros((count, 1), np.float32)]
    return np.concatenate(flat, axis=1), images


def build_recording(
    path: Path, arrays: dict[str, np.ndarray], images: _Images, next_images: _Images, name_of_format: str
) -> Recording:
    """A recording of rows that went through `check_rows`, with a frame of every camera for each observation."""
    count = len(arrays["rewards"])
    arrays["frame"] = np.arange(count)
    if "next_observations" not in arrays:
        arrays = _with_next_observations(path, arrays)
    elif images:
        if next_images.keys() != images.keys() or any(len(each) != count for each in next_images.values()):
            raise DataError(f"{path}: the cameras of observations and next observations differ.")
        same = arrays["next_observations"][:-1] == arrays["observations"][1:]
        ends = np.append(~same.all(axis=1), True)
        for name in arrays.keys() & {"terminated", "truncated"}:
            ends |= arrays[name].reshape(-1) != 0
        arrays["next_frame"] = arrays["frame"] + 1
        arrays["next_frame"][ends] = count + np.arange(ends.sum())
        images = {camera: np.concatenate([each, next_images[camera][ends]]) for camera, each in images.items()}
    arrays.setdefault("truncated", np.zeros(len(arrays["rewards"]), dtype=bool))
    stacks = {name: arrays.pop(name)[:, None] for name in ("frame", "next_frame") if name in arrays}
    recording = flat_recording(path, arrays, name_of_format)
    if not images:
        return recording
    stored = len(next(iter(images.values())))
    return replace(
        recording, frames=images, stack=stacks["frame"], next_stack=stacks["next_frame"], stored_frames=stored
    )


def _with_next_observations(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if "truncated" not in arrays:
        # A time limit would look like a step from the end of one episode to the start of the next.
        raise DataError(f"{path} does not tell its episodes apart: it has neither 'timeouts' nor 'next_observations'.")
    terminated, truncated = (arrays[name].reshape(-1).astype(bool) for name in ("terminated", "truncated"))
    if not (terminated | truncated).any():
        raise DataError(f"{path} does not tell its episodes apart: 'terminals' and 'timeouts' mark no end of any.")
    ends = terminated | truncated
    ends[-1] = True
    follows = np.minimum(np.arange(len(ends)) + 1, len(ends) - 1)
    # A terminal row keeps its own observation as the next one.
    follows[ends] = np.flatnonzero(ends)
    arrays = {**arrays, "next_observations": arrays["observations"][follows], "next_frame": follows}
    dropped = ends & ~terminated
    # The row before a dropped one becomes the end of its episode, unless it is one already.
    arrays["truncated"] = truncated | (np.append(dropped[1:], False) & ~terminated)
    return {name: array[~dropped] for name, array in arrays.items()}
