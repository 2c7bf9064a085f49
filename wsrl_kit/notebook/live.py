"""Long work in a notebook: in JupyterLab with a progress bar, a Stop button and the runs so far, headless as text."""

import asyncio
import atexit
import html
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import ipywidgets
from IPython.display import display
from matplotlib.figure import Figure

from wsrl_kit.analysis.loggers import copied
from wsrl_kit.analysis.plots import png
from wsrl_kit.errors import Stopped, WSRLKitError
from wsrl_kit.notebook.explore import LOOK_SHARE, explorer_below
from wsrl_kit.notebook.parameters import is_live
from wsrl_kit.notebook.run_actions import button
from wsrl_kit.text import duration

LOOK_SECONDS = 2.0  # at least, between two looks at the run: at its figure, and at single metrics
TICK_SECONDS = 0.5  # between two changes of the live status
SILENT_SECONDS = 10.0  # without a report, after which the status says so
KNOWN_SECONDS = 3.0  # of work, after which its pace says how long the rest takes
TEXT_SECONDS = 10.0  # between two lines of headless text
TEXT_SHARE = 0.05  # of the work, after which there is a line even before that
END_SECONDS = 30.0  # that the work may take to save what it has, where the kernel ends
COMPILING = "starting and compiling"


class StoppableProgress:
    """Progress whose stop is a button."""

    def __init__(self, report: Callable[[int, int, str], None]) -> None:
        self._report = report
        self._stop = threading.Event()

    def update(self, step: int, total: int, text: str = "") -> None:
        """Reports that `step` of `total` steps are done; `text` is shown beside them."""
        self._report(step, total, text)

    def stop(self) -> None:
        """Asks the work to stop at its next step."""
        self._stop.set()

    @property
    def stop_requested(self) -> bool:
        """Whether the work is asked to end early."""
        return self._stop.is_set()


class Training:
    """Work that one cell of a notebook starts, and later cells use.

        training = Training(job, draw, folder, live=session.live).start()
        await training.finished()

    With a Jupyter front end, the work runs in a background thread. The second cell waits for it without keeping the
    kernel busy, so the Stop button works, and the cells below run when the work has ended or was stopped. A kernel that
    is shut down or restarted lets the work save first. Headless, `start` does the work itself and prints lines of text.

    Args:
        job: the work; it calls `progress.update` and returns soon after `progress.stop_requested`.
        draw: live, returns the figure of the run's folder as it is now, without pyplot; not shown without data.
        runs: live, the folder whose runs an explorer shows; folded below the figure, if there is one.
        live: True: widgets; False: text; None: widgets if a front end is attached.
        loggers: that follow the runs in `runs`, see `analysis.loggers.copied`.
        unit: what the work counts.
    """

    def __init__(
        self,
        job: Callable[[StoppableProgress], object],
        draw: Callable[[], Figure] | None = None,
        runs: Path | None = None,
        live: bool | None = None,
        loggers: tuple[str, ...] = (),
        unit: str = "step",
    ) -> None:
        self.live = is_live(live)
        self._job, self._runs, self._loggers = job, runs, loggers
        self._panel = _Panel(draw, runs, unit) if self.live else None
        self.progress = StoppableProgress(self._panel.report if self._panel else _TextLines(unit).report)
        self._thread = threading.Thread(target=self._work, name="training", daemon=True)
        self._failure: BaseException | None = None
        self._stopped: Stopped | None = None

    def start(self) -> "Training":
        """Starts the work. Live, returns at once; headless, returns when the work is done.

        Raises:
            WSRLKitError: headless, whatever the work raises; live, `finished` raises it.
        """
        if self._panel:
            self._panel.show(self.progress)
            self._thread.start()
            atexit.register(self._end)
            is_main = threading.current_thread() is threading.main_thread()
            if is_main and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
                # Exits by way of `atexit`.
                signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        else:
            print(COMPILING, flush=True)
            self._do(print)
        return self

    def on_button(self, label: str) -> None:
        """Starts once a button is pressed; headless, at once."""
        if self._panel is None:
            self.start()
            return
        place = ipywidgets.Output()

        def press() -> None:
            pressed.disabled = True
            with place:
                self.start()

        pressed = button(label, press)
        display(ipywidgets.VBox([pressed, place]))

    async def finished(self) -> None:
        """Waits until the work has ended by itself or by the Stop button; headless, says what comes next.

        Interrupting the kernel stops the work and the cells below.

        Raises:
            WSRLKitError: whatever the work raised.
            Stopped: the kernel was interrupted.
        """
        if self._panel is None:
            print("writing figures", flush=True)  # in the cells below
        interrupted = False
        while self._thread.is_alive():
            try:
                await asyncio.sleep(0.1)
            except (asyncio.CancelledError, KeyboardInterrupt):
                interrupted = True
                self.progress.stop()
        if self._failure:
            raise self._failure
        if interrupted:
            raise self._stopped or Stopped("interrupted after the work had ended; everything is kept")

    def _do(self, say: Callable[[str], None]) -> None:
        with nullcontext() if self._runs is None else copied(self._runs, self._loggers, say):
            self._job(self.progress)

    def _end(self) -> None:
        self.progress.stop()
        self._thread.join(END_SECONDS)

    def _work(self) -> None:
        assert self._panel is not None
        try:
            self._do(self._panel.note)
        except Stopped as stopped:
            self._stopped = stopped  # by the Stop button: the cells below still run
        except BaseException as error:
            self._failure = error
        self._panel.close(self._failure or self._stopped)


class _Pace:
    """Steps done, time elapsed, and time left.

    Attributes:
        step, total: of the last report; 0 before the first.
        has_ended: no report is expected any more.
    """

    def __init__(self, unit: str) -> None:
        self.step, self.total = 0, 0
        self._unit = unit
        self.has_ended = False
        self._start = self._last = time.monotonic()
        self._samples: deque[tuple[float, int]] = deque()

    def include(self, step: int, total: int) -> None:
        """Adds a report. A smaller step or another total begins another part of the work."""
        now = self._last = time.monotonic()
        if step < self.step or total != self.total:
            self._samples.clear()
            self._part_start = now
        self.step, self.total = step, total
        if not self._samples or now - self._samples[-1][0] >= TICK_SECONDS:
            self._samples.append((now, step))
        # Only the later half of the time: learning is slower than the rollouts before it.
        while len(self._samples) > 2 and self._samples[1][0] < (self._part_start + now) / 2:
            self._samples.popleft()

    def __str__(self) -> str:
        """`step 300 of 1,000 (0:52 left), 0:31 elapsed`."""
        now = time.monotonic()
        elapsed = f"{duration(now - self._start)} elapsed"
        if not self.total:
            return f"{COMPILING}, {elapsed}"
        left, silence = self._left(), now - self._last
        steps = f"{self._unit} {self.step:,} of {self.total:,}" + (f" ({duration(left)} left)" if left else "")
        is_silent = silence >= SILENT_SECONDS and not self.has_ended
        waiting = f", the last report {duration(silence)} ago" if is_silent else ""
        return f"{steps}, {elapsed}{waiting}"

    def _left(self) -> float:
        """Seconds; 0 if unknown."""
        then, before = self._samples[0]
        seconds, done = self._last - then, self.step - before
        # The first steps of a session include compiling and the first figure.
        return (self.total - self.step) * seconds / done if done > 1 and seconds >= KNOWN_SECONDS else 0.0


class _TextLines:
    """Headless progress: a line at the start, at the end, and every `TEXT_SECONDS` or `TEXT_SHARE` between."""

    def __init__(self, unit: str) -> None:
        self._time = -TEXT_SECONDS
        self._share = 0.0
        self._pace = _Pace(unit)

    def report(self, step: int, total: int, text: str) -> None:
        self._pace.include(step, total)
        now, share = time.monotonic(), step / total
        self._share = min(self._share, share)  # the next part of the work begins anew
        if step < total and now - self._time < TEXT_SECONDS and share - self._share < TEXT_SHARE:
            return
        self._time, self._share = now, share
        print(f"{share:4.0%}  {self._pace}  {text}".rstrip(), flush=True)


class _Panel:
    """Bar, status, Stop button, figure and explorer. The training's thread calls `report` and `close`.

    A clock shows and draws, in a thread of its own: the training does not wait for a picture. After the training's end
    it looks once more.
    """

    def __init__(self, draw: Callable[[], Figure] | None, runs: Path | None, unit: str) -> None:
        self._draw = draw
        self._bar = ipywidgets.FloatProgress(max=1.0)
        self._status = ipywidgets.HTML(COMPILING)  # unlike a label, wraps a long sentence
        self._button = ipywidgets.Button(description="Stop", icon="stop", button_style="warning")
        # Not before there is a picture: a browser shows an image without one as broken.
        self._figure = ipywidgets.Image(format="png", layout=ipywidgets.Layout(max_width="100%", display="none"))
        self._explorers = [] if runs is None else [explorer_below(runs, is_folded=draw is not None)]
        self._pace = _Pace(unit)
        self._text = self._trouble = ""
        self._notes: list[str] = []
        self._next_look = 0.0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._clock = threading.Thread(target=self._tick, name="clock of the training", daemon=True)

    def show(self, progress: StoppableProgress) -> None:
        self._progress = progress

        def stop(_: ipywidgets.Button) -> None:
            progress.stop()
            self._look_stopping()

        self._button.on_click(stop)
        rows = [ipywidgets.HBox([self._bar, self._button]), self._status, self._figure]
        display(ipywidgets.VBox([*rows, *(widget for widget, _ in self._explorers)]))
        self._clock.start()

    def report(self, step: int, total: int, text: str) -> None:
        with self._lock:
            self._pace.include(step, total)
            self._text = text

    def note(self, sentence: str) -> None:
        """A sentence that stays in the status."""
        self._notes.append(sentence)

    def close(self, outcome: BaseException | None) -> None:
        """Shows the last figure and how the work ended: by itself (None), by Stop, or by a failure."""
        self._ended.set()
        self._clock.join()
        self._pace.has_ended = True
        self._look()
        self._show_status()
        if outcome is None and not self._pace.total:
            self._bar.value = 1.0
            self._say("this was finished before: nothing was left to do")
        self._button.disabled, self._button.button_style, self._button.icon = True, "", ""
        self._button.description = "Finished" if outcome is None else "Failed"
        self._bar.bar_style = "success" if outcome is None else "danger"
        if isinstance(outcome, Stopped):
            self._button.description, self._bar.bar_style = "Stopped", "warning"
        if outcome is not None:
            known = isinstance(outcome, WSRLKitError) and str(outcome)
            self._say(str(outcome) if known else f"{type(outcome).__name__}: {outcome}")

    def _tick(self) -> None:
        while not self._ended.wait(TICK_SECONDS):
            self._show_status()
            # Before the first report there is nothing to see, and drawing it would put off the next look.
            if self._pace.total and time.monotonic() >= self._next_look:
                self._look()

    def _look_stopping(self) -> None:
        self._button.disabled, self._button.button_style = True, ""
        self._button.description = "Stopping"

    def _show_status(self) -> None:
        with self._lock:
            pace, text, share = str(self._pace), self._text, self._pace.step / max(1, self._pace.total)
        if self._progress.stop_requested and not self._ended.is_set():
            self._look_stopping()
            self._say(f"stopping ... {pace}")
            return
        self._bar.value = share
        self._say(": ".join(part for part in (pace, text, self._trouble, *self._notes) if part))

    def _say(self, sentence: str) -> None:
        self._status.value = html.escape(sentence, quote=False)

    def _look(self) -> None:
        start = time.thread_time()  # where processes crowd the cores, waiting takes nothing from the training
        try:
            for _, look in self._explorers:
                look()
            if self._draw is not None:
                figure, self._trouble = self._draw(), ""
                if any(ax.has_data() for ax in figure.axes):
                    self._figure.value = png(figure)
                    self._figure.layout.display = ""
        except Exception as error:  # a training must not end for a figure
            self._trouble = f"the figure could not be drawn: {error}"
        self._next_look = time.monotonic() + max(LOOK_SECONDS, (time.thread_time() - start) / LOOK_SHARE)
