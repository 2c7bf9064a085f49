"""Scripted policies: an expert, a suboptimal operator, and random actions. Lengths are in m."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float, Float32

from wsrl_kit.envs.insertion import ROTATION_SCALE, TRANSLATION_SCALE, InsertionEnv
from wsrl_kit.envs.tasks import METAWORLD
from wsrl_kit.envs.wrappers import newest_state, observation_horizon
from wsrl_kit.errors import ExperimentError

Controller = Callable[[Float32[np.ndarray, " observation"], Float[np.ndarray, " axes"]], Float[np.ndarray, " action"]]

Policy = Callable[[Any], Float32[np.ndarray, " action"]]
"""From an observation, with or without images, to an action."""


@dataclass(frozen=True)
class Script:
    """How an operator does a task, and how imprecise the suboptimal one is.

    Attributes:
        position: hand or tip from a state.
        controller: unclipped action from state and perception error.
        expert_noise: standard deviation, in units of the action.
        suboptimal_noise: likewise.
        suboptimal_error: half range of the perception error, drawn per episode.
    """

    position: Callable[[Float32[np.ndarray, " observation"]], Float[np.ndarray, "3"]]
    controller: Controller
    expert_noise: float
    suboptimal_noise: float
    suboptimal_error: tuple[float, ...]


def scripted_policy(
    kind: str, environment: gymnasium.Env, generator: np.random.Generator, noise: float | None = None
) -> Policy:
    """The policy for one episode of `environment`, which has just been reset.

    Args:
        kind: "random"; with a script "expert" and "suboptimal".
        noise: standard deviation of the action's Gaussian noise; None: the kind's.

    Raises:
        ExperimentError: there is no such script.
    """
    size = environment.action_space.shape
    if kind == "random":
        return lambda observation: np.asarray(generator.uniform(-1.0, 1.0, size), np.float32)
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
    """The script for the episode that has just begun, or None.

    Raises:
        ExperimentError: a real robot, or unfit options.
    """
    task = environment.unwrapped
    name = "" if task.spec is None else task.spec.id
    if isinstance(task, InsertionEnv):
        scales = (TRANSLATION_SCALE, ROTATION_SCALE)
        # A policy may see neither the true hole nor the pose in its frame: both come from the simulator.
        return insertion_script(lambda: task.state[4:10], lambda _: task.state[4:7], task.hole_position, scales)
    if hasattr(task, "script"):  # the robot behind a server
        return task.script()
    if name.startswith(METAWORLD):
        return _metaworld_script(name.removeprefix(METAWORLD))
    return next((script for prefix, script in _SCRIPTS.items() if name.startswith(prefix)), None)


# The insertion's script hovers at 4 mm until it is within 3 mm of the hole, then presses down with at most 6 N: on the
# rim that leaves so little friction that a correction of 1 mm still slides the peg.
_HOVER_HEIGHT, _ALIGNED, _PRESS, _INSIDE = 0.004, 0.003, 0.003, -0.002


def insertion_script(
    tip: Callable[[], Float[np.ndarray, "6"]],
    position: Callable[[Float32[np.ndarray, "19"]], Float[np.ndarray, "3"]],
    hole: Float[np.ndarray, "3"],
    scales: tuple[float, float],
) -> Script:
    """Centre the peg over the hole, keep it upright, and press it in.

    Args:
        tip: pose in the nominal hole's frame, m and small angles, rad.
        hole: position in the same frame.
        scales: m and rad per action of 1.
    """

    def controller(observation: Float32[np.ndarray, "19"], error: Float[np.ndarray, "2"]) -> Float[np.ndarray, "6"]:
        pose = tip()
        offset = hole[:2] + error - pose[:2]
        aligned = np.abs(offset).max() < _ALIGNED or pose[2] < _INSIDE
        down = -_PRESS if aligned else _HOVER_HEIGHT - pose[2]
        return np.concatenate([np.append(offset, down) / scales[0], -pose[3:] / scales[1]])

    return Script(position, controller, expert_noise=0.15, suboptimal_noise=0.3, suboptimal_error=(0.0025, 0.0025))


def _metaworld_script(task: str) -> Script:
    """Metaworld's own policy; the perception error shifts the hand."""
    from metaworld.policies import ENV_POLICY_MAP

    policy = ENV_POLICY_MAP[task]()

    def controller(observation: Float32[np.ndarray, "39"], error: Float[np.ndarray, "3"]) -> Float[np.ndarray, "4"]:
        # A copy, because the policies write into their argument.
        seen = observation.astype(np.float64)
        seen[:3] -= error
        with warnings.catch_warnings():
            # The policies warn that their actions exceed [-1, 1].
            warnings.simplefilter("ignore")
            return np.asarray(policy.get_action(seen), np.float64)

    return Script(
        lambda state: state[:3], controller, expert_noise=0.1, suboptimal_noise=0.5, suboptimal_error=(0.02, 0.02, 0.02)
    )


# Gymnasium-Robotics' Fetch tasks. The flat state: achieved goal (3), desired goal (3), gripper's position (3); with a
# cube also its position (3), its position from the gripper (3), the two fingers' positions (2), and more.
_GOAL, _FETCH_GRIPPER, _FETCH_CUBE, _FETCH_FINGERS = slice(3, 6), slice(6, 9), slice(9, 12), slice(15, 17)
_FETCH_GAIN = 10.0
"""Action per m of error; an action of 1 moves the gripper's target by 5 cm."""
_FETCH_OPEN, _FETCH_CLOSE = 1.0, -1.0
_FETCH_ABOVE = np.array([0.0, 0.0, 0.06])
"""From the cube's centre to where the gripper is clear of it."""


def _reach(state: Float32[np.ndarray, "16"], error: Float[np.ndarray, "3"]) -> Float[np.ndarray, "4"]:
    return np.append(_FETCH_GAIN * (state[_GOAL] + error - state[_FETCH_GRIPPER]), 0.0)


def _push(state: Float32[np.ndarray, "31"], error: Float[np.ndarray, "3"]) -> Float[np.ndarray, "4"]:
    """Go behind the cube as seen from the goal, over it if need be, and push."""
    goal, gripper, cube = state[_GOAL], state[_FETCH_GRIPPER], state[_FETCH_CUBE] + error
    way = (goal - cube)[:2]
    direction = way / max(np.linalg.norm(way), 1e-6)
    offset = (gripper - cube)[:2]
    behind = -offset @ direction
    beside = abs(offset[0] * direction[1] - offset[1] * direction[0])
    low = gripper[2] < cube[2] + 0.02
    if low and beside < 0.02 and behind > 0.0:
        aim = np.append(goal[:2] - 0.05 * direction, cube[2])
    else:
        start = np.append(cube[:2] - 0.08 * direction, cube[2])
        arrived = np.linalg.norm((gripper - start)[:2]) < 0.02
        aim = start if arrived else start + _FETCH_ABOVE
        if low and not arrived:
            aim[:2] = gripper[:2]
    return np.append(_FETCH_GAIN * (aim - gripper), 0.0)


def _pick_and_place(state: Float32[np.ndarray, "31"], error: Float[np.ndarray, "3"]) -> Float[np.ndarray, "4"]:
    """Go over the cube with an open gripper, go down, close, carry it to the goal."""
    goal, gripper, cube = state[_GOAL], state[_FETCH_GRIPPER], state[_FETCH_CUBE] + error
    offset = cube - gripper
    if np.abs(offset).max() < 0.02:
        held = state[_FETCH_FINGERS].max() < 0.027
        return np.append(_FETCH_GAIN * (goal - cube) if held else np.zeros(3), _FETCH_CLOSE)
    over = np.abs(offset[:2]).max() < 0.01
    return np.append(_FETCH_GAIN * (offset if over else offset + _FETCH_ABOVE), _FETCH_OPEN)


# gym-hil's PandaPickCube. The state: joint positions (7) and speeds (7), gripper command (0 to 255), position of the
# fingertips (3) and of the cube (3).
_PANDA_GRIPPER, _FINGERTIPS, _PANDA_CUBE = 14, slice(15, 18), slice(18, 21)
_PANDA_GAIN = 40.0
"""Action per m of error; an action of 1 moves the target of the hand by 2.5 cm."""
_PANDA_OPEN, _PANDA_CLOSE, _PANDA_CLOSED = -1.0, 1.0, 200.0
_PANDA_ABOVE = np.array([0.0, 0.0, 0.08])
_PANDA_LIFT = np.array([0.0, 0.0, 0.2])


def _pick_cube(state: Float32[np.ndarray, "21"], error: Float[np.ndarray, "3"]) -> Float[np.ndarray, "4"]:
    """Go over the cube with an open gripper, go down, close, lift."""
    offset = state[_PANDA_CUBE] + error - state[_FINGERTIPS]
    over = np.linalg.norm(offset[:2]) < 0.01
    if over and abs(offset[2]) < 0.015:
        aim = offset + _PANDA_LIFT if state[_PANDA_GRIPPER] > _PANDA_CLOSED else offset
        return np.append(_PANDA_GAIN * aim, _PANDA_CLOSE)
    return np.append(_PANDA_GAIN * (offset if over else offset + _PANDA_ABOVE), _PANDA_OPEN)


def _script(controller: Controller, hand: slice, *error: float) -> Script:
    return Script(lambda state: state[hand], controller, 0.1, 0.5, error)


_SCRIPTS = {
    "FetchReach": _script(_reach, _FETCH_GRIPPER, 0.08, 0.08, 0.08),
    "FetchPush": _script(_push, _FETCH_GRIPPER, 0.02, 0.02, 0.02),
    "FetchPickAndPlace": _script(_pick_and_place, _FETCH_GRIPPER, 0.02, 0.02, 0.02),
    "gym_hil/PandaPickCube": _script(_pick_cube, _FINGERTIPS, 0.012, 0.012, 0.008),
}
"""By prefix; FetchSlide, which needs a throw, and the Adroit hand have none."""
