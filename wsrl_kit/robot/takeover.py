"""A person at the pad: acts in the policy's place while holding a key, and confirms successes."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float32, UInt8

from wsrl_kit.envs.human import HELD, INTERVENTION, PersonOptions
from wsrl_kit.envs.wrappers import STATE, TASK_SUCCESS
from wsrl_kit.errors import ExperimentError, ParameterError
from wsrl_kit.robot.environment import RobotEnv

MOTION_SIZE = 7
"""Entries of a motion: along x, y and z, around x, y and z, and the gripper (-1 closes, 1 opens, as in HIL-SERL)."""

_ENTRIES = {3: (0, 1, 2), 4: (0, 1, 2, 6), 6: (0, 1, 2, 3, 4, 5), 7: (0, 1, 2, 3, 4, 5, 6)}
"""By size of the action: which entries of a motion it is made of."""

PERIOD = 0.1
"""Seconds that a step takes at least beside a person, for a robot that waits for nobody: 10 Hz, as real ones."""

LISTENING = 0.02
"""Seconds between two looks for the answer to a question."""

Frames = Mapping[str, UInt8[np.ndarray, "height width 3"]]


class Verdict(StrEnum):
    """How a person ends an episode."""

    SUCCESS = "success"
    FAILURE = "failure"
    ABORT = "abort"


class Takeover:
    """What passes between a person's pad and the robot's loop; each side may be in a thread of its own.

    A dead man's switch: what is held counts for `late_seconds` after the moment that the pad has last seen. The pad
    answers with the time that it was last told, so that no message that waited somewhere on its way keeps a robot
    moving, nor a pad that says nothing more: its browser was closed, or the network is gone.

    Nobody knows then what the person wants, so the robot holds until the pad says so in time: that a key is held, or
    that none is any more. With `late="policy"` the policy acts instead.

    Args:
        options: when a word is late, and who acts then.
        clock: seconds from any moment on; never goes back.

    Attributes:
        frames: what each camera saw last, by name; empty where there are none.
        asks: whether the robot waits for the person to say whether this is a success.
    """

    def __init__(self, options: PersonOptions | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.frames: Frames = {}
        self.asks = False
        self._options = options or PersonOptions()
        self._clock = clock
        self._lock = threading.Lock()
        self._motion: Float32[np.ndarray, 7] | None = None
        self._is_late = False
        self._seen = 0.0
        self._verdict: Verdict | None = None

    def now(self) -> float:
        """The time to tell the pad."""
        return self._clock()

    def hold(self, motion: Sequence[float], seen: float) -> None:
        """From the pad: the person acts.

        Args:
            motion: `MOTION_SIZE` numbers; what is beyond [-1, 1] is clipped. All 0: the robot shall stay.
            seen: the time that the pad was last told.
        """
        with self._lock:
            self._motion = np.clip(np.array(motion, np.float32), -1.0, 1.0)
            self._seen = min(seen, self._clock())
            self._is_late = False

    def release(self) -> None:
        """From the pad: the person acts no more."""
        with self._lock:
            self._motion, self._is_late = None, False

    def decide(self, verdict: Verdict) -> None:
        """From the pad: the episode is over, and holds for the step under way; or the answer, where it is asked."""
        with self._lock:
            self._verdict = verdict

    def motion(self) -> Float32[np.ndarray, "7"] | None:
        """For the robot: what the person does now; None where they do nothing, or nobody knows what: see `holds`."""
        with self._lock:
            return self._heard()

    @property
    def holds(self) -> bool:
        """For the robot: whether it shall hold, since the pad's word is late while something was held."""
        with self._lock:
            self._heard()
            return self._is_late and self._options.late == "hold"

    def _heard(self) -> Float32[np.ndarray, "7"] | None:
        # Forgotten for good, lest a clock's jump or a late message bring it back.
        if self._motion is not None and self._clock() - self._seen > self._options.late_seconds:
            self._motion, self._is_late = None, True
        return self._motion

    def show(self, observation: Any) -> None:
        """From the robot: what the cameras see now."""
        if isinstance(observation, Mapping):
            # Copied, since the pad draws them while the environment may use its arrays again.
            self.frames = {name: observation[name][-1].copy() for name in observation if name != STATE}

    def ask(self, observation: Any, give_up: Callable[[], bool]) -> bool | None:
        """For the robot: whether the person says that this is a success, for which it waits; it ends no episode.

        None where they abort the episode instead, which still holds for the step under way, or where it is given up.
        """
        self.show(observation)
        self.take_verdict()
        self.asks = True
        try:
            while not give_up():
                with self._lock:
                    verdict = self._verdict
                    if verdict is Verdict.ABORT:
                        return None
                    self._verdict = None
                if verdict is not None:
                    return verdict is Verdict.SUCCESS
                time.sleep(LISTENING)
            return None
        finally:
            self.asks = False

    def take_verdict(self) -> Verdict | None:
        """For the robot: what the person has said since the last call."""
        with self._lock:
            verdict, self._verdict = self._verdict, None
            return verdict


class HumanTakeover(gymnasium.Wrapper):
    """Carries out a person's motion in place of the policy's action while they hold one, and ends episodes for them.

    `info["intervene_action"]`, float32 in [-1, 1], is there at every step that the person acted in. Where their word is
    late, the robot stands still (an action of zeros), and `info["held_action"]` is there instead: what was done is
    recorded, but as no one's intervention, since nobody chose it and a policy shall not learn to stop halfway.

    A success is reward 1 and ends the episode (terminated), whatever the task says of that step; a failure is reward 0
    and ends it too. Both are `info["success"]`. An abort truncates it and leaves the step as it was. What was said
    between two episodes holds for neither. Time limits lie inside and end an episode whoever is in charge.

    Args:
        environment: from `make`, with whatever gives the reward.
        takeover: between it and the pad.
        period: seconds between two steps at least.

    Raises:
        ParameterError: the pad can't make this task's actions.
    """

    def __init__(self, environment: gymnasium.Env, takeover: Takeover, period: float = 0.0) -> None:
        super().__init__(environment)
        (size,) = environment.action_space.shape or (0,)
        if size not in _ENTRIES:
            raise ParameterError(
                f"human 'person' needs a task whose actions are x, y, z, with or without rotations and a gripper "
                f"({', '.join(map(str, _ENTRIES))} numbers), found {size}"
            )
        self._entries = list(_ENTRIES[size])
        self._takeover = takeover
        self._period = period
        self._last_step = -np.inf

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._takeover.take_verdict()
        self._takeover.show(observation)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        time.sleep(max(0.0, self._last_step + self._period - time.monotonic()))
        self._last_step = time.monotonic()
        motion = self._takeover.motion()
        taken: dict[str, Any] = {}
        if motion is not None:
            taken = {INTERVENTION: motion[self._entries]}
        elif self._takeover.holds:
            taken = {HELD: np.zeros(len(self._entries), np.float32)}
        observation, reward, terminated, truncated, info = self.env.step(next(iter(taken.values()), action))
        info = info | taken
        self._takeover.show(observation)
        match self._takeover.take_verdict():
            case Verdict.SUCCESS:
                reward, terminated, info = 1.0, True, info | {"success": True}
            case Verdict.FAILURE:
                reward, terminated, info = 0.0, True, info | {"success": False}
            case Verdict.ABORT:
                truncated = True
        return observation, reward, terminated, truncated, info


def beside_person(environment: gymnasium.Env, takeover: Takeover) -> gymnasium.Env:
    """The environment with a person beside it, who can follow: a simulation in this process waits for real time.

    Raises:
        ParameterError: the pad can't make this task's actions.
    """
    # The robot keeps time by itself.
    is_robot = isinstance(environment.unwrapped, RobotEnv)
    return HumanTakeover(environment, takeover, 0.0 if is_robot else PERIOD)


Confirm = Callable[[Any, dict[str, Any]], bool | None]
"""From an observation and the step's info: whether the task is done; None where nobody has said so or so."""


def by_task(environment: gymnasium.Env) -> Confirm:
    """The task's own word, which a simulation has, and a robot with a `target_pose`.

    Raises:
        ExperimentError: this robot does not know; the function that is returned, of another task that does not.
    """
    sentence = (
        "confirm_success needs somebody who knows whether the task is done: human 'person' at the pad of "
        "02_robot_finetune.ipynb, or a task that reports success"
    )
    robot = environment.unwrapped
    if isinstance(robot, RobotEnv) and not robot.knows_success:
        raise ExperimentError(f"{sentence}, and the robot at {robot.client.url} does not")

    def confirm(observation: Any, info: dict[str, Any]) -> bool | None:
        if TASK_SUCCESS not in info:
            raise ExperimentError(f"{sentence}, and {environment.unwrapped} does not")
        said = info[TASK_SUCCESS]
        return None if said is None else bool(said)

    return confirm


def by_person(environment: gymnasium.Env, takeover: Takeover, give_up: Callable[[], bool]) -> Confirm:
    """The person's word, for which everything waits; a robot is told to hold meanwhile.

    Args:
        give_up: whether nobody shall be waited for any more, as where the run is stopped.
    """
    robot = environment.unwrapped

    def confirm(observation: Any, info: dict[str, Any]) -> bool | None:
        if not isinstance(robot, RobotEnv):
            return takeover.ask(observation, give_up)
        robot.hold()
        verdict = takeover.ask(observation, give_up)
        # Once more, since the time that a person takes is no overrun.
        robot.hold()
        return verdict

    return confirm
