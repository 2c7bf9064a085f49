"""Success and failure files for the reward classifier: labels, which episode each row is of, and what is held out.

HIL-SERL's `record_success_fail.py` writes the rows of one recording into two files, successes and failures, which
tears its episodes apart. They are put together again here, so that no episode is both learned and judged from.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64, Integer

from wsrl_kit.data.dataset import Dataset
from wsrl_kit.data.files import Paths, expand, load_sources
from wsrl_kit.errors import DataError
from wsrl_kit.parameters import user_path

LABELS = ("failure", "success")
"""Words in a file's name that say what its rows are; their places are the labels."""


def load_labelled(paths: Paths, cameras: Sequence[str] | None = None) -> Dataset:
    """Reads success and failure files in any of the kit's formats; the rows of success files have reward 1, others 0.

    What a row's label speaks of is its next observation: what the robot had come to when the row was recorded.

    Args:
        paths: files, globs or folders, as for `load_sources`. A file whose name has `success` or `failure` in it is
            what that says; other files of a folder are passed over.
        cameras: as for `load_sources`.

    Raises:
        DataError: there are none of one kind, a name says neither or both, a file is damaged, or layouts differ.
    """
    files = _labelled_files(paths)
    trajectories = []
    for label, name in enumerate(LABELS):
        if not files[name]:
            raise DataError(
                f"the reward classifier needs files with '{name}' in their names, found "
                f"{', '.join(path.name for found in files.values() for path in found) or 'none'} in {paths}"
            )
        for trajectory in load_sources([str(path) for path in files[name]], cameras=cameras).trajectories():
            rewards = np.full(len(trajectory), label, np.float32)
            trajectories.append(replace(trajectory, source=name, rewards=rewards, success=bool(label), weight=None))
    return Dataset.from_trajectories(trajectories)


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
    """Numbers of the episodes that rows are of, where labels have cut these into segments.

    A segment that begins with the very observation that another led to goes on from there: sensors do not repeat to the
    last bit. Segments are compared over all files; what can't be told apart counts as one episode.
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
    is_success: Bool[np.ndarray, " transition"],
    episode: Integer[np.ndarray, " transition"],
    fraction: float,
    seed: int,
) -> Bool[np.ndarray, " transition"]:
    """Which rows are held out: those of whole episodes, drawn among the ones with a success and the ones without.

    Args:
        is_success: label of each row.
        episode: episode of each row.
        fraction: share of either kind of episodes to hold out, in (0, 1); rounded, but at least one of those with a
            success, and never all.
        seed: decides which.

    Raises:
        DataError: successes or failures would be missing on one of the sides.
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
