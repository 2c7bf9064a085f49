"""Poses, the safety box, and the two conventions of a policy's states and actions.

A pose is x, y, z (m) and a unit quaternion (x, y, z, w) of either sign. Euler angles (rad) turn about the fixed axes x,
then y, then z (SciPy's "xyz").
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Float64
from scipy.spatial.transform import Rotation

from wsrl_kit.robot.client import RobotState


def rotation_of(pose: Float[np.ndarray, "7"]) -> Rotation:
    """A pose's rotation."""
    return Rotation.from_quat(pose[3:])


def from_xyz_euler(place: Sequence[float] | Float[np.ndarray, "6"]) -> Float64[np.ndarray, "7"]:
    """The pose at x, y, z (m) and Euler angles (rad)."""
    numbers = np.array(place, np.float64)
    return np.concatenate([numbers[:3], Rotation.from_euler("xyz", numbers[3:]).as_quat()])


def to_xyz_euler(pose: Float[np.ndarray, "7"]) -> Float64[np.ndarray, "6"]:
    """x, y, z (m) and Euler angles (rad; the middle one in [-pi/2, pi/2])."""
    return np.concatenate([pose[:3], rotation_of(pose).as_euler("xyz")])


def interpolate(start: Float[np.ndarray, "7"], goal: Float[np.ndarray, "7"], share: float) -> Float64[np.ndarray, "7"]:
    """The pose at `share` of the straight way, with the shorter turn."""
    first = rotation_of(start)
    turn = (first.inv() * rotation_of(goal)).as_rotvec()
    rotation = first * Rotation.from_rotvec(share * turn)
    return np.concatenate([start[:3] + share * (goal[:3] - start[:3]), rotation.as_quat()])


def pose_distance(pose: Float[np.ndarray, "7"], other: Float[np.ndarray, "7"]) -> tuple[float, float]:
    """Distance, m, and angle, rad, between two poses."""
    turn = rotation_of(pose).inv() * rotation_of(other)
    return float(np.linalg.norm(pose[:3] - other[:3])), float(turn.magnitude())


def is_reached(pose: Float[np.ndarray, "7"], target: Sequence[float], threshold: Sequence[float]) -> bool:
    """HIL-SERL's success: every coordinate of the difference (m, Euler angles) is below its threshold."""
    goal = from_xyz_euler(target)
    turn = rotation_of(pose).inv() * rotation_of(goal)
    return bool((np.abs(np.append(pose[:3] - goal[:3], turn.as_euler("xyz"))) < threshold).all())


class SafetyBox:
    """Limits of x, y, z and Euler angles in the robot's base frame, as HIL-SERL states them.

    Angles count from the middle of their limits, between -pi and pi: rolls of pi (the tool points down) and -pi are the
    same.
    """

    def __init__(self, low: Sequence[float], high: Sequence[float]) -> None:
        lower, upper = np.array(low, np.float64), np.array(high, np.float64)
        self._middle, self._half = (lower + upper) / 2, (upper - lower) / 2

    def unwind(self, place: Sequence[float]) -> Float64[np.ndarray, "6"]:
        """The place with angles within half a turn of their middle."""
        position, angles = np.array(place[:3], np.float64), np.array(place[3:], np.float64)
        if abs(angles[1]) > np.pi / 2:
            # Every rotation has two triples of angles; only one has its middle angle in this range.
            angles = Rotation.from_euler("xyz", angles).as_euler("xyz")
        turns = np.round((angles - self._middle[3:]) / (2 * np.pi))
        return np.concatenate([position, angles - 2 * np.pi * turns])

    def clip(self, pose: Float[np.ndarray, "7"]) -> Float64[np.ndarray, "7"]:
        return from_xyz_euler(self._middle + np.clip(self._offsets(pose), -self._half, self._half))

    def excess(self, pose: Float[np.ndarray, "7"]) -> tuple[float, float]:
        """Largest distance, m, and angle, rad, outside; 0 inside."""
        beyond = np.maximum(np.abs(self._offsets(pose)) - self._half, 0.0)
        return float(beyond[:3].max()), float(beyond[3:].max())

    def _offsets(self, pose: Float[np.ndarray, "7"]) -> Float64[np.ndarray, "6"]:
        offsets = to_xyz_euler(pose) - self._middle
        offsets[3:] = (offsets[3:] + np.pi) % (2 * np.pi) - np.pi
        return offsets


TOOL_DOWN = Rotation.from_quat([1.0, 0.0, 0.0, 0.0])
"""From the peg's upright frame to the tool's: pi about x."""
TO_UPRIGHT = np.array([1.0, -1.0, -1.0])
"""`TOOL_DOWN` as factors of a vector, or of Euler angles."""


@runtime_checkable
class Convention(Protocol):
    """The meaning of states and actions.

    A state is gripper_pose 1, tcp_force 3, tcp_pose 6 (from the reset's), tcp_torque 3, tcp_vel 6.
    """

    def state(self, reading: RobotState, reset_pose: Float[np.ndarray, "7"]) -> Float32[np.ndarray, "19"]:
        """A policy's state."""

    def base_action(self, action: Float[np.ndarray, "6"], pose: Float[np.ndarray, "7"]) -> Float64[np.ndarray, "6"]:
        """An action along the base's axes, in [-1, 1]."""


class KitConvention:
    """The convention of `hirol_fixed_gripper_pixels`, for policies warmed up in simulation.

    tcp_pose is in the reset's upright frame; velocities and actions are along the base's axes; force and torque are the
    hand's on the peg, in the upright frame. `low` and `high` clip the state.
    """

    def __init__(self, low: Float32[np.ndarray, "19"], high: Float32[np.ndarray, "19"]) -> None:
        self._low, self._high = low, high

    def state(self, reading: RobotState, reset_pose: Float[np.ndarray, "7"]) -> Float32[np.ndarray, "19"]:
        pose = np.tile(TO_UPRIGHT, 2) * _relative(reset_pose, reading.pose)
        # The sensor reports the force on the tool, the simulation the force on the peg: minus that.
        force, torque = -TO_UPRIGHT * reading.force, -TO_UPRIGHT * reading.torque
        state = np.concatenate([[reading.gripper_position], force, pose, torque, reading.velocity])
        return np.clip(state.astype(np.float32), self._low, self._high)

    def base_action(self, action: Float[np.ndarray, "6"], pose: Float[np.ndarray, "7"]) -> Float64[np.ndarray, "6"]:
        return np.clip(action, -1.0, 1.0).astype(np.float64)


class HilSerlConvention:
    """Upstream's convention (RelativeFrame, then Quat2EulerWrapper), for its demonstrations and policies.

    tcp_pose is in the reset's tool frame; force and torque are the server's. Velocities and actions go through the
    adjoint matrix of the tool's pose, [[R, 0], [[p] R, R]], which upstream applies to vectors with the translation
    first: a translation also turns. No bounds.
    """

    def state(self, reading: RobotState, reset_pose: Float[np.ndarray, "7"]) -> Float32[np.ndarray, "19"]:
        pose = _relative(reset_pose, reading.pose)
        linear, angular = reading.velocity[:3], reading.velocity[3:]
        axes = np.stack([linear, angular - np.cross(reading.pose[:3], linear)])
        velocity = rotation_of(reading.pose).apply(axes, inverse=True).reshape(-1)
        state = np.concatenate([[reading.gripper_position], reading.force, pose, reading.torque, velocity])
        return state.astype(np.float32)

    def base_action(self, action: Float[np.ndarray, "6"], pose: Float[np.ndarray, "7"]) -> Float64[np.ndarray, "6"]:
        translation, turn = rotation_of(pose).apply(action.reshape(2, 3))
        return np.clip(np.concatenate([translation, np.cross(pose[:3], translation) + turn]), -1.0, 1.0)


def _relative(frame: Float[np.ndarray, "7"], pose: Float[np.ndarray, "7"]) -> Float64[np.ndarray, "6"]:
    """`pose` as seen from `frame`: position, m, and Euler angles, rad."""
    back = rotation_of(frame).inv()
    return np.concatenate([back.apply(pose[:3] - frame[:3]), (back * rotation_of(pose)).as_euler("xyz")])
