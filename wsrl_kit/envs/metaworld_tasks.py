"""Metaworld's tasks by the names `metaworld/door-open-v3`, registered with Gymnasium when this module is imported."""

import sys
from typing import Any

import gymnasium
from metaworld.env_dict import ALL_V3_ENVIRONMENTS, ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE

from wsrl_kit.envs.tasks import METAWORLD
from wsrl_kit.parameters import check


class SeededReset(gymnasium.Wrapper):
    """A task of Metaworld whose `reset(seed=s)` determines everything that follows; by itself it ignores the seed."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.unwrapped.seed(seed)  # type: ignore[attr-defined]  # Metaworld's own
        return self.env.reset()


class ActionRepeat(gymnasium.Wrapper):
    """Each action for several of Metaworld's control steps: rewards add up, and success in any of them counts."""

    def __init__(self, environment: gymnasium.Env, times: int) -> None:
        super().__init__(environment)
        self._times = times

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        total, success = 0.0, False
        for _ in range(self._times):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            success |= bool(info["success"])
        return observation, total, terminated, truncated, info | {"success": success}


def make_task(task: str, action_repeat: int = 1, **given: Any) -> gymnasium.Env:
    """The task with its goal in the observation, at a new random place in every episode.

    Args:
        task: Metaworld's name, such as "door-open-v3".
        action_repeat: control steps that each action is held for. Metaworld's are 12.5 ms, where robots are usually
            commanded at 10 Hz: held for 4 or 8, a task is as much shorter for the learner.
        given: keyword arguments of Metaworld's environment.
    """
    check("action_repeat", action_repeat, int, {"minimum": 1})
    environment = ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{task}-goal-observable"](**given)
    # By itself it draws one goal at construction and keeps it.
    environment._freeze_rand_vec = False
    environment.seeded_rand_vec = True
    # The time limit is Gymnasium's, and may then be any.
    environment.max_path_length = sys.maxsize
    return SeededReset(ActionRepeat(environment, action_repeat))


for _task, _class in ALL_V3_ENVIRONMENTS.items():
    gymnasium.register(
        f"{METAWORLD}{_task}",
        entry_point=f"{__name__}:make_task",
        max_episode_steps=_class.max_path_length,
        kwargs={"task": _task},
    )
