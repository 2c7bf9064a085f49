"""What follows a run, as the command and the parameters cell that do it."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wsrl_kit.config.presets import PRESETS
from wsrl_kit.errors import RunError
from wsrl_kit.notebook.parameters import Notebook, as_cell, read_notebook
from wsrl_kit.notebook.templates import COMMANDS, template_folder
from wsrl_kit.runs.run import FILTERED_FILE, WARMUP_FILE, RunRecord


def continue_run(run: RunRecord) -> str:
    """How to go on with a warmup or fine-tuning run.

    Raises:
        RunError: it is of another kind, or part of an ablation.
    """
    if run.kind not in ("warmup", "finetune"):
        raise RunError(f"{run.folder} holds a {run.kind} run: the command that began it continues it")
    if run.arm:
        raise RunError(f"{run.folder} is part of a larger experiment, as arm {run.arm}: its command continues it")
    notebook = notebook_of(run.kind)
    steps = "warmup_steps" if run.kind == "warmup" else "online_steps"
    more = f"# it is finished: a larger {steps} goes on\n" if run.status == "finished" else ""
    return more + _command_and_cell(run.kind, notebook, given(run.parameters, notebook), run.folder)


def finetune_from(run: RunRecord) -> str:
    """How to fine-tune from a warmup's checkpoint, with its parameters.

    Raises:
        RunError: there is no such checkpoint.
    """
    checkpoint, kept = run.folder / WARMUP_FILE, run.folder / FILTERED_FILE
    if not checkpoint.exists():
        raise RunError(f"{run.folder} holds no {WARMUP_FILE} to fine-tune from: expected a finished warmup")
    notebook = notebook_of("finetune")
    values = given(run.parameters, notebook) | {"checkpoint_path": str(checkpoint)}
    values |= {"demo_path": str(kept)} if kept.exists() else {}
    return _command_and_cell("finetune", notebook, values, Path(f"{run.folder}-finetune"))


def report_on(runs: Sequence[RunRecord]) -> str:
    """The command that reports on fine-tuning runs.

    Raises:
        RunError: there is none among them.
    """
    folders = [str(run.folder) for run in runs if run.kind == "finetune"]
    if not folders:
        raise RunError("a report needs at least one fine-tuning run, found none among those ticked")
    return shlex.join(["wsrl-kit", "report", *folders, "--out", "runs/report"])


def cell_of(config: Any, command: str) -> str:
    """The parameters cell of a command's notebook with the values of a config."""
    notebook = notebook_of(command)
    return as_cell(notebook, given(asdict(config), notebook))


def notebook_of(command: str) -> Notebook:
    """The notebook that a command executes."""
    return read_notebook(template_folder() / COMMANDS[command][0])


def given(parameters: Mapping[str, Any], notebook: Notebook) -> dict[str, Any]:
    """Those of a run's parameters that the notebook has, where they differ from what it and their preset would take."""
    values = notebook.values | PRESETS[parameters.get("preset", "kit")]
    usual, parameters = json.loads(json.dumps([values, parameters]))
    known = {name: value for name, value in parameters.items() if name in notebook.fields}
    return {name: value for name, value in known.items() if value != usual.get(name)}


def _command_and_cell(command: str, notebook: Notebook, values: Mapping[str, Any], folder: Path) -> str:
    flags = [shlex.quote(f"--{name}={value}") for name, value in values.items()]
    line = " \\\n    ".join([f"wsrl-kit {command} --out {shlex.quote(str(folder))}", *flags])
    cell = as_cell(notebook, {**values, "output_dir": str(folder)})
    return f"{line}\n\n# or the parameters cell of {notebook.path.name}:\n{cell}"
