"""The parameters of a notebook, read and checked without executing anything."""

import ast
import dataclasses
import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_type_hints

from wsrl_kit.errors import DataError, ParameterError
from wsrl_kit.notebook.templates import COMMANDS, root_of, template_folder
from wsrl_kit.parameters import build, check, names_of, parse, unknown

ANNOTATIONS = {
    "Any": Any, "Literal": Literal, "bool": bool, "dict": dict, "float": float, "int": int, "list": list, "str": str,
    "tuple": tuple,
}  # fmt: skip


MORE = "more"
"""The variable of a notebook that sets parameters by name for which it has no variable."""

# Kind of run -> the stages that it does not have.
ABSENT_STAGES = {"warmup": ("finetuning",), "finetune": ("warmup", "retention")}


@dataclasses.dataclass(frozen=True)
class Notebook:
    """What a notebook lets its user choose.

    Attributes:
        path: the notebook's file.
        cell: source of its parameters cell.
        defaults: value of every variable of its parameters cell.
        annotations: type of every variable of its parameters cell; `Any` where the cell does not say.
        classes: the parameter dataclasses that the notebook builds.
        kind: of the run that it makes: "warmup" where it calls `run_warmup` in the background; "" where it calls none.
    """

    path: Path
    cell: str
    defaults: dict[str, Any]
    annotations: dict[str, Any]
    classes: tuple[type[Any], ...]
    kind: str

    @property
    def groups(self) -> dict[str, dict[str, dataclasses.Field[Any]]]:
        """The parameters that its classes declare and its stages read, by heading and name."""
        found: dict[str, dict[str, dataclasses.Field[Any]]] = {}
        absent, listed = ABSENT_STAGES.get(self.kind, ()), set()
        for parameters in self.classes:
            heading = parameters.__name__
            for field in dataclasses.fields(parameters):
                heading = field.metadata["group"] or heading
                if field.metadata["stage"] not in absent and field.name not in listed:
                    found.setdefault(heading, {})[field.name] = field
                    listed.add(field.name)
        return found

    @property
    def fields(self) -> dict[str, dataclasses.Field[Any]]:
        """Every parameter that its classes declare and its stages read, by name."""
        return {name: field for group in self.groups.values() for name, field in group.items()}

    @property
    def names(self) -> list[str]:
        """Everything that may be given."""
        return list(self.fields | self.defaults)

    @property
    def values(self) -> dict[str, Any]:
        """What holds if nothing is given, by name; presets included."""
        instances = _build_all(self.classes, merged(self.defaults))
        values = {name: getattr(each, name) for each in reversed(instances) for name in each.__dataclass_fields__}
        return self.defaults | values

    def annotation(self, name: str) -> Any:
        """Type of a parameter in its dataclass, or else in the notebook; also None where the notebook allows that."""
        in_notebook = self.annotations.get(name)
        for parameters in self.classes:
            annotations = get_type_hints(parameters)
            if name in annotations:
                return annotations[name] | None if NoneType in get_args(in_notebook) else annotations[name]
        return in_notebook

    def refusal(self, name: str) -> ParameterError:
        """The error for a name that is none of its parameters: the commands that have it, or the nearest name."""
        files = {command: template_folder() / file for command, (file, _) in COMMANDS.items()}
        notebooks = {command: read_notebook(file) for command, file in files.items() if file.exists()}
        others = [command for command, notebook in notebooks.items() if name in notebook.fields]
        if others:
            named = f"{', '.join(others[:-1])} and {others[-1]} have" if len(others) > 1 else f"{others[0]} has"
            return ParameterError(f"{self.path.name} has no parameter named {name}: wsrl-kit {named} it")
        return unknown(name, self.names)


def read_notebook(path: Path) -> Notebook:
    """Reads the cell tagged `parameters`, and which parameter dataclasses of the kit the notebook builds from it.

    Read as JSON, since importing nbformat takes longer than everything else that a command's help needs.

    Raises:
        ParameterError: if there is no such notebook or cell, the cell holds more than literals, or the notebook
            imports what this version of the kit does not have.
    """
    try:
        cells = json.loads(path.read_bytes())["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        tagged = [cell for cell in code if "parameters" in cell["metadata"].get("tags", [])]
        sources = ["".join(cell["source"]) for cell in (*tagged, *code)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is damaged or in another format"
        raise ParameterError(f"{path} must be a Jupyter notebook, but {reason}") from error
    if len(tagged) != 1:
        raise ParameterError(f"{path} must have one cell tagged `parameters`, found {len(tagged)}")
    defaults, annotations = _read_cell(sources[0], path)
    text = "\n".join(sources)
    call = re.search(r"lambda progress: run_(\w+)\(", text)
    return Notebook(path, sources[0], defaults, annotations, _classes(text, path), call[1] if call else "")


def _classes(code: str, path: Path) -> tuple[type[Any], ...]:
    """The dataclasses that code gives to `from_notebook`, imported from the kit alone."""
    modules = {
        name: module
        for module, in_parentheses, plain in re.findall(_IMPORT, code, re.MULTILINE)
        for name in re.findall(r"\w+", in_parentheses or plain)
    }
    given = re.search(r"from_notebook\(\s*globals\(\),([^)]*)\)", code)
    names = re.findall(r"\w+", given[1]) if given else []
    try:
        return tuple(getattr(import_module(modules[name]), name) for name in names if name in modules)
    except (ImportError, AttributeError) as error:
        raise ParameterError(f"{path} was made for another version of the kit: {error}") from error


_IMPORT = r"^from (wsrl_kit(?:\.\w+)*) import (?:\(([^)]*)\)|(.*))$"


def as_cell(notebook: Notebook, values: Mapping[str, Any]) -> str:
    """The notebook's parameters cell with other values; those without a line of their own are set in `more`."""
    lines, rest = [], {**values}
    for line in notebook.cell.splitlines():
        parts = re.match(r"(\w+)(.*?) = .*?(  #.*)?$", line)
        if parts and (parts[1] in rest or (parts[1] == MORE and rest)):
            value = rest if parts[1] == MORE else rest.pop(parts[1])
            line = f"{parts[1]}{parts[2]} = {value!r}{parts[3] or ''}"
        lines.append(line)
    return "\n".join(lines)


def check_values(notebook: Notebook, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the given values in their annotated types, once the notebook's dataclasses have accepted them all.

    Args:
        notebook: what may be chosen.
        given: values by parameter name; a text stands for the value that it spells, as on a command line.

    Raises:
        ParameterError: naming the parameter, what was expected and what was found.
        DataError: an input file is missing.
    """
    known = notebook.names
    for name in given:
        if name not in known:
            raise notebook.refusal(name)
    values = {}
    for name, value in given.items():
        annotation = notebook.annotation(name)
        values[name] = check(name, parse(value, annotation) if isinstance(value, str) else value, annotation)
    everything = merged(notebook.defaults | values, known, cell=notebook.defaults)
    for instance in _build_all(notebook.classes, everything):
        _check_files(instance, notebook.kind)
    # Papermill writes a tuple into the notebook as a string.
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def merged(
    variables: Mapping[str, Any], known: Collection[str] | None = None, cell: Collection[str] = ()
) -> dict[str, Any]:
    """A notebook's variables, and for those without a variable what `more` says.

    Args:
        variables: by name, with `more` among them.
        known: names that `more` may have; None: any.
        cell: variables of the cell tagged `parameters`, which `more` must not have too.

    Raises:
        ParameterError: `more` is no dict, has an unknown name, or one that stands in the cell too.
    """
    more = variables.get(MORE, {})
    more = check(MORE, parse(more, dict) if isinstance(more, str) else more, dict)
    for name in more:
        if known is not None and name not in known:
            raise unknown(str(name), known)
        if name in cell:
            raise ParameterError(f"{name} must be set once, found it in `more` and as a variable")
    return more | {name: value for name, value in variables.items() if name != MORE}


def _build_all(classes: Sequence[type[Any]], values: Mapping[str, Any]) -> tuple[Any, ...]:
    """One instance of each dataclass; a field that several of them have is given to each."""
    values = {**values}
    for parameters in classes:
        values |= _read_fields(parameters, values)
    return tuple(build(parameters, values) for parameters in classes)


def _check_files(instance: Any, kind: str) -> None:
    """Refuses input files that are missing, without reading any."""
    for name in names_of(type(instance), input_of=kind):
        if paths := getattr(instance, name):
            from wsrl_kit.data.sources import expand  # not before there is something to look for: help needs no readers

            try:
                expand(paths)
            except DataError as error:
                raise DataError(f"{name}: {error}") from error


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


def is_live(live: bool | None) -> bool:
    """Whether to show widgets: as `live` says; None: if a front end is attached."""
    return not is_headless() if live is None else live


def from_notebook(namespace: Mapping[str, Any], *classes: type[Any]) -> tuple[Any, ...]:
    """Builds one instance of each dataclass from a notebook's variables, for the cell after the tagged one.

    A field takes the variable of its name, or what the dict `more` says, or keeps its default. Where a field is no
    text, a text stands for the value that it spells: papermill's `-p` makes texts of lists and dicts.

    Headless, a variable with a literal value that is no field of any of the classes is refused, so that a misspelt
    parameter can't be ignored in silence; papermill's variables, which have no annotation, win over `more`. In
    JupyterLab a user may have variables of their own, and one that was misspelt and corrected is still there: what
    looks like a parameter is only named. There the notebook may be a copy made by `wsrl-kit lab`: then the kernel goes
    to the folder in which that was started, so that a relative path means what it means on the command line.

    Args:
        namespace: the notebook's `globals()`.
        classes: parameter dataclasses; a field that several of them have is given to each.

    Raises:
        ParameterError: naming the parameter, what was expected and what was found.
    """
    known = [field.name for parameters in classes for field in dataclasses.fields(parameters)]
    variables = {name: namespace[name] for name in (*known, MORE) if name in namespace}
    annotated = namespace.get("__annotations__", {})
    if is_headless():
        for name, value in namespace.items():
            if name not in variables and not name.startswith("_") and name not in IPYTHON_NAMES and _is_literal(value):
                raise unknown(name, known)
    else:
        if root := root_of(Path(os.environ[NOTEBOOK_VARIABLE])):
            os.chdir(root)
        for name in annotated:
            if name in namespace and name not in variables and get_close_matches(name, known):
                print(f"{name} has no effect: {unknown(name, known)}")
    cell = variables.keys() & annotated.keys() if is_headless() else variables
    instances = _build_all(classes, merged(variables, known, cell))
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


def _is_literal(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_literal(entry) for pair in value.items() for entry in pair)
    if isinstance(value, (list, tuple)):
        return all(_is_literal(entry) for entry in value)
    return type(value) in (bool, int, float, str, NoneType)
