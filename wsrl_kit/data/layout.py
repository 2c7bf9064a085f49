"""What must be the same all over a dataset: sizes of observations and actions, cameras, and the observation horizon."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Layout:
    """How the observations and actions of a file or an episode look.

    Attributes:
        observation_size: numbers in one flat observation.
        action_size: numbers in one action.
        cameras: camera -> (height, width, channels) of its frames; empty without cameras.
        observation_horizon: frames per observation; 1 without cameras.
    """

    observation_size: int
    action_size: int
    cameras: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    observation_horizon: int = 1

    def difference(self, expected: "Layout") -> str:
        """The first thing in which this differs, as a sentence's end: what is found, what expected; "" if none."""
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
