"""A person at the pad: acts while holding a key, and confirms successes."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float32

from wsrl_kit.envs.human import HELD, INTERVENTION, PersonOptions
from wsrl_kit.envs.wrappers import STATE, TASK_SUCCESS
from wsrl_kit.errors import ExperimentError, ParameterError
from wsrl_kit.robot.cameras import CameraFrames
from wsrl_kit.robot.environment import RobotEnv

MOTION_SIZE = 7
"""A motion: along x, y, z, around x, y, z, and the gripper (-1 closes, 1 opens, as in HIL-SERL)."""

_ENTRIES = {3: (0, 1, 2), 4: (0, 1, 2, 6), 6: (0, 1, 2, 3, 4, 5), 7: (0, 1, 2, 3, 4, 5, 6)}
"""Entries of a motion that make an action, by the action's size."""

_PERIOD = 0.1
"""Least seconds of a simulated step beside a person: 10 Hz, as real robots."""

_LISTENING = 0.02
"""Seconds between two looks for an answer."""


class Verdict(StrEnum):
    """How a person ends an episode."""

    SUCCESS = "success"
    FAILURE = "failure"
    ABORT = "abort"


class PersonInput:
    """Passes a person's input from the pad to the robot's loop, and frames back; each side may have its own thread.

    A dead man's switch: a held motion counts for `late_seconds` after the time that the pad echoes (the last one it was
    told), so neither a delayed message nor a closed browser keeps a robot moving. Then the robot holds until a message
    in time; with `late="policy"` the policy acts.

    Args:
        clock: seconds; never goes back.

    Attributes:
        frames: newest by camera.
        asks: the robot waits for an answer.
    """

    def __init__(self, options: PersonOptions | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.frames: CameraFrames = {}
        self.asks = False
        self._options = options or PersonOptions()
        self._clock = clock
        self._lock = threading.Lock()
        self._motion: Float32[np.ndarray, 7] | None = None
        self._is_late = False
        self._told = 0.0
        self._verdict: Verdict | None = None

    def now(self) -> float:
        """The time to tell the pad."""
        return self._clock()

    def hold(self, motion: Sequence[float], told: float) -> None:
        """From the pad: the person acts.

        Args:
            motion: `MOTION_SIZE` numbers, clipped to [-1, 1]; all 0: stay.
            told: the time that the pad was last told.
        """
        with self._lock:
            self._motion = np.clip(np.array(motion, np.float32), -1.0, 1.0)
            self._told = min(told, self._clock())
            self._is_late = False

    def release(self) -> None:
        with self._lock:
            self._motion, self._is_late = None, False

    def decide(self, verdict: Verdict) -> None:
        """From the pad: end the episode, or answer the question."""
        with self._lock:
            self._verdict = verdict

    def motion(self) -> Float32[np.ndarray, "7"] | None:
        """For the robot: None: no motion, or late (see `holds`)."""
        with self._lock:
            return self._heard()

    @property
    def holds(self) -> bool:
        """For the robot: the pad's message is late while a key was held."""
        with self._lock:
            self._heard()
            return self._is_late and self._options.late == "hold"

    def _heard(self) -> Float32[np.ndarray, "7"] | None:
        # Forgotten, so that no jump of the clock or late message brings it back.
        if self._motion is not None and self._clock() - self._told > self._options.late_seconds:
            self._motion, self._is_late = None, True
        return self._motion

    def show(self, observation: Any) -> None:
        if isinstance(observation, Mapping):
            # Copied, since the pad draws while the environment may reuse its arrays.
            self.frames = {name: observation[name][-1].copy() for name in observation if name != STATE}

    def ask(self, observation: Any, give_up: Callable[[], bool]) -> bool | None:
        """For the robot: waits for the person to say whether this is a success; None: aborted or `give_up()`."""
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
                time.sleep(_LISTENING)
            return None
        finally:
            self.asks = False

    def take_verdict(self) -> Verdict | None:
        """For the robot: the verdict since the last call."""
        with self._lock:
            verdict, self._verdict = self._verdict, None
            return verdict


class HumanTakeover(gymnasium.Wrapper):
    """Replaces the policy's action by a person's motion while they hold one, and ends episodes by their verdicts.

    info: `intervene_action`, float32 in [-1, 1], of the person; `held_action` (zeros) while the robot holds since the
    pad's message is late: nobody's intervention, so that no policy learns it.

    Success: reward 1, terminated, whatever the task says; failure: reward 0, terminated; both set `info["success"]`.
    Abort: truncated. A verdict between two episodes is dropped.

    Args:
        period: least seconds per step.

    Raises:
        ParameterError: the pad can't make this task's actions.
    """

    def __init__(self, environment: gymnasium.Env, person: PersonInput, period: float = 0.0) -> None:
        super().__init__(environment)
        (size,) = environment.action_space.shape or (0,)
        if size not in _ENTRIES:
            raise ParameterError(
                f"human 'person' needs a task whose actions are x, y, z, with or without rotations and a gripper "
                f"({', '.join(map(str, _ENTRIES))} numbers), found {size}"
            )
        self._entries = list(_ENTRIES[size])
        self._person = person
        self._period = period
        self._last_step = -np.inf
        self._robot = environment.unwrapped
        self._acts = ""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._person.take_verdict()
        self._person.show(observation)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        time.sleep(max(0.0, self._last_step + self._period - time.monotonic()))
        self._last_step = time.monotonic()
        motion = self._person.motion()
        taken: dict[str, Any] = {}
        if motion is not None:
            taken = {INTERVENTION: motion[self._entries]}
        elif self._person.holds:
            taken = {HELD: np.zeros(len(self._entries), np.float32)}
        acts = next(iter(taken), "")
        if acts != self._acts and isinstance(self._robot, RobotEnv):
            self._robot.look_again()
        self._acts = acts
        observation, reward, terminated, truncated, info = self.env.step(next(iter(taken.values()), action))
        info = info | taken
        self._person.show(observation)
        match self._person.take_verdict():
            case Verdict.SUCCESS:
                reward, terminated, info = 1.0, True, info | {"success": True}
            case Verdict.FAILURE:
                reward, terminated, info = 0.0, True, info | {"success": False}
            case Verdict.ABORT:
                truncated = True
        return observation, reward, terminated, truncated, info


def beside_person(environment: gymnasium.Env, person: PersonInput) -> gymnasium.Env:
    """The environment with a person beside it, a simulation slowed to real time; raises as `HumanTakeover`."""
    keeps_time = isinstance(environment.unwrapped, RobotEnv)
    return HumanTakeover(environment, person, 0.0 if keeps_time else _PERIOD)


Confirm = Callable[[Any, dict[str, Any]], bool | None]
"""From an observation and the step's info: whether the task is done; None: not known."""


def by_task(environment: gymnasium.Env) -> Confirm:
    """Asks a simulation, or a robot with a `target_pose`; raises ExperimentError (maybe later) if it does not know."""
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


def by_person(environment: gymnasium.Env, person: PersonInput, give_up: Callable[[], bool]) -> Confirm:
    """Asks the person and waits until `give_up` returns True; a robot holds meanwhile."""
    robot = environment.unwrapped

    def confirm(observation: Any, info: dict[str, Any]) -> bool | None:
        if not isinstance(robot, RobotEnv):
            return person.ask(observation, give_up)
        robot.hold()
        verdict = person.ask(observation, give_up)
        # Once more: it restarts the clock, since a person's time is no overrun.
        robot.hold()
        return verdict

    return confirm
