"""The HTTP server in front of the simulated arm: HIL-SERL's robot server, without the robot."""

import json
import signal
import socket
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any

from wsrl_kit.envs import INSERTION, PIXELS
from wsrl_kit.envs.insertion_options import InsertionOptions, PixelInsertionOptions, insertion_options
from wsrl_kit.errors import ParameterError, RobotError
from wsrl_kit.robot.endpoints import Answer, endpoints
from wsrl_kit.robot.faults import Faults
from wsrl_kit.robot.simulation import SimulatedArm

LOCALHOST = "127.0.0.1"
_LARGEST_BODY = 1 << 20


class RobotServer:
    """Serves an arm until it is closed; every call is a POST, connections are kept alive.

    Args:
        arm: closed together with the server.
        host: the address to listen on. Whoever can reach it can move the robot: there is no password in HIL-SERL's API.
        port: 0 for one that is free.
        faults: how the server misbehaves from the start.

    Attributes:
        url: where to reach it, ending with a slash.

    Raises:
        RobotError: the address is not this machine's, or the port is taken.
    """

    def __init__(self, arm: SimulatedArm, host: str = LOCALHOST, port: int = 0, faults: Faults | None = None) -> None:
        self.arm = arm
        self.closing = Event()
        self._lock = Lock()
        self.set_faults(faults or Faults())
        self.endpoints = endpoints(arm, self.set_faults)
        try:
            self._http = _Server((host, port), self)
        except OSError as error:
            arm.close()
            raise RobotError(f"the robot server can't listen on {host}:{port}: {error.strerror}") from error
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


class _Server(ThreadingHTTPServer):
    # Joined when the server is closed, which first ends the connections that they wait on.
    daemon_threads = False

    def __init__(self, address: tuple[str, int], robot: RobotServer) -> None:
        self.robot = robot
        self._open: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up in the middle is no event."""

    def hang_up(self) -> None:
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                # Its client was quicker.
                continue


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body leave in one packet, at once.
    wbufsize = -1
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        robot, endpoint = self.server.robot, self.path.strip("/")
        length = int(self.headers.get("Content-Length") or 0)
        if length > _LARGEST_BODY:
            self.close_connection = True
            return self._answer(413, f"a body must be at most {_LARGEST_BODY} bytes long")
        body = self.rfile.read(length)
        faults = robot.faults_of(endpoint)
        if faults.silent:
            robot.closing.wait()
            self.close_connection = True
            return None
        if faults.latency:
            robot.closing.wait(faults.latency)
        if faults.status != 200:
            return self._answer(faults.status, "an error that was asked for")
        if endpoint not in robot.endpoints:
            return self._answer(404, f"there is no /{endpoint}")
        try:
            answer = robot.endpoints[endpoint](_fields(body))
        except ParameterError as error:
            return self._answer(400, f"/{endpoint}: {error}")
        if endpoint == "getstate":
            assert isinstance(answer, Mapping)
            answer = {**answer, **faults.state}
        return self._answer(200, answer)

    def _answer(self, status: int, answer: Answer) -> None:
        if isinstance(answer, bytes):
            kind, body = "application/octet-stream", answer
        elif isinstance(answer, str):
            kind, body = "text/html; charset=utf-8", answer.encode()
        else:
            kind, body = "application/json", json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *_: Any) -> None:
        """Ten calls a second are not worth a line each."""


def _fields(body: bytes) -> Mapping[str, Any]:
    try:
        given = json.loads(body) if body else {}
    except ValueError as error:
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
