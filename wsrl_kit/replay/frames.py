"""Camera frames in host memory, each stored once in a ring; threads gather batches.

A frame is one camera's image, or a frozen network's features. An observation has the last `horizon` frames, so
consecutive transitions share all but one. Frame n lies in slot n % slots. Frames equal to one of the previous
transition are not stored again.
"""

import math
import mmap
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64, Integer, Shaped

from wsrl_kit.errors import DataError

SPARE_FRAMES = 0.049
"""Share of frames beyond one per transition, since each episode has one more."""

THREADS = 2
"""Measured: one core does not fill the memory's bandwidth."""

Stacks = Mapping[str, Shaped[np.ndarray, "horizon ..."]]
"""Camera -> an observation's frames, oldest first."""

Frame = Mapping[str, Shaped[np.ndarray, "..."]]
"""Camera -> one frame."""


class FrameStore(NamedTuple):
    """Frames, and which of them each row has.

    Attributes:
        stacks: slots of observation and next observation, oldest first.
    """

    frames: dict[str, Shaped[np.ndarray, "slots ..."]]
    stacks: Int32[np.ndarray, "rows 2 horizon"]


def of_rows(
    frames: dict[str, Shaped[np.ndarray, "slots ..."]], newest: Integer[np.ndarray, " rows"], horizon: int
) -> FrameStore:
    """A store over a dataset's frames, not copied.

    Args:
        newest: newest frame of each observation; the next observation ends one later.

    Raises:
        ValueError: an index is out of range, or an array is not contiguous.
    """
    for camera, array in frames.items():
        if not array.flags.c_contiguous:
            raise ValueError(f"frames of {camera} must be contiguous in memory, found strides {array.strides}")
        if len(newest) and not (horizon - 1 <= newest.min() and newest.max() + 1 < len(array)):
            raise ValueError(
                f"newest frames must lie in [{horizon - 1}, {len(array) - 2}] for {camera} with {len(array)} frames "
                f"and horizon {horizon}, found [{newest.min()}, {newest.max()}]"
            )
    offsets = np.array([[0], [1]]) - np.arange(horizon)[::-1]
    return FrameStore(frames, (newest[:, None, None] + offsets).astype(np.int32))


class FrameRing(NamedTuple):
    """Frames of the rows in a `Ring`; `add` writes in place.

    Attributes:
        recent: last frames written; frame n in slot n % (2 * horizon).
        shown: frame numbers of the newest next observation; -1: none.
        oldest: oldest frame number per row.
        written: frames written so far.
    """

    store: FrameStore
    recent: dict[str, Shaped[np.ndarray, "2*horizon ..."]]
    shown: Int64[np.ndarray, " horizon"]
    oldest: Int64[np.ndarray, " capacity"]
    written: Int64[np.ndarray, ""]


def create(capacity: int, example: Stacks) -> FrameRing:
    """An empty ring; `example` gives cameras, horizon, shapes and types."""
    return _empty(capacity, _slots_for(capacity, example), example)


def filled(store: FrameStore, capacity: int) -> FrameRing:
    """A ring that begins with a copy of `store`, rows in order of time."""
    rows, _, horizon = store.stacks.shape
    example = {camera: frames[:horizon] for camera, frames in store.frames.items()}
    held = len(next(iter(store.frames.values())))
    ring = _empty(capacity, held + _slots_for(capacity - rows, example), example)
    for camera, frames in store.frames.items():
        ring.store.frames[camera][:held] = frames
    ring.store.stacks[:rows] = store.stacks
    ring.oldest[:rows] = store.stacks.min(axis=(1, 2))
    return ring._replace(written=np.array(held))


def grown(ring: FrameRing, larger: FrameRing, order: Int64[np.ndarray, " held"]) -> FrameRing:
    """The ring in the arrays of `larger` (given up); the rows held, `order`, come first."""
    before, now, written = slots(ring), slots(larger), int(ring.written)
    number = np.arange(max(written - before, 0), written)
    for camera, frames in ring.store.frames.items():
        larger.store.frames[camera][number % now] = frames[number % before]
    # A slot holds the newest of the frames that go there.
    larger.store.stacks[: len(order)] = (written - 1 - (written - 1 - ring.store.stacks[order]) % before) % now
    larger.oldest[: len(order)] = ring.oldest[order]
    return ring._replace(store=larger.store, oldest=larger.oldest)


def share_written(ring: FrameRing) -> float:
    """Share of the slots that hold a frame."""
    return min(int(ring.written), slots(ring)) / slots(ring)


def slots(ring: FrameRing) -> int:
    """Frames that fit."""
    return len(next(iter(ring.store.frames.values())))


def _slots_for(transitions: int, example: Stacks) -> int:
    horizon = len(next(iter(example.values())))
    return transitions + max(int(transitions * SPARE_FRAMES), 4 * horizon)


def _empty(capacity: int, slots: int, example: Stacks) -> FrameRing:
    horizon = len(next(iter(example.values())))
    store = FrameStore(
        {camera: np.zeros((slots, *stack.shape[1:]), stack.dtype) for camera, stack in example.items()},
        np.zeros((capacity, 2, horizon), np.int32),
    )
    recent = {camera: np.zeros((2 * horizon, *stack.shape[1:]), stack.dtype) for camera, stack in example.items()}
    return FrameRing(store, recent, np.full(horizon, -1), np.zeros(capacity, np.int64), np.zeros((), np.int64))


def add(ring: FrameRing, row: int, held: int, images: Stacks, next_images: Stacks) -> tuple[FrameRing, int]:
    """Adds one transition's frames; `ring` is given up.

    Args:
        row: place of the transition, after the `held` rows.

    Returns:
        The ring, and how many of the oldest rows lost frames.

    Raises:
        DataError: cameras, shapes or types differ from the ring's.
    """
    numbers: list[list[int]] = [ring.shown.tolist()]
    written, new = int(ring.written), list[Frame]()
    for stacks in (images, next_images):
        _check(ring, stacks)
        numbers.append(_numbers(ring, numbers[-1], written + len(new), stacks, new))
    stack_numbers = np.array(numbers[1:])

    capacity, places = len(ring.oldest), slots(ring)
    ring.store.stacks[row] = stack_numbers % places
    for camera, frames in ring.store.frames.items():
        for number, frame in enumerate(new):
            frames[(written + number) % places] = frame[camera]

    written += len(new)
    lost = 0
    # Later transitions show no older frames, so those that have lost some are the oldest.
    while lost < held and ring.oldest[(row - held + lost) % capacity] < written - places:
        lost += 1
    ring.oldest[row] = stack_numbers.min()
    return ring._replace(shown=stack_numbers[1], written=np.array(written)), lost


def _check(ring: FrameRing, stacks: Stacks) -> None:
    horizon = len(ring.shown)
    if stacks.keys() != ring.recent.keys():
        raise DataError(f"images must be of the cameras {sorted(ring.recent)}, found {sorted(stacks)}")
    for camera, recent in ring.recent.items():
        stack, shape = stacks[camera], (horizon, *recent.shape[1:])
        if stack.shape != shape or stack.dtype != recent.dtype:
            raise DataError(
                f"images of {camera} must be {recent.dtype}{list(shape)}, found {stack.dtype}{list(stack.shape)}"
            )


def _numbers(ring: FrameRing, known: list[int], written: int, stacks: Stacks, new: list[Frame]) -> list[int]:
    """Numbers of one observation's frames; unknown frames go into `ring.recent` and `new`."""
    horizon = len(ring.shown)
    places = 2 * horizon
    # The frames before these may leave `recent` while this stack is written.
    candidates = [number for number in dict.fromkeys(known) if number >= max(written - horizon, 0)]
    numbers, start = list[int](), 0
    for moment in range(horizon):
        frame = {camera: stack[moment] for camera, stack in stacks.items()}
        for place in range(start, len(candidates)):
            if _is_same(ring.recent, candidates[place] % places, frame):
                start = place
                break
        else:
            start = len(candidates)
            candidates.append(written)
            for camera, recent in ring.recent.items():
                recent[written % places] = frame[camera]
            new.append(frame)
            written += 1
        numbers.append(candidates[start])
    return numbers


def _is_same(recent: Mapping[str, np.ndarray], slot: int, frame: Frame) -> bool:
    return all(
        np.array_equal(recent[camera][slot].view(np.uint8), np.ascontiguousarray(image).view(np.uint8))
        for camera, image in frame.items()
    )


class FrameBatches:
    """Gathers batches. Memory is reused only when nothing refers to it: JAX may read it late."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="frames")
        self._memory = _Memory()

    def gather(
        self, row: Integer[np.ndarray, "*batch size"], parts: Sequence[tuple[FrameStore, slice]]
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Images of the rows' observations and next observations, by camera.

        Args:
            parts: stores, and the columns of the rows that each holds; together all columns.
        """
        batches = row.reshape(-1, row.shape[-1])
        sides: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] = ({}, {})
        copies: list[Callable[[], object]] = []
        example = parts[0][0]
        for camera, frames in example.frames.items():
            for side, stacks in enumerate(sides):
                shape = (*batches.shape, example.stacks.shape[2], *frames.shape[1:])
                out = self._memory.array(shape, frames.dtype)
                stacks[camera] = out.reshape(*row.shape, *shape[2:])
                for batch, rows in enumerate(batches):
                    for store, columns in parts:
                        slots = store.stacks[rows[columns], side]
                        copies.append(_copy(store.frames[camera], slots, out[batch, columns]))
        for done in [self._threads.submit(copy) for copy in copies]:
            done.result()
        return sides


def _copy(frames: np.ndarray, slots: np.ndarray, out: np.ndarray) -> Callable[[], object]:
    # Without "clip" NumPy would copy to memory of its own first, in case an index is out of range.
    return lambda: np.take(frames, slots, axis=0, out=out, mode="clip")


class _Memory:
    """Reuses unreferenced memory; new memory costs as much time as copying a batch."""

    def __init__(self) -> None:
        self._blocks: list[tuple[mmap.mmap, weakref.ref[np.ndarray]]] = []

    def array(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        size = math.prod(shape) * dtype.itemsize
        free = (place for place, (block, user) in enumerate(self._blocks) if len(block) == size and user() is None)
        place = next(free, len(self._blocks))
        block = self._blocks[place][0] if place < len(self._blocks) else mmap.mmap(-1, size)
        # Views of it will refer to the array, not to the block, since that is no array itself.
        array = np.ndarray(shape, dtype, buffer=block)
        self._blocks[place : place + 1] = [(block, weakref.ref(array))]
        return array
