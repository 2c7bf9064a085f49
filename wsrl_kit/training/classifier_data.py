"""What a reward classifier learns from: recorded or given data, how it sees them, and its batches."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Integer

from wsrl_kit import pixels
from wsrl_kit.classifier_config import ClassifierConfig
from wsrl_kit.data.dataset import Dataset
from wsrl_kit.data.files import Paths
from wsrl_kit.data.hil_serl import write_hil_serl
from wsrl_kit.data.labels import LABELS, load_labelled
from wsrl_kit.envs.labelled import record_labelled
from wsrl_kit.errors import DataError, ParameterError
from wsrl_kit.reward_classifier import Examples, RewardClassifier
from wsrl_kit.training import randomness
from wsrl_kit.training.agent import stacks_of

RECORDED = tuple(f"{name}.pkl" for name in LABELS)
"""Files of recorded data in a run's folder."""


def record(config: ClassifierConfig, folder: Path, report: Callable[[int, str], None]) -> None:
    """Records success and failure data into a run's folder.

    Raises:
        ParameterError: no episodes are asked for.
        DataError: no episode succeeded, or nothing but successes was recorded.
        ExperimentError: no such experiment, no script for it, or a task that reports no success.
    """
    if not config.episodes:
        raise ParameterError("demo_episodes, suboptimal_episodes and random_episodes must not all be 0")
    trajectories = record_labelled(
        config.exp_name,
        config.environment_options,
        config.episodes,
        config.success_frames,
        config.seed,
        lambda count: report(count, "recording successes and failures"),
    )
    dataset = Dataset.from_trajectories(trajectories)
    for label, name in enumerate(LABELS):
        rows = np.flatnonzero((dataset.rewards > 0) == label)
        if len(rows) == 0:
            raise DataError(
                f"the scripts of {config.exp_name} gave no {name} in {len(trajectories)} episodes: change the numbers "
                "of episodes or the task's options"
            )
        write_hil_serl(folder / RECORDED[label], dataset.select_transitions(rows).trajectories())


def load_data(config: ClassifierConfig, folder: Path) -> Dataset:
    """The success and failure data of a run: those given, or those that it recorded in its folder.

    Raises:
        DataError: as `load_labelled`.
    """
    paths: Paths = config.classifier_data or [str(folder / name) for name in RECORDED]
    return load_labelled(paths, () if config.classifier_inputs == "state" else config.cameras)


def design(config: ClassifierConfig, dataset: Dataset) -> RewardClassifier:
    """The static part of a classifier for some data.

    Raises:
        DataError: images are asked for and there are none, or those of the cameras have different sizes.
    """
    shapes = {name: frames.shape[1:] for name, frames in sorted(dataset.images.items())}
    inputs = config.classifier_inputs or ("images" if shapes else "state")
    sight = None
    if inputs != "state":
        if not shapes:
            raise DataError(f"classifier_inputs {inputs!r} needs data with images, found no cameras")
        if len(set(shapes.values())) > 1:
            raise DataError(f"the cameras of the classifier must see images of one size, found {shapes}")
        stacks = {name: (dataset.observation_horizon, *shape) for name, shape in shapes.items()}
        sight = pixels.for_cameras(stacks, config.encoder, config.augmentation_padding)
        if inputs == "images":
            sight = replace(sight, state_width=0)
    return RewardClassifier(
        state_size=0 if inputs == "images" else dataset.observations.shape[1],
        hidden_sizes=tuple(config.hidden_sizes),
        dropout_rate=config.dropout_rate,
        learning_rate=config.learning_rate,
        pixels=sight,
    )


def balanced_rows(
    config: ClassifierConfig, dataset: Dataset, held_out: Bool[np.ndarray, " transition"], step: int
) -> Integer[np.ndarray, " batch"]:
    """The rows of a step's batch, which depend on the seed and the step alone: as many successes as failures."""
    generator = np.random.default_rng(randomness.episode_seed(config.seed, "classifier", step))
    halves = config.batch_size // 2, config.batch_size - config.batch_size // 2
    kinds = (dataset.rewards > 0, dataset.rewards == 0)
    pairs = zip(kinds, halves, strict=True)
    return np.concatenate([generator.choice(np.flatnonzero(kind & ~held_out), half) for kind, half in pairs])


def examples(static: RewardClassifier, dataset: Dataset, rows: Integer[np.ndarray, " rows"]) -> Examples:
    """What a classifier sees of the next observations of some rows, and their labels."""
    cameras = static.pixels.cameras if static.pixels else ()
    _, stacks = stacks_of(dataset, rows)
    images = {camera: dataset.images[camera][stacks] for camera in cameras}
    states, labels = dataset.next_observations[rows, : static.state_size], dataset.rewards[rows]
    return Examples(jnp.asarray(states), jnp.asarray(labels), images)
