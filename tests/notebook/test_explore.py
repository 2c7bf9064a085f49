"""The explorer's widgets, and the commands that follow a run."""

import asyncio
import re
import shlex
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import pytest

from synthetic_runs import write_finetune, write_warmup
from widgets_here import find, press, widgets
from wsrl_kit.analysis.overview import RunFolders
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.errors import RunError
from wsrl_kit.notebook import explore
from wsrl_kit.notebook.explore import Explorer
from wsrl_kit.notebook.parameters import as_cell, check_values, read_notebook
from wsrl_kit.notebook.run_actions import continue_run, finetune_from, report_on
from wsrl_kit.notebook.templates import COMMANDS, template_folder
from wsrl_kit.runs.run import Run, read_run
from wsrl_kit.runs.traces import Trace, trace_name, write_traces

SUCCESS = "evaluation/success_sampled"


def ticked(box: ipywidgets.Widget) -> dict[str, bool]:
    """Name of each listed run -> whether it is ticked."""
    pairs = [
        w.children
        for w in widgets(box)
        if [type(c) for c in getattr(w, "children", ())] == [ipywidgets.Checkbox, ipywidgets.HTML]
    ]
    return {re.search(r"<span[^>]*>(.*?)</span>", cells.value)[1]: tick.value for tick, cells in pairs}  # type: ignore[index]


def curves(box: ipywidgets.Widget) -> str:
    return next(w.value for w in widgets(box) if type(w) is ipywidgets.HTML and "<svg" in w.value)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    write_finetune(tmp_path / "rlpd_all" / "seed_0", "rlpd_all", 0, budget=400)
    write_finetune(tmp_path / "rlpd_all" / "seed_1", "rlpd_all", 1, budget=400)
    write_finetune(tmp_path / "alive", "", 2, budget=400, last_step=200)
    return tmp_path


def explorer(folder: Path) -> Explorer:
    shown = Explorer(RunFolders(folder), SUCCESS, "environment_step", 0.0)
    shown.refresh()
    return shown


def test_runs_are_narrowed_by_words_arms_and_seeds(runs: Path) -> None:
    box = explorer(runs).box
    assert ticked(box) == {"alive": True, "rlpd_all/seed_0": True, "rlpd_all/seed_1": True}
    find(box, ipywidgets.Text, "only").value = "RLPD finished"
    assert list(ticked(box)) == ["rlpd_all/seed_0", "rlpd_all/seed_1"]
    find(box, ipywidgets.SelectMultiple, "seeds").value = ["1", "2"]
    assert list(ticked(box)) == ["rlpd_all/seed_1"]
    actions = next(w for w in widgets(box) if find(box, ipywidgets.Button, "Clip") in getattr(w, "children", ()))
    assert actions.layout.display == ""
    press(box, "Untick all")
    assert actions.layout.display == "none"  # there is nothing to act on
    find(box, ipywidgets.Text, "only").value = ""
    assert ticked(box) == {"alive": False, "rlpd_all/seed_1": False}


def test_what_happens_on_disk_is_seen_and_choices_stay(runs: Path) -> None:
    shown = explorer(runs)
    box = shown.box
    find(box, ipywidgets.SelectMultiple, "arms").value = [""]
    press(box, "Continue ...")
    told = find(box, ipywidgets.Textarea).value
    assert "wsrl-kit finetune --out" in told and "seed_1 is part of a larger experiment" in told
    press(box, "Report ...")
    assert find(box, ipywidgets.Textarea).value.startswith("wsrl-kit report ")
    picture = curves(box)
    assert "<title>alive: " in picture
    write_finetune(runs / "new", "new_arm", 0, budget=400)
    shown.refresh()
    assert ticked(box) == {"alive": True, "new": True}  # ticked as it comes
    find(box, ipywidgets.Dropdown, "metric").value = "training/peak_contact_force"
    assert curves(box) != picture


def test_a_task_without_success_shows_its_return(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", kind="finetune", arm="", seed=0, parameters={})
    run.record("online", 0, 0, {SUCCESS: float("nan"), "evaluation/return_sampled": -3.0})
    assert find(explorer(tmp_path).box, ipywidgets.Dropdown, "metric").value == "evaluation/return_sampled"


@pytest.mark.slow
def test_the_clip_of_the_run_that_was_evaluated_last_is_drawn_in_another_process(runs: Path) -> None:
    box = explorer(runs).box
    says = lambda: [w.value for w in widgets(box) if type(w) is ipywidgets.HTML]  # noqa: E731
    press(box, "Clip")
    assert "No ticked run has been evaluated yet." in says()
    episode = Trace(0, np.zeros((3, 6), np.float32), np.zeros(3, np.float32), 1.0, 1.0, np.zeros(3, np.float32))
    for name in ("alive", "rlpd_all/seed_0"):
        (runs / name / "traces").mkdir()
        write_traces(runs / name / trace_name("online", 0), [episode])

    press(box, "Clip")
    deadline = time.monotonic() + 120
    while "is being drawn" in str(says()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "did not play the recorded episode again" in str(says())  # its actions are made up


def test_many_runs_come_in_pages_and_bad_ones_with_their_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explore, "ROWS", 2)
    for number in range(5):
        Run.open(tmp_path / f"run_{number}", kind="finetune", arm="", seed=0, parameters={}).finish({})
    (tmp_path / "run_0/run.json").write_text("<b>")
    box = explorer(tmp_path).box
    assert list(ticked(box)) == ["run_0", "run_1"]
    assert any("damaged" in w.value for w in widgets(box) if type(w) is ipywidgets.HTML)
    assert not any("<b>" in w.value for w in widgets(box) if type(w) is ipywidgets.HTML)
    for _ in range(3):
        press(box, "Next")
    assert list(ticked(box)) == ["run_4"]


def test_deletion_is_asked_twice_and_spares_what_is_running(runs: Path) -> None:
    shown = explorer(runs)
    press(shown.box, "Delete ...")
    press(shown.box, "Keep")
    press(shown.box, "Delete ...")
    assert (runs / "rlpd_all/seed_1").exists()
    live = Run.open(runs / "alive", kind="finetune", arm="", seed=2, parameters=read_run(runs / "alive").parameters)
    press(shown.box, "Delete for good")
    assert list(ticked(shown.box)) == ["alive"]
    assert not (runs / "rlpd_all/seed_1").exists()
    assert any("is being written to" in w.value for w in widgets(shown.box) if type(w) is ipywidgets.HTML)
    live.close()


def test_live_the_folders_are_looked_at_again_and_again(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    displayed: list[Any] = []
    monkeypatch.setattr(explore, "display", displayed.append)
    monkeypatch.setattr(explore, "REFRESH_SECONDS", 0.01)
    monkeypatch.setattr(explore, "LOOK_SHARE", 1.0)

    async def look() -> None:
        explore.explore(runs, SUCCESS, "environment_step", 0.0, live=True)
        while not ticked(displayed[0]):
            await asyncio.sleep(0.05)
        Run.open(runs / "new", kind="finetune", arm="", seed=0, parameters={}).finish({})
        while "new" not in ticked(displayed[0]):
            await asyncio.sleep(0.05)

    asyncio.run(asyncio.wait_for(look(), 60))


def flags_of(text: str) -> tuple[str, dict[str, str]]:
    """Command and flags of the command that a text begins with."""
    command = text.split("\n\n")[0].replace("\\\n", " ")
    words = shlex.split("\n".join(line for line in command.splitlines() if not line.startswith("#")))
    flags = dict(word.removeprefix("--").split("=", 1) for word in words if "=" in word)
    return words[1], flags | {"out": words[words.index("--out") + 1]}


def write_run(folder: Path, kind: str, **parameters: Any) -> Path:
    config = asdict(WSRLConfig(**parameters))
    Run.open(folder, kind=kind, arm="", seed=config["seed"], parameters=config).finish({})
    return folder


def test_the_command_that_continues_a_run_gives_its_parameters(tmp_path: Path) -> None:
    options = {"difficulty": "easy", "success_key": "it's done"}
    given = {"seed": 3, "hidden_sizes": (64, 64), "environment_options": options, "online_steps": 500}
    folder = write_run(tmp_path / "run", "finetune", **given)
    text = continue_run(read_run(folder))
    command, flags = flags_of(text)
    assert (command, flags.pop("out")) == ("finetune", str(folder))
    notebook = read_notebook(template_folder() / COMMANDS[command][0])
    assert WSRLConfig(**check_values(notebook, flags)) == WSRLConfig(**given)  # type: ignore[arg-type]
    assert text.startswith("# it is finished: a larger online_steps goes on")


def test_fine_tuning_starts_from_the_warmups_checkpoint_and_kept_data(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "warm up", "warmup", hidden_sizes=(32,), retention_ratio=0.5)
    with pytest.raises(RunError, match=r"holds no warmup\.npz to fine-tune from"):
        finetune_from(read_run(folder))
    for name in ("warmup.npz", "filtered_demos.pkl"):
        (folder / name).touch()
    text = finetune_from(read_run(folder))
    command, flags = flags_of(text)
    assert command == "finetune"
    assert flags == {
        "hidden_sizes": "[32]",
        "checkpoint_path": f"{folder}/warmup.npz",
        "demo_path": f"{folder}/filtered_demos.pkl",
        "out": f"{folder}-finetune",
    }
    cell = text.split(":\n")[1]
    namespace: dict[str, Any] = {}
    exec(cell, namespace)
    assert namespace["checkpoint_path"] == f"{folder}/warmup.npz"
    assert namespace["more"] == {"hidden_sizes": [32]}


def test_runs_that_no_command_continues_say_so(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is part of a larger experiment, as arm rlpd_all"):
        continue_run(read_run(runs / "rlpd_all/seed_0"))
    write_warmup(tmp_path / "warmup", 0)
    with pytest.raises(RunError, match="a report needs at least one fine-tuning run"):
        report_on([read_run(tmp_path / "warmup")])
    assert report_on([read_run(runs / "alive")]) == f"wsrl-kit report {runs}/alive --out runs/report"


@pytest.mark.parametrize("name", sorted(path.name for path in template_folder().glob("0[012]*.ipynb")))
def test_a_parameters_cell_with_its_own_values_is_itself(name: str) -> None:
    notebook = read_notebook(template_folder() / name)
    assert as_cell(notebook, {}) == notebook.cell
    values = {name: value for name, value in notebook.defaults.items() if name != "more"}
    namespace: dict[str, Any] = {}
    exec(as_cell(notebook, values), namespace)
    assert {name: namespace[name] for name in values} == values
