"""Whole figures: of an ablation, a report, a single run, the offline sources."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from wsrl_kit.analysis import plots
from wsrl_kit.analysis.arms import arm_colours, arm_label, arm_order
from wsrl_kit.analysis.metrics import EARLY_STEPS, INTERVENTION_RATE, QUANTITIES, SUCCESS, Quantity, compare, restricted
from wsrl_kit.analysis.statistics import Band, Interval, performance_profile, reached_band
from wsrl_kit.runs.run import PHASES, RunRecord
from wsrl_kit.text import for_figure


def profiles(ax: Axes, rows: Sequence[Mapping[str, Any]], quantity: Quantity) -> Axes:
    """Share of an arm's finished runs above every value, with its 95 % band: higher is better at every threshold.

    Args:
        ax: drawn on.
        rows: of `metrics.reduce_run`.
        quantity: one of `metrics.QUANTITIES` of which more is better.
    """
    everything = [row[quantity.name] for row in rows if row["status"] == "finished" and _recorded(row, quantity)]
    if "success" in quantity.name or quantity.name == "area_under_curve":
        everything += [0.0, 1.0]
    thresholds = np.linspace(min(everything, default=0.0), max(everything, default=1.0), 201)
    for arm, own in _by_arm(rows):
        values = np.array([r[quantity.name] for r in own if r["status"] == "finished" and _recorded(r, quantity)])
        if len(values):
            _draw(ax, rows, arm, thresholds, performance_profile(values.astype(float), thresholds))
    if not ax.lines:
        plots.say_not_recorded(ax, 0.5)
    ax.set(xlabel=quantity.heading, ylabel="Fraction of runs above", ylim=(-0.03, 1.03))
    return ax


def reached(ax: Axes, rows: Sequence[Mapping[str, Any]], quantity: Quantity, label: str) -> Axes:
    """Share of an arm's runs that has reached the target (Kaplan-Meier), with its 95 % band.

    A run counts as watched until its last evaluation. One that failed counts as never reaching the target, watched to
    the end: leaving it out would flatter its arm.

    Args:
        ax: drawn on.
        rows: of `metrics.reduce_run`, not `restricted`.
        quantity: one of the `*_to_target`.
        label: of the horizontal axis.
    """
    grid = np.unique([0.0, *(row[quantity.name] for row in rows if _recorded(row, quantity))])
    for arm, own in _by_arm(rows):
        there = np.array([row["reached_target"] == 1.0 for row in own])
        failed = np.array([row["status"] == "failed" for row in own])
        steps = np.array([row[quantity.name] for row in own], dtype=float)
        # What comes after the last run was watched is known only if each of them has got there or never will.
        known = math.inf if (there | failed).all() else np.nanmax([0.0, *steps])
        steps = np.where(failed & ~there, math.inf, steps)
        counted = ~np.isnan(steps)
        if counted.any() and len(grid) > 1:
            own_grid = grid[grid <= known]
            _draw(ax, rows, arm, own_grid, reached_band(steps[counted], there[counted], own_grid))
    if not ax.lines:
        plots.say_not_recorded(ax, 0.5)
    ax.set(xlabel=label, ylabel="Fraction of runs at target", ylim=(-0.03, 1.03))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    return ax


def against_control(
    ax: Axes,
    arms: Sequence[str],
    control: str,
    intervals: Mapping[str, Interval],
    indifferent: float,
    label: str,
    bounds: Mapping[str, str] | None = None,
) -> Axes:
    """One row per arm: how it compares with the control, with its 95 % interval; dashed where neither is better.

    Args:
        ax: drawn on.
        arms: of the whole report.
        control: the one that has no row.
        intervals: by arm, differences or probabilities.
        indifferent: the value that speaks for neither, 0 or 0.5.
        label: of the horizontal axis.
        bounds: by arm ">" or "<", where the true difference is larger or smaller.
    """
    bounds = bounds or {}
    colours = arm_colours(arms)
    order = [arm for arm in arm_order(arms) if arm != control]
    ax.axvline(indifferent, color=plots.NEUTRAL, linestyle="--", linewidth=1.0, zorder=1)
    for height, arm in enumerate(order):
        if arm not in intervals:
            plots.say_not_recorded(ax, height)
            continue
        point, low, high, _ = intervals[arm]
        ax.plot([low, high], [height] * 2, color=colours[arm], linewidth=7, alpha=0.3, solid_capstyle="butt")
        plots.draw_estimate(ax, point, height, colours[arm], bounds.get(arm, ""))
    ax.set_yticks(range(len(order)), [for_figure(arm_label(arm)) for arm in order])
    ax.set_ylim(max(1, len(order)) - 0.4, -0.6)
    ax.set_xlabel(label + (plots.HOLLOW if any(bounds.values()) else ""))
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", color=plots.GRID, linewidth=0.8)
    return ax


def _draw(ax: Axes, rows: Sequence[Mapping[str, Any]], arm: str, grid: np.ndarray, band: Band) -> None:
    colours = arm_colours(row["arm"] for row in rows)
    ax.step(
        grid, band.point, where="post", color=colours[arm], linewidth=2.2, label=for_figure(arm_label(arm)), zorder=3
    )
    if len(colours) <= plots.MOST_BANDS:
        ax.fill_between(grid, band.low, band.high, step="post", color=colours[arm], alpha=0.12, linewidth=0)


def _by_arm(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    return [(arm, [row for row in rows if row["arm"] == arm]) for arm in arm_order(row["arm"] for row in rows)]


def _recorded(row: Mapping[str, Any], quantity: Quantity) -> bool:
    return math.isfinite(row[quantity.name])


BY_NAME = {quantity.name: quantity for quantity in QUANTITIES}
TO_TARGET = {
    "steps_to_target": "Online environment steps",
    "gradient_steps_to_target": "Gradient steps, warmup included",
    "seconds_to_target": "Wall-clock (s), warmup included",
}
STABILITY = ("switch_success", "dip_depth", "recovery_steps", "drawdown", "dispersion")


def camera_figure(pictures: Mapping[str, UInt8[np.ndarray, "two image height width channel"]]) -> Figure:
    """What each camera sees, and under it what training sees of the same images."""
    columns = max(len(images[0]) for images in pictures.values())
    figure = Figure(figsize=(1.5 * columns, 3.2 * len(pictures)), layout="constrained")
    axes = figure.subplots(2 * len(pictures), columns, squeeze=False)
    rows = [(f"{name}{what}", images[side]) for name, images in pictures.items() for side, what in enumerate(SIDES)]
    for (label, images), row in zip(rows, axes, strict=True):
        for ax in row:
            ax.set_axis_off()
        for ax, image in zip(row, images, strict=False):
            ax.imshow(image)
        row[0].set_title(for_figure(label), loc="left", fontsize="small")
    return figure


SIDES = ("", ", as training sees it")
"""Titles of a camera's two rows of pictures, after its name."""


def ablation_figures(
    records: Sequence[RunRecord], rows: Sequence[dict[str, Any]], target: float = 0.8
) -> dict[str, Figure]:
    """All figures of an ablation by name, drawn from its runs and their reduced rows."""
    figures = {"learning_curves": learning_curves_figure(records, target)}
    kind, _ = _evaluated(records)
    shown = ("steps_to_target", "area_under_curve", f"final_{kind}")
    headings = {name: BY_NAME[name].heading.replace("target", f"{target:.0%} success") for name in shown}
    figures["sample_efficiency"] = _points_figure(rows, headings)
    safety = {
        "early_peak_contact_force": f"Peak contact force, first {EARLY_STEPS} steps (N)",
        "early_safety_box_clips": f"Safety-box clips, first {EARLY_STEPS} steps",
    }
    figures["safety_and_memory"] = _points_figure(rows, safety, bars="offline_megabytes")

    figures["switch"], axes = plots.new_figure(columns=2)
    plots.switch_diagnostic(axes[0], records, "q")
    plots.switch_diagnostic(axes[1], records, "td_error")
    plots.shared_legend(figures["switch"], axes[0])
    plots.blank_empty(axes, _is_running(records))
    return figures


def comparison_figures(
    records: Sequence[RunRecord], rows: Sequence[dict[str, Any]], control: str, target: float = 0.8
) -> dict[str, Figure]:
    """What a report shows beyond an ablation's figures: arms against the control, how runs are spread, how stable."""
    kind, _ = _evaluated(records)
    figures = {"against_control": _against_control_figure(rows, control, target, f"final_{kind}")}
    figures["performance_profiles"], axes = plots.new_figure(columns=2)
    for ax, name in zip(axes, (f"final_{kind}", "area_under_curve"), strict=True):
        profiles(ax, rows, BY_NAME[name])
    plots.shared_legend(figures["performance_profiles"], axes[0])
    figures["reached_target"], axes = plots.new_figure(columns=3, width=4.6)
    for ax, (name, label) in zip(axes, TO_TARGET.items(), strict=True):
        reached(ax, rows, BY_NAME[name], label)
        ax.set_ylabel(f"Fraction of runs at {target:.0%} success")
    plots.shared_legend(figures["reached_target"], axes[0])
    figures["stability"] = _points_figure(rows, {name: BY_NAME[name].heading for name in STABILITY})
    return figures


def _against_control_figure(rows: Sequence[Mapping[str, Any]], control: str, target: float, final: str) -> Figure:
    arms = sorted({row["arm"] for row in rows})
    comparisons = compare(rows, control)
    figure, axes = plots.panel_figure(4, 4.6, max(2.4, 0.5 * len(arms)), across=2)
    for ax, name in zip(axes, ("steps_to_target", "area_under_curve", final), strict=False):
        own = [c for c in comparisons if c.quantity.name == name]
        differences, bounds = {c.arm: c.difference for c in own}, {c.arm: c.bound for c in own}
        heading = BY_NAME[name].heading.replace("target", f"{target:.0%}")
        against_control(ax, arms, control, differences, 0.0, f"{heading}, minus control", bounds)
    better = {c.arm: c.better for c in comparisons if c.quantity.name == final}
    heading = f"Probability of better {BY_NAME[final].heading.lower()}"
    against_control(axes[3], arms, control, better, 0.5, heading).set_xlim(-0.03, 1.03)
    plots.names_on_the_left(axes)
    return figure


def learning_curves_figure(records: Sequence[RunRecord], target: float = 0.8) -> Figure:
    """Success (or the return) of every arm against environment steps and against gradient steps."""
    kind, label = _evaluated(records)
    figure, axes = plots.new_figure(columns=2)
    for ax, against in zip(axes, plots.AXIS_LABELS, strict=True):
        plots.learning_curves(ax, records, f"evaluation/{kind}_sampled", against, label)
        if kind == "success":
            ax.axhline(target, color=plots.NEUTRAL, linewidth=0.8, linestyle=(0, (1, 3)), zorder=1)
    plots.shared_legend(figure, axes[0])
    plots.blank_empty(axes, _is_running(records))
    return figure


def warmup_figure(record: RunRecord) -> Figure:
    """One warmup run: losses, TD error on training and held-out episodes, evaluations; also while it runs."""
    figure, axes = plots.new_figure(columns=3, width=4.6, height=3.4)
    kind, evaluated = _evaluated([record])
    panels = (
        ({"critic": "training/critic_loss", "actor": "training/actor_loss"}, "Loss"),
        ({"training": "training/td_error", "held out": "training/holdout_td_error"}, "TD error"),
        (_modes(kind), evaluated),
    )
    for ax, (metrics, label) in zip(axes, panels, strict=True):
        plots.run_metrics(ax, record, metrics, "warmup", "gradient_step", label)
    if kind == "success":
        axes[2].set_ylim(-0.03, 1.03)
    plots.blank_empty(axes, _is_running([record]))
    return figure


def finetune_figure(record: RunRecord) -> Figure:
    """One fine-tuning run: success, ratio, PER's beta if any, Q and TD error on probe and online data; also live.

    Where a human took over, also how often, and how long an episode took.
    """
    helped = len(record.curve(INTERVENTION_RATE)) > 0
    figure, axes = plots.new_figure(3 if helped else 2, 2, 5.4, 3.2)
    kind, evaluated = _evaluated([record])
    if record.parameters.get("evaluation_episodes") == 0:
        # A robot is not evaluated beside its training.
        kind, evaluated = "success", "Success"
        plots.run_metrics(axes[0], record, {"training episode": "training/episode_success"}, label=evaluated)
    else:
        plots.run_metrics(axes[0], record, _modes(kind), label=evaluated)
    if kind == "success":
        axes[0].set_ylim(-0.03, 1.03)
    shares, label = {"offline ratio": "training/offline_ratio"}, "Offline share of a batch"
    if record.parameters.get("use_prioritized_replay"):
        shares, label = shares | {"PER beta": "training/priority_beta"}, "Share of batch, exponent"
    plots.run_metrics(axes[1], record, shares, label=label).set_ylim(-0.03, 1.03)
    for ax, quantity in ((axes[2], "q"), (axes[3], "td_error")):
        plots.switch_diagnostic(ax, [record], quantity)
        if ax.get_legend_handles_labels()[1]:
            ax.legend(frameon=False)
    if helped:
        plots.run_metrics(axes[4], record, {"Intervention rate": INTERVENTION_RATE}).set_ylim(-0.03, 1.03)
        lengths = {
            "episode": "training/episode_length",
            "of these by the human": "training/episode_intervention_steps",
        }
        plots.run_metrics(axes[5], record, lengths, label="Steps of an episode").set_ylim(bottom=0)
    plots.blank_empty(axes, _is_running([record]))
    return figure


def source_figure(
    rows: Sequence[Mapping[str, Any]], returns: Mapping[str, Float[np.ndarray, " _"]] | None = None
) -> Figure:
    """The offline sources before training.

    Args:
        rows: of `data.quality.source_table`: `source`, `success_rate`, `transitions` and `weight_share` are drawn.
        returns: returns of the episodes by source; drawn as a histogram if given.
    """
    figure, axes = plots.panel_figure(3 if returns is None else 4, 4.4, 2.8, across=3 if returns is None else 2)
    names = [row["source"] for row in rows]
    columns = (("success_rate", "Success rate"), ("transitions", "Transitions"), ("weight_share", "Share of weight"))
    for ax, (key, label) in zip(axes, columns, strict=False):
        plots.source_bars(ax, names, np.array([row[key] for row in rows], dtype=float), label)
    plots.names_on_the_left(axes[:3])
    if returns is not None:
        plots.return_histogram(axes[3], returns)
    return figure


def _points_figure(rows: Sequence[Mapping[str, Any]], headings: Mapping[str, str], bars: str = "") -> Figure:
    """One axes per quantity, as high as the arms need, their names on the left; a quantity as bars may follow."""
    arms = len({row["arm"] for row in rows})
    figure, axes = plots.panel_figure(len(headings) + bool(bars), 4.6, max(3.4, 0.5 * arms))
    for ax, (name, heading) in zip(axes, headings.items(), strict=False):
        plots.summary_points(ax, restricted(rows), BY_NAME[name], heading)
    if bars:
        plots.summary_bars(axes[-1], rows, BY_NAME[bars])
    plots.names_on_the_left(axes)
    return figure


def _is_running(records: Sequence[RunRecord]) -> bool:
    return any(record.status == "running" for record in records)


def _evaluated(records: Sequence[RunRecord]) -> tuple[str, str]:
    """Success, or the return where that alone was measured, since the task reports no success; with its axis label."""

    def measured(metric: str) -> bool:
        curves = (record.curve(metric, phase) for record in records for phase in PHASES)
        return any(np.isfinite(curve.value).any() for curve in curves)

    if measured("evaluation/return_sampled") and not measured(SUCCESS):
        return "return", "Return"
    return "success", "Success rate"


def _modes(kind: str) -> dict[str, str]:
    return {mode: f"evaluation/{kind}_{mode}" for mode in ("sampled", "deterministic")}
