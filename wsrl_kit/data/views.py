"""How a task sees the pictures of a camera: cut, then scaled, as HIL-SERL does."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64, UInt8


@dataclass(frozen=True)
class View:
    """What is left of a camera's frames.

    Attributes:
        height, width: pixels.
        crop: before scaling: first row, end row, first column, end column; (): everything.
    """

    height: int
    width: int
    crop: Sequence[int] = ()

    def narrows(self, frame: UInt8[np.ndarray, "_height _width 3"]) -> bool:
        """Whether a recorded frame is of another size, and large enough to be seen so."""
        found = frame.shape[:2]
        least = tuple(self.crop[1::2]) or (self.height, self.width)
        return found != (self.height, self.width) and all(np.greater_equal(found, least))

    def of(self, frame: UInt8[np.ndarray, "_height _width 3"]) -> UInt8[np.ndarray, "_new_height _new_width 3"]:
        """The frame cropped and scaled, as cv2.INTER_LINEAR."""
        if self.crop:
            frame = frame[self.crop[0] : self.crop[1], self.crop[2] : self.crop[3]]
        if frame.shape[:2] == (self.height, self.width):
            return frame
        above, below, down = _neighbours(frame.shape[0], self.height)
        left, right, across = _neighbours(frame.shape[1], self.width)
        rows = frame[above] * (1 - down[:, None, None]) + frame[below] * down[:, None, None]
        scaled = rows[:, left] * (1 - across[:, None]) + rows[:, right] * across[:, None]
        return np.rint(scaled).astype(np.uint8)


def _neighbours(
    length: int, size: int
) -> tuple[Int64[np.ndarray, " size"], Int64[np.ndarray, " size"], Float64[np.ndarray, " size"]]:
    """Per new pixel the old pixels before and after its centre, and the latter's weight."""
    at = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
    before = at.astype(np.int64)
    return before, np.minimum(before + 1, length - 1), at - before
