"""A robot behind a server as an environment: what a policy sees, where it may go, and contact that is lost."""

import signal
import threading
import time
from collections.abc import Iterator

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from robot_samples import PIXELS, STATES, Faults, FaultyServer, driven, limits, move, post, served
from wsrl_kit.envs.insertion import InsertionEnv, relative_pose
from wsrl_kit.envs.make import make
from wsrl_kit.errors import ExperimentError, ParameterError, RobotError
from wsrl_kit.robot.control_clock import ControlClock
from wsrl_kit.robot.environment import preflight
from wsrl_kit.robot.server import RobotServer, simulated_arm
from wsrl_kit.robot.takeover import HumanTakeover, PersonInput

LOW, HIGH = np.array([0.46, -0.04, 0.12, -0.2, -0.2, -0.2]), np.array([0.54, 0.04, 0.21, 0.2, 0.2, 0.2])
"""The default safety box, angles from the tool pointing straight down."""
POSE = slice(4, 10)
STATE = mujoco.mjtState.mjSTATE_INTEGRATION
NAN = [float("nan")] * 3


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with served() as server:
        yield server


@pytest.fixture(scope="module")
def standing() -> Iterator[RobotServer]:
    with served() as server:
        yield server


def twin(server: RobotServer) -> InsertionEnv:
    """The simulated task of this process, in the state of the server's robot."""
    task = InsertionEnv()
    task.reset(seed=0)
    theirs = server.arm.task
    task.model.body("hole").pos[:] = theirs.hole_position
    state = np.empty(mujoco.mj_stateSize(task.model, STATE))
    mujoco.mj_getState(theirs.model, theirs.data, state, STATE)
    mujoco.mj_setState(task.model, task.data, state, STATE)
    mujoco.mj_forward(task.model, task.data)
    return task


def place(task: InsertionEnv) -> np.ndarray:
    pose = task.data.actuator_length[:6]
    return np.append(pose[:3], Rotation.from_rotvec(pose[3:]).as_euler("xyz"))


# A turn is composed onto the pose here, and added to its rotation vector there: equal to first order, and half the
# square of the box's 0.2 rad is 0.02. Down to the rim goes only what does not turn: a contact makes much of little.
@pytest.mark.parametrize(("turns", "tolerance"), [(0.0, (1e-5, 1e-5)), (1.0, (1e-3, 0.02))])
def test_a_policy_sees_through_the_server_what_it_sees_in_simulation(server, turns, tolerance):
    generator = np.random.default_rng(0)
    with driven(server, random_rz_range=0.05 * turns) as robot:
        robot.reset(seed=3)
        task = twin(server)
        first = place(task)
        worst, forces = np.zeros(19), []
        for step in range(30):
            action = (generator.uniform(-1, 1, 6) * [1, 1, 0.5, *[turns] * 3]).astype(np.float32)
            action[2] -= 0.0 if turns else 0.4
            seen, _, _, _, info = robot.step(action)
            expected, _, _, _, simulated = task.step(action)
            expected[POSE] = relative_pose(first, place(task))
            worst = np.maximum(worst, np.abs(seen - expected))
            assert info["success"] == simulated["success"]
            if turns == 0:
                # Forces of a contact follow from micrometres, which turns leave apart.
                assert seen == pytest.approx(expected, abs=2e-3), step
                forces.append(seen[3])
        assert worst[4:7].max() < tolerance[0] and worst[7:10].max() < tolerance[1]
        if turns == 0:
            assert min(forces) < -1, "the peg has pressed on something"


def test_its_spaces_are_those_of_the_simulated_task_with_cameras(standing):
    simulated = make(PIXELS).observation_space["state"]
    with driven(standing, random_xy_range=0.02, random_z_range=0.01, random_rz_range=0.05) as robot:
        assert robot.observation_space.low == pytest.approx(simulated.low, abs=1e-6)
        assert robot.observation_space.high == pytest.approx(simulated.high, abs=1e-6)
        assert robot.action_space.shape == (6,)
        for seed in range(3):
            assert robot.reset(seed=seed)[0] in robot.observation_space
            assert robot.step(robot.action_space.sample())[0] in robot.observation_space


@pytest.mark.usefixtures("opengl")
def test_the_cameras_of_a_simulated_server_are_among_the_observations():
    with served(exp_name=PIXELS, image_size=16) as server, driven(server, observation_horizon=2) as robot:
        observation, _ = robot.reset(seed=0)
        assert observation in robot.observation_space
        assert {name: value.shape for name, value in observation.items()} == {
            "state": (38,),
            "wrist_1": (2, 16, 16, 3),
            "wrist_2": (2, 16, 16, 3),
        }
        after, *_ = robot.step(move(z=-1.0))
        assert np.array_equal(after["wrist_1"][0], observation["wrist_1"][1])
        assert np.array_equal(after["wrist_2"][1], server.arm.images()["wrist_2"])
        assert any("camera wrist_1 gives 16x16x3" in fact for fact in preflight(robot))


extreme = st.tuples(*[st.sampled_from([-1.0, 1.0, 0.3, 50.0])] * 6)


@given(st.lists(extreme, min_size=1, max_size=15), st.integers(0, 100))
@settings(max_examples=8, deadline=None)
def test_no_sequence_of_actions_and_no_reset_leaves_the_safety_box(standing, actions, seed):
    standing.arm.new_episode(seed)
    standing.arm.commands.clear()
    with driven(standing, random_xy_range=0.05, random_z_range=0.05, random_rz_range=0.5) as robot:
        robot.reset(seed=seed)
        for action in actions:
            if robot.step(np.array(action, np.float32))[2]:
                break
        places = np.array([limits(pose) for pose in standing.arm.commands])
    assert len(places) > len(actions)
    assert (places > LOW - 1e-9).all() and (places < HIGH + 1e-9).all()


def test_a_robot_pushed_out_of_the_box_is_led_back_in_steps_no_longer_than_an_actions(server):
    with driven(server) as robot:
        robot.reset(seed=0)
        for _ in range(20):
            post(server, "pose", {"arr": [0.57, 0.0, 0.2, 1.0, 0.0, 0.0, 0.0]})
        robot.unwrapped.hold()
        assert server.arm.commands[-1][0] == pytest.approx(0.57, abs=1e-3)
        for _ in range(3):
            place = server.arm.state()["pose"][0]
            _, _, _, _, info = robot.step(move(1.0))
            command = server.arm.commands[-1][0]
            assert place - 0.0174 < command < place and command >= 0.54 and info["safety_box_clipped"]
        for _ in range(15):
            _, _, _, _, info = robot.step(move(-0.2))
        assert server.arm.state()["pose"][0] < 0.54 and not info["safety_box_clipped"]


def test_after_a_pause_a_step_begins_where_the_robot_has_come_to():
    with served(speed=20.0) as server, driven(server) as robot:
        robot.reset(seed=0)
        for _ in range(3):
            robot.step(move(1.0))
        seen = server.arm.commands[-1][0]
        time.sleep(0.1)  # 2 s of the robot
        place = server.arm.state()["pose"][0]
        _, _, _, _, info = robot.step(move(-1.0))
        assert seen - 0.004 < place
        assert server.arm.commands[-1][0] == pytest.approx(place - 0.01, abs=5e-4)
        assert info["contact_force"] == pytest.approx(np.linalg.norm(server.arm.state()["force"]), abs=5.0)


def test_a_reset_ends_near_its_pose_and_compliant_and_follows_the_seed(standing):
    with driven(standing, random_xy_range=0.02, random_rz_range=0.05) as robot:
        poses, holes = [], []
        for seed in (1, 2, 1):
            observation, _ = robot.reset(seed=seed)
            assert observation[POSE] == pytest.approx(np.zeros(6), abs=1e-6)
            poses.append(standing.arm.state()["pose"])
            holes.append(standing.arm.truth()["hole_position"])
        assert holes[0] == holes[2] != holes[1]
        assert poses[0] == pytest.approx(poses[2], abs=1e-3) and poses[0] != pytest.approx(poses[1], abs=1e-3)
        assert np.abs(np.array(poses)[:, :3] - [0.5, 0.0, 0.19]).max() < 0.021
        force = standing.arm.task.model.actuator_forcerange[:6]
        assert force == pytest.approx(np.outer([16] * 3 + [15] * 3, [-1, 1]))


def test_joints_are_reset_once_in_a_period(server):
    resets = []
    reset_joints = server.endpoints["jointreset"]
    server.endpoints["jointreset"] = lambda body: resets.append(body) or reset_joints(body)
    with driven(server, joint_reset_period=2) as robot:
        counts = []
        for _ in range(4):
            robot.reset()
            counts.append(len(resets))
    assert counts == [0, 1, 1, 2]


def test_joints_are_reset_to_a_target_and_a_server_that_goes_elsewhere_is_noticed(server):
    target = [0.1, 0.3, 0.0, -1.9, 0.0, 2.2, 0.7]
    # The robot's joints are seen only until it goes on to its start.
    reset_joints, joints, elsewhere = server.arm.reset_joints, [], []

    def reset(given=None):
        reset_joints(elsewhere or given)
        joints.append(server.arm.state()["q"])

    server.arm.reset_joints = reset
    with driven(server, joint_reset_period=1, reset_joint_target=target) as robot:
        robot.reset(seed=0)
        assert joints == [pytest.approx(target)]
        elsewhere += [0.0, *target[1:]]
        with pytest.raises(RobotError, match=r"ended 0.10 rad off: HIL-SERL's server .* told to hold"):
            robot.reset(seed=0)
    with (
        driven(server, joint_reset_period=1, reset_joint_target=target[:6]) as robot,
        pytest.raises(ParameterError, match=r"of the robot at http://.* which has 7, found 6"),
    ):
        robot.reset(seed=0)


def test_a_robot_that_presses_too_hard_holds_and_its_episode_has_failed(server):
    with driven(server, force_limit=40.0) as robot:
        robot.reset(seed=0)
        assert robot.step(move(z=-1.0))[2:4] == (False, False)
        server.set_faults(Faults(state={"force": [0.0, 30.0, 30.0]}, endpoints=("getstate",), count=1))
        commands, person = len(server.arm.commands), PersonInput()
        observation, reward, terminated, truncated, info = HumanTakeover(robot, person).step(move(z=-1.0))
        assert (reward, terminated, truncated) == (0.0, True, False)
        assert "force 42.4 of 40 N" in person.facts
        assert info["force_limited"] and info["contact_force"] == pytest.approx(np.hypot(30.0, 30.0))
        # Told to hold where it was measured, after the step's own command.
        assert observation[POSE][2] == pytest.approx(server.arm.commands[-1][2] - 0.19, abs=1e-3)
        assert len(server.arm.commands) == commands + 2
        robot.reset(seed=0)
        # Something in the way to the start.
        server.set_faults(Faults(state={"force": [0.0, 0.0, 50.0]}, endpoints=("getstate",)))
        with pytest.raises(RobotError, match=r"at most 40 N \(force_limit\) on its way .* told to hold where"):
            robot.reset(seed=0)


def test_a_policy_and_a_reset_move_no_faster_than_their_limits(server):
    with driven(server, reset_speed=[0.05, 0.5], action_scale=[0.004, 0.06]) as robot:
        robot.reset(seed=0)
        # The first eleven rise, before the simulation begins its episode elsewhere.
        way = np.array(server.arm.commands)[11:, :3]
        assert 0 < np.linalg.norm(np.diff(way, axis=0), axis=1).max() <= 0.005 + 1e-9
        before = np.array(server.arm.state()["pose"])
        robot.step(move(1.0, -1.0, 1.0))
        assert server.arm.commands[-1][:3] == pytest.approx([*(before[:3] + np.array([0.004, -0.004, 0.004]))])


def test_an_insertion_succeeds_and_a_time_limit_truncates(server):
    with driven(server, max_episode_steps=40) as robot:
        robot.reset(seed=0)
        for _ in range(40):
            truth = robot.unwrapped.client.truth()
            offset = np.array(truth["hole_position"][:2]) - truth["tip_pose"][:2]
            down = -0.3 if np.abs(offset).max() < 0.002 else 0.0
            _, reward, terminated, truncated, info = robot.step(move(*(offset / 0.01).clip(-1, 1), down))
            assert reward == info["success"] == terminated
            if terminated:
                break
        assert terminated and not truncated and server.arm.truth()["success"]
        robot.reset(seed=0)
        ends = [robot.step(move(z=0.1))[1:4] for _ in range(40)]
        assert ends[-1] == (0.0, False, True) and set(ends[:-1]) == {(0.0, False, False)}


def test_a_target_pose_is_a_success_and_a_real_robot_without_one_leaves_it_to_others(server):
    target = {"target_pose": [0.5, 0.0, 0.17, np.pi, 0.0, 0.0], "reward_threshold": [0.005] * 3 + [0.1] * 3}
    with driven(server, **target) as robot:
        robot.reset(seed=0)
        heights = []
        while not heights or heights[-1] > 0.175:
            _, reward, terminated, _, info = robot.step(move(z=-1.0))
            heights.append(server.arm.state()["pose"][2])
            assert reward == terminated == info["success"] == (heights[-1] < 0.175)
        assert len(heights) > 1
    del server.endpoints["sim/status"]
    with driven(server) as robot:
        robot.reset(seed=0)
        assert not robot.unwrapped.simulated
        _, reward, terminated, _, info = robot.step(move())
        assert (reward, terminated) == (0.0, False) and "success" not in info


def test_hil_serls_convention_moves_and_sees_along_the_tool(server):
    with driven(server, convention="hil_serl") as robot:
        robot.reset(seed=0)
        before = np.array(server.arm.state()["pose"][:3])
        # The tool's z axis points down, its y axis to -y. Upstream's adjoint matrix turns where it translates: undone.
        for _ in range(3):
            state, *_ = robot.step(move(0.0, 0.5, 0.5))
        moved = server.arm.state()["pose"][:3] - before
        assert moved[1] < -0.005 and moved[2] < -0.005
        assert state[POSE][:3] == pytest.approx([moved[0], -moved[1], -moved[2]], abs=1e-3)
        assert np.isinf(robot.observation_space.high).all()


def test_a_seventh_action_moves_the_gripper_and_lets_it_rest(server):
    infos = []

    def step(wish):
        observation, _, _, _, info = robot.step(np.append(move(), np.float32(wish)))
        infos.append(info)
        return observation[0]

    with driven(server, gripper=True) as robot:
        robot.reset(seed=0)
        assert robot.action_space.shape == (7,)
        assert step(0.4) == 0.0 and step(0.6) == 1.0
        rests = [step(-1.0) for _ in range(6)]
        assert rests == [1.0] * 5 + [0.0]
    # Opened once and closed once, each at a price.
    assert [told["gripper_moved"] for told in infos] == [0, 1, *[0] * 5, -1]
    assert [told["grasp_penalty"] for told in infos] == [0, -0.02, *[0] * 5, -0.02]


@pytest.mark.parametrize(
    ("faults", "sentence"),
    [
        ({"silent": True}, "must answer within 0.4 s"),
        ({"latency": 0.8}, "must answer within 0.4 s"),
        ({"status": 500}, "must answer with status 200, found 500"),
        ({"state": {"vel": [*NAN, *NAN]}}, "must give finite numbers, found velocity"),
        ({"state": {"force": [0.0, 0.0, 1e39]}}, "must give finite numbers, found force"),
        ({"state": {"vel": [1e300] * 6}}, "must give finite numbers, found velocity"),
        ({"state": {"gripper_pos": 1e30}}, "must give finite numbers, found gripper_position"),
        ({"state": {"vel": ["0"] * 6}}, "must give vel as 6 numbers, found"),
        ({"state": {"pose": [0.7, 0.0, 0.2, 1, 0, 0, 0]}}, "found one 0.160 m and 0.00 rad outside"),
        ({"state": {"pose": [0.5, 0.0, 0.2, 0, 0, 0, 0]}}, "a quaternion of length 1"),
    ],
)
def test_when_contact_is_lost_the_robot_holds_and_the_episode_can_go_on(server, faults, sentence):
    with driven(server, deadline=0.4) as robot:
        robot.reset(seed=0)
        robot.step(move(z=-1.0))
        last = server.arm.state()["pose"]
        server.set_faults(Faults(**faults, endpoints=("getstate",)))
        with pytest.raises(RobotError, match=sentence) as lost:
            robot.step(move(z=-1.0))
        assert str(lost.value).startswith(server.url)
        assert str(lost.value).endswith("it was told to hold where it was last seen")
        assert server.arm.commands[-1] == last
        with pytest.raises(RobotError, match="there is no contact with the robot"):
            robot.step(move())
        with pytest.raises(RobotError, match=sentence):
            robot.unwrapped.reconnect()
        server.set_faults(Faults())
        robot.unwrapped.reconnect()
        observation, _, _, _, info = robot.step(move(z=-1.0))
        assert np.isfinite(observation).all() and observation[6] < -0.005 and info["overruns"] == 0


@pytest.mark.parametrize("state", [{"force": NAN}, {"pose": [9.0, 0.0, 0.2, 1, 0, 0, 0]}])
def test_one_reading_that_makes_no_sense_is_never_seen(server, state):
    with driven(server) as robot:
        robot.reset(seed=0)
        server.set_faults(Faults(state=state, endpoints=("getstate",), count=1))
        observation, *_ = robot.step(move())
        assert np.abs(observation).max() < 0.1


def test_a_simulation_that_is_none_any_more_is_lost_contact(server):
    with driven(server) as robot:
        robot.reset(seed=0)
        last = server.arm.state()["pose"]
        status = server.endpoints.pop("sim/status")
        with pytest.raises(RobotError, match="must be a simulated one still.*it was told to hold"):
            robot.step(move())
        assert server.arm.commands[-1] != last, "held where it was after the step"
        server.endpoints["sim/status"] = status
        robot.unwrapped.reconnect()
        assert robot.step(move())[4]["success"] is False


def test_an_interrupt_in_a_step_has_the_robot_hold(server):
    with driven(server) as robot:
        robot.reset(seed=0)
        last = server.arm.state()["pose"]
        server.set_faults(Faults(latency=0.5, endpoints=("getstate",)))
        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        try:
            with pytest.raises(KeyboardInterrupt):
                robot.step(move(z=-1.0))
        finally:
            signal.signal(signal.SIGALRM, before)
        assert server.arm.commands[-1] == last != server.arm.commands[-2]


def test_a_robot_that_does_not_hear_is_given_up_in_time_and_the_first_error_stays(server):
    with driven(server, deadline=0.2, retries=0) as robot:
        robot.reset(seed=0)
        server.set_faults(Faults(silent=True))
        begun = time.monotonic()
        with pytest.raises(RobotError, match="/pose must answer within 0.2 s.*nor could it be told to hold"):
            robot.step(move())
        assert time.monotonic() - begun < 1.5


def test_no_way_leads_from_where_no_arm_can_be(server):
    with driven(server) as robot:
        server.set_faults(Faults(state={"pose": [1e5, 0.0, 0.2, 1, 0, 0, 0]}))
        with pytest.raises(RobotError, match="must give a pose within 5 m and 3.14 rad of the safety box"):
            robot.reset(seed=0)
        assert not server.arm.commands


@pytest.mark.parametrize("angles", [(-np.pi, 0.0, 0.0), (3 * np.pi, 0.0, 0.0), (0.0, np.pi, np.pi)])
def test_a_reset_pose_may_be_given_by_any_angles_of_its_rotation(server, angles):
    with driven(server) as robot, driven(server, reset_pose=[0.5, 0.0, 0.19, *angles]) as other:
        assert other.observation_space.high == pytest.approx(robot.observation_space.high)
        other.reset(seed=0)
        assert limits(server.arm.state()["pose"]) == pytest.approx([0.5, 0.0, 0.19, 0, 0, 0], abs=2e-3)


def test_a_server_that_dies_in_an_episode_is_found_again_when_it_is_back(server):
    port = int(server.url.rstrip("/").rpartition(":")[2])
    with driven(server) as robot:
        robot.reset(seed=0)
        server.close()
        with pytest.raises(RobotError, match="can't be reached.*nor could it be told to hold"):
            robot.step(move())
        with pytest.raises(RobotError, match="can't be reached"):
            robot.unwrapped.reconnect()
        with RobotServer(simulated_arm(STATES, {}, 0.0), port=port):
            robot.unwrapped.reconnect()
            assert np.isfinite(robot.step(move())[0]).all()
            assert np.isfinite(robot.reset(seed=1)[0]).all()


def test_a_robot_that_does_not_move_does_not_begin_an_episode(server):
    with driven(server, reset_pose=[0.5, 0.0, 0.15, np.pi, 0.0, 0.0]) as robot:
        post(server, "stopimp")
        with pytest.raises(RobotError, match="must reach its reset pose to 20 mm and 0.2 rad, and is"):
            robot.reset(seed=0)


def test_an_action_that_is_not_finite_is_refused_and_not_commanded(server):
    with driven(server) as robot:
        robot.reset(seed=0)
        count = len(server.arm.commands)
        with pytest.raises(ExperimentError, match="must be finite"):
            robot.step(move(float("nan")))
        assert len(server.arm.commands) == count


def test_preflight_reads_and_moves_nothing(server):
    with driven(server) as robot:
        before = server.arm.state()
        facts = preflight(robot)
        assert facts[0] == f"a simulated robot answers at {server.url[:-1]}"
        assert "within the safety box" in facts[1]
        assert server.arm.state() == before and not server.arm.commands
        server.set_faults(Faults(state={"force": NAN}))
        with pytest.raises(RobotError, match="must give finite numbers"):
            preflight(robot)
        server.set_faults(Faults(state={"pose": [0.5, 0.06, 0.2, 1.0, 0.0, 0.0, 0.0]}))
        with pytest.raises(RobotError, match="is 20 mm and 0.00 rad outside"):
            preflight(robot)
        assert not server.arm.commands
    assert preflight(make(STATES)) == []


def test_steps_keep_their_period_and_late_ones_are_counted():
    with served(speed=5.0) as server, driven(server) as robot:
        robot.reset(seed=0)
        begun = time.monotonic()
        for _ in range(10):
            robot.step(move())
        # Five times as fast as 10 Hz.
        assert time.monotonic() - begun > 0.19
        before = robot.step(move())[4]["overruns"]
        time.sleep(0.1)
        assert robot.step(move())[4]["overruns"] >= before + 1
        robot.reset(seed=0)
        assert robot.step(move())[4]["overruns"] <= 1


def test_the_clock_counts_from_deadline_to_deadline():
    clock = ControlClock(10.0, 1.0)
    begun = time.monotonic()
    for _ in range(5):
        clock.wait()
        time.sleep(0.05)
    assert clock.overruns == 0 and 0.55 <= time.monotonic() - begun < 0.7
    time.sleep(0.1)
    late = time.monotonic()
    clock.wait()
    assert clock.overruns == 1 and time.monotonic() - late >= 0.099
    clock.restart()
    assert clock.overruns == 0


def test_lockstep_waits_for_nobody(server):
    with driven(server) as robot:
        begun = time.monotonic()
        robot.reset(seed=0)
        for _ in range(10):
            assert robot.step(move())[4]["overruns"] == 0
        assert server.arm.truth()["time"] > 3.0 > time.monotonic() - begun


def test_nothing_is_left_open(server):
    before = set(threading.enumerate())
    with driven(server) as robot:
        robot.reset(seed=0)
    with pytest.raises(RobotError, match="can't be reached"):
        make("hirol_robot", {"robot_url": "http://127.0.0.1:9", "retries": 0})
    time.sleep(0.1)
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"robot_ur": "x"}, "did you mean robot_url?"),
        ({"robot_url": "robot"}, "robot_url must be like"),
        ({"convention": "mine"}, "convention must be one of 'kit', 'hil_serl', found 'mine'"),
        ({"abs_pose_limit_low": [0.6, 0, 0, 0, 0, 0]}, "abs_pose_limit_low must not be above abs_pose_limit_high"),
        ({"reset_pose": [0.5, 0.0, 0.3, 3.14, 0.0, 0.0]}, "reset_pose must lie within"),
        ({"reset_pose": [0.5, 0.0, 0.3]}, "reset_pose must be a tuple"),
        ({"reset_pose": [0.5, 0.0, 0.19, 0.0, 0.0, 0.0]}, "reset_pose must lie within"),
        ({"abs_pose_limit_high": [0.54, 0.04, 0.21, 3.3, 1.6, 0.2]}, r"the fifth lie within \[-1.5, 1.5\]"),
        ({"reset_joint_target": [0.0] * 7}, "reset_joint_target needs a joint_reset_period of at least 1, found 0"),
        ({"force_limit": -1.0}, "force_limit must be"),
        ({"control_frequency": 0}, r"control_frequency must be a float in \[0.1, 1000\], found 0"),
        ({"cameras": {"wrist_1": 3}}, "cameras must be"),
    ],
)
def test_an_option_that_does_not_fit_is_named(options, sentence):
    with pytest.raises(ParameterError, match=sentence):
        make("hirol_robot", options)
