"""One episode (or one unbroken segment of it), the sizes that all episodes of a dataset share, and camera frames."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float32, Integer, UInt8

# Camera -> its frames, RGB, in time order; cameras may differ in height and width.
Images = Mapping[str, UInt8[np.ndarray, "frame _height _width 3"]]


@dataclass(frozen=True)
class Trajectory:
    """T consecutive transitions in time order; transition t leads from observation t to observation t + 1.

    An observation of horizon k is the last k states, and the last k frames of every camera. Frames are held once: the
    stack of observation t is `images[camera][t : t + k]`, oldest first.

    Attributes:
        observations: T + 1 flat observations, in the environment's units; with a horizon k each is k states, oldest
            first, one after another.
        actions: T actions, each entry in [-1, 1].
        rewards: T rewards.
        terminated: the last transition ended the task (success or failure): the value after it is 0.
        truncated: the recording stopped there for another reason (time limit, gap): the value after it is not 0.
        success: whether the task succeeded; None where the data does not say.
        source: the name of the data source it belongs to, "" where it has none.
        weight: loss weight of each transition, where the data brings one (mean 1 over its dataset); else None.
        images: k + T frames of each camera; none where the task has no cameras. The first k - 1 are the frames before
            observation 0: at the start of an episode its first frame again, in a segment the true earlier ones.
        observation_horizon: k, at least 1.
        grasp_penalty: what each transition's grasp action cost (0 or less), where the data says so; else None.
    """

    observations: Float32[np.ndarray, "time_plus_1 observation"]
    actions: Float32[np.ndarray, "time action"]
    rewards: Float32[np.ndarray, " time"]
    terminated: bool
    truncated: bool
    success: bool | None
    source: str = ""
    weight: Float32[np.ndarray, " time"] | None = None
    images: Images = field(default_factory=dict)
    observation_horizon: int = 1
    grasp_penalty: Float32[np.ndarray, " time"] | None = None

    def __len__(self) -> int:
        return len(self.actions)


@dataclass(frozen=True)
class Layout:
    """How the observations and actions of a file or an episode look.

    Attributes:
        observation_size: numbers in one flat observation.
        action_size: numbers in one action.
        cameras: camera -> (height, width, channels) of its frames; empty without cameras.
        observation_horizon: frames per observation; 1 without cameras.
    """

    observation_size: int
    action_size: int
    cameras: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    observation_horizon: int = 1

    def difference(self, expected: "Layout") -> str:
        """The first thing in which this differs, as a sentence's end: what is found, what expected; "" if none."""
        if self.cameras.keys() != expected.cameras.keys():
            return f"has {_names(self)}, expected {_names(expected)}"
        for camera, shape in sorted(self.cameras.items()):
            if shape != expected.cameras[camera]:
                return f"has images {shape} from camera {camera!r}, expected {expected.cameras[camera]}"
        if self.observation_horizon != expected.observation_horizon:
            return f"has an observation horizon of {self.observation_horizon}, expected {expected.observation_horizon}"
        if self.observation_size != expected.observation_size:
            return f"has observations of size {self.observation_size}, expected {expected.observation_size}"
        if self.action_size != expected.action_size:
            return f"has actions of size {self.action_size}, expected {expected.action_size}"
        return ""


def _names(layout: Layout) -> str:
    return f"cameras {', '.join(sorted(layout.cameras))}" if layout.cameras else "no cameras"


Frame = UInt8[np.ndarray, "_height _width 3"]
# Camera -> its frames, one array of all of them or a list of arrays; frame i is of the same moment in all cameras.
Frames = Mapping[str, UInt8[np.ndarray, "frame _height _width 3"] | Sequence[Frame]]


def differ(
    frames: Frames, first: Integer[np.ndarray, "pair horizon"], second: Integer[np.ndarray, "pair horizon"]
) -> Bool[np.ndarray, " pair"]:
    """Whether two stacks of frames, given by index, differ in what any camera saw."""
    found = first != second
    for pair, place in np.argwhere(found):
        found[pair, place] = not _same(frames, int(first[pair, place]), int(second[pair, place]))
    return found.any(axis=1)


def _same(frames: Frames, first: int, second: int) -> bool:
    return all(np.array_equal(camera[first], camera[second]) for camera in frames.values())


def concatenate(
    parts: Sequence[UInt8[np.ndarray, "_part _height _width 3"]],
) -> UInt8[np.ndarray, "frame _height _width 3"]:
    """`np.concatenate`, without a copy where the parts already lie after one another in one array.

    So do the episodes of one reading, which may fill half of the memory.
    """
    whole, starts = parts[0].base, np.cumsum([0, *(part.nbytes for part in parts)])
    if not isinstance(whole, np.ndarray) or whole.shape[1:] != parts[0].shape[1:] or not whole.flags.c_contiguous:
        return np.concatenate(parts)
    first = _address(parts[0])
    for part, start in zip(parts, starts, strict=False):
        if part.base is not whole or not part.flags.c_contiguous or _address(part) != first + start:
            return np.concatenate(parts)
    begin = (first - _address(whole)) // whole[0].nbytes
    return whole[begin : begin + sum(map(len, parts))]


def _address(array: UInt8[np.ndarray, "..."]) -> int:
    return int(array.__array_interface__["data"][0])


# Of each camera's frame, where it lies in memory, and in which order.
_Place = tuple[tuple[int, tuple[int, ...]], ...]


class FrameCollector:
    """Takes in the stacks of observations one after another and keeps each frame of them once.

    Files repeat frames: that of a next observation is that of the following observation, and stacks overlap. A frame is
    known again by its memory, where the file shares it, or else by being equal to the frame that is expected there.

    Attributes:
        frames: camera -> what was collected; views of the arrays that were given.
        stored: how many frames were given that lie in memory of their own.
    """

    def __init__(self, cameras: Sequence[str]) -> None:
        self.frames: dict[str, list[Frame]] = {camera: [] for camera in cameras}
        self._index_of: dict[_Place, int] = {}
        self._seen: set[_Place] = set()

    @property
    def stored(self) -> int:
        return len(self._seen)

    def add(
        self, stacks: Mapping[str, UInt8[np.ndarray, "horizon _height _width 3"]], expected: Sequence[int]
    ) -> list[int]:
        """Collects the stack of one observation, and returns the indices of its frames, oldest first.

        Args:
            stacks: camera -> its stack, oldest frame first.
            expected: indices of the frames that are likely to be the first ones of the stack; may be empty.
        """
        indices: list[int] = []
        for place in range(len(next(iter(stacks.values())))):
            guesses = [*expected[place : place + 1], *indices[-1:]]
            indices.append(self._index({camera: stack[place] for camera, stack in stacks.items()}, guesses))
        return indices

    def _index(self, frame: Mapping[str, Frame], guesses: Sequence[int]) -> int:
        memory = tuple((_address(array), array.strides) for array in frame.values())
        self._seen.add(memory)
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
