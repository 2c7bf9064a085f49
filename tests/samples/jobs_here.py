"""Runs of ablations and tunings in this process instead of workers of their own."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any
from unittest import mock

from wsrl_kit.experiments import engine
from wsrl_kit.runs.progress import Silent


class _AtOnce:
    """A pool of no processes: a job is done when it is submitted."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def __enter__(self) -> "_AtOnce":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def submit(self, work: Callable[..., None], *arguments: Any) -> "Future[None]":
        future: Future[None] = Future()
        try:
            future.set_result(work(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, **options: bool) -> None:
        pass


@contextmanager
def jobs_here() -> Iterator[None]:
    """Jobs are done one after the other, in this process, whose compiled programs they share."""
    with (
        mock.patch.object(engine, "ProcessPoolExecutor", _AtOnce),
        mock.patch.object(engine, "_progress", Silent(), create=True),
    ):
        yield
