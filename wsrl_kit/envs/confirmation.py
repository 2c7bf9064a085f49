"""Who says whether a success that the reward classifier sees is one: a person at the pad, or the simulation itself."""

from collections.abc import Callable
from typing import Any

import gymnasium

from wsrl_kit.envs.robot import RobotEnv
from wsrl_kit.envs.takeover import Takeover
from wsrl_kit.envs.wrappers import TASK_SUCCESS
from wsrl_kit.errors import ExperimentError

Confirm = Callable[[Any, dict[str, Any]], bool | None]
"""From an observation and the step's info: whether the task is done; None where nobody has said so or so."""


def by_task(environment: gymnasium.Env) -> Confirm:
    """The task's own word, which a simulation has, and a robot with a `target_pose`.

    Raises:
        ExperimentError: this robot does not know; the function that is returned, of another task that does not.
    """
    sentence = (
        "confirm_success needs somebody who knows whether the task is done: human 'person' at the pad of "
        "02_robot_finetune.ipynb, or a task that reports success"
    )
    robot = environment.unwrapped
    if isinstance(robot, RobotEnv) and not robot.knows_success:
        raise ExperimentError(f"{sentence}, and the robot at {robot.client.url} does not")

    def confirm(observation: Any, info: dict[str, Any]) -> bool | None:
        if TASK_SUCCESS not in info:
            raise ExperimentError(f"{sentence}, and {environment.unwrapped} does not")
        said = info[TASK_SUCCESS]
        return None if said is None else bool(said)

    return confirm


def by_person(environment: gymnasium.Env, takeover: Takeover, give_up: Callable[[], bool]) -> Confirm:
    """The person's word, for which everything waits; a robot is told to hold meanwhile.

    Args:
        give_up: whether nobody shall be waited for any more, as where the run is stopped.
    """
    robot = environment.unwrapped

    def confirm(observation: Any, info: dict[str, Any]) -> bool | None:
        if not isinstance(robot, RobotEnv):
            return takeover.ask(observation, give_up)
        robot.hold()
        verdict = takeover.ask(observation, give_up)
        # Once more, since the time that a person takes is no overrun.
        robot.hold()
        return verdict

    return confirm
