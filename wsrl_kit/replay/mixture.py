"""Batches of offline and online rows in an exact ratio."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int64, PyTree

from wsrl_kit.replay.frames import FrameBatches
from wsrl_kit.replay.ring import Ring


class Batch(NamedTuple):
    """What learning needs of sampled rows, in `batches` of `size` rows.

    Attributes:
        importance: PER's weights; None: uniform.
        images, next_images: camera -> stacks of frames, oldest first; empty without cameras.
    """

    rows: Float32[np.ndarray, "batches size width"]
    importance: Float32[np.ndarray, "batches size"] | None
    images: Mapping[str, np.ndarray]
    next_images: Mapping[str, np.ndarray]


class Drawn(NamedTuple):
    """Where rows of batches lie: the first `offline_rows` of each batch on the offline side."""

    places: Int64[np.ndarray, "batches size"]
    offline_rows: int


class Replay:
    """Kept offline data and online transitions.

    Args:
        seed: of all sampling.
        importance_normalisation: `mean`: PER's weights of a call have mean 1, and the size of a step does not depend on
            beta; `max`: the largest is 1.
    """

    def __init__(self, offline: Ring, online: Ring, seed: int, importance_normalisation: str = "mean") -> None:
        self.offline, self.online = offline, online
        self._importance_normalisation = importance_normalisation
        self._seed = np.uint64(seed)
        self._frames = FrameBatches()

    @property
    def tree(self) -> PyTree:
        """The content of a checkpoint."""
        return {"offline": self.offline.tree, "online": self.online.tree}

    def offline_count(self, batch_size: int, ratio: float) -> int:
        """Offline rows per batch: `int(batch_size * ratio)`, or all or none if one side is empty."""
        if self.offline.size == 0:
            return 0
        # The addend undoes float32 rounding: 0.29 of 100 is 29.
        return batch_size if self.online.size == 0 else min(max(int(batch_size * ratio + 1e-3), 0), batch_size)

    def sample(self, step: int, shape: tuple[int, int], ratio: float = 1.0, beta: float = 0.0) -> tuple[Batch, Drawn]:
        """Batches of `offline_count` offline rows, then online rows; each side is stratified by probability.

        PER's importance weight is `(N p) ** -beta` for the row's side (Schaul et al. 2016, section 3.4, which divides
        by the largest), over the call's mean or largest.

        Args:
            step: with the seed, decides what is drawn.
            shape: (batches, batch size).
            ratio: offline share, in [0, 1].
            beta: importance exponent, in [0, 1].
        """
        rows = np.empty((*shape, self.online.rows.shape[1]), np.float32)
        index, expected = np.empty(shape, np.int64), np.empty(shape)
        count = self.offline_count(shape[1], ratio)
        for side, columns in self._sides(count, shape[1]):
            side.draw(self._seed, step, columns, rows, index, expected)
        importance = None
        if self.online.is_prioritized:
            # Over the smallest first, so that no power overflows.
            importance = (expected / expected.min()).astype(np.float32) ** np.float32(-beta)
            importance /= importance.mean() if self._importance_normalisation == "mean" else importance.max()
        images, next_images = self.images_of(index, count)
        return Batch(rows, importance, images, next_images), Drawn(index, count)

    def update_priorities(self, drawn: Drawn, td_error: Float[np.ndarray, "batches size"]) -> None:
        """Writes TD errors back as priorities, each to the side it comes from."""
        for side, columns in self._sides(drawn.offline_rows, td_error.shape[1]):
            side.update_priorities(drawn.places[:, columns].ravel(), td_error[:, columns].ravel())

    def images_of(
        self, index: Int64[np.ndarray, "*batch size"], offline_rows: int = 0
    ) -> tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]:
        """Images of rows and of next observations, the first `offline_rows` offline ones; empty without cameras."""
        parts = [(side.store, columns) for side, columns in self._sides(offline_rows, index.shape[-1]) if side.store]
        return self._frames.gather(index, parts) if parts else ({}, {})

    def _sides(self, offline_rows: int, size: int) -> list[tuple[Ring, slice]]:
        parts = ((self.offline, slice(0, offline_rows)), (self.online, slice(offline_rows, size)))
        return [(side, columns) for side, columns in parts if columns.start < columns.stop]
