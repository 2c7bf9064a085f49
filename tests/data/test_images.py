"""Images in datasets: every observation shows the frames it was recorded with, and no frame is kept twice."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_samples import CAMERAS, assert_same, dataset, stacked, three_sources, three_sources_with_images, trajectory
from wsrl_kit.data.dataset import Dataset
from wsrl_kit.data.weights import retain
from wsrl_kit.errors import DataError

# A naive store: both stacks of each row, by the row's (unlike any other) observation and next observation.
Store = dict[bytes, dict[str, np.ndarray]]

HORIZONS = st.integers(1, 3)


def naive_store(horizon: int) -> Store:
    store = {}
    for episode in three_sources_with_images(horizon):
        windows = {camera: stacked(frames, horizon) for camera, frames in episode.images.items()}
        for step, observation in enumerate(episode.observations):
            store[observation.tobytes()] = {camera: frames[step] for camera, frames in windows.items()}
    return store


def assert_shows_what_was_recorded(data: Dataset, horizon: int) -> None:
    store = naive_store(horizon)
    window = np.arange(1 - horizon, 1)
    for row, newest in enumerate(data.frame_of_row):
        for camera, frames in data.images.items():
            seen = store[data.observations[row].tobytes()][camera]
            np.testing.assert_array_equal(frames[newest + window], seen)
            led_to = store[data.next_observations[row].tobytes()][camera]
            np.testing.assert_array_equal(frames[newest + 1 + window], led_to)
    for camera, shape in CAMERAS.items():
        assert data.images[camera].nbytes == (len(data) + horizon * data.episode_count) * np.prod(shape)


@settings(max_examples=30, deadline=None)
@given(HORIZONS, st.sets(st.integers(0, 20), min_size=1))
def test_selected_transitions_show_what_was_recorded(horizon: int, rows: set[int]) -> None:
    data = Dataset.from_trajectories(three_sources_with_images(horizon))
    assert_shows_what_was_recorded(data, horizon)
    selected = data.select_transitions(np.array(sorted(rows)))
    assert_shows_what_was_recorded(selected, horizon)
    assert_same(Dataset.from_trajectories(selected.trajectories()), selected)
    # A selection of a selection needs the older frames of segments that begin inside an episode.
    if len(rows) > 2:
        assert_shows_what_was_recorded(selected.select_transitions(np.arange(1, len(rows), 2)), horizon)


@settings(max_examples=15, deadline=None)
@given(HORIZONS, st.sampled_from(["transition", "trajectory"]), st.floats(0.05, 1), st.integers(0, 99))
def test_kept_and_held_out_data_show_what_was_recorded(horizon: int, unit: str, ratio: float, seed: int) -> None:
    data = Dataset.from_trajectories(three_sources_with_images(horizon))
    kept = retain(data, np.random.default_rng(seed).random(len(data)), ratio, unit)
    train, holdout = data.split_holdout(0.4, seed)
    assert kept is not None
    assert holdout is not None
    for part in (kept, train, holdout, data.select_episodes(np.array([seed % 5]))):
        assert_shows_what_was_recorded(part, horizon)


def test_frames_by_hand() -> None:
    # Two episodes of 2 and 1 steps at horizon 2: frames 0 0 1 2, then 3 3 4; the value names the frame.
    def episode(values: list[int]) -> np.ndarray:
        return np.array(values, np.uint8)[:, None, None, None] * np.ones((1, 1, 1, 3), np.uint8)

    data = dataset(
        replace(trajectory(2, horizon=2), images={"wrist": episode([0, 0, 1, 2])}),
        replace(trajectory(1, horizon=2), images={"wrist": episode([3, 3, 4])}),
    )
    np.testing.assert_array_equal(data.frame_of_row, [1, 2, 5])
    np.testing.assert_array_equal(data.images["wrist"][data.frame_of_row, 0, 0, 0], [0, 1, 3])
    # The second step alone still shows frames 0 and 1, then 1 and 2.
    cut = data.select_transitions(np.array([1]))
    np.testing.assert_array_equal(cut.images["wrist"][:, 0, 0, 0], [0, 1, 2])
    np.testing.assert_array_equal(cut.frame_of_row, [1])


def test_data_without_cameras_hold_no_frames() -> None:
    data = dataset(*three_sources())
    assert data.images == {}
    assert data.grasp_penalty is None
    assert data.select_transitions(np.arange(5)).trajectories()[0].images == {}


def test_a_grasp_penalty_stays_with_its_transition_and_is_0_where_nobody_says() -> None:
    data = dataset(trajectory(2), trajectory(3, grasp_penalty=np.array([0, -0.02, -0.04], np.float32)))
    assert data.grasp_penalty is not None
    np.testing.assert_array_equal(data.grasp_penalty, np.array([0, 0, 0, -0.02, -0.04], np.float32))
    cut = data.select_transitions(np.array([1, 3]))
    assert cut.grasp_penalty is not None
    np.testing.assert_array_equal(cut.grasp_penalty, np.array([0, -0.02], np.float32))
    assert_same(Dataset.from_trajectories(data.trajectories()), data)


@pytest.mark.parametrize(
    ("cameras", "horizon", "message"),
    [
        ({"wrist_1": (8, 8, 3)}, 2, "has cameras wrist_1, expected cameras wrist_1, wrist_2 as in episode 0"),
        ({}, 2, "has no cameras, expected cameras wrist_1, wrist_2"),
        (CAMERAS | {"wrist_2": (6, 6, 3)}, 2, r"has images \(6, 6, 3\) from camera 'wrist_2', expected \(6, 4, 3\)"),
        (CAMERAS, 1, "has an observation horizon of 1, expected 2"),
    ],
)
def test_episodes_whose_images_do_not_fit_are_refused(cameras: dict, horizon: int, message: str) -> None:
    with pytest.raises(DataError, match=f"Episode 1 {message}"):
        dataset(trajectory(cameras=CAMERAS, horizon=2), trajectory(cameras=cameras, horizon=horizon))


def test_a_missing_frame_is_found() -> None:
    whole = trajectory(3, cameras=CAMERAS, horizon=2)
    cut = replace(whole, images=whole.images | {"wrist_2": whole.images["wrist_2"][1:]})
    with pytest.raises(DataError, match="has 4 frames of camera 'wrist_2' for 3 actions, expected 5"):
        dataset(whole, cut)
