"""Progress of long work, how it is stopped, and how its end is recorded."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Protocol, runtime_checkable

from wsrl_kit.errors import RunError, Stopped, WSRLKitError
from wsrl_kit.runs.run import Run


@runtime_checkable
class Progress(Protocol):
    """Takes a job's progress, and may ask it to stop."""

    @property
    def stop_requested(self) -> bool: ...

    def update(self, step: int, total: int, text: str) -> None: ...


class NamedProgress:
    """Progress of one part of a longer work, shown after the part's name."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._name = name

    @property
    def stop_requested(self) -> bool:
        return self._progress.stop_requested

    def update(self, step: int, total: int, text: str) -> None:
        self._progress.update(step, total, f"{self._name}: {text}")


class Silent:
    """Progress that nobody watches."""

    stop_requested = False

    def update(self, step: int, total: int, text: str) -> None:
        """Does nothing."""


@contextmanager
def outcome_recorded(run: Run, progress: Progress) -> Iterator[Progress]:
    """Records how a run's work ended, unless it finished, and closes the run.

    On a full disk the first error propagates, and the run stays "running": resumable.

    Yields:
        Progress that SIGINT, SIGTERM and SIGHUP ask to stop.
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
        """Handles a signal. A second Ctrl-C does not wait for the current step."""
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
