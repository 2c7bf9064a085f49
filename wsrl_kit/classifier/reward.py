"""A classifier's decision as reward, as a real robot needs."""

from collections.abc import Callable
from typing import Any, SupportsFloat

import gymnasium

from wsrl_kit.envs.wrappers import TASK_SUCCESS
from wsrl_kit.robot.takeover import CLASSIFIED, CONFIRMED, Confirm

ASK_AGAIN = 10
"""Steps from a denied success to the next question, if the classifier still sees success."""


class ClassifierReward(gymnasium.Wrapper):
    """Reward 1 at the first success that a classifier sees, which terminates, and 0 at every other step.

    Hysteresis: success turns on after `steps` successive probabilities of at least `threshold`, and off below
    `release`. An episode that begins above (the peg still in the hole) must turn off first. The task's own success
    neither rewards nor terminates; its failures and time limit still end the episode.

    With `confirm`, a success counts if confirmed. After a denial the next question comes when success turns on again,
    or after `ASK_AGAIN` steps.

    info: `success`; `success_classified`, before anybody is asked; `success_probability`; `task_success`, the task's
    own if reported (None: unknown); `success_confirmed`, if somebody answered.
    """

    def __init__(
        self,
        environment: gymnasium.Env,
        probability: Callable[[Any], float],
        threshold: float,
        release: float,
        steps: int,
        confirm: Confirm | None = None,
    ) -> None:
        super().__init__(environment)
        self._probability = probability
        self._threshold, self._release, self._steps = threshold, release, steps
        self._confirm = confirm
        self._streak = self._until_question = 0
        self._is_on = self._was_off = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._streak = self._until_question = 0
        self._is_on = False
        self._was_off = self._probability(observation) < self._threshold
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = self.env.step(action)
        probability = self._probability(observation)
        success = info[CLASSIFIED] = self._decide(probability)
        if "success" in info:
            info[TASK_SUCCESS] = info["success"]
        if self._confirm is not None:
            success = self._is_confirmed(success, observation, info, self._confirm)
        failed = terminated and not info.get(TASK_SUCCESS)
        info |= {"success": success, "success_probability": probability}
        return observation, float(success), success or failed, truncated, info

    def _decide(self, probability: float) -> bool:
        self._was_off |= probability < self._release
        if not self._was_off:
            return False
        self._streak = self._streak + 1 if probability >= self._threshold else 0
        self._is_on = probability >= self._release if self._is_on else self._streak >= self._steps
        return self._is_on

    def _is_confirmed(self, success: bool, observation: Any, info: dict[str, Any], confirm: Confirm) -> bool:
        if not success:
            self._until_question = 0
            return False
        if self._until_question > 0:
            self._until_question -= 1
            return False
        self._until_question = ASK_AGAIN - 1
        verdict = confirm(observation, info)
        if verdict is not None:
            info[CONFIRMED] = verdict
        return bool(verdict)
