"""Where a readable data file does not fit its task: sentences, no errors."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from wsrl_kit.data.conventions import SUCCESS_KEYS, hint, similar_keys
from wsrl_kit.data.recording import ACTION_TOLERANCE, Recording
from wsrl_kit.data.trajectory import Layout
from wsrl_kit.data.views import View

SUCCESS_IS_ONE = "1 for success and else 0"
SUCCESS_IS_ZERO = "0 for success and else -1"
ZERO_WITHOUT_SUCCESS = "0 without a success"
OTHER_REWARDS = "others than 0 and 1, or -1 and 0"

_NARROW = 0.5
"""Only narrower task bounds reveal that actions are in the task's own units."""
_LARGEST_RECORD = 10_000_000
"""Largest `run.json` that is read, bytes."""
_ADDRESSES = frozenset({"robot_url", "success_key"})
"""Options that do not change the task."""


@dataclass(frozen=True)
class Task:
    """The task that data are for.

    Attributes:
        action_bounds: (lowest, highest) in the task's units.
        rewards: a constant of this module.
        similar_keys: `info` names like success, if it is unreported.
        views: of its cameras, to which larger frames are scaled.
    """

    exp_name: str
    environment_options: Mapping[str, Any]
    layout: Layout
    action_bounds: tuple[Float64[np.ndarray, " action"], Float64[np.ndarray, " action"]]
    rewards: str
    similar_keys: tuple[str, ...] = ()
    views: Mapping[str, View] = field(default_factory=dict)


def file_remarks(path: str | os.PathLike[str], recording: Recording, task: Task) -> list[str]:
    """Differences between a file and the task, as ends of a sentence after the file's name."""
    found = [_other_task(Path(path), task), _other_units(recording, task)]
    rewards = reward_convention(recording.rewards)
    guessed = task.rewards == ZERO_WITHOUT_SUCCESS
    if rewards and (rewards == SUCCESS_IS_ZERO if guessed else rewards != task.rewards):
        found.append(f"has rewards of {rewards}, but those of {task.exp_name} are {task.rewards}")
    return [*(remark for remark in found if remark), *_scaled(recording)]


def sentences(remarks: Iterable[tuple[str, str]]) -> list[str]:
    """Sentences from (path, end of a sentence); equal remarks share one."""
    paths: dict[str, list[str]] = {}
    for path, remark in remarks:
        paths.setdefault(remark, []).append(path)
    return [
        f"{named[0]}{f' and {len(named) - 1} more' if len(named) > 1 else ''}: {remark}."
        for remark, named in paths.items()
    ]


def success_remarks(success: Float32[np.ndarray, " episode"], names: Iterable[str]) -> list[str]:
    """A remark if no episode succeeded (1, 0 or nan, unknown)."""
    if len(success) == 0 or (success == 1).any():
        return []
    unknown = int(np.isnan(success).sum())
    if unknown < len(success):
        unsaid = f", and {unknown} do not say" if unknown else ""
        return [f"no success in {len(success)} episodes{unsaid}: what leads to one can't be learned from these data."]
    return [f"none of {len(success)} episodes says whether it succeeded{success_hint(names)}."]


def success_hint(names: Iterable[str]) -> str:
    """`hint` from the names in `infos`."""
    return hint(similar_keys(set(names).difference(SUCCESS_KEYS)))


def task_remarks(task: Task) -> list[str]:
    """A remark if the task reports no success."""
    if not task.similar_keys:
        return []
    return [f"{task.exp_name}: success is not recorded{hint(task.similar_keys)}."]


def reward_convention(rewards: Float32[np.ndarray, " transition"]) -> str:
    """The convention of rewards; "" if all are 0."""
    values = set(np.unique(rewards).tolist())
    if values <= {0.0}:
        return ""
    if values <= {0.0, 1.0}:
        return SUCCESS_IS_ONE
    return SUCCESS_IS_ZERO if values <= {-1.0, 0.0} else OTHER_REWARDS


def _scaled(recording: Recording) -> list[str]:
    cameras = recording.layout.cameras
    return [
        f"has frames of {found[0]} x {found[1]} from camera {name}, cut and scaled to the task's "
        f"{cameras[name][0]} x {cameras[name][1]}"
        for name, found in recording.scaled_from.items()
    ]


def _other_units(recording: Recording, task: Task) -> str:
    low, high = task.action_bounds
    actions = recording.actions
    if recording.actions_in_unit or actions.shape[1] != len(low) or not np.isfinite(actions).all():
        return ""
    slack = ACTION_TOLERANCE * (high - low)
    if not ((actions >= low - slack) & (actions <= high + slack)).all():
        return ""
    largest, own = np.abs(actions).max(axis=0), np.maximum(np.abs(low), np.abs(high))
    remedy = 'if they are in its own units, give action_units="task"'
    within = f"has actions within the bounds of {task.exp_name}, {_bounds_text(low, high)}"
    narrow = own <= _NARROW
    if (largest[narrow] > 0).any():
        return f"{within}, and so in a small part of [-1, 1]: {remedy}"
    if (largest > 1 + ACTION_TOLERANCE).any():
        return f"{within}, and some beyond [-1, 1]: {remedy}"
    return ""


def _bounds_text(low: Float64[np.ndarray, " action"], high: Float64[np.ndarray, " action"]) -> str:
    if len(set(low)) == len(set(high)) == 1:
        return f"{low[0]:.4g} to {high[0]:.4g}"
    return ", ".join(f"{lowest:.4g} to {highest:.4g}" for lowest, highest in zip(low, high, strict=True))


def _other_task(path: Path, task: Task) -> str:
    recorded = _recorded_task(path.parent / "run.json")
    if recorded is None:
        return ""
    exp_name, options = recorded
    if exp_name != task.exp_name:
        return f"was recorded for {exp_name[:60]!r}, not {task.exp_name}, as run.json beside it says"
    given = task.environment_options
    names = sorted((options.keys() | given.keys()) - _ADDRESSES)
    other = [name for name in names if _plain(options.get(name)) != _plain(given.get(name))]
    if not other:
        return ""
    differ = ", ".join(f"{_option(options, name)} instead of {_option(given, name)}" for name in other[:5])
    return f"was recorded with other environment_options, as run.json beside it says: {differ}"


def _option(options: Mapping[str, Any], name: str) -> str:
    # Names too come from a file: what is not printable is escaped.
    return f"{name[:60]!r} = {repr(options[name])[:60]}" if name in options else "none given"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _recorded_task(path: Path) -> tuple[str, dict[str, Any]] | None:
    """Experiment and options from a `run.json`; None without them."""
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_RECORD:
            return None
        parameters = json.loads(path.read_text())["parameters"]
        exp_name, options = parameters["exp_name"], parameters["environment_options"]
        # What is nested too deeply to be shown is none of the kit's.
        repr(options)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return (exp_name, options) if isinstance(exp_name, str) and isinstance(options, dict) else None
