"""What a scripted operator of any task is made of."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

Controller = Callable[
    [Float32[np.ndarray, " observation"], Float[np.ndarray, " axes"]],
    Float[np.ndarray, " action"],
]


@dataclass(frozen=True)
class Script:
    """How an operator does a task, and how far a clumsy one is off.

    Attributes:
        position: of the hand, or of the tip that it holds, m, from an observation.
        controller: action (any magnitude; it is clipped to [-1, 1]) from an observation and the error, m, with which
            the operator sees where things are.
        expert_noise: standard deviation of the expert's noise, in units of the action; its error is 0.
        suboptimal_noise: standard deviation of the suboptimal operator's noise.
        suboptimal_error: half range of its error on each axis, m; the error is drawn once per episode.
    """

    position: Callable[[Float32[np.ndarray, " observation"]], Float[np.ndarray, "3"]]
    controller: Controller
    expert_noise: float
    suboptimal_noise: float
    suboptimal_error: tuple[float, ...]
