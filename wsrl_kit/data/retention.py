"""Which part of the offline data stays when the robot goes online."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from wsrl_kit.data.dataset import Dataset, monte_carlo_returns
from wsrl_kit.data.quality import episode_quality
from wsrl_kit.errors import DataError, ParameterError

PRIORITIES = ("td_error", "reward", "quality", "mix", "random")
UNITS = ("transition", "trajectory")


def retain(
    dataset: Dataset, scores: Float[np.ndarray, " transition"], ratio: float, unit: str = "transition"
) -> Dataset | None:
    """Keeps the transitions with the highest scores, in their order, their weights scaled to mean 1 again.

    The best of the data have high weights. Left so, a kept transition would outweigh an online one, whose weight is 1,
    and the offline ratio would not be the share that the loss sees.

    Args:
        dataset: what to choose from.
        scores: one per transition; of equal ones the earlier row, or episode, is kept.
        ratio: share to keep, in [0, 1]: int(N * ratio) transitions, at least one if ratio > 0.
        unit: `transition`: exactly that many; `trajectory`: whole episodes by mean score until there are that many.

    Returns:
        None where ratio is 0: nothing is kept.

    Raises:
        ParameterError: ratio or unit is out of range.
        DataError: the scores are not finite, or are not one per transition.
    """
    if not 0 <= ratio <= 1:
        raise ParameterError(f"The retention ratio must be in [0, 1], found {ratio}.")
    if unit not in UNITS:
        raise ParameterError(f"The retention unit must be one of {', '.join(UNITS)}, found {unit!r}.")
    if scores.shape != (len(dataset),) or not np.isfinite(scores).all():
        raise DataError(f"Retention needs {len(dataset)} finite scores, found an array of shape {scores.shape}.")
    if ratio == 0:
        return None
    count = max(int(len(dataset) * ratio), 1)
    if unit == "transition":
        return _with_mean_weight_one(dataset.select_transitions(np.argsort(-scores, kind="stable")[:count]))
    means = np.add.reduceat(scores.astype(np.float64), dataset.episode_starts) / dataset.episode_lengths
    best_first = np.argsort(-means, kind="stable")
    kept = np.cumsum(dataset.episode_lengths[best_first])
    return _with_mean_weight_one(dataset.select_episodes(best_first[: np.searchsorted(kept, count) + 1]))


def _with_mean_weight_one(dataset: Dataset) -> Dataset:
    mean = dataset.weight.mean(dtype=np.float64)
    return replace(dataset, weight=(dataset.weight / mean).astype(np.float32)) if mean > 0 else dataset


def retention_scores(
    priority: str,
    dataset: Dataset,
    td_errors: Float[np.ndarray, " transition"] | None = None,
    discount: float = 0.97,
    unit: str = "transition",
    seed: int = 0,
) -> Float[np.ndarray, " transition"]:
    """A score per transition; the higher, the sooner it is kept.

    Args:
        priority: `td_error`: the TD error's magnitude; `reward`: the Monte-Carlo return from the row on, so that with a
            sparse reward a whole approach ranks before a failure; `quality`: that of the row's episode; `mix`: the mean
            of the three ranks, each scaled to [0, 1], equal values sharing one rank; `random`: a number drawn for the
            unit, the control for whether it matters what is kept.
        dataset: whole episodes.
        td_errors: one per transition; needed for `td_error` and `mix` only.
        discount: of the Monte-Carlo return.
        unit: of `random`: what `retain` will keep as a whole.
        seed: of `random`.

    Raises:
        ParameterError: the priority is unknown.
        DataError: TD errors are needed and missing, or are not one per transition.
    """
    if priority not in PRIORITIES:
        raise ParameterError(f"The retention priority must be one of {', '.join(PRIORITIES)}, found {priority!r}.")
    if priority == "random":
        generator = np.random.default_rng(seed)
        if unit == "transition":
            return generator.random(len(dataset))
        # One number per episode: a mean over its rows would favour the short ones.
        return generator.random(dataset.episode_count)[dataset.episode_of_row]
    if priority == "reward":
        return monte_carlo_returns(dataset, discount)
    if priority == "quality":
        return episode_quality(dataset)[dataset.episode_of_row]
    if td_errors is None or td_errors.shape != (len(dataset),):
        raise DataError(f"The retention priority {priority!r} needs {len(dataset)} TD errors, one per transition.")
    if priority == "td_error":
        return np.abs(td_errors)
    parts = [np.abs(td_errors), retention_scores("reward", dataset, discount=discount)]
    parts.append(retention_scores("quality", dataset))
    return np.mean([_ranks(part) for part in parts], axis=0)


def _ranks(values: Float[np.ndarray, " transition"]) -> Float[np.ndarray, " transition"]:
    """Ranks from 0 (lowest) to 1 (highest); equal values get the mean of their places."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    mean_place = np.cumsum(count) - (count + 1) / 2
    return mean_place[place] / max(len(values) - 1, 1)
