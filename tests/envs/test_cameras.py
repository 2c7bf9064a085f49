"""The insertion with wrist cameras: the same physics, pictures that show peg and hole, and OpenGL that is missing."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import gymnasium
import numpy as np
import pytest

from slow_cases import one_fast
from wsrl_kit.data.formats.hil_serl import write_hil_serl
from wsrl_kit.data.sources import load_sources
from wsrl_kit.envs.collect import collect
from wsrl_kit.envs.insertion import relative_pose
from wsrl_kit.envs.make import make
from wsrl_kit.errors import ParameterError

STATES, PIXELS = "hirol_fixed_gripper", "hirol_fixed_gripper_pixels"
CAMERAS = ("wrist_1", "wrist_2")
POSE = slice(4, 10)
DOWN = np.array([0.4, -0.3, -0.6, 0.0, 0.2, 0.5], np.float32)

pytestmark = pytest.mark.usefixtures("opengl")


@pytest.fixture
def robot() -> Iterator[gymnasium.Env]:
    environment = make(PIXELS)
    yield environment
    environment.close()


def images(observation: dict) -> np.ndarray:
    return np.stack([observation[camera][0] for camera in CAMERAS])


def rim_centre(image: np.ndarray) -> np.ndarray:
    """Row and column of the middle of the light frame around the hole; nothing else is as bright."""
    rows, columns = np.nonzero(image.min(axis=-1) > 170)
    assert len(rows) > 20
    return np.array([rows.min() + rows.max(), columns.min() + columns.max()]) / 2


def projected_hole(environment: gymnasium.Env, camera: str, size: int) -> np.ndarray:
    """Row and column where a pinhole camera sees the middle of the hole's mouth."""
    inside = environment.unwrapped
    pose, fovy = inside.data.camera(camera), inside.model.camera(camera).fovy[0]
    right, up, back = pose.xmat.reshape(3, 3).T @ (inside.hole_position - pose.xpos)
    pixels = size / 2 / np.tan(np.radians(fovy) / 2) / -back
    return np.array([size / 2 - up * pixels, size / 2 + right * pixels])


def test_physics_rewards_and_state_are_those_of_the_task_without_cameras():
    plain, seeing = make(STATES), make(PIXELS, {"relative_pose": False, "image_size": 16})
    for seed in (0, 1):
        assert np.array_equal(plain.reset(seed=seed)[0], seeing.reset(seed=seed)[0]["state"])
        generator = np.random.default_rng(seed)
        for _ in range(40):
            action = (generator.uniform(-1.0, 1.0, 6) - [0, 0, 0.4, 0, 0, 0]).astype(np.float32)
            state, *outcome = plain.step(action)
            observation, *seen_outcome = seeing.step(action)
            assert np.array_equal(state, observation["state"]) and outcome == seen_outcome
    seeing.close()


def test_the_state_tells_the_pose_from_where_the_episode_began(robot):
    plain = make(STATES)
    space = robot.observation_space["state"]
    for seed in range(3):
        first, state = plain.reset(seed=seed)[0], robot.reset(seed=seed)[0]["state"]
        assert state[POSE] == pytest.approx(np.zeros(6), abs=1e-6)
        for _ in range(15):
            absolute, relative = plain.step(DOWN)[0], robot.step(DOWN)[0]["state"]
            assert np.array_equal(np.delete(absolute, np.r_[POSE]), np.delete(relative, np.r_[POSE]))
            yaw = float(first[9])
            turned = np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]]) @ (absolute - first)[4:6]
            assert relative[4:6] == pytest.approx(turned, abs=1e-6)
            assert relative[6] == pytest.approx(absolute[6] - first[6], abs=1e-6)
            # At these small tilts the yaws differ, and nothing else, to the second order.
            assert relative[9] == pytest.approx(absolute[9] - yaw, abs=0.01)
            assert space.contains(relative)
        assert np.abs(relative[4:6]).min() > 0.01


def test_a_pose_seen_from_another_undoes_it():
    quarter = np.pi / 2
    frame, pose = np.array([1.0, 2.0, 3.0, 0.0, 0.0, quarter]), np.array([1.0, 3.0, 3.5, 0.0, 0.0, quarter])
    # One metre along y is one metre along the x of a frame turned left.
    assert relative_pose(frame, pose) == pytest.approx([1.0, 0.0, 0.5, 0.0, 0.0, 0.0], abs=1e-12)
    tilted = np.array([0.0, 0.0, 0.0, 0.1, 0.2, 0.3])
    assert relative_pose(np.zeros(6), tilted) == pytest.approx(tilted, abs=1e-12)
    assert relative_pose(tilted, tilted) == pytest.approx(np.zeros(6), abs=1e-12)


def test_both_cameras_show_the_hole_where_a_pinhole_camera_would(robot):
    for seed in range(6):
        observation, _ = robot.reset(seed=seed)
        for camera in CAMERAS:
            expected = projected_hole(robot, camera, 128)
            assert rim_centre(observation[camera][0]) == pytest.approx(expected, abs=2.5)
            assert (expected > 8).all() and (expected < 120).all()


def test_only_the_images_tell_where_the_hole_is():
    fixed, moved = make(PIXELS, {"hole_offset": 0.0}), make(PIXELS)
    ways = []
    for seed in range(5):
        (here, _), (there, _) = fixed.reset(seed=seed), moved.reset(seed=seed)
        assert np.array_equal(here["state"], there["state"])
        for camera in CAMERAS:
            way = projected_hole(moved, camera, 128) - projected_hole(fixed, camera, 128)
            assert rim_centre(there[camera][0]) - rim_centre(here[camera][0]) == pytest.approx(way, abs=1.5)
            ways.append(np.linalg.norm(way))
    # The default offset, up to 3 mm on each axis, is up to some pixels.
    assert max(ways) > 3
    fixed.close()
    moved.close()


def test_three_millimetres_change_what_both_cameras_see(robot):
    before = images(robot.reset(seed=0)[0])
    for _ in range(3):
        after = images(robot.step(np.array([0.1, 0, 0, 0, 0, 0], np.float32))[0])
    moved = robot.unwrapped.state[4] - make(STATES).reset(seed=0)[0][4]
    assert 0.001 < moved < 0.004
    changed = (np.abs(before.astype(int) - after).max(axis=-1) > 50).mean(axis=(1, 2))
    assert (changed > 0.005).all()
    assert (before[0] != before[1]).any(axis=-1).mean() > 0.2


def test_a_seed_and_actions_determine_every_pixel(robot):
    used = make(PIXELS)
    used.reset(seed=9)
    used.step(DOWN)
    for seed in (2, 3):
        first, again = robot.reset(seed=seed)[0], used.reset(seed=seed)[0]
        for _ in range(5):
            assert np.array_equal(images(first), images(again))
            first, again = robot.step(DOWN)[0], used.step(DOWN)[0]
    used.close()


def test_an_observation_stays_as_it_was_when_the_next_one_comes(robot):
    observation, _ = robot.reset(seed=0)
    kept = {key: value.copy() for key, value in observation.items()}
    robot.step(DOWN)
    assert all(np.array_equal(observation[key], kept[key]) for key in kept)


def test_threads_take_turns_in_drawing(robot):
    seen = [images(robot.reset(seed=1)[0])]
    # As when a notebook resets an environment and a background thread trains on it.
    worker = Thread(target=lambda: seen.append(images(robot.reset(seed=1)[0])))
    worker.start()
    worker.join()
    seen.append(images(robot.reset(seed=1)[0]))
    assert len(seen) == 3 and all(np.array_equal(seen[0], each) for each in seen)


def test_another_process_draws_the_same_and_ends_in_peace_without_closing(robot):
    code = f"""
import hashlib, numpy
from wsrl_kit.envs.make import make
environments = [make({PIXELS!r}) for _ in range(2)]
for environment in environments:
    observation, _ = environment.reset(seed=6)
    print(hashlib.sha256(observation["wrist_1"]).hexdigest())
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")
    expected = hashlib.sha256(robot.reset(seed=6)[0]["wrist_1"]).hexdigest()
    assert result.stdout.split() == [expected] * 2


def test_a_closed_environment_draws_again_after_a_reset(robot):
    before = images(robot.reset(seed=0)[0])
    robot.close()
    robot.close()
    assert np.array_equal(images(robot.reset(seed=0)[0]), before)


def test_images_come_in_the_size_asked_for_and_with_the_difficulties():
    environment = make(PIXELS, {"image_size": 48, "observation_horizon": 2, "difficulty": "hard"})
    observation, _ = environment.reset(seed=0)
    assert observation["wrist_2"].shape == (2, 48, 48, 3) and environment.unwrapped.options.clearance == 0.0003
    assert environment.observation_space.contains(observation)
    environment.close()
    with pytest.raises(ParameterError, match=r"image_size must be an int in \[16, 256\], found 12"):
        make(PIXELS, {"image_size": 12})
    with pytest.raises(ParameterError, match="no parameter named image_size"):
        make(STATES, {"image_size": 64})


def test_the_script_records_the_same_episodes_with_images():
    (seen,), (plain,) = (
        collect(name, options, "expert", episodes=1, seed=0)
        for name, options in ((PIXELS, {"image_size": 32}), (STATES, {}))
    )
    assert seen.success and np.array_equal(seen.actions, plain.actions) and np.array_equal(seen.rewards, plain.rewards)
    assert {camera: frames.shape for camera, frames in seen.images.items()} == {
        camera: (len(seen) + 1, 32, 32, 3) for camera in CAMERAS
    }
    assert not plain.images


def test_recorded_images_come_back_from_a_demo_file(tmp_path: Path):
    trajectories = collect(PIXELS, {"image_size": 16, "observation_horizon": 2}, "expert", episodes=2, seed=0)
    write_hil_serl(tmp_path / "demos.pkl", trajectories)
    loaded = load_sources(str(tmp_path / "demos.pkl")).trajectories()
    for ours, theirs in zip(trajectories, loaded, strict=True):
        assert np.array_equal(ours.observations, theirs.observations) and theirs.observation_horizon == 2
        assert all(np.array_equal(ours.images[camera], theirs.images[camera]) for camera in CAMERAS)


@pytest.mark.parametrize("backend", one_fast(("", "osmesa", "egl", "disabled")))
def test_without_opengl_one_sentence_names_the_package(tmp_path: Path, backend: str):
    # The loader takes the first file of the name, and these are no libraries.
    for name in ("EGL", "OSMesa"):
        for ending in ("", *(f".{version}" for version in range(10))):
            (tmp_path / f"lib{name}.so{ending}").write_text("no library")
    inherited = {name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    environment = inherited | {"LD_LIBRARY_PATH": str(tmp_path)} | ({"MUJOCO_GL": backend} if backend else {})
    code = f"from wsrl_kit.envs.make import make; make({STATES!r}).reset(); make({PIXELS!r}).reset()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    sentence = result.stderr.splitlines()[-1]
    tried = f"MUJOCO_GL={backend} does not give" if backend else "neither EGL nor OSMesa gives"
    assert f"ExperimentError: drawing camera images needs OpenGL, which {tried} here" in sentence
    assert "`apt-get install libosmesa6`" in sentence
