"""Everything drawn on one axes, from run records, `metrics.reduce_runs` or arrays; without pyplot."""

import base64
import html
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Num
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from wsrl_kit.analysis.metrics import (
    SUCCESS,
    Measure,
    Quantity,
    arm_label,
    arm_order,
    estimate,
    evaluations,
    finished,
    is_censored,
)
from wsrl_kit.analysis.statistics import (
    Band,
    Interval,
    align,
    bootstrap_band,
    iqm,
    performance_profile,
    reached_band,
)
from wsrl_kit.runs.run import RunRecord
from wsrl_kit.text import for_figure

# Okabe and Ito's palette, told apart with every common colour blindness; grey for the arm without data.
COLOURS = {
    "scratch": "#7a7a7a",
    "rlpd_demos": "#e69f00",
    "rlpd_all": "#0072b2",
    "warmup_decay": "#d55e00",
    "warmup_wsrl": "#009e73",
    "warmup_no_data": "#882255",
}
OTHER_COLOURS = ("#56b4e9", "#cc79a7", "#2d00d2", "#f0e442", "#000000", "#2df0d2")
AXIS_LABELS = {"environment_step": "Online environment steps", "gradient_step": "Gradient steps"}
SERIES_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
NEUTRAL = "#555555"
GRID = "#e4e4e4"
SHOW_EVERY_SEED = 10
HOLLOW = "\n(hollow: not reached by then)"
EPISODES = 20
"""In a running mean."""
PNG_DPI = 100
"""Dots an inch of figures shown in a notebook."""
MOST_SPOTS = 1500
"""Places of a figure that tell their value."""
FEW_POINTS = 40
"""Up to this number, the points of a run's curve are marked."""
MOST_BANDS = 6
"""With more arms than this, no bands are drawn: they would hide the curves."""


def arm_colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each arm in their order, all different among twelve; known arms keep theirs in every figure."""
    ordered = arm_order(names)
    known = {name: COLOURS[name] for name in ordered if name in COLOURS}
    free = [*OTHER_COLOURS, *(colour for colour in COLOURS.values() if colour not in known.values())]
    others = [name for name in ordered if name not in COLOURS]
    return known | {name: free[index % len(free)] for index, name in enumerate(others)}


def new_figure(rows: int = 1, columns: int = 1, width: float = 6.4, height: float = 4.0) -> tuple[Figure, list[Axes]]:
    """A figure with `rows * columns` axes of `width` x `height` inches in reading order; unknown to pyplot."""
    figure = Figure(figsize=(width * columns, height * rows), dpi=150, layout="constrained")
    axes = list(np.ravel(figure.subplots(rows, columns, squeeze=False)))
    for ax in axes:
        draw_grid(ax)
        ax.set_axisbelow(True)
    return figure, axes


def draw_grid(ax: Axes, axis: Literal["x", "y"] = "y") -> None:
    """Grid lines of one axis alone, and no frame at the top and on the right."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(visible=False)
    ax.grid(axis=axis, color=GRID, linewidth=0.8)


def panel_figure(count: int, width: float, height: float, across: int = 3) -> tuple[Figure, list[Axes]]:
    """Like `new_figure`, with `count` axes in rows of at most `across`."""
    columns = min(count, across)
    figure, axes = new_figure(-(-count // columns), columns, width, height)
    for ax in axes[count:]:
        ax.remove()
    return figure, axes[:count]


def png(figure: Figure) -> bytes:
    """The figure as PNG, of a size for a notebook's page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=PNG_DPI)
    return buffer.getvalue()


def with_values(figure: Figure) -> str:
    """The figure as HTML that tells the value under the mouse, for lines whose gid is their name."""
    picture = base64.b64encode(png(figure)).decode()
    width, height = (round(PNG_DPI * inches) for inches in figure.get_size_inches())
    lines = {line: np.asarray(line.get_xydata()) for ax in figure.axes for line in ax.lines if line.get_gid()}
    every = -(-sum(map(len, lines.values())) // MOST_SPOTS)
    spots = []
    for line, points in lines.items():
        shown = points[np.isfinite(points).all(axis=1)][:: max(1, every)]
        places = line.get_transform().transform(shown) * PNG_DPI / figure.dpi
        for (x, y), (across, up) in zip(shown, places, strict=True):
            told = html.escape(f"{line.get_gid()}: {y:.4g} at {x:,.0f}")
            spots.append(f'<circle cx="{across:.0f}" cy="{height - up:.0f}" r="6"><title>{told}</title></circle>')
    return (
        f'<div style="position:relative; max-width:{width}px"><img style="width:100%" alt="curves" '
        f'src="data:image/png;base64,{picture}"><svg viewBox="0 0 {width} {height}" fill="transparent" '
        f'style="position:absolute; inset:0; width:100%; height:100%">{"".join(spots)}</svg></div>'
    )


def label_first_column(axes: Sequence[Axes]) -> None:
    """Keep tick labels of the vertical axis in the first column only."""
    for ax in axes:
        place = ax.get_subplotspec()
        if place is not None and not place.is_first_col():
            ax.set_yticklabels([])


def replace_empty_axes(axes: Sequence[Axes], is_running: bool) -> None:
    """Replace axes without a point by a sentence: ticks and grid around nothing look like a measurement."""
    for ax in axes:
        if not _has_points(ax):
            sentence = f"{ax.get_ylabel()}: {'nothing recorded yet' if is_running else 'not recorded'}"
            ax.clear()
            ax.set_axis_off()
            ax.text(0.5, 0.5, sentence, transform=ax.transAxes, ha="center", va="center", color=NEUTRAL)


def _has_points(ax: Axes) -> bool:
    """Whether an image or a point in data coordinates is drawn."""
    lines = [line for line in ax.lines if line.get_transform() == ax.transData]
    return bool(ax.images) or any(np.isfinite(line.get_xydata()).all(axis=1).any() for line in lines)


def shared_legend(figure: Figure, ax: Axes) -> None:
    """Put the legend of one axes below the whole figure."""
    handles, labels = ax.get_legend_handles_labels()
    columns = min(len(labels), max(1, int(figure.get_figwidth() // 3.6)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def run_curve(
    record: RunRecord, metric: str = SUCCESS.metric, against: str = "environment_step"
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Increasing steps and values of one run; against gradient steps the warmup comes first.

    Evaluations at the same step, such as those during frozen rollouts against gradient steps, become their mean.
    """
    phases = ("warmup", "online") if against == "gradient_step" else ("online",)
    curves = [record.curve(metric, phase) for phase in phases]
    steps = np.concatenate([getattr(curve, against) for curve in curves]).astype(float)
    values = np.concatenate([curve.value for curve in curves])
    steps, values = steps[np.isfinite(values)], values[np.isfinite(values)]
    unique, where = np.unique(steps, return_inverse=True)
    return unique, np.bincount(where, values, len(unique)) / np.bincount(where, minlength=len(unique))


def learning_curves(
    ax: Axes, records: Sequence[RunRecord], measure: Measure = SUCCESS, against: str = "environment_step"
) -> Axes:
    """Each seed thin (dashed if not finished), the IQM of the finished seeds thick with its 95 % band.

    Dotted vertical lines mark the switch, a dotted horizontal line the target, if there is one; a triangle on the curve
    marks the end of an arm's frozen rollouts.

    Args:
        against: "environment_step" or "gradient_step"; the latter shows the warmup's evaluations left of the switch.
    """
    colours = arm_colours(record.arm for record in records)
    for arm, colour in colours.items():
        runs = [record for record in records if record.arm == arm]
        drawn = [(run, *run_curve(run, measure.metric, against)) for run in runs]
        drawn = [(run, steps, values) for run, steps, values in drawn if len(steps)]
        complete = [(steps, values) for run, steps, values in drawn if run.status == "finished"]
        for run, steps, values in drawn if len(drawn) <= SHOW_EVERY_SEED else ():
            style = "-" if run.status == "finished" else "--"
            ax.plot(steps, values, style, color=colour, linewidth=0.8, alpha=0.35, zorder=2)
        ax.plot([], [], color=colour, linewidth=2.4, label=for_figure(arm_label(arm)))
        if not complete:
            continue
        grid, values = align(complete)
        band = bootstrap_band(values)
        if len(colours) <= MOST_BANDS:
            ax.fill_between(grid, band.low, band.high, color=colour, alpha=0.15, linewidth=0, zorder=1)
        ax.plot(grid, band.point, color=colour, linewidth=2.4, zorder=4)
        frozen = runs[0].parameters.get("frozen_rollout_steps", 0)
        if frozen and against == "environment_step" and frozen <= grid[-1]:
            height = np.interp(frozen, grid, band.point)
            ax.plot([frozen], [height], "^", color=colour, markeredgecolor="white", markersize=9, zorder=5)
    if any(record.parameters.get("frozen_rollout_steps", 0) for record in records):
        ax.plot([], [], "^", color=NEUTRAL, markersize=8, label="End of frozen rollouts")
    if any(record.status != "finished" for record in records):
        ax.plot([], [], "--", color=NEUTRAL, linewidth=0.8, label="Run not finished")
    _mark_switch(ax, records, against)
    if measure.target is not None:
        ax.axhline(measure.target, color=NEUTRAL, linewidth=0.8, linestyle=(0, (1, 3)), zorder=1)
    ax.set(xlabel=AXIS_LABELS[against])
    label_values(ax, measure)
    return _step_axis(ax)


def label_values(ax: Axes, measure: Measure) -> None:
    """Name the value axis, and show the whole range of a measure that has one."""
    ax.set_ylabel(measure.label)
    if math.isfinite(measure.limits[1]):
        ax.set_ylim(-0.03, 1.03)


def switch_diagnostic(ax: Axes, records: Sequence[RunRecord], quantity: str = "q") -> Axes:
    """Q or TD error on the frozen offline probe (dashed) and on the online batches (solid) after the switch.

    Args:
        records: an arm's seeds are drawn as their IQM (the finished seeds, if any is).
        quantity: "q" or "td_error".
    """
    readings = (
        (f"switch/{quantity}_online", "-", "Online batch"),
        (f"switch/{quantity}_offline_probe", "--", "Offline probe"),
    )
    colours = arm_colours(record.arm for record in records)
    for arm, colour in colours.items():
        own = [record for record in records if record.arm == arm]
        runs = [record for record in own if record.status == "finished"] or own
        for metric, style, _ in readings:
            curves = [run_curve(record, metric) for record in runs]
            curves = [curve for curve in curves if len(curve[0])]
            if curves:
                grid, values = align(curves)
                ax.plot(grid, iqm(values.T), style, color=colour, linewidth=1.8)
        if len(colours) > 1:
            ax.plot([], [], color=colour, linewidth=1.8, label=for_figure(arm_label(arm)))
    shared = NEUTRAL if len(colours) > 1 else colours[records[0].arm]
    for _, style, where in readings:
        ax.plot([], [], style, color=shared, linewidth=1.8, label=where)
    _mark_switch(ax, records, "environment_step")
    ax.set(xlabel=AXIS_LABELS["environment_step"], ylabel={"q": "Q value", "td_error": "TD error"}[quantity])
    return _step_axis(ax)


def run_metrics(
    ax: Axes,
    record: RunRecord,
    metrics: Mapping[str, str],
    phase: str = "online",
    against: str = "environment_step",
    label: str = "",
) -> Axes:
    """Metrics of a single run, each given by its label.

    Args:
        phase: "warmup" or "online".
        against: "environment_step" or "gradient_step".
        label: of the value axis.
    """
    for (name, metric), colour in zip(metrics.items(), SERIES_COLOURS, strict=False):
        curve = record.curve(metric, phase)
        kept = np.isfinite(curve.value)
        marker = "o" if kept.sum() <= FEW_POINTS else ""
        steps, values = getattr(curve, against)[kept], curve.value[kept]
        ax.plot(steps, values, color=colour, linewidth=1.8, marker=marker, markersize=3.5, label=name)
    frozen = record.parameters.get("frozen_rollout_steps", 0)
    if frozen and phase == "online" and against == "environment_step":
        ax.axvspan(0, frozen, color=GRID, alpha=0.6, linewidth=0, zorder=0, label="frozen rollouts")
    if len(metrics) > 1 or frozen:
        ax.legend(frameon=False)
    ax.set(xlabel=AXIS_LABELS[against], ylabel=label or next(iter(metrics)))
    return _step_axis(ax)


def running_mean(ax: Axes, record: RunRecord, metric: str) -> Axes:
    """Means of the last `EPISODES` training episodes, in a panel of `run_metrics`."""
    steps, values = run_curve(record, metric)
    if len(steps):
        means = pd.Series(values).rolling(EPISODES, min_periods=1).mean()
        ax.plot(steps, means, color=SERIES_COLOURS[2], linewidth=1.2, label=f"training, mean of {EPISODES} episodes")
        ax.legend(frameon=False)
    return ax


def schedules(ax: Axes, steps: Num[np.ndarray, " steps"], values: Mapping[str, Float[np.ndarray, " steps"]]) -> Axes:
    """Schedules by label, such as the offline ratio or PER's beta, against environment steps."""
    for (name, heights), colour in zip(values.items(), SERIES_COLOURS, strict=False):
        ax.plot(steps, heights, color=colour, linewidth=2.0, label=name)
    ax.legend(frameon=False)
    highest = max(1.0, *(heights.max(initial=0.0) for heights in values.values()))
    ax.set(xlabel=AXIS_LABELS["environment_step"], ylabel="Value", ylim=(-0.03 * highest, 1.03 * highest))
    return _step_axis(ax)


def source_bars(ax: Axes, names: Sequence[str], values: Float[np.ndarray, " sources"], label: str) -> Axes:
    """One horizontal bar for each offline source, with its number."""
    texts = ["not known" if math.isnan(v) else f"{v:,.0f}" if abs(v) >= 1000 else f"{v:.3g}" for v in values]
    _draw_bars(ax, names, values, texts, SERIES_COLOURS[0])
    ax.set_xlabel(label)
    return ax


def return_histogram(ax: Axes, returns: Mapping[str, Float[np.ndarray, " episodes"]], label: str = "Return") -> Axes:
    """Histogram of the episodes' returns, one outline for each source on common bins."""
    spread = np.concatenate(list(returns.values()))
    edges = np.histogram_bin_edges(spread[np.isfinite(spread)], bins=24)
    for (name, values), colour in zip(returns.items(), SERIES_COLOURS, strict=False):
        counts, _ = np.histogram(values[np.isfinite(values)], edges)
        ax.stairs(counts, edges, fill=True, color=colour, alpha=0.2)
        ax.stairs(counts, edges, color=colour, linewidth=1.6, label=f"{for_figure(name)} ({len(values)})")
    ax.legend(frameon=False)
    ax.set(xlabel=label, ylabel="Episodes")
    return ax


def summary_points(ax: Axes, runs: pd.DataFrame, quantity: Quantity, heading: str = "") -> Axes:
    """One row for each arm: a dot per finished seed, the IQM (restricted mean if censored) with its 95 % interval.

    Hollow: a censored seed, and a mean over some censored seeds, which is a lower bound.
    """
    colours = arm_colours(runs["arm"])
    is_bounded = False
    for height, arm in enumerate(colours):
        evaluated = finished(runs[runs["arm"] == arm])
        own = evaluated.dropna(subset=quantity.name)
        if own.empty:
            annotate_missing(
                ax, height, quantity.absent if evaluated["switch_success"].notna().any() else "not recorded"
            )
            continue
        values = own[quantity.name].to_numpy(float)
        hollow = is_censored(own, quantity).to_numpy(bool)
        is_bounded |= bool(hollow.any())
        # Seeds with the same value are drawn beside one another, so that each can be counted.
        heights = height + 0.24 + 0.07 * own.groupby(quantity.name).cumcount().to_numpy()
        for kept, face in ((~hollow, colours[arm]), (hollow, "none")):
            if kept.any():
                ax.plot(values[kept], heights[kept], "o", color=colours[arm], alpha=0.6, markersize=5, mfc=face)
        draw_estimate(ax, estimate(own, quantity), height, colours[arm], ">" if hollow.any() else "")
    _name_rows(ax, [arm_label(arm) for arm in colours])
    draw_grid(ax, "x")
    if 0.0 <= ax.dataLim.x0 < ax.dataLim.x1:
        ax.set_xlim(-0.03 * ax.dataLim.x1, 1.05 * ax.dataLim.x1)
    ax.locator_params(axis="x", nbins=6)
    ax.set_xlabel((heading or quantity.heading) + (HOLLOW if is_bounded else ""))
    return ax


def draw_estimate(ax: Axes, interval: Interval, height: int, colour: str, bound: str) -> None:
    """An interval with its point as a tick, or as a hollow arrowhead towards the true value if it is only a bound."""
    if math.isfinite(interval.low):
        ends = [interval.low, interval.high]
        ax.plot(ends, [height] * 2, color=colour, linewidth=7, alpha=0.3, solid_capstyle="butt")
    size, edge = (9, 2) if bound else (15, 3)
    marker = bound or "|"
    ax.plot([interval.point], [height], marker, color=colour, mfc="none", markersize=size, markeredgewidth=edge)


def summary_bars(ax: Axes, runs: pd.DataFrame, quantity: Quantity) -> Axes:
    """One horizontal bar with its number for each arm: the IQM over its finished seeds."""
    colours = arm_colours(runs["arm"])
    done = finished(runs).dropna(subset=quantity.name)
    points = [float(iqm(own)) if len(own := _values(done, arm, quantity)) else math.nan for arm in colours]
    texts = [quantity.absent if math.isnan(point) else f"{point:.2f}" for point in points]
    _draw_bars(ax, [arm_label(arm) for arm in colours], points, texts, list(colours.values()))
    ax.set_xlabel(quantity.heading)
    return ax


def annotate_missing(ax: Axes, height: int | float, sentence: str = "not recorded") -> None:
    """Write a sentence in the row of an arm, or at a height, without anything to draw."""
    ax.annotate(sentence, (0.02, height), xycoords=("axes fraction", "data"), va="center", color=NEUTRAL, size=8)


def performance_profiles(ax: Axes, runs: pd.DataFrame, quantity: Quantity, measure: Measure) -> Axes:
    """Share of an arm's finished runs above every value of a quantity in the measure's units, with its 95 % band."""
    done = finished(runs).dropna(subset=quantity.name)
    ends = [*filter(math.isfinite, measure.limits)]
    everything = [*done[quantity.name], *ends] or [0.0, 1.0]
    # A little more than all runs, or the worst run would not be above any value.
    beyond = 0.0 if ends else 0.03 * (max(everything) - min(everything))
    thresholds = np.linspace(min(everything) - beyond, max(everything) + beyond, 201)
    for arm in arm_order(done["arm"]):
        _draw_band(ax, runs, arm, thresholds, performance_profile(_values(done, arm, quantity), thresholds))
    if not ax.lines:
        annotate_missing(ax, 0.5)
    ax.set(xlabel=quantity.heading, ylabel="Fraction of runs above", ylim=(-0.03, 1.03))
    return ax


def fraction_reached(ax: Axes, runs: pd.DataFrame, quantity: Quantity, label: str) -> Axes:
    """Share of an arm's runs, not `restricted`, that has reached the target (Kaplan-Meier), with its 95 % band.

    A run is watched until its last evaluation. A failed run counts as never reaching the target: leaving it out would
    flatter its arm.

    Args:
        quantity: one of the `*_to_target`.
        label: of the horizontal axis.
    """
    grid = np.unique([0.0, *runs[quantity.name].dropna()])
    for arm in arm_order(runs["arm"]):
        own = runs[runs["arm"] == arm]
        there, failed = (own["reached_target"] == 1.0).to_numpy(), (own["status"] == "failed").to_numpy()
        steps = own[quantity.name].to_numpy(float)
        # What comes after the last run was watched is known only if each run has got there or never will.
        known = math.inf if (there | failed).all() else np.nanmax([0.0, *steps])
        steps = np.where(failed & ~there, math.inf, steps)
        counted = ~np.isnan(steps)
        if counted.any() and len(grid) > 1:
            own_grid = grid[grid <= known]
            _draw_band(ax, runs, arm, own_grid, reached_band(steps[counted], there[counted], own_grid))
    if not ax.lines:
        annotate_missing(ax, 0.5)
    ax.set(xlabel=label, ylabel="Fraction of runs at target", ylim=(-0.03, 1.03))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    return ax


def against_control(
    ax: Axes,
    arms: Iterable[str],
    control: str,
    intervals: Mapping[str, Interval],
    indifferent: float,
    label: str,
    bounds: Mapping[str, str] | None = None,
) -> Axes:
    """One row for each arm but the control: its difference or probability, with its 95 % interval.

    Args:
        arms: of the whole report.
        indifferent: value at which neither is better, 0 or 0.5; a dashed line.
        label: of the horizontal axis.
        bounds: by arm ">" or "<", where the true difference is larger or smaller.
    """
    bounds = bounds or {}
    colours = arm_colours(arms)
    order = [arm for arm in colours if arm != control]
    ax.axvline(indifferent, color=NEUTRAL, linestyle="--", linewidth=1.0, zorder=1)
    for height, arm in enumerate(order):
        if arm in intervals:
            draw_estimate(ax, intervals[arm], height, colours[arm], bounds.get(arm, ""))
        else:
            annotate_missing(ax, height)
    _name_rows(ax, [arm_label(arm) for arm in order])
    draw_grid(ax, "x")
    ax.set_xlabel(label + (HOLLOW if any(bounds.values()) else ""))
    return ax


def _values(runs: pd.DataFrame, arm: str, quantity: Quantity) -> Float[np.ndarray, " runs"]:
    return runs.loc[runs["arm"] == arm, quantity.name].to_numpy(float)


def _name_rows(ax: Axes, names: Sequence[str]) -> None:
    """Rows from the top, with their names."""
    ax.set_yticks(range(len(names)), [for_figure(name) for name in names])
    ax.set_ylim(max(1, len(names)) - 0.4, -0.6)


def _draw_bars(ax: Axes, names: Sequence[str], values: Any, texts: Sequence[str], colour: Any) -> None:
    """A horizontal bar with its text in each row; `colour` is one, or one for each row."""
    bars = ax.barh(range(len(names)), np.nan_to_num(values), height=0.6, color=colour)
    ax.bar_label(bars, texts, padding=4)
    _name_rows(ax, names)
    ax.grid(visible=False)
    ax.margins(x=0.2)


def _draw_band(ax: Axes, runs: pd.DataFrame, arm: str, grid: Float[np.ndarray, " steps"], band: Band) -> None:
    colours, label = arm_colours(runs["arm"]), for_figure(arm_label(arm))
    ax.step(grid, band.point, where="post", color=colours[arm], linewidth=2.2, label=label, zorder=3)
    if len(colours) <= MOST_BANDS:
        ax.fill_between(grid, band.low, band.high, step="post", color=colours[arm], alpha=0.12, linewidth=0)


def _mark_switch(ax: Axes, records: Sequence[RunRecord], against: str) -> None:
    curves = [getattr(evaluations(record), against) for record in records]
    starts = {float(curve[0]) for curve in curves if len(curve)}
    for start in starts:
        ax.axvline(start, color=NEUTRAL, linestyle=":", linewidth=1.2, zorder=1)
    if (starts and max(starts) > 0) or against == "environment_step":
        where = max(starts, default=0.0)
        place: Any = {"xycoords": ("data", "axes fraction"), "xytext": (3, 2), "textcoords": "offset points"}
        ax.annotate("switch", (where, 1.0), size=8, color=NEUTRAL, **place)


def _step_axis(ax: Axes) -> Axes:
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    # Where there is but the point at step 0, the axis still counts whole steps.
    end = max(ax.dataLim.x1, 1.0) if np.isfinite(ax.dataLim.x1) else 1.0
    ax.set_xlim(-0.02 * end, 1.02 * end)
    return ax
