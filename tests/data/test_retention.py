"""What is kept of the offline data at the switch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_samples import assert_same, dataset, trajectory
from wsrl_kit.data.dataset import monte_carlo_returns
from wsrl_kit.data.weights import episode_quality, retain, retention_scores
from wsrl_kit.errors import DataError, ParameterError


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-6, 1.0), st.lists(st.sampled_from([0.0, 0.5, 1.0, 7.0]), min_size=21, max_size=21))
def test_exactly_the_highest_scores_are_kept(ratio: float, scores: list[float]) -> None:
    data, score = dataset(), np.array(scores)
    kept = retain(data, score, ratio)
    assert kept is not None
    count = max(int(21 * ratio), 1)
    assert len(kept) == count
    # Of equal scores the earlier rows.
    rows = sorted(range(21), key=lambda row: (-score[row], row))[:count]
    np.testing.assert_array_equal(kept.observations, data.observations[sorted(rows)])


def test_keeping_everything_changes_nothing_and_keeping_nothing_gives_none() -> None:
    data, scores = dataset(), np.arange(21.0)
    for unit in ("transition", "trajectory"):
        everything = retain(data, scores, 1.0, unit)
        assert everything is not None
        assert_same(everything, data)
        assert retain(data, scores, 0.0, unit) is None
        assert retain(data, scores, 1e-9, unit) is not None


def test_whole_episodes_are_kept_by_mean_score_until_the_count_is_reached() -> None:
    data = dataset()
    scores = np.repeat([1.0, 5.0, 3.0, 4.0, 5.0], data.episode_lengths)
    # Lengths 4 3 6 2 6; best first: episode 1 (3 rows), then 4 (6), then 3 (2), 2 (6), 0 (4).
    for ratio, episodes in ((0.1, [1]), (3 / 21, [1]), (0.2, [1, 4]), (10 / 21, [1, 3, 4]), (0.6, [1, 2, 3, 4])):
        kept = retain(data, scores, ratio, "trajectory")
        assert kept is not None
        assert_same(kept, data.select_episodes(np.array(episodes)))
        assert len(kept) >= int(21 * ratio)


def test_kept_transitions_weigh_one_on_average_and_as_before_among_themselves() -> None:
    weighted = dataset(trajectory(4, weight=np.array([1, 2, 6, 3], np.float32)))
    kept = retain(weighted, np.array([0.0, 1.0, 2.0, 0.0]), 0.5)
    assert kept is not None
    np.testing.assert_array_equal(kept.weight, [0.5, 1.5])
    assert kept.truncated[1]
    weightless = retain(dataset(trajectory(2, weight=np.array([0, 1], np.float32))), np.array([1.0, 0.0]), 0.5)
    assert weightless is not None
    np.testing.assert_array_equal(weightless.weight, [0])


def test_scores_by_td_error_reward_and_quality() -> None:
    data = dataset()
    errors = np.linspace(-1, 1, 21)
    np.testing.assert_array_equal(retention_scores("td_error", data, errors), np.abs(errors))
    np.testing.assert_array_equal(retention_scores("reward", data, discount=0.9), monte_carlo_returns(data, 0.9))
    np.testing.assert_array_equal(retention_scores("quality", data), episode_quality(data)[data.episode_of_row])


def test_a_sparse_reward_ranks_the_whole_approach_before_a_failure() -> None:
    data = dataset(trajectory(4, success=False), trajectory(4))
    kept = retain(data, retention_scores("reward", data), 0.5)
    assert kept is not None
    np.testing.assert_array_equal(kept.observations, data.observations[4:])


def test_a_mix_is_the_mean_of_three_ranks_with_ties_sharing_one() -> None:
    # Returns 0, 0, 1; qualities the same within an episode; TD errors 3, 1, 2.
    data = dataset(trajectory(2, success=False), trajectory(1))
    by_error, by_return = np.array([1.0, 0.0, 0.5]), np.array([0.25, 0.25, 1.0])
    expected = (by_error + by_return + by_return) / 3
    np.testing.assert_allclose(retention_scores("mix", data, np.array([-3.0, 1.0, 2.0])), expected)


def test_a_random_choice_follows_from_its_seed_and_favours_no_length() -> None:
    data = dataset(*(trajectory(length) for length in (2, 20) * 10))
    for unit, expected in (("transition", 10 / 11), ("trajectory", 1 / 2)):
        chosen = [retention_scores("random", data, unit=unit, seed=seed) for seed in range(200)]
        np.testing.assert_array_equal(chosen[3], retention_scores("random", data, unit=unit, seed=3))
        assert len({scores.tobytes() for scores in chosen}) == 200
        best = [data.episode_lengths[data.episode_of_row[np.argmax(scores)]] == 20 for scores in chosen]
        assert np.mean(best) == pytest.approx(expected, abs=0.1)


def test_impossible_requests_are_refused() -> None:
    data, scores = dataset(), np.ones(21)
    for ratio in (-0.1, 1.1, float("nan")):
        with pytest.raises(ParameterError, match=r"retention ratio must be in \[0, 1\], found"):
            retain(data, scores, ratio)
    with pytest.raises(ParameterError, match="retention unit must be one of transition, trajectory, found 'row'"):
        retain(data, scores, 0.5, "row")
    with pytest.raises(ParameterError, match="retention priority must be one of td_error, .* found 'luck'"):
        retention_scores("luck", data, scores)
    with pytest.raises(DataError, match="'mix' needs 21 TD errors"):
        retention_scores("mix", data)
    for bad in (np.ones(20), np.full(21, np.nan)):
        with pytest.raises(DataError, match="21 finite scores"):
            retain(data, bad, 0.5)
