import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import ipywidgets
import pytest
from matplotlib.figure import Figure

from wsrl_kit.errors import DataError, Stopped
from wsrl_kit.widgets import live
from wsrl_kit.widgets.live import Progress, Training

PNG = b"\x89PNG"


def draw() -> Figure:
    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([0, 1])
    return figure


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the notebook would show."""
    outputs: list[Any] = []
    monkeypatch.setattr(live, "display", outputs.append)
    return outputs


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_headless_does_the_work_and_shows_text_and_one_figure(
    shown: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    def job(progress: Progress) -> None:
        for step in range(1, 1001):
            progress.update(step, 1000, f"success {step / 1000:.2f}")

    training = Training(job, draw, live=False).start()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 21  # the first, and one for every 5 %
    assert lines[-1] == "100%  step 1,000 of 1,000  success 1.00"
    (figure,) = shown
    assert figure.data.startswith(PNG)
    asyncio.run(training.finished())


def test_headless_raises_what_the_work_raises(shown: list[Any]) -> None:
    def job(progress: Progress) -> None:
        raise DataError("demos.pkl is empty")

    with pytest.raises(DataError, match="demos.pkl is empty"):
        Training(job, draw, live=False).start()


def test_a_front_end_is_found_by_its_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JPY_SESSION_NAME", "notebook.ipynb")
    assert Training(lambda progress: None, draw).live
    assert not Training(lambda progress: None, draw, live=False).live
    monkeypatch.delenv("JPY_SESSION_NAME")
    assert not Training(lambda progress: None, draw).live


def test_stop_ends_the_work_at_its_next_step(shown: list[Any]) -> None:
    steps = []

    def job(progress: Progress) -> None:
        while not progress.stop_requested:
            steps.append(len(steps))
            progress.update(len(steps), 10**9, "training")
            time.sleep(0.01)
        raise Stopped("stopped by the user")

    training = Training(job, draw, live=True).start()  # returns at once: the job would never end by itself
    _, button, text, figure = parts(shown)
    wait_until(lambda: len(steps) > 3)
    assert text.value.startswith("step ")
    assert bytes(figure.value).startswith(PNG)
    button.click()
    asyncio.run(training.finished())
    assert button.disabled
    assert button.description == "Stopped"


def test_the_end_is_seen_in_the_widgets(shown: list[Any]) -> None:
    training = Training(lambda progress: progress.update(5, 5), draw, live=True).start()
    asyncio.run(training.finished())
    bar, button, text, _ = parts(shown)
    assert (bar.value, bar.bar_style) == (1.0, "success")
    assert (button.disabled, button.description) == (True, "Finished")
    assert text.value == "step 5 of 5"


def test_an_error_is_shown_and_raised_where_the_result_is_needed(shown: list[Any]) -> None:
    def job(progress: Progress) -> None:
        raise DataError("demos.pkl is empty")

    training = Training(job, draw, live=True).start()
    with pytest.raises(DataError, match="demos.pkl is empty"):
        asyncio.run(training.finished())
    bar, button, text, _ = parts(shown)
    assert (text.value, bar.bar_style, button.description) == ("demos.pkl is empty", "danger", "Failed")


def test_a_figure_that_fails_does_not_end_the_work(shown: list[Any]) -> None:
    ended = threading.Event()

    def job(progress: Progress) -> None:
        progress.update(1, 2)
        ended.set()

    def broken() -> Figure:
        raise OSError("metrics.csv is missing")

    training = Training(job, broken, live=True).start()
    asyncio.run(training.finished())
    assert ended.is_set()
    assert parts(shown)[2].value == "the figure could not be drawn: metrics.csv is missing"


def parts(shown: list[Any]) -> tuple[Any, Any, Any, Any]:
    (box,) = shown
    assert isinstance(box, ipywidgets.VBox)
    row, text, figure = box.children
    bar, button = row.children
    return bar, button, text, figure
