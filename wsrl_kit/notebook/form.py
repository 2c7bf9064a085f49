"""A form of a config in JupyterLab: each value checked beside its field, and the parameters cell that sets them all."""

import html
from dataclasses import asdict
from typing import Any, get_args

import ipywidgets
from IPython.display import display
from ipywidgets import Layout

from wsrl_kit.analysis.plots import NEUTRAL
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.config.presets import PRESETS
from wsrl_kit.errors import WSRLKitError
from wsrl_kit.notebook.parameters import MORE, as_cell, check_values, is_live
from wsrl_kit.notebook.run_actions import code_below, given, notebook_of
from wsrl_kit.parameters import check, parse, table

WRONG = "#d55e00"
_ELSEWHERE = ("output_dir", "live", "resume", MORE)


def parameter_form(config: WSRLConfig, command: str, live: bool | None = None, preset: str = "kit") -> None:
    """Shows the form, or headless the table of the config. It changes nothing of the run.

    Args:
        command: whose notebook the parameters cell is for.
        live: True: the form; None: if a front end is attached.
        preset: from which the config was made.
    """
    display(Form(config, command, preset).box if is_live(live) else table(config))


class Form:
    """The widgets, in `box`: the notebook's own parameters, the others folded by group.

    Args:
        config, command, preset: as of `parameter_form`.
    """

    def __init__(self, config: WSRLConfig, command: str, preset: str = "kit") -> None:
        self._notebook = notebook_of(command)
        known = self._notebook.values | asdict(config) | {"preset": preset}
        self._values = given(known, self._notebook)
        self._fields: dict[str, Any] = {}
        self._remarks: dict[str, ipywidgets.HTML] = {}
        groups = {"": self._notebook.defaults, **self._notebook.groups}
        boxes = {}
        for group, names in groups.items():
            own = [n for n in names if n in self._notebook.fields and n not in _ELSEWHERE and n not in self._fields]
            if own:
                boxes[group] = ipywidgets.VBox([self._line(name, known[name]) for name in own])
        self._status, self._differences = ipywidgets.HTML(), ipywidgets.HTML()
        self._cell = ipywidgets.Textarea(layout=Layout(width="100%", height="20em"))
        listed = boxes.pop("")
        folded = ipywidgets.Accordion(list(boxes.values()), titles=list(boxes))
        self.box = ipywidgets.VBox([listed, self._differences, folded, self._status, code_below(self._cell)])
        self._write()

    def _line(self, name: str, value: Any) -> ipywidgets.Widget:
        declared, annotation = self._notebook.fields[name].metadata, self._notebook.annotation(name)
        choices = PRESETS if name == "preset" else declared["choices"] or ()
        if bool in (annotation, *get_args(annotation)):
            choices = (True, False) if annotation is bool else (None, True, False)
        if choices:
            field: Any = ipywidgets.Dropdown(options=[(str(each), str(each)) for each in choices], value=str(value))
        else:
            field = ipywidgets.Text(_text(value), continuous_update=False)
        field.observe(lambda change: self._changed(name, change["new"]), "value")
        self._fields[name] = field
        self._remarks[name] = ipywidgets.HTML(_remark(declared["help"]), layout=Layout(flex="1"))
        return ipywidgets.HBox([ipywidgets.Label(name, layout=Layout(width="18em")), field, self._remarks[name]])

    def _changed(self, name: str, text: str) -> None:
        """Checks a field alone; `_write` checks all together."""
        declared, annotation = self._notebook.fields[name].metadata, self._notebook.annotation(name)
        remark = _remark(declared["help"])
        self._values.pop(name, None)
        try:
            value = check(name, parse(text, annotation), annotation, declared)
            self._values[name] = list(value) if isinstance(value, tuple) else value
        except WSRLKitError as error:
            remark = _remark(str(error), WRONG)
        self._remarks[name].value = remark
        self._write()

    def _write(self) -> None:
        """The parameters cell, and what the preset changes."""
        chosen = self._values.get("preset", "kit")
        usual = self._notebook.values
        changes = [f"{name}: {_text(usual.get(name))} -> {_text(value)}" for name, value in PRESETS[chosen].items()]
        heading = f"<b>preset {chosen}</b> sets what is not given:<br>" if changes else ""
        lines = heading + "<br>".join(map(html.escape, changes))
        self._differences.value = f"<div style='line-height:1.3'>{lines}</div>"
        try:
            check_values(self._notebook, self._values)
            self._status.value = ""
        except WSRLKitError as error:
            self._status.value = _remark(str(error), WRONG)
        self._cell.value = as_cell(self._notebook, self._values)


def _text(value: Any) -> str:
    """As a field shows it, and a command line takes it."""
    return value if isinstance(value, str) else repr(list(value) if isinstance(value, tuple) else value)


def _remark(text: str, colour: str = NEUTRAL) -> str:
    return f"<span style='color:{colour}; line-height:1.2'>{html.escape(text)}</span>"
