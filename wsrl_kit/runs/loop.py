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
    return vars(_State(agent, copy(agent)))


@dataclass
class _State:
    """What `gradient_loop` changes, and a checkpoint holds; `evaluated` is the step of the last evaluation."""

    agent: PyTree
    best_agent: PyTree
    best_error: float = math.inf
    step: int = 0
    evaluated: int = 0
    evaluations: int = 0
    without_improvement: int = 0


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
    # A checkpoint's numbers are arrays.
    state = _State(**{name: leaf if name.endswith("agent") else np.asarray(leaf).item() for name, leaf in tree.items()})
    intervals = (plan.log_interval, plan.evaluation_interval, plan.checkpoint_interval)
    steps_at_once = 1

    def snapshot() -> Snapshot:
        return Snapshot({**vars(state)})

    def is_due(interval: int) -> bool:
        return state.step % interval == 0 or state.step == plan.steps

    def is_evaluation_due() -> bool:
        return state.evaluated < state.step and is_due(plan.evaluation_interval)

    def has_stopped_early() -> bool:
        return 0 < plan.patience <= state.without_improvement

    while is_evaluation_due() or (state.step < plan.steps and not has_stopped_early()):
        if not is_evaluation_due():
            # A call ends where the next record, evaluation or checkpoint is due, and where a stop can't wait longer.
            step = state.step
            end = min(plan.steps, step + steps_at_once, *(step - step % interval + interval for interval in intervals))
            before = time.monotonic()
            state.agent, metrics = take_steps(state.agent, step, end)
            steps_at_once = 2 * steps_at_once if time.monotonic() - before < CALL_SECONDS else max(1, (end - step) // 2)
            state.step = end
            yield Step(end, plan.steps, plan.text)
            if is_due(plan.log_interval):
                yield Measurement("warmup", 0, end, {f"training/{name}": value for name, value in metrics.items()})
        if state.step < plan.steps and stop_requested():
            yield snapshot()
            raise stopped(state.step)
        if is_evaluation_due():
            try:
                evaluation = evaluate(state.agent, state.evaluations)
            except EnvironmentFailed as failure:
                yield snapshot()
                raise environment_failed(failure, state.step) from failure.__cause__
            yield Measurement("warmup", 0, state.step, evaluation.values)
            yield from evaluation.outputs
            state.evaluated, state.evaluations = state.step, state.evaluations + 1
            state.without_improvement += 1
            if evaluation.error < state.best_error:
                state.best_agent, state.best_error = copy(state.agent), float(evaluation.error)
                state.without_improvement = 0
        if is_due(plan.checkpoint_interval) or has_stopped_early():
            yield snapshot()
    yield TrainingResult(state.best_agent if plan.patience > 0 else state.agent, state.step, has_stopped_early())


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
                    counts = {"rows": run.rows, "online_steps": run.parameters.get("online_steps")}
                    save(run.checkpoint_path, event.tree, counts)
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
