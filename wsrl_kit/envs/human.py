"""A scripted human in simulation, and the options of a person at the pad."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float

from wsrl_kit.config.config import PERSON
from wsrl_kit.envs.config import PAD, SPACEMOUSE
from wsrl_kit.envs.scripts import Policy, Script, script_of, scripted_policy
from wsrl_kit.envs.wrappers import newest_state, observation_horizon
from wsrl_kit.errors import ExperimentError
from wsrl_kit.parameters import check_some, parameter, validate

INTERVENTION = "intervene_action"
"""`info`: the human's action (HIL-SERL's key)."""

HELD = "held_action"
"""`info`: the action of a robot held in place."""


@dataclass(frozen=True)
class HumanOptions:
    """When the scripted human takes over and hands back; raises ParameterError."""

    stuck_steps: int = parameter(
        15, "steps in which the tip moves less than stuck_distance before the human takes over; 0: never", minimum=0
    )
    stuck_distance: float = parameter(0.004, "distance that the tip must move in stuck_steps, m", minimum=0.0)
    clipped_steps: int = parameter(
        3, "successive steps at the safety box's limits before the human takes over; 0: never", minimum=0
    )
    patience_steps: int = parameter(
        60, "steps without success before the human takes over for good; 0: never", minimum=0
    )
    helped_distance: float = parameter(
        0.01, "distance from the place of trouble at which the human hands back, m", minimum=0.0
    )
    max_takeover_steps: int = parameter(50, "most steps of one takeover", minimum=1)

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True)
class PersonOptions:
    """By what a person acts, and what the robot does when the pad's message is late; raises ParameterError."""

    device: str = parameter(
        PAD, "what moves the robot: keys and gamepad of the pad, or also a SpaceMouse", choices=(PAD, SPACEMOUSE)
    )
    late: str = parameter(
        "hold",
        "who acts if the browser's message is late while a key is held: nobody (the robot holds) or the policy",
        choices=("hold", "policy"),
    )
    late_seconds: float = parameter(
        0.3, "age from which a message is late, s; choose more than the link's delay", minimum=0.05
    )

    def __post_init__(self) -> None:
        validate(self)


def human_options(given: Mapping[str, Any]) -> HumanOptions:
    """Options of the scripted human; raises ParameterError."""
    return HumanOptions(**check_some(HumanOptions, given, "option of the human"))


def person_options(given: Mapping[str, Any]) -> PersonOptions:
    """Options of a person at the pad; raises ParameterError."""
    return PersonOptions(**check_some(PersonOptions, given, "option of the human"))


class ScriptedHuman(gymnasium.Wrapper):
    """Replaces the policy's action by the scripted expert's while the human is in charge.

    The human takes over when the robot is stuck, held back by the safety box, or out of patience; and hands back when
    the tip has left the place of trouble (unless out of patience), at a success, and after `max_takeover_steps`. A
    reset's seed fixes all of this.
    """

    def __init__(self, environment: gymnasium.Env, options: HumanOptions | None = None) -> None:
        super().__init__(environment)
        self.options = options or HumanOptions()
        self._horizon = observation_horizon(environment)
        self._place = np.zeros(3)
        self._generator = np.random.default_rng()
        # Positions of the last steps, which tell whether the robot is stuck.
        self._track: deque[Float[np.ndarray, 3]] = deque(maxlen=self.options.stuck_steps + 1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Raises ExperimentError if the task has no script."""
        observation, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            # Another stream than that of the task's own generator, which has the same seed.
            self._generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
        script = script_of(self.env)
        if script is None:
            raise ExperimentError(f"human 'scripted' needs a task with a script, found {self.env.unwrapped}")
        self._script: Script = script
        self._expert: Policy = scripted_policy("expert", self.env, self._generator)
        self._observation = observation
        self._waited = 0
        self._hand_back()
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        is_human = self._is_in_charge
        if is_human:
            action = self._expert(self._observation)
        self._observation, reward, terminated, truncated, info = self.env.step(action)
        if is_human:
            info = info | {INTERVENTION: action}
        self._watch(info)
        return self._observation, reward, terminated, truncated, info

    def _hand_back(self) -> None:
        self._is_in_charge = False
        self._taken_steps = 0
        self._clipped = 0
        self._track.clear()
        self._track.append(self._position())

    def _position(self) -> Float[np.ndarray, "3"]:
        return np.array(self._script.position(newest_state(self._observation, self._horizon)), float)

    def _watch(self, info: dict[str, Any]) -> None:
        self._waited += 1
        if info.get("success", False):
            self._waited = 0
            self._hand_back()
        elif self._is_in_charge:
            self._taken_steps += 1
            helped = self._distance(self._place) >= self.options.helped_distance and not self._is_impatient
            if helped or self._taken_steps >= self.options.max_takeover_steps:
                self._hand_back()
        else:
            self._track.append(self._position())
            self._clipped = self._clipped + 1 if info.get("safety_box_clipped", False) else 0
            is_held_back = 0 < self.options.clipped_steps <= self._clipped
            self._is_in_charge = self._is_stuck or is_held_back or self._is_impatient
            self._place = self._track[-1]

    def _distance(self, place: Float[np.ndarray, "3"]) -> float:
        return float(np.linalg.norm(self._position() - place))

    @property
    def _is_stuck(self) -> bool:
        steps = self.options.stuck_steps
        return 0 < steps < len(self._track) and self._distance(self._track[0]) < self.options.stuck_distance

    @property
    def _is_impatient(self) -> bool:
        return 0 < self.options.patience_steps <= self._waited


def with_human(environment: gymnasium.Env, human: str, options: Mapping[str, Any]) -> gymnasium.Env:
    """Adds the scripted human if `human` is "scripted"; for "person" only checks `options`."""
    if human == PERSON:
        person_options(options)
    return ScriptedHuman(environment, human_options(options)) if human == "scripted" else environment
