"""Which actions CQL's and Cal-QL's term values beside the data's, and with what density each was drawn."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PRNGKeyArray

from wsrl_kit import losses

SamplePolicy = Callable[[Float[Array, "rows observation"], PRNGKeyArray], tuple[Array, Array]]
"""Observations and a key to an action for each, and its log-probability."""

ValueOf = Callable[[Float[Array, "rows observation"], Float[Array, "rows action"]], Array]
"""Observations and actions to every critic's values, (ensemble, rows)."""


class SampledActions(NamedTuple):
    """Actions for each observation: uniform ones, the policy's, and the policy's at the next observation."""

    action: Float[Array, "batch three_times_count action"]
    log_density: Float[Array, "batch three_times_count"]


def sample_actions(
    sample_policy: SamplePolicy,
    observation: Float[Array, "batch observation"],
    next_observation: Float[Array, "batch observation"],
    count: int,
    action_size: int,
    key: PRNGKeyArray,
) -> SampledActions:
    """Draws the actions of CQL(H) (Kumar et al. 2020, appendix F).

    Args:
        count: actions of each of the three kinds.
    """
    uniform_key, *policy_keys = jax.random.split(key, 3)
    batch_size = len(observation)
    actions = [jax.random.uniform(uniform_key, (batch_size, count, action_size), minval=-1.0, maxval=1.0)]
    log_densities = [jnp.full((batch_size, count), -action_size * jnp.log(2.0))]
    for rows, policy_key in zip((observation, next_observation), policy_keys, strict=True):
        action, log_probability = sample_policy(jnp.repeat(rows, count, axis=0), policy_key)
        actions.append(action.reshape(batch_size, count, action_size))
        log_densities.append(log_probability.reshape(batch_size, count))
    return SampledActions(jnp.concatenate(actions, axis=1), jnp.concatenate(log_densities, axis=1))


def gap(
    value_of: ValueOf,
    sampled: SampledActions,
    observation: Float[Array, "batch observation"],
    value: Float[Array, "ensemble batch"],
    temperature: float,
    lower_bound: Float[Array, " batch"] | None,
) -> Float[Array, " batch"]:
    """The conservative gap of each example, see `losses.conservative_gap`.

    Args:
        value: of the data's actions.
        temperature: of the log-sum-exp.
        lower_bound: Monte-Carlo returns that bound the values of policy actions (Cal-QL); None for CQL.
    """
    batch_size, count, action_size = sampled.action.shape
    values = value_of(jnp.repeat(observation, count, axis=0), sampled.action.reshape(-1, action_size))
    values = values.reshape(-1, batch_size, count)
    if lower_bound is not None:
        # As in the authors' code random actions, a third of all, are not bounded.
        uniform, by_policy = jnp.split(values, [count // 3], axis=-1)
        values = jnp.concatenate([uniform, losses.calibrated(by_policy, lower_bound)], axis=-1)
    return losses.conservative_gap(values, sampled.log_density, value, temperature)
