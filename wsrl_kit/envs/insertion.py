"""The simulated robot: a Franka Panda inserts a square peg into a tight square hole."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import asin, atan2
from typing import Any, TypeVar

import gymnasium
import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8
from scipy.spatial.transform import Rotation

from wsrl_kit.envs.insertion_model import CAMERAS, HOME, LARGEST_IMAGE, OUTSIDE, PHYSICS_STEP, insertion_model
from wsrl_kit.envs.rendering import Cameras, mujoco
from wsrl_kit.envs.wrappers import STATE
from wsrl_kit.errors import ExperimentError
from wsrl_kit.parameters import check, parameter, unknown, validate


@dataclass(frozen=True)
class InsertionOptions:
    """Options of the insertion task; raises ParameterError."""

    clearance: float = parameter(0.0005, "hole width minus peg width, m", minimum=0.0001, maximum=0.005)
    hole_offset: float = parameter(
        0.003, "half range of the hole's x and y, m; hidden from the policy", minimum=0.0, maximum=0.01
    )
    reset_range: float = parameter(0.02, "half range of the tip's x and y at reset, m", minimum=0.0, maximum=0.03)
    reset_rotation: float = parameter(0.05, "half range of the peg's yaw at reset, rad", minimum=0.0, maximum=0.2)
    reset_height: float = parameter(0.04, "mean height of the tip at reset, m; +- 0.01", minimum=0.012, maximum=0.045)
    max_episode_steps: int = parameter(100, "time limit, control steps of 0.1 s", minimum=1)

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True)
class PixelInsertionOptions(InsertionOptions):
    """Options of the insertion task with cameras; raises ParameterError."""

    image_size: int = parameter(
        128, "height and width of the cameras' images, pixels", minimum=16, maximum=LARGEST_IMAGE
    )
    relative_pose: bool = parameter(
        True, "whether tcp_pose is relative to the reset's, so that only the cameras show the hole, as in HIL-SERL"
    )


Options = TypeVar("Options", bound=InsertionOptions)

DIFFICULTIES: dict[str, dict[str, Any]] = {
    "easy": {"clearance": 0.001, "hole_offset": 0.0},
    "default": {},
    "hard": {"clearance": 0.0003, "hole_offset": 0.004, "reset_rotation": 0.1},
}
"""Options that differ from their defaults."""


def insertion_options(given: Mapping[str, Any], kind: type[Options]) -> Options:
    """Options of a `kind`: `difficulty` names a preset, other entries override; raises ParameterError."""
    known = [field.name for field in fields(kind)]
    for name in given:
        if name != "difficulty" and name not in known:
            raise unknown(name, ["difficulty", *known])
    difficulty = check("difficulty", given.get("difficulty", "default"), str, {"choices": tuple(DIFFICULTIES)})
    chosen = {name: value for name, value in given.items() if name != "difficulty"}
    return kind(**{**DIFFICULTIES[difficulty], **chosen})


CONTROL_STEP = 0.1
"""Seconds."""
TRANSLATION_SCALE = 0.01
"""m per action of 1 (HIL-SERL's ACTION_SCALE[0] for RAM insertion)."""
ROTATION_SCALE = 0.06
"""rad per action of 1 (HIL-SERL's ACTION_SCALE[1])."""
SUCCESS_DEPTH = 0.020
"""Depth of the tip, m, beyond which the peg is inserted."""
POSE = slice(4, 10)
"""The tip's pose in the state."""
_RESET_HEIGHT_RANGE = 0.01
"""Half range of the tip's height at reset, m."""

_SAFETY_LOW = np.array([-0.04, -0.04, -0.03, -0.2, -0.2, -0.2])
_SAFETY_HIGH = np.array([0.04, 0.04, 0.06, 0.2, 0.2, 0.2])
_ACTION_SCALE = np.array([TRANSLATION_SCALE] * 3 + [ROTATION_SCALE] * 3)
_FORCE_LIMIT, _TORQUE_LIMIT = 50.0, 2.0
# Random actions, the widest there are, reach 0.11 m/s and 0.44 rad/s at the end of a control step.
_VELOCITY_LIMIT, _ROTATION_RATE_LIMIT = 0.15, 0.5
OBSERVATION_HIGH = np.array(
    [1.0, *[_FORCE_LIMIT] * 3, *_SAFETY_HIGH, *[_TORQUE_LIMIT] * 3, *[_VELOCITY_LIMIT] * 3, *[_ROTATION_RATE_LIMIT] * 3]
)
OBSERVATION_LOW = -OBSERVATION_HIGH
OBSERVATION_LOW[[0, 6]] = 0.0, _SAFETY_LOW[2]
_PHYSICS_STEPS = round(CONTROL_STEP / PHYSICS_STEP)
_VIEW_SIZE, _VIEW_SAMPLES = 400, 4
"""Of the outside camera's images: pixels, and colours averaged for each."""


class InsertionEnv(gymnasium.Env[Float32[np.ndarray, "19"], Float32[np.ndarray, "6"]]):
    """Contact-rich insertion under Cartesian impedance control at 10 Hz.

    Action: [-1, 1]^6, the change from the measured tip pose along the nominal hole's axes: x, y, z (times 10 mm),
    rotation vector (times 0.06 rad). Departure: rotation vectors add, which equals HIL-SERL's composition to first
    order. The safety box clips the command (x, y +-40 mm, z -30 to 60 mm, rotation +-0.2 rad), the controller its
    spring (16 N, 15 N m).

    Observation: 19 float32 (HIL-SERL's RAM insertion), in the *nominal* hole's frame, after the last physics step:
        0      gripper_pose, always 0 (closed)
        1:4    tcp_force, N, of the hand on the peg, clipped at 50 N
        4:10   tcp_pose: tip, m (z is 0 at the hole's mouth), Euler angles xyz, rad (0: upright)
        10:13  tcp_torque, N m, at the wrist, clipped at 2 N m
        13:19  tcp_vel, m/s and rad/s

    Reward: 1 when the tip gets more than 20 mm deep, which terminates; else 0.

    info: `success`; `contact_force`, N, the peak sum of normal forces on the peg over 25 physics steps;
    `safety_box_clipped`.

    `reset(seed=s)` fixes the outcome of given actions, bit by bit. `render()` is the view of an outside camera; the
    first call raises ExperimentError without OpenGL.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": round(1 / CONTROL_STEP)}  # noqa: RUF012
    render_mode = "rgb_array"
    action_names = ("x", "y", "z", "rotation x", "rotation y", "rotation z")

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
        # Views into MuJoCo's memory: looking them up at every step costs more than the arithmetic.
        self._pose = self.data.actuator_length[:6]
        self._velocity = self.data.actuator_velocity[6:]
        self._command = self.data.ctrl[:6]
        self._contact = self.data.sensordata[:1]
        self._force = self.data.sensordata[1:4]
        self._torque = self.data.sensordata[4:7]
        self._rotation = self._tip.xmat
        self._observation = np.zeros(19)
        # The last observation, for a script.
        self.state = np.zeros(19, np.float32)
        self._outside: Cameras | None = None

    @property
    def hole_position(self) -> Float[np.ndarray, "3"]:
        """The true hole, m, in the nominal hole's frame; hidden from policies."""
        return self._hole_position.copy()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float32[np.ndarray, "19"], dict[str, Any]]:
        """Draws the tip above the nominal hole and the hole near it."""
        super().reset(seed=seed)
        choice = self.options
        spread = [choice.reset_range, choice.reset_range, _RESET_HEIGHT_RANGE, choice.reset_rotation]
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
        """One control step; `action` is clipped to [-1, 1].

        Raises:
            ExperimentError: the action is not finite.
        """
        if not np.isfinite(action).all():
            raise ExperimentError(f"an action of the robot must be finite, found {action}")
        wish = self._pose + np.minimum(np.maximum(action, -1.0), 1.0) * _ACTION_SCALE
        command = np.minimum(np.maximum(wish, _SAFETY_LOW), _SAFETY_HIGH)
        self._command[:] = command
        # One call per physics step costs 2 % more than one for all, and sees each contact force.
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
        # The Euler angles of `Rotation.as_euler("xyz")`, a hundred times faster: this is in every simulated step.
        raw[7] = atan2(rotation[7], rotation[8])
        raw[8] = asin(max(-1.0, min(1.0, -rotation[6])))
        raw[9] = atan2(rotation[3], rotation[0])
        raw[10:13] = self._torque
        raw[13:19] = self._velocity
        return np.minimum(np.maximum(raw, OBSERVATION_LOW), OBSERVATION_HIGH).astype(np.float32)

    def render(self) -> UInt8[np.ndarray, "size size 3"]:
        """The robot as the outside camera sees it, RGB."""
        if self._outside is None:
            self._outside = Cameras(self.model, (OUTSIDE,), _VIEW_SIZE, _VIEW_SAMPLES)
        return self._outside.draw(self.data)[OUTSIDE]

    def close(self) -> None:
        if self._outside is not None:
            self._outside.close()
            self._outside = None

    def _move_tip(self, pose: Float[np.ndarray, "6"]) -> None:
        """Sets the joints for a tip at `pose` (m, rotation vector in rad), by Gauss-Newton from home."""
        self.data.qpos[:] = HOME
        mujoco.mj_forward(self.model, self.data)
        jacobian = np.zeros((6, self.model.nv))
        for _ in range(8):
            mujoco.mj_jacSite(self.model, self.data, jacobian[:3], jacobian[3:], self._tip.id)
            self.data.qpos += np.linalg.pinv(jacobian) @ (pose - self._pose)
            mujoco.mj_forward(self.model, self.data)


class WristCameras(gymnasium.Wrapper):
    """Two cameras on the hand beside the state of `InsertionEnv`.

    Observation: `state`, and RGB `wrist_1` and `wrist_2` from the front left and right of the peg. With
    `relative_pose`, tcp_pose is relative to the reset's, so that only images show the hole (HIL-SERL's RelativeFrame;
    departure: velocities and actions stay in the hole's frame, within 0.2 rad of the tool's). The first reset raises
    ExperimentError without OpenGL.
    """

    def __init__(self, environment: InsertionEnv, options: PixelInsertionOptions) -> None:
        super().__init__(environment)
        self._task = environment
        self._options = options
        self._cameras: Cameras | None = None
        self._reset_pose = np.zeros(6)
        states = environment.observation_space
        self._low, self._high = states.low.copy(), states.high.copy()
        if options.relative_pose:
            spread = [options.reset_range] * 2 + [_RESET_HEIGHT_RANGE, 0.0, 0.0, options.reset_rotation]
            middle = [0.0, 0.0, options.reset_height, 0.0, 0.0, 0.0]
            self._low[POSE], self._high[POSE] = relative_bounds(
                self._low[POSE], self._high[POSE], np.array(middle), np.array(spread)
            )
        image = gymnasium.spaces.Box(0, 255, (options.image_size, options.image_size, 3), np.uint8)
        self.observation_space = gymnasium.spaces.Dict(
            {STATE: gymnasium.spaces.Box(self._low, self._high)} | dict.fromkeys(CAMERAS, image)
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        if self._cameras is None:
            self._cameras = Cameras(self._task.model, CAMERAS, self._options.image_size)
        state, info = self.env.reset(seed=seed, options=options)
        self._reset_pose = state[POSE].astype(np.float64)
        return self._observe(state), info

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], Any, bool, bool, dict[str, Any]]:
        state, reward, terminated, truncated, info = self.env.step(action)
        return self._observe(state), reward, terminated, truncated, info

    def close(self) -> None:
        if self._cameras is not None:
            self._cameras.close()
            self._cameras = None
        super().close()

    def _observe(self, state: Float32[np.ndarray, "19"]) -> dict[str, np.ndarray]:
        assert self._cameras is not None
        if self._options.relative_pose:
            state = state.copy()
            state[POSE] = relative_pose(self._reset_pose, state[POSE].astype(np.float64))
            state = np.minimum(np.maximum(state, self._low), self._high)
        return {STATE: state, **self._cameras.draw(self._task.data)}


def relative_pose(frame: Float64[np.ndarray, "6"], pose: Float64[np.ndarray, "6"]) -> Float64[np.ndarray, "6"]:
    """`pose` as seen from `frame`, both m and Euler angles xyz, rad."""
    back = Rotation.from_euler("xyz", frame[3:]).inv()
    rotation = back * Rotation.from_euler("xyz", pose[3:])
    return np.concatenate([back.apply(pose[:3] - frame[:3]), rotation.as_euler("xyz")])


def relative_bounds(
    low: Float[np.ndarray, "6"],
    high: Float[np.ndarray, "6"],
    middle: Float[np.ndarray, "6"],
    spread: Float[np.ndarray, "6"],
) -> tuple[Float[np.ndarray, "6"], Float[np.ndarray, "6"]]:
    """A safety box (m, rad) as seen from any reset pose `middle` +- `spread`."""
    # A yaw at the reset mixes x with y, and roll with pitch, by its sine at most.
    mixed = np.array([1.0, 1.0, 0.0, 1.0, 1.0, 0.0]) * spread[5] + 1.0
    return (low - middle - spread) * mixed, (high - middle + spread) * mixed
