"""An agent and a replay full of random data, of a dexterous hand's sizes, for the benchmarks of the learning step."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wsrl_kit.agent import sac
from wsrl_kit.agent.sac import SACConfig
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.replay import mixture, storage
from wsrl_kit.replay.mixture import Replay
from wsrl_kit.replay.samplers import Sampler
from wsrl_kit.agent.transition import Transition
from wsrl_kit.training.experience import sampler_of

OBSERVATION, ACTION, BATCH = 39, 28, 256
SUBSET = 2
RATIO, BETA = np.float32(0.5), np.float32(0.7)
TURN_SECONDS = 0.3

create_agent = jax.jit(sac.create, static_argnums=0)
NORMALISATION = (np.zeros(OBSERVATION, np.float32), np.ones(OBSERVATION, np.float32))


def parts(widths: tuple[int, ...], ensemble: int) -> tuple[SACConfig, Sampler]:
    """What fixes the compiled step: the kit's defaults but for the sizes, by priority, without cloning as online."""
    config = WSRLConfig(
        hidden_sizes=list(widths),
        critic_ensemble_size=ensemble,
        critic_subset_size=SUBSET,
        batch_size=BATCH,
        behavior_cloning_weight=0.0,
        use_prioritized_replay=True,
    )
    return sac.from_parameters(config, OBSERVATION, ACTION), sampler_of(config)


def full_replay(sampler: Sampler, offline_rows: int, online_rows: int) -> Replay:
    """Both sides full of random data."""
    offline, online = (storage.filled(transitions(rows), rows) for rows in (offline_rows, online_rows))
    replay = mixture.create(sampler, offline, online)
    # `mixture.create` takes the ring for an empty one.
    return replay._replace(online_sampler=sampler.insert(replay.online_sampler, jnp.arange(online_rows)))


def transitions(rows: int) -> Transition:
    """Random rows as NumPy arrays; one in twenty ends its episode, with reward 1."""
    generator = np.random.default_rng(rows)
    success = (generator.random(rows) < 0.05).astype(np.float32)
    return Transition(
        observation=generator.standard_normal((rows, OBSERVATION), np.float32),
        action=generator.uniform(-1, 1, (rows, ACTION)).astype(np.float32),
        reward=success,
        next_observation=generator.standard_normal((rows, OBSERVATION), np.float32),
        mask=1 - success,
        weight=np.ones(rows, np.float32),
        monte_carlo_return=np.zeros(rows, np.float32),
    )


def turn_length(run: Callable[[int], Any]) -> int:
    """Repeats that fill a turn, from the time of one after one that warms up."""
    run(1)
    return max(1, round(TURN_SECONDS / seconds_each(run, 1)))


def seconds_each(run: Callable[[int], Any], repeats: int) -> float:
    """Seconds of one repeat; `run` returns when all are done."""
    start = time.perf_counter()
    run(repeats)
    return (time.perf_counter() - start) / repeats
