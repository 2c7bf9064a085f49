"""An ablation's folder, ROOT/<arm>/seed_<n>/, read into tables and figures, which are written beside the runs."""

import dataclasses
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from wsrl_kit.analysis.figures import ablation_figures, learning_curves_figure
from wsrl_kit.analysis.metrics import last_step, reduce_run
from wsrl_kit.analysis.tables import Table, difference_table, per_seed_csv, summary_table
from wsrl_kit.errors import RunError
from wsrl_kit.runs import RunRecord, find_runs, save_figure


@dataclass(frozen=True)
class Report:
    """What an ablation says. In a notebook it shows its tables.

    Attributes:
        summary: one row per arm.
        differences: every arm against the control.
        rows: one row of numbers per run, as in per_seed.csv.
        figures: the figures by name; the files are figures/<name>.png.
        root: where it was read from and written to.
    """

    root: Path
    summary: Table
    differences: Table
    rows: list[dict[str, Any]]
    figures: dict[str, Figure]

    def __str__(self) -> str:
        return f"{self.summary}\n\n{self.differences}"

    def _repr_html_(self) -> str:
        return self.summary._repr_html_() + self.differences._repr_html_()


def report(root: Path, control: str = "rlpd_all", target: float = 0.8) -> Report:
    """Read every run under a folder and write summary.md, summary.csv, differences.csv, per_seed.csv, figures/*.png.

    It may be called at any time: runs that are not finished are shown, named, and left out of the numbers.

    Args:
        root: holds the runs; a warmup in it is joined to the fine-tuning runs that started from its checkpoint.
        control: name of the arm that the others are compared with.
        target: success rate of the steps-to-target column.

    Raises:
        RunError: no fine-tuning run is there, one is damaged, or the files can't be written.
    """
    root = Path(root)
    records = finetuning_runs(root)
    lengths = [step for r in records if r.status == "finished" and math.isfinite(step := last_step(r))]
    rows = [reduce_run(record, min(lengths, default=None), target) for record in records]
    summary, differences = summary_table(rows, target), difference_table(rows, control, target)
    figures = ablation_figures(records, rows, target)
    try:
        for name, text in (
            ("summary.md", f"{summary.to_markdown()}\n{differences.to_markdown()}"),
            ("summary.txt", f"{summary.to_text()}\n{differences.to_text()}"),
            ("summary.csv", summary.to_csv()),
            ("differences.csv", differences.to_csv()),
            ("per_seed.csv", per_seed_csv(rows)),
        ):
            temporary = root / f"{name}.tmp"
            temporary.write_text(text)
            os.replace(temporary, root / name)
        for name, figure in figures.items():
            save_figure(root / "figures" / f"{name}.png", figure)
    except OSError as error:
        raise RunError(f"{root} can't be written: {error.strerror or error}") from error
    return Report(root, summary, differences, rows, figures)


def live_figure(root: Path) -> Figure:
    """The learning curves of an ablation so far; empty axes before its first run has begun."""
    return learning_curves_figure(_finetuning(find_runs(root), Path(root)) if Path(root).is_dir() else [])


def finetuning_runs(root: Path) -> list[RunRecord]:
    """The runs with an online phase, each with the metrics of its warmup if that is there too.

    Raises:
        RunError: there is none.
    """
    everything = find_runs(root)
    records = _finetuning(everything, Path(root))
    if not records:
        warmups = sum(record.kind == "warmup" for record in everything)
        raise RunError(f"{root} must hold at least one fine-tuning run, found {warmups} warmup runs and no other")
    return records


def _finetuning(everything: Sequence[RunRecord], root: Path) -> list[RunRecord]:
    """Runs with an online phase, arms in the order in which their ablation names them."""
    named = [arm for record in everything if record.kind == "ablation" for arm in record.parameters.get("arms", [])]
    place = {arm: index for index, arm in enumerate(dict.fromkeys(named))}
    warmups = [record for record in everything if record.kind == "warmup"]
    records = [_with_warmup(record, warmups, root) for record in everything if record.kind == "finetune"]
    return sorted(records, key=lambda record: place.get(record.arm, len(place)))


def _with_warmup(record: RunRecord, warmups: Sequence[RunRecord], root: Path) -> RunRecord:
    """The run with the metrics of the warmup whose checkpoint it started from, if that is under the root too.

    A warmup's folder is compared from the root on, since runs may have been moved together.
    """
    checkpoint = record.parameters.get("checkpoint_path")
    if checkpoint is None:
        return record
    start = Path(checkpoint).parent.parts
    for warmup in warmups:
        place = warmup.folder.relative_to(root).parts
        if checkpoint == warmup.summary.get("checkpoint") or (place and start[-len(place) :] == place):
            earlier = {key: curve for key, curve in warmup.metrics.items() if key[0] == "warmup"}
            return dataclasses.replace(record, metrics=earlier | record.metrics)
    return record
