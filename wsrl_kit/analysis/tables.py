"""Tables of runs, from rows of `metrics.reduce_run`: as text, Markdown, HTML, LaTeX and CSV."""

import csv
import html
import io
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from wsrl_kit.analysis.arms import arm_label, arm_order
from wsrl_kit.analysis.metrics import (
    EARLY_STEPS,
    NOTHING_TO_LOSE,
    Quantity,
    by_seed,
    censored_sign,
    compare,
    finished,
    is_censored,
    recorded,
    reduce_run,
    restricted,
)
from wsrl_kit.analysis.statistics import Interval, bootstrap_interval, coverage_caveat, iqm, mean
from wsrl_kit.runs.run import RunRecord
from wsrl_kit.text import for_markdown, for_spreadsheet

SPECIAL = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
    # A row of a table that began with a bracket would be read as an option of the line end before it.
    "[": "{[}",
}


def escape(text: str) -> str:
    """Every character that LaTeX gives a meaning as itself; the hyphen of a negative number as a minus sign."""
    escaped = "".join(SPECIAL.get(character, character) for character in text)
    return re.sub(r"(?<![\w.)-])-(?=\d)", "$-$", escaped)


WIDTH = 118
"""Characters that fit beside one another in a terminal, and in a notebook's page."""
HEADING_WIDTH = 12
"""Characters after which a heading wraps, where its cells are no wider."""
NUMBER = re.compile(r"[<>] .*|[-–\d].*")
"""What the cells of a column look like that is set to the right."""


class Estimate(NamedTuple):
    """An interval as a cell of its own rounding.

    Attributes:
        interval: nan ends: the point alone.
        digits: decimals; None: as many as its size asks for.
        bound: ">" or "<" where the true value is known to lie beyond the point; else "".
    """

    interval: Interval
    digits: int | None = 2
    bound: str = ""


Cell = str | int | float | Interval | Estimate


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: its name in the CSV; an interval becomes `name`, `name_low`, `name_high`, `name_n`.
        heading: what a reader sees.
        digits: decimals of an interval or a float; None: as many as its size asks for.
    """

    name: str
    heading: str
    digits: int | None = 2


FACT_COLUMNS = (Column("quantity", "Quantity"), Column("value", "Value"))


@dataclass(frozen=True)
class Table:
    """Cells with headings, and notes that belong under them. In a notebook it shows itself."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    def to_text(self, width: int = WIDTH) -> str:
        """Aligned text; where the table is wider than `width`, its columns continue below, the first one repeated."""
        _, *body = self._grid()
        headings, widths = self._measure()
        right = self._is_right()

        def aligned(cells: Sequence[str], block: Sequence[int]) -> str:
            placed = (f"{cell:{'>' if right[i] else '<'}{widths[i]}}" for i, cell in zip(block, cells, strict=True))
            return "  ".join(placed).rstrip()

        parts = [self.title]
        for block in _blocks(widths, width):
            height = max(len(headings[i]) for i in block)
            above = [[""] * (height - len(headings[i])) + headings[i] for i in block]
            lines = [*map(list, zip(*above, strict=True)), ["-" * widths[i] for i in block]]
            lines += [[row[i] for i in block] for row in body]
            parts.append("\n".join(aligned(line, block) for line in lines))
        notes = "\n".join(textwrap.fill(note, width, subsequent_indent="  ") for note in self.notes)
        return "\n\n".join([*parts, notes]).rstrip() + "\n"

    def to_markdown(self) -> str:
        """A pipe table with its title above and its notes below."""
        grid = [[for_markdown(cell) for cell in row] for row in self._grid()]
        lines = ["| " + " | ".join(row) + " |" for row in grid]
        rule = "|" + "|".join(" ---: " if right else " --- " for right in self._is_right()) + "|"
        notes = "\n".join(f"- {for_markdown(note)}" for note in self.notes)
        return (
            f"**{for_markdown(self.title)}**\n\n"
            + "\n".join([lines[0], rule, *lines[1:]])
            + (f"\n\n{notes}\n" if notes else "\n")
        )

    def to_latex(self, width: int = WIDTH) -> str:
        """A `table*` for a paper that loads booktabs; columns beyond `width` characters continue in a tabular below."""
        grid = [[escape(cell) for cell in row] for row in self._grid()]
        widths = [max(map(len, column)) for column in zip(*self._grid(), strict=True)]
        lines = ["% \\usepackage{booktabs}", r"\begin{table*}[tbp]", r"\centering", r"\footnotesize"]
        lines.append(f"\\caption{{{escape(self.title)}.}}")
        right = self._is_right()
        for block in _blocks(widths, width):
            head, *body = [" & ".join(row[i] for i in block) + r" \\" for row in grid]
            places = "".join("r" if right[i] else "l" for i in block)
            lines += [f"\\begin{{tabular}}{{{places}}}", r"\toprule", head, r"\midrule"]
            lines += [*body, r"\bottomrule", r"\end{tabular}", r"\par\medskip"]
        lines += [r"\raggedright\scriptsize"]
        lines += [escape(note) + r"\par" for note in self.notes]
        return "\n".join([*lines, r"\end{table*}", ""])

    def to_csv(self) -> str:
        """Full precision, an interval in four columns."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        rows = [[cell.interval if isinstance(cell, Estimate) else cell for cell in row] for row in self.rows]
        wide = [any(isinstance(row[i], Interval) for row in rows) for i in range(len(self.columns))]
        suffixes = [("", "_low", "_high", "_n") if is_wide else ("",) for is_wide in wide]
        writer.writerow([column.name + s for column, ends in zip(self.columns, suffixes, strict=True) for s in ends])
        for row in rows:
            cells = [for_spreadsheet(cell) if isinstance(cell, str) else cell for cell in row]
            writer.writerow([part for cell in cells for part in (cell if isinstance(cell, Interval) else (cell,))])
        return buffer.getvalue()

    def _repr_html_(self) -> str:
        """As wide as a page: columns beyond it continue in a table below, the first one repeated."""
        head, *body = [[html.escape(cell) for cell in row] for row in self._grid()]
        sides = ["text-align:" + ("right" if right else "left") for right in self._is_right()]
        # A number stays on one line, a path or a sentence wraps anywhere.
        flows = ["white-space:nowrap" if side.endswith("right") else "overflow-wrap:anywhere" for side in sides]

        def cells(tag: str, row: Sequence[str], block: Sequence[int]) -> str:
            styles = [f"{sides[i]};{flows[i]}" if tag == "td" else sides[i] for i in block]
            parts = (f"<{tag} style='{style}'>{row[i]}</{tag}>" for i, style in zip(block, styles, strict=True))
            return f"<tr>{''.join(parts)}</tr>"

        tables = [
            f"<table style='table-layout:auto;margin-bottom:1em'><thead>{cells('th', head, block)}</thead>"
            f"<tbody>{''.join(cells('td', row, block) for row in body)}</tbody></table>"
            for block in _blocks(self._measure()[1], WIDTH)
        ]
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        title = f"<p><strong>{html.escape(self.title)}</strong></p>"
        return f"<div style='overflow-x:auto'>{title}{''.join(tables)}{f'<ul>{notes}</ul>' if notes else ''}</div>"

    def __str__(self) -> str:
        return self.to_text()

    def _grid(self) -> list[list[str]]:
        body = [
            [format_cell(cell, column.digits) for cell, column in zip(row, self.columns, strict=True)]
            for row in self.rows
        ]
        return [[column.heading for column in self.columns], *body]

    def _is_right(self) -> list[bool]:
        """Which columns hold numbers, that are set to the right; the first one names the row."""
        _, *body = self._grid()
        columns = list(zip(*body, strict=True)) or [()] * len(self.columns)
        return [place > 0 and bool(cells) and all(map(NUMBER.fullmatch, cells)) for place, cells in enumerate(columns)]

    def _measure(self) -> tuple[list[list[str]], list[int]]:
        """The lines of every heading, which wraps where it is wider than its cells; and the columns' widths."""
        head, *body = self._grid()
        headings, widths = [], []
        for place, heading in enumerate(head):
            cells = [len(row[place]) for row in body]
            lines = textwrap.wrap(heading, max([HEADING_WIDTH, *cells]), break_long_words=False)
            headings.append(lines)
            widths.append(max([*cells, *map(len, lines)]))
        return headings, widths


def format_cell(cell: Cell, digits: int | None = 2) -> str:
    """`0.92 [0.85, 0.96]`; the point alone where there is no interval; `> 400` for a bound; a dash for no number."""
    if isinstance(cell, Estimate):
        text = format_cell(cell.interval, cell.digits)
        # Where every run is a bound, resampling them says nothing.
        text = text.split(" ")[0] if cell.bound and cell.interval.low == cell.interval.high else text
        return f"{cell.bound} {text}".strip()
    if isinstance(cell, float):
        cell = Interval(cell, math.nan, math.nan, 1)
    if not isinstance(cell, Interval):
        return str(cell)
    if math.isnan(cell.point):
        return "–"
    if digits is None:
        largest = max(abs(number) for number in cell[:3] if math.isfinite(number))
        digits = 2 if largest < 10 else 1 if largest < 100 else 0
    point, low, high = (f"{round(number, digits) + 0.0:.{digits}f}" for number in cell[:3])  # no -0
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
    names = list(rows[0]) if rows else ["found"]
    columns = tuple(Column(name, _words(name)) for name in names)
    return Table(title, columns, tuple(tuple(row.values()) for row in rows) or (("nothing",),), notes)


def facts_table(title: str, facts: Mapping[str, Any]) -> Table:
    """A row per fact, such as those of a run's summary, in words."""
    return Table(title, FACT_COLUMNS, tuple((_words(name), _fact(value)) for name, value in facts.items()))


def run_table(record: RunRecord, target: float = 0.8) -> Table:
    """One fine-tuning run by every quantity that it recorded; `> 400` where it had not got there by step 400."""
    row = reduce_run(record, target=target)
    body: list[tuple[Cell, ...]] = []
    for quantity in recorded([row]):
        value = Interval(row[quantity.name], math.nan, math.nan, 1)
        bound = ">" if is_censored(row, quantity) else ""
        body.append((_heading(quantity, target), Estimate(value, quantity.digits, bound)))
    end = f", last evaluated at step {row['last_step']:.0f}" if math.isfinite(row["last_step"]) else ""
    return Table(f"Result: {row['status']}{end}", FACT_COLUMNS, tuple(body))


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
        body.append((*cells, *(_summarise(done, arm, q) for q in shown)))
    fixed = (Column("arm", "Arm"), Column("n", "Runs"), Column("reached_target", f"Reached {target:.0%}"))
    columns = [Column(q.name, _heading(q, target)) for q in shown]
    return Table(f"Summary of {_count(done)}", (*fixed, *columns), tuple(body), (*_notes(rows, shown), *further_notes))


def difference_table(rows: Sequence[Mapping[str, Any]], control: str = "rlpd_all", target: float = 0.8) -> Table:
    """Every arm against the control, seed by seed: difference, and probability that a run of the arm is better.

    Args:
        rows: of `metrics.reduce_run`; only finished runs count.
        control: name of the arm that the others are compared with.
        target: the success rate that the steps to target were measured with.
    """
    body: list[tuple[Cell, ...]] = []
    for arm, quantity, difference, better, bound in compare(rows, control):
        digits = 0 if quantity.digits == 0 else None
        cells = (arm_label(arm), _heading(quantity, target), difference.n, Estimate(difference, digits, bound), better)
        body.append(cells)
    columns = (
        Column("arm", "Arm"),
        Column("quantity", "Quantity"),
        Column("pairs", "Shared seeds"),
        Column("difference", "Arm minus control"),
        Column("probability_better", "Probability better"),
    )
    notes = [
        "Difference of IQMs (of restricted means for steps and seconds), the two runs of a seed resampled together; "
        "probability that a run of the arm is better than one of the control. > or <: where only one of both has runs "
        "that never got there, the difference is larger or smaller."
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


def _summarise(rows: Sequence[Mapping[str, Any]], arm: str, quantity: Quantity) -> Estimate:
    values = np.array(list(by_seed(rows, arm, quantity.name).values()), dtype=float)
    interval = bootstrap_interval(values, mean if quantity.censored else iqm)
    return Estimate(interval, quantity.digits, censored_sign(rows, arm, quantity))


def _heading(quantity: Quantity, target: float) -> str:
    return quantity.heading.replace("target", f"{target:.0%}")


def _words(name: str) -> str:
    """A snake_case name as a reader sees it."""
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def _fact(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _count(rows: Sequence[Mapping[str, Any]]) -> str:
    counts = {"run": len(rows), "arm": len({row["arm"] for row in rows}), "seed": len({row["seed"] for row in rows})}
    return ", ".join(f"{number} {name}{'' if number == 1 else 's'}" for name, number in counts.items())


def _where(step: float) -> str:
    return f"after step {step:.0f}" if math.isfinite(step) else "before its first evaluation"


def _notes(rows: Sequence[Mapping[str, Any]], shown: Sequence[Quantity]) -> list[str]:
    done = finished(rows)
    arms = arm_order(row["arm"] for row in rows)
    notes = [
        "IQM over seeds with bootstrap interval over whole runs; steps and seconds: restricted mean, a run that never "
        "gets there counts with the budget. >: the arm has such runs, its mean is larger."
    ]
    notes.append(f"Early: the first {EARLY_STEPS} online steps. Dip: within the first half of the budget.")
    if any(quantity.absent == NOTHING_TO_LOSE for quantity in shown):
        notes.append("Dip and steps to recover: over the runs with success at the switch.")
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
    always = [q for q in shown if q.absent != NOTHING_TO_LOSE]
    lacking = [q.heading for q in always if len(by_seed(done, arm, q.name)) < len(done)]
    if lacking:
        notes.append(f"{arm_label(arm)}: not recorded by every run: {', '.join(lacking)}.")
    return notes


def _notes_on_missing_runs(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lacking: dict[int, list[str]] = {}
    for seed in sorted({row["seed"] for row in rows}):
        there = {row["arm"] for row in rows if row["seed"] == seed}
        lacking[seed] = [arm_label(arm) for arm in arm_order(row["arm"] for row in rows) if arm not in there]
    return [f"No run of seed {seed}: {'; '.join(labels)}." for seed, labels in lacking.items() if labels]
