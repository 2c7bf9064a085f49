"""What the authors' order of steps does, and the kit's does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_sac import BATCH, CONFIG, assert_close, assert_identical, assert_moved, batch_of, trained

from training_samples import settings, start_finetune, taken
from wsrl_kit.agent import authors_order, sac
from wsrl_kit.runs.loop import Measurement

update = jax.jit(authors_order.update, static_argnums=0)
kit_update = jax.jit(sac.update, static_argnums=0)
update_actor = jax.jit(sac.update_actor, static_argnums=0)


def adam_without_gradient(parameter: np.ndarray, first: np.ndarray, second: np.ndarray, count: int) -> np.ndarray:
    """A step of Adam on a gradient of zero, by its equations."""
    first, second = 0.9 * first, 0.999 * second
    corrected, spread = first / (1 - 0.9 ** (count + 1)), second / (1 - 0.999 ** (count + 1))
    return parameter - CONFIG.actor_learning_rate * corrected / (np.sqrt(spread) + 1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("utd", [1, 3])
def test_one_critic_update_takes_the_actors_gradient_on_the_critics_from_before(utd: int) -> None:
    state, batch, key = trained(), batch_of(utd, BATCH), jax.random.key(5)
    new_state, _, td_error = update(CONFIG, state, batch, key)
    assert td_error.shape == (utd, BATCH)
    assert new_state.updates == state.updates + utd
    actor_key, _ = jax.random.split(key)
    before, _ = update_actor(CONFIG, state, sac.merged(batch), actor_key)
    if utd == 1:
        assert_close(new_state.actor, before.actor, 1e-6)
    else:
        assert_moved(new_state.actor, before.actor)


@pytest.mark.slow
def test_networks_that_are_not_updated_coast_on_their_momentum() -> None:
    state, batch, key = trained(), batch_of(3, BATCH), jax.random.key(5)
    # By hand: three steps of the actor's Adam without a gradient, and then the actor's own.
    adam = state.actor_optimizer[0]
    coasted = state.actor
    first, second = adam.mu, adam.nu
    for count in range(int(adam.count), int(adam.count) + 3):
        coasted = jax.tree.map(
            lambda *a, count=count: adam_without_gradient(*map(np.asarray, a), count), coasted, first, second
        )
        first, second = jax.tree.map(lambda m: 0.9 * m, first), jax.tree.map(lambda v: 0.999 * v, second)
    assert_moved(coasted, state.actor)
    frozen_critics = CONFIG.__class__(**vars(CONFIG) | {"critic_learning_rate": 0.0})
    new_state, _, _ = update(frozen_critics, state, batch, key)
    optimizer = (adam._replace(mu=first, nu=second, count=adam.count + 3), *state.actor_optimizer[1:])
    by_hand = state._replace(actor=coasted, actor_optimizer=jax.tree.map(jnp.asarray, optimizer))
    by_hand, _ = update_actor(frozen_critics, by_hand, sac.merged(batch), jax.random.split(key)[0])
    # The temperature coasted too, which the actor's gradient sees a little.
    assert_close(new_state.actor, by_hand.actor, 1e-4)


def test_the_kits_order_leaves_what_is_not_updated_alone() -> None:
    state, batch = trained(), batch_of(3, BATCH)
    flat = sac.merged(batch)
    critic_only, _, _ = jax.jit(sac.update_critic, static_argnums=0)(CONFIG, state, flat, jax.random.key(0))
    assert_identical(critic_only.actor, state.actor)
    assert_identical(critic_only.temperature_parameter, state.temperature_parameter)


@pytest.mark.slow
def test_a_run_in_the_authors_order_learns_otherwise_from_the_same_data() -> None:
    runs = [
        taken(start_finetune(settings(official_update_order=official_order, online_steps=60, random_steps=20)))
        for official_order in (False, True)
    ]
    losses = [
        [
            event.values["training/actor_loss"]
            for event in run
            if isinstance(event, Measurement) and "training/actor_loss" in event.values
        ]
        for run in runs
    ]
    assert np.isfinite(losses).all()
    assert losses[0] != losses[1]
