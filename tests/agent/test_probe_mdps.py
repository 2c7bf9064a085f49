"""The smallest problems with known solutions: each isolates one thing that an actor-critic must get right.

After Andy Jones, "Debugging reinforcement learning systems", and the probe environments of rejax.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsrl_kit.agent import sac
from wsrl_kit.agent.sac import SACConfig, SACState
from wsrl_kit.agent.transition import Transition
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.config.presets import PRESETS
from wsrl_kit.training.finetune import online

DISCOUNT, BATCH = 0.8, 32


def config_for_probes(config: WSRLConfig, updates: int) -> SACConfig:
    """An agent for problems of one number, that learns for so many updates."""
    return sac.from_parameters(config, 1, 1, critic_updates=updates, actor_updates=updates)


SIZES = {
    "hidden_sizes": [16],
    "discount": DISCOUNT,
    "target_update_rate": 0.05,
    "critic_learning_rate": 1e-2,
    "temperature_learning_rate": 0.0,
    "learning_rate_schedule": "linear",
    "initial_temperature": 1e-3,
}


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
    return Transition(**{name: np.asarray(column, np.float32) for name, column in columns.items()})


close = np.testing.assert_allclose
ZERO, ONE = np.zeros(BATCH), np.ones(BATCH)
ACTIONS = np.linspace(-1.0, 1.0, BATCH)
SIGNS = np.tile([-1.0, 1.0], BATCH // 2)
FIRST = np.tile([1.0, 0.0], BATCH // 2)

PROBES = {
    "constant": transitions(ZERO, ACTIONS, ONE),
    "observation": transitions(SIGNS, ACTIONS, SIGNS),
    # Observation 0 leads to 1 without reward; 1 ends the episode with reward 1.
    "discounted": transitions(1 - FIRST, ACTIONS, 1 - FIRST, next_observation=ONE, mask=FIRST),
    "best action": transitions(SIGNS, ACTIONS, 1.0 - (ACTIONS - 0.5 * SIGNS) ** 2),
    # Reward 1 for ever, recorded in episodes of one step that a time limit ended.
    "time limit": transitions(ZERO, ACTIONS, ONE, mask=ONE),
}


@partial(jax.jit, static_argnums=0)
def learn(config: SACConfig, batches: Transition) -> SACState:
    """One agent for each probe, all in one program, until the learning rate is 0."""

    def learn_one(batch: Transition) -> SACState:
        def one_update(step: jax.Array, state: SACState) -> SACState:
            key = jax.random.fold_in(jax.random.key(1), step)
            return sac.update(config, state, jax.tree.map(lambda leaf: leaf[None], batch), key, WEIGHTS)[0]

        state = sac.create(config, jax.random.key(0), jnp.zeros(1), jnp.ones(1))
        return jax.lax.fori_loop(0, config.critic_decay_steps, one_update, state)

    return jax.vmap(learn_one)(batches)


WEIGHTS = sac.TermWeights(conservative=0.01)
"""CQL's term changes the values that are learned; this little, it must leave them nearly as they are."""

action_values = jax.jit(sac.action_values, static_argnums=0)
act = jax.jit(sac.act, static_argnums=0)


@dataclass(frozen=True)
class Learned:
    """Agents that have learned each its own probe."""

    config: SACConfig
    agents: dict[str, SACState]

    def values(self, probe: str, observation: list[float], action: list[float]) -> np.ndarray:
        """The mean of the critics."""
        inputs = (np.asarray(column, np.float32)[:, None] for column in (observation, action))
        return np.asarray(action_values(self.config, self.agents[probe], *inputs)).mean(axis=0)

    def best_actions(self, probe: str, observation: list[float]) -> np.ndarray:
        column = np.asarray(observation, np.float32)[:, None]
        return np.asarray(act(self.config, sac.policy(self.agents[probe]), column, np.zeros_like(column)))[:, 0]


def learned_by(config: SACConfig) -> Learned:
    states = jax.device_get(learn(config, jax.tree.map(lambda *rows: np.stack(rows), *PROBES.values())))
    return Learned(config, {probe: jax.tree.map(lambda leaf, i=i: leaf[i], states) for i, probe in enumerate(PROBES)})


@pytest.fixture(scope="module")
def learned() -> Learned:
    return learned_by(config_for_probes(WSRLConfig(**SIZES, actor_learning_rate=1e-2), 2000))


def test_a_constant_reward_is_its_own_value(learned: Learned) -> None:
    close(learned.values("constant", [0.0] * 3, [-0.9, 0.0, 0.9]), 1.0, atol=0.02)


def test_the_value_follows_the_observation(learned: Learned) -> None:
    close(learned.values("observation", [-1.0, 1.0], [0.3, -0.3]), [-1.0, 1.0], atol=0.02)


def test_a_reward_one_step_away_is_discounted_once(learned: Learned) -> None:
    close(learned.values("discounted", [0.0, 1.0], [0.2, 0.2]), [DISCOUNT, 1.0], atol=0.02)


def test_the_value_follows_the_action_and_the_policy_finds_the_best_for_each_observation(learned: Learned) -> None:
    close(learned.values("best action", [1.0] * 3, [-0.3, 0.5, 0.9]), [1 - 0.64, 1.0, 1 - 0.16], atol=0.05)
    close(learned.values("best action", [-1.0, 1.0], [-0.5, 0.5]), 1.0, atol=0.05)
    close(learned.best_actions("best action", [-1.0, 1.0]), [-0.5, 0.5], atol=0.05)


def test_a_time_limit_does_not_end_the_value_of_a_task_that_goes_on(learned: Learned) -> None:
    # Mask 1, so 1 / (1 - discount).
    close(learned.values("time limit", [0.0] * 2, [-0.5, 0.5]), 1.0 / (1.0 - DISCOUNT), atol=0.1)


# Every preset


def preset_config(name: str, has_offline_term: bool) -> SACConfig:
    """A preset's own algorithm, with sizes, rates and temperature that suit problems of one number."""
    changes = {"actor_learning_rate": 3e-3, "output_scale": 0.01, "update_to_data_ratio": 1, "cql_actions": 2}
    config = WSRLConfig.of_preset(name, **SIZES, **changes)
    return config_for_probes(config if has_offline_term else online(config), 1500)


CASES = [(name, False) for name in PRESETS] + [(name, True) for name in ("calql", "wsrl")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "has_offline_term"), CASES)
def test_every_preset_solves_the_probes(name: str, has_offline_term: bool) -> None:
    config = preset_config(name, has_offline_term)
    assert config.is_conservative == has_offline_term or name == "calql"
    learned = learned_by(config)
    close(learned.values("constant", [0.0] * 3, [-0.9, 0.0, 0.9]), 1.0, atol=0.06)
    close(learned.values("observation", [-1.0, 1.0], [0.3, -0.3]), [-1.0, 1.0], atol=0.06)
    close(learned.values("discounted", [0.0, 1.0], [0.2, 0.2]), [DISCOUNT, 1.0], atol=0.08)
    close(learned.values("best action", [-1.0, 1.0], [-0.5, 0.5]), 1.0, atol=0.08)
    close(learned.values("time limit", [0.0] * 2, [-0.5, 0.5]), 1.0 / (1.0 - DISCOUNT), atol=0.25)
    # What the policy's actions lose of the best reward, 1: the action 0 and the ends of the range lose 0.25.
    assert ((learned.best_actions("best action", [-1.0, 1.0]) - [-0.5, 0.5]) ** 2).max() < 0.03
