"""Batches of frames out of host memory: what sampled rows show, copied by several threads into memory used again."""

import math
import mmap
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Integer

from wsrl_kit.replay.frames import FrameStore, HostStacks

THREADS = 2
"""Measured on two cores: NumPy copies without Python's lock, and one core does not fill the memory's bandwidth."""


class FrameBatches:
    """Gathers from stores on the host.

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
