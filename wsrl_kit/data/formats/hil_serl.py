"""HIL-SERL's demo files: one pickled list of transition dicts, episodes one after another."""

import os
import pickle
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from wsrl_kit.data.conventions import SUCCESS_KEYS
from wsrl_kit.data.formats.safe_pickle import load_pickles
from wsrl_kit.data.recording import LONGEST_NAME, CameraChoice, Frame, Recording, kind, success_from_rewards, to_float32
from wsrl_kit.data.trajectory import Trajectory
from wsrl_kit.errors import DataError, NoTransitionsError
from wsrl_kit.files import written_whole

# Height and width; beside it a state (k, S) has few rows.
_SMALLEST_MAP = 16

# Gym's own key; a file in which it occurs keeps time limits apart from ends of the task.
_TIMEOUT_KEY = "TimeLimit.truncated"

# Units of actions, in files that this kit writes; and what it writes there.
_UNITS_KEY, _UNITS = "action_units", "normalized"

# Numbers that `infos` hold under so many names are kept, of those that occur most often.
_MOST_INFOS = 100

# Characters of such a name.
_LONGEST_INFO = 100

# What is wrong with a transition -> the transitions in which it is.
_Problems = dict[str, list[int]]

# Of each camera's frame, where it lies in memory, and in which order.
_Place = tuple[tuple[int, tuple[int, ...]], ...]


class _Unreadable(Exception):
    """Why a transition can't be read, as the end of a sentence."""


class _Observation(NamedTuple):
    """State (k, S) or (S,) as recorded; by camera a uint8 stack (k, height, width, 3), oldest first."""

    state: np.ndarray
    images: dict[str, np.ndarray]

    @property
    def shapes(self) -> tuple[Any, ...]:
        return self.state.shape, *((camera, stack.shape) for camera, stack in self.images.items())

    def __str__(self) -> str:
        """Shapes, such as `(1, 19), wrist_1 (1, 128, 128, 3)`."""
        return ", ".join([f"{self.state.shape}", *(f"{name} {stack.shape}" for name, stack in self.images.items())])


class _Row(NamedTuple):
    observation: _Observation
    next_observation: _Observation
    action: np.ndarray
    reward: float
    mask: float
    done: float
    grasp_penalty: float
    infos: dict[str, Any]

    @property
    def shapes(self) -> tuple[Any, ...]:
        return self.observation.shapes, self.action.shape

    def __str__(self) -> str:
        return f"observations {self.observation} and actions {self.action.shape}"


def read_hil_serl(path: Path, cameras: CameraChoice) -> Recording:
    """Reads a demo file, a run's dump, or a file for the reward classifier (without `infos`).

    Several lists in one file are joined. Images are not copied.

    Raises:
        NoTransitionsError: the list is empty.
        DataError: unsafe, damaged, no list, or without a readable transition.
    """
    content: list[Any] = []
    for part in load_pickles(path):
        if not isinstance(part, list | tuple):
            raise DataError(f"{path}: expected a list of transitions, found {type(part).__name__}.")
        content += part
    if not content:
        raise NoTransitionsError(f"{path} holds no transitions.")
    problems: _Problems = defaultdict(list)
    rows: dict[int, _Row] = {}
    for number, entry in enumerate(content):
        try:
            rows[number] = _row(entry, cameras)
        except _Unreadable as reason:
            problems[str(reason)].append(number)
    if not rows:
        raise DataError(f"{path}: {_sentences(problems)[0]}.")
    # Most rows decide the shape, so that one odd row does not condemn all others.
    usual = Counter(row.shapes for row in rows.values()).most_common(1)[0][0]
    like = next(row for row in rows.values() if row.shapes == usual)
    for number in [number for number, row in rows.items() if row.shapes != usual]:
        problems[f"has {rows.pop(number)}, expected {like}"].append(number)
    return _recording(list(rows.values()), problems)


def _row(entry: Any, cameras: CameraChoice) -> _Row:
    if not isinstance(entry, dict):
        raise _Unreadable(f"is no dict but {type(entry).__name__}")
    infos = entry["infos"] if isinstance(entry.get("infos"), dict) else {}
    try:
        row = _Row(
            _parse_observation(entry["observations"], cameras),
            _parse_observation(entry["next_observations"], cameras),
            _numbers(entry["actions"], "actions"),
            _single(entry["rewards"]),
            _single(entry["masks"]),
            _single(entry["dones"]),
            _number(entry.get("grasp_penalty", infos.get("grasp_penalty"))),
            infos,
        )
    except KeyError as missing:
        raise _Unreadable(f"has no {missing}") from None
    except ValueError:
        raise _Unreadable("has rewards, masks or dones that are no single numbers") from None
    if not _is_name(infos.get("source", "")):
        raise _Unreadable(f"has a source that is no name of at most {LONGEST_NAME} printable characters")
    if row.mask not in (0, 1) or row.done not in (0, 1):
        raise _Unreadable(f"has masks {row.mask:g} and dones {row.done:g}, expected 0 or 1")
    if row.observation.shapes != row.next_observation.shapes:
        raise _Unreadable(
            f"has observations {row.observation} and next_observations {row.next_observation}, expected both alike"
        )
    return row


def _parse_observation(observation: Any, cameras: CameraChoice) -> _Observation:
    """Reads a dict with `state` and images, or a flat array."""
    entries = observation if isinstance(observation, dict) else {"state": observation}
    if not all(_is_name(key) for key in entries):
        raise _Unreadable(f"has an observation without a name of at most {LONGEST_NAME} printable characters")
    others = {key: _as_array(entries[key], repr(key)) for key in sorted(entries) if key != "state"}
    found = {key: value for key, value in others.items() if _is_image(value)}
    for key in others.keys() - found.keys():
        raise _Unreadable(f"has an observation under {key!r} ({kind(others[key])}), expected `state` and camera images")
    if "state" not in entries:
        beside = f", expected it beside the camera images ({', '.join(found)})" if found else ""
        raise _Unreadable(f"has no 'state'{beside}")
    chosen, problem = cameras.among(found)
    if problem:
        raise _Unreadable(problem)
    state = _numbers(entries["state"], "observations")
    images = {name: _image_stack(camera, found[camera]) for camera, name in chosen.items()}
    horizon = len(state) if state.ndim > 1 else 1
    for camera, stack in images.items():
        if len(stack) != horizon:
            raise _Unreadable(
                f"has {len(stack)} frames under {camera!r} ({kind(stack)}) beside {horizon} of `state` "
                f"({kind(state)}), expected one observation horizon"
            )
    return _Observation(state, images)


def _is_image(value: np.ndarray) -> bool:
    """Whether an entry is a camera's, even of an unsupported kind such as a depth map."""
    is_pictured = value.dtype == np.uint8 and value.ndim > 0
    return is_pictured or value.ndim > 2 or (value.ndim == 2 and min(value.shape) >= _SMALLEST_MAP)


def _image_stack(camera: str, images: np.ndarray) -> np.ndarray:
    if images.dtype != np.uint8:
        raise _Unreadable(f"has {images.dtype} images under {camera!r}, expected uint8 from 0 to 255")
    if images.ndim not in (3, 4) or images.shape[-1] != 3 or images.size == 0:
        raise _Unreadable(f"has images of shape {images.shape} under {camera!r}, expected (horizon, height, width, 3)")
    return images if images.ndim == 4 else images[None]


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_NAME and value.isprintable()


def _numbers(value: Any, name: str) -> np.ndarray:
    array = _as_array(value, name)
    if array.dtype.kind not in "biuf" or array.size == 0:
        raise _Unreadable(f"has {name} that are no numbers")
    return array


def _as_array(value: Any, name: str) -> np.ndarray:
    """The array in an entry: an array, a number, or a regular list of these."""
    if not _holds_numbers(value):
        raise _Unreadable(f"has {name} that are no numbers")
    try:
        return np.asarray(value)
    except ValueError:
        raise _Unreadable(f"has {name} that are no array") from None


def _holds_numbers(value: Any) -> bool:
    """NumPy would turn numbers beside a text into texts."""
    if isinstance(value, list | tuple):
        return all(map(_holds_numbers, value))
    return isinstance(value, np.ndarray | np.generic | int | float)


def _single(value: Any) -> float:
    """The value of a number, or of an array or list of one.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, list | tuple):
        (value,) = value
    array = np.asarray(value) if isinstance(value, int | float | np.ndarray | np.generic) else np.empty(0)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{array.dtype} is no number")
    return float(array.item())


def _number(value: Any) -> float:
    """An optional number; else nan."""
    try:
        return _single(value)
    except ValueError:
        return np.nan


def _sentences(problems: _Problems) -> list[str]:
    return [
        f"transition {rows[0]} {what}" + (f", as in {len(rows)} transitions in all" if len(rows) > 1 else "")
        for what, rows in problems.items()
    ]


def _recording(rows: Sequence[_Row], problems: _Problems) -> Recording:
    rewards = _float32(row.reward for row in rows)
    masked = np.array([row.mask == 0 for row in rows])
    ended = masked | np.array([row.done == 1 for row in rows])
    timeout = np.array([_number(row.infos.get(_TIMEOUT_KEY)) > 0 for row in rows])
    truncated = ended & (timeout | ~masked)
    told_apart = bool((ended & ~masked).any()) or any(_TIMEOUT_KEY in row.infos for row in rows)
    success_said = any(key in row.infos for row in rows for key in SUCCESS_KEYS)
    penalty = _float32(row.grasp_penalty for row in rows)
    return Recording(
        observations=_stack(row.observation.state for row in rows),
        actions=_stack(row.action for row in rows),
        rewards=rewards,
        next_observations=_stack(row.next_observation.state for row in rows),
        terminated=masked & ~timeout,
        truncated=truncated,
        may_be_timeout=masked & (not told_apart),
        success=np.array([_success(row.infos) for row in rows], np.float32)
        if success_said
        else success_from_rewards(rewards, ended),
        source=np.array([row.infos.get("source", "") for row in rows]),
        weight=_float32(_number(row.infos.get("weight")) for row in rows),
        format="HIL-SERL pickle",
        observation_kind=kind(rows[0].observation.state),
        action_kind=kind(rows[0].action),
        timeouts_repaired=int((masked & timeout).sum()),
        problems=tuple(_sentences(problems)),
        grasp_penalty=None if np.isnan(penalty).all() else penalty,
        infos=_other_infos(rows),
        actions_in_unit=all(isinstance(units := row.infos.get(_UNITS_KEY), str) and units == _UNITS for row in rows),
        **_frames(rows),
    )


def _success(infos: dict[str, Any]) -> float:
    said = [_number(infos[key]) for key in SUCCESS_KEYS if key in infos]
    return float(said[0] > 0) if said and not np.isnan(said[0]) else np.nan


def _other_infos(rows: Sequence[_Row]) -> dict[str, np.ndarray]:
    """Numbers under other names; one may be the success."""
    known = {_TIMEOUT_KEY, _UNITS_KEY, "source", "weight", "grasp_penalty"}
    found = (name for row in rows for name in row.infos if isinstance(name, str) and len(name) <= _LONGEST_INFO)
    names = [name for name, _ in Counter(found).most_common(_MOST_INFOS) if name not in known]
    return {name: _float32(_number(row.infos.get(name)) for row in rows) for name in names}


def _frames(rows: Sequence[_Row]) -> dict[str, Any]:
    if not rows[0].observation.images:
        return {}
    collector = _FrameCollector(list(rows[0].observation.images))
    stacks: list[list[int]] = []
    next_stacks: list[list[int]] = [[]]
    for row in rows:
        stacks.append(collector.add(row.observation.images, expected=next_stacks[-1]))
        next_stacks.append(collector.add(row.next_observation.images, expected=stacks[-1][1:]))
    return {
        "frames": collector.frames,
        "stack": np.array(stacks),
        "next_stack": np.array(next_stacks[1:]),
        "stored_frames": len(collector.memory),
    }


class _FrameCollector:
    """Keeps each frame of overlapping stacks once, recognised by its memory or by equality with the expected frame.

    Attributes:
        frames: by camera, not copied.
        memory: distinct memory locations of the given frames.
    """

    def __init__(self, cameras: Sequence[str]) -> None:
        self.frames: dict[str, list[Frame]] = {camera: [] for camera in cameras}
        self._index_of: dict[_Place, int] = {}
        self.memory: set[_Place] = set()

    def add(
        self, stacks: Mapping[str, UInt8[np.ndarray, "horizon _height _width 3"]], expected: Sequence[int]
    ) -> list[int]:
        """Collects an observation's stack; returns the indices of its frames.

        Args:
            expected: frames likely to begin the stack.
        """
        indices: list[int] = []
        for place in range(len(next(iter(stacks.values())))):
            guesses = [*expected[place : place + 1], *indices[-1:]]
            indices.append(self._index({camera: stack[place] for camera, stack in stacks.items()}, guesses))
        return indices

    def _index(self, frame: Mapping[str, Frame], guesses: Sequence[int]) -> int:
        memory = tuple((_address(array), array.strides) for array in frame.values())
        self.memory.add(memory)
        known = self._index_of.get(memory)
        for guess in guesses:
            if guess == known or all(np.array_equal(frame[camera], self.frames[camera][guess]) for camera in frame):
                return guess
        if known is None:
            # Only of frames that are kept: the memory of others may be another frame's later.
            known = self._index_of[memory] = len(self._index_of)
            for camera, array in frame.items():
                self.frames[camera].append(array)
        return known


def _address(buffer: np.ndarray | bytes) -> int:
    array = np.frombuffer(buffer, np.uint8) if isinstance(buffer, bytes) else buffer
    return int(array.__array_interface__["data"][0])


def _stack(vectors: Iterable[np.ndarray]) -> np.ndarray:
    flat = [vector.reshape(-1) for vector in vectors]
    return to_float32(np.concatenate(flat).reshape(len(flat), -1))


def _float32(values: Iterable[float]) -> np.ndarray:
    return to_float32(np.array(list(values)))


def write_hil_serl(path: str | os.PathLike[str], trajectories: Iterable[Trajectory]) -> None:
    """Writes a file that HIL-SERL's scripts load as `demo_path`.

    Each frame is stored once. A truncated end, also at a cut within an episode, has dones = True and masks = 1. `infos`
    holds `succeed`, and entries that HIL-SERL ignores: `TimeLimit.truncated`, `action_units`, perhaps `source` and
    `weight`.

    Raises:
        DataError: there is no trajectory, or the file can't be written.
    """
    rows = [row for trajectory in trajectories for row in _rows_of(trajectory)]
    if not rows:
        raise DataError(f"{os.fspath(path)} is not written: there are no transitions to write.")
    with written_whole(path, DataError) as temporary, temporary.open("wb") as file:
        # Protocol 4 is the newest that every Python of HIL-SERL's users reads.
        _Pickler(file, protocol=4).dump(rows)


def _rows_of(trajectory: Trajectory) -> Iterable[dict[str, Any]]:
    observations = _observations(trajectory)
    for step in range(len(trajectory)):
        last = step == len(trajectory) - 1
        truncated = last and not trajectory.terminated
        infos: dict[str, Any] = {"succeed": trajectory.success, _TIMEOUT_KEY: truncated, _UNITS_KEY: _UNITS}
        if trajectory.source:
            infos["source"] = trajectory.source
        if trajectory.weight is not None:
            infos["weight"] = float(trajectory.weight[step])
        penalty = {} if trajectory.grasp_penalty is None else {"grasp_penalty": float(trajectory.grasp_penalty[step])}
        yield penalty | {
            "observations": observations[step],
            "actions": trajectory.actions[step].astype(np.float32),
            "next_observations": observations[step + 1],
            "rewards": float(trajectory.rewards[step]),
            "masks": 0.0 if last and trajectory.terminated else 1.0,
            "dones": last,
            "infos": infos,
        }


def _observations(trajectory: Trajectory) -> list[dict[str, np.ndarray]]:
    """`state` (k, S) and stacks (k, height, width, 3) that share the bytes of the episode's frames."""
    horizon, count = trajectory.observation_horizon, len(trajectory.observations)
    states = trajectory.observations.reshape(count, horizon, -1).astype(np.float32)
    observations = [{"state": state} for state in states]
    for camera, frames in sorted(trajectory.images.items()):
        content, frame_size = frames.tobytes(), frames[0].nbytes
        for first, observation in enumerate(observations):
            shape = (horizon, *frames.shape[1:])
            observation[camera] = np.ndarray(shape, np.uint8, content, first * frame_size)
    return observations


class _Pickler(pickle.Pickler):
    """Writes arrays under names that NumPy 1 (pinned by HIL-SERL) and NumPy 2 both know.

    Arrays inside bytes refer to them, so that overlapping stacks share them.
    """

    def reducer_override(self, value: Any) -> Any:
        if type(value) is not np.ndarray:
            return NotImplemented
        whole: Any = value.base
        if isinstance(whole, bytes):
            return np.ndarray, (value.shape, value.dtype.str, whole, _address(value) - _address(whole))
        return np.ndarray, (value.shape, value.dtype.str, value.tobytes())
