"""Minari datasets, through the `minari` package."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from jaxtyping import Float32, Shaped

from wsrl_kit.bounds import has_bounds, to_unit
from wsrl_kit.data.dataset import Dataset
from wsrl_kit.data.recording import Recording, join, kind, success_from_rewards
from wsrl_kit.data.writing import refuse_images
from wsrl_kit.errors import DataError
from wsrl_kit.success import SUCCESS_KEYS
from wsrl_kit.trajectory import Trajectory


def _require_minari(path: Path) -> Any:
    try:
        import h5py  # noqa: F401  # minari installs without it, and then fails later
        import minari
    except ImportError as error:
        raise DataError(f"{path} needs minari, which `pip install 'wsrl-kit[data]'` installs.") from error
    return minari


def read_minari(path: Path) -> Recording:
    """Reads a dataset's folder (the one that holds `data/`).

    Nested spaces are flattened in the order of `gymnasium.spaces.flatten`. Actions of a box with finite bounds are
    scaled from these to [-1, 1], as the environments of this kit take them.

    Raises:
        DataError: the dataset is damaged or empty, its spaces are not supported, or minari is not installed.
    """
    minari = _require_minari(path)
    # Whatever a damaged file makes minari, h5py or the json parser raise, it means the same to the user.
    try:
        dataset = minari.MinariDataset(path / "data")
        observation_space, action_space = dataset.observation_space, dataset.action_space
        if not isinstance(action_space, spaces.Box):
            raise DataError(f"{path} has actions in {action_space}, expected a Box.")
        if unsupported := _unsupported(observation_space, "observations"):
            raise DataError(f"{path} {unsupported[0]}.")
        episodes = [
            _recording(episode, observation_space, action_space)
            for episode in dataset.iterate_episodes()
            if len(episode)
        ]
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path} is truncated or damaged: {str(error) or type(error).__name__}.") from error
    if not episodes:
        raise DataError(f"{path} holds no transitions.")
    recording = join(episodes)
    if np.isnan(recording.success).all():
        ended = recording.terminated | recording.truncated
        recording.success[:] = success_from_rewards(recording.rewards, ended)
    return recording


def _unsupported(space: spaces.Space, name: str) -> list[str]:
    """Why parts of a space can't be flattened; camera images are not flattened by mistake."""
    if isinstance(space, spaces.Dict):
        return [reason for key, part in space.spaces.items() for reason in _unsupported(part, f"{name}/{key}")]
    if isinstance(space, spaces.Tuple):
        return [reason for key, part in enumerate(space.spaces) for reason in _unsupported(part, f"{name}/{key}")]
    if isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) >= 2:
        return [f"has camera images under {name!r}, which the kit reads from HIL-SERL pickles and its own npz"]
    if isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiBinary):
        return []
    return [f"has {name!r} in {space}, which is not supported"]


def _flatten(space: spaces.Space, values: Any) -> Float32[np.ndarray, "time observation"]:
    """`gymnasium.spaces.flatten` for all steps of an episode at once."""
    if isinstance(space, spaces.Dict):
        return np.concatenate([_flatten(part, values[key]) for key, part in space.spaces.items()], axis=1)
    if isinstance(space, spaces.Tuple):
        return np.concatenate([_flatten(part, value) for part, value in zip(space.spaces, values, strict=True)], axis=1)
    array = np.asarray(values)
    if isinstance(space, spaces.Discrete):
        return (array[:, None] == space.start + np.arange(space.n)).astype(np.float32)
    with np.errstate(over="ignore"):
        return array.reshape(len(array), -1).astype(np.float32)


def _recording(episode: Any, observation_space: spaces.Space, action_space: spaces.Box) -> Recording:
    observations, actions = _flatten(observation_space, episode.observations), _flatten(action_space, episode.actions)
    low, high = (_flatten(action_space, bound[None])[0] for bound in (action_space.low, action_space.high))
    bounded = has_bounds(low, high)
    if bounded:
        actions = to_unit(actions, low, high)
    count = len(episode.rewards)
    terminated, truncated = np.asarray(episode.terminations, bool), np.asarray(episode.truncations, bool)
    # The next row is another episode's: what neither terminated nor was truncated was cut there.
    truncated[-1] |= not terminated[-1]
    infos = episode.infos or {}
    said = next((infos[key] for key in SUCCESS_KEYS if key in infos), None)
    source = np.atleast_1d(infos.get("source", [b""]))[0]
    return Recording(
        observations=observations[:-1],
        actions=actions.astype(np.float32),
        rewards=np.asarray(episode.rewards, np.float32),
        next_observations=observations[1:],
        terminated=terminated,
        truncated=truncated,
        may_be_timeout=np.zeros(count, dtype=bool),
        success=_of_steps(said, count),
        source=np.full(count, source.decode() if isinstance(source, bytes) else str(source)),
        weight=_of_steps(infos.get("weight"), count),
        grasp_penalty=_of_steps(infos["grasp_penalty"], count) if "grasp_penalty" in infos else None,
        format="Minari",
        observation_kind=f"{observation_space}",
        action_kind=kind(np.asarray(episode.actions)[0]),
        infos={name: _of_steps(values, count) for name, values in infos.items()},
        actions_in_unit=bounded,
    )


def _of_steps(info: Any, count: int) -> Float32[np.ndarray, " time"]:
    """An entry of `infos`, recorded after each step, or after the reset too (which is left out); nan without one."""
    values = None if info is None else np.asarray(info)
    if values is None or values.dtype.kind not in "biuf" or values.shape not in ((count,), (count + 1,)):
        return np.full(count, np.nan, np.float32)
    with np.errstate(over="ignore"):
        return values[-count:].astype(np.float32)


def write_minari(path: str | os.PathLike[str], trajectories: Sequence[Trajectory]) -> None:
    """Writes a dataset into a new folder; inside MINARI_DATASETS_PATH, `minari.load_dataset` finds it by its name.

    Args:
        path: the folder, named as Minari names datasets (`insertion/demos-v0`); `-v0` is understood where missing.

    Raises:
        DataError: there is no trajectory, their shapes differ, they hold images, minari is missing, or the folder
            exists or can't be written.
    """
    target = Path(path)
    minari = _require_minari(target)
    from minari.dataset.minari_storage import MinariStorage

    if target.exists():
        raise DataError(f"{target} is not written: it exists already.")
    refuse_images(target, trajectories)
    dataset = Dataset.from_trajectories(trajectories)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        (temporary / "data").mkdir(parents=True)
        # The storage is used rather than `create_dataset_from_buffers`, which writes only below the folder that
        # an environment variable of the whole process names.
        storage = MinariStorage.new(
            temporary / "data",
            observation_space=spaces.Box(-np.inf, np.inf, dataset.observations.shape[1:], np.float32),
            action_space=spaces.Box(-1, 1, dataset.actions.shape[1:], np.float32),
        )
        name = target.name if "-v" in target.name else f"{target.name}-v0"
        storage.update_metadata({"dataset_id": name, "minari_version": minari.__version__})
        storage.update_episodes([_buffer(trajectory) for trajectory in trajectories])
        os.replace(temporary, target)
    except OSError as error:
        raise DataError(f"{target} can't be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _buffer(trajectory: Trajectory) -> Any:
    from minari.data_collector import EpisodeBuffer

    count = len(trajectory)
    last = np.arange(count) == count - 1
    infos: dict[str, Shaped[np.ndarray, " step"] | list[str]] = {}
    if trajectory.success is not None:
        infos["success"] = np.full(count + 1, trajectory.success)
    if trajectory.source:
        infos["source"] = [trajectory.source] * (count + 1)
    if trajectory.weight is not None:
        infos["weight"] = np.append(trajectory.weight[:1], trajectory.weight)
    if trajectory.grasp_penalty is not None:
        infos["grasp_penalty"] = np.append(trajectory.grasp_penalty[:1], trajectory.grasp_penalty)
    return EpisodeBuffer(
        observations=trajectory.observations,
        actions=trajectory.actions,
        rewards=trajectory.rewards,
        terminations=last & trajectory.terminated,
        truncations=last & (trajectory.truncated or not trajectory.terminated),
        infos=infos or None,
    )
