"""How often the 95 % intervals that the kit prints cover the truth, by simulation; and whether others would do better.

A shape is a large population of runs, so that its true IQM, mean and probability of improvement are known exactly.
Samples of n runs are drawn from it, and the kit's own functions give their intervals. `statistics.COVERAGE` holds the
lowest and the highest entry of each row of the first table.
"""

import argparse
import math

import numpy as np

from wsrl_kit.analysis import statistics
from wsrl_kit.analysis.statistics import iqm, mean

POPULATION = 100_000
RUNS = (2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20)
RIVAL_RUNS = (3, 4, 5, 10)
# Quantiles of Student's t at 0.975 by degrees of freedom, from any table.
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262}
NORMAL = 1.959964


def populations() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Final success (or steps to the target) of many runs of an arm and of its control, sorted, in four shapes."""
    generator = np.random.default_rng(0)
    normal = generator.normal(0.6, 0.15, POPULATION)
    ceiling = generator.binomial(20, generator.beta(8.0, 1.0, POPULATION)) / 20
    fails = generator.random(POPULATION) < 0.2
    failing = np.where(fails, generator.normal(0.1, 0.05, POPULATION), generator.normal(0.85, 0.05, POPULATION))
    steps = np.minimum(200 * np.ceil(generator.exponential(900, POPULATION) / 200), 2_000)
    slower = np.minimum(200 * np.ceil(generator.exponential(1_200, POPULATION) / 200), 2_000)
    control = generator.normal(0.5, 0.2, POPULATION)
    shapes = {
        "normal": (normal, control),
        "ceiling": (ceiling, control),
        "failing seeds": (failing, control),
        "censored steps": (steps, slower),
    }
    return {name: (np.sort(first), np.sort(second)) for name, (first, second) in shapes.items()}


def probability_higher(first: np.ndarray, second: np.ndarray) -> float:
    """Of a draw from the first sorted population over one from the second, ties counted half."""
    below = np.searchsorted(second, first, "left") + np.searchsorted(second, first, "right")
    return float(below.mean() / 2.0 / len(second))


def covered(interval: statistics.Interval, truth: float) -> bool:
    """Whether the truth lies in it, but for rounding."""
    return interval.low - 1e-9 <= truth <= interval.high + 1e-9


def coverage(first: np.ndarray, second: np.ndarray, n: int, trials: int, replicates: int) -> dict[str, float]:
    """Share of samples of n runs whose interval covers the truth, for each kind that the kit prints.

    Args:
        first: sorted population of an arm.
        second: that of the control; half of the seeds have the same rank in both.
        n: runs in a sample.
        trials: samples.
        replicates: bootstrap replicates of an interval.
    """
    truths = {
        "IQM": float(iqm(first)),
        "mean": float(mean(first)),
        "difference of IQMs": float(iqm(first) - iqm(second)),
        "difference of means": float(mean(first) - mean(second)),
        "probability": probability_higher(first, second),
    }
    hits = dict.fromkeys(truths, 0)
    generator = np.random.default_rng([n, trials])
    for trial in range(trials):
        ranks, others = generator.integers(len(first), size=(2, n))
        sample = first[ranks]
        control = second[np.where(generator.random(n) < 0.5, ranks, others)]
        pair = dict(enumerate(sample.tolist())), dict(enumerate(control.tolist()))
        intervals = {
            "IQM": statistics.bootstrap_interval(sample, iqm, trial, replicates),
            "mean": statistics.bootstrap_interval(sample, mean, trial, replicates),
            "difference of IQMs": statistics.paired_difference(*pair, iqm, trial, replicates),
            "difference of means": statistics.paired_difference(*pair, mean, trial, replicates),
            "probability": statistics.probability_of_improvement(sample, control, trial, replicates),
        }
        for kind, interval in intervals.items():
            hits[kind] += covered(interval, truths[kind])
    return {kind: count / trials for kind, count in hits.items()}


def winsorised_error(values: np.ndarray) -> np.ndarray:
    """Standard error of the IQM over the last axis (Tukey and McLaughlin 1963): that of the mean where n < 4."""
    n = values.shape[-1]
    cut = n // 4
    ordered = np.sort(values, axis=-1)
    ordered = np.clip(ordered, ordered[..., cut : cut + 1], ordered[..., n - cut - 1 : n - cut])
    return ordered.std(axis=-1, ddof=1) / ((1.0 - 2.0 * cut / n) * math.sqrt(n))


def normal_cdf(value: float) -> float:
    """Of the standard normal distribution."""
    return 0.5 * math.erfc(-value / math.sqrt(2.0))


def normal_quantile(share: float) -> float:
    """Its inverse, by bisection."""
    low, high = -9.0, 9.0
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if normal_cdf(middle) < share else (low, middle)
    return low


def rivals(sample: np.ndarray, seed: int, replicates: int) -> dict[str, tuple[float, float]]:
    """Other 95 % intervals of the IQM of one sample."""
    n = len(sample)
    point, error = float(iqm(sample)), float(winsorised_error(sample))
    resampled = sample[np.random.default_rng(seed).integers(n, size=(replicates, n))]
    points, errors = iqm(resampled), winsorised_error(resampled)
    student = STUDENT[n - 2 * (n // 4) - 1]

    # BCa (Efron 1987): bias from the share below the point, acceleration from the jackknife.
    below = np.mean(points < point) + 0.5 * np.mean(points == point)
    bias = normal_quantile(min(max(below, 1e-6), 1 - 1e-6))
    jackknife = np.array([iqm(np.delete(sample, index)) for index in range(n)])
    lever = jackknife.mean() - jackknife
    spread = np.sum(lever**2) ** 1.5
    acceleration = np.sum(lever**3) / (6.0 * spread) if spread > 0 else 0.0
    levels = [normal_cdf(bias + (bias + side) / (1.0 - acceleration * (bias + side))) for side in (-NORMAL, NORMAL)]

    # Bootstrap-t: resamples of one value only have no error and say nothing.
    kept = errors > 0
    pivots = (points[kept] - point) / errors[kept] if kept.any() else np.zeros(1)
    upper, lower = np.quantile(pivots, [0.975, 0.025])

    # Percentiles moved outwards as Student's t is wider than the normal (Hesterberg 2015).
    tail = normal_cdf(-math.sqrt(n / (n - 1)) * STUDENT[n - 1])
    return {
        "percentile (the kit's)": tuple(np.quantile(points, [0.025, 0.975])),
        "BCa": tuple(np.quantile(points, levels)),
        "expanded percentile": tuple(np.quantile(points, [tail, 1.0 - tail])),
        "bootstrap-t": (point - upper * error, point - lower * error),
        "Student-t, winsorised": (point - student * error, point + student * error),
    }


def compare(population: np.ndarray, n: int, trials: int, replicates: int) -> dict[str, tuple[float, float]]:
    """Coverage of the population's IQM, and median width, of each rival."""
    truth = float(iqm(population))
    generator = np.random.default_rng([n, trials])
    found: dict[str, list[tuple[float, float]]] = {}
    for trial in range(trials):
        for name, interval in rivals(
            population[generator.integers(len(population), size=n)], trial, replicates
        ).items():
            found.setdefault(name, []).append(interval)
    ends = {name: np.array(intervals) for name, intervals in found.items()}
    return {
        name: (
            float(np.mean((bounds[:, 0] - 1e-9 <= truth) & (truth <= bounds[:, 1] + 1e-9))),
            float(np.median(bounds[:, 1] - bounds[:, 0])),
        )
        for name, bounds in ends.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=4_000, help="samples per entry")
    parser.add_argument("--replicates", type=int, default=1_000, help="bootstrap replicates per interval")
    options = parser.parse_args()
    shapes = populations()

    print("| interval of | n | " + " | ".join(shapes) + " | lowest | highest |")
    print("|---|---:|" + "---:|" * (len(shapes) + 2))
    measured = {
        n: [coverage(first, second, n, options.trials, options.replicates) for first, second in shapes.values()]
        for n in RUNS
    }
    for kind in measured[RUNS[0]][0]:
        for n, by_shape in measured.items():
            shares = [shape[kind] for shape in by_shape]
            cells = [f"{100 * share:.0f} %" for share in [*shares, min(shares), max(shares)]]
            print(f"| {kind} | {n} | {' | '.join(cells)} |", flush=True)

    print("\n| interval of the IQM | n | " + " | ".join(shapes) + " | lowest | median width, normal |")
    print("|---|---:|" + "---:|" * (len(shapes) + 2))
    for n in RIVAL_RUNS:
        compared = [compare(first, n, options.trials, options.replicates) for first, _ in shapes.values()]
        for name, (_, width) in compared[0].items():
            shares = [shape[name][0] for shape in compared]
            cells = [f"{100 * share:.0f} %" for share in [*shares, min(shares)]]
            print(f"| {name} | {n} | {' | '.join(cells)} | {width:.2f} |", flush=True)


if __name__ == "__main__":
    main()
