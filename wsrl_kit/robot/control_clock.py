"""When the next control step is due."""

import time

SLOWEST, FASTEST = 0.01, 1000.0
"""A simulated robot's seconds per second, where they are not 0: no step then takes longer than anyone waits for."""


class ControlClock:
    """Deadlines one period apart, by the monotonic clock: a step's own work does not make the steps slower.

    Args:
        frequency: control steps per second of the robot.
        speed: the robot's seconds per second: 1 but for a simulated one, and 0 where nobody need wait (lockstep).

    Attributes:
        frequency: as given.
        overruns: steps since the last `restart` whose deadline had passed before they came to wait for it.
    """

    def __init__(self, frequency: float, speed: float = 1.0) -> None:
        self.frequency = frequency
        self._period = 1 / frequency / speed if speed else 0.0
        self.restart()

    def restart(self) -> None:
        """Forget what was due; the first step from now has a whole period."""
        self.overruns = 0
        self._due: float | None = None

    def wait(self) -> None:
        """Sleep until this step's deadline.

        A step that comes too late counts as an overrun and gets a whole period of its own, so that what was commanded
        has its time to happen; the steps after it follow from there.
        """
        if self._period == 0:
            return
        now = time.monotonic()
        due = now + self._period if self._due is None else self._due + self._period
        if due <= now:
            self.overruns += 1
            due = now + self._period
        self._due = due
        time.sleep(due - now)
