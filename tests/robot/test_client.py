"""The client of a robot server: deadlines, retries, and one sentence for everything that can go wrong."""

import json
import signal
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from io import BytesIO
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest

from robot_samples import Faults, FaultyServer, answering, saying, served, trickling
from wsrl_kit.errors import ParameterError, RobotError
from wsrl_kit.robot.client import RobotClient
from wsrl_kit.robot.server import RobotServer, simulated_arm

STATE = {"pose": [0.5, 0, 0.19, 1, 0, 0, 0], "vel": [0] * 6, "force": [0] * 3, "torque": [0] * 3, "gripper_pos": 1}
TRUTH = {"success": False, "speed": 0, "cameras": {}, "hole_position": [0] * 3, "tip_pose": [0] * 6}
OK, CHUNKED = b"HTTP/1.1 200 OK\r\n", b"Transfer-Encoding: chunked\r\n\r\n"
BLACK = np.zeros((16, 16, 3), np.uint8)
UPRIGHT = np.array([0.5, 0.0, 0.19, 1.0, 0.0, 0.0, 0.0])


@contextmanager
def calling(answer: Callable, deadline: float = 5.0) -> Iterator[RobotClient]:
    """A client that tries once, of a server that answers like this."""
    with answering(answer) as url, closing(RobotClient(url, deadline, retries=0)) as client:
        yield client


@pytest.fixture
def server() -> Iterator[FaultyServer]:
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
    assert state.pose == pytest.approx(UPRIGHT, abs=2e-3)
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
    server.set_faults(Faults(status=503, endpoints=("open_gripper",), count=1))
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
        (Faults(state={"gripper_pos": "open"}), "/getstate must give gripper_pos as a number, found 'open'"),
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


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(trickling(OK + b"A: ", b"b"), id="headers"),
        pytest.param(trickling(OK + b"Content-Length: 100000\r\n\r\n", b" "), id="body"),
        pytest.param(trickling(OK + b"\r\n", b" "), id="body of no length"),
        pytest.param(trickling(OK + CHUNKED, b"1\r\n \r\n"), id="chunks"),
        pytest.param(trickling(OK + CHUNKED + b"0\r\n", b"A: b\r\n"), id="trailers"),
        pytest.param(trickling(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), id="100 Continue"),
    ],
)
def test_an_answer_that_trickles_is_late_all_the_same(answer):
    with calling(answer, deadline=0.2) as client:
        begun = time.monotonic()
        with pytest.raises(RobotError, match="/getstate must answer within 0.2 s, and did not in 1 attempt"):
            client.state()
        assert 0.2 <= time.monotonic() - begun < 1.0


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (trickling(OK + b"A: ", b"b" * (1 << 15)), "no HTTP"),
        (trickling(b"", b"HTTP/1.1 100 Continue\r\n" + b"A: b\r\n" * 20_000), "no HTTP"),
        (trickling(OK + b"\r\n", b" " * (1 << 19)), "answers with more than 1048576 bytes"),
        (trickling(OK + CHUNKED + b"400000000000000000\r\n", b" " * (1 << 19)), "answers with more than 1048576 bytes"),
        (lambda link, _: link.sendall(b"SSH-2.0-OpenSSH\r\n\r\n"), "no HTTP"),
        (lambda link, _: link.sendall(OK + b"Content-Length: -5\r\n\r\n"), "no HTTP"),
        (lambda link, _: link.sendall(OK + CHUNKED + b"zz\r\n"), "no HTTP"),
        (lambda link, _: link.sendall(OK + b"Content-Length: 9\r\n\r\n{}"), "no HTTP"),
        (lambda link, _: None, "can't be reached in 1 attempt: it hung up before it answered"),
        (saying(b"", b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/"), "found 302"),
        (saying(b"<p>\x1b[2Jno", b"HTTP/1.1 404 Not Found"), r"found 404 \(<p>\?\[2Jno\)"),
    ],
)
def test_what_is_no_answer_is_lost_contact(answer, sentence):
    with calling(answer) as client:
        begun = time.monotonic()
        with pytest.raises(RobotError, match=f"/getstate .*{sentence}"):
            client.state()
        assert time.monotonic() - begun < 4.0


def test_what_nobody_asked_for_is_not_taken_for_the_next_answer():
    one = json.dumps(STATE | {"gripper_pos": 0}).encode()
    other = json.dumps(STATE).encode()
    twice = b"%sContent-Length: %d\r\n\r\n%s" % (OK, len(one), one) + b"%s\r\n%s" % (OK, other)

    def answer(link, ended):
        link.sendall(twice)
        ended.wait(5.0)

    with calling(answer) as client:
        assert [client.state().gripper_position for _ in range(3)] == [0.0] * 3


def test_a_name_that_nobody_knows_is_looked_up_no_longer_than_the_deadline():
    client = RobotClient("http://robot.invalid:5000", deadline=0.5, retries=0)
    begun = time.monotonic()
    with pytest.raises(RobotError, match=r"robot.invalid:5000/getstate (must answer within|can't be reached)"):
        client.state()
    assert time.monotonic() - begun < 2.0


def test_a_robot_is_found_by_name(server):
    port = int(server.url.rstrip("/").rpartition(":")[2])
    client = RobotClient(f"http://localhost:{port}", retries=0)
    assert client.state().pose.shape == (7,)
    client.close()


def test_only_what_is_used_of_a_state_is_asked_for():
    # A server of an arm with six joints, or one whose controller has not told its jacobian yet.
    with calling(saying(json.dumps(STATE | {"q": [0] * 6, "jacobian": []}).encode())) as client:
        state = client.state()
    assert state.pose.tolist() == STATE["pose"] and state.gripper_position == 1.0


def test_the_number_of_joints_is_the_servers():
    for count in (6, 7):
        with calling(saying(json.dumps({"q": [0.5] * count}).encode())) as client:
            assert client.joints().tolist() == [0.5] * count
    for wrong in ([], "six", [None], [1e999]):
        with (
            calling(saying(json.dumps({"q": wrong}).encode())) as client,
            pytest.raises(RobotError, match="getq must give q as"),
        ):
            client.joints()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"vel": ["1"] * 6}, r"vel as 6 numbers, found \['1', '1', '1', '1', '1', '1'\]"),
        ({"vel": [True] * 6}, "vel as 6 numbers, found"),
        ({"vel": [[0] * 6]}, "vel as 6 numbers, found"),
        ({"vel": "abcdef"}, "vel as 6 numbers, found 'abcdef'"),
        ({"vel": {"a": 1}}, "vel as 6 numbers, found"),
        ({"force": [0] * 4}, "force as 3 numbers, found"),
        ({"pose": None}, "pose as 7 numbers, found None"),
        ({"gripper_pos": [1]}, r"gripper_pos as a number, found \[1.0\]"),
        ({"gripper_pos": False}, "gripper_pos as a number, found False"),
    ],
)
def test_a_state_is_of_numbers_alone(changes, sentence):
    with (
        calling(saying(json.dumps(STATE | changes).encode())) as client,
        pytest.raises(RobotError, match=f"^{client.url}/getstate must give {sentence}"),
    ):
        client.state()


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"pose":' * 900 + b"[" * 100, b"null", b"\xff\xfe", b"[]", b""])
def test_what_is_no_object_of_json_is_lost_contact(body):
    with calling(saying(body)) as client, pytest.raises(RobotError, match="must answer with a JSON object"):
        client.state()


@pytest.mark.parametrize("digits", [400, 5000])
def test_a_number_that_is_too_large_is_infinite(digits):
    body = json.dumps(STATE).replace('"vel": [0', '"vel": [' + "9" * digits).encode()
    with calling(saying(body)) as client:
        assert client.state().velocity[0] == np.inf


@pytest.mark.parametrize(
    "changes",
    [
        {"success": "false"},
        {"success": None},
        {"speed": "fast"},
        {"speed": float("nan")},
        {"speed": -1},
        {"speed": 1e-9},
        {"cameras": ["wrist_1"]},
        {"cameras": {"wrist_1": [1_000_000, 1_000_000]}},
        {"cameras": {"wrist_1": ["a", "b"]}},
        {"cameras": {"wrist_1": [16.5, 16]}},
        {"cameras": {"wrist_1": 16}},
        {"cameras": {"state": [16, 16]}},
        {"cameras": {f"camera_{number}": [16, 16] for number in range(100)}},
        {"hole_position": [0, 0]},
        {"tip_pose": [float("nan")] * 6},
    ],
)
def test_a_simulation_that_describes_itself_with_nonsense_is_lost_contact(changes):
    with (
        calling(saying(json.dumps(TRUTH | changes).encode())) as client,
        pytest.raises(RobotError, match="/sim/status must give "),
    ):
        client.truth()


def pictures(**arrays: object) -> bytes:
    buffer = BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def bomb() -> bytes:
    """A picture whose file says that it has 2^40 pixels, and holds 100 MB of them."""
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (1 << 20, 1 << 20)})
    buffer = BytesIO()
    with ZipFile(buffer, "w", ZIP_DEFLATED) as archive:
        archive.writestr("wrist_1.npy", header.getvalue() + bytes(100_000_000))
    return buffer.getvalue()


def damaged() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    content = bytearray(pictures(wrist_1=noise))
    content[120:140] = b"\xff" * 20
    return bytes(content)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>",
        b"PK\x03\x04garbage",
        zlib.compress(bytes(1000)),
        damaged(),
        bomb(),
        pictures(wrist_2=BLACK),
        pictures(wrist_1=BLACK[:8]),
        pictures(wrist_1=np.full((16, 16, 3), np.nan)),
        pictures(wrist_1=np.asfortranarray(BLACK)),
        pictures(wrist_1=np.array("text")),
    ],
    ids=["empty", "html", "zip", "zlib", "damaged", "bomb", "name", "size", "type", "order", "text"],
)
def test_pictures_of_another_form_are_lost_contact(answer):
    with (
        calling(saying(answer)) as client,
        pytest.raises(RobotError, match="/images must answer with a picture wrist_1 of 16 x 16 pixels"),
    ):
        client.images({"wrist_1": (16, 16)})


def test_pictures_that_nobody_asked_for_are_left_out():
    with calling(saying(pictures(wrist_1=BLACK + 3, other=np.array("text")))) as client:
        seen = client.images({"wrist_1": (16, 16)})
    assert list(seen) == ["wrist_1"] and np.array_equal(seen["wrist_1"], BLACK + 3)


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:5000", "http://a b", "http://röbot", "https://robot", "http://robot:port", "http://", "http://robot/a"],
)
def test_a_url_that_is_none_is_refused(url):
    with pytest.raises(ParameterError, match="robot_url must be like 'http://127.0.0.1:5000', found"):
        RobotClient(url)
