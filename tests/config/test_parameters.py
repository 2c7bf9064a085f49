import sys
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path
from typing import Any

import pytest

from wsrl_kit.analysis.config import ReportConfig
from wsrl_kit.classifier.config import ClassifierConfig
from wsrl_kit.config.config import RobotSession, SessionConfig, WSRLConfig
from wsrl_kit.errors import ParameterError
from wsrl_kit.notebook.parameters import from_notebook
from wsrl_kit.notebook.templates import copy_templates
from wsrl_kit.parameters import check_some, names_of, parameter, parse, table, validate


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


@dataclass(frozen=True)
class Tool:
    handle: str | None = parameter(None, "file", input_of=("warmup", "finetune"), of_arm=False)
    edge: float = parameter(0.5, "how sharp it is", stage="retention")


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


def test_more_sets_what_has_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    more = {"share": 0.25, "weights": "[3]"}
    (fruit,) = from_notebook({"more": more, "count": 7, "__annotations__": {"more": dict, "count": int}}, Fruit)
    assert (fruit.share, fruit.weights, fruit.count, fruit.name) == (0.25, [3], 7, "apple")
    assert from_notebook({"more": '{"share": 1}'}, Fruit) == (Fruit(share=1.0),)
    # What papermill injects has no annotation, and wins.
    assert from_notebook({"more": more, "share": 0.75}, Fruit)[0].share == 0.75


@pytest.mark.parametrize(
    ("namespace", "sentence"),
    [
        ({"more": {"shar": 1.0}}, "there is no parameter named shar: did you mean share?"),
        ({"more": {"share": 2}}, r"share must be a float in \[0, 1\], found 2"),
        ({"more": [1]}, r"more must be a dict, found \[1\]"),
        (
            {"more": {"share": 1.0}, "share": 0.5, "__annotations__": {"share": float}},
            "share must be set once, found it in `more` and as a variable",
        ),
    ],
)
def test_a_mistake_in_more_is_one_sentence(
    namespace: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    with pytest.raises(ParameterError, match=f"^{sentence}"):
        from_notebook(namespace, Fruit)


def test_in_jupyterlab_nothing_is_injected_and_more_has_no_variable_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JPY_SESSION_NAME", "notebook.ipynb")
    with pytest.raises(ParameterError, match="share must be set once"):
        from_notebook({"more": {"share": 0.25}, "share": 0.75}, Fruit)


def test_a_declaration_says_who_reads_a_parameter() -> None:
    assert names_of(Tool, stage="retention") == ("edge",)
    assert names_of(Tool, input_of="finetune", of_arm=False) == ("handle",)
    assert names_of(Tool, evaluation=True) == ()
    with pytest.raises(KeyError):
        names_of(Tool, satge="retention")


def test_a_text_of_papermill_is_read_by_the_type_of_its_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    texts = {
        "weights": "[3, 4]",
        "prices": '{"farm": 2}',
        "ripe": "true",
        "share": "1e-1",
        "name": "[3]",
        "size": "[5]",
    }
    (fruit,) = from_notebook(texts, Fruit)
    assert (fruit.weights, fruit.prices, fruit.ripe, fruit.share) == ([3, 4], {"farm": 2.0}, True, 0.1)
    assert (fruit.name, fruit.size) == ("[3]", (5,))
    with pytest.raises(ParameterError, match=r"weights must be a list\[int\], every number >= 0, found '\[3'"):
        from_notebook({"weights": "[3"}, Fruit)


@pytest.mark.parametrize("wrong", [{"environment_options": "x"}, {"environment_options": [1]}, {"preset": ["kit"]}])
def test_a_wrong_value_that_others_follow_from_is_one_sentence(
    wrong: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    with pytest.raises(ParameterError, match=f"{next(iter(wrong))} must be a "):
        from_notebook({"robot_url": "http://127.0.0.1:5000"} | wrong, WSRLConfig, RobotSession)


@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        (WSRLConfig, "offline_data_path demo_path reward_classifier checkpoint_path encoder_weights"),
        (ClassifierConfig, "classifier_data encoder_weights"),
        (SessionConfig, "output_dir"),
        (ReportConfig, "runs"),
    ],
)
def test_a_path_may_begin_at_home(parameters: type[Any], names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for name in names.split():
        assert check_some(parameters, {name: "~/x"}) == {name: "/home/me/x"}
        assert check_some(parameters, {name: "a~/~"}) == {name: "a~/~"}
        with pytest.raises(ParameterError, match=f"{name} must be a path, found '~nobody-has-this-name/x'"):
            check_some(parameters, {name: "~nobody-has-this-name/x"})


def test_a_path_in_a_list_or_dict_may_begin_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = WSRLConfig(offline_data_path=["~/a", "b"], demo_path={"~/demos": ["~/c", "~"], "more": "~/d/*"})
    assert config.offline_data_path == ["/home/me/a", "b"]
    assert config.demo_path == {"~/demos": ["/home/me/c", "/home/me"], "more": "/home/me/d/*"}


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a notebook that JupyterLab has opened, its kernel in the copy's folder."""
    copy_templates(tmp_path / "project/lab", tmp_path / "project")
    copy = tmp_path / "project/lab/01_offline_warmup.ipynb"
    monkeypatch.setenv("JPY_SESSION_NAME", str(copy))
    monkeypatch.chdir(copy.parent)
    return copy


def test_relative_paths_of_a_copy_begin_where_commands_run(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # a cell may be run again
        from_notebook({"output_dir": "runs/warmup"}, SessionConfig)
        assert Path.cwd() == copy.parent.parent
        assert f"Results go to {copy.parent.parent}/runs/warmup." in capsys.readouterr().out


def test_a_copy_in_a_folder_among_the_copies_has_their_root(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JPY_SESSION_NAME", str(copy.parent / "mine/today/01_offline_warmup.ipynb"))
    from_notebook({}, SessionConfig)
    assert Path.cwd() == copy.parent.parent


def test_headless_and_without_copies_relative_paths_begin_at_the_current_folder(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "other.ipynb"))
    from_notebook({}, SessionConfig)
    assert Path.cwd() == copy.parent
    monkeypatch.delenv("JPY_SESSION_NAME")
    from_notebook({}, SessionConfig)
    assert Path.cwd() == copy.parent


@pytest.mark.parametrize(
    "record", ["", "[]", '{"root": 3, "templates": {}}', '{"root": "gone", "templates": {}}', "[" * 9999]
)
def test_a_damaged_record_of_copies_is_none(copy: Path, record: str) -> None:
    (copy.parent / ".wsrl-kit.json").write_text(record)
    from_notebook({}, SessionConfig)
    assert Path.cwd() == copy.parent
    assert copy.name in copy_templates(copy.parent, copy.parent.parent)["kept"]


def test_in_a_notebook_a_misspelt_parameter_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JPY_SESSION_NAME", "notebook.ipynb")
    namespace = {"shar": 0.25, "of_mine": 3, "__annotations__": {"shar": float, "of_mine": int, "gone": int}}
    from_notebook(namespace, Fruit)
    assert capsys.readouterr().out == "shar has no effect: there is no parameter named shar: did you mean share?\n"


def test_the_table_shows_what_is_not_the_default() -> None:
    shown = table(Fruit(count=7))
    lines = str(shown).splitlines()
    assert [line for line in lines if line.startswith("* count")] == ["* count    7                how many there are"]
    assert sum(line.startswith("*") for line in lines) == 1
    assert "| count | `7` | `3` | how many there are |" in shown._repr_markdown_()
    assert r"as seen \| from outside" in shown._repr_markdown_()
    assert '<b>7</b></td><td style="text-align:left">3</td>' in shown._repr_html_()
