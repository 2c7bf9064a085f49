"""Buttons for what may follow runs: the command that continues them, fine-tunes from them or reports, and deletion."""

import html
from collections.abc import Callable

import ipywidgets
from ipywidgets import Layout

from wsrl_kit.errors import RunError
from wsrl_kit.notebook.commands import continue_run, finetune_from, report_on
from wsrl_kit.runs.run import RunRecord, delete_run
from wsrl_kit.text import printable


def button(label: str, work: Callable[[], None], tooltip: str = "", style: str = "") -> ipywidgets.Button:
    """A button as wide as its label."""
    made = ipywidgets.Button(description=label, tooltip=tooltip, button_style=style, layout=Layout(width="auto"))
    made.on_click(lambda _: work())
    return made


def run_actions(runs: Callable[[], list[RunRecord]], deleted: Callable[[], None]) -> ipywidgets.Widget:
    """The buttons, and below them what they say. A run is deleted after a second button is pressed.

    Args:
        runs: that the buttons are about, when one is pressed.
        deleted: called after a deletion.
    """
    text = ipywidgets.Textarea(layout=Layout(width="100%", height="16em", display="none"))
    question = ipywidgets.HBox()

    def say(sentence: str, *buttons: ipywidgets.Button) -> None:
        question.children = (ipywidgets.HTML(html.escape(printable(sentence))), *buttons)

    def tell(commands: Callable[[list[RunRecord]], list[str]]) -> None:
        try:
            told = commands(chosen) if (chosen := runs()) else ["# tick a run first"]
        except RunError as error:
            told = [f"# {error}"]
        text.value, text.layout.display = "\n\n".join(told), ""

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
        button("Continue ...", lambda: tell(lambda all: [*map(continue_run, all)]), "the command that goes on"),
        button("Fine-tune ...", lambda: tell(lambda all: [*map(finetune_from, all)]), "the command for checkpoints"),
        button("Report ...", lambda: tell(lambda all: [report_on(all)]), "the command for a report"),
        button("Delete ...", ask, "asks before it deletes"),
    ]
    return ipywidgets.VBox([ipywidgets.HBox(buttons), question, text])
