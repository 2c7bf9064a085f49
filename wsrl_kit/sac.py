"""Weighted soft actor-critic with a critic ensemble, for offline warmup and fine-tuning alike.

SAC (Haarnoja et al. 2018) with REDQ's random-subset minimum (Chen et al. 2021), LayerNorm critics (RLPD, Ball et al.
2023) and a weight on every example's loss. State is a pytree and every function is pure, so one agent, a `jax.vmap`
over seeds, warmup and fine-tuning share this code. A network that is not updated is not touched: `update_critic` and
`update_actor` each call their own optimizer only.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, Integer, PRNGKeyArray, PyTree

from wsrl_kit import losses, schedules
from wsrl_kit.config import WSRLConfig
from wsrl_kit.networks import mlp, tanh_normal
from wsrl_kit.types import Transition

Metrics = dict[str, Float[Array, ""]]


@dataclass(frozen=True)
class SACConfig:
    """What fixes the compiled program: sizes, and constants of the formulas. Names as in `WSRLConfig`.

    Attributes:
        critic_decay_steps: updates after which a decaying learning rate of the critics reaches 0.
        actor_decay_steps: the same for actor and temperature, which take one step where the critics take UTD.
    """

    observation_size: int
    action_size: int
    hidden_sizes: tuple[int, ...]
    critic_ensemble_size: int
    critic_subset_size: int
    layer_norm: bool
    dropout_rate: float
    discount: float
    target_update_rate: float
    actor_learning_rate: float
    critic_learning_rate: float
    temperature_learning_rate: float
    learning_rate_schedule: str
    learning_rate_warmup_steps: int
    critic_decay_steps: int
    actor_decay_steps: int
    initial_temperature: float
    target_entropy: float
    backup_entropy: bool
    behavior_cloning_weight: float


class SACState(NamedTuple):
    """Everything that learning changes, and the fixed normalisation of observations.

    Attributes:
        critic: parameters of the ensemble, leading axis over critics.
        log_temperature: logarithm of the entropy temperature.
        updates: critic updates so far.
        observation_center, observation_scale: networks see `(observation - center) / scale`.
    """

    actor: PyTree
    critic: PyTree
    target_critic: PyTree
    log_temperature: Float[Array, ""]
    actor_optimizer: PyTree
    critic_optimizer: PyTree
    temperature_optimizer: PyTree
    updates: Integer[Array, ""]
    observation_center: Float[Array, " observation"]
    observation_scale: Float[Array, " observation"]


class Policy(NamedTuple):
    """What acting needs of an agent. The fields are those of `SACState`."""

    actor: PyTree
    observation_center: Float[Array, " observation"]
    observation_scale: Float[Array, " observation"]


def from_parameters(config: WSRLConfig, observation_size: int, action_size: int) -> SACConfig:
    """The static part of a run's parameters, for an environment's sizes."""
    target_entropy = -action_size / 2 if config.target_entropy is None else config.target_entropy
    # Left out where nothing decays: a static number that differs between runs would cost each a compilation.
    decays = config.learning_rate_schedule != "constant"
    return SACConfig(
        observation_size=observation_size,
        action_size=action_size,
        hidden_sizes=tuple(config.hidden_sizes),
        critic_ensemble_size=config.critic_ensemble_size,
        critic_subset_size=config.critic_subset_size,
        layer_norm=config.layer_norm,
        dropout_rate=config.dropout_rate,
        discount=config.discount,
        target_update_rate=config.target_update_rate,
        actor_learning_rate=config.actor_learning_rate,
        critic_learning_rate=config.critic_learning_rate,
        temperature_learning_rate=config.temperature_learning_rate,
        learning_rate_schedule=config.learning_rate_schedule,
        learning_rate_warmup_steps=config.learning_rate_warmup_steps,
        critic_decay_steps=decays * schedules.critic_updates(config),
        actor_decay_steps=decays * (config.warmup_steps + config.online_steps),
        initial_temperature=config.initial_temperature,
        target_entropy=target_entropy,
        backup_entropy=config.backup_entropy,
        behavior_cloning_weight=config.behavior_cloning_weight,
    )


def create(
    config: SACConfig,
    key: PRNGKeyArray,
    observation_center: Float[Array, " observation"],
    observation_scale: Float[Array, " observation"],
) -> SACState:
    """A fresh agent."""
    actor_key, critic_key = jax.random.split(key)
    observation, action = jnp.zeros((1, config.observation_size)), jnp.zeros((1, config.action_size))
    actor = _actor(config).init(actor_key, observation)
    critic = _critic(config, config.critic_ensemble_size).init(critic_key, observation, action, False)
    log_temperature = jnp.log(jnp.float32(config.initial_temperature))
    return SACState(
        actor=actor,
        critic=critic,
        target_critic=jax.tree.map(jnp.copy, critic),
        log_temperature=log_temperature,
        actor_optimizer=_actor_optimizer(config).init(actor),
        critic_optimizer=_critic_optimizer(config).init(critic),
        temperature_optimizer=_temperature_optimizer(config).init(log_temperature),
        updates=jnp.zeros((), jnp.int32),
        observation_center=jnp.asarray(observation_center, jnp.float32),
        observation_scale=jnp.asarray(observation_scale, jnp.float32),
    )


def policy(state: SACState) -> Policy:
    """The agent's policy: few arrays, so that a call per environment step has little to hand over."""
    return Policy(state.actor, state.observation_center, state.observation_scale)


def act(
    config: SACConfig,
    policy: Policy,
    observation: Float[Array, "batch observation"],
    noise: Float[Array, "batch action"],
) -> Float[Array, "batch action"]:
    """Actions for standard normal noise; zero noise gives the deterministic action."""
    mean, standard_deviation = _actor(config).apply(policy.actor, _normalise(policy, observation))
    return jnp.tanh(mean + standard_deviation * noise)


def action_values(
    config: SACConfig,
    state: SACState,
    observation: Float[Array, "batch observation"],
    action: Float[Array, "batch action"],
) -> Float[Array, "ensemble batch"]:
    """Q(s, a) of every critic."""
    return _critic(config, config.critic_ensemble_size).apply(
        state.critic, _normalise(state, observation), action, False
    )


def td_errors(config: SACConfig, state: SACState, batch: Transition, key: PRNGKeyArray) -> Float[Array, " batch"]:
    """TD error of each example, mean over the ensemble, signed; the target uses a random subset and action."""
    target = _target(config, state, batch, _next_action(config, state, batch, key))
    return jnp.mean(action_values(config, state, batch.observation, batch.action) - target, axis=0)


class NextAction(NamedTuple):
    """The policy's action at the next observation and its log-probability, and uniforms that order the critics."""

    action: Float[Array, "*batch action"]
    log_probability: Float[Array, "*batch"]
    order: Float[Array, "*updates ensemble"]


def update_critic(
    config: SACConfig, state: SACState, batch: Transition, key: PRNGKeyArray
) -> tuple[SACState, Metrics, Float[Array, " batch"]]:
    """One critic and target step on the weighted mean of the loss terms; the actor and temperature stay as they are.

    Returns:
        The new state, metrics, and each example's TD error before the step (signed, mean over the ensemble).
    """
    target_key, dropout_key = jax.random.split(key)
    return _step_critic(config, state, batch, _next_action(config, state, batch, target_key), dropout_key)


def _step_critic(
    config: SACConfig, state: SACState, batch: Transition, next_action: NextAction, dropout_key: PRNGKeyArray
) -> tuple[SACState, Metrics, Float[Array, " batch"]]:
    observation = _normalise(state, batch.observation)
    target = _target(config, state, batch, next_action)
    network = _critic(config, config.critic_ensemble_size)

    def loss(critic: PyTree) -> tuple[Float[Array, ""], Float[Array, "ensemble batch"]]:
        value = network.apply(critic, observation, batch.action, True, rngs={"dropout": dropout_key})
        per_example = losses.squared_td_error(value, target)
        return jnp.mean(batch.weight * per_example), value

    (loss_value, value), gradient = jax.value_and_grad(loss, has_aux=True)(state.critic)
    critic, critic_optimizer = _step(_critic_optimizer(config), gradient, state.critic_optimizer, state.critic)
    td_error = jnp.mean(value, axis=0) - target
    metrics = {
        "critic_loss": loss_value,
        "q_mean": jnp.mean(value),
        "td_error": jnp.mean(jnp.abs(td_error)),
    }
    new_state = state._replace(
        critic=critic,
        critic_optimizer=critic_optimizer,
        target_critic=optax.incremental_update(critic, state.target_critic, config.target_update_rate),
        updates=state.updates + 1,
    )
    return new_state, metrics, td_error


def update_actor(
    config: SACConfig, state: SACState, batch: Transition, key: PRNGKeyArray, parts: int = 1
) -> tuple[SACState, Metrics]:
    """One actor and one temperature step; the critics stay as they are.

    Args:
        parts: the gradient is summed over so many equal parts of the batch, one after another. It is the same but for
            rounding; what is kept for the way back is that of one part, and stays in the processor's caches.
    """
    temperature = jnp.exp(state.log_temperature)
    critic = _critic(config, config.critic_ensemble_size)

    def actor_loss(
        actor: PyTree, batch: Transition, noise: Float[Array, "part action"]
    ) -> tuple[Float[Array, ""], Float[Array, " part"]]:
        observation = _normalise(state, batch.observation)
        mean, standard_deviation = _actor(config).apply(actor, observation)
        action, log_probability = tanh_normal.sample(mean, standard_deviation, noise)
        value = critic.apply(state.critic, observation, action, False)
        per_example = losses.soft_policy(log_probability, value, temperature)
        if config.behavior_cloning_weight > 0:
            per_example += config.behavior_cloning_weight * losses.behavior_cloning(action, batch.action)
        return jnp.mean(batch.weight * per_example), log_probability

    def add_part(
        total: PyTree, part: tuple[Transition, Float[Array, "part action"]]
    ) -> tuple[PyTree, tuple[Float[Array, ""], Float[Array, " part"]]]:
        outputs, gradient = jax.value_and_grad(actor_loss, has_aux=True)(state.actor, *part)
        return jax.tree.map(jnp.add, total, gradient), outputs

    rows = (batch, jax.random.normal(key, batch.action.shape))
    split = jax.tree.map(lambda leaf: leaf.reshape(parts, -1, *leaf.shape[1:]), rows)
    total, (loss_value, log_probability) = jax.lax.scan(add_part, jax.tree.map(jnp.zeros_like, state.actor), split)
    gradient = jax.tree.map(lambda leaf: leaf / parts, total)
    log_probability = log_probability.reshape(-1)
    actor, actor_optimizer = _step(_actor_optimizer(config), gradient, state.actor_optimizer, state.actor)

    def temperature_loss(log_temperature: Float[Array, ""]) -> Float[Array, ""]:
        gap = losses.entropy_gap(log_probability, config.target_entropy)
        return jnp.mean(batch.weight * jnp.exp(log_temperature) * gap)

    log_temperature, temperature_optimizer = _step(
        _temperature_optimizer(config),
        jax.grad(temperature_loss)(state.log_temperature),
        state.temperature_optimizer,
        state.log_temperature,
    )
    metrics = {"actor_loss": jnp.mean(loss_value), "temperature": temperature, "entropy": -jnp.mean(log_probability)}
    new_state = state._replace(
        actor=actor,
        actor_optimizer=actor_optimizer,
        log_temperature=log_temperature,
        temperature_optimizer=temperature_optimizer,
    )
    return new_state, metrics


def update(
    config: SACConfig, state: SACState, batch: Transition, key: PRNGKeyArray
) -> tuple[SACState, Metrics, Float[Array, "utd batch"]]:
    """One environment step's learning: a critic update per leading row of `batch`, then one actor update on all rows.

    The order and the batch of the actor (all UTD batches together) are RLPD's and WSRL's.

    Args:
        batch: arrays with leading axes (utd, batch).
        key: randomness of this call.

    Returns:
        The new state, metrics (critic metrics are means over the updates), and every example's TD error.
    """
    actor_key, target_key, dropout_key = jax.random.split(key, 3)
    updates = batch.reward.shape[0]
    # The actor stays as it is until the critics' updates are done, so that one call gives all their next actions.
    next_actions = _next_action(config, state, batch, target_key)

    def critic_step(
        state: SACState, inputs: tuple[Transition, NextAction, PRNGKeyArray]
    ) -> tuple[SACState, tuple[Metrics, Float[Array, " batch"]]]:
        state, metrics, td_error = _step_critic(config, state, *inputs)
        return state, (metrics, td_error)

    inputs = (batch, next_actions, jax.random.split(dropout_key, updates))
    state, (critic_metrics, td_error) = jax.lax.scan(critic_step, state, inputs)
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batch)
    state, actor_metrics = update_actor(config, state, flat, actor_key, _parts(config, *batch.reward.shape))
    return state, jax.tree.map(jnp.mean, critic_metrics) | actor_metrics, td_error


CRITIC_ROWS = 4096
"""Rows times critics that the actor's step takes at once: more leave the processor's caches (measured)."""


def _parts(config: SACConfig, updates: int, batch_size: int) -> int:
    """The fewest parts of whole batches that keep to `CRITIC_ROWS`, or one for each batch."""
    fitting = max(1, CRITIC_ROWS // (config.critic_ensemble_size * batch_size))
    return next(parts for parts in range(1, updates + 1) if updates % parts == 0 and updates // parts <= fitting)


def _next_action(config: SACConfig, state: SACState, batch: Transition, key: PRNGKeyArray) -> NextAction:
    """For batches with any leading axes: the axes before the last are updates, each with a subset of its own."""
    noise_key, order_key = jax.random.split(key)
    rows = batch.next_observation.reshape(-1, config.observation_size)
    noise = jax.random.normal(noise_key, (len(rows), config.action_size))
    mean, standard_deviation = _actor(config).apply(state.actor, _normalise(state, rows))
    action, log_probability = tanh_normal.sample(mean, standard_deviation, noise)
    return NextAction(
        action.reshape(batch.action.shape),
        log_probability.reshape(batch.reward.shape),
        jax.random.uniform(order_key, (*batch.reward.shape[:-1], config.critic_ensemble_size)),
    )


def _target(config: SACConfig, state: SACState, batch: Transition, next_action: NextAction) -> Float[Array, " batch"]:
    """TD target: minimum over a random subset of the target critics (REDQ; all of them where the sizes are equal)."""
    next_observation = _normalise(state, batch.next_observation)
    target_critic = state.target_critic
    if config.critic_subset_size < config.critic_ensemble_size:
        _, members = jax.lax.top_k(next_action.order, config.critic_subset_size)
        target_critic = jax.tree.map(lambda leaf: leaf[members], target_critic)
    next_values = _critic(config, config.critic_subset_size).apply(
        target_critic, next_observation, next_action.action, False
    )
    next_value = jnp.min(next_values, axis=0)
    if config.backup_entropy:
        next_value = next_value - jnp.exp(state.log_temperature) * next_action.log_probability
    return losses.td_target(batch.reward, batch.mask, next_value, config.discount)


def _normalise(
    agent: SACState | Policy, observation: Float[Array, "batch observation"]
) -> Float[Array, "batch observation"]:
    return (observation - agent.observation_center) / agent.observation_scale


def _actor(config: SACConfig) -> mlp.Network:
    return mlp.Actor(config.action_size, config.hidden_sizes, config.layer_norm)


def _critic(config: SACConfig, size: int) -> mlp.Network:
    return mlp.CriticEnsemble(size, config.hidden_sizes, config.layer_norm, config.dropout_rate)


def _actor_optimizer(config: SACConfig) -> optax.GradientTransformation:
    return _adam(config, config.actor_learning_rate, config.actor_decay_steps)


def _critic_optimizer(config: SACConfig) -> optax.GradientTransformation:
    return _adam(config, config.critic_learning_rate, config.critic_decay_steps)


def _temperature_optimizer(config: SACConfig) -> optax.GradientTransformation:
    return _adam(config, config.temperature_learning_rate, config.actor_decay_steps)


def _adam(config: SACConfig, peak: float, decay_steps: int) -> optax.GradientTransformation:
    kind, warmup_steps = config.learning_rate_schedule, config.learning_rate_warmup_steps
    return optax.adam(schedules.learning_rate(kind, peak, warmup_steps, decay_steps))


def _step(
    optimizer: optax.GradientTransformation, gradient: PyTree, optimizer_state: PyTree, parameters: PyTree
) -> tuple[PyTree, PyTree]:
    updates, optimizer_state = optimizer.update(gradient, optimizer_state, parameters)
    return optax.apply_updates(parameters, updates), optimizer_state
