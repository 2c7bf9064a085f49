"""Episodes of fine-tuning: returns and success, metrics since the last record, and a human's interventions.

Where an environment's step reports HIL-SERL's `info["intervene_action"]`, that is the action that was taken, and it is
recorded, clipped to [-1, 1]: HIL-SERL's wrappers report it in the gripper's frame, where a person's action can reach
1.7. Such steps are learned from like all others, and also join the demonstrations in whole segments: the consecutive
steps of one intervention. A segment's last transition bootstraps from where the human handed back, unless the task
ended there, and no transition spans a gap, since each holds its own next observation.
"""

import reprlib
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, Float64

from wsrl_kit.classifier.reward import CONFIRMED
from wsrl_kit.data.recording import LARGEST_ACTION
from wsrl_kit.envs.human import HELD, INTERVENTION
from wsrl_kit.envs.wrappers import TASK_SUCCESS, succeeded
from wsrl_kit.errors import ExperimentError
from wsrl_kit.training.experience import Experience, Seen

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


class EpisodeRecord:
    """Of one episode.

    Args:
        asks: whether its successes are to be confirmed.

    Attributes:
        rewards: the environment's, of every step so far.
    """

    def __init__(self, asks: bool) -> None:
        self.rewards: list[float] = []
        self._asks, self._denied = asks, 0
        self._success: bool | None = None
        self._task_success: bool | None = None

    def include(self, reward: float, info: dict[str, Any]) -> None:
        """Follows one step."""
        self.rewards.append(reward)
        self._success = succeeded(self._success, info)
        self._task_success = succeeded(self._task_success, info, TASK_SUCCESS)
        if CONFIRMED in info:
            self._denied += not info[CONFIRMED]

    @property
    def metrics(self) -> dict[str, float]:
        """Of the whole episode."""
        values = {
            "training/episode_return": sum(self.rewards),
            "training/episode_length": float(len(self.rewards)),
            "training/episode_success": float("nan") if self._success is None else float(self._success),
        }
        if self._task_success is not None:
            # What the task itself says beside a classifier, which may be fooled.
            values["training/episode_task_success"] = float(self._task_success)
        if self._asks:
            values["training/episode_denied_successes"] = float(self._denied)
        return values


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
