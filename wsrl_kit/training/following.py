"""A training loop's events on their way to a run's folder and to whoever watches; and back, where a run goes on."""

import math
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from jaxtyping import PyTree

from wsrl_kit.data.hil_serl import write_hil_serl
from wsrl_kit.data.labels import LABELS
from wsrl_kit.errors import DivergenceError, RunError, Stopped, WSRLKitError
from wsrl_kit.runs import Run
from wsrl_kit.training import checkpoint, frame_files
from wsrl_kit.training.evaluation import MODES
from wsrl_kit.training.events import Event, Judgement, Measurement, Progress, Snapshot, Step
from wsrl_kit.training.warmup import WarmupResult

JUDGED = "judged"
"""Folder, within a fine-tuning's, of the successes that were confirmed or denied."""


def resumed(run: Run, fresh: PyTree) -> PyTree:
    """The tree of the run's last checkpoint with its metrics as they were then, or the fresh one at the start."""
    if not run.checkpoint_path.exists():
        frame_files.remove(run.checkpoint_path)
        shutil.rmtree(run.folder / JUDGED, ignore_errors=True)
        run.rewind(0)
        return fresh
    tree = frame_files.load(run.checkpoint_path, fresh)
    run.rewind(checkpoint.read_metadata(run.checkpoint_path)["rows"])
    return tree


def steps_of_checkpoint(run: Run) -> int | None:
    """The `online_steps` with which the run's last checkpoint was made; None where there is none."""
    if not run.checkpoint_path.exists():
        return None
    return checkpoint.read_metadata(run.checkpoint_path).get("online_steps")


def follow(events: Iterator[Event | WarmupResult], run: Run, progress: Progress) -> WarmupResult | None:
    """Takes the events of a training loop to the run's folder and the progress display.

    Raises:
        DivergenceError: with the last checkpoint, which is from before.
    """
    latest, last = "", Step(0, 0, "")
    for event in _from_before_diverging(events, run):
        match event:
            case Measurement():
                run.record(event.phase, event.environment_step, event.gradient_step, event.values)
                if evaluated := _evaluation_text(event.values):
                    latest = evaluated
                    if last.total:
                        # No step follows the last evaluation.
                        progress.update(last.step, last.total, last.text + latest)
            case Snapshot():
                # Rows before the checkpoint that counts them, or a power cut would leave one that counts too many.
                run.sync()
                frame_files.save(
                    run.checkpoint_path, event.tree, {"rows": run.rows, "online_steps": run.parameters["online_steps"]}
                )
            case Judgement():
                name = f"{event.environment_step:08d}_{LABELS[event.is_success]}.pkl"
                (run.folder / JUDGED).mkdir(exist_ok=True)
                write_hil_serl(run.folder / JUDGED / name, [event.trajectory])
            case Step():
                last = event
                progress.update(event.step, event.total, event.text + latest)
            case WarmupResult():
                return event
    return None


def _from_before_diverging(events: Iterator[Event | WarmupResult], run: Run) -> Iterator[Event | WarmupResult]:
    try:
        yield from events
    except DivergenceError as error:
        found = run.checkpoint_path if run.checkpoint_path.exists() else "none was made yet"
        raise DivergenceError(f"{error}; the last good checkpoint: {found}") from error


def _evaluation_text(values: dict[str, float]) -> str:
    """The evaluation among some measured values as a few words; "" if there is none."""
    for quantity in ("success", "return"):
        found = {mode: values.get(f"evaluation/{quantity}_{mode}", math.nan) for mode in MODES}
        if all(map(math.isfinite, found.values())):
            return f", {quantity} " + ", ".join(f"{value:.2f} {mode}" for mode, value in found.items())
    return ""


@contextmanager
def outcome_recorded(run: Run, progress: Progress) -> Iterator[Progress]:
    """Writes into the run's folder how its work ended, where that is not by finishing, and gives the folder up.

    Where the disk takes nothing any more, the first error is the one to know, and the run stays "running": resumable.

    Yields:
        The progress to work with: SIGINT, SIGTERM and SIGHUP ask it to stop, as the Stop button does.
    """
    try:
        with _heeding_signals(progress) as heeding:
            yield heeding
    except (Stopped, KeyboardInterrupt):
        with suppress(RunError):
            run.stop()
        raise
    except Exception as error:
        with suppress(RunError):
            run.fail(str(error) if isinstance(error, WSRLKitError) else f"{type(error).__name__}: {error}")
        raise
    finally:
        run.close()


class _Heeding:
    """Progress that a signal asks to stop."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._is_signalled = False

    def signal(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal. A second Ctrl-C does not wait for the step at hand."""
        if self._is_signalled and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._is_signalled = True

    @property
    def stop_requested(self) -> bool:
        return self._is_signalled or self._progress.stop_requested

    def update(self, step: int, total: int, text: str) -> None:
        self._progress.update(step, total, text)


@contextmanager
def _heeding_signals(progress: Progress) -> Iterator[Progress]:
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread gets signals; JupyterLab's stops this one by its progress.
        yield progress
        return
    heeding = _Heeding(progress)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    heeded = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for number in heeded:
        signal.signal(number, heeding.signal)
    try:
        yield heeding
    finally:
        for number in heeded:
            signal.signal(number, before[number])
