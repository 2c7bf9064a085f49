"""The simulated robot server: HIL-SERL's endpoints, what they do to the robot, and its clock."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from urllib.error import HTTPError

import numpy as np
import pytest

from robot_samples import PIXELS, limits, post, served
from slow_cases import one_fast
from wsrl_kit.cli import main
from wsrl_kit.errors import RobotError
from wsrl_kit.robot.client import RobotClient
from wsrl_kit.robot.server import RobotServer, simulated_arm

HOLE = np.array([0.5, 0.0, 0.15])
"""Of the nominal hole's mouth in the robot's base frame."""


@pytest.fixture
def server() -> Iterator[RobotServer]:
    with served() as server:
        yield server


def port_of(server: RobotServer) -> int:
    return int(server.url.rstrip("/").rpartition(":")[2])


def request(endpoint: bytes, body: bytes, headers: bytes = b"Host: localhost\r\n") -> bytes:
    return b"POST /%s HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s" % (endpoint, headers, len(body), body)


def talk(server: RobotServer, sent: bytes) -> tuple[int, dict[str, str], str]:
    """Status, headers and text of the answer to these bytes."""
    with socket.create_connection(("127.0.0.1", port_of(server)), 10.0) as link:
        link.sendall(sent)
        received = b""
        while b"\r\n\r\n" not in received:
            received += link.recv(1 << 16)
        head, _, body = received.partition(b"\r\n\r\n")
        line, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        while len(body) < int(headers.get("content-length", 0)):
            body += link.recv(1 << 16)
    return int(line.split()[1]), headers, body.decode()


def commanded(server: RobotServer, place: list[float], steps: int = 10) -> np.ndarray:
    """Where the tool is after a pose, x, y, z with the tool pointing straight down, was commanded some times."""
    for _ in range(steps):
        assert post(server, "pose", {"arr": [*place, 1.0, 0.0, 0.0, 0.0]}) == "Moved"
    return np.array(post(server, "getpos")["pose"])


def test_every_reading_is_there_and_part_of_the_whole(server):
    state = post(server, "getstate")
    shapes = {name: np.shape(value) for name, value in state.items()}
    assert shapes == {
        "pose": (7,),
        "vel": (6,),
        "force": (3,),
        "torque": (3,),
        "q": (7,),
        "dq": (7,),
        "jacobian": (6, 7),
        "gripper_pos": (),
    }
    assert post(server, "getpos") == {"pose": state["pose"]}
    assert post(server, "getvel") == {"vel": state["vel"]}
    assert post(server, "getforce") == {"force": state["force"]}
    assert post(server, "gettorque") == {"torque": state["torque"]}
    assert post(server, "getq") == {"q": state["q"]}
    assert post(server, "getdq") == {"dq": state["dq"]}
    assert post(server, "getjacobian") == {"jacobian": state["jacobian"]}
    assert post(server, "get_gripper") == {"gripper": state["gripper_pos"]}
    euler = post(server, "getpos_euler")["pose"]
    assert euler[:3] == state["pose"][:3]
    assert limits(state["pose"])[3:] == pytest.approx((np.array(euler[3:]) - [np.pi, 0, 0] + 1) % (2 * np.pi) - 1)


def test_every_order_is_taken_and_answered_as_upstream_does(server):
    load = {"mass": 0.1, "F_x_center_load": [0.0] * 3, "load_inertia": [0] * 9}
    assert post(server, "set_load", load) == "Set Load"
    assert post(server, "startimp") == "Started impedance"
    assert post(server, "stopimp") == "Stopped impedance"
    assert post(server, "clearerr") == "Clear"
    assert post(server, "jointreset") == "Reset Joint"
    home = [0.0, 0.3, 0.0, -1.9, 0.0, 2.2, 0.7]
    assert post(server, "jointreset", {"arr": home}) == "Reset Joint"
    assert post(server, "getq")["q"] == home
    assert post(server, "update_param", {"translational_Ki": 0}) == "Updated compliance parameters"
    for order, answer, position in [
        ("activate_gripper", "Activated", 0.0),
        ("open_gripper", "Opened", 1.0),
        ("close_gripper", "Closed", 0.0),
        ("reset_gripper", "Reset", 1.0),
        ("close_gripper_slow", "Closed", 0.0),
    ]:
        assert post(server, order) == answer
        assert post(server, "get_gripper") == {"gripper": position}
    assert post(server, "move_gripper", {"gripper_pos": 51}) == "Moved Gripper"
    assert post(server, "get_gripper") == {"gripper": 0.8}


def test_the_tool_goes_where_it_is_told_and_its_readings_fit_together(server):
    place = [0.51, -0.02, 0.19]
    pose = commanded(server, place, 20)
    assert pose[:3] == pytest.approx(place, abs=2e-4) and pose[3] == pytest.approx(1, abs=1e-5)
    commanded(server, [0.48, 0.02, 0.20], 2)
    state = post(server, "getstate")
    # Of a tool in motion, in the base's axes: to -x, +y and +z.
    assert np.all(np.sign(state["vel"][:3]) == [-1, 1, 1])
    assert state["vel"] == pytest.approx(np.array(state["jacobian"]) @ state["dq"], abs=0.003)


def test_pressing_down_is_pushed_back_up_in_the_frame_of_the_tool(server):
    # Beside the hole the block is as high as the mouth; the tool's z axis points down.
    commanded(server, [0.53, 0.03, 0.155], 15)
    commanded(server, [0.53, 0.03, 0.147], 10)
    assert post(server, "getforce")["force"][2] == pytest.approx(-2000 * 0.003, rel=0.1)


def test_a_stopped_controller_holds_and_a_started_one_stays_until_told(server):
    before = commanded(server, [0.5, 0.0, 0.19])
    post(server, "stopimp")
    assert commanded(server, [0.5, 0.03, 0.19]) == pytest.approx(before, abs=1e-4)
    post(server, "startimp")
    assert np.array(post(server, "getpos")["pose"]) == pytest.approx(before, abs=1e-4)
    assert commanded(server, [0.5, 0.03, 0.19])[1] == pytest.approx(0.03, abs=1e-3)


def test_compliance_parameters_change_the_spring_with_upstreams_signs(server):
    commanded(server, [0.5, 0.0, 0.19], 20)
    # The clip is of measured minus commanded: that of x limits the way back.
    post(server, "update_param", {"translational_clip_x": 0.0, "rotational_clip_x": 0.5})
    assert commanded(server, [0.49, 0.0, 0.19])[0] == pytest.approx(0.5, abs=1e-3)
    # Nothing but damping slows it down where it overshoots.
    beyond = commanded(server, [0.51, 0.0, 0.19], 20)[0]
    assert 0.51 < beyond < 0.52
    post(server, "update_param", {"translational_clip_x": 0.01, "translational_clip_neg_x": 0.0})
    assert commanded(server, [0.53, 0.0, 0.19])[0] == pytest.approx(beyond, abs=1e-3)
    assert 0.49 < commanded(server, [0.50, 0.0, 0.19], 20)[0] < 0.50
    # A spring without stiffness does not move.
    post(server, "update_param", {"translational_stiffness": 0})
    assert commanded(server, [0.5, 0.02, 0.19])[1] == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize(
    ("endpoint", "body", "sentence"),
    [
        ("pose", {"arr": [0.5, 0.0, float("nan"), 1, 0, 0, 0]}, "arr must be a list[float], found"),
        ("pose", {"arr": [0.5, 0.0]}, "arr must be x, y, z and a quaternion, found [0.5, 0.0]"),
        ("jointreset", {"arr": [0.0] * 6}, "arr must be 7 angles from [-2.9"),
        ("pose", None, "arr must be a list[float], found None"),
        ("pose", [1, 2], "the body must be a JSON object"),
        ("update_param", {"translational_clp_x": 1}, "did you mean translational_clip_x?"),
        ("sim/reset", {"seed": -1}, "seed must be an int | None, every number >= 0"),
        ("getpositron", None, "there is no /getpositron"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence_and_moves_nothing(server, endpoint, body, sentence):
    before = server.arm.state()
    with pytest.raises(HTTPError) as refused:
        post(server, endpoint, body)
    with refused.value as answer:
        assert answer.code == (404 if "positron" in endpoint else 400)
        assert sentence in answer.read().decode()
    assert server.arm.state() == before


@pytest.mark.parametrize(
    "body",
    [
        b'{"arr": [Infinity, 0, 0.2, 1, 0, 0, 0]}',
        b'{"arr": [1e308, 0, 0.2, 1, 0, 0, 0]}',
        b'{"arr": [0.5, 0, 1e9, 1, 0, 0, 0]}',
        b'{"arr": [0.5, 0, 0.2, 1e308, 1e308, 0, 0]}',
        b'{"arr": [0.5, 0, 0.2, 1e-320, 0, 0, 0]}',
        b'{"arr": [0.5, 0, 0.2, 0, 0, 0, 0]}',
        b'{"arr": [' + b"9" * 400 + b", 0, 0.2, 1, 0, 0, 0]}",
        b'{"arr": [' + b"9" * 5000 + b", 0, 0.2, 1, 0, 0, 0]}",
        b'{"arr": [true, 0, 0.2, 1, 0, 0, 0]}',
        b'{"arr": "<b>x"}',
        b"[" * 100_000,
        b'{"arr": ' + b"[" * 900 + b"]" * 900 + b"}",
        b"null",
        b"{",
        b"\xff\xfe",
    ],
    ids=lambda body: body[:24].decode(errors="replace"),
)
def test_a_pose_of_nonsense_is_refused_as_plain_text(server, body):
    before = server.arm.state()
    status, headers, said = talk(server, request(b"pose", body))
    assert (status, headers["content-type"]) == (400, "text/plain; charset=utf-8")
    assert said.startswith("/pose: ") and "<" not in said and len(said) <= 500
    assert server.arm.state() == before


@pytest.mark.parametrize(
    "headers",
    [
        b"Host: evil.example\r\n",
        b"Host: 127.0.0.1.evil.example\r\n",
        b"Host: localhost@evil.example\r\n",
        b"Host: 192.168.1.5\r\n",
        b"Host: 127.0.0.1\r\nHost: evil.example\r\n",
        b"Host: \r\n",
        b"Host: [\r\n",
        b"",
        b"Host: 127.0.0.1\r\nOrigin: http://evil.example\r\n",
        b"Host: 127.0.0.1\r\nOrigin: null\r\n",
        b"Host: 127.0.0.1\r\nOrigin: http://127.0.0.1\r\n",
    ],
)
@pytest.mark.parametrize("endpoint", [b"pose", b"jointreset", b"sim/reset"])
def test_a_page_in_a_browser_moves_nothing(server, endpoint, headers):
    before = server.arm.state()
    body = b'{"arr": [0.5, 0.03, 0.2, 1, 0, 0, 0]}' if endpoint == b"pose" else b"{}"
    status, answered, said = talk(server, request(endpoint, body, headers + b"Content-Type: text/plain\r\n"))
    if status == 403:
        assert answered["content-type"] == "text/plain; charset=utf-8"
        assert "Origin" in said or "Host must be one of 127.0.0.1, ::1, localhost, found" in said
    else:
        # What is no HTTP, such as two hosts, is refused without a word.
        assert (status, said) == (400, "")
    assert server.arm.state() == before and not server.arm.commands


@pytest.mark.parametrize("host", [b"127.0.0.1", b"127.0.0.1:6000", b"localhost:5000", b"LOCALHOST", b"[::1]:5000"])
def test_this_machine_by_any_name_of_its_loopback_may_call(server, host):
    # As `requests.post(url + "getstate")` of HIL-SERL's environment sends it.
    headers = b"Host: %s\r\nUser-Agent: python-requests/2.32\r\nAccept: */*\r\nConnection: keep-alive\r\n" % host
    status, _, said = talk(server, request(b"getstate", b"", headers))
    assert status == 200 and json.loads(said) == server.arm.state()


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"GET /<script>alert(1)</script> HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        (b"OPTIONS /pose HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        (b"POST /<script>alert(1)</script> HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"POST http://localhost/<script> HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"POST /pose HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ],
)
def test_what_is_no_call_is_refused_as_plain_text(server, sent, expected):
    status, headers, said = talk(server, sent)
    assert (status, headers["content-type"]) == (expected, "text/plain; charset=utf-8")
    assert headers["x-content-type-options"] == "nosniff"
    assert "<" not in said and len(said) <= 500


@pytest.mark.parametrize(
    "sent",
    [
        b"<script>/pose HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"<script>\r\n\r\n",
        b"\xde\xad\xbe\xef\r\n\r\n",
        b"POST / HTTP/9.9\r\n\r\n",
        b"POST /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /pose HTTP/1.1\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
        b"POST /pose HTTP/1.1\r\nHost: localhost\r\nContent-Length: abc\r\n\r\n",
        b"POST /pose HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /pose HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000000\r\n\r\n",
    ],
    ids=range(9),
)
def test_what_is_no_http_is_hung_up_on_without_a_word_of_it(server, sent):
    received = b""
    with socket.create_connection(("127.0.0.1", port_of(server)), 10.0) as link, suppress(ConnectionError):
        link.sendall(sent)
        while more := link.recv(1 << 16):
            received += more
    assert received in (b"", b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_a_body_that_is_cut_off_is_no_call(server):
    with socket.create_connection(("127.0.0.1", port_of(server))) as link:
        link.sendall(b"POST /jointreset HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{}")
        before = server.arm.state()
        link.shutdown(socket.SHUT_WR)
        link.settimeout(5.0)
        assert link.recv(1) == b""
    assert server.arm.state() == before


def test_connections_that_never_call_keep_nobody_out(server):
    threads = threading.active_count()
    with ExitStack() as stack:
        client = stack.enter_context(closing(RobotClient(server.url, deadline=5.0, retries=1)))
        client.state()
        for _ in range(200):
            link = stack.enter_context(socket.create_connection(("127.0.0.1", port_of(server))))
            link.sendall(b"POST /pose HTTP/1.1\r\nX: ")
        assert client.state().pose.shape == (7,)
        assert threading.active_count() - threads < 80


@pytest.mark.parametrize("begun_with", [b"POST /pose HTTP/1.1\r\nX: ", request(b"pose", b" " * 999)[:-99]])
def test_a_call_that_trickles_is_ended(monkeypatch, begun_with):
    monkeypatch.setattr("wsrl_kit.robot.server._PATIENCE", 0.3)
    begun = time.monotonic()
    with served() as server, socket.create_connection(("127.0.0.1", port_of(server))) as link:
        link.settimeout(0.02)
        link.sendall(begun_with)
        ended = False
        while not ended and time.monotonic() - begun < 10:
            try:
                link.sendall(b"a")
                ended = link.recv(1) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                ended = True
    assert ended and time.monotonic() - begun > 0.3


def test_an_episode_has_a_hole_of_its_own_and_the_same_for_the_same_seed(server):
    def hole(endpoint, body=None):
        post(server, endpoint, body)
        return post(server, "sim/status")["hole_position"]

    first, other = hole("sim/reset", {"seed": 1}), hole("jointreset")
    assert hole("sim/reset", {"seed": 1}) == first != other
    assert np.abs([first, other]).max() <= 0.003
    height = post(server, "getpos")["pose"][2]
    assert 0.17 < height < 0.21


def test_in_lockstep_time_passes_with_commanded_poses_alone(server):
    before = post(server, "sim/status")["time"]
    time.sleep(0.05)
    assert post(server, "sim/status")["time"] == before
    commanded(server, [0.5, 0.0, 0.19], 3)
    assert post(server, "sim/status")["time"] == pytest.approx(before + 0.3)


def test_real_time_passes_by_itself_times_the_speed():
    with served(speed=10.0) as server:
        begun, simulated = time.monotonic(), server.arm.truth()["time"]
        time.sleep(0.4)
        passed = server.arm.truth()["time"] - simulated
        # A busy machine may fall behind, and must not get ahead.
        assert 1.0 < passed <= 10.0 * (time.monotonic() - begun) + 0.1


@pytest.mark.usefixtures("opengl")
def test_the_pictures_are_those_of_the_robots_cameras():
    with served(exp_name=PIXELS, image_size=32) as server:
        assert post(server, "sim/status")["cameras"] == {"wrist_1": [32, 32], "wrist_2": [32, 32]}
        client = RobotClient(server.url)
        seen, drawn = client.images({"wrist_1": (32, 32), "wrist_2": (32, 32)}), server.arm.images()
        client.close()
        assert list(seen) == ["wrist_1", "wrist_2"]
        for name, picture in seen.items():
            assert picture.shape == (32, 32, 3) and picture.std() > 10
            assert np.array_equal(picture, drawn[name])


def test_a_closed_server_leaves_no_thread_and_no_port_behind():
    before = set(threading.enumerate())
    with served(speed=1.0) as server:
        client = RobotClient(server.url)
        client.state()
        port = port_of(server)
        with pytest.raises(RobotError, match=f"can't listen on 127.0.0.1:{port}: "):
            RobotServer(server.arm, port=port)
    assert set(threading.enumerate()) == before
    client.close()
    with RobotServer(simulated_arm("hirol_fixed_gripper", {}, 0.0), port=port) as again:
        assert again.url == server.url


@pytest.mark.parametrize("number", one_fast([signal.SIGINT, signal.SIGTERM]))
def test_the_command_serves_until_it_is_interrupted(number):
    # As a shell starts it in the background: with SIGINT ignored.
    command = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "from wsrl_kit.cli import main; sys.exit(main())"
    )
    arguments = ["robot-sim", "--port", "0", "--speed", "0", "--exp_name", "hirol_fixed_gripper"]
    options = ["--environment_options", "{'hole_offset': 0.0}"]
    with subprocess.Popen(
        [sys.executable, "-c", command, *arguments, *options],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = next(word for word in line.split() if word.startswith("http://127.0.0.1:"))
        client = RobotClient(url, deadline=10.0)
        truth = client.truth()
        client.close()
        process.send_signal(number)
        rest = process.stdout.read()
    assert process.returncode == 0 and "lockstep" in line and rest == "ended\n"
    assert truth is not None and truth["hole_position"] == [0.0, 0.0, 0.0]


def test_the_command_refuses_what_it_does_not_have(capsys):
    assert main(["robot-sim", "--exp_name", "FetchPush-v4"]) == 2
    assert "exp_name must be one of 'hirol_fixed_gripper', 'hirol_fixed_gripper_pixels'" in capsys.readouterr().err
    assert main(["robot-sim", "--exp_name", "hirol_fixed_gripper", "--speed", "-1"]) == 2
    assert main(["robot-sim", "--environment_options", "{'clearance': 1.0}"]) == 2


@pytest.mark.parametrize(
    ("flags", "status", "sentence"),
    [
        (["--port", "70000"], 2, "port must be an int in [0, 65535], found 70000"),
        (["--port", "-1"], 2, "port must be an int in [0, 65535], found -1"),
        (["--port", "http"], 2, "port must be an int in [0, 65535], found 'http'"),
        (["--port", "5000.5"], 2, "port must be an int in [0, 65535], found '5000.5'"),
        (["--host", "192.0.2.1"], 1, "can't listen on 192.0.2.1:5000"),
        (["--host", "a..b"], 1, "can't listen on a..b:5000"),
        (["--speed", "nan"], 2, "speed must be a float, found"),
        (["--speed", "1e-9"], 2, "speed must be 0 or from 0.01 to 1000, found 1e-09"),
    ],
)
def test_a_command_that_can_not_be_ends_in_a_sentence(capsys, flags, status, sentence):
    threads = set(threading.enumerate())
    # Where two threads would be left, no process ends: the arm's own, at a speed.
    assert main(["robot-sim", "--exp_name", "hirol_fixed_gripper", *flags]) == status
    said = capsys.readouterr().err
    assert said.startswith("wsrl-kit: error: ") and sentence in said and said.count("\n") == 1
    assert set(threading.enumerate()) == threads


def test_a_port_that_is_taken_ends_the_command(server, capsys):
    port = str(port_of(server))
    threads = set(threading.enumerate())
    assert main(["robot-sim", "--exp_name", "hirol_fixed_gripper", "--port", port]) == 1
    assert f"can't listen on 127.0.0.1:{port}: " in capsys.readouterr().err
    assert set(threading.enumerate()) == threads
