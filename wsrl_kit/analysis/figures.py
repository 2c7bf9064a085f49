"""Whole figures of an ablation, a report, a single run, the offline sources."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure

from wsrl_kit.analysis import plots
from wsrl_kit.analysis.metrics import EARLY_STEPS, INTERVENTION_RATE, QUANTITIES, SUCCESS, compare, restricted
from wsrl_kit.runs.run import PHASES, RunRecord
from wsrl_kit.text import for_figure

TO_TARGET = {
    "steps_to_target": "Online environment steps",
    "gradient_steps_to_target": "Gradient steps, warmup included",
    "seconds_to_target": "Wall-clock (s), warmup included",
}
STABILITY = ("switch_success", "dip_depth", "recovery_steps", "drawdown", "dispersion")


def camera_figure(pictures: Mapping[str, UInt8[np.ndarray, "two image height width channel"]]) -> Figure:
    """Each camera's images, and below them the same images as training sees them."""
    columns = max(len(images[0]) for images in pictures.values())
    figure = Figure(figsize=(1.5 * columns, 3.2 * len(pictures)), layout="constrained")
    axes = figure.subplots(2 * len(pictures), columns, squeeze=False)
    sides = ("", ", as training sees it")
    rows = [(f"{name}{what}", images[side]) for name, images in pictures.items() for side, what in enumerate(sides)]
    for (label, images), row in zip(rows, axes, strict=True):
        for ax in row:
            ax.set_axis_off()
        for ax, image in zip(row, images, strict=False):
            ax.imshow(image)
        row[0].set_title(for_figure(label), loc="left", fontsize="small")
    return figure


def ablation_figures(records: Sequence[RunRecord], runs: pd.DataFrame, target: float = 0.8) -> dict[str, Figure]:
    """All figures of an ablation by name, from its runs and their rows of `metrics.reduce_run`."""
    figures = {"learning_curves": learning_curves_figure(records, target)}
    kind, _ = _evaluated(records)
    shown = ("steps_to_target", "area_under_curve", f"final_{kind}")
    headings = {name: QUANTITIES[name].heading.replace("target", f"{target:.0%} success") for name in shown}
    figures["sample_efficiency"] = _points_figure(runs, headings)
    safety = {
        "early_peak_contact_force": f"Peak contact force, first {EARLY_STEPS} steps (N)",
        "early_safety_box_clips": f"Safety-box clips, first {EARLY_STEPS} steps",
    }
    figures["safety_and_memory"] = _points_figure(runs, safety, bars="offline_megabytes")

    figures["switch"], axes = plots.new_figure(columns=2)
    plots.switch_diagnostic(axes[0], records, "q")
    plots.switch_diagnostic(axes[1], records, "td_error")
    plots.shared_legend(figures["switch"], axes[0])
    plots.replace_empty_axes(axes, _is_running(records))
    return figures


def comparison_figures(
    records: Sequence[RunRecord], runs: pd.DataFrame, control: str, target: float = 0.8
) -> dict[str, Figure]:
    """A report's further figures: arms against the control, spread of runs, stability."""
    kind, _ = _evaluated(records)
    figures = {"against_control": _against_control_figure(runs, control, target, f"final_{kind}")}
    figures["performance_profiles"], axes = plots.new_figure(columns=2)
    for ax, name in zip(axes, (f"final_{kind}", "area_under_curve"), strict=True):
        plots.performance_profiles(ax, runs, QUANTITIES[name])
    plots.shared_legend(figures["performance_profiles"], axes[0])
    figures["reached_target"], axes = plots.new_figure(columns=3, width=4.6)
    for ax, (name, label) in zip(axes, TO_TARGET.items(), strict=True):
        plots.fraction_reached(ax, runs, QUANTITIES[name], label)
        ax.set_ylabel(f"Fraction of runs at {target:.0%} success")
    plots.shared_legend(figures["reached_target"], axes[0])
    figures["stability"] = _points_figure(runs, {name: QUANTITIES[name].heading for name in STABILITY})
    return figures


def _against_control_figure(runs: pd.DataFrame, control: str, target: float, final: str) -> Figure:
    arms = sorted(set(runs["arm"]))
    comparisons = compare(runs, control)
    figure, axes = plots.panel_figure(4, 4.6, max(2.4, 0.5 * len(arms)), across=2)
    for ax, name in zip(axes, ("steps_to_target", "area_under_curve", final), strict=False):
        own = [c for c in comparisons if c.quantity.name == name]
        differences, bounds = {c.arm: c.difference for c in own}, {c.arm: c.bound for c in own}
        heading = QUANTITIES[name].heading.replace("target", f"{target:.0%}")
        plots.against_control(ax, arms, control, differences, 0.0, f"{heading}, minus control", bounds)
    better = {c.arm: c.better for c in comparisons if c.quantity.name == final}
    heading = f"Probability of better {QUANTITIES[final].heading.lower()}"
    plots.against_control(axes[3], arms, control, better, 0.5, heading).set_xlim(-0.03, 1.03)
    plots.label_first_column(axes)
    return figure


def learning_curves_figure(records: Sequence[RunRecord], target: float = 0.8) -> Figure:
    """Success, or the return, of every arm against environment steps and against gradient steps."""
    kind, label = _evaluated(records)
    figure, axes = plots.new_figure(columns=2)
    for ax, against in zip(axes, plots.AXIS_LABELS, strict=True):
        plots.learning_curves(ax, records, f"evaluation/{kind}_sampled", against, label)
        if kind == "success":
            ax.axhline(target, color=plots.NEUTRAL, linewidth=0.8, linestyle=(0, (1, 3)), zorder=1)
    plots.shared_legend(figure, axes[0])
    plots.replace_empty_axes(axes, _is_running(records))
    return figure


def warmup_figure(record: RunRecord) -> Figure:
    """One warmup run: losses, TD error on training and held-out episodes, evaluations."""
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
    plots.replace_empty_axes(axes, _is_running([record]))
    return figure


def finetune_figure(record: RunRecord) -> Figure:
    """One fine-tuning run: success, offline ratio, Q and TD error; interventions where a human took over."""
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
    plots.replace_empty_axes(axes, _is_running([record]))
    return figure


def source_figure(
    rows: Sequence[Mapping[str, Any]], returns: Mapping[str, Float[np.ndarray, " _"]] | None = None
) -> Figure:
    """The offline sources before training.

    Args:
        rows: of `data.weights.source_table`.
        returns: returns of the episodes by source, for a histogram.
    """
    figure, axes = plots.panel_figure(3 if returns is None else 4, 4.4, 2.8, across=3 if returns is None else 2)
    names = [row["source"] for row in rows]
    columns = (("success_rate", "Success rate"), ("transitions", "Transitions"), ("weight_share", "Share of weight"))
    for ax, (key, label) in zip(axes, columns, strict=False):
        plots.source_bars(ax, names, np.array([row[key] for row in rows], dtype=float), label)
    plots.label_first_column(axes[:3])
    if returns is not None:
        plots.return_histogram(axes[3], returns)
    return figure


def _points_figure(runs: pd.DataFrame, headings: Mapping[str, str], bars: str = "") -> Figure:
    """One axes for each quantity, with the arms' names on the left; `bars` names one more quantity, as bars."""
    arms = runs["arm"].nunique()
    figure, axes = plots.panel_figure(len(headings) + bool(bars), 4.6, max(3.4, 0.5 * arms))
    for ax, (name, heading) in zip(axes, headings.items(), strict=False):
        plots.summary_points(ax, restricted(runs), QUANTITIES[name], heading)
    if bars:
        plots.summary_bars(axes[-1], runs, QUANTITIES[bars])
    plots.label_first_column(axes)
    return figure


def _is_running(records: Sequence[RunRecord]) -> bool:
    return any(record.status == "running" for record in records)


def _evaluated(records: Sequence[RunRecord]) -> tuple[str, str]:
    """Success, or the return where only that was measured; with the axis label."""

    def measured(metric: str) -> bool:
        curves = (record.curve(metric, phase) for record in records for phase in PHASES)
        return any(np.isfinite(curve.value).any() for curve in curves)

    if measured("evaluation/return_sampled") and not measured(SUCCESS):
        return "return", "Return"
    return "success", "Success rate"


def _modes(kind: str) -> dict[str, str]:
    return {mode: f"evaluation/{kind}_{mode}" for mode in ("sampled", "deterministic")}
