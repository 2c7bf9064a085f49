"""Long work in a notebook: in JupyterLab with a live figure, a progress bar and a Stop button, headless as text."""

import asyncio
import html
import io
import threading
import time
from collections.abc import Callable

import ipywidgets
from IPython.display import Image, display
from matplotlib.figure import Figure

from wsrl_kit.errors import Stopped, WSRLKitError
from wsrl_kit.parameters import headless

DRAW_SECONDS = 2.0  # between two drawings of the live figure
TEXT_SECONDS = 10.0  # between two lines of headless text
TEXT_SHARE = 0.05  # of the work, after which there is a line even before that


class Progress:
    """The work's side: it says how far it is, and asks whether it shall stop."""

    def __init__(self, report: Callable[[int, int, str], None]) -> None:
        self._report = report
        self._stop = threading.Event()

    def update(self, step: int, total: int, text: str = "") -> None:
        """Says that `step` of `total` steps are done; `text` tells what the user wants to watch."""
        self._report(step, total, text)

    def stop(self) -> None:
        """Asks the work to stop at its next step."""
        self._stop.set()

    @property
    def stop_requested(self) -> bool:
        """Whether the work shall end early, with everything up to here kept."""
        return self._stop.is_set()


class Training:
    """Work that a notebook starts in one cell and uses in later ones.

        training = Training(job, draw, live=session.live).start()
        await training.finished()

    With a Jupyter front end, the work goes on in a background thread, and the second cell waits for it without keeping
    the kernel busy: the Stop button works meanwhile, and the cells below run when the work has ended, or has been
    stopped. Headless, `start` does the work itself and prints a line of text now and then.

    Args:
        job: the work; it calls `progress.update` and returns soon after `progress.stop_requested`.
        draw: the figure as the run's folder on disk has it now; must not use pyplot. None: there is no figure.
        live: True for widgets, False for text, None to find out whether a front end is attached.
    """

    def __init__(
        self, job: Callable[[Progress], object], draw: Callable[[], Figure] | None = None, live: bool | None = None
    ) -> None:
        self.live = not headless() if live is None else live
        self._job = job
        self._draw = draw
        self._panel = _Panel(draw) if self.live else None
        self.progress = Progress(self._panel.report if self._panel else _TextLines().report)
        self._thread = threading.Thread(target=self._work, name="training", daemon=True)
        self._failure: BaseException | None = None

    def start(self) -> "Training":
        """Begins the work. Live, returns at once; headless, returns when it is done and the figure is shown.

        Raises:
            WSRLKitError: headless, whatever the work raises; live, it is shown, and raised by `finished`.
        """
        if self._panel:
            self._panel.show(self.progress)
            self._thread.start()
        else:
            self._job(self.progress)
            if self._draw:
                display(Image(_png(self._draw())))
        return self

    async def finished(self) -> None:
        """Waits until the work has ended by itself or by the Stop button. Headless it has, and this returns at once.

        Interrupting the kernel stops the work too, and with it the cells below.

        Raises:
            WSRLKitError: whatever the work raised.
            Stopped: the kernel was interrupted.
        """
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
            raise Stopped("the kernel was interrupted: the training has stopped, everything up to here is kept")

    def _work(self) -> None:
        assert self._panel is not None
        try:
            self._job(self.progress)
        except Stopped:
            pass  # what the Stop button asked for; the cells below show what there is
        except BaseException as error:
            self._failure = error
        self._panel.close(self._failure, self.progress.stop_requested)


class _TextLines:
    """Headless progress: one line at the start, at the end, and at most every `TEXT_SECONDS` or `TEXT_SHARE`."""

    def __init__(self) -> None:
        self._time = -TEXT_SECONDS
        self._share = 0.0

    def report(self, step: int, total: int, text: str) -> None:
        now, share = time.monotonic(), step / total
        if step < total and now - self._time < TEXT_SECONDS and share - self._share < TEXT_SHARE:
            return
        self._time, self._share = now, share
        print(f"{share:4.0%}  step {step:,} of {total:,}  {text}".rstrip(), flush=True)


class _Panel:
    """Bar, text, Stop button and figure. All but `show` is called from the training's thread."""

    def __init__(self, draw: Callable[[], Figure] | None) -> None:
        self._draw = draw
        self._bar = ipywidgets.FloatProgress(max=1.0)
        self._text = ipywidgets.HTML("starting")  # unlike a label, it wraps a long sentence
        self._stop = ipywidgets.Button(description="Stop", icon="stop", button_style="warning")
        self._figure = ipywidgets.Image(format="png", layout=ipywidgets.Layout(max_width="100%"))
        self._next_text = 0.0
        self._next_figure = 0.0

    def show(self, progress: Progress) -> None:
        def stop(button: ipywidgets.Button) -> None:
            progress.stop()
            button.disabled, button.description = True, "Stopping"

        self._stop.on_click(stop)
        display(ipywidgets.VBox([ipywidgets.HBox([self._bar, self._stop]), self._text, self._figure]))

    def report(self, step: int, total: int, text: str) -> None:
        now = time.monotonic()
        if now >= self._next_text or step >= total:
            self._next_text = now + 0.2
            self._bar.value = step / total
            self._say(f"step {step:,} of {total:,}  {text}".rstrip())
        if now >= self._next_figure:
            self._show_figure()

    def close(self, failure: BaseException | None, stopped: bool) -> None:
        self._show_figure()
        self._stop.disabled = True
        self._stop.description = "Stopped" if stopped else "Failed" if failure else "Finished"
        self._bar.bar_style = "danger" if failure else "" if stopped else "success"
        if failure:
            sentence = str(failure) if isinstance(failure, WSRLKitError) else f"{type(failure).__name__}: {failure}"
            self._say(sentence)

    def _say(self, sentence: str) -> None:
        self._text.value = html.escape(sentence, quote=False)

    def _show_figure(self) -> None:
        if self._draw is None:
            return
        start = time.monotonic()
        try:
            self._figure.value = _png(self._draw())
        except Exception as error:  # a figure is no reason to lose a training
            self._say(f"the figure could not be drawn: {error}")
        # Drawing takes the training's own time: a tenth of it at most.
        now = time.monotonic()
        self._next_figure = now + max(DRAW_SECONDS, 10 * (now - start))


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
    return buffer.getvalue()
