"""The learning of one step, compiled once for warmup and fine-tuning."""

from collections.abc import Callable
from functools import partial

import jax
from jax import Array
from jaxtyping import Float, Integer, PRNGKeyArray

from wsrl_kit.agent import authors_order, grasp, sac
from wsrl_kit.agent.sac import SACConfig, SACState, TermWeights
from wsrl_kit.agent.transition import Transition, unpacked
from wsrl_kit.replay.mixture import Batch

Update = Callable[..., tuple[SACState, sac.Metrics, Float[Array, "utd batch"]]]


def select_update(agent_config: SACConfig) -> Update:
    """The configured update: the kit's or the authors' order, plus a learned gripper's."""
    update = authors_order.update if agent_config.official_update_order else sac.update
    if not agent_config.learns_gripper:
        return update

    def with_gripper(
        config: SACConfig, state: SACState, batch: Transition, key: PRNGKeyArray, weights: TermWeights = sac.NO_TERMS
    ) -> tuple[SACState, sac.Metrics, Float[Array, "utd batch"]]:
        state, metrics, td_error = update(config, state, batch, key, weights)
        state, grasp_metrics = grasp.update(config, state, batch)
        return state, metrics | grasp_metrics, td_error

    return with_gripper


def transitions(agent_config: SACConfig, batch: Batch) -> Transition:
    """A batch's transitions; their weights are multiplied by the importance weights."""
    held = unpacked(batch.rows, agent_config.observation_size, agent_config.action_size)
    weight = held.weight if batch.importance is None else held.weight * batch.importance
    return held._replace(weight=weight, images=batch.images, next_images=batch.next_images)


def preprocess(agent_config: SACConfig, agent_state: SACState, batch: Transition, key: PRNGKeyArray) -> Transition:
    """Runs `sac.prepare` one batch at a time, to save memory."""
    if agent_config.pixels is None:
        return batch
    keys = jax.random.split(jax.random.fold_in(key, 1), len(batch.reward))
    return jax.lax.map(lambda inputs: sac.prepare(agent_config, agent_state, *inputs), (batch, keys))


def learning_step(
    agent_config: SACConfig,
    agent_state: SACState,
    batch: Batch,
    key: PRNGKeyArray,
    step: Integer[Array, ""],
    weights: TermWeights = sac.NO_TERMS,
) -> tuple[SACState, sac.Metrics, Float[Array, "utd batch"]]:
    """Updates the agent on UTD batches. Pure: `jax.vmap` it over seeds.

    Args:
        key: of the run's learning; `step` is folded in.
        step: environment steps since the switch; gradient steps in warmup.

    Returns:
        The agent, metrics, and TD errors for `Replay.update_priorities`.
    """
    update_key = jax.random.fold_in(key, step)
    prepared = preprocess(agent_config, agent_state, transitions(agent_config, batch), update_key)
    return select_update(agent_config)(agent_config, agent_state, prepared, update_key, weights)


learn = partial(jax.jit, static_argnums=0, donate_argnums=1)(learning_step)
"""Compiled `learning_step`; the agent is given up."""
