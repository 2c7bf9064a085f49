"""The best candidates of a tuning and the effect of each parameter, from ROOT/trials/<candidate>/seed_<n>/."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wsrl_kit.analysis.config import SCORES
from wsrl_kit.analysis.metrics import RETURN, measure_of, reduce_run
from wsrl_kit.analysis.plots import NEUTRAL, SERIES_COLOURS, new_figure, panel_figure, replace_empty_axes
from wsrl_kit.analysis.report import write_files
from wsrl_kit.analysis.statistics import Interval, bootstrap_interval, coverage_caveat, iqm
from wsrl_kit.analysis.tables import Cell, Estimate, Table, cell_text, make_table
from wsrl_kit.errors import RunError
from wsrl_kit.runs.run import RECORD, RunRecord, find_runs, read_run

TRIALS, CONFIRMATION = "trials", "confirmation"
"""Folders of the candidates' runs, and of the ablation of the winner against the default."""

BEST_SHOWN = 10
MARGINAL_POINTS = 8
"""A parameter with more values is cut into this many parts with equally many candidates."""


@dataclass(frozen=True)
class Trial:
    """One candidate.

    Attributes:
        name: name of its folder.
        values: tuned values by parameter.
        scores: of finished runs by seed; nan where not measured.
        message: why a run failed; "": none did.
    """

    name: str
    values: dict[str, Any]
    scores: dict[int, float]
    message: str

    def score(self, seeds: Sequence[int]) -> float:
        """IQM over these seeds; nan if one of them is not finished."""
        return float(iqm(np.array([self.scores.get(seed, math.nan) for seed in seeds])))


class TuningReport(NamedTuple):
    """A tuning so far.

    Attributes:
        table: the best candidates.
        figures: `effects`, and for two parameters on a grid `interaction`.
    """

    table: Table
    figures: dict[str, Figure]


def read_trials(root: Path) -> list[Trial]:
    """Every candidate with a run, sorted by name.

    Raises:
        RunError: there is no tuning, or one of its runs is damaged.
    """
    parameters = read_run(root).parameters
    if "search_space" not in parameters:
        raise RunError(f"{root} must hold a tuning, found a run of kind {read_run(root).kind}")
    records = find_runs(root / TRIALS) if (root / TRIALS).is_dir() else []
    measure = RETURN if parameters["score"] == "final_return" else measure_of(records)
    by_name: dict[str, list[RunRecord]] = {}
    for record in records:
        if record.kind == "finetune":
            by_name.setdefault(record.arm, []).append(record)
    trials = []
    for name, runs in sorted(by_name.items()):
        values = {parameter: runs[0].parameters[parameter] for parameter in parameters["search_space"]}
        done = [run for run in runs if run.status == "finished"]
        scores = {run.seed: reduce_run(run, measure=measure)[parameters["score"]] for run in done}
        message = next((run.message for run in runs if run.status == "failed"), "")
        trials.append(Trial(name, values, scores, message))
    return trials


def tuning_report(root: Path) -> TuningReport:
    """Read a tuning and write summary.txt, trials.csv and figures/*.png; also while it runs.

    Raises:
        RunError: there is no tuning, or the files can't be written.
    """
    root = Path(root)
    parameters, trials = read_run(root).parameters, read_trials(root)
    table = trial_table(trials, parameters["score"])
    figures = {"effects": effects_figure(root)}
    space, seeds = parameters["search_space"], parameters["seeds"][: parameters["first_seeds"]]
    if len(space) == 2 and all(isinstance(values, list) for values in space.values()):
        figures["interaction"], (ax,) = new_figure(width=5.2)
        parameter_interaction(ax, trials, space, seeds, SCORES[parameters["score"]])
    frames = {name: getattr(table, name).head(BEST_SHOWN) for name in ("frame", "shown", "bold")}
    best = replace(table, **frames)
    write_files(root, {"summary.txt": best.to_text(), "trials.csv": table.to_csv()}, figures)
    return TuningReport(best, figures)


def trial_table(trials: Sequence[Trial], score: str) -> Table:
    """One row for each candidate, sorted by number of seeds, then by score."""
    names = list(trials[0].values) if trials else []
    scores = {trial.name: bootstrap_interval(np.array(_finite(trial))) for trial in trials}
    ranked = sorted(trials, key=lambda trial: (-scores[trial.name].n, -np.nan_to_num(scores[trial.name].point)))
    rows: list[dict[str, Cell]] = [
        {"candidate": t.name, **{name: str(t.values[name]) for name in names}, score: Estimate(scores[t.name])}
        for t in ranked
    ]
    headings = {"candidate": "Candidate"} | {name: name for name in names} | {score: SCORES[score]}
    notes = [
        "IQM over a candidate's seeds with bootstrap interval over whole runs; the best candidates on the first "
        "seeds get all of them.",
        "The best of many candidates is in part the luckiest: its score here is optimistic. What it gains is in the "
        "confirmation on fresh seeds.",
    ]
    if ranked:
        notes.append(coverage_caveat(scores[ranked[0].name].n) + ".")
    notes += [f"{trial.name} goes no further, a run failed: {trial.message}" for trial in trials if trial.message]
    return make_table(f"Tuning over {len(trials)} candidates", rows, headings, notes)


def effects_figure(root: Path) -> Figure:
    """`parameter_effect` of each tuned parameter so far; empty axes before the tuning has begun."""
    record = read_run(root) if (Path(root) / RECORD).exists() else None
    if record is None:
        return new_figure()[0]
    space, seeds = record.parameters["search_space"], record.parameters["seeds"][: record.parameters["first_seeds"]]
    trials, label = read_trials(Path(root)), SCORES[record.parameters["score"]]
    figure, axes = panel_figure(len(space), 4.4, 3.4)
    for ax, (name, values) in zip(axes, space.items(), strict=True):
        parameter_effect(ax, trials, name, values, seeds, label)
    replace_empty_axes(axes, record.status == "running")
    return figure


def parameter_effect(
    ax: Axes, trials: Sequence[Trial], name: str, values: Any, seeds: Sequence[int], label: str
) -> Axes:
    """A dot with its 95 % interval for each candidate at its value of a parameter, and a line for their mean.

    The mean is over the seeds that every candidate gets: only the better candidates get more.

    Args:
        values: the parameter's entry in the search space; the values of a list are placed evenly.
        seeds: the seeds that every candidate gets.
        label: of the score.
    """
    listed = isinstance(values, list)
    scored = [trial for trial in trials if _finite(trial)]
    places = np.array([values.index(t.values[name]) if listed else t.values[name] for t in scored], dtype=float)
    for number, (trial, place) in enumerate(zip(scored, places, strict=True)):
        interval = bootstrap_interval(np.array(_finite(trial)))
        # Candidates with the same value stand beside one another.
        place += 0.06 * (np.sum(places[:number] == place) - (np.sum(places == place) - 1) / 2) if listed else 0.0
        ax.plot([place], [interval.point], "o", color=SERIES_COLOURS[0], markersize=2 + 2 * math.sqrt(interval.n))
        if math.isfinite(interval.low):
            ax.plot([place] * 2, [interval.low, interval.high], color=SERIES_COLOURS[0], linewidth=1.2, alpha=0.4)
    first = np.array([trial.score(seeds) for trial in scored])
    middles, means = _marginal(places[np.isfinite(first)], first[np.isfinite(first)])
    ax.plot(middles, means, "-D", color=SERIES_COLOURS[1], linewidth=1.8, markersize=5, zorder=4)
    if listed:
        ax.set_xticks(range(len(values)), [str(value) for value in values])
        ax.set_xlim(-0.6, len(values) - 0.4)
    elif values["log"]:
        ax.set_xscale("log")
    ax.set(xlabel=name, ylabel=label)
    return ax


def parameter_interaction(
    ax: Axes, trials: Sequence[Trial], space: Mapping[str, list[Any]], seeds: Sequence[int], label: str
) -> Axes:
    """The score of each pair of two parameters' values, as a map, on the seeds that every candidate gets."""
    (across, across_values), (down, down_values) = space.items()
    scores = np.full((len(down_values), len(across_values)), np.nan)
    for trial in trials:
        scores[down_values.index(trial.values[down]), across_values.index(trial.values[across])] = trial.score(seeds)
    ax.imshow(scores, cmap="cividis", aspect="auto", origin="lower")
    middle = (np.nanmin(scores) + np.nanmax(scores)) / 2 if np.isfinite(scores).any() else 0.0
    for (row, column), value in np.ndenumerate(scores):
        colour = NEUTRAL if math.isnan(value) else "w" if value <= middle else "k"
        text = cell_text(Estimate(Interval(float(value), math.nan, math.nan, 1)))
        ax.annotate(text, (column, row), ha="center", va="center", color=colour)
    ax.set_xticks(range(len(across_values)), [str(value) for value in across_values])
    ax.set_yticks(range(len(down_values)), [str(value) for value in down_values])
    ax.grid(visible=False)
    ax.set(xlabel=across, ylabel=down, title=f"{label}, first {len(seeds)} seeds")
    return ax


def _finite(trial: Trial) -> list[float]:
    return [score for score in trial.scores.values() if math.isfinite(score)]


def _marginal(
    places: Float[np.ndarray, " trials"], scores: Float[np.ndarray, " trials"]
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Mean place and mean score of the candidates at each value, or in parts with equally many."""
    distinct = np.unique(places)
    if len(distinct) <= MARGINAL_POINTS:
        parts = [places == value for value in distinct]
    else:
        parts = np.array_split(np.argsort(places, kind="stable"), MARGINAL_POINTS)
    return np.array([places[part].mean() for part in parts]), np.array([scores[part].mean() for part in parts])
