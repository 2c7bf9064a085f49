"""The frames of an online ring on disk: each written once, in blocks, whatever the number of checkpoints.

A checkpoint with all frames of a full ring would take gigabytes and minutes. The checkpoint file says how many
frames had been written when it was made; the blocks up to there lie beside it, and outlast a kill at any moment: they
are written before the checkpoint, and what it no longer needs is deleted after it.
"""

import shutil
from pathlib import Path

import jax
import numpy as np
from jaxtyping import PyTree

from wsrl_kit.replay.frame_ring import FrameRing
from wsrl_kit.training import checkpoint

BLOCK = 256
"""Frames in a file."""

FRAMES = "frames"
"""Name of the ring in a training loop's tree, and of the folder of its blocks."""


def save(path: Path, tree: PyTree, metadata: dict[str, object]) -> None:
    """Writes a checkpoint as `checkpoint.save` does, with the frames of its ring, if any, in blocks beside it.

    Raises:
        CheckpointError: it can't be written; an earlier one is intact.
    """
    ring = tree.get(FRAMES, ())
    if not isinstance(ring, FrameRing):
        checkpoint.save(path, tree, metadata)
        return
    folder, written = path.with_name(FRAMES), int(ring.written)
    needed = _blocks(ring)
    for first, end in needed:
        target = folder / _name(first, end)
        if not target.exists():
            slots = np.arange(first, end) % _slots(ring)
            frames = {camera: np.asarray(leaf[slots]) for camera, leaf in ring.store.frames.items()}
            checkpoint.save(target, frames, {})
    checkpoint.save(path, tree | {FRAMES: _without_frames(ring)}, metadata | {"frames_written": written})
    names = {_name(first, end) for first, end in needed}
    for other in folder.glob("*.npz"):
        if other.name not in names:
            other.unlink(missing_ok=True)


def load(path: Path, template: PyTree) -> PyTree:
    """Reads back what `save` wrote.

    Args:
        template: a fresh tree of the same run, for structure, shapes and types; the arrays of its ring are filled.

    Raises:
        CheckpointError: as `checkpoint.load`; a block is missing or damaged.
    """
    ring = template.get(FRAMES, ())
    if not isinstance(ring, FrameRing):
        return checkpoint.load(path, template)
    tree = checkpoint.load(path, template | {FRAMES: _without_frames(ring)})
    restored: FrameRing = tree[FRAMES]
    restored = restored._replace(store=restored.store._replace(frames=ring.store.frames))
    frames = {
        camera: np.array(leaf) if isinstance(leaf, jax.Array) else leaf for camera, leaf in ring.store.frames.items()
    }
    for first, end in _blocks(restored):
        rows = {camera: np.empty((end - first, *leaf.shape[1:]), leaf.dtype) for camera, leaf in frames.items()}
        block = checkpoint.load(path.with_name(FRAMES) / _name(first, end), rows)
        slots = np.arange(first, end) % _slots(ring)
        for camera, leaf in frames.items():
            leaf[slots] = block[camera]
    on_device = isinstance(ring.store.stacks, jax.Array)
    store = restored.store._replace(frames=jax.device_put(frames) if on_device else frames)
    return tree | {FRAMES: restored._replace(store=store)}


def remove(path: Path) -> None:
    """Deletes the blocks beside a checkpoint: of a run that begins anew, or that nobody goes on with."""
    shutil.rmtree(path.with_name(FRAMES), ignore_errors=True)


def _blocks(ring: FrameRing) -> list[tuple[int, int]]:
    """First and end of each block that holds frames which the ring still has."""
    written, slots = int(ring.written), _slots(ring)
    oldest = max(written - slots, 0) // BLOCK * BLOCK
    return [(first, min(first + BLOCK, written)) for first in range(oldest, written, BLOCK)]


def _slots(ring: FrameRing) -> int:
    return len(next(iter(ring.store.frames.values())))


def _name(first: int, end: int) -> str:
    return f"{first:010d}-{end:010d}.npz"


def _without_frames(ring: FrameRing) -> FrameRing:
    return ring._replace(store=ring.store._replace(frames={}))
