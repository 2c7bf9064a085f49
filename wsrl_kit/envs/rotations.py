"""Rotations as matrices, quaternions (x, y, z, w), Euler angles and rotation vectors; the forms SciPy has, in NumPy.

Euler angles are about the fixed axes x, then y, then z, rad (SciPy's "xyz"). A rotation vector points along the axis
and is as long as the angle, rad.
"""

import numpy as np
from jaxtyping import Float, Float64


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
