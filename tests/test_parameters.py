import sys
from dataclasses import FrozenInstanceError, dataclass
from typing import Any

import pytest

from wsrl_kit.errors import ParameterError
from wsrl_kit.parameters import from_notebook, parameter, parse, table, validate


@dataclass(frozen=True)
class Fruit:
    name: str = parameter("apple", "what it is called")
    count: int = parameter(3, "how many there are", minimum=1)
    share: float = parameter(0.5, "part that is eaten", minimum=0.0, maximum=1.0)
    colour: str = parameter("red", "as seen | from outside", choices=("red", "green"))
    weights: list[int] = parameter([1, 2], "weight of each", minimum=0)
    prices: dict[str, float] = parameter({"market": 1.0}, "price by place", minimum=0.0)
    size: tuple[int, ...] = parameter((1, 2), "edges")
    ripe: bool | None = parameter(None, "whether it can be eaten")
    files: str | list[str] | dict[str, str | list[str]] | None = parameter(None, "pictures")

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True)
class Basket:
    count: int = parameter(1, "how many there are")
    handle: bool = parameter(True, "whether it has one")

    def __post_init__(self) -> None:
        validate(self)


def test_values_are_stored_in_their_annotated_type() -> None:
    fruit = Fruit(share=1, prices={"farm": 2}, size=[4, 5])  # type: ignore[arg-type]
    assert type(fruit.share) is float
    assert type(fruit.prices["farm"]) is float
    assert fruit.size == (4, 5)
    with pytest.raises(FrozenInstanceError):
        fruit.count = 4  # type: ignore[misc]


def test_a_mutable_default_is_not_shared() -> None:
    Fruit().weights.append(9)
    assert Fruit().weights == [1, 2]


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("share", 1.5, "share must be a float in [0, 1], found 1.5"),
        ("share", float("nan"), "share must be a float in [0, 1], found nan"),
        ("share", "0.5", "share must be a float in [0, 1], found '0.5'"),
        ("count", 0, "count must be an int >= 1, found 0"),
        ("count", True, "count must be an int >= 1, found True"),
        ("count", 2.0, "count must be an int >= 1, found 2.0"),
        ("colour", "blue", "colour must be one of 'red', 'green', found 'blue'"),
        ("weights", [1, -1], "weights must be a list[int], every number >= 0, found [1, -1]"),
        ("weights", 3, "weights must be a list[int], every number >= 0, found 3"),
        ("prices", {"farm": -1.0}, "prices must be a dict[str, float], every number >= 0, found {'farm': -1.0}"),
        ("ripe", 1, "ripe must be a bool | None, found 1"),
        ("files", 3, "files must be a str | list[str] | dict[str, str | list[str]] | None, found 3"),
        ("files", {"demos": [3]}, "files must be a str | list[str] | dict[str, str | list[str]] | None, found"),
    ],
)
def test_a_wrong_value_is_refused_in_one_sentence(name: str, value: Any, sentence: str) -> None:
    with pytest.raises(ParameterError) as refused:
        Fruit(**{name: value})
    assert str(refused.value).startswith(sentence)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("[64, 64]", list[int], [64, 64]),
        ('{"demos": ["a.pkl"]}', str | dict[str, list[str]], {"demos": ["a.pkl"]}),
        ("1e-3", float, 0.001),
        ("3", float, 3.0),
        ("50_000", int, 50_000),
        ("-3", float | None, -3.0),
        ("true", bool, True),
        ("False", bool, False),
        ("None", str | None, None),
        ("null", float | None, None),
        ("data/demos.pkl", str | list[str] | None, "data/demos.pkl"),
        ("3", str | None, "3"),
        ("None", str, "None"),
        ("yes", bool, "yes"),
    ],
)
def test_a_text_is_read_by_the_type_of_its_parameter(text: str, annotation: Any, value: Any) -> None:
    found = parse(text, annotation)
    assert found == value
    assert type(found) is type(value)


def test_a_notebook_gives_every_class_its_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    namespace = {"count": 7, "share": 0.25, "sys": sys, "Fruit": Fruit, "In": [""], "Out": {}, "_hidden": 3}
    fruit, basket = from_notebook(namespace, Fruit, Basket)
    assert (fruit.count, fruit.share, fruit.name) == (7, 0.25, "apple")
    assert (basket.count, basket.handle) == (7, True)


def test_an_unknown_variable_is_an_error_only_headless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    with pytest.raises(ParameterError, match="there is no parameter named shar: did you mean share?"):
        from_notebook({"shar": 0.25}, Fruit)
    monkeypatch.setenv("JPY_SESSION_NAME", "notebook.ipynb")
    assert from_notebook({"shar": 0.25}, Fruit) == (Fruit(),)


def test_the_table_shows_what_is_not_the_default() -> None:
    shown = table(Fruit(count=7))
    lines = str(shown).splitlines()
    assert [line for line in lines if line.startswith("* count")] == ["* count    7                how many there are"]
    assert sum(line.startswith("*") for line in lines) == 1
    assert "| count | `7` | `3` | how many there are |" in shown._repr_markdown_()
    assert r"as seen \| from outside" in shown._repr_markdown_()
    assert '<b>7</b></td><td style="text-align:left">3</td>' in shown._repr_html_()
