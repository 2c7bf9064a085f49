"""What data files leave open and their user knows: how they call success, and in which units their actions are."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from wsrl_kit.bounds import to_unit
from wsrl_kit.data.recording import Recording


@dataclass(frozen=True)
class Conventions:
    """How the files of one task are to be read.

    Attributes:
        success_key: the name in `infos` under which rows say success; None, or where a file lacks it: the usual names.
        action_bounds: lowest and highest actions in the task's own units, in which files hold them; None: files hold
            them in [-1, 1].
    """

    success_key: str | None = None
    action_bounds: tuple[Float64[np.ndarray, " action"], Float64[np.ndarray, " action"]] | None = None


AS_WRITTEN = Conventions()
"""Success under the usual names, actions in [-1, 1]."""


def interpret(recording: Recording, conventions: Conventions) -> Recording:
    """A recording as its file means it; actions that are known to be in [-1, 1] already are not rescaled."""
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
