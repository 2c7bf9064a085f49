"""Episodes of offline data to look at: a table of all, and one of them as pictures and curves."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from wsrl_kit.analysis import plots
from wsrl_kit.analysis.clips import draw_actions
from wsrl_kit.analysis.report import write_files
from wsrl_kit.analysis.tables import to_csv
from wsrl_kit.data.conventions import AS_WRITTEN, Conventions
from wsrl_kit.data.dataset import Dataset
from wsrl_kit.data.labels import EXCLUDE, Label, apply_labels, read_labels
from wsrl_kit.data.recording import Recording, to_dataset, value_problems, with_source
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
# Fixed, since a layout that fits itself takes as long as the drawing, for every step that is looked at.
_MARGINS = {"left": 0.05, "right": 0.985, "bottom": 0.14, "top": 0.8, "wspace": 0.22}
MOST_LINES = 8
"""Numbers of any other state that are drawn."""


@dataclass(frozen=True)
class RecordedFile:
    """A data file as it was recorded, without labels and images."""

    source: str
    path: Path
    recording: Recording


def read_files(paths: Paths, conventions: Conventions = AS_WRITTEN) -> list[RecordedFile]:
    """The files of all sources.

    Raises:
        DataError: as `load_sources`.
    """
    found = []
    for source, files in expand(paths).items():
        for file in files:
            try:
                found.append(RecordedFile(source, file, _read(file, (), conventions)))
            except NoTransitionsError:
                if not is_dump(file):
                    raise
    if not found:
        raise NoTransitionsError(f"The dumps in {paths} hold no transitions.")
    return found


def read_episodes(path: Path, conventions: Conventions = AS_WRITTEN) -> Dataset:
    """The episodes of one file with their images, without labels.

    Raises:
        DataError: as `load_sources`.
    """
    return to_dataset(_read(path, None, conventions))


def _read(path: Path, cameras: Sequence[str] | None, conventions: Conventions) -> Recording:
    recording = read_recording(path, cameras, conventions)
    if problems := [*recording.problems, *value_problems(recording)]:
        raise DataError(f"{path}: {problems[0]}.")
    return recording


def episode_table(
    files: Sequence[RecordedFile],
    source_weights: Mapping[str, float],
    success_weight_bonus: float = 1.5,
    quality_weighting: bool = True,
) -> pd.DataFrame:
    """One row for every episode, with the labels that lie beside the files now.

    Columns: source, file, episode (its number in the file), length, return, success (1, 0 or nan), label, cut (nan:
    none), quality, weight (of a transition in the loss). Excluded episodes have no quality and no weight.

    Raises:
        DataError: labels are refused, or files differ in their layout.
    """
    rows: list[dict[str, Any]] = []
    parts: list[Trajectory] = []
    for file in files:
        labels = read_labels(file.path)
        # Excluded ones stay here, so that numbers stay.
        seen = {number: replace(each, label=each.label.replace(EXCLUDE, "")) for number, each in labels.items()}
        labelled = apply_labels(file.path, file.recording, seen)
        for number, trajectory in enumerate(to_dataset(with_source(labelled, file.source)).trajectories()):
            parts.append(trajectory)
            said = vars(labels.get(number, Label()))
            rows.append({"source": trajectory.source, "file": str(file.path), "episode": number, **said})
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
    figure = Figure(figsize=(11.0, 4.8 + 3.0 * has_images), dpi=100)
    figure.suptitle(for_figure(_title(row, step, len(trajectory))), fontsize=10, y=0.99)
    heights = [1.5] * has_images + [1.0, 1.0]
    *pictures, upper, lower = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    if has_images:
        _draw_cameras(pictures[0], trajectory, step)
    axes = _panels(upper, rows[0]) | _panels(lower, rows[1])
    for name, part in parts.items():
        for line, values in enumerate(states[:, part].T):
            dashes, colour = divmod(line, len(plots.SERIES_COLOURS))
            label = "xyz"[line] if size == STATE_SIZE else str(line)
            axes[name].plot(values, ("-", "--")[dashes], color=plots.SERIES_COLOURS[colour], linewidth=1.3, label=label)
    axes[rows[0][0]].legend(fontsize=7, frameon=False, ncols=3)
    draw_actions(axes["Action"], trajectory.actions, _ACTIONS)
    axes["Action"].legend(fontsize=7, frameon=False, ncols=2)
    axes["Reward"].set_ylim(min(-0.05, 1.1 * trajectory.rewards.min()), max(1.1, 1.1 * trajectory.rewards.max()))
    axes["Reward"].step(np.arange(len(trajectory)), trajectory.rewards, where="post", color=plots.SERIES_COLOURS[0])
    for name in axes.keys() - {"Return"}:
        axes[name].axvline(step, color="black", linewidth=1.2)
        axes[name].set_xlim(0, len(trajectory))
        if not math.isnan(row["cut"]):
            axes[name].axvspan(row["cut"], len(trajectory), color=plots.GRID)
    returns = {str(source): own["return"].to_numpy(float) for source, own in table.groupby("source", sort=False)}
    plots.return_histogram(axes["Return"], returns, label="").legend(fontsize=7, frameon=False)
    axes["Return"].axvline(row["return"], color="black", linewidth=1.2)
    return figure


def _draw_cameras(figure: SubFigure, trajectory: Trajectory, step: int) -> None:
    axes = figure.subplots(1, len(trajectory.images), squeeze=False, gridspec_kw=_MARGINS | {"bottom": 0.02})[0]
    for ax, (name, frames) in zip(axes, sorted(trajectory.images.items()), strict=True):
        ax.imshow(frames[trajectory.observation_horizon - 1 + step])
        ax.set_axis_off()
        ax.set_title(for_figure(name), fontsize=9)


def _panels(figure: SubFigure, names: Sequence[str]) -> dict[str, Axes]:
    axes = dict(zip(names, figure.subplots(1, len(names), squeeze=False, gridspec_kw=_MARGINS)[0], strict=True))
    for name, ax in axes.items():
        ax.set_title(name, fontsize=9, loc="left")
        plots.draw_grid(ax)
        ax.tick_params(labelsize=8)
        ax.yaxis.set_major_locator(MaxNLocator(5))
        if name != "Return":
            ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return axes


def _title(row: pd.Series, step: int, length: int) -> str:
    """Such as `demos, demos.pkl, episode 3, step 4 of 12: success, return 1, quality 0.91, weight 2.31 [cut at 9]`."""
    outcome = {1.0: "success", 0.0: "failure"}.get(row["success"], "success unknown")
    worth = "not used" if row["label"] == EXCLUDE else f"quality {row['quality']:.2f}, weight {row['weight']:.2f}"
    said = ([row["label"]] if row["label"] else []) + ([] if math.isnan(row["cut"]) else [f"cut at {row['cut']:.0f}"])
    labels = f" [{', '.join(said)}]" if said else ""
    where = f"{row['source']}, {Path(row['file']).name}, episode {row['episode']}, step {step} of {length}"
    return f"{where}: {outcome}, return {row['return']:.3g}, {worth}{labels}"


def write_episodes(table: pd.DataFrame, folder: Path, conventions: Conventions) -> None:
    """Writes `episodes.csv`, and `figures/<source>.png` of each source's first episode at its end.

    Raises:
        RunError: a file can't be written.
        DataError: as `read_episodes`.
    """
    figures = {}
    for source in table["source"].unique():
        place = int(np.flatnonzero(table["source"] == source)[0])
        path, episode = Path(table["file"][place]), int(table["episode"][place])
        trajectory = read_episodes(path, conventions).select_episodes(np.array([episode])).trajectories()[0]
        figures[re.sub(r"[^\w.-]", "_", source)] = episode_figure(trajectory, len(trajectory), table, place)
    write_files(folder, {"episodes.csv": to_csv(table)}, figures)
