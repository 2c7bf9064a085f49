"""What a reward classifier says of the episodes that it has not learned from, on disk and read again."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, Integer, UInt8

from wsrl_kit.classifier_config import ClassifierConfig
from wsrl_kit.errors import RunError
from wsrl_kit.reading import reading
from wsrl_kit.training.agent import SMALLEST_SCALE, stacks_of
from wsrl_kit.training.classifier_data import load_data

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
