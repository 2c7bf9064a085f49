"""Camera frames on disk, each written once, in blocks beside the checkpoints.

New blocks are written before the checkpoint, and old ones deleted after it, so a kill at any moment loses nothing.
"""

import shutil
from collections.abc import Mapping
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
    checkpoint.save(path, without_frames(tree), metadata)
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
    tree = checkpoint.load(path, without_frames(template))
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


def without_frames(tree: PyTree) -> PyTree:
    """The tree without the frames that `new_frames` tells apart by when they were written."""
    return _with_rings(tree, {side: _without_frames(ring) for side, ring in _rings(tree).items()})


def written(tree: PyTree) -> dict[str, int]:
    """Frames written so far, by side."""
    return {side: int(ring.written) for side, ring in _rings(tree).items()}


def new_frames(tree: PyTree, since: Mapping[str, int]) -> dict[str, dict[str, np.ndarray]]:
    """By side and camera, a copy of the frames held that were written after the first `since`."""
    found = {}
    for side, ring in _rings(tree).items():
        places = frame_ring.slots(ring)
        numbers = np.arange(max(since[side], int(ring.written) - places), int(ring.written))
        found[side] = {camera: leaf[numbers % places] for camera, leaf in ring.store.frames.items()}
    return found


def with_new_frames(tree: PyTree, newer: PyTree, frames: Mapping[str, Mapping[str, np.ndarray]]) -> PyTree:
    """A `newer` tree `without_frames`, with the frames of `tree` (given up) and its own `new_frames`."""
    newer_rings, rings = _rings(newer), {}
    for side, ring in _rings(tree).items():
        end, places = int(newer_rings[side].written), frame_ring.slots(ring)
        for camera, leaf in ring.store.frames.items():
            leaf[np.arange(end - len(frames[side][camera]), end) % places] = frames[side][camera]
        rings[side] = newer_rings[side]._replace(store=newer_rings[side].store._replace(frames=ring.store.frames))
    return _with_rings(newer, rings)


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
