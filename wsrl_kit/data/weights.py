"""Quality of episodes, loss weights, and retention of the best data."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Float32

from wsrl_kit.data.dataset import Dataset, monte_carlo_returns
from wsrl_kit.data.trajectory import Trajectory
from wsrl_kit.errors import DataError, ParameterError

PRIORITIES = ("td_error", "reward", "quality", "mix", "random")

UNITS = ("transition", "trajectory")

# Shares of the three parts of the quality; they sum to 1.
_SUCCESS_SHARE, _RETURN_SHARE, _SPEED_SHARE = 0.5, 0.3, 0.2


def compute_data_quality(
    trajectory: Trajectory, return_range: tuple[float, float] = (0.0, 1.0), longest_episode: int | None = None
) -> float:
    """The quality of an episode in [0, 1], never NaN.

    quality = 0.5 s + 0.3 r + 0.2 s (1 - (T - 1) / T_max)

    s: 1 success, 0 failure; r: the return's place in `return_range`, clipped to [0, 1] (a point: 0.5); T: the length;
    T_max: `longest_episode` (None: T). Unknown success: 0.35 + 0.3 r. Length counts only in a success: a short failure
    is no better than a long one.
    """
    success = np.nan if trajectory.success is None else float(trajectory.success)
    quality = _quality(
        np.array([success]),
        np.array([trajectory.rewards.sum(dtype=np.float64)]),
        np.array([float(len(trajectory))]),
        return_range,
        longest_episode or len(trajectory),
    )
    return float(quality[0])


def _quality(
    success: Float[np.ndarray, " episode"],
    returns: Float[np.ndarray, " episode"],
    lengths: Float[np.ndarray, " episode"],
    return_range: tuple[float, float],
    longest_episode: int,
) -> Float[np.ndarray, " episode"]:
    lowest, highest = return_range
    known = ~np.isnan(success)
    succeeded = np.where(known, success, 0.5)
    place = np.full(len(returns), 0.5)
    if highest > lowest:
        # A range next to nothing makes places infinite, which are clipped like all that lie outside it.
        with np.errstate(over="ignore"):
            place = np.clip(np.nan_to_num((returns - lowest) / (highest - lowest), nan=0.5), 0, 1)
    speed = np.where(known, np.clip(1 - (lengths - 1) / longest_episode, 0, 1), 1.0)
    return _SUCCESS_SHARE * succeeded + _RETURN_SHARE * place + _SPEED_SHARE * succeeded * speed


def episode_quality(dataset: Dataset) -> Float32[np.ndarray, " episode"]:
    """`compute_data_quality` of every episode."""
    returns, lengths = dataset.episode_returns.astype(np.float64), dataset.episode_lengths
    quality = _quality(
        dataset.episode_success, returns, lengths.astype(float), (returns.min(), returns.max()), int(lengths.max())
    )
    return quality.astype(np.float32)


def weigh(
    dataset: Dataset,
    source_weights: Mapping[str, float | int],
    success_weight_bonus: float | int = 1.5,
    quality_weighting: bool = True,
) -> Dataset:
    """Gives every transition of whole episodes its loss weight.

    weight = source weight x (0.5 + quality) x (success_weight_bonus if the episode succeeded), scaled to mean 1.

    Args:
        source_weights: 0 or more; not named: 1.
        quality_weighting: False omits the factor 0.5 + quality.

    Raises:
        ParameterError: a weight is negative or not finite, or all are 0.
    """
    for name, value in {**source_weights, "success_weight_bonus": success_weight_bonus}.items():
        if not (np.isfinite(value) and value >= 0):
            raise ParameterError(f"The weight {name!r} must be a finite number of at least 0, found {value}.")
    by_source = np.array([source_weights.get(name, 1.0) for name in dataset.source_names])
    quality_factor = 0.5 + episode_quality(dataset).astype(np.float64) if quality_weighting else 1.0
    weight = by_source[dataset.episode_source] * quality_factor
    weight = weight * np.where(dataset.episode_success == 1, success_weight_bonus, 1.0)
    total = (weight * dataset.episode_lengths).sum()
    if total == 0:
        raise ParameterError(f"The source weights {dict(source_weights)} leave no transition with a weight above 0.")
    scaled = weight * len(dataset) / total
    return replace(dataset, weight=np.repeat(scaled, dataset.episode_lengths).astype(np.float32))


def source_table(dataset: Dataset) -> list[dict[str, str | int | float]]:
    """One row per source; `success_rate` is nan if unknown, `weight_share` in [0, 1]."""
    returns, lengths, quality = dataset.episode_returns, dataset.episode_lengths, episode_quality(dataset)
    source_of_row = dataset.episode_source[dataset.episode_of_row]
    total = dataset.weight.sum(dtype=np.float64)
    table: list[dict[str, str | int | float]] = []
    for index, name in enumerate(dataset.source_names):
        episodes, rows = dataset.episode_source == index, source_of_row == index
        if not episodes.any():
            continue
        success = dataset.episode_success[episodes]
        known = success[~np.isnan(success)]
        table.append(
            {
                "source": name,
                "episodes": int(episodes.sum()),
                "transitions": int(rows.sum()),
                "success_rate": float(known.mean()) if len(known) else float("nan"),
                "mean_return": float(returns[episodes].mean()),
                "mean_length": float(lengths[episodes].mean()),
                "mean_quality": float(quality[episodes].mean()),
                "mean_weight": float(dataset.weight[rows].mean()),
                "weight_share": float(dataset.weight[rows].sum(dtype=np.float64) / total) if total else float("nan"),
            }
        )
    return table


def retain(
    dataset: Dataset, scores: Float[np.ndarray, " transition"], ratio: float, unit: str = "transition"
) -> Dataset | None:
    """The transitions with the highest scores, in their order, their weights scaled to mean 1.

    Args:
        scores: ties keep the earlier row or episode.
        ratio: share to keep, in [0, 1]: int(N * ratio), at least one if ratio > 0; 0 returns None.
        unit: `transition`: exactly that many; `trajectory`: whole episodes by mean score until that many.

    Raises:
        ParameterError: ratio or unit is out of range.
        DataError: scores are not finite, or not one per transition.
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
    """A score per transition; `retain` keeps the highest.

    Args:
        priority: `td_error`: its magnitude; `reward`: Monte-Carlo return from the row on; `quality`: of the episode;
            `mix`: mean rank of these three in [0, 1]; `random`: a number drawn per `unit`.

    Raises:
        ParameterError: the priority is unknown.
        DataError: TD errors are needed and missing, or not one per transition.
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
    """Ranks in [0, 1]; equal values get their mean."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    mean_place = np.cumsum(count) - (count + 1) / 2
    return mean_place[place] / max(len(values) - 1, 1)
