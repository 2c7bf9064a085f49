"""What one episode of fine-tuning comes to, step by step, and the metrics that are recorded at its end."""

from typing import Any

from wsrl_kit.envs.classifier_reward import CONFIRMED
from wsrl_kit.envs.wrappers import TASK_SUCCESS, succeeded


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
