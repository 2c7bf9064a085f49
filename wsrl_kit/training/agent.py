"""An agent that fits an environment and its offline data: sizes, normalisation, and the warmup checkpoint file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from wsrl_kit import sac
from wsrl_kit.config import WSRLConfig
from wsrl_kit.data.dataset import Dataset, monte_carlo_returns
from wsrl_kit.errors import CheckpointError, DataError
from wsrl_kit.replay import storage
from wsrl_kit.sac import SACConfig, SACState
from wsrl_kit.training import checkpoint, randomness
from wsrl_kit.types import Transition

SMALLEST_SCALE = 1e-3
"""Lower bound of a normalisation scale estimated from data: a constant input must not become infinite."""

BOUND = 5.0
"""Where the bounds of a bounded observation lie after normalisation.

Bounds are limits that are rarely reached, and precise work happens in a small part of them: mapped to +-1, a peg 5 mm
beside its hole looks to the critic almost like one above it, and warmup fails on the simulated insertion.
"""

NETWORK_PARAMETERS = (
    "observation_size",
    "action_size",
    "hidden_sizes",
    "critic_ensemble_size",
    "shared_critic_output",
    "layer_norm",
    "activation",
)


def create(config: WSRLConfig, environment: gymnasium.Env, dataset: Dataset | None) -> tuple[SACConfig, SACState]:
    """A fresh agent for an environment.

    Args:
        environment: flat Box observations and actions, as `envs.make` gives.
        dataset: offline data, for the normalisation of observations without finite bounds; None where there are none.

    Raises:
        DataError: the data's sizes are not the environment's.
    """
    space, action_space = environment.observation_space, environment.action_space
    assert isinstance(space, gymnasium.spaces.Box)
    assert isinstance(action_space, gymnasium.spaces.Box)
    observation_size, action_size = space.shape[0], action_space.shape[0]
    if dataset is not None:
        found = (dataset.observations.shape[1], dataset.actions.shape[1])
        if found != (observation_size, action_size):
            raise DataError(
                f"the offline data hold observations of size {found[0]} and actions of size {found[1]}, but "
                f"{config.exp_name} has {observation_size} and {action_size}"
            )
    static = sac.from_parameters(config, observation_size, action_size)
    center, scale = normalisation(space, dataset)
    state = sac.create(static, randomness.key(config.seed, "initialisation"), jnp.asarray(center), jnp.asarray(scale))
    return static, state


def normalisation(
    space: gymnasium.spaces.Box, dataset: Dataset | None
) -> tuple[Float[np.ndarray, " observation"], Float[np.ndarray, " observation"]]:
    """Center and scale of observations, entry by entry.

    Finite bounds of the space are mapped to +-BOUND; an entry without them takes mean and standard deviation of the
    offline data; without data it stays as it is.
    """
    bounded = np.isfinite(space.low) & np.isfinite(space.high) & (space.high - space.low < 1e6)
    center, scale = np.zeros(space.shape, np.float32), np.ones(space.shape, np.float32)
    if dataset is not None:
        center = dataset.observations.mean(axis=0)
        scale = np.maximum(dataset.observations.std(axis=0), SMALLEST_SCALE)
    with np.errstate(over="ignore", invalid="ignore"):
        center = np.where(bounded, (space.high + space.low) / 2, center)
        scale = np.where(bounded, (space.high - space.low) / 2 / BOUND, scale)
    return center.astype(np.float32), np.maximum(scale, SMALLEST_SCALE).astype(np.float32)


def to_transitions(config: WSRLConfig, dataset: Dataset) -> Transition:
    """The rows that replay stores; a time limit bootstraps (mask 1), only a terminal state does not.

    Monte-Carlo returns, which Cal-QL alone needs, are -inf for the others.
    """
    rewards = learning_reward(config, dataset.rewards)
    returns = np.full(len(dataset), -np.inf, np.float32)
    if config.conservative_loss == "calql":
        returns = monte_carlo_returns(replace(dataset, rewards=rewards), config.discount)
    return Transition(
        observation=jnp.asarray(dataset.observations),
        action=jnp.asarray(dataset.actions),
        reward=jnp.asarray(rewards),
        next_observation=jnp.asarray(dataset.next_observations),
        mask=1.0 - jnp.asarray(dataset.terminated, jnp.float32),
        weight=jnp.asarray(dataset.weight),
        monte_carlo_return=jnp.asarray(returns),
    )


def learning_reward(config: WSRLConfig, reward: Float[np.ndarray, "*batch"]) -> Float[np.ndarray, "*batch"]:
    """The reward that learning sees, as the method wants it."""
    return np.asarray(config.reward_scale * reward + config.reward_bias, np.float32)


def probe_batch(config: WSRLConfig, dataset: Dataset, size: int) -> Transition:
    """A frozen batch of offline transitions on which values are followed through the switch; all have weight 1."""
    generator = np.random.default_rng(randomness.episode_seed(config.seed, "diagnosis"))
    rows = generator.choice(len(dataset), size=size, replace=size > len(dataset))
    batch = jax.tree.map(lambda column: column[rows], to_transitions(config, dataset))
    return batch._replace(weight=jnp.ones(size))


def save_warmup(path: Path, config: SACConfig, agent: SACState, probe: Transition, details: dict[str, Any]) -> None:
    """Writes a warmed-up agent with the probe batch of its data.

    Raises:
        CheckpointError: it can't be written; an earlier file there is intact.
    """
    network = {name: getattr(config, name) for name in NETWORK_PARAMETERS}
    size = len(probe.reward)
    checkpoint.save(path, {"agent": agent, "probe": probe}, {"network": network, "probe_size": size} | details)


def load_warmup(path: Path, config: SACConfig, agent: SACState) -> tuple[SACState, Transition]:
    """Reads a warmed-up agent and the probe batch of its data.

    Args:
        agent: a fresh agent of the configured network, for its structure.

    Raises:
        CheckpointError: missing, damaged, or of another network or observation size (naming what differs).
    """
    metadata = checkpoint.read_metadata(path)
    if "network" not in metadata:
        raise CheckpointError(f"{path} is a run's checkpoint: expected one written by offline warmup")
    for name in NETWORK_PARAMETERS:
        wanted = getattr(config, name)
        # A checkpoint from before there was the parameter does not name it; its leaves tell whether it fits.
        found = metadata["network"].get(name, wanted)
        if list(np.atleast_1d(found)) != list(np.atleast_1d(wanted)):
            raise CheckpointError(f"{path} was made with {name} {found}, but this run has {name} {wanted}")
    probe = storage.create(metadata["probe_size"], config.observation_size, config.action_size).transitions
    tree = checkpoint.load(path, {"agent": agent, "probe": probe})
    return tree["agent"], tree["probe"]
