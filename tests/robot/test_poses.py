"""Poses as HIL-SERL's configurations give them: the way between them, and when a target is reached."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsrl_kit.robot.client import RobotState
from wsrl_kit.robot.poses import (
    HilSerlConvention,
    KitConvention,
    SafetyBox,
    from_xyz_euler,
    interpolate,
    is_reached,
    pose_distance,
    rotation_of,
    to_xyz_euler,
)

angles = st.floats(-3.0, 3.0)


@given(st.tuples(angles, st.floats(-1.5, 1.5), angles))
@settings(max_examples=50, deadline=None)
def test_euler_angles_come_back(euler):
    place = [0.5, -0.1, 0.2, *euler]
    assert to_xyz_euler(from_xyz_euler(place)) == pytest.approx(place, abs=1e-9)


def test_the_way_between_poses_is_straight_and_takes_the_shorter_turn():
    start, goal = from_xyz_euler([0.0, 0.0, 0.0, 3.0, 0.0, 0.0]), from_xyz_euler([0.1, 0.2, -0.2, -3.0, 0.0, 0.0])
    assert pose_distance(start, goal) == pytest.approx((0.3, 2 * np.pi - 6))
    half = interpolate(start, goal, 0.5)
    assert half[:3] == pytest.approx([0.05, 0.1, -0.1])
    assert pose_distance(half, from_xyz_euler([0.05, 0.1, -0.1, np.pi, 0.0, 0.0]))[1] == pytest.approx(0, abs=1e-7)
    assert pose_distance(interpolate(start, goal, 1.0), goal) == pytest.approx((0, 0), abs=1e-7)


def test_a_target_is_reached_when_every_coordinate_is_nearer_than_its_threshold():
    target, threshold = (0.5, 0.0, 0.1, np.pi, 0.0, 0.0), (0.01, 0.01, 0.01, 0.1, 0.1, 0.2)
    assert is_reached(from_xyz_euler([0.509, -0.009, 0.1, -np.pi + 0.09, 0.0, 0.19]), target, threshold)
    for miss in (
        [0.511, 0, 0.1, np.pi, 0, 0],
        [0.5, 0, 0.1, np.pi, 0, 0.21],
        [0.5, 0, 0.1, np.pi - 0.11, 0, 0],
    ):
        assert not is_reached(from_xyz_euler(np.array(miss, float)), target, threshold)


def test_a_pose_outside_is_clipped_into_the_box_across_the_seam_of_the_roll():
    box = SafetyBox([0.4, -0.1, 0.1, np.pi - 0.2, -0.2, -0.2], [0.6, 0.1, 0.3, np.pi + 0.2, 0.2, 0.2])
    inside = from_xyz_euler([0.5, 0.0, 0.2, -np.pi + 0.1, 0.1, -0.1])
    assert box.excess(inside) == (0.0, 0.0) and pose_distance(box.clip(inside), inside) == pytest.approx(
        (0, 0), abs=1e-7
    )
    outside = from_xyz_euler([0.63, 0.0, 0.05, -np.pi + 0.3, 0.0, 0.0])
    assert box.excess(outside) == pytest.approx((0.05, 0.1))
    assert to_xyz_euler(box.clip(outside)) == pytest.approx([0.6, 0.0, 0.1, -np.pi + 0.2, 0.0, 0.0])


def test_the_conventions_are_upstreams_matrices_and_the_upright_frame():
    generator = np.random.default_rng(0)
    pose, reset = (from_xyz_euler(generator.uniform(-1, 1, 6)) for _ in range(2))
    reading = RobotState(pose, *(generator.normal(size=size) for size in (6, 3, 3)), 0.5)
    matrix, (x, y, z) = rotation_of(pose).as_matrix(), pose[:3]
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    adjoint = np.block([[matrix, np.zeros((3, 3))], [cross @ matrix, matrix]])
    action = generator.uniform(-0.2, 0.2, 6)
    hil_serl = HilSerlConvention()
    assert hil_serl.base_action(action, pose) == pytest.approx(np.clip(adjoint @ action, -1, 1), abs=1e-12)
    state = hil_serl.state(reading, reset)
    assert state[13:] == pytest.approx(np.linalg.solve(adjoint, reading.velocity), rel=1e-5, abs=1e-6)

    unbounded = np.full(19, np.inf, np.float32)
    down = np.diag([1.0, -1.0, -1.0])
    upright = rotation_of(reset).as_matrix() @ down
    seen = KitConvention(-unbounded, unbounded).state(reading, reset)
    assert seen[4:7] == pytest.approx(upright.T @ (pose[:3] - reset[:3]), abs=1e-6)
    turn = rotation_of(from_xyz_euler([0.0] * 3 + seen[7:10].tolist())).as_matrix()
    assert turn == pytest.approx(upright.T @ matrix @ down, abs=1e-6)
    assert seen[1:4] == pytest.approx(-down @ reading.force, abs=1e-6)
