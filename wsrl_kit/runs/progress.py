"""Progress of long work, how it is stopped, and how its end is recorded."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Protocol, runtime_checkable

from wsrl_kit.errors import RunError, Stopped, WSRLKitError
from wsrl_kit.runs.run import Run

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that ask a process to end."""


@runtime_checkable
class Progress(Protocol):
    """What a job reports to, and what may ask the job to stop."""

    @property
    def stop_requested(self) -> bool: ...

    def update(self, step: int, total: int, text: str) -> None: ...


class ProgressRelay:
    """Passes reports on, under the name of a part of longer work; a signal can ask it to stop."""

    def __init__(self, progress: Progress, name: str = "") -> None:
        self._progress = progress
        self._name = name
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
        self._progress.update(step, total, f"{self._name}: {text}" if self._name else text)


class Silent:
    """Progress that nobody watches."""

    stop_requested = False

    def update(self, step: int, total: int, text: str) -> None:
        """Does nothing."""


@contextmanager
def outcome_recorded(run: Run, progress: Progress) -> Iterator[Progress]:
    """Marks the run stopped or failed where its work does not finish it, and releases its folder.

    On a full disk the first error is raised, and the run stays "running": resumable.

    Yields:
        The progress to work with: SIGINT, SIGTERM and SIGHUP ask it to stop, as the Stop button does.
    """
    try:
        with _stopped_by_signals(progress) as stoppable:
            yield stoppable
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


@contextmanager
def _stopped_by_signals(progress: Progress) -> Iterator[Progress]:
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread gets signals; JupyterLab's stops this one by its progress.
        yield progress
        return
    relay = ProgressRelay(progress)
    heard = [number for number in STOPPING if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    with signals_handled(relay.signal, heard):
        yield relay


@contextmanager
def signals_handled(
    handle: Callable[[int, FrameType | None], None], numbers: Sequence[signal.Signals] = STOPPING
) -> Iterator[None]:
    """Has signals that reach the main thread handled, as long as the block takes."""
    before = [(number, signal.signal(number, handle)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
