"""The client of a robot server: deadlines, retries, and one sentence for everything that can go wrong."""

import signal
import time
from collections.abc import Iterator

import numpy as np
import pytest

from robot_samples import served
from wsrl_kit.envs.robot_client import RobotClient
from wsrl_kit.errors import ParameterError, RobotError
from wsrl_kit.robot.faults import Faults
from wsrl_kit.robot.server import RobotServer, simulated_arm

UPRIGHT = np.array([0.5, 0.0, 0.19, 1.0, 0.0, 0.0, 0.0])


@pytest.fixture
def server() -> Iterator[RobotServer]:
    with served() as server:
        yield server


@pytest.fixture
def client(server) -> Iterator[RobotClient]:
    client = RobotClient(server.url, deadline=0.3, retries=1)
    yield client
    client.close()


def test_it_reads_and_commands(server, client):
    for _ in range(10):
        client.command(UPRIGHT)
    state = client.state()
    assert state.pose == pytest.approx(UPRIGHT, abs=2e-3) and state.jacobian.shape == (6, 7)
    assert server.arm.commands[-1] == UPRIGHT.tolist()
    client.move_gripper(opened=True)
    assert client.state().gripper_position == 1.0
    client.reset_joints()
    client.clear_errors()
    client.set_parameters({"translational_Ki": 0.0})


def test_what_fails_once_is_tried_again(server, client):
    for fault in ({"status": 500}, {"latency": 0.5}):
        server.set_faults(Faults(**fault, count=1))
        assert client.state().pose == pytest.approx(server.arm.state()["pose"])


def test_a_late_answer_is_never_taken_for_that_of_the_next_call(server, client):
    server.set_faults(Faults(latency=0.5, count=1))
    with pytest.raises(RobotError, match="/pose must answer within 0.3 s, and did not in 1 attempt"):
        client.command(UPRIGHT, attempts=1)
    time.sleep(0.4)
    assert client.state().pose.shape == (7,)


def test_an_interrupted_call_leaves_nothing_for_the_next_one(server, client):
    server.set_faults(Faults(latency=0.2, count=1))
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(KeyboardInterrupt):
            client.command(UPRIGHT)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert client.state().pose.shape == (7,)


def test_what_may_not_be_done_twice_is_not(server, client):
    server.set_faults(Faults(status=503, endpoints=["open_gripper"], count=1))
    with pytest.raises(RobotError, match="/open_gripper must answer with status 200, found 503"):
        client.move_gripper(opened=True)


@pytest.mark.parametrize(
    ("faults", "sentence"),
    [
        (Faults(latency=0.5), "/getstate must answer within 0.3 s, and did not in 2 attempts"),
        (Faults(silent=True), "/getstate must answer within 0.3 s, and did not in 2 attempts"),
        (Faults(status=500), r"/getstate must answer with status 200, found 500 \(an error that was asked for\)"),
        (Faults(state={"pose": [0.5, 0.0]}), r"/getstate must give pose as 7 numbers, found \[0.5, 0.0\]"),
        (Faults(state={"vel": None}), "/getstate must give vel as 6 numbers, found None"),
        (Faults(state={"gripper_pos": "open"}), "/getstate must give gripper_pos as 1 numbers, found open"),
    ],
)
def test_a_failure_is_one_sentence_in_time(server, client, faults, sentence):
    server.set_faults(faults)
    begun = time.monotonic()
    with pytest.raises(RobotError, match=f"^{server.url[:-1]}{sentence}$"):
        client.state()
    # Two attempts of 0.3 s, and what a busy machine adds.
    assert time.monotonic() - begun < 2.0
    server.set_faults(Faults())
    assert client.state().force.shape == (3,)


def test_a_server_that_is_gone_is_missed_and_one_that_is_back_is_found(server, client):
    port = int(server.url.rstrip("/").rpartition(":")[2])
    client.state()
    server.close()
    with pytest.raises(RobotError, match="/getstate can't be reached in 2 attempts: "):
        client.state()
    with RobotServer(simulated_arm("hirol_fixed_gripper", {}, 0.0), port=port):
        assert client.state().pose.shape == (7,)


def test_a_restart_between_two_calls_is_not_even_noticed(server, client):
    port = int(server.url.rstrip("/").rpartition(":")[2])
    client.state()
    server.close()
    with RobotServer(simulated_arm("hirol_fixed_gripper", {}, 0.0), port=port) as again:
        client.move_gripper(opened=True)
        assert again.arm.state()["gripper_pos"] == 1.0


def test_a_real_robot_says_nothing_of_a_simulation(server, client):
    assert client.truth()["simulated"] is True
    del server.endpoints["sim/status"]
    assert client.truth() is None


@pytest.mark.parametrize("url", ["127.0.0.1:5000", "https://robot", "http://robot:port", "http://", "http://robot/a"])
def test_a_url_that_is_none_is_refused(url):
    with pytest.raises(ParameterError, match="robot_url must be like 'http://127.0.0.1:5000', found"):
        RobotClient(url)
