"""The form of a config: fields checked one by one and together, presets, and the parameters cell."""

from typing import Any

import ipywidgets
import pytest

from widgets_here import find, widgets
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.notebook import form
from wsrl_kit.notebook.form import Form, parameter_form
from wsrl_kit.parameters import ParameterTable


def line(box: ipywidgets.Widget, name: str) -> tuple[Any, Any]:
    """Field and remark of a parameter."""
    rows = [w.children for w in widgets(box) if len(getattr(w, "children", ())) == 3]
    return next((field, remark) for label, field, remark in rows if getattr(label, "value", "") == name)


def variables(box: ipywidgets.Widget) -> dict[str, Any]:
    namespace: dict[str, Any] = {}
    exec(find(box, ipywidgets.Textarea).value, namespace)
    return namespace


def test_fields_become_the_parameters_cell() -> None:
    box = Form(WSRLConfig(seed=3, hidden_sizes=(64,)), "warmup").box
    line(box, "retention_ratio")[0].value = "0.5"
    line(box, "discount")[0].value = "0.9"
    line(box, "layer_norm")[0].value = "False"
    line(box, "conservative_loss")[0].value = "calql"
    cell = variables(box)
    assert (cell["seed"], cell["retention_ratio"], cell["conservative_loss"]) == (3, 0.5, "calql")
    assert cell["more"] == {"hidden_sizes": [64], "discount": 0.9, "layer_norm": False}


def test_a_wrong_value_is_said_beside_its_field_and_not_taken() -> None:
    box = Form(WSRLConfig(), "finetune").box
    field, remark = line(box, "min_offline_ratio")
    explained = remark.value
    field.value = "2"
    assert "min_offline_ratio must be a float" in remark.value
    assert "in [0, 1], found 2.0" in remark.value
    assert variables(box)["min_offline_ratio"] is None
    field.value = "0.25"
    assert remark.value == explained
    assert variables(box)["min_offline_ratio"] == 0.25


def test_a_preset_shows_what_it_changes() -> None:
    box = Form(WSRLConfig(), "warmup").box
    line(box, "preset")[0].value = "small"
    assert any("batch_size: 256 -&gt; 128" in w.value for w in widgets(box) if type(w) is ipywidgets.HTML)
    assert variables(box)["preset"] == "small"


def test_headless_it_is_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(form, "display", shown.append)
    for live in (True, False):
        parameter_form(WSRLConfig(), "warmup", live)
    assert [type(each) for each in shown] == [ipywidgets.VBox, ParameterTable]
