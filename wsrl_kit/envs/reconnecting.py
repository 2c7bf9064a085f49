"""What training does when contact with the robot is lost: it waits, says so, and goes on with the next episode."""

import logging
import time
from typing import Any

import gymnasium

from wsrl_kit.envs.robot import RobotEnv
from wsrl_kit.errors import RobotError

LOGGER = logging.getLogger("wsrl_kit")

CONTACT_LOST = "contact_lost"
"""Key of `info`, True for a step whose outcome nobody saw: it is no transition."""

PAUSE = 1.0
"""Seconds between two attempts to connect."""


def reconnecting(environment: gymnasium.Env) -> gymnasium.Env:
    """The environment, which waits for its robot if it is `hirol_robot`; any other as it is."""
    robot = environment.unwrapped
    return Reconnecting(environment, robot) if isinstance(robot, RobotEnv) else environment


class Reconnecting(gymnasium.Wrapper):
    """Ends an episode in which contact was lost (truncated, `info["contact_lost"]`) as soon as there is contact again.

    The robot has been told to hold by then, if it could be.

    Args:
        environment: the robot in any wrappers.
        robot: itself; its `reconnect_seconds` are how long it is waited for.
    """

    def __init__(self, environment: gymnasium.Env, robot: RobotEnv) -> None:
        super().__init__(environment)
        self._robot = robot
        self._patience = robot.options.reconnect_seconds
        self._last: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode, if need be once there is contact again.

        Raises:
            RobotError: there was none for too long.
        """
        try:
            self._last, info = self.env.reset(seed=seed, options=options)
        except RobotError as error:
            self._wait(error)
            self._last, info = self.env.reset(seed=seed, options=options)
        return self._last, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step; one whose outcome was not seen gives the last observation again.

        Raises:
            RobotError: contact was lost for too long.
        """
        try:
            self._last, reward, terminated, truncated, info = self.env.step(action)
        except RobotError as error:
            self._wait(error)
            return self._last, 0.0, False, True, {CONTACT_LOST: True}
        return self._last, reward, terminated, truncated, info

    def _wait(self, error: RobotError) -> None:
        LOGGER.warning("contact with the robot is lost, training pauses: %s", error)
        deadline = time.monotonic() + self._patience
        while True:
            try:
                self._robot.reconnect()
            except RobotError as still:
                if time.monotonic() > deadline:
                    raise RobotError(f"no contact with the robot for {self._patience:g} s: {still}") from still
                time.sleep(min(PAUSE, self._patience))
            else:
                LOGGER.warning("there is contact with the robot again, training goes on with the next episode")
                return
