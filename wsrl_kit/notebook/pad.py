"""The pad by which a person takes over or records in JupyterLab, beside the cameras' pictures."""

import html
import io
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets
from IPython.display import display
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from wsrl_kit.config.config import PERSON
from wsrl_kit.envs.config import KEYBOARD, SCRIPTED, SPACEMOUSE
from wsrl_kit.envs.human import PersonOptions, person_options
from wsrl_kit.errors import ExperimentError, ParameterError
from wsrl_kit.notebook.parameters import is_live
from wsrl_kit.notebook.run_actions import button
from wsrl_kit.robot.cameras import CameraFrames
from wsrl_kit.robot.devices import SpaceMouse, Verdict
from wsrl_kit.robot.takeover import PersonInput

CAMERA_SECONDS = 0.1  # between two pictures of a camera
GRIPPER = 6  # the entry of a motion that `speed` does not scale
TAKEOVER = {Verdict.SUCCESS: "success", Verdict.FAILURE: "danger", Verdict.ABORT: "warning"}
RECORDING = {
    Verdict.SUCCESS: "success",
    Verdict.FAILURE: "danger",
    Verdict.KEEP: "primary",
    Verdict.DISCARD: "warning",
    Verdict.REDO: "info",
}
"""Buttons and their styles."""


def show_pad(human: str, options: Mapping[str, Any], live: bool | None = None) -> PersonInput | None:
    """Shows the pad if `human` is "person".

    Args:
        human: the parameter `human`.
        options: the parameter `human_options`, see `PersonOptions`.
        live: whether a Jupyter front end is attached; None: find out.

    Returns:
        What the pad controls, for `run_finetune`; None without a person.

    Raises:
        ParameterError: there is no front end, or an option is wrong.
        ExperimentError: anywidget is not installed.
    """
    if human != PERSON:
        return None
    return _shown(person_options(options), "human 'person'", TAKEOVER, live)


def show_recording_pad(operator: str, live: bool | None = None) -> PersonInput | None:
    """Shows the pad by which a person records episodes, unless `operator` is "scripted"; like `show_pad`."""
    if operator == SCRIPTED:
        return None
    if operator == KEYBOARD:
        raise ParameterError("operator 'keyboard' needs a terminal: use `wsrl-kit record`, or operator 'pad' here")
    return _shown(PersonOptions(device=operator), f"operator {operator!r}", RECORDING, live)


def _shown(options: PersonOptions, who: str, verdicts: Mapping[Verdict, str], live: bool | None) -> PersonInput:
    if not is_live(live):
        raise ParameterError(
            f"{who} needs the notebook to run in JupyterLab, where the pad is shown, and there is no front end"
        )
    takeover = PersonInput(options, devices=[SpaceMouse()] if options.device == SPACEMOUSE else [])
    display(pad_of(takeover, verdicts))
    return takeover


def pad_of(takeover: PersonInput, verdicts: Mapping[Verdict, str] = TAKEOVER) -> ipywidgets.Widget:
    """Keys and gamepad, a slider of their speed, buttons that end an episode, and cameras.

    Raises:
        ExperimentError: anywidget is not installed.
    """
    try:
        import anywidget
    except ImportError as error:
        raise ExperimentError(
            "the pad needs anywidget, which `pip install 'wsrl-kit[takeover]'` installs, and JupyterLab started "
            "anew after that"
        ) from error
    folder = Path(__file__).parent
    # As text: of a path, anywidget would watch the file.
    sources = {"_esm": (folder / "pad.js").read_text(), "_css": (folder / "pad.css").read_text()}
    keys = type("Keys", (anywidget.AnyWidget,), sources)()
    speed = ipywidgets.FloatSlider(0.5, min=0.05, max=1.0, step=0.05, description="speed")
    hold = ipywidgets.ToggleButton(description="Hold", icon="pause", tooltip="the robot holds until you press it again")
    hold.observe(lambda change: setattr(takeover, "is_held", change["new"]), "value")
    question, facts, cameras = ipywidgets.HTML(), ipywidgets.HTML(), _Cameras(takeover)

    def hear(_: Any, message: dict[str, Any], buffers: Any) -> None:
        """Holds the browser's motion; answers with time, who acts, the link's delay, question, facts and pictures."""
        if "verdict" in message:
            if message["verdict"] in verdicts:
                takeover.decide(Verdict(message["verdict"]))
            return
        told, motion = message["told"], message["motion"]
        if message["released"]:
            takeover.release()
        elif motion is not None and told is not None:
            scaled = [value if entry == GRIPPER else speed.value * value for entry, value in enumerate(motion)]
            takeover.hold(scaled, told)
        now = takeover.now()
        # There and back, minus the time for which the browser kept the last answer.
        delay = None if told is None else max(0.0, now - told - message["kept"])
        acts = {"acts": takeover.acts, "holds": takeover.holds, "idle": takeover.idle, "trouble": takeover.trouble}
        keys.send({"time": now, "delay": delay, "is_held": takeover.is_held, "gripper": takeover.has_gripper, **acts})
        question.value = f"<b>{html.escape(takeover.asks)}</b>"
        past = f"<br>last verdicts: {', '.join(takeover.verdicts)}" if takeover.verdicts else ""
        style = "font-variant-numeric:tabular-nums; line-height:1.3"
        facts.value = f"<div style='{style}'>{html.escape(takeover.facts)}{past}</div>"
        cameras.draw()

    keys.on_msg(hear)
    # While recording, the robot holds wherever the person does not act.
    holding = [] if verdicts is RECORDING else [hold]
    ends = [
        button(verdict.capitalize(), partial(takeover.decide, verdict), "ends the episode, or answers", style)
        for verdict, style in verdicts.items()
    ]
    return ipywidgets.VBox([keys, ipywidgets.HBox([*ends, *holding, speed]), question, facts, cameras.row])


class _Cameras:
    """The cameras' newest pictures, drawn when the browser asks: a slow browser asks for few."""

    def __init__(self, takeover: PersonInput) -> None:
        self.row = ipywidgets.HBox()
        self._takeover = takeover
        self._images: dict[str, ipywidgets.Image] = {}
        self._shown: CameraFrames = {}
        self._next = 0.0

    def draw(self) -> None:
        """Shows new pictures, at most every `CAMERA_SECONDS`."""
        now, frames = self._takeover.now(), self._takeover.frames
        if now < self._next or frames is self._shown:
            return
        self._next, self._shown = now + CAMERA_SECONDS, frames
        if self._images.keys() != frames.keys():
            layout = ipywidgets.Layout(width="256px")
            # Each with its first picture: a browser shows an image without one as broken.
            self._images = {
                name: ipywidgets.Image(value=_jpeg(frames[name]), format="jpeg", layout=layout) for name in frames
            }
            titled = [ipywidgets.VBox([ipywidgets.Label(name), image]) for name, image in self._images.items()]
            self.row.children = titled
            return
        for name, image in self._images.items():
            image.value = _jpeg(frames[name])


def _jpeg(frame: UInt8[ndarray, "height width 3"]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="jpeg", quality=85)
    return buffer.getvalue()
