"""Whole figures of an ablation, a report, a single run, the offline sources."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure

from wsrl_kit.analysis import plots
from wsrl_kit.analysis.metrics import (
    EARLY_STEPS,
    INTERVENTION_RATE,
    QUANTITIES,
    Measure,
    compare,
    measure_of,
    restricted,
)
from wsrl_kit.runs.run import RunRecord
from wsrl_kit.text import for_figure

TO_TARGET = {
    "steps_to_target": "Online environment steps",
    "gradient_steps_to_target": "Gradient steps, warmup included",
    "seconds_to_target": "Wall-clock (s), warmup included",
}
STABILITY = ("dip_depth", "recovery_steps", "drawdown", "dispersion")


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


def ablation_figures(records: Sequence[RunRecord], runs: pd.DataFrame, measure: Measure) -> dict[str, Figure]:
    """All figures of an ablation by name, from its runs and their rows of `metrics.reduce_run`."""
    figures = {"learning_curves": learning_curves_figure(records, measure)}
    headings = {name: measure.heading(QUANTITIES[name].heading) for name in _efficiency(measure)}
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
    records: Sequence[RunRecord], runs: pd.DataFrame, control: str, measure: Measure
) -> dict[str, Figure]:
    """A report's further figures; arms against the control and the spread of runs only where there are several."""
    figures = {}
    if runs["arm"].nunique() > 1:
        figures["against_control"] = _against_control_figure(runs, control, measure)
    if len(runs) > 1:
        figures["performance_profiles"], axes = plots.new_figure(columns=2)
        for ax, name in zip(axes, (f"final_{measure.name}", "area_under_curve"), strict=True):
            plots.performance_profiles(ax, runs, QUANTITIES[name], measure)
        plots.shared_legend(figures["performance_profiles"], axes[0])
    if measure.target is not None:
        shown = _recorded(runs, TO_TARGET) or TO_TARGET
        figures["reached_target"], axes = plots.new_figure(columns=len(shown), width=4.6)
        for ax, (name, label) in zip(axes, shown.items(), strict=True):
            plots.fraction_reached(ax, runs, QUANTITIES[name], label)
            ax.set_ylabel(measure.heading("Fraction of runs at target"))
        plots.shared_legend(figures["reached_target"], axes[0])
    stability = (f"switch_{measure.name}", *STABILITY)
    figures["stability"] = _points_figure(runs, {name: QUANTITIES[name].heading for name in stability})
    return figures


def _efficiency(measure: Measure) -> tuple[str, ...]:
    """Steps to the target, if there is one, area under the curve, and last the end."""
    to_target = ("steps_to_target",) if measure.target is not None else ()
    return (*to_target, "area_under_curve", f"final_{measure.name}")


def _against_control_figure(runs: pd.DataFrame, control: str, measure: Measure) -> Figure:
    arms = sorted(set(runs["arm"]))
    comparisons = compare(runs, control)
    shown = _efficiency(measure)
    figure, axes = plots.panel_figure(len(shown) + 1, 4.6, max(2.4, 0.5 * len(arms)), across=2)
    for ax, name in zip(axes, shown, strict=False):
        own = [c for c in comparisons if c.quantity.name == name]
        differences, bounds = {c.arm: c.difference for c in own}, {c.arm: c.bound for c in own}
        heading = measure.heading(QUANTITIES[name].heading)
        plots.against_control(ax, arms, control, differences, 0.0, f"{heading}, minus control", bounds)
    better = {c.arm: c.better for c in comparisons if c.quantity.name == shown[-1]}
    heading = f"Probability of better {QUANTITIES[shown[-1]].heading.lower()}"
    plots.against_control(axes[-1], arms, control, better, 0.5, heading).set_xlim(-0.03, 1.03)
    plots.label_first_column(axes)
    return figure


def learning_curves_figure(records: Sequence[RunRecord], measure: Measure) -> Figure:
    """Success, or the return, of every arm against environment steps and against gradient steps."""
    figure, axes = plots.new_figure(columns=2)
    for ax, against in zip(axes, plots.AXIS_LABELS, strict=True):
        plots.learning_curves(ax, records, measure, against)
    plots.shared_legend(figure, axes[0])
    plots.replace_empty_axes(axes, _is_running(records))
    return figure


def warmup_figure(record: RunRecord) -> Figure:
    """One warmup run: losses, TD error on training and held-out episodes, evaluations."""
    figure, axes = plots.new_figure(columns=3, width=4.6, height=3.4)
    measure = measure_of([record])
    panels = (
        ({"critic": "training/critic_loss", "actor": "training/actor_loss"}, "Loss"),
        ({"training": "training/td_error", "held out": "training/holdout_td_error"}, "TD error"),
        (_modes(measure), measure.label),
    )
    for ax, (metrics, label) in zip(axes, panels, strict=True):
        plots.run_metrics(ax, record, metrics, "warmup", "gradient_step", label)
    plots.label_values(axes[2], measure)
    plots.replace_empty_axes(axes, _is_running([record]))
    return figure


def finetune_figure(record: RunRecord) -> Figure:
    """One fine-tuning run: success or return, offline ratio, losses, lengths of episodes, Q, TD error."""
    helped = len(record.curve(INTERVENTION_RATE)) > 0
    is_judged = len(record.curve("training/episode_denied_successes")) > 0
    figure, axes = plots.new_figure(3 + helped + is_judged, 2, 5.4, 2.8)
    measure = measure_of([record])
    episodes = f"training/episode_{measure.name}"
    # A robot is not evaluated beside its training.
    is_evaluated = record.parameters.get("evaluation_episodes") != 0
    plots.run_metrics(axes[0], record, _modes(measure) if is_evaluated else {"training episode": episodes})
    plots.running_mean(axes[0], record, episodes)
    plots.label_values(axes[0], measure)
    shares, label = {"offline ratio": "training/offline_ratio"}, "Share"
    if record.parameters.get("use_prioritized_replay"):
        shares, label = shares | {"PER beta": "training/priority_beta"}, "Share, exponent"
    if helped:
        shares["intervention rate"] = INTERVENTION_RATE
    plots.run_metrics(axes[1], record, shares, label=label).set_ylim(-0.03, 1.03)
    plots.run_metrics(axes[2], record, {"critic": "training/critic_loss", "actor": "training/actor_loss"}, label="Loss")
    lengths = {"training episode": "training/episode_length"}
    if helped:
        lengths["of these by the human"] = "training/episode_intervention_steps"
    plots.run_metrics(axes[3], record, lengths, label="Steps of an episode").set_ylim(bottom=0)
    for ax, quantity in ((axes[4], "q"), (axes[5], "td_error")):
        plots.switch_diagnostic(ax, [record], quantity)
        if ax.get_legend_handles_labels()[1]:
            ax.legend(frameon=False)
    if helped:
        forces = {"to the human": "training/takeover_force", "to the policy": "training/handback_force"}
        plots.run_metrics(axes[6], record, forces, label="Peak force around a hand-over (N)").set_ylim(bottom=0)
        takeovers = {"Steps of a takeover": "training/takeover_steps"}
        plots.run_metrics(axes[7], record, takeovers).set_ylim(bottom=0)
        for event in (*axes[6].lines, *axes[7].lines):
            event.set(linestyle="none", marker="o")
        axes[6].legend(frameon=False)
    if is_judged:
        judged = {
            "denied": "training/episode_denied_successes",
            "missed by the classifier": "training/episode_missed_successes",
        }
        label = "Successes judged otherwise, per episode"
        plots.run_metrics(axes[-2], record, judged, label=label).set_ylim(bottom=0)
        words = {"rewarded": "training/episode_success", "by the task": "training/episode_task_success"}
        plots.run_metrics(axes[-1], record, words, label="Success of an episode").set_ylim(-0.03, 1.03)
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
    knows_success = any(np.isfinite(row["success_rate"]) for row in rows)
    outcome = ("success_rate", "Success rate") if knows_success else ("mean_return", "Mean return")
    columns = (outcome, ("transitions", "Transitions"), ("weight_share", "Share of weight"))
    for ax, (key, label) in zip(axes, columns, strict=False):
        plots.source_bars(ax, names, np.array([row[key] for row in rows], dtype=float), label)
    plots.label_first_column(axes[:3])
    if returns is not None:
        plots.return_histogram(axes[3], returns)
    return figure


def _points_figure(runs: pd.DataFrame, headings: Mapping[str, str], bars: str = "") -> Figure:
    """One axes for each recorded quantity, with the arms' names on the left; `bars` names one more, as bars.

    Where none is recorded, the axes say so.
    """
    arms, has_bars = runs["arm"].nunique(), bool(bars) and runs[bars].notna().any()
    shown = _recorded(runs, headings) or ({} if has_bars else headings)
    figure, axes = plots.panel_figure(len(shown) + has_bars, 4.6, max(3.4, 0.5 * arms))
    for ax, (name, heading) in zip(axes, shown.items(), strict=False):
        plots.summary_points(ax, restricted(runs), QUANTITIES[name], heading)
    if has_bars:
        plots.summary_bars(axes[-1], runs, QUANTITIES[bars])
    plots.label_first_column(axes)
    return figure


def _recorded(runs: pd.DataFrame, headings: Mapping[str, str]) -> dict[str, str]:
    return {name: heading for name, heading in headings.items() if runs[name].notna().any()}


def _is_running(records: Sequence[RunRecord]) -> bool:
    return any(record.status == "running" for record in records)


def _modes(measure: Measure) -> dict[str, str]:
    return {mode: f"evaluation/{measure.name}_{mode}" for mode in ("sampled", "deterministic")}
