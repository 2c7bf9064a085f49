"""Scripted operators of Gymnasium-Robotics' Fetch reach, push, and pick and place.

All are functions of the flat observation: achieved goal (3), desired goal (3), then the gripper's position (3), and
for the tasks with a cube the cube's position (3), its position from the gripper (3), the two fingers' positions (2),
and what no script needs. Lengths are in m.
"""

import numpy as np
from jaxtyping import Float, Float32

from wsrl_kit.envs.script import Script

_GOAL, _GRIPPER, _CUBE, _FINGERS = slice(3, 6), slice(6, 9), slice(9, 12), slice(15, 17)
_GAIN = 10.0
"""Action for an error of 1 m; an action of 1 moves the gripper's target by 5 cm."""
_OPEN, _CLOSE = 1.0, -1.0
_ABOVE = np.array([0.0, 0.0, 0.06])
"""From the cube's centre to where the gripper is clear of it."""


def _reach(observation: Float32[np.ndarray, "16"], error: Float[np.ndarray, "3"]) -> Float[np.ndarray, "4"]:
    return np.append(_GAIN * (observation[_GOAL] + error - observation[_GRIPPER]), 0.0)


def _push(observation: Float32[np.ndarray, "31"], error: Float[np.ndarray, "3"]) -> Float[np.ndarray, "4"]:
    """Go behind the cube as seen from the goal, over it if need be, and push it straight to the goal."""
    goal, gripper, cube = observation[_GOAL], observation[_GRIPPER], observation[_CUBE] + error
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
        aim = start if arrived else start + _ABOVE
        if low and not arrived:
            aim[:2] = gripper[:2]
    return np.append(_GAIN * (aim - gripper), 0.0)


def _pick_and_place(observation: Float32[np.ndarray, "31"], error: Float[np.ndarray, "3"]) -> Float[np.ndarray, "4"]:
    """Go over the cube with the gripper open, go down, close, and carry the cube to the goal."""
    goal, gripper, cube = observation[_GOAL], observation[_GRIPPER], observation[_CUBE] + error
    offset = cube - gripper
    if np.abs(offset).max() < 0.02:
        held = observation[_FINGERS].max() < 0.027
        return np.append(_GAIN * (goal - cube) if held else np.zeros(3), _CLOSE)
    over = np.abs(offset[:2]).max() < 0.01
    return np.append(_GAIN * (offset if over else offset + _ABOVE), _OPEN)


def _position(observation: Float32[np.ndarray, " observation"]) -> Float[np.ndarray, "3"]:
    return observation[_GRIPPER]


SCRIPTS = {
    "FetchReach": Script(
        _position, _reach, expert_noise=0.1, suboptimal_noise=0.5, suboptimal_error=(0.08, 0.08, 0.08)
    ),
    "FetchPush": Script(_position, _push, expert_noise=0.1, suboptimal_noise=0.5, suboptimal_error=(0.02, 0.02, 0.02)),
    "FetchPickAndPlace": Script(
        _position, _pick_and_place, expert_noise=0.1, suboptimal_noise=0.5, suboptimal_error=(0.02, 0.02, 0.02)
    ),
}
"""By the beginning of the task's name; FetchSlide, which needs a throw, has none."""
