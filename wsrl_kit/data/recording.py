"""Rows of a data file as read, before they are checked and become a dataset.

The loader refuses a recording's first problem; the doctor lists all.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float32, Int64, Integer, Shaped, UInt8

from wsrl_kit.data.dataset import Dataset, Transitions
from wsrl_kit.data.trajectory import CameraFrames, Layout
from wsrl_kit.data.views import View
from wsrl_kit.errors import DataError
from wsrl_kit.text import printable

# HIL-SERL keeps a person's actions in the gripper's frame, where those within [-1, 1] of the base frame reach 1.7.
LARGEST_ACTION = 3.0

# Characters; a folder's or an arm's name is shorter.
LONGEST_NAME = 100

# Policies that end in tanh and a rounding, and joysticks that overshoot by one count, stay within this.
ACTION_TOLERANCE = 1e-3

Frame = UInt8[np.ndarray, "_height _width 3"]
# Camera -> its frames in any order; frame i is of the same moment in all cameras.
RecordedFrames = Mapping[str, UInt8[np.ndarray, "frame _height _width 3"] | Sequence[Frame]]


@dataclass(frozen=True)
class CameraChoice:
    """The cameras to read from a file.

    Attributes:
        wanted: by their names in the task; None: all; (): none.
        names: name in the file -> name in the task, where they differ.
        views: by names in the task, for readers that scale larger frames one by one.
    """

    wanted: Sequence[str] | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    views: Mapping[str, View] = field(default_factory=dict)

    def among(self, found: Iterable[str]) -> tuple[dict[str, str], str]:
        """(wanted camera in the file -> its name in the task), and a problem as the end of a sentence, or ""."""
        renamed = {camera: self.names.get(camera, camera) for camera in sorted(found)}
        chosen = {camera: name for camera, name in renamed.items() if self.wanted is None or name in self.wanted}
        named = list(chosen.values())
        if missing := [name for name in self.wanted or () if name not in named]:
            called = [camera if camera == name else f"{camera} (called {name})" for camera, name in renamed.items()]
            have = f"{', '.join(called)}: camera_names tells which is which" if called else "no cameras"
            return {}, f"has no images of {', '.join(missing)}, found {have}"
        if twice := [name for name in named if named.count(name) > 1]:
            return {}, f"has two cameras that camera_names calls {twice[0]!r}"
        return chosen, ""

    def of_file(self, path: Path, found: Iterable[str]) -> dict[str, str]:
        """Wanted camera in the file -> its name in the task.

        Raises:
            DataError: one is missing, or two have one name.
        """
        chosen, problem = self.among(found)
        if problem:
            raise DataError(f"{path} {problem}.")
        return chosen


@dataclass(frozen=True, kw_only=True)
class Recording(Transitions):
    """The transitions of one file, or of several files joined.

    Attributes:
        weight, grasp_penalty, success: nan where not recorded.
        source: "" where not recorded.
        may_be_timeout: the format may record time limits as terminations.
        stack, next_stack: indices in `frames`, oldest first; None without cameras.
        observation_kind, action_kind: dtype and shape as recorded.
        action_names: of an action's numbers, where recorded.
        frames: by camera, possibly repeated.
        stored_frames: frames per camera in the file.
        scaled_from: recorded (height, width) by camera, where larger than the task's.
        infos: other single numbers; nan where missing.
        problems: ends of sentences after the file's name.
        timeouts_repaired: terminations turned into truncations.
        last_observations_recorded: False: a terminated step repeats its own.
        rewards_recorded: False: rewards are 0 until labels say otherwise.
        actions_in_unit: known to be scaled to [-1, 1].
    """

    ROWS: ClassVar[tuple[str, ...]] = (*Transitions.ROWS, "may_be_timeout", "success", "source", "stack", "next_stack")

    may_be_timeout: Bool[np.ndarray, " transition"]
    success: Float32[np.ndarray, " transition"]
    source: Shaped[np.ndarray, " transition"]
    stack: Int64[np.ndarray, "transition horizon"] | None = None
    next_stack: Int64[np.ndarray, "transition horizon"] | None = None
    format: str
    observation_kind: str
    action_kind: str
    action_names: tuple[str, ...] = ()
    frames: RecordedFrames = field(default_factory=dict)
    stored_frames: int = 0
    scaled_from: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    infos: Mapping[str, Float32[np.ndarray, " transition"]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    timeouts_repaired: int = 0
    last_observations_recorded: bool = True
    rewards_recorded: bool = True
    actions_in_unit: bool = False

    @cached_property
    def gaps(self) -> Integer[np.ndarray, " gap"]:
        """Rows that lead elsewhere than to the next row without a recorded end."""
        led_to, starts_at = self.next_observations[:-1], self.observations[1:]
        broken = ((led_to != starts_at) & ~(np.isnan(led_to) & np.isnan(starts_at))).any(axis=1)
        recorded = (self.terminated | self.truncated)[:-1]
        if self.stack is not None and self.next_stack is not None:
            rows = np.flatnonzero(~broken & ~recorded)
            broken[rows] = differ(self.frames, self.next_stack[rows], self.stack[rows + 1])
        return np.flatnonzero(broken & ~recorded)

    @cached_property
    def episode_ends(self) -> Int64[np.ndarray, " episode"]:
        """Exclusive ends of segments: recorded ends, gaps, changes of source, and the last row."""
        ends = self.terminated | self.truncated
        ends[self.gaps] = True
        ends[:-1] |= self.source[1:] != self.source[:-1]
        ends[-1] = True
        return np.flatnonzero(ends) + 1

    @property
    def episode_success(self) -> Float32[np.ndarray, " episode"]:
        """1, 0 or nan (unknown) of each segment."""
        success = np.fmax.reduceat(self.success, self.episode_starts)
        return np.where(np.isnan(success), np.nan, success != 0).astype(np.float32)

    @property
    def layout(self) -> Layout:
        return Layout(
            observation_size=self.observations.shape[1],
            action_size=self.actions.shape[1],
            cameras={camera: frames[0].shape for camera, frames in sorted(self.frames.items())},
            observation_horizon=1 if self.stack is None else self.stack.shape[1],
        )

    @property
    def is_clipped(self) -> Bool[np.ndarray, " transition"]:
        """Rows whose actions `to_dataset` clips."""
        return (np.abs(self.actions) > 1 + ACTION_TOLERANCE).any(axis=1)


def to_float32(values: Shaped[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """float32; values beyond its range become infinity."""
    # Signalling NaN become plain ones.
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32)


def kind(array: Shaped[np.ndarray, "..."]) -> str:
    """Dtype and shape, such as `float32 (1, 19)`."""
    return f"{array.dtype} {array.shape}"


def success_from_rewards(
    rewards: Float32[np.ndarray, " transition"], ended: Bool[np.ndarray, " transition"]
) -> Float32[np.ndarray, " transition"]:
    """At recorded ends, reward 1 if all rewards are 0 or 1; else nan."""
    known = ended & bool(np.isin(rewards, (0, 1)).all())
    return np.where(known, rewards > 0, np.nan).astype(np.float32)


def source_names(names: Shaped[np.ndarray, " row"]) -> Shaped[np.ndarray, " row"]:
    """Names of sources as printable text.

    Raises:
        ValueError: one is no text or too long.
    """
    plain: dict[str | bytes, str] = {}
    for name in names.tolist():
        if name not in plain:
            if not isinstance(name, str | bytes) or len(name) > LONGEST_NAME:
                raise ValueError(f"a source has no name of at most {LONGEST_NAME} characters")
            plain[name] = printable(name.decode() if isinstance(name, bytes) else name)
    return np.array([plain[name] for name in names.tolist()])


def join(recordings: Sequence[Recording]) -> Recording:
    """Recordings of one layout as one; an episode may continue in the next recording."""
    first = recordings[0]
    unsaid = [np.full(len(recording), np.nan, np.float32) for recording in recordings]
    found = [recording.arrays() for recording in recordings]
    if first.stack is not None:
        counts = [len(next(iter(recording.frames.values()))) for recording in recordings]
        for arrays, before in zip(found, np.cumsum([0, *counts[:-1]]), strict=True):
            arrays |= {name: arrays[name] + before for name in ("stack", "next_stack")}
    joined: dict[str, Any] = {
        name: np.concatenate([arrays.get(name, nan) for arrays, nan in zip(found, unsaid, strict=True)])
        for name in dict.fromkeys(name for arrays in found for name in arrays)
    }
    infos = {
        name: np.concatenate([each.infos.get(name, nan) for each, nan in zip(recordings, unsaid, strict=True)])
        for name in dict.fromkeys(name for recording in recordings for name in recording.infos)
    }
    return replace(
        first,
        **joined,
        frames={camera: [frame for each in recordings for frame in each.frames[camera]] for camera in first.frames},
        infos=infos,
        actions_in_unit=all(recording.actions_in_unit for recording in recordings),
        timeouts_repaired=sum(recording.timeouts_repaired for recording in recordings),
        problems=tuple(problem for recording in recordings for problem in recording.problems),
        last_observations_recorded=all(recording.last_observations_recorded for recording in recordings),
        rewards_recorded=all(recording.rewards_recorded for recording in recordings),
        stored_frames=sum(recording.stored_frames for recording in recordings),
    )


def with_source(recording: Recording, source: str) -> Recording:
    """Sets the source of rows without one."""
    return replace(recording, source=np.where(recording.source == "", source, recording.source))


def differ(
    frames: RecordedFrames, first: Integer[np.ndarray, "pair horizon"], second: Integer[np.ndarray, "pair horizon"]
) -> Bool[np.ndarray, " pair"]:
    """Whether two stacks of frames, given by index, differ in any camera."""
    found = first != second
    for pair, place in np.argwhere(found):
        one, other = first[pair, place], second[pair, place]
        found[pair, place] = not all(np.array_equal(camera[one], camera[other]) for camera in frames.values())
    return found.any(axis=1)


def value_problems(recording: Recording) -> list[str]:
    """Ends of sentences on NaN, infinity, large actions, negative weights, and stacks that jump."""
    problems = []
    for name in ("observations", "next_observations", "actions", "rewards"):
        values = getattr(recording, name).reshape(len(recording), -1)
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            problems.append(f"{name} of transition {bad[0]} are not finite (NaN or infinity){_more(bad)}")
    # NaN compares false here: it is reported above. Smaller actions are clipped (see `to_dataset`).
    bad = np.flatnonzero((np.abs(recording.actions) > LARGEST_ACTION).any(axis=1))
    if len(bad):
        worst = recording.actions[bad[0]][np.argmax(np.abs(recording.actions[bad[0]]))]
        problems.append(f"the action of transition {bad[0]} holds {worst:.4g}, expected [-1, 1]{_more(bad)}")
    bad = np.flatnonzero((recording.weight < 0) | np.isinf(recording.weight))
    if len(bad):
        problems.append(
            f"the weight of transition {bad[0]} is {recording.weight[bad[0]]:.4g}, expected 0 or more{_more(bad)}"
        )
    if recording.grasp_penalty is not None and len(bad := np.flatnonzero(np.isinf(recording.grasp_penalty))):
        problems.append(f"the grasp penalty of transition {bad[0]} is infinite{_more(bad)}")
    if recording.stack is not None and recording.next_stack is not None:
        bad = np.flatnonzero(differ(recording.frames, recording.stack[:, 1:], recording.next_stack[:, :-1]))
        if len(bad):
            problems.append(
                f"the images of transition {bad[0]} are no stacks that move on by one frame: the older frames of its "
                f"next observation are not the newer ones of its observation{_more(bad)}"
            )
    return problems


def _more(rows: Integer[np.ndarray, " row"]) -> str:
    return f", as in {len(rows)} transitions in all" if len(rows) > 1 else ""


def repair_timeouts(recording: Recording, timeout_length: int | None = None) -> Recording:
    """Turns time limits that were recorded as terminations into truncations.

    HIL-SERL folds the time limit into `done` with masks = 0. An episode timed out if its format allows it, it had no
    success (if unknown: no final reward), and it lasted exactly the limit. A format without last observations loses
    that step, whose value would depend on one.

    Args:
        timeout_length: in transitions. None: the longest in the recording, if two such episodes share it; one alone may
            have failed at its last step.
    """
    ends, lengths, success = recording.episode_ends, recording.episode_lengths, recording.episode_success
    unsuccessful = (success == 0) | (np.isnan(success) & (recording.rewards[ends - 1] <= 0))
    candidate = recording.may_be_timeout[ends - 1] & unsuccessful
    if not recording.last_observations_recorded:
        # Nothing would be left of a single step.
        candidate &= lengths > 1
    timed_out = candidate & (lengths == (lengths.max() if timeout_length is None else timeout_length))
    if timeout_length is None and timed_out.sum() < 2:
        return recording
    terminated, truncated = recording.terminated.copy(), recording.truncated.copy()
    terminated[ends[timed_out] - 1] = False
    truncated[ends[timed_out] - 1] = True
    count = recording.timeouts_repaired + int(timed_out.sum())
    repaired = replace(recording, terminated=terminated, truncated=truncated, timeouts_repaired=count)
    return repaired if recording.last_observations_recorded else without_last_steps(repaired, ends[timed_out] - 1)


def without_last_steps(recording: Recording, rows: Integer[np.ndarray, " episode"]) -> Recording:
    """Ends the episodes that end at `rows` one step earlier, truncated; single steps disappear."""
    before = rows[rows > 0] - 1
    before = before[~(recording.terminated | recording.truncated)[before]]
    truncated, success = recording.truncated.copy(), recording.success.copy()
    truncated[before] = True
    success[before] = np.fmax(success[before], success[before + 1])
    return without_rows(replace(recording, truncated=truncated, success=success), rows)


def without_rows(recording: Recording, rows: Integer[np.ndarray, " row"]) -> Recording:
    """The recording without some rows; whether their neighbours end is the caller's."""
    kept: dict[str, Any] = {name: np.delete(array, rows, axis=0) for name, array in recording.arrays().items()}
    infos = {name: np.delete(array, rows) for name, array in recording.infos.items()}
    return replace(recording, **kept, infos=infos)


def to_dataset(recording: Recording) -> Dataset:
    """Cuts a recording at its `episode_ends`, and truncates a segment without a recorded end.

    Actions are clipped to [-1, 1]. Unknown weights become 1, unknown grasp penalties 0.
    """
    last = recording.episode_ends - 1
    truncated = recording.truncated.copy()
    truncated[last] |= ~recording.terminated[last]
    sources = recording.source[last].tolist()
    source_names = tuple(dict.fromkeys(sources))
    penalty = recording.grasp_penalty
    return Dataset(
        observations=recording.observations,
        actions=np.clip(recording.actions, -1, 1),
        rewards=recording.rewards,
        next_observations=recording.next_observations,
        terminated=recording.terminated,
        truncated=truncated,
        weight=np.nan_to_num(recording.weight, nan=1.0),
        grasp_penalty=None if penalty is None else np.nan_to_num(penalty),
        episode_success=recording.episode_success,
        episode_source=np.array([source_names.index(source) for source in sources], np.int64),
        source_names=source_names,
        images=_images(recording),
        observation_horizon=recording.layout.observation_horizon,
    )


def _images(recording: Recording) -> CameraFrames:
    """Per segment: the first stack, then the newest frame of each next observation."""
    if recording.stack is None or recording.next_stack is None:
        return {}
    newest = recording.next_stack[:, -1]
    index = np.concatenate(
        [
            part
            for start, end in zip(recording.episode_starts, recording.episode_ends, strict=True)
            for part in (recording.stack[start], newest[start:end])
        ]
    )
    return {
        camera: frames[index] if isinstance(frames, np.ndarray) else np.stack([frames[number] for number in index])
        for camera, frames in sorted(recording.frames.items())
    }
