"""The learning of one environment step: compiled functions that fine-tuning calls."""

from collections.abc import Callable
from functools import partial

import jax
from jax import Array
from jaxtyping import Float, Integer, PRNGKeyArray

from wsrl_kit.agent import authors_order, grasp, sac
from wsrl_kit.agent.sac import SACConfig, SACState, TermWeights
from wsrl_kit.replay import mixture
from wsrl_kit.replay.mixture import Replay
from wsrl_kit.replay.samplers import Sampler
from wsrl_kit.replay.transition import Batch, Transition

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


def metric_names(agent_config: SACConfig) -> tuple[str, ...]:
    """Names of the update's metrics."""
    return sac.metric_names(agent_config) + (grasp.METRICS if agent_config.learns_gripper else ())


def learning_step(
    agent_config: SACConfig,
    sampler: Sampler,
    shape: tuple[int, int],
    agent_state: SACState,
    replay: Replay,
    key: PRNGKeyArray,
    step: Integer[Array, ""],
    ratio: Float[Array, ""],
    beta: Float[Array, ""],
    weights: TermWeights = sac.NO_TERMS,
    transition: Transition | None = None,
) -> tuple[SACState, Replay, sac.Metrics]:
    """Samples, updates, and writes the priorities back once. Pure: `jax.vmap` it over seeds.

    Args:
        shape: (UTD, batch size).
        key: the run's sampling key; `step` is folded in.
        step: environment steps since the switch.
        transition: online transition to add first; one call is faster than two.
    """
    replay, batch, offline_rows = sampling_step(sampler, shape, replay, key, step, ratio, beta, transition)
    return updating_step(agent_config, sampler, agent_state, replay, batch, offline_rows, key, step, weights)


def sampling_step(
    sampler: Sampler,
    shape: tuple[int, int],
    replay: Replay,
    key: PRNGKeyArray,
    step: Integer[Array, ""],
    ratio: Float[Array, ""],
    beta: Float[Array, ""],
    transition: Transition | None = None,
) -> tuple[Replay, Batch, Integer[Array, ""]]:
    """First half of `learning_step`: the replay with `transition`, a batch, and its number of offline rows."""
    if transition is not None:
        replay = mixture.add(sampler, replay, transition)
    sample_key, _ = jax.random.split(jax.random.fold_in(key, step))
    batch, offline_rows = mixture.sample(sampler, replay, sample_key, shape, ratio, beta)
    return replay, batch, offline_rows


def updating_step(
    agent_config: SACConfig,
    sampler: Sampler,
    agent_state: SACState,
    replay: Replay,
    batch: Batch,
    offline_rows: Integer[Array, ""],
    key: PRNGKeyArray,
    step: Integer[Array, ""],
    weights: TermWeights = sac.NO_TERMS,
) -> tuple[SACState, Replay, sac.Metrics]:
    """Second half of `learning_step`; with cameras, images join the batch in between."""
    _, update_key = jax.random.split(jax.random.fold_in(key, step))
    transition = preprocess(agent_config, agent_state, batch.transition, update_key)
    agent_state, metrics, td_error = select_update(agent_config)(
        agent_config, agent_state, transition, update_key, weights
    )
    return agent_state, mixture.update_priorities(sampler, replay, batch, offline_rows, td_error), metrics


def preprocess(agent_config: SACConfig, agent_state: SACState, batch: Transition, key: PRNGKeyArray) -> Transition:
    """Runs `sac.prepare` one batch at a time, to save memory."""
    if agent_config.pixels is None:
        return batch
    keys = jax.random.split(jax.random.fold_in(key, 1), len(batch.reward))
    return jax.lax.map(lambda inputs: sac.prepare(agent_config, agent_state, *inputs), (batch, keys))


train_step = partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(3, 4))(learning_step)
"""Compiled `learning_step`; agent and replay are given up."""

sample_batch = partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)(sampling_step)
"""Compiled `sampling_step`; the replay is given up."""

update_from_batch = partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2, 3))(updating_step)
"""Compiled `updating_step`; agent and replay are given up."""

add = partial(jax.jit, static_argnums=0, donate_argnums=1)(mixture.add)

add_offline = partial(jax.jit, static_argnums=0, donate_argnums=1)(mixture.add_offline)

set_returns = partial(jax.jit, donate_argnums=0)(mixture.set_returns)

drop_oldest = partial(jax.jit, static_argnums=0, donate_argnums=1)(mixture.drop_oldest)

drop_oldest_offline = partial(jax.jit, static_argnums=0, donate_argnums=1)(mixture.drop_oldest_offline)
