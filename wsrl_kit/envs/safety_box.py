"""The box that the robot's commands never leave."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64

from wsrl_kit.envs.rotations import euler_of, matrix_of_euler, matrix_of_quaternion, quaternion_of


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
