"""A normal distribution squashed by tanh, for actions in (-1, 1) (Haarnoja et al. 2018, appendix C)."""

import jax.numpy as jnp
from jax import Array, nn
from jaxtyping import Float


def sample(
    mean: Float[Array, "*batch action"],
    standard_deviation: Float[Array, "*batch action"],
    noise: Float[Array, "*batch action"],
) -> tuple[Float[Array, "*batch action"], Float[Array, "*batch"]]:
    """Action and its log-probability from standard normal noise; differentiable in mean and standard deviation."""
    before_tanh = mean + standard_deviation * noise
    log_normal = -0.5 * jnp.square(noise) - jnp.log(standard_deviation) - 0.5 * jnp.log(2 * jnp.pi)
    return jnp.tanh(before_tanh), jnp.sum(log_normal - log_tanh_slope(before_tanh), axis=-1)


def log_tanh_slope(before_tanh: Float[Array, "*batch action"]) -> Float[Array, "*batch action"]:
    """log(1 - tanh(x)^2), in a form that stays finite where tanh(x) rounds to 1."""
    return 2.0 * (jnp.log(2.0) - before_tanh - nn.softplus(-2.0 * before_tanh))
