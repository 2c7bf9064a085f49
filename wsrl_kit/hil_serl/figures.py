"""Success, cycle time and interventions of HIL-SERL's training episodes, and success of the policies alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wsrl_kit.analysis import plots
from wsrl_kit.analysis.statistics import align
from wsrl_kit.runs.run import RunRecord, find_runs

WINDOW = 20
"""Episodes in a running mean."""
CONTROL_FREQUENCY = 10.0
"""Control steps per second, if the robot's options have none."""
MODES = ("sampled", "deterministic")


def episodes(record: RunRecord) -> pd.DataFrame:
    """The training episodes of a fine-tuning on a robot; the index is the environment step of their end.

    Returns:
        success: by the reward: the classifier's, if there is one.
        task_success: by the task itself; nan where unknown, as on a real robot.
        seconds: robot time without the reset.
        human: share of the steps that a human took.
    """
    length = _series(record, "training/episode_length")

    def column(name: str, missing: float) -> pd.Series:
        return _series(record, f"training/{name}").reindex(length.index, fill_value=missing)

    frequency = record.parameters["environment_options"].get("control_frequency", CONTROL_FREQUENCY)
    return pd.DataFrame(
        {
            "success": column("episode_success", np.nan),
            "task_success": column("episode_task_success", np.nan),
            "seconds": length / frequency,
            "human": column("episode_intervention_steps", 0.0) / length,
        }
    )


def hil_serl_figure(root: Path) -> Figure:
    """Running success, cycle time and intervention rate by arm, and success of the policies alone."""
    trained, tests = _runs(root)
    figure, axes = plots.new_figure(2, 2, 5.6, 3.4)
    panels = {"task_success": "Success", "seconds": "Cycle time (s)", "human": "Intervention rate"}
    for ax, (name, label) in zip(axes, panels.items(), strict=False):
        _curves(ax, trained, name)
        ax.set(xlabel=plots.AXIS_LABELS["environment_step"], ylabel=label)
        ax.set_xlim(left=0)
        ax.set_ylim(bottom=0)
    # Dotted: success by the classifier, which may be fooled.
    _curves(axes[0], trained, "success", linestyle=":", label=False)
    for ax in (axes[0], axes[2]):
        ax.set_ylim(-0.03, 1.03)
    _alone(axes[3], tests)
    if axes[1].get_legend_handles_labels()[1]:
        plots.shared_legend(figure, axes[1])
    plots.replace_empty_axes(axes, any(run.status == "running" for run in [*trained, *tests]))
    return figure


def result_rows(root: Path) -> list[dict[str, str | int | float]]:
    """A row for each run: its first and last `WINDOW` training episodes, and its policy alone.

    `false` counts episodes that succeeded only by the classifier, `missed` only by the task, `denied` successes by the
    classifier that somebody denied.
    """
    trained, tests = _runs(root)
    rows: list[dict[str, str | int | float]] = []
    for record in trained:
        seen = episodes(record)
        first, last = (part.mean(skipna=False) for part in (seen[:WINDOW], seen[-WINDOW:]))
        row: dict[str, str | int | float] = {
            "arm": record.arm,
            "seed": record.seed,
            "episodes": len(seen),
            "success": float(last["task_success"]),
            "by classifier": float(last["success"]),
            "false": int(((seen["success"] == 1) & (seen["task_success"] == 0)).sum()),
            "missed": int(((seen["success"] == 0) & (seen["task_success"] == 1)).sum()),
            "denied": int(record.curve("training/episode_denied_successes").value.sum()),
            "first cycles (s)": float(first["seconds"]),
            "last cycles (s)": float(last["seconds"]),
            "human at first": float(first["human"]),
            "human at last": float(last["human"]),
        }
        own = [test for test in tests if (test.arm, test.seed) == (record.arm, record.seed)]
        for mode in MODES:
            row[f"alone {mode}"] = _mean(np.concatenate([np.zeros(0), *(_alone_success(test, mode) for test in own)]))
        rows.append(row)
    return rows


def _runs(root: Path) -> tuple[list[RunRecord], list[RunRecord]]:
    """Fine-tunings and tests below a folder, sorted by the configured order of arms."""
    found = find_runs(root)
    order = [arm for run in found if run.kind == "hil_serl" for arm in run.parameters["arms"]]
    known = sorted((run for run in found if run.arm in order), key=lambda run: (order.index(run.arm), run.seed))
    return [run for run in known if run.kind == "finetune"], [run for run in known if run.kind == "test"]


def _curves(ax: Axes, records: Sequence[RunRecord], name: str, linestyle: str = "-", label: bool = True) -> None:
    """Running means: each run thin; the mean over an arm's seeds, where all have episodes, thick."""
    for arm, colour in plots.arm_colours(record.arm for record in records).items():
        seen = (episodes(record)[name] for record in records if record.arm == arm)
        known = (values for values in seen if len(values) and values.notna().all())
        means = [values.rolling(WINDOW, min_periods=1).mean() for values in known]
        curves = [(values.index.to_numpy(float), values.to_numpy()) for values in means]
        if not curves:
            continue
        if len(curves) > 1:
            for steps, values in curves:
                ax.plot(steps, values, color=colour, linestyle=linestyle, linewidth=0.7, alpha=0.5)
        if max(steps[0] for steps, _ in curves) > min(steps[-1] for steps, _ in curves):
            continue
        grid, aligned = align(curves)
        shown = f"{arm} (n = {len(curves)})" if label else None
        ax.plot(grid, aligned.mean(axis=0), color=colour, linestyle=linestyle, linewidth=2.0, label=shown)


def _alone(ax: Axes, tests: Sequence[RunRecord]) -> None:
    """Success of each policy without a human: sampled filled, deterministic hollow."""
    colours = plots.arm_colours(test.arm for test in tests)
    for place, (arm, colour) in enumerate(colours.items()):
        own = [test for test in tests if test.arm == arm]
        for mode, offset, face in ((MODES[0], -0.12, colour), (MODES[1], 0.12, "none")):
            rates = pd.Series([_mean(_alone_success(test, mode)) for test in own], dtype=float)
            # Seeds with the same value are drawn beside one another, so that each can be counted.
            places = place + offset * (1 + 0.5 * rates.groupby(rates).cumcount())
            ax.plot(places, rates, "o", color=colour, markerfacecolor=face)
    ax.set_xticks(range(len(colours)), list(colours))
    ax.set(ylabel="Success alone (hollow: deterministic)", ylim=(-0.03, 1.03))


def _alone_success(test: RunRecord, mode: str) -> Float64[np.ndarray, " episodes"]:
    """Success of each episode by the task, or by the reward if the task does not tell."""
    truth = test.curve(f"evaluation/task_success_{mode}").value
    return truth if np.isfinite(truth).any() else test.curve(f"evaluation/success_{mode}").value


def _series(record: RunRecord, metric: str) -> pd.Series:
    curve = record.curve(metric)
    return pd.Series(curve.value, index=curve.environment_step)


def _mean(values: Float[np.ndarray, " values"]) -> float:
    return float(values.mean()) if len(values) else float("nan")
