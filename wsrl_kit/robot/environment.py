"""A robot behind HIL-SERL's server, real or simulated, as a Gymnasium environment."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import ceil, inf, pi, sqrt
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import TimeLimit
from jaxtyping import Float, Float32, Float64
from scipy.spatial.transform import Rotation

from wsrl_kit.envs.insertion import OBSERVATION_HIGH, OBSERVATION_LOW, POSE, relative_bounds
from wsrl_kit.envs.scripts import Script, insertion_script
from wsrl_kit.envs.wrappers import STATE
from wsrl_kit.errors import ExperimentError, ParameterError, RobotError
from wsrl_kit.parameters import check_some
from wsrl_kit.robot.cameras import Camera, CameraFrames, FrozenCameras, open_camera
from wsrl_kit.robot.client import RobotClient, RobotState
from wsrl_kit.robot.control_clock import ControlClock
from wsrl_kit.robot.options import RobotOptions
from wsrl_kit.robot.poses import (
    Convention,
    HilSerlConvention,
    KitConvention,
    SafetyBox,
    from_xyz_euler,
    interpolate,
    is_reached,
    pose_distance,
    rotation_of,
    to_xyz_euler,
)

FARTHEST = 5.0
"""Metres from the safety box beyond which no arm can be."""
_LARGEST_NUMBER = 1e6
"""A greater reading is no measurement; its square would overflow a float32."""


class Contact:
    """A robot's last reading, and its motions outside a policy.

    Attributes:
        reading: None: no contact yet, or lost.
        read_at: time of the reading, s of `time.monotonic`.
    """

    def __init__(self, client: RobotClient, box: SafetyBox, options: RobotOptions, clock: ControlClock) -> None:
        self._client, self._box, self._options, self._clock = client, box, options, clock
        self.reading: RobotState | None = None
        self.read_at = 0.0

    def read(self, *, anywhere: bool = False) -> RobotState:
        """Stores and returns a valid reading, at the second attempt at the latest.

        Args:
            anywhere: the robot may be outside the box, as during a reset.

        Raises:
            RobotError: no answer, or both readings are not finite, too large, no unit quaternion, or outside the box.
        """
        self.read_at, reading = time.monotonic(), self._client.state()
        if self._problem(reading, anywhere):
            self.read_at, reading = time.monotonic(), self._client.state()
        if problem := self._problem(reading, anywhere):
            raise RobotError(f"{self._client.url}/getstate {problem}")
        self.reading = reading
        return reading

    @contextmanager
    def hold_on_error(self) -> Iterator[None]:
        """On any error: command a hold; on RobotError: also add the outcome to the message."""
        try:
            yield
        except RobotError as error:
            raise RobotError(f"{error}; {self.hold_and_forget()}") from error
        except BaseException:
            self.hold_and_forget()
            raise

    def hold_and_forget(self) -> str:
        """Commands a hold at the last reading, once; forgets it; returns the outcome as a clause."""
        last, self.reading = self.reading, None
        if last is None:
            return "where it is was never seen"
        try:
            self._client.command(last.pose, attempts=1)
        except RobotError:
            return "nor could it be told to hold: it stays at its last command"
        return "it was told to hold where it was last seen"

    def move_to(self, goal: Float[np.ndarray, "7"], settling: float = 0.0) -> RobotState:
        """Moves straight to `goal`, in at least a second; inside the box if it starts inside.

        Args:
            settling: seconds at the end.

        Raises:
            RobotError: the force is above its limit.
        """
        assert self.reading is not None
        start = self.reading.pose
        is_inside = max(self._box.excess(start)) == 0
        distance, angle = pose_distance(start, goal)
        speed, turn_speed = self._options.reset_speed
        steps = ceil(max(1.0, distance / speed, angle / turn_speed) * self._clock.frequency)
        for step in range(1, steps + ceil(settling * self._clock.frequency) + 1):
            pose = interpolate(start, goal, min(step / steps, 1.0))
            # Between two rotations within limits of Euler angles may lie one outside.
            self._client.command(self._box.clip(pose) if is_inside else pose)
            self._clock.wait()
            if self._options.force_limit is not None and self.presses_too_hard(self.read(anywhere=True)):
                raise RobotError(
                    f"the robot must meet at most {self._options.force_limit:g} N (force_limit) on its way to the "
                    "start, and met more: look for what blocks it"
                )
        return self.read(anywhere=True)

    def presses_too_hard(self, reading: RobotState) -> bool:
        """Whether the measured force is above `force_limit`."""
        limit = self._options.force_limit
        return limit is not None and float(np.linalg.norm(reading.force)) > limit

    def _problem(self, reading: RobotState, anywhere: bool) -> str | None:
        for name, value in vars(reading).items():
            if not (np.abs(value) <= _LARGEST_NUMBER).all():
                shown = np.array(value).tolist()
                return f"must give finite numbers, found {name} {shown} (at most {_LARGEST_NUMBER:g} is believed)"
        if abs(np.linalg.norm(reading.pose[3:]) - 1) > 0.01:
            return f"must give a pose with a quaternion of length 1, found {reading.pose[3:].tolist()}"
        distance, angle = self._box.excess(reading.pose)
        far, turned = (FARTHEST, pi) if anywhere else self._options.sanity_margin
        if distance > far or angle > turned:
            return (
                f"must give a pose within {far:g} m and {turned:.3g} rad of the safety box, found one {distance:.3f} m "
                f"and {angle:.2f} rad outside"
            )
        return None


_SETTLING = 0.5
"""Seconds at the reset pose before the episode begins."""
_ARRIVED, _ARRIVED_TURN = 0.02, 0.2
"""Largest distance from the reset pose at which an episode begins, m and rad."""
_GRIPPER_REST = 0.6
"""Least seconds between two gripper commands."""
_JOINTS_ARRIVED = 0.05
"""Largest distance of a joint from `reset_joint_target`, rad."""

FORCE_LIMITED = "force_limited"
"""`info`: whether the force was above `force_limit`."""
OVERRUNS = "overruns"
"""`info`: how many steps of the episode came late."""
GRIPPER_MOVED = "gripper_moved"
"""`info`: 1, the gripper was told to open; -1, to close; 0, neither. Only with a gripper."""


class RobotEnv(gymnasium.Env[Any, Float32[np.ndarray, " action"]]):
    """HIL-SERL's control loop: each step commands an equilibrium pose near the measured pose, 10 times a second.

    Action: [-1, 1]^6 times `action_scale`, along the `convention`'s axes; the rotation (Euler angles) multiplies the
    measured one from the left. With `gripper` a seventh entry closes it below -0.5 and opens it above 0.5. Every
    commanded pose is clipped to the safety box, whatever the server does, except holding where the robot was measured
    and the straight way from farther outside than a step back into the box, in steps no longer than an action's.

    A reading older than a control period, or from before a hand-over (see `look_again`), is taken anew before a step.

    Observation: the convention's 19 float32; with cameras a dict of `state` and images.

    Reward: 1 at a success, which terminates, else 0: a pose within `reward_threshold` of `target_pose`, else a
    simulated server's success. A real robot without target needs a reward classifier or a person. A force above
    `force_limit` makes the robot hold, and terminates.

    info: `success` (where known); `overruns`, late steps of this episode; `safety_box_clipped`; `contact_force`, N, at
    the end of the step; `force_limited`; with a gripper `gripper_moved` and HIL-SERL's `grasp_penalty`.

    A simulated server sets the clock's speed, and draws its hole at each reset, seeded by this environment.

    Raises:
        RobotError: a camera is missing or frozen, or the server is unreachable, late, or gives two invalid readings in
            a row, which never become an observation. The robot is told to hold, and every step refuses until
            `reconnect` or `reset`.
        ExperimentError: a camera's package is missing, or an action is not finite.
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
        self._clock = ControlClock(options.control_frequency, 1.0 if truth is None else truth["speed"])
        self._contact = Contact(self.client, self.safety_box, options, self._clock)
        self._frozen_cameras = FrozenCameras(ceil(options.control_frequency))
        size = options.image_size
        self._image_shapes: dict[str, tuple[int, int]]
        self._image_shapes = dict.fromkeys(self._cameras, (size, size)) if truth is None else truth["cameras"]
        low, high = _state_bounds(options)
        self._convention: Convention = KitConvention(low, high) if options.convention == "kit" else HilSerlConvention()
        states = gymnasium.spaces.Box(low, high)
        images = {
            name: gymnasium.spaces.Box(0, 255, (*shape, 3), np.uint8)
            for name, shape in sorted(self._image_shapes.items())
        }
        self.observation_space: gymnasium.Space = gymnasium.spaces.Dict({STATE: states, **images}) if images else states
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (7 if options.gripper else 6,), np.float32)
        self._reset_pose = from_xyz_euler(options.reset_pose)
        self._episodes = 0
        self._gripper_rest = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Rises, moves stiffly to a random pose around `reset_pose`, and becomes compliant."""
        super().reset(seed=seed)
        choice, client, contact = self.options, self.client, self._contact
        self._episodes += 1
        self._clock.restart()
        with contact.hold_on_error():
            client.clear_errors()
            here = contact.read(anywhere=True).pose
            client.command(here)
            client.set_parameters(choice.precision_param)
            above = here.copy()
            above[2] = choice.reset_pose[2] + choice.reset_lift
            contact.move_to(self.safety_box.clip(above))
            if choice.joint_reset_period and self._episodes % choice.joint_reset_period == 0:
                self._reset_joints()
            if self.simulated:
                client.new_simulated_episode(int(self.np_random.integers(2**31)))
            contact.read(anywhere=True)
            place = choice.reset_pose + self.np_random.uniform(-1.0, 1.0, 6) * _reset_spread(choice)
            goal = self.safety_box.clip(from_xyz_euler(place))
            contact.move_to(goal, _SETTLING)
            client.set_parameters(choice.compliance_param)
            client.clear_errors()
            reading = contact.read()
            distance, angle = pose_distance(reading.pose, goal)
            if distance > _ARRIVED or angle > _ARRIVED_TURN:
                raise RobotError(
                    f"the robot must reach its reset pose to {1000 * _ARRIVED:g} mm and {_ARRIVED_TURN:g} rad, and is "
                    f"{1000 * distance:.0f} mm and {angle:.2f} rad off: look for what blocks it, or for its errors"
                )
            self._reset_pose = reading.pose
            self._gripper_rest = 0
            observation = self._observe(reading)
        self._clock.restart()
        return observation, {}

    def step(self, action: Float[np.ndarray, " action"]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Commands a pose, waits for the end of the control period, and reads."""
        if not np.isfinite(action).all():
            raise ExperimentError(f"an action of the robot must be finite, found {action}")
        before = self._contact.reading
        if before is None:
            raise RobotError(f"there is no contact with the robot at {self.client.url}: call reconnect() or reset()")
        with self._contact.hold_on_error():
            if time.monotonic() - self._contact.read_at > self._clock.period > 0:
                before = self._contact.read()
            wish = self._wish(action, before.pose)
            clipped = max(self.safety_box.excess(wish)) > 1e-9
            self.client.command(self._within_a_step(before.pose, self.safety_box.clip(wish)))
            info: dict[str, Any] = {"safety_box_clipped": clipped}
            if self.options.gripper:
                moved = self._command_gripper(float(action[6]), before.gripper_position)
                info |= {GRIPPER_MOVED: moved, "grasp_penalty": self.options.grasp_penalty if moved else 0.0}
            self._clock.wait()
            reading = self._contact.read()
            info |= {
                OVERRUNS: self._clock.overruns,
                "contact_force": float(np.linalg.norm(reading.force)),
                FORCE_LIMITED: self._contact.presses_too_hard(reading),
            }
            if info[FORCE_LIMITED]:
                self.client.command(reading.pose)
            success = self._success(reading)
            observation = self._observe(reading)
        if success is not None:
            info["success"] = success
        return observation, float(success or False), bool(success) or info[FORCE_LIMITED], False, info

    def reconnect(self) -> None:
        """Connects again and holds the robot; the episode may continue. Raises RobotError if outside the box."""
        self._contact.reading = None
        self.client.close()
        with self._contact.hold_on_error():
            self.client.clear_errors()
            self.client.command(self._contact.read().pose)
            self.client.set_parameters(self.options.compliance_param)
        self._clock.restart()

    def look_again(self) -> None:
        """At a hand-over: the next step begins where the robot is now, not where its last observation was taken."""
        self._contact.read_at = -inf

    def hold(self) -> None:
        """As for a pause."""
        with self._contact.hold_on_error():
            self.client.command(self._contact.read(anywhere=True).pose)
        self._clock.restart()

    def close(self) -> None:
        """A server that is gone is no error."""
        self._contact.hold_and_forget()
        self._hang_up()

    def facts(self) -> list[str]:
        """Sentences of a pre-flight check, which moves nothing. Raises RobotError if outside the box."""
        reading = self._contact.read(anywhere=True)
        # Forgotten, so that closing after a mere look commands nothing.
        self._contact.reading = None
        shown = to_xyz_euler(reading.pose).round(4).tolist()
        distance, angle = self.safety_box.excess(reading.pose)
        if max(distance, angle) > 1e-3:
            raise RobotError(
                f"the robot must be within its safety box before it moves, and is {1000 * distance:.0f} mm and "
                f"{angle:.2f} rad outside, at {shown}: move it in by hand, or mend abs_pose_limit_low and _high"
            )
        kind = "a simulated robot" if self.simulated else "a robot"
        return [
            f"{kind} answers at {self.client.url}",
            f"its tool is at {shown} (m and rad), within the safety box",
            f"force {reading.force.round(1).tolist()} N, gripper at {reading.gripper_position:.2f}",
            *(f"camera {name} gives {'x'.join(map(str, frame.shape))}" for name, frame in self._frames().items()),
        ]

    def script(self) -> Script:
        """The scripted operator of the episode that has just begun.

        Raises:
            ExperimentError: a real robot, or other axes than the script's.
        """
        if not self.simulated:
            raise ExperimentError(
                f"there is no script for the real robot at {self.client.url}, since no server tells where its hole is: "
                "demonstrations and interventions must be a person's"
            )
        if self.options.convention != "kit" or self.options.gripper:
            raise ExperimentError(
                "the script of the simulated robot needs robot options convention 'kit' and gripper False, found "
                f"{self.options.convention!r} and {self.options.gripper}"
            )

        def tip() -> Float[np.ndarray, "6"]:
            return np.array(self._truth()["tip_pose"])

        # The position in the observation is relative to the reset's, which does for a distance and needs no call.
        hole = np.array(self._truth()["hole_position"])
        return insertion_script(tip, lambda observation: observation[4:7], hole, self.options.action_scale)

    @property
    def reading(self) -> RobotState | None:
        """The last one of this contact."""
        return self._contact.reading

    @property
    def knows_success(self) -> bool:
        """Whether every step's info has `success`."""
        return self.simulated or self.options.target_pose is not None

    def _wish(self, action: Float[np.ndarray, " action"], pose: Float[np.ndarray, "7"]) -> Float64[np.ndarray, "7"]:
        move = self._convention.base_action(action[:6].astype(np.float64), pose)
        translation, turn = self.options.action_scale
        rotation = Rotation.from_euler("xyz", move[3:] * turn) * rotation_of(pose)
        return np.concatenate([pose[:3] + move[:3] * translation, rotation.as_quat()])

    def _within_a_step(self, here: Float[np.ndarray, "7"], goal: Float[np.ndarray, "7"]) -> Float64[np.ndarray, "7"]:
        """`goal`, in the box; from farther outside than a step only as far towards it as the largest action moves."""
        scale = np.array(self.options.action_scale)
        if (self.safety_box.excess(here) <= scale).all():
            return goal
        longest = sqrt(3) * scale
        share = float(np.min(longest / np.maximum(pose_distance(here, goal), 1e-9)))
        return goal if share >= 1 else interpolate(here, goal, share)

    def _reset_joints(self) -> None:
        """Raises ParameterError if the arm has another number of joints, RobotError if they end elsewhere."""
        target = self.options.reset_joint_target
        if target is None:
            self.client.reset_joints()
            return
        joints = len(self.client.joints())
        if len(target) != joints:
            raise ParameterError(
                f"reset_joint_target must have an angle for each joint of the robot at {self.client.url}, which has "
                f"{joints}, found {len(target)}"
            )
        self.client.reset_joints(target)
        off = float(np.abs(self.client.joints() - target).max())
        if off > _JOINTS_ARRIVED:
            raise RobotError(
                f"a joint reset must end within {_JOINTS_ARRIVED:g} rad of reset_joint_target {target}, and ended "
                f"{off:.2f} rad off: HIL-SERL's server has a target of its own, its flag --reset_joint_target"
            )

    def _command_gripper(self, wish: float, position: float) -> float:
        """HIL-SERL's binary gripper: acts only on a change, and not too often; returns `GRIPPER_MOVED`."""
        self._gripper_rest = max(self._gripper_rest - 1, 0)
        is_open = position > 0.85
        if self._gripper_rest == 0 and ((wish <= -0.5 and is_open) or (wish >= 0.5 and not is_open)):
            self.client.move_gripper(opened=wish > 0)
            self._gripper_rest = ceil(_GRIPPER_REST * self.options.control_frequency)
            return 1.0 if wish > 0 else -1.0
        return 0.0

    def _success(self, reading: RobotState) -> bool | None:
        if self.options.target_pose is not None:
            return is_reached(reading.pose, self.options.target_pose, self.options.reward_threshold)
        return self._truth()["success"] if self.simulated else None

    def _truth(self) -> dict[str, Any]:
        truth = self.client.truth()
        if truth is None:
            raise RobotError(f"the server at {self.client.url} must be a simulated one still, and is none any more")
        return truth

    def _observe(self, reading: RobotState) -> Any:
        state = self._convention.state(reading, self._reset_pose)
        if not self._image_shapes:
            return state
        frames = self._frames()
        self._frozen_cameras.check(frames, reading.pose[:3])
        return {STATE: state, **frames}

    def _frames(self) -> CameraFrames:
        if self.simulated:
            return self.client.images(self._image_shapes) if self._image_shapes else {}
        return {name: camera.read() for name, camera in self._cameras.items()}

    def _hang_up(self) -> None:
        self.client.close()
        for camera in self._cameras.values():
            camera.close()
        self._cameras.clear()


def _state_bounds(options: RobotOptions) -> tuple[Float32[np.ndarray, "19"], Float32[np.ndarray, "19"]]:
    """The simulation's, relative to any reset pose; none in HIL-SERL's convention."""
    if options.convention == "hil_serl":
        return np.full(19, -np.inf, np.float32), np.full(19, np.inf, np.float32)
    low, high = OBSERVATION_LOW.copy(), OBSERVATION_HIGH.copy()
    low[POSE], high[POSE] = relative_bounds(
        np.array(options.abs_pose_limit_low),
        np.array(options.abs_pose_limit_high),
        np.array(options.reset_pose),
        _reset_spread(options),
    )
    return low.astype(np.float32), high.astype(np.float32)


def _reset_spread(options: RobotOptions) -> Float64[np.ndarray, "6"]:
    """Half ranges of the reset pose, m and rad."""
    xy, z, rz = options.random_xy_range, options.random_z_range, options.random_rz_range
    return np.array([xy, xy, z, 0.0, 0.0, rz])


def make_robot(given: Mapping[str, Any]) -> gymnasium.Env:
    """The robot with its time limit; `given` are fields of `RobotOptions`."""
    options = RobotOptions(**check_some(RobotOptions, given))
    return TimeLimit(RobotEnv(options), options.max_episode_steps)


def preflight(environment: gymnasium.Env) -> list[str]:
    """`RobotEnv.facts`; empty for every other task."""
    robot = environment.unwrapped
    return robot.facts() if isinstance(robot, RobotEnv) else []
