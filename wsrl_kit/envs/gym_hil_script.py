"""The scripted operator of gym-hil's PandaPickCube."""

import numpy as np
from jaxtyping import Float, Float32

from wsrl_kit.envs.script import Script

# The observation: joint positions (7) and speeds (7), gripper command (0 to 255), position of the fingertips (3), m,
# and of the cube (3), m.
_GRIPPER, _FINGERTIPS, _CUBE = 14, slice(15, 18), slice(18, 21)
_GAIN = 40.0
"""Action for an error of 1 m; an action of 1 moves the target of the hand by 2.5 cm."""
_OPEN, _CLOSE, _CLOSED = -1.0, 1.0, 200.0
_ABOVE = np.array([0.0, 0.0, 0.08])
"""From the cube's centre to where the open gripper is clear of it, m."""
_LIFT = np.array([0.0, 0.0, 0.2])


def _pick_cube(observation: Float32[np.ndarray, "21"], error: Float[np.ndarray, "3"]) -> Float[np.ndarray, "4"]:
    """Go over the cube with the gripper open, go down, close, and lift."""
    offset = observation[_CUBE] + error - observation[_FINGERTIPS]
    over = np.linalg.norm(offset[:2]) < 0.01
    if over and abs(offset[2]) < 0.015:
        return np.append(_GAIN * (offset + _LIFT if observation[_GRIPPER] > _CLOSED else offset), _CLOSE)
    return np.append(_GAIN * (offset if over else offset + _ABOVE), _OPEN)


def _fingertips(observation: Float32[np.ndarray, "21"]) -> Float[np.ndarray, "3"]:
    return observation[_FINGERTIPS]


PICK_CUBE = Script(
    _fingertips, _pick_cube, expert_noise=0.1, suboptimal_noise=0.5, suboptimal_error=(0.012, 0.012, 0.008)
)
