"""What the bounds of a task's values say, and values scaled by them."""

import numpy as np
from jaxtyping import Float, Float32, Shaped

LARGEST_BOUND = 1e6
"""A bound of greater magnitude says "none" (some tasks write the largest float); nothing can be scaled by it."""


def has_bounds(low: Shaped[np.ndarray, "..."], high: Shaped[np.ndarray, "..."]) -> bool:
    """Whether every value is bounded on both sides."""
    # A bound of NaN compares false, and is none either.
    return bool((np.abs(low) <= LARGEST_BOUND).all() and (np.abs(high) <= LARGEST_BOUND).all())


def to_unit(
    values: Float[np.ndarray, "*batch action"], low: Float[np.ndarray, " action"], high: Float[np.ndarray, " action"]
) -> Float32[np.ndarray, "*batch action"]:
    """Values in [low, high] scaled to [-1, 1]; 0 where both bounds are one number.

    Bounds of [-1, 1] change no bit.
    """
    low, high = low.astype(np.float64), high.astype(np.float64)
    width = np.where(high > low, high - low, 1.0)
    # Values far beyond the bounds become infinite, and are refused as such.
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.where(high > low, 2 * (values - low) / width - 1, 0 * values)
        return np.where((low == -1) & (high == 1), values, scaled).astype(np.float32)
