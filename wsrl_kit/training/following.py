"""A training loop's events on their way to a run's folder and to whoever watches; and back, where a run goes on."""

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress

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


def follow(events: Iterator[Event | WarmupResult], run: Run, progress: Progress) -> WarmupResult | None:
    """Takes the events of a training loop to the run's folder and the progress display.

    Raises:
        DivergenceError: with the last checkpoint, which is from before.
    """
    latest = ""
    for event in _from_before_diverging(events, run):
        match event:
            case Measurement():
                run.record(event.phase, event.environment_step, event.gradient_step, event.values)
                latest = _evaluation_text(event.values) or latest
            case Snapshot():
                frame_files.save(run.checkpoint_path, event.tree, {"rows": run.rows})
            case Judgement():
                name = f"{event.environment_step:08d}_{LABELS[event.is_success]}.pkl"
                (run.folder / JUDGED).mkdir(exist_ok=True)
                write_hil_serl(run.folder / JUDGED / name, [event.trajectory])
            case Step():
                progress.update(event.step, event.total, event.text + latest)
            case WarmupResult():
                return event
        if progress.stop_requested:
            raise Stopped(f"stopped by the user; {run.folder} holds everything up to the last checkpoint")
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
def outcome_recorded(run: Run) -> Iterator[None]:
    """Writes into the run's folder how its work ended, where that is not by finishing.

    Where the disk takes nothing any more, the first error is the one to know, and the run stays "running": resumable.
    """
    try:
        yield
    except (Stopped, KeyboardInterrupt):
        with suppress(RunError):
            run.stop()
        raise
    except Exception as error:
        with suppress(RunError):
            run.fail(str(error) if isinstance(error, WSRLKitError) else f"{type(error).__name__}: {error}")
        raise
