"""Train the reward classifier, validate it on held-out episodes, and choose its threshold."""

import csv
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Integer, PRNGKeyArray, UInt8

from wsrl_kit.agent import jax_tools
from wsrl_kit.agent.vision import load_resnet10
from wsrl_kit.classifier import figures, model
from wsrl_kit.classifier.config import ClassifierConfig
from wsrl_kit.classifier.data import balanced_rows, design, episodes_of_rows, examples, hold_out, load_data, record
from wsrl_kit.classifier.model import ClassifierState, Decision, Examples, RewardClassifier
from wsrl_kit.config.config import SMALLEST_SCALE
from wsrl_kit.data.dataset import Dataset, stacks_of
from wsrl_kit.errors import RunError, Stopped
from wsrl_kit.files import reading
from wsrl_kit.runs.progress import Progress, outcome_recorded
from wsrl_kit.runs.run import Run

VALIDATION_FILE = "validation.csv"


def write_validation(
    path: Path,
    rows: Integer[np.ndarray, " rows"],
    episode: Integer[np.ndarray, " rows"],
    is_success: Bool[np.ndarray, " rows"],
    probability: Float[np.ndarray, " rows"],
) -> None:
    """Writes the probability of every row that was held out."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "episode", "success", "probability"])
        writer.writerows(zip(rows, episode, is_success.astype(int), probability, strict=True))


@dataclass(frozen=True)
class Validation:
    """What a classifier says of the rows that it has not learned from.

    Attributes:
        row: in the run's data (see `load_data`).
        is_success: their labels.
        probability: of success.
    """

    row: Integer[np.ndarray, " rows"]
    is_success: Bool[np.ndarray, " rows"]
    probability: Float[np.ndarray, " rows"]


def read_validation(folder: Path) -> Validation:
    """Reads what `run_classifier` has written into its folder.

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
        images: by camera what it saw, the newest frame; empty without cameras.
        states: their states, each entry in standard deviations from the mean of the successes.
    """

    probability: Float[np.ndarray, " failures"]
    images: dict[str, UInt8[np.ndarray, "failures height width 3"]]
    states: Float32[np.ndarray, "failures state"]


def lookalikes(config: ClassifierConfig, folder: Path, count: int = 8) -> Lookalikes:
    """The validation failures with the highest probability of success: false positives, and what comes near to them."""
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
"""Examples per call where the probabilities of many are computed."""


def run_classifier(config: ClassifierConfig, folder: Path, progress: Progress) -> Path:
    """Records success and failure data unless they are given, trains a classifier, and chooses its threshold.

    Writes the run's folder, replacing an earlier one of its kind: `success.pkl` and `failure.pkl` where they are
    recorded, `validation.csv` (the probability of every row that was held out), and the classifier.

    Returns:
        The classifier's file, for the `reward_classifier` of fine-tuning.

    Raises:
        Stopped: the user stopped it; no classifier was written.
        WSRLKitError: bad data, parameters, weights or disk, in one sentence.
    """
    jax_tools.keep()
    run = Run.open(folder, kind="classifier", arm="", seed=config.seed, parameters=asdict(config), resume=False)
    target = folder / CLASSIFIER_FILE
    with outcome_recorded(run, progress) as progress:
        target.unlink(missing_ok=True)
        report = _reporter(config, progress)
        if config.classifier_data is None:
            record(config, folder, report)
        dataset = load_data(config, folder)
        static = design(config, dataset)
        episode = episodes_of_rows(dataset)
        seed = jax_tools.episode_seed(config.seed, "data")
        held_out = hold_out(dataset.rewards > 0, episode, config.validation_fraction, seed)
        validation, is_success = np.flatnonzero(held_out), dataset.rewards[held_out] > 0
        state = _fresh(config, static, dataset, np.flatnonzero(~held_out))
        for step in range(config.classifier_steps):
            batch = examples(static, dataset, balanced_rows(config, dataset, held_out, step))
            state, loss = _update(static, state, batch, jax_tools.key(config.seed, "classifier"), np.int32(step))
            if (step + 1) % config.evaluation_interval == 0 or step + 1 == config.classifier_steps:
                probability = probabilities(static, state, dataset, validation)
                values = {"training/loss": float(loss)} | _validation_metrics(probability, is_success)
                run.record("warmup", 0, step + 1, values)
            report(1, "training the reward classifier")

        rates = figures.sweep(probability, is_success)
        place = figures.choose_threshold(rates, config.max_false_positive_rate)
        threshold = float(rates.threshold[place])
        decision = Decision(threshold, threshold * config.release_ratio, config.success_steps)
        write_validation(folder / VALIDATION_FILE, validation, episode[validation], is_success, probability)
        model.save(target, static, state, decision)
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


def _reporter(config: ClassifierConfig, progress: Progress) -> Callable[[int, str], None]:
    recorded = 0 if config.classifier_data else sum(config.episodes.values())
    total, done = recorded + config.classifier_steps, 0

    def report(count: int, text: str) -> None:
        nonlocal done
        done += count
        progress.update(done, total, text)
        if progress.stop_requested:
            raise Stopped("stopped; no classifier was written, and Run All begins anew")

    return report


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
    """Of success, for some rows of labelled data."""
    found = [
        np.asarray(_probability(static, state, examples(static, dataset, rows[part])))
        for part in jax_tools.parts(len(rows), AT_ONCE)
    ]
    return np.concatenate(found)[: len(rows)].astype(np.float64)


def _validation_metrics(
    probability: Float[np.ndarray, " examples"], is_success: Bool[np.ndarray, " examples"]
) -> dict[str, float]:
    """Cross-entropy (nats) and accuracy at a threshold of one half, successes and failures with equal weight."""
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
