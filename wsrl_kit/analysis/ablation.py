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
        root: holds the runs; warmup runs in it are joined to the fine-tuning runs of their seed.
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
    """The runs with an online phase, each with its warmup's metrics if the only warmup of its seed is there too.

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
    """Those of the runs that have an online phase, each with its warmup's metrics if that is among them."""
    warmups = [record for record in everything if record.kind == "warmup"]
    return [_with_warmup(record, warmups) for record in everything if record.kind == "finetune"]


def _with_warmup(record: RunRecord, warmups: Sequence[RunRecord]) -> RunRecord:
    own = [warmup for warmup in warmups if warmup.seed == record.seed]
    if record.parameters.get("checkpoint_path") is None or len(own) != 1:
        return record
    earlier = {key: curve for key, curve in own[0].metrics.items() if key[0] == "warmup"}
    return dataclasses.replace(record, metrics=earlier | record.metrics, warmup_seconds=own[0].seconds)
