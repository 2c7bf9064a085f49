"""A person's labels of episodes: a small JSON beside a data file, which itself stays untouched.

    demos.pkl.labels.json    {"data": digest of demos.pkl, "episodes": 20,
                              "labels": {"3": {"label": "exclude"}, "7": {"label": "success", "cut": 42}}}

A LeRobot or Minari folder has its labels beside it too. Episodes are numbered within the file, from 0, as it is read.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wsrl_kit.data.conventions import LAST_FRAME, UNKNOWN
from wsrl_kit.data.recording import Recording, without_rows
from wsrl_kit.data.task import SUCCESS_IS_ONE, SUCCESS_IS_ZERO, reward_convention
from wsrl_kit.errors import DataError, NoTransitionsError
from wsrl_kit.files import digest, read_json, reading, written_whole

SUFFIX = ".labels.json"
EXCLUDE, SUCCESS, FAILURE = "exclude", "success", "failure"
LABELS = ("", EXCLUDE, SUCCESS, FAILURE)

# Convention of rewards -> (without success, of success). Rewards that are all 0 may become 1.
_REWARDS = {SUCCESS_IS_ONE: (0.0, 1.0), SUCCESS_IS_ZERO: (-1.0, 0.0), "": (0.0, 1.0)}


@dataclass(frozen=True)
class Label:
    """What a person says of one episode.

    Attributes:
        label: "": nothing.
        cut: transitions that are kept; None: all.
    """

    label: str = ""
    cut: int | None = None


def labels_path(path: Path) -> Path:
    """Where the labels of a data file or folder lie."""
    path = path if path.name else path.resolve()
    return path.with_name(path.name + SUFFIX)


def has_labels(path: Path) -> bool:
    """Whether a data file or folder has labels beside it."""
    return os.path.exists(labels_path(path))


def read_labels(path: Path) -> dict[int, Label]:
    """The labels of a data file by episode, in order; {} without any.

    Raises:
        DataError: damaged, unknown, or of other data.
    """
    if not has_labels(path):
        return {}
    beside = labels_path(path)
    with reading(beside, DataError, "must hold labels of episodes, found a damaged file"):
        content = read_json(beside)
        if not isinstance(content, dict) or not {"data", "episodes", "labels"} <= content.keys():
            raise DataError(f"{beside} must hold data, episodes and labels, found no such JSON.")
        labels, count = content["labels"], content["episodes"]
        if not isinstance(labels, dict) or type(count) is not int:
            raise DataError(f"{beside} must hold a number of episodes and labels by episode, found another JSON.")
        found = {number: _label(beside, number, entry, count) for number, entry in labels.items()}
        if content["data"] != digest([path]):
            raise DataError(f"{beside} labels other data: {path} has changed since, or is another file.")
    return {int(number): found[number] for number in sorted(found, key=int)}


def _label(beside: Path, number: str, entry: Any, count: int) -> Label:
    if not (number.isascii() and number.isdecimal() and len(number) < 10 and int(number) < count):
        raise DataError(f"{beside} labels the episode {number!r}, expected a number from 0 to {count - 1}.")
    if not isinstance(entry, dict) or not entry.keys() <= {"label", "cut"}:
        raise DataError(f"{beside} must say `label` or `cut` of episode {number}, found {entry!r}.")
    label, cut = entry.get("label", ""), entry.get("cut")
    if label not in LABELS:
        raise DataError(f"{beside} labels episode {number} {label!r}, expected {EXCLUDE}, {SUCCESS} or {FAILURE}.")
    if cut is not None and (type(cut) is not int or cut < 1):
        raise DataError(f"{beside} cuts episode {number} after {cut!r} transitions, expected a number from 1.")
    return Label(label, cut)


def summary(labels: Mapping[int, Label]) -> str:
    """Such as `2 exclude, 1 success, 1 cut`; "" without any."""
    counts = {name: sum(label.label == name for label in labels.values()) for name in LABELS[1:]}
    counts["cut"] = sum(label.cut is not None for label in labels.values())
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def write_labels(path: Path, labels: Mapping[int, Label], episodes: int) -> None:
    """Writes the labels of a data file of so many episodes; without any, removes the file.

    Raises:
        DataError: it can't be written; an earlier one is intact.
    """
    beside = labels_path(path)
    said = {
        str(number): {name: value for name, value in vars(labels[number]).items() if value}
        for number in sorted(labels)
        if labels[number] != Label()
    }
    with reading(beside, DataError, "can't be written"):
        if not said:
            beside.unlink(missing_ok=True)
            return
        content = {"data": digest([path]), "episodes": episodes, "labels": said}
        with written_whole(beside, DataError) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")


def labelled(path: Path, recording: Recording, missing_rewards: str) -> Recording:
    """The recording as the labels beside its data have it.

    Args:
        missing_rewards: of `MISSING_REWARDS`; with `last_frame`, episodes without rewards and without a label of their
            own are labelled `success`.

    Raises:
        DataError: as `read_labels` and `apply_labels`, or rewards are missing.
    """
    labels = read_labels(path)
    if not recording.rewards_recorded and missing_rewards == LAST_FRAME:
        every = {number: labels.get(number, Label()) for number in range(recording.episode_count)}
        labels = labels | {number: replace(label, label=label.label or SUCCESS) for number, label in every.items()}
    recording = apply_labels(path, recording, labels)
    unknown = int(np.isnan(recording.episode_success).sum())
    if unknown and not recording.rewards_recorded and missing_rewards != UNKNOWN:
        raise DataError(
            f"{path} has no rewards, and {unknown} of its {recording.episode_count} episodes have no label: label them "
            f"{SUCCESS} or {FAILURE} (docs/data.md says how), or give missing_rewards={LAST_FRAME!r} if every episode "
            f"ends in success, or missing_rewards={UNKNOWN!r} to clone alone."
        )
    return recording


def apply_labels(path: Path, recording: Recording, labels: Mapping[int, Label]) -> Recording:
    """The recording as its labels have it.

    `exclude` removes an episode. `cut` ends it early, truncated, and its success becomes unknown. `success` makes its
    last reward that of a success, and terminates it. `failure` makes all its rewards those of no success; where success
    was recorded, the episode becomes truncated, since the task had not ended. Rewards other than 0 and 1, or -1 and 0,
    stay as they are.

    Args:
        path: of the data, for messages.

    Raises:
        DataError: the data have another number of episodes, or one is shorter than its cut.
        NoTransitionsError: every episode is excluded.
    """
    if not labels:
        return recording
    recorded, starts, ends = recording.episode_success, recording.episode_starts, recording.episode_ends
    levels = _REWARDS.get(reward_convention(recording.rewards))
    names = ("rewards", "terminated", "truncated", "success")
    rewards, terminated, truncated, success = arrays = [getattr(recording, name).copy() for name in names]
    is_dropped = np.zeros(len(recording), bool)
    for number, label in labels.items():
        if number >= len(ends):
            raise DataError(f"{labels_path(path)} labels episode {number}, but {path} has {len(ends)} episodes.")
        start, end, succeeded = starts[number], ends[number], recorded[number]
        if label.cut is not None:
            if label.cut >= end - start:
                raise DataError(
                    f"{labels_path(path)} cuts episode {number} after {label.cut} transitions, expected fewer than the "
                    f"{end - start} that it has."
                )
            is_dropped[start + label.cut : end] = True
            end = start + label.cut
            terminated[end - 1], truncated[end - 1], success[start:end], succeeded = False, True, np.nan, np.nan
        if label.label == EXCLUDE:
            is_dropped[start:end] = True
            # Where an episode ends without a recorded end, it must not go on in the next one that is left.
            truncated[max(start - 1, 0)] |= not terminated[max(start - 1, 0)]
        elif label.label and succeeded != (label.label == SUCCESS):
            success[start:end] = np.nan
            success[end - 1] = label.label == SUCCESS
            if levels is not None and label.label == SUCCESS:
                rewards[end - 1] = levels[1]
            elif levels is not None:
                rewards[start:end] = levels[0]
            if label.label == SUCCESS:
                terminated[end - 1], truncated[end - 1] = True, False
            elif succeeded == 1:
                terminated[end - 1], truncated[end - 1] = False, True
    if is_dropped.all():
        raise NoTransitionsError(f"{path} holds no transitions but those that {labels_path(path)} excludes.")
    return without_rows(replace(recording, **dict(zip(names, arrays, strict=True))), np.flatnonzero(is_dropped))
