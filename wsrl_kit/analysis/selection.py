"""Which runs a report is about: found by folder, told apart by arm and seed, all of one task."""

import dataclasses
import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsrl_kit.analysis.ablation import finetuning
from wsrl_kit.analysis.arms import arm_label, arm_order
from wsrl_kit.errors import ParameterError, RunError
from wsrl_kit.parameters import parameter, validate
from wsrl_kit.runs import RunRecord, find_runs

Runs = str | list[str] | dict[str, str | list[str]]
USUAL_CONTROL = "rlpd_all"


@dataclass(frozen=True)
class ReportConfig:
    """What is reported.

    Raises:
        ParameterError: naming the parameter, what was expected and what was found.
    """

    runs: Runs = parameter("runs/ablation", "runs to report: folder, glob, list of these, or {arm: folders}", path=True)
    control: str | None = parameter(
        None, "arm that the others are compared with; None: rlpd_all, or the first where it is missing"
    )
    target: float = parameter(0.8, "success rate that counts as reached", minimum=0.0, maximum=1.0)

    def __post_init__(self) -> None:
        validate(self)


def select_runs(runs: Runs) -> list[RunRecord]:
    """The fine-tuning runs in some folders, each with its warmup's metrics if that is there too.

    Args:
        runs: folders that hold runs, at any depth, or globs of such; a dict gives the runs in its folders a new arm.

    Raises:
        RunError: a folder holds no run or a damaged one, no run is one of fine-tuning, two runs have the same arm and
            seed, or runs are of different tasks.
    """
    if isinstance(runs, Mapping):
        records = [
            dataclasses.replace(record, arm=arm)
            for arm, paths in runs.items()
            for record in _finetuning(_listed(paths))
        ]
    else:
        records = _finetuning(_listed(runs))
    if not records:
        raise RunError(f"runs must hold at least one fine-tuning run, found none in {runs}")
    _refuse_different_tasks(records)
    _refuse_twins(records)
    return records


def choose_control(control: str | None, records: Sequence[RunRecord]) -> str:
    """The arm that the others are compared with.

    Raises:
        ParameterError: there is no such arm among the runs.
    """
    arms = arm_order(record.arm for record in records)
    if control is None:
        return USUAL_CONTROL if USUAL_CONTROL in arms else arms[0]
    if control not in arms:
        raise ParameterError(f"control must be an arm of the runs ({', '.join(arms)}), found {control!r}")
    return control


def _listed(paths: str | list[str]) -> list[str]:
    return [paths] if isinstance(paths, str) else paths


def _finetuning(paths: list[str]) -> list[RunRecord]:
    found: dict[Path, RunRecord] = {}
    for pattern in paths:
        folders = [pattern] if Path(pattern).is_dir() else sorted(filter(Path.is_dir, map(Path, glob.glob(pattern))))
        records = [record for folder in folders for record in find_runs(Path(folder))]
        if not records:
            raise RunError(f"{pattern} must be a folder that holds runs, or a glob of such, found no run")
        found |= {record.folder.resolve(): record for record in records}
    return finetuning(list(found.values()))


def _refuse_different_tasks(records: Sequence[RunRecord]) -> None:
    first = records[0]
    for record in records[1:]:
        if _task(record) != _task(first):
            raise RunError(
                f"all runs of a report must be of one task, found {_task(first)} in {first.folder} and "
                f"{_task(record)} in {record.folder}"
            )


def _task(record: RunRecord) -> str:
    options = record.parameters.get("environment_options") or {}
    named = ", ".join(f"{name}={options[name]!r}" for name in sorted(options))
    return f"{record.parameters.get('exp_name')}{f' ({named})' if named else ''}"


def _refuse_twins(records: Sequence[RunRecord]) -> None:
    folders: dict[tuple[str, int], Path] = {}
    for record in records:
        earlier = folders.setdefault((record.arm, record.seed), record.folder)
        if earlier != record.folder:
            raise RunError(
                f"an arm must have one run of a seed, found seed {record.seed} of {arm_label(record.arm)} in {earlier} "
                f"and {record.folder}: tell them apart by runs = {{arm: folders}}"
            )
