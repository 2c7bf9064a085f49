"""Rotations agree with SciPy's in every form, and poses with HIL-SERL's configurations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from wsrl_kit.robot.poses import (
    apart,
    between,
    euler_of,
    matrix_of_euler,
    matrix_of_quaternion,
    matrix_of_vector,
    pose_of,
    quaternion_of,
    reached,
    vector_of,
)

angles = st.floats(-3.0, 3.0)


@given(st.tuples(angles, st.floats(-1.5, 1.5), angles))
@settings(max_examples=100, deadline=None)
def test_every_form_is_scipys(euler):
    theirs = Rotation.from_euler("xyz", euler)
    matrix = theirs.as_matrix()
    assert matrix_of_euler(np.array(euler)) == pytest.approx(matrix, abs=1e-12)
    assert euler_of(matrix) == pytest.approx(theirs.as_euler("xyz"), abs=1e-9)
    assert matrix_of_quaternion(3 * theirs.as_quat()) == pytest.approx(matrix, abs=1e-12)
    assert quaternion_of(matrix) == pytest.approx(Rotation.from_matrix(matrix).as_quat(), abs=1e-12)
    assert matrix_of_vector(theirs.as_rotvec()) == pytest.approx(matrix, abs=1e-12)
    assert Rotation.from_rotvec(vector_of(matrix)).as_matrix() == pytest.approx(matrix, abs=1e-9)


def test_a_half_turn_and_no_turn_have_their_vectors():
    assert vector_of(np.eye(3)) == pytest.approx(np.zeros(3))
    assert np.abs(vector_of(np.diag([1.0, -1.0, -1.0]))) == pytest.approx([np.pi, 0, 0])


def test_the_way_between_poses_is_straight_and_takes_the_shorter_turn():
    start, goal = pose_of([0.0, 0.0, 0.0, 3.0, 0.0, 0.0]), pose_of([0.1, 0.2, -0.2, -3.0, 0.0, 0.0])
    assert apart(start, goal) == pytest.approx((0.3, 2 * np.pi - 6))
    half = between(start, goal, 0.5)
    assert half[:3] == pytest.approx([0.05, 0.1, -0.1])
    assert apart(half, pose_of([0.05, 0.1, -0.1, np.pi, 0.0, 0.0]))[1] == pytest.approx(0, abs=1e-7)
    assert apart(between(start, goal, 1.0), goal) == pytest.approx((0, 0), abs=1e-7)


def test_a_target_is_reached_when_every_coordinate_is_nearer_than_its_threshold():
    target, threshold = (0.5, 0.0, 0.1, np.pi, 0.0, 0.0), (0.01, 0.01, 0.01, 0.1, 0.1, 0.2)
    assert reached(pose_of([0.509, -0.009, 0.1, -np.pi + 0.09, 0.0, 0.19]), target, threshold)
    for miss in (
        [0.511, 0, 0.1, np.pi, 0, 0],
        [0.5, 0, 0.1, np.pi, 0, 0.21],
        [0.5, 0, 0.1, np.pi - 0.11, 0, 0],
    ):
        assert not reached(pose_of(np.array(miss)), target, threshold)
