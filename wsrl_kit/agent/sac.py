"""Weighted soft actor-critic with a critic ensemble, for offline warmup and fine-tuning.

SAC (Haarnoja et al. 2018) with REDQ's random-subset minimum (Chen et al. 2021), LayerNorm critics (RLPD, Ball et al.
2023), the terms of CQL and Cal-QL (Kumar et al. 2020, Nakamoto et al. 2023), and per-example loss weights. All
functions are pure: `jax.vmap` them over seeds. With cameras, the actor uses the critics' encoder (HIL-SERL, Luo et al.
2024).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Float, PRNGKeyArray, PyTree

from wsrl_kit.agent import grasp, gripper, losses, networks
from wsrl_kit.agent.state import (
    ENSEMBLE_REDUCTIONS,
    Policy,
    SACConfig,
    SACState,
    actor_network,
    actor_optimizer,
    create,
    critic_network,
    critic_optimizer,
    encoder,
    ensemble,
    entropy_temperature,
    features,
    from_parameters,
    frozen_features,
    multiplier_optimizer,
    policy,
    step,
    temperature_optimizer,
    with_trunk,
)
from wsrl_kit.agent.transition import NO_IMAGES, Images, Transition
from wsrl_kit.agent.vision import random_crops

__all__ = [
    "Metrics",
    "NextAction",
    "Policy",
    "SACConfig",
    "SACState",
    "TermWeights",
    "act",
    "action_values",
    "actor_parts",
    "create",
    "from_parameters",
    "merged",
    "policy",
    "prepare",
    "td_errors",
    "update",
    "update_actor",
    "update_critic",
    "update_multiplier",
    "with_trunk",
]

Metrics = dict[str, Float[Array, ""]]


Weight = Float[Array, ""] | np.floating | float | None


class TermWeights(NamedTuple):
    """Weights of the annealed loss terms. None: the term is off and not compiled."""

    conservative: Weight = None
    behavior_cloning: Weight = None


NO_TERMS = TermWeights()

LARGEST_MULTIPLIER = 1e6
"""Bound of CQL's Lagrange multiplier, as in the authors' code."""


def act(
    config: SACConfig,
    policy: Policy,
    observation: Float[Array, "batch observation"],
    noise: Float[Array, "batch continuous"],
    images: Images = NO_IMAGES,
) -> Float[Array, "batch action"]:
    """Actions from standard normal noise; zero noise: deterministic."""
    network_input = features(config, policy, policy.encoder, observation, frozen_features(config, policy, images))
    mean, standard_deviation = actor_network(config).apply(policy.actor, network_input)
    action = jnp.tanh(mean + standard_deviation * noise)
    if not config.learns_gripper:
        return action
    return gripper.joined(config.gripper, action, grasp.choose(config, policy.grasp_critic, network_input))


def action_values(
    config: SACConfig,
    state: SACState,
    observation: Float[Array, "batch observation"],
    action: Float[Array, "batch action"],
    images: Images = NO_IMAGES,
) -> Float[Array, "ensemble batch"]:
    """Q(s, a) of every critic."""
    return _values(config, state, observation, frozen_features(config, state, images), action)


def _values(
    config: SACConfig,
    state: SACState,
    observation: Float[Array, "batch observation"],
    images: Images,
    action: Float[Array, "batch action"],
) -> Float[Array, "ensemble batch"]:
    """`action_values` for a batch that went through `prepare`."""
    network_input = features(config, state, encoder(state.critic), observation, images)
    action = gripper.continuous(config.gripper, action)
    return critic_network(config, config.critic_ensemble_size).apply(
        ensemble(state.critic), network_input, action, False
    )


def td_errors(config: SACConfig, state: SACState, batch: Transition, key: PRNGKeyArray) -> Float[Array, " batch"]:
    """Signed TD errors, mean over the ensemble; the target uses a random subset and action."""
    batch = prepare(config, state, batch)
    target = _target(config, state, batch, _next_action(config, state, batch, key))
    value = _values(config, state, batch.observation, batch.images, batch.action)
    return jnp.mean(value - target, axis=0)


def prepare(config: SACConfig, state: SACState, batch: Transition, key: PRNGKeyArray | None = None) -> Transition:
    """Crops images at random and runs a frozen trunk, once per batch; without cameras returns the batch unchanged.

    Args:
        key: randomness of the crops; None: no crops.
    """
    if config.pixels is None:
        return batch
    images, next_images = batch.images, batch.next_images
    if key is not None:
        crop, next_crop = jax.random.split(key)
        images = random_crops(crop, images, config.pixels.augmentation_padding)
        next_images = random_crops(next_crop, next_images, config.pixels.augmentation_padding)
    return batch._replace(
        images=frozen_features(config, state, images), next_images=frozen_features(config, state, next_images)
    )


class NextAction(NamedTuple):
    """Candidate next actions, and random numbers that order the critics for the subset."""

    action: Float[Array, "*batch candidates action"]
    log_probability: Float[Array, "*batch candidates"]
    order: Float[Array, "*updates ensemble"]


def update_critic(
    config: SACConfig,
    state: SACState,
    batch: Transition,
    key: PRNGKeyArray,
    conservative_weight: Weight = None,
) -> tuple[SACState, Metrics, Float[Array, " batch"]]:
    """One critic and target step; actor and temperature stay. TD errors are signed, from before the step."""
    target_key, loss_key = jax.random.split(key)
    next_action = _next_action(config, state, batch, target_key)
    return _step_critic(config, state, batch, next_action, loss_key, conservative_weight)


def _step_critic(
    config: SACConfig,
    state: SACState,
    batch: Transition,
    next_action: NextAction,
    key: PRNGKeyArray,
    conservative_weight: Weight,
) -> tuple[SACState, Metrics, Float[Array, " batch"]]:
    target = _target(config, state, batch, next_action)
    action = gripper.continuous(config.gripper, batch.action)
    network = critic_network(config, config.critic_ensemble_size)
    if config.is_conservative:
        sample_key, key = jax.random.split(key)
        sampled = losses.sample_actions(
            lambda network_input, key: _sample_policy(config, state, network_input, key),
            features(config, state, encoder(state.critic), batch.observation, batch.images),
            features(config, state, encoder(state.critic), batch.next_observation, batch.next_images),
            config.cql_actions,
            config.continuous_size,
            sample_key,
        )
        assert conservative_weight is not None
        factor = conservative_weight * jnp.minimum(jnp.exp(state.log_multiplier), LARGEST_MULTIPLIER)

    def loss(critic: PyTree) -> tuple[Float[Array, ""], tuple[Float[Array, "ensemble batch"], Array | None]]:
        def value_of(rows: Float[Array, "rows feature"], action: Float[Array, "rows action"]) -> Array:
            return network.apply(ensemble(critic), rows, action, True, rngs={"dropout": key})

        network_input = features(config, state, encoder(critic), batch.observation, batch.images)
        value, gap = value_of(network_input, action), None
        per_example = losses.squared_td_error(value, target)
        if config.is_conservative:
            bound = batch.monte_carlo_return if config.is_calibrated else None
            gap = losses.sampled_conservative_gap(
                value_of, sampled, network_input, value, config.cql_temperature, bound
            )
            per_example += factor * gap
        return jnp.mean(batch.weight * per_example), (value, gap)

    (loss_value, (value, gap)), gradient = jax.value_and_grad(loss, has_aux=True)(state.critic)
    critic, optimizer = step(critic_optimizer(config), gradient, state.critic_optimizer, state.critic)
    td_error = jnp.mean(value, axis=0) - target
    metrics = {"critic_loss": loss_value, "q_mean": jnp.mean(value), "td_error": jnp.mean(jnp.abs(td_error))}
    if gap is not None:
        metrics["conservative_gap"] = jnp.mean(batch.weight * gap)
    new_state = state._replace(
        critic=critic,
        critic_optimizer=optimizer,
        target_critic=optax.incremental_update(critic, state.target_critic, config.target_update_rate),
        updates=state.updates + 1,
    )
    return new_state, metrics, td_error


def update_actor(
    config: SACConfig,
    state: SACState,
    batch: Transition,
    key: PRNGKeyArray,
    parts: int = 1,
    behavior_cloning_weight: Weight = None,
) -> tuple[SACState, Metrics]:
    """One actor and one temperature step; the critics stay.

    Args:
        parts: equal parts of the batch whose gradients are summed; only one part's activations are kept for
            backpropagation and fit the processor's caches (27 % faster with 10 critics).
    """
    batch = batch._replace(action=gripper.continuous(config.gripper, batch.action))
    temperature = entropy_temperature(state.temperature_parameter)
    critic = critic_network(config, config.critic_ensemble_size)
    reduced = ENSEMBLE_REDUCTIONS[config.actor_value]

    def actor_loss(
        actor: PyTree, batch: Transition, noise: Float[Array, "part action"], dropout_key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Float[Array, " part"]]:
        # The encoder is the critics': the actor's loss does not train it.
        inputs = (encoder(state.critic), batch.observation, batch.images)
        network_input = features(config, state, *inputs)
        actor_input = network_input if config.pixels is None else features(config, state, *inputs, dropout_key)
        mean, standard_deviation = actor_network(config).apply(actor, actor_input)
        action, log_probability = networks.sample(mean, standard_deviation, noise)
        value = reduced(critic.apply(ensemble(state.critic), network_input, action, False), axis=0)
        per_example = losses.soft_policy(log_probability, value, temperature)
        if behavior_cloning_weight is not None:
            imitating = {"sampled": action, "mean": jnp.tanh(mean)}[config.behavior_cloning_action]
            cloning = losses.behavior_cloning(imitating, batch.action, value)
            per_example += behavior_cloning_weight * (cloning if batch.cloned is None else batch.cloned * cloning)
        return jnp.mean(batch.weight * per_example), log_probability

    def add_part(
        total: PyTree, part: tuple[Transition, Float[Array, "part action"], PRNGKeyArray]
    ) -> tuple[PyTree, tuple[Float[Array, ""], Float[Array, " part"]]]:
        outputs, gradient = jax.value_and_grad(actor_loss, has_aux=True)(state.actor, *part)
        return jax.tree.map(jnp.add, total, gradient), outputs

    rows = (batch, jax.random.normal(key, batch.action.shape))
    split = jax.tree.map(lambda leaf: leaf.reshape(parts, -1, *leaf.shape[1:]), rows)
    split = (*split, jax.random.split(jax.random.fold_in(key, 1), parts))
    total, (loss_value, log_probability) = jax.lax.scan(add_part, jax.tree.map(jnp.zeros_like, state.actor), split)
    gradient = jax.tree.map(lambda leaf: leaf / parts, total)
    log_probability = log_probability.reshape(-1)
    actor, optimizer = step(actor_optimizer(config), gradient, state.actor_optimizer, state.actor)

    def temperature_loss(parameter: dict[str, Float[Array, ""]]) -> Float[Array, ""]:
        gap = losses.entropy_gap(log_probability, config.target_entropy)
        return jnp.mean(batch.weight * entropy_temperature(parameter) * gap)

    temperature_parameter, new_temperature_optimizer = step(
        temperature_optimizer(config),
        jax.grad(temperature_loss)(state.temperature_parameter),
        state.temperature_optimizer,
        state.temperature_parameter,
    )
    metrics = {"actor_loss": jnp.mean(loss_value), "temperature": temperature, "entropy": -jnp.mean(log_probability)}
    new_state = state._replace(
        actor=actor,
        actor_optimizer=optimizer,
        temperature_parameter=temperature_parameter,
        temperature_optimizer=new_temperature_optimizer,
    )
    return new_state, metrics


def update(
    config: SACConfig,
    state: SACState,
    batch: Transition,
    key: PRNGKeyArray,
    weights: TermWeights = NO_TERMS,
) -> tuple[SACState, Metrics, Float[Array, "utd batch"]]:
    """Updates of one environment step: a critic update per leading row, then one actor update on all (RLPD, WSRL).

    Args:
        batch: leading axes (utd, batch).
        weights: `conservative` is required with CQL's term.
    """
    actor_key, target_key, loss_key = jax.random.split(key, 3)
    # The actor does not change during the critics' updates, so one call gives all their next actions.
    next_actions = _next_action(config, state, batch, target_key)

    def critic_step(
        state: SACState, inputs: tuple[Transition, NextAction, PRNGKeyArray]
    ) -> tuple[SACState, tuple[Metrics, Float[Array, " batch"]]]:
        state, metrics, td_error = _step_critic(config, state, *inputs, weights.conservative)
        return state, (metrics, td_error)

    inputs = (batch, next_actions, jax.random.split(loss_key, batch.reward.shape[0]))
    state, (critic_metrics, td_error) = jax.lax.scan(critic_step, state, inputs)
    metrics = jax.tree.map(jnp.mean, critic_metrics)
    state, actor_metrics = update_actor(
        config, state, merged(batch), actor_key, actor_parts(config, batch), weights.behavior_cloning
    )
    if config.cql_target_gap is not None:
        state, multiplier_metrics = update_multiplier(config, state, metrics["conservative_gap"])
        actor_metrics |= multiplier_metrics
    return state, metrics | actor_metrics, td_error


def update_multiplier(
    config: SACConfig, state: SACState, conservative_gap: Float[Array, ""]
) -> tuple[SACState, Metrics]:
    """One step of CQL's Lagrange multiplier towards a gap of `cql_target_gap`."""
    assert config.cql_target_gap is not None
    gap = losses.multiplier_gap(conservative_gap, config.cql_target_gap)
    gradient = jax.grad(lambda log_multiplier: jnp.exp(log_multiplier) * gap)(state.log_multiplier)
    log_multiplier, optimizer = step(
        multiplier_optimizer(config), gradient, state.multiplier_optimizer, state.log_multiplier
    )
    metrics = {"conservative_multiplier": jnp.exp(state.log_multiplier)}
    return state._replace(log_multiplier=log_multiplier, multiplier_optimizer=optimizer), metrics


def merged(batch: Transition) -> Transition:
    """All updates' examples as one batch."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batch)


CRITIC_ROWS = 4096
"""Most rows times critics in one part; more exceed the processor's caches (measured)."""


def actor_parts(config: SACConfig, batch: Transition) -> int:
    """The fewest parts with at most `CRITIC_ROWS` rows times critics."""
    updates, batch_size = batch.reward.shape
    fitting = max(1, CRITIC_ROWS // (config.critic_ensemble_size * batch_size))
    return next(parts for parts in range(1, updates + 1) if updates % parts == 0 and updates // parts <= fitting)


def _next_action(config: SACConfig, state: SACState, batch: Transition, key: PRNGKeyArray) -> NextAction:
    """Samples next actions for any leading axes; every update gets its own critic subset."""
    candidates = config.cql_actions if config.cql_max_target_backup else 1
    noise_key, order_key = jax.random.split(key)
    leading = batch.reward.ndim
    observation, images = jax.tree.map(
        lambda leaf: leaf.reshape(-1, *leaf.shape[leading:]), (batch.next_observation, batch.next_images)
    )
    network_input = jnp.repeat(features(config, state, encoder(state.critic), observation, images), candidates, axis=0)
    action, log_probability = _sample_policy(config, state, network_input, noise_key)
    return NextAction(
        action.reshape(*batch.reward.shape, candidates, config.continuous_size),
        log_probability.reshape(*batch.reward.shape, candidates),
        jax.random.uniform(order_key, (*batch.reward.shape[:-1], config.critic_ensemble_size)),
    )


def _sample_policy(
    config: SACConfig, state: SACState, network_input: Float[Array, "rows feature"], key: PRNGKeyArray
) -> tuple[Float[Array, "rows action"], Float[Array, " rows"]]:
    noise = jax.random.normal(key, (len(network_input), config.continuous_size))
    mean, standard_deviation = actor_network(config).apply(state.actor, network_input)
    return networks.sample(mean, standard_deviation, noise)


def _target(config: SACConfig, state: SACState, batch: Transition, next_action: NextAction) -> Float[Array, " batch"]:
    """TD target: minimum over a random subset of target critics (REDQ), for the best candidate action.

    Several candidates: CQL's max-target backup (Kumar et al. 2020, appendix F).
    """
    batch_size, candidates, action_size = next_action.action.shape
    target_encoder, target_ensemble = encoder(state.target_critic), ensemble(state.target_critic)
    network_input = features(config, state, target_encoder, batch.next_observation, batch.next_images)
    network_input = jnp.repeat(network_input, candidates, axis=0)
    if config.critic_subset_size < config.critic_ensemble_size:
        _, chosen = jax.lax.top_k(next_action.order, config.critic_subset_size)
        target_ensemble = networks.members(target_ensemble, chosen)
    next_values = critic_network(config, config.critic_subset_size).apply(
        target_ensemble, network_input, next_action.action.reshape(-1, action_size), False
    )
    candidate_values = jnp.min(next_values, axis=0).reshape(batch_size, candidates)
    best = jnp.argmax(candidate_values, axis=1, keepdims=True)
    next_value = jnp.take_along_axis(candidate_values, best, axis=1)[:, 0]
    if config.backup_entropy:
        log_probability = jnp.take_along_axis(next_action.log_probability, best, axis=1)[:, 0]
        next_value = next_value - entropy_temperature(state.temperature_parameter) * log_probability
    return losses.td_target(batch.reward, batch.mask, next_value, config.discount)
