"""The parameters of a notebook, read and checked without executing anything."""

import ast
import dataclasses
import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_type_hints

import nbformat

from wsrl_kit.errors import ParameterError
from wsrl_kit.notebook.templates import root_of
from wsrl_kit.parameters import build, check, field_default, parse, unknown

# Every parameter dataclass that a notebook may build, and the module that holds it; imported only when a notebook
# names it, so that a mistake in a parameter is found without waiting for JAX.
PARAMETER_CLASSES = {
    "SessionConfig": "wsrl_kit.config.config",
    "WSRLConfig": "wsrl_kit.config.config",
    "CollectConfig": "wsrl_kit.envs.collect",
    "ClassifierConfig": "wsrl_kit.classifier.config",
    "AblationConfig": "wsrl_kit.experiments.ablation",
    "ReportConfig": "wsrl_kit.analysis.report",
    "TuningConfig": "wsrl_kit.experiments.tuning",
}

ANNOTATIONS = {
    "Any": Any, "Literal": Literal, "bool": bool, "dict": dict, "float": float, "int": int, "list": list, "str": str,
    "tuple": tuple,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Notebook:
    """What a notebook lets its user choose.

    Attributes:
        path: the notebook's file.
        defaults: value of every variable of its parameters cell.
        annotations: type of every variable of its parameters cell; `Any` where the cell does not say.
        classes: the parameter dataclasses that the notebook builds.
    """

    path: Path
    defaults: dict[str, Any]
    annotations: dict[str, Any]
    classes: tuple[type[Any], ...]

    def help(self, name: str) -> str:
        """One line about a parameter, "" where nobody wrote one."""
        field = self._field(name)
        return field.metadata.get("help", "") if field else ""

    def annotation(self, name: str) -> Any:
        """Type of a parameter in its dataclass, or else in the notebook; also None where the notebook allows that."""
        in_notebook = self.annotations[name]
        for parameters in self.classes:
            annotations = get_type_hints(parameters)
            if name in annotations:
                return annotations[name] | None if NoneType in get_args(in_notebook) else annotations[name]
        return in_notebook

    def default(self, name: str) -> Any:
        """Value of a parameter that is not given, as far as no preset says otherwise."""
        field = self._field(name)
        if self.defaults[name] is not None or field is None:
            return self.defaults[name]
        return field_default(field)

    def _field(self, name: str) -> dataclasses.Field[Any] | None:
        fields = (field for parameters in self.classes for field in dataclasses.fields(parameters))
        return next((field for field in fields if field.name == name), None)


def read_notebook(path: Path) -> Notebook:
    """Reads the cell tagged `parameters`, and which parameter dataclasses the notebook builds from it.

    Raises:
        ParameterError: if there is no such notebook or cell, or the cell holds more than literals.
    """
    try:
        contents = nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is damaged or in another format"
        raise ParameterError(f"{path} must be a Jupyter notebook, but {reason or error}") from error
    code = [cell for cell in contents.cells if cell.cell_type == "code"]
    tagged = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise ParameterError(f"{path} must have one cell tagged `parameters`, found {len(tagged)}")
    defaults, annotations = _read_cell(tagged[0].source, path)
    words = set(re.findall(r"\w+", "\n".join(cell.source for cell in code)))
    classes = tuple(getattr(import_module(module), name) for name, module in PARAMETER_CLASSES.items() if name in words)
    return Notebook(path, defaults, annotations, classes)


def check_values(notebook: Notebook, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the given values in their annotated types, once the notebook's dataclasses have accepted them all.

    Args:
        notebook: what may be chosen.
        given: values by parameter name; a text stands for the value that it spells, as on a command line.

    Raises:
        ParameterError: naming the parameter, what was expected and what was found.
    """
    for name in given:
        if name not in notebook.defaults:
            raise unknown(name, list(notebook.defaults))
    values = {}
    for name, value in given.items():
        annotation = notebook.annotation(name)
        values[name] = check(name, parse(value, annotation) if isinstance(value, str) else value, annotation)
    for parameters in notebook.classes:
        build(parameters, {**notebook.defaults, **values})
    # Papermill writes a tuple into the notebook as a string.
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _read_cell(source: str, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    defaults, annotations = {}, {}
    try:
        for statement in ast.parse(source).body:
            match statement:
                case ast.AnnAssign(target=ast.Name(name), annotation=annotation, value=ast.expr() as value):
                    annotations[name] = _annotation(annotation)
                case ast.Assign(targets=[ast.Name(name)], value=value):
                    annotations[name] = Any
                case _:
                    raise ValueError(f"found `{ast.unparse(statement)}`")
            defaults[name] = ast.literal_eval(value)
    except (SyntaxError, ValueError, NameError) as error:
        raise ParameterError(f"{path}: the cell tagged `parameters` must hold only literals, {error}") from error
    return defaults, annotations


def _annotation(expression: ast.expr) -> Any:
    text = expression.value if isinstance(expression, ast.Constant) and expression.value else ast.unparse(expression)
    return eval(str(text), {"__builtins__": {}}, ANNOTATIONS)


# Names with literal values that IPython itself puts into every notebook's namespace.
IPYTHON_NAMES = frozenset({"In", "Out"})


# In it Jupyter tells a kernel the path of its notebook.
NOTEBOOK_VARIABLE = "JPY_SESSION_NAME"


def is_headless() -> bool:
    """Whether no Jupyter front end is attached, as under papermill."""
    return NOTEBOOK_VARIABLE not in os.environ


def from_notebook(namespace: Mapping[str, Any], *classes: type[Any]) -> tuple[Any, ...]:
    """Builds one instance of each dataclass from a notebook's variables, for the cell after the tagged one.

    A field without a variable keeps its default. Where a field is no text, a text stands for the value that it spells:
    papermill's `-p` makes texts of lists and dicts.

    Headless, a variable with a literal value that is no field of any of the classes is refused, so that a misspelt
    parameter can't be ignored in silence. In JupyterLab a user may have variables of their own, and one that was
    misspelt and corrected is still there: what looks like a parameter is only named. There the notebook may be a copy
    made by `wsrl-kit lab`: then the kernel goes to the folder in which that was started, so that a relative path means
    what it means on the command line.

    Args:
        namespace: the notebook's `globals()`.
        classes: parameter dataclasses; a field that several of them have is given to each.

    Raises:
        ParameterError: naming the parameter, what was expected and what was found.
    """
    known = [field.name for parameters in classes for field in dataclasses.fields(parameters)]
    if is_headless():
        for name, value in namespace.items():
            if name not in known and not name.startswith("_") and name not in IPYTHON_NAMES and _is_literal(value):
                raise unknown(name, known)
    else:
        _enter_root()
        for name in namespace.get("__annotations__", {}):
            if name in namespace and name not in known and get_close_matches(name, known):
                print(f"{name} has no effect: {unknown(name, known)}")
    values = {**namespace}
    for parameters in classes:
        values |= _read_fields(parameters, values)
    instances = tuple(build(parameters, values) for parameters in classes)
    for instance in instances:
        if not is_headless() and hasattr(instance, "output_dir"):
            print(f"Relative paths begin at {Path.cwd()}. Results go to {Path(instance.output_dir).absolute()}.")
    return instances


def _read_fields(parameters: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that are fields of a dataclass, in their types; None stays, for a preset to replace."""
    annotations, read = get_type_hints(parameters), {}
    for field in dataclasses.fields(parameters):
        if field.name in values:
            value, annotation = values[field.name], annotations[field.name]
            value = parse(value, annotation) if isinstance(value, str) else value
            read[field.name] = None if value is None else check(field.name, value, annotation, field.metadata)
    return read


def _enter_root() -> None:
    root = root_of(Path(os.environ[NOTEBOOK_VARIABLE]))
    if root:
        os.chdir(root)


def _is_literal(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_literal(entry) for pair in value.items() for entry in pair)
    if isinstance(value, (list, tuple)):
        return all(_is_literal(entry) for entry in value)
    return type(value) in (bool, int, float, str, NoneType)
