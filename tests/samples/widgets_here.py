"""Widgets as a person finds and uses them."""

from typing import Any

import ipywidgets


def widgets(box: ipywidgets.Widget) -> list[Any]:
    """The box and all that it holds, at any depth."""
    return [box, *(inner for child in getattr(box, "children", ()) for inner in widgets(child))]


def press(box: ipywidgets.Widget, label: str) -> None:
    """Presses the button with this label."""
    (button,) = (w for w in widgets(box) if isinstance(w, ipywidgets.Button) and w.description == label)
    button.click()


def find(box: ipywidgets.Widget, kind: type, label: str = "") -> Any:
    """The first widget of a kind with this label."""
    return next(w for w in widgets(box) if type(w) is kind and getattr(w, "description", "") == label)
