"""Trains the reward classifier, validates it on held-out episodes, and chooses its threshold."""

import csv
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Integer, PRNGKeyArray, UInt8
from matplotlib.figure import Figure

from wsrl_kit.agent import jax_tools
from wsrl_kit.agent.vision import load_resnet10
from wsrl_kit.classifier import figures, model
from wsrl_kit.classifier.config import ClassifierConfig
from wsrl_kit.classifier.data import (
    JUDGED,
    RECORDED,
    balanced_rows,
    design,
    episodes_of_rows,
    examples,
    held_out_rows,
    load_data,
    record,
)
from wsrl_kit.classifier.model import ClassifierState, Decision, Examples, RewardClassifier
from wsrl_kit.config.config import SMALLEST_SCALE
from wsrl_kit.data.dataset import Dataset, stacks_of
from wsrl_kit.data.digests import input_digests
from wsrl_kit.errors import RunError, Stopped
from wsrl_kit.files import reading
from wsrl_kit.runs.loop import Evaluation, GradientPlan, follow, gradient_loop, initial_tree, resumed
from wsrl_kit.runs.progress import Progress, outcome_recorded
from wsrl_kit.runs.run import Run, read_run

VALIDATION_FILE = "validation.csv"


def write_validation(
    path: Path,
    rows: Integer[np.ndarray, " rows"],
    episode: Integer[np.ndarray, " rows"],
    is_success: Bool[np.ndarray, " rows"],
    probability: Float[np.ndarray, " rows"],
) -> None:
    """Writes the probability of every held-out row."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "episode", "success", "probability"])
        writer.writerows(zip(rows, episode, is_success.astype(int), probability, strict=True))


@dataclass(frozen=True)
class Validation:
    """Predictions for held-out rows.

    Attributes:
        row: in the run's data (see `load_data`).
        probability: of success.
    """

    row: Integer[np.ndarray, " rows"]
    is_success: Bool[np.ndarray, " rows"]
    probability: Float[np.ndarray, " rows"]


def read_validation(folder: Path) -> Validation:
    """Reads the predictions that `run_classifier` wrote.

    Raises:
        RunError: the file is missing or damaged.
    """
    path = folder / VALIDATION_FILE
    with reading(path, RunError):
        rows, _, label, probability = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2).T
        return Validation(rows.astype(np.int64), label > 0, probability)


@dataclass(frozen=True)
class Lookalikes:
    """Failures that look most like success to a classifier, the most alike first.

    Attributes:
        probability: of success.
        images: newest frames by camera.
        states: in standard deviations from the successes' mean.
    """

    probability: Float[np.ndarray, " failures"]
    images: dict[str, UInt8[np.ndarray, "failures height width 3"]]
    states: Float32[np.ndarray, "failures state"]


def lookalikes(config: ClassifierConfig, folder: Path, count: int = 8) -> Lookalikes:
    """The validation failures with the highest probability of success."""
    validation, dataset = read_validation(folder), load_data(config, folder)
    failures = np.flatnonzero(~validation.is_success)
    order = failures[np.argsort(-validation.probability[failures], kind="stable")][:count]
    rows = validation.row[order]
    successes = dataset.next_observations[dataset.rewards > 0]
    scale = np.maximum(successes.std(axis=0), SMALLEST_SCALE)
    _, stacks = stacks_of(dataset, rows)
    return Lookalikes(
        validation.probability[order],
        {camera: frames[stacks[:, -1]] for camera, frames in sorted(dataset.images.items())},
        (dataset.next_observations[rows] - successes.mean(axis=0)) / scale,
    )


CLASSIFIER_FILE = "classifier.npz"

AT_ONCE = 256
"""Examples per call of `probabilities`."""


def run_classifier(config: ClassifierConfig, folder: Path, progress: Progress, *, resume: bool = True) -> Path:
    """Records success and failure data unless given, trains a classifier, and chooses its threshold.

    Writes `success.pkl` and `failure.pkl` if recorded, `validation.csv` (see `Validation`), and the classifier, whose
    file it returns. A finished run is left as it is.

    Raises:
        Stopped: the user stopped it; all is saved, and the run can be resumed.
        WSRLKitError: bad data, parameters, weights or disk.
    """
    jax_tools.enable_compilation_cache()
    target = folder / CLASSIFIER_FILE
    run = Run.open(
        folder,
        kind="classifier",
        arm="",
        seed=config.seed,
        parameters=asdict(config),
        inputs=input_digests(config, "classifier"),
        may_grow=("classifier_steps",),
        outputs=(target,),
        resume=resume,
    )
    if run.is_finished:
        return target
    with outcome_recorded(run, progress) as progress:
        if config.classifier_data is None and not run.checkpoint_path.exists():
            _record(config, folder, progress)
        dataset = load_data(config, folder)
        classifier = design(config, dataset)
        episode = episodes_of_rows(dataset)
        held_out = held_out_rows(config, dataset)
        validation, is_success = np.flatnonzero(held_out), dataset.rewards[held_out] > 0
        key = jax_tools.key(config.seed, "classifier")

        def take_steps(state: ClassifierState, start: int, end: int) -> tuple[ClassifierState, dict[str, float]]:
            for step in range(start, end):
                batch = examples(classifier, dataset, balanced_rows(config, dataset, held_out, step))
                state, loss = _update(classifier, state, batch, key, np.int32(step))
            return state, {"loss": float(loss)}

        def evaluate(state: ClassifierState, count: int) -> Evaluation:
            values = _validation_metrics(probabilities(classifier, state, dataset, validation), is_success)
            return Evaluation(values["validation/loss"], values)

        plan = GradientPlan(
            steps=config.classifier_steps,
            log_interval=config.evaluation_interval,
            evaluation_interval=config.evaluation_interval,
            checkpoint_interval=config.evaluation_interval,
            text="training the reward classifier",
        )
        tree = initial_tree(_fresh(config, classifier, dataset, np.flatnonzero(~held_out)), jax_tools.copied)
        events = gradient_loop(
            plan, resumed(run, tree), take_steps, evaluate, jax_tools.copied, lambda: progress.stop_requested
        )
        result = follow(events, run, progress)
        assert result is not None

        probability = probabilities(classifier, result.agent, dataset, validation)
        rates = figures.sweep(probability, is_success)
        place = figures.choose_threshold(rates, config.max_false_positive_rate)
        threshold = float(rates.threshold[place])
        decision = Decision(threshold, threshold * config.release_ratio, config.success_steps)
        write_validation(folder / VALIDATION_FILE, validation, episode[validation], is_success, probability)
        model.save(target, classifier, result.agent, decision)
        run.finish(
            {
                "classifier": str(target),
                "threshold": threshold,
                "precision": rates.precision[place],
                "recall": rates.recall[place],
                "false_positive_rate": rates.false_positive_rate[place],
                "validation_successes": int(is_success.sum()),
                "validation_failures": int((~is_success).sum()),
                "validation_episodes": len(np.unique(episode[validation])),
                "training_successes": int((dataset.rewards > 0).sum() - is_success.sum()),
                "training_failures": int((dataset.rewards == 0).sum() - (~is_success).sum()),
            }
        )
    return target


def judged_folders(folder: Path) -> list[str]:
    """The folders `judged` of the fine-tunings beside a classifier's folder, or one deeper, whose reward it gave."""
    own, found = _file(folder).resolve(), []
    for place in sorted([*folder.parent.glob(f"*/{JUDGED}"), *folder.parent.glob(f"*/*/{JUDGED}")]):
        with suppress(RunError):  # a damaged run is nobody's
            given = read_run(place.parent, with_metrics=False).parameters.get("reward_classifier")
            if given is not None and Path(given).resolve() == own:
                found.append(str(place))
    return found


def retraining(config: ClassifierConfig, folder: Path, judged: str | list[str]) -> tuple[ClassifierConfig, Path]:
    """For `run_classifier`: a classifier's data and what was judged, and a folder for each state of the latter."""
    data = config.classifier_data or [str(folder / name) for name in RECORDED]
    again = replace(config, classifier_data=data, judged_data=judged)
    return again, folder / f"retrained_{input_digests(again, 'classifier').get('judged_data', '')[:8]}"


def retraining_figure(config: ClassifierConfig, folder: Path, again: ClassifierConfig, retrained: Path) -> Figure:
    """Both classifiers on the retrained one's validation rows, which neither was trained on; until then its learning.

    Args:
        config, folder: the first classifier's.
        again, retrained: from `retraining`.
    """
    if not _file(retrained).exists():
        return figures.learning_figure(read_run(retrained))
    validation, dataset = read_validation(retrained), load_data(again, retrained)
    found = {}
    for name, place in (("before", folder), ("after", retrained)):
        static, state, decision = model.load(_file(place))
        found[name] = probabilities(static, state, dataset, validation.row), decision.threshold
    return figures.comparison_figure(found, validation.is_success)


def _file(folder: Path) -> Path:
    return folder / CLASSIFIER_FILE


def _record(config: ClassifierConfig, folder: Path, progress: Progress) -> None:
    total, done = sum(config.episodes.values()), 0

    def report(count: int, text: str) -> None:
        nonlocal done
        done += count
        progress.update(done, total, text)
        if progress.stop_requested:
            raise Stopped("stopped while recording; no data file was written, and Run All begins anew")

    record(config, folder, report)


def _fresh(
    config: ClassifierConfig, static: RewardClassifier, dataset: Dataset, rows: Integer[np.ndarray, " rows"]
) -> ClassifierState:
    """A classifier whose states are normalised by mean and standard deviation of some rows."""
    states = dataset.next_observations[rows, : static.state_size]
    center, scale = jnp.asarray(states.mean(axis=0)), jnp.asarray(np.maximum(states.std(axis=0), SMALLEST_SCALE))
    weights = None
    if static.pixels is not None and config.encoder_weights is not None:
        weights = load_resnet10(Path(config.encoder_weights))
    return model.create(static, jax_tools.key(config.seed, "initialisation"), center, scale, weights)


def probabilities(
    static: RewardClassifier, state: ClassifierState, dataset: Dataset, rows: Integer[np.ndarray, " rows"]
) -> Float[np.ndarray, " rows"]:
    """Of success, for some rows."""
    found = [
        np.asarray(_probability(static, state, examples(static, dataset, rows[part])))
        for part in jax_tools.padded_chunks(len(rows), AT_ONCE)
    ]
    return np.concatenate(found)[: len(rows)].astype(np.float64)


def _validation_metrics(
    probability: Float[np.ndarray, " examples"], is_success: Bool[np.ndarray, " examples"]
) -> dict[str, float]:
    """Cross-entropy (nats) and accuracy at 0.5, successes and failures with equal weight."""
    right = np.where(is_success, probability, 1 - probability)
    losses, hits = -np.log(np.maximum(right, 1e-7)), right > 0.5
    return {
        f"validation/{name}": float(values[is_success].mean() + values[~is_success].mean()) / 2
        for name, values in (("loss", losses), ("accuracy", hits))
    }


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def _update(
    static: RewardClassifier, state: ClassifierState, batch: Examples, key: PRNGKeyArray, step: Integer[Array, ""]
) -> tuple[ClassifierState, Float[Array, ""]]:
    return model.update(static, state, batch, jax.random.fold_in(key, step))


_probability = partial(jax.jit, static_argnums=0)(model.probability)
