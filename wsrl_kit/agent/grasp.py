"""Discrete critic for the gripper's action entries: a double DQN (van Hasselt et al. 2016), as in HIL-SERL.

HIL-SERL: Luo et al. 2024, arXiv 2410.21845. The reward includes the grasp penalty, which the continuous critics do not
see; their TD errors are the replay priorities. Departures from the authors' code:

- Its loss does not train the encoder.
- It takes the features from after the continuous update (without images: no difference).
- The target entropy counts continuous entries only.
- `reward_scale` also scales the penalty.
"""

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, Integer, PyTree

from wsrl_kit.agent import gripper, losses
from wsrl_kit.agent.state import (
    GraspState,
    SACConfig,
    SACState,
    critic_optimizer,
    encoder,
    features,
    grasp_network,
    step,
)
from wsrl_kit.agent.transition import Transition


def choose(config: SACConfig, critic: PyTree, network_input: Float[Array, "batch feature"]) -> Integer[Array, " batch"]:
    """The choice with the highest value."""
    return jnp.argmax(grasp_network(config).apply(critic, network_input), axis=-1)


def update(config: SACConfig, state: SACState, batch: Transition) -> tuple[SACState, dict[str, Float[Array, ""]]]:
    """One step of the discrete critic and its target per leading row; metrics are means.

    Args:
        batch: from `sac.prepare`; leading axes (utd, batch).
    """
    assert isinstance(state.grasp, GraspState)

    def one_step(grasp: GraspState, rows: Transition) -> tuple[GraspState, dict[str, Float[Array, ""]]]:
        return _step(config, state, grasp, rows)

    grasp, metrics = jax.lax.scan(one_step, state.grasp, batch)
    return state._replace(grasp=grasp), jax.tree.map(jnp.mean, metrics)


def _step(
    config: SACConfig, state: SACState, grasp: GraspState, batch: Transition
) -> tuple[GraspState, dict[str, Float[Array, ""]]]:
    network = grasp_network(config)
    network_input = features(config, state, encoder(state.critic), batch.observation, batch.images)
    next_input, target_input = (
        features(config, state, encoder(critic), batch.next_observation, batch.next_images)
        for critic in (state.critic, state.target_critic)
    )
    next_value = losses.double_q(network.apply(grasp.critic, next_input), network.apply(grasp.target, target_input))
    penalty = 0.0 if batch.grasp_penalty is None else batch.grasp_penalty
    target = losses.td_target(batch.reward + penalty, batch.mask, next_value, config.discount)
    taken = gripper.choice(config.gripper, batch.action)

    def loss(critic: PyTree) -> tuple[Float[Array, ""], Float[Array, " batch"]]:
        value = losses.value_of_choice(network.apply(critic, network_input), taken)
        return jnp.mean(batch.weight * losses.squared_td_error(value[None], target)), value

    (loss_value, value), gradient = jax.value_and_grad(loss, has_aux=True)(grasp.critic)
    critic, optimizer = step(critic_optimizer(config), gradient, grasp.optimizer, grasp.critic)
    averaged = optax.incremental_update(critic, grasp.target, config.target_update_rate)
    return GraspState(critic, averaged, optimizer), {"grasp_loss": loss_value, "grasp_q_mean": jnp.mean(value)}
