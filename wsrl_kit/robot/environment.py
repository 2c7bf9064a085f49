"""A robot behind HIL-SERL's HTTP server, real or simulated, as a Gymnasium environment."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import ceil, pi
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import TimeLimit
from jaxtyping import Float, Float32, Float64, UInt8

from wsrl_kit.envs.insertion import OBSERVATION_HIGH, OBSERVATION_LOW, POSE, relative_bounds
from wsrl_kit.envs.scripts import Script, insertion_operator
from wsrl_kit.envs.wrappers import STATE
from wsrl_kit.errors import ExperimentError, RobotError
from wsrl_kit.robot.cameras import Camera, open_camera
from wsrl_kit.robot.client import RobotClient, RobotState
from wsrl_kit.robot.control_clock import ControlClock
from wsrl_kit.robot.options import RobotOptions, robot_options
from wsrl_kit.robot.poses import (
    Frames,
    HilSerlFrames,
    KitFrames,
    SafetyBox,
    apart,
    between,
    matrix_of_euler,
    matrix_of_quaternion,
    place_of,
    pose_of,
    quaternion_of,
    reached,
)

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


SETTLING = 0.5
"""Seconds that the robot has at its reset pose before the episode begins."""
ARRIVED, ARRIVED_TURN = 0.02, 0.2
"""An episode begins at most so far from its reset pose, m and rad."""
GRIPPER_REST = 0.6
"""Least seconds from one gripper command to the next."""

Images = dict[str, UInt8[np.ndarray, "height width 3"]]


class RobotEnv(gymnasium.Env[Any, Float32[np.ndarray, " action"]]):
    """HIL-SERL's control loop: at each step an equilibrium pose a little off the measured one, 10 times a second.

    Action: [-1, 1]^6, along the axes that the `convention` says, times `action_scale`; the rotation is composed onto
    the measured one from the left, by Euler angles. With `gripper` a seventh closes the gripper below -0.5 and opens it
    above 0.5. What an action leads to is clipped to the safety box, always and here, whatever the server does. The only
    poses commanded outside of it are where the robot was just measured to be, and the straight way from there back in.

    Observation: 19 float32 as `robot_frames` has them, and with cameras a dict of that as `state` and one image each.

    Reward: 1 at a success, which terminates the episode, otherwise 0. A success is a pose within `reward_threshold` of
    `target_pose`; without a target what a simulated server knows; and without either nothing (`info` then has no
    `success`), which is for a reward classifier to say. The time limit is `make`'s.

    info: `success` (bool); `overruns`, steps of this episode that came too late for their control period;
    `safety_box_clipped` (bool).

    Whatever goes wrong between here and the robot is a RobotError: the server can't be reached, is late or answers
    nonsense, or the robot is measured (twice) outside the box by more than `sanity_margin`; such a reading never
    becomes an observation. The robot is then commanded to hold where it was last seen, and every step refuses until
    `reconnect` or `reset`.

    A simulated server tells so at `/sim/status`: the clock keeps its speed, and each reset draws its hole anew, seeded
    by this environment.

    Args:
        options: the robot's place, limits and habits; its server must be there.

    Raises:
        RobotError: the server can't be reached, or a camera can't be opened.
        ExperimentError: what reads a camera is not installed.
    """

    def __init__(self, options: RobotOptions) -> None:
        self.options = options
        self.client = RobotClient(options.robot_url, options.deadline, options.retries)
        self.safety_box = SafetyBox(options.abs_pose_limit_low, options.abs_pose_limit_high)
        self._cameras: dict[str, Camera] = {}
        try:
            truth = self.client.truth()
            if truth is None:
                for name, settings in sorted(options.cameras.items()):
                    self._cameras[name] = open_camera(name, settings, options.image_size, options.deadline)
        except BaseException:
            self._hang_up()
            raise
        self.simulated = truth is not None
        speed = 1.0 if truth is None else truth["speed"]
        self._clock = ControlClock(options.control_frequency, speed)
        self._contact = Contact(self.client, self.safety_box, options.sanity_margin, self._clock)
        size = options.image_size
        shapes: dict[str, tuple[int, int]]
        shapes = dict.fromkeys(self._cameras, (size, size)) if truth is None else truth["cameras"]
        low, high = _bounds(options)
        self._frames: Frames = KitFrames(low, high) if options.convention == "kit" else HilSerlFrames()
        states = gymnasium.spaces.Box(low, high)
        images = {name: gymnasium.spaces.Box(0, 255, (*shape, 3), np.uint8) for name, shape in sorted(shapes.items())}
        self.observation_space: gymnasium.Space = gymnasium.spaces.Dict({STATE: states, **images}) if images else states
        self._images: Callable[[], Images] = self._read_cameras
        if self.simulated:
            self._images = lambda: self.client.images(shapes)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (7 if options.gripper else 6,), np.float32)
        self._reset_pose = pose_of(options.reset_pose)
        self._episodes = 0
        self._gripper_rest = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Rise, go to a random pose around `reset_pose`, stiff, and be compliant again.

        Raises:
            RobotError: contact was lost, or the robot did not get there.
        """
        super().reset(seed=seed)
        choice, client, contact = self.options, self.client, self._contact
        self._episodes += 1
        self._clock.restart()
        with contact.guarded():
            client.clear_errors()
            here = contact.read(anywhere=True).pose
            client.command(here)
            client.set_parameters(choice.precision_param)
            above = here.copy()
            above[2] = choice.reset_pose[2] + choice.reset_lift
            contact.go(self.safety_box.clip(above))
            if choice.joint_reset_period and self._episodes % choice.joint_reset_period == 0:
                client.reset_joints()
            if self.simulated:
                client.new_simulated_episode(int(self.np_random.integers(2**31)))
            contact.read(anywhere=True)
            spread = [choice.random_xy_range] * 2 + [choice.random_z_range, 0.0, 0.0, choice.random_rz_range]
            goal = self.safety_box.clip(pose_of(choice.reset_pose + self.np_random.uniform(-1.0, 1.0, 6) * spread))
            contact.go(goal, SETTLING)
            client.set_parameters(choice.compliance_param)
            client.clear_errors()
            reading = contact.read()
            distance, angle = apart(reading.pose, goal)
            if distance > ARRIVED or angle > ARRIVED_TURN:
                raise RobotError(
                    f"the robot must reach its reset pose to {1000 * ARRIVED:g} mm and {ARRIVED_TURN:g} rad, and is "
                    f"{1000 * distance:.0f} mm and {angle:.2f} rad off: look for what blocks it, or for its errors"
                )
            self._reset_pose = reading.pose
            self._gripper_rest = 0
            observation = self._observe(reading)
        self._clock.restart()
        return observation, {}

    def step(self, action: Float[np.ndarray, " action"]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Command a pose, wait for the end of the control period, and see.

        Raises:
            RobotError: contact is or was lost.
            ExperimentError: the action has an entry that is not finite, as from a policy that diverged.
        """
        if not np.isfinite(action).all():
            raise ExperimentError(f"an action of the robot must be finite, found {action}")
        before = self._contact.reading
        if before is None:
            raise RobotError(f"there is no contact with the robot at {self.client.url}: call reconnect() or reset()")
        wish = self._wish(action, before.pose)
        clipped = max(self.safety_box.excess(wish)) > 1e-9
        with self._contact.guarded():
            self.client.command(self.safety_box.clip(wish))
            if self.options.gripper:
                self._command_gripper(float(action[6]), before.gripper_position)
            self._clock.wait()
            reading = self._contact.read()
            info = {"overruns": self._clock.overruns, "safety_box_clipped": clipped}
            success = self._success(reading)
            observation = self._observe(reading)
        if success is not None:
            info["success"] = success
        return observation, float(success or False), bool(success), False, info

    def reconnect(self) -> None:
        """Connect again after a RobotError; the robot holds where it is, and the episode may go on from there.

        Raises:
            RobotError: there is still no contact, or the robot is where it must not be.
        """
        self._contact.reading = None
        self.client.close()
        with self._contact.guarded():
            self.client.clear_errors()
            self.client.command(self._contact.read().pose)
            self.client.set_parameters(self.options.compliance_param)
        self._clock.restart()

    def hold(self) -> None:
        """Command the robot to stay where it is, as for a pause.

        Raises:
            RobotError: contact is lost.
        """
        with self._contact.guarded():
            self.client.command(self._contact.read(anywhere=True).pose)
        self._clock.restart()

    def close(self) -> None:
        """Leave the robot where it is; a server that is gone does not matter any more."""
        self._contact.let_go()
        self._hang_up()

    def _hang_up(self) -> None:
        self.client.close()
        for camera in self._cameras.values():
            camera.close()
        self._cameras.clear()

    def facts(self) -> list[str]:
        """What a flight check can learn without moving anything, a sentence each.

        Raises:
            RobotError: the server or a camera fails, or the robot is outside the safety box.
        """
        reading = self._contact.read(anywhere=True)
        # Forgotten again, so that leaving after a mere look commands nothing.
        self._contact.reading = None
        shown = place_of(reading.pose).round(4).tolist()
        distance, angle = self.safety_box.excess(reading.pose)
        if max(distance, angle) > 1e-3:
            raise RobotError(
                f"the robot must be within its safety box before it moves, and is {1000 * distance:.0f} mm and "
                f"{angle:.2f} rad outside, at {shown}: move it in by hand, or mend abs_pose_limit_low and _high"
            )
        kind = "a simulated robot" if self.simulated else "a robot"
        pictures = self._images() if self._has_images else {}
        return [
            f"{kind} answers at {self.client.url}",
            f"its tool is at {shown} (m and rad), within the safety box",
            f"force {reading.force.round(1).tolist()} N, gripper at {reading.gripper_position:.2f}",
            *(f"camera {name} gives {'x'.join(map(str, picture.shape))}" for name, picture in pictures.items()),
        ]

    def script(self) -> Script:
        """The scripted operator of the episode that has just begun.

        Raises:
            ExperimentError: the robot is a real one, or its actions are not along the axes that the script knows.
            RobotError: contact was lost; so may every action of the script.
        """
        return _script_through_server(self)

    @property
    def knows_success(self) -> bool:
        """Whether every step's info says whether the task is done."""
        return self.simulated or self.options.target_pose is not None

    @property
    def _has_images(self) -> bool:
        return isinstance(self.observation_space, gymnasium.spaces.Dict)

    def _wish(self, action: Float[np.ndarray, " action"], pose: Float[np.ndarray, "7"]) -> Float64[np.ndarray, "7"]:
        move = self._frames.base_action(action[:6].astype(np.float64), pose)
        translation, rotation = self.options.action_scale
        turned = matrix_of_euler(move[3:] * rotation) @ matrix_of_quaternion(pose[3:])
        return np.concatenate([pose[:3] + move[:3] * translation, quaternion_of(turned)])

    def _command_gripper(self, wish: float, position: float) -> None:
        """HIL-SERL's binary gripper: it acts where it is not already there, and not too often."""
        self._gripper_rest = max(self._gripper_rest - 1, 0)
        is_open = position > 0.85
        if self._gripper_rest == 0 and ((wish <= -0.5 and is_open) or (wish >= 0.5 and not is_open)):
            self.client.move_gripper(opened=wish > 0)
            self._gripper_rest = ceil(GRIPPER_REST * self.options.control_frequency)

    def _success(self, reading: RobotState) -> bool | None:
        if self.options.target_pose is not None:
            return reached(reading.pose, self.options.target_pose, self.options.reward_threshold)
        return simulation(self.client)["success"] if self.simulated else None

    def _observe(self, reading: RobotState) -> Any:
        state = self._frames.state(reading, self._reset_pose)
        return {STATE: state, **self._images()} if self._has_images else state

    def _read_cameras(self) -> Images:
        return {name: camera.read() for name, camera in self._cameras.items()}


def make_robot(given: Mapping[str, Any]) -> gymnasium.Env:
    """The robot with its time limit, from values for fields of `RobotOptions`.

    Raises:
        ParameterError: naming the option, what was expected and what was found.
        RobotError: the robot's server can't be reached.
    """
    options = robot_options(given)
    return TimeLimit(RobotEnv(options), options.max_episode_steps)


def preflight(environment: gymnasium.Env) -> list[str]:
    """Read a robot's state and look through its cameras, once, and move nothing; the facts found, a sentence each.

    Args:
        environment: `hirol_robot` from `make`, in any wrappers; any other has nothing to check.

    Raises:
        RobotError: the server or a camera fails, gives nonsense, or the robot is outside its safety box.
    """
    robot = environment.unwrapped
    return robot.facts() if isinstance(robot, RobotEnv) else []


def simulation(client: RobotClient) -> dict[str, Any]:
    """What a simulated server says of itself, see `RobotClient.truth`.

    Raises:
        RobotError: it fails, or no longer says so.
    """
    truth = client.truth()
    if truth is None:
        raise RobotError(f"the server at {client.url} must be a simulated one still, and is none any more")
    return truth


def _bounds(options: RobotOptions) -> tuple[Float32[np.ndarray, "19"], Float32[np.ndarray, "19"]]:
    """Of the state: the simulation's with the safety box relative to any reset pose, or none in HIL-SERL's frames."""
    low, high = OBSERVATION_LOW.copy(), OBSERVATION_HIGH.copy()
    if options.convention == "hil_serl":
        return np.full(19, -np.inf, np.float32), np.full(19, np.inf, np.float32)
    box_low, box_high, middle = (
        np.array(pose) for pose in (options.abs_pose_limit_low, options.abs_pose_limit_high, options.reset_pose)
    )
    spread = [options.random_xy_range] * 2 + [options.random_z_range, 0.0, 0.0, options.random_rz_range]
    low[POSE], high[POSE] = relative_bounds(box_low, box_high, middle, np.array(spread))
    return low.astype(np.float32), high.astype(np.float32)


def _script_through_server(robot: RobotEnv) -> Script:
    """The insertion's script for a simulated robot behind a server, which tells what a policy does not see.

    Raises:
        ExperimentError: the robot is a real one, or its actions are not along the axes that the script knows.
        RobotError: contact was lost; so may every action of the script.
    """
    if not robot.simulated:
        raise ExperimentError(
            f"there is no script for the real robot at {robot.client.url}, since no server tells where its hole is: "
            "demonstrations and interventions must be a person's"
        )
    if robot.options.convention != "kit" or robot.options.gripper:
        raise ExperimentError(
            "the script of the simulated robot needs robot options convention 'kit' and gripper False, found "
            f"{robot.options.convention!r} and {robot.options.gripper}"
        )

    def tip() -> Float[np.ndarray, "6"]:
        return np.array(simulation(robot.client)["tip_pose"])

    # Relative to where the episode began, which is as good for a distance, and needs no further call.
    hole = np.array(simulation(robot.client)["hole_position"])
    return insertion_operator(tip, lambda observation: observation[4:7], hole, robot.options.action_scale)


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
