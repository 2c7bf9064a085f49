"""The kit's own flat format: one `.npz` with an array per field, a row per transition.

Keys: `observations` (N, O), `actions` (N, A), `rewards` (N), `next_observations` (N, O), `terminated` (N) and
`truncated` (N); optional `success` (N; 1, 0, nan where unknown), `source` (N; text), `weight` (N) and `grasp_penalty`
(N). With cameras: `images/<camera>` (F, height, width, 3; uint8), the frames of all, each once and in time order within
an episode; `frame` (N), the index of the newest frame of each row's observation, whose stack ends there, the next
observation's stack one later; and `observation_horizon`, the frames in a stack.
"""

import os
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from wsrl_kit.data.dataset import Dataset
from wsrl_kit.data.recording import Recording, kind, success_from_rewards
from wsrl_kit.errors import DataError
from wsrl_kit.trajectory import Trajectory
from wsrl_kit.writing import written_whole

_REQUIRED = ("observations", "actions", "rewards", "next_observations", "terminated", "truncated")
_OPTIONAL = ("success", "source", "weight", "grasp_penalty")
_IMAGES = "images/"


def read_npz(path: Path, cameras: Sequence[str] | None = None) -> Recording:
    """Reads the kit's own format.

    Args:
        path: the file.
        cameras: the cameras wanted, images of others are not read; None: all.

    Raises:
        DataError: the file is damaged, holds Python objects, lacks an array or a camera, or its arrays do not fit
            together.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in _REQUIRED + _OPTIONAL if name in file.files}
            found = [name.removeprefix(_IMAGES) for name in file.files if name.startswith(_IMAGES)]
            missing = [camera for camera in cameras or () if camera not in found]
            if missing:
                raise DataError(
                    f"{path} has no images of {', '.join(missing)}, found {', '.join(sorted(found)) or 'no cameras'}."
                )
            wanted = sorted(found if cameras is None else cameras)
            frames = {camera: file[_IMAGES + camera] for camera in wanted}
            stacks = {name: file[name] for name in ("frame", "observation_horizon") if wanted and name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zipfile.error) as error:
        raise DataError(f"{path} is truncated or damaged: {error}.") from error
    recording = flat_recording(path, arrays, "npz")
    return replace(recording, **_image_fields(path, len(recording), frames, stacks)) if frames else recording


def _image_fields(
    path: Path, count: int, frames: dict[str, np.ndarray], stacks: dict[str, np.ndarray]
) -> dict[str, Any]:
    """The fields of a recording that hold images, once they are known to fit together."""
    for camera, images in frames.items():
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or images.size == 0:
            raise DataError(
                f"{path}: images of {camera!r} are {kind(images)}, expected uint8 (frame, height, width, 3)."
            )
    lengths = {camera: len(images) for camera, images in frames.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{path} has different numbers of frames per camera, {lengths}, expected one.")
    horizon, newest = stacks.get("observation_horizon"), stacks.get("frame")
    if horizon is None or newest is None or (horizon.shape, newest.shape) != ((), (count,)):
        raise DataError(f"{path} has images, expected 'observation_horizon' and {count} rows of 'frame' beside them.")
    if newest.dtype.kind not in "iu" or horizon.dtype.kind not in "iu":
        raise DataError(
            f"{path}: 'frame' and 'observation_horizon' are {newest.dtype} and {horizon.dtype}, expected integers."
        )
    # Each stack ends at its newest frame.
    stack = newest.astype(np.int64)[:, None] + np.arange(1 - int(horizon), 1)
    if stack.shape[1] == 0 or stack.min() < 0 or stack.max() + 1 >= min(lengths.values()):
        raise DataError(f"{path}: 'frame' refers to frames that are not among the {min(lengths.values())} it holds.")
    return {"frames": frames, "stack": stack, "next_stack": stack + 1, "stored_frames": min(lengths.values())}


def flat_recording(path: Path, arrays: dict[str, np.ndarray], name_of_format: str) -> Recording:
    """Checks flat arrays (see this module's keys) and makes a recording of them.

    Raises:
        DataError: an array is missing, is no numbers, or has another number of rows.
    """
    for name in _REQUIRED:
        if name not in arrays:
            raise DataError(f"{path} has no array {name!r}; it needs {', '.join(_REQUIRED)}.")
    count = len(np.atleast_1d(arrays["rewards"]))
    if count == 0:
        raise DataError(f"{path} holds no transitions.")
    for name, array in arrays.items():
        is_vector = name in ("observations", "actions", "next_observations")
        if array.shape[:1] != (count,) or (array.size != count and not is_vector):
            raise DataError(f"{path}: {name!r} has shape {array.shape}, expected {count} rows as in 'rewards'.")
        if name != "source" and array.dtype.kind not in "biuf":
            raise DataError(f"{path}: {name!r} has dtype {array.dtype}, expected numbers.")
    if arrays["observations"].shape != arrays["next_observations"].shape:
        raise DataError(
            f"{path}: 'next_observations' has shape {arrays['next_observations'].shape}, "
            f"expected that of 'observations', {arrays['observations'].shape}."
        )
    with np.errstate(over="ignore"):
        flat = {name: arrays[name].reshape(count, -1).astype(np.float32) for name in _REQUIRED[:4]}
    rewards = flat["rewards"][:, 0]
    terminated, truncated = (arrays[name].reshape(count).astype(bool) for name in _REQUIRED[4:])
    unknown = np.full(count, np.nan, dtype=np.float32)
    return Recording(
        observations=flat["observations"],
        actions=flat["actions"],
        rewards=rewards,
        next_observations=flat["next_observations"],
        terminated=terminated,
        truncated=truncated,
        may_be_timeout=np.zeros(count, dtype=bool),
        success=arrays["success"].reshape(count).astype(np.float32)
        if "success" in arrays
        else success_from_rewards(rewards, terminated | truncated),
        source=arrays["source"].reshape(count).astype(str) if "source" in arrays else np.full(count, ""),
        weight=arrays["weight"].reshape(count).astype(np.float32) if "weight" in arrays else unknown,
        grasp_penalty=arrays["grasp_penalty"].reshape(count).astype(np.float32) if "grasp_penalty" in arrays else None,
        format=name_of_format,
        observation_kind=kind(arrays["observations"][0]),
        action_kind=kind(arrays["actions"][0]),
    )


def write_npz(path: str | os.PathLike[str], trajectories: Sequence[Trajectory]) -> None:
    """Writes the kit's own format.

    Raises:
        DataError: there is no trajectory, their shapes differ, or the file can't be written.
    """
    dataset = Dataset.from_trajectories(trajectories)
    names = np.array(dataset.source_names)
    arrays = {name: getattr(dataset, name) for name in _REQUIRED}
    arrays["success"] = np.repeat(dataset.episode_success, dataset.episode_lengths)
    arrays["source"] = np.repeat(names[dataset.episode_source], dataset.episode_lengths)
    if any(trajectory.weight is not None for trajectory in trajectories):
        arrays["weight"] = dataset.weight
    if dataset.grasp_penalty is not None:
        arrays["grasp_penalty"] = dataset.grasp_penalty
    if dataset.images:
        arrays |= {_IMAGES + camera: images for camera, images in dataset.images.items()}
        arrays |= {"frame": dataset.frame_of_row, "observation_horizon": np.array(dataset.observation_horizon)}
    with written_whole(path, DataError) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
