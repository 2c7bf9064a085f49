"""The simulated robot: a Franka Panda inserts a square peg into a tight square hole, with HIL-SERL's conventions."""

from math import asin, atan2
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float, Float32

from wsrl_kit.envs.insertion_model import HOME, PHYSICS_STEP, insertion_model
from wsrl_kit.envs.insertion_options import InsertionOptions
from wsrl_kit.envs.simulator import mujoco
from wsrl_kit.errors import ExperimentError

CONTROL_STEP = 0.1
"""Length of one control step, s."""
TRANSLATION_SCALE = 0.01
"""Metres that an action of 1 moves the command (HIL-SERL's ACTION_SCALE[0] for RAM insertion)."""
ROTATION_SCALE = 0.06
"""Radians that an action of 1 turns the command (HIL-SERL's ACTION_SCALE[1])."""
SUCCESS_DEPTH = 0.020
"""The peg is inserted when its tip is deeper than this, m."""
RESET_HEIGHT_RANGE = 0.01
"""Half range of the tip's height at reset, m."""
POSE = slice(4, 10)
"""Where the tip's pose is in the observation."""

SAFETY_LOW = np.array([-0.04, -0.04, -0.03, -0.2, -0.2, -0.2])
SAFETY_HIGH = np.array([0.04, 0.04, 0.06, 0.2, 0.2, 0.2])
_ACTION_SCALE = np.array([TRANSLATION_SCALE] * 3 + [ROTATION_SCALE] * 3)
_FORCE_LIMIT, _TORQUE_LIMIT = 50.0, 2.0
# Random actions, the widest there are, reach 0.11 m/s and 0.44 rad/s at the end of a control step.
_VELOCITY_LIMIT, _ROTATION_RATE_LIMIT = 0.15, 0.5
OBSERVATION_HIGH = np.array(
    [1.0, *[_FORCE_LIMIT] * 3, *SAFETY_HIGH, *[_TORQUE_LIMIT] * 3, *[_VELOCITY_LIMIT] * 3, *[_ROTATION_RATE_LIMIT] * 3]
)
OBSERVATION_LOW = -OBSERVATION_HIGH
OBSERVATION_LOW[[0, 6]] = 0.0, SAFETY_LOW[2]
_PHYSICS_STEPS = round(CONTROL_STEP / PHYSICS_STEP)


class InsertionEnv(gymnasium.Env[Float32[np.ndarray, "19"], Float32[np.ndarray, "6"]]):
    """Contact-rich insertion under Cartesian impedance control at 10 Hz.

    Action: [-1, 1]^6, the commanded change from the measured tip pose: x, y, z (times 10 mm) and rotation about x, y, z
    (times 0.06 rad), in the frame of the nominal hole. Rotations add as rotation vectors, which is HIL-SERL's
    composition to first order at these small angles. The command is clipped to the safety box (x, y +-40 mm, z -30 to
    60 mm, rotation +-0.2 rad), and the controller's spring to 16 N and 15 N m.

    Observation, 19 float32 (HIL-SERL's RAM insertion, alphabetical), in the frame of the *nominal* hole:
        0      gripper_pose, always 0 (closed)
        1:4    tcp_force, N, that the hand puts on the peg (pushing down reads negative z), clipped at 50 N
        4:10   tcp_pose: x, y, z of the tip, m (z is 0 at the hole's mouth), and Euler angles xyz, rad (0 when upright)
        10:13  tcp_torque, N m, at the wrist, clipped at 2 N m
        13:19  tcp_vel, m/s and rad/s
    All are of the control step's last physics step; bounds are finite and the observation is clipped to them.

    Reward: 1 when the tip gets more than 20 mm deep, which terminates the episode; otherwise 0. The time limit is
    `make`'s.

    info: `success` (bool); `contact_force`, N: the sum of the normal contact forces on the peg, its largest value over
    all 25 physics steps of the control step (exact, not sampled at the end; friction is not counted, opposing forces
    add up, and an impact is averaged over the 4 ms of a physics step); `safety_box_clipped` (bool): the box changed the
    command.

    `reset(seed=s)` determines everything that follows from given actions, bit by bit.
    """

    def __init__(self, options: InsertionOptions | None = None) -> None:
        self.options = options or InsertionOptions()
        self.observation_space: gymnasium.spaces.Box = gymnasium.spaces.Box(
            OBSERVATION_LOW.astype(np.float32), OBSERVATION_HIGH.astype(np.float32)
        )
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (6,), np.float32)
        self.model = mujoco.MjModel.from_xml_string(insertion_model(self.options.clearance))
        self.data = mujoco.MjData(self.model)
        self._hole_position = self.model.body("hole").pos
        self._tip = self.data.site("tcp")
        # Views into MuJoCo's own memory, taken once: looking them up at every step costs more than the arithmetic.
        self._pose = self.data.actuator_length[:6]
        self._velocity = self.data.actuator_velocity[6:]
        self._command = self.data.ctrl[:6]
        self._contact = self.data.sensordata[:1]
        self._force = self.data.sensordata[1:4]
        self._torque = self.data.sensordata[4:7]
        self._rotation = self._tip.xmat
        self._observation = np.zeros(19)
        # The last observation, for a script that may see what a policy does not.
        self.state = np.zeros(19, np.float32)

    @property
    def hole_position(self) -> Float[np.ndarray, "3"]:
        """Where the hole really is this episode, m, in the frame of the nominal hole; a policy does not see it."""
        return self._hole_position.copy()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float32[np.ndarray, "19"], dict[str, Any]]:
        """Put the tip at random over the nominal hole and the hole at random near its nominal place."""
        super().reset(seed=seed)
        choice = self.options
        spread = [choice.reset_range, choice.reset_range, RESET_HEIGHT_RANGE, choice.reset_rotation]
        x, y, z, yaw = self.np_random.uniform(-1.0, 1.0, 4) * spread
        mujoco.mj_resetData(self.model, self.data)
        self._hole_position[:2] = self.np_random.uniform(-1.0, 1.0, 2) * choice.hole_offset
        self._move_tip(np.array([x, y, choice.reset_height + z, 0.0, 0.0, yaw]))
        self._command[:] = self._pose
        self.state = self._observe()
        return self.state, {}

    def step(
        self, action: Float[np.ndarray, "6"]
    ) -> tuple[Float32[np.ndarray, "19"], float, bool, bool, dict[str, Any]]:
        """One control step of 0.1 s; entries of `action` beyond [-1, 1] are clipped.

        Raises:
            ExperimentError: the action has an entry that is not finite, as from a policy that diverged.
        """
        if not np.isfinite(action).all():
            raise ExperimentError(f"an action of the robot must be finite, found {action}")
        wish = self._pose + np.minimum(np.maximum(action, -1.0), 1.0) * _ACTION_SCALE
        command = np.minimum(np.maximum(wish, SAFETY_LOW), SAFETY_HIGH)
        self._command[:] = command
        # One call per physics step costs 2 % more than one call for all, and sees the contact force of each.
        peak = 0.0
        for _ in range(_PHYSICS_STEPS):
            mujoco.mj_step(self.model, self.data)
            peak = max(peak, self._contact.item())
        success = self._pose.item(2) < -SUCCESS_DEPTH
        info = {"success": success, "contact_force": peak, "safety_box_clipped": bool((command != wish).any())}
        self.state = self._observe()
        return self.state, float(success), success, False, info

    def _observe(self) -> Float32[np.ndarray, "19"]:
        rotation = self._rotation
        raw = self._observation
        raw[1:4] = self._force
        raw[4:7] = self._pose[:3]
        raw[7] = atan2(rotation[7], rotation[8])
        raw[8] = asin(max(-1.0, min(1.0, -rotation[6])))
        raw[9] = atan2(rotation[3], rotation[0])
        raw[10:13] = self._torque
        raw[13:19] = self._velocity
        return np.minimum(np.maximum(raw, OBSERVATION_LOW), OBSERVATION_HIGH).astype(np.float32)

    def _move_tip(self, pose: Float[np.ndarray, "6"]) -> None:
        """Set the joints so that the tip is at `pose` (m, rotation vector in rad), by Gauss-Newton from home."""
        self.data.qpos[:] = HOME
        mujoco.mj_forward(self.model, self.data)
        jacobian = np.zeros((6, self.model.nv))
        for _ in range(8):
            mujoco.mj_jacSite(self.model, self.data, jacobian[:3], jacobian[3:], self._tip.id)
            self.data.qpos += np.linalg.pinv(jacobian) @ (pose - self._pose)
            mujoco.mj_forward(self.model, self.data)
