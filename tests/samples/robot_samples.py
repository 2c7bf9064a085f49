"""Simulated robots behind servers that can misbehave, and servers that answer anything, for the tests of both sides."""

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Event, Lock, Thread
from typing import Any
from urllib.request import Request, urlopen

import gymnasium
import numpy as np
from tornado.httputil import HTTPServerRequest
from tornado.iostream import StreamClosedError

from wsrl_kit.envs.make import make
from wsrl_kit.errors import RobotError
from wsrl_kit.robot.devices import Verdict
from wsrl_kit.robot.server import RobotServer, send, simulated_arm
from wsrl_kit.robot.simulated import SimulatedArm
from wsrl_kit.robot.takeover import PersonInput

STATES, PIXELS = "hirol_fixed_gripper", "hirol_fixed_gripper_pixels"


@dataclass(frozen=True)
class Faults:
    """How a server misbehaves; by default it does not.

    Attributes:
        latency: seconds by which answers are late.
        status: of every answer; only with 200 is anything done.
        silent: calls are taken and never answered.
        state: entries of /getstate that replace the true ones.
        endpoints: calls that misbehave; none: all but those of the simulation.
        count: calls after which all is well again; 0: never.
    """

    latency: float = 0.0
    status: int = 200
    silent: bool = False
    state: dict[str, Any] = field(default_factory=dict)
    endpoints: tuple[str, ...] = ()
    count: int = 0


class FaultyServer(RobotServer):
    """A robot server that misbehaves as it is told."""

    def __init__(self, arm: SimulatedArm, port: int = 0) -> None:
        self._fault_lock = Lock()
        self.lies: dict[str, Any] = {}
        self.set_faults(Faults())
        super().__init__(arm, port=port)
        state = self.endpoints["getstate"]
        self.endpoints["getstate"] = lambda given: {**state(given), **self.lies}

    def respond(self, request: HTTPServerRequest) -> None:
        faults = self.faults_of(request.path.strip("/"))
        if faults.silent:
            return
        if faults.latency:
            asyncio.get_running_loop().call_later(faults.latency, self._misbehave, request, faults)
        else:
            self._misbehave(request, faults)

    def _misbehave(self, request: HTTPServerRequest, faults: Faults) -> None:
        # The client may have hung up meanwhile.
        with suppress(StreamClosedError):
            if faults.status != 200:
                send(request, faults.status, "an error that was asked for")
            else:
                self.lies = faults.state
                super().respond(request)

    def set_faults(self, faults: Faults) -> None:
        with self._fault_lock:
            self._faults, self._left = faults, faults.count

    def faults_of(self, endpoint: str) -> Faults:
        """How this call misbehaves; counts it."""
        with self._fault_lock:
            faults = self._faults
            is_hit = endpoint in faults.endpoints if faults.endpoints else not endpoint.startswith("sim/")
            if not is_hit:
                return Faults()
            self._left -= 1
            if self._left == 0:
                self._faults = Faults()
            return faults


@contextmanager
def served(speed: float = 0.0, exp_name: str = STATES, **options: Any) -> Iterator[FaultyServer]:
    with FaultyServer(simulated_arm(exp_name, options, speed)) as server:
        yield server


@contextmanager
def driven(server: RobotServer, **options: Any) -> Iterator[gymnasium.Env]:
    """The environment of a robot; quick to give up, and free of random resets where nothing else is said."""
    still = {"random_xy_range": 0.0, "random_z_range": 0.0, "random_rz_range": 0.0}
    environment = make("hirol_robot", {"robot_url": server.url, "deadline": 2.0, "retries": 1} | still | options)
    try:
        yield environment
    finally:
        environment.close()


def post(server: RobotServer, endpoint: str, body: Any = None) -> Any:
    """As upstream's clients call it: JSON where the answer is some, else text."""
    content = b"" if body is None else json.dumps(body).encode()
    request = Request(server.url + endpoint, content, {"Content-Type": "application/json"}, method="POST")
    with urlopen(request, timeout=10) as response:
        answer = response.read()
        return json.loads(answer) if response.headers["Content-Type"] == "application/json" else answer.decode()


def limits(pose: Any) -> np.ndarray:
    """A commanded pose, x, y, z and quaternion, as x, y, z and Euler angles from the tool pointing straight down."""
    from scipy.spatial.transform import Rotation

    angles = Rotation.from_quat(pose[3:]).as_euler("xyz") - [np.pi, 0, 0]
    return np.concatenate([pose[:3], (angles + np.pi) % (2 * np.pi) - np.pi])


def move(x: float = 0.0, y: float = 0.0, z: float = 0.0, *rotation: float) -> np.ndarray:
    return np.array([x, y, z, *rotation, *[0.0] * (3 - len(rotation))], np.float32)


@contextmanager
def answering(answer: Callable[[socket.socket, Event], object]) -> Iterator[str]:
    """The url of a server of one call a connection; `answer` says what it likes, until the event at the latest."""
    ended = Event()

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            length = 0
            while (line := self.rfile.readline()) not in (b"\r\n", b""):
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            self.rfile.read(length)
            # The client hangs up when it has heard enough.
            with suppress(OSError):
                answer(self.connection, ended)

    class Server(ThreadingTCPServer):
        daemon_threads = False

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            ended.set()
            server.shutdown()
            thread.join()


def saying(body: bytes, head: bytes = b"HTTP/1.1 200 OK") -> Callable[[socket.socket, Event], object]:
    """An answer for `answering`: a body with its length."""
    return lambda link, _: link.sendall(b"%s\r\nContent-Length: %d\r\n\r\n%s" % (head, len(body), body))


def trickling(head: bytes, piece: bytes) -> Callable[[socket.socket, Event], object]:
    """An answer for `answering` that never ends: `piece` every 10 ms."""

    def answer(link: socket.socket, ended: Event) -> None:
        link.sendall(head)
        while not ended.wait(0.01):
            link.sendall(piece)

    return answer


class Hand:
    """A device in the hand of a scripted person.

    They move when they are asked to begin, make the motions of an episode one after the other, and answer the question
    after it.

    Args:
        episodes: of each, its motions (None: none), verdicts in between, and last the answer.
    """

    def __init__(self, *episodes: list[Any]) -> None:
        self.gone = ""
        self._episodes, self._left = iter(episodes), []
        self._looks = 0

    def read(self, gripper: bool) -> tuple[Any, Any]:
        if self.gone:
            raise RobotError(self.gone)
        if self.person.asks:
            if "move to begin" not in self.person.asks:
                return None, self._left.pop(0)
            # First they let go, and see to their device.
            self._looks += 1
            if self._looks < 4:
                return None, None
            self._looks, self._left = 0, [*next(self._episodes)]
            return np.zeros(7, np.float32), None
        entry = self._left.pop(0)
        if callable(entry):
            entry = entry()
        return (None, entry) if isinstance(entry, Verdict) else (entry, None)

    def close(self) -> None:
        self.gone = "the device is closed"


def person_with(hand: Hand) -> PersonInput:
    hand.person = PersonInput(devices=[hand])
    return hand.person
