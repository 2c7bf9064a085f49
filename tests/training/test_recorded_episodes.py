"""Evaluations keep episodes that play again exactly, with Q of the agent that acted."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from training_samples import offline_data, settings, start_warmup
from wsrl_kit.agent import sac
from wsrl_kit.envs.make import make
from wsrl_kit.envs.playback import make_visible, play_again
from wsrl_kit.runs.loop import Output
from wsrl_kit.runs.progress import Silent
from wsrl_kit.runs.traces import find_traces, read_traces
from wsrl_kit.training import start as agents
from wsrl_kit.training.evaluation import Evaluator
from wsrl_kit.training.jobs import run_finetune


def test_values_are_the_agents_of_what_it_saw_and_did() -> None:
    config = settings(evaluation_episodes=2)
    environment = make(config.exp_name, config.environment_options)
    static, agent = agents.create(config, environment, None)
    evaluator = Evaluator(config)
    values, traces = evaluator.evaluate(static, agent, 3)
    again, same = evaluator.evaluate(static, agent, 3)
    assert values == again and np.array_equal(traces[0].actions, same[0].actions)
    for trace in (traces[0], *evaluator.one_episode(static, agent)):
        observation, _ = environment.reset(seed=trace.seed)
        seen = []
        for action in trace.actions:
            seen.append(observation)
            observation, _, terminated, truncated, _ = environment.step(action)
        assert (terminated or truncated) and np.array_equal(observation, trace.last_state)
        expected = sac.action_values(static, agent, jnp.stack(seen), jnp.asarray(trace.actions)).mean(axis=0)
        np.testing.assert_allclose(trace.values, np.asarray(expected), rtol=1e-4, atol=1e-5)
    evaluator.close()


def test_every_evaluation_of_fine_tuning_plays_again(tmp_path: Path) -> None:
    config = settings(random_steps=30)
    run_finetune(config, tmp_path, Silent())
    found = find_traces(tmp_path)
    assert list(found) == [("online", step) for step in (0, 40, 80, 100)]
    environment = make_visible(config.exp_name, config.environment_options)
    for path in found.values():
        (trace,) = read_traces(path)
        assert play_again(environment, config.exp_name, trace, 10**6).is_exact


def test_warmup_keeps_an_episode_of_the_fresh_agent(sources: Path) -> None:
    config = settings()
    events = list(start_warmup(config, offline_data(config, sources)))
    names = [event.name for event in events if isinstance(event, Output)]
    assert names == [f"traces/warmup_{step:09d}.npz" for step in (0, 50, 100, 150, 200)]
    assert isinstance(events[0], Output)
