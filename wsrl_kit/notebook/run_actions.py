"""What may follow runs: a clip, the command and parameters cell that go on from them, deletion; and their buttons."""

import html
import json
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ipywidgets
from IPython.display import Image, Video
from ipywidgets import Layout

from wsrl_kit.analysis.clips import write_clip
from wsrl_kit.config.presets import PRESETS
from wsrl_kit.errors import RunError, WSRLKitError
from wsrl_kit.notebook.parameters import Notebook, as_cell, is_headless, read_notebook
from wsrl_kit.notebook.templates import COMMANDS, template_folder
from wsrl_kit.runs.run import FILTERED_FILE, WARMUP_FILE, RunRecord, delete_run
from wsrl_kit.runs.traces import find_traces
from wsrl_kit.text import one_line, printable

UNREADABLE = "None of the ticked runs can be read"

# The training goes first, though the clip must not wait for its end.
_WATCH = "import os, sys; from wsrl_kit.cli import main; os.nice(5); sys.exit(main(['watch', sys.argv[1]]))"


def run_clip(folder: Path) -> Video | Image | None:
    """A run's clip, playable in JupyterLab and in the notebook's HTML; still pictures where MP4 can't be written.

    Prints a sentence where there is nothing to show: a notebook must not fail for a clip.
    """
    if is_headless():
        print("writing the clip", flush=True)
    try:
        clip = write_clip(folder)
    except WSRLKitError as error:
        print(error)
        return None
    for remark in clip.remarks:
        print(remark)
    if clip.path.suffix == ".png":
        return Image(clip.path)
    return Video(clip.path, embed=True, html_attributes="controls loop muted style='max-width: 100%'")


def last_evaluated(records: Sequence[RunRecord]) -> tuple[Path, float] | None:
    """The folder of the run with the newest traces, and the time of these; None without any."""
    found = []
    for record in records:
        for path in find_traces(record.folder).values():
            with suppress(OSError):  # deleted meanwhile
                found.append((record.folder, path.stat().st_mtime))
    return max(found, key=lambda each: each[1], default=None)


def make_clip_apart(folder: Path) -> tuple[Path | None, str]:
    """Writes a run's clip in a process of low priority; returns its file, and what there is to say."""
    watched = subprocess.run([sys.executable, "-c", _WATCH, folder], capture_output=True, text=True, errors="replace")
    written = Path(watched.stdout.splitlines()[-1]) if watched.returncode == 0 else None
    return written, one_line(watched.stderr.strip().removeprefix("wsrl-kit: error: "))


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


def button(label: str, work: Callable[[], None], tooltip: str = "", style: str = "") -> ipywidgets.Button:
    """A button as wide as its label."""
    made = ipywidgets.Button(description=label, tooltip=tooltip, button_style=style, layout=Layout(width="auto"))
    made.on_click(lambda _: work())
    return made


def to_copy(text: ipywidgets.Textarea) -> ipywidgets.VBox:
    """The text under a button that copies it, also where a browser has no clipboard for pages without a certificate."""
    script = "this.closest('.widget-vbox').querySelector('textarea').select(); document.execCommand('copy')"
    copy = ipywidgets.HTML(f'<button class="jupyter-button widget-button" onclick="{script}">Copy</button>')
    return ipywidgets.VBox([copy, text])


def code_below(cell: ipywidgets.Textarea) -> ipywidgets.Accordion:
    """A folded parameters cell, to copy."""
    return ipywidgets.Accordion([to_copy(cell)], titles=["As code: the parameters cell with these values"])


def run_actions(
    runs: Callable[[], list[RunRecord]], deleted: Callable[[], None]
) -> tuple[ipywidgets.Widget, ipywidgets.Widget]:
    """The buttons, hidden at first, and what they say. A run is deleted after a second button is pressed.

    Args:
        runs: that the buttons are about, when one is pressed.
        deleted: called after a deletion.
    """
    text = ipywidgets.Textarea(layout=Layout(width="100%", height="16em"))
    told_text = to_copy(text)
    told_text.layout.display = "none"
    question, clip = ipywidgets.VBox(), ipywidgets.VBox()
    drawing = threading.Lock()
    drawn: tuple[Path, float] | None = None

    def say(sentence: str, *buttons: ipywidgets.Button) -> None:
        question.children = (ipywidgets.HTML(html.escape(printable(sentence))), ipywidgets.HBox(buttons))

    def tell(command: Callable[[Any], str], of_all: bool = False) -> None:
        """The command for each run, or for all of them together."""
        told = []
        for run in [runs()] if of_all else runs():
            try:
                told.append(command(run))
            except RunError as error:
                told.append(f"# {error}")
        text.value, told_text.layout.display = "\n\n".join(told) or f"# {UNREADABLE}", ""

    def watch() -> None:
        chosen = last_evaluated(runs())
        if chosen is None:
            say("No ticked run has been evaluated yet.")
        elif chosen == drawn:
            say(f"The clip of {chosen[0]}, which was not evaluated since:")
        else:
            say(f"The clip of {chosen[0]} is being drawn, beside the training.")
            threading.Thread(target=show_clip, args=(chosen,), name="clip", daemon=True).start()

    def show_clip(chosen: tuple[Path, float]) -> None:
        nonlocal drawn
        with drawing:
            path, sentence = make_clip_apart(chosen[0])
            say(sentence or f"The clip of {chosen[0]}:")
            if path is not None:
                of_kind = ipywidgets.Image if path.suffix == ".png" else ipywidgets.Video
                clip.children = [of_kind.from_file(path, layout=Layout(max_width="100%"))]
                drawn = chosen

    def ask() -> None:
        chosen = runs()
        if not chosen:
            say(f"{UNREADABLE}: delete by hand what is no run.")
            return
        names = ", ".join(str(run.folder) for run in chosen)
        say(
            f"Delete {names}, with checkpoints and data?",
            button("Keep", lambda: say("Nothing is deleted.")),
            button("Delete for good", lambda: delete(chosen), style="danger"),
        )

    def delete(chosen: list[RunRecord]) -> None:
        said = []
        for run in chosen:
            try:
                delete_run(run.folder)
                said.append(f"{run.folder} is deleted.")
            except RunError as error:
                said.append(f"{error}.")
        say(" ".join(said))
        deleted()

    buttons = [
        ipywidgets.Label("With the ticked runs:"),
        button("Clip", watch, "what the policy does that was evaluated last"),
        button("Continue ...", lambda: tell(continue_run), "the command that goes on"),
        button("Fine-tune ...", lambda: tell(finetune_from), "the command for checkpoints"),
        button("Report ...", lambda: tell(report_on, of_all=True), "the command for a report"),
        button("Delete ...", ask, "asks before it deletes"),
    ]
    hidden = Layout(display="none")
    return ipywidgets.HBox(buttons, layout=hidden), ipywidgets.VBox([question, clip, told_text])
