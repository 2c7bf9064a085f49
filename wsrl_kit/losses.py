"""Loss terms: pure functions of arrays that return one value per example.

The caller adds terms, multiplies by the examples' weights and takes the mean, once and last.
A term that is off is absent from the sum.
"""

import jax.numpy as jnp
from jax import Array, lax, nn
from jaxtyping import Float, Integer


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


def value_of_choice(value: Float[Array, "batch choices"], choice: Integer[Array, " batch"]) -> Float[Array, " batch"]:
    """A discrete critic's value of what was chosen."""
    return jnp.take_along_axis(value, choice[:, None], axis=1)[:, 0]


def double_q(
    value: Float[Array, "batch choices"], target_value: Float[Array, "batch choices"]
) -> Float[Array, " batch"]:
    """Value of the next choice: the online critic makes it, the target critic values it.

    Double DQN (van Hasselt et al. 2016, arXiv 1509.06461, section on double DQN).
    """
    return value_of_choice(target_value, jnp.argmax(value, axis=1))


def soft_policy(
    log_probability: Float[Array, " batch"], value: Float[Array, " batch"], temperature: Float[Array, ""]
) -> Float[Array, " batch"]:
    """`temperature * log pi(a|s) - Q(s, a)` (Haarnoja et al. 2018, equation 7).

    Args:
        log_probability: of the policy's action.
        value: of that action, the ensemble's values already made one: by the minimum in SAC and WSRL's code, by the
            mean in REDQ (Chen et al. 2021, algorithm 1), RLPD and HIL-SERL.
        temperature: of the entropy bonus.
    """
    return temperature * log_probability - value


def entropy_gap(log_probability: Float[Array, " batch"], target_entropy: float) -> Float[Array, " batch"]:
    """How far the entropy estimate lies above its target (Haarnoja et al. 2018, equation 18, without the factor)."""
    return lax.stop_gradient(-log_probability - target_entropy)


def behavior_cloning(
    action: Float[Array, "batch action"], data_action: Float[Array, "batch action"]
) -> Float[Array, " batch"]:
    """Squared distance of the policy's action to the data's, mean over its entries.

    TD3+BC's term (Fujimoto and Gu 2021, equation 5), of a deterministic action there; unlike the likelihood it stays
    finite for recorded actions at the bounds.
    """
    return jnp.mean(jnp.square(action - data_action), axis=-1)


def conservative_gap(
    sampled_value: Float[Array, "ensemble batch actions"],
    log_density: Float[Array, "batch actions"],
    value: Float[Array, "ensemble batch"],
    temperature: float,
) -> Float[Array, " batch"]:
    """CQL(H): how far sampled actions are valued above the data's, mean over the ensemble.

    `temperature * logsumexp((Q(s, a_i) - log density(a_i)) / temperature) - Q(s, a)` over actions a_i drawn from
    uniform and policy distributions (Kumar et al. 2020, equation 4, importance sampling of
    appendix F). As in the
    authors' code the sum over the samples is not divided by their number, which shifts the gap by a constant, and
    gradient flows into the values alone.

    Args:
        sampled_value: Q of the sampled actions.
        log_density: log of the density that each was drawn with.
        value: Q of the data's actions.
        temperature: of the log-sum-exp.
    """
    sampled = (sampled_value - lax.stop_gradient(log_density)) / temperature
    return jnp.mean(temperature * nn.logsumexp(sampled, axis=-1) - value, axis=0)


def calibrated(
    sampled_value: Float[Array, "ensemble batch actions"], monte_carlo_return: Float[Array, " batch"]
) -> Float[Array, "ensemble batch actions"]:
    """Values not below the return that the data's own policy got from there: where they are, nothing pushes them down.

    Cal-QL (Nakamoto et al. 2023, equation 5.1). For actions of the policy; random ones stay unbounded. A return of
    -inf bounds nothing, which leaves CQL.
    """
    return jnp.maximum(sampled_value, monte_carlo_return[:, None])


def multiplier_gap(gap: Float[Array, "*batch"], target_gap: float) -> Float[Array, "*batch"]:
    """How far the conservative gap lies below the one aimed at: its product with the multiplier is minimised.

    The Lagrange form of CQL (Kumar et al. 2020, appendix F): the multiplier grows while the gap is above its target.
    """
    return lax.stop_gradient(target_gap - gap)
