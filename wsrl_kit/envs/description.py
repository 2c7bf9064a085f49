"""A task as its data are compared with it."""

from collections.abc import Mapping
from contextlib import closing
from typing import Any

import gymnasium
import numpy as np

from wsrl_kit.config import ACTION_UNITS, ROBOT, TASK_UNITS
from wsrl_kit.data.conventions import Conventions
from wsrl_kit.data.layout import Layout
from wsrl_kit.data.task import SUCCESS_IS_ONE, ZERO_WITHOUT_SUCCESS, Task, reward_convention
from wsrl_kit.envs import INSERTION, PIXELS, make
from wsrl_kit.envs.observations import STATE
from wsrl_kit.envs.wrappers import SuccessInfo, SuccessReward, action_bounds
from wsrl_kit.parameters import check

_STEPS = 5
"""Random steps of a simulated task, after which it is known what its rewards and `info` look like."""


def describe(exp_name: str, environment_options: Mapping[str, Any]) -> Task:
    """The task. A robot is asked and not moved; a simulation makes a few steps.

    Args:
        exp_name, environment_options: as for `make`.

    Raises:
        ExperimentError: as `make`, or its first steps.
        RobotError: the robot's server can't be reached.
        ParameterError: an option is wrong.
    """
    with closing(make(exp_name, environment_options)) as environment:
        rewards: str = SUCCESS_IS_ONE
        similar: tuple[str, ...] = ()
        if exp_name not in (ROBOT, INSERTION, PIXELS):
            rewards, similar = _first_steps(environment)
        bounds = action_bounds(environment)
        return Task(exp_name, dict(environment_options), _layout(environment), bounds, rewards, similar)


def conventions(exp_name: str, environment_options: Mapping[str, Any], action_units: str) -> Conventions:
    """How data files of a task are to be read.

    Args:
        exp_name, environment_options: as for `make`.
        action_units: one of `ACTION_UNITS`.

    Raises:
        WSRLKitError: the task's bounds are asked for, and it can't be made.
        ParameterError: `action_units` is wrong.
    """
    check("action_units", action_units, str, {"choices": ACTION_UNITS})
    bounds = None
    if action_units == TASK_UNITS:
        with closing(make(exp_name, environment_options)) as environment:
            bounds = action_bounds(environment)
    return Conventions(environment_options.get("success_key"), bounds)


def _layout(environment: gymnasium.Env) -> Layout:
    space, action_space = environment.observation_space, environment.action_space
    assert action_space.shape is not None
    if not isinstance(space, gymnasium.spaces.Dict):
        assert space.shape is not None
        return Layout(space.shape[0], action_space.shape[0])
    shapes = {name: entry.shape for name, entry in space.items() if entry.shape is not None}
    state = shapes.pop(STATE)
    cameras = {name: shape[1:] for name, shape in sorted(shapes.items())}
    return Layout(state[0], action_space.shape[0], cameras, next(iter(shapes.values()))[0])


def _first_steps(environment: gymnasium.Env) -> tuple[str, tuple[str, ...]]:
    """What the rewards stand for, and what in `info` sounds like success where it is not reported."""
    generator = np.random.default_rng(0)
    rewards = []
    environment.reset(seed=0)
    for _ in range(_STEPS):
        action = generator.uniform(-1, 1, environment.action_space.shape).astype(np.float32)
        _, reward, terminated, truncated, _ = environment.step(action)
        rewards.append(float(reward))
        if terminated or truncated:
            break
    layers = _layers(environment)
    similar = next(layer.similar_keys for layer in layers if isinstance(layer, SuccessInfo))
    if any(isinstance(layer, SuccessReward) for layer in layers):
        return SUCCESS_IS_ONE, similar
    return reward_convention(np.array(rewards, np.float32)) or ZERO_WITHOUT_SUCCESS, similar


def _layers(environment: gymnasium.Env) -> list[gymnasium.Env]:
    layers = [environment]
    while isinstance(layers[-1], gymnasium.Wrapper):
        layers.append(layers[-1].env)
    return layers
