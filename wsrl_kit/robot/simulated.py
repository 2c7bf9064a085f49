"""The simulated arm behind the server."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from threading import Event, Lock, Thread
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, UInt8
from scipy.spatial.transform import Rotation

from wsrl_kit.envs.insertion import CONTROL_STEP, SUCCESS_DEPTH, InsertionEnv, InsertionOptions, PixelInsertionOptions
from wsrl_kit.envs.insertion_model import BASE_TO_HOLE, CAMERAS, PHYSICS_STEP
from wsrl_kit.envs.rendering import Cameras, mujoco
from wsrl_kit.errors import ParameterError
from wsrl_kit.parameters import check, unknown
from wsrl_kit.robot.control_clock import FASTEST, SLOWEST
from wsrl_kit.robot.options import CLIPS
from wsrl_kit.robot.poses import TO_UPRIGHT, TOOL_DOWN, rotation_of

_AXES = [(kind, axis) for kind in ("translational", "rotational") for axis in "xyz"]
LARGEST = {
    "translational_stiffness": 6000.0,
    "translational_damping": 400.0,
    "rotational_stiffness": 300.0,
    "rotational_damping": 30.0,
    "nullspace_stiffness": 100.0,
    "joint1_nullspace_stiffness": 100.0,
    "translational_Ki": 100.0,
    "rotational_Ki": 100.0,
    **{f"{kind}_{clip}": 0.1 for kind in ("translational", "rotational") for clip in CLIPS},
}
"""Largest compliance parameters; the smallest is 0 (serl_franka_controllers, compliance_param.cfg)."""


def clamp(given: Mapping[str, Any]) -> dict[str, float]:
    """Parameters clamped to their ranges, as by ROS's dynamic_reconfigure.

    Raises:
        ParameterError: no such parameter, or not finite.
    """
    for name in given:
        if name not in LARGEST:
            raise unknown(name, list(LARGEST), "compliance parameter")
    return {name: min(max(check(name, value, float), 0.0), LARGEST[name]) for name, value in given.items()}


def set_compliance(model: mujoco.MjModel, parameters: Mapping[str, float]) -> None:
    """Sets the springs and dampers of `insertion_model`.

    Upstream clips measured minus commanded: `clip_x` limits the push towards -x, `clip_neg_x` towards +x. Departures:
    `*_Ki` and `*nullspace_stiffness` change nothing; the rotational error is the whole rotation vector, upstream's half
    of it.
    """
    for axis, (kind, name) in enumerate(_AXES):
        stiffness = parameters[f"{kind}_stiffness"]
        model.actuator_gainprm[axis, 0] = stiffness
        model.actuator_biasprm[axis, 1] = -stiffness
        model.actuator_forcerange[axis] = (
            -stiffness * parameters[f"{kind}_clip_{name}"],
            stiffness * parameters[f"{kind}_clip_neg_{name}"],
        )
        model.actuator_biasprm[6 + axis, 2] = -parameters[f"{kind}_damping"]


def compliance_of(model: mujoco.MjModel) -> dict[str, float]:
    """The parameters that `set_compliance` sets."""
    found = {}
    for axis, (kind, name) in enumerate(_AXES):
        stiffness = float(model.actuator_gainprm[axis, 0])
        low, high = model.actuator_forcerange[axis]
        found[f"{kind}_stiffness"] = stiffness
        found[f"{kind}_damping"] = -float(model.actuator_biasprm[6 + axis, 2])
        found[f"{kind}_clip_{name}"] = -float(low) / stiffness
        found[f"{kind}_clip_neg_{name}"] = float(high) / stiffness
    return found


_TICK = 0.002
"""Seconds of real time between two looks at the clock."""
_MOST_STEPS = 100
"""Physics steps at one look, 0.4 s: a machine too slow falls behind but still answers calls."""
OPEN, CLOSED = 1.0, 0.0
"""The gripper's position, as HIL-SERL's servers report it."""


class SimulatedArm:
    """The robot of `InsertionEnv`, commanded by equilibrium poses of its impedance controller.

    Poses, in the robot's base frame (Franka's `O_T_EE`), are the peg's tip with a tool z axis along the peg. Time runs
    in a thread, `speed` times as fast as the clock; a machine too slow (one core reaches about 100) falls behind. In
    lockstep each command holds its pose for 0.1 s before it returns. Any thread may call. The peg is held rigidly: the
    gripper moves nothing.

    Args:
        options: `PixelInsertionOptions` adds cameras, which need OpenGL.
        speed: simulated seconds per second, 0.01 to 1000; 0: lockstep.

    Attributes:
        commands: the last thousand poses, oldest first.
    """

    def __init__(self, options: InsertionOptions, speed: float = 1.0) -> None:
        if not (speed == 0 or SLOWEST <= speed <= FASTEST):
            raise ParameterError(f"speed must be 0 or from {SLOWEST:g} to {FASTEST:g}, found {speed}")
        self.speed = speed
        self.commands: deque[list[float]] = deque(maxlen=1000)
        self.task = InsertionEnv(options)
        self._model, self._data = self.task.model, self.task.data
        self._tip = self._data.site("tcp")
        self._compliance = compliance_of(self._model)
        self._gripper = CLOSED
        self._controlled = True
        self._steps = self._episodes = self._commands = 0
        self._lock = Lock()
        self._camera_size = options.image_size if isinstance(options, PixelInsertionOptions) else 0
        self._cameras = Cameras(self._model, CAMERAS, self._camera_size) if self._camera_size else None
        self.new_episode()
        self._closing = Event()
        self._thread = Thread(target=self._run, name="simulated arm") if speed else None
        if self._thread is not None:
            self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        if self._cameras is not None:
            self._cameras.close()

    def new_episode(self, seed: int | None = None) -> None:
        """Draws hole and start, as also a joint reset does; a seed fixes both."""
        with self._lock:
            self.task.reset(seed=seed)
            self._episodes += 1
            self._gripper = CLOSED

    def reset_joints(self, target: Sequence[float] | None = None) -> None:
        """A new episode, with the joints at `target`, rad; raises ParameterError if they can't be there."""
        low, high = self._model.jnt_range[: self._model.nv].T
        if target is not None and (len(target) != len(low) or not ((low <= target) & (target <= high)).all()):
            raise ParameterError(
                f"arr must be {len(low)} angles from {low.round(2).tolist()} to {high.round(2).tolist()} rad, found "
                f"{list(target)}"
            )
        self.new_episode()
        if target is not None:
            with self._lock:
                self._data.qpos[:] = target
                mujoco.mj_forward(self._model, self._data)
                self._hold()

    def command(self, pose: Float[np.ndarray, "7"]) -> None:
        """Makes `pose` the controller's equilibrium; ignored while it is stopped."""
        rotation = rotation_of(pose) * TOOL_DOWN  # a half turn is its own inverse
        with self._lock:
            self.commands.append(pose.tolist())
            self._commands += 1
            if self._controlled:
                self._data.ctrl[:3] = pose[:3] - BASE_TO_HOLE
                self._data.ctrl[3:6] = rotation.as_rotvec()
            if not self.speed:
                self._advance(round(CONTROL_STEP / PHYSICS_STEP))

    def start_controller(self) -> None:
        with self._lock:
            self._hold()
            self._controlled = True

    def stop_controller(self) -> None:
        """Holds the robot (a real one by its brakes) and ignores commands."""
        with self._lock:
            self._hold()
            self._controlled = False

    def comply(self, given: Mapping[str, Any]) -> None:
        """Changes compliance parameters; raises as `clamp`."""
        parameters = clamp(given)
        with self._lock:
            self._compliance |= parameters
            set_compliance(self._model, self._compliance)

    def move_gripper(self, position: float) -> None:
        """0 (closed) to 1 (open)."""
        with self._lock:
            self._gripper = position

    def state(self) -> dict[str, Any]:
        """The answer of HIL-SERL's `/getstate`, after the last physics step."""
        with self._lock:
            jacobian = np.zeros((6, self._model.nv))
            mujoco.mj_jacSite(self._model, self._data, jacobian[:3], jacobian[3:], self._tip.id)
            # The sensors measure the hand on the peg, Franka's estimate is the peg on the hand.
            force, torque = -TO_UPRIGHT * self._data.sensordata[1:4], -TO_UPRIGHT * self._data.sensordata[4:7]
            return {
                "pose": self._pose().tolist(),
                "vel": self._data.actuator_velocity[6:12].tolist(),
                "force": force.tolist(),
                "torque": torque.tolist(),
                "q": self._data.qpos.tolist(),
                "dq": self._data.qvel.tolist(),
                "jacobian": jacobian.tolist(),
                "gripper_pos": self._gripper,
            }

    def truth(self) -> dict[str, Any]:
        """Facts that no real robot knows.

        In the nominal hole's frame `hole_position` (m) and `tip_pose` (m and rotation vector, rad); `time`, simulated
        seconds; `episode` and `commands`, counts; `cameras`: height and width.
        """
        with self._lock:
            tip = self._data.actuator_length[:6]
            return {
                "simulated": True,
                "speed": self.speed,
                "time": self._steps * PHYSICS_STEP,
                "episode": self._episodes,
                "commands": self._commands,
                "success": bool(tip[2] < -SUCCESS_DEPTH),
                "hole_position": self.task.hole_position.tolist(),
                "tip_pose": tip.tolist(),
                "cameras": {name: [self._camera_size] * 2 for name in CAMERAS} if self._cameras else {},
            }

    def images(self) -> dict[str, UInt8[np.ndarray, "size size 3"]]:
        """RGB images by camera."""
        with self._lock:
            return {} if self._cameras is None else self._cameras.draw(self._data)

    def _pose(self) -> Float64[np.ndarray, "7"]:
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, self._tip.xmat)
        rotation = Rotation.from_quat(quaternion, scalar_first=True) * TOOL_DOWN
        return np.concatenate([self._tip.xpos + BASE_TO_HOLE, rotation.as_quat()])

    def _hold(self) -> None:
        self._data.ctrl[:6] = self._data.actuator_length[:6]

    def _advance(self, steps: int) -> None:
        mujoco.mj_step(self._model, self._data, steps)
        self._steps += steps

    def _run(self) -> None:
        before = time.monotonic()
        owed = 0.0
        while not self._closing.wait(_TICK):
            now = time.monotonic()
            owed = min(owed + (now - before) * self.speed / PHYSICS_STEP, _MOST_STEPS)
            before = now
            steps = int(owed)
            owed -= steps
            with self._lock:
                if steps:
                    self._advance(steps)
