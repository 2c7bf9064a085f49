"""What a human does in the policy's place: HIL-SERL's `info["intervene_action"]`.

Where an environment's step reports it, that is the action that was taken, and it is the one recorded, clipped to
[-1, 1]: HIL-SERL's wrappers report it in the gripper's frame, where a person's action can reach 1.7. Such steps are
learned from like all others, and join the demonstrations as well, in whole segments: the consecutive steps of one
take-over. A segment's last transition bootstraps from where the human handed back, unless the task ended there, and no
transition spans a gap, since each holds its own next observation.
"""

import reprlib
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32

from wsrl_kit.data.recording import LARGEST_ACTION
from wsrl_kit.envs.human import HELD, INTERVENTION
from wsrl_kit.errors import ExperimentError
from wsrl_kit.training.experience import Experience, Seen


def action_taken(
    action: Float32[np.ndarray, " action"], info: dict[str, Any]
) -> tuple[Float32[np.ndarray, " action"], bool]:
    """The action that a step really took, and whether a human chose it.

    Args:
        action: the policy's.
        info: of the step.

    Raises:
        ExperimentError: a human's action is not as many numbers, or one of them is beyond `LARGEST_ACTION`.
    """
    if HELD in info:
        return np.asarray(info[HELD], np.float32), False
    if INTERVENTION not in info:
        return action, False
    try:
        taken = np.asarray(info[INTERVENTION])
    except ValueError:
        taken = np.empty(0)
    if taken.dtype.kind not in "iuf" or taken.shape != action.shape or not (np.abs(taken) <= LARGEST_ACTION).all():
        found = " ".join(reprlib.repr(info[INTERVENTION]).split())
        raise ExperimentError(f"info[{INTERVENTION!r}] must be {len(action)} numbers in [-1, 1], found {found}")
    return np.clip(taken, -1.0, 1.0).astype(np.float32), True


class TakeOvers:
    """Those of one episode, on their way to the demonstrations."""

    def __init__(self, memory: Experience) -> None:
        self._memory = memory
        self._segment: list[Seen] = []
        self._steps = 0
        self._count = 0

    def include(self, is_human: bool, seen: Seen, is_known: bool = False) -> None:
        """Follows one step of the episode.

        Args:
            is_known: segments that end here are with the demonstrations already, as where an episode is played again.
        """
        if not is_human:
            if not is_known:
                self.end()
            self._segment = []
            return
        self._count += not self._segment
        self._steps += 1
        # Copied, since the environment may use its arrays again before the human hands back.
        self._segment.append(jax.tree.map(np.array, seen))

    def end(self) -> None:
        """Puts the segment, if one is open, with the demonstrations; at a hand-back, and at the end of an episode."""
        self._memory.add_interventions(self._segment)
        self._segment = []

    @property
    def metrics(self) -> dict[str, float]:
        """Of the whole episode; empty where nobody took over."""
        if self._count == 0:
            return {}
        return {
            "training/episode_interventions": float(self._count),
            "training/episode_intervention_steps": float(self._steps),
        }
