"""Sliders of schedules and of source weights: what they say, and the parameters cell that they give."""

from typing import Any

import ipywidgets
import numpy as np
import pytest
from matplotlib.figure import Figure

from data_samples import dataset
from widgets_here import find, widgets
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.config.schedules import run_schedules
from wsrl_kit.data.weights import source_table, weigh
from wsrl_kit.notebook import knobs
from wsrl_kit.notebook.knobs import schedule_knobs, source_knobs


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the notebook would show."""
    outputs: list[Any] = []
    monkeypatch.setattr(knobs, "display", outputs.append)
    return outputs


def slider(box: ipywidgets.Widget, name: str) -> Any:
    """The widget beside a label."""
    (line,) = (w for w in widgets(box) if getattr(getattr(w, "children", [None])[:1][0], "value", None) == name)
    return line.children[1]


def variables(box: ipywidgets.Widget) -> dict[str, Any]:
    namespace: dict[str, Any] = {}
    exec(find(box, ipywidgets.Textarea).value, namespace)
    return namespace


def test_schedules_follow_the_sliders_and_become_a_parameters_cell(shown: list[Any]) -> None:
    config = WSRLConfig(online_steps=200, demo_path="kept.pkl", checkpoint_path="warmup.npz", seed=3)
    figure = schedule_knobs(config, live=True)
    (box,) = shown
    before = bytes(find(box, ipywidgets.Image).value)
    slider(box, "min_offline_ratio").value = 0.0
    slider(box, "initial_offline_ratio").value = 0.5
    slider(box, "offline_decay_rate").value = 1.0
    assert "50.0% of all examples; in the whole run 50.0%" in find(box, ipywidgets.HTML).value
    assert bytes(find(box, ipywidgets.Image).value) != before
    cell = variables(box)
    assert (cell["min_offline_ratio"], cell["initial_offline_ratio"]) == (0.0, 0.5)
    assert (cell["seed"], cell["demo_path"], cell["more"]) == (3, "kept.pkl", {"offline_decay_rate": 1.0})
    # What the run does is the config's, as the returned figure says.
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), run_schedules(config)["offline ratio"])


def test_weights_follow_the_sliders(shown: list[Any]) -> None:
    config = WSRLConfig()
    weights = {"demos": 2.0, "suboptimal": 1.0, "random": 0.5}
    data = weigh(dataset(), weights, config.success_weight_bonus)
    source_knobs(config, data, live=True)
    (box,) = shown
    slider(box, "random").value = 4.0
    slider(box, "success_weight_bonus").value = 1.0
    expected = source_table(weigh(dataset(), weights | {"random": 4.0}, 1.0))
    shares = ", ".join(f"{row['source']} {row['weight_share']:.1%}" for row in expected)
    assert find(box, ipywidgets.HTML).value == f"Shares of the loss: {shares}."
    cell = variables(box)
    assert cell["source_weights"] == {"suboptimal": 1.0, "random": 4.0}
    assert cell["more"] == {"success_weight_bonus": 1.0}


def test_headless_there_is_the_figure_alone_and_own_weights_have_no_sliders(shown: list[Any]) -> None:
    schedule_knobs(WSRLConfig(online_steps=50), live=False)
    source_knobs(WSRLConfig(), weigh(dataset(), {"demos": 9.0}), live=True)
    assert [type(each) for each in shown] == [Figure, Figure]
