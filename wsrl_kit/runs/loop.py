"""Training loops as generators of events, which `follow` writes to the run's folder and the progress display."""

import math
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import PyTree

from wsrl_kit.errors import DivergenceError, ExperimentError, Stopped, WSRLKitError
from wsrl_kit.runs import checkpoint
from wsrl_kit.runs.progress import Progress
from wsrl_kit.runs.run import Run

CALL_SECONDS = 0.5
"""Target time of one call of gradient steps; a stop waits for the call."""


@dataclass(frozen=True)
class Measurement:
    """Numbers measured at one moment.

    Attributes:
        phase: "warmup" or "online".
        environment_step: since the switch; 0 during warmup.
        gradient_step: critic updates, warmup included.
    """

    phase: str
    environment_step: int
    gradient_step: int
    values: dict[str, float]


@dataclass(frozen=True)
class Snapshot:
    """Everything needed to resume. Save it before the next event: the loop may overwrite the arrays."""

    tree: PyTree


@dataclass(frozen=True)
class Step:
    """The loop has reached `step` of `total`."""

    step: int
    total: int
    text: str


@dataclass(frozen=True)
class Output:
    """A file for the run's folder.

    Attributes:
        name: path within the folder.
    """

    name: str
    write: Callable[[Path], None]


@dataclass(frozen=True)
class TrainingResult:
    """Last event of `gradient_loop`.

    Attributes:
        agent: the last one; with early stopping the best.
    """

    agent: Any
    steps: int
    stopped_early: bool


@dataclass(frozen=True)
class Evaluation:
    """One evaluation in `gradient_loop`.

    Attributes:
        error: for early stopping.
        values: metrics.
        outputs: files for the run's folder.
    """

    error: float
    values: dict[str, float]
    outputs: Sequence[Output] = ()


Event = Measurement | Snapshot | Step | Output | TrainingResult


def stopped(step: int) -> Stopped:
    """The error of a stopped loop; raised after its last `Snapshot`."""
    return Stopped(f"stopped at step {step}, saved; Run All continues, as does the same command")


class EnvironmentFailed(Exception):
    """The environment, and nothing else, raised the cause."""


@contextmanager
def environment_acts() -> Iterator[None]:
    """Turns every error inside into `EnvironmentFailed`."""
    try:
        yield
    except Exception as error:
        raise EnvironmentFailed from error


def environment_failed(failure: EnvironmentFailed, step: int) -> WSRLKitError:
    """The error of a failed environment; raised after the loop's last `Snapshot`."""
    error, kept = failure.__cause__, stopped(step)
    if isinstance(error, WSRLKitError):
        return type(error)(f"{error} ({kept})")
    reason = " ".join(str(error).split())[:300]
    frames = traceback.extract_tb(None if error is None else error.__traceback__)
    place = f" in {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""
    return ExperimentError(f"the environment failed with {type(error).__name__}: {reason}{place} ({kept})")


@dataclass(frozen=True)
class GradientPlan:
    """Length and intervals of a `gradient_loop`, in gradient steps.

    Attributes:
        patience: evaluations without improvement before stopping; 0: never.
    """

    steps: int
    log_interval: int
    evaluation_interval: int
    checkpoint_interval: int
    text: str
    patience: int = 0


def initial_tree(agent: PyTree, copy: Callable[[PyTree], PyTree]) -> PyTree:
    """Everything that `gradient_loop` changes, before its first step.

    Args:
        copy: copies an agent; gradient steps take over its buffers.
    """
    return _tree(agent, copy(agent))


def _tree(
    agent: PyTree,
    best_agent: PyTree,
    best_error: float = math.inf,
    step: int = 0,
    evaluated: int = 0,
    evaluations: int = 0,
    without_improvement: int = 0,
) -> PyTree:
    """The content of a checkpoint; `evaluated` is the step of the last evaluation."""
    return {
        "agent": agent,
        "best_agent": best_agent,
        "best_error": np.float64(best_error),
        "step": np.int64(step),
        "evaluated": np.int64(evaluated),
        "evaluations": np.int64(evaluations),
        "without_improvement": np.int64(without_improvement),
    }


def gradient_loop(
    plan: GradientPlan,
    tree: PyTree,
    take_steps: Callable[[Any, int, int], tuple[Any, dict[str, float]]],
    evaluate: Callable[[Any, int], Evaluation],
    copy: Callable[[Any], Any],
    stop_requested: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Takes gradient steps on fixed data; records, evaluates and saves at intervals. Yields a `TrainingResult` last.

    Args:
        tree: from `initial_tree` or an interrupted run's last `Snapshot`; given up.
        take_steps: (agent (given up), first step, end) -> (agent, last metrics). Results must not depend on the number
            of steps per call.
        evaluate: of an agent, given the count of earlier evaluations.
        stop_requested: asked about twice a second.

    Raises:
        Stopped: on request, after a last `Snapshot`.
        WSRLKitError: the environment failed; after a last `Snapshot`.
    """
    agent, step, evaluated = tree["agent"], int(tree["step"]), int(tree["evaluated"])
    best_agent, best_error = tree["best_agent"], float(tree["best_error"])
    evaluations, without_improvement = int(tree["evaluations"]), int(tree["without_improvement"])
    stopped_early = plan.patience > 0 and without_improvement >= plan.patience
    intervals = (plan.log_interval, plan.evaluation_interval, plan.checkpoint_interval)
    steps_at_once = 1

    def snapshot() -> Snapshot:
        return Snapshot(_tree(agent, best_agent, best_error, step, evaluated, evaluations, without_improvement))

    def is_due(interval: int) -> bool:
        return step % interval == 0 or step == plan.steps

    def is_evaluation_due() -> bool:
        return evaluated < step and is_due(plan.evaluation_interval)

    while is_evaluation_due() or (step < plan.steps and not stopped_early):
        if not is_evaluation_due():
            # A call ends where the next record, evaluation or checkpoint is due, and where a stop can't wait longer.
            end = min(plan.steps, step + steps_at_once, *(step - step % interval + interval for interval in intervals))
            before = time.monotonic()
            agent, metrics = take_steps(agent, step, end)
            steps_at_once = 2 * steps_at_once if time.monotonic() - before < CALL_SECONDS else max(1, (end - step) // 2)
            step = end
            yield Step(step, plan.steps, plan.text)
            if is_due(plan.log_interval):
                yield Measurement("warmup", 0, step, {f"training/{name}": value for name, value in metrics.items()})
        if step < plan.steps and stop_requested():
            yield snapshot()
            raise stopped(step)
        if is_evaluation_due():
            try:
                evaluation = evaluate(agent, evaluations)
            except EnvironmentFailed as failure:
                yield snapshot()
                raise environment_failed(failure, step) from failure.__cause__
            yield Measurement("warmup", 0, step, evaluation.values)
            yield from evaluation.outputs
            evaluated, evaluations, without_improvement = step, evaluations + 1, without_improvement + 1
            if evaluation.error < best_error:
                best_agent, best_error, without_improvement = copy(agent), evaluation.error, 0
            stopped_early = plan.patience > 0 and without_improvement >= plan.patience
        if is_due(plan.checkpoint_interval) or stopped_early:
            yield snapshot()
    yield TrainingResult(best_agent if plan.patience > 0 else agent, step, stopped_early)


def resumed(run: Run, fresh: PyTree, load: Callable[[Path, PyTree], PyTree] = checkpoint.load) -> PyTree:
    """The run's last checkpoint, metrics cut to that moment; `fresh` without one."""
    if not run.checkpoint_path.exists():
        run.rewind(0)
        return fresh
    tree = load(run.checkpoint_path, fresh)
    run.rewind(checkpoint.read_metadata(run.checkpoint_path)["rows"])
    return tree


def follow(
    events: Iterator[Event],
    run: Run,
    progress: Progress,
    save: Callable[[Path, PyTree, dict[str, object]], None] = checkpoint.save,
) -> TrainingResult | None:
    """Writes a loop's events to the run's folder, shows them, and returns the loop's result, if any.

    Raises:
        DivergenceError: the loop's, naming the last checkpoint.
    """
    evaluation, last = "", Step(0, 0, "")
    try:
        for event in events:
            match event:
                case Measurement():
                    run.record(event.phase, event.environment_step, event.gradient_step, event.values)
                    if text := _evaluation_text(event.values):
                        evaluation = text
                        if last.total:  # no step follows the last evaluation
                            progress.update(last.step, last.total, last.text + evaluation)
                case Snapshot():
                    # Rows go first: a checkpoint must not count rows that a power cut has lost.
                    run.sync()
                    save(
                        run.checkpoint_path,
                        event.tree,
                        {"rows": run.rows, "online_steps": run.parameters.get("online_steps")},
                    )
                case Output():
                    path = run.folder / event.name
                    path.parent.mkdir(exist_ok=True)
                    event.write(path)
                case Step():
                    last = event
                    progress.update(event.step, event.total, event.text + evaluation)
                case TrainingResult():
                    return event
    except DivergenceError as error:
        found = run.checkpoint_path if run.checkpoint_path.exists() else "none was made yet"
        raise DivergenceError(f"{error}; the last good checkpoint: {found}") from error
    return None


def _evaluation_text(values: dict[str, float]) -> str:
    """A few words on the evaluation in `values`; "" without one."""
    for quantity in ("success", "return"):
        prefix = f"evaluation/{quantity}_"
        found = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
        if found and all(map(math.isfinite, found.values())):
            return f", {quantity} " + ", ".join(f"{value:.2f} {mode}" for mode, value in found.items())
    return ""
