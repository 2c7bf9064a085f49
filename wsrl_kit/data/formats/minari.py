"""Minari datasets."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from jaxtyping import Float32, Shaped

from wsrl_kit.data.conventions import SUCCESS_KEYS, has_bounds, to_unit
from wsrl_kit.data.formats.hdf5_file import File, open_hdf5
from wsrl_kit.data.recording import CameraChoice, Recording, join, kind, source_names, success_from_rewards, to_float32
from wsrl_kit.errors import DataError
from wsrl_kit.files import check_size, read_json, within

_DATA = Path("data", "main_data.hdf5")
_METADATA = Path("data", "metadata.json")

# Of a discrete observation, each of which becomes a number.
_MOST_CHOICES = 10_000


def _require_minari(path: Path) -> None:
    try:
        import h5py  # noqa: F401  # minari installs without it, and then fails later
        import minari  # noqa: F401
    except ImportError as error:
        raise DataError(f"{path} needs minari, which `pip install 'wsrl-kit[data]'` installs.") from error


def read_minari(path: Path, cameras: CameraChoice) -> Recording:
    """Reads a dataset's folder (which holds `data/`), in Minari's hdf5 format.

    Spaces are flattened as by `gymnasium.spaces.flatten`; actions with finite bounds are scaled to [-1, 1].
    `minari.MinariDataset` is not used: it may create the environment that the file names.

    Raises:
        DataError: damaged, empty, inconsistent, an unsupported space, cameras are wanted, or minari is missing.
    """
    cameras.of_file(path, ())
    _require_minari(path)
    for place in (_DATA, _METADATA):
        if not within(path, path / place):
            raise DataError(f"{path} is incomplete: {place} is missing, or outside of the folder.")
    metadata = read_json(path / _METADATA)
    if (format := metadata.get("data_format", "hdf5")) != "hdf5":
        raise DataError(f"{path} is in Minari's format {format!r}, expected 'hdf5'.")
    observation_space, action_space = (_space(path, metadata, f"{name}_space") for name in ("observation", "action"))
    if not isinstance(action_space, spaces.Box):
        raise DataError(f"{path} has actions in {action_space}, expected a Box.")
    if unsupported := _unsupported(observation_space, "observations"):
        raise DataError(f"{path} {unsupported[0]}.")
    with open_hdf5(path / _DATA) as file:
        if not 0 <= (count := int(metadata["total_episodes"])) <= len(file.root):
            raise DataError(f"{path} holds {len(file.root)} episodes, expected {count} as in {_METADATA}.")
        found = [_recording(path, file, number, observation_space, action_space) for number in range(count)]
    episodes = [episode for episode in found if episode is not None]
    if not episodes:
        raise DataError(f"{path} holds no transitions.")
    recording = join(episodes)
    if np.isnan(recording.success).all():
        ended = recording.terminated | recording.truncated
        recording.success[:] = success_from_rewards(recording.rewards, ended)
    return recording


def _space(path: Path, metadata: Mapping[str, Any], name: str) -> spaces.Space:
    from minari.serialization import deserialize_space

    if not isinstance(said := metadata.get(name), str):
        raise DataError(f"{path}: {_METADATA} does not say its {name}, and the kit makes no environment from a file.")
    return deserialize_space(said)


def _unsupported(space: spaces.Space, name: str) -> list[str]:
    """Why parts of a space can't be flattened, as ends of a sentence."""
    if isinstance(space, spaces.Dict):
        return [reason for key, part in space.spaces.items() for reason in _unsupported(part, f"{name}/{key}")]
    if isinstance(space, spaces.Tuple):
        return [reason for key, part in enumerate(space.spaces) for reason in _unsupported(part, f"{name}/{key}")]
    if isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) >= 2:
        return [f"has camera images under {name!r}, which the kit reads from HIL-SERL pickles and its own npz"]
    if isinstance(space, spaces.Discrete) and space.n > _MOST_CHOICES:
        return [f"has {name!r} in {space}, expected at most {_MOST_CHOICES} choices"]
    if isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiBinary):
        return []
    return [f"has {name!r} in {space}, which is not supported"]


def _values(file: File, group: Any, name: str, space: spaces.Space) -> Shaped[np.ndarray, "time _size"]:
    """Flattened observations or actions of an episode."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        named = space.spaces if isinstance(space, spaces.Dict) else {f"_index_{i}": s for i, s in enumerate(space)}
        return np.concatenate([_values(file, group, f"{name}/{key}", part) for key, part in named.items()], axis=1)
    array = _array(file, group, name)
    if array.shape[1:] != (space.shape or ()):
        raise DataError(f"{file.path}: {group.name}/{name} has entries {array.shape[1:]}, expected {space.shape}.")
    if isinstance(space, spaces.Discrete):
        check_size(4 * len(array) * int(space.n), file.size)
    return _flatten(space, array)


def _array(file: File, group: Any, name: str) -> Shaped[np.ndarray, "..."]:
    if (found := file.find(name, group)) is None:
        raise DataError(f"{file.path} has no {group.name}/{name}.")
    return file.numbers(found)


def _flatten(space: spaces.Space, array: Shaped[np.ndarray, "time *entry"]) -> Float32[np.ndarray, "time _size"]:
    if isinstance(space, spaces.Discrete):
        return (array[:, None] == space.start + np.arange(space.n)).astype(np.float32)
    return to_float32(array.reshape(len(array), -1))


def _recording(
    path: Path, file: File, number: int, observation_space: spaces.Space, action_space: spaces.Box
) -> Recording | None:
    """An episode; None without a step."""
    if (group := file.find(f"episode_{number}")) is None:
        raise DataError(f"{path} has no episode {number}, expected {_METADATA}'s total_episodes of them.")
    rewards, terminated, truncated = (_array(file, group, name) for name in ("rewards", "terminations", "truncations"))
    count = len(rewards)
    if count == 0:
        return None
    observations = _values(file, group, "observations", observation_space)
    recorded_actions = _array(file, group, "actions")
    actions = _values(file, group, "actions", action_space)
    for name, array, expected in (
        ("actions", actions, (count, actions.shape[1])),
        ("observations", observations, (count + 1, observations.shape[1])),
        ("rewards", rewards, (count,)),
        ("terminations", terminated, (count,)),
        ("truncations", truncated, (count,)),
    ):
        if array.shape != expected:
            raise DataError(
                f"{path}: episode {number} has {name} of shape {array.shape} to {count} rewards, expected {expected}."
            )
    low, high = (_flatten(action_space, bound[None])[0] for bound in (action_space.low, action_space.high))
    bounded = has_bounds(low, high)
    if bounded:
        actions = to_unit(actions, low, high)
    terminated, truncated = terminated.astype(bool), truncated.astype(bool)
    # The next row is another episode's: what neither terminated nor was truncated was cut there.
    truncated[-1] |= not terminated[-1]
    found = {name: file.find(f"infos/{name}", group) for name in file.names_in("infos", group)}
    infos = {name: _of_steps(file, dataset, count) for name, dataset in found.items()}
    source = file.names(found["source"])[:1] if "source" in found else []
    unknown = np.full(count, np.nan, np.float32)
    return Recording(
        observations=observations[:-1],
        actions=to_float32(actions),
        rewards=to_float32(rewards),
        next_observations=observations[1:],
        terminated=terminated,
        truncated=truncated,
        may_be_timeout=np.zeros(count, dtype=bool),
        success=next((infos[key] for key in SUCCESS_KEYS if key in infos), unknown),
        source=source_names(np.array((source or [""]) * count)),
        weight=infos.get("weight", unknown),
        grasp_penalty=infos.get("grasp_penalty"),
        format="Minari",
        observation_kind=f"{observation_space}",
        action_kind=kind(recorded_actions[0]),
        infos=infos,
        actions_in_unit=bounded,
    )


def _of_steps(file: File, dataset: Any, count: int) -> Float32[np.ndarray, " time"]:
    """An entry of `infos` after each step; nan if its shape differs."""
    if getattr(dataset, "shape", None) not in ((count,), (count + 1,)) or dataset.dtype.kind not in "biuf":
        return np.full(count, np.nan, np.float32)
    return to_float32(file.numbers(dataset)[-count:])
