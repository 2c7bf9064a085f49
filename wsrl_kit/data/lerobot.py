"""LeRobotDataset v3 folders as recordings.

A row of the data is a frame: what the robot saw (`observation.*`), the action it took, and what that step brought
(`next.reward`, `next.done`). What it saw after an episode's last action has no row. Where that step ended the task, the
value after it is 0 whatever was seen, so it is kept, and its next observation repeats its own. Everywhere else the next
observation would count: there the episode ends one step earlier, truncated, and the last reward is left out.

`next.done` merges the end of the task with time limits. `next.truncated` tells them apart where a dataset has it. Else
a last step that succeeded ended the task, and any other may have been a time limit, which `repair_timeouts` decides.
Success is `next.success`; without it, where all rewards are 0 or 1, a reward of 1.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Shaped

from wsrl_kit.data.lerobot_cameras import camera_images
from wsrl_kit.data.lerobot_folder import Folder, open_folder, parquet
from wsrl_kit.data.recording import Recording, kind, success_from_rewards, without_last_steps
from wsrl_kit.errors import DataError

# lerobot's name for what the use of the gripper costs.
_PENALTY = "complementary_info.discrete_penalty"

# Columns of the data by name.
_Table = Mapping[str, Shaped[np.ndarray, "row _numbers"]]


def read_lerobot(path: Path, cameras: Sequence[str] | None = None) -> Recording:
    """Reads a dataset's folder (the one that holds `meta/`), states and cameras.

    The state is every numeric `observation.*` column, in alphabetical order, as HIL-SERL concatenates its own. In a
    dataset without `next.done`, only a success at an episode's last step ends the task.

    Args:
        path: the folder.
        cameras: the cameras wanted, by the last part of their keys; None: all; (): none, whose frames are not decoded.

    Raises:
        DataError: the folder is of another version, incomplete or damaged, its parts disagree, it lacks rewards or a
            camera, or what reads it is not installed.
    """
    folder = open_folder(path)
    states = _states(folder, cameras)
    table = _table(
        folder, ["action", "next.reward", *states], ["next.done", "next.truncated", "next.success", _PENALTY]
    )
    last = np.zeros(len(table["action"]), bool)
    last[np.cumsum(folder.lengths) - 1] = True
    # A step leads to the next frame of its episode; the last one, for want of that, to its own.
    rows = np.arange(len(last))
    led_to = rows + ~last
    observations = _float32(np.concatenate([table[name] for name in states], axis=1))
    rewards = _float32(table["next.reward"])[:, 0]
    terminated, truncated, success = _ends(table, rewards, last)
    images = camera_images(folder, cameras)
    recording = Recording(
        observations=observations,
        actions=_float32(table["action"]),
        rewards=rewards,
        next_observations=observations[led_to],
        terminated=terminated,
        truncated=truncated,
        may_be_timeout=terminated & ("next.truncated" not in table),
        success=success,
        source=np.full(len(rows), ""),
        weight=np.full(len(rows), np.nan, np.float32),
        format="LeRobotDataset v3",
        observation_kind=kind(observations[0]),
        action_kind=kind(table["action"][0]),
        last_observations_recorded=False,
        grasp_penalty=_float32(table[_PENALTY])[:, 0] if _PENALTY in table else None,
        frames=images,
        stack=rows[:, None] if images else None,
        next_stack=led_to[:, None] if images else None,
        stored_frames=len(rows) if images else 0,
    )
    recording = without_last_steps(recording, np.flatnonzero(last & ~terminated))
    if len(recording) == 0:
        raise DataError(f"{path} holds no transitions: no episode has a second frame, or ends in success.")
    return recording


def _ends(
    table: _Table, rewards: Float32[np.ndarray, " row"], last: Bool[np.ndarray, " row"]
) -> tuple[Bool[np.ndarray, " row"], Bool[np.ndarray, " row"], Float32[np.ndarray, " row"]]:
    """Which steps terminated their episode, which truncated it, and success (1, 0, or nan where it is not known)."""
    done, truncated = (_flags(table, name, len(last)) for name in ("next.done", "next.truncated"))
    if "next.success" in table:
        success = _flags(table, "next.success", len(last)).astype(np.float32)
    else:
        success = success_from_rewards(rewards, done | truncated | last)
    terminated = (done & ~truncated) | (last & (success == 1))
    return terminated, (truncated | last) & ~terminated, success


def _flags(table: _Table, name: str, count: int) -> Bool[np.ndarray, " row"]:
    """A column of flags; none is set where there is no such column."""
    return table[name][:, 0].astype(bool) if name in table else np.zeros(count, bool)


def _float32(values: Shaped[np.ndarray, "row _numbers"]) -> Float32[np.ndarray, "row _numbers"]:
    # Values beyond float32 become infinity, which is then reported as such.
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _states(folder: Folder, cameras: Sequence[str] | None) -> list[str]:
    """The columns that make up the state; where cameras are named, maps of numbers such as depths are passed over."""
    found = []
    for name, feature in sorted(folder.features.items()):
        if name.startswith("observation.") and feature["dtype"].startswith(("float", "int", "uint", "bool")):
            if sum(size > 1 for size in feature["shape"]) > 1:
                if cameras is not None:
                    continue
                raise DataError(
                    f"{folder.path}: {name!r} holds {feature['dtype']} arrays of shape {feature['shape']}, expected "
                    "vectors, or 8-bit images of dtype 'image' or 'video'."
                )
            found.append(name)
    if not found:
        raise DataError(f"{folder.path} has no numeric 'observation.*' column, expected 'observation.state'.")
    return found


def _table(folder: Folder, needed: Sequence[str], optional: Sequence[str]) -> _Table:
    """Columns of all episodes' rows, in order; every row is a vector, a single number being one of length 1."""
    for name in needed:
        if name not in folder.features:
            need = ", the reward of every step, without which nothing can be learned" if name == "next.reward" else ""
            raise DataError(f"{folder.path} has no column {name!r}{need}.")
    # A table of millions of equal rows is a small file: before the rest is read, there must be as many as expected.
    _check_lengths(folder, _columns(folder, ["episode_index"])["episode_index"][:, 0])
    return _columns(folder, [*needed, *(name for name in optional if name in folder.features)])


def _columns(folder: Folder, names: Sequence[str]) -> _Table:
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for file in folder.data_files():
        with parquet(file) as opened:
            table = opened.read(columns=list(names))
        for name in names:
            parts[name].append(_numbers(file, name, table))
    try:
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}
    except ValueError as error:
        raise DataError(f"{folder.path}: columns differ in size from file to file: {error}.") from error


def _numbers(file: Path, name: str, table: Any) -> Shaped[np.ndarray, "row _numbers"]:
    """A column of numbers, or of lists of equally many."""
    from pyarrow import compute, types

    if name not in table.column_names:
        raise DataError(f"{file} has no column {name!r}, though meta/info.json names it.")
    column = values = table.column(name).combine_chunks()
    even = True
    while even and any(
        is_list(values.type) for is_list in (types.is_list, types.is_large_list, types.is_fixed_size_list)
    ):
        even = values.null_count == 0 and len(compute.unique(compute.list_value_length(values))) == 1
        values = values.flatten()
    if (
        not even
        or not len(values)
        or values.null_count
        or not types.is_primitive(values.type)
        or types.is_temporal(values.type)
    ):
        raise DataError(f"{file}: {name!r} holds {column.type}, expected equally many numbers in every row.")
    return values.to_numpy(zero_copy_only=False).reshape(len(column), -1)


def _check_lengths(folder: Folder, episode_of_row: Shaped[np.ndarray, " row"]) -> None:
    numbers = np.array([episode["episode_index"] for episode in folder.episodes], np.int64)
    lengths = folder.lengths
    counts = dict(zip(*(part.tolist() for part in np.unique(episode_of_row, return_counts=True)), strict=True))
    for number, length in zip(numbers.tolist(), lengths.tolist(), strict=True):
        if (found := counts.get(number, 0)) != length:
            raise DataError(f"{folder.path}: episode {number} has {found} rows of data, expected {length}.")
    if len(set(numbers.tolist())) == len(numbers) and np.array_equal(episode_of_row, np.repeat(numbers, lengths)):
        return
    raise DataError(f"{folder.path}: the rows of data are not in the order of their episodes.")
