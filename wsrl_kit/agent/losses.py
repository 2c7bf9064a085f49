"""Loss terms, one value per example.

The caller sums the active terms, multiplies by the examples' weights and takes the mean.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax, nn
from jaxtyping import Float, Integer, PRNGKeyArray


def td_target(
    reward: Float[Array, " batch"],
    mask: Float[Array, " batch"],
    next_value: Float[Array, " batch"],
    discount: float,
) -> Float[Array, " batch"]:
    """One-step target `reward + discount * mask * next_value`, without gradient; mask = 1 - terminated."""
    return lax.stop_gradient(reward + discount * mask * next_value)


def squared_td_error(value: Float[Array, "ensemble batch"], target: Float[Array, " batch"]) -> Float[Array, " batch"]:
    """Squared TD error, mean over the ensemble (REDQ, Chen et al. 2021, equation 1)."""
    return jnp.mean(jnp.square(value - target), axis=0)


def value_of_choice(value: Float[Array, "batch choices"], choice: Integer[Array, " batch"]) -> Float[Array, " batch"]:
    """A discrete critic's value of the chosen entry."""
    return jnp.take_along_axis(value, choice[:, None], axis=1)[:, 0]


def double_q(
    value: Float[Array, "batch choices"], target_value: Float[Array, "batch choices"]
) -> Float[Array, " batch"]:
    """Double DQN: the online critic chooses, the target critic evaluates (van Hasselt et al. 2016)."""
    return value_of_choice(target_value, jnp.argmax(value, axis=1))


def soft_policy(
    log_probability: Float[Array, " batch"], value: Float[Array, " batch"], temperature: Float[Array, ""]
) -> Float[Array, " batch"]:
    """`temperature * log pi(a|s) - Q(s, a)` (Haarnoja et al. 2018, equation 7)."""
    return temperature * log_probability - value


def entropy_gap(log_probability: Float[Array, " batch"], target_entropy: float) -> Float[Array, " batch"]:
    """Entropy estimate minus its target (Haarnoja et al. 2018, equation 18, without the factor)."""
    return lax.stop_gradient(-log_probability - target_entropy)


def behavior_cloning(
    action: Float[Array, "batch action"], data_action: Float[Array, "batch action"], value: Float[Array, " batch"]
) -> Float[Array, " batch"]:
    """Squared distance of policy and data actions, mean over entries, times the mean of |Q| over the batch.

    TD3+BC (Fujimoto and Gu 2021, equations 3 to 5), which divides Q by mean |Q| instead; so rewards of any scale take
    one weight. Unlike the likelihood it is finite for actions at the bounds.
    """
    scale = lax.stop_gradient(jnp.mean(jnp.abs(value)))
    return scale * jnp.mean(jnp.square(action - data_action), axis=-1)


def conservative_gap(
    sampled_value: Float[Array, "ensemble batch actions"],
    log_density: Float[Array, "batch actions"],
    value: Float[Array, "ensemble batch"],
    temperature: float,
) -> Float[Array, " batch"]:
    """CQL(H): value of sampled actions minus value of the data's, mean over the ensemble.

    `temperature * logsumexp((Q(s, a_i) - log density(a_i)) / temperature) - Q(s, a)` (Kumar et al. 2020, equation 4,
    appendix F). As in the authors' code the sum is not divided by the number of samples.
    """
    sampled = (sampled_value - lax.stop_gradient(log_density)) / temperature
    return jnp.mean(temperature * nn.logsumexp(sampled, axis=-1) - value, axis=0)


def calibrated(
    sampled_value: Float[Array, "ensemble batch actions"], monte_carlo_return: Float[Array, " batch"]
) -> Float[Array, "ensemble batch actions"]:
    """The larger of each policy action's value and the data's return (Cal-QL, Nakamoto et al. 2023, equation 5.1)."""
    return jnp.maximum(sampled_value, monte_carlo_return[:, None])


def multiplier_gap(gap: Float[Array, "*batch"], target_gap: float) -> Float[Array, "*batch"]:
    """Target gap minus the conservative gap, without gradient (Kumar et al. 2020, appendix F).

    Minimising multiplier * gap raises the multiplier while the conservative gap exceeds its target.
    """
    return lax.stop_gradient(target_gap - gap)


SamplePolicy = Callable[[Float[Array, "rows observation"], PRNGKeyArray], tuple[Array, Array]]
"""(network inputs, key) -> (actions, log-probabilities)."""

ValueOf = Callable[[Float[Array, "rows observation"], Float[Array, "rows action"]], Array]
"""(network inputs, actions) -> values, (ensemble, rows)."""


class SampledActions(NamedTuple):
    """Per observation: uniform actions, the policy's, and the policy's at the next observation."""

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
    """Draws `count` actions of each of CQL(H)'s three kinds (Kumar et al. 2020, appendix F)."""
    uniform_key, *policy_keys = jax.random.split(key, 3)
    batch_size = len(observation)
    actions = [jax.random.uniform(uniform_key, (batch_size, count, action_size), minval=-1.0, maxval=1.0)]
    log_densities = [jnp.full((batch_size, count), -action_size * jnp.log(2.0))]
    for rows, policy_key in zip((observation, next_observation), policy_keys, strict=True):
        action, log_probability = sample_policy(jnp.repeat(rows, count, axis=0), policy_key)
        actions.append(action.reshape(batch_size, count, action_size))
        log_densities.append(log_probability.reshape(batch_size, count))
    return SampledActions(jnp.concatenate(actions, axis=1), jnp.concatenate(log_densities, axis=1))


def sampled_conservative_gap(
    value_of: ValueOf,
    sampled: SampledActions,
    observation: Float[Array, "batch observation"],
    value: Float[Array, "ensemble batch"],
    temperature: float,
    lower_bound: Float[Array, " batch"] | None,
) -> Float[Array, " batch"]:
    """`conservative_gap` of sampled actions.

    Args:
        value: of the data's actions.
        lower_bound: Monte-Carlo returns (Cal-QL); None: CQL.
    """
    batch_size, count, action_size = sampled.action.shape
    values = value_of(jnp.repeat(observation, count, axis=0), sampled.action.reshape(-1, action_size))
    values = values.reshape(-1, batch_size, count)
    if lower_bound is not None:
        # As in the authors' code random actions, a third of all, are not bounded.
        uniform, by_policy = jnp.split(values, [count // 3], axis=-1)
        values = jnp.concatenate([uniform, calibrated(by_policy, lower_bound)], axis=-1)
    return conservative_gap(values, sampled.log_density, value, temperature)
