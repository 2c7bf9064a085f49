"""Notebooks executed in this process: no kernel to start, and programs that are compiled already."""

import ast
import asyncio
import inspect
from pathlib import Path
from typing import Any
from unittest import mock

import nbformat
from matplotlib.figure import Figure

from wsrl_kit.analysis import clips
from wsrl_kit.notebook import browse, knobs, live
from wsrl_kit.notebook.parameters import check_values, read_notebook


def execute(notebook: Path, given: dict[str, Any], output_dir: Path) -> list[Any]:
    """Executes all cells with values that are given as texts, as on the command line; returns what they show."""
    texts = {name: str(value) for name, value in (given | {"output_dir": output_dir}).items()}
    values = check_values(read_notebook(notebook), texts)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    shown: list[Any] = []
    with (
        mock.patch("IPython.display.display", lambda *objects: shown.extend(objects)),
        mock.patch.object(live, "display", shown.append),
        mock.patch.object(browse, "display", shown.append),
        mock.patch.object(knobs, "display", shown.append),
        mock.patch.object(clips, "MOST_PICTURES", 3),
    ):
        for cell in nbformat.read(notebook, as_version=4).cells:
            if cell.cell_type == "code":
                shown.append(_result(cell.source.replace("%matplotlib inline", ""), namespace))
            if "parameters" in cell.metadata.get("tags", []):
                namespace |= values
    return shown


def figures(shown: list[Any]) -> int:
    """How many pictures are among what was shown."""
    return sum(isinstance(each, Figure) or hasattr(each, "_repr_png_") for each in shown)


def _result(source: str, namespace: dict[str, Any]) -> Any:
    """The value of a cell's last line, as a notebook shows it; None where that is no expression."""
    body, last = ast.parse(source).body, None
    if isinstance(body[-1], ast.Expr):
        last = body.pop().value
    exec(compile(ast.Module(body, []), "cell", "exec"), namespace)
    if last is None:
        return None
    value = eval(compile(ast.Expression(last), "cell", "eval", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), namespace)
    return asyncio.run(value) if inspect.iscoroutine(value) else value
