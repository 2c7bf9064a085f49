"""One episode or unbroken segment, and its layout."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, UInt8

# Camera -> its frames, RGB, in time order; cameras may differ in height and width.
CameraFrames = Mapping[str, UInt8[np.ndarray, "frame _height _width 3"]]


@dataclass(frozen=True)
class Layout:
    """What all episodes of a dataset have in common.

    Attributes:
        cameras: name -> (height, width, channels).
        observation_horizon: frames per observation; 1 without cameras.
    """

    observation_size: int
    action_size: int
    cameras: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    observation_horizon: int = 1

    def difference(self, expected: "Layout") -> str:
        """The first difference, as a sentence's end; "" if none."""
        if self.cameras.keys() != expected.cameras.keys():
            return f"has {_names(self)}, expected {_names(expected)}"
        for camera, shape in sorted(self.cameras.items()):
            if shape != expected.cameras[camera]:
                return f"has images {shape} from camera {camera!r}, expected {expected.cameras[camera]}"
        if self.observation_horizon != expected.observation_horizon:
            return f"has an observation horizon of {self.observation_horizon}, expected {expected.observation_horizon}"
        if self.observation_size != expected.observation_size:
            return f"has observations of size {self.observation_size}, expected {expected.observation_size}"
        if self.action_size != expected.action_size:
            return f"has actions of size {self.action_size}, expected {expected.action_size}"
        return ""


def _names(layout: Layout) -> str:
    return f"cameras {', '.join(sorted(layout.cameras))}" if layout.cameras else "no cameras"


@dataclass(frozen=True)
class Trajectory:
    """T consecutive transitions; transition t leads from observation t to t + 1.

    Observation t of horizon k is the last k states and frames: `images[camera][t : t + k]`, oldest first.

    Attributes:
        observations: T + 1, flat, in the environment's units.
        actions: in [-1, 1].
        terminated: the task ended: bootstrap value 0.
        truncated: the recording stopped for another reason.
        success: None: unknown.
        weight: loss weights.
        images: k + T frames per camera; an episode's first k - 1 repeat its first.
        observation_horizon: k.
        grasp_penalty: 0 or less.
    """

    observations: Float32[np.ndarray, "time_plus_1 observation"]
    actions: Float32[np.ndarray, "time action"]
    rewards: Float32[np.ndarray, " time"]
    terminated: bool
    truncated: bool
    success: bool | None
    source: str = ""
    weight: Float32[np.ndarray, " time"] | None = None
    images: CameraFrames = field(default_factory=dict)
    observation_horizon: int = 1
    grasp_penalty: Float32[np.ndarray, " time"] | None = None

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def layout(self) -> Layout:
        cameras = {camera: frames.shape[1:] for camera, frames in sorted(self.images.items())}
        return Layout(self.observations.shape[1], self.actions.shape[1], cameras, self.observation_horizon)
