"""Facts about weighted SAC: weights, what an update touches, targets, ensembles, seeds, compilation."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import PyTree

from slow_cases import one_fast
from wsrl_kit.agent import sac
from wsrl_kit.agent import state as sac_state
from wsrl_kit.agent.sac import SACConfig, SACState
from wsrl_kit.agent.transition import Transition, packed
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.replay import ring
from wsrl_kit.replay.mixture import Replay
from wsrl_kit.replay.ring import Ring
from wsrl_kit.training import learner
from wsrl_kit.training.start import sac_config

OBSERVATIONS, ACTIONS, BATCH = 3, 2, 16

CONFIG = sac.from_parameters(
    WSRLConfig(hidden_sizes=[8], discount=0.9, target_update_rate=0.1, initial_temperature=0.1), OBSERVATIONS, ACTIONS
)


update_critic = jax.jit(sac.update_critic, static_argnums=0)
update_actor = jax.jit(sac.update_actor, static_argnums=0)
update = jax.jit(sac.update, static_argnums=0)
td_errors = jax.jit(sac.td_errors, static_argnums=0)
action_values = jax.jit(sac.action_values, static_argnums=0)
act = jax.jit(sac.act, static_argnums=0)


def fresh(config: SACConfig = CONFIG, seed: int = 0) -> SACState:
    return sac.create(config, jax.random.key(seed), jnp.zeros(OBSERVATIONS), jnp.ones(OBSERVATIONS))


def batch_of(*shape: int, seed: int = 0) -> Transition:
    generator = np.random.default_rng(seed)

    def normal(*sizes: int) -> jax.Array:
        return jnp.asarray(generator.normal(size=(*shape, *sizes)), jnp.float32)

    return Transition(
        observation=normal(OBSERVATIONS),
        action=jnp.tanh(normal(ACTIONS)),
        reward=normal(),
        next_observation=normal(OBSERVATIONS),
        mask=jnp.asarray(generator.random(shape) < 0.8, jnp.float32),
        weight=jnp.ones(shape),
        monte_carlo_return=normal(),
    )


def trained(config: SACConfig = CONFIG) -> SACState:
    """An agent whose optimizers have built up momentum."""
    state = fresh(config)
    for step in range(3):
        batch = batch_of(BATCH, seed=step)
        state, _, _ = update_critic(config, state, batch, jax.random.key(step))
        state, _ = update_actor(config, state, batch, jax.random.key(step))
    return state


def constant_critics(state: SACState, values: list[float]) -> SACState:
    """The agent with target critics of these values everywhere, and a standard normal policy before tanh."""

    def output_bias_only(leaf: jax.Array) -> jax.Array:
        return jnp.asarray(values)[:, None] if leaf.shape == (len(values), 1) else jnp.zeros_like(leaf)

    return state._replace(
        target_critic=jax.tree.map(output_bias_only, state.target_critic),
        actor=jax.tree.map(jnp.zeros_like, state.actor),
    )


def assert_identical(one: PyTree, other: PyTree) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


def assert_close(one: PyTree, other: PyTree, tolerance: float = 1e-5) -> None:
    jax.tree.map(partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), one, other)


def differs(one: PyTree, other: PyTree) -> bool:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return any(not np.array_equal(a, b) for a, b in pairs)


def assert_moved(one: PyTree, other: PyTree) -> None:
    assert max(np.max(np.abs(a - b)) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True)) > 1e-6


# Weights


def test_weights_of_one_give_the_unweighted_critic_step() -> None:
    state, batch = fresh(), batch_of(BATCH)._replace(mask=jnp.zeros(BATCH))
    network = sac_state.critic_network(CONFIG, CONFIG.critic_ensemble_size)

    def unweighted_loss(critic: PyTree) -> jax.Array:
        # Terminal transitions: the target is the reward.
        return jnp.mean((network.apply(critic, batch.observation, batch.action, False) - batch.reward) ** 2)

    @jax.jit
    def unweighted_step(critic: PyTree) -> tuple[jax.Array, PyTree]:
        loss, gradient = jax.value_and_grad(unweighted_loss)(critic)
        optimizer = optax.adam(CONFIG.critic_learning_rate)
        step, _ = optimizer.update(gradient, optimizer.init(critic), critic)
        return loss, optax.apply_updates(critic, step)

    loss, critic = unweighted_step(state.critic)
    new_state, metrics, _ = update_critic(CONFIG, state, batch, jax.random.key(0))
    assert metrics["critic_loss"] == pytest.approx(float(loss), rel=1e-5)
    assert_close(new_state.critic, critic)


def test_the_critic_loss_is_the_weighted_mean_over_examples() -> None:
    config = replace(CONFIG, critic_ensemble_size=1, critic_subset_size=1)
    weight = jnp.asarray(np.random.default_rng(1).uniform(0, 3, BATCH), jnp.float32)
    state, batch = fresh(config), batch_of(BATCH)._replace(weight=weight)
    _, metrics, td_error = update_critic(config, state, batch, jax.random.key(0))
    assert metrics["critic_loss"] == pytest.approx(float(np.mean(weight * td_error**2)), rel=1e-5)


def test_the_actor_loss_is_the_weighted_mean_over_examples() -> None:
    state, batch, key = fresh(), batch_of(BATCH), jax.random.key(0)

    @jax.jit
    def loss(weight: jax.Array) -> jax.Array:
        return sac.update_actor(CONFIG, state, batch._replace(weight=weight), key)[1]["actor_loss"]

    per_example = BATCH * jnp.stack([loss(one) for one in jnp.eye(BATCH)])
    weight = jnp.asarray(np.random.default_rng(1).uniform(0, 3, BATCH), jnp.float32)
    assert loss(jnp.ones(BATCH)) == pytest.approx(float(per_example.mean()), rel=1e-4)
    assert loss(weight) == pytest.approx(float((weight * per_example).mean()), rel=1e-4)


def test_examples_of_zero_weight_change_nothing_whatever_they_hold() -> None:
    state = trained()
    batch = batch_of(BATCH)
    batch = batch._replace(weight=batch.weight.at[10:].set(0.0))
    garbage = jax.tree.map(lambda rows: rows.at[10:].set(1e4), batch)._replace(weight=batch.weight)
    garbage = garbage._replace(action=garbage.action.at[10:].set(-1.0))
    key = jax.random.key(5)
    assert_identical(update_critic(CONFIG, state, garbage, key)[0], update_critic(CONFIG, state, batch, key)[0])
    assert_identical(update_actor(CONFIG, state, garbage, key)[0], update_actor(CONFIG, state, batch, key)[0])


# What an update touches


def test_a_critic_update_leaves_actor_and_temperature_bit_identical() -> None:
    state = trained()
    new_state, _, _ = update_critic(CONFIG, state, batch_of(BATCH, seed=9), jax.random.key(9))
    for name in ("actor", "actor_optimizer", "temperature_parameter", "temperature_optimizer"):
        assert_identical(getattr(new_state, name), getattr(state, name))
    for name in ("critic", "target_critic", "critic_optimizer", "updates"):
        assert differs(getattr(new_state, name), getattr(state, name))


def test_an_actor_update_leaves_the_critics_bit_identical() -> None:
    state = trained()
    new_state, _ = update_actor(CONFIG, state, batch_of(BATCH, seed=9), jax.random.key(9))
    for name in ("critic", "target_critic", "critic_optimizer", "updates"):
        assert_identical(getattr(new_state, name), getattr(state, name))
    for name in ("actor", "actor_optimizer", "temperature_parameter", "temperature_optimizer"):
        assert differs(getattr(new_state, name), getattr(state, name))


@pytest.mark.parametrize("rate", [0.1, 1.0])
def test_the_target_critics_move_by_the_target_update_rate(rate: float) -> None:
    config = replace(CONFIG, target_update_rate=rate)
    state = trained()
    new_state, _, _ = update_critic(config, state, batch_of(BATCH), jax.random.key(0))
    expected = jax.tree.map(lambda new, old: rate * new + (1 - rate) * old, new_state.critic, state.target_critic)
    assert_close(new_state.target_critic, expected, 1e-7)


def test_the_temperature_falls_where_entropy_is_above_its_target_and_rises_below() -> None:
    batch = batch_of(BATCH)
    for target_entropy, direction in ((-50.0, -1), (50.0, 1)):
        config = replace(CONFIG, target_entropy=target_entropy)
        state = fresh()
        new_state, _ = update_actor(config, state, batch, jax.random.key(0))
        temperature, before = (sac_state.entropy_temperature(one.temperature_parameter) for one in (new_state, state))
        assert np.sign(temperature - before) == direction


@pytest.mark.parametrize(
    ("parameterisation", "temperature_of"),
    [("exponential", np.exp), ("softplus", lambda value: np.log1p(np.exp(value)))],
)
@pytest.mark.parametrize("initial_temperature", one_fast([1e-4, 1.0, 50.0]))
def test_the_temperature_starts_as_told_and_its_parameter_takes_adams_step(
    parameterisation: str, temperature_of: Callable[[float], float], initial_temperature: float
) -> None:
    changes = {"initial_temperature": initial_temperature, "temperature_parameterisation": parameterisation}
    config = replace(CONFIG, **changes, target_entropy=50.0, temperature_learning_rate=0.01)
    state = fresh(config)
    before = float(state.temperature_parameter[parameterisation])
    assert temperature_of(before) == pytest.approx(initial_temperature, rel=1e-5)
    new_state, metrics = update_actor(config, state, batch_of(BATCH), jax.random.key(0))
    assert metrics["temperature"] == pytest.approx(initial_temperature, rel=1e-5)
    # Entropy is below its target. Adam's first step is the learning rate times the gradient's sign.
    after = float(new_state.temperature_parameter[parameterisation])
    assert after - before == pytest.approx(0.01, rel=1e-3)
    slope = initial_temperature if parameterisation == "exponential" else 1 / (1 + np.exp(-before))
    gradient = new_state.temperature_optimizer[0].mu[parameterisation] / (1 - 0.9)
    assert gradient == pytest.approx(slope * float(metrics["entropy"] - 50.0), rel=1e-4)


# Targets

FOUR = replace(CONFIG, critic_ensemble_size=4, critic_subset_size=2, critic_learning_rate=0.0, target_update_rate=0.0)
"""Four critics that learn nothing."""


def test_a_terminated_step_does_not_bootstrap_and_a_time_limit_does() -> None:
    batch = batch_of(BATCH)._replace(mask=jnp.tile(jnp.array([0.0, 1.0]), BATCH // 2))
    state = constant_critics(fresh(), [5.0, 3.0])
    value = action_values(CONFIG, state, batch.observation, batch.action).mean(axis=0)
    target = value - td_errors(CONFIG, state, batch, jax.random.key(0))
    assert_close(target, batch.reward + jnp.tile(jnp.array([0.0, 0.9 * 3.0]), BATCH // 2))


def test_the_target_is_the_minimum_over_a_random_subset_of_the_ensemble() -> None:
    values = [4.0, 1.0, 3.0, 2.0]
    batch = batch_of(1)._replace(mask=jnp.ones(1))
    state = constant_critics(fresh(FOUR), values)
    q = action_values(FOUR, state, batch.observation, batch.action).mean(axis=0)
    keys = jax.random.split(jax.random.key(0), 3000)
    error = jax.jit(jax.vmap(partial(sac.td_errors, FOUR, state, batch)))(keys)
    minimum = np.round(np.asarray((q - error - batch.reward) / 0.9), 3).ravel()
    # Of the six pairs, 1 is the smallest in three, 2 in two, 3 in one.
    counts = [int((minimum == value).sum()) for value in (1.0, 2.0, 3.0)]
    assert sum(counts) == 3000
    np.testing.assert_allclose(np.array(counts) / 3000, [3 / 6, 2 / 6, 1 / 6], atol=0.04)


def test_the_target_holds_the_entropy_bonus_only_where_asked() -> None:
    batch = batch_of(2048)._replace(mask=jnp.ones(2048))
    state = constant_critics(fresh(), [0.0, 0.0])
    with_bonus = td_errors(replace(CONFIG, backup_entropy=True), state, batch, jax.random.key(0))
    without = td_errors(CONFIG, state, batch, jax.random.key(0))
    # Entropy of tanh of a standard normal, by integration: normal entropy + E log(1 - tanh^2).
    x = np.linspace(-9, 9, 20_001)
    density = np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi)
    entropy = 0.5 * np.log(2 * np.pi * np.e) + np.trapezoid(density * np.log1p(-(np.tanh(x) ** 2)), x)
    bonus = float(np.mean(without - with_bonus))
    assert bonus == pytest.approx(0.9 * 0.1 * ACTIONS * entropy, abs=0.01)


# Options


def test_dropout_acts_in_training_and_is_off_in_evaluation() -> None:
    config = replace(CONFIG, dropout_rate=0.5)
    state, batch = trained(), batch_of(BATCH)._replace(mask=jnp.zeros(BATCH))
    assert_identical(
        action_values(config, state, batch.observation, batch.action),
        action_values(CONFIG, state, batch.observation, batch.action),
    )
    one, other = (update_critic(config, state, batch, jax.random.key(seed))[2] for seed in (0, 1))
    assert differs(one, other)
    one, other = (update_critic(CONFIG, state, batch, jax.random.key(seed))[2] for seed in (0, 1))
    assert_identical(one, other)


NORMAL = np.linspace(-9, 9, 20_001)
DENSITY = np.exp(-0.5 * NORMAL**2) / np.sqrt(2 * np.pi)


@pytest.mark.parametrize(
    ("held", "distance"), [("sampled", np.trapezoid(DENSITY * (np.tanh(NORMAL) - 0.5) ** 2, NORMAL)), ("mean", 0.25)]
)
def test_behavior_cloning_adds_the_squared_distance_to_the_data_in_units_of_q(held: str, distance: float) -> None:
    config = replace(CONFIG, behavior_cloning_action=held)
    batch = batch_of(2048)._replace(action=jnp.full((2048, ACTIONS), 0.5))
    state = constant_critics(fresh(), [-30.0, -50.0])
    state = state._replace(critic=state.target_critic)
    own_actions = batch._replace(cloned=jnp.zeros(2048))
    loss = [
        float(update_actor(config, state, rows, jax.random.key(0), behavior_cloning_weight=weight)[1]["actor_loss"])
        for rows, weight in ((batch, None), (batch, 2.0), (own_actions, 2.0))
    ]
    assert loss[1] - loss[0] == pytest.approx(40.0 * 2.0 * distance, rel=0.05)
    assert loss[2] == loss[0], "the agent's own actions are not cloned"


def test_an_actor_without_a_value_clones_alone_whatever_the_critics_say() -> None:
    config, batch = replace(CONFIG, actor_value="none"), batch_of(BATCH)
    one, other = (constant_critics(fresh(), [value, value]).target_critic for value in (-30.0, 50.0))
    actors = [
        update_actor(config, fresh()._replace(critic=critic), batch, jax.random.key(0), behavior_cloning_weight=1.0)[0]
        for critic in (one, fresh().critic, other)
    ]
    assert_identical(actors[0].actor, actors[1].actor)
    assert_identical(actors[0].actor, actors[2].actor)
    assert differs(actors[0].actor, fresh().actor)


def test_observations_are_normalised_wherever_networks_see_them() -> None:
    center, scale = jnp.array([1.0, -20.0, 0.5]), jnp.array([2.0, 0.1, 30.0])
    plain = trained()
    scaled = plain._replace(observation_center=center, observation_scale=scale)
    batch = batch_of(BATCH)
    raw = batch._replace(
        observation=batch.observation * scale + center, next_observation=batch.next_observation * scale + center
    )
    noise = jnp.ones((BATCH, ACTIONS))
    assert_close(
        act(CONFIG, sac.policy(scaled), raw.observation, noise),
        act(CONFIG, sac.policy(plain), batch.observation, noise),
        1e-4,
    )
    key = jax.random.key(0)
    assert_close(td_errors(CONFIG, scaled, raw, key), td_errors(CONFIG, plain, batch, key), 1e-4)
    assert_close(update_critic(CONFIG, scaled, raw, key)[2], update_critic(CONFIG, plain, batch, key)[2], 1e-4)
    one, other = (update_actor(CONFIG, *inputs, key)[1] for inputs in ((scaled, raw), (plain, batch)))
    assert_close(one, other, 1e-4)


def test_zero_noise_gives_the_deterministic_action_inside_the_bounds() -> None:
    state, observation = trained(), batch_of(BATCH).observation
    zero = jnp.zeros((BATCH, ACTIONS))
    one, two = (act(CONFIG, sac.policy(state), observation, noise) for noise in (zero, zero + 1.0))
    assert_identical(one, act(CONFIG, sac.policy(state), observation, zero))
    assert differs(one, two)
    assert (jnp.abs(act(CONFIG, sac.policy(state), observation, zero + 1e6)) <= 1.0).all()


def test_every_decaying_learning_rate_reaches_zero_at_the_end_of_the_run() -> None:
    parameters = WSRLConfig(
        hidden_sizes=[8], warmup_steps=2, online_steps=3, update_to_data_ratio=4, learning_rate_schedule="linear"
    )
    config = sac_config(parameters, OBSERVATIONS, ACTIONS)
    state, batch, key = fresh(), batch_of(BATCH), jax.random.key(0)
    for critic_updates in (1, 1, 4, 4, 4):
        for _ in range(critic_updates):
            before, (state, _, _) = state, update_critic(config, state, batch, key)
            assert_moved(before.critic, state.critic)
        before, (state, _) = state, update_actor(config, state, batch, key)
        assert_moved(before.actor, state.actor)
        assert_moved(before.temperature_parameter, state.temperature_parameter)
    assert_close(update_critic(config, state, batch, key)[0].critic, state.critic, 1e-8)
    after, _ = update_actor(config, state, batch, key)
    assert_close((after.actor, after.temperature_parameter), (state.actor, state.temperature_parameter), 1e-8)


# Composition


def nearly_deterministic(state: SACState) -> SACState:
    """The agent with the smallest standard deviation that its policy can have."""

    def lowered(leaf: jax.Array) -> jax.Array:
        is_output_bias = leaf.shape == (2 * CONFIG.action_size,)
        return leaf.at[CONFIG.action_size :].set(-20.0) if is_output_bias else leaf

    return state._replace(actor=jax.tree.map(lowered, state.actor))


def test_an_update_is_its_critic_updates_and_then_one_actor_update_on_all_rows() -> None:
    state, batch, key = nearly_deterministic(trained()), batch_of(3, BATCH), jax.random.key(4)
    together, metrics, td_error = update(CONFIG, state, batch, key)

    actor_key = jax.random.split(key, 3)[0]
    losses, errors = [], []
    # Next actions are the same whatever the key.
    for step, step_key in enumerate(jax.random.split(jax.random.key(5), 3)):
        part = jax.tree.map(lambda rows, step=step: rows[step], batch)
        state, step_metrics, error = update_critic(CONFIG, state, part, step_key)
        losses.append(float(step_metrics["critic_loss"]))
        errors.append(error)
    rows = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batch)
    state, _ = update_actor(CONFIG, state, rows, actor_key)
    assert_close(together, state)
    assert_close(td_error, jnp.stack(errors))
    assert metrics["critic_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert int(together.updates) == 3 + 3


@pytest.mark.slow
def test_seeds_under_vmap_are_the_single_runs() -> None:
    seeds = range(3)
    keys = jax.random.split(jax.random.key(7), 3)
    states = [fresh(seed=seed) for seed in seeds]
    batches = [batch_of(3, BATCH, seed=seed) for seed in seeds]
    stacked_states, stacked_batches = (jax.tree.map(lambda *leaves: jnp.stack(leaves), *t) for t in (states, batches))
    together = jax.jit(jax.vmap(partial(sac.update, CONFIG)))(stacked_states, stacked_batches, keys)
    for seed in seeds:
        alone = update(CONFIG, states[seed], batches[seed], keys[seed])
        assert_close(jax.tree.map(lambda leaf, seed=seed: leaf[seed], together), alone, 1e-4)


def test_an_update_is_deterministic() -> None:
    state, batch, key = trained(), batch_of(3, BATCH), jax.random.key(4)
    assert_identical(update(CONFIG, state, batch, key), update(CONFIG, state, batch, key))
    assert differs(update(CONFIG, state, batch, key)[0], update(CONFIG, state, batch, jax.random.key(5))[0])


def test_nothing_annealed_compiles_anew() -> None:
    config = replace(CONFIG, learning_rate_schedule="cosine", learning_rate_warmup_steps=2)
    rows = packed(batch_of(40))
    sides = (ring.filled(rows, 64, prioritized=True), ring.empty(8, rows.shape[1], prioritized=True))
    replay, state = Replay(*(Ring(side, 0.6) for side in sides), seed=0), fresh()
    programs = learner.learn._cache_size()
    for step in range(5):
        replay.online.add(packed(batch_of(seed=step)))
        batch, drawn = replay.sample(step, (2, BATCH), 1.0 - 0.2 * step, 0.4 + 0.1 * step)
        state, metrics, td_error = learner.learn(config, state, batch, jax.random.key(0), np.int32(step))
        replay.update_priorities(drawn, np.asarray(td_error))
    assert learner.learn._cache_size() == programs + 1
    assert all(np.isfinite(value) for value in metrics.values())


def test_the_actor_step_is_the_same_in_parts_as_in_one_piece() -> None:
    state, batch = trained(), batch_of(4 * BATCH)
    whole, parts = (
        jax.jit(partial(sac.update_actor, CONFIG, parts=count))(state, batch, jax.random.key(0)) for count in (1, 4)
    )
    assert_close(whole, parts)


def test_each_critic_update_of_a_call_draws_a_subset_of_its_own() -> None:
    state = constant_critics(fresh(FOUR), [0.0, 1.0, 2.0, 3.0])
    batch = batch_of(60, BATCH)._replace(reward=jnp.zeros((60, BATCH)), mask=jnp.ones((60, BATCH)))
    _, _, td_error = update(FOUR, state, batch, jax.random.key(0))
    rows = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batch)
    value = action_values(FOUR, state, rows.observation, rows.action).mean(axis=0).reshape(td_error.shape)
    lowest = np.asarray((value - td_error) / FOUR.discount)
    np.testing.assert_allclose(lowest - np.round(lowest[:, :1]), 0.0, atol=1e-4)
    counts = np.bincount(np.round(lowest[:, 0]).astype(int), minlength=3) / 60
    np.testing.assert_allclose(counts, [1 / 2, 1 / 3, 1 / 6], atol=0.2)
