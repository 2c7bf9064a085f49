"""A person beside the robot: acts while holding a key or a device, ends episodes, and confirms successes."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import UInt8

from wsrl_kit.envs.human import HELD, INTERVENTION, PersonOptions
from wsrl_kit.envs.insertion import OBSERVATION_HIGH, POSE, InsertionEnv
from wsrl_kit.envs.wrappers import STATE, TASK_SUCCESS
from wsrl_kit.errors import ExperimentError, ParameterError, RobotError
from wsrl_kit.robot.cameras import CameraFrames
from wsrl_kit.robot.devices import Device, Motion, Verdict
from wsrl_kit.robot.environment import RobotEnv
from wsrl_kit.robot.poses import to_xyz_euler
from wsrl_kit.text import one_line

_ENTRIES = {3: (0, 1, 2), 4: (0, 1, 2, 6), 6: (0, 1, 2, 3, 4, 5), 7: (0, 1, 2, 3, 4, 5, 6)}
"""Entries of a motion that make an action, by the action's size."""

_GRIPPER = 6
"""Its entry in a motion."""

_PERIOD = 0.1
"""Least seconds of a simulated step beside a person: 10 Hz, as real robots."""

LISTENING = 0.02
"""Seconds between two looks for an answer."""

_VIEW_SECONDS = 0.25
"""Least seconds between two pictures of the outside view."""

_LARGEST_FORCE = float(OBSERVATION_HIGH[1])
"""N along each axis, beyond which the observation shows no more."""

OUTSIDE = "outside"
"""Name of the outside view among the frames."""

VERDICT = "verdict"
"""`info`: the `Verdict` by which a person ended the episode."""

CONFIRMED = "success_confirmed"
"""`info`: a person's word on the step, where they gave one: asked, or by ending an episode that a classifier sees."""

CLASSIFIED = "success_classified"
"""`info`: whether a classifier sees a success, whatever a person says."""


class PersonInput:
    """Passes a person's input from pad and devices to the robot's loop, and frames to the pad, in another thread.

    A dead man's switch: a held motion counts for `late_seconds` after the time that the pad echoes (the last one it was
    told), so neither a delayed message nor a closed browser keeps a robot moving. Then the robot holds until a message
    in time; with `late="policy"` the policy acts. While a device is gone the robot holds, whatever `late` says.

    Args:
        clock: seconds; never goes back.
        devices: asked by the robot's loop alone; the first motion counts, before the pad's.

    Attributes:
        frames: newest by camera, with the outside view.
        facts: the robot's step, force and pose, or why there is no view.
        verdicts: the last ones.
        is_held: the robot holds where nobody acts.
        asks: the question for whose answer the robot waits; "": none.
        trouble: why a device gives nothing; "": all do.
        idle: who acts while the person does not, for the pad.
        has_gripper: whether the task has one.
    """

    def __init__(
        self,
        options: PersonOptions | None = None,
        clock: Callable[[], float] = time.monotonic,
        devices: Sequence[Device] = (),
    ) -> None:
        self.frames: CameraFrames = {}
        self.facts = self.asks = self.trouble = ""
        self.verdicts: deque[Verdict] = deque(maxlen=8)
        self.idle = "the policy acts"
        self.is_held = self.has_gripper = False
        self._options = options or PersonOptions()
        self._clock = clock
        self._devices = devices
        self._moved: Motion | None = None
        self._lock = threading.Lock()
        self._motion: Motion | None = None
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
            self.verdicts.append(verdict)

    def motion(self) -> Motion | None:
        """For the robot: None: no motion, or late (see `holds`)."""
        self._moved, self.trouble = None, ""
        for device in self._devices:
            try:
                motion, verdict = device.read(self.has_gripper)
            except RobotError as error:
                self.trouble = str(error)
                continue
            if verdict is not None:
                self.decide(verdict)
            if motion is not None and self._moved is None:
                self._moved = np.clip(motion, -1.0, 1.0).astype(np.float32)
        if self.trouble:
            return None
        with self._lock:
            return self._heard() if self._moved is None else self._moved

    @property
    def acts(self) -> bool:
        """For the pad: whether the person acts."""
        with self._lock:
            return self._moved is not None or self._heard() is not None

    @property
    def holds(self) -> bool:
        """For the robot: a device is gone, it was told to hold, or the pad's message is late while a key was held."""
        with self._lock:
            self._heard()
            return bool(self.trouble) or self.is_held or (self._is_late and self._options.late == "hold")

    def close(self) -> None:
        for device in self._devices:
            device.close()

    def _heard(self) -> Motion | None:
        # Forgotten, so that no jump of the clock or late message brings it back.
        if self._motion is not None and self._clock() - self._told > self._options.late_seconds:
            self._motion, self._is_late = None, True
        return self._motion

    def show(self, observation: Any, outside: CameraFrames | None = None) -> None:
        """For the robot: what the cameras see, and a new outside view, if there is one."""
        earlier = {name: frame for name, frame in self.frames.items() if name == OUTSIDE}
        view = earlier if outside is None else dict(outside)
        if isinstance(observation, Mapping):
            # Copied, since the pad draws while the environment may reuse its arrays.
            self.frames = view | {name: observation[name][-1].copy() for name in observation if name != STATE}
        elif outside:
            self.frames = view

    def ask(self, observation: Any, question: str, give_up: Callable[[], bool]) -> Verdict | None:
        """For the robot: waits for the person's answer; None: `give_up()`."""
        self.show(observation)
        self.take_verdict()
        self.asks = question
        try:
            while not give_up():
                self.motion()
                if (verdict := self.take_verdict()) is not None:
                    return verdict
                time.sleep(LISTENING)
            return None
        finally:
            self.asks = ""

    def take_verdict(self) -> Verdict | None:
        """For the robot: the verdict since the last call."""
        with self._lock:
            verdict, self._verdict = self._verdict, None
            return verdict


class HumanTakeover(gymnasium.Wrapper):
    """Replaces the policy's action by a person's motion while they hold one, and ends episodes by their verdicts.

    info: `intervene_action`, float32 in [-1, 1], of the person; `held_action` (zeros) while the robot holds since the
    pad's message is late or a device is gone: nobody's intervention, so that no policy learns it; `verdict`;
    `success_confirmed`, if a classifier sees the step too.

    Success: reward 1, terminated, whatever the task says; failure: reward 0, terminated; both set `info["success"]`.
    Any other: truncated. A verdict between two episodes is dropped.

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
        person.has_gripper = _GRIPPER in self._entries
        self._period = period
        self._last_step = -np.inf
        self._view = _View(environment)
        self._step = 0
        self._robot = environment.unwrapped
        self._acts = ""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._person.take_verdict()
        self._step = 0
        # The first view takes long, and comes before the first step.
        self._person.show(observation, self._view.draw())
        self._person.facts = self._facts()
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        due = self._last_step + self._period
        view = self._view.draw(before=due)
        time.sleep(max(0.0, due - time.monotonic()))
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
        self._step += 1
        self._person.show(observation, view)
        self._person.facts = self._facts()
        verdict = self._person.take_verdict()
        if verdict in (Verdict.SUCCESS, Verdict.FAILURE):
            is_success = verdict is Verdict.SUCCESS
            reward, terminated, info = float(is_success), True, info | {"success": is_success}
            if CLASSIFIED in info:
                info[CONFIRMED] = is_success
        elif verdict is not None:
            truncated = True
        if verdict is not None:
            info = info | {VERDICT: verdict}
        return observation, reward, terminated, truncated, info

    def _facts(self) -> str:
        """Step, force and pose, where the robot knows them; what is wrong with the view.

        The force is against `force_limit`, or along an axis against the observation's largest.
        """
        robot, facts = self.env.unwrapped, [f"step {self._step}"]
        force = pose = None
        if isinstance(robot, InsertionEnv):
            force, pose = robot.state[1:4], robot.state[POSE]
        elif isinstance(robot, RobotEnv) and robot.reading is not None:
            force, pose = robot.reading.force, to_xyz_euler(robot.reading.pose)
        if force is not None and pose is not None:
            measured, limit = np.abs(force).max(), _LARGEST_FORCE
            if isinstance(robot, RobotEnv) and robot.options.force_limit is not None:
                measured, limit = np.linalg.norm(force), robot.options.force_limit
            facts.append(f"force {measured:.1f} of {limit:g} N")
            facts.append("x {:.1f}, y {:.1f}, z {:.1f} mm".format(*1000 * pose[:3]))
            facts.append("turned {:.2f}, {:.2f}, {:.2f} rad".format(*pose[3:]))
        return "; ".join([*facts, *([self._view.trouble] if self._view.trouble else [])])


class _View:
    """A simulation as its outside camera sees it, drawn in the time for which a step waits.

    Attributes:
        trouble: why it is not drawn any more; else "".
    """

    def __init__(self, environment: gymnasium.Env) -> None:
        self._environment = environment
        self._is_visible = environment.render_mode == "rgb_array"
        self._next = self._seconds = 0.0
        self.trouble = ""

    def draw(self, before: float = np.inf) -> dict[str, UInt8[np.ndarray, "height width 3"]] | None:
        """A new view; None where it is too early for one, or one would not be done `before` this time."""
        start = time.monotonic()
        if not self._is_visible or start < self._next:
            return None
        if start + self._seconds > before:
            # Tried again after a while: a drawing may have been slow for another reason.
            self._seconds *= 0.95
            return None
        try:
            picture: Any = self._environment.render()
        # Of somebody else's task, or no OpenGL: the person sees that, and the robot goes on.
        except Exception as error:
            self.trouble = one_line(f"no outside view: {error}", 300)
            self._is_visible = False
            return None
        # The first one, at a reset, also loads OpenGL.
        if np.isfinite(before):
            self._seconds = time.monotonic() - start
        self._next = start + _VIEW_SECONDS
        return {OUTSIDE: picture}


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


@contextmanager
def paused(environment: gymnasium.Env) -> Iterator[None]:
    """A robot holds meanwhile."""
    robot = environment.unwrapped
    if isinstance(robot, RobotEnv):
        robot.hold()
    yield
    if isinstance(robot, RobotEnv):
        # Once more: it restarts the clock, since a person's time is no overrun.
        robot.hold()


QUESTION = "The classifier sees a success, and the robot waits: is it one? Press Success or Failure."


def by_person(environment: gymnasium.Env, person: PersonInput, give_up: Callable[[], bool]) -> Confirm:
    """Asks the person and waits until `give_up` returns True; a robot holds meanwhile."""

    def confirm(observation: Any, info: dict[str, Any]) -> bool | None:
        with paused(environment):
            verdict = person.ask(observation, QUESTION, give_up)
        if verdict in (Verdict.SUCCESS, Verdict.FAILURE):
            return verdict is Verdict.SUCCESS
        if verdict is not None:
            # Ends the episode at this step.
            person.decide(verdict)
        return None

    return confirm
