"""The scripted operator of the simulated insertion, at hand or behind a robot server."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Float32

from wsrl_kit.envs.insertion import ROTATION_SCALE, TRANSLATION_SCALE, InsertionEnv
from wsrl_kit.envs.robot import RobotEnv, simulation
from wsrl_kit.envs.script import Script
from wsrl_kit.errors import ExperimentError

# The script moves above the hole at 4 mm until it is within 3 mm of it, then presses down with at most 6 N: on the rim
# that leaves so little friction that a correction of 1 mm still slides the peg.
_HOVER_HEIGHT, _ALIGNED, _PRESS, _INSIDE = 0.004, 0.003, 0.003, -0.002


def insertion(task: InsertionEnv) -> Script:
    """Centre the peg over the hole, keep it upright, and press it in.

    Where the hole is, and the tip's pose in its frame, come from the simulator: a policy may see neither.
    """
    scales = (TRANSLATION_SCALE, ROTATION_SCALE)
    return _script(lambda: task.state[4:10], lambda observation: task.state[4:7], task.hole_position, scales)


def insertion_through_server(robot: RobotEnv) -> Script:
    """The same for a simulated robot behind a server, which tells what a policy does not see.

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
    return _script(tip, lambda observation: observation[4:7], hole, robot.options.action_scale)


def _script(
    tip: Callable[[], Float[np.ndarray, "6"]],
    position: Callable[[Float32[np.ndarray, "19"]], Float[np.ndarray, "3"]],
    hole: Float[np.ndarray, "3"],
    scales: tuple[float, float],
) -> Script:
    """The operator, given eyes.

    The noise of 0.15 and 0.3 is 1.5 mm, 9 mrad and 3 mm, 18 mrad; the clumsy operator sees the hole up to 2.5 mm off.

    Args:
        tip: its pose now in the frame of the nominal hole, m and small angles, rad.
        position: see `Script`.
        hole: its position, m, in the same frame.
        scales: m and rad that an action of 1 moves.
    """

    def controller(observation: Float32[np.ndarray, "19"], error: Float[np.ndarray, "2"]) -> Float[np.ndarray, "6"]:
        pose = tip()
        offset = hole[:2] + error - pose[:2]
        aligned = np.abs(offset).max() < _ALIGNED or pose[2] < _INSIDE
        down = -_PRESS if aligned else _HOVER_HEIGHT - pose[2]
        return np.concatenate([np.append(offset, down) / scales[0], -pose[3:] / scales[1]])

    return Script(position, controller, expert_noise=0.15, suboptimal_noise=0.3, suboptimal_error=(0.0025, 0.0025))
