"""Environments by name."""

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import gymnasium
from gymnasium.wrappers import TimeLimit

from wsrl_kit.config.config import ROBOT
from wsrl_kit.envs.insertion import (
    InsertionEnv,
    InsertionOptions,
    PixelInsertionOptions,
    WristCameras,
    insertion_options,
)
from wsrl_kit.envs.tasks import METAWORLD, register_all_installed, register_like
from wsrl_kit.envs.wrappers import FiniteNumbers, ObservationHorizon, SuccessReward, flatten
from wsrl_kit.errors import ExperimentError, ParameterError
from wsrl_kit.parameters import check

DEFAULT_TIME_LIMIT = 1000
"""Steps, for a task without its own limit."""

INSERTION = "hirol_fixed_gripper"
"""The simulated Franka insertion."""
PIXELS = "hirol_fixed_gripper_pixels"
"""The insertion with two wrist cameras, which needs OpenGL."""
_SIMULATORS = ("gymnasium", "gymnasium_robotics", "metaworld", "gym_hil")
"""Packages of simulated tasks only."""


def make(exp_name: str, environment_options: Mapping[str, Any] | None = None) -> gymnasium.Env:
    """An environment with flat float32 states, perhaps cameras, actions in [-1, 1]^A, and a time limit.

    Observations: the flat state (k x S,); with cameras a dict of `state` and, by camera, uint8 (k, height, width, 3);
    k: see `ObservationHorizon`. `info["success"]`: see `SuccessInfo`.

    Args:
        exp_name: one of the names here, "hirol_robot" (HIL-SERL's server), a task of Gymnasium-Robotics, Metaworld
            ("metaworld/door-open-v3") or gym-hil ("gym_hil/PandaPickCube-v0"), or any Gymnasium id ("package:Id"
            imports the package).
        environment_options: `observation_horizon` (default 1); `success_key`, success in `info` and data files
            (default: `SUCCESS_KEYS`). Simulated robot: `difficulty` and fields of `PixelInsertionOptions`. Robot:
            fields of `RobotOptions`. Others: `max_episode_steps`, `success_reward` (use `SuccessReward`; default:
            Metaworld alone), the task's keyword arguments (see `make_metaworld`).

    Raises:
        ExperimentError: no such environment or package, or unfit spaces.
        RobotError: the robot's server can't be reached.
        ParameterError: an option is wrong.
    """
    given = dict(environment_options or {})
    horizon = check("observation_horizon", given.pop("observation_horizon", 1), int, {"minimum": 1})
    success_key = check("success_key", given.pop("success_key", None), str | None)
    environment = FiniteNumbers(_task(exp_name, given, success_key), exp_name)
    has_cameras = isinstance(environment.observation_space, gymnasium.spaces.Dict)
    return ObservationHorizon(environment, horizon) if has_cameras or horizon > 1 else environment


def is_simulation(environment: gymnasium.Env) -> bool:
    """Whether a task is known to be simulated, so that an episode can be repeated."""
    task = environment.unwrapped
    return isinstance(task, InsertionEnv) or type(task).__module__.partition(".")[0] in _SIMULATORS


def _task(exp_name: str, given: dict[str, Any], success_key: str | None) -> gymnasium.Env:
    if exp_name == INSERTION:
        options = insertion_options(given, InsertionOptions)
        return TimeLimit(InsertionEnv(options), options.max_episode_steps)
    if exp_name == PIXELS:
        with_cameras = insertion_options(given, PixelInsertionOptions)
        robot = WristCameras(InsertionEnv(with_cameras), with_cameras)
        return TimeLimit(robot, with_cameras.max_episode_steps)
    if exp_name == ROBOT:
        # Imported by name, since the robot's package imports this one.
        return import_module("wsrl_kit.robot.environment").make_robot(given)
    success_reward = check("success_reward", given.pop("success_reward", exp_name.startswith(METAWORLD)), bool)
    if "max_episode_steps" in given:
        check("max_episode_steps", given["max_episode_steps"], int, {"minimum": 1})
    environment = _gymnasium_environment(exp_name, given)
    if environment.spec is None or environment.spec.max_episode_steps is None:
        environment = TimeLimit(environment, DEFAULT_TIME_LIMIT)
    flat = flatten(environment, exp_name, success_key)
    return SuccessReward(flat, exp_name) if success_reward else flat


def _gymnasium_environment(exp_name: str, given: dict[str, Any]) -> gymnasium.Env:
    register_like(exp_name)
    try:
        return gymnasium.make(exp_name, disable_env_checker=True, **given)
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        reason = str(error).partition(". ")[0]
        raise ExperimentError(f"exp_name {exp_name!r} needs a package that is not installed: {reason}") from error
    except gymnasium.error.Error as error:
        register_all_installed()
        names = [INSERTION, PIXELS, ROBOT, *gymnasium.registry]
        nearest = ", ".join(get_close_matches(exp_name, names, n=3, cutoff=0.0))
        raise ExperimentError(
            f"exp_name must be {INSERTION!r}, {PIXELS!r}, {ROBOT!r} or a Gymnasium id ('package:Id' imports a package "
            f"first), found {exp_name!r}; the nearest are {nearest}"
        ) from error
    except TypeError as error:
        raise ParameterError(f"environment_options do not fit {exp_name!r}: {error}") from error
