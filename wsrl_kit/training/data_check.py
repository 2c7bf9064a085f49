"""What in the offline data does not fit the task, to be said before training."""

from dataclasses import replace
from pathlib import Path

from wsrl_kit.config import Paths, WSRLConfig
from wsrl_kit.data.dataset import Dataset
from wsrl_kit.data.files import load_sources
from wsrl_kit.data.recording import Recording
from wsrl_kit.data.task import SUCCESS_IS_ONE, file_remarks, sentences, success_remarks, task_remarks
from wsrl_kit.envs.description import conventions, describe
from wsrl_kit.training.jobs import load_offline_data


class _Inspection:
    """Looks at every file as it is read, and says in the end what does not fit the task."""

    def __init__(self, config: WSRLConfig) -> None:
        self._task = describe(config.exp_name, config.environment_options)
        if config.reward_classifier is not None:
            self._task = replace(self._task, rewards=SUCCESS_IS_ONE)
        self._remarks: list[tuple[str, str]] = []
        self._info_names: set[str] = set()

    def include(self, path: Path, recording: Recording) -> None:
        self._remarks += [(str(path), remark) for remark in file_remarks(path, recording, self._task)]
        self._info_names.update(recording.infos)

    def sentences(self, dataset: Dataset | None) -> list[str]:
        of_all = [] if dataset is None else success_remarks(dataset.episode_success, self._info_names)
        return [*sentences(self._remarks), *of_all, *task_remarks(self._task)]


def load_and_check(config: WSRLConfig, paths: Paths) -> tuple[Dataset, list[str]]:
    """`load_offline_data`, and what in it does not fit the task, a sentence each.

    Raises:
        WSRLKitError: as `load_offline_data`, or the task can't be made.
    """
    inspection = _Inspection(config)
    dataset = load_offline_data(config, paths, inspect=inspection.include)
    return dataset, inspection.sentences(dataset)


def check_data(config: WSRLConfig, paths: Paths) -> list[str]:
    """What in data, read without images, does not fit the task, a sentence each; without paths, of the task alone.

    Raises:
        DataError: as `load_sources`.
        WSRLKitError: the task can't be made.
    """
    inspection = _Inspection(config)
    if paths is None:
        return inspection.sentences(None)
    reading = conventions(config.exp_name, config.environment_options, config.action_units)
    return inspection.sentences(load_sources(paths, cameras=(), conventions=reading, inspect=inspection.include))
