"""Episodes of fine-tuning: steps, returns and success, metrics since the last record, interventions.

If a step reports HIL-SERL's `info["intervene_action"]`, that action is recorded, clipped to [-1, 1] (in HIL-SERL's
gripper frame it reaches 1.7). Interventions also join the demonstrations, in whole segments of consecutive steps; a
segment's last transition bootstraps, unless the task ended there.
"""

import reprlib
from typing import Any, NamedTuple

import gymnasium
import jax
import numpy as np
from jaxtyping import Float32, Float64

from wsrl_kit.agent.sac import Policy, SACConfig
from wsrl_kit.agent.transition import Transition
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.data.recording import LARGEST_ACTION
from wsrl_kit.envs.human import HELD, INTERVENTION
from wsrl_kit.envs.wrappers import TASK_SUCCESS, succeeded
from wsrl_kit.errors import ExperimentError
from wsrl_kit.robot.environment import GRIPPER_MOVED, OVERRUNS
from wsrl_kit.robot.reconnecting import CONTACT_LOST
from wsrl_kit.robot.takeover import CLASSIFIED, CONFIRMED
from wsrl_kit.runs.loop import environment_acts
from wsrl_kit.training.experience import Experience, Frames, StoredStep
from wsrl_kit.training.sight import split_observation
from wsrl_kit.training.start import learning_penalty, learning_reward


class EnvironmentStep(NamedTuple):
    """One checked environment step.

    Attributes:
        action: the executed action.
        task_reward: the environment's reward.
        reward: the reward for learning.
        observation: the next one, from the environment.
        state: its flat state.
        frames: its images, as replay stores them.
        before: the observation that was acted on, if somebody judges what a classifier sees.
    """

    action: Float32[np.ndarray, " action"]
    is_human: bool
    task_reward: float
    reward: Float32[np.ndarray, ""]
    terminated: bool
    truncated: bool
    info: dict[str, Any]
    observation: Any
    state: Float32[np.ndarray, " observation"]
    frames: Frames
    stored: StoredStep
    before: Any = None

    @property
    def ends(self) -> bool:
        return self.terminated or self.truncated


def take_step(
    config: WSRLConfig,
    agent_config: SACConfig,
    policy: Policy,
    environment: gymnasium.Env,
    state: Float32[np.ndarray, " observation"],
    frames: Frames,
    action: Float32[np.ndarray, " action"],
) -> EnvironmentStep | None:
    """Executes one action; None if contact with the robot was lost.

    Args:
        state, frames: the current observation, from `split_observation`.

    Raises:
        EnvironmentFailed: the environment raised an error, or returned a number that is no finite float32.
    """
    with environment_acts():
        observation, task_reward, terminated, truncated, info = environment.step(action)
        if info.get(CONTACT_LOST):
            return None
        action, is_human = action_taken(action, info)
        with np.errstate(over="ignore"):
            reward = learning_reward(config, np.asarray(task_reward, np.float32))
            penalty: Any = None
            if agent_config.learns_gripper:
                penalty = learning_penalty(config, np.asarray(info.get("grasp_penalty", 0.0), np.float32))
        for name, value in {"reward": reward, "grasp penalty": penalty}.items():
            if value is not None and not np.isfinite(value):
                raise ExperimentError(f"the {name} is {value} for learning: expected a finite number (float32)")
    next_state, next_frames = split_observation(agent_config, policy, observation)
    numbers = (np.float32(not terminated), np.float32(1.0), np.float32(-np.inf))
    row: tuple[Any, ...] = (state, action, reward, next_state, *numbers)
    cloned: Any = np.float32(is_human)
    transition = Transition(*row)._replace(cloned=cloned, grasp_penalty=penalty)
    return EnvironmentStep(
        action, is_human, float(task_reward), reward, bool(terminated), bool(truncated), info,
        observation, next_state, next_frames, (transition, frames, next_frames),
    )  # fmt: skip


def repeat_steps(
    config: WSRLConfig,
    agent_config: SACConfig,
    policy: Policy,
    environment: gymnasium.Env,
    state: Float32[np.ndarray, " observation"],
    frames: Frames,
    known: Transition,
    count: int,
) -> list[EnvironmentStep] | None:
    """Replays recorded actions; None if the task now behaves differently.

    Args:
        state, frames: the first observation, from `split_observation`.
        known: recorded transitions, in order.
        count: transitions that the episode had.
    """
    if len(known.reward) < count:
        return None
    repeated: list[EnvironmentStep] = []
    for action, reward, next_state in zip(known.action, known.reward, known.next_observation, strict=True):
        step = take_step(config, agent_config, policy, environment, state, frames, np.asarray(action))
        if step is None or step.ends or step.reward != reward or not np.array_equal(step.state, next_state):
            return None
        repeated.append(step)
        state, frames = step.state, step.frames
    return repeated


def action_taken(
    action: Float32[np.ndarray, " action"], info: dict[str, Any]
) -> tuple[Float32[np.ndarray, " action"], bool]:
    """The executed action, and whether a human chose it.

    Raises:
        ExperimentError: a human's action has the wrong size, or an entry beyond `LARGEST_ACTION`.
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


class EpisodeRecord:
    """Return, length and success of one episode.

    Args:
        is_judged: whether somebody judges what a classifier sees.
    """

    def __init__(self, is_judged: bool) -> None:
        self.rewards: list[float] = []
        self._is_judged, self._denied, self._missed = is_judged, 0, 0
        self._gripper_moves: int | None = None
        self._overruns: int | None = None
        self._success: bool | None = None
        self._task_success: bool | None = None

    def include(self, reward: float, info: dict[str, Any]) -> None:
        self.rewards.append(reward)
        self._success = succeeded(self._success, info)
        self._task_success = succeeded(self._task_success, info, TASK_SUCCESS)
        if CONFIRMED in info:
            classified, is_success = bool(info[CLASSIFIED]), bool(info[CONFIRMED])
            self._denied += classified and not is_success
            self._missed += is_success and not classified
        if GRIPPER_MOVED in info:
            self._gripper_moves = (self._gripper_moves or 0) + bool(info[GRIPPER_MOVED])
        self._overruns = info.get(OVERRUNS, self._overruns)

    @property
    def metrics(self) -> dict[str, float]:
        values = {
            "training/episode_return": sum(self.rewards),
            "training/episode_length": float(len(self.rewards)),
            "training/episode_success": float("nan") if self._success is None else float(self._success),
        }
        if self._task_success is not None:
            # The task's own word beside the classifier's, which may be wrong.
            values["training/episode_task_success"] = float(self._task_success)
        if self._gripper_moves is not None:
            values["training/episode_gripper_moves"] = float(self._gripper_moves)
        if self._overruns is not None:
            values["training/episode_overruns"] = float(self._overruns)
        if self._is_judged:
            values["training/episode_denied_successes"] = float(self._denied)
            values["training/episode_missed_successes"] = float(self._missed)
        return values


_AROUND = 10
"""Steps before and after a hand-over in which its peak force is looked for."""


class InterventionLog:
    """Interventions of one episode, until they join the demonstrations."""

    def __init__(self, memory: Experience) -> None:
        self._memory = memory
        self._segment: list[StoredStep] = []
        self._steps = 0
        self._count = 0
        self._is_human: list[bool] = []
        self._forces: list[float] = []

    def include(self, is_human: bool, stored: StoredStep, force: float, is_known: bool = False) -> None:
        """Adds one step with its contact force, N; `is_known`: a repeated one, whose segments have joined already."""
        self._is_human.append(is_human)
        self._forces.append(force)
        if not is_human:
            if not is_known:
                self.end()
            self._segment = []
            return
        self._count += not self._segment
        self._steps += 1
        # Copied, since the environment may use its arrays again before the human hands back.
        self._segment.append(jax.tree.map(np.array, stored))

    def end(self) -> None:
        """Adds an open segment to the demonstrations."""
        self._memory.add_interventions(self._segment)
        self._segment = []

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the episode; empty without interventions."""
        if self._count == 0:
            return {}
        return {
            "training/episode_interventions": float(self._count),
            "training/episode_intervention_steps": float(self._steps),
        }

    @property
    def hand_overs(self) -> list[tuple[int, dict[str, float]]]:
        """Step within the episode and metrics of each takeover and each handback, in order."""
        acts = np.array([False, *self._is_human])
        events, taken_at = [], 0
        for step in np.flatnonzero(acts[1:] != acts[:-1]).tolist():
            force = max(self._forces[max(0, step - _AROUND) : step + _AROUND])
            if self._is_human[step]:
                taken_at, values = step, {"training/takeover_force": force}
            else:
                values = {"training/handback_force": force, "training/takeover_steps": float(step - taken_at)}
            events.append((step, values))
        return events


_FORCE, _CLIPS, _STEPS, _INTERVENED, _EVER = range(5)


class MetricWindow:
    """Counts over the steps since the last record.

    Args:
        counts: peak contact force (N), safety-box clips, steps, a human's steps, a human's steps since the switch.
    """

    def __init__(self, counts: Float64[np.ndarray, "5"]) -> None:
        self._counts = np.array(counts)

    @property
    def counts(self) -> Float64[np.ndarray, "5"]:
        return self._counts.copy()

    def include(self, info: dict[str, Any]) -> None:
        self._counts[_FORCE] = max(self._counts[_FORCE], float(info.get("contact_force", 0.0)))
        self._counts[_CLIPS] += float(info.get("safety_box_clipped", False))
        self._counts[_STEPS] += 1
        self._counts[[_INTERVENED, _EVER]] += INTERVENTION in info

    def pop(self) -> dict[str, float]:
        """Returns the metrics and starts a new window; the intervention rate appears once a human has acted."""
        values = {
            "training/peak_contact_force": float(self._counts[_FORCE]),
            "training/safety_box_clips": float(self._counts[_CLIPS]),
        }
        if self._counts[_EVER]:
            values["training/intervention_rate"] = float(self._counts[_INTERVENED] / self._counts[_STEPS])
        self._counts[[_FORCE, _CLIPS, _STEPS, _INTERVENED]] = 0.0
        return values


def empty_window() -> Float64[np.ndarray, "5"]:
    """Counts before the first step."""
    return np.zeros(5)
