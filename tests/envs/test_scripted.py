"""Scripted data: success rates of the three policies, and what a collected trajectory holds."""

import numpy as np
import pytest

from wsrl_kit.data.trajectory import Trajectory
from wsrl_kit.envs.collect import collect
from wsrl_kit.envs.make import make
from wsrl_kit.envs.scripts import scripted_policy
from wsrl_kit.errors import ExperimentError

ROBOT = "hirol_fixed_gripper"


def success_rate(trajectories: list[Trajectory]) -> float:
    return float(np.mean([trajectory.success for trajectory in trajectories]))


@pytest.mark.parametrize(("difficulty", "rate"), [("easy", 1.0), ("default", 0.95), ("hard", 0.9)])
def test_the_expert_succeeds_in_every_difficulty(difficulty, rate):
    trajectories = collect(ROBOT, {"difficulty": difficulty}, "expert", episodes=25, seed=0)
    assert success_rate(trajectories) >= rate
    assert 15 < np.mean([len(trajectory) for trajectory in trajectories]) < 45


@pytest.mark.slow
def test_the_suboptimal_operator_succeeds_in_a_third_to_a_half_of_the_default_episodes():
    trajectories = collect(ROBOT, {}, "suboptimal", episodes=120, seed=0)
    assert 0.30 <= success_rate(trajectories) <= 0.45


def test_random_actions_never_succeed():
    trajectories = collect(ROBOT, {}, "random", episodes=15, seed=0)
    assert success_rate(trajectories) == 0.0
    assert all(len(trajectory) == 100 and trajectory.truncated for trajectory in trajectories)


def test_the_noise_knob_reaches_from_a_faultless_to_a_useless_expert():
    environment = make(ROBOT, {"difficulty": "easy"})

    def steps_to_success(noise: float) -> float:
        observation, _ = environment.reset(seed=1)
        policy = scripted_policy("expert", environment, np.random.default_rng(0), noise)
        for step in range(1, 101):
            observation, _, terminated, _, _ = environment.step(policy(observation))
            if terminated:
                return step
        return np.inf

    assert steps_to_success(0.0) < steps_to_success(0.15) < steps_to_success(1.0)


def test_a_trajectory_holds_what_happened():
    trajectory = collect(ROBOT, {}, "expert", episodes=1, seed=0)[0]
    steps = len(trajectory)
    assert trajectory.observations.shape == (steps + 1, 19) and trajectory.actions.shape == (steps, 6)
    assert np.abs(trajectory.actions).max() <= 1.0
    assert trajectory.rewards.tolist() == [0.0] * (steps - 1) + [1.0]
    assert (trajectory.terminated, trajectory.truncated, trajectory.success) == (True, False, True)
    assert trajectory.source == "demos"


@pytest.mark.parametrize("kind", ("expert", "suboptimal", "random"))
def test_episode_i_depends_on_the_seed_and_i_alone(kind):
    few, many = (collect(ROBOT, {}, kind, episodes=count, seed=9) for count in (2, 3))
    for one, other in zip(few, many, strict=False):
        assert np.array_equal(one.observations, other.observations) and np.array_equal(one.actions, other.actions)
    assert not np.array_equal(many[1].observations[0], many[2].observations[0])
    other_seed = collect(ROBOT, {}, kind, episodes=1, seed=10)
    assert not np.array_equal(few[0].observations[0], other_seed[0].observations[0])


def test_progress_is_told_of_every_episode():
    told: list[int] = []
    collect(ROBOT, {"max_episode_steps": 2}, "random", episodes=3, seed=0, progress=told.append)
    assert told == [1, 1, 1]


def test_random_data_of_any_environment():
    trajectories = collect("Pendulum-v1", {"max_episode_steps": 20}, "random", episodes=2, seed=0)
    assert [len(trajectory) for trajectory in trajectories] == [20, 20]
    assert all(trajectory.success is None and trajectory.source == "random" for trajectory in trajectories)
    assert trajectories[0].observations.dtype == np.float32


@pytest.mark.parametrize("kind", ("expert", "suboptimal"))
def test_a_script_for_another_task_is_refused(kind):
    with pytest.raises(ExperimentError, match=f"found '{kind}' of .*Pendulum"):
        collect("Pendulum-v1", {}, kind, episodes=1, seed=0)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ExperimentError, match="found 'perfect'"):
        collect(ROBOT, {}, "perfect", episodes=1, seed=0)
