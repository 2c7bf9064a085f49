"""Rows of a data file as they were read, before they are checked and cut into episodes.

Every reader returns a `Recording` and lists what is wrong with the file instead of stopping at the first problem,
so that the loader can refuse the file and the doctor can list everything from the same reading.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int64, Integer, Shaped, UInt8

from wsrl_kit.data.trajectory import Frames, Layout, Trajectory, differ
from wsrl_kit.text import printable

# HIL-SERL keeps a person's actions in the gripper's frame, where those within [-1, 1] of the base frame reach 1.7.
LARGEST_ACTION = 3.0

# Characters; a folder's or an arm's name is shorter.
LONGEST_NAME = 100

# Policies that end in tanh and a rounding, and joysticks that overshoot by one count, stay within this.
ACTION_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Recording:
    """N transitions of one file (or of several, joined), in time order.

    Attributes:
        observations: flat observations.
        actions: actions as recorded.
        rewards: reward of each step.
        next_observations: the observation each step led to.
        terminated: the step is recorded as the end of the task.
        truncated: the step is recorded as the end of the episode for another reason.
        may_be_timeout: a terminated step of a format that records time limits in the same way.
        success: 1 or 0 where the row says so, else nan.
        source: name of the source, "" where the row does not say.
        weight: loss weight, nan where the row does not say.
        format: name of the file format.
        observation_kind: dtype and shape of one observation as recorded.
        action_kind: dtype and shape of one action as recorded.
        timeouts_repaired: time limits that were recorded as the end of the task and are truncated here.
        problems: what is wrong with the file, as ends of a sentence that begins with its name.
        last_observations_recorded: False for a format that lacks the observation after an episode's last step: there a
            terminated step repeats its own, which no value depends on.
        grasp_penalty: what the row's grasp action cost, nan where the row does not say; None where no row does.
        frames: camera -> its frames, in any order; none without cameras. One that several observations show need be
            there only once, and may be there more often.
        stack: indices in `frames` of the k frames of each row's observation, oldest first; None without cameras. A
            reader of episodes whose frames lie in time order gives `frame[:, None] + np.arange(1 - k, 1)`.
        next_stack: the same of the next observation: the row's stack moved on by one frame.
        stored_frames: how many frames of each camera the file holds, repeated ones counted.
        infos: what else rows say in single numbers, by name; nan where a row does not.
        actions_in_unit: the actions are known to be shares of the task's bounds, in [-1, 1].
    """

    observations: Float32[np.ndarray, "transition observation"]
    actions: Float32[np.ndarray, "transition action"]
    rewards: Float32[np.ndarray, " transition"]
    next_observations: Float32[np.ndarray, "transition observation"]
    terminated: Bool[np.ndarray, " transition"]
    truncated: Bool[np.ndarray, " transition"]
    may_be_timeout: Bool[np.ndarray, " transition"]
    success: Float32[np.ndarray, " transition"]
    source: Shaped[np.ndarray, " transition"]
    weight: Float32[np.ndarray, " transition"]
    format: str
    observation_kind: str
    action_kind: str
    timeouts_repaired: int = 0
    problems: tuple[str, ...] = ()
    last_observations_recorded: bool = True
    grasp_penalty: Float32[np.ndarray, " transition"] | None = None
    frames: Frames = field(default_factory=dict)
    stack: Int64[np.ndarray, "transition horizon"] | None = None
    next_stack: Int64[np.ndarray, "transition horizon"] | None = None
    stored_frames: int = 0
    infos: Mapping[str, Float32[np.ndarray, " transition"]] = field(default_factory=dict)
    actions_in_unit: bool = False

    def __len__(self) -> int:
        return len(self.rewards)


def kind(array: Shaped[np.ndarray, "..."]) -> str:
    """How one observation or action is recorded, such as `float32 (1, 19)`."""
    return f"{array.dtype} {array.shape}"


def layout(recording: Recording) -> Layout:
    """What the other files of a dataset must have in common with this one."""
    return Layout(
        observation_size=recording.observations.shape[1],
        action_size=recording.actions.shape[1],
        cameras={camera: frames[0].shape for camera, frames in sorted(recording.frames.items())},
        observation_horizon=1 if recording.stack is None else recording.stack.shape[1],
    )


def join(recordings: Sequence[Recording]) -> Recording:
    """Recordings of one layout after one another; an episode that one breaks off and the next continues is whole again.

    Frames are referred to, and not copied.
    """
    first = recordings[0]
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(recording, name) for recording in recordings])
        for name, value in vars(first).items()
        if isinstance(value, np.ndarray) and name not in ("grasp_penalty", "stack", "next_stack")
    }
    if any(recording.grasp_penalty is not None for recording in recordings):
        penalties = [
            np.full(len(recording), np.nan, np.float32) if recording.grasp_penalty is None else recording.grasp_penalty
            for recording in recordings
        ]
        arrays["grasp_penalty"] = np.concatenate(penalties)
    if first.stack is not None:
        counts = [len(next(iter(recording.frames.values()))) for recording in recordings]
        before = np.cumsum([0, *counts[:-1]])
        for name in ("stack", "next_stack"):
            stacks = [getattr(recording, name) + offset for recording, offset in zip(recordings, before, strict=True)]
            arrays[name] = np.concatenate(stacks)
        arrays["frames"] = {
            camera: [frame for recording in recordings for frame in recording.frames[camera]] for camera in first.frames
        }
    unsaid = [np.full(len(recording), np.nan, np.float32) for recording in recordings]
    infos = {
        name: np.concatenate([each.infos.get(name, nan) for each, nan in zip(recordings, unsaid, strict=True)])
        for name in dict.fromkeys(name for recording in recordings for name in recording.infos)
    }
    return replace(
        first,
        **arrays,
        infos=infos,
        actions_in_unit=all(recording.actions_in_unit for recording in recordings),
        timeouts_repaired=sum(recording.timeouts_repaired for recording in recordings),
        problems=tuple(problem for recording in recordings for problem in recording.problems),
        last_observations_recorded=all(recording.last_observations_recorded for recording in recordings),
        stored_frames=sum(recording.stored_frames for recording in recordings),
    )


def value_problems(recording: Recording) -> list[str]:
    """What is wrong with the values: NaN, infinity, actions far out of range, weights below 0, stacks that jump."""
    problems = []
    for name in ("observations", "next_observations", "actions", "rewards"):
        values = getattr(recording, name).reshape(len(recording), -1)
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            problems.append(f"{name} of transition {bad[0]} are not finite (NaN or infinity){_more(bad)}")
    # NaN compares false here: it is reported above. Smaller actions are clipped (see `segments`).
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


def clipped(recording: Recording) -> Bool[np.ndarray, " transition"]:
    """The transitions whose actions reach out of [-1, 1], to which `segments` clips them."""
    return (np.abs(recording.actions) > 1 + ACTION_TOLERANCE).any(axis=1)


def _more(rows: Integer[np.ndarray, " row"]) -> str:
    return f", as in {len(rows)} transitions in all" if len(rows) > 1 else ""


def success_from_rewards(
    rewards: Float32[np.ndarray, " transition"], ended: Bool[np.ndarray, " transition"]
) -> Float32[np.ndarray, " transition"]:
    """Success where nothing but the reward tells: at recorded ends, if all rewards are 0 or 1, whether it is 1."""
    known = ended & bool(np.isin(rewards, (0, 1)).all())
    return np.where(known, rewards > 0, np.nan).astype(np.float32)


def source_names(names: Shaped[np.ndarray, " row"]) -> Shaped[np.ndarray, " row"]:
    """Names of sources as a file says them, as printable text.

    Raises:
        ValueError: one of them is no text, or longer than a name can be.
    """
    plain: dict[str | bytes, str] = {}
    for name in names.tolist():
        if name not in plain:
            if not isinstance(name, str | bytes) or len(name) > LONGEST_NAME:
                raise ValueError(f"a source has no name of at most {LONGEST_NAME} characters")
            plain[name] = printable(name.decode() if isinstance(name, bytes) else name)
    return np.array([plain[name] for name in names.tolist()])


def with_source(recording: Recording, source: str) -> Recording:
    """The same, with a name for the rows that bring none of their own."""
    return replace(recording, source=np.where(recording.source == "", source, recording.source))


def gaps(recording: Recording) -> Integer[np.ndarray, " gap"]:
    """Rows that no recorded end follows, and yet the next row starts with another state or image than they led to."""
    led_to, starts_at = recording.next_observations[:-1], recording.observations[1:]
    broken = ((led_to != starts_at) & ~(np.isnan(led_to) & np.isnan(starts_at))).any(axis=1)
    recorded = (recording.terminated | recording.truncated)[:-1]
    if recording.stack is not None and recording.next_stack is not None:
        rows = np.flatnonzero(~broken & ~recorded)
        broken[rows] = differ(recording.frames, recording.next_stack[rows], recording.stack[rows + 1])
    return np.flatnonzero(broken & ~recorded)


def segment_ends(recording: Recording) -> Integer[np.ndarray, " segment"]:
    """Exclusive end of each unbroken segment: at recorded ends, gaps, changes of source, and the last row."""
    ends = recording.terminated | recording.truncated
    ends[gaps(recording)] = True
    ends[:-1] |= recording.source[1:] != recording.source[:-1]
    ends[-1] = True
    return np.flatnonzero(ends) + 1


def repair_timeouts(recording: Recording, timeout_length: int | None = None) -> Recording:
    """Turns time limits that upstream recorded as the end of the task into truncations.

    HIL-SERL folds the time limit into `done` and writes masks = 0. An episode counts as timed out where it is recorded
    so, brought no success (and where success is not said: no reward at its end), and lasted exactly the limit. In a
    format without the observation after the last step, that step is left out: its value would depend on it.

    Args:
        timeout_length: the limit, in transitions. None: inferred as the longest length in the recording, and only if
            at least two such episodes share it; one alone may as well have failed at its own last step.
    """
    ends = segment_ends(recording)
    lengths = np.diff(ends, prepend=0)
    starts = ends - lengths
    success = np.fmax.reduceat(recording.success, starts)
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
    """Episodes that end at `rows` end one step earlier, truncated; those of a single step are left out."""
    before = rows[rows > 0] - 1
    before = before[~(recording.terminated | recording.truncated)[before]]
    truncated, success = recording.truncated.copy(), recording.success.copy()
    truncated[before] = True
    success[before] = np.fmax(success[before], success[before + 1])
    recording = replace(recording, truncated=truncated, success=success)
    arrays: dict[str, Any] = {
        name: np.delete(value, rows, axis=0) for name, value in vars(recording).items() if isinstance(value, np.ndarray)
    }
    return replace(recording, **arrays)


def segments(recording: Recording) -> list[Trajectory]:
    """Cuts a recording at episode ends and gaps; what ends without a recorded end is truncated.

    Actions are clipped to [-1, 1]. The images of all segments are copied into one array per camera, of which each
    segment has its part.
    """
    ends = segment_ends(recording)
    starts = np.concatenate([[0], ends[:-1]])
    success = np.fmax.reduceat(recording.success, starts)
    horizon, images = layout(recording).observation_horizon, _images(recording, starts, ends)
    return [
        Trajectory(
            observations=np.concatenate(
                [recording.observations[start:end], recording.next_observations[end - 1 : end]]
            ),
            actions=np.clip(recording.actions[start:end], -1, 1),
            rewards=recording.rewards[start:end],
            terminated=bool(recording.terminated[end - 1]),
            truncated=bool(recording.truncated[end - 1] or not recording.terminated[end - 1]),
            success=None if np.isnan(succeeded) else bool(succeeded),
            source=str(recording.source[start]),
            weight=None if np.isnan(weight := recording.weight[start:end]).all() else np.nan_to_num(weight, nan=1.0),
            images={
                camera: frames[start + number * horizon : end + (number + 1) * horizon]
                for camera, frames in images.items()
            },
            observation_horizon=horizon,
            grasp_penalty=None
            if recording.grasp_penalty is None
            else np.nan_to_num(recording.grasp_penalty[start:end]),
        )
        for number, (start, end, succeeded) in enumerate(zip(starts, ends, success, strict=True))
    ]


def _images(
    recording: Recording, starts: Integer[np.ndarray, " segment"], ends: Integer[np.ndarray, " segment"]
) -> dict[str, UInt8[np.ndarray, "frame _height _width 3"]]:
    """The frames of unbroken segments: of each its first observation's stack, then each next observation's newest."""
    if recording.stack is None or recording.next_stack is None:
        return {}
    newest = recording.next_stack[:, -1]
    shown = np.concatenate(
        [part for start, end in zip(starts, ends, strict=True) for part in (recording.stack[start], newest[start:end])]
    )
    return {
        camera: frames[shown] if isinstance(frames, np.ndarray) else np.stack([frames[index] for index in shown])
        for camera, frames in recording.frames.items()
    }
