"""Offline data in a notebook: episodes step by step, and buttons that label them beside the data."""

import html
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ipywidgets
import numpy as np
from IPython.display import display
from ipywidgets import Layout
from matplotlib.figure import Figure

from wsrl_kit.analysis.episodes import episode_figure, episode_table, read_episodes, read_files
from wsrl_kit.analysis.plots import png
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.data.dataset import Dataset
from wsrl_kit.data.labels import EXCLUDE, FAILURE, SUCCESS, Label, labels_path, read_labels, write_labels
from wsrl_kit.data.sources import Paths
from wsrl_kit.errors import WSRLKitError
from wsrl_kit.notebook.parameters import is_live
from wsrl_kit.notebook.run_actions import button
from wsrl_kit.text import printable
from wsrl_kit.training.inputs import conventions


def browse(config: WSRLConfig, paths: Paths, live: bool | None = None) -> Figure:
    """Shows offline data: all episodes by widgets, headless the first one at its end; returns that figure.

    Args:
        config: the task, the units of the actions and the weights of the sources.
        live: True: widgets; None: if a front end is attached.

    Raises:
        WSRLKitError: as `load_offline_data`.
    """
    browser = Browser(config, paths)
    figure = browser.figure()
    display(browser.box if is_live(live) else figure)
    return figure


class Browser:
    """The widgets, in `box`; `table` has all episodes. What is labelled is written at once.

    Args:
        config, paths: as of `browse`.
    """

    def __init__(self, config: WSRLConfig, paths: Paths) -> None:
        self._config = config
        self._reading = conventions(config)
        self._files = read_files(paths, self._reading)
        self._read: tuple[Path, Dataset] | None = None
        self._is_setting = False
        options = [(printable(f"{file.source}: {file.path.name}"), index) for index, file in enumerate(self._files)]
        wide = Layout(width="60%")
        self._file = ipywidgets.Dropdown(options=options, description="source")
        self._episode = ipywidgets.IntSlider(description="episode", layout=wide, continuous_update=False)
        self._step = ipywidgets.IntSlider(description="step", layout=wide, continuous_update=False)
        self._image = ipywidgets.Image(format="png", layout=Layout(max_width="100%", align_self="flex-start"))
        self._status = ipywidgets.HTML()
        for widget in (self._file, self._episode, self._step):
            widget.observe(lambda change: self._changed(change["owner"]), "value")
        buttons = [
            button("Use as recorded", lambda: self._label(lambda _: Label()), "removes every label of the episode"),
            *(
                button(label.capitalize(), lambda label=label: self._label(lambda old: replace(old, label=label)))  # type: ignore[misc]
                for label in (EXCLUDE, SUCCESS, FAILURE)
            ),
            button(
                "Cut here", lambda: self._label(lambda old: replace(old, cut=self._step.value)), "ends it at this step"
            ),
        ]
        self._tabulate()
        self._changed(self._file)
        rows = (self._file, self._episode, self._step, ipywidgets.HBox(buttons), self._status, self._image)
        self.box = ipywidgets.VBox(rows)

    def figure(self) -> Figure:
        """The episode that is chosen, at the step that is chosen."""
        episode = self._dataset().select_episodes(np.array([self._episode.value])).trajectories()[0]
        return episode_figure(episode, self._step.value, self.table, self._place())

    def _place(self) -> int:
        """Of the chosen episode in the table."""
        counts = [file.recording.episode_count for file in self._files[: self._file.value]]
        return sum(counts) + self._episode.value

    def _dataset(self) -> Dataset:
        path = self._files[self._file.value].path
        if self._read is None or self._read[0] != path:
            self._read = path, read_episodes(path, self._reading)
        return self._read[1]

    def _tabulate(self) -> None:
        config = self._config
        weights = config.weight_by_source
        self.table = episode_table(self._files, weights, config.success_weight_bonus, config.quality_weighting)

    def _changed(self, widget: ipywidgets.Widget) -> None:
        """Another source starts at its first episode, another episode at its end."""
        if self._is_setting:
            return
        self._is_setting = True
        if widget is self._file:
            self._episode.value, self._episode.max = 0, self._dataset().episode_count - 1
        if widget is not self._step:
            length = int(self._dataset().episode_lengths[self._episode.value])
            self._step.max, self._step.value = length, length
        self._is_setting = False
        self._image.value = png(self.figure())

    def _label(self, change: Callable[[Label], Label]) -> None:
        """Changes what the labels beside the file say of the chosen episode."""
        file, episode = self._files[self._file.value], self._episode.value
        try:
            before = read_labels(file.path)
            label = change(before.get(episode, Label()))
            if label.cut is not None and not 0 < label.cut < self._step.max:
                label = replace(label, cut=None)
            write_labels(file.path, before | {episode: label}, file.recording.episode_count)
            try:
                self._tabulate()
            except WSRLKitError:
                # Such as a label that leaves nothing to learn from.
                write_labels(file.path, before, file.recording.episode_count)
                raise
            saved = f"saved in {labels_path(file.path)}"
            said = saved if read_labels(file.path) else "no episode of the file is labelled"
        except WSRLKitError as error:
            said = str(error)
        self._status.value = html.escape(printable(said))
        self._image.value = png(self.figure())
