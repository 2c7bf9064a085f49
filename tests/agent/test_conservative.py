"""CQL's and Cal-QL's term: values by hand, what it pushes where, its weight, its multiplier."""

import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_sac import (
    ACTIONS,
    BATCH,
    OBSERVATIONS,
    assert_close,
    assert_moved,
    batch_of,
    fresh,
    td_errors,
    update,
    update_critic,
)

from wsrl_kit.agent import losses, sac
from wsrl_kit.agent.sac import SACConfig, TermWeights
from wsrl_kit.config.config import WSRLConfig

PARAMETERS = {"hidden_sizes": [8], "discount": 0.9, "critic_learning_rate": 1e-2, "cql_actions": 2}


def static_of(loss: str, **changes: object) -> SACConfig:
    return sac.from_parameters(WSRLConfig(**PARAMETERS | {"conservative_loss": loss} | changes), OBSERVATIONS, ACTIONS)


CQL = static_of("cql", cql_max_target_backup=False)
CALQL = static_of("calql", cql_max_target_backup=False)
PLAIN = static_of("none")


# By hand


def test_the_gap_is_the_soft_maximum_over_sampled_actions_less_the_datas_value() -> None:
    sampled = jnp.array([[[1.0, 2.0]], [[0.0, 0.0]]])  # two critics, one example, two actions
    log_density = jnp.array([[math.log(0.5), math.log(0.25)]])
    value = jnp.array([[3.0], [1.0]])
    # exp(1) / 0.5 + exp(2) / 0.25, and 1 / 0.5 + 1 / 0.25
    first = math.log(2 * math.e + 4 * math.e**2) - 3.0
    second = math.log(6.0) - 1.0
    np.testing.assert_allclose(
        losses.conservative_gap(sampled, log_density, value, 1.0), [(first + second) / 2], rtol=1e-6
    )


def test_a_low_temperature_makes_the_soft_maximum_hard() -> None:
    sampled, zero = jnp.array([[[1.0, 4.0, 2.0]]]), jnp.zeros((1, 3))
    gap = losses.conservative_gap(sampled, zero, jnp.array([[1.5]]), 1e-3)
    np.testing.assert_allclose(gap, [2.5], rtol=1e-5)
    # At temperature 2: 2 log(e^0.5 + e^2 + e^1) - 1.5
    expected = 2 * math.log(math.exp(0.5) + math.exp(2.0) + math.exp(1.0)) - 1.5
    np.testing.assert_allclose(losses.conservative_gap(sampled, zero, jnp.array([[1.5]]), 2.0), [expected], rtol=1e-6)


def test_the_gaps_gradient_is_the_soft_maximums_share_less_one_at_the_data() -> None:
    sampled, log_density = jnp.array([[[0.0, math.log(3.0)]]]), jnp.zeros((1, 2))
    value = jnp.array([[5.0]])
    arguments = (sampled, log_density, value)
    by_sample, by_density, by_value = jax.grad(lambda *a: losses.conservative_gap(*a, 1.0).sum(), (0, 1, 2))(*arguments)
    np.testing.assert_allclose(by_sample, [[[0.25, 0.75]]], rtol=1e-6)
    np.testing.assert_array_equal(by_density, [[0.0, 0.0]])
    np.testing.assert_array_equal(by_value, [[-1.0]])


def test_calibration_raises_values_to_the_return_and_stops_the_push_below_it() -> None:
    values, returns = jnp.array([[[1.0, 3.0], [-1.0, 0.5]]]), jnp.array([2.0, -jnp.inf])
    np.testing.assert_array_equal(losses.calibrated(values, returns), [[[2.0, 3.0], [-1.0, 0.5]]])
    gradient = jax.grad(lambda v: losses.calibrated(v, returns).sum())(values)
    np.testing.assert_array_equal(gradient, [[[0.0, 1.0], [1.0, 1.0]]])


def test_only_actions_of_the_policy_are_bounded() -> None:
    # One uniform action and two of the policy, all of value 0; the return is 1.
    sampled = losses.SampledActions(jnp.zeros((1, 3, ACTIONS)), jnp.zeros((1, 3)))

    def gap(bound: jax.Array | None) -> float:
        zero = lambda rows, actions: jnp.zeros((1, len(rows)))  # noqa: E731
        return float(
            losses.sampled_conservative_gap(zero, sampled, jnp.zeros((1, OBSERVATIONS)), jnp.zeros((1, 1)), 1.0, bound)[
                0
            ]
        )

    assert gap(None) == pytest.approx(math.log(3.0))
    assert gap(jnp.array([1.0])) == pytest.approx(math.log(1.0 + 2 * math.e))


def test_sampled_actions_come_with_the_density_that_they_were_drawn_with() -> None:
    def policy(rows: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.broadcast_to(rows[:, :1], (len(rows), ACTIONS)), rows[:, 0]

    observation, following = jnp.full((3, OBSERVATIONS), 0.25), jnp.full((3, OBSERVATIONS), 0.75)
    count = 500
    sampled = losses.sample_actions(policy, observation, following, count, ACTIONS, jax.random.key(0))
    uniform, here, there = np.split(np.asarray(sampled.action), 3, axis=1)
    np.testing.assert_array_equal(here, 0.25)
    np.testing.assert_array_equal(there, 0.75)
    # A uniform distribution on [-1, 1]: mean 0 (standard error 0.011), variance 1/3.
    assert abs(uniform.mean()) < 0.05
    assert uniform.var() == pytest.approx(1 / 3, abs=0.03)
    assert -1 <= uniform.min() < -0.98
    assert 0.98 < uniform.max() <= 1
    densities = np.split(np.asarray(sampled.log_density), 3, axis=1)
    for density, expected in zip(densities, (ACTIONS * math.log(0.5), 0.25, 0.75), strict=True):
        np.testing.assert_allclose(density, expected, rtol=1e-6)


def test_the_multiplier_grows_while_the_gap_is_above_its_target() -> None:
    np.testing.assert_allclose(losses.multiplier_gap(jnp.array([2.0, 0.5]), 1.0), [-1.0, 0.5])
    config = static_of("cql", cql_target_gap=1.0)
    for gap, sign in ((5.0, 1), (-5.0, -1)):
        state, metrics = sac.update_multiplier(config, fresh(config), jnp.float32(gap))
        assert np.sign(state.log_multiplier) == sign
        assert metrics["conservative_multiplier"] == 1.0


# In an update


def test_a_term_of_weight_zero_changes_no_step() -> None:
    batch, key = batch_of(BATCH), jax.random.key(3)
    with_term, _, _ = update_critic(CQL, fresh(CQL), batch, key, jnp.float32(0.0))
    without, _, _ = update_critic(PLAIN, fresh(PLAIN), batch, key)
    assert_close(with_term.critic, without.critic, 1e-6)


def gap_after(config: SACConfig, weight: float, steps: int = 100) -> float:
    state = fresh(config)
    batch = batch_of(1, BATCH)
    for step in range(steps):
        state, metrics, _ = update(config, state, batch, jax.random.key(step), TermWeights(jnp.float32(weight)))
    return float(metrics["conservative_gap"])


def test_the_term_lowers_the_gap_the_more_the_heavier_it_is() -> None:
    gaps = [gap_after(CQL, weight) for weight in (0.0, 0.1, 1.0)]
    assert gaps[0] > gaps[1] + 0.05
    assert gaps[1] > gaps[2] + 0.3


@pytest.mark.slow
def test_without_known_returns_calql_is_cql() -> None:
    batch = batch_of(1, BATCH)._replace(monte_carlo_return=jnp.full((1, BATCH), -jnp.inf))
    arguments = (batch, jax.random.key(0), TermWeights(jnp.float32(0.5)))
    assert_close(update(CQL, fresh(), *arguments), update(CALQL, fresh(), *arguments), 1e-6)


@pytest.mark.slow
def test_high_returns_keep_calql_from_pushing_the_policys_values_down() -> None:
    batch = batch_of(BATCH)
    key = jax.random.key(0)

    def values_of_policy(config: SACConfig, returns: float) -> float:
        state = fresh(config)
        for step in range(100):
            rows = batch._replace(monte_carlo_return=jnp.full(BATCH, returns), mask=jnp.zeros(BATCH))
            state, _, _ = update_critic(config, state, rows, jax.random.fold_in(key, step), jnp.float32(1.0))
        action = sac.act(config, sac.policy(state), batch.observation, jnp.zeros((BATCH, ACTIONS)))
        return float(sac.action_values(config, state, batch.observation, action).mean())

    assert values_of_policy(CALQL, 50.0) > values_of_policy(CQL, 50.0) + 0.05


def test_the_gap_counts_by_the_examples_weights() -> None:
    # Where all weight is on one example, the others change nothing but the sampled actions' share of the key.
    weight = jnp.zeros(BATCH).at[0].set(BATCH)
    batch, other = batch_of(BATCH)._replace(weight=weight), batch_of(BATCH, seed=1)
    mixed = jax.tree.map(lambda one, two: two.at[0].set(one[0]), batch, other)._replace(weight=weight)
    step = partial(update_critic, CQL, fresh(CQL), key=jax.random.key(0), conservative_weight=jnp.float32(1.0))
    assert_close(step(batch=batch)[0].critic, step(batch=mixed)[0].critic, 1e-5)


def test_the_max_target_backup_takes_the_best_of_the_candidates() -> None:
    # With several candidates the next value is a maximum, so never lower on average; with one it is that of plain SAC.
    batch = batch_of(BATCH)._replace(mask=jnp.ones(BATCH), reward=jnp.zeros(BATCH))
    state = fresh()._replace(target_critic=jax.tree.map(lambda leaf: 3 * leaf + 0.3, fresh().target_critic))
    one, many = (replace(CQL, cql_max_target_backup=True, cql_actions=count) for count in (1, 20))
    error = {c: np.asarray(td_errors(c, state, batch, jax.random.key(0))) for c in (one, many)}
    # TD error = value - target.
    assert error[many].mean() < error[one].mean() - 1e-3
    plain = td_errors(PLAIN, state, batch, jax.random.key(0))
    np.testing.assert_allclose(error[one], plain, rtol=1e-5, atol=1e-6)


def test_a_multiplier_settles_where_the_gap_is_its_target() -> None:
    config = static_of("cql", cql_target_gap=1.5)

    def one_step(_: int, state: sac.SACState) -> sac.SACState:
        # The gap falls as the multiplier grows: it is at its target for a multiplier of 2, whatever the rounding.
        return sac.update_multiplier(config, state, 3.0 / jnp.exp(state.log_multiplier))[0]

    settle = jax.jit(lambda state: jax.lax.fori_loop(0, 2000, one_step, state))
    for start in (-3.0, 4.0):
        state = settle(fresh(config)._replace(log_multiplier=jnp.float32(start)))
        assert jnp.exp(state.log_multiplier) == pytest.approx(2.0, rel=0.02)


def test_a_multiplier_weighs_the_term() -> None:
    config = static_of("cql", cql_target_gap=1.0)
    batch, key = batch_of(BATCH), jax.random.key(3)

    def gradients(multiplier: float, weight: float) -> object:
        """The critics' first moments in Adam, a tenth of their first gradients."""
        state = fresh(config)._replace(log_multiplier=jnp.log(jnp.float32(multiplier)))
        return update_critic(config, state, batch, key, jnp.float32(weight))[0].critic_optimizer[0].mu

    assert_close(gradients(3.0, 0.5), gradients(1.0, 1.5), 1e-6)
    assert_moved(gradients(3.0, 0.5), gradients(1.0, 0.5))


@pytest.mark.slow
def test_a_multiplier_pushes_the_gap_below_its_target_and_then_comes_back() -> None:
    config = static_of("cql", cql_target_gap=1.0, cql_max_target_backup=False)
    batch = batch_of(1, BATCH)

    def one_update(state: sac.SACState, step: jax.Array) -> tuple[sac.SACState, tuple[jax.Array, jax.Array]]:
        state, metrics, _ = sac.update(config, state, batch, jax.random.key(step), TermWeights(jnp.float32(1.0)))
        return state, (metrics["conservative_multiplier"], metrics["conservative_gap"])

    multipliers, gaps = jax.jit(lambda state: jax.lax.scan(one_update, state, jnp.arange(1500))[1])(fresh(config))
    # Where it swings to depends on the last bits; that it swings both ways, and nearer to the target, does not.
    assert gaps[0] > 2.0
    assert multipliers.max() > 2.0
    assert gaps.min() < 1.0
    assert multipliers[-1] < multipliers.max() / 2
    assert abs(gaps[500:].mean() - 1.0) < (gaps[0] - 1.0) / 2
