"""gym-hil's tasks, registered with Gymnasium when this module is imported."""

from collections.abc import Callable
from functools import partial
from typing import Any

import gym_hil
import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.registration import load_env_creator

from wsrl_kit.errors import ExperimentError

gymnasium.register_envs(gym_hil)


class SeededReset(gymnasium.Wrapper):
    """A task of gym-hil whose `reset(seed=s)` determines everything; by itself it draws from NumPy's global stream."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        before = np.random.get_state()
        np.random.seed(seed)
        try:
            return self.env.reset(seed=seed, options=options)
        finally:
            np.random.set_state(before)


def make_task(create: Callable[..., Any], **given: Any) -> gymnasium.Env:
    """The task that gym-hil's own `create` makes of the given keyword arguments, in its seeded form.

    Raises:
        ExperimentError: MuJoCo can't draw; gym-hil makes a renderer even where no image is asked for.
    """
    try:
        return SeededReset(create(**given))
    except (mujoco.FatalError, ImportError, RuntimeError) as error:
        raise ExperimentError(
            "tasks of gym-hil make an OpenGL renderer, which needs a display, or MUJOCO_GL=egl set before the start "
            f"(Debian package libegl1), or MUJOCO_GL=osmesa (libosmesa6): {error}"
        ) from error


for _spec in gymnasium.registry.values():
    # Its other entry points are functions that make one of these tasks and show it.
    if _spec.namespace == "gym_hil" and isinstance(_spec.entry_point, str):
        if _spec.entry_point == "gym_hil.wrappers.factory:make_env":
            # gym-hil pauses for a second in every reset, for the person beside a robot.
            _spec.kwargs.setdefault("reset_delay_seconds", 0.0)
        _spec.entry_point = partial(make_task, load_env_creator(_spec.entry_point))
