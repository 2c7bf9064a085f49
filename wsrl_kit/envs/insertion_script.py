"""The scripted operator of the simulated insertion."""

import numpy as np
from jaxtyping import Float, Float32

from wsrl_kit.envs.insertion import ROTATION_SCALE, TRANSLATION_SCALE, InsertionEnv
from wsrl_kit.envs.script import Script

# The script moves above the hole at 4 mm until it is within 3 mm of it, then presses down with at most 6 N: on the rim
# that leaves so little friction that a correction of 1 mm still slides the peg.
_HOVER_HEIGHT, _ALIGNED, _PRESS, _INSIDE = 0.004, 0.003, 0.003, -0.002


def insertion(task: InsertionEnv) -> Script:
    """Centre the peg over the hole, keep it upright, and press it in.

    Where the hole is, and the tip's pose in its frame, come from the simulator: a policy may see neither.

    The noise of 0.15 and 0.3 is 1.5 mm, 9 mrad and 3 mm, 18 mrad; the clumsy operator sees the hole up to 2.5 mm off.
    """
    hole = task.hole_position[:2]

    def controller(observation: Float32[np.ndarray, "19"], error: Float[np.ndarray, "2"]) -> Float[np.ndarray, "6"]:
        position, rotation = task.state[4:7], task.state[7:10]
        offset = hole + error - position[:2]
        aligned = np.abs(offset).max() < _ALIGNED or position[2] < _INSIDE
        down = -_PRESS if aligned else _HOVER_HEIGHT - position[2]
        return np.concatenate([np.append(offset, down) / TRANSLATION_SCALE, -rotation / ROTATION_SCALE])

    return Script(
        lambda observation: task.state[4:7],
        controller,
        expert_noise=0.15,
        suboptimal_noise=0.3,
        suboptimal_error=(0.0025, 0.0025),
    )
