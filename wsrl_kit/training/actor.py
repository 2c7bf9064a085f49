"""Who acts in fine-tuning: the loop itself, between its updates, or a thread that does not wait for them.

A robot on another machine is the third: `remote_learner.Learner`.
"""

import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import gymnasium
import jax
import numpy as np
from jaxtyping import Float32, PRNGKeyArray

from wsrl_kit.agent import gripper, jax_tools, sac
from wsrl_kit.agent.sac import Policy, SACConfig, SACState
from wsrl_kit.agent.transition import Transition
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.errors import DivergenceError, RobotError
from wsrl_kit.robot.environment import RobotEnv
from wsrl_kit.runs.loop import environment_acts
from wsrl_kit.training import evaluation
from wsrl_kit.training.episode import EnvironmentStep, repeat_steps, take_step
from wsrl_kit.training.experience import Frames
from wsrl_kit.training.sight import split_observation


class ActorStopped:
    """What `step` returns once the actor has stopped."""


STOPPED = ActorStopped()


@runtime_checkable
class Actor(Protocol):
    """Takes the steps of one episode after another."""

    @property
    def steps_ahead(self) -> int:
        """Steps that were taken and not returned."""

    @property
    def has_stopped(self) -> bool:
        """Whether `step` has nothing left to return."""

    def begin(self, episode: int, known: Transition, count: int) -> list[EnvironmentStep] | None:
        """Begins an episode with the `count` steps that were `known` when it was interrupted.

        Returns:
            Those steps, or None if the task did not repeat them.
        """

    def step(self) -> EnvironmentStep | ActorStopped | None:
        """The next step; None if the episode was cut, as when contact with the robot is lost."""

    def learned(self, agent: SACState) -> None:
        """Tells that the agent has learned from the step that was returned last."""

    def stop(self) -> None:
        """Takes no further steps; `step` first returns those that were taken."""

    def close(self) -> None:
        """Ends the actor, not the environment."""


@dataclass
class InlineActor:
    """Takes each step when it is asked for.

    Attributes:
        agent_config: by environment step.
        policy: acts next.
        environment_step: since the switch.
    """

    config: WSRLConfig
    agent_config: Callable[[int], SACConfig]
    environment: gymnasium.Env
    acting_key: PRNGKeyArray
    policy: Policy
    environment_step: int
    steps_ahead: int = 0
    has_stopped: bool = False
    _random_actions: np.random.Generator = field(default_factory=np.random.default_rng)
    _observation: Any = None
    _state: Float32[np.ndarray, " observation"] = field(default_factory=lambda: np.zeros(0, np.float32))
    _frames: Frames = field(default_factory=dict)

    def begin(self, episode: int, known: Transition, count: int) -> list[EnvironmentStep] | None:
        config, agent_config = self.config, self.agent_config(self.environment_step)
        self._random_actions = np.random.default_rng(jax_tools.episode_seed(config.seed, "acting", episode))
        with environment_acts():
            seed = jax_tools.episode_seed(config.seed, "episodes", episode)
            self._observation, _ = self.environment.reset(seed=seed)
        self._state, self._frames = split_observation(agent_config, self.policy, self._observation)
        if not count:
            return []
        start = (self._state, self._frames)
        repeated = repeat_steps(config, agent_config, self.policy, self.environment, *start, known, count)
        for step_number, step in enumerate(repeated or [], self.environment_step - count):
            self._see(step)
            if step_number < config.random_steps:
                self._random_actions.uniform(-1.0, 1.0, agent_config.action_size)
        return repeated

    def step(self) -> EnvironmentStep | ActorStopped | None:
        if self.has_stopped:
            return STOPPED
        config, agent_config = self.config, self.agent_config(self.environment_step)
        # Copied, since the environment may use its arrays again.
        before = jax.tree.map(np.array, self._observation) if config.is_judged else None
        action = self._action(agent_config)
        seen = (self._state, self._frames)
        step = take_step(config, agent_config, self.policy, self.environment, *seen, action)
        if step is None:
            return None
        self.environment_step += 1
        self._see(step)
        return step._replace(before=before)

    def learned(self, agent: SACState) -> None:
        self.policy = sac.policy(agent)

    def stop(self) -> None:
        self.has_stopped = True

    def close(self) -> None:
        self.stop()

    def _see(self, step: EnvironmentStep) -> None:
        self._observation, self._state, self._frames = step.observation, step.state, step.frames

    def _action(self, agent_config: SACConfig) -> Float32[np.ndarray, " action"]:
        """Uniform for `random_steps` steps, then sampled from the policy.

        Raises:
            DivergenceError: the action is not finite.
        """
        step = np.int32(self.environment_step)
        if step < self.config.random_steps:
            drawn = self._random_actions.uniform(-1.0, 1.0, agent_config.action_size).astype(np.float32)
            return gripper.rounded(agent_config.gripper, drawn)
        images = {name: frames[None] for name, frames in self._frames.items()}
        scale = np.ones(1, np.float32)
        batch = evaluation.act(agent_config, self.policy, self.acting_key, step, self._state[None], scale, images)
        action = np.asarray(batch)[0]
        if not np.isfinite(action).all():
            raise DivergenceError(f"learning diverged: the policy's action is {action.tolist()}")
        return action


class ThreadedActor:
    """Acts in a thread of its own, with the newest whole policy, at most `lag` steps ahead of learning.

    Learning meets the same transitions in the same order as with `InlineActor`; only which policy chose an action
    depends on time. A robot holds while the actor waits for learning.

    Args:
        inner: acts; the thread's own once the first episode has begun.
        lag: at least 1.
        keep: called with each step before the next one is taken.
    """

    def __init__(
        self, inner: InlineActor, lag: int, keep: Callable[[EnvironmentStep | None], None] = lambda step: None
    ) -> None:
        self._inner, self._slots, self._keep = inner, threading.Semaphore(lag), keep
        self._taken: queue.SimpleQueue[EnvironmentStep | BaseException | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._agent: SACState | None = None

    def begin(self, episode: int, known: Transition, count: int) -> list[EnvironmentStep] | None:
        if self._thread is not None:
            # The thread began it when the episode before ended.
            return []
        # Until its first update the inner actor's policy is the agent's, whose buffers learning takes over.
        self._inner.policy = jax_tools.copied(self._inner.policy)
        repeated = self._inner.begin(episode, known, count)
        if repeated is not None:
            self._thread = threading.Thread(target=self._act, args=(episode, known), name="actor", daemon=True)
            self._thread.start()
        return repeated

    def step(self) -> EnvironmentStep | ActorStopped | None:
        while not self.has_stopped:
            try:
                taken = self._taken.get(timeout=_PATIENCE)
            except queue.Empty:
                continue
            if isinstance(taken, BaseException):
                raise taken
            return taken
        return STOPPED

    def learned(self, agent: SACState) -> None:
        if agent is not self._agent:
            # Copies that wait for an update would fill XLA's queue of 32 programs, and acting would wait behind them.
            jax.block_until_ready(agent)
            # A copy, since the next update takes over the agent's buffers; waited for here, since the actor must not.
            self.policy = jax.block_until_ready(jax_tools.copied(sac.policy(agent)._replace(trunk=())))
            self._agent = agent
        self.allow(1)

    @property
    def policy(self) -> Policy:
        """Acts next; a trunk never changes, and need not be given again."""
        return self._inner.policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._inner.policy = policy._replace(trunk=self._inner.policy.trunk)

    def allow(self, steps: int) -> None:
        """Lets the actor take further steps, since learning has caught up with as many."""
        if steps:
            self._slots.release(steps)

    def stop(self) -> None:
        self._stopping.set()
        if self._thread is None:
            self._inner.stop()

    @property
    def has_stopped(self) -> bool:
        if self._thread is None:
            return self._inner.has_stopped
        return not self._thread.is_alive() and self._taken.empty()

    @property
    def steps_ahead(self) -> int:
        return self._taken.qsize()

    def close(self) -> None:
        self.stop()
        if self._thread is not None:
            self._thread.join()

    def _act(self, episode: int, known: Transition) -> None:
        try:
            has_ended = False
            while self._inner.environment_step < self._inner.config.online_steps and self._may_act():
                if has_ended:
                    episode += 1
                    self._inner.begin(episode, known, 0)
                step = self._inner.step()
                assert not isinstance(step, ActorStopped)
                self._keep(step)
                # Copied, since the environment may use its arrays again before learning sees them.
                self._taken.put(None if step is None else step._replace(**_copied(step)))
                has_ended = step is None or step.ends
                if step is None:
                    self.allow(1)
        except BaseException as error:
            self._taken.put(error)

    def _may_act(self) -> bool:
        """Waits until learning is at most `lag` steps behind; False once stopped."""
        robot = self._inner.environment.unwrapped
        waited = False
        while not self._stopping.is_set():
            if self._slots.acquire(timeout=_PATIENCE if waited else 0.0):
                return True
            if not waited and isinstance(robot, RobotEnv):
                # A robot that does not answer is dealt with at the next step.
                with suppress(RobotError):
                    robot.hold()
            waited = True
        return False


_PATIENCE = 0.05
"""Seconds between two looks for a stop."""


def _copied(step: EnvironmentStep) -> dict[str, Any]:
    return {name: jax.tree.map(np.array, getattr(step, name)) for name in ("observation", "stored")}
