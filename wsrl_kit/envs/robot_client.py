"""HIL-SERL's robot server as seen by its client: calls with deadlines, and what they answer, checked."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from io import BytesIO
from threading import Lock
from typing import Any
from urllib.parse import urlsplit
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float, Float64, UInt8

from wsrl_kit.errors import ParameterError, RobotError

_SHAPES = {
    "pose": (7,),
    "vel": (6,),
    "force": (3,),
    "torque": (3,),
    "q": (7,),
    "dq": (7,),
    "jacobian": (6, 7),
    "gripper_pos": (),
}
_PAUSE = 0.02
"""Seconds between two attempts."""
_NOT_FOUND = 404


@dataclass(frozen=True)
class RobotState:
    """One answer of `/getstate`, in the robot's base frame where nothing else is said; its numbers may be nonsense.

    Attributes:
        pose: of the tool: x, y, z, m, and quaternion (x, y, z, w).
        velocity: of the tool, m/s and rad/s.
        force: on the tool, in its own frame, N.
        torque: on the tool, in its own frame, N m.
        joint_positions: rad.
        joint_velocities: rad/s.
        jacobian: tool velocity from joint velocities.
        gripper_position: 0 (closed) to 1 (open).
    """

    pose: Float64[np.ndarray, "7"]
    velocity: Float64[np.ndarray, "6"]
    force: Float64[np.ndarray, "3"]
    torque: Float64[np.ndarray, "3"]
    joint_positions: Float64[np.ndarray, "7"]
    joint_velocities: Float64[np.ndarray, "7"]
    jacobian: Float64[np.ndarray, "6 7"]
    gripper_position: float


class RobotClient:
    """One connection to a robot server, kept alive and opened again when it breaks; any thread may call.

    What may be done twice (reading, commanding a pose, parameters, clearing errors) is tried again; everything else is
    tried once, on a new connection. An attempt that was not answered in time closes the connection, so that its late
    answer is never taken for that of the next call.

    Args:
        url: of the server, "http://host:port".
        deadline: seconds in which an attempt must be answered.
        retries: further attempts, for what may be done twice.

    Raises:
        ParameterError: the url is none.
    """

    def __init__(self, url: str, deadline: float = 1.0, retries: int = 2) -> None:
        address = urlsplit(url)
        try:
            host, port = address.hostname, address.port or 80
        except ValueError:
            host = None
        if address.scheme != "http" or not host or address.path.strip("/") or address.query:
            raise ParameterError(f"robot_url must be like 'http://127.0.0.1:5000', found {url!r}")
        self.url = f"http://{host}:{port}"
        self._connection = HTTPConnection(host, port)
        self._deadline = deadline
        self._attempts = 1 + retries
        self._lock = Lock()

    def close(self) -> None:
        """Hang up; the next call connects again."""
        with self._lock:
            self._connection.close()

    def state(self) -> RobotState:
        """What the robot measures now.

        Raises:
            RobotError: as every method: no answer in time, an error status, or an answer of another form.
        """
        answer = self._json("getstate")
        read = {}
        for name, shape in _SHAPES.items():
            try:
                read[name] = np.array(answer[name], np.float64).reshape(shape)
            except (KeyError, TypeError, ValueError) as error:
                numbers = " x ".join(map(str, shape)) or "1"
                raise RobotError(
                    f"{self.url}/getstate must give {name} as {numbers} numbers, found {str(answer.get(name))[:80]}"
                ) from error
        return RobotState(
            read["pose"],
            read["vel"],
            read["force"],
            read["torque"],
            read["q"],
            read["dq"],
            read["jacobian"],
            float(read["gripper_pos"]),
        )

    def command(self, pose: Float[np.ndarray, "7"], attempts: int | None = None) -> None:
        """Make `pose` (x, y, z, m, and quaternion) the equilibrium of the impedance controller."""
        self._call("pose", {"arr": pose.tolist()}, attempts)

    def set_parameters(self, parameters: Mapping[str, float]) -> None:
        """Set compliance parameters of the impedance controller."""
        self._call("update_param", dict(parameters))

    def clear_errors(self) -> None:
        """Let the robot go on after a reflex or another error."""
        self._call("clearerr")

    def reset_joints(self, deadline: float = 60.0) -> None:
        """Move the joints to their reset position, which takes a real robot many seconds."""
        self._call("jointreset", attempts=1, deadline=deadline)

    def move_gripper(self, opened: bool) -> None:
        """Open or close the gripper."""
        self._call("open_gripper" if opened else "close_gripper", attempts=1)

    def truth(self) -> dict[str, Any] | None:
        """What a simulated server says of itself (`SimulatedArm.truth`); None from any other."""
        status, answer = self._answer("sim/status")
        return None if status == _NOT_FOUND else self._parsed("sim/status", self._good("sim/status", status, answer))

    def new_simulated_episode(self, seed: int) -> None:
        """Have a simulated server draw its hole anew, and its arm stand above."""
        self._call("sim/reset", {"seed": seed})

    def images(self) -> dict[str, UInt8[np.ndarray, "height width 3"]]:
        """What the cameras of a simulated server see now."""
        answer = self._call("images")
        try:
            with np.load(BytesIO(answer), allow_pickle=False) as arrays:
                return {name: arrays[name] for name in sorted(arrays.files)}
        except (ValueError, OSError, BadZipFile) as error:
            raise RobotError(f"{self.url}/images must answer with pictures, found {answer[:40]!r}") from error

    def _json(self, endpoint: str) -> dict[str, Any]:
        return self._parsed(endpoint, self._call(endpoint))

    def _parsed(self, endpoint: str, answer: bytes) -> dict[str, Any]:
        try:
            parsed = json.loads(answer)
        except ValueError:
            parsed = None
        if not isinstance(parsed, dict):
            raise RobotError(f"{self.url}/{endpoint} must answer with a JSON object, found {answer[:80]!r}")
        return parsed

    def _call(
        self, endpoint: str, body: Any = None, attempts: int | None = None, deadline: float | None = None
    ) -> bytes:
        return self._good(endpoint, *self._answer(endpoint, body, attempts, deadline))

    def _good(self, endpoint: str, status: int, answer: bytes) -> bytes:
        if status != 200:
            said = " ".join(answer[:200].decode(errors="replace").split())
            raise RobotError(f"{self.url}/{endpoint} must answer with status 200, found {status} ({said})")
        return answer

    def _answer(
        self, endpoint: str, body: Any = None, attempts: int | None = None, deadline: float | None = None
    ) -> tuple[int, bytes]:
        """Status and body of the first answer that is no failure of the server, or else of the last attempt's."""
        deadline = deadline or self._deadline
        tries = attempts or self._attempts
        with self._lock:
            if tries == 1:
                # A connection kept alive may have ended since, which only trying it would show.
                self._connection.close()
            for attempt in range(1, tries + 1):
                last = attempt == tries
                try:
                    status, answer = self._exchange(endpoint, body, deadline)
                except (OSError, HTTPException) as error:
                    self._connection.close()
                    if last:
                        raise RobotError(self._failure(endpoint, error, deadline, tries)) from error
                except BaseException:
                    # An interrupt: no half-read answer may be left for the next call.
                    self._connection.close()
                    raise
                else:
                    if status < 500 or last:
                        return status, answer
                time.sleep(_PAUSE)
        raise AssertionError("every attempt returns or raises")

    def _exchange(self, endpoint: str, body: Any, deadline: float) -> tuple[int, bytes]:
        end = time.monotonic() + deadline
        connection = self._connection
        connection.timeout = deadline
        if connection.sock is not None:
            connection.sock.settimeout(deadline)
        content, headers = None, {}
        if body is not None:
            content, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
        connection.request("POST", f"/{endpoint}", content, headers)
        response = connection.getresponse()
        answer = response.read()
        if time.monotonic() > end:
            # The socket's timeout is for each packet; an answer that trickles in is late all the same.
            raise TimeoutError
        return response.status, answer

    def _failure(self, endpoint: str, error: Exception, deadline: float, tries: int) -> str:
        where = f"{self.url}/{endpoint}"
        attempts = "1 attempt" if tries == 1 else f"{tries} attempts"
        if isinstance(error, TimeoutError):
            return f"{where} must answer within {deadline:g} s, and did not in {attempts}"
        return f"{where} can't be reached in {attempts}: {str(error) or type(error).__name__}"
