"""The squashed normal distribution, against numerical integration and the change of variables in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsrl_kit.agent import networks


@pytest.mark.parametrize(("mean", "standard_deviation"), [(0.0, 1.0), (0.7, 0.3), (-1.5, 0.8), (0.0, 2.0)])
def test_the_density_integrates_to_one(mean: float, standard_deviation: float) -> None:
    noise = jnp.linspace(-7.0, 7.0, 20_001)[:, None]
    action, log_probability = networks.sample(
        jnp.full_like(noise, mean), jnp.full_like(noise, standard_deviation), noise
    )
    density = np.exp(np.asarray(log_probability, np.float64))
    assert np.trapezoid(density, np.asarray(action[:, 0], np.float64)) == pytest.approx(1.0, abs=2e-3)


def test_the_log_probability_is_the_change_of_variables_summed_over_entries() -> None:
    generator = np.random.default_rng(0)
    mean, noise = generator.normal(size=(2, 50, 3))
    standard_deviation = generator.uniform(0.1, 1.0, size=(50, 3))
    inputs = (jnp.asarray(entry, jnp.float32) for entry in (mean, standard_deviation, noise))
    action, log_probability = networks.sample(*inputs)

    before_tanh = mean + standard_deviation * noise
    normal = -0.5 * noise**2 - np.log(standard_deviation * np.sqrt(2 * np.pi))
    expected = (normal - np.log1p(-(np.tanh(before_tanh) ** 2))).sum(axis=1)
    np.testing.assert_allclose(action, np.tanh(before_tanh), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(log_probability, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mean", [-1e4, -60.0, 60.0, 1e4])
def test_values_and_gradients_stay_finite_where_the_action_rounds_to_its_bound(mean: float) -> None:
    def log_probability(mean: jax.Array, standard_deviation: jax.Array) -> tuple[jax.Array, jax.Array]:
        action, value = networks.sample(mean, standard_deviation, jnp.array([[0.3]]))
        return value.sum(), action

    arguments = jnp.full((1, 1), mean), jnp.full((1, 1), 1e-5)
    (value, action), gradients = jax.value_and_grad(log_probability, (0, 1), has_aux=True)(*arguments)
    assert action == np.sign(mean)
    assert np.isfinite(value) and np.isfinite(gradients).all()


@pytest.mark.parametrize("scale", [1e3, -1e3])
def test_an_actor_driven_far_keeps_its_deviation_in_range_and_its_gradient_finite(scale: float) -> None:
    actor = networks.Actor(2, (8,), layer_norm=True, activation="tanh", weights=networks.InitialWeights("xavier", 0.01))
    observation = jnp.ones((3, 4))
    far = jax.tree.map(lambda leaf: leaf + scale, jax.jit(actor.init)(jax.random.key(0), observation))
    _, standard_deviation = jax.jit(actor.apply)(far, observation)
    assert (standard_deviation >= 0.99e-5).all() and (standard_deviation <= 5.01).all()
    gradient = jax.jit(jax.grad(lambda parameters: sum(each.sum() for each in actor.apply(parameters, observation))))(
        far
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
