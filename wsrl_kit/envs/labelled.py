"""Success and failure data of scripted operators, for the reward classifier."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, SupportsFloat

import gymnasium
import numpy as np

from wsrl_kit.envs.collect import collect
from wsrl_kit.errors import ExperimentError
from wsrl_kit.trajectory import Trajectory


class StayAfterSuccess(gymnasium.Wrapper):
    """The operator stays for some steps after the success, and the reward says at every step whether the task is done.

    Args:
        environment: reports `info["success"]`.
        steps: after the first success; the time limit still ends the episode.
    """

    def __init__(self, environment: gymnasium.Env, steps: int) -> None:
        super().__init__(environment)
        self._steps = steps
        self._left: int | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._left = None
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """One step of the task.

        Raises:
            ExperimentError: the task does not say whether it is done.
        """
        observation, _, terminated, truncated, info = self.env.step(action)
        if info.get("success") is None:
            raise ExperimentError(
                "success and failure data are recorded on tasks that report success in their info, which this one does "
                "not: give your own files as classifier_data"
            )
        if self._left is not None:
            self._left -= 1
        elif info["success"]:
            self._left = self._steps
        stays = self._left is not None and self._left > 0
        failed = terminated and self._left is None
        return observation, float(info["success"]), failed or (self._left is not None and not stays), truncated, info


def record_labelled(
    exp_name: str,
    environment_options: Mapping[str, Any],
    episodes: Mapping[str, int],
    success_frames: int,
    seed: int,
    progress: Callable[[int], object] | None = None,
) -> list[Trajectory]:
    """Episodes in which the reward of each step is 1 where the task is done after it, else 0.

    Of an episode with a success the steps before it are failures that come near, the best there are.

    Args:
        exp_name, environment_options: as for `make`.
        episodes: by kind of policy (see `collect`).
        success_frames: observations of each success: the first, and more while the operator stays there.
        seed: as for `collect`; episodes of different kinds differ too.
        progress: called with 1 after every episode.

    Raises:
        ExperimentError: no such experiment, no such script for it, or a task that reports no success.
        ParameterError: an option is wrong.
    """
    stay = partial(StayAfterSuccess, steps=success_frames - 1)
    trajectories: list[Trajectory] = []
    for number, (kind, count) in enumerate(episodes.items()):
        own_seed = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
        trajectories += collect(
            exp_name, environment_options, kind, episodes=count, seed=own_seed, progress=progress, wrapper=stay
        )
    return trajectories
