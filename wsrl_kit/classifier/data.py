"""Success and failure data of the reward classifier: recorded or read, labelled, held out, and in batches.

HIL-SERL's `record_success_fail.py` splits the rows of an episode into a file of successes and one of failures. They are
joined again here, so that no episode is both trained on and validated on.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int64, Integer

from wsrl_kit.agent import jax_tools, vision
from wsrl_kit.classifier.config import ClassifierConfig
from wsrl_kit.classifier.model import Examples, RewardClassifier
from wsrl_kit.data.conventions import UNKNOWN, Conventions
from wsrl_kit.data.dataset import Dataset, stacks_of
from wsrl_kit.data.formats.hil_serl import write_hil_serl
from wsrl_kit.data.sources import Paths, expand, load_sources
from wsrl_kit.data.trajectory import Trajectory
from wsrl_kit.envs.collect import collect
from wsrl_kit.errors import DataError, ExperimentError, ParameterError
from wsrl_kit.parameters import user_path

LABELS = ("failure", "success")
"""Words in a file's name; their places are the labels."""
JUDGED = "judged"
"""Folder, within a fine-tuning's, of what somebody judged; also the source of its rows."""


def load_labelled(paths: Paths, cameras: Sequence[str] | None = None, judged: Paths = None) -> Dataset:
    """Reads success and failure files in any of the kit's formats; rows of success files have reward 1, others 0.

    A row's label belongs to its next observation. A file's name must contain `success` or `failure`; other files of a
    folder are ignored.

    Args:
        judged: more files, perhaps of one kind, whose rows come last, with the source `JUDGED`.

    Raises:
        DataError: there are none of one kind, a name says neither or both, a file is damaged, or layouts differ.
    """
    files = _labelled_files(paths)
    trajectories: list[Trajectory] = []
    for label, name in enumerate(LABELS):
        if not files[name]:
            raise DataError(
                f"the reward classifier needs files with '{name}' in their names, found "
                f"{', '.join(path.name for found in files.values() for path in found) or 'none'} in {paths}"
            )
        trajectories += _labelled(files[name], label, name, cameras)
    if judged is not None:
        for label, found in enumerate(_labelled_files(judged).values()):
            trajectories += _labelled(found, label, JUDGED, cameras)
    return Dataset.from_trajectories(trajectories)


def _labelled(files: list[Path], label: int, source: str, cameras: Sequence[str] | None) -> Iterator[Trajectory]:
    if not files:
        return
    given, any_rewards = [str(path) for path in files], Conventions(missing_rewards=UNKNOWN)
    for trajectory in load_sources(given, cameras=cameras, conventions=any_rewards).trajectories():
        rewards = np.full(len(trajectory), label, np.float32)
        yield replace(trajectory, source=source, rewards=rewards, success=bool(label), weight=None)


def _labelled_files(paths: Paths) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = {name: [] for name in LABELS}
    for given in paths if isinstance(paths, list) else [paths]:
        folder = user_path(str(given)) if isinstance(given, str | Path) else None
        if folder is not None and folder.is_dir():
            found = [path for path in sorted(folder.iterdir()) if any(name in path.name.lower() for name in LABELS)]
        else:
            found = [path for source in expand(given).values() for path in source]
        for path in found:
            named = [name for name in LABELS if name in path.name.lower()]
            if len(named) != 1:
                raise DataError(f"the name of {path} must have either 'success' or 'failure' in it, found {path.name}")
            files[named[0]].append(path)
    return files


def episodes_of_rows(dataset: Dataset) -> Int64[np.ndarray, " transition"]:
    """Each row's episode, after labels have cut episodes into segments.

    A segment continues another if it begins with the very observation that the other led to: sensors do not repeat to
    the last bit. Segments are compared over all files; indistinguishable ones count as one episode.
    """
    count, starts = dataset.episode_count, defaultdict(list)
    last = dataset.episode_ends - 1
    for segment, row in enumerate(dataset.episode_starts):
        starts[_fingerprint(dataset, dataset.observations[row], dataset.frame_of_row[row])].append(segment)
    parent = list(range(count))

    def first_of(segment: int) -> int:
        while parent[segment] != segment:
            segment = parent[segment]
        return segment

    for segment, row in enumerate(last):
        end = _fingerprint(dataset, dataset.next_observations[row], dataset.frame_of_row[row] + 1)
        for other in starts.get(end, ()):
            parent[first_of(other)] = first_of(segment)
    _, episode = np.unique([first_of(segment) for segment in range(count)], return_inverse=True)
    return episode.astype(np.int64)[dataset.episode_of_row]


def _fingerprint(dataset: Dataset, state: np.ndarray, newest_frame: np.integer) -> bytes:
    digest = hashlib.blake2b(state.tobytes())
    for frames in dataset.images.values():
        digest.update(frames[newest_frame].tobytes())
    return digest.digest()


def hold_out(
    is_success: Bool[np.ndarray, " transition"], episode: Integer[np.ndarray, " transition"], fraction: float, seed: int
) -> Bool[np.ndarray, " transition"]:
    """Which rows are held out: whole episodes, drawn among those with a success and those without.

    Args:
        is_success: label of each row.
        episode: episode of each row.
        fraction: share of either kind to hold out, in (0, 1), rounded to at least one and not all.

    Raises:
        DataError: one side would lack successes or failures.
    """
    generator = np.random.default_rng(seed)
    with_success = np.unique(episode[is_success])
    chosen = []
    for kind in (with_success, np.setdiff1d(episode, with_success)):
        if len(kind) > 1:
            count = min(max(round(fraction * len(kind)), 1), len(kind) - 1)
            chosen.append(generator.permutation(kind)[:count])
    held_out = np.isin(episode, np.concatenate([[], *chosen]))
    for name, rows in (("successes", is_success), ("failures", ~is_success)):
        if not (rows & held_out).any() or not (rows & ~held_out).any():
            raise DataError(
                f"the reward classifier is judged on episodes that it has not seen, so {name} must come from at least "
                f"two episodes, found {rows.sum()} {name} from {len(np.unique(episode[rows]))}"
            )
    return held_out


def held_out_rows(config: ClassifierConfig, dataset: Dataset) -> Bool[np.ndarray, " transition"]:
    """Validation rows; those that are not judged are the same with judged data and without. Raises as `hold_out`."""
    episode, seed = episodes_of_rows(dataset), jax_tools.episode_seed(config.seed, "data")
    sources = np.array(dataset.source_names)[dataset.episode_source]
    own = (sources != JUDGED)[dataset.episode_of_row]
    held_out = np.zeros(len(dataset), bool)
    held_out[own] = hold_out(dataset.rewards[own] > 0, episode[own], config.validation_fraction, seed)
    judged = np.setdiff1d(episode[~own], episode[own])
    count = round(config.validation_fraction * len(judged))
    chosen = np.random.default_rng(seed).permutation(judged)[:count]
    return held_out | np.isin(episode, np.concatenate([episode[held_out], chosen]))


class StayAfterSuccess(gymnasium.Wrapper):
    """The operator stays for `steps` after the first success; the reward says at every step if the task is done.

    Raises ExperimentError if the task does not report success.
    """

    def __init__(self, environment: gymnasium.Env, steps: int) -> None:
        super().__init__(environment)
        self._steps = steps
        self._left: int | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._left = None
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = self.env.step(action)
        if info.get("success") is None:
            raise ExperimentError(
                "success and failure data are recorded on tasks that report success in their info, which this one does "
                "not: give your own files as classifier_data"
            )
        if self._left is not None:
            self._left -= 1
        elif info["success"]:
            self._left = self._steps
        stays = self._left is not None and self._left > 0
        failed = terminated and self._left is None
        return observation, float(info["success"]), failed or (self._left is not None and not stays), truncated, info


def record_labelled(
    exp_name: str,
    environment_options: Mapping[str, Any],
    episodes: Mapping[str, int],
    success_frames: int,
    seed: int,
    progress: Callable[[int], object] | None = None,
) -> list[Trajectory]:
    """Episodes in which a step's reward is 1 if the task is done after it, else 0.

    The steps before a success are near failures, the best there are.

    Args:
        episodes: by kind of policy (see `collect`).
        success_frames: observations of each success: the first, and more while the operator stays.
        progress: called with 1 after every episode.

    Raises:
        ExperimentError: no such experiment or script, or a task that reports no success.
        ParameterError: an option is wrong.
    """
    stay = partial(StayAfterSuccess, steps=success_frames - 1)
    trajectories: list[Trajectory] = []
    for number, (kind, count) in enumerate(episodes.items()):
        own_seed = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
        trajectories += collect(
            exp_name, environment_options, kind, episodes=count, seed=own_seed, progress=progress, wrapper=stay
        )
    return trajectories


RECORDED = tuple(f"{name}.pkl" for name in LABELS)
"""Recorded data in a run's folder."""


def record(config: ClassifierConfig, folder: Path, report: Callable[[int, str], None]) -> None:
    """Records success and failure data into a run's folder.

    Raises:
        ParameterError: no episodes are asked for.
        DataError: only successes, or none, were recorded.
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
    """A run's success and failure data, given or recorded in its folder."""
    paths: Paths = config.classifier_data or [str(folder / name) for name in RECORDED]
    cameras = () if config.classifier_inputs == "state" else config.cameras
    return load_labelled(paths, cameras, config.judged_data)


def design(config: ClassifierConfig, dataset: Dataset) -> RewardClassifier:
    """The static part of a classifier for some data.

    Raises:
        DataError: there are no images, or their sizes differ.
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
        sight = vision.for_cameras(stacks, config.encoder, config.augmentation_padding)
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
    """The rows of a step's batch, half of them successes; they depend on the seed and the step alone."""
    generator = np.random.default_rng(jax_tools.episode_seed(config.seed, "classifier", step))
    halves = config.batch_size // 2, config.batch_size - config.batch_size // 2
    kinds = (dataset.rewards > 0, dataset.rewards == 0)
    pairs = zip(kinds, halves, strict=True)
    return np.concatenate([generator.choice(np.flatnonzero(kind & ~held_out), half) for kind, half in pairs])


def examples(static: RewardClassifier, dataset: Dataset, rows: Integer[np.ndarray, " rows"]) -> Examples:
    """The next observations of some rows, and their labels."""
    cameras = static.pixels.cameras if static.pixels else ()
    _, stacks = stacks_of(dataset, rows)
    images = {camera: dataset.images[camera][stacks] for camera in cameras}
    states, labels = dataset.next_observations[rows, : static.state_size], dataset.rewards[rows]
    return Examples(jnp.asarray(states), jnp.asarray(labels), images)
