"""The simulated arm behind the server: MuJoCo in real time, faster, or in step with its commands."""

import time
from collections import deque
from collections.abc import Mapping
from threading import Event, Lock, Thread
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, UInt8

from wsrl_kit.envs.insertion import CONTROL_STEP, SUCCESS_DEPTH, InsertionEnv, InsertionOptions, PixelInsertionOptions
from wsrl_kit.envs.insertion_model import BASE_TO_HOLE, CAMERAS, PHYSICS_STEP
from wsrl_kit.envs.rendering import Cameras, mujoco
from wsrl_kit.errors import ParameterError
from wsrl_kit.parameters import check, unknown
from wsrl_kit.robot.control_clock import FASTEST, SLOWEST
from wsrl_kit.robot.poses import TOOL_DOWN, matrix_of_quaternion, quaternion_of, vector_of

_AXES = tuple(f"{sign}{axis}" for sign in ("", "neg_") for axis in "xyz")
LARGEST = {
    "translational_stiffness": 6000.0,
    "translational_damping": 400.0,
    "rotational_stiffness": 300.0,
    "rotational_damping": 30.0,
    "nullspace_stiffness": 100.0,
    "joint1_nullspace_stiffness": 100.0,
    "translational_Ki": 100.0,
    "rotational_Ki": 100.0,
    **{f"{kind}_clip_{axis}": 0.1 for kind in ("translational", "rotational") for axis in _AXES},
}
"""Largest value of every compliance parameter; the smallest is 0 (serl_franka_controllers, compliance_param.cfg)."""


def conformed(given: Mapping[str, Any]) -> dict[str, float]:
    """Parameters clamped to their ranges, as ROS's dynamic_reconfigure does it.

    Raises:
        ParameterError: there is no such parameter, or it is no finite number.
    """
    for name in given:
        if name not in LARGEST:
            raise unknown(name, list(LARGEST), "compliance parameter")
    return {name: min(max(check(name, value, float), 0.0), LARGEST[name]) for name, value in given.items()}


def apply(model: mujoco.MjModel, parameters: Mapping[str, float]) -> None:
    """Set the springs and dampers of `insertion_model` to those of the parameters that they have.

    Upstream clips the error, which is measured minus commanded position: `clip_x` limits the push towards -x, and
    `clip_neg_x` the one towards +x. The model has no integral term and no posture spring, so that `*_Ki` and
    `*nullspace_stiffness` change nothing; its rotational error is the rotation vector, of which upstream's is half.

    Args:
        model: changed in place.
        parameters: every one that `LARGEST` names, the `*_Ki` and `*nullspace_stiffness` apart.
    """
    for axis in range(6):
        kind, name = "translational" if axis < 3 else "rotational", "xyz"[axis % 3]
        stiffness = parameters[f"{kind}_stiffness"]
        model.actuator_gainprm[axis, 0] = stiffness
        model.actuator_biasprm[axis, 1] = -stiffness
        model.actuator_forcerange[axis] = (
            -stiffness * parameters[f"{kind}_clip_{name}"],
            stiffness * parameters[f"{kind}_clip_neg_{name}"],
        )
        model.actuator_biasprm[6 + axis, 2] = -parameters[f"{kind}_damping"]


def of(model: mujoco.MjModel) -> dict[str, float]:
    """The parameters that the model has now."""
    found = {}
    for axis in range(6):
        kind, name = "translational" if axis < 3 else "rotational", "xyz"[axis % 3]
        stiffness = float(model.actuator_gainprm[axis, 0])
        low, high = model.actuator_forcerange[axis]
        found[f"{kind}_stiffness"] = stiffness
        found[f"{kind}_damping"] = -float(model.actuator_biasprm[6 + axis, 2])
        found[f"{kind}_clip_{name}"] = -float(low) / stiffness
        found[f"{kind}_clip_neg_{name}"] = float(high) / stiffness
    return found


TICK = 0.002
"""Seconds of real time between two looks at the clock."""
MOST_STEPS = 100
"""Physics steps at one look, 0.4 s: a machine too slow falls behind, and still answers calls between two looks."""
OPEN, CLOSED = 1.0, 0.0
"""The gripper's position, as HIL-SERL's servers report it."""


class SimulatedArm:
    """The robot of `InsertionEnv`, commanded by equilibrium poses of its impedance controller.

    Poses are in the robot's base frame, as Franka's `O_T_EE`: x, y, z of the peg's tip, m, and the quaternion
    (x, y, z, w) of a tool whose z axis points along the peg, downwards when the peg is upright.

    Time runs in a thread of its own, `speed` times as fast as the clock; a machine that is too slow for that (one core
    reaches about 100) falls behind. At speed 0 it moves in lockstep: every commanded pose is held for one control step
    of 0.1 s before the call returns, and nothing else moves time.

    Any thread may call any method. The peg is held rigidly: the gripper's position is reported, and moves nothing.

    Args:
        options: the task's; a `PixelInsertionOptions` gives the robot its wrist cameras, which need OpenGL.
        speed: simulated seconds per second, 0.01 to 1000; 0 for lockstep.

    Attributes:
        task: the robot and its hole.
        commands: the last thousand poses that were commanded, oldest first.
        frozen: simulated time stands still as long as this is set (a fault, for tests).

    Raises:
        ParameterError: a speed out of range.
        ExperimentError: cameras are asked for and no OpenGL library works.
    """

    def __init__(self, options: InsertionOptions, speed: float = 1.0) -> None:
        if not (speed == 0 or SLOWEST <= speed <= FASTEST):
            raise ParameterError(f"speed must be 0 or from {SLOWEST:g} to {FASTEST:g}, found {speed}")
        self.speed = speed
        self.commands: deque[list[float]] = deque(maxlen=1000)
        self.frozen = False
        self.task = InsertionEnv(options)
        self._model, self._data = self.task.model, self.task.data
        self._tip = self._data.site("tcp")
        self._parameters = of(self._model)
        self._gripper = CLOSED
        self._controlled = True
        self._steps = 0
        self._lock = Lock()
        self._camera_size = options.image_size if isinstance(options, PixelInsertionOptions) else 0
        self._cameras = Cameras(self._model, CAMERAS, self._camera_size) if self._camera_size else None
        self.new_episode()
        self._closing = Event()
        self._thread = Thread(target=self._run, name="simulated arm") if speed else None
        if self._thread is not None:
            self._thread.start()

    def close(self) -> None:
        """Stop time and give the cameras back."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        if self._cameras is not None:
            self._cameras.close()

    def new_episode(self, seed: int | None = None) -> None:
        """Move the arm at once to a place above the hole, with a hole drawn anew; the same one for the same seed.

        It is what a joint reset does here: there is no joint controller that would take its time.
        """
        with self._lock:
            self.task.reset(seed=seed)
            self._gripper = CLOSED

    def command(self, pose: Float[np.ndarray, "7"]) -> None:
        """Make `pose` the impedance controller's equilibrium; ignored while the controller is stopped."""
        rotation = matrix_of_quaternion(pose[3:]) @ TOOL_DOWN.T
        with self._lock:
            self.commands.append(pose.tolist())
            if self._controlled:
                self._data.ctrl[:3] = pose[:3] - BASE_TO_HOLE
                self._data.ctrl[3:6] = vector_of(rotation)
            if not self.speed and not self.frozen:
                self._advance(round(CONTROL_STEP / PHYSICS_STEP))

    def start_controller(self) -> None:
        """Let commands move the robot; its equilibrium is where it stands."""
        with self._lock:
            self._hold()
            self._controlled = True

    def stop_controller(self) -> None:
        """Hold the robot where it stands, by its brakes on a real one, and ignore commands."""
        with self._lock:
            self._hold()
            self._controlled = False

    def comply(self, given: Mapping[str, Any]) -> None:
        """Change some of the compliance parameters.

        Raises:
            ParameterError: there is no such parameter, or it is no finite number.
        """
        parameters = conformed(given)
        with self._lock:
            self._parameters |= parameters
            apply(self._model, self._parameters)

    def move_gripper(self, position: float) -> None:
        """Make the gripper report `position`, from 0 (closed) to 1 (open)."""
        with self._lock:
            self._gripper = position

    def state(self) -> dict[str, Any]:
        """What HIL-SERL's `/getstate` answers, of the last physics step."""
        with self._lock:
            jacobian = np.zeros((6, self._model.nv))
            mujoco.mj_jacSite(self._model, self._data, jacobian[:3], jacobian[3:], self._tip.id)
            force, torque = self._data.sensordata[1:4], self._data.sensordata[4:7]
            return {
                "pose": self._pose().tolist(),
                "vel": self._data.actuator_velocity[6:12].tolist(),
                # The sensors say what the hand does to the peg, Franka's estimate what the peg does to the hand.
                "force": (-TOOL_DOWN.T @ force).tolist(),
                "torque": (-TOOL_DOWN.T @ torque).tolist(),
                "q": self._data.qpos.tolist(),
                "dq": self._data.qvel.tolist(),
                "jacobian": jacobian.tolist(),
                "gripper_pos": self._gripper,
            }

    def truth(self) -> dict[str, Any]:
        """What no real robot knows, in the frame of the nominal hole, and how this simulation runs.

        `success` as `InsertionEnv` defines it, at this moment; `hole_position` (3, m); `tip_pose` (6, m and a rotation
        vector in rad); `time`, simulated seconds since the start; `speed`; `cameras`, name to height and width.
        """
        with self._lock:
            tip = self._data.actuator_length[:6]
            return {
                "simulated": True,
                "speed": self.speed,
                "time": self._steps * PHYSICS_STEP,
                "success": bool(tip[2] < -SUCCESS_DEPTH),
                "hole_position": self.task.hole_position.tolist(),
                "tip_pose": tip.tolist(),
                "cameras": {name: [self._camera_size] * 2 for name in CAMERAS} if self._cameras else {},
            }

    def images(self) -> dict[str, UInt8[np.ndarray, "size size 3"]]:
        """What the cameras see now; empty without cameras."""
        with self._lock:
            return {} if self._cameras is None else self._cameras.draw(self._data)

    def _pose(self) -> Float64[np.ndarray, "7"]:
        rotation = self._tip.xmat.reshape(3, 3) @ TOOL_DOWN
        return np.concatenate([self._tip.xpos + BASE_TO_HOLE, quaternion_of(rotation)])

    def _hold(self) -> None:
        self._data.ctrl[:6] = self._data.actuator_length[:6]

    def _advance(self, steps: int) -> None:
        mujoco.mj_step(self._model, self._data, steps)
        self._steps += steps

    def _run(self) -> None:
        before = time.monotonic()
        owed = 0.0
        while not self._closing.wait(TICK):
            now = time.monotonic()
            owed = min(owed + (now - before) * self.speed / PHYSICS_STEP, MOST_STEPS)
            before = now
            steps = int(owed)
            owed -= steps
            with self._lock:
                if steps and not self.frozen:
                    self._advance(steps)
