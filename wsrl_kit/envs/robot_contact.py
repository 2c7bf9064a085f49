"""Contact with a robot: readings that make sense, and a robot that is told to hold when there are none."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil, pi

import numpy as np
from jaxtyping import Float

from wsrl_kit.envs.control_clock import ControlClock
from wsrl_kit.envs.poses import apart, between
from wsrl_kit.envs.robot_client import RobotClient, RobotState
from wsrl_kit.envs.safety_box import SafetyBox
from wsrl_kit.errors import RobotError

SPEED, TURN_SPEED = 0.1, 0.5
"""Of the ways that `go` takes, m/s and rad/s."""
FARTHEST = 5.0
"""Metres from the safety box beyond which no arm can be, so that no way is longer."""
LARGEST_NUMBER = 1e6
"""Of any unit; what is greater is no measurement, and its squares would overflow a float32."""


class Contact:
    """What is known of a robot, and the ways to move it that are no action of a policy.

    Args:
        client: of its server.
        box: where a policy may move it.
        margin: m and rad outside the box at which a reading is not believed, and the robot not moved.
        clock: paces the commands.

    Attributes:
        reading: the last one; None where contact was lost or not yet made.
    """

    def __init__(self, client: RobotClient, box: SafetyBox, margin: tuple[float, float], clock: ControlClock) -> None:
        self._client, self._box, self._margin, self._clock = client, box, margin, clock
        self.reading: RobotState | None = None

    def read(self, *, anywhere: bool = False) -> RobotState:
        """A reading that makes sense, at the second attempt at the latest; it becomes `reading`.

        Args:
            anywhere: the robot may be outside the box, as before and during a reset.

        Raises:
            RobotError: the server fails, or its answer has numbers that are not finite or too large, no unit
                quaternion, or a pose outside the box.
        """
        reading = self._client.state()
        if self._problem(reading, anywhere):
            reading = self._client.state()
        if problem := self._problem(reading, anywhere):
            raise RobotError(f"{self._client.url}/getstate {problem}")
        self.reading = reading
        return reading

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """On any error: command a hold; a RobotError's message then says what came of that."""
        try:
            yield
        except RobotError as error:
            raise RobotError(f"{error}; {self.let_go()}") from error
        except BaseException:
            self.let_go()
            raise

    def let_go(self) -> str:
        """Command a hold where the robot was last seen, once, and forget the reading; says what came of it."""
        last, self.reading = self.reading, None
        if last is None:
            return "where it is was never seen"
        try:
            self._client.command(last.pose, attempts=1)
        except RobotError:
            return "nor could it be told to hold: it stays at its last command"
        return "it was told to hold where it was last seen"

    def go(self, goal: Float[np.ndarray, "7"], settling: float = 0.0) -> RobotState:
        """Straight from the last reading to `goal`, which is in the box, in a second at least.

        From outside the box the way leads straight in; from inside it stays there.

        Args:
            goal: x, y, z, m, and a quaternion.
            settling: seconds that the robot is given at the end.
        """
        assert self.reading is not None
        start = self.reading.pose
        inside = max(self._box.excess(start)) == 0
        distance, angle = apart(start, goal)
        steps = ceil(max(1.0, distance / SPEED, angle / TURN_SPEED) * self._clock.frequency)
        for step in range(1, steps + ceil(settling * self._clock.frequency) + 1):
            pose = between(start, goal, min(step / steps, 1.0))
            # Between two rotations within limits of Euler angles may lie one that is not.
            self._client.command(self._box.clip(pose) if inside else pose)
            self._clock.wait()
        return self.read(anywhere=True)

    def _problem(self, reading: RobotState, anywhere: bool) -> str | None:
        for name, value in vars(reading).items():
            if not (np.abs(value) <= LARGEST_NUMBER).all():
                shown = np.array(value).tolist()
                return f"must give finite numbers, found {name} {shown} (at most {LARGEST_NUMBER:g} is believed)"
        if abs(np.linalg.norm(reading.pose[3:]) - 1) > 0.01:
            return f"must give a pose with a quaternion of length 1, found {reading.pose[3:].tolist()}"
        distance, angle = self._box.excess(reading.pose)
        far, turned = (FARTHEST, pi) if anywhere else self._margin
        if distance > far or angle > turned:
            return (
                f"must give a pose within {far:g} m and {turned:.3g} rad of the safety box, found one {distance:.3f} m "
                f"and {angle:.2f} rad outside"
            )
        return None
