"""A human takes over: what is recorded, on which side, and that a run goes on from a checkpoint to the same bits."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest

from camera_samples import Spot, record
from training_samples import StopAt, measured, same_checkpoint, settings, stored, taken
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.data.dataset import Dataset
from wsrl_kit.data.formats.hil_serl import write_hil_serl
from wsrl_kit.data.trajectory import Trajectory
from wsrl_kit.envs.make import make
from wsrl_kit.errors import ExperimentError, RobotError, Stopped
from wsrl_kit.replay.frames import FrameBatches
from wsrl_kit.replay.mixture import Replay
from wsrl_kit.replay.ring import Ring
from wsrl_kit.runs.progress import Silent
from wsrl_kit.runs.run import read_run
from wsrl_kit.training import finetune
from wsrl_kit.training import start as agents
from wsrl_kit.training.episode import action_taken
from wsrl_kit.training.evaluation import Evaluator
from wsrl_kit.training.jobs import run_finetune
from wsrl_kit.training.sight import dataset_frames

HELPED = {
    # Two take-overs in an episode, of which the second lasts to its time limit; one that ends in the terminal state;
    # none; and one that the end of the run cuts.
    0: {2, 3, 6, 7},
    1: {0, 4},
    3: {1, 2},
}
"""Steps that the human takes, by episode. Episode 1 terminates after five steps, the others last eight."""


class Helped(gymnasium.Env):
    """Observes episode and step; the human's action is (episode, step) / 10."""

    observation_space = gymnasium.spaces.Box(-1.0, 10.0, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    override: Any = None
    lost_at: Any = None

    def __init__(self) -> None:
        self._episode = -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._episode, self._step = self._episode + 1, 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        info: dict[str, Any] = {"contact_force": 10.0 * self._episode + self._step}
        if (self._episode, self._step) == self.lost_at:
            raise RobotError("lost")
        if self._step in HELPED.get(self._episode, ()):
            info["intervene_action"] = np.array([self._episode, self._step]) / 10
            if self.override is not None:
                info["intervene_action"] = self.override
        self._step += 1
        return self._observe(), 0.0, self._episode == 1 and self._step == 5, False, info

    def _observe(self) -> np.ndarray:
        return np.array([self._episode, self._step], np.float32)


ROWS = [(0, 2), (0, 3), (0, 6), (0, 7), (1, 0), (1, 4), (3, 1), (3, 2)]
"""Episode and step of every intervention, in order."""


def playing(offline: Dataset | None = None, **changes: Any) -> Iterator[Any]:
    """24 steps without updates: episodes 0 (8 steps), 1 (5), 2 (8), 3 (3, cut)."""
    task = {"exp_name": "wsrl_kit_tests/Helped-v0", "environment_options": {}, "batch_size": 3}
    lengths = {"online_steps": 24, "frozen_rollout_steps": 24, "log_interval": 4, "checkpoint_interval": 1}
    config = settings(**(task | lengths | {"evaluation_interval": 24} | changes))
    environment = make(config.exp_name)
    static, agent = agents.create(config, environment, offline)
    tree = finetune.initial_tree(config, static, agent, offline)
    return finetune.finetune(config, static, tree, environment, Evaluator(config), None)


def run(offline: Dataset | None = None, **changes: Any) -> tuple[list[Any], Any]:
    """Events and last replay of these."""
    events = taken(playing(offline, **changes))
    return events, events[-1].tree["replay"]


@pytest.fixture(scope="module", autouse=True)
def helped() -> Any:
    gymnasium.register("wsrl_kit_tests/Helped-v0", Helped, max_episode_steps=8)
    gymnasium.register("wsrl_kit_tests/HelpedSpot-v0", HelpedSpot, max_episode_steps=8)
    yield
    del gymnasium.registry["wsrl_kit_tests/Helped-v0"], gymnasium.registry["wsrl_kit_tests/HelpedSpot-v0"]


def demonstrations() -> Dataset:
    trajectory = Trajectory(
        observations=np.full((5, 2), -1, np.float32),
        actions=np.zeros((4, 2), np.float32),
        rewards=np.zeros(4, np.float32),
        terminated=False,
        truncated=True,
        success=None,
    )
    return Dataset.from_trajectories([trajectory])


@pytest.mark.parametrize("with_data", [False, True])
def test_the_humans_actions_are_recorded_and_join_the_demonstrations_in_whole_segments(with_data):
    data = demonstrations() if with_data else None
    events, replay = run(data, intervention_capacity=20, use_prioritized_replay=True)
    steps = [(0, step) for step in range(8)] + [(1, step) for step in range(5)]
    steps += [(2, step) for step in range(8)] + [(3, step) for step in range(3)]
    online = stored(replay["online"], 2, 2)
    np.testing.assert_array_equal(online.observation, steps)
    is_human = np.array([step in ROWS for step in steps])
    expected = np.array(steps, np.float32) / 10
    np.testing.assert_array_equal(online.action[is_human], expected[is_human])
    assert not np.isclose(online.action[~is_human], expected[~is_human]).all(axis=1).any()

    before = 4 if with_data else 0
    demos = stored(replay["offline"], 2, 2)
    assert len(demos.reward) == before + len(ROWS)
    assert (demos.observation[:before] == -1).all()
    added = jax.tree.map(lambda column: column[before:], demos)
    np.testing.assert_array_equal(added.observation, ROWS)
    np.testing.assert_array_equal(added.next_observation, np.add(ROWS, [0, 1]))
    np.testing.assert_array_equal(added.action, np.array(ROWS, np.float32) / 10)
    # Only the step that ended the task does not bootstrap: hand-backs, the time limit and the cut do.
    np.testing.assert_array_equal(added.mask, [1, 1, 1, 1, 1, 0, 1, 1])
    assert (added.weight == 1).all()
    # They are drawn like the data that were there.
    _, drawn = Replay(Ring(replay["offline"], 0.6), Ring(replay["online"], 0.6), seed=0).sample(0, (4, 64), 1.0, 0.4)
    assert drawn.offline_rows == 64
    assert set(np.unique(drawn.places)) == set(range(before + len(ROWS)))

    assert measured(events, "training/intervention_rate") == {4: 0.5, 8: 0.5, 12: 0.25, 16: 0.25, 20: 0.0, 24: 0.5}
    assert measured(events, "training/episode_interventions") == {8: 2.0, 13: 2.0}
    assert measured(events, "training/episode_intervention_steps") == {8: 4.0, 13: 2.0}
    # Each hand-over with its step and the peak force around it; a takeover that the episode ends has no length.
    assert measured(events, "training/takeover_steps") == {4: 2.0, 9: 1.0}
    assert measured(events, "training/handback_force") == {4: 7.0, 9: 14.0}
    assert measured(events, "training/takeover_force") == {2: 7.0, 6: 7.0, 8: 14.0, 12: 14.0, 22: 32.0}


def test_a_segment_is_with_the_demonstrations_at_the_next_episode_and_the_share_begins_with_a_batch(monkeypatch):
    changes = {"offline_ratio_schedule": "constant", "initial_offline_ratio": 0.5, "min_offline_ratio": 0.5}
    events, _ = run(intervention_capacity=20, batch_size=5, log_interval=1, **changes)
    held = [int(event.tree["replay"]["offline"]["size"]) for event in events if hasattr(event, "tree")]
    assert held == [4, 6, 6, 8]
    # The fifth is there after step 9, of which the human hands back at step 10.
    ratio = measured(events, "training/offline_ratio")
    assert [ratio[step] for step in range(1, 25)] == [0.0] * 10 + [0.5] * 14


@pytest.mark.parametrize(("capacity", "expected"), [(0, []), (3, [(1, 4), (3, 1), (3, 2)])])
def test_the_oldest_give_way_where_the_rows_are_fewer_and_without_rows_none_are_kept(capacity, expected):
    _, replay = run(intervention_capacity=capacity)
    kept = stored(replay["offline"], 2, 2).observation
    np.testing.assert_array_equal(kept, np.reshape(expected, (-1, 2)))
    assert int(replay["online"]["size"]) == 24


def test_what_a_human_did_is_kept_where_contact_is_lost_before_they_hand_back(monkeypatch):
    monkeypatch.setattr(Helped, "lost_at", (0, 7))
    steps, events = playing(intervention_capacity=20, evaluation_episodes=0), []
    with pytest.raises(RobotError):
        events.extend(event for each in steps for event in taken([each]))
    kept = stored(events[-1].tree["replay"]["offline"], 2, 2).observation
    np.testing.assert_array_equal(kept, [(0, 2), (0, 3), (0, 6)])


@pytest.mark.parametrize(
    "action",
    [
        np.array([0.2, 3.01]),
        np.array([np.nan, 0.0]),
        np.zeros(3),
        np.zeros((2, 1)),
        ["1", "0"],
        [[1], [2, 3]],
        "left",
        {},
    ],
)
def test_a_humans_action_out_of_range_is_refused_in_one_sentence(action):
    with pytest.raises(
        ExperimentError, match=r"^info\['intervene_action'\] must be 2 numbers in \[-1, 1\], found "
    ) as caught:
        action_taken(np.zeros(2, np.float32), {"intervene_action": action})
    assert str(caught.value).isprintable()


def test_a_humans_action_in_the_grippers_frame_is_clipped(monkeypatch):
    monkeypatch.setattr(Helped, "override", [0.5, -1.57])
    _, replay = run(intervention_capacity=20)
    kept = stored(replay["offline"], 2, 2).action
    np.testing.assert_array_equal(kept, np.tile(np.float32([0.5, -1.0]), (len(ROWS), 1)))


SHOWN: list[tuple[Any, Any]] = []
"""What the cameras showed before and after every intervention."""


class HelpedSpot(Spot):
    """The human takes over at random, and leaves the column where it is."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = super().reset(seed=seed, options=options)
        self._helper = np.random.default_rng(seed)
        self._last = self._before = observation
        return observation, info

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        is_human = self._helper.random() < 0.4
        before = (self._before, self._last)
        observation, reward, terminated, truncated, info = super().step(action * (not is_human))
        if is_human:
            info["intervene_action"] = np.zeros(1)
            SHOWN.append((before, (self._last, observation)))
        self._before, self._last = self._last, observation
        return observation, reward, terminated, truncated, info


def helped_spot(**changes: Any) -> WSRLConfig:
    task = {"exp_name": "wsrl_kit_tests/HelpedSpot-v0", "environment_options": {"observation_horizon": 2}}
    lengths = {"online_steps": 60, "frozen_rollout_steps": 60, "evaluation_interval": 60, "checkpoint_interval": 10}
    return settings(**(task | lengths | {"batch_size": 8, "hidden_sizes": [8], "intervention_capacity": 30} | changes))


@pytest.mark.slow
def test_the_demonstrations_show_what_the_cameras_showed():
    config = helped_spot()
    dataset = Dataset.from_trajectories(record(6, observation_horizon=2))
    environment = make(config.exp_name, config.environment_options)
    static, agent = agents.create(config, environment, dataset)
    tree = finetune.initial_tree(config, static, agent, dataset)
    evaluator = Evaluator(replace(config, exp_name="wsrl_kit_tests/Spot-v0"))
    SHOWN.clear()
    last = taken(finetune.finetune(config, static, tree, environment, evaluator, None))[-1].tree
    offline = last["replay"]["offline"]
    count = len(dataset) + len(SHOWN)
    assert len(SHOWN) > 10
    assert int(offline["size"]) == count
    sides = FrameBatches().gather(np.arange(count), [(offline["frames"].store, slice(None))])
    data = dataset_frames(static, agent, dataset)
    for camera in ("front", "back"):
        for side in range(2):
            known = FrameBatches().gather(np.arange(len(dataset)), [(data, slice(None))])[side][camera]
            np.testing.assert_array_equal(sides[side][camera][: len(dataset)], known)
            shown = [np.stack([each[camera] for each in pair[side]]) for pair in SHOWN]
            np.testing.assert_array_equal(sides[side][camera][len(dataset) :], np.stack(shown))


@pytest.mark.slow
def test_a_stopped_run_with_interventions_goes_on_to_the_same_end(tmp_path: Path) -> None:
    write_hil_serl(tmp_path / "demos.pkl", record(4, observation_horizon=2))
    # So few rows that demonstrations give way; the last steps learn from what is left.
    config = helped_spot(
        demo_path=str(tmp_path / "demos.pkl"),
        frozen_rollout_steps=54,
        intervention_capacity=4,
        update_to_data_ratio=1,
        evaluation_episodes=1,
    )
    run_finetune(config, tmp_path / "whole", Silent())
    # In the middle of an episode this task, which may be a robot for all that is known, would end it.
    ends = read_run(tmp_path / "whole").curve("training/episode_length").environment_step
    with pytest.raises(Stopped):
        run_finetune(config, tmp_path / "halves", StopAt(int(ends[ends >= 40][0])))
    assert list((tmp_path / "halves" / "demo_frames").iterdir())
    run_finetune(config, tmp_path / "halves", Silent())
    assert (tmp_path / "whole" / "metrics.csv").read_bytes() == (tmp_path / "halves" / "metrics.csv").read_bytes()
    assert same_checkpoint(*(tmp_path / name / "checkpoint.npz" for name in ("whole", "halves")))
    assert read_run(tmp_path / "whole").curve("training/intervention_rate").value.max() > 0
    # For more steps, some day.
    assert list((tmp_path / "halves" / "demo_frames").iterdir())
