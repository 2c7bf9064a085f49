"""Poses with a quaternion, as HIL-SERL's server has them, and with Euler angles, as its configurations do."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64

from wsrl_kit.envs.rotations import (
    euler_of,
    matrix_of_euler,
    matrix_of_quaternion,
    quaternion_of,
    turn_to,
    vector_of,
)


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
