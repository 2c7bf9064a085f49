"""The smallest problems with known solutions: each isolates one thing that an actor-critic must get right.

After Andy Jones, "Debugging reinforcement learning systems", and the probe environments of rejax.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slow_cases import one_fast
from wsrl_kit.agent import sac
from wsrl_kit.agent.sac import SACConfig, SACState
from wsrl_kit.agent.transition import Transition
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.config.presets import PRESETS
from wsrl_kit.training.finetune import online

DISCOUNT, BATCH, UPDATES = 0.8, 64, 3000

CONFIG = sac.from_parameters(
    WSRLConfig(
        hidden_sizes=[16],
        discount=DISCOUNT,
        target_update_rate=0.05,
        critic_learning_rate=1e-2,
        actor_learning_rate=1e-2,
        temperature_learning_rate=0.0,
        learning_rate_schedule="linear",
        initial_temperature=1e-3,
    ),
    1,
    1,
    critic_updates=UPDATES,
    actor_updates=UPDATES,
)


@jax.jit
def learn(batch: Transition) -> SACState:
    def one_update(step: jax.Array, state: SACState) -> SACState:
        key = jax.random.fold_in(jax.random.key(1), step)
        return sac.update(CONFIG, state, jax.tree.map(lambda leaf: leaf[None], batch), key)[0]

    state = sac.create(CONFIG, jax.random.key(0), jnp.zeros(1), jnp.ones(1))
    return jax.lax.fori_loop(0, UPDATES, one_update, state)


def transitions(observation: np.ndarray, action: np.ndarray, reward: np.ndarray, **changed: np.ndarray) -> Transition:
    """One-step episodes, unless changed."""
    columns = {
        "observation": observation[:, None],
        "action": action[:, None],
        "reward": reward,
        "next_observation": changed.get("next_observation", observation)[:, None],
        "mask": changed.get("mask", np.zeros(BATCH)),
        "weight": np.ones(BATCH),
        "monte_carlo_return": np.full(BATCH, -np.inf),
    }
    return Transition(**{name: jnp.asarray(column, jnp.float32) for name, column in columns.items()})


def values(state: SACState, observation: list[float], action: list[float]) -> np.ndarray:
    inputs = (jnp.asarray(column, jnp.float32)[:, None] for column in (observation, action))
    return np.asarray(sac.action_values(CONFIG, state, *inputs).mean(axis=0))


def best_actions(state: SACState, observation: list[float]) -> np.ndarray:
    column = jnp.asarray(observation, jnp.float32)[:, None]
    return np.asarray(sac.act(CONFIG, sac.policy(state), column, jnp.zeros_like(column)))[:, 0]


close = partial(np.testing.assert_allclose, atol=0.02)
ZERO, ONE = np.zeros(BATCH), np.ones(BATCH)
ACTIONS = np.linspace(-1.0, 1.0, BATCH)
SIGNS = np.tile([-1.0, 1.0], BATCH // 2)


@pytest.mark.parametrize("observation", one_fast([0.0, 1.0]))
def test_a_constant_reward_is_its_own_value(observation: float) -> None:
    state = learn(transitions(np.full(BATCH, observation), ACTIONS, ONE))
    close(values(state, [observation] * 3, [-0.9, 0.0, 0.9]), 1.0)


def test_the_value_follows_the_observation() -> None:
    state = learn(transitions(SIGNS, ACTIONS, SIGNS))
    close(values(state, [-1.0, 1.0], [0.3, -0.3]), [-1.0, 1.0])


def test_a_reward_one_step_away_is_discounted_once() -> None:
    # Observation 0 leads to 1 without reward; 1 ends the episode with reward 1.
    first = np.tile([True, False], BATCH // 2)
    batch = transitions(
        np.where(first, 0.0, 1.0), ACTIONS, np.where(first, 0.0, 1.0), next_observation=ONE, mask=first.astype(float)
    )
    close(values(learn(batch), [0.0, 1.0], [0.2, 0.2]), [DISCOUNT, 1.0])


@pytest.mark.slow
def test_the_policy_finds_the_best_action() -> None:
    state = learn(transitions(ZERO, ACTIONS, 1.0 - (ACTIONS - 0.5) ** 2))
    close(values(state, [0.0] * 4, [-0.9, -0.3, 0.5, 0.9]), [1 - 1.96, 1 - 0.64, 1.0, 1 - 0.16], atol=0.05)
    close(best_actions(state, [0.0]), 0.5, atol=0.05)


def test_the_policy_finds_the_best_action_for_each_observation() -> None:
    state = learn(transitions(SIGNS, ACTIONS, 1.0 - (ACTIONS - 0.5 * SIGNS) ** 2))
    close(best_actions(state, [-1.0, 1.0]), [-0.5, 0.5], atol=0.05)
    close(values(state, [-1.0, 1.0], [-0.5, 0.5]), 1.0, atol=0.05)


def test_a_time_limit_does_not_end_the_value_of_a_task_that_goes_on() -> None:
    # Reward 1 for ever, recorded in episodes of one step that a time limit ended: mask 1, so 1 / (1 - discount).
    state = learn(transitions(ZERO, ACTIONS, ONE, mask=ONE))
    close(values(state, [0.0] * 2, [-0.5, 0.5]), 1.0 / (1.0 - DISCOUNT), atol=0.1)


# Every preset


def preset_config(name: str, has_offline_term: bool) -> SACConfig:
    """A preset's own algorithm, with sizes, rates and temperature that suit problems of one number."""
    changes = {
        "hidden_sizes": [16],
        "discount": DISCOUNT,
        "target_update_rate": 0.05,
        "critic_learning_rate": 1e-2,
        "actor_learning_rate": 3e-3,
        "temperature_learning_rate": 0.0,
        "learning_rate_schedule": "linear",
        "initial_temperature": 1e-3,
        "output_scale": 0.01,
        "update_to_data_ratio": 1,
        "cql_actions": 2,
    }
    config = WSRLConfig.of_preset(name, **changes)
    stage = config if has_offline_term else online(config)
    return sac.from_parameters(stage, 1, 1, critic_updates=PRESET_UPDATES, actor_updates=PRESET_UPDATES)


PRESET_UPDATES = 1500
FIRST = np.tile([True, False], BATCH // 2)
PROBES = {
    "constant": transitions(ZERO, ACTIONS, ONE),
    "observation": transitions(SIGNS, ACTIONS, SIGNS),
    "discounted": transitions(
        np.where(FIRST, 0.0, 1.0), ACTIONS, np.where(FIRST, 0.0, 1.0), next_observation=ONE, mask=FIRST.astype(float)
    ),
    "best action": transitions(SIGNS, ACTIONS, 1.0 - (ACTIONS - 0.5 * SIGNS) ** 2),
    "time limit": transitions(ZERO, ACTIONS, ONE, mask=ONE),
}


@partial(jax.jit, static_argnums=0)
def learn_all(config: SACConfig, batches: Transition) -> SACState:
    """One agent for each probe, all in one program."""

    def learn_one(batch: Transition) -> SACState:
        def one_update(step: jax.Array, state: SACState) -> SACState:
            key = jax.random.fold_in(jax.random.key(1), step)
            return sac.update(config, state, jax.tree.map(lambda leaf: leaf[None], batch), key, WEIGHTS)[0]

        state = sac.create(config, jax.random.key(0), jnp.zeros(1), jnp.ones(1))
        return jax.lax.fori_loop(0, PRESET_UPDATES, one_update, state)

    return jax.vmap(learn_one)(batches)


WEIGHTS = sac.TermWeights(conservative=0.01)
"""CQL's term changes the values that are learned; this little, it must leave them nearly as they are."""

CASES = [(name, False) for name in PRESETS] + [(name, True) for name in ("calql", "wsrl")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "has_offline_term"), CASES)
def test_every_preset_solves_the_probes(name: str, has_offline_term: bool) -> None:
    config = preset_config(name, has_offline_term)
    assert config.is_conservative == has_offline_term or name == "calql"
    learned = learn_all(config, jax.tree.map(lambda *rows: jnp.stack(rows), *PROBES.values()))
    states = {probe: jax.tree.map(lambda leaf, i=i: leaf[i], learned) for i, probe in enumerate(PROBES)}

    def value(probe: str, observation: list[float], action: list[float]) -> np.ndarray:
        inputs = (jnp.asarray(column, jnp.float32)[:, None] for column in (observation, action))
        return np.asarray(sac.action_values(config, states[probe], *inputs).mean(axis=0))

    close(value("constant", [0.0] * 3, [-0.9, 0.0, 0.9]), 1.0, atol=0.06)
    close(value("observation", [-1.0, 1.0], [0.3, -0.3]), [-1.0, 1.0], atol=0.06)
    close(value("discounted", [0.0, 1.0], [0.2, 0.2]), [DISCOUNT, 1.0], atol=0.08)
    close(value("best action", [-1.0, 1.0], [-0.5, 0.5]), 1.0, atol=0.08)
    close(value("time limit", [0.0] * 2, [-0.5, 0.5]), 1.0 / (1.0 - DISCOUNT), atol=0.25)
    column = jnp.array([[-1.0], [1.0]])
    action = sac.act(config, sac.policy(states["best action"]), column, jnp.zeros_like(column))
    # What the policy's actions lose of the best reward, 1: the action 0 and the ends of the range lose 0.25.
    assert ((np.asarray(action)[:, 0] - [-0.5, 0.5]) ** 2).max() < 0.03
