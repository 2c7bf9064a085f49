"""Acting beside learning: nothing is lost, learning is the same as inline, and the robot waits when it must."""

import threading
import time
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from remote_samples import learned_inline
from robot_samples import served
from training_samples import PENDULUM, StopAt, last, measured, same, settings, start_finetune, taken
from waiting import wait_for
from wsrl_kit.agent import jax_tools, sac
from wsrl_kit.agent.transition import unpacked
from wsrl_kit.config.config import THREAD, WSRLConfig
from wsrl_kit.envs.make import make
from wsrl_kit.errors import ExperimentError, Stopped
from wsrl_kit.parameters import build
from wsrl_kit.runs.loop import Snapshot
from wsrl_kit.runs.progress import Silent
from wsrl_kit.runs.run import read_run
from wsrl_kit.training import start as agents
from wsrl_kit.training.actor import ActorStopped, InlineActor, ThreadedActor
from wsrl_kit.training.episode import EnvironmentStep
from wsrl_kit.training.jobs import run_finetune

BESIDE = {"learner": THREAD, "evaluation_episodes": 0} | PENDULUM


def test_learning_in_a_thread_is_learning_inline_from_the_same_transitions() -> None:
    config = settings(**BESIDE, learner_lag=5, random_steps=20)
    events = taken(start_finetune(config))
    found = last(events)
    assert int(found["environment_step"]) == config.online_steps
    assert int(found["agent"].updates) == (config.online_steps - config.random_steps) * config.update_to_data_ratio
    assert max(measured(events, "training/steps_ahead").values()) <= 5

    assert same(learned_inline(config, found), found["agent"])


def actor_of(config: WSRLConfig, environment: gymnasium.Env, lag: int) -> tuple[ThreadedActor, sac.SACState]:
    static, agent = agents.create(config, environment, None)
    key = jax_tools.key(config.seed, "acting")
    return ThreadedActor(InlineActor(config, lambda step: static, environment, key, sac.policy(agent), 0), lag), agent


wait_in_time = partial(wait_for, seconds=60.0)


def test_acting_is_ahead_of_learning_by_no_more_than_the_lag_and_stops_with_all_that_it_did() -> None:
    config = settings(**BESIDE)
    actor, agent = actor_of(config, make(config.exp_name, config.environment_options), 3)
    assert actor.begin(0, unpacked(np.zeros((0, 14), np.float32), 3, 1), 0) == []
    wait_in_time(lambda: actor.steps_ahead == 3)
    time.sleep(0.2)
    assert actor.steps_ahead == 3
    assert actor.step() is not None
    actor.learned(agent)
    wait_in_time(lambda: actor.steps_ahead == 3)
    actor.stop()
    assert all(isinstance(actor.step(), EnvironmentStep) for _ in range(3))
    wait_in_time(lambda: actor.has_stopped)
    assert isinstance(actor.step(), ActorStopped)
    actor.close()


def test_a_robot_holds_while_it_waits_for_learning() -> None:
    with served() as server:
        config = settings(exp_name="hirol_robot", environment_options={"robot_url": server.url, "deadline": 1.0})
        environment = make(config.exp_name, config.environment_options)
        actor, _ = actor_of(config, environment, 2)
        actor.begin(0, unpacked(np.zeros((0, 49), np.float32), 19, 6), 0)
        wait_in_time(lambda: actor.steps_ahead == 2)
        time.sleep(0.3)
        held = server.arm.state()["pose"]
        time.sleep(0.3)
        assert np.abs(np.subtract(server.arm.state()["pose"], held)).max() < 1e-3
        actor.close()
        environment.close()


def test_a_stopped_run_learned_from_every_step_and_goes_on_where_it_was(tmp_path: Path) -> None:
    config = settings(**BESIDE, learner_lag=4)
    with pytest.raises(Stopped):
        run_finetune(config, tmp_path, StopAt(40))
    run_finetune(config, tmp_path, Silent())
    record = read_run(tmp_path)
    assert record.status == "finished"
    recorded = record.curve("training/offline_ratio")
    assert recorded.environment_step.tolist() == list(range(7, 101, 7))
    np.testing.assert_array_equal(recorded.gradient_step, recorded.environment_step * config.update_to_data_ratio)


class Breaks(gymnasium.Wrapper):
    """An environment that fails at its 30th step."""

    def __init__(self, environment: gymnasium.Env) -> None:
        super().__init__(environment)
        self._steps = 0

    def step(self, action):
        self._steps += 1
        if self._steps == 30:
            raise OSError("the cable is out")
        return self.env.step(action)


def test_what_a_failing_environment_gave_before_is_learned_and_saved() -> None:
    config = settings(**BESIDE, learner_lag=20)
    events = start_finetune(config, environment=Breaks(make(config.exp_name, config.environment_options)))
    seen = []
    with pytest.raises(ExperimentError, match="the cable is out"):
        seen.extend(events)
    (saved,) = [event.tree for event in seen[-1:] if isinstance(event, Snapshot)]
    assert int(saved["environment_step"]) == 29
    assert int(saved["agent"].updates) == 29 * config.update_to_data_ratio


def test_the_thread_ends_with_the_loop_that_it_serves() -> None:
    config = settings(**BESIDE)
    events = start_finetune(config)
    next(events)
    threads = [thread for thread in threading.enumerate() if thread.name == "actor"]
    events.close()
    assert not any(thread.is_alive() for thread in threads)


def test_beside_a_robot_learning_is_in_a_thread_unless_it_is_told_otherwise() -> None:
    assert build(WSRLConfig, {"robot_url": "http://127.0.0.1:1"}).learner == THREAD
    assert build(WSRLConfig, {"robot_url": "http://127.0.0.1:1", "learner": "inline"}).learner == "inline"
    assert build(WSRLConfig, {}).learner == "inline"
