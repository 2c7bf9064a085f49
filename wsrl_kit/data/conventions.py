"""Conventions that data files leave open: success, units of actions, bounds, cameras, missing rewards."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Float32, Float64, Shaped

from wsrl_kit.data.recording import Recording
from wsrl_kit.data.views import View

LARGEST_BOUND = 1e6
"""A greater bound means "none": some tasks write the largest float."""

SUCCESS_KEYS = ("succeed", "success", "is_success")
"""Success in `info`: HIL-SERL, Metaworld, Gymnasium-Robotics and gym-hil."""

FROM_LABELS, LAST_FRAME, UNKNOWN = "labels", "last_frame", "none"
MISSING_REWARDS = (FROM_LABELS, LAST_FRAME, UNKNOWN)
"""How episodes in files without rewards ended: as labelled, in success at the last frame, or nobody knows."""

_JOINTS = re.compile(r"joint|motor|shoulder|elbow|waist|\.pos\b", re.IGNORECASE)
"""In names of actions: what robots without a cartesian controller are told."""


@dataclass(frozen=True)
class Conventions:
    """How to read the files of one task.

    Attributes:
        success_key: in `infos`; None: the usual names.
        action_bounds: (lowest, highest) in the files' units; None: [-1, 1].
        camera_names: name in the files -> name in the task.
        missing_rewards: one of `MISSING_REWARDS`.
        views: of the task's cameras; larger frames are cropped and scaled. Without one, frames stay.
    """

    success_key: str | None = None
    action_bounds: tuple[Float64[np.ndarray, " action"], Float64[np.ndarray, " action"]] | None = None
    camera_names: Mapping[str, str] = field(default_factory=dict)
    missing_rewards: str = FROM_LABELS
    views: Mapping[str, View] = field(default_factory=dict)


AS_WRITTEN = Conventions()
"""The usual success keys, actions in [-1, 1], cameras by their names in the files, rewards or labels."""


def interpret(recording: Recording, conventions: Conventions) -> Recording:
    """Applies the conventions; actions already scaled stay."""
    said = recording.infos.get(conventions.success_key or "")
    if said is not None:
        success = np.where(np.isnan(said), np.nan, said > 0).astype(np.float32)
        recording = replace(recording, success=success)
    recording = _seen(recording, conventions.views)
    if recording.actions_in_unit:
        return recording
    if conventions.action_bounds is None:
        names = ", ".join(recording.action_names)
        if not _JOINTS.search(names):
            return recording
        problem = (
            f"has positions of joints as actions ({names}), which only a task with the same actions can take: give "
            "such a task as exp_name, and action_units='task'"
        )
        return replace(recording, problems=(*recording.problems, problem))
    low, high = conventions.action_bounds
    size = recording.actions.shape[1]
    if size != len(low):
        problem = f"has actions of size {size}, expected {len(low)} as the task has"
        return replace(recording, problems=(*recording.problems, problem))
    return replace(recording, actions=to_unit(recording.actions, low, high), actions_in_unit=True)


def _seen(recording: Recording, views: Mapping[str, View]) -> Recording:
    """The recording with its larger frames cropped and scaled."""
    frames, scaled_from = dict(recording.frames), dict(recording.scaled_from)
    for name in sorted(views.keys() & frames.keys()):
        first = frames[name][0]
        if views[name].narrows(first):
            frames[name], scaled_from[name] = [views[name].of(frame) for frame in frames[name]], first.shape[:2]
    return replace(recording, frames=frames, scaled_from=scaled_from)


def has_bounds(low: Shaped[np.ndarray, "..."], high: Shaped[np.ndarray, "..."]) -> bool:
    """Whether every value is bounded on both sides."""
    # A bound of NaN compares false, and is none either.
    return bool((np.abs(low) <= LARGEST_BOUND).all() and (np.abs(high) <= LARGEST_BOUND).all())


def to_unit(
    values: Float[np.ndarray, "*batch action"], low: Float[np.ndarray, " action"], high: Float[np.ndarray, " action"]
) -> Float32[np.ndarray, "*batch action"]:
    """Scales [low, high] to [-1, 1]; 0 where both are equal. Bounds of [-1, 1] change no bit."""
    low, high = low.astype(np.float64), high.astype(np.float64)
    width = np.where(high > low, high - low, 1.0)
    # Values far beyond the bounds become infinite, and are refused as such.
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.where(high > low, 2 * (values - low) / width - 1, 0 * values)
        return np.where((low == -1) & (high == 1), values, scaled).astype(np.float32)


def similar_keys(info: Iterable[object]) -> tuple[str, ...]:
    """Names that contain "succ"."""
    return tuple(sorted(key for key in info if isinstance(key, str) and "succ" in key.lower()))


def hint(keys: Sequence[str]) -> str:
    """Advice on unrecorded success, as the end of a sentence; "" without keys."""
    if not keys:
        return ""
    return f"; info holds {', '.join(map(repr, keys))}: give success_key={keys[0]!r} in environment_options"
