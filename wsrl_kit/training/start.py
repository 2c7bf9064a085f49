"""Makes agents that fit an environment and its data; saves and loads warmup checkpoints; checks a robot."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from wsrl_kit.agent import jax_tools, sac, vision
from wsrl_kit.agent.gripper import FIXED
from wsrl_kit.agent.sac import SACConfig, SACState
from wsrl_kit.agent.transition import Transition, row_width, unpacked
from wsrl_kit.agent.vision import PixelConfig, load_resnet10
from wsrl_kit.config.advice import followed, read_diagnosis
from wsrl_kit.config.config import SMALLEST_SCALE, WSRLConfig
from wsrl_kit.data.dataset import Dataset, monte_carlo_returns, stacks_of
from wsrl_kit.envs.make import make
from wsrl_kit.envs.wrappers import camera_shapes, state_space
from wsrl_kit.errors import CheckpointError, DataError, ExperimentError, ParameterError
from wsrl_kit.files import reading
from wsrl_kit.parameters import check, names_of
from wsrl_kit.robot.environment import preflight
from wsrl_kit.runs import checkpoint

BOUND = 5.0
"""Bounded observations are normalised to +-BOUND.

With +-1, a peg 5 mm beside its hole looks to the critic almost like one above it, and warmup fails.
"""


PROBE_SIZE = 256
"""Transitions of the frozen offline batch whose values are followed through the switch."""


def start(
    config: WSRLConfig, environment: gymnasium.Env, dataset: Dataset | None
) -> tuple[SACConfig, SACState, Transition | None]:
    """The agent that fine-tuning starts from, and the probe batch of the checkpoint or the offline data.

    Raises:
        WSRLKitError: as `create`, `load_warmup` or `check_trunk`.
    """
    probe = None
    if config.checkpoint_path is None:
        agent_config, agent_state = create(config, environment, dataset)
        check_trunk(config, agent_config)
    else:
        agent_config = configure(config, environment, dataset)
        agent_state, probe = load_warmup(Path(config.checkpoint_path), agent_config)
    if probe is None and dataset is not None:
        probe = probe_batch(config, dataset)
    return agent_config, agent_state, probe


def advised(config: WSRLConfig) -> WSRLConfig:
    """With `follow_advice` and a checkpoint, the config with what the checkpoint's diagnosis advises.

    Raises:
        CheckpointError: missing, damaged, or without a diagnosis.
    """
    if not config.follow_advice or config.checkpoint_path is None:
        return config
    path = Path(config.checkpoint_path)
    metadata = checkpoint.read_metadata(path)
    if "diagnosis" not in metadata:
        raise CheckpointError(f"{path} holds no diagnosis, as follow_advice needs: expected one written by warmup")
    with reading(path, CheckpointError, checkpoint.DAMAGED):
        diagnosis = read_diagnosis(metadata["diagnosis"])
    return followed(config, diagnosis)


def create(config: WSRLConfig, environment: gymnasium.Env, dataset: Dataset | None) -> tuple[SACConfig, SACState]:
    """A fresh agent for an environment, with `encoder_weights` if given.

    Args:
        dataset: normalises observations without finite bounds.

    Raises:
        DataError: as `configure`; or the weights can't be read.
        ExperimentError, ParameterError: as `configure`; or the weights are for another encoder.
    """
    agent_config = configure(config, environment, dataset)
    center, scale = normalisation(state_space(environment), dataset)
    state = sac.create(
        agent_config, jax_tools.key(config.seed, "initialisation"), jnp.asarray(center), jnp.asarray(scale)
    )
    if agent_config.pixels is not None and config.encoder_weights is not None:
        state = sac.with_trunk(agent_config, state, load_resnet10(Path(config.encoder_weights)))
    return agent_config, state


def configure(config: WSRLConfig, environment: gymnasium.Env, dataset: Dataset | None) -> SACConfig:
    """The static part of an agent for an environment.

    Raises:
        DataError: sizes or cameras of data and environment differ.
        ExperimentError: the cameras' image sizes differ.
        ParameterError: the actions do not fit `gripper`.
    """
    action_space = environment.action_space
    assert isinstance(action_space, gymnasium.spaces.Box)
    observation_size, action_size = state_space(environment).shape[0], action_space.shape[0]
    cameras = camera_shapes(environment)
    if dataset is not None:
        found = (dataset.observations.shape[1], dataset.actions.shape[1])
        if found != (observation_size, action_size):
            raise DataError(
                f"the offline data hold observations of size {found[0]} and actions of size {found[1]}, but "
                f"{config.exp_name} has {observation_size} and {action_size}"
            )
        _check_cameras(config, cameras, dataset)
    return sac_config(config, observation_size, action_size, _pixels(config, cameras))


def sac_config(
    config: WSRLConfig, observation_size: int, action_size: int, pixels: PixelConfig | None = None
) -> SACConfig:
    """`sac.from_parameters`, with learning rates decaying over warmup and fine-tuning together."""
    return sac.from_parameters(
        config,
        observation_size,
        action_size,
        pixels,
        critic_updates=config.critic_updates,
        actor_updates=config.actor_updates,
    )


def check_trunk(config: WSRLConfig, agent_config: SACConfig) -> None:
    """Raises ParameterError for a frozen trunk without weights."""
    if agent_config.pixels is not None and agent_config.pixels.is_frozen and config.encoder_weights is None:
        raise ParameterError(
            f"encoder {config.encoder!r} needs encoder_weights, such as HIL-SERL's resnet10_params.pkl, found None: "
            "features of a network that nobody has trained, and nothing trains, say little"
        )


def _check_cameras(config: WSRLConfig, cameras: dict[str, tuple[int, ...]], dataset: Dataset) -> None:
    found = {name: (dataset.observation_horizon, *frames.shape[1:]) for name, frames in sorted(dataset.images.items())}
    if found != cameras:
        raise DataError(
            f"the offline data hold {_cameras_text(found)}, but {config.exp_name} has {_cameras_text(cameras)} "
            "(observation horizon, height, width, channels)"
        )


def _cameras_text(cameras: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"camera {name} {list(shape)}" for name, shape in cameras.items()) or "no cameras"


def _pixels(config: WSRLConfig, cameras: dict[str, tuple[int, ...]]) -> PixelConfig | None:
    if not cameras:
        return None
    if len(set(cameras.values())) > 1:
        raise ExperimentError(
            f"the cameras of {config.exp_name} must see images of one size, found {_cameras_text(cameras)}"
        )
    return vision.for_cameras(cameras, config.encoder, config.augmentation_padding)


def normalisation(
    space: gymnasium.spaces.Box, dataset: Dataset | None
) -> tuple[Float[np.ndarray, " observation"], Float[np.ndarray, " observation"]]:
    """Center and scale of observations, entry by entry.

    Finite bounds map to +-BOUND; other entries take the offline data's mean and standard deviation, or stay unchanged.
    """
    bounded = np.isfinite(space.low) & np.isfinite(space.high) & (space.high - space.low < 1e6)
    center: np.ndarray = np.zeros(space.shape, np.float32)
    scale: np.ndarray = np.ones(space.shape, np.float32)
    if dataset is not None:
        center = dataset.observations.mean(axis=0)
        scale = np.maximum(dataset.observations.std(axis=0), SMALLEST_SCALE)
    with np.errstate(over="ignore", invalid="ignore"):
        center = np.where(bounded, (space.high + space.low) / 2, center)
        scale = np.where(bounded, (space.high - space.low) / 2 / BOUND, scale)
    return center.astype(np.float32), np.maximum(scale, SMALLEST_SCALE).astype(np.float32)


def to_transitions(config: WSRLConfig, dataset: Dataset) -> Transition:
    """Rows for replay; a time limit has mask 1.

    Monte-Carlo returns are -inf unless Cal-QL needs them; grasp penalties exist with a learned gripper only.
    """
    rewards = learning_reward(config, dataset.rewards)
    returns = np.full(len(dataset), -np.inf, np.float32)
    if config.conservative_loss == "calql":
        returns = monte_carlo_returns(replace(dataset, rewards=rewards), config.discount)
    penalty = np.zeros(len(dataset), np.float32) if dataset.grasp_penalty is None else dataset.grasp_penalty
    columns: dict[str, Any] = {
        "observation": dataset.observations,
        "action": dataset.actions,
        "reward": rewards,
        "next_observation": dataset.next_observations,
        "mask": np.float32(1.0) - dataset.terminated,
        "weight": dataset.weight,
        "monte_carlo_return": returns,
        "grasp_penalty": None if config.gripper == FIXED else learning_penalty(config, penalty),
    }
    return Transition(**columns)


def learning_reward(config: WSRLConfig, reward: Float[np.ndarray, "*batch"]) -> Float[np.ndarray, "*batch"]:
    """The reward that learning sees."""
    return np.asarray(config.reward_scale * reward + config.reward_bias, np.float32)


def learning_penalty(config: WSRLConfig, penalty: Float[np.ndarray, "*batch"]) -> Float[np.ndarray, "*batch"]:
    """The grasp penalty that learning sees."""
    return np.asarray(config.reward_scale * penalty, np.float32)


def probe_batch(config: WSRLConfig, dataset: Dataset, size: int = PROBE_SIZE) -> Transition:
    """A frozen batch of offline transitions whose values are followed through the switch; all have weight 1."""
    generator = np.random.default_rng(jax_tools.episode_seed(config.seed, "diagnosis"))
    rows = generator.choice(len(dataset), size=size, replace=size > len(dataset))
    batch = jax.tree.map(lambda column: jnp.asarray(column[rows]), to_transitions(config, dataset))
    images, next_images = (
        {name: frames[stacks] for name, frames in dataset.images.items()} for stacks in stacks_of(dataset, rows)
    )
    return batch._replace(weight=jnp.ones(size), images=images, next_images=next_images)


def save_warmup(
    path: Path, config: SACConfig, agent_state: SACState, probe: Transition, details: dict[str, Any]
) -> None:
    """Writes a warmed-up agent with its probe batch.

    Raises:
        CheckpointError: it can't be written; an earlier file is intact.
    """
    size = len(probe.reward)
    metadata = {"network": _network(config), "probe_size": size} | details
    checkpoint.save(path, {"agent": agent_state, "probe": probe}, metadata)


def _network(config: SACConfig) -> dict[str, Any]:
    """Parameters that checkpoint and agent must share, by user-facing name."""
    names = ("observation_size", "action_size", *names_of(WSRLConfig, network=True))
    network = {name: getattr(config, name) for name in names}
    if config.pixels is not None:
        network |= {
            "encoder": config.pixels.encoder_name,
            "cameras": config.pixels.cameras,
            "image_shape": config.pixels.image_shape,
        }
    return network


def load_warmup(path: Path, config: SACConfig) -> tuple[SACState, Transition | None]:
    """Reads a warmed-up agent and its probe batch; None if the file has none, like an imported one.

    Raises:
        CheckpointError: missing, damaged, or of another network.
    """
    metadata = checkpoint.read_metadata(path)
    if "network" not in metadata:
        raise CheckpointError(f"{path} is a run's checkpoint: expected one written by offline warmup")
    own = _network(config)
    with reading(path, CheckpointError, checkpoint.DAMAGED):
        for name in own | metadata["network"]:
            # A checkpoint from before there was a parameter does not name it; its leaves tell whether it fits.
            wanted = own.get(name)
            found = metadata["network"].get(name, wanted)
            if found not in (wanted, list(wanted) if isinstance(wanted, tuple) else wanted):
                raise CheckpointError(f"{path} was made with {name} {found}, but this run has {name} {wanted}")
        size = check("probe_size", metadata["probe_size"], int, {"minimum": 0})

        def template() -> PyTree:
            ones = jnp.ones(config.observation_size)
            return {"agent": sac.create(config, jax.random.key(0), ones, ones), "probe": probe_zeros(config, size)}

        # Shapes alone: to make an agent takes seconds, and the file says how many rows the probe has.
        tree = checkpoint.load(path, jax.eval_shape(template))
        return tree["agent"], tree["probe"] if size else None


def probe_zeros(config: SACConfig, size: int) -> Transition:
    """A probe batch of zeros."""
    sizes = (config.observation_size, config.action_size)
    probe = unpacked(jnp.zeros((size, row_width(*sizes, config.learns_gripper))), *sizes)._replace(cloned=None)
    if config.pixels is None:
        return probe
    images = {name: jnp.zeros((size, *config.pixels.image_shape), jnp.uint8) for name in config.pixels.cameras}
    return probe._replace(images=images, next_images=images)


def check_robot(config: WSRLConfig) -> list[str]:
    """Facts about the robot, a sentence each. Moves nothing.

    Raises:
        RobotError: the server or a camera fails, or the robot is outside its safety box.
        CheckpointError: the checkpoint's observations or actions differ.
        WSRLKitError: the experiment can't be made.
    """
    with closing(make(config.exp_name, config.environment_options)) as environment:
        facts = preflight(environment)
        agent_config = configure(config, environment, None)
        shown = [f"{name} {list(shape)}" for name, shape in camera_shapes(environment).items()]
        facts.append(
            f"observations: {', '.join([f'state [{state_space(environment).shape[0]}]', *shown])}; "
            f"actions: {agent_config.action_size}"
        )
        if config.checkpoint_path is not None:
            load_warmup(Path(config.checkpoint_path), agent_config)
            facts.append(f"{config.checkpoint_path} fits them")
    return facts
