"""The browser's widgets, and what they write beside the data."""

from pathlib import Path
from typing import Any

import ipywidgets
import pytest
from matplotlib.figure import Figure

from data_samples import trajectory
from widgets_here import find, press
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.data.formats.hil_serl import write_hil_serl
from wsrl_kit.data.labels import Label, labels_path, read_labels
from wsrl_kit.data.sources import load_sources
from wsrl_kit.notebook import browse
from wsrl_kit.notebook.browse import Browser


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_hil_serl(tmp_path / "demos.pkl", [trajectory(n, seed=n) for n in (3, 4)])
    write_hil_serl(tmp_path / "random.pkl", [trajectory(6, seed=9, success=False, terminated=False)])
    return tmp_path


def test_an_episode_is_labelled_beside_the_data_at_once(data: Path) -> None:
    browser = Browser(WSRLConfig(), str(data))
    before = (data / "demos.pkl").read_bytes()
    find(browser.box, ipywidgets.IntSlider, "episode").value = 1
    step = find(browser.box, ipywidgets.IntSlider, "step")
    assert (step.max, step.value) == (4, 4)
    press(browser.box, "Failure")
    step.value = 2
    press(browser.box, "Cut here")
    assert read_labels(data / "demos.pkl") == {1: Label("failure", 2)}
    assert [len(each) for each in load_sources(str(data)).trajectories()] == [3, 2, 6]
    assert browser.table["length"].tolist() == [3, 2, 6]
    assert "[failure, cut at 2]" in browser.figure().get_suptitle()
    press(browser.box, "Use as recorded")
    assert not labels_path(data / "demos.pkl").exists()
    assert (data / "demos.pkl").read_bytes() == before


@pytest.mark.slow
def test_another_source_begins_at_its_first_episode(data: Path) -> None:
    browser = Browser(WSRLConfig(), str(data))
    find(browser.box, ipywidgets.IntSlider, "episode").value = 1
    find(browser.box, ipywidgets.Dropdown, "source").value = 1
    episode = find(browser.box, ipywidgets.IntSlider, "episode")
    assert (episode.value, episode.max) == (0, 0)
    assert browser.figure().get_suptitle().startswith("random, random.pkl, episode 0, step 6 of 6: failure")
    assert bytes(find(browser.box, ipywidgets.Image).value).startswith(b"\x89PNG")


def test_what_can_not_be_labelled_is_said(data: Path) -> None:
    browser = Browser(WSRLConfig(source_weights={"random": 0.0}), str(data))
    press(browser.box, "Exclude")
    find(browser.box, ipywidgets.IntSlider, "episode").value = 1
    press(browser.box, "Exclude")
    assert "leave no transition with a weight above 0" in find(browser.box, ipywidgets.HTML).value
    assert read_labels(data / "demos.pkl") == {0: Label("exclude")}
    (data / "demos.pkl").write_bytes((data / "random.pkl").read_bytes())
    press(browser.box, "Success")
    assert "labels other data" in find(browser.box, ipywidgets.HTML).value


@pytest.mark.slow
def test_the_same_call_shows_widgets_or_a_figure(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(browse, "display", shown.append)
    for live in (True, False):
        browse.browse(WSRLConfig(), str(data), live)
    assert [type(each) for each in shown] == [ipywidgets.VBox, Figure]
