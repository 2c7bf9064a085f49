"""Camera frames on disk, each written once, in blocks beside the checkpoints.

New blocks are written before the checkpoint, and old ones deleted after it, so a kill at any moment loses nothing.
"""

import shutil
from pathlib import Path

import numpy as np
from jaxtyping import PyTree

from wsrl_kit.replay import frames as frame_ring
from wsrl_kit.replay.frames import FrameRing
from wsrl_kit.runs import checkpoint

BLOCK = 256
"""Frames per file."""

FOLDERS = {"online": "frames", "offline": "demo_frames"}
"""Folder of each side's blocks."""


def save(path: Path, tree: PyTree, metadata: dict[str, object]) -> None:
    """`checkpoint.save`, with frames in blocks beside the checkpoint.

    Raises:
        CheckpointError: it can't be written; an earlier one is intact.
    """
    rings = _rings(tree)
    for side, ring in rings.items():
        for first, end in _blocks(ring):
            target = path.with_name(FOLDERS[side]) / _file_name(first, end)
            if not target.exists():
                slots = np.arange(first, end) % frame_ring.slots(ring)
                frames = {camera: leaf[slots] for camera, leaf in ring.store.frames.items()}
                checkpoint.save(target, frames, {})
    checkpoint.save(path, _with_rings(tree, {side: _without_frames(ring) for side, ring in rings.items()}), metadata)
    for side, ring in rings.items():
        needed = {_file_name(first, end) for first, end in _blocks(ring)}
        for other in path.with_name(FOLDERS[side]).glob("*.npz"):
            if other.name not in needed:
                other.unlink(missing_ok=True)


def load(path: Path, template: PyTree) -> PyTree:
    """Reads what `save` wrote into the arrays of `template`, a fresh tree of the same run.

    Raises:
        CheckpointError: as `checkpoint.load`, or a block is missing or damaged.
    """
    rings = _rings(template)
    tree = checkpoint.load(path, _with_rings(template, {side: _without_frames(ring) for side, ring in rings.items()}))
    found = _rings(tree)
    return _with_rings(
        tree, {side: _filled(path.with_name(FOLDERS[side]), found[side], ring) for side, ring in rings.items()}
    )


def _filled(folder: Path, restored: FrameRing, ring: FrameRing) -> FrameRing:
    restored = restored._replace(store=restored.store._replace(frames=ring.store.frames))
    frames = ring.store.frames
    for first, end in _blocks(restored):
        rows = {camera: np.empty((end - first, *leaf.shape[1:]), leaf.dtype) for camera, leaf in frames.items()}
        block = checkpoint.load(folder / _file_name(first, end), rows)
        slots = np.arange(first, end) % frame_ring.slots(ring)
        for camera, leaf in frames.items():
            leaf[slots] = block[camera]
    return restored


def remove(path: Path) -> None:
    """Deletes the blocks beside a checkpoint."""
    for folder in FOLDERS.values():
        shutil.rmtree(path.with_name(folder), ignore_errors=True)


def _rings(tree: PyTree) -> dict[str, FrameRing]:
    return {side: content["frames"] for side, content in tree["replay"].items() if "frames" in content}


def _with_rings(tree: PyTree, rings: dict[str, FrameRing]) -> PyTree:
    sides = {side: tree["replay"][side] | {"frames": ring} for side, ring in rings.items()}
    return tree | {"replay": tree["replay"] | sides}


def _blocks(ring: FrameRing) -> list[tuple[int, int]]:
    """First frame and end of each needed block."""
    written, slots = int(ring.written), frame_ring.slots(ring)
    oldest = max(written - slots, 0) // BLOCK * BLOCK
    return [(first, min(first + BLOCK, written)) for first in range(oldest, written, BLOCK)]


def _file_name(first: int, end: int) -> str:
    return f"{first:010d}-{end:010d}.npz"


def _without_frames(ring: FrameRing) -> FrameRing:
    return ring._replace(store=ring.store._replace(frames={}))
