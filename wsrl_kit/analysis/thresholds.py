"""How a classifier of success does at each threshold, and which one to take."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from wsrl_kit.errors import DataError

GRID = np.round(np.arange(0.01, 1.0, 0.01), 2)
"""Thresholds that are looked at."""


@dataclass(frozen=True)
class Sweep:
    """Rates at some thresholds; an example counts as success where its probability is at least the threshold.

    Attributes:
        threshold: increasing.
        precision: share of true successes among those taken for successes; nan where none is.
        recall: share of the successes that are taken for successes.
        false_positive_rate: share of the failures that are taken for successes.
    """

    threshold: Float[np.ndarray, " thresholds"]
    precision: Float[np.ndarray, " thresholds"]
    recall: Float[np.ndarray, " thresholds"]
    false_positive_rate: Float[np.ndarray, " thresholds"]


def sweep(
    probability: Float[np.ndarray, " examples"],
    is_success: Bool[np.ndarray, " examples"],
    thresholds: Float[np.ndarray, " thresholds"] = GRID,
) -> Sweep:
    """The rates of some examples at each threshold.

    Raises:
        DataError: there are no successes, or no failures.
    """
    if is_success.all() or not is_success.any():
        raise DataError(f"a threshold needs successes and failures, found {is_success.sum()} of {is_success.size}")
    taken = probability[None, :] >= thresholds[:, None]
    true, false = (taken & is_success).sum(axis=1), (taken & ~is_success).sum(axis=1)
    with np.errstate(invalid="ignore"):
        precision = true / (true + false)
    return Sweep(thresholds, precision, true / is_success.sum(), false / (~is_success).sum())


def best(rates: Sweep, max_false_positive_rate: float) -> int:
    """Place of the threshold to take: the best recall among those that take few enough failures for successes.

    Of several with the same recall it is the middle one, as far from successes as from failures. Where all take too
    many, it is of those with the fewest.
    """
    allowed = rates.false_positive_rate <= max(max_false_positive_rate, float(rates.false_positive_rate.min()))
    equal = np.flatnonzero(allowed & (rates.recall == rates.recall[allowed].max()))
    return int(equal[(len(equal) - 1) // 2])
