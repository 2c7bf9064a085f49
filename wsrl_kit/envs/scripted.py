"""Scripted policies that produce data: an expert, a suboptimal operator, and uniformly random actions."""

from collections.abc import Callable

import gymnasium
import numpy as np
from jaxtyping import Float, Float32

from wsrl_kit.envs.insertion import ROTATION_SCALE, TRANSLATION_SCALE, InsertionEnv
from wsrl_kit.errors import ExperimentError

Policy = Callable[[Float32[np.ndarray, " observation"]], Float32[np.ndarray, " action"]]

EXPERT_NOISE = 0.15
"""Standard deviation of the expert's noise, in units of the action (1.5 mm, 9 mrad)."""
SUBOPTIMAL_NOISE = 0.3
"""Standard deviation of the suboptimal operator's noise."""
SUBOPTIMAL_BIAS = 0.0025
"""Half range, m, of the error with which the suboptimal operator sees the hole in x and y, fixed for an episode."""

# The script moves above the hole at 4 mm until it is within 3 mm of it, then presses down with at most 6 N: on the rim
# that leaves so little friction that a correction of 1 mm still slides the peg.
_HOVER_HEIGHT, _ALIGNED, _PRESS, _INSIDE = 0.004, 0.003, 0.003, -0.002


def scripted_policy(
    kind: str, environment: gymnasium.Env, generator: np.random.Generator, noise: float | None = None
) -> Policy:
    """The policy of one episode of `environment`, which has just been reset; all its randomness is `generator`'s.

    Args:
        kind: "expert" and "suboptimal" for the simulated robot (they know where the hole is), "random" for every task.
        noise: standard deviation of the Gaussian noise on every entry of the action, in place of the kind's own.

    Raises:
        ExperimentError: there is no such script for this environment.
    """
    if kind == "random":
        shape = environment.action_space.shape
        return lambda observation: generator.uniform(-1.0, 1.0, shape).astype(np.float32)
    robot = environment.unwrapped
    if kind not in ("expert", "suboptimal") or not isinstance(robot, InsertionEnv):
        raise ExperimentError(
            f"scripted data must be 'random', or 'expert' or 'suboptimal' of the simulated robot, "
            f"found {kind!r} of {robot}"
        )
    hole = robot.hole_position[:2]
    if kind == "expert":
        return _insertion(hole, EXPERT_NOISE if noise is None else noise, generator)
    bias = generator.uniform(-SUBOPTIMAL_BIAS, SUBOPTIMAL_BIAS, 2)
    return _insertion(hole + bias, SUBOPTIMAL_NOISE if noise is None else noise, generator)


def _insertion(aim: Float[np.ndarray, "2"], noise: float, generator: np.random.Generator) -> Policy:
    """Centre the peg over `aim` (m, nominal hole frame), keep it upright, and press it in."""

    def policy(observation: Float32[np.ndarray, "19"]) -> Float32[np.ndarray, "6"]:
        position, rotation = observation[4:7], observation[7:10]
        offset = aim - position[:2]
        aligned = np.abs(offset).max() < _ALIGNED or position[2] < _INSIDE
        down = -_PRESS if aligned else _HOVER_HEIGHT - position[2]
        wish = np.concatenate([np.append(offset, down) / TRANSLATION_SCALE, -rotation / ROTATION_SCALE])
        action = np.clip(wish, -1.0, 1.0) + generator.normal(0.0, noise, 6)
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    return policy
