"""Statistics over runs: against hand-computed values, rliable's numbers and simulated truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsrl_kit.analysis.statistics import (
    align,
    bootstrap_band,
    bootstrap_interval,
    coverage_caveat,
    iqm,
    mean,
    paired_difference,
    probability_of_improvement,
)
from wsrl_kit.errors import ParameterError

# Printed by rliable 1.2.0 (aggregate_iqm; get_interval_estimates with 20,000 replicates).
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

runs = st.lists(st.floats(0.0, 1.0).map(lambda value: round(value, 2)), min_size=1, max_size=12)


@pytest.mark.parametrize(("values", "expected"), RLIABLE_IQM)
def test_iqm_is_rliables(values, expected):
    assert iqm(np.array(values)) == pytest.approx(expected)


def test_iqm_works_along_the_last_axis():
    values = np.arange(24.0).reshape(2, 3, 4)
    assert iqm(values) == pytest.approx(values[..., 1:3].mean(-1))


def test_intervals_are_rliables():
    interval = bootstrap_interval(FIRST)
    assert interval.point == pytest.approx(0.775)
    assert (interval.low, interval.high) == pytest.approx((0.65833333, 0.875), abs=0.01)
    five = bootstrap_interval(np.array([0.2, 0.9, 0.5, 0.75, 1.0]))
    assert (five.point, five.low, five.high) == pytest.approx((0.71666667, 0.3, 0.96666667), abs=0.01)


def test_probability_of_improvement_is_rliables():
    interval = probability_of_improvement(FIRST, SECOND)
    assert interval.point == pytest.approx(0.805)
    assert (interval.low, interval.high) == pytest.approx((0.595, 0.965), abs=0.01)


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


def test_coverage_is_what_the_caveat_says():
    generator = np.random.default_rng(0)
    for n, claimed in ((3, 0.74), (5, 0.90), (10, 0.93)):
        intervals = [bootstrap_interval(sample, replicates=400) for sample in generator.normal(size=(500, n))]
        covered = np.mean([interval.low <= 0.0 <= interval.high for interval in intervals])
        assert covered == pytest.approx(claimed, abs=0.05)


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


def test_the_caveat_warns_below_five_runs():
    assert coverage_caveat(1) == "n = 1: no interval can be given"
    assert "less than 74 %" in coverage_caveat(2)
    assert "74 %" in coverage_caveat(4)
    assert "at least 5 seeds" in coverage_caveat(4)
    assert "90 %" in coverage_caveat(7)
    assert "at least" not in coverage_caveat(7)
    assert "94 %" in coverage_caveat(50)
