"""The update in the order of the authors' code (WSRL, SERL, HIL-SERL), for comparisons.

The authors keep all networks in one train state. Two departures from `sac.update` follow:

- With one critic update per environment step, the actor's gradient uses the critics from before that update.
- With more, networks "not updated" get a zero gradient, and Adam's momentum still moves them: actor and temperature in
  every critic update, the critics in the actor's.

Not reproduced: the temperature's gradient on next observations, and critic subsets with repetition.
"""

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, PRNGKeyArray, PyTree

from wsrl_kit.agent import sac
from wsrl_kit.agent.state import SACConfig, SACState, actor_optimizer, critic_optimizer, step, temperature_optimizer
from wsrl_kit.agent.transition import Transition


def update(
    config: SACConfig,
    state: SACState,
    batch: Transition,
    key: PRNGKeyArray,
    weights: sac.TermWeights = sac.NO_TERMS,
) -> tuple[SACState, sac.Metrics, Float[Array, "utd batch"]]:
    """`sac.update` in the authors' order."""
    actor_key, critic_key = jax.random.split(key)
    updates = batch.reward.shape[0]

    def critic_step(
        state: SACState, inputs: tuple[Transition, PRNGKeyArray]
    ) -> tuple[SACState, tuple[sac.Metrics, Float[Array, " batch"]]]:
        state, metrics, td_error = sac.update_critic(config, state, *inputs, weights.conservative)
        return (_zero_gradient_actor_step(config, state) if updates > 1 else state), (metrics, td_error)

    learned, (critic_metrics, td_error) = jax.lax.scan(
        critic_step, state, (batch, jax.random.split(critic_key, updates))
    )
    metrics = jax.tree.map(jnp.mean, critic_metrics)
    before = state._replace(updates=learned.updates) if updates == 1 else learned
    acted, actor_metrics = sac.update_actor(
        config, before, sac.merged(batch), actor_key, sac.actor_parts(config, batch), weights.behavior_cloning
    )
    if updates == 1:
        state = acted._replace(
            critic=learned.critic, target_critic=learned.target_critic, critic_optimizer=learned.critic_optimizer
        )
    else:
        critic, optimizer = zero_gradient_step(critic_optimizer(config), acted.critic_optimizer, acted.critic)
        state = acted._replace(critic=critic, critic_optimizer=optimizer)
    if config.cql_target_gap is not None:
        state, multiplier_metrics = sac.update_multiplier(config, state, metrics["conservative_gap"])
        actor_metrics |= multiplier_metrics
    return state, metrics | actor_metrics, td_error


def _zero_gradient_actor_step(config: SACConfig, state: SACState) -> SACState:
    actor, own_optimizer = zero_gradient_step(actor_optimizer(config), state.actor_optimizer, state.actor)
    temperature_parameter, temperatures_optimizer = zero_gradient_step(
        temperature_optimizer(config), state.temperature_optimizer, state.temperature_parameter
    )
    return state._replace(
        actor=actor,
        actor_optimizer=own_optimizer,
        temperature_parameter=temperature_parameter,
        temperature_optimizer=temperatures_optimizer,
    )


def zero_gradient_step(
    optimizer: optax.GradientTransformation, optimizer_state: PyTree, parameters: PyTree
) -> tuple[PyTree, PyTree]:
    """One optimizer step with a gradient of zero."""
    return step(optimizer, jax.tree.map(jnp.zeros_like, parameters), optimizer_state, parameters)
