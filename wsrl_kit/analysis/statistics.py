"""From one number per run to what can be said about an arm: point, interval, difference, probability of improvement.

The unit of resampling is always the whole run: evaluations inside one run are not independent. Intervals are percentile
bootstrap intervals (Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice",
section 4), vectorised and seeded. With few runs they are too narrow: `coverage_caveat` says by how much.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from wsrl_kit.errors import ParameterError

REPLICATES = 20_000
LEVEL = 0.95
ENOUGH_RUNS = 5

# Measured coverage (%) of nominal 95 % percentile intervals of the IQM, normal data, by number of runs.
COVERAGE = {3: 74, 5: 90, 10: 93, 20: 94}


class Interval(NamedTuple):
    """A point estimate with its 95 % interval; `low` and `high` are nan where n runs allow none."""

    point: float
    low: float
    high: float
    n: int


class Band(NamedTuple):
    """An interval at every step of a curve."""

    point: Float[np.ndarray, " steps"]
    low: Float[np.ndarray, " steps"]
    high: Float[np.ndarray, " steps"]
    n: int


Statistic = Callable[[Float[np.ndarray, "*batch runs"]], Float[np.ndarray, "*batch"]]


def iqm(values: Float[np.ndarray, "*batch runs"]) -> Float[np.ndarray, "*batch"]:
    """Interquartile mean over the last axis: the int(n / 4) lowest and highest values left out (none for n < 4)."""
    cut = values.shape[-1] // 4
    return np.asarray(np.sort(values, axis=-1)[..., cut : values.shape[-1] - cut].mean(axis=-1))


def mean(values: Float[np.ndarray, "*batch runs"]) -> Float[np.ndarray, "*batch"]:
    """Mean over the last axis; over censored steps it is the restricted mean."""
    return np.asarray(values.mean(axis=-1))


def bootstrap_interval(
    values: Float[np.ndarray, " runs"], statistic: Statistic = iqm, seed: int = 0, replicates: int = REPLICATES
) -> Interval:
    """Point estimate and 95 % interval over runs.

    Args:
        values: one finite number per run; their order does not matter.
        statistic: reduces the last axis.
        seed: of the resampling.
        replicates: bootstrap replicates.

    Returns:
        All nan without runs; no interval (nan) for a single run.
    """
    if len(values) == 0:
        return Interval(np.nan, np.nan, np.nan, 0)
    values = np.sort(values)
    resampled = statistic(values[_resample(len(values), seed, replicates)])
    return _interval(float(statistic(values)), resampled, len(values))


def paired_difference(
    first: Mapping[int, float],
    second: Mapping[int, float],
    statistic: Statistic = iqm,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Interval:
    """Difference of the statistic between two arms over the seeds they share; a seed's two runs are resampled together.

    Args:
        first: finite value by seed.
        second: finite value by seed; its statistic is subtracted.
        statistic: reduces the last axis.
        seed: of the resampling.
        replicates: bootstrap replicates.
    """
    shared = sorted(first.keys() & second.keys())
    if not shared:
        return Interval(np.nan, np.nan, np.nan, 0)
    pairs = np.array([[first[key] for key in shared], [second[key] for key in shared]])
    point = statistic(pairs)
    resampled = statistic(pairs[:, _resample(len(shared), seed, replicates)])
    return _interval(float(point[0] - point[1]), resampled[0] - resampled[1], len(shared))


def probability_of_improvement(
    first: Float[np.ndarray, " runs"],
    second: Float[np.ndarray, " other_runs"],
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Interval:
    """Probability that a run of the first arm has the higher value, ties counted half; n is the smaller arm's."""
    n = min(len(first), len(second))
    if n == 0:
        return Interval(np.nan, np.nan, np.nan, 0)
    first, second = np.sort(first), np.sort(second)
    wins = (first[:, None] > second[None, :]) + 0.5 * (first[:, None] == second[None, :])
    rows = _resample(len(first), seed, replicates)
    columns = _resample(len(second), seed + 1, replicates)
    resampled = np.mean([wins[rows[:, i], columns[:, j]] for i, j in np.ndindex(wins.shape)], axis=0)
    return _interval(float(wins.mean()), resampled, n)


def bootstrap_band(
    values: Float[np.ndarray, "runs steps"], statistic: Statistic = iqm, seed: int = 0, replicates: int = 2_000
) -> Band:
    """Point estimate and pointwise 95 % band of curves; a replicate takes the same whole runs at every step."""
    rows = _resample(len(values), seed, replicates)
    intervals = [_interval(float(statistic(column)), statistic(column[rows]), len(column)) for column in values.T]
    point, low, high, _ = np.array(intervals, dtype=float).reshape(-1, 4).T
    return Band(point, low, high, len(values))


def align(
    curves: list[tuple[Float[np.ndarray, " _"], Float[np.ndarray, " _"]]],
) -> tuple[Float[np.ndarray, " steps"], Float[np.ndarray, "runs steps"]]:
    """Curves on one grid: all steps at which any was measured and that all of them cover, interpolated linearly.

    Args:
        curves: (steps, values) per run, steps increasing, none empty; their lengths may differ.

    Raises:
        ParameterError: there is no curve, or no step that all cover.
    """
    if not curves:
        raise ParameterError("curves must hold at least one run, found none")
    first, last = max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves)
    if first > last:
        raise ParameterError(f"curves must overlap, found one that ends at {last:g} and one that begins at {first:g}")
    grid = np.unique(np.concatenate([steps for steps, _ in curves]))
    grid = grid[(grid >= first) & (grid <= last)]
    return grid, np.stack([np.interp(grid, steps, values) for steps, values in curves])


def coverage_caveat(n: int) -> str:
    """One sentence on how far intervals over n runs can be trusted."""
    if n <= 1:
        return f"n = {n}: no interval can be given"
    known = [size for size in COVERAGE if size <= n]
    covered = f"about {COVERAGE[known[-1]]} %" if known else f"less than {COVERAGE[3]} %"
    warning = f"; take at least {ENOUGH_RUNS} seeds" if n < ENOUGH_RUNS else ""
    return f"n = {n}: nominal 95 % intervals cover the true value in {covered} of cases{warning}"


def _resample(n: int, seed: int, replicates: int) -> Int[np.ndarray, "replicates n"]:
    return np.random.default_rng(seed).integers(n, size=(replicates, n))


def _interval(point: float, resampled: Float[np.ndarray, " replicates"], n: int) -> Interval:
    if n < 2:
        return Interval(point, np.nan, np.nan, n)
    low, high = np.quantile(resampled, [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0])
    return Interval(point, float(low), float(high), n)
