"""Every picture of the kit on one `ax`: axes in, axes out, drawn from run records (or plain arrays), without pyplot."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Num
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from wsrl_kit.analysis.arms import arm_colours, arm_label, arm_order
from wsrl_kit.analysis.metrics import SUCCESS, Quantity, is_censored
from wsrl_kit.analysis.statistics import align, bootstrap_band, bootstrap_interval, iqm, mean
from wsrl_kit.runs.run import RunRecord
from wsrl_kit.text import for_figure

AXIS_LABELS = {"environment_step": "Online environment steps", "gradient_step": "Gradient steps"}
SERIES_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
NEUTRAL = "#555555"
GRID = "#e4e4e4"
SHOW_EVERY_SEED = 10
HOLLOW = "\n(hollow: not reached by then)"
MOST_BANDS = 6
"""Of more arms the bands would hide the curves."""


def new_figure(rows: int = 1, columns: int = 1, width: float = 6.4, height: float = 4.0) -> tuple[Figure, list[Axes]]:
    """A figure with `rows * columns` axes in reading order, in the kit's style; never registered with pyplot.

    Args:
        rows: of axes.
        columns: of axes.
        width: of one axes, inches.
        height: of one axes, inches.
    """
    figure = Figure(figsize=(width * columns, height * rows), dpi=150, layout="constrained")
    axes = list(np.ravel(figure.subplots(rows, columns, squeeze=False)))
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color=GRID, linewidth=0.8)
        ax.set_axisbelow(True)
    return figure, axes


def panel_figure(count: int, width: float, height: float, across: int = 3) -> tuple[Figure, list[Axes]]:
    """Like `new_figure`, with `count` axes in rows of at most `across`: a wider figure is small print on a page."""
    columns = min(count, across)
    figure, axes = new_figure(-(-count // columns), columns, width, height)
    for ax in axes[count:]:
        ax.remove()
    return figure, axes[:count]


def names_on_the_left(axes: Sequence[Axes]) -> None:
    """Leaves the names of the rows on the first axes of every line of a figure."""
    for ax in axes:
        place = ax.get_subplotspec()
        if place is not None and not place.is_first_col():
            ax.set_yticklabels([])


def blank_empty(axes: Sequence[Axes], is_running: bool) -> None:
    """Axes without a point become a sentence: ticks and grid around nothing would look like a measurement."""
    for ax in axes:
        if not _has_points(ax):
            sentence = f"{ax.get_ylabel()}: {'nothing recorded yet' if is_running else 'not recorded'}"
            ax.clear()
            ax.set_axis_off()
            ax.text(0.5, 0.5, sentence, transform=ax.transAxes, ha="center", va="center", color=NEUTRAL)


def _has_points(ax: Axes) -> bool:
    """Whether anything is drawn at a place of the data; lines across the whole axes mark none."""
    lines = [line for line in ax.lines if line.get_transform() == ax.transData]
    return bool(ax.images) or any(np.isfinite(line.get_xydata()).all(axis=1).any() for line in lines)


def shared_legend(figure: Figure, ax: Axes) -> None:
    """The labels of one axes as a legend below the whole figure."""
    handles, labels = ax.get_legend_handles_labels()
    columns = min(len(labels), max(1, int(figure.get_figwidth() // 3.6)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def run_curve(
    record: RunRecord, metric: str = SUCCESS, against: str = "environment_step"
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Steps and values of one run, steps increasing.

    Against gradient steps the warmup's evaluations come first. During frozen rollouts the policy does not change and
    several evaluations share one gradient step: they become their mean.
    """
    phases = ("warmup", "online") if against == "gradient_step" else ("online",)
    curves = [record.curve(metric, phase) for phase in phases]
    steps = np.concatenate([getattr(curve, against) for curve in curves]).astype(float)
    values = np.concatenate([curve.value for curve in curves])
    steps, values = steps[np.isfinite(values)], values[np.isfinite(values)]
    unique, where = np.unique(steps, return_inverse=True)
    return unique, np.bincount(where, values, len(unique)) / np.bincount(where, minlength=len(unique))


def learning_curves(
    ax: Axes,
    records: Sequence[RunRecord],
    metric: str = SUCCESS,
    against: str = "environment_step",
    label: str = "Success rate",
) -> Axes:
    """Every seed thin (dashed if its run is not finished), the IQM of the finished ones thick with its 95 % band.

    Dotted vertical lines mark the switch; a triangle on the curve marks where an arm's frozen rollouts end. More than
    `MOST_BANDS` arms have no bands.

    Args:
        ax: drawn on.
        records: runs of any arms.
        metric: an evaluation metric.
        against: "environment_step" or "gradient_step"; the latter shows the warmup's evaluations left of the switch.
        label: of the value axis.
    """
    colours = arm_colours(record.arm for record in records)
    for arm in arm_order(colours):
        runs = [record for record in records if record.arm == arm]
        drawn = [(run, *run_curve(run, metric, against)) for run in runs]
        drawn = [(run, steps, values) for run, steps, values in drawn if len(steps)]
        finished = [(steps, values) for run, steps, values in drawn if run.status == "finished"]
        for run, steps, values in drawn if len(drawn) <= SHOW_EVERY_SEED else ():
            style = "-" if run.status == "finished" else "--"
            ax.plot(steps, values, style, color=colours[arm], linewidth=0.8, alpha=0.35, zorder=2)
        ax.plot([], [], color=colours[arm], linewidth=2.4, label=for_figure(arm_label(arm)))
        if not finished:
            continue
        grid, values = align(finished)
        band = bootstrap_band(values)
        if len(colours) <= MOST_BANDS:
            ax.fill_between(grid, band.low, band.high, color=colours[arm], alpha=0.15, linewidth=0, zorder=1)
        ax.plot(grid, band.point, color=colours[arm], linewidth=2.4, zorder=4)
        frozen = runs[0].parameters.get("frozen_rollout_steps", 0)
        if frozen and against == "environment_step" and frozen <= grid[-1]:
            height = np.interp(frozen, grid, band.point)
            ax.plot([frozen], [height], "^", color=colours[arm], markeredgecolor="white", markersize=9, zorder=5)
    if any(record.parameters.get("frozen_rollout_steps", 0) for record in records):
        ax.plot([], [], "^", color=NEUTRAL, markersize=8, label="End of frozen rollouts")
    if any(record.status != "finished" for record in records):
        ax.plot([], [], "--", color=NEUTRAL, linewidth=0.8, label="Run not finished")
    _mark_switch(ax, records, against)
    ax.set(xlabel=AXIS_LABELS[against], ylabel=label)
    if "success" in metric:
        ax.set_ylim(-0.03, 1.03)
    return _step_axis(ax)


def switch_diagnostic(ax: Axes, records: Sequence[RunRecord], quantity: str = "q") -> Axes:
    """What the critic says of the frozen offline probe (dashed) and of the online batches (solid) after the switch.

    Args:
        ax: drawn on.
        records: one run, or runs of several arms, whose seeds are drawn as their IQM (the finished ones, if any is).
        quantity: "q" or "td_error".
    """
    readings = (
        (f"switch/{quantity}_online", "-", "Online batch"),
        (f"switch/{quantity}_offline_probe", "--", "Offline probe"),
    )
    colours = arm_colours(record.arm for record in records)
    for arm in arm_order(colours):
        own = [record for record in records if record.arm == arm]
        runs = [record for record in own if record.status == "finished"] or own
        for metric, style, _ in readings:
            curves = [run_curve(record, metric) for record in runs]
            curves = [curve for curve in curves if len(curve[0])]
            if curves:
                grid, values = align(curves)
                ax.plot(grid, iqm(values.T), style, color=colours[arm], linewidth=1.8)
        if len(colours) > 1:
            ax.plot([], [], color=colours[arm], linewidth=1.8, label=for_figure(arm_label(arm)))
    for _, style, where in readings:
        ax.plot(
            [], [], style, color=NEUTRAL if len(colours) > 1 else colours[records[0].arm], linewidth=1.8, label=where
        )
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
    """Metrics of a single run.

    Args:
        ax: drawn on.
        record: the run.
        metrics: metric by the label it gets.
        phase: "warmup" or "online".
        against: "environment_step" or "gradient_step".
        label: of the value axis.
    """
    for (name, metric), colour in zip(metrics.items(), SERIES_COLOURS, strict=False):
        curve = record.curve(metric, phase)
        kept = np.isfinite(curve.value)
        few = kept.sum() <= 40
        ax.plot(
            getattr(curve, against)[kept],
            curve.value[kept],
            color=colour,
            linewidth=1.8,
            marker="o" if few else "",
            markersize=3.5,
            label=name,
        )
    frozen = record.parameters.get("frozen_rollout_steps", 0)
    if frozen and phase == "online" and against == "environment_step":
        ax.axvspan(0, frozen, color=GRID, alpha=0.6, linewidth=0, zorder=0, label="frozen rollouts")
    if len(metrics) > 1 or frozen:
        ax.legend(frameon=False)
    ax.set(xlabel=AXIS_LABELS[against], ylabel=label or next(iter(metrics)))
    return _step_axis(ax)


def schedules(ax: Axes, steps: Num[np.ndarray, " steps"], values: Mapping[str, Float[np.ndarray, " steps"]]) -> Axes:
    """Schedules such as the offline ratio, PER's beta or a term's weight by label, against environment steps."""
    for (name, heights), colour in zip(values.items(), SERIES_COLOURS, strict=False):
        ax.plot(steps, heights, color=colour, linewidth=2.0, label=name)
    ax.legend(frameon=False)
    highest = max(1.0, *(heights.max(initial=0.0) for heights in values.values()))
    ax.set(xlabel=AXIS_LABELS["environment_step"], ylabel="Value", ylim=(-0.03 * highest, 1.03 * highest))
    return _step_axis(ax)


def source_bars(ax: Axes, names: Sequence[str], values: Float[np.ndarray, " sources"], label: str) -> Axes:
    """One horizontal bar per offline source, with its number: a success rate, length, weight or count."""
    bars = ax.barh(range(len(names)), np.nan_to_num(values), height=0.6, color=SERIES_COLOURS[0])
    ax.bar_label(
        bars, ["not known" if math.isnan(v) else f"{v:,.0f}" if v >= 1000 else f"{v:.3g}" for v in values], padding=4
    )
    ax.set_yticks(range(len(names)), [for_figure(name) for name in names])
    ax.invert_yaxis()
    ax.margins(x=0.15)
    ax.grid(visible=False)
    ax.set_xlabel(label)
    return ax


def return_histogram(ax: Axes, returns: Mapping[str, Float[np.ndarray, " episodes"]], label: str = "Return") -> Axes:
    """How the episodes' returns (or lengths) are spread, one outline per source on common bins."""
    spread = np.concatenate(list(returns.values()))
    edges = np.histogram_bin_edges(spread[np.isfinite(spread)], bins=24)
    for (name, values), colour in zip(returns.items(), SERIES_COLOURS, strict=False):
        counts, _ = np.histogram(values[np.isfinite(values)], edges)
        ax.stairs(counts, edges, fill=True, color=colour, alpha=0.2)
        ax.stairs(counts, edges, color=colour, linewidth=1.6, label=f"{for_figure(name)} ({len(values)})")
    ax.legend(frameon=False)
    ax.set(xlabel=label, ylabel="Episodes")
    return ax


def summary_points(ax: Axes, rows: Sequence[Mapping[str, Any]], quantity: Quantity, heading: str = "") -> Axes:
    """One row per arm: a dot per finished seed, the IQM (restricted mean if censored) with its 95 % interval.

    Hollow: a seed that had not got there by then, and a mean over some such seeds, which is a lower bound.

    Args:
        ax: drawn on.
        rows: of `metrics.reduce_run`.
        quantity: one of `metrics.QUANTITIES`.
        heading: axis label, if not the quantity's own.
    """
    colours = arm_colours(row["arm"] for row in rows)
    arms = arm_order(colours)
    is_bounded = False
    for height, arm in enumerate(arms):
        own = [row for row in _finished(rows, arm) if math.isfinite(row[quantity.name])]
        if not own:
            say_not_recorded(ax, height, quantity.absent)
            continue
        values = np.array([row[quantity.name] for row in own], dtype=float)
        hollow = np.array([is_censored(row, quantity) for row in own])
        is_bounded |= bool(hollow.any())
        interval = bootstrap_interval(values, mean if quantity.censored else iqm)
        # Seeds with the same value are drawn beside one another, so that each can be counted.
        heights = height + 0.24 + _spread(values)
        for kept, face in ((~hollow, colours[arm]), (hollow, "none")):
            if kept.any():
                ax.plot(
                    values[kept], heights[kept], "o", color=colours[arm], alpha=0.6, markersize=5, markerfacecolor=face
                )
        if math.isfinite(interval.low):
            ax.plot(
                [interval.low, interval.high],
                [height] * 2,
                color=colours[arm],
                linewidth=7,
                alpha=0.3,
                solid_capstyle="butt",
            )
        draw_estimate(ax, interval.point, height, colours[arm], ">" if hollow.any() else "")
    ax.set_yticks(range(len(arms)), [for_figure(arm_label(arm)) for arm in arms])
    ax.set_ylim(len(arms) - 0.4, -0.6)
    if 0.0 <= ax.dataLim.x0 < ax.dataLim.x1:
        ax.set_xlim(-0.03 * ax.dataLim.x1, 1.05 * ax.dataLim.x1)
    ax.set_xlabel((heading or quantity.heading) + (HOLLOW if is_bounded else ""))
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", color=GRID, linewidth=0.8)
    return ax


def draw_estimate(ax: Axes, point: float, height: int, colour: str, bound: str) -> None:
    """A point estimate as a tick; as a hollow arrowhead towards the true value where the point is only a bound."""
    size, edge = (9, 2) if bound else (15, 3)
    marker = bound or "|"
    ax.plot([point], [height], marker, color=colour, markerfacecolor="none", markersize=size, markeredgewidth=edge)


def summary_bars(ax: Axes, rows: Sequence[Mapping[str, Any]], quantity: Quantity, heading: str = "") -> Axes:
    """One horizontal bar per arm, as long as the IQM over its finished seeds, with the number: for memory."""
    colours = arm_colours(row["arm"] for row in rows)
    arms = arm_order(colours)
    values = [np.array([row[quantity.name] for row in _finished(rows, arm)], dtype=float) for arm in arms]
    points = [bootstrap_interval(own[np.isfinite(own)], replicates=1).point for own in values]
    bars = ax.barh(range(len(arms)), np.nan_to_num(points), height=0.6, color=[colours[arm] for arm in arms])
    texts = [quantity.absent if math.isnan(point) else f"{point:.{quantity.digits}f}" for point in points]
    ax.bar_label(bars, texts, padding=4)
    ax.set_yticks(range(len(arms)), [for_figure(arm_label(arm)) for arm in arms])
    ax.set_ylim(len(arms) - 0.4, -0.6)
    ax.margins(x=0.15)
    ax.grid(visible=False)
    ax.set_xlabel(heading or quantity.heading)
    return ax


def say_not_recorded(ax: Axes, height: int | float, sentence: str = "not recorded") -> None:
    """In the row of an arm, or at a height, of which there is nothing to draw."""
    ax.annotate(sentence, (0.02, height), xycoords=("axes fraction", "data"), va="center", color=NEUTRAL, size=8)


def _finished(rows: Sequence[Mapping[str, Any]], arm: str) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["arm"] == arm and row["status"] == "finished"]


def _spread(values: Float[np.ndarray, " runs"]) -> Float[np.ndarray, " runs"]:
    return np.array([0.07 * np.sum(values[:index] == value) for index, value in enumerate(values)])


def _mark_switch(ax: Axes, records: Sequence[RunRecord], against: str) -> None:
    starts = {float(getattr(record.curve(SUCCESS), against)[0]) for record in records if len(record.curve(SUCCESS))}
    for start in starts:
        ax.axvline(start, color=NEUTRAL, linestyle=":", linewidth=1.2, zorder=1)
    if (starts and max(starts) > 0) or against == "environment_step":
        where = max(starts, default=0.0)
        ax.annotate(
            "switch",
            (where, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, 2),
            textcoords="offset points",
            size=8,
            color=NEUTRAL,
        )


def _step_axis(ax: Axes) -> Axes:
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    # Where there is but the point at step 0, the axis still counts whole steps.
    end = max(ax.dataLim.x1, 1.0) if np.isfinite(ax.dataLim.x1) else 1.0
    ax.set_xlim(-0.02 * end, 1.02 * end)
    return ax
