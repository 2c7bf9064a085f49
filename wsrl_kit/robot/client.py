"""Client of HIL-SERL's robot server: calls with deadlines and checked answers.

The usual HTTP clients time out per packet, so a trickling server holds them for ever. Here each receive gets the time
left of the whole call; h11 parses the protocol.
"""

import json
import re
import reprlib
import select
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from ipaddress import ip_address
from threading import Lock
from typing import Any
from urllib.parse import urlsplit
from zipfile import ZipFile

import h11
import numpy as np
from jaxtyping import Float, Float64, UInt8

from wsrl_kit.envs.wrappers import STATE
from wsrl_kit.errors import ParameterError, RobotError
from wsrl_kit.robot.control_clock import FASTEST, SLOWEST

_LARGEST_HEADER = 1 << 16
_RESOLVE = "import socket, sys; print(*(found[4][0] for found in socket.getaddrinfo(sys.argv[1], None, type=1)))"


class Connection:
    """A kept connection to one server; for one thread at a time."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._addresses: list[str] = []
        self._socket: socket.socket | None = None

    def close(self) -> None:
        """Also forgets the address of the host name."""
        self._addresses = []
        self.hang_up()

    def post(self, path: str, content: bytes, deadline: float, largest: int) -> tuple[int, bytes]:
        """Sends one POST request; returns status and body.

        A failed request closes the connection, so that a late answer never counts for the next one.

        Args:
            deadline: seconds for everything, from the host name to the last byte.
            largest: bytes of the answer's body.

        Raises:
            TimeoutError: the answer was not complete in time.
            OSError: unreachable, hung up, no HTTP, or too large.
        """
        end = time.monotonic() + deadline
        if self._socket is not None and select.select([self._socket], [], [], 0)[0]:
            # The server has hung up, or sent something unasked.
            self.hang_up()
        try:
            if self._socket is None:
                self._socket = self._connect(end)
            return self._exchange(self._socket, path, content, end, largest)
        except h11.ProtocolError as error:
            self.hang_up()
            raise OSError(f"what it answers is no HTTP: {error}") from error
        except BaseException:
            # Interrupts included: no half-read answer may be left for the next request.
            self.hang_up()
            raise

    def hang_up(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self, end: float) -> socket.socket:
        self._addresses = self._addresses or _resolve(self._host, end)
        for number, address in enumerate(self._addresses, 1):
            try:
                connected = socket.create_connection((address, self._port), _left(end))
            except OSError:
                if number == len(self._addresses):
                    raise
            else:
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return connected
        raise OSError(f"{self._host} has no address")

    def _exchange(self, link: socket.socket, path: str, content: bytes, end: float, largest: int) -> tuple[int, bytes]:
        protocol = h11.Connection(h11.CLIENT, max_incomplete_event_size=_LARGEST_HEADER)
        headers = [
            ("Host", f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"),
            ("Content-Length", str(len(content))),
            *([("Content-Type", "application/json")] if content else []),
        ]
        request = h11.Request(method="POST", target=path, headers=headers)
        events = (request, h11.Data(data=content), h11.EndOfMessage())
        link.settimeout(_left(end))
        # The timeout of `sendall` is for all of it, unlike that of `recv`.
        link.sendall(b"".join(protocol.send(event) or b"" for event in events))
        status, body = 0, bytearray()
        while True:
            left = _left(end)
            event = protocol.next_event()
            if event is h11.NEED_DATA:
                link.settimeout(left)
                received = link.recv(1 << 16)
                if not received and not status:
                    raise ConnectionError("it hung up before it answered")
                protocol.receive_data(received)
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > largest:
                    raise OSError(f"it answers with more than {largest} bytes")
            elif isinstance(event, h11.EndOfMessage):
                break
        if protocol.their_state is not h11.DONE or protocol.trailing_data != (b"", False):
            self.hang_up()
        return status, bytes(body)


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _resolve(host: str, end: float) -> list[str]:
    """Looked up in a process, since only that can be ended in time."""
    if host == "localhost":
        return ["127.0.0.1", "::1"]
    try:
        return [str(ip_address(host))]
    except ValueError:
        pass
    try:
        command = [sys.executable, "-I", "-S", "-c", _RESOLVE, host]
        found = subprocess.run(command, capture_output=True, text=True, timeout=_left(end))
    except subprocess.TimeoutExpired as error:
        raise TimeoutError from error
    if found.returncode:
        said = found.stderr.strip().rpartition("\n")[2]
        raise OSError(f"there is no address of {host} ({said})")
    return list(dict.fromkeys(found.stdout.split()))


_COUNTS = {"pose": 7, "vel": 6, "force": 3, "torque": 3}
_TRUE_COUNTS = {"hole_position": 3, "tip_pose": 6}
_LARGEST_ANSWER = 1 << 20
"""Bytes beside images; a state has less than 2000."""
_LARGEST_ARRAY_HEADER = 1 << 10
"""Bytes of an image's file before its pixels."""
_MOST_CAMERAS, _LARGEST_IMAGE = 16, 1024
"""Of a simulated robot; largest height and width, pixels."""
_PAUSE = 0.02
"""Seconds between two attempts."""


class _NotFound(RobotError):
    """The server has no such endpoint."""


@dataclass(frozen=True)
class RobotState:
    """The used part of `/getstate`; its numbers may be invalid, such as NaN.

    Attributes:
        pose: tool in the base frame: m, quaternion (x, y, z, w).
        velocity: tool, along the base's axes, m/s and rad/s.
        force: on the tool, in its frame, N.
        torque: likewise, N m.
        gripper_position: 0 (closed) to 1 (open).
    """

    pose: Float64[np.ndarray, "7"]
    velocity: Float64[np.ndarray, "6"]
    force: Float64[np.ndarray, "3"]
    torque: Float64[np.ndarray, "3"]
    gripper_position: float


class RobotClient:
    """One connection to a robot server, opened again when it breaks; any thread may call.

    Calls that are safe to repeat (reading, poses, parameters, clearing errors) are retried; others are tried once, on a
    new connection. A late or malformed answer or an error status raises RobotError.

    Args:
        url: "http://host:port"; else ParameterError.
        deadline: seconds per attempt, from the host name to the last byte.
        retries: further attempts of a repeatable call.
    """

    def __init__(self, url: str, deadline: float = 1.0, retries: int = 2) -> None:
        address = urlsplit(url)
        try:
            host, port = address.hostname, address.port or 80
        except ValueError:
            host = None
        named = host is not None and re.fullmatch(r"[\w.:%-]+", host, re.ASCII)
        if host is None or not named or address.scheme != "http" or address.path.strip("/") or address.query:
            raise ParameterError(f"robot_url must be like 'http://127.0.0.1:5000', found {url!r}")
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self._connection = Connection(host, port)
        self._deadline = deadline
        self._attempts = 1 + retries
        self._lock = Lock()

    def close(self) -> None:
        """The next call connects again."""
        with self._lock:
            self._connection.close()

    def state(self) -> RobotState:
        answer = self._json("getstate")
        read = {name: self._numbers("getstate", answer, name, count) for name, count in _COUNTS.items()}
        gripper = answer.get("gripper_pos")
        if not isinstance(gripper, float):
            raise self._misfit("getstate", answer, "gripper_pos", "a number")
        return RobotState(read["pose"], read["vel"], read["force"], read["torque"], gripper)

    def command(self, pose: Float[np.ndarray, "7"], attempts: int | None = None) -> None:
        """Makes `pose` the equilibrium of the impedance controller."""
        self._call("pose", {"arr": pose.tolist()}, attempts)

    def set_parameters(self, parameters: Mapping[str, float]) -> None:
        self._call("update_param", dict(parameters))

    def clear_errors(self) -> None:
        """After a reflex or another error."""
        self._call("clearerr")

    def joints(self) -> Float64[np.ndarray, " joints"]:
        """Angles of an arm with any number of joints, rad."""
        answer = self._json("getq")
        found = answer.get("q")
        angles = self._numbers("getq", answer, "q", len(found) if isinstance(found, list) else 0)
        if not len(angles) or not np.isfinite(angles).all():
            raise self._misfit("getq", answer, "q", "finite numbers, one for each joint")
        return angles

    def reset_joints(self, target: Sequence[float] | None = None, deadline: float = 60.0) -> None:
        """Takes many seconds on a real robot.

        Args:
            target: angle of each joint, rad, which HIL-SERL's server ignores; None: the server's own.
        """
        self._call("jointreset", None if target is None else {"arr": list(target)}, attempts=1, deadline=deadline)

    def move_gripper(self, opened: bool) -> None:
        self._call("open_gripper" if opened else "close_gripper", attempts=1)

    def truth(self) -> dict[str, Any] | None:
        """`SimulatedArm.truth`, checked; None from a real server."""
        endpoint = "sim/status"
        try:
            answer = self._json(endpoint)
        except _NotFound:
            return None
        speed, cameras = answer.get("speed"), answer.get("cameras")
        if not isinstance(answer.get("success"), bool):
            raise self._misfit(endpoint, answer, "success", "true or false")
        if not isinstance(speed, float) or not (speed == 0 or SLOWEST <= speed <= FASTEST):
            raise self._misfit(endpoint, answer, "speed", f"0 or a number in [{SLOWEST:g}, {FASTEST:g}]")
        if not isinstance(cameras, dict) or len(cameras) > _MOST_CAMERAS or not all(map(_is_camera, cameras.items())):
            raise self._misfit(endpoint, answer, "cameras", "names of cameras with height and width")
        arrays = [self._numbers(endpoint, answer, name, count) for name, count in _TRUE_COUNTS.items()]
        if not all(np.isfinite(array).all() for array in arrays):
            raise RobotError(f"{self.url}/{endpoint} must give finite numbers, found {reprlib.repr(answer)}")
        return answer | {"cameras": {name: (int(height), int(width)) for name, (height, width) in cameras.items()}}

    def new_simulated_episode(self, seed: int) -> None:
        self._call("sim/reset", {"seed": seed})

    def images(self, shapes: Mapping[str, tuple[int, int]]) -> dict[str, UInt8[np.ndarray, "height width 3"]]:
        """RGB images of a simulated server; `shapes` from `truth`."""
        sizes = {name: 3 * height * width for name, (height, width) in shapes.items()}
        answer = self._call("images", largest=_LARGEST_ANSWER + sum(sizes.values()))
        frames = {}
        for name, shape in shapes.items():
            try:
                frames[name] = _image(answer, name, shape)
            except Exception as error:
                # A zip file can be wrong in as many ways as there are exceptions.
                raise RobotError(
                    f"{self.url}/images must answer with a picture {name} of {shape[0]} x {shape[1]} pixels: "
                    f"{_printable(str(error) or type(error).__name__)}"
                ) from error
        return frames

    def _json(self, endpoint: str) -> dict[str, Any]:
        """A JSON object; every number is a float, too large ones infinity."""
        answer = self._call(endpoint)
        try:
            parsed = json.loads(answer, parse_int=float)
        except (ValueError, RecursionError):
            parsed = None
        if not isinstance(parsed, dict):
            raise RobotError(f"{self.url}/{endpoint} must answer with a JSON object, found {answer[:80]!r}")
        return parsed

    def _numbers(
        self, endpoint: str, answer: Mapping[str, Any], name: str, count: int
    ) -> Float64[np.ndarray, " count"]:
        numbers = answer.get(name)
        if (
            not isinstance(numbers, list)
            or len(numbers) != count
            or not all(isinstance(each, float) for each in numbers)
        ):
            raise self._misfit(endpoint, answer, name, f"{count} numbers")
        return np.array(numbers, np.float64)

    def _misfit(self, endpoint: str, answer: Mapping[str, Any], name: str, expected: str) -> RobotError:
        return RobotError(
            f"{self.url}/{endpoint} must give {name} as {expected}, found {reprlib.repr(answer.get(name))}"
        )

    def _call(
        self,
        endpoint: str,
        body: Any = None,
        attempts: int | None = None,
        deadline: float | None = None,
        largest: int = _LARGEST_ANSWER,
    ) -> bytes:
        """The first answer that is no server error, or the last attempt's.

        Raises:
            RobotError: its status is not 200 (`_NotFound`: 404), or none came.
        """
        deadline = deadline or self._deadline
        tries = attempts or self._attempts
        content = b"" if body is None else json.dumps(body).encode()
        with self._lock:
            if tries == 1:
                # Only a try shows whether a kept connection still works.
                self._connection.hang_up()
            for attempt in range(1, tries + 1):
                try:
                    status, answer = self._connection.post(f"/{endpoint}", content, deadline, largest)
                except OSError as error:
                    if attempt == tries:
                        raise RobotError(self._failure(endpoint, error, deadline, tries)) from error
                else:
                    if status < 500 or attempt == tries:
                        break
                time.sleep(_PAUSE)
        if status != 200:
            said = _printable(answer[:200].decode(errors="replace"))
            kind = _NotFound if status == 404 else RobotError
            raise kind(f"{self.url}/{endpoint} must answer with status 200, found {status} ({said})")
        return answer

    def _failure(self, endpoint: str, error: OSError, deadline: float, tries: int) -> str:
        where = f"{self.url}/{endpoint}"
        attempts = "1 attempt" if tries == 1 else f"{tries} attempts"
        if isinstance(error, TimeoutError):
            return f"{where} must answer within {deadline:g} s, and did not in {attempts}"
        return f"{where} can't be reached in {attempts}: {_printable(str(error) or type(error).__name__)}"


def _is_camera(entry: tuple[str, Any]) -> bool:
    name, shape = entry
    sizes = shape if isinstance(shape, list) and len(shape) == 2 else [None]
    fit = all(isinstance(size, float) and size.is_integer() and 8 <= size <= _LARGEST_IMAGE for size in sizes)
    return fit and name.isidentifier() and name != STATE


def _image(answer: bytes, name: str, shape: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
    """One image of an `.npz`, unpacked no further than its size allows."""
    size = 3 * shape[0] * shape[1]
    with ZipFile(BytesIO(answer)) as archive, archive.open(f"{name}.npy") as member:
        content = BytesIO(member.read(size + _LARGEST_ARRAY_HEADER))
    if np.lib.format.read_magic(content) != (1, 0):
        raise ValueError("it is written in an unknown form")
    found = np.lib.format.read_array_header_1_0(content)
    pixels = content.read()
    if found != ((*shape, 3), False, np.dtype(np.uint8)) or len(pixels) != size:
        raise ValueError(f"found shape {found[0]}, type {found[2]}, {len(pixels)} bytes")
    return np.frombuffer(bytearray(pixels), np.uint8).reshape(*shape, 3)


def _printable(said: str) -> str:
    """The beginning of a foreign text, on one line."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(said[:200].split()))
