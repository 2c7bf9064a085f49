"""What a set of runs says, as tables and figures, and the files they are written to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from wsrl_kit.analysis.arms import arm_label, arm_order
from wsrl_kit.analysis.figures import ablation_figures, comparison_figures
from wsrl_kit.analysis.metrics import reduce_run, shared_budget
from wsrl_kit.analysis.tables import Table, difference_table, per_seed_csv, summary_table
from wsrl_kit.errors import RunError
from wsrl_kit.runs import RunRecord, save_figure
from wsrl_kit.writing import written_whole

OWN_TO_A_RUN = ("seed", "online_steps", "offline_data_path", "demo_path", "checkpoint_path")
"""Parameters that may differ between the runs of an arm, or show elsewhere in the report."""
EVALUATED_ALIKE = ("evaluation_episodes", "evaluation_interval")
"""What runs must have in common for their lowest evaluations and their spread to be comparable."""


@dataclass(frozen=True)
class Report:
    """What a set of runs says. In a notebook it shows its tables.

    Attributes:
        root: the folder it was written to.
        summary: one row per arm.
        differences: every arm against the control.
        rows: one row of numbers per run, as in per_seed.csv.
        figures: the figures by name; the files are figures/<name>.png.
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


def write_report(
    records: Sequence[RunRecord], root: Path, control: str, target: float = 0.8, every_figure: bool = True
) -> Report:
    """Compare runs and write summary.txt, .md and .csv, differences.csv, per_seed.csv, report.tex and figures/*.png.

    Runs that are not finished are shown, named, and left out of the numbers.

    Args:
        records: fine-tuning runs of one task; an arm and a seed belong to one run.
        root: folder to write to.
        control: name of the arm that the others are compared with.
        target: success rate that counts as reached.
        every_figure: False leaves those of an ablation.

    Raises:
        RunError: the files can't be written.
    """
    budget = shared_budget(records)
    rows = [reduce_run(record, budget, target) for record in records]
    summary, differences = summary_table(rows, target, setting_notes(records)), difference_table(rows, control, target)
    figures = ablation_figures(records, rows, target)
    if every_figure:
        figures |= comparison_figures(records, rows, control, target)
    texts = {
        "summary.md": f"{summary.to_markdown()}\n{differences.to_markdown()}",
        "summary.txt": f"{summary.to_text()}\n{differences.to_text()}",
        "report.tex": f"{summary.to_latex()}\n{differences.to_latex()}",
        "summary.csv": summary.to_csv(),
        "differences.csv": differences.to_csv(),
        "per_seed.csv": per_seed_csv(rows),
    }
    write_files(root, texts, figures)
    return Report(root, summary, differences, rows, figures)


def write_files(root: Path, texts: Mapping[str, str], figures: Mapping[str, Figure]) -> None:
    """Write `root/<name>` for each text, and `root/figures/<name>.png` for each figure; each file as a whole.

    Raises:
        RunError: they can't be written.
    """
    for name, text in texts.items():
        with written_whole(root / name, RunError) as temporary:
            temporary.write_text(text)
    for name, figure in figures.items():
        save_figure(root / "figures" / f"{name}.png", figure)


def setting_notes(records: Sequence[RunRecord]) -> list[str]:
    """What a reader must know of parameters: arms whose runs do not share them, evaluations that are not alike."""
    notes = []
    for arm in arm_order(record.arm for record in records):
        own = [record for record in records if record.arm == arm]
        different = [name for name in _different(own) if name not in OWN_TO_A_RUN]
        if different:
            notes.append(f"{arm_label(arm)}: its runs differ in {', '.join(different)}.")
    unlike = [name for name in _different(records) if name in EVALUATED_ALIKE]
    if unlike:
        notes.append(
            f"Runs differ in {' and '.join(unlike)}: dip, drawdown and dispersion are comparable only between runs "
            "evaluated alike."
        )
    return notes


def _different(records: Sequence[RunRecord]) -> list[str]:
    """Names of the parameters that all runs have, and not all alike."""
    first, *others = [record.parameters for record in records]
    shared = [name for name in first if all(name in other for other in others)]
    return [name for name in shared if any(other[name] != first[name] for other in others)]
