"""The layers compute what their formulas say, and their written-out derivatives are the formulas' derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from wsrl_kit.agent.networks import normalised_tanh, product

ROWS, WIDTH = 6, 16


def arrays(*shapes: tuple[int, ...]) -> list[jax.Array]:
    random = np.random.default_rng(0)
    return [jnp.asarray(random.normal(size=shape), jnp.float32) for shape in shapes]


def plain_product(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    return jnp.einsum("ri,io->ro", inputs, kernel)


def plain_normalised_tanh(hidden: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    return jnp.tanh(linen.LayerNorm().apply({"params": {"scale": scale, "bias": bias}}, hidden))


CASES = {
    "product": (product, plain_product, arrays((ROWS, WIDTH), (WIDTH, 5))),
    "normalised tanh": (normalised_tanh, plain_normalised_tanh, arrays((ROWS, WIDTH), (WIDTH,), (WIDTH,))),
}


@pytest.mark.parametrize("case", CASES)
def test_a_layer_and_all_its_derivatives_are_those_of_its_formula(case: str) -> None:
    layer, formula, inputs = CASES[case]
    output, backward = jax.vjp(layer, *inputs)
    expected, expected_backward = jax.vjp(formula, *inputs)
    (gradient,) = arrays(output.shape)
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(backward(gradient), expected_backward(gradient), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_row_without_variance_has_finite_values_and_derivatives() -> None:
    hidden = jnp.full((ROWS, WIDTH), 1234.5)
    output, backward = jax.vjp(normalised_tanh, hidden, jnp.ones(WIDTH), jnp.full(WIDTH, 0.5))
    np.testing.assert_allclose(output, np.tanh(0.5), rtol=1e-6)
    assert all(np.isfinite(leaf).all() for leaf in backward(jnp.ones_like(hidden)))
