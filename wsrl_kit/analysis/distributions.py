"""Runs against runs, on one `ax`: performance profiles, the share at the target, and arms against the control."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from wsrl_kit.analysis import plots
from wsrl_kit.analysis.arms import arm_colours, arm_label, arm_order
from wsrl_kit.analysis.metrics import Quantity
from wsrl_kit.analysis.statistics import Band, Interval, performance_profile, reached_band
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
