"""Episodes of offline data to look at: a table of all, and one of them as pictures and curves."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.ticker import MaxNLocator

from wsrl_kit.analysis import plots
from wsrl_kit.analysis.clips import draw_actions
from wsrl_kit.data.conventions import AS_WRITTEN, Conventions, interpret
from wsrl_kit.data.dataset import Dataset
from wsrl_kit.data.labels import EXCLUDE, Label, apply_labels, read_labels
from wsrl_kit.data.recording import to_dataset, value_problems, with_source
from wsrl_kit.data.sources import Paths, expand, is_dump, read_recording
from wsrl_kit.data.trajectory import Trajectory
from wsrl_kit.data.weights import episode_quality, weigh
from wsrl_kit.errors import DataError, NoTransitionsError
from wsrl_kit.text import for_figure

STATE_PARTS = {
    "Position (m)": slice(4, 7),
    "Rotation (rad)": slice(7, 10),
    "Force (N)": slice(1, 4),
    "Torque (N m)": slice(10, 13),
}
"""Of a state of 19 numbers, as HIL-SERL's RAM insertion orders them."""
STATE_SIZE = 19
_ACTIONS = ("x", "y", "z", "rotation x", "rotation y", "rotation z")
MOST_LINES = 8
"""Numbers of any other state that are drawn."""


def read_episodes(path: Path, conventions: Conventions = AS_WRITTEN, images: bool = True) -> Dataset:
    """The episodes of a data file as they were recorded, without labels.

    Raises:
        DataError: as `load_sources`.
    """
    recording = interpret(read_recording(path, None if images else ()), conventions)
    if problems := [*recording.problems, *value_problems(recording)]:
        raise DataError(f"{path}: {problems[0]}.")
    return to_dataset(recording)


def episode_table(
    paths: Paths,
    source_weights: Mapping[str, float],
    success_weight_bonus: float = 1.5,
    quality_weighting: bool = True,
    conventions: Conventions = AS_WRITTEN,
) -> pd.DataFrame:
    """One row for every episode of the sources, labels applied; excluded ones have no quality and no weight.

    Columns: source, file, episode (its number in the file), length, return, success (1, 0 or nan), label, cut (nan:
    none), quality, weight (of a transition in the loss).

    Raises:
        DataError: as `load_sources`.
    """
    rows: list[dict[str, Any]] = []
    parts: list[Trajectory] = []
    for source, files in expand(paths).items():
        for file in files:
            try:
                recording = interpret(read_recording(file, ()), conventions)
            except NoTransitionsError:
                if is_dump(file):
                    continue
                raise
            if problems := [*recording.problems, *value_problems(recording)]:
                raise DataError(f"{file}: {problems[0]}.")
            labels = read_labels(file)
            # Excluded ones stay, so that numbers stay.
            seen = {number: replace(each, label=each.label.replace(EXCLUDE, "")) for number, each in labels.items()}
            found = to_dataset(with_source(apply_labels(file, recording, seen), source)).trajectories()
            parts += found
            for number, trajectory in enumerate(found):
                label = labels.get(number, Label())
                rows.append({"source": trajectory.source, "file": str(file), "episode": number, **vars(label)})
    if not parts:
        raise NoTransitionsError(f"The dumps in {paths} hold no transitions.")
    whole = Dataset.from_trajectories(parts)
    frame = pd.DataFrame(rows).astype({"cut": float})
    columns = {"length": whole.episode_lengths, "return": whole.episode_returns, "success": whole.episode_success}
    frame = frame.assign(**columns, quality=math.nan, weight=math.nan)
    if len(kept := np.flatnonzero(frame["label"] != EXCLUDE)):
        used = whole.select_episodes(kept)
        if not used.is_weighted:
            used = weigh(used, source_weights, success_weight_bonus, quality_weighting)
        frame.loc[kept, "quality"] = episode_quality(used)
        frame.loc[kept, "weight"] = used.weight[used.episode_starts]
    return frame


def episode_figure(trajectory: Trajectory, step: int, table: pd.DataFrame, place: int) -> Figure:
    """One episode: what the cameras saw at a step, state, action and reward, and its return among all.

    Args:
        trajectory: as it was recorded.
        step: of the observation, 0 to the length; marked in every panel.
        table: of `episode_table`.
        place: of the episode in the table.
    """
    row = table.iloc[place]
    size = trajectory.observations.shape[1] // trajectory.observation_horizon
    states = trajectory.observations[:, -size:]
    parts = STATE_PARTS if size == STATE_SIZE else {"Observation": slice(0, min(size, MOST_LINES))}
    rows = [[*parts], ["Action", "Reward", "Return"]]
    has_images = bool(trajectory.images)
    figure = Figure(figsize=(11.0, 2.1 * len(rows) + 0.6 + 3.0 * has_images), dpi=100, layout="constrained")
    figure.suptitle(for_figure(_title(row, step, len(trajectory))), fontsize=11)
    grid = figure.add_gridspec(len(rows) + has_images, 1, height_ratios=[1.5] * has_images + [1.0] * len(rows))
    if has_images:
        _draw_cameras(figure, grid[0], trajectory, step)
    axes = {
        name: _panel(figure, grid[number + has_images].subgridspec(1, len(names))[0, column], name)
        for number, names in enumerate(rows)
        for column, name in enumerate(names)
    }
    for name, part in parts.items():
        for line, values in enumerate(states[:, part].T):
            dashes, colour = divmod(line, len(plots.SERIES_COLOURS))
            label = "xyz"[line] if size == STATE_SIZE else str(line)
            axes[name].plot(values, ("-", "--")[dashes], color=plots.SERIES_COLOURS[colour], linewidth=1.3, label=label)
    axes[rows[0][0]].legend(fontsize=7, frameon=False)
    draw_actions(axes["Action"], trajectory.actions, _ACTIONS, has_legend=False)
    axes["Action"].legend(fontsize=7, frameon=False, ncols=2)
    axes["Reward"].step(np.arange(len(trajectory)), trajectory.rewards, where="post", color=plots.SERIES_COLOURS[0])
    for name in axes.keys() - {"Return"}:
        axes[name].axvline(step, color="black", linewidth=1.2)
        axes[name].set_xlim(0, len(trajectory))
        if not math.isnan(row["cut"]):
            axes[name].axvspan(row["cut"], len(trajectory), color=plots.GRID)
    returns = {str(source): own["return"].to_numpy(float) for source, own in table.groupby("source", sort=False)}
    plots.return_histogram(axes["Return"], returns, label="")
    axes["Return"].axvline(row["return"], color="black", linewidth=1.2)
    return figure


def _draw_cameras(figure: Figure, place: SubplotSpec, trajectory: Trajectory, step: int) -> None:
    spots = place.subgridspec(1, len(trajectory.images))
    for column, (name, frames) in enumerate(sorted(trajectory.images.items())):
        ax = figure.add_subplot(spots[0, column])
        ax.imshow(frames[trajectory.observation_horizon - 1 + step])
        ax.set_axis_off()
        ax.set_title(for_figure(name), fontsize=9)


def _panel(figure: Figure, spot: SubplotSpec, name: str) -> Axes:
    ax = figure.add_subplot(spot)
    ax.set_title(name, fontsize=9, loc="left")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color=plots.GRID, linewidth=0.8)
    ax.tick_params(labelsize=8)
    ax.xaxis.set_major_locator(MaxNLocator(integer=name != "Return"))
    return ax


def _title(row: pd.Series, step: int, length: int) -> str:
    """Such as `demos, demos.pkl, episode 3, step 4 of 12: success, return 1, quality 0.91, weight 2.31 [cut at 9]`."""
    outcome = {1.0: "success", 0.0: "failure"}.get(row["success"], "success unknown")
    worth = "not used" if row["label"] == EXCLUDE else f"quality {row['quality']:.2f}, weight {row['weight']:.2f}"
    said = ([row["label"]] if row["label"] else []) + ([] if math.isnan(row["cut"]) else [f"cut at {row['cut']:.0f}"])
    labels = f" [{', '.join(said)}]" if said else ""
    where = f"{row['source']}, {Path(row['file']).name}, episode {row['episode']}, step {step} of {length}"
    return f"{where}: {outcome}, return {row['return']:.3g}, {worth}{labels}"
