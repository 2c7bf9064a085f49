"""Events of a training loop, and how they reach the run's folder and the progress display."""

import math
import shutil
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from jaxtyping import PyTree

from wsrl_kit.agent.state import SACState
from wsrl_kit.classifier.data import LABELS
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.data.formats.hil_serl import write_hil_serl
from wsrl_kit.data.trajectory import Trajectory
from wsrl_kit.errors import DivergenceError, ExperimentError, Stopped, WSRLKitError
from wsrl_kit.replay import frame_files
from wsrl_kit.runs import checkpoint
from wsrl_kit.runs.progress import Progress
from wsrl_kit.runs.run import Run
from wsrl_kit.training.evaluation import MODES


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


@dataclass(frozen=True)
class WarmupResult:
    """What warmup ends with.

    Attributes:
        agent: the last agent, or the best on held-out episodes where early stopping is on.
        steps: gradient steps taken.
        stopped_early: whether early stopping ended it.
    """

    agent: SACState
    steps: int
    stopped_early: bool


Event = Measurement | Snapshot | Step | Judgement


TOLERANCE = 10.0
"""Values this many times as large as any return can be are no overestimate any more."""

SMALLEST_REWARD = 1.0
"""A reward this large is thought possible even where none was seen yet, as before the first success."""


def check_divergence(
    config: WSRLConfig, metrics: Mapping[str, float], largest_reward: float, gradient_step: int
) -> None:
    """Stops a run whose critics have left the range of possible returns, or whose losses are not finite.

    No return is greater than `largest_reward / (1 - discount)`, plus what the entropy bonus can add to it where TD
    targets hold one.

    Args:
        metrics: of the last update; may be empty.
        largest_reward: greatest magnitude of a reward that learning has seen.
        gradient_step: for the message.

    Raises:
        DivergenceError: in one sentence, what was found, what was possible, and what to change.
    """
    bad = next((name for name, value in metrics.items() if not math.isfinite(value)), None)
    if bad is not None:
        raise DivergenceError(
            f"learning diverged: {bad} is not finite at gradient step {gradient_step}; {_advice(config)}"
        )
    if "q_mean" not in metrics:
        return
    horizon = 1.0 / max(1.0 - config.discount, 1e-3)
    entropy_bonus = abs(metrics["temperature"] * metrics["entropy"]) * config.backup_entropy
    largest_value = (max(largest_reward, SMALLEST_REWARD) + entropy_bonus) * horizon
    value = metrics["q_mean"]
    if abs(value) > TOLERANCE * largest_value:
        raise DivergenceError(
            f"learning diverged: the critics' mean value is {value:.3g} at gradient step {gradient_step}, where no "
            f"return is beyond {largest_value:.3g} (rewards up to {largest_reward:.3g}, discount {config.discount:g}); "
            f"{_advice(config)}"
        )


def _advice(config: WSRLConfig) -> str:
    if config.conservative_loss != "none":
        return (
            f"lower conservative_weight ({config.conservative_weight:g}) or set cql_target_gap, since the term grows "
            "without bound where rewards are small"
        )
    return "lower the learning rates, or raise critic_ensemble_size"


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
