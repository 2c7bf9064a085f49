"""The offline data of a run, and checks of the data against the task."""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from wsrl_kit.agent.parameters import NO_VALUE
from wsrl_kit.config.config import ROBOT, TASK_UNITS, Paths, WSRLConfig
from wsrl_kit.data.conventions import LAST_FRAME, UNKNOWN, Conventions
from wsrl_kit.data.dataset import Dataset
from wsrl_kit.data.recording import Recording
from wsrl_kit.data.sources import load_sources
from wsrl_kit.data.task import (
    SUCCESS_IS_ONE,
    ZERO_WITHOUT_SUCCESS,
    Task,
    file_remarks,
    reward_convention,
    sentences,
    success_remarks,
    task_remarks,
)
from wsrl_kit.data.trajectory import Layout
from wsrl_kit.data.views import View
from wsrl_kit.data.weights import weigh
from wsrl_kit.envs.make import INSERTION, PIXELS, make
from wsrl_kit.envs.wrappers import STATE, SuccessInfo, SuccessReward, action_bounds
from wsrl_kit.errors import DataError

_OWN_TASKS = (ROBOT, INSERTION, PIXELS)
_STEPS = 5
"""Random steps that show a simulated task's rewards and `info`."""


def describe(exp_name: str, environment_options: Mapping[str, Any]) -> Task:
    """The task. Queries a robot without moving it; takes a few steps in a simulation.

    Raises:
        ExperimentError: as `make`, or a step failed.
        RobotError: the robot's server can't be reached.
        ParameterError: an option is wrong.
    """
    with closing(make(exp_name, environment_options)) as environment:
        rewards: str = SUCCESS_IS_ONE
        similar: tuple[str, ...] = ()
        if exp_name not in _OWN_TASKS:
            rewards, similar = _first_steps(environment)
        bounds = action_bounds(environment)
        options, layout = dict(environment_options), _layout(environment)
        return Task(exp_name, options, layout, bounds, rewards, similar, _views(exp_name, options, layout.cameras))


def conventions(config: WSRLConfig, cameras: Mapping[str, tuple[int, ...]] | None = None) -> Conventions:
    """How to read a task's data files.

    Args:
        cameras: the shapes of the task's, to which larger frames are scaled.

    Raises:
        WSRLKitError: the task's bounds are needed, and it can't be made.
    """
    bounds = None
    # The kit's own tasks take movements in [-1, 1].
    if config.action_units == TASK_UNITS and config.exp_name not in _OWN_TASKS:
        with closing(make(config.exp_name, config.environment_options)) as environment:
            bounds = action_bounds(environment)
    success_key = config.environment_options.get("success_key")
    views = _views(config.exp_name, config.environment_options, cameras or {})
    return Conventions(success_key, bounds, config.camera_names, config.missing_rewards, views)


def _views(exp_name: str, options: Mapping[str, Any], cameras: Mapping[str, tuple[int, ...]]) -> dict[str, View]:
    """How a task sees its cameras, by shapes that end with height, width and channels."""
    settings = options.get("cameras", {}) if exp_name == ROBOT else {}
    crops = {name: settings.get(name, {}).get("crop", ()) for name in cameras}
    return {name: View(shape[-3], shape[-2], crops[name]) for name, shape in cameras.items()}


def _layout(environment: gymnasium.Env) -> Layout:
    space, action_space = environment.observation_space, environment.action_space
    assert action_space.shape is not None
    if not isinstance(space, gymnasium.spaces.Dict):
        assert space.shape is not None
        return Layout(space.shape[0], action_space.shape[0])
    shapes = {name: entry.shape for name, entry in space.items() if entry.shape is not None}
    state = shapes.pop(STATE)
    cameras = {name: shape[1:] for name, shape in sorted(shapes.items())}
    return Layout(state[0], action_space.shape[0], cameras, next(iter(shapes.values()))[0])


def _first_steps(environment: gymnasium.Env) -> tuple[str, tuple[str, ...]]:
    """What rewards stand for, and `info` names that resemble an unreported success."""
    generator = np.random.default_rng(0)
    rewards = []
    environment.reset(seed=0)
    for _ in range(_STEPS):
        action = np.asarray(generator.uniform(-1, 1, environment.action_space.shape), np.float32)
        _, reward, terminated, truncated, _ = environment.step(action)
        rewards.append(float(reward))
        if terminated or truncated:
            break
    layers = [environment]
    while isinstance(layers[-1], gymnasium.Wrapper):
        layers.append(layers[-1].env)
    similar = next(layer.similar_keys for layer in layers if isinstance(layer, SuccessInfo))
    if any(isinstance(layer, SuccessReward) for layer in layers):
        return SUCCESS_IS_ONE, similar
    return reward_convention(np.array(rewards, np.float32)) or ZERO_WITHOUT_SUCCESS, similar


def load_offline_data(
    config: WSRLConfig,
    paths: Paths,
    cameras: Mapping[str, tuple[int, ...]] | None = None,
    inspect: Callable[[Path, Recording], object] | None = None,
) -> Dataset:
    """Reads and weighs the sources; data with weights (`filtered_demos.pkl`) keep them.

    Args:
        cameras: shapes of the cameras to read, to which larger frames are scaled; None: all, as recorded.

    Raises:
        DataError: a file is missing, damaged, unsafe, empty or inconsistent; or Cal-QL lacks whole episodes; or critics
            lack rewards.
    """

    def include(path: Path, recording: Recording) -> None:
        if not recording.rewards_recorded and config.missing_rewards == UNKNOWN and config.actor_value != NO_VALUE:
            raise DataError(
                f"{path} has no rewards, so that a policy can only clone it: give actor_value={NO_VALUE!r}, or label "
                f"the episodes, or give missing_rewards={LAST_FRAME!r}."
            )
        if inspect is not None:
            inspect(path, recording)

    names = None if cameras is None else tuple(cameras)
    dataset = load_sources(paths, cameras=names, conventions=conventions(config, cameras), inspect=include)
    if config.conservative_loss == "calql":
        _check_whole_episodes(dataset, paths)
    if dataset.is_weighted:
        return dataset
    return weigh(dataset, config.weight_by_source, config.success_weight_bonus, config.quality_weighting)


def _check_whole_episodes(dataset: Dataset, paths: Paths) -> None:
    problem = ""
    if dataset.is_weighted:
        problem = "found data that retention has cut: give those that they were chosen from"
    elif dataset.episode_count == 1 and not dataset.terminated.any():
        problem = f"found {len(dataset)} transitions in a row without the end of an episode"
    if problem:
        raise DataError(
            f"conservative_loss 'calql' bounds values by the returns of whole episodes, but in {paths} {problem}"
        )


class _Inspection:
    """Collects remarks on every file read, and on what does not fit the task."""

    def __init__(self, config: WSRLConfig) -> None:
        self._task = describe(config.exp_name, config.environment_options)
        if config.reward_classifier is not None:
            self._task = replace(self._task, rewards=SUCCESS_IS_ONE)
        self._remarks: list[tuple[str, str]] = []
        self._info_names: set[str] = set()

    @property
    def cameras(self) -> Mapping[str, tuple[int, ...]]:
        return self._task.layout.cameras

    def include(self, path: Path, recording: Recording) -> None:
        self._remarks += [(str(path), remark) for remark in file_remarks(path, recording, self._task)]
        self._info_names.update(recording.infos)

    def sentences(self, dataset: Dataset | None) -> list[str]:
        of_all = [] if dataset is None else success_remarks(dataset.episode_success, self._info_names)
        return [*sentences(self._remarks), *of_all, *task_remarks(self._task)]


def load_and_check(config: WSRLConfig, paths: Paths) -> tuple[Dataset, list[str]]:
    """`load_offline_data`, and one sentence per mismatch with the task.

    Raises:
        WSRLKitError: as `load_offline_data`, or the task can't be made.
    """
    inspection = _Inspection(config)
    dataset = load_offline_data(config, paths, inspection.cameras, inspection.include)
    return dataset, inspection.sentences(dataset)


def check_data(config: WSRLConfig, paths: Paths) -> list[str]:
    """One sentence per mismatch of data (read without images) with the task; without paths, about the task alone.

    Raises:
        DataError: as `load_sources`.
        WSRLKitError: the task can't be made.
    """
    inspection = _Inspection(config)
    if paths is None:
        return inspection.sentences(None)
    dataset = load_sources(paths, cameras=(), conventions=conventions(config), inspect=inspection.include)
    return inspection.sentences(dataset)
