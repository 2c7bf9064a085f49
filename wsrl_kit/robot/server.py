"""The simulated twin of HIL-SERL's robot server: its HTTP API in front of the simulated arm.

Endpoints of the kit's own, which no real robot has:
    images: the cameras' pictures of now, as a NumPy `.npz` of one uint8 (height, width, 3) RGB array per camera.
    sim/status: the result of `SimulatedArm.truth`; its answer tells a client that the robot is simulated.
    sim/reset: {"seed": n} or nothing; a new episode, with the arm above a hole drawn anew.
    sim/faults: the fields of `Faults` that differ from their defaults; {} ends all faults.
"""

import json
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from math import inf
from socketserver import TCPServer, ThreadingMixIn
from threading import TIMEOUT_MAX, Event, Lock, Thread
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from jaxtyping import Float64

from wsrl_kit.envs.insertion import InsertionOptions, PixelInsertionOptions, insertion_options
from wsrl_kit.envs.make import INSERTION, PIXELS
from wsrl_kit.errors import ParameterError, RobotError
from wsrl_kit.parameters import check, check_some, parameter, validate
from wsrl_kit.robot.environment import FARTHEST
from wsrl_kit.robot.poses import euler_of, matrix_of_quaternion
from wsrl_kit.robot.simulated import CLOSED, OPEN, SimulatedArm


@dataclass(frozen=True)
class Faults:
    """How the server misbehaves, towards all calls but those under `/sim/`; the default is that it does not.

    Raises:
        ParameterError: a field has a wrong type or is out of range.
    """

    latency: float = parameter(0.0, "every answer is this late, s", minimum=0.0)
    status: int = parameter(
        200, "every answer has this HTTP status; only with 200 is anything done", minimum=200, maximum=599
    )
    silent: bool = parameter(False, "calls are taken and never answered")
    frozen: bool = parameter(False, "simulated time stands still: the robot does not move and says the same for ever")
    state: dict = parameter({}, "entries of /getstate to answer in place of the true ones, such as {'vel': [nan, ...]}")
    endpoints: list[str] = parameter([], "calls that misbehave, such as ['pose']; empty for all")
    count: int = parameter(0, "calls after which all is well again; 0 for never", minimum=0)

    def __post_init__(self) -> None:
        validate(self)

    def hit(self, endpoint: str) -> bool:
        """Whether a call of this endpoint misbehaves."""
        return not endpoint.startswith("sim/") and (not self.endpoints or endpoint in self.endpoints)


def faults_from(given: Mapping[str, Any]) -> Faults:
    """Faults by name, for a server told over HTTP.

    Raises:
        ParameterError: there is no such fault, or its value does not fit.
    """
    return Faults(**check_some(Faults, given))


Answer = Mapping[str, Any] | str | bytes
Endpoint = Callable[[Mapping[str, Any]], Answer]
"""From the fields of the request's JSON (none without a body) to a JSON object, a text, or bytes."""


def endpoints(arm: SimulatedArm, set_faults: Callable[[Faults], None]) -> dict[str, Endpoint]:
    """Every endpoint by its path without the leading slash; those that refuse their input raise ParameterError."""

    def one(key: str, name: str | None = None) -> Endpoint:
        return lambda _: {name or key: arm.state()[key]}

    def text(answer: str, action: Callable[..., object], *arguments: Any) -> Endpoint:
        def endpoint(_: Mapping[str, Any]) -> str:
            action(*arguments)
            return answer

        return endpoint

    def pose(given: Mapping[str, Any]) -> str:
        arm.command(_pose(given))
        return "Moved"

    def euler(_: Mapping[str, Any]) -> Mapping[str, Any]:
        pose = np.array(arm.state()["pose"])
        return {"pose": [*pose[:3].tolist(), *euler_of(matrix_of_quaternion(pose[3:])).tolist()]}

    def update_param(given: Mapping[str, Any]) -> str:
        arm.comply(given)
        return "Updated compliance parameters"

    def set_load(given: Mapping[str, Any]) -> str:
        # The model has no gravity, and so no load to compensate.
        check("mass", given.get("mass"), float, {"minimum": 0.0})
        check("F_x_center_load", given.get("F_x_center_load"), list[float])
        check("load_inertia", given.get("load_inertia"), list[float])
        return "Set Load"

    def move_gripper(given: Mapping[str, Any]) -> str:
        # Robotiq's scale: 0 is open, 255 closed.
        position = min(max(int(check("gripper_pos", given.get("gripper_pos"), float)), 0), 255)
        arm.move_gripper(1 - position / 255)
        return "Moved Gripper"

    def images(_: Mapping[str, Any]) -> bytes:
        buffer = BytesIO()
        np.savez(buffer, allow_pickle=False, **arm.images())
        return buffer.getvalue()

    def reset(given: Mapping[str, Any]) -> str:
        arm.new_episode(check("seed", given.get("seed"), int | None, {"minimum": 0}))
        return "Reset"

    def faults(given: Mapping[str, Any]) -> str:
        set_faults(faults_from(given))
        return "Set faults"

    return {
        "getstate": lambda _: arm.state(),
        "getpos": one("pose"),
        "getpos_euler": euler,
        "getvel": one("vel"),
        "getforce": one("force"),
        "gettorque": one("torque"),
        "getq": one("q"),
        "getdq": one("dq"),
        "getjacobian": one("jacobian"),
        "get_gripper": one("gripper_pos", "gripper"),
        "pose": pose,
        "update_param": update_param,
        "set_load": set_load,
        "move_gripper": move_gripper,
        "startimp": text("Started impedance", arm.start_controller),
        "stopimp": text("Stopped impedance", arm.stop_controller),
        "jointreset": text("Reset Joint", arm.new_episode),
        "clearerr": lambda _: "Clear",
        "activate_gripper": lambda _: "Activated",
        "reset_gripper": text("Reset", arm.move_gripper, OPEN),
        "open_gripper": text("Opened", arm.move_gripper, OPEN),
        "close_gripper": text("Closed", arm.move_gripper, CLOSED),
        "close_gripper_slow": text("Closed", arm.move_gripper, CLOSED),
        "images": images,
        "sim/status": lambda _: arm.truth(),
        "sim/reset": reset,
        "sim/faults": faults,
    }


def _pose(given: Mapping[str, Any]) -> Float64[np.ndarray, "7"]:
    numbers = check("arr", given.get("arr"), list[float])
    if len(numbers) != 7 or max(map(abs, numbers)) > FARTHEST or abs(np.linalg.norm(numbers[3:]) - 1) > 0.01:
        raise ParameterError(
            f"arr must be x, y, z and a quaternion, found {numbers} (x, y, z within {FARTHEST:g} m, the quaternion of "
            "length 1)"
        )
    return np.array(numbers)


LOCALHOST = "127.0.0.1"
_LOOPBACK = (LOCALHOST, "localhost", "::1")
_LARGEST_BODY = 1 << 20
_MOST_CONNECTIONS = 64
_PATIENCE = 30.0
"""Seconds that a connection has for its next request, and to take an answer."""
_MOST_SAID = 500
"""Characters of an error."""


class RobotServer:
    """Serves an arm until it is closed; every call is a POST, connections are kept alive.

    No page in a browser can call it: a request with an `Origin`, or for a `Host` that is neither this machine's
    loopback, nor `host`, nor the address that it came to, is refused.

    Args:
        arm: closed together with the server, also where this raises.
        host: the address to listen on. Whoever can reach it can move the robot: there is no password in HIL-SERL's API.
        port: 0 for one that is free.
        faults: how the server misbehaves from the start.

    Attributes:
        url: where to reach it, ending with a slash.

    Raises:
        RobotError: the address is not this machine's, or the port is taken or none.
    """

    def __init__(self, arm: SimulatedArm, host: str = LOCALHOST, port: int = 0, faults: Faults | None = None) -> None:
        self.arm, self.host = arm, host
        self.closing = Event()
        self._lock = Lock()
        self.set_faults(faults or Faults())
        self.endpoints = endpoints(arm, self.set_faults)
        try:
            self._http = _Server((host, port), self)
        except (OSError, OverflowError, ValueError) as error:
            arm.close()
            raise RobotError(f"the robot server can't listen on {host}:{port}: {error}") from error
        self.url = f"http://{host}:{self._http.server_address[1]}/"
        self._thread = Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, name="robot server")
        self._thread.start()

    def __enter__(self) -> "RobotServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up on everyone, and stop the arm."""
        self.closing.set()
        self._http.shutdown()
        self._http.hang_up()
        self._http.server_close()
        self._thread.join()
        self.arm.close()

    def set_faults(self, faults: Faults) -> None:
        """Misbehave like this from now on; `Faults()` for not at all."""
        with self._lock:
            self._faults = faults
            self._left = faults.count
            self.arm.frozen = faults.frozen

    def faults_of(self, endpoint: str) -> Faults:
        """How this call misbehaves; counts it."""
        with self._lock:
            faults = self._faults
            if not faults.hit(endpoint):
                return Faults()
            if faults.count:
                self._left -= 1
                if self._left == 0:
                    self._faults = Faults()
                    self.arm.frozen = False
            return faults


class _Server(ThreadingMixIn, TCPServer):
    # Joined when the server is closed, which first ends the connections that they wait on.
    daemon_threads = False
    allow_reuse_address = True
    request_queue_size = _MOST_CONNECTIONS

    def __init__(self, address: tuple[str, int], robot: RobotServer) -> None:
        self.robot = robot
        # When each connection's last request was answered; inf while one is.
        self._since: dict[socket.socket, float] = {}
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if len(self._since) >= _MOST_CONNECTIONS:
            # A working client is never the one that has been silent longest.
            silent, since = min(self._since.copy().items(), key=lambda entry: entry[1])
            if since == inf:
                return self.shutdown_request(request)
            self._hang_up(silent)
        self.answered(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._since.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        for connection, since in list(self._since.items()):
            if time.monotonic() - since > _PATIENCE:
                self._hang_up(connection)

    def answering(self, request: Any) -> None:
        self._since[request] = inf

    def answered(self, request: Any) -> None:
        self._since[request] = time.monotonic()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that hangs up in the middle is no event.
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def hang_up(self) -> None:
        for connection in list(self._since):
            self._hang_up(connection)

    def _hang_up(self, connection: socket.socket) -> None:
        self._since.pop(connection, None)
        # Unless its client was quicker.
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Of an answer to what is no HTTP at all: with headers, which say that it is plain text.
    default_request_version = "HTTP/1.0"
    # Headers and body leave in one packet, at once.
    wbufsize = -1
    disable_nagle_algorithm = True
    timeout = _PATIENCE
    server: _Server

    def do_POST(self) -> None:
        robot, endpoint = self.server.robot, self.path.strip("/")
        body = self._body()
        if body is None:
            return
        if foreign := self._foreign():
            return self.send_error(403, foreign)
        self.server.answering(self.request)
        faults = robot.faults_of(endpoint)
        if faults.silent:
            while self.connection.recv(1 << 16):
                pass
            self.close_connection = True
            return
        if faults.latency:
            robot.closing.wait(min(faults.latency, TIMEOUT_MAX))
        if faults.status != 200:
            return self._refuse(faults.status, "an error that was asked for")
        if endpoint not in robot.endpoints:
            return self._refuse(404, f"there is no /{endpoint}")
        try:
            answer = robot.endpoints[endpoint](_fields(body))
        except (ParameterError, RecursionError) as error:
            return self._refuse(400, f"/{endpoint}: {error}")
        if endpoint == "getstate":
            assert isinstance(answer, Mapping)
            answer = {**answer, **faults.state}
        self._answer(200, answer)

    def _body(self) -> bytes | None:
        """The request's body; None where there is none to read, and the client was told so."""
        length = self.headers.get("Content-Length", "0").strip()
        if "Transfer-Encoding" in self.headers or not (length.isascii() and length.isdigit()):
            self.send_error(400, "a body must have a Content-Length")
        elif len(length) > 9 or int(length) > _LARGEST_BODY:
            self.send_error(413, f"a body must be at most {_LARGEST_BODY} bytes long")
        elif len(body := self.rfile.read(int(length))) == int(length):
            return body
        else:
            self.close_connection = True
        return None

    def _foreign(self) -> str | None:
        """What shows that a page in a browser sent this, whose own site may have any name."""
        if "Origin" in self.headers:
            return "a page in a browser may not call the robot (the request has an Origin)"
        hosts = self.headers.get_all("Host", [])
        known = {*_LOOPBACK, self.server.robot.host.lower(), self.connection.getsockname()[0]}
        try:
            names = [urlsplit(f"//{host}").hostname for host in hosts]
        except ValueError:
            names = []
        if len(names) == 1 and names[0] in known:
            return None
        return f"Host must be one of {', '.join(sorted(known))}, found {', '.join(hosts) or 'none'}"

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse a request that may not have been read to its end, so that nothing can follow."""
        self.close_connection = True
        self._refuse(code, message or self.responses[code][0])

    def _refuse(self, status: int, said: str) -> None:
        # Words of the request may be among it, and must be no page wherever they are shown.
        plain = "".join(letter if letter.isprintable() and letter != "<" else "?" for letter in said[:_MOST_SAID])
        self._answer(status, plain)

    def _answer(self, status: int, answer: Answer) -> None:
        if isinstance(answer, bytes):
            kind, body = "application/octet-stream", answer
        elif isinstance(answer, str):
            kind, body = "text/plain; charset=utf-8", answer.encode()
        else:
            kind, body = "application/json", json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("X-Content-Type-Options", "nosniff")
        if self.close_connection:
            self.send_header("Connection", "close")
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status not in (204, 304):
            self.wfile.write(body)
        self.server.answered(self.request)

    def log_message(self, format: str, *_: Any) -> None:
        """Ten calls a second are not worth a line each."""


def _fields(body: bytes) -> Mapping[str, Any]:
    try:
        given = json.loads(body) if body else {}
    except (ValueError, RecursionError) as error:
        raise ParameterError(f"the body must be JSON, found {body[:50]!r}") from error
    if not isinstance(given, Mapping):
        raise ParameterError(f"the body must be a JSON object, found {body[:50]!r}")
    return given


def simulated_arm(exp_name: str, environment_options: Mapping[str, Any], speed: float) -> SimulatedArm:
    """The arm of one of the kit's simulated experiments.

    Raises:
        ParameterError: there is no such robot, or an option does not fit.
        ExperimentError: it has cameras and no OpenGL library works.
    """
    kinds: dict[str, type[InsertionOptions]] = {INSERTION: InsertionOptions, PIXELS: PixelInsertionOptions}
    if exp_name not in kinds:
        raise ParameterError(f"exp_name must be one of {', '.join(map(repr, kinds))}, found {exp_name!r}")
    return SimulatedArm(insertion_options(environment_options, kinds[exp_name]), speed)


def serve(server: RobotServer, show: Callable[[str], object] = print) -> None:
    """Serve until SIGINT (Ctrl-C) or SIGTERM; says where, and whether others can reach it. In the main thread only."""
    ended = Event()
    # Set anew, since a shell starts what it puts in the background with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    pace = f"{server.arm.speed:g} times real time" if server.arm.speed else "lockstep, 0.1 s for every pose"
    show(f"simulated robot at {server.url} ({pace}); Ctrl-C ends it")
    if not server.url.startswith(f"http://{LOCALHOST}:"):
        show("anyone who can reach this address can move the robot: HIL-SERL's API asks for no password")
    try:
        ended.wait()
        show("ended")
    finally:
        server.close()
