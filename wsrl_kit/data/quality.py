"""How good an episode is, and what weight its transitions get in the losses."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Float32

from wsrl_kit.data.dataset import Dataset
from wsrl_kit.errors import ParameterError
from wsrl_kit.trajectory import Trajectory

# Shares of the three parts of the quality; they sum to 1.
_SUCCESS_SHARE, _RETURN_SHARE, _SPEED_SHARE = 0.5, 0.3, 0.2


def compute_data_quality(
    trajectory: Trajectory,
    return_range: tuple[float, float] = (0.0, 1.0),
    longest_episode: int | None = None,
) -> float:
    """The quality of an episode in [0, 1], never NaN.

    quality = 0.5 s + 0.3 r + 0.2 s (1 - (T - 1) / T_max)

    where s is 1 for success and 0 for failure; r the return's place in `return_range`, clipped to [0, 1] (0.5 if the
    range is a point); and T the length. Where success is unknown, quality = 0.35 + 0.3 r. It never falls with success
    or return, and never rises with length. Length counts only where the episode is known to have succeeded: a short
    failure is no better than a long one, and in many tasks without a success (a pole that falls) short is bad.

    Args:
        trajectory: the episode.
        return_range: lowest and highest return of the dataset; the default suits a reward of 1 for success.
        longest_episode: length of the dataset's longest episode, T_max; None: this one's.
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
    """`compute_data_quality` of every episode, with the ranges of this dataset."""
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
    """Gives every transition its loss weight, and replaces weights that were there before.

    weight = source weight x (0.5 + quality) x (success_weight_bonus if the episode succeeded), scaled to mean 1 over
    all transitions.

    Args:
        dataset: whole episodes; in segments, length and return say little about quality, so weights that
            `filtered_demos.pkl` brings along (see `Dataset.is_weighted`) are better kept than computed anew.
        source_weights: weight of each source by name, 0 or more; 1 for one that is not named.
        success_weight_bonus: factor for successful episodes, 0 or more.
        quality_weighting: False leaves the factor 0.5 + quality out.

    Raises:
        ParameterError: a weight is negative or not finite, or all transitions would weigh 0.
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
    """One row per source, to be shown before training.

    Each row has `source, episodes, transitions, success_rate` (nan where no episode says), `mean_return,
    mean_length, mean_quality, mean_weight` and `weight_share` (the source's part of all weight, in [0, 1]).
    """
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
