"""Select runs by folder, arm and seed, and write their tables and figures."""

import dataclasses
import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from wsrl_kit.analysis.config import USUAL_TARGETS, Runs, Targets
from wsrl_kit.analysis.figures import ablation_figures, comparison_figures
from wsrl_kit.analysis.metrics import arm_label, arm_order, measure_of, reduce_runs
from wsrl_kit.analysis.tables import Table, difference_table, per_seed_csv, summary_table
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.errors import ParameterError, RunError
from wsrl_kit.files import write_text
from wsrl_kit.parameters import names_of
from wsrl_kit.runs.run import RunRecord, find_runs, save_figure

USUAL_CONTROL = "rlpd_all"


def select_runs(runs: Runs) -> list[RunRecord]:
    """The fine-tuning runs in folders or globs, at any depth; a dict gives the runs in its folders a new arm.

    Raises:
        RunError: no run, a damaged run, different tasks, or two runs of the same arm and seed.
    """
    if isinstance(runs, Mapping):
        found = {arm: _find_finetuning(paths) for arm, paths in runs.items()}
        records = [dataclasses.replace(record, arm=arm) for arm, own in found.items() for record in own]
    else:
        records = _find_finetuning(runs)
    if not records:
        raise RunError(f"runs must hold at least one fine-tuning run, found none in {runs}")
    _refuse_different_tasks(records)
    _refuse_duplicates(records)
    return records


def choose_control(control: str | None, records: Sequence[RunRecord]) -> str:
    """The control arm; None: `USUAL_CONTROL`, or the first arm without it.

    Raises:
        ParameterError: no run has this arm.
    """
    arms = arm_order(record.arm for record in records)
    if control is None:
        return USUAL_CONTROL if USUAL_CONTROL in arms else arms[0]
    if control not in arms:
        raise ParameterError(f"control must be an arm of the runs ({', '.join(arms)}), found {control!r}")
    return control


def _find_finetuning(paths: str | list[str]) -> list[RunRecord]:
    found: dict[Path, RunRecord] = {}
    for pattern in [paths] if isinstance(paths, str) else paths:
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


def _refuse_duplicates(records: Sequence[RunRecord]) -> None:
    folders: dict[tuple[str, int], Path] = {}
    for record in records:
        earlier = folders.setdefault((record.arm, record.seed), record.folder)
        if earlier != record.folder:
            raise RunError(
                f"an arm must have one run of a seed, found seed {record.seed} of {arm_label(record.arm)} in {earlier} "
                f"and {record.folder}: name the arms, as in {{'a': '{earlier}', 'b': '{record.folder}'}}"
            )


@dataclass(frozen=True)
class RunReport:
    """Tables and figures of runs. In a notebook it shows its tables.

    Attributes:
        summary: one row for each arm.
        differences: every arm against the control.
        per_seed: `metrics.reduce_run` of each run.
    """

    root: Path
    summary: Table
    differences: Table
    per_seed: pd.DataFrame
    figures: dict[str, Figure]

    def __str__(self) -> str:
        return f"{self.summary}\n\n{self.differences}"

    def _repr_html_(self) -> str:
        return self.summary._repr_html_() + self.differences._repr_html_()


def write_report(
    records: Sequence[RunRecord], root: Path, control: str, targets: Targets = USUAL_TARGETS, every_figure: bool = True
) -> RunReport:
    """Compare runs and write summary.txt, .md and .csv, differences.csv, per_seed.csv, report.tex and figures/*.png.

    Unfinished runs are shown and named, but left out of the numbers.

    Args:
        records: fine-tuning runs of one task, one for each arm and seed.
        every_figure: False: only the figures of an ablation.

    Raises:
        ParameterError: a target for the return, of runs that report success.
        RunError: the files can't be written.
    """
    measure = measure_of(records, targets)
    runs = reduce_runs(records, measure)
    summary = summary_table(runs, measure, parameter_notes(records))
    differences = difference_table(runs, control, measure)
    shown = [summary, differences] if runs["arm"].nunique() > 1 else [summary]
    figures = ablation_figures(records, runs, measure)
    if every_figure:
        figures |= comparison_figures(records, runs, control, measure)
    texts = {
        "summary.md": "\n".join(table.to_markdown() for table in shown),
        "summary.txt": "\n".join(table.to_text() for table in shown),
        "report.tex": "\n".join(table.to_latex() for table in shown),
        "summary.csv": summary.to_csv(),
        "differences.csv": differences.to_csv(),
        "per_seed.csv": per_seed_csv(runs),
    }
    write_files(root, texts, figures)
    return RunReport(root, summary, differences, runs, figures)


def write_files(root: Path, texts: Mapping[str, str], figures: Mapping[str, Figure]) -> None:
    """Write `root/<name>` for each text and `root/figures/<name>.png` for each figure, each file as a whole."""
    for name, text in texts.items():
        write_text(root / name, text, RunError)
    for name, figure in figures.items():
        save_figure(root / "figures" / f"{name}.png", figure)


def parameter_notes(records: Sequence[RunRecord]) -> list[str]:
    """Notes on arms whose runs differ in parameters, and on runs that are evaluated differently."""
    notes = []
    for arm in arm_order(record.arm for record in records):
        own = [record for record in records if record.arm == arm]
        different = [name for name in _differing(own) if name not in names_of(WSRLConfig, of_arm=False)]
        if different:
            notes.append(f"{arm_label(arm)}: its runs differ in {', '.join(different)}.")
    unlike = [name for name in _differing(records) if name in names_of(WSRLConfig, evaluation=True)]
    if unlike:
        notes.append(
            f"Runs differ in {' and '.join(unlike)}: dip, drawdown and dispersion are comparable only between runs "
            "evaluated alike."
        )
    return notes


def _differing(records: Sequence[RunRecord]) -> list[str]:
    """Names of the parameters that all runs have, with different values."""
    first, *others = [record.parameters for record in records]
    shared = [name for name in first if all(name in other for other in others)]
    return [name for name in shared if any(other[name] != first[name] for other in others)]


def report(root: Path, control: str = USUAL_CONTROL, targets: Targets = USUAL_TARGETS) -> RunReport:
    """`write_report` on every fine-tuning run under a folder, into that folder; also while runs go on.

    Raises:
        ParameterError: a target for the return, of runs that report success.
        RunError: there is no fine-tuning run, one is damaged, or the files can't be written.
    """
    return write_report(finetuning_runs(Path(root)), Path(root), control, targets, every_figure=False)


def finetuning_runs(root: Path) -> list[RunRecord]:
    """The fine-tuning runs under a folder: see `finetuning`.

    Raises:
        RunError: there is none.
    """
    everything = find_runs(root)
    records = finetuning(everything)
    if not records:
        warmups = sum(record.kind == "warmup" for record in everything)
        raise RunError(f"{root} must hold at least one fine-tuning run, found {warmups} warmup runs and no other")
    return records


def finetuning(everything: Sequence[RunRecord]) -> list[RunRecord]:
    """The fine-tuning runs, in their ablation's order of arms, each with its warmup's metrics if that is given."""
    named = [arm for record in everything if record.kind == "ablation" for arm in record.parameters.get("arms", [])]
    place = {arm: index for index, arm in enumerate(dict.fromkeys(named))}
    warmups = [record for record in everything if record.kind == "warmup"]
    records = [_with_warmup(record, warmups) for record in everything if record.kind == "finetune"]
    return sorted(records, key=lambda record: place.get(record.arm, len(place)))


def _with_warmup(record: RunRecord, warmups: Sequence[RunRecord]) -> RunRecord:
    """The run with the metrics of the warmup whose checkpoint it started from.

    Folders are compared below the run's ablation, since both may have been moved together.
    """
    checkpoint = record.parameters.get("checkpoint_path")
    if checkpoint is None:
        return record
    start = Path(checkpoint).parent.parts
    for warmup in warmups:
        root, folder = record.folder.parent.parent, warmup.folder
        parts = folder.relative_to(root).parts if folder.is_relative_to(root) else ()
        if checkpoint == warmup.summary.get("checkpoint") or (parts and start[-len(parts) :] == parts):
            earlier = {key: curve for key, curve in warmup.metrics.items() if key[0] == "warmup"}
            return dataclasses.replace(record, metrics=earlier | record.metrics, warmup_seconds=warmup.seconds)
    return record
