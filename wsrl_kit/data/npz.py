"""The kit's own flat format: one `.npz` with an array per field, a row per transition.

Keys: `observations` (N, O), `actions` (N, A), `rewards` (N), `next_observations` (N, O), `terminated` (N) and
`truncated` (N); optional `success` (N; 1, 0, nan where unknown), `source` (N; text) and `weight` (N).
"""

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wsrl_kit.data.dataset import Dataset
from wsrl_kit.data.recording import Recording, kind, success_from_rewards
from wsrl_kit.data.writing import written_whole
from wsrl_kit.errors import DataError
from wsrl_kit.trajectory import Trajectory

_REQUIRED = ("observations", "actions", "rewards", "next_observations", "terminated", "truncated")
_OPTIONAL = ("success", "source", "weight")


def read_npz(path: Path) -> Recording:
    """Reads the kit's own format.

    Raises:
        DataError: the file is damaged, holds Python objects, lacks an array, or its arrays do not fit together.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in _REQUIRED + _OPTIONAL if name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zipfile.error) as error:
        raise DataError(f"{path} is truncated or damaged: {error}.") from error
    return flat_recording(path, arrays, "npz")


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
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
