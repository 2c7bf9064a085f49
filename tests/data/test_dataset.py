"""The container of offline data: joining, selecting, holding out, and Monte-Carlo returns."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_samples import assert_same, dataset, three_sources, trajectory
from wsrl_kit.data.dataset import Dataset, monte_carlo_returns
from wsrl_kit.errors import DataError, ParameterError


def test_trajectories_become_flat_arrays_and_come_back() -> None:
    data = dataset()
    assert len(data) == 21
    assert data.episode_count == 5
    assert data.source_names == ("demos", "suboptimal", "random")
    np.testing.assert_array_equal(data.episode_ends, [4, 7, 13, 15, 21])
    np.testing.assert_array_equal(data.episode_lengths, [4, 3, 6, 2, 6])
    np.testing.assert_array_equal(np.flatnonzero(data.terminated), [3, 6, 14, 20])
    np.testing.assert_array_equal(np.flatnonzero(data.truncated), [12])
    np.testing.assert_array_equal(data.episode_returns, [1, 1, 0, 1, 0])
    np.testing.assert_array_equal(data.episode_of_row, np.repeat(np.arange(5), [4, 3, 6, 2, 6]))
    for found, given_ in zip(data.trajectories(), three_sources(), strict=True):
        np.testing.assert_array_equal(found.observations, given_.observations)
        assert (found.terminated, found.truncated, found.success) == (
            given_.terminated,
            given_.truncated,
            given_.success,
        )
    assert_same(Dataset.from_trajectories(data.trajectories()), data)


def test_unknown_success_is_nan_and_none_again() -> None:
    data = dataset(trajectory(success=None), trajectory(success=False))
    np.testing.assert_array_equal(data.episode_success, [np.nan, 0])
    assert [t.success for t in data.trajectories()] == [None, False]


def test_a_trajectory_without_a_recorded_end_is_truncated() -> None:
    data = dataset(replace(trajectory(), terminated=False, truncated=False))
    assert data.truncated[-1]
    assert not data.terminated.any()


def test_weights_are_one_unless_trajectories_bring_their_own() -> None:
    data = dataset(trajectory(2), trajectory(2, weight=np.array([0.5, 2], np.float32)))
    np.testing.assert_array_equal(data.weight, [1, 1, 0.5, 2])
    assert data.is_weighted
    assert not dataset().is_weighted


def test_trajectories_of_different_sizes_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"Episode 1 of source 'odd' has observations of size 4, expected 3 as in episode 0"
    ):
        dataset(trajectory(), trajectory(observation_size=4, source="odd"))
    with pytest.raises(DataError, match="at least one trajectory"):
        Dataset.from_trajectories([])


def test_selected_episodes_are_whole() -> None:
    selected = dataset().select_episodes(np.array([4, 0]))
    expected = [three_sources()[0], three_sources()[4]]
    assert_same(selected, Dataset.from_trajectories(expected))


def test_selected_transitions_become_segments_truncated_where_they_were_cut() -> None:
    # Rows 2, 3 end episode 0; 4 begins episode 1 and is cut; 6 is its end; 8, 9 lie inside episode 2; 12 ends it.
    selected = dataset().select_transitions(np.array([9, 2, 3, 4, 6, 8, 12]))
    np.testing.assert_array_equal(selected.episode_ends, [2, 3, 4, 6, 7])
    np.testing.assert_array_equal(selected.terminated, [False, True, False, True, False, False, False])
    np.testing.assert_array_equal(selected.truncated, [False, False, True, False, False, True, True])
    np.testing.assert_array_equal(selected.episode_success, [1, 1, 1, 0, 0])
    np.testing.assert_array_equal(selected.episode_source, [0, 0, 0, 1, 1])
    np.testing.assert_array_equal(selected.observations, dataset().observations[[2, 3, 4, 6, 8, 9, 12]])
    with pytest.raises(DataError, match="at least one transition"):
        dataset().select_transitions(np.array([], dtype=int))


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, 20), min_size=1))
def test_every_segment_of_a_selection_is_unbroken(rows: set[int]) -> None:
    selected = dataset().select_transitions(np.array(sorted(rows)))
    assert len(selected) == len(rows)
    inside = ~np.isin(np.arange(len(selected)), selected.episode_ends - 1)
    np.testing.assert_array_equal(selected.next_observations[:-1][inside[:-1]], selected.observations[1:][inside[:-1]])
    ended = selected.terminated | selected.truncated
    np.testing.assert_array_equal(ended, ~inside)
    assert_same(Dataset.from_trajectories(selected.trajectories()), selected)


def test_holdout_takes_whole_episodes_of_which_each_is_on_one_side() -> None:
    data = dataset()
    train, holdout = data.split_holdout(0.4, seed=3)
    assert holdout is not None
    assert (train.episode_count, holdout.episode_count) == (3, 2)
    both = np.concatenate([train.observations, holdout.observations])
    np.testing.assert_array_equal(np.sort(both, axis=0), np.sort(data.observations, axis=0))
    assert_same(data.split_holdout(0.4, seed=3)[0], train)
    assert any(data.split_holdout(0.4, seed=s)[0].episode_lengths.sum() != len(train) for s in range(9))


def test_holdout_leaves_at_least_one_episode_on_each_side() -> None:
    _, holdout = dataset().split_holdout(0.01, seed=0)
    assert holdout is not None
    assert holdout.episode_count == 1
    train, _ = dataset().split_holdout(0.99, seed=0)
    assert train.episode_count == 1
    assert dataset().split_holdout(0.0, seed=0)[1] is None
    assert dataset(trajectory()).split_holdout(0.5, seed=0)[1] is None
    with pytest.raises(ParameterError, match=r"\[0, 1\), found 1"):
        dataset().split_holdout(1.0, seed=0)


def test_monte_carlo_returns_by_hand() -> None:
    data = dataset(
        trajectory(3, rewards=[1, 2, 4]),
        trajectory(2, rewards=[0, 8], terminated=False),
        trajectory(1, rewards=[5]),
    )
    np.testing.assert_array_equal(monte_carlo_returns(data, 0.5), [3, 4, 4, 4, 8, 5])
    np.testing.assert_array_equal(monte_carlo_returns(data, 1.0), [7, 6, 4, 8, 8, 5])
    np.testing.assert_array_equal(monte_carlo_returns(data, 0.0), [1, 2, 4, 0, 8, 5])


def test_an_episode_that_never_reaches_the_goal_is_penalised_for_ever() -> None:
    lost = trajectory(3, rewards=[-1, -1, -1], success=False, terminated=False)
    found = trajectory(3, rewards=[-1, -1, 0])
    failed = trajectory(3, rewards=[-1, -1, -1], success=False, terminated=True)
    returns = monte_carlo_returns(dataset(lost, found, failed), 0.5)
    np.testing.assert_allclose(returns, [-2, -2, -2, -1.5, -1, 0, -1.75, -1.5, -1])
    np.testing.assert_array_equal(monte_carlo_returns(dataset(lost), 1.0), [-3, -2, -1])
