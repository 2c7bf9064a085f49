"""An ablation's folder, ROOT/<arm>/seed_<n>/, read into tables and figures, which are written beside the runs."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from wsrl_kit.analysis.figures import learning_curves_figure
from wsrl_kit.analysis.report import Report, write_report
from wsrl_kit.errors import RunError
from wsrl_kit.runs import RunRecord, find_runs


def report(root: Path, control: str = "rlpd_all", target: float = 0.8) -> Report:
    """Read every run under a folder and write its report beside them: see `write_report`.

    It may be called at any time: runs that are not finished are shown, named, and left out of the numbers.

    Args:
        root: holds the runs; a warmup in it is joined to the fine-tuning runs that started from its checkpoint.
        control: name of the arm that the others are compared with.
        target: success rate of the steps-to-target column.

    Raises:
        RunError: no fine-tuning run is there, one is damaged, or the files can't be written.
    """
    return write_report(finetuning_runs(Path(root)), Path(root), control, target, every_figure=False)


def live_figure(root: Path) -> Figure:
    """The learning curves of an ablation so far; empty axes before its first run has begun."""
    return learning_curves_figure(finetuning(find_runs(root)) if Path(root).is_dir() else [])


def finetuning_runs(root: Path) -> list[RunRecord]:
    """The runs with an online phase, each with the metrics of its warmup if that is there too.

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
    """Those of the runs that have an online phase, each with its warmup's metrics if that is among them.

    Arms come in the order in which their ablation names them.
    """
    named = [arm for record in everything if record.kind == "ablation" for arm in record.parameters.get("arms", [])]
    place = {arm: index for index, arm in enumerate(dict.fromkeys(named))}
    warmups = [record for record in everything if record.kind == "warmup"]
    records = [_with_warmup(record, warmups) for record in everything if record.kind == "finetune"]
    return sorted(records, key=lambda record: place.get(record.arm, len(place)))


def _with_warmup(record: RunRecord, warmups: Sequence[RunRecord]) -> RunRecord:
    """The run with the metrics of the warmup whose checkpoint it started from, if that is among them.

    A warmup's folder is compared from the run's ablation on, since both may have been moved together.
    """
    checkpoint = record.parameters.get("checkpoint_path")
    if checkpoint is None:
        return record
    start = Path(checkpoint).parent.parts
    for warmup in warmups:
        place = _place(warmup.folder, record.folder.parent.parent)
        if checkpoint == warmup.summary.get("checkpoint") or (place and start[-len(place) :] == place):
            earlier = {key: curve for key, curve in warmup.metrics.items() if key[0] == "warmup"}
            return dataclasses.replace(record, metrics=earlier | record.metrics, warmup_seconds=warmup.seconds)
    return record


def _place(folder: Path, root: Path) -> tuple[str, ...]:
    """The way from a root to a folder, () where it is not below."""
    return folder.relative_to(root).parts if folder.is_relative_to(root) else ()
