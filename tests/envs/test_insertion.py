"""The simulated robot: physics, conventions, safety and options."""

import gymnasium
import jaxtyping
import mujoco
import numpy as np
import pytest

from wsrl_kit.envs.insertion import InsertionEnv
from wsrl_kit.envs.make import make
from wsrl_kit.envs.scripts import scripted_policy
from wsrl_kit.errors import ExperimentError, ParameterError

ROBOT = "hirol_fixed_gripper"
FORCE, POSE, VELOCITY = slice(1, 4), slice(4, 10), slice(13, 19)


@pytest.fixture
def robot() -> gymnasium.Env:
    return make(ROBOT)


def simulator(environment: gymnasium.Env) -> InsertionEnv:
    assert isinstance(environment.unwrapped, InsertionEnv)
    return environment.unwrapped


def action(**entries: float) -> np.ndarray:
    return np.array([entries.get(name, 0.0) for name in ("x", "y", "z", "rx", "ry", "rz")], np.float32)


def rollout(environment: gymnasium.Env, seed: int, steps: int) -> np.ndarray:
    observation, _ = environment.reset(seed=seed)
    observations = [observation]
    generator = np.random.default_rng(seed)
    for _ in range(steps):
        push = generator.uniform(-1.0, 1.0, 6).astype(np.float32) + action(z=-0.3)
        observations.append(environment.step(push)[0])
    return np.stack(observations)


def test_observations_are_nineteen_float32_within_finite_bounds(robot):
    space = robot.observation_space
    assert space.shape == (19,) and space.dtype == np.float32 and space.is_bounded()
    observation, _ = robot.reset(seed=0)
    assert space.contains(observation)
    # Normalising by these bounds must not squash a motion of centimetres.
    assert (space.high[POSE] - space.low[POSE] <= 0.4 + 1e-6).all()


@pytest.mark.parametrize("axis", range(6))
@pytest.mark.parametrize("sign", (-1, 1))
def test_each_action_moves_its_own_axis_of_the_pose(robot, axis, sign):
    before, _ = robot.reset(seed=3)
    push = np.zeros(6, np.float32)
    push[axis] = sign
    after, *_ = robot.step(push)
    scale = np.array([0.01] * 3 + [0.06] * 3)
    moved = (after[POSE] - before[POSE]) / scale
    assert 0.5 < sign * moved[axis] < 1.2
    assert np.abs(np.delete(moved, axis)).max() < 0.5


def test_velocity_is_the_rate_of_the_pose(robot):
    robot.reset(seed=0)
    observation, *_ = robot.step(action(x=-1.0, y=1.0, z=1.0))
    inside = simulator(robot)
    before = inside.data.site("tcp").xpos.copy()
    mujoco.mj_step(inside.model, inside.data)
    rate = (inside.data.site("tcp").xpos - before) / inside.model.opt.timestep
    assert observation[VELOCITY][:3] == pytest.approx(rate, abs=0.005)
    assert (np.abs(rate) > 0.01).all()


def test_force_reads_zero_in_free_space_and_the_spring_limit_on_the_rim(robot):
    robot.reset(seed=0)
    for _ in range(5):
        observation, *_ = robot.step(action())
    assert np.abs(observation[FORCE]).max() < 0.1
    for _ in range(12):
        observation, _, _, _, info = robot.step(action(z=-1.0))
    # 8 mm of spring error at 2000 N/m is the most that the controller presses with.
    assert observation[FORCE][2] == pytest.approx(-16.0, abs=1.0)
    assert info["contact_force"] == pytest.approx(16.0, abs=1.0)


def test_contact_force_is_the_peak_of_the_impact_not_the_value_at_the_end(robot):
    robot.reset(seed=0)
    peaks, ends = [], []
    for _ in range(12):
        observation, _, _, _, info = robot.step(action(z=-1.0))
        peaks.append(info["contact_force"])
        ends.append(-observation[FORCE][2])
    assert max(peaks) > 2 * 16.0
    assert all(peak >= end - 1.0 for peak, end in zip(peaks, ends, strict=True))


def test_safety_box_clips_the_command_and_says_so(robot):
    robot.reset(seed=0)
    observation, _, _, _, info = robot.step(action(x=1.0))
    assert info["safety_box_clipped"] is False
    for _ in range(12):
        observation, _, _, _, info = robot.step(action(x=1.0, rz=1.0))
    assert info["safety_box_clipped"] is True
    pose = simulator(robot).data.site("tcp").xpos
    assert pose[0] == pytest.approx(0.04, abs=0.001)
    assert observation[POSE][5] == pytest.approx(0.2, abs=0.01)


def test_an_action_beyond_its_range_is_clipped_and_one_that_is_not_finite_refused(robot):
    twin = make(ROBOT)
    robot.reset(seed=1)
    twin.reset(seed=1)
    assert np.array_equal(robot.step(action(x=1.0))[0], twin.step(action(x=7.0))[0])
    with pytest.raises(ExperimentError, match="finite"):
        robot.step(action(x=float("nan")))


def test_same_seed_and_actions_give_the_same_bits(robot):
    used = make(ROBOT)
    rollout(used, seed=11, steps=40)
    assert np.array_equal(rollout(robot, seed=5, steps=60), rollout(used, seed=5, steps=60))
    assert not np.array_equal(rollout(robot, seed=5, steps=1), rollout(robot, seed=6, steps=1))


def test_the_hole_moves_between_episodes_and_the_policy_can_not_see_it():
    fixed, moving = make(ROBOT, {"hole_offset": 0.0}), make(ROBOT, {"hole_offset": 0.003})
    positions = []
    for seed in range(20):
        assert np.array_equal(fixed.reset(seed=seed)[0], moving.reset(seed=seed)[0])
        assert not simulator(fixed).hole_position.any()
        positions.append(simulator(moving).hole_position)
    spread = np.abs(positions)
    assert spread[:, :2].max() <= 0.003 and (spread[:, :2].max(axis=0) > 0.002).all() and not spread[:, 2].any()


def test_reset_puts_the_upright_peg_within_its_range():
    environment = make(ROBOT, {"reset_range": 0.01, "reset_rotation": 0.02, "reset_height": 0.03})
    poses = np.stack([environment.reset(seed=seed)[0][POSE] for seed in range(30)])
    assert np.abs(poses[:, :2]).max() <= 0.01 + 1e-6 and np.abs(poses[:, :2]).max() > 0.008
    assert (np.abs(poses[:, 2] - 0.03) <= 0.01 + 1e-6).all()
    assert np.abs(poses[:, 3:5]).max() < 1e-6 and np.abs(poses[:, 5]).max() <= 0.02 + 1e-6


def test_time_limit_truncates_and_does_not_terminate():
    environment = make(ROBOT, {"max_episode_steps": 5})
    environment.reset(seed=0)
    ends = [environment.step(action())[2:4] for _ in range(5)]
    assert ends == [(False, False)] * 4 + [(False, True)]


def test_success_terminates_with_reward_one_when_the_tip_is_20_mm_deep(robot):
    observation, _ = robot.reset(seed=0)
    policy = scripted_policy("expert", robot, np.random.default_rng(0))
    terminated = truncated = False
    while not (terminated or truncated):
        observation, reward, terminated, truncated, info = robot.step(policy(observation))
        deep = bool(observation[POSE][2] < -0.02)
        assert (reward, terminated, info["success"]) == (float(deep), deep, deep)
    assert terminated and not truncated


def test_long_random_runs_stay_finite_within_limits_and_without_simulator_warnings(robot):
    inside = simulator(robot)
    limits = inside.model.jnt_range
    generator = np.random.default_rng(0)
    for seed in range(4):
        robot.reset(seed=seed)
        for _ in range(100):
            push = generator.uniform(-1.0, 1.0, 6).astype(np.float32) + action(z=-0.5)
            observation, *_ = robot.step(push)
            assert robot.observation_space.contains(observation) and np.isfinite(inside.data.qvel).all()
            assert (inside.data.qpos > limits[:, 0]).all() and (inside.data.qpos < limits[:, 1]).all()
    assert not any(warning.number for warning in inside.data.warning)


def test_peg_and_hole_hardly_penetrate(robot):
    inside = simulator(robot)
    deepest = []
    for seed in range(5):
        observation, _ = robot.reset(seed=seed)
        policy = scripted_policy("expert", robot, np.random.default_rng(seed))
        terminated = truncated = False
        while not (terminated or truncated):
            observation, _, terminated, truncated, _ = robot.step(policy(observation))
            deepest.append(max(0.0, *(-inside.data.contact.dist), 0.0))
    # A tenth of the clearance on average over the worst percent, and never half of it.
    assert np.percentile(deepest, 99) < 0.0001 and max(deepest) < 0.00025


@pytest.mark.parametrize(
    ("difficulty", "clearance", "hole_offset"),
    [("easy", 0.001, 0.0), ("default", 0.0005, 0.003), ("hard", 0.0003, 0.004)],
)
def test_difficulties_set_options_and_single_options_override_them(difficulty, clearance, hole_offset):
    options = simulator(make(ROBOT, {"difficulty": difficulty})).options
    assert (options.clearance, options.hole_offset) == (clearance, hole_offset)
    options = simulator(make(ROBOT, {"difficulty": difficulty, "clearance": 0.002})).options
    assert (options.clearance, options.hole_offset) == (0.002, hole_offset)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clearence": 0.001}, "clearance"),
        ({"clearance": -0.001}, r"clearance must be a float in \[0.0001, 0.005\], found -0.001"),
        ({"difficulty": "brutal"}, "difficulty must be one of 'easy', 'default', 'hard', found 'brutal'"),
        ({"difficulty": ["easy"]}, "difficulty must be one of"),
        ({"max_episode_steps": 0}, "max_episode_steps must be an int"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(options, message):
    with pytest.raises(ParameterError, match=message):
        make(ROBOT, options)


def test_an_option_of_the_wrong_type_is_refused_in_one_sentence():
    # The test run's own type checker would be faster than the user's message.
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ParameterError, match=r"hole_offset must be a float in \[0, 0.01\], found 'wide'"):
            make(ROBOT, {"hole_offset": "wide"})
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
