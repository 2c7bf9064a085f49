"""Third-party packages of tasks, registered with Gymnasium on demand."""

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import load_env_creator

from wsrl_kit.errors import ExperimentError
from wsrl_kit.parameters import check

METAWORLD = "metaworld/"
"""Prefix of Metaworld's tasks, such as `metaworld/door-open-v3`."""


@cache
def _register_gymnasium_robotics() -> None:
    import gymnasium_robotics
    import mujoco
    from gymnasium_robotics.utils import mujoco_utils

    gymnasium.register_envs(gymnasium_robotics)
    # gymnasium-robotics 1.4.2 looks a joint's type up by `in`, which fails from MuJoCo 3.12 on: an enum member on the
    # left no longer equals a NumPy integer. Plain integers equal both.
    joint_types = SimpleNamespace(**{name: int(value) for name, value in mujoco.mjtJoint.__members__.items()})
    mujoco_utils.mujoco = SimpleNamespace(**{**vars(mujoco), "mjtJoint": joint_types})


@cache
def _register_metaworld() -> None:
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    for task, kind in ALL_V3_ENVIRONMENTS.items():
        gymnasium.register(
            f"{METAWORLD}{task}",
            entry_point=f"{__name__}:make_metaworld",
            max_episode_steps=kind.max_path_length,
            kwargs={"task": task},
        )


def make_metaworld(task: str, action_repeat: int = 1, **given: Any) -> gymnasium.Env:
    """A task of Metaworld with its goal in the observation, drawn anew in every episode.

    Args:
        task: such as "door-open-v3".
        action_repeat: control steps of 12.5 ms per action; robots usually get 10 commands a second.
    """
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE

    check("action_repeat", action_repeat, int, {"minimum": 1})
    environment = ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{task}-goal-observable"](**given)
    # By default it draws one goal at construction and keeps it.
    environment._freeze_rand_vec = False
    environment.seeded_rand_vec = True
    # Gymnasium's time limit, which may be any, replaces Metaworld's.
    environment.max_path_length = sys.maxsize
    return SeededMetaworld(ActionRepeat(environment, action_repeat))


class SeededMetaworld(gymnasium.Wrapper):
    """Makes `reset(seed=s)` fix everything; Metaworld ignores the seed."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.unwrapped.seed(seed)  # type: ignore[attr-defined]  # Metaworld's own
        return self.env.reset()


class ActionRepeat(gymnasium.Wrapper):
    """Repeats each action: rewards add up, and success in any step counts."""

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


@cache
def _register_gym_hil() -> None:
    import gym_hil

    gymnasium.register_envs(gym_hil)
    for spec in gymnasium.registry.values():
        # Entry points that are functions make one of these tasks and show it.
        if spec.namespace == "gym_hil" and isinstance(spec.entry_point, str):
            if spec.entry_point == "gym_hil.wrappers.factory:make_env":
                # gym-hil pauses for a second in every reset, for the person beside a robot.
                spec.kwargs.setdefault("reset_delay_seconds", 0.0)
            spec.entry_point = partial(make_gym_hil, load_env_creator(spec.entry_point))


def make_gym_hil(create: Callable[..., Any], **given: Any) -> gymnasium.Env:
    """A task of gym-hil, seeded.

    Raises:
        ExperimentError: MuJoCo can't draw, which gym-hil needs even without images.
    """
    import mujoco

    try:
        return SeededGymHil(create(**given))
    except (mujoco.FatalError, ImportError, RuntimeError) as error:
        raise ExperimentError(
            "tasks of gym-hil make an OpenGL renderer, which needs a display, or MUJOCO_GL=egl set before the start "
            f"(Debian package libegl1), or MUJOCO_GL=osmesa (libosmesa6): {error}"
        ) from error


class SeededGymHil(gymnasium.Wrapper):
    """Makes `reset(seed=s)` fix everything; gym-hil draws from NumPy's global stream."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        before = np.random.get_state()
        np.random.seed(seed)
        try:
            return self.env.reset(seed=seed, options=options)
        finally:
            np.random.set_state(before)


@dataclass(frozen=True)
class TaskPackage:
    """An optional package whose tasks work by `exp_name` alone.

    Attributes:
        name: package and extra.
        prefixes: of its tasks' names, lower case.
        register: once; raises ImportError.
        remark: advice, ending a sentence.
    """

    name: str
    prefixes: tuple[str, ...]
    register: Callable[[], None]
    remark: str = ""


PACKAGES = (
    TaskPackage(
        "gymnasium-robotics",
        ("fetch", "adroithand", "hand", "pointmaze", "antmaze", "frankakitchen"),
        _register_gymnasium_robotics,
    ),
    TaskPackage("metaworld", (METAWORLD,), _register_metaworld, " (in an environment of its own: it pins mujoco)"),
    TaskPackage(
        "gym-hil", ("gym_hil/",), _register_gym_hil, " (in an environment of its own: it wants mujoco below 3.9)"
    ),
)


def register_like(exp_name: str) -> None:
    """Registers the package with the prefix of `exp_name`, if any.

    Raises:
        ExperimentError: the package is not installed.
    """
    for package in PACKAGES:
        # "package:Id" names its import itself.
        if ":" not in exp_name and exp_name.lower().startswith(package.prefixes):
            try:
                package.register()
            except ImportError as error:
                raise ExperimentError(
                    f"exp_name {exp_name!r} needs {package.name}, which `pip install 'wsrl-kit[{package.name}]'` "
                    f"installs{package.remark}: {error}"
                ) from error


def register_all_installed() -> None:
    """For the search of the nearest name."""
    for package in PACKAGES:
        with suppress(ImportError):
            package.register()
