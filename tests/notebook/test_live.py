import asyncio
import re
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import ipywidgets
import pytest
from matplotlib.figure import Figure

from synthetic_runs import write_finetune
from waiting import wait_for
from widgets_here import widgets
from wsrl_kit.errors import DataError, Stopped
from wsrl_kit.notebook import live
from wsrl_kit.notebook.live import COMPILING, StoppableProgress, Training

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


wait_until = partial(wait_for, seconds=60.0)


def test_headless_does_the_work_and_shows_text(shown: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    def job(progress: StoppableProgress) -> None:
        for step in range(1, 1001):
            progress.update(step, 1000, f"success {step / 1000:.2f}")

    training = Training(job, draw, live=False).start()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "starting and compiling"
    assert len(lines) == 22  # the first step, and one for every 5 %
    assert re.fullmatch(r"100%  step 1,000 of 1,000, \d:\d\d elapsed  success 1.00", lines[-1])
    assert not shown  # the cells below show the figures
    asyncio.run(training.finished())


def test_headless_raises_what_the_work_raises(shown: list[Any]) -> None:
    def job(progress: StoppableProgress) -> None:
        raise DataError("demos.pkl is empty")

    with pytest.raises(DataError, match="demos.pkl is empty"):
        Training(job, draw, live=False).start()


def test_a_front_end_is_found_by_its_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JPY_SESSION_NAME", "notebook.ipynb")
    assert Training(lambda progress: None, draw).live
    assert not Training(lambda progress: None, draw, live=False).live
    monkeypatch.delenv("JPY_SESSION_NAME")
    assert not Training(lambda progress: None, draw).live


class Watch:
    """A clock that stands still until a test says otherwise."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def monotonic(self) -> float:
        return self.seconds

    thread_time = monotonic


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    stopped = Watch()
    monkeypatch.setattr(live, "time", stopped)
    return stopped


def test_headless_text_tells_the_time_that_passed_and_the_time_left(
    shown: list[Any], capsys: pytest.CaptureFixture[str], watch: Watch
) -> None:
    def job(progress: StoppableProgress) -> None:
        watch.seconds += 60  # the first step waits for a compiler, which says nothing of the speed
        progress.update(1, 101)
        for step in range(2, 52):
            watch.seconds += 2
            progress.update(step, 101, "learning")
        watch.seconds += 2
        progress.update(1, 4_000, "the next part")
        watch.seconds += 30
        progress.update(2, 4_000, "the next part")
        watch.seconds += 30
        progress.update(3, 4_000, "the next part")

    Training(job, live=False).start()
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "  1%  step 1 of 101, 1:00 elapsed"
    assert "step 51 of 101 (1:40 left), 2:40 elapsed  learning" in lines[-3]
    # A single step says nothing yet; then 3,997 steps of 30 s each.
    assert lines[-2] == "  0%  step 2 of 4,000, 3:12 elapsed  the next part"
    assert lines[-1] == "  0%  step 3 of 4,000 (33:18:30 left), 3:42 elapsed  the next part"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "TICK_SECONDS", 0.02)


def run_live(job: Callable[[StoppableProgress], None], draw: Callable[[], Figure] | None = None) -> None:
    asyncio.run(Training(job, draw, live=True).start().finished())


def test_the_status_says_compiling_until_the_first_step_and_counts_seconds(shown: list[Any], watch: Watch) -> None:
    compiled, done = threading.Event(), threading.Event()

    def job(progress: StoppableProgress) -> None:
        compiled.wait()
        progress.update(3, 10, "learning")
        done.wait()

    training = Training(job, live=True).start()
    _, _, status, *_ = parts(shown)
    watch.seconds += 75
    wait_until(lambda: status.value == f"{COMPILING}, 1:15 elapsed")
    compiled.set()
    wait_until(lambda: status.value == "step 3 of 10, 1:15 elapsed: learning")
    watch.seconds += 20  # nothing is reported any more, and the clock goes on
    wait_until(lambda: status.value == "step 3 of 10, 1:35 elapsed, the last report 0:20 ago: learning")
    done.set()
    asyncio.run(training.finished())


def test_there_is_no_image_before_there_is_something_to_see(shown: list[Any]) -> None:
    is_recorded, looked = threading.Event(), threading.Event()

    def figure() -> Figure:
        looked.set()
        return draw() if is_recorded.is_set() else Figure()

    def job(progress: StoppableProgress) -> None:
        progress.update(1, 2)
        looked.wait()
        # A browser shows an image without a picture as a broken one.
        assert parts(shown)[3].layout.display == "none"
        is_recorded.set()

    run_live(job, figure)
    image = parts(shown)[3]
    assert (image.layout.display, bytes(image.value)[:4]) == ("", PNG)


def test_drawing_takes_at_most_its_share_of_the_time(shown: list[Any], watch: Watch) -> None:
    drawn = []

    def slow() -> Figure:
        drawn.append(watch.seconds)
        watch.seconds += 0.75
        return draw()

    def job(progress: StoppableProgress) -> None:
        progress.update(1, 9)

        def is_drawn_thrice() -> bool:
            watch.seconds += 1.0
            return len(drawn) >= 3

        wait_until(is_drawn_thrice)

    run_live(job, slow)
    assert all(later - earlier >= 37.5 for earlier, later in pairwise(drawn[:3]))


def test_the_runs_so_far_are_explored_below(shown: list[Any], tmp_path: Path) -> None:
    def job(progress: StoppableProgress) -> None:
        write_finetune(tmp_path / "runs/scratch/seed_0", "scratch", 0, last_step=400)
        progress.update(1, 2)
        wait_until(lambda: any("scratch" in w.value for w in widgets(shown[0]) if type(w) is ipywidgets.HTML))

    asyncio.run(Training(job, runs=tmp_path / "runs", live=True).start().finished())
    assert "<title>From scratch, seed 0 (scratch/seed_0): " in shown[0].children[3].children[-2].value


def test_a_folded_explorer_looks_when_it_is_opened_and_once_more_at_the_end(shown: list[Any], tmp_path: Path) -> None:
    run = tmp_path / "my_run"

    def told() -> str:
        return " ".join(w.value for w in widgets(shown[0]) if type(w) is ipywidgets.HTML)

    def job(progress: StoppableProgress) -> None:
        write_finetune(run, "", 0, budget=1000, last_step=400)
        progress.update(1, 2)
        assert "my_run" not in told()
        shown[0].children[3].selected_index = 0
        assert ">my_run<" in told() and ">400 of " in told()  # the run's own folder by its name
        write_finetune(run, "", 0, budget=1000)

    asyncio.run(Training(job, draw, run, live=True).start().finished())
    assert ">1,000 of " in told()


def test_a_stopped_run_says_what_the_work_says_and_looks_stopped(shown: list[Any]) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def job(progress: StoppableProgress) -> None:
        progress.update(452, 900, "fine-tuning")
        asked.set()
        go_on.wait()
        raise Stopped("stopped at step 452, saved; Run All continues, as does the same command")

    training = Training(job, draw, live=True).start()
    asked.wait()
    bar, button, status, _ = parts(shown)
    button.click()
    assert (button.disabled, button.description, button.button_style) == (True, "Stopping", "")
    wait_until(lambda: status.value.startswith("stopping ... step 452 of 900"))
    go_on.set()
    asyncio.run(training.finished())
    assert (button.disabled, button.description, bar.bar_style) == (True, "Stopped", "warning")
    assert status.value == "stopped at step 452, saved; Run All continues, as does the same command"


def test_work_that_ends_although_it_was_asked_to_stop_is_finished(shown: list[Any]) -> None:
    def job(progress: StoppableProgress) -> None:
        progress.stop()
        progress.update(5, 5)

    run_live(job)
    assert parts(shown)[1].description == "Finished"


def test_stop_ends_the_work_at_its_next_step(shown: list[Any]) -> None:
    steps = []

    def job(progress: StoppableProgress) -> None:
        while not progress.stop_requested:
            steps.append(len(steps))
            progress.update(len(steps), 10**9, "training")
            time.sleep(0.01)
        raise Stopped("stopped by the user")

    training = Training(job, draw, live=True).start()  # returns at once: the job would never end by itself
    _, button, text, figure = parts(shown)
    wait_until(lambda: text.value.startswith("step ") and bytes(figure.value).startswith(PNG))
    button.click()
    asyncio.run(training.finished())
    assert button.disabled
    assert button.description == "Stopped"


def test_a_button_starts_the_work_once_and_headless_none_is_needed(shown: list[Any]) -> None:
    done: list[str] = []
    training = Training(lambda progress: done.append("live"), live=True)
    training.on_button("Retrain")
    (box,) = shown
    assert box.children[0].description == "Retrain" and not done
    box.children[0].click()
    asyncio.run(training.finished())
    assert box.children[0].disabled and done == ["live"]
    Training(lambda progress: done.append("headless"), live=False).on_button("Retrain")
    assert done == ["live", "headless"]


def test_the_end_is_seen_in_the_widgets(shown: list[Any], watch: Watch) -> None:
    training = Training(lambda progress: progress.update(5, 5), draw, live=True).start()
    asyncio.run(training.finished())
    bar, button, text, _ = parts(shown)
    assert (bar.value, bar.bar_style) == (1.0, "success")
    assert (button.disabled, button.description) == (True, "Finished")
    assert text.value == "step 5 of 5, 0:00 elapsed"


def test_an_error_is_shown_and_raised_where_the_result_is_needed(shown: list[Any]) -> None:
    def job(progress: StoppableProgress) -> None:
        raise DataError("demos.pkl is empty")

    training = Training(job, draw, live=True).start()
    with pytest.raises(DataError, match="demos.pkl is empty"):
        asyncio.run(training.finished())
    bar, button, text, _ = parts(shown)
    assert (text.value, bar.bar_style, button.description) == ("demos.pkl is empty", "danger", "Failed")


def test_a_figure_that_fails_does_not_end_the_work(shown: list[Any]) -> None:
    ended = threading.Event()

    def job(progress: StoppableProgress) -> None:
        progress.update(1, 2)
        ended.set()

    def broken() -> Figure:
        raise OSError("metrics.csv is missing")

    training = Training(job, broken, live=True).start()
    asyncio.run(training.finished())
    assert ended.is_set()
    assert parts(shown)[2].value.endswith("elapsed: the figure could not be drawn: metrics.csv is missing")


def parts(shown: list[Any]) -> tuple[Any, Any, Any, Any]:
    """Bar, button, status and figure."""
    (box,) = shown
    row, text, figure = box.children
    return *row.children, text, figure
