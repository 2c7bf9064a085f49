"""Scripted episodes as trajectories."""

from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float32, UInt8

from wsrl_kit.data.trajectory import Trajectory
from wsrl_kit.envs.config import SOURCES
from wsrl_kit.envs.make import make
from wsrl_kit.envs.scripts import Policy, scripted_policy
from wsrl_kit.envs.wrappers import STATE, observation_horizon, succeeded


def collect(
    exp_name: str,
    environment_options: Mapping[str, Any] | None = None,
    kind: str = "expert",
    *,
    episodes: int,
    seed: int,
    progress: Callable[[int], object] | None = None,
    wrapper: Callable[[gymnasium.Env], gymnasium.Env] | None = None,
) -> list[Trajectory]:
    """Records episodes of a scripted policy; episode i depends on `seed` and i alone.

    Args:
        progress: called with 1 after every episode.
        wrapper: changes what is recorded, such as rewards and ends.

    Raises:
        ExperimentError: no such task, or no such script for it.
    """
    trajectories = []
    with closing(make(exp_name, environment_options)) as task:
        environment = task if wrapper is None else wrapper(task)
        for episode in range(episodes):
            reset_seed, policy_seed = np.random.SeedSequence((seed, episode)).generate_state(2)
            observation, _ = environment.reset(seed=int(reset_seed))
            policy = scripted_policy(kind, environment, np.random.default_rng(policy_seed))
            trajectories.append(_record(environment, observation, policy, SOURCES[kind]))
            if progress is not None:
                progress(1)
    return trajectories


def _record(environment: gymnasium.Env, observation: Any, policy: Policy, source: str) -> Trajectory:
    observations, actions, rewards = [observation], [], []
    terminated = truncated = False
    success = None
    while not (terminated or truncated):
        action = policy(observation)
        observation, reward, terminated, truncated, info = environment.step(action)
        observations.append(observation)
        actions.append(action)
        rewards.append(float(reward))
        success = succeeded(success, info)
    horizon = observation_horizon(environment)
    return trajectory_of(observations, actions, rewards, bool(terminated), bool(truncated), success, source, horizon)


def trajectory_of(
    observations: list[Any],
    actions: list[Float32[np.ndarray, " action"]],
    rewards: list[float],
    terminated: bool,
    truncated: bool,
    success: bool | None,
    source: str,
    horizon: int,
) -> Trajectory:
    """The steps of an episode, with one observation more than actions."""
    states, images = observations, {}
    if isinstance(observations[0], Mapping):
        cameras = [camera for camera in observations[0] if camera != STATE]
        states = [each[STATE] for each in observations]
        images = {camera: _frames([each[camera] for each in observations]) for camera in cameras}
    return Trajectory(
        observations=np.stack(states),
        actions=np.stack(actions),
        rewards=np.asarray(rewards, np.float32),
        terminated=terminated,
        truncated=truncated,
        success=success,
        source=source,
        images=images,
        observation_horizon=horizon,
    )


def _frames(stacks: list[UInt8[np.ndarray, "horizon height width 3"]]) -> UInt8[np.ndarray, "frame height width 3"]:
    """Each frame of one camera once."""
    return np.concatenate([stacks[0], *(stack[-1:] for stack in stacks[1:])])
