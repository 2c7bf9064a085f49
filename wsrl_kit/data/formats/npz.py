"""The kit's own format: one `.npz` with an array per field, a row per transition.

Keys: `observations` (N, O), `actions` (N, A), `rewards` (N), `next_observations` (N, O), `terminated` (N), `truncated`
(N); optional `success` (N; 1, 0, nan unknown), `source` (N; text), `weight` (N), `grasp_penalty` (N). With cameras:
`images/<camera>` (F, height, width, 3; uint8), each frame once, in time order; `frame` (N), index of the newest frame
of each observation (the next observation's is one later); `observation_horizon`, frames per stack.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from wsrl_kit.data.recording import CameraChoice, Recording, kind, source_names, success_from_rewards, to_float32
from wsrl_kit.errors import DataError
from wsrl_kit.files import load_arrays

_REQUIRED = ("observations", "actions", "rewards", "next_observations", "terminated", "truncated")
_OPTIONAL = ("success", "source", "weight", "grasp_penalty")
_STACKS = ("frame", "observation_horizon")
_IMAGES = "images/"
_LONGEST_HORIZON = 100


def read_npz(path: Path, cameras: CameraChoice) -> Recording:
    """Reads the file.

    Raises:
        DataError: damaged, Python objects, a missing array or camera, or arrays that do not fit together.
    """
    present = load_arrays(path, lambda name: False)
    names = [name.removeprefix(_IMAGES) for name in present if name.startswith(_IMAGES)]
    chosen = cameras.of_file(path, names)
    wanted = {*_REQUIRED, *_OPTIONAL, *_STACKS, *(_IMAGES + camera for camera in chosen)}
    arrays = {name: array for name, array in load_arrays(path, wanted.__contains__).items() if array is not None}
    frames = {name: arrays.pop(_IMAGES + camera) for camera, name in chosen.items()}
    stacks = {name: arrays.pop(name) for name in _STACKS if name in arrays}
    recording = flat_recording(path, arrays, "npz")
    return replace(recording, **_image_fields(path, len(recording), frames, stacks)) if frames else recording


def _image_fields(
    path: Path, count: int, frames: dict[str, np.ndarray], stacks: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Checks images; returns a recording's fields for them."""
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
    first, last, frame_count = int(newest.min()) - int(horizon) + 1, int(newest.max()) + 1, min(lengths.values())
    if not 1 <= int(horizon) <= _LONGEST_HORIZON or first < 0 or last >= frame_count:
        raise DataError(f"{path}: 'frame' refers to frames that are not among the {frame_count} it holds.")
    # Each stack ends at its newest frame.
    stack = newest.astype(np.int64)[:, None] + np.arange(1 - int(horizon), 1)
    return {"frames": frames, "stack": stack, "next_stack": stack + 1, "stored_frames": frame_count}


def check_rows(path: Path, arrays: Mapping[str, np.ndarray], names: Mapping[str, str] | None = None) -> int:
    """The number of rows; `names`: those of the arrays in the file, where they differ.

    Raises:
        DataError: an array has other rows, is not numeric, or a vector where one number is expected.
    """
    names = names or {name: name for name in arrays}
    count = len(np.atleast_1d(arrays["rewards"]))
    if count == 0:
        raise DataError(f"{path} holds no transitions.")
    for name, array in arrays.items():
        is_vector = name in ("observations", "actions", "next_observations")
        if array.shape[:1] != (count,) or (array.size != count and not is_vector):
            expected = f"{count} rows as in {names['rewards']!r}" + ("" if is_vector else ", one number in each")
            raise DataError(f"{path}: {names[name]!r} has shape {array.shape}, expected {expected}.")
        if name != "source" and array.dtype.kind not in "biuf":
            raise DataError(f"{path}: {names[name]!r} has dtype {array.dtype}, expected numbers.")
    return count


def flat_recording(path: Path, arrays: dict[str, np.ndarray], name_of_format: str) -> Recording:
    """Checks flat arrays (see the module's keys).

    Raises:
        DataError: an array is missing, not numeric, or of another length.
    """
    for name in _REQUIRED:
        if name not in arrays:
            raise DataError(f"{path} has no array {name!r}; it needs {', '.join(_REQUIRED)}.")
    count = check_rows(path, arrays)
    observations = arrays["observations"]
    if observations.ndim > 3 or (observations.ndim == 3 and observations.dtype == np.uint8):
        raise DataError(
            f"{path}: 'observations' are {kind(observations[0])} each, which look like camera images; expected numbers "
            "of the state, and images as in a HIL-SERL pickle or the kit's npz."
        )
    if observations.shape != arrays["next_observations"].shape:
        raise DataError(
            f"{path}: 'next_observations' has shape {arrays['next_observations'].shape}, "
            f"expected that of 'observations', {observations.shape}."
        )
    if 0 in (observations.size, arrays["actions"].size):
        raise DataError(f"{path} holds observations or actions of size 0.")
    flat = {name: to_float32(arrays[name].reshape(count, -1)) for name in _REQUIRED[:4]}
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
        source=source_names(arrays["source"].reshape(count)) if "source" in arrays else np.full(count, ""),
        weight=arrays["weight"].reshape(count).astype(np.float32) if "weight" in arrays else unknown,
        grasp_penalty=arrays["grasp_penalty"].reshape(count).astype(np.float32) if "grasp_penalty" in arrays else None,
        format=name_of_format,
        observation_kind=kind(arrays["observations"][0]),
        action_kind=kind(arrays["actions"][0]),
    )
