"""Every loss term against values computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsrl_kit.agent import losses


def test_the_td_target_bootstraps_unless_the_episode_terminated() -> None:
    target = losses.td_target(jnp.array([1.0, 1.0, -2.0]), jnp.array([1.0, 0.0, 1.0]), jnp.array([4.0, 4.0, 0.5]), 0.5)
    np.testing.assert_array_equal(target, [3.0, 1.0, -1.75])


def test_the_squared_td_error_is_the_mean_over_the_ensemble() -> None:
    value = jnp.array([[1.0, 2.0], [3.0, 2.0], [2.0, 5.0]])
    # (0 - 1)^2, ... : (1 + 1 + 0) / 3 and (0 + 0 + 9) / 3
    np.testing.assert_allclose(losses.squared_td_error(value, jnp.array([2.0, 2.0])), [2 / 3, 3.0], rtol=1e-6)


def test_the_policy_loss_is_the_temperatures_share_of_the_log_probability_less_the_value() -> None:
    loss = losses.soft_policy(jnp.array([-2.0, 3.0]), jnp.array([1.5, 2.0]), jnp.array(0.5))
    np.testing.assert_allclose(loss, [0.5 * -2.0 - 1.5, 0.5 * 3.0 - 2.0])


def test_the_entropy_gap_is_entropy_less_its_target() -> None:
    np.testing.assert_allclose(losses.entropy_gap(jnp.array([1.0, -4.0]), -3.0), [2.0, 7.0])


def test_behavior_cloning_is_the_mean_squared_distance_of_the_action_times_the_mean_magnitude_of_q() -> None:
    action, data_action = jnp.array([[0.5, -1.0], [1.0, 1.0]]), jnp.array([[0.5, 1.0], [0.0, 0.5]])
    np.testing.assert_allclose(losses.behavior_cloning(action, data_action, jnp.array([-6.0, 2.0])), [8.0, 2.5])


def test_no_gradient_flows_through_targets() -> None:
    ones = jnp.ones(3)
    np.testing.assert_array_equal(jax.grad(lambda v: losses.td_target(ones, ones, v, 0.9).sum())(ones), np.zeros(3))
    np.testing.assert_array_equal(jax.grad(lambda p: losses.entropy_gap(p, -1.0).sum())(ones), np.zeros(3))
    cloning = jax.grad(lambda v: losses.behavior_cloning(jnp.ones((3, 2)), jnp.zeros((3, 2)), v).sum())
    np.testing.assert_array_equal(cloning(ones), np.zeros(3))


@pytest.mark.parametrize("seed", range(3))
def test_terms_agree_with_numpy_on_random_arrays(seed: int) -> None:
    generator = np.random.default_rng(seed)
    value = generator.normal(size=(4, 7)).astype(np.float32)
    reward, mask, next_value, log_probability = generator.normal(size=(4, 7)).astype(np.float32)
    np.testing.assert_allclose(
        losses.td_target(jnp.asarray(reward), jnp.asarray(mask), jnp.asarray(next_value), 0.97),
        reward + 0.97 * mask * next_value,
        rtol=1e-5,
        atol=1e-6,
    )
    np.testing.assert_allclose(
        losses.squared_td_error(jnp.asarray(value), jnp.asarray(reward)), ((value - reward) ** 2).mean(0), rtol=1e-5
    )
    np.testing.assert_allclose(
        losses.soft_policy(jnp.asarray(log_probability), jnp.asarray(reward), jnp.array(0.1)),
        0.1 * log_probability - reward,
        rtol=1e-4,
        atol=1e-6,
    )
