"""Scripted policies that produce data: an expert, a suboptimal operator, and uniformly random actions."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float32

from wsrl_kit.envs import fetch_script, gym_hil_script, insertion_script, metaworld_script
from wsrl_kit.envs.horizon import newest_state, observation_horizon
from wsrl_kit.envs.insertion import InsertionEnv
from wsrl_kit.envs.packages import METAWORLD
from wsrl_kit.envs.robot import RobotEnv
from wsrl_kit.envs.script import Script
from wsrl_kit.errors import ExperimentError

Policy = Callable[[Any], Float32[np.ndarray, " action"]]
"""An action from an observation as the environment gives it, with or without images."""


def scripted_policy(
    kind: str, environment: gymnasium.Env, generator: np.random.Generator, noise: float | None = None
) -> Policy:
    """The policy of one episode of `environment`, which has just been reset; all its randomness is `generator`'s.

    Args:
        kind: "expert" and "suboptimal" for a task that has a script (see `script_of`), "random" for every task.
        noise: standard deviation of the Gaussian noise on every entry of the action, in place of the kind's own.

    Raises:
        ExperimentError: there is no such script for this environment.
    """
    size = environment.action_space.shape
    if kind == "random":
        return lambda observation: generator.uniform(-1.0, 1.0, size).astype(np.float32)
    script = script_of(environment)
    if script is None or kind not in ("expert", "suboptimal"):
        raise ExperimentError(
            f"scripted data must be 'random', or 'expert' or 'suboptimal' of a task with a script (the simulated "
            f"robot, FetchReach, FetchPush, FetchPickAndPlace, Metaworld, PandaPickCube), found {kind!r} of "
            f"{environment.unwrapped}: for this task collect random episodes alone, and give your own demonstrations "
            f"as offline_data_path"
        )
    if kind == "expert":
        error, scale = np.zeros(len(script.suboptimal_error)), script.expert_noise
    else:
        limits = np.array(script.suboptimal_error)
        error, scale = generator.uniform(-limits, limits), script.suboptimal_noise
    scale = scale if noise is None else noise

    horizon = observation_horizon(environment)

    def policy(observation: Any) -> Float32[np.ndarray, " action"]:
        wish = script.controller(newest_state(observation, horizon), error)
        action = np.clip(wish, -1.0, 1.0) + generator.normal(0.0, scale, size)
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    return policy


def script_of(environment: gymnasium.Env) -> Script | None:
    """The script for the task of `environment` in the episode that has just begun; None where nobody has written one.

    There is none for the 24 joints and more of the Adroit hand: demonstrations of those tasks come from people (D4RL's
    and Minari's `human` and `expert` data), and are read from files.

    Raises:
        ExperimentError: it is a real robot, or options of the simulated one do not fit its script.
        RobotError: contact with it was lost.
    """
    task = environment.unwrapped
    name = "" if task.spec is None else task.spec.id
    if isinstance(task, InsertionEnv):
        return insertion_script.insertion(task)
    if isinstance(task, RobotEnv):
        return insertion_script.insertion_through_server(task)
    if name.startswith(METAWORLD):
        return metaworld_script.metaworld(name.removeprefix(METAWORLD))
    if name.startswith("gym_hil/PandaPickCube"):
        return gym_hil_script.PICK_CUBE
    return next((script for prefix, script in fetch_script.SCRIPTS.items() if name.startswith(prefix)), None)
