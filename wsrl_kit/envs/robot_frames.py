"""Two conventions for what a policy sees and commands, both from the robot server's base frame.

"kit" is that of `hirol_fixed_gripper_pixels`, so that a policy warmed up in simulation acts on the robot:
    the tool's frame is turned by pi about x, which makes it upright (z along the peg, away from the tip);
    tcp_pose is relative to that frame at the reset; tcp_vel and the actions are along the base's axes; tcp_force and
    tcp_torque are what the hand puts on the peg, in the upright frame; all is clipped to the simulation's bounds.
"hil_serl" is upstream's (RelativeFrame, then Quat2EulerWrapper), so that its demonstrations and policies fit:
    tcp_pose is relative to the tool's frame at the reset; tcp_vel and the actions are taken through the adjoint matrix
    of the tool's pose, in which, as upstream has it, a translation also turns; force and torque are as the server says.

Either way the state is gripper_pose 1, tcp_force 3, tcp_pose 6 (m, Euler angles), tcp_torque 3, tcp_vel 6.
"""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Float64

from wsrl_kit.envs.robot_client import RobotState
from wsrl_kit.envs.rotations import euler_of, matrix_of_quaternion

TOOL_DOWN = np.diag([1.0, -1.0, -1.0])
"""From the upright frame of the peg to the robot's tool, whose z axis points along the peg: pi about x."""
_ONTO_THE_PEG = np.array([-1.0, 1.0, 1.0])
"""-TOOL_DOWN: from a force on the tool, in its frame, to one on the peg, in the upright frame."""


@runtime_checkable
class Frames(Protocol):
    """How a policy's states and actions lie against the robot's base."""

    def state(self, reading: RobotState, reset_pose: Float[np.ndarray, "7"]) -> Float32[np.ndarray, "19"]:
        """The state that a policy sees."""

    def base_action(self, action: Float[np.ndarray, "6"], pose: Float[np.ndarray, "7"]) -> Float64[np.ndarray, "6"]:
        """A policy's action along the base's axes, in [-1, 1] again."""


class KitFrames:
    """The convention of the simulated experiments.

    Args:
        low: bounds that the state is clipped to.
        high: the same, above.
    """

    def __init__(self, low: Float32[np.ndarray, "19"], high: Float32[np.ndarray, "19"]) -> None:
        self._low, self._high = low, high

    def state(self, reading: RobotState, reset_pose: Float[np.ndarray, "7"]) -> Float32[np.ndarray, "19"]:
        pose = _relative(reset_pose, reading.pose, TOOL_DOWN.T)
        force, torque = _ONTO_THE_PEG * reading.force, _ONTO_THE_PEG * reading.torque
        state = np.concatenate([[reading.gripper_position], force, pose, torque, reading.velocity])
        return np.clip(state.astype(np.float32), self._low, self._high)

    def base_action(self, action: Float[np.ndarray, "6"], pose: Float[np.ndarray, "7"]) -> Float64[np.ndarray, "6"]:
        return np.clip(action, -1.0, 1.0).astype(np.float64)


class HilSerlFrames:
    """Upstream's convention; its states have no bounds."""

    def state(self, reading: RobotState, reset_pose: Float[np.ndarray, "7"]) -> Float32[np.ndarray, "19"]:
        pose = _relative(reset_pose, reading.pose, np.eye(3))
        velocity = np.linalg.solve(_adjoint(reading.pose), reading.velocity)
        state = np.concatenate([[reading.gripper_position], reading.force, pose, reading.torque, velocity])
        return state.astype(np.float32)

    def base_action(self, action: Float[np.ndarray, "6"], pose: Float[np.ndarray, "7"]) -> Float64[np.ndarray, "6"]:
        return np.clip(_adjoint(pose) @ action, -1.0, 1.0)


def _relative(
    frame: Float[np.ndarray, "7"], pose: Float[np.ndarray, "7"], turn: Float[np.ndarray, "3 3"]
) -> Float64[np.ndarray, "6"]:
    """`pose` as seen from `frame`, both turned by `turn` in their own axes: position, m, and Euler angles, rad."""
    axes = matrix_of_quaternion(frame[3:]) @ turn
    rotation = axes.T @ matrix_of_quaternion(pose[3:]) @ turn
    return np.concatenate([axes.T @ (pose[:3] - frame[:3]), euler_of(rotation)])


def _adjoint(pose: Float[np.ndarray, "7"]) -> Float64[np.ndarray, "6 6"]:
    """[[R, 0], [[p] R, R]], as upstream applies it to velocities that have the translation first."""
    rotation = matrix_of_quaternion(pose[3:])
    x, y, z = pose[:3]
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.block([[rotation, np.zeros((3, 3))], [cross @ rotation, rotation]])
