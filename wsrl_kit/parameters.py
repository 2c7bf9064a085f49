"""Dataclass fields as user-facing parameters: checked by type and range, shown as a table."""

import ast
import copy
import dataclasses
import html
import json
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from wsrl_kit.errors import ParameterError

T = TypeVar("T")

FEW = 20
"""Most known names that an error lists."""


def parameter(
    default: Any,
    help: str,
    *,
    minimum: int | float | None = None,
    maximum: int | float | None = None,
    choices: Sequence[Any] | None = None,
    path: bool = False,
    group: str = "",
    stage: str | tuple[str, ...] | None = None,
    input_of: tuple[str, ...] = (),
    network: bool = False,
    of_arm: bool = True,
    evaluation: bool = False,
) -> Any:
    """Declares a field of a parameter dataclass; a mutable default is copied for every instance.

    The last five say who reads the parameter; `names_of` answers from them.

    Args:
        help: one line for the parameter table and the command line.
        minimum, maximum: inclusive; in a list or dict, of every entry.
        path: texts (in a dict the values) are paths; a leading `~` is a home folder.
        group: heading of this and following parameters.
        stage: the only stage, or stages, that read it: "warmup", "retention" or "finetuning".
        input_of: kinds of runs that depend on the files it names.
        network: a checkpoint only fits an agent with the same value.
        of_arm: part of an arm's setting, unlike task, data, seed, and step count.
        evaluation: runs with other values are not comparable.
    """
    metadata = {
        "help": help,
        "minimum": minimum,
        "maximum": maximum,
        "choices": choices,
        "path": path,
        "group": group,
        "stage": stage,
        "input_of": input_of,
        "network": network,
        "of_arm": of_arm,
        "evaluation": evaluation,
    }
    if isinstance(default, (list, dict, set)):
        return dataclasses.field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def names_of(parameters: type[Any], **facts: Any) -> tuple[str, ...]:
    """Names of the parameters declared with all these facts, such as `stage="retention"` (or in a tuple)."""

    def states(stated: Any, wanted: Any) -> bool:
        return wanted in stated if isinstance(stated, tuple) else stated == wanted

    return tuple(
        field.name
        for field in dataclasses.fields(parameters)
        if all(states(field.metadata[fact], wanted) for fact, wanted in facts.items())
    )


def validate(instance: Any) -> None:
    """Checks every field of a dataclass instance, and stores it in its annotated type (1 as 1.0, a list as a tuple).

    Raises:
        ParameterError: as `check`.
    """
    annotations = get_type_hints(type(instance))
    for field in dataclasses.fields(instance):
        value = check(field.name, getattr(instance, field.name), annotations[field.name], field.metadata)
        # Validation belongs to construction, which is the one moment at which a frozen instance may change.
        object.__setattr__(instance, field.name, value)


def check(name: str, value: Any, annotation: Any, limits: Mapping[str, Any] | None = None) -> Any:
    """Returns the value in its annotated type; `limits` are metadata of `parameter`.

    Raises:
        ParameterError: naming the parameter, what was expected and what was found.
    """
    limits = limits or {}
    try:
        conformed = _conform(value, annotation)
    except TypeError:
        fits = False
    else:
        fits = all(_within(leaf, limits) for leaf in _leaves(conformed))
    if not fits:
        raise ParameterError(f"{name} must be {_expectation(annotation, limits)}, found {value!r}")
    return _with_home(conformed, name) if limits.get("path") else conformed


def user_path(text: str, name: str = "a path") -> Path:
    """The path that a text means; `~` or `~user` in front is a home folder.

    Raises:
        ParameterError: there is no such user.
    """
    expanded = os.path.expanduser(text)
    if expanded.startswith("~") and "/" in text:
        user = text.partition("/")[0]
        raise ParameterError(
            f"{name} must be a path, found {text!r}: {user} is nobody's home folder; a folder of that name is ./{user}"
        )
    return Path(expanded)


def parse(text: str, annotation: Any) -> Any:
    """Reads a value from a command line by its parameter's type: a Python or JSON literal, else a text for `check`."""
    if annotation is str:
        return text
    for read in (ast.literal_eval, json.loads):
        try:
            value = read(text)
            conformed = _conform(value, annotation)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        return text if isinstance(value, str) else conformed
    return text


def check_distinct(name: str, values: Sequence[Any]) -> None:
    """Raises ParameterError for an empty list or a repeated entry."""
    if not values or len(set(values)) < len(values):
        raise ParameterError(f"{name} must be a list of different entries, at least one, found {values}")


def check_some(parameters: type[Any], values: Mapping[str, Any], kind: str = "parameter") -> dict[str, Any]:
    """Checks values for some fields of a parameter dataclass; returns them in their annotated types.

    Args:
        kind: what users call such a field.

    Raises:
        ParameterError: an unknown name, or as `check`.
    """
    fields = {field.name: field for field in dataclasses.fields(parameters)}
    annotations = get_type_hints(parameters)
    for name in values:
        if name not in fields:
            raise unknown(str(name), list(fields), kind)
    return {name: check(name, value, annotations[name], fields[name].metadata) for name, value in values.items()}


def unknown(name: str, known: Collection[str], kind: str = "parameter") -> ParameterError:
    """The error for an unknown name, with the nearest known name, or all if they are few."""
    nearest = get_close_matches(name, known, n=1)
    if nearest:
        suggestion = f"did you mean {nearest[0]}?"
    elif len(known) <= FEW:
        suggestion = f"known are {', '.join(sorted(known))}"
    else:
        suggestion = "no known name is like it"
    return ParameterError(f"there is no {kind} named {name}: {suggestion}")


def build(parameters: type[T], values: Mapping[str, Any]) -> T:
    """An instance from the values that are its fields, after the class's `completed` (a preset's values), if any."""
    names = [field.name for field in dataclasses.fields(parameters)]  # type: ignore[arg-type]
    completed = getattr(parameters, "completed", dict)({**values})
    return parameters(**{name: completed[name] for name in names if name in completed})


@dataclasses.dataclass(frozen=True, repr=False)
class ParameterTable:
    """Parameters as a table for Jupyter, a terminal and markdown.

    Attributes:
        rows: name, value, default ("" if unchanged), help.
    """

    title: str
    rows: tuple[tuple[str, str, str, str], ...]

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        widths = [max((len(row[column]) for row in self.rows), default=0) for column in (0, 1)]
        lines = [f"{self.title} (* = not the default)"]
        for name, value, default, help in self.rows:
            lines.append(f"{'*' if default else ' '} {name:{widths[0]}}  {value:{widths[1]}}  {help}".rstrip())
        return "\n".join(lines)

    def _repr_markdown_(self) -> str:
        lines = [f"| {self.title} | value | default | |", "|---|---|---|---|"]
        for row in self.rows:
            name, value, default, help = (cell.replace("|", "\\|") for cell in row)
            lines.append(f"| {name} | `{value}` | {f'`{default}`' if default else ''} | {help} |")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head = f"<tr><th>{html.escape(self.title)}</th><th>value</th><th>default</th><th></th></tr>"
        body = []
        for name, value, default, help in self.rows:
            shown = f"<b>{html.escape(value)}</b>" if default else html.escape(value)
            cells = (html.escape(name), shown, html.escape(default), html.escape(help))
            body.append("<tr>" + "".join(f'<td style="text-align:left">{cell}</td>' for cell in cells) + "</tr>")
        changes = ", ".join(f"{name} = {value}" for name, value, default, _ in self.rows if default)
        summary = html.escape(f"{self.title}: {changes or 'all as by default'}")
        table = f"<table><thead>{head}</thead><tbody>{''.join(body)}</tbody></table>"
        return f"<details><summary>{summary}</summary>{table}</details>"


def table(instance: Any) -> ParameterTable:
    """The table of an instance's parameters."""
    rows = []
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        default = field_default(field)
        changed = "" if value == default else "required" if default is dataclasses.MISSING else repr(default)
        rows.append((field.name, repr(value), changed, field.metadata.get("help", "")))
    return ParameterTable(type(instance).__name__, tuple(rows))


def field_default(field: Any) -> Any:
    """The default of a dataclass field, or `dataclasses.MISSING`."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _conform(value: Any, annotation: Any) -> Any:
    """The value in the annotated type, or TypeError."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return value
    if origin in (Union, UnionType):
        return _conform_to_any(value, arguments)
    if origin is Literal and value in arguments:
        return value
    kind = origin or annotation
    if kind in (list, tuple) and isinstance(value, (list, tuple)):
        return kind(_conform_items(value, arguments))
    if kind is dict and isinstance(value, dict):
        of_key, of_value = arguments or (Any, Any)
        return {_conform(key, of_key): _conform(entry, of_value) for key, entry in value.items()}
    # Compared, since an int of 400 digits is no float, and NaN is no less than anything.
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if kind is float and is_number:
        return float(value)
    if annotation in (bool, str, NoneType) and isinstance(value, annotation):
        return value
    if annotation is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    raise TypeError


def _conform_to_any(value: Any, annotations: tuple[Any, ...]) -> Any:
    for annotation in annotations:
        try:
            return _conform(value, annotation)
        except TypeError:
            continue
    raise TypeError


def _conform_items(values: Sequence[Any], annotations: tuple[Any, ...]) -> list[Any]:
    if not annotations:
        return list(values)
    if len(annotations) == 1 or annotations[1] is Ellipsis:
        annotations = (annotations[0],) * len(values)
    if len(annotations) != len(values):
        raise TypeError
    return [_conform(value, annotation) for value, annotation in zip(values, annotations, strict=True)]


def _with_home(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return {key: _with_home(entry, name) for key, entry in value.items()}
    if isinstance(value, list):
        return [_with_home(entry, name) for entry in value]
    return str(user_path(value, name)) if isinstance(value, str) and value.startswith("~") else value


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for entry in value:
            yield from _leaves(entry)
    elif value is not None:
        yield value


def _within(value: Any, limits: Mapping[str, Any]) -> bool:
    minimum, maximum, choices = limits.get("minimum"), limits.get("maximum"), limits.get("choices")
    if choices is not None and value not in choices:
        return False
    if isinstance(value, str):
        return True
    return (minimum is None or value >= minimum) and (maximum is None or value <= maximum)


def _expectation(annotation: Any, limits: Mapping[str, Any]) -> str:
    minimum, maximum, choices = limits.get("minimum"), limits.get("maximum"), limits.get("choices")
    if choices is not None:
        return f"one of {', '.join(repr(choice) for choice in choices)}"
    kind = annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)
    kind = kind.replace("typing.", "").replace("NoneType", "None")
    text = f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
    if annotation not in (int, float) and (minimum is not None or maximum is not None):
        text += ", every number"
    if minimum is not None and maximum is not None:
        return f"{text} in [{minimum:.10g}, {maximum:.10g}]"
    if minimum is not None:
        return f"{text} >= {minimum:.10g}"
    if maximum is not None:
        return f"{text} <= {maximum:.10g}"
    return text
