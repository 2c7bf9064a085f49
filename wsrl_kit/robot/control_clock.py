"""When the next control step is due."""

import time

SLOWEST, FASTEST = 0.01, 1000.0
"""Simulated seconds per second; 0 is lockstep."""


class ControlClock:
    """Deadlines one period apart, by the monotonic clock.

    Args:
        frequency: steps per second of the robot.
        speed: its seconds per second; 0: lockstep, no waiting.

    Attributes:
        period: s of the clock; 0: lockstep.
        overruns: late steps since `restart`.
    """

    def __init__(self, frequency: float, speed: float = 1.0) -> None:
        self.frequency = frequency
        self.period = 1 / frequency / speed if speed else 0.0
        self.restart()

    def restart(self) -> None:
        """Gives the next step a whole period from now."""
        self.overruns = 0
        self._due: float | None = None

    def wait(self) -> None:
        """Sleeps until this step's deadline; a late step gets a whole period, so that its command has time to act."""
        if self.period == 0:
            return
        now = time.monotonic()
        due = now + self.period if self._due is None else self._due + self.period
        if due <= now:
            self.overruns += 1
            due = now + self.period
        self._due = due
        time.sleep(due - now)
