"""What the robot and a human did since the last record of a run."""

from typing import Any

import numpy as np
from jaxtyping import Float64

from wsrl_kit.envs.human import INTERVENTION

_FORCE, _CLIPS, _STEPS, _INTERVENED, _EVER = range(5)


class Window:
    """Counts over the steps since the last record; an environment that doesn't report something adds nothing.

    Args:
        counts: what `counts` gave, or zeros: peak contact force, N, safety-box clips, steps, those of a human, and all
            those of a human since the switch.
    """

    def __init__(self, counts: Float64[np.ndarray, "5"]) -> None:
        self._counts = np.array(counts)

    @property
    def counts(self) -> Float64[np.ndarray, "5"]:
        """All of it, for a checkpoint; a copy."""
        return self._counts.copy()

    def include(self, info: dict[str, Any]) -> None:
        """Adds one environment step by what it reported."""
        self._counts[_FORCE] = max(self._counts[_FORCE], float(info.get("contact_force", 0.0)))
        self._counts[_CLIPS] += float(info.get("safety_box_clipped", False))
        self._counts[_STEPS] += 1
        self._counts[[_INTERVENED, _EVER]] += INTERVENTION in info

    def take(self) -> dict[str, float]:
        """The metrics of the window, which begins anew; the intervention rate once a human has taken over."""
        values = {
            "training/peak_contact_force": float(self._counts[_FORCE]),
            "training/safety_box_clips": float(self._counts[_CLIPS]),
        }
        if self._counts[_EVER]:
            values["training/intervention_rate"] = float(self._counts[_INTERVENED] / self._counts[_STEPS])
        self._counts[[_FORCE, _CLIPS, _STEPS, _INTERVENED]] = 0.0
        return values


def empty() -> Float64[np.ndarray, "5"]:
    """The counts before the first step."""
    return np.zeros(5)
