"""Quality of episodes, and the weights and the table made of it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_samples import dataset, trajectory
from wsrl_kit.data.weights import compute_data_quality, episode_quality, source_table, weigh
from wsrl_kit.errors import ParameterError

SUCCESS = st.sampled_from([False, None, True])
FINITE = st.floats(-1e6, 1e6)


def quality_of(
    success: bool | None, rewards: list[float], low: float = 0.0, high: float = 1.0, longest: int = 50
) -> float:
    episode = trajectory(len(rewards), success=success, rewards=rewards)
    return compute_data_quality(episode, (low, high), longest)


def test_quality_by_hand() -> None:
    assert quality_of(True, [1.0]) == pytest.approx(1.0)
    assert quality_of(False, [0.0]) == 0.0
    assert quality_of(True, [0.0] * 25 + [1.0]) == pytest.approx(0.5 + 0.3 + 0.2 * 0.5)
    assert quality_of(None, [0.5]) == pytest.approx(0.25 + 0.15 + 0.1)
    assert quality_of(False, [2.0], low=-2.0, high=6.0) == pytest.approx(0.15)
    assert compute_data_quality(trajectory(4)) == pytest.approx(0.5 + 0.3 + 0.2 * 0.25)


def test_where_success_is_unknown_shorter_is_not_better() -> None:
    assert quality_of(None, [0.5]) == quality_of(None, [0.0] * 40 + [0.5])
    assert quality_of(True, [0.5]) > quality_of(True, [0.0] * 40 + [0.5])


def test_episodes_of_unknown_success_weigh_alike_whatever_their_length() -> None:
    episodes = [trajectory(length, success=None, rewards=[0.0] * length) for length in (3, 30)]
    assert len(np.unique(weigh(dataset(*episodes), {}).weight)) == 1


@given(SUCCESS, st.lists(FINITE, min_size=1, max_size=60), FINITE, FINITE)
@example(False, [1.0], 0.0, 2.2e-311)
def test_quality_is_always_in_the_unit_interval(
    success: bool | None, rewards: list[float], low: float, high: float
) -> None:
    assert 0 <= quality_of(success, rewards, low, high) <= 1


@given(SUCCESS, SUCCESS, FINITE)
def test_quality_never_falls_with_success(one: bool | None, other: bool | None, reward: float) -> None:
    better, worse = sorted([one, other], key=[False, None, True].index, reverse=True)
    assert quality_of(better, [reward]) >= quality_of(worse, [reward])


@given(SUCCESS, FINITE, FINITE, FINITE, FINITE)
def test_quality_never_falls_with_the_return(
    success: bool | None, one: float, other: float, low: float, high: float
) -> None:
    better, worse = max(one, other), min(one, other)
    assert quality_of(success, [better], low, high) >= quality_of(success, [worse], low, high)


@given(SUCCESS, st.integers(1, 60), st.integers(1, 60))
def test_quality_never_rises_with_length(success: bool | None, one: int, other: int) -> None:
    shorter, longer = sorted([one, other])
    assert quality_of(success, [0.0] * shorter) >= quality_of(success, [0.0] * longer)


def test_quality_of_a_dataset_uses_its_own_ranges() -> None:
    data = dataset()
    ranges = (float(data.episode_returns.min()), float(data.episode_returns.max())), int(data.episode_lengths.max())
    expected = [compute_data_quality(t, *ranges) for t in data.trajectories()]
    np.testing.assert_allclose(episode_quality(data), expected, rtol=1e-6)


def test_weights_are_source_times_quality_times_bonus_with_mean_one() -> None:
    data = weigh(dataset(), {"demos": 2.0, "random": 0.5}, 1.5)
    assert data.weight.mean() == pytest.approx(1.0, rel=1e-6)
    by_hand = np.array([2.0, 2.0, 1.0, 1.0, 0.5]) * (0.5 + episode_quality(data)) * np.array([1.5, 1.5, 1, 1.5, 1])
    of_episode = data.weight[data.episode_starts]
    np.testing.assert_allclose(of_episode / of_episode[0], by_hand / by_hand[0], rtol=1e-6)
    np.testing.assert_array_equal(data.weight, of_episode[data.episode_of_row])


def test_weights_without_quality_are_source_times_bonus() -> None:
    weight = weigh(dataset(), {"demos": 2.0, "random": 0.5}, 1.5, quality_weighting=False).weight
    by_hand = np.repeat(np.array([2.0, 2.0, 1.0, 1.0, 0.5]) * [1.5, 1.5, 1, 1.5, 1], dataset().episode_lengths)
    np.testing.assert_allclose(weight, by_hand / by_hand.mean(), rtol=1e-6)


def test_weighing_again_starts_anew() -> None:
    once = weigh(dataset(), {"demos": 2.0}, 1.5)
    np.testing.assert_array_equal(weigh(once, {"demos": 2.0}, 1.5).weight, once.weight)


def test_a_source_of_weight_zero_counts_nothing() -> None:
    data = weigh(dataset(), {"random": 0.0}, 1.0)
    np.testing.assert_array_equal(data.weight[15:], 0)
    assert data.weight.mean() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("weights", "bonus", "message"),
    [
        ({"demos": -1.0}, 1.5, "'demos' must be a finite number of at least 0, found -1"),
        ({"demos": float("nan")}, 1.5, "'demos'"),
        ({}, -0.5, "'success_weight_bonus' .* found -0.5"),
        ({"demos": 0.0, "suboptimal": 0.0, "random": 0.0}, 1.5, "leave no transition with a weight above 0"),
    ],
)
def test_impossible_weights_are_refused(weights: dict[str, float], bonus: float, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        weigh(dataset(), weights, bonus)


def test_the_table_has_a_row_per_source() -> None:
    table = source_table(weigh(dataset(), {"demos": 2.0}, 1.5))
    assert [row["source"] for row in table] == ["demos", "suboptimal", "random"]
    assert [row["episodes"] for row in table] == [2, 2, 1]
    assert [row["transitions"] for row in table] == [7, 8, 6]
    assert [row["success_rate"] for row in table] == [1.0, 0.5, 0.0]
    assert [row["mean_return"] for row in table] == [1.0, 0.5, 0.0]
    assert [row["mean_length"] for row in table] == [3.5, 4.0, 6.0]
    assert sum(float(row["weight_share"]) for row in table) == pytest.approx(1.0)
    assert sum(float(row["mean_weight"]) * int(row["transitions"]) for row in table) == pytest.approx(21)


def test_the_table_leaves_out_sources_without_episodes_and_unknown_success() -> None:
    data = dataset().select_episodes(np.array([4]))
    unknown = replace(data, episode_success=np.array([np.nan], np.float32))
    (row,) = source_table(unknown)
    assert row["source"] == "random"
    assert np.isnan(row["success_rate"])
