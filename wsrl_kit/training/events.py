"""What a training loop yields, and what it is given to report to: the loop knows no files, plots or progress bars."""

import traceback
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import PyTree

from wsrl_kit.errors import ExperimentError, Stopped, WSRLKitError
from wsrl_kit.trajectory import Trajectory


def stopped(step: int) -> Stopped:
    """What a loop raises where a stop was asked for, once everything is saved."""
    return Stopped(f"stopped at step {step}, saved; Run All continues, as does the same command")


def environment_failed(error: BaseException | None, step: int) -> WSRLKitError:
    """What a loop raises where the environment raised something, once everything is saved."""
    kept = f"stopped at step {step}, saved; Run All continues, as does the same command"
    if isinstance(error, WSRLKitError):
        return type(error)(f"{error} ({kept})")
    reason = " ".join(str(error).split())[:300]
    frames = traceback.extract_tb(None if error is None else error.__traceback__)
    place = f" in {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""
    return ExperimentError(f"the environment failed with {type(error).__name__}: {reason}{place} ({kept})")


@dataclass(frozen=True)
class Measurement:
    """Numbers measured at one moment.

    Attributes:
        phase: "warmup" or "online".
        environment_step: environment steps since the switch; 0 during warmup.
        gradient_step: critic updates in all, warmup included.
        values: by metric name.
    """

    phase: str
    environment_step: int
    gradient_step: int
    values: dict[str, float]


@dataclass(frozen=True)
class Snapshot:
    """Everything that the loop needs to go on from this moment.

    The arrays may be overwritten when the loop goes on, so save or copy them before asking for the next event.
    """

    tree: PyTree


@dataclass(frozen=True)
class Step:
    """The loop has come to `step` of `total`; `text` says what it does."""

    step: int
    total: int
    text: str


@dataclass(frozen=True)
class Judgement:
    """Somebody has said whether a success that the reward classifier saw is one: an example to learn from.

    Attributes:
        environment_step: the step after which they were asked.
        is_success: what they said.
        trajectory: this one step.
    """

    environment_step: int
    is_success: bool
    trajectory: Trajectory


Event = Measurement | Snapshot | Step | Judgement


@runtime_checkable
class Progress(Protocol):
    """Where a job reports to, and who may ask it to stop."""

    @property
    def stop_requested(self) -> bool: ...

    def update(self, step: int, total: int, text: str) -> None: ...


class NamedProgress:
    """Progress of one part of a longer work: says which it is, and passes on what the part reports."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._name = name

    @property
    def stop_requested(self) -> bool:
        return self._progress.stop_requested

    def update(self, step: int, total: int, text: str) -> None:
        """Reports the part's `text` after its name."""
        self._progress.update(step, total, f"{self._name}: {text}")


class Silent:
    """Progress that nobody watches."""

    stop_requested = False

    def update(self, step: int, total: int, text: str) -> None:
        """Does nothing."""
