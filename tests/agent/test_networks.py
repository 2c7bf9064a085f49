"""LayerNorm with tanh computes what its formula says; its written-out derivatives are the formula's."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from wsrl_kit.agent import sac
from wsrl_kit.agent.networks import normalised_tanh
from wsrl_kit.config.config import WSRLConfig

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


OBSERVATIONS, ACTIONS, SIZES = 5, 2, [24, 24, 20]


def kernels(**changes: Any) -> dict[str, list[np.ndarray]]:
    """Initial kernels of the actor's layers and of one critic's, in order."""
    config = sac.from_parameters(WSRLConfig(hidden_sizes=SIZES, **changes), OBSERVATIONS, ACTIONS)
    state = sac.create(config, jax.random.key(0), jnp.zeros(OBSERVATIONS), jnp.ones(OBSERVATIONS))
    critic = jax.tree.map(lambda leaf: leaf[1], state.critic["params"]["VmapCritic_0"])
    return {
        name: [
            *(layers["HiddenLayers_0"][f"Dense_{i}"]["kernel"] for i in range(len(SIZES))),
            layers["Dense_0"]["kernel"],
        ]
        for name, layers in (("actor", state.actor["params"]), ("critic", critic))
    }


@pytest.mark.parametrize("network", ["actor", "critic"])
def test_orthogonal_layers_start_with_orthonormal_columns_times_their_gain(network: str) -> None:
    layers = kernels(initialisation="orthogonal", output_scale=0.3, last_hidden_scale=0.01)[network]
    for kernel, gain in zip(layers, (2**0.5, 2**0.5, 0.01, 0.3), strict=True):
        # A layer wider than its input has orthonormal rows instead.
        narrow = kernel if kernel.shape[0] >= kernel.shape[1] else kernel.T
        np.testing.assert_allclose(narrow.T @ narrow, gain**2 * np.eye(narrow.shape[1]), atol=1e-5 * gain**2)


@pytest.mark.parametrize("network", ["actor", "critic"])
def test_xavier_layers_start_uniform_with_the_variance_of_their_scale(network: str) -> None:
    for changes, scales in (({}, (1, 1, 1, 0.01)), ({"last_hidden_scale": 0.1, "output_scale": 1}, (1, 1, 0.1, 1))):
        for kernel, scale in zip(kernels(**changes)[network], scales, strict=True):
            bound = np.sqrt(6 * scale / sum(kernel.shape))
            assert 0.8 * bound < np.abs(kernel).max() <= bound
