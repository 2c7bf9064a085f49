"""Agent state: static configuration, parameters, optimizers. The functions that act and learn are in `sac`."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, nn
from jaxtyping import Float, Integer, PRNGKeyArray, PyTree

from wsrl_kit.agent import gripper, jax_tools, networks, vision
from wsrl_kit.agent.parameters import NO_VALUE, AgentParameters
from wsrl_kit.agent.transition import Images
from wsrl_kit.agent.vision import PixelConfig
from wsrl_kit.errors import ParameterError

ENSEMBLE_REDUCTIONS: dict[str, Callable[..., Array]] = {
    "mean": jnp.mean,
    "minimum": jnp.min,
    NO_VALUE: lambda values, axis: jnp.ones_like(jnp.min(values, axis)),
}
"""The actor maximises the mean in REDQ, RLPD and HIL-SERL, the minimum in SAC. Without a value, cloning has scale 1."""


@dataclass(frozen=True)
class SACConfig:
    """Static part of an agent, compiled into its programs. Fields as in `AgentParameters`.

    Attributes:
        critic_decay_steps, actor_decay_steps: updates until a decaying rate reaches 0.
        is_conservative: the critic loss has CQL's term.
        is_calibrated: Monte-Carlo returns bound that term (Cal-QL).
        pixels: image encoder; None: states only.
    """

    observation_size: int
    action_size: int
    hidden_sizes: tuple[int, ...]
    activation: str
    initialisation: str
    output_scale: float
    last_hidden_scale: float | None
    critic_ensemble_size: int
    critic_subset_size: int
    shared_critic_output: bool
    actor_value: str
    behavior_cloning_action: str
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
    temperature_parameterisation: str
    initial_temperature: float
    target_entropy: float
    backup_entropy: bool
    official_update_order: bool
    is_conservative: bool
    is_calibrated: bool
    cql_actions: int
    cql_temperature: float
    cql_max_target_backup: bool
    cql_target_gap: float | None
    pixels: PixelConfig | None = None
    gripper: str = gripper.FIXED

    @property
    def continuous_size(self) -> int:
        """Action entries that the actor chooses."""
        return self.action_size - gripper.COUNTS[self.gripper]

    @property
    def learns_gripper(self) -> bool:
        return self.gripper != gripper.FIXED


class GraspState(NamedTuple):
    """The discrete critic of a learned gripper."""

    critic: PyTree
    target: PyTree
    optimizer: PyTree


class SACState(NamedTuple):
    """All that learning changes, and the normalisation of observations.

    Attributes:
        critic: leading axis over critics. With images {"ensemble", "encoder": {"maps", "trunks" unless frozen}}; the
            critics' loss trains all of it, and the target averages all of it.
        temperature_parameter: the number that is learned, by its parameterisation; see `entropy_temperature`.
        log_multiplier: logarithm of CQL's Lagrange multiplier.
        updates: critic updates so far.
        observation_center, observation_scale: networks see `(observation - center) / scale`.
        trunk: frozen trunks' parameters; else ().
    """

    actor: PyTree
    critic: PyTree
    target_critic: PyTree
    temperature_parameter: dict[str, Float[Array, ""]]
    log_multiplier: Float[Array, ""]
    actor_optimizer: PyTree
    critic_optimizer: PyTree
    temperature_optimizer: PyTree
    multiplier_optimizer: PyTree
    updates: Integer[Array, ""]
    observation_center: Float[Array, " observation"]
    observation_scale: Float[Array, " observation"]
    trunk: PyTree = ()
    grasp: GraspState | tuple[()] = ()


class Policy(NamedTuple):
    """The part of an agent that acts."""

    actor: PyTree
    observation_center: Float[Array, " observation"]
    observation_scale: Float[Array, " observation"]
    encoder: PyTree = ()
    trunk: PyTree = ()
    grasp_critic: PyTree = ()


def from_parameters(
    parameters: AgentParameters,
    observation_size: int,
    action_size: int,
    pixels: PixelConfig | None = None,
    *,
    critic_updates: int = 0,
    actor_updates: int = 0,
) -> SACConfig:
    """The agent's static part.

    Args:
        critic_updates, actor_updates: updates until decaying learning rates reach 0.

    Raises:
        ParameterError: the action does not fit `gripper`.
    """
    gripper.check(parameters.gripper, action_size)
    target_entropy = parameters.target_entropy
    if target_entropy is None:
        target_entropy = parameters.target_entropy_per_dimension * (action_size - gripper.COUNTS[parameters.gripper])
    # Left out where nothing decays: a static number that differs between runs would cost each a compilation.
    decays = parameters.learning_rate_schedule != "constant"
    if decays and min(critic_updates, actor_updates) < 1:
        raise ParameterError(
            f"learning_rate_schedule {parameters.learning_rate_schedule!r} needs the numbers of updates after which it "
            f"ends, found critic_updates {critic_updates} and actor_updates {actor_updates}"
        )
    is_conservative = parameters.conservative_loss != "none"
    shared = {
        entry.name: getattr(parameters, entry.name) for entry in fields(SACConfig) if hasattr(parameters, entry.name)
    }
    own = {
        "observation_size": observation_size,
        "action_size": action_size,
        "hidden_sizes": tuple(parameters.hidden_sizes),
        "critic_decay_steps": decays * critic_updates,
        "actor_decay_steps": decays * actor_updates,
        "target_entropy": target_entropy,
        "is_conservative": is_conservative,
        "is_calibrated": parameters.conservative_loss == "calql",
        "cql_max_target_backup": is_conservative and parameters.cql_max_target_backup,
        "cql_target_gap": parameters.cql_target_gap if is_conservative else None,
        "pixels": pixels,
    }
    return SACConfig(**(shared | own))


# Compiled whole: by themselves, its hundred operations are compiled anew by every process.
@partial(jax.jit, static_argnums=0)
def create(
    config: SACConfig,
    key: PRNGKeyArray,
    observation_center: Float[Array, " observation"],
    observation_scale: Float[Array, " observation"],
) -> SACState:
    """A fresh agent."""
    actor_key, critic_key = jax.random.split(key)
    observation, action = jnp.zeros((1, config.observation_size)), jnp.zeros((1, config.continuous_size))
    own_encoder: PyTree = {}
    trunk: PyTree = ()
    if config.pixels is not None:
        trunk_key, encoder_key = jax.random.split(jax.random.fold_in(key, 2))
        trunk = vision.create_trunks(config.pixels, trunk_key)
        own_encoder["maps"] = vision.create_encoder(config.pixels, encoder_key, config.observation_size)
        observation = jnp.zeros((1, config.pixels.encoded_size))
        if not config.pixels.is_frozen:
            own_encoder["trunks"], trunk = trunk, ()
    actor = actor_network(config).init(actor_key, observation)
    critic = critic_network(config, config.critic_ensemble_size).init(critic_key, observation, action, False)
    if config.pixels is not None:
        critic = {"ensemble": critic, "encoder": own_encoder}
    grasp: GraspState | tuple[()] = ()
    if config.learns_gripper:
        values = grasp_network(config).init(jax.random.fold_in(key, 3), observation)
        grasp = GraspState(values, jax_tools.copied(values), critic_optimizer(config).init(values))
    temperature_parameter, log_multiplier = _temperature_parameter(config), jnp.zeros(())
    return SACState(
        actor=actor,
        critic=critic,
        target_critic=jax_tools.copied(critic),
        temperature_parameter=temperature_parameter,
        log_multiplier=log_multiplier,
        actor_optimizer=actor_optimizer(config).init(actor),
        critic_optimizer=critic_optimizer(config).init(critic),
        temperature_optimizer=temperature_optimizer(config).init(temperature_parameter),
        multiplier_optimizer=multiplier_optimizer(config).init(log_multiplier),
        updates=jnp.zeros((), jnp.int32),
        observation_center=jnp.asarray(observation_center, jnp.float32),
        observation_scale=jnp.asarray(observation_scale, jnp.float32),
        trunk=trunk,
        grasp=grasp,
    )


def entropy_temperature(parameter: dict[str, Float[Array, ""]]) -> Float[Array, ""]:
    """The entropy temperature of a `temperature_parameter`."""
    ((parameterisation, value),) = parameter.items()
    return {"exponential": jnp.exp, "softplus": nn.softplus}[parameterisation](value)


def _temperature_parameter(config: SACConfig) -> dict[str, Float[Array, ""]]:
    parameter = jnp.log(jnp.float32(config.initial_temperature))
    if config.temperature_parameterisation == "softplus":
        # log(exp(temperature) - 1), in a form that does not overflow.
        parameter = config.initial_temperature + jnp.log(-jnp.expm1(-jnp.float32(config.initial_temperature)))
    return {config.temperature_parameterisation: parameter}


def with_trunk(config: SACConfig, state: SACState, parameters: PyTree) -> SACState:
    """Replaces the parameters of the trunk that all cameras share.

    Raises:
        ParameterError: each camera has its own trunk.
    """
    assert config.pixels is not None
    if vision.SHARED_TRUNK not in config.pixels.trunk_of.values():
        raise ParameterError(
            f"encoder_weights are those of a ResNet-10: encoder must be 'resnet10' or 'resnet10_frozen', "
            f"found {config.pixels.encoder!r}"
        )
    trunks = {vision.SHARED_TRUNK: jax.tree.map(jnp.asarray, parameters)}
    if config.pixels.is_frozen:
        return state._replace(trunk=trunks)

    def replaced(critic: PyTree) -> PyTree:
        return critic | {"encoder": critic["encoder"] | {"trunks": jax_tools.copied(trunks)}}

    return state._replace(critic=replaced(state.critic), target_critic=replaced(state.target_critic))


def policy(state: SACState) -> Policy:
    """The policy of an agent."""
    grasp_critic = state.grasp.critic if isinstance(state.grasp, GraspState) else ()
    normalisation = (state.observation_center, state.observation_scale)
    return Policy(state.actor, *normalisation, encoder(state.critic), state.trunk, grasp_critic)


def features(
    config: SACConfig,
    agent: SACState | Policy,
    encoder: PyTree,
    observation: Float[Array, "batch observation"],
    images: Images,
    dropout_key: PRNGKeyArray | None = None,
) -> Float[Array, "batch feature"]:
    """Network input: normalised state, or the encoding of images and state.

    Args:
        encoder: of the online or target critics.
        images: from `sac.prepare`.
        dropout_key: None: no dropout.
    """
    state = (observation - agent.observation_center) / agent.observation_scale
    if config.pixels is None:
        return state
    maps = images if config.pixels.is_frozen else vision.trunk_features(config.pixels, encoder["trunks"], images)
    return vision.encode(config.pixels, encoder["maps"], maps, state, dropout_key)


def frozen_features(config: SACConfig, agent: SACState | Policy, images: Images) -> Images:
    """Feature maps of a frozen trunk; otherwise, and if replay already holds feature maps, `images` unchanged."""
    if config.pixels is None or not config.pixels.is_frozen or any(leaf.dtype != jnp.uint8 for leaf in images.values()):
        return images
    return vision.trunk_features(config.pixels, agent.trunk, images)


def ensemble(critic: PyTree) -> PyTree:
    """Critic parameters without the encoder."""
    return critic.get("ensemble", critic)


def encoder(critic: PyTree) -> PyTree:
    """Encoder parameters; () without cameras."""
    return critic.get("encoder", ())


def actor_network(config: SACConfig) -> networks.Network:
    """Observation to mean and standard deviation of the action before tanh."""
    return networks.Actor(config.continuous_size, *_layers(config))


def critic_network(config: SACConfig, size: int) -> networks.Network:
    """Observation and action to `size` values."""
    return networks.CriticEnsemble(size, *_layers(config), config.dropout_rate, config.shared_critic_output)


def grasp_network(config: SACConfig) -> networks.Network:
    """Observation to a value per gripper choice."""
    return networks.ChoiceCritic(gripper.choices(config.gripper), *_layers(config))


def _layers(config: SACConfig) -> tuple[tuple[int, ...], bool, str, networks.InitialWeights]:
    weights = networks.InitialWeights(config.initialisation, config.output_scale, config.last_hidden_scale)
    return config.hidden_sizes, config.layer_norm, config.activation, weights


def actor_optimizer(config: SACConfig) -> optax.GradientTransformation:
    """Adam for the actor."""
    return _adam(config, config.actor_learning_rate, config.actor_decay_steps)


def critic_optimizer(config: SACConfig) -> optax.GradientTransformation:
    """Adam for the critics, and for the discrete critic."""
    return _adam(config, config.critic_learning_rate, config.critic_decay_steps)


def temperature_optimizer(config: SACConfig) -> optax.GradientTransformation:
    """Adam for the entropy temperature."""
    return _adam(config, config.temperature_learning_rate, config.actor_decay_steps)


def multiplier_optimizer(config: SACConfig) -> optax.GradientTransformation:
    """Adam for CQL's multiplier, with the critics' learning rate as in the authors' code."""
    return _adam(config, config.critic_learning_rate, config.actor_decay_steps)


def _adam(config: SACConfig, peak: float, decay_steps: int) -> optax.GradientTransformation:
    kind, warmup_steps = config.learning_rate_schedule, config.learning_rate_warmup_steps
    return optax.adam(learning_rate_schedule(kind, peak, warmup_steps, decay_steps))


def step(
    optimizer: optax.GradientTransformation, gradient: PyTree, optimizer_state: PyTree, parameters: PyTree
) -> tuple[PyTree, PyTree]:
    """One optimizer step: new parameters and optimizer state."""
    updates, optimizer_state = optimizer.update(gradient, optimizer_state, parameters)
    return optax.apply_updates(parameters, updates), optimizer_state


def learning_rate_schedule(kind: str, peak: float, warmup_steps: int, decay_steps: int) -> optax.Schedule:
    """Learning rate by update: linear rise from 0, then constant, or cosine or linear to 0.

    Args:
        decay_steps: updates until 0, the rise included.
    """
    fall_steps = max(1, decay_steps - warmup_steps)
    fall = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, fall_steps),
        "linear": optax.linear_schedule(peak, 0.0, fall_steps),
    }[kind]
    if warmup_steps == 0:
        return fall
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup_steps), fall], [warmup_steps])
