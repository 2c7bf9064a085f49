"""One episode (or one unbroken segment of an episode) as the robot recorded it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, UInt8

# Camera -> its frames, RGB, in time order; cameras may differ in height and width.
Images = Mapping[str, UInt8[np.ndarray, "frame _height _width 3"]]


@dataclass(frozen=True)
class Trajectory:
    """T consecutive transitions in time order; transition t leads from observation t to observation t + 1.

    An observation of horizon k is the last k states, and the last k frames of every camera. Frames are held once: the
    stack of observation t is `images[camera][t : t + k]`, oldest first.

    Attributes:
        observations: T + 1 flat observations, in the environment's units; with a horizon k each is k states, oldest
            first, one after another.
        actions: T actions, each entry in [-1, 1].
        rewards: T rewards.
        terminated: the last transition ended the task (success or failure): the value after it is 0.
        truncated: the recording stopped there for another reason (time limit, gap): the value after it is not 0.
        success: whether the task succeeded; None where the data does not say.
        source: the name of the data source it belongs to, "" where it has none.
        weight: loss weight of each transition, where the data brings one (mean 1 over its dataset); else None.
        images: k + T frames of each camera; none where the task has no cameras. The first k - 1 are the frames before
            observation 0: at the start of an episode its first frame again, in a segment the true earlier ones.
        observation_horizon: k, at least 1.
        grasp_penalty: what each transition's grasp action cost (0 or less), where the data says so; else None.
    """

    observations: Float32[np.ndarray, "time_plus_1 observation"]
    actions: Float32[np.ndarray, "time action"]
    rewards: Float32[np.ndarray, " time"]
    terminated: bool
    truncated: bool
    success: bool | None
    source: str = ""
    weight: Float32[np.ndarray, " time"] | None = None
    images: Images = field(default_factory=dict)
    observation_horizon: int = 1
    grasp_penalty: Float32[np.ndarray, " time"] | None = None

    def __len__(self) -> int:
        return len(self.actions)
