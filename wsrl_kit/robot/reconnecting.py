"""A robot that stops answering: wait for contact, then go on with the next episode."""

import logging
import time
from typing import Any

import gymnasium

from wsrl_kit.errors import RobotError
from wsrl_kit.robot.environment import RobotEnv

LOGGER = logging.getLogger("wsrl_kit")


CONTACT_LOST = "contact_lost"
"""`info`: why a step's outcome was not seen; it is no transition."""


_PAUSE = 1.0
"""Seconds between two attempts."""


def reconnecting(environment: gymnasium.Env) -> gymnasium.Env:
    """`Reconnecting` around `hirol_robot`; others unchanged."""
    robot = environment.unwrapped
    return Reconnecting(environment, robot) if isinstance(robot, RobotEnv) else environment


class Reconnecting(gymnasium.Wrapper):
    """On lost contact: waits until it is back, then ends the episode (truncated, `info["contact_lost"]`).

    Raises RobotError after `reconnect_seconds` without contact.
    """

    def __init__(self, environment: gymnasium.Env, robot: RobotEnv) -> None:
        super().__init__(environment)
        self._robot = robot
        self._patience = robot.options.reconnect_seconds
        self._last: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        try:
            self._last, info = self.env.reset(seed=seed, options=options)
        except RobotError as error:
            self._wait(error)
            self._last, info = self.env.reset(seed=seed, options=options)
        return self._last, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Returns the last observation again if the outcome was not seen."""
        try:
            self._last, reward, terminated, truncated, info = self.env.step(action)
        except RobotError as error:
            self._wait(error)
            return self._last, 0.0, False, True, {CONTACT_LOST: str(error)}
        return self._last, reward, terminated, truncated, info

    def _wait(self, error: RobotError) -> None:
        LOGGER.warning("contact with the robot is lost, the work pauses: %s", error)
        deadline = time.monotonic() + self._patience
        while True:
            try:
                self._robot.reconnect()
            except RobotError as still:
                if time.monotonic() > deadline:
                    raise RobotError(f"no contact with the robot for {self._patience:g} s: {still}") from still
                time.sleep(min(_PAUSE, self._patience))
            else:
                LOGGER.warning("there is contact with the robot again, the work goes on with the next episode")
                return
