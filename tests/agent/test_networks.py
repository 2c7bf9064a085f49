"""LayerNorm with tanh computes what its formula says; its written-out derivatives are the formula's."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen

from wsrl_kit.agent.networks import normalised_tanh

ROWS, WIDTH = 6, 16


def arrays(*shapes: tuple[int, ...]) -> list[jax.Array]:
    random = np.random.default_rng(0)
    return [jnp.asarray(random.normal(size=shape), jnp.float32) for shape in shapes]


def plain_normalised_tanh(hidden: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    return jnp.tanh(linen.LayerNorm().apply({"params": {"scale": scale, "bias": bias}}, hidden))


def test_normalised_tanh_and_all_its_derivatives_are_those_of_its_formula() -> None:
    inputs = arrays((ROWS, WIDTH), (WIDTH,), (WIDTH,))
    output, backward = jax.vjp(normalised_tanh, *inputs)
    expected, expected_backward = jax.vjp(plain_normalised_tanh, *inputs)
    (gradient,) = arrays(output.shape)
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(backward(gradient), expected_backward(gradient), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_row_without_variance_has_finite_values_and_derivatives() -> None:
    hidden = jnp.full((ROWS, WIDTH), 1234.5)
    output, backward = jax.vjp(normalised_tanh, hidden, jnp.ones(WIDTH), jnp.full(WIDTH, 0.5))
    np.testing.assert_allclose(output, np.tanh(0.5), rtol=1e-6)
    assert all(np.isfinite(leaf).all() for leaf in backward(jnp.ones_like(hidden)))
