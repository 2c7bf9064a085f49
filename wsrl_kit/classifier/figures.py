"""Figures of a reward classifier: learning curve, error rates by threshold, false positives."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, UInt8
from matplotlib.figure import Figure

from wsrl_kit.analysis import plots
from wsrl_kit.errors import DataError
from wsrl_kit.runs.run import RunRecord

GRID = np.round(np.arange(0.01, 1.0, 0.01), 2)
"""Candidate thresholds."""


def sweep(
    probability: Float[np.ndarray, " examples"],
    is_success: Bool[np.ndarray, " examples"],
    thresholds: Float[np.ndarray, " thresholds"] = GRID,
) -> pd.DataFrame:
    """`threshold, precision, recall, false_positive_rate` for a probability at or above each threshold.

    Precision is nan without a positive.

    Raises:
        DataError: there are no successes, or no failures.
    """
    if is_success.all() or not is_success.any():
        raise DataError(f"a threshold needs successes and failures, found {is_success.sum()} of {is_success.size}")
    positive = probability[None, :] >= thresholds[:, None]
    rates = pd.DataFrame({"threshold": thresholds})
    rates["precision"] = (positive & is_success).sum(axis=1) / pd.Series(positive.sum(axis=1))
    rates["recall"] = positive[:, is_success].mean(axis=1)
    rates["false_positive_rate"] = positive[:, ~is_success].mean(axis=1)
    return rates


def choose_threshold(rates: pd.DataFrame, max_false_positive_rate: float) -> int:
    """Row of the threshold with the best recall within the allowed false positive rate.

    If every rate is higher, the lowest is allowed. Of equal recalls, the middle one.
    """
    limit = max(max_false_positive_rate, rates["false_positive_rate"].min())
    recall = rates["recall"].where(rates["false_positive_rate"] <= limit)
    equal = np.flatnonzero(recall == recall.max())
    return int(equal[(len(equal) - 1) // 2])


def learning_figure(record: RunRecord) -> Figure:
    """Loss and accuracy of a classifier's run."""
    figure, axes = plots.new_figure(columns=2, width=4.6, height=3.2)
    losses = {"training": "training/loss", "validation": "validation/loss"}
    plots.run_metrics(axes[0], record, losses, "warmup", "gradient_step", "Cross-entropy (nats)")
    accuracy = {"Validation accuracy": "validation/accuracy"}
    plots.run_metrics(axes[1], record, accuracy, "warmup", "gradient_step").set_ylim(0.45, 1.03)
    plots.replace_empty_axes(axes, record.status == "running")
    return figure


def threshold_figure(
    probability: Float[np.ndarray, " examples"], is_success: Bool[np.ndarray, " examples"], threshold: float
) -> Figure:
    """Rates at every threshold, recall against false positives, and the probabilities; `threshold` is marked."""
    rates = sweep(probability, is_success)
    chosen = sweep(probability, is_success, np.array([threshold]))
    figure, axes = plots.new_figure(columns=3, width=4.2, height=3.4)
    for name, colour in zip(("precision", "recall", "false_positive_rate"), plots.SERIES_COLOURS, strict=False):
        axes[0].plot(rates.threshold, rates[name], color=colour, linewidth=1.8, label=name.replace("_", " "))
    axes[0].legend(frameon=False)
    axes[0].set(xlabel="Threshold", ylabel="Share of validation examples", ylim=(-0.03, 1.03))
    axes[1].plot(rates.false_positive_rate, rates.recall, ".-", color=plots.SERIES_COLOURS[0])
    axes[1].plot(chosen.false_positive_rate, chosen.recall, "o", color=plots.SERIES_COLOURS[1], label="threshold taken")
    axes[1].legend(frameon=False, loc="lower right")
    axes[1].set(xlabel="False positive rate", ylabel="Recall", ylim=(-0.03, 1.03))
    edges = np.linspace(0.0, 1.0, 41)
    kinds = {"failures": ~is_success, "successes": is_success}
    for (name, rows), colour in zip(kinds.items(), plots.SERIES_COLOURS[1:], strict=False):
        counts, _ = np.histogram(probability[rows], edges)
        axes[2].stairs(counts, edges, fill=True, alpha=0.5, color=colour, label=f"{name} ({rows.sum()})")
    axes[2].set_yscale("symlog", linthresh=1.0)
    axes[2].legend(frameon=False)
    axes[2].set(xlabel="Probability of success", ylabel="Validation examples")
    for ax in (axes[0], axes[2]):
        ax.axvline(threshold, color=plots.NEUTRAL, linestyle=":", linewidth=1.2)
    return figure


def comparison_figure(
    found: Mapping[str, tuple[Float[np.ndarray, " examples"], float]], is_success: Bool[np.ndarray, " examples"]
) -> Figure:
    """False positive rate and recall of several classifiers at every threshold; dots: the thresholds taken.

    Args:
        found: by name of the classifier, its probabilities of the same examples and its threshold.
    """
    figure, axes = plots.new_figure(columns=2, width=4.6, height=3.4)
    for (name, (probability, threshold)), colour in zip(found.items(), plots.SERIES_COLOURS, strict=False):
        rates, taken = sweep(probability, is_success), sweep(probability, is_success, np.array([threshold]))
        for ax, rate in zip(axes, ("false_positive_rate", "recall"), strict=True):
            shown = f"{name}: {taken[rate][0]:.3f} at {threshold:.2f}"
            ax.plot(rates.threshold, rates[rate], color=colour, linewidth=1.8)
            ax.plot(taken.threshold, taken[rate], "o", color=colour, label=shown)
    for ax, label in zip(axes, ("False positive rate", "Recall"), strict=True):
        ax.set(xlabel="Threshold", ylabel=label, ylim=(-0.03, 1.03))
        ax.legend(frameon=False)
    return figure


def lookalike_figure(
    probability: Float[np.ndarray, " failures"],
    images: Mapping[str, UInt8[np.ndarray, "failures height width 3"]],
    states: Float32[np.ndarray, "failures state"],
    threshold: float,
) -> Figure:
    """The failures that look most like success: as images, or as states without cameras.

    Args:
        probability: of success; false positives are marked.
        images: by camera.
        states: in standard deviations from the successes' mean.
    """
    titles = [f"{value:.3f}" + ("\nfalse positive" if value >= threshold else "") for value in probability]
    if not images:
        return _state_figure(titles, states)
    figure = Figure(figsize=(1.5 * len(titles), 1.9 * len(images)), layout="constrained")
    axes = figure.subplots(len(images), len(titles), squeeze=False)
    for row, frames in zip(axes, images.values(), strict=True):
        for ax, frame, title in zip(row, frames, titles, strict=True):
            ax.imshow(frame)
            ax.set_axis_off()
            ax.set_title(title, fontsize="small", color=plots.SERIES_COLOURS[1] if "\n" in title else plots.NEUTRAL)
    return figure


def _state_figure(titles: list[str], states: Float32[np.ndarray, "failures state"]) -> Figure:
    figure, (ax,) = plots.new_figure(width=7.0, height=1.2 + 0.35 * len(titles))
    drawn = ax.imshow(states, cmap="RdBu_r", vmin=-4.0, vmax=4.0, aspect="auto")
    ax.set_yticks(range(len(titles)), [title.replace("\n", ", ") for title in titles])
    ax.grid(visible=False)
    ax.set(xlabel="Entry of the state", ylabel="Probability of success")
    figure.colorbar(drawn, label="Standard deviations from the successes' mean")
    return figure
