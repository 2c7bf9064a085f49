"""The simulated twin of HIL-SERL's robot server.

`jointreset` takes also {"arr": angles of the joints, rad}. Endpoints that no real robot has:
    images: a NumPy `.npz` of uint8 (height, width, 3) RGB arrays, by camera.
    sim/status: `SimulatedArm.truth`; marks a simulated robot.
    sim/reset: {"seed": n} or nothing; a new episode with a new hole.
"""

import asyncio
import json
import signal
import socket
from collections.abc import Callable, Mapping
from http.client import responses
from io import BytesIO
from threading import Event, Thread
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from jaxtyping import Float64
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPConnection, HTTPHeaders, HTTPMessageDelegate, HTTPServerRequest, ResponseStartLine

from wsrl_kit.envs.insertion import InsertionOptions, PixelInsertionOptions, insertion_options
from wsrl_kit.envs.make import INSERTION, PIXELS
from wsrl_kit.errors import ParameterError, RobotError
from wsrl_kit.parameters import check
from wsrl_kit.robot.environment import FARTHEST
from wsrl_kit.robot.poses import to_xyz_euler
from wsrl_kit.robot.simulated import CLOSED, OPEN, SimulatedArm

Answer = Mapping[str, Any] | str | bytes
Endpoint = Callable[[Mapping[str, Any]], Answer]
"""From the request's JSON object to a JSON object, a text, or bytes."""


def endpoints(arm: SimulatedArm) -> dict[str, Endpoint]:
    """By path; invalid input raises ParameterError."""

    def measured(key: str, name: str | None = None) -> Endpoint:
        return lambda _: {name or key: arm.state()[key]}

    def does(action: Callable[[Mapping[str, Any]], object], answer: str) -> Endpoint:
        def endpoint(given: Mapping[str, Any]) -> str:
            action(given)
            return answer

        return endpoint

    def images(_: Mapping[str, Any]) -> bytes:
        buffer = BytesIO()
        np.savez(buffer, allow_pickle=False, **arm.images())
        return buffer.getvalue()

    def new_episode(given: Mapping[str, Any]) -> None:
        arm.new_episode(check("seed", given.get("seed"), int | None, {"minimum": 0}))

    return {
        "getstate": lambda _: arm.state(),
        "getpos": measured("pose"),
        "getpos_euler": lambda _: {"pose": to_xyz_euler(np.array(arm.state()["pose"])).tolist()},
        "getvel": measured("vel"),
        "getforce": measured("force"),
        "gettorque": measured("torque"),
        "getq": measured("q"),
        "getdq": measured("dq"),
        "getjacobian": measured("jacobian"),
        "get_gripper": measured("gripper_pos", "gripper"),
        "pose": does(lambda given: arm.command(_pose(given)), "Moved"),
        "update_param": does(arm.comply, "Updated compliance parameters"),
        "set_load": does(_check_load, "Set Load"),
        "move_gripper": does(lambda given: arm.move_gripper(_opening(given)), "Moved Gripper"),
        "startimp": does(lambda _: arm.start_controller(), "Started impedance"),
        "stopimp": does(lambda _: arm.stop_controller(), "Stopped impedance"),
        "jointreset": does(lambda given: arm.reset_joints(_angles(given)), "Reset Joint"),
        "clearerr": lambda _: "Clear",
        "activate_gripper": lambda _: "Activated",
        "reset_gripper": does(lambda _: arm.move_gripper(OPEN), "Reset"),
        "open_gripper": does(lambda _: arm.move_gripper(OPEN), "Opened"),
        "close_gripper": does(lambda _: arm.move_gripper(CLOSED), "Closed"),
        "close_gripper_slow": does(lambda _: arm.move_gripper(CLOSED), "Closed"),
        "images": images,
        "sim/status": lambda _: arm.truth(),
        "sim/reset": does(new_episode, "Reset"),
    }


def _angles(given: Mapping[str, Any]) -> list[float] | None:
    return check("arr", given.get("arr"), list[float] | None)


def _check_load(given: Mapping[str, Any]) -> None:
    # The model has no gravity, so there is no load to compensate.
    check("mass", given.get("mass"), float, {"minimum": 0.0})
    for name in ("F_x_center_load", "load_inertia"):
        check(name, given.get(name), list[float])


def _opening(given: Mapping[str, Any]) -> float:
    # Robotiq's scale: 0 is open, 255 closed.
    return 1 - min(max(int(check("gripper_pos", given.get("gripper_pos"), float)), 0), 255) / 255


def _pose(given: Mapping[str, Any]) -> Float64[np.ndarray, "7"]:
    numbers = check("arr", given.get("arr"), list[float])
    if len(numbers) != 7 or max(map(abs, numbers)) > FARTHEST or abs(np.linalg.norm(numbers[3:]) - 1) > 0.01:
        raise ParameterError(
            f"arr must be x, y, z and a quaternion, found {numbers} (x, y, z within {FARTHEST:g} m, the quaternion of "
            "length 1)"
        )
    return np.array(numbers)


def _fields(body: bytes) -> Mapping[str, Any]:
    try:
        given = json.loads(body) if body else {}
    except (ValueError, RecursionError) as error:
        raise ParameterError(f"the body must be JSON, found {body[:50]!r}") from error
    if not isinstance(given, Mapping):
        raise ParameterError(f"the body must be a JSON object, found {body[:50]!r}")
    return given


LOCALHOST = "127.0.0.1"
_LOOPBACK = (LOCALHOST, "localhost", "::1")
_LARGEST_BODY = 1 << 20
_MOST_CONNECTIONS = 64
_PATIENCE = 30.0
"""Seconds for a connection's next request."""
_MOST_SAID = 500
"""Characters of a text."""


class _LimitedServer(HTTPServer):
    """Beyond the limit, drops the connection silent longest."""

    def initialize(self, *args: Any, **options: Any) -> None:
        super().initialize(*args, **options)
        # Ordered by the start of the wait for a request, so the first has waited longest.
        self._waiting: dict[Any, None] = {}

    def start_request(self, server_conn: Any, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        self._waiting.pop(server_conn, None)
        self._waiting[server_conn] = None
        if len(self._waiting) > _MOST_CONNECTIONS:
            silent = next(iter(self._waiting))
            del self._waiting[silent]
            silent.stream.close()
        return super().start_request(server_conn, request_conn)

    def on_close(self, server_conn: object) -> None:
        self._waiting.pop(server_conn, None)
        super().on_close(server_conn)


class RobotServer:
    """Serves an arm, one call (always a POST) at a time.

    No page in a browser can call it: it refuses an `Origin`, and a `Host` other than this machine's loopback, `host`,
    or the address that the request came to.

    Args:
        arm: closed together with the server, also if this raises.
        host: address to listen on. Whoever can reach it can move the robot: HIL-SERL's API has no password.
        port: 0: a free one.

    Raises:
        RobotError: the address is not this machine's, or the port is invalid or taken.
    """

    def __init__(self, arm: SimulatedArm, host: str = LOCALHOST, port: int = 0) -> None:
        self.arm, self.host = arm, host
        self.endpoints = endpoints(arm)
        try:
            listener = socket.create_server((host, port), backlog=_MOST_CONNECTIONS)
        except (OSError, OverflowError, ValueError) as error:
            arm.close()
            raise RobotError(f"the robot server can't listen on {host}:{port}: {error}") from error
        self.url = f"http://{host}:{listener.getsockname()[1]}/"
        self._loop, self._closing = asyncio.new_event_loop(), asyncio.Event()
        self._thread = Thread(target=self._run, args=(listener,), name="robot server")
        self._thread.start()

    def __enter__(self) -> "RobotServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join()
        self.arm.close()

    def _run(self, listener: socket.socket) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve(listener))

    async def _serve(self, listener: socket.socket) -> None:
        server = _LimitedServer(
            self.respond, max_body_size=_LARGEST_BODY, idle_connection_timeout=_PATIENCE, body_timeout=_PATIENCE
        )
        listener.setblocking(False)
        server.add_socket(listener)
        await self._closing.wait()
        server.stop()
        await server.close_all_connections()

    def respond(self, request: HTTPServerRequest) -> None:
        endpoint = request.path.strip("/")
        if request.method != "POST":
            return send(request, 405, "every call is a POST")
        if reason := self._foreign(request):
            return send(request, 403, reason)
        if endpoint not in self.endpoints:
            return send(request, 404, f"there is no /{endpoint}")
        try:
            return send(request, 200, self.endpoints[endpoint](_fields(request.body)))
        except (ParameterError, RecursionError) as error:
            return send(request, 400, f"/{endpoint}: {error}")

    def _foreign(self, request: HTTPServerRequest) -> str | None:
        """Why this may come from a page in a browser; None: it does not."""
        if "Origin" in request.headers:
            return "a page in a browser may not call the robot (the request has an Origin)"
        hosts = request.headers.get_list("Host")
        stream = request.connection.stream  # type: ignore[union-attr]  # of an HTTP1Connection
        known = {*_LOOPBACK, self.host.lower(), stream.socket.getsockname()[0]}
        try:
            names = [urlsplit(f"//{host}").hostname for host in hosts]
        except ValueError:
            names = []
        if len(names) == 1 and names[0] in known:
            return None
        return f"Host must be one of {', '.join(sorted(known))}, found {', '.join(hosts) or 'none'}"


def send(request: HTTPServerRequest, status: int, answer: Answer) -> None:
    """Answers a request. A refusal may quote the request: plain text, so that it is no page."""
    if isinstance(answer, bytes):
        kind, body = "application/octet-stream", answer
    elif isinstance(answer, str):
        plain = "".join(letter if letter.isprintable() and letter != "<" else "?" for letter in answer[:_MOST_SAID])
        kind, body = "text/plain; charset=utf-8", plain.encode()
    else:
        kind, body = "application/json", json.dumps(answer).encode()
    headers = {"Content-Type": kind, "X-Content-Type-Options": "nosniff", "Content-Length": str(len(body))}
    assert request.connection is not None
    request.connection.write_headers(
        ResponseStartLine("HTTP/1.1", status, responses[status]), HTTPHeaders(headers), body
    )
    request.connection.finish()


def simulated_arm(exp_name: str, environment_options: Mapping[str, Any], speed: float) -> SimulatedArm:
    """The arm of a simulated experiment; raises ParameterError, or ExperimentError without OpenGL."""
    kinds: dict[str, type[InsertionOptions]] = {INSERTION: InsertionOptions, PIXELS: PixelInsertionOptions}
    if exp_name not in kinds:
        raise ParameterError(f"exp_name must be one of {', '.join(map(repr, kinds))}, found {exp_name!r}")
    return SimulatedArm(insertion_options(environment_options, kinds[exp_name]), speed)


def serve(server: RobotServer, show: Callable[[str], object] = print) -> None:
    """Serves until SIGINT (Ctrl-C) or SIGTERM, in the main thread."""
    ended = Event()
    # A shell starts background commands with SIGINT ignored.
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
