"""Tables of runs: DataFrames of numbers, shown rounded in a notebook, a terminal or a paper."""

import html
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from wsrl_kit.analysis.metrics import (
    EARLY_STEPS,
    NO_SUCCESS_AT_SWITCH,
    QUANTITIES,
    RETURN,
    Measure,
    Quantity,
    arm_label,
    arm_order,
    censored_sign,
    compare,
    estimate,
    finished,
    measure_of,
    recorded,
    reduce_run,
    restricted,
)
from wsrl_kit.analysis.statistics import Interval, coverage_caveat
from wsrl_kit.runs.run import RunRecord
from wsrl_kit.text import for_latex, for_markdown, for_spreadsheet

WIDTH = 118
"""Characters of a line in a terminal, and on a notebook's page."""
BOLD = "Bold: the best point estimate of a column, whether or not its interval decides."
_NUMBER = re.compile(r"[<>] .*|[-–\d].*")


class Estimate(NamedTuple):
    """An interval as a table's cell: decimals (None: by size), and ">" or "<" if the true value lies beyond it."""

    interval: Interval
    digits: int | None = None
    bound: str = ""


Cell = str | int | float | Estimate


@dataclass(frozen=True, repr=False)
class Table:
    """A DataFrame with a title, rounded cells and notes. In a notebook it shows itself.

    Attributes:
        frame: unrounded numbers; an interval has the columns `name`, `name_low`, `name_high` and `name_n`.
        shown: text of every cell; its columns are the headings.
        bold: which cells of `shown` are bold.
    """

    title: str
    frame: pd.DataFrame
    shown: pd.DataFrame
    notes: tuple[str, ...]
    bold: pd.DataFrame

    def to_text(self) -> str:
        """Aligned text; columns beyond `WIDTH` continue below, with the first column repeated."""
        parts, widths = [self.title], self._widths()
        for block in self._blocks():
            formats = [f"{{:{'>' if self._is_number(name) else '<'}{widths[name]}}}" for name in block]
            grid = [list(block), ["-" * widths[name] for name in block], *block.to_numpy().tolist()]
            parts.append("\n".join("  ".join(formats).format(*row).rstrip() for row in grid))
        notes = "\n".join(textwrap.fill(note, WIDTH, subsequent_indent="  ") for note in self.notes)
        return "\n\n".join([*parts, notes]).rstrip() + "\n"

    __str__ = __repr__ = to_text

    def to_markdown(self) -> str:
        """A pipe table with its title above and its notes below."""
        rule = [" ---: " if self._is_number(name) else " --- " for name in self.shown]
        grid = [[f" {for_markdown(cell)} " for cell in row] for row in (self.shown, *self.shown.to_numpy().tolist())]
        rows = "\n".join(f"|{'|'.join(row)}|" for row in (grid[0], rule, *grid[1:]))
        notes = "\n".join(f"- {for_markdown(note)}" for note in self.notes)
        return f"**{for_markdown(self.title)}**\n\n{rows}\n" + (f"\n{notes}\n" if notes else "")

    def to_latex(self) -> str:
        """A `table*` for a paper that loads booktabs; columns beyond `WIDTH` continue in a tabular below."""
        lines = ["% \\usepackage{booktabs}", r"\begin{table*}[tbp]", r"\centering", r"\footnotesize"]
        lines.append(f"\\caption{{{for_latex(self.title)}.}}")
        for block in self._blocks():
            places = "".join("r" if self._is_number(name) else "l" for name in block)
            styler = self._styler(block, for_latex)
            lines += [styler.to_latex(hrules=True, convert_css=True, column_format=places) + r"\par\medskip"]
        lines += [r"\raggedright\scriptsize", *(for_latex(note) + r"\par" for note in self._styled_notes())]
        return "\n".join([*lines, r"\end{table*}", ""])

    def to_csv(self) -> str:
        """`frame` as CSV that no spreadsheet takes for formulas."""
        return to_csv(self.frame)

    def _repr_html_(self) -> str:
        """Columns beyond a page's width continue in a table below, with the first column repeated."""
        number, words = "text-align: right; white-space: nowrap", "text-align: left; overflow-wrap: anywhere"
        tables = []
        for block in self._blocks():
            sides = {n: [{"selector": "", "props": number if self._is_number(n) else words}] for n in block}
            styler = self._styler(block, html.escape).set_table_styles(sides)
            tables.append(styler.set_table_attributes('style="margin-bottom: 1em"').to_html())
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self._styled_notes())
        title = f"<p><strong>{html.escape(self.title)}</strong></p>"
        return f"<div style='overflow-x:auto'>{title}{''.join(tables)}{f'<ul>{notes}</ul>' if notes else ''}</div>"

    def _styler(self, block: pd.DataFrame, escape: Callable[[str], str]) -> Any:
        css = self.bold[block.columns].map({True: "font-weight: bold", False: ""}.get)
        styler = block.style.hide(axis="index").format(escape).format_index(escape, axis="columns")
        return styler.apply(lambda _: css, axis=None)

    def _styled_notes(self) -> tuple[str, ...]:
        return (*self.notes, BOLD) if self.bold.to_numpy().any() else self.notes

    def _is_number(self, name: str) -> bool:
        """Whether a column is set to the right; the first column names the rows."""
        column = self.shown[name]
        return name != self.shown.columns[0] and len(column) > 0 and bool(column.str.fullmatch(_NUMBER).all())

    def _widths(self) -> dict[str, int]:
        return {name: max(map(len, [name, *self.shown[name]])) for name in self.shown}

    def _blocks(self) -> list[pd.DataFrame]:
        """Parts of `shown` that fit into `WIDTH`, each with the first column."""
        first, *others = self.shown
        widths = self._widths()
        blocks = [[first]]
        for name in others:
            if len(blocks[-1]) > 1 and sum(widths[each] + 2 for each in [*blocks[-1], name]) > WIDTH:
                blocks.append([first])
            blocks[-1].append(name)
        return [self.shown[block] for block in blocks]


def make_table(
    title: str,
    rows: Sequence[Mapping[str, Cell]],
    headings: Mapping[str, str],
    notes: Sequence[str] = (),
    compared: Sequence[Quantity] = (),
) -> Table:
    """A table of cells and headings by column name.

    Args:
        compared: quantities whose best estimate is bold, unless it is a bound or all are equal.
    """
    shown = pd.DataFrame([[cell_text(row[name]) for name in headings] for row in rows], columns=[*headings.values()])
    frame = pd.DataFrame([_flat(row) for row in rows], columns=None if rows else [*headings])
    bold = pd.DataFrame(False, shown.index, shown.columns)
    for quantity in compared:
        heading, score = headings[quantity.name], quantity.better * frame[quantity.name]
        is_bound = shown[heading].str.startswith((">", "<"))
        bold[heading] = (score == score.max()) & (score.nunique() > 1) & ~is_bound
    return Table(title, frame, shown.astype(str), tuple(notes), bold)


def cell_text(cell: Cell) -> str:
    """`0.92 [0.85, 0.96]`; the point alone without an interval; `> 400` for a bound; a dash for nan."""
    if isinstance(cell, Estimate):
        # Where every run is a bound, resampling them says nothing.
        (point, low, high, _), digits, bound = cell
        text = _interval_text(point, math.nan if bound and low == high else low, high, digits)
        return f"{bound} {text}".strip()
    return _interval_text(cell, math.nan, math.nan, 2) if isinstance(cell, float) else str(cell)


def _interval_text(point: float, low: float, high: float, digits: int | None) -> str:
    if math.isnan(point):
        return "–"
    if digits is None:
        largest = max(abs(number) for number in (point, low, high) if math.isfinite(number))
        digits = 2 if largest < 10 else 1 if largest < 100 else 0
    texts = [f"{round(number, digits) + 0.0:.{digits}f}" for number in (point, low, high)]  # no -0
    return texts[0] if math.isnan(low) else f"{texts[0]} [{texts[1]}, {texts[2]}]"


def _flat(row: Mapping[str, Cell]) -> dict[str, str | int | float]:
    flat: dict[str, str | int | float] = {}
    for name, cell in row.items():
        if isinstance(cell, Estimate):
            flat |= {f"{name}{suffix}": n for suffix, n in zip(("", "_low", "_high", "_n"), cell.interval, strict=True)}
        else:
            flat[name] = cell
    return flat


def to_csv(frame: pd.DataFrame) -> str:
    """A DataFrame as CSV in full precision that no spreadsheet takes for formulas."""
    safe = frame.map(lambda cell: for_spreadsheet(cell) if isinstance(cell, str) else cell)
    return safe.to_csv(index=False, na_rep="nan", lineterminator="\n")


def plain_table(title: str, rows: Sequence[Mapping[str, str | int | float]], notes: tuple[str, ...] = ()) -> Table:
    """A table of rows with equal keys, such as those of `data.weights.source_table`; floats with 2 decimals."""
    rows = rows or [{"found": "nothing"}]
    return make_table(title, rows, {name: _words(name) for name in rows[0]}, notes)


def facts_table(title: str, facts: Mapping[str, Any]) -> Table:
    """A row for each fact, such as those of a run's summary."""
    return plain_table(title, [{"quantity": _words(name), "value": _fact(value)} for name, value in facts.items()])


def run_table(record: RunRecord) -> Table:
    """Every quantity that one fine-tuning run recorded; `> 400` if it had not reached the target by step 400."""
    measure = measure_of([record])
    run = pd.DataFrame([reduce_run(record, measure=measure)])
    rows: list[dict[str, Cell]] = []
    for quantity in recorded(run):
        value = Interval(float(run[quantity.name][0]), math.nan, math.nan, 1)
        cell = Estimate(value, quantity.digits, censored_sign(run, quantity))
        rows.append({"quantity": measure.heading(quantity.heading), "value": cell})
    end = f", last evaluated at step {run['last_step'][0]:.0f}" if run["last_step"].notna()[0] else ""
    return make_table(f"Result: {record.status}{end}", rows, {"quantity": "Quantity", "value": "Value"})


def summary_table(runs: pd.DataFrame, measure: Measure, further_notes: Sequence[str] = ()) -> Table:
    """One row per arm: how many runs, and every quantity that any of them recorded, as IQM [95 % interval].

    Only finished runs of `metrics.reduce_runs` count; the notes name the others.
    """
    has_target = measure.target is not None
    runs = restricted(runs)
    done = finished(runs)
    shown = recorded(done)
    rows: list[dict[str, Cell]] = []
    for arm in arm_order(runs["arm"]):
        own = done[done["arm"] == arm]
        reached = own["reached_target"].dropna()
        share = f"{reached.sum():.0f} of {len(reached)}" if len(reached) else "–"
        rows.append({"arm": arm_label(arm), "n": len(own)})
        rows[-1] |= {"reached_target": share} if has_target else {}
        rows[-1] |= {q.name: Estimate(estimate(own, q), q.digits, censored_sign(own, q)) for q in shown}
    headings = {"arm": "Arm", "n": "Runs"} | ({"reached_target": "Reached target"} if has_target else {})
    headings |= {quantity.name: quantity.heading for quantity in shown}
    headings = {name: measure.heading(heading) for name, heading in headings.items()}
    counts = {"run": len(done), "arm": done["arm"].nunique(), "seed": done["seed"].nunique()}
    title = ", ".join(f"{number} {name}{'' if number == 1 else 's'}" for name, number in counts.items())
    return make_table(f"Summary of {title}", rows, headings, (*_notes(runs, shown, measure), *further_notes), shown)


def difference_table(runs: pd.DataFrame, control: str, measure: Measure) -> Table:
    """Every arm against the control, paired by seed: difference, and probability that a run of the arm is better."""
    comparisons = compare(runs, control)
    rows: list[dict[str, Cell]] = [
        {
            "arm": arm_label(arm),
            "quantity": measure.heading(quantity.heading),
            "pairs": difference.n,
            "difference": Estimate(difference, 0 if quantity.digits == 0 else None, bound),
            "probability_better": Estimate(better),
        }
        for arm, quantity, difference, better, bound in comparisons
    ]
    headings = {
        "arm": "Arm",
        "quantity": "Quantity",
        "pairs": "Shared seeds",
        "difference": "Arm minus control",
        "probability_better": "Probability better",
    }
    notes = [
        "Difference of IQMs (of restricted means for steps and seconds), the two runs of a seed resampled together; "
        "probability that a run of the arm is better than one of the control. > or <: where only one of both has runs "
        "that never got there, the difference is larger or smaller."
    ]
    kinds = ("difference of IQMs", "difference of means", "probability")
    notes += [coverage_caveat(n, kinds) + "." for n in sorted({each.difference.n for each in comparisons})]
    if not rows:
        notes = [f"No arm shares a finished seed with the control {arm_label(control)}."]
    return make_table(f"Each arm against the control: {arm_label(control)}", rows, headings, notes)


def per_seed_csv(runs: pd.DataFrame) -> str:
    """All rows as CSV, unrounded: arms in their order, seeds ascending."""
    order = arm_order(runs["arm"])
    return to_csv(runs.sort_values(["arm", "seed"], key=lambda c: c.map(order.index) if c.name == "arm" else c))


def _words(name: str) -> str:
    """A snake_case name as words."""
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def _fact(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _notes(runs: pd.DataFrame, shown: Sequence[Quantity], measure: Measure) -> list[str]:
    done, arms = finished(runs), arm_order(runs["arm"])
    notes = [
        "IQM over seeds with bootstrap interval over whole runs; steps and seconds: restricted mean, a run that never "
        "gets there counts with the budget. >: the arm has such runs, its mean is larger.",
        f"Early: the first {EARLY_STEPS} online steps. Dip: within the first half of the budget.",
    ]
    if measure.name == RETURN.name:
        notes.append("No run reports success: area, dip, drawdown and dispersion are of the return, in its units.")
    elif QUANTITIES["dip_depth"] in shown:
        notes.append("Dip and steps to recover: over the runs with success at the switch.")
    if QUANTITIES["seconds_to_target"] in shown:
        notes.append("Seconds: wall-clock with warmup and evaluations, spread evenly over a run's environment steps.")
    unlike = (done[f"final_{measure.name}"].isna() & done["last_step"].notna()).sum()
    if unlike:
        notes.append(f"Measured by {measure.name}: {unlike} of {len(done)} runs report none and have no numbers of it.")
    notes += [f"{coverage_caveat(n)}." for n in sorted(set(done["arm"].value_counts()))]
    lengths = done["last_step"].dropna()
    if lengths.nunique() > 1:
        notes.append(
            f"Runs differ in length ({lengths.min():.0f} to {lengths.max():.0f} steps): compared up to the shortest."
        )
    for arm in arms:
        own = runs[runs["arm"] == arm]
        dead = own[own["status"] != "finished"].sort_values("seed")
        where = dead["last_step"].map(
            lambda s: "before its first evaluation" if math.isnan(s) else f"after step {s:.0f}"
        )
        if len(dead):
            texts = "seed " + dead["seed"].astype(str) + " " + dead["status"] + " " + where
            notes.append(f"{arm_label(arm)}: not in the numbers: {', '.join(texts)}.")
        always = [quantity for quantity in shown if quantity.absent != NO_SUCCESS_AT_SWITCH]
        lacking = [quantity.heading for quantity in always if finished(own)[quantity.name].isna().any()]
        if lacking:
            notes.append(f"{arm_label(arm)}: not recorded by every run: {', '.join(lacking)}.")
    for seed, own in runs.groupby("seed"):
        missing = [arm_label(arm) for arm in arms if arm not in set(own["arm"])]
        if missing:
            notes.append(f"No run of seed {seed}: {'; '.join(missing)}.")
    if (runs["status"] == "failed").any():
        notes.append("A failed run is missing from its arm's numbers, which flatters the arm.")
    return notes
