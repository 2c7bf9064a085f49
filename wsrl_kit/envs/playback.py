"""Plays recorded episodes again, to look at them."""

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float32, Float64, UInt8

from wsrl_kit.config.config import ROBOT
from wsrl_kit.envs.insertion import POSE, InsertionEnv
from wsrl_kit.envs.make import make
from wsrl_kit.envs.wrappers import parts, succeeded
from wsrl_kit.errors import ExperimentError, WSRLKitError
from wsrl_kit.runs.traces import Trace
from wsrl_kit.text import one_line

USUAL_RATE = 10.0
"""Control steps a second of a task that does not say its own."""


@dataclass(frozen=True)
class Playback:
    """An episode played again.

    Attributes:
        pictures: before the first step, after every `stride`-th and after the last; empty without OpenGL.
        forces: contact force by step, N; None: the task reports none.
        poses: of the simulated robot's tip, at the reset and after each step: m, Euler angles xyz in rad; else None.
        hole: its place, m; None without `poses`.
        is_exact: ended in the recorded state, bit by bit. Another processor may round otherwise.
        trouble: why there are no pictures; "": there are.
    """

    pictures: list[UInt8[np.ndarray, "height width 3"]]
    forces: Float64[np.ndarray, " steps"] | None
    poses: Float32[np.ndarray, "moments 6"] | None
    hole: Float64[np.ndarray, "3"] | None
    is_exact: bool
    trouble: str


def make_visible(exp_name: str, environment_options: Mapping[str, Any]) -> gymnasium.Env:
    """The environment of `make`, able to draw itself.

    Raises:
        ExperimentError: it can't, or it is a real robot.
        WSRLKitError: as `make`.
    """
    if exp_name == ROBOT:
        raise ExperimentError(f"episodes of {ROBOT} are not played again, since a real robot would move")
    environment = make(exp_name, environment_options)
    if environment.render_mode == "rgb_array":
        return environment
    modes = environment.metadata.get("render_modes", [])
    environment.close()
    if "rgb_array" not in modes:
        raise ExperimentError(
            f"{exp_name} can't be shown: a task to watch needs the render mode 'rgb_array', found {list(modes)}"
        )
    return make(exp_name, {**environment_options, "render_mode": "rgb_array"})


def control_rate(environment: gymnasium.Env) -> float:
    """Control steps a second."""
    return float(environment.metadata.get("render_fps") or USUAL_RATE)


def play_again(environment: gymnasium.Env, exp_name: str, trace: Trace, stride: int) -> Playback:
    """Plays an episode again.

    Args:
        environment: from `make_visible`.
        stride: steps from picture to picture.

    Raises:
        ExperimentError: the task fails, can't be drawn (but for the simulated robot), or plays another episode.
    """
    try:
        return _play_again(environment, exp_name, trace, stride)
    except WSRLKitError:
        raise
    except Exception as error:  # of somebody else's task
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise ExperimentError(
            one_line(
                f"{exp_name} can't be shown: {type(error).__name__}: {error} ({place.filename}, line {place.lineno})"
            )
        ) from error


def _play_again(environment: gymnasium.Env, exp_name: str, trace: Trace, stride: int) -> Playback:
    robot = environment.unwrapped if isinstance(environment.unwrapped, InsertionEnv) else None
    pictures: list[UInt8[np.ndarray, "height width 3"]] = []
    poses, forces, trouble, success, total_reward = [], [], "", None, 0.0

    def look() -> str:
        if robot is None:
            pictures.append(_picture(environment, exp_name))
            return ""
        try:
            pictures.append(robot.render())
        except ExperimentError as without_opengl:
            return str(without_opengl)
        return ""

    state, _ = parts(environment.reset(seed=trace.seed)[0])
    trouble = look()
    if robot is not None:
        poses.append(robot.state[POSE].copy())
    for step, action in enumerate(trace.actions, start=1):
        observation, reward, terminated, truncated, info = environment.step(action)
        state, _ = parts(observation)
        total_reward += float(reward)
        success = succeeded(success, info)
        forces.append(float(info.get("contact_force", np.nan)))
        if robot is not None:
            poses.append(robot.state[POSE].copy())
        if not trouble and (step % stride == 0 or step == len(trace)):
            trouble = look()
        if (terminated or truncated) != (step == len(trace)):
            raise _another_episode(exp_name, f"ended at step {step}" if step < len(trace) else "did not end")
    if success is not None and float(success) != trace.success:
        raise _another_episode(exp_name, "succeeded" if success else "failed")
    return Playback(
        pictures=pictures,
        forces=None if np.isnan(forces).all() else np.array(forces),
        poses=None if robot is None else np.stack(poses),
        hole=None if robot is None else robot.hole_position,
        is_exact=np.array_equal(state, trace.last_state),
        trouble=trouble,
    )


def _picture(environment: gymnasium.Env, exp_name: str) -> UInt8[np.ndarray, "height width 3"]:
    picture: Any = environment.render()
    if not (isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 3):
        raise ExperimentError(f"{exp_name} can't be shown: render() must give an RGB image, found {type(picture)}")
    return picture[..., :3].copy()


def _another_episode(exp_name: str, what: str) -> ExperimentError:
    return ExperimentError(
        f"{exp_name} did not play the recorded episode again: it {what}, other than recorded; the task draws numbers "
        "that the seed does not fix, or its version has changed"
    )
