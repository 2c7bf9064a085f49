"""An agent and a replay full of random data, of a dexterous hand's sizes, for the benchmarks of learning."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from wsrl_kit.agent import sac
from wsrl_kit.agent.sac import SACConfig, SACState
from wsrl_kit.agent.transition import Transition, packed
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.replay import ring
from wsrl_kit.replay.mixture import Replay
from wsrl_kit.replay.ring import Ring

OBSERVATION, ACTION, BATCH = 39, 28, 256
WIDTHS, SUBSET = (256, 256), 2
TURN_SECONDS = 0.3


def agent_of(ensemble: int, seeds: int | None = None) -> tuple[SACConfig, SACState]:
    """The kit's defaults but for the sizes, without cloning as online; with a leading axis of `seeds` if given."""
    config = WSRLConfig(
        hidden_sizes=list(WIDTHS),
        critic_ensemble_size=ensemble,
        critic_subset_size=SUBSET,
        batch_size=BATCH,
        behavior_cloning_weight=0.0,
    )
    static = sac.from_parameters(config, OBSERVATION, ACTION)
    zeros, ones = np.zeros(OBSERVATION, np.float32), np.ones(OBSERVATION, np.float32)

    def create(key: jax.Array) -> SACState:
        return sac.create(static, key, zeros, ones)

    if seeds is None:
        return static, jax.jit(create)(jax.random.key(0))
    return static, jax.jit(jax.vmap(create))(jax.random.split(jax.random.key(0), seeds))


def full_replay(offline_rows: int, online_rows: int, seed: int = 0) -> Replay:
    """Both sides full of random data, prioritized."""
    offline, online = (
        Ring(ring.filled(packed(transitions(rows)), rows, prioritized=True), 0.6)
        for rows in (offline_rows, online_rows)
    )
    return Replay(offline, online, seed)


def transitions(rows: int) -> Transition:
    """Random rows as NumPy arrays; one in twenty ends its episode, with reward 1."""
    generator = np.random.default_rng(rows)
    success = (generator.random(rows) < 0.05).astype(np.float32)
    values: dict[str, Any] = {
        "observation": generator.standard_normal((rows, OBSERVATION), np.float32),
        "action": generator.uniform(-1, 1, (rows, ACTION)).astype(np.float32),
        "reward": success,
        "next_observation": generator.standard_normal((rows, OBSERVATION), np.float32),
        "mask": 1 - success,
        "weight": np.ones(rows, np.float32),
        "monte_carlo_return": np.zeros(rows, np.float32),
    }
    return Transition(**values)


def turn_length(run: Callable[[int], Any]) -> int:
    """Repeats that fill a turn, from the time of one after one that warms up."""
    run(1)
    return max(1, round(TURN_SECONDS / seconds_each(run, 1)))


def seconds_each(run: Callable[[int], Any], repeats: int) -> float:
    """Seconds of one repeat; `run` returns when all are done."""
    start = time.perf_counter()
    run(repeats)
    return (time.perf_counter() - start) / repeats
