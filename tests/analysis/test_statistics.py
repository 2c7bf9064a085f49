"""Statistics over runs: against hand-computed values, rliable's numbers and simulated truth."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slow_cases import one_fast
from wsrl_kit.analysis.statistics import (
    COVERAGE,
    align,
    bootstrap_band,
    bootstrap_interval,
    coverage_caveat,
    iqm,
    mean,
    paired_difference,
    performance_profile,
    probability_of_improvement,
    reached_band,
    reached_fraction,
)
from wsrl_kit.errors import ParameterError

# Printed by rliable 1.2.0 (with arch 7.1.0, numpy 2.4.6, scipy 1.17.1, pandas 2.3.3): aggregate_iqm, aggregate_mean,
# probability_of_improvement and create_performance_profile on one task; intervals by get_interval_estimates with 20,000
# replicates after np.random.seed(0).
RLIABLE_IQM = [
    ([0.637], 0.637),
    ([0.27, 0.041], 0.1555),
    ([0.017, 0.813, 0.913], 0.581),
    ([0.607, 0.729, 0.544, 0.935], 0.668),
    ([0.816, 0.003, 0.857, 0.034, 0.73], 0.5266666666666667),
    ([0.176, 0.863, 0.541, 0.3, 0.423, 0.028, 0.124], 0.3128),
    ([0.671, 0.647, 0.615, 0.384, 0.997, 0.981, 0.686, 0.65], 0.6635),
    ([0.688, 0.389, 0.135, 0.721, 0.525, 0.31, 0.486, 0.889, 0.934, 0.358], 0.5278333333333333),
]
FIRST = np.array([0.55, 0.9, 0.85, 0.7, 0.95, 0.8, 0.6, 0.75, 0.9, 0.65])
SECOND = np.array([0.5, 0.6, 0.85, 0.7, 0.4, 0.65, 0.55, 0.7, 0.3, 0.6])
THIRD = np.array([0.2, 0.9, 0.5, 0.75, 1.0])
TWO_MODES = np.array([0.0, 0.0, 0.05, 0.95, 1.0, 1.0, 0.9])
THRESHOLDS = np.array([0.02, 0.3, 0.52, 0.78, 0.92])
RLIABLE_INTERVALS = [
    (FIRST, iqm, 0.775, 0.6583333333333333, 0.875),
    (SECOND, iqm, 0.6, 0.48333333333333334, 0.6833333333333332),
    (THIRD, iqm, 0.7166666666666667, 0.3, 0.9666666666666667),
    (TWO_MODES, iqm, 0.58, 0.04, 0.97),
    (FIRST, mean, 0.765, 0.68, 0.845),
    (SECOND, mean, 0.585, 0.49, 0.675),
    (THIRD, mean, 0.67, 0.42, 0.91),
    (TWO_MODES, mean, 0.5571428571428572, 0.1642857142857143, 0.85),
]
RLIABLE_IMPROVEMENT = [
    (FIRST, SECOND, 0.805, 0.595, 0.965),
    (TWO_MODES, THIRD, 0.4714285714285714, 0.14285714285714285, 0.8428571428571429),
    (THIRD, SECOND, 0.63, 0.22, 1.0),
]
RLIABLE_PROFILES = [
    (FIRST, [1, 1, 1, 0.5, 0.1], [1, 1, 1, 0.2, 0], [1, 1, 1, 0.8, 0.3]),
    (SECOND, [1, 0.9, 0.7, 0.1, 0], [1, 0.7, 0.4, 0, 0], [1, 1, 1, 0.3, 0]),
    (THIRD, [1, 0.8, 0.6, 0.4, 0.2], [1, 0.4, 0.2, 0, 0], [1, 1, 1, 0.8, 0.6]),
    (TWO_MODES, [5 / 7, 4 / 7, 4 / 7, 4 / 7, 3 / 7], [3 / 7, *[1 / 7] * 4], [1, *[6 / 7] * 4]),
]

runs = st.lists(st.floats(0.0, 1.0).map(lambda value: round(value, 2)), min_size=1, max_size=12)


@pytest.mark.parametrize(("values", "expected"), RLIABLE_IQM)
def test_iqm_is_rliables(values, expected):
    assert iqm(np.array(values)) == pytest.approx(expected, abs=1e-12)


def test_iqm_works_along_the_last_axis():
    values = np.arange(24.0).reshape(2, 3, 4)
    assert iqm(values) == pytest.approx(values[..., 1:3].mean(-1))


@pytest.mark.parametrize(("values", "statistic", "point", "low", "high"), RLIABLE_INTERVALS)
def test_intervals_are_rliables(values, statistic, point, low, high):
    interval = bootstrap_interval(values, statistic)
    assert interval.point == pytest.approx(point, abs=1e-12)
    # The mean of five runs takes few values: an end may fall on the next one.
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.021)


@pytest.mark.parametrize(("first", "second", "point", "low", "high"), RLIABLE_IMPROVEMENT)
def test_probability_of_improvement_is_rliables(first, second, point, low, high):
    interval = probability_of_improvement(first, second)
    assert interval.point == pytest.approx(point, abs=1e-12)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.011)


@pytest.mark.parametrize(("values", "point", "low", "high"), RLIABLE_PROFILES)
def test_performance_profiles_are_rliables(values, point, low, high):
    profile = performance_profile(values, THRESHOLDS)
    assert profile.point == pytest.approx(point, abs=1e-12)
    # Shares of n runs are multiples of 1 / n: an end may fall on the next one.
    assert profile.low == pytest.approx(low, abs=1 / len(values) + 1e-9)
    assert profile.high == pytest.approx(high, abs=1 / len(values) + 1e-9)
    assert profile.n == len(values)


def test_probability_of_improvement_by_hand():
    # Of the six pairs, 2 > 1 and twice 3 > 1, 2 are won, and 2 against 2 is a tie.
    assert probability_of_improvement(np.array([2.0, 3.0]), np.array([1.0, 2.0, 4.0])).point == pytest.approx(3.5 / 6)
    assert probability_of_improvement(np.zeros(0), np.array([1.0])).n == 0


@given(runs)
@settings(max_examples=50, deadline=None)
def test_the_interval_contains_the_point_and_lies_in_the_data(values):
    interval = bootstrap_interval(np.array(values), replicates=500)
    if len(values) >= 2:
        assert interval.low - 1e-9 <= interval.point <= interval.high + 1e-9
        assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9


@given(runs, st.randoms())
@settings(max_examples=50, deadline=None)
def test_the_order_of_runs_does_not_matter(values, random):
    shuffled = random.sample(values, len(values))
    before, after = (bootstrap_interval(np.array(order), replicates=200) for order in (values, shuffled))
    np.testing.assert_array_equal(before, after)
    first, second = (probability_of_improvement(np.array(order), FIRST, replicates=200) for order in (values, shuffled))
    np.testing.assert_array_equal(first, second)


@given(runs, runs)
@settings(max_examples=50, deadline=None)
def test_better_and_worse_add_up_to_one(first, second):
    better = probability_of_improvement(np.array(first), np.array(second), replicates=10).point
    worse = probability_of_improvement(np.array(second), np.array(first), replicates=10).point
    assert better + worse == pytest.approx(1.0)


def test_one_run_has_a_point_and_no_interval():
    interval = bootstrap_interval(np.array([0.4]))
    assert interval.point == 0.4
    assert np.isnan([interval.low, interval.high]).all()
    assert np.isnan(bootstrap_interval(np.zeros(0)).point)


def test_the_same_seed_gives_the_same_interval_and_another_one_not():
    values = np.random.default_rng(0).normal(size=9)
    assert bootstrap_interval(values, seed=1, replicates=300) == bootstrap_interval(values, seed=1, replicates=300)
    assert bootstrap_interval(values, seed=1, replicates=300) != bootstrap_interval(values, seed=2, replicates=300)


@pytest.fixture(scope="module")
def simulation():
    """The script that COVERAGE comes from."""
    path = Path(__file__).parents[2] / "benchmarks" / "interval_coverage.py"
    specification = importlib.util.spec_from_file_location("coverage_simulation", path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("n", one_fast([5, 3]))
def test_coverage_is_what_is_printed(simulation, n):
    trials = 200
    measured = [
        simulation.coverage(first, second, n, trials, replicates=400)
        for first, second in simulation.populations().values()
    ]
    for kind, by_n in COVERAGE.items():
        shares = [shape[kind] for shape in measured]
        for printed, found in zip(by_n[n], (min(shares), max(shares)), strict=True):
            error = np.sqrt(printed / 100 * (1 - printed / 100) / trials)
            assert found == pytest.approx(printed / 100, abs=0.005 + 3 * error), kind


def test_pairing_takes_the_shared_part_of_the_noise_out():
    generator = np.random.default_rng(0)
    shared = generator.normal(size=10)
    first = {seed: float(shared[seed] + 0.5) for seed in range(10)}
    second = {seed: float(shared[seed]) for seed in range(10)}
    difference = paired_difference(first, second, mean)
    assert difference == pytest.approx((0.5, 0.5, 0.5, 10))


def test_only_shared_seeds_are_compared():
    difference = paired_difference({0: 1.0, 1: 3.0, 7: 100.0}, {0: 0.0, 1: 1.0, 8: -100.0}, mean)
    assert (difference.point, difference.n) == (1.5, 2)
    assert paired_difference({0: 1.0}, {1: 1.0}).n == 0


def test_a_band_is_the_interval_at_every_step():
    curves = np.random.default_rng(0).random((6, 4))
    band = bootstrap_band(curves, seed=3, replicates=5000)
    assert band.point == pytest.approx(iqm(curves.T))
    for step in range(4):
        interval = bootstrap_interval(curves[:, step], seed=3)
        assert (band.low[step], band.high[step]) == pytest.approx((interval.low, interval.high), abs=0.03)
    assert np.isnan(bootstrap_band(curves[:1]).low).all()


def test_curves_are_aligned_on_the_steps_that_all_cover():
    grid, values = align(
        [
            (np.array([0.0, 100.0, 200.0]), np.array([0.0, 1.0, 0.0])),
            (np.array([0.0, 50.0, 150.0]), np.array([0.0, 0.5, 1.5])),
        ]
    )
    assert grid.tolist() == [0.0, 50.0, 100.0, 150.0]
    assert values.tolist() == [[0.0, 0.5, 1.0, 0.5], [0.0, 0.5, 1.0, 1.5]]
    with pytest.raises(ParameterError, match="overlap"):
        align([(np.array([0.0]), np.array([0.0])), (np.array([5.0]), np.array([0.0]))])
    with pytest.raises(ParameterError, match="at least one run"):
        align([])


def test_the_share_at_the_target_counts_a_run_as_long_as_it_was_watched():
    grid = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 9.0])
    everyone = reached_fraction(np.array([1.0, 3.0, 3.0, 9.0]), np.array([True, True, True, False]), grid)
    assert everyone.tolist() == [0.0, 0.25, 0.25, 0.75, 0.75, 0.75]
    # After step 2, when one of four is lost, two of the remaining two get there: 1 - 3/4 * 1/2 * 0.
    lost = reached_fraction(np.array([1.0, 2.0, 3.0, 4.0]), np.array([True, False, True, True]), grid)
    assert lost == pytest.approx([0.0, 0.25, 0.25, 1 - 3 / 4 / 2, 1.0, 1.0])


def test_the_band_of_the_share_at_the_target_is_that_of_a_profile_where_nothing_is_lost():
    steps, grid = 100.0 * np.arange(8.0), np.array([50.0, 250.0, 650.0])
    band = reached_band(steps, np.ones(8, bool), grid)
    profile = performance_profile(-steps, -grid)
    np.testing.assert_allclose(band[:3], profile[:3])
    assert np.isnan(reached_band(steps[:1], np.ones(1, bool), grid).low).all()


def test_the_caveat_says_what_was_measured_for_the_n_in_use():
    assert coverage_caveat(1) == "n = 1: no interval can be given"
    three = "n = 3: nominal 95 % intervals cover the true value in 74 to 75 % (IQM) of simulated cases"
    assert coverage_caveat(3, ["IQM"]) == three + "; take at least 5 seeds"
    assert coverage_caveat(5).endswith("in 89 % (IQM), 65 to 83 % (mean) of simulated cases")
    # Between and above what was simulated, the next smaller n speaks.
    assert coverage_caveat(14, ["IQM"]).removeprefix("n = 14") == coverage_caveat(10, ["IQM"]).removeprefix("n = 10")
    assert "94 % (IQM)" in coverage_caveat(50)
