"""Tables of runs, from rows of `metrics.reduce_run`: as text, Markdown, HTML, LaTeX and CSV."""

import csv
import html
import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wsrl_kit.analysis.arms import arm_label, arm_order
from wsrl_kit.analysis.comparison import by_seed, compare, finished, recorded
from wsrl_kit.analysis.latex import escape
from wsrl_kit.analysis.metrics import EARLY_STEPS, Quantity, restricted
from wsrl_kit.analysis.statistics import Interval, bootstrap_interval, coverage_caveat, iqm, mean
from wsrl_kit.text import for_markdown, for_spreadsheet

Cell = str | int | Interval


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: its name in the CSV; an interval becomes `name`, `name_low`, `name_high`, `name_n`.
        heading: what a reader sees.
        digits: decimals of an interval; None: as many as its size asks for.
    """

    name: str
    heading: str
    digits: int | None = 2


@dataclass(frozen=True)
class Table:
    """Cells with headings, and notes that belong under them. In a notebook it shows itself."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    def to_text(self, width: int = 118) -> str:
        """Aligned text; where the table is wider than `width`, its columns continue below, the first one repeated."""
        grid = self._grid()
        widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
        parts = [self.title]
        for block in _blocks(widths, width):
            lines = ["  ".join(f"{row[i]:<{widths[i]}}" for i in block).rstrip() for row in grid]
            rule = "  ".join("-" * widths[i] for i in block)
            parts.append("\n".join([lines[0], rule, *lines[1:]]))
        notes = "\n".join(textwrap.fill(note, width, subsequent_indent="  ") for note in self.notes)
        return "\n\n".join([*parts, notes]).rstrip() + "\n"

    def to_markdown(self) -> str:
        """A pipe table with its title above and its notes below."""
        grid = [[for_markdown(cell) for cell in row] for row in self._grid()]
        lines = ["| " + " | ".join(row) + " |" for row in grid]
        rule = "|" + "|".join([" --- "] + [" ---: "] * (len(self.columns) - 1)) + "|"
        notes = "\n".join(f"- {for_markdown(note)}" for note in self.notes)
        return (
            f"**{for_markdown(self.title)}**\n\n"
            + "\n".join([lines[0], rule, *lines[1:]])
            + (f"\n\n{notes}\n" if notes else "\n")
        )

    def to_latex(self, width: int = 118) -> str:
        """A `table*` for a paper that loads booktabs; columns beyond `width` characters continue in a tabular below."""
        grid = [[escape(cell) for cell in row] for row in self._grid()]
        widths = [max(map(len, column)) for column in zip(*self._grid(), strict=True)]
        lines = ["% \\usepackage{booktabs}", r"\begin{table*}[tbp]", r"\centering", r"\footnotesize"]
        lines.append(f"\\caption{{{escape(self.title)}.}}")
        for block in _blocks(widths, width):
            head, *body = [" & ".join(row[i] for i in block) + r" \\" for row in grid]
            lines += [f"\\begin{{tabular}}{{l{'r' * (len(block) - 1)}}}", r"\toprule", head, r"\midrule"]
            lines += [*body, r"\bottomrule", r"\end{tabular}", r"\par\medskip"]
        lines += [r"\raggedright\scriptsize"]
        lines += [escape(note) + r"\par" for note in self.notes]
        return "\n".join([*lines, r"\end{table*}", ""])

    def to_csv(self) -> str:
        """Full precision, an interval in four columns."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        wide = [any(isinstance(row[i], Interval) for row in self.rows) for i in range(len(self.columns))]
        suffixes = [("", "_low", "_high", "_n") if is_wide else ("",) for is_wide in wide]
        writer.writerow([column.name + s for column, ends in zip(self.columns, suffixes, strict=True) for s in ends])
        for row in self.rows:
            cells = [for_spreadsheet(cell) if isinstance(cell, str) else cell for cell in row]
            writer.writerow([part for cell in cells for part in (cell if isinstance(cell, Interval) else (cell,))])
        return buffer.getvalue()

    def _repr_html_(self) -> str:
        head, *body = [[html.escape(cell) for cell in row] for row in self._grid()]
        rows = "".join("<tr><th>" + row[0] + "</th><td>" + "</td><td>".join(row[1:]) + "</td></tr>" for row in body)
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        return (
            f"<div style='overflow-x:auto'><table><caption>{html.escape(self.title)}</caption>"
            f"<thead><tr><th>{'</th><th>'.join(head)}</th></tr></thead><tbody>{rows}</tbody></table>"
            f"{f'<ul>{notes}</ul>' if notes else ''}</div>"
        )

    def __str__(self) -> str:
        return self.to_text()

    def _grid(self) -> list[list[str]]:
        body = [
            [format_cell(cell, column.digits) for cell, column in zip(row, self.columns, strict=True)]
            for row in self.rows
        ]
        return [[column.heading for column in self.columns], *body]


def format_cell(cell: Cell, digits: int | None = 2) -> str:
    """`0.92 [0.85, 0.96]`; the point alone where there is no interval; a dash where there is no number."""
    if not isinstance(cell, Interval):
        return str(cell)
    if math.isnan(cell.point):
        return "–"
    if digits is None:
        largest = max(abs(number) for number in cell[:3] if math.isfinite(number))
        digits = 2 if largest < 10 else 1 if largest < 100 else 0
    point, low, high = (f"{number + 0.0:.{digits}f}" for number in cell[:3])
    return point if math.isnan(cell.low) else f"{point} [{low}, {high}]"


def _blocks(widths: Sequence[int], width: int) -> list[list[int]]:
    """Columns that fit beside one another, the first one repeated in every block."""
    blocks: list[list[int]] = [[0]]
    for index in range(1, len(widths)):
        if len(blocks[-1]) > 1 and sum(widths[i] + 2 for i in [*blocks[-1], index]) > width:
            blocks.append([0])
        blocks[-1].append(index)
    return blocks


def plain_table(title: str, rows: Sequence[Mapping[str, str | int | float]], notes: tuple[str, ...] = ()) -> Table:
    """A table of plain rows with equal keys, such as those of `data.quality.source_table`; floats with 2 decimals."""
    columns = tuple(Column(name, name.replace("_", " ").capitalize()) for name in rows[0])
    cells = tuple(tuple(f"{cell:.2f}" if isinstance(cell, float) else cell for cell in row.values()) for row in rows)
    return Table(title, columns, cells, notes)


def summary_table(rows: Sequence[Mapping[str, Any]], target: float = 0.8, further_notes: Sequence[str] = ()) -> Table:
    """One row per arm: how many runs, and every quantity that any of them recorded, as IQM [95 % interval].

    Args:
        rows: of `metrics.reduce_run`; only finished runs count, the others are named in the notes.
        target: the success rate that the steps to target were measured with.
        further_notes: what the rows do not tell, put under the table's own notes.
    """
    rows = restricted(rows)
    done, arms = finished(rows), arm_order(row["arm"] for row in rows)
    shown = recorded(done)
    body = []
    for arm in arms:
        reached = list(by_seed(done, arm, "reached_target").values())
        cells: list[Cell] = [arm_label(arm), sum(row["arm"] == arm for row in done)]
        cells += [f"{sum(reached):.0f} of {len(reached)}" if reached else "–"]
        body.append((*cells, *(_summarise(list(by_seed(done, arm, q.name).values()), q) for q in shown)))
    fixed = (Column("arm", "Arm"), Column("n", "n"), Column("reached_target", f"Reached {target:.0%}"))
    columns = [Column(q.name, q.heading.replace("target", f"{target:.0%}"), q.digits) for q in shown]
    return Table(f"Summary of {_count(done)}", (*fixed, *columns), tuple(body), (*_notes(rows, shown), *further_notes))


def difference_table(rows: Sequence[Mapping[str, Any]], control: str = "rlpd_all", target: float = 0.8) -> Table:
    """Every arm against the control, seed by seed: difference, and probability that a run of the arm is better.

    Args:
        rows: of `metrics.reduce_run`; only finished runs count.
        control: name of the arm that the others are compared with.
        target: the success rate that the steps to target were measured with.
    """
    body: list[tuple[Cell, ...]] = []
    for arm, quantity, difference, better in compare(rows, control):
        heading = quantity.heading.replace("target", f"{target:.0%}")
        body.append((arm_label(arm), heading, difference.n, difference, better))
    columns = (
        Column("arm", "Arm"),
        Column("quantity", "Quantity"),
        Column("pairs", "Shared seeds"),
        Column("difference", "Arm minus control", None),
        Column("probability_better", "Probability better"),
    )
    notes = [
        "Difference of IQMs (of restricted means for steps and seconds), the two runs of a seed resampled together; "
        "probability that a run of the arm is better than one of the control."
    ]
    if body:
        kinds = ("difference of IQMs", "difference of means", "probability")
        notes += [coverage_caveat(n, kinds) + "." for n in sorted({row[2] for row in body if isinstance(row[2], int)})]
    else:
        notes = [f"No arm shares a finished seed with the control {arm_label(control)}."]
    return Table(f"Each arm against the control: {arm_label(control)}", columns, tuple(body), tuple(notes))


def per_seed_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """All rows as CSV, arms in their order, seeds ascending, nothing left out or rounded."""
    buffer = io.StringIO()
    order = arm_order(row["arm"] for row in rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(buffer, names, restval="nan", lineterminator="\n")
    writer.writeheader()
    for row in sorted(rows, key=lambda row: (order.index(row["arm"]), row["seed"])):
        writer.writerow({name: for_spreadsheet(cell) if isinstance(cell, str) else cell for name, cell in row.items()})
    return buffer.getvalue()


def _summarise(values: list[float], quantity: Quantity) -> Interval:
    return bootstrap_interval(np.array(values, dtype=float), mean if quantity.censored else iqm)


def _count(rows: Sequence[Mapping[str, Any]]) -> str:
    seeds, arms = len({row["seed"] for row in rows}), len({row["arm"] for row in rows})
    return f"{len(rows)} runs, {arms} arms, {seeds} seeds"


def _where(step: float) -> str:
    return f"after step {step:.0f}" if math.isfinite(step) else "before its first evaluation"


def _notes(rows: Sequence[Mapping[str, Any]], shown: Sequence[Quantity]) -> list[str]:
    done = finished(rows)
    arms = arm_order(row["arm"] for row in rows)
    notes = [
        "IQM over seeds with bootstrap interval over whole runs; steps and seconds: restricted mean, an arm that never "
        "gets there counts with the budget."
    ]
    notes.append(f"Early: the first {EARLY_STEPS} online steps. Dip: within the first half of the budget.")
    if any(quantity.name == "seconds_to_target" for quantity in shown):
        notes.append("Seconds: wall-clock with warmup and evaluations, spread evenly over a run's environment steps.")
    counts = {sum(row["arm"] == arm for row in done) for arm in {row["arm"] for row in done}}
    notes += [coverage_caveat(n) + "." for n in sorted(counts)]
    lengths = sorted({row["last_step"] for row in done if math.isfinite(row["last_step"])})
    if len(lengths) > 1:
        notes.append(
            f"Runs differ in length ({lengths[0]:.0f} to {lengths[-1]:.0f} steps): compared up to the shortest."
        )
    for arm in arms:
        notes += _notes_on(arm, rows, shown)
    notes += _notes_on_missing_runs(rows)
    if any(row["status"] == "failed" for row in rows):
        notes.append("A failed run is missing from its arm's numbers, which flatters the arm.")
    return notes


def _notes_on(arm: str, rows: Sequence[Mapping[str, Any]], shown: Sequence[Quantity]) -> list[str]:
    own = [row for row in rows if row["arm"] == arm]
    done = finished(own)
    notes = []
    dead = [
        f"seed {row['seed']} {row['status']} {_where(row['last_step'])}" for row in own if row["status"] != "finished"
    ]
    if dead:
        notes.append(f"{arm_label(arm)}: not in the numbers: {', '.join(sorted(dead))}.")
    lacking = [q.heading for q in shown if len(by_seed(done, arm, q.name)) < len(done)]
    if lacking:
        notes.append(f"{arm_label(arm)}: not recorded by every run: {', '.join(lacking)}.")
    return notes


def _notes_on_missing_runs(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lacking: dict[int, list[str]] = {}
    for seed in sorted({row["seed"] for row in rows}):
        there = {row["arm"] for row in rows if row["seed"] == seed}
        lacking[seed] = [arm_label(arm) for arm in arm_order(row["arm"] for row in rows) if arm not in there]
    return [f"No run of seed {seed}: {'; '.join(labels)}." for seed, labels in lacking.items() if labels]
