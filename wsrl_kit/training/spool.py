"""Steps on their way to a learner on another machine: numbered, and on disk until a checkpoint holds them.

A record is one step, or the cut of an episode, in compressed bytes that run no code when they are read. An observation
has the frames of the next observation before it, so each frame is recorded once.
"""

import os
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from wsrl_kit.agent.sac import SACConfig
from wsrl_kit.agent.transition import packed, unpacked
from wsrl_kit.envs.human import INTERVENTION
from wsrl_kit.envs.wrappers import TASK_SUCCESS
from wsrl_kit.errors import DataError, RunError
from wsrl_kit.files import SPARE_BYTES, reading, remove_partial
from wsrl_kit.robot.environment import GRIPPER_MOVED, OVERRUNS
from wsrl_kit.robot.takeover import CLASSIFIED, CONFIRMED
from wsrl_kit.training.episode import EnvironmentStep
from wsrl_kit.training.experience import Frames

RESERVE = "reserve"
"""File that gives its room to the step at hand when the disk is full."""

RESERVE_BYTES = 4 * 2**20

INFO = (
    "success",
    TASK_SUCCESS,
    CLASSIFIED,
    CONFIRMED,
    "contact_force",
    "safety_box_clipped",
    GRIPPER_MOVED,
    OVERRUNS,
    INTERVENTION,
)
"""The entries of a step's `info` that learning and its metrics read."""


def encoded(step: EnvironmentStep | None, continues: bool) -> bytes:
    """The record of a step; None: the episode was cut.

    Args:
        continues: whether the record before is of the same episode.
    """
    content: dict[str, Any] | None = None
    if step is not None:
        transition, frames, next_frames = step.stored
        content = {
            "row": packed(transition),
            "frames": None if continues else frames,
            "next_frames": {camera: _new(frames[camera], stack) for camera, stack in next_frames.items()},
            "action": step.action,
            "reward": np.asarray(step.reward),
            "task_reward": step.task_reward,
            "is_human": step.is_human,
            "terminated": step.terminated,
            "truncated": step.truncated,
            "info": {name: np.asarray(step.info[name]) for name in INFO if step.info.get(name) is not None},
        }
        if CONFIRMED in step.info:
            content |= {"before": step.before, "observation": step.observation}
    return zlib.compress(msgpack.packb(content, default=_array_out), level=1)


def decoded(record: bytes, shown: Frames, agent_config: SACConfig) -> EnvironmentStep | None:
    """The step of a record.

    Args:
        shown: frames of the next observation of the step before.

    Raises:
        ValueError: the record is damaged.
    """
    content = _content(record)
    if content is None:
        return None
    frames = shown if content["frames"] is None else content["frames"]
    next_frames = {camera: _whole(frames[camera], new) for camera, new in content["next_frames"].items()}
    transition: Any = unpacked(content["row"], agent_config.observation_size, agent_config.action_size)
    return EnvironmentStep(
        content["action"],
        content["is_human"],
        content["task_reward"],
        content["reward"],
        content["terminated"],
        content["truncated"],
        # Arrays without axes stand for numbers.
        {name: value if value.ndim else value.item() for name, value in content["info"].items()},
        content.get("observation"),
        transition.next_observation,
        next_frames,
        (transition, frames, next_frames),
        content.get("before"),
    )


def is_step(record: bytes) -> bool:
    """Whether it is no cut."""
    return _content(record) is not None


def ends_episode(record: bytes) -> bool:
    """Whether the next record begins an episode."""
    content = _content(record)
    return content is None or content["terminated"] or content["truncated"]


def _new(stack: np.ndarray, following: np.ndarray) -> np.ndarray:
    """The frames of the following observation that this one does not have."""
    return following[-1:] if np.array_equal(stack[1:], following[:-1]) else following


def _whole(stack: np.ndarray, new: np.ndarray) -> np.ndarray:
    return np.concatenate([stack[len(new) :], new])


def _content(record: bytes) -> dict[str, Any] | None:
    reader = zlib.decompressobj()
    packed_content = reader.decompress(record, SPARE_BYTES)
    if not reader.eof:
        raise ValueError("a record is cut short, or larger than any step")
    return msgpack.unpackb(packed_content, ext_hook=_array_in)


def _array_out(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, np.generic):
        return value.item()
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"a step must hold numbers, found {type(value).__name__}")
    return msgpack.ExtType(0, msgpack.packb([array.dtype.str, array.shape, array.tobytes()]))


def _array_in(code: int, content: bytes) -> np.ndarray:
    name, shape, numbers = msgpack.unpackb(content)
    dtype = np.dtype(name)
    if code or dtype.kind not in "biuf":
        raise ValueError(f"a record holds an array of {name}, expected numbers")
    return np.frombuffer(numbers, dtype).reshape(shape)


class Spool:
    """The records of a run that no checkpoint holds, a file each.

    One thread may append while another reads and cuts. Files do not wait for the disk: after a power cut the last steps
    may be missing, and are then unknown to every checkpoint too.

    Attributes:
        first, end: numbers of the oldest record, and of the next.

    Args:
        first: records before it are deleted.

    Raises:
        RunError: the folder can't be written.
    """

    def __init__(self, folder: Path, first: int) -> None:
        self._folder = folder
        self.first = self.end = first
        try:
            folder.mkdir(parents=True, exist_ok=True)
            remove_partial(folder)
            (folder / RESERVE).write_bytes(bytes(RESERVE_BYTES))
            while self._path(self.end).exists() and _is_whole(self._path(self.end)):
                self.end += 1
            for path in folder.glob("*.record"):
                if not (path.stem.isdecimal() and first <= int(path.stem) < self.end):
                    path.unlink()
            self._continues = self.end > first and not ends_episode(self.read(self.end - 1))
            if self._continues:
                # Nobody saw how the episode went on.
                self._append(None)
        except OSError as error:
            raise self._full(error) from error

    def append(self, step: EnvironmentStep | None) -> None:
        """Adds a step.

        Raises:
            RunError: the disk is full; the step is kept, if `RESERVE` is as large.
        """
        try:
            self._append(step)
        except OSError as error:
            (self._folder / RESERVE).unlink(missing_ok=True)
            try:
                self._append(step)
            except OSError:
                raise RunError(f"{self._folder} can't be written: {error.strerror}; its last step is lost") from error
            raise self._full(error) from error

    def read(self, number: int) -> bytes:
        return self._path(number).read_bytes()

    def counts(self) -> tuple[int, int]:
        """Steps, and episodes that ended, in the records held."""
        records = [self.read(number) for number in range(self.first, self.end)]
        return sum(map(is_step, records)), sum(map(ends_episode, records))

    def cut(self, first: int) -> None:
        """Deletes the records before `first`."""
        for number in range(self.first, first):
            self._path(number).unlink(missing_ok=True)
        self.first = first

    def close(self) -> None:
        """Leaves nothing but the records."""
        (self._folder / RESERVE).unlink(missing_ok=True)
        if self.first == self.end:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _append(self, step: EnvironmentStep | None) -> None:
        path = self._path(self.end)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_bytes(encoded(step, self._continues))
        os.replace(partial, path)
        self._continues = step is not None and not step.ends
        self.end += 1

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:010d}.record"

    def _full(self, error: OSError) -> RunError:
        return RunError(
            f"{self._folder} can't be written: {error.strerror}; every step is kept, and the same command continues"
        )


def _is_whole(path: Path) -> bool:
    try:
        with reading(path, DataError):
            ends_episode(path.read_bytes())
    except DataError:
        return False
    return True
