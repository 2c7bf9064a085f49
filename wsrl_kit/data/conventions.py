"""What data files leave open: names of success, units of actions, and bounds of values."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32, Float64, Shaped

from wsrl_kit.data.recording import Recording

LARGEST_BOUND = 1e6
"""A bound of greater magnitude says "none" (some tasks write the largest float); nothing can be scaled by it."""

SUCCESS_KEYS = ("succeed", "success", "is_success")
"""Names of success in `info`: HIL-SERL's, Metaworld's, Gymnasium-Robotics' and gym-hil's."""


@dataclass(frozen=True)
class Conventions:
    """How the files of one task are to be read.

    Attributes:
        success_key: the name of success in `infos`; None, or where a file lacks it: the usual names.
        action_bounds: lowest and highest action in the units of the files; None: [-1, 1].
    """

    success_key: str | None = None
    action_bounds: tuple[Float64[np.ndarray, " action"], Float64[np.ndarray, " action"]] | None = None


AS_WRITTEN = Conventions()
"""Success under the usual names, actions in [-1, 1]."""


def interpret(recording: Recording, conventions: Conventions) -> Recording:
    """The recording with success and actions as the conventions say; actions known to be in [-1, 1] stay."""
    said = recording.infos.get(conventions.success_key or "")
    if said is not None:
        success = np.where(np.isnan(said), np.nan, said > 0).astype(np.float32)
        recording = replace(recording, success=success)
    if conventions.action_bounds is None or recording.actions_in_unit:
        return recording
    low, high = conventions.action_bounds
    size = recording.actions.shape[1]
    if size != len(low):
        problem = f"has actions of size {size}, expected {len(low)} as the task has"
        return replace(recording, problems=(*recording.problems, problem))
    return replace(recording, actions=to_unit(recording.actions, low, high), actions_in_unit=True)


def has_bounds(low: Shaped[np.ndarray, "..."], high: Shaped[np.ndarray, "..."]) -> bool:
    """Whether every value is bounded on both sides."""
    # A bound of NaN compares false, and is none either.
    return bool((np.abs(low) <= LARGEST_BOUND).all() and (np.abs(high) <= LARGEST_BOUND).all())


def to_unit(
    values: Float[np.ndarray, "*batch action"], low: Float[np.ndarray, " action"], high: Float[np.ndarray, " action"]
) -> Float32[np.ndarray, "*batch action"]:
    """Scales values from [low, high] to [-1, 1]; 0 where both bounds are equal. Bounds of [-1, 1] change no bit."""
    low, high = low.astype(np.float64), high.astype(np.float64)
    width = np.where(high > low, high - low, 1.0)
    # Values far beyond the bounds become infinite, and are refused as such.
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.where(high > low, 2 * (values - low) / width - 1, 0 * values)
        return np.where((low == -1) & (high == 1), values, scaled).astype(np.float32)


def similar_keys(info: Iterable[object]) -> tuple[str, ...]:
    """Names that sound like success."""
    return tuple(sorted(key for key in info if isinstance(key, str) and "succ" in key.lower()))


def hint(keys: Sequence[str]) -> str:
    """The end of a sentence on success that is not recorded: what to do; "" without names."""
    if not keys:
        return ""
    return f"; info holds {', '.join(map(repr, keys))}: give success_key={keys[0]!r} in environment_options"
