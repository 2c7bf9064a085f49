"""Devices by which a person moves the robot, other than the pad in the browser.

Another one, such as a leader arm, is a class with the two methods of `Device`.
"""

import os
import select
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from wsrl_kit.errors import ExperimentError, ParameterError, RobotError

MOTION_SIZE = 7
"""A motion: along x, y, z, around x, y, z, and the gripper (-1 closes, 1 opens, as in HIL-SERL)."""

Motion = Float32[np.ndarray, "7"]


class Verdict(StrEnum):
    """How a person ends an episode, and what becomes of it while episodes are recorded."""

    SUCCESS = "success"
    FAILURE = "failure"
    ABORT = "abort"
    KEEP = "keep"
    DISCARD = "discard"
    REDO = "redo"


@runtime_checkable
class Device(Protocol):
    """A source of motions and verdicts, asked at every step."""

    def read(self, gripper: bool) -> tuple[Motion | None, Verdict | None]:
        """The motion held now (None: none; all 0: stay) and the verdict since the last call.

        Args:
            gripper: the task has one, which buttons may move.

        Raises:
            RobotError: the device is gone; a later call may find it again.
        """

    def close(self) -> None:
        """Give the device back."""


_DEAD_ZONE = 0.05
"""Of the cap's way, in which it rests."""
_SEARCH_SECONDS = 1.0
"""Between two looks for a device that is gone."""


class SpaceMouse:
    """A 3Dconnexion SpaceMouse; forward is +x, left +y, up +z.

    Without a gripper the left button is a success, the right one a failure, and both together redo the episode. With
    one, left closes it and right opens it, as in HIL-SERL.

    Args:
        open_device: gives an object with the methods of PySpaceMouse's.

    Raises:
        ExperimentError: the package is missing.
        RobotError: there is no such device, or no permission.
    """

    def __init__(self, open_device: Callable[[], Any] | None = None) -> None:
        self._open = open_device or _open_spacemouse
        self._device: Any = None
        self._pressed = [False, False]
        self._search_at = 0.0
        self._newest()

    def read(self, gripper: bool) -> tuple[Motion | None, Verdict | None]:
        state = self._newest()
        held = [bool(button) for button in state.buttons[:2]]
        motion = np.array([state.x, state.y, state.z, state.roll, state.pitch, state.yaw, 0.0], np.float32)
        motion[np.abs(motion) < _DEAD_ZONE] = 0.0
        if gripper:
            motion[6] = held[1] - held[0]
        return (motion if motion.any() else None), (None if gripper else self._verdict(held))

    def close(self) -> None:
        # A device that is gone can't be closed.
        with suppress(Exception):
            self._device.close()
        self._device = None

    def _newest(self) -> Any:
        try:
            if self._device is None:
                if time.monotonic() < self._search_at:
                    raise OSError("it is not there")
                self._search_at = time.monotonic() + _SEARCH_SECONDS
                self._device = self._open()
            # Each call takes one of the reports that wait, and gives an old state where none does.
            state, seen = self._device.read(), None
            while seen != state.t:
                seen, state = state.t, self._device.read()
        except ExperimentError:
            raise
        except Exception as error:  # drivers have no common error
            self.close()
            raise RobotError(f"the SpaceMouse can't be read: {error} (docs/human.md says what it needs)") from error
        return state

    def _verdict(self, held: list[bool]) -> Verdict | None:
        """What was pressed, once all is let go."""
        self._pressed = [before or now for before, now in zip(self._pressed, held, strict=True)]
        if any(held) or not any(self._pressed):
            return None
        left, right = self._pressed
        self._pressed = [False, False]
        return Verdict.REDO if left and right else Verdict.SUCCESS if left else Verdict.FAILURE


def _open_spacemouse() -> Any:
    try:
        import pyspacemouse
    except ImportError as error:
        raise ExperimentError(
            "a SpaceMouse needs a package that `pip install 'wsrl-kit[spacemouse]'` installs"
        ) from error
    return pyspacemouse.open(axis_convention=pyspacemouse.AxisConvention.ROS)


KEYS = {
    key: (entry, sign)
    for entry, pair in enumerate(("ws", "ad", "rf", "jl", "ik", "uo", "vc"))
    for key, sign in zip(pair, (1.0, -1.0), strict=True)
} | {" ": (0, 0.0)}
"""Entry and sign of a motion by key, as on the pad."""
VERDICT_KEYS = {"y": Verdict.SUCCESS, "n": Verdict.FAILURE, "\n": Verdict.KEEP, "x": Verdict.DISCARD, "z": Verdict.REDO}
_KEY_SECONDS = 0.15
"""For which a key counts: a terminal repeats held keys, and does not say when one is let go."""
_KEY_SPEED = 0.5


class TerminalKeys:
    """Keys of the terminal that this process runs in: verdicts, and motions too if they are wanted.

    Raises:
        ParameterError: there is no terminal.
    """

    def __init__(self, moves: bool) -> None:
        if not sys.stdin.isatty():
            raise ParameterError("episodes are kept or discarded by keys: recording needs a terminal, found none")
        import termios  # no Windows has it
        import tty

        self._moves = moves
        self._motion: Motion | None = None
        self._pressed_at = 0.0
        self._input = sys.stdin.fileno()
        before = termios.tcgetattr(self._input)
        self._restore = lambda: termios.tcsetattr(self._input, termios.TCSADRAIN, before)
        tty.setcbreak(self._input)

    def read(self, gripper: bool) -> tuple[Motion | None, Verdict | None]:
        verdict = None
        while select.select([self._input], [], [], 0)[0] and (typed := os.read(self._input, 100)):
            for key in typed.decode(errors="ignore"):
                verdict = VERDICT_KEYS.get(key.lower(), verdict)
                if self._moves and key.lower() in KEYS:
                    entry, sign = KEYS[key.lower()]
                    self._motion, self._pressed_at = np.zeros(MOTION_SIZE, np.float32), time.monotonic()
                    self._motion[entry] = sign if entry == 6 else _KEY_SPEED * sign
        if time.monotonic() - self._pressed_at > _KEY_SECONDS:
            self._motion = None
        return self._motion, verdict

    def close(self) -> None:
        self._restore()
