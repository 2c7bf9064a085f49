"""Camera frames of replay: each stored once, in a ring, and gathered into batches by several threads.

A frame is whatever one camera gives at one moment: an image, or the features of a frozen network. A transition's
observation shows the `horizon` frames up to its moment, oldest first, and its next observation the frames up to the
next moment; consecutive transitions thus share all frames but one. A transition is known by its row, as in `storage`.

Frames are numbered in the order in which they are written; frame n lies in slot n % slots. The frames of a transition
are compared with those of the transition before it: equal frames are not written again, and frames that only seem to
follow (after a reset, a time limit, or steps left out between interventions) are written. No caller has to know.
"""

import math
import mmap
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64, Integer, Shaped

from wsrl_kit.errors import DataError

HostStacks = dict[str, Shaped[np.ndarray, "..."]]
"""What observations show, by camera: (*batch, horizon, *frame)."""


class FrameStore(NamedTuple):
    """All frames, in host memory, and which of them each row shows.

    Attributes:
        frames: camera -> its frames.
        stacks: slots in `frames` of the observation's and of the next observation's frames, oldest first.
    """

    frames: dict[str, Shaped[np.ndarray, "slots ..."]]
    stacks: Int32[np.ndarray, "rows 2 horizon"]


def of_rows(
    frames: dict[str, Shaped[np.ndarray, "slots ..."]], newest: Integer[np.ndarray, " rows"], horizon: int
) -> FrameStore:
    """A store on the host over frames that are not copied; row i shows those up to frame `newest[i]`, then one more.

    Args:
        frames: camera -> frames in order of time, contiguous in memory.
        newest: index of the newest frame of each row's observation; its next observation's newest is the one after.
        horizon: frames in one observation.

    Raises:
        ValueError: an index out of range, or an array that is not contiguous and would be copied at every gather.
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


SPARE_FRAMES = 0.049
"""Frames kept beyond one per transition, as a share: each episode shows one more than it has transitions. With the
tables, the ring takes less than 1.05 times the bytes of one frame per transition."""

Stacks = Mapping[str, Shaped[np.ndarray, "horizon ..."]]
Frame = Mapping[str, Shaped[np.ndarray, "..."]]


class FrameRing(NamedTuple):
    """The frames of the transitions in a `storage` of the same capacity.

    A pytree of arrays of fixed shapes: saved and read back as it is, it goes on to the bit. Its arrays are
    written in place: what is to outlast the next `add` is to be copied.

    Attributes:
        store: the frames, and what each row shows.
        recent: the last frames written; frame n in slot n % (2 * horizon).
        shown: numbers of the frames that the newest transition's next observation shows; -1 before the first.
        oldest: number of the oldest frame that each row shows.
        written: frames written so far.
        size: transitions whose frames are all there.
        position: row that the next transition takes.
    """

    store: FrameStore
    recent: dict[str, Shaped[np.ndarray, "2*horizon ..."]]
    shown: Int64[np.ndarray, " horizon"]
    oldest: Int64[np.ndarray, " capacity"]
    written: Int64[np.ndarray, ""]
    size: Int64[np.ndarray, ""]
    position: Int64[np.ndarray, ""]


def create(capacity: int, example: Stacks) -> FrameRing:
    """An empty ring; memory is taken only as it is written.

    Args:
        capacity: transitions, as the storage has.
        example: what one observation shows, by camera, for horizon, shapes and types.
    """
    return _empty(capacity, _slots_for(capacity, example), example)


def filled(store: FrameStore, capacity: int) -> FrameRing:
    """A ring that begins with the frames of a dataset, copied, and has room for those of further transitions.

    Args:
        store: its rows, at most `capacity`, are in order of time: none shows a frame older than the oldest
            that the row before it shows.
        capacity: transitions, as the storage has.
    """
    rows, _, horizon = store.stacks.shape
    example = {camera: frames[:horizon] for camera, frames in store.frames.items()}
    held = len(next(iter(store.frames.values())))
    ring = _empty(capacity, held + _slots_for(capacity - rows, example), example)
    for camera, frames in store.frames.items():
        ring.store.frames[camera][:held] = frames
    ring.store.stacks[:rows] = store.stacks
    ring.oldest[:rows] = store.stacks.min(axis=(1, 2))
    counts = (np.array(count, np.int64) for count in (held, rows, rows % capacity))
    return FrameRing(ring.store, ring.recent, ring.shown, ring.oldest, *counts)


def grown(ring: FrameRing, larger: FrameRing) -> FrameRing:
    """The ring in the arrays of a larger one, whose own content is given up; the rows must not have come round yet."""
    before, now, written, rows = slots(ring), slots(larger), int(ring.written), len(ring.oldest)
    if rows == len(larger.oldest):
        return ring
    number = np.arange(max(written - before, 0), written)
    frames = {camera: np.array(leaf) for camera, leaf in larger.store.frames.items()}
    for camera, leaf in ring.store.frames.items():
        frames[camera][number % now] = leaf[number % before]
    stacks, oldest = np.zeros(larger.store.stacks.shape, np.int32), np.zeros(len(larger.oldest), np.int64)
    # A slot holds the newest of the frames that go there.
    shown = written - 1 - (written - 1 - ring.store.stacks) % before
    stacks[:rows], oldest[:rows] = shown % now, ring.oldest
    position = np.array(rows if int(ring.position) == 0 and int(ring.size) > 0 else ring.position)
    return ring._replace(store=FrameStore(frames, stacks), oldest=oldest, position=position)


def slots(ring: FrameRing) -> int:
    """Frames that it has room for."""
    return len(next(iter(ring.store.frames.values())))


def _slots_for(transitions: int, example: Stacks) -> int:
    """Frames to keep for so many transitions."""
    horizon = len(next(iter(example.values())))
    return transitions + max(int(transitions * SPARE_FRAMES), 4 * horizon)


def _empty(capacity: int, slots: int, example: Stacks) -> FrameRing:
    horizon = len(next(iter(example.values())))
    store = FrameStore(
        {camera: np.zeros((slots, *stack.shape[1:]), stack.dtype) for camera, stack in example.items()},
        np.zeros((capacity, 2, horizon), np.int32),
    )
    recent = {camera: np.zeros((2 * horizon, *stack.shape[1:]), stack.dtype) for camera, stack in example.items()}
    none = np.zeros((), np.int64)
    return FrameRing(store, recent, np.full(horizon, -1), np.zeros(capacity, np.int64), none, none, none)


def add(ring: FrameRing, images: Stacks, next_images: Stacks) -> tuple[FrameRing, int]:
    """The ring with what one more transition shows; the ring given is given up.

    Args:
        images: what its observation shows, by camera, oldest frame first.
        next_images: what its next observation shows.

    Returns:
        The ring, and how many of the oldest transitions have lost frames to this one. Where that is not 0, they are to
        be dropped (`mixture.drop_oldest`) before the transition is added to the replay.

    Raises:
        DataError: cameras, shapes or types are not the ring's.
    """
    numbers: list[list[int]] = [ring.shown.tolist()]
    written, new = int(ring.written), list[Frame]()
    for stacks in (images, next_images):
        _check(ring, stacks)
        numbers.append(_numbers(ring, numbers[-1], written + len(new), stacks, new))
    stack_numbers = np.array(numbers[1:])

    capacity, places = len(ring.oldest), slots(ring)
    row, size = int(ring.position), int(ring.size)
    ring.store.stacks[row] = stack_numbers % places
    for camera, frames in ring.store.frames.items():
        for number, frame in enumerate(new):
            frames[(written + number) % places] = frame[camera]

    written += len(new)
    lost = 0
    # Later transitions show no older frames, so those that have lost some are the oldest.
    while lost < size and ring.oldest[(row - size + lost) % capacity] < written - places:
        lost += 1
    ring.oldest[row] = stack_numbers.min()
    counts = map(np.array, (written, min(size - lost + 1, capacity), (row + 1) % capacity))
    return FrameRing(ring.store, ring.recent, stack_numbers[1], ring.oldest, *counts), lost


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
    """Numbers of the frames in one observation's stacks; frames not among the known are numbered and added to `new`.

    No number is below the smallest known, so that what is shown never gets older from one stack to the next.

    Args:
        known: numbers of the frames in the stack before.
        written: frames written before this stack.
        new: frames still to be written to the store; they are put into `ring.recent` here.
    """
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
    """Whether all cameras' frames are the same to the bit."""
    return all(
        np.array_equal(recent[camera][slot].view(np.uint8), np.ascontiguousarray(image).view(np.uint8))
        for camera, image in frame.items()
    )


THREADS = 2
"""Measured on two cores: NumPy copies without Python's lock, and one core does not fill the memory's bandwidth."""


class FrameBatches:
    """Gathers from stores.

    A batch belongs to whoever holds it. Its memory is used for another one only when nothing refers to it any more:
    neither the caller, nor a view, nor JAX, which on a CPU may read NumPy's memory without copying it, and on other
    devices copies it later, but keeps a reference as long as it reads. So batches may be handed to compiled calls that
    are still running when the next one is gathered, and no more memory is taken than for the batches then alive.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="frames")
        self._memory = _Memory()

    def gather(
        self,
        row: Integer[np.ndarray, "*batch size"],
        online: FrameStore,
        offline: FrameStore | None = None,
        offline_rows: int = 0,
    ) -> tuple[HostStacks, HostStacks]:
        """What the observations and the next observations of the given rows show, by camera.

        Rows of a ring must be gathered before the next `frame_ring.add`, which may overwrite their frames.

        Args:
            row: rows that hold transitions, as `mixture.sample` gives them.
            online: the store of all rows but the offline ones.
            offline: the store of the first `offline_rows` rows of each batch; None where there are none.
        """
        size = row.shape[-1]
        parts = [(online, slice(offline_rows, size))] if offline_rows < size else []
        if offline is not None and offline_rows > 0:
            parts.append((offline, slice(0, offline_rows)))
        batches = row.reshape(-1, size)
        sides: tuple[HostStacks, HostStacks] = ({}, {})
        copies: list[Callable[[], object]] = []
        for camera, frames in online.frames.items():
            for side, stacks in enumerate(sides):
                shape = (*batches.shape, online.stacks.shape[2], *frames.shape[1:])
                out = self._memory.array(shape, frames.dtype)
                stacks[camera] = out.reshape(*row.shape, *shape[2:])
                for batch, rows in enumerate(batches):
                    for store, part in parts:
                        slots = store.stacks[rows[part], side]
                        copies.append(_copy(store.frames[camera], slots, out[batch, part]))
        for done in [self._threads.submit(copy) for copy in copies]:
            done.result()
        return sides


def _copy(frames: np.ndarray, slots: np.ndarray, out: np.ndarray) -> Callable[[], object]:
    # Without "clip" NumPy would copy to memory of its own first, in case an index is out of range.
    return lambda: np.take(frames, slots, axis=0, out=out, mode="clip")


class _Memory:
    """Memory for arrays, given out again when no reference to the array it was for is left.

    New memory for a batch costs as much time as its copy: the operating system maps it page by page.
    """

    def __init__(self) -> None:
        self._blocks: list[tuple[mmap.mmap, weakref.ref[np.ndarray]]] = []

    def array(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array of any content."""
        size = math.prod(shape) * dtype.itemsize
        free = (place for place, (block, user) in enumerate(self._blocks) if len(block) == size and user() is None)
        place = next(free, len(self._blocks))
        block = self._blocks[place][0] if place < len(self._blocks) else mmap.mmap(-1, size)
        # Views of it will refer to the array, not to the block, since that is no array itself.
        array = np.ndarray(shape, dtype, buffer=block)
        self._blocks[place : place + 1] = [(block, weakref.ref(array))]
        return array
