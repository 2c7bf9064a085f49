"""Runs of ablations and tunings in this process instead of workers of their own."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any
from unittest import mock

from wsrl_kit.experiments import ablation, engine, tuning
from wsrl_kit.runs.progress import Silent


class AtOnce:
    """A client without workers: a job is done when it is submitted."""

    status = "running"

    def submit(self, work: Callable[..., str], job: engine.Job, resume: bool, *rest: Any, **options: Any) -> Any:
        future: Future[str] = Future()
        try:
            future.set_result(engine.attempt(job, Silent(), resume))
        except Exception as error:
            future.set_exception(error)
        return future

    def cancel(self, futures: list[Any], **options: Any) -> None:
        pass

    def subscribe_topic(self, topic: str, handler: Callable[..., None]) -> None:
        pass

    def unsubscribe_topic(self, topic: str) -> None:
        pass


@contextmanager
def _connected(*arguments: Any, **options: Any) -> Iterator[AtOnce]:
    yield AtOnce()


@contextmanager
def jobs_here() -> Iterator[None]:
    """Jobs are done one after the other, in this process, whose compiled programs they share."""
    with mock.patch.object(ablation, "connected", _connected), mock.patch.object(tuning, "connected", _connected):
        yield
