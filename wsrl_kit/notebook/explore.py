"""All runs under a folder in a notebook: a live table, and one metric of the runs that are ticked."""

import asyncio
import html
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ipywidgets
import pandas as pd
from IPython.display import display
from ipywidgets import Layout
from matplotlib.figure import Figure

from wsrl_kit.analysis.metrics import RETURN, SUCCESS
from wsrl_kit.analysis.overview import BUDGETS, RunFolders, overlay_figure, overview_table, shown_row
from wsrl_kit.analysis.plots import AXIS_LABELS, NEUTRAL, with_values
from wsrl_kit.analysis.tables import Table
from wsrl_kit.errors import RunError
from wsrl_kit.notebook.parameters import is_live
from wsrl_kit.notebook.run_actions import button, run_actions
from wsrl_kit.runs.run import RunRecord
from wsrl_kit.text import printable

REFRESH_SECONDS = 3.0  # at least, between two looks at the folders
LOOK_SHARE = 0.02
"""Of a core's time that looking at runs may take."""
FIRST_TICKED = 30  # runs that are ticked as they come
FIRST_METRIC = "training/critic_loss"  # recorded long before the first evaluation
ROWS = 20  # of a page of the table
WIDTHS = {
    "folder": "4fr", "kind": "1fr", "arm": "2fr", "seed": "3em", "status": "6em", "step": "10em", "success": "5em",
    "return": "5em", "left": "5em",
}  # fmt: skip
_GRID = f"display:grid; gap:0.6em; line-height:1.3; grid-template-columns:{' '.join(WIDTHS.values())}"
_NAMES = "".join(f"<span>{name}</span>" for name in WIDTHS)
_HEADINGS = f"<div style='{_GRID}; font-weight:bold; margin-left:32px'>{_NAMES}</div>"


def explore(root: Path, metric: str, against: str, smoothing: float, live: bool | None = None) -> tuple[Table, Figure]:
    """All runs under a folder as they are now: as a table, and the metric of the first ones as curves.

    Args:
        metric, against, smoothing: of `overlay_figure`.
        live: True: also shows widgets that follow the runs; None: if a front end is attached.

    Raises:
        RunError: there is no such folder.
    """
    folders = RunFolders(root)
    frame = folders.table()
    if is_live(live):
        explorer = Explorer(folders, metric, against, smoothing)
        display(explorer.box)
        _follow(explorer)
    records, _ = _records(folders, frame["folder"][frame["kind"].isin(BUDGETS)][:FIRST_TICKED], metric)
    return overview_table(frame, root), overlay_figure(records, metric, against, smoothing)


def _records(folders: RunFolders, names: Iterable[str], metric: str) -> tuple[dict[str, RunRecord], list[str]]:
    """Readable runs by folder, and what is wrong with the others."""
    found, troubles = {}, []
    for name in names:
        try:
            found[name] = folders.record(name, metric)
        except RunError as error:
            troubles.append(str(error))
    return found, troubles


def explorer_below(root: Path, is_folded: bool) -> tuple[ipywidgets.Widget, Callable[[], None]]:
    """An explorer of a training's runs, and what refreshes it; a folded one looks at nothing before it is opened."""
    explorer = Explorer(RunFolders(root), SUCCESS.metric, "gradient_step", 0.0)
    folded = ipywidgets.Accordion([explorer.box], titles=("Single metrics, clips, and what can follow",))

    def look() -> None:
        if root.is_dir() and (folded.selected_index == 0 or not is_folded):
            explorer.refresh()

    folded.observe(lambda _: look(), "selected_index")
    return (folded if is_folded else explorer.box), look


_following: set[asyncio.Task[None]] = set()


def _follow(explorer: "Explorer") -> None:
    """Refreshes the explorer as long as the kernel lives; one that was shown before stays as it is."""
    for task in list(_following):
        task.cancel()

    async def refresh() -> None:
        while True:
            start = time.thread_time()
            explorer.refresh()
            pause = (time.thread_time() - start) / LOOK_SHARE
            await asyncio.sleep(max(REFRESH_SECONDS, pause))

    task = asyncio.get_running_loop().create_task(refresh())
    _following.add(task)
    task.add_done_callback(_following.discard)


class Explorer:
    """The widgets, in `box`.

    Args:
        metric, against, smoothing: at first.
    """

    def __init__(self, folders: RunFolders, metric: str, against: str, smoothing: float) -> None:
        self._folders, self._frame, self._page = folders, pd.DataFrame(), 0
        self._ticked: list[str] = []
        self._drawn: tuple[Any, ...] = (None,)
        self._troubles: list[str] = []
        self._is_setting = self._is_chosen = False
        self._lock = threading.RLock()  # a choice of the user, and a refresh from another thread
        self._wanted = metric
        self._words = ipywidgets.Text(placeholder="words, such as: running warmup", description="only")
        self._arms, self._seeds = (ipywidgets.SelectMultiple(description=name, rows=5) for name in ("arms", "seeds"))
        self._metric = ipywidgets.Dropdown(options=[metric], value=metric, description="metric")
        self._against = ipywidgets.Dropdown(options=list(AXIS_LABELS), value=against, description="against")
        self._smoothing = ipywidgets.FloatSlider(smoothing, min=0.0, max=0.99, step=0.01, description="smoothing")
        self._ticks = [ipywidgets.Checkbox(indent=False, layout=Layout(width="24px")) for _ in range(ROWS)]
        self._cells = [ipywidgets.HTML(layout=Layout(flex="1")) for _ in range(ROWS)]
        self._lines = [ipywidgets.HBox(pair) for pair in zip(self._ticks, self._cells, strict=True)]
        self._rows, self._place, self._status = ipywidgets.VBox(), ipywidgets.Label(), ipywidgets.HTML()
        self._figure = ipywidgets.HTML(layout=Layout(max_width="100%", display="none"))
        chosen = (self._words, self._arms, self._seeds, self._metric, self._against, self._smoothing)
        for widget in (*self._ticks, *chosen):
            widget.observe(lambda change: self._changed(change["owner"]), "value")
        ticking = [button("Tick all", lambda: self._tick(True)), button("Untick all", lambda: self._tick(False))]
        turning = [button("Previous", lambda: self._turn(-1)), button("Next", lambda: self._turn(1))]
        self._actions, said = run_actions(self._ticked_runs, self.refresh)
        self.box = ipywidgets.VBox(
            [
                self._status,
                ipywidgets.HBox(chosen[:3]),
                ipywidgets.HTML(_HEADINGS),
                self._rows,
                ipywidgets.HBox([*ticking, *turning, self._place]),
                ipywidgets.HBox(chosen[3:]),
                self._figure,
                ipywidgets.VBox([self._actions, said]),
            ]
        )

    def refresh(self) -> None:
        """Looks at the folders, and shows what has changed."""
        with self._lock:
            try:
                frame = self._folders.table()
            except RunError as error:
                self._status.value = html.escape(str(error))
                return
            if frame.equals(self._frame):
                return
            known = set() if self._frame.empty else {*self._frame["folder"]}
            self._frame, folders = frame, list(frame["folder"])
            new = [name for name in frame["folder"][frame["kind"].isin(BUDGETS)] if name not in known]
            ticked = [name for name in self._ticked if name in folders]
            self._ticked = [*ticked, *new[: max(0, FIRST_TICKED - len(ticked))]]
            self._is_setting = True
            for widget, column in ((self._arms, "arm"), (self._seeds, "seed")):
                hidden = {value for _, value in widget.options} - {*widget.value}
                values = sorted(set(frame[column]), key=lambda text: (len(text), text))
                widget.options = [(printable(value) or "(none)", value) for value in values]
                widget.value = [value for value in values if value not in hidden]
            recorded = self._folders.metrics(self._ticked)
            metric = self._metric.value if self._is_chosen else self._usual_metric(recorded)
            self._metric.options = sorted({*recorded, metric})
            self._metric.value = metric
            self._is_setting = False
            self._show()

    def _usual_metric(self, recorded: list[str]) -> str:
        """The metric that was asked for, or what says most until it is recorded."""
        knows_success = self._frame["success"].notna().any() or self._frame["return"].isna().all()
        wanted = RETURN.metric if self._wanted == SUCCESS.metric and not knows_success else self._wanted
        return FIRST_METRIC if wanted not in recorded and FIRST_METRIC in recorded else wanted

    def _changed(self, widget: ipywidgets.Widget) -> None:
        with self._lock:
            if self._is_setting:
                return
            self._is_chosen |= widget is self._metric
            if widget in self._ticks:
                name = self._shown[self._ticks.index(widget)]["folder"]
                others = [each for each in self._ticked if each != name]
                self._ticked = [*others, name] if widget.value else others
            self._show()

    def _turn(self, pages: int) -> None:
        self._page += pages
        self._show()

    def _tick(self, is_ticked: bool) -> None:
        """All runs that words, arms and seeds leave, on all pages."""
        self._ticked = list(self._kept()["folder"]) if is_ticked else []
        self._show()

    def _kept(self) -> pd.DataFrame:
        frame = self._frame
        kept = frame["arm"].isin(self._arms.value) & frame["seed"].isin(self._seeds.value)
        texts = pd.Series([" ".join(map(str, row)).lower() for row in frame.to_numpy()], frame.index, dtype=str)
        for word in self._words.value.lower().split():
            kept &= texts.str.contains(word, regex=False)
        return frame[kept]

    def _ticked_runs(self) -> list[RunRecord]:
        return list(_records(self._folders, self._ticked, self._metric.value)[0].values())

    def _show(self) -> None:
        """The page of the table, the curves of the ticked runs, and what can be done with them."""
        self._actions.layout.display = "" if self._ticked else "none"
        kept, metric = self._kept(), self._metric.value
        pages = max(1, -(-len(kept) // ROWS))
        self._page = min(max(self._page, 0), pages - 1)
        self._shown = kept[self._page * ROWS : (self._page + 1) * ROWS].to_dict("records")
        ticked = [name for name in self._ticked if name in set(kept["folder"])]
        self._is_setting = True
        for tick, cells, row in zip(self._ticks, self._cells, self._shown, strict=False):
            tick.value, cells.value = row["folder"] in ticked, _html(shown_row(row, self._folders.root))
        self._is_setting = False
        self._rows.children = self._lines[: len(self._shown)]
        self._place.value = f"page {self._page + 1} of {pages}"
        self._draw(ticked, metric, self._against.value, self._smoothing.value)
        counts = ", ".join(f"{count} {status}" for status, count in self._frame["status"].value_counts().items())
        shown = f"; {len(kept)} of them are listed" if len(kept) < len(self._frame) else ""
        runs = f"{len(self._frame)} run{'' if len(self._frame) == 1 else 's'} under {self._folders.root}"
        facts = [f"{runs}: {counts or 'none yet'}{shown}", *self._troubles]
        self._status.value = "<br>".join(html.escape(printable(fact)) for fact in facts)

    def _draw(self, names: list[str], metric: str, against: str, smoothing: float) -> None:
        """The curves, unless they are drawn already."""
        records, self._troubles = _records(self._folders, names, metric)
        lengths = {name: tuple(map(len, record.metrics.values())) for name, record in records.items()}
        wanted = (lengths, metric, against, smoothing)
        if self._drawn != wanted:
            self._drawn = wanted
            self._figure.layout.display = "" if any(map(sum, lengths.values())) else "none"
            self._figure.value = with_values(overlay_figure(records, metric, against, smoothing))


def _html(cells: dict[str, str]) -> str:
    """A row of the table; a message stands below it."""
    columns = "".join(f"<span style='overflow-wrap:anywhere'>{html.escape(cells[name])}</span>" for name in WIDTHS)
    message = f"<div style='color:{NEUTRAL}'>{html.escape(cells['message'])}</div>" if cells["message"] else ""
    return f"<div style='{_GRID}'>{columns}</div>{message}"
