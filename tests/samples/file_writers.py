"""Trajectories as D4RL and robomimic hdf5, Minari and npz: the formats that the kit reads and does not write."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

from wsrl_kit.data.dataset import Dataset
from wsrl_kit.data.trajectory import Trajectory


def flat_arrays(trajectories: Sequence[Trajectory]) -> dict[str, np.ndarray]:
    """The arrays of an npz, one row a transition."""
    data = Dataset.from_trajectories(trajectories)
    names = ("observations", "actions", "rewards", "next_observations", "terminated", "truncated")
    arrays = {name: getattr(data, name) for name in names}
    arrays["success"] = np.repeat(data.episode_success, data.episode_lengths)
    arrays["source"] = np.repeat(np.array(data.source_names)[data.episode_source], data.episode_lengths)
    if any(trajectory.weight is not None for trajectory in trajectories):
        arrays["weight"] = data.weight
    if data.grasp_penalty is not None:
        arrays["grasp_penalty"] = data.grasp_penalty
    if data.images:
        arrays |= {f"images/{camera}": frames for camera, frames in data.images.items()}
        arrays |= {"frame": data.frame_of_row, "observation_horizon": np.array(data.observation_horizon)}
    return arrays


def write_npz(path: Path, trajectories: Sequence[Trajectory]) -> None:
    arrays = flat_arrays(trajectories)
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def write_hdf5(path: Path, trajectories: Sequence[Trajectory]) -> None:
    arrays = flat_arrays(trajectories)
    renamed = {"terminated": "terminals", "truncated": "timeouts"}
    infos = ("success", "source", "weight", "grasp_penalty")
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            key = f"infos/{name}" if name in infos else renamed.get(name, name)
            file[key] = array.astype(object) if name == "source" else array


def write_robomimic(path: Path, trajectories: Sequence[Trajectory], next_obs: bool = True) -> None:
    """The state in two parts, of which the first in alphabetical order is written last."""
    with h5py.File(path, "w") as file:
        for number, trajectory in enumerate(trajectories):
            demo, count = file.create_group(f"data/demo_{number}"), len(trajectory)
            for name, rows in {"obs": slice(0, count), "next_obs": slice(1, None)}.items():
                if name == "next_obs" and not next_obs:
                    continue
                states = trajectory.observations[rows]
                demo[f"{name}/robot0_eef_pos"], demo[f"{name}/object"] = states[:, 2:], states[:, :2]
                for camera, frames in trajectory.images.items():
                    demo[f"{name}/{camera}"] = frames[rows]
            demo["actions"], demo["rewards"] = trajectory.actions, trajectory.rewards
            # robomimic's done_mode 2: successes and ends of recordings.
            demo["dones"] = (np.arange(count) == count - 1).astype(np.int64)


def write_minari(path: Path, trajectories: Sequence[Trajectory]) -> None:
    (path / "data").mkdir(parents=True)
    storage = MinariStorage.new(
        path / "data",
        observation_space=spaces.Box(-np.inf, np.inf, trajectories[0].observations.shape[1:], np.float32),
        action_space=spaces.Box(-1, 1, trajectories[0].actions.shape[1:], np.float32),
    )
    storage.update_metadata({"dataset_id": path.name, "minari_version": "0.5.3"})
    storage.update_episodes([_buffer(trajectory) for trajectory in trajectories])


def _buffer(trajectory: Trajectory) -> EpisodeBuffer:
    count = len(trajectory)
    last = np.arange(count) == count - 1
    infos: dict[str, Any] = {}
    if trajectory.success is not None:
        infos["success"] = np.full(count + 1, trajectory.success)
    if trajectory.source:
        infos["source"] = [trajectory.source] * (count + 1)
    for name in ("weight", "grasp_penalty"):
        if (values := getattr(trajectory, name)) is not None:
            infos[name] = np.append(values[:1], values)
    return EpisodeBuffer(
        observations=trajectory.observations,
        actions=trajectory.actions,
        rewards=trajectory.rewards,
        terminations=last & trajectory.terminated,
        truncations=last & (trajectory.truncated or not trajectory.terminated),
        infos=infos or None,
    )
