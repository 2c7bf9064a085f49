"""Loss terms: pure functions of arrays that return one value per example.

The caller adds terms, multiplies by the examples' weights and takes the mean, once and last.
A term that is off is absent from the sum.
"""

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float


def td_target(
    reward: Float[Array, " batch"],
    mask: Float[Array, " batch"],
    next_value: Float[Array, " batch"],
    discount: float,
) -> Float[Array, " batch"]:
    """One-step target `reward + discount * mask * next_value`, without gradient; mask = 1 - terminated."""
    return lax.stop_gradient(reward + discount * mask * next_value)


def squared_td_error(value: Float[Array, "ensemble batch"], target: Float[Array, " batch"]) -> Float[Array, " batch"]:
    """Squared TD error, mean over the ensemble (seed design, `critic_loss`; REDQ, Chen et al. 2021, equation 1)."""
    return jnp.mean(jnp.square(value - target), axis=0)


def soft_policy(
    log_probability: Float[Array, " batch"], value: Float[Array, "ensemble batch"], temperature: Float[Array, ""]
) -> Float[Array, " batch"]:
    """`temperature * log pi(a|s) - Q(s, a)` with the ensemble's mean (Haarnoja et al. 2018, equation 7).

    The mean where SAC has the minimum is REDQ's choice (Chen et al. 2021, algorithm 1), kept by RLPD and WSRL.
    """
    return temperature * log_probability - jnp.mean(value, axis=0)


def entropy_gap(log_probability: Float[Array, " batch"], target_entropy: float) -> Float[Array, " batch"]:
    """How far the entropy estimate lies above its target (Haarnoja et al. 2018, equation 18, without the factor)."""
    return lax.stop_gradient(-log_probability - target_entropy)


def behavior_cloning(
    action: Float[Array, "batch action"], data_action: Float[Array, "batch action"]
) -> Float[Array, " batch"]:
    """Squared distance of the policy's sampled action to the data's, mean over its entries.

    TD3+BC's term (Fujimoto and Gu 2021, equation 5) with a sampled action in place of a deterministic one; unlike the
    likelihood it stays finite for recorded actions at the bounds.
    """
    return jnp.mean(jnp.square(action - data_action), axis=-1)
