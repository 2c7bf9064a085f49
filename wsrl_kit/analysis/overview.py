"""All runs under a folder, read as they grow: a table of all, and single metrics of some.

A folder may be written meanwhile, half deleted or from elsewhere: the table says so, and nothing raises.
"""

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure

from wsrl_kit.analysis import plots
from wsrl_kit.analysis.metrics import RETURN, SUCCESS, arm_label
from wsrl_kit.analysis.tables import Table, make_table
from wsrl_kit.errors import RunError
from wsrl_kit.files import reading
from wsrl_kit.runs.run import HEADER, METRICS, OWN_FOLDERS, PHASES, RECORD, Curve, RunRecord, read_run, was_killed
from wsrl_kit.text import duration, for_figure, printable

TAIL_BYTES = 2**20
"""At the end of metrics.csv, in which the table looks for the last values."""
NAME_BYTES = 2**16
"""At either end of metrics.csv, in which the names of metrics are looked for."""
NO_TRAINING = ("ablation", "explore", "hil_serl", "report", "tuning")
"""Kinds of runs that are not listed."""
BUDGETS = {
    "warmup": ("gradient_step", "warmup_steps"),
    "finetune": ("environment_step", "online_steps"),
    "classifier": ("gradient_step", "classifier_steps"),
}
"""Kind of run -> what its steps are, and the parameter that says how many."""
UNREADABLE, KILLED = "unreadable", "killed"
"""Statuses of the table beside those of `run.json`."""
MOST_POINTS = 1_000
"""That are drawn of one curve."""
MOST_NAMED = 12
"""Runs that the legend of the curves names; of more runs, it names the arms."""
_LINES = ("-", "--", ":", "-.")
COLUMNS = ("folder", "kind", "arm", "seed", "status", "step", "steps", "success", "return", "seconds_left", "message")


class RunFolders:
    """The runs under a folder; each call reads only what was appended to `metrics.csv` since the last.

    Args:
        root: runs lie in it at any depth.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._known: dict[tuple[Path, str], tuple[GrowingFile, dict[str, Any]]] = {}

    def table(self) -> pd.DataFrame:
        """One row a run, in the order of folders, with the columns `COLUMNS`.

        `folder` is relative to the root. `success`, `return`: the last evaluation, or training episode where nothing is
        evaluated. `seconds_left`: at the mean pace so far; nan unless running. `message`: what is wrong.

        Raises:
            RunError: there is no such folder.
        """
        if not self.root.is_dir():
            raise RunError(f"{self.root} must be a folder of runs, found no folder")
        rows = [self._row(folder) for folder in run_folders(self.root)]
        frame = pd.DataFrame([row for row in rows if row["kind"] not in NO_TRAINING], columns=list(COLUMNS))
        return frame.astype({"step": float, "steps": float})

    def metrics(self, folders: Sequence[str]) -> list[str]:
        """Names of the metrics at the beginnings and ends of runs, sorted; unreadable runs have none."""
        names: set[str] = set()
        for folder in folders:
            path = self.root / folder / METRICS
            try:
                with reading(path, RunError), path.open("rb") as file:
                    head = file.read(NAME_BYTES)
                    file.seek(max(len(head), path.stat().st_size - NAME_BYTES))
                    lines = [*head.split(b"\n")[1:-1], *file.read().split(b"\n")[1:-1]]
            except RunError:
                continue
            fields = [line.split(b",") for line in lines]
            names |= {row[3].decode(errors="replace") for row in fields if len(row) == 5}
        return sorted(names)

    def record(self, folder: str, metric: str) -> RunRecord:
        """The run with one of its metrics.

        Raises:
            RunError: there is no run, or it is damaged.
        """
        path = self.root / folder
        with self._appended(path, metric) as (_, block, curves):
            rows = list(_rows_of(block, metric))
            for phase in PHASES:
                own = [(int(row[1]), int(row[2]), float(row[4])) for row in rows if row[0] == phase.encode()]
                if own:
                    found = Curve.of(own)
                    curves[phase] = _joined(curves[phase], found) if phase in curves else found
        metrics = {(phase, metric): curve for phase, curve in curves.items()}
        return replace(read_run(path, with_metrics=False), metrics=metrics)

    @contextmanager
    def _appended(
        self, folder: Path, metric: str = "", most: int | None = None
    ) -> Iterator[tuple["GrowingFile", bytes, dict[str, Any]]]:
        """A run's metrics, what was appended to them, and what is known from before, to be added to by the block.

        Args:
            metric: what it is known of; "": the row of the table.
            most: as of `GrowingFile`.
        """
        # Kept only once it was read without an error: what is damaged is read anew, and said again.
        growing, known = self._known.pop((folder, metric), (GrowingFile(folder / METRICS, most), {}))
        with reading(growing.path, RunError):
            block, is_new = growing.read()
            if is_new:
                known.clear()
            yield growing, block, known
        self._known[folder, metric] = growing, known

    def _row(self, folder: Path) -> dict[str, Any]:
        """The folder's row of the table."""
        row: dict[str, Any] = dict.fromkeys(COLUMNS, math.nan) | dict.fromkeys(("kind", "arm", "seed", "message"), "")
        row["folder"] = str(folder.relative_to(self.root))
        try:
            run = read_run(folder, with_metrics=False)
            row |= {name: getattr(run, name) for name in ("kind", "arm", "status", "message")} | {"seed": str(run.seed)}
            row |= self._last_values(folder)
        except RunError as error:
            return row | {"status": UNREADABLE, "message": str(error)}
        unit, budget = BUDGETS.get(run.kind, ("", ""))
        steps = run.parameters.get(budget)
        row["steps"] = float(steps) if isinstance(steps, int) else math.nan
        row["step"] = row.pop(unit, math.nan)
        if run.status == "running":
            if was_killed(folder):
                return row | {"status": KILLED, "message": "its process is gone; the same command continues it"}
            row["seconds_left"] = _seconds_left(folder, run.seconds, row["step"], row["steps"])
        return row

    def _last_values(self, folder: Path) -> dict[str, float]:
        """Steps of the last row, and the last success and return."""
        with self._appended(folder, most=TAIL_BYTES) as (tail, block, known):
            for measure in (SUCCESS, RETURN):
                for metric in (measure.metric, f"training/episode_{measure.name}"):
                    last = next(_rows_of(block, metric, from_end=True), None)
                    if last and math.isfinite(value := float(last[4])):
                        known[measure.name] = value
                        break
            if len(last := tail.last_line.split(b",")) == 5 and tail.last_line != HEADER.encode():
                known |= {"environment_step": float(last[1]), "gradient_step": float(last[2])}
        return known


class GrowingFile:
    """Reads what was appended to a file of lines, and all of it again where the file was rewound or replaced.

    Args:
        most: bytes at the end that matter; None: all.

    Attributes:
        last_line: that was read; b"" before the first.
    """

    def __init__(self, path: Path, most: int | None = None) -> None:
        self.path = path
        self.last_line = b""
        self._most = most
        self._end = 0

    def read(self) -> tuple[bytes, bool]:
        """The new complete lines, and whether they replace all that was read before."""
        with self.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(self._end - len(self.last_line))
            is_new = size < self._end or file.read(len(self.last_line)) != self.last_line
            known = 0 if is_new else self._end
            start = known if self._most is None else max(known, size - self._most)
            file.seek(start)
            block = file.read()
        if start > known:
            block = block[(skipped := block.find(b"\n") + 1) :]
            start += skipped
        block = block[: block.rfind(b"\n") + 1]
        if block or is_new:
            self.last_line = block[block.rfind(b"\n", 0, -1) + 1 :]
        self._end = start + len(block)
        return block, is_new


def _joined(first: Curve, second: Curve) -> Curve:
    """One curve after the other."""
    names = ("environment_step", "gradient_step", "value")
    return Curve(*(np.concatenate([getattr(first, name), getattr(second, name)]) for name in names))


def _rows_of(block: bytes, metric: str, from_end: bool = False) -> Iterator[list[bytes]]:
    """The rows of one metric, in their order or from the end; found as bytes, thirty times faster than parsed."""
    name = f",{metric},".encode()
    place = block.rfind(name) if from_end else block.find(name)
    while place >= 0:
        start, end = block.rfind(b"\n", 0, place) + 1, block.find(b"\n", place)
        fields = block[start:end].split(b",")
        if len(fields) != 5:
            raise ValueError(f"a row must hold {HEADER.strip()}, found {block[start:end].decode(errors='replace')!r}")
        yield fields
        place = block.rfind(name, 0, start) if from_end else block.find(name, end)


def run_folders(root: Path) -> Iterator[Path]:
    """Folders that look like runs, in the order of their paths; those that vanish meanwhile are passed over."""
    for folder, inside, files in os.walk(root):
        is_run = RECORD in files or METRICS in files
        inside[:] = sorted(name for name in inside if not name.startswith(".") and not (is_run and name in OWN_FOLDERS))
        if is_run:
            yield Path(folder)


def _seconds_left(folder: Path, earlier: float, step: float, steps: float) -> float:
    """`run.json` was written when the session began, `metrics.csv` at the last record."""
    try:
        began, recorded = ((folder / name).stat().st_mtime for name in (RECORD, METRICS))
    except OSError:
        return math.nan
    worked = earlier + max(0.0, recorded - began)
    if not (step > 0 and worked > 0):
        return math.nan
    return max(0.0, worked * (steps - step) / step - max(0.0, time.time() - recorded))


def overview_table(frame: pd.DataFrame, root: Path) -> Table:
    """`RunFolders.table` as text."""
    columns = ("kind", "arm", "seed", "status", "step", "success", "return", "left")
    headings = {"folder": "Run"} | {name: name.capitalize() for name in columns}
    shown = [shown_row(row, root) for row in frame.to_dict("records")]
    rows = [{name: row[name] for name in headings} for row in shown]
    notes = [f"{row['folder']}: {row['message']}" for row in shown if row["message"]]
    return make_table(f"Runs under {root}", rows, headings, notes)


def shown_row(row: Mapping[str, Any], root: Path) -> dict[str, str]:
    """The cells of one row of `RunFolders.table` as printable text; "" where nothing is known."""

    def number(value: float, form: str) -> str:
        return "" if math.isnan(value) else form.format(value)

    of = number(row["steps"], " of {:,.0f}")
    return {
        **{name: printable(row[name]) for name in ("kind", "arm", "seed", "status", "message")},
        "folder": printable(_name(row["folder"], root)),
        "step": number(row["step"], "{:,.0f}") + of if not math.isnan(row["step"]) else "",
        "success": number(row["success"], "{:.2f}"),
        "return": number(row["return"], "{:.3g}"),
        "left": "" if math.isnan(row["seconds_left"]) else duration(row["seconds_left"]),
    }


def _name(folder: str, path: Path) -> str:
    """A folder as the table names it; the root itself, which may be a run, by its own name."""
    return path.resolve().name if folder == "." else folder


def overlay_figure(
    records: Mapping[str, RunRecord], metric: str, against: str = "environment_step", smoothing: float = 0.0
) -> Figure:
    """One metric of several runs, by name; runs of one arm share a colour, and differ in their lines.

    Args:
        against: "environment_step", or "gradient_step" with warmup.
        smoothing: weight of the past in an exponential moving mean, in [0, 1); what was recorded is drawn pale behind.
    """
    figure, (ax,) = plots.new_figure(width=9.6, height=4.2)
    arms = {name: record.arm or name for name, record in records.items()}
    colours, drawn = plots.arm_colours(arms.values()), dict.fromkeys(arms.values(), 0)
    named: dict[str, Any] = {}
    for name, record in records.items():
        steps, values = plots.run_curve(record, metric, against)
        colour, line = colours[arms[name]], _LINES[drawn[arms[name]] % len(_LINES)]
        drawn[arms[name]] += 1
        shown = _name(name, record.folder)
        label = arm_label(record.arm) if record.arm else shown
        if len(records) <= MOST_NAMED:
            nothing = "" if len(steps) else f" (nothing against {plots.AXIS_LABELS[against].lower()})"
            label += f", seed {record.seed}" * bool(record.arm) + nothing
        if smoothing and len(steps):
            ax.plot(*_thinned(steps, values), color=colour, linewidth=0.8, alpha=0.25)
            values = pd.Series(values).ewm(alpha=1.0 - smoothing).mean().to_numpy()
        style = line + "o" * (len(steps) <= plots.FEW_POINTS)
        (curve,) = ax.plot(*_thinned(steps, values), style, color=colour, linewidth=1.4, markersize=3.5)
        curve.set_gid(printable(f"{label} ({shown})" if record.arm else shown))
        named.setdefault(for_figure(label), curve)
    figure.legend(
        [*named.values()][:MOST_NAMED],
        [*named][:MOST_NAMED],
        loc="outside right upper",
        frameon=False,
        fontsize="small",
    )
    ax.set(xlabel=plots.AXIS_LABELS[against], ylabel=for_figure(metric))
    plots.replace_empty_axes([ax], is_running=False)
    return figure


def _thinned(
    steps: Float[np.ndarray, " points"], values: Float[np.ndarray, " points"]
) -> tuple[Float[np.ndarray, " some"], Float[np.ndarray, " some"]]:
    """Means of neighbours, where there are more points than pixels."""
    starts = np.arange(0, len(steps), -(-len(steps) // MOST_POINTS) or 1)
    counts = np.diff(starts, append=len(steps))
    return steps[starts], np.add.reduceat(values, starts) / counts if len(steps) else values
