"""Points, intervals, differences and probabilities of improvement over runs, from one number per run.

Percentile bootstrap over whole runs, seeded (Agarwal et al. 2021, "Deep reinforcement learning at the edge of the
statistical precipice", section 4). With few runs the intervals are too narrow: `coverage_caveat` says by how much.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from wsrl_kit.errors import ParameterError

REPLICATES = 20_000
LEVEL = 0.95
ENOUGH_RUNS = 5

# Measured coverage (%) of nominal 95 % intervals by number of runs, lowest and highest over the shapes of data in
# benchmarks/interval_coverage.py, whose first table this is.
# fmt: off
COVERAGE = {
    "IQM": {
        2: (49, 49), 3: (74, 75), 4: (87, 87), 5: (89, 89), 6: (89, 90), 7: (90, 91),
        8: (92, 93), 9: (93, 93), 10: (93, 94), 15: (93, 94), 20: (94, 94),
    },
    "mean": {
        2: (33, 49), 3: (48, 75), 4: (58, 79), 5: (65, 83), 6: (71, 85), 7: (77, 87),
        8: (83, 89), 9: (85, 89), 10: (87, 91), 15: (90, 92), 20: (91, 92),
    },
    "difference of IQMs": {
        2: (43, 49), 3: (66, 75), 4: (77, 88), 5: (82, 88), 6: (84, 89), 7: (84, 90),
        8: (90, 93), 9: (89, 91), 10: (89, 92), 15: (90, 93), 20: (93, 93),
    },
    "difference of means": {
        2: (47, 50), 3: (70, 75), 4: (75, 78), 5: (79, 82), 6: (82, 85), 7: (84, 86),
        8: (87, 88), 9: (86, 87), 10: (87, 89), 15: (90, 91), 20: (91, 92),
    },
    "probability": {
        2: (13, 77), 3: (25, 92), 4: (36, 95), 5: (47, 96), 6: (56, 98), 7: (62, 97),
        8: (70, 98), 9: (76, 98), 10: (79, 98), 15: (84, 98), 20: (85, 99),
    },
}
# fmt: on


class Interval(NamedTuple):
    """A point estimate with its 95 % interval; `low` and `high` are nan for fewer than 2 runs."""

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
    """Interquartile mean over the last axis, without the int(n / 4) lowest and highest values."""
    cut = values.shape[-1] // 4
    return np.asarray(np.sort(values, axis=-1)[..., cut : values.shape[-1] - cut].mean(axis=-1))


def mean(values: Float[np.ndarray, "*batch runs"]) -> Float[np.ndarray, "*batch"]:
    """Mean over the last axis; of censored steps, the restricted mean."""
    return np.asarray(values.mean(axis=-1))


def bootstrap_interval(
    values: Float[np.ndarray, " runs"], statistic: Statistic = iqm, seed: int = 0, replicates: int = REPLICATES
) -> Interval:
    """Point estimate and 95 % interval over finite values in any order; all nan without values."""
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
    """Statistic of `first` minus that of `second` over shared seeds; a seed's two runs are resampled together.

    Args:
        first: finite value by seed, as `second`.
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
    """Probability that a run of `first` has the higher value, ties counted half; n is the smaller arm's."""
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
    """Point estimate and pointwise 95 % band of curves; a replicate takes whole runs."""
    rows = _resample(len(values), seed, replicates)
    intervals = [_interval(float(statistic(column)), statistic(column[rows]), len(column)) for column in values.T]
    return _band(intervals, len(values))


def performance_profile(
    values: Float[np.ndarray, " runs"], thresholds: Float[np.ndarray, " steps"], seed: int = 0
) -> Band:
    """Share of runs above each threshold, with its 95 % band (Agarwal et al. 2021, section 4.3)."""
    return bootstrap_band((values[:, None] > thresholds).astype(float), mean, seed)


def reached_fraction(
    steps: Float[np.ndarray, "*batch runs"], reached: Bool[np.ndarray, "*batch runs"], grid: Float[np.ndarray, " steps"]
) -> Float[np.ndarray, "*batch steps"]:
    """Share of runs that have reached the target by each step of an increasing grid (Kaplan and Meier 1958).

    Args:
        steps: when a run reached the target, or until when it was watched without reaching it.
        reached: which of the two.
    """
    remaining = np.ones((*steps.shape[:-1], len(grid)))
    for step in np.unique(steps):
        events = (reached & (steps == step)).sum(axis=-1)
        watched = (steps >= step).sum(axis=-1)
        factor = 1.0 - events / np.maximum(watched, 1)
        remaining *= np.where(grid >= step, factor[..., None], 1.0)
    return 1.0 - remaining


def reached_band(
    steps: Float[np.ndarray, " runs"],
    reached: Bool[np.ndarray, " runs"],
    grid: Float[np.ndarray, " steps"],
    seed: int = 0,
    replicates: int = 2_000,
) -> Band:
    """`reached_fraction` with its pointwise 95 % band over runs."""
    rows = _resample(len(steps), seed, replicates)
    points, resampled = (reached_fraction(steps[i], reached[i], grid) for i in (np.arange(len(steps)), rows))
    intervals = [_interval(float(p), column, len(steps)) for p, column in zip(points, resampled.T, strict=True)]
    return _band(intervals, len(steps))


def align(
    curves: list[tuple[Float[np.ndarray, " _"], Float[np.ndarray, " _"]]],
) -> tuple[Float[np.ndarray, " steps"], Float[np.ndarray, "runs steps"]]:
    """Non-empty curves of increasing steps, interpolated linearly on all measured steps that every curve covers.

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


def coverage_caveat(n: int, kinds: Sequence[str] = ("IQM", "mean")) -> str:
    """One sentence on how far intervals over n runs (or pairs) can be trusted.

    Args:
        n: where it was not simulated, the next smaller simulated number is used.
        kinds: keys of `COVERAGE`.
    """
    if n <= 1:
        return f"n = {n}: no interval can be given"
    shares = []
    for kind in kinds:
        lowest, highest = COVERAGE[kind][max(size for size in COVERAGE[kind] if size <= n)]
        shares.append(f"{lowest} to {highest} % ({kind})" if lowest < highest else f"{lowest} % ({kind})")
    warning = f"; take at least {ENOUGH_RUNS} seeds" if n < ENOUGH_RUNS else ""
    return f"n = {n}: nominal 95 % intervals cover the true value in {', '.join(shares)} of simulated cases{warning}"


def _resample(n: int, seed: int, replicates: int) -> Int[np.ndarray, "replicates n"]:
    return np.random.default_rng(seed).integers(n, size=(replicates, n))


def _interval(point: float, resampled: Float[np.ndarray, " replicates"], n: int) -> Interval:
    if n < 2:
        return Interval(point, np.nan, np.nan, n)
    low, high = np.quantile(resampled, [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0])
    return Interval(point, float(low), float(high), n)


def _band(intervals: list[Interval], n: int) -> Band:
    point, low, high, _ = np.array(intervals, dtype=float).reshape(-1, 4).T
    return Band(point, low, high, n)
