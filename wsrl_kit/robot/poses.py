"""Poses: rotations, quaternions (x, y, z, w), Euler angles, the safety box, and the two conventions of a policy.

Euler angles are about the fixed axes x, then y, then z, rad (SciPy's "xyz"). A rotation vector points along the axis
and is as long as the angle, rad.

The two conventions say what a policy sees and commands, both from the robot server's base frame.
"kit" is that of `hirol_fixed_gripper_pixels`, so that a policy warmed up in simulation acts on the robot:
    the tool's frame is turned by pi about x, which makes it upright (z along the peg, away from the tip);
    tcp_pose is relative to that frame at the reset; tcp_vel and the actions are along the base's axes; tcp_force and
    tcp_torque are what the hand puts on the peg, in the upright frame; all is clipped to the simulation's bounds.
"hil_serl" is upstream's (RelativeFrame, then Quat2EulerWrapper), so that its demonstrations and policies fit:
    tcp_pose is relative to the tool's frame at the reset; tcp_vel and the actions are taken through the adjoint matrix
    of the tool's pose, in which, as upstream has it, a translation also turns; force and torque are as the server says.

Either way the state is gripper_pose 1, tcp_force 3, tcp_pose 6 (m, Euler angles), tcp_torque 3, tcp_vel 6.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Float64

from wsrl_kit.robot.client import RobotState


def matrix_of_quaternion(quaternion: Float[np.ndarray, "4"]) -> Float64[np.ndarray, "3 3"]:
    """The matrix of a quaternion (x, y, z, w) of any length but 0."""
    x, y, z, w = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion_of(matrix: Float[np.ndarray, "3 3"]) -> Float64[np.ndarray, "4"]:
    """The unit quaternion (x, y, z, w) of a matrix, of the two the one whose largest entry is positive."""
    # Row i of 4 q q^T, of which the row of the largest entry has nothing small to divide by (Shepperd's method).
    (a, b, c), (d, e, f), (g, h, i) = matrix
    rows = np.array(
        [
            [1 + a - e - i, b + d, c + g, h - f],
            [b + d, 1 - a + e - i, f + h, c - g],
            [c + g, f + h, 1 - a - e + i, d - b],
            [h - f, c - g, d - b, 1 + a + e + i],
        ]
    )
    row = rows[np.argmax(np.diag(rows))]
    return row / np.linalg.norm(row)


def matrix_of_euler(angles: Float[np.ndarray, "3"]) -> Float64[np.ndarray, "3 3"]:
    """The matrix that turns about the fixed axes x, then y, then z."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    return np.array(
        [
            [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
            [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
            [-sy, cy * sx, cy * cx],
        ]
    )


def euler_of(matrix: Float[np.ndarray, "3 3"]) -> Float64[np.ndarray, "3"]:
    """Euler angles of a matrix: x and z in [-pi, pi], y in [-pi/2, pi/2]."""
    return np.array(
        [
            np.arctan2(matrix[2, 1], matrix[2, 2]),
            np.arcsin(np.clip(-matrix[2, 0], -1.0, 1.0)),
            np.arctan2(matrix[1, 0], matrix[0, 0]),
        ]
    )


def matrix_of_vector(vector: Float[np.ndarray, "3"]) -> Float64[np.ndarray, "3 3"]:
    """The matrix of a rotation vector."""
    angle = np.linalg.norm(vector)
    # sin(angle / 2) / angle, which is 1/2 at 0.
    half = np.sinc(angle / (2 * np.pi)) / 2
    return matrix_of_quaternion(np.append(half * vector, np.cos(angle / 2)))


def vector_of(matrix: Float[np.ndarray, "3 3"]) -> Float64[np.ndarray, "3"]:
    """The rotation vector of a matrix, at most pi long."""
    quaternion = quaternion_of(matrix)
    axis, cosine = quaternion[:3], quaternion[3]
    if cosine < 0:
        axis, cosine = -axis, -cosine
    sine = np.linalg.norm(axis)
    return axis * (2.0 if sine < 1e-12 else 2 * np.arctan2(sine, cosine) / sine)


def turn_to(
    matrix: Float[np.ndarray, "3 3"], goal: Float[np.ndarray, "3 3"], share: float
) -> Float64[np.ndarray, "3 3"]:
    """What lies `share` (0 to 1) of the shortest way from one rotation to another."""
    return matrix @ matrix_of_vector(share * vector_of(matrix.T @ goal))


def pose_of(place: Sequence[float] | Float[np.ndarray, "6"]) -> Float64[np.ndarray, "7"]:
    """From x, y, z (m) and Euler angles xyz (rad) to x, y, z and a quaternion (x, y, z, w)."""
    numbers = np.array(place, np.float64)
    return np.concatenate([numbers[:3], quaternion_of(matrix_of_euler(numbers[3:]))])


def place_of(pose: Float[np.ndarray, "7"]) -> Float64[np.ndarray, "6"]:
    """From x, y, z (m) and a quaternion to x, y, z and Euler angles xyz (rad)."""
    return np.concatenate([pose[:3], euler_of(matrix_of_quaternion(pose[3:]))])


def between(start: Float[np.ndarray, "7"], goal: Float[np.ndarray, "7"], share: float) -> Float64[np.ndarray, "7"]:
    """The pose at `share` (0 to 1) of the straight way, with the shortest turn."""
    rotation = turn_to(matrix_of_quaternion(start[3:]), matrix_of_quaternion(goal[3:]), share)
    return np.concatenate([start[:3] + share * (goal[:3] - start[:3]), quaternion_of(rotation)])


def apart(pose: Float[np.ndarray, "7"], other: Float[np.ndarray, "7"]) -> tuple[float, float]:
    """Distance, m, and angle, rad, from one pose to another."""
    turn = matrix_of_quaternion(pose[3:]).T @ matrix_of_quaternion(other[3:])
    return float(np.linalg.norm(pose[:3] - other[:3])), float(np.linalg.norm(vector_of(turn)))


def reached(pose: Float[np.ndarray, "7"], target: Sequence[float], threshold: Sequence[float]) -> bool:
    """HIL-SERL's success: x, y, z, and the Euler angles of what is left to turn, each nearer than its threshold.

    Args:
        pose: measured.
        target: x, y, z, m, and Euler angles xyz, rad.
        threshold: six, m and rad.
    """
    goal = np.array(target)
    turn = matrix_of_quaternion(pose[3:]).T @ matrix_of_euler(goal[3:])
    return bool((np.abs(np.append(pose[:3] - goal[:3], euler_of(turn))) < threshold).all())


class SafetyBox:
    """Limits of x, y, z, m, and of the Euler angles xyz, rad, in the robot's base frame, as HIL-SERL states them.

    Each angle is measured from the middle of its limits and taken between -pi and pi, so that a roll around pi, where
    a tool that points downwards is, has no seam.

    Args:
        low: lower limits.
        high: upper limits, not below the lower.
    """

    def __init__(self, low: Sequence[float], high: Sequence[float]) -> None:
        lower, upper = np.array(low, np.float64), np.array(high, np.float64)
        self._middle, self._half = (lower + upper) / 2, (upper - lower) / 2

    def unwound(self, place: Sequence[float]) -> Float64[np.ndarray, "6"]:
        """The place, m and Euler angles, with each angle within half a turn of the middle of its limits."""
        position, angles = np.array(place[:3], np.float64), np.array(place[3:], np.float64)
        if abs(angles[1]) > np.pi / 2:
            # Every rotation has a second triple of angles, the middle one of which lies beyond.
            angles = euler_of(matrix_of_euler(angles))
        turns = np.round((angles - self._middle[3:]) / (2 * np.pi))
        return np.concatenate([position, angles - 2 * np.pi * turns])

    def clip(self, pose: Float[np.ndarray, "7"]) -> Float64[np.ndarray, "7"]:
        """The pose, m and quaternion, with every coordinate within its limits."""
        inside = self._middle + np.clip(self._offsets(pose), -self._half, self._half)
        return np.concatenate([inside[:3], quaternion_of(matrix_of_euler(inside[3:]))])

    def excess(self, pose: Float[np.ndarray, "7"]) -> tuple[float, float]:
        """How far the pose is outside: the largest distance along an axis, m, and the largest angle, rad; 0 inside."""
        beyond = np.maximum(np.abs(self._offsets(pose)) - self._half, 0.0)
        return float(beyond[:3].max()), float(beyond[3:].max())

    def _offsets(self, pose: Float[np.ndarray, "7"]) -> Float64[np.ndarray, "6"]:
        angles = euler_of(matrix_of_quaternion(pose[3:])) - self._middle[3:]
        return np.concatenate([pose[:3] - self._middle[:3], (angles + np.pi) % (2 * np.pi) - np.pi])


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
