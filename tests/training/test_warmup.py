"""Offline warmup: learns from the data, never from what it holds out, and stops when that gets no better."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from training_samples import ROBOT, host, measured, offline_data, same, settings, start_warmup, taken
from wsrl_kit.agent import jax_tools, sac
from wsrl_kit.data.dataset import Dataset
from wsrl_kit.data.weights import weigh
from wsrl_kit.envs.collect import collect
from wsrl_kit.envs.make import make
from wsrl_kit.errors import DataError
from wsrl_kit.runs.loop import Snapshot, Step
from wsrl_kit.training import start as agents
from wsrl_kit.training import warmup


def test_held_out_episodes_are_never_trained_on(sources):
    config = settings(holdout_fraction=0.3, warmup_steps=60, warmup_evaluation_interval=60)
    whole = offline_data(config, sources)
    dataset = whole.select_episodes(np.array([0, 1, 9, 10, 17, 18]))
    before = taken(start_warmup(config, dataset))
    untouched = []
    for episode in range(dataset.episode_count):
        rewards = np.where(dataset.episode_of_row == episode, np.float32(7.0), dataset.rewards)
        after = taken(start_warmup(config, replace(dataset, rewards=rewards)))
        if same(before[-1].agent, after[-1].agent):
            untouched.append(episode)
            assert measured(before, "training/holdout_td_error") != measured(after, "training/holdout_td_error")
    assert len(untouched) == 2


def test_early_stopping_ends_it_and_gives_the_agent_that_was_best_on_held_out_episodes(sources):
    config = settings(warmup_steps=360, online_steps=20, early_stopping_patience=2, warmup_evaluation_interval=6)
    dataset = offline_data(config, sources)
    events = taken(start_warmup(config, dataset))
    errors = list(measured(events, "training/holdout_td_error").values())
    result = events[-1]
    assert result.stopped_early
    assert result.steps == 6 * len(errors) < config.warmup_steps
    best = int(np.argmin(errors))
    assert best == len(errors) - 1 - config.early_stopping_patience
    environment = make(config.exp_name, config.environment_options)
    static, _ = agents.create(config, environment, dataset)
    _, held_out = dataset.split_holdout(config.holdout_fraction, jax_tools.episode_seed(config.seed, "data"))
    assert np.abs(warmup.dataset_td_errors(config, static, result.agent, held_out)).mean() == np.float32(errors[best])
    # Resumed from its last snapshot it has nothing more to do.
    snapshot = next(event for event in reversed(events) if isinstance(event, Snapshot))
    evaluator = warmup.Evaluator(config)
    (again,) = warmup.warmup(config, static, jax.tree.map(np.array, snapshot.tree), dataset, evaluator)
    assert (again.steps, again.stopped_early) == (result.steps, True)
    assert same(again.agent, result.agent)


def test_without_early_stopping_the_last_agent_is_the_result(sources):
    config = settings(holdout_fraction=0.0)
    events = taken(start_warmup(config, offline_data(config, sources)))
    snapshots = [event for event in events if isinstance(event, Snapshot)]
    assert (events[-1].steps, events[-1].stopped_early) == (200, False)
    assert same(events[-1].agent, snapshots[-1].tree["agent"])
    assert int(events[-1].agent.updates) == 200


@pytest.mark.slow
def test_it_learns_what_the_demonstrations_are_worth():
    options = ROBOT | {"max_episode_steps": 40}
    config = settings(
        environment_options=options,
        hidden_sizes=[64, 64],
        batch_size=64,
        critic_learning_rate=1e-3,
        actor_learning_rate=1e-3,
        warmup_steps=1000,
        warmup_evaluation_interval=1000,
        log_interval=100,
    )
    kinds = ("expert", "random")
    recorded = [episode for kind in kinds for episode in collect(config.exp_name, options, kind, episodes=20, seed=0)]
    dataset = weigh(Dataset.from_trajectories(recorded), {"demos": 2.0, "random": 0.5})
    events = list(start_warmup(config, dataset))
    losses = list(measured(events, "training/critic_loss").values())
    assert np.mean(losses[-3:]) < 0.5 * losses[0]
    environment = make(config.exp_name, options)
    static, fresh = agents.create(config, environment, dataset)
    rows = jax.device_put(agents.to_transitions(settings(), dataset))
    is_demo = dataset.episode_source[dataset.episode_of_row] == dataset.source_names.index("demos")
    for agent, learned in ((fresh, False), (events[-1].agent, True)):
        value = np.asarray(sac.action_values(static, agent, rows.observation, rows.action).mean(axis=0))
        assert (value[is_demo].mean() > value[~is_demo].mean() + 0.2) == learned


@pytest.mark.parametrize(
    "intervals", [(7, 50, 30), *(pytest.param(case, marks=pytest.mark.slow) for case in ((50, 7, 300), (1000, 200, 9)))]
)
def test_everything_is_recorded_at_its_own_interval_and_at_the_end(sources, intervals):
    log, evaluation, checkpoint = intervals
    config = settings(log_interval=log, warmup_evaluation_interval=evaluation, checkpoint_interval=checkpoint)
    events = list(start_warmup(config, offline_data(config, sources)))
    expected = [sorted({*range(interval, 201, interval), 200}) for interval in intervals]
    assert list(measured(events, "training/critic_loss")) == expected[0]
    assert list(measured(events, "training/holdout_td_error")) == expected[1]
    assert list(measured(events, "evaluation/success_sampled")) == expected[1]
    assert [int(event.tree["step"]) for event in events if isinstance(event, Snapshot)] == expected[2]
    # And between them often enough to be stopped.
    steps = [event.step for event in events if isinstance(event, Step)]
    assert steps == sorted(set(steps)) and set(steps) >= set().union(*expected)


@pytest.mark.slow
def test_the_intervals_do_not_change_what_is_learned(sources):
    results = []
    for interval in (7, 200):
        config = settings(log_interval=interval, checkpoint_interval=interval, warmup_evaluation_interval=200)
        results.append(host(list(start_warmup(config, offline_data(config, sources)))[-1].agent))
    assert same(*results)


def test_data_of_another_robot_are_refused_in_one_sentence(sources):
    config = settings(exp_name="Pendulum-v1", environment_options={})
    with pytest.raises(DataError, match="size 19 and actions of size 6, but Pendulum-v1 has 3 and 1"):
        start_warmup(config, offline_data(config, sources))
