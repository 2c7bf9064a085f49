"""Fine-tuning: what is learned from, when, and what is recorded about it."""

from itertools import pairwise
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.envs.classic_control.pendulum import PendulumEnv

from training_samples import (
    PENDULUM,
    host,
    last,
    measured,
    offline_data,
    same,
    settings,
    snapshots,
    start_finetune,
    stored,
    taken,
)
from wsrl_kit.agent import sac
from wsrl_kit.envs.collect import collect
from wsrl_kit.envs.make import make
from wsrl_kit.runs.loop import Measurement, Step
from wsrl_kit.training import finetune
from wsrl_kit.training.evaluation import Evaluator

PRIORITIZED = {"use_prioritized_replay": True}


@pytest.fixture(scope="module")
def alone() -> list[Any]:
    """The events of a run without offline data."""
    return taken(start_finetune(settings(), None))


@pytest.fixture(scope="module")
def with_data(sources) -> list[Any]:
    """The events of a run with offline data."""
    return taken(start_finetune(settings(), offline_data(settings(), sources)))


@pytest.mark.parametrize(("frozen", "random"), [(50, 0), pytest.param(0, 50, marks=pytest.mark.slow), (25, 50)])
def test_before_the_first_update_data_are_added_and_no_parameter_changes(sources, frozen, random):
    config = settings(frozen_rollout_steps=frozen, random_steps=random, checkpoint_interval=1)
    events = taken(start_finetune(config, offline_data(config, sources)))
    _, fresh = first_agent(config, sources)
    for tree in snapshots(events):
        step = int(tree["environment_step"])
        assert int(tree["replay"]["online"]["size"]) == step
        assert int(tree["agent"].updates) == 2 * max(0, step - 50)
        assert same(tree["agent"], fresh) == (step <= 50)
    assert [int(tree["environment_step"]) for tree in snapshots(events)][:2] == [25, 50]
    assert all(step > 50 for step in measured(events, "training/critic_loss"))
    steps = [(event.environment_step, event.gradient_step) for event in events if isinstance(event, Measurement)]
    assert all(gradient == 2 * max(0, step - 50) for step, gradient in steps)


def first_agent(config, sources):
    from wsrl_kit.training import start as agents

    environment = make(config.exp_name, config.environment_options)
    static, agent = agents.create(config, environment, offline_data(config, sources))
    return static, host(agent)


def test_random_steps_are_spread_over_all_actions(sources):
    config = settings(random_steps=100)
    actions = stored(last(taken(start_finetune(config, None)))["replay"]["online"], 19, 6).action
    assert np.histogram(actions, bins=4, range=(-1, 1))[0].min() > 0.2 * actions.size
    assert np.abs(actions).max() <= 1


def test_the_offline_ratio_that_is_recorded_follows_its_schedule(sources):
    config = settings(initial_offline_ratio=0.9, offline_decay_rate=0.99, min_offline_ratio=0.6, log_interval=1)
    ratios = measured(taken(start_finetune(config, offline_data(config, sources))), "training/offline_ratio")
    expected = {step: max(0.6, 0.9 * 0.99 ** (step - 1)) for step in range(1, 101)}
    assert ratios == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_the_priority_exponent_rises_to_its_end(sources):
    events = taken(start_finetune(settings(**PRIORITIZED, log_interval=1), None))
    beta = measured(events, "training/priority_beta")
    assert (beta[1], beta[100]) == (pytest.approx(0.4), pytest.approx(1.0, abs=0.01))
    assert all(before < after for before, after in pairwise(beta.values()))


@pytest.mark.slow
def test_behavior_cloning_goes_on_after_a_warmup_as_far_as_it_is_asked_for(sources):
    dataset = offline_data(settings(), sources)

    def distance(**changes: Any) -> float:
        config = settings(**{"checkpoint_path": "warmup.npz", "behavior_cloning_weight": 100.0} | changes)
        static, _ = first_agent(config, sources)
        agent = jax.device_put(last(taken(start_finetune(config, dataset)))["agent"])
        noise = jax.numpy.zeros((len(dataset), 6))
        actions = sac.act(static, sac.policy(agent), jax.numpy.asarray(dataset.observations), noise)
        return float(np.mean(np.square(actions - dataset.actions)))

    without, fading = distance(behavior_cloning_online_weight=0.0), distance(behavior_cloning_fade_steps=100)
    staying = distance()
    # Both end as near to the data as these noisy actions can be cloned: which of the two is nearer is chance.
    assert max(staying, fading) < without
    assert staying != fading
    # What had no warmup clones nothing.
    assert distance(checkpoint_path=None) == without


@pytest.mark.slow
def test_a_run_that_is_resumed_in_the_fade_ends_with_the_same_bits(sources):
    config = settings(
        checkpoint_path="warmup.npz",
        behavior_cloning_weight=10.0,
        behavior_cloning_fade_steps=80,
        checkpoint_interval=20,
    )
    dataset = offline_data(config, sources)
    trees = snapshots(taken(start_finetune(config, dataset)))
    environment = make(config.exp_name, config.environment_options)
    static, _ = first_agent(config, sources)
    resumed = taken(finetune.finetune(config, static, trees[1], environment, Evaluator(config), None))
    assert 0 < int(trees[1]["environment_step"]) < 80
    assert same(last(resumed), trees[-1])


def test_without_offline_data_nothing_is_drawn_from_them(alone):
    assert set(measured(alone, "training/offline_ratio").values()) == {0.0}
    assert measured(alone, "switch/offline_transitions") == {0: 0.0}
    assert measured(alone, "switch/offline_bytes") == {0: 0.0}


def test_evaluations_begin_at_the_switch_and_end_with_the_last_step(alone):
    for mode in ("sampled", "deterministic"):
        for name in ("success", "return", "length"):
            assert list(measured(alone, f"evaluation/{name}_{mode}")) == [0, 40, 80, 100]


def test_the_run_is_as_long_as_its_budget_even_if_that_cuts_an_episode(sources):
    config = settings(environment_options={"max_episode_steps": 30})
    events = taken(start_finetune(config, None))
    assert [event.step for event in events if isinstance(event, Step)] == list(range(1, 101))
    tree = last(events)
    assert (int(tree["environment_step"]), int(tree["replay"]["online"]["size"])) == (100, 100)
    assert int(tree["agent"].updates) == 200
    # The cut episode has no outcome, the three before it have one row each.
    assert measured(events, "training/episode_length") == {30: 30.0, 60: 30.0, 90: 30.0}


def test_values_are_followed_through_the_switch_on_a_probe(sources, with_data):
    config = settings()
    dataset = offline_data(config, sources)
    events = taken(start_finetune(config, dataset, probe_size=64))
    logged = list(range(7, 100, 7))
    for name in ("q", "td_error"):
        assert list(measured(events, f"switch/{name}_offline_probe")) == [0, *logged]
        assert list(measured(events, f"switch/{name}_online")) == logged
    assert measured(events, "switch/offline_transitions") == {0: len(dataset)}
    bytes_each = 4 * (19 + 6 + 1 + 19 + 1 + 1 + 1 + 1)
    assert measured(events, "switch/offline_bytes") == {0: len(dataset) * bytes_each}
    assert not measured(with_data, "switch/q_offline_probe")


class PushDown(gymnasium.Wrapper):
    """Another hand takes over and pushes straight down; remembers what the robot's safety reported."""

    def __init__(self, environment: gymnasium.Env) -> None:
        super().__init__(environment)
        self.contact_forces: list[float] = []
        self.clips: list[bool] = []
        self.ends: list[tuple[bool, bool]] = []
        self.overruns: list[int] = []

    def step(self, action: Any) -> Any:
        result = self.env.step(np.array([0.0, 0.0, -1.0, 0.0, 0.0, 0.0], np.float32))
        self.contact_forces.append(result[4]["contact_force"])
        self.clips.append(result[4]["safety_box_clipped"])
        self.ends.append((result[2], result[3]))
        begins = len(self.ends) == 1 or any(self.ends[-2])
        self.overruns.append(1 if begins else self.overruns[-1] + 1)
        return *result[:4], result[4] | {"overruns": self.overruns[-1]}


@pytest.fixture(scope="module")
def pushed() -> tuple[PushDown, list[Any]]:
    straight_above = {"hole_offset": 0.0, "reset_range": 0.0, "reset_rotation": 0.0, "reset_height": 0.03}
    options = straight_above | {"clearance": 0.002, "max_episode_steps": 8}
    config = settings(environment_options=options, log_interval=9)
    environment = PushDown(make(config.exp_name, config.environment_options))
    return environment, taken(start_finetune(config, None, environment))


def test_only_success_ends_the_bootstrap_and_a_time_limit_does_not(pushed):
    environment, events = pushed
    terminated, truncated = np.array(environment.ends).T
    assert 3 < terminated.sum() < 20
    assert (truncated & ~terminated).sum() > 3
    rows = stored(last(events)["replay"]["online"], 19, 6)
    np.testing.assert_array_equal(rows.mask, 1.0 - terminated)
    np.testing.assert_array_equal(rows.reward, terminated)
    assert (rows.weight == 1).all()
    assert sum(measured(events, "training/episode_success").values()) == terminated.sum()


def test_peak_contact_force_and_safety_box_clips_are_recorded_in_windows(pushed):
    environment, events = pushed
    forces, clips = measured(events, "training/peak_contact_force"), measured(events, "training/safety_box_clips")
    assert list(forces) == list(range(9, 100, 9))
    for step in forces:
        assert forces[step] == max(environment.contact_forces[step - 9 : step])
        assert clips[step] == sum(environment.clips[step - 9 : step])
    assert max(forces.values()) > 1.0


def test_late_steps_are_recorded_for_each_episode(pushed):
    environment, events = pushed
    late = measured(events, "training/episode_overruns")
    assert len(late) > 10
    assert (
        late == {step: environment.overruns[step - 1] for step in late} == measured(events, "training/episode_length")
    )


RESETS: list[tuple[int, int]] = []
"""(which environment, seed) of every reset."""


class RecordedPendulum(PendulumEnv):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        RESETS.append((id(self), seed))
        return super().reset(seed=seed, options=options)


@pytest.fixture
def recorded_pendulum():
    gymnasium.register("RecordedPendulum-v0", RecordedPendulum, max_episode_steps=15)
    yield PENDULUM | {"exp_name": "RecordedPendulum-v0"}
    del gymnasium.registry["RecordedPendulum-v0"]


def test_evaluation_episodes_are_apart_from_all_others_and_the_same_for_every_arm(recorded_pendulum):
    arms: list[dict[str, Any]] = [{}, {"random_steps": 50}, {"seed": 1}]
    seeds = []
    for arm in arms:
        RESETS.clear()
        config = settings(**(recorded_pendulum | arm))
        environment = make(config.exp_name, config.environment_options)
        taken(start_finetune(config, None, environment))
        training = [seed for which, seed in RESETS if which == id(environment.unwrapped)]
        evaluation = [seed for which, seed in RESETS if which != id(environment.unwrapped)]
        seeds.append((training, evaluation))
    (training, evaluation), other_arm, other_seed = seeds
    # Four evaluations of one episode, played with sampled and with deterministic actions.
    assert len(evaluation) == 8
    assert [evaluation.count(seed) for seed in evaluation] == [2] * 8
    assert len(set(training)) == len(training) == 7
    assert other_arm == (training, evaluation)
    RESETS.clear()
    collect("RecordedPendulum-v0", PENDULUM["environment_options"], "random", episodes=20, seed=0)
    collected = [seed for _, seed in RESETS]
    groups = [set(training), set(evaluation), set(collected), set(other_seed[0]), set(other_seed[1])]
    assert len(set().union(*groups)) == sum(map(len, groups))


def test_any_gymnasium_environment_works_and_unreported_success_is_nan():
    config = settings(**PENDULUM)
    events = taken(start_finetune(config, None))
    for metric in ("evaluation/success_sampled", "training/episode_success"):
        values = measured(events, metric).values()
        assert values
        assert np.isnan(list(values)).all()
    assert all(value < 0 for value in measured(events, "evaluation/return_deterministic").values())
    assert set(measured(events, "training/peak_contact_force").values()) == {0.0}


def test_the_same_seed_gives_the_same_events_and_another_seed_others(sources, with_data):
    def events(seed: int) -> list[Any]:
        config = settings(seed=seed)
        return taken(start_finetune(config, offline_data(config, sources)))

    def numbers(events: list[Any]) -> list[Any]:
        return [event.values for event in events if isinstance(event, Measurement)]

    first, again, other = with_data, events(0), events(1)
    assert repr(numbers(first)) == repr(numbers(again)) != repr(numbers(other))
    assert same(last(first), last(again))
    assert not same(last(first)["agent"], last(other)["agent"])
    assert len(jax.tree.leaves(last(first))) > 20
