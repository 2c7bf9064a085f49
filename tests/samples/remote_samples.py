"""Runs whose learner is elsewhere: what to run, and what must be true of it however often something failed."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from dask_samples import Network, free_port, process, scheduler_process, worker_process
from training_samples import PENDULUM, settings, stored
from waiting import wait_for
from wsrl_kit.agent import jax_tools, sac
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.config.schedules import run_schedules
from wsrl_kit.envs.make import make
from wsrl_kit.replay import frame_files
from wsrl_kit.runs.run import read_run
from wsrl_kit.training import finetune
from wsrl_kit.training import start as agents
from wsrl_kit.training.experience import Experience

LEARNER = ("--resources", "learner=1")
"""Options of the worker that learns."""


def remote_settings(port: int, **changes: Any) -> WSRLConfig:
    """Without random or frozen steps, so that each step is learned from."""
    fixed = {"learner": f"tcp://127.0.0.1:{port}", "evaluation_episodes": 0}
    return settings(**(PENDULUM | fixed | changes))


@contextmanager
def machines(folder: Path) -> Iterator[tuple[Network, Any]]:
    """A network to a scheduler, and the worker behind it that learns."""
    port = free_port()
    with scheduler_process(port, folder), worker_process(f"tcp://127.0.0.1:{port}", folder, *LEARNER) as worker:
        wait_for(lambda: "Registered to" in (folder / "log.txt").read_text())
        network = Network(port)
        yield network, worker
        network.close()


def robot_process(config: WSRLConfig, folder: Path, log: Path) -> Any:
    """The robot's machine: a process that fine-tunes."""
    script = (
        "import json, sys; from pathlib import Path; from wsrl_kit.config.config import WSRLConfig; "
        "from wsrl_kit.runs.progress import Silent; from wsrl_kit.training.jobs import run_finetune; "
        "run_finetune(WSRLConfig(**json.loads(sys.argv[1])), Path(sys.argv[2]), Silent())"
    )
    return process(sys.executable, "-c", script, json.dumps(asdict(config)), str(folder), folder=log)


def start_of(config: WSRLConfig) -> tuple[sac.SACConfig, PyTree]:
    """What a run begins with."""
    static, agent = agents.create(config, make(config.exp_name, config.environment_options), None)
    return static, finetune.initial_tree(config, static, agent, None)


def loaded(config: WSRLConfig, folder: Path) -> PyTree:
    """The run's checkpoint."""
    return frame_files.load(folder / "checkpoint.npz", start_of(config)[1])


def episode_lengths(config: WSRLConfig, tree: PyTree) -> list[int]:
    """Lengths of the episodes in replay, each played again from its seed: none may lack a step or have one twice."""
    static, _ = start_of(config)
    rows = stored(tree["replay"]["online"], static.observation_size, static.action_size)
    environment = make(config.exp_name, config.environment_options)
    lengths, step = list[int](), 0
    while step < len(rows.reward):
        seed = jax_tools.episode_seed(config.seed, "episodes", len(lengths))
        observation, _ = environment.reset(seed=seed)
        length, has_ended = 0, False
        while not has_ended and step < len(rows.reward) and np.array_equal(observation, rows.observation[step]):
            observation, reward, terminated, truncated, _ = environment.step(rows.action[step])
            np.testing.assert_array_equal(rows.next_observation[step], observation)
            assert rows.reward[step] == np.float32(reward)
            length, step, has_ended = length + 1, step + 1, terminated or truncated
        lengths.append(length)
        assert len(lengths) < 1000
    return lengths


def learned_inline(config: WSRLConfig, tree: PyTree) -> sac.SACState:
    """The agent that learns inline from the transitions in the tree's replay, in their order."""
    static, start = start_of(config)
    agent, memory = start["agent"], Experience(config, static, start, None)
    rows = stored(tree["replay"]["online"], static.observation_size, static.action_size)
    schedules = run_schedules(config)
    for step, (ratio, beta) in enumerate(zip(schedules["offline ratio"], schedules["PER beta"], strict=True)):
        transition = (jax.tree.map(lambda column, step=step: column[step], rows), {}, {})
        if step < config.random_steps:
            memory.add(transition)
        else:
            given = (jax_tools.key(config.seed, "sampling"), step, memory.offline_ratio(ratio), beta)
            agent, _ = memory.learn(static, agent, *given, sac.NO_TERMS, transition)
    return agent


def check_whole(config: WSRLConfig, folder: Path, cuts: int = 0) -> None:
    """Checks that a finished run lost and doubled nothing, and made every update once.

    Args:
        cuts: episodes that may be cut short, by the end of the robot's process.
    """
    record, tree = read_run(folder), loaded(config, folder)
    assert record.status == "finished"
    assert int(tree["environment_step"]) == config.online_steps
    assert int(tree["agent"].updates) == (config.online_steps - config.random_steps) * config.update_to_data_ratio
    lengths = episode_lengths(config, tree)
    assert sum(lengths) == config.online_steps
    assert sum(length < config.environment_options["max_episode_steps"] for length in lengths[:-1]) <= cuts
    recorded = record.curve("training/offline_ratio")
    assert recorded.environment_step.tolist() == list(range(7, config.online_steps + 1, 7))
    assert not list((folder / "spool").glob("*.record"))
