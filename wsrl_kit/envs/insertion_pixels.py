"""The insertion task with cameras: what HIL-SERL's image experiments observe."""

from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float, Float32, Float64

from wsrl_kit.envs.cameras import Cameras
from wsrl_kit.envs.insertion import POSE, RESET_HEIGHT_RANGE, InsertionEnv
from wsrl_kit.envs.insertion_model import CAMERAS
from wsrl_kit.envs.insertion_options import PixelInsertionOptions
from wsrl_kit.envs.observations import STATE
from wsrl_kit.envs.simulator import mujoco


class WristCameras(gymnasium.Wrapper):
    """Two cameras on the hand, beside the state of `InsertionEnv`; physics and rewards are untouched.

    Observation, a dict: `state`, 19 float32 as `InsertionEnv` gives them, and `wrist_1` and `wrist_2`, RGB images,
    uint8 (image_size, image_size, 3), seen from the front left and the front right of the peg.

    With `relative_pose` the pose in the state (entries 4 to 9) is the tip's in its own frame at the reset: position, m,
    and Euler angles xyz, rad, all 0 at the reset. Where the hole is then shows in the images alone. It is the pose of
    HIL-SERL's RelativeFrame; that also turns velocities and actions into the frame of the tool, which here stays within
    0.2 rad of the hole's, in which both remain.

    OpenGL is first needed at the first reset, and its context freed by `close`.

    Args:
        environment: the task; its options say what is drawn.
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
            spread = [options.reset_range] * 2 + [RESET_HEIGHT_RANGE, 0.0, 0.0, options.reset_rotation]
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
        """A new episode.

        Raises:
            ExperimentError: there is no OpenGL library that works; names the packages that bring one.
        """
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
    """`pose` as seen from `frame`; both are a position, m, and Euler angles xyz, rad, in one and the same frame."""
    turn = _rotation(frame[3:]).T
    rotation = turn @ _rotation(pose[3:])
    angles = [
        np.arctan2(rotation[2, 1], rotation[2, 2]),
        np.arcsin(np.clip(-rotation[2, 0], -1.0, 1.0)),
        np.arctan2(rotation[1, 0], rotation[0, 0]),
    ]
    return np.concatenate([turn @ (pose[:3] - frame[:3]), angles])


def _rotation(angles: Float64[np.ndarray, "3"]) -> Float64[np.ndarray, "3 3"]:
    """The matrix that turns about the fixed axes x, then y, then z."""
    quaternion, matrix = np.empty(4), np.empty(9)
    mujoco.mju_euler2Quat(quaternion, angles, "XYZ")
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3)


def relative_bounds(
    low: Float[np.ndarray, "6"],
    high: Float[np.ndarray, "6"],
    middle: Float[np.ndarray, "6"],
    spread: Float[np.ndarray, "6"],
) -> tuple[Float[np.ndarray, "6"], Float[np.ndarray, "6"]]:
    """A safety box (m, rad) as seen from anywhere that a reset puts the tip, which is `middle` +- `spread`."""
    # A yaw of the reset mixes x with y, and roll with pitch, by its sine at most.
    mixed = np.array([1.0, 1.0, 0.0, 1.0, 1.0, 0.0]) * spread[5] + 1.0
    return (low - middle - spread) * mixed, (high - middle + spread) * mixed
