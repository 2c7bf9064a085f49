"""One episode (or one unbroken segment of an episode) as the robot recorded it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32


@dataclass(frozen=True)
class Trajectory:
    """T consecutive transitions in time order; transition t leads from observation t to observation t + 1.

    Attributes:
        observations: T + 1 flat observations, in the environment's units.
        actions: T actions, each entry in [-1, 1].
        rewards: T rewards.
        terminated: the last transition ended the task (success or failure): the value after it is 0.
        truncated: the recording stopped there for another reason (time limit, gap): the value after it is not 0.
        success: whether the task succeeded; None where the data does not say.
        source: the name of the data source it belongs to, "" where it has none.
        weight: loss weight of each transition, where the data brings one (mean 1 over its dataset); else None.
    """

    observations: Float32[np.ndarray, "time_plus_1 observation"]
    actions: Float32[np.ndarray, "time action"]
    rewards: Float32[np.ndarray, " time"]
    terminated: bool
    truncated: bool
    success: bool | None
    source: str = ""
    weight: Float32[np.ndarray, " time"] | None = None

    def __len__(self) -> int:
        return len(self.actions)
