"""Buttons for what may follow runs: a clip, the command that continues, fine-tunes or reports, and deletion."""

import html
import threading
from collections.abc import Callable
from typing import Any

import ipywidgets
from ipywidgets import Layout

from wsrl_kit.errors import RunError
from wsrl_kit.notebook.clips import last_evaluated, make_clip_apart
from wsrl_kit.notebook.commands import continue_run, finetune_from, report_on
from wsrl_kit.runs.run import RunRecord, delete_run
from wsrl_kit.text import printable


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


def run_actions(runs: Callable[[], list[RunRecord]], deleted: Callable[[], None]) -> ipywidgets.Widget:
    """The buttons, and below them what they say. A run is deleted after a second button is pressed.

    Args:
        runs: that the buttons are about, when one is pressed.
        deleted: called after a deletion.
    """
    text = ipywidgets.Textarea(layout=Layout(width="100%", height="16em"))
    told_text = to_copy(text)
    told_text.layout.display = "none"
    question, clip = ipywidgets.VBox(), ipywidgets.VBox()
    drawing = threading.Lock()

    def say(sentence: str, *buttons: ipywidgets.Button) -> None:
        question.children = (ipywidgets.HTML(html.escape(printable(sentence))), ipywidgets.HBox(buttons))

    def tell(command: Callable[[Any], str], of_all: bool = False) -> None:
        """The command for each run, or for all of them together."""
        told, chosen = [], runs()
        for run in [chosen] * bool(chosen) if of_all else chosen:
            try:
                told.append(command(run))
            except RunError as error:
                told.append(f"# {error}")
        text.value, told_text.layout.display = "\n\n".join(told) or "# tick a run first", ""

    def watch() -> None:
        chosen = last_evaluated(runs())
        if chosen is None:
            say("No ticked run has been evaluated yet.")
        else:
            say(f"The clip of {chosen.folder} is being drawn, beside the training.")
            threading.Thread(target=show_clip, args=(chosen,), name="clip", daemon=True).start()

    def show_clip(run: RunRecord) -> None:
        with drawing:
            path, sentence = make_clip_apart(run.folder)
            say(sentence or f"The clip of {run.folder}:")
            if path is not None:
                of_kind = ipywidgets.Image if path.suffix == ".png" else ipywidgets.Video
                clip.children = [of_kind.from_file(path, layout=Layout(max_width="100%"))]

    def ask() -> None:
        chosen = runs()
        if not chosen:
            say("Tick a run first.")
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
    return ipywidgets.VBox([ipywidgets.HBox(buttons), question, clip, told_text])
