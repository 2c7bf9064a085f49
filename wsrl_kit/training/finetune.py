"""Stage 2, fine-tuning: the robot acts and learns, from a warmed-up agent or a fresh one."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float32, PRNGKeyArray, PyTree

from wsrl_kit.agent import gripper, jax_tools, sac
from wsrl_kit.agent.sac import SACConfig, SACState, TermWeights
from wsrl_kit.classifier.data import LABELS
from wsrl_kit.classifier.reward import CONFIRMED
from wsrl_kit.config import schedules
from wsrl_kit.config.config import PERSON, WSRLConfig
from wsrl_kit.data.dataset import Dataset, returns_to_go
from wsrl_kit.envs.collect import trajectory_of
from wsrl_kit.envs.make import is_simulation
from wsrl_kit.envs.wrappers import observation_horizon
from wsrl_kit.errors import DivergenceError, ExperimentError
from wsrl_kit.replay import storage
from wsrl_kit.replay.frames import FrameStore
from wsrl_kit.replay.transition import Transition
from wsrl_kit.robot.environment import CONTACT_LOST
from wsrl_kit.training import episode as window
from wsrl_kit.training import experience
from wsrl_kit.training.episode import EpisodeRecord, TakeOvers, Window, action_taken
from wsrl_kit.training.evaluation import Evaluator, act
from wsrl_kit.training.experience import Experience, Seen, Shown
from wsrl_kit.training.loop import (
    Event,
    Judgement,
    Measurement,
    Snapshot,
    Step,
    check_divergence,
    environment_failed,
    stopped,
)
from wsrl_kit.training.sight import look
from wsrl_kit.training.start import learning_penalty, learning_reward, sac_config

LOGGER = logging.getLogger("wsrl_kit")


def online(config: WSRLConfig) -> WSRLConfig:
    """The parameters as fine-tuning takes them: without CQL's term where that has no weight."""
    weightless = config.conservative_online_weight == 0 and config.conservative_fade_steps == 0
    loss = "none" if weightless else config.conservative_loss
    return replace(config, conservative_loss=loss)


def initial_tree(
    config: WSRLConfig,
    static: SACConfig,
    agent: SACState,
    offline: Dataset | None,
    offline_capacity: int | None = None,
) -> PyTree:
    """Everything that fine-tuning changes, before its first step; also the structure for reading a `Snapshot` back.

    Args:
        agent: the agent to start from, warmed up or fresh.
        offline: the offline data kept; None for none.
        offline_capacity: rows to pad the offline data to, so that runs share a compiled program.

    Raises:
        DataError: fewer offline transitions than one batch takes.
    """
    config = online(config)
    return {
        "agent": agent,
        **experience.initial_tree(config, static, agent, offline, offline_capacity),
        "environment_step": np.int64(0),
        "episode": np.int64(0),
        # Steps of an episode that was stopped in its middle.
        "steps_in_episode": np.int64(0),
        # The step of the last evaluation.
        "evaluated": np.int64(-1),
        "window": window.empty(),
        "largest_reward": np.float64(
            0.0 if offline is None else np.abs(learning_reward(config, offline.rewards)).max()
        ),
    }


def finetune(
    config: WSRLConfig,
    static: SACConfig,
    tree: PyTree,
    environment: gymnasium.Env,
    evaluator: Evaluator,
    probe: Transition | None,
    offline_frames: FrameStore | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Acts and learns for `online_steps` environment steps. A generator; its last `Snapshot` holds the final agent.

    For the first `random_steps` steps actions are uniform, and for the first `frozen_rollout_steps` the agent acts
    unchanged; neither learns (WSRL's warm start, arXiv 2412.07762, section 5). Where a human takes over, their action
    is the one recorded, and joins the offline side too (see `interventions`).

    A stop ends the loop after the step at hand, with a last `Snapshot`. In a simulation the episode goes on where it
    was: it is played again from its seed and actions. On a robot, or with a person, the episode has ended, truncated.

    Args:
        tree: what `initial_tree` makes, or the tree of the last `Snapshot` of an interrupted run; it is given up.
        probe: frozen offline batch on which values are followed through the switch; None for none.
        offline_frames: what the cameras saw in the offline data, as `experience.offline_frames` gives it.
        stop_requested: asked after every step.

    Raises:
        Stopped: as asked for; a last `Snapshot` comes before it.
        DivergenceError: the critics have left the range of possible returns.
        WSRLKitError: the environment failed, or gave a number that is not finite; a last `Snapshot`, in which the
            episode has ended, comes before it.
    """
    config = online(config)
    static = sac_config(config, static.observation_size, static.action_size, static.pixels)
    agent, memory = tree["agent"], Experience(config, tree, offline_frames)
    environment_step, episode = int(tree["environment_step"]), int(tree["episode"])
    steps_to_repeat, evaluated = int(tree["steps_in_episode"]), int(tree["evaluated"])
    recent = Window(tree["window"])

    # The agent may know rewards that fine-tuning has not met yet.
    largest_reward = max(float(tree["largest_reward"]), 0.0 if probe is None else float(jnp.abs(probe.reward).max()))

    schedule = schedules.run_schedules(config)
    ratios = schedule["offline ratio"]
    # Uniform samples want no importance weights.
    betas = schedule.get("PER beta", np.zeros_like(ratios))
    acting_key, sampling_key = (jax_tools.key(config.seed, purpose) for purpose in ("acting", "sampling"))
    diagnosis_key = jax_tools.key(config.seed, "diagnosis")
    conservative, cloning = schedule.get("conservative weight"), schedule.get("behavior-cloning weight")
    faded = config.conservative_fade_steps if config.conservative_online_weight == 0 else config.online_steps
    first_update = max(config.frozen_rollout_steps, config.random_steps)
    sampled = np.ones(1, np.float32)
    horizon = observation_horizon(environment)
    can_repeat = is_simulation(environment) and config.human != PERSON
    next_checkpoint = environment_step + config.checkpoint_interval
    metrics: sac.Metrics = {}

    def learning_metrics() -> dict[str, float]:
        values = {name: float(value) for name, value in metrics.items()}
        check_divergence(config, values, largest_reward, int(agent.updates))
        return values

    def measured(values: dict[str, float]) -> Measurement:
        return Measurement("online", environment_step, int(agent.updates), values)

    def snapshot(steps_in_episode: int = 0) -> Snapshot:
        learning_metrics()
        return Snapshot(
            {
                "agent": agent,
                **memory.tree,
                "environment_step": np.int64(environment_step),
                "episode": np.int64(episode),
                "steps_in_episode": np.int64(steps_in_episode),
                "evaluated": np.int64(evaluated),
                "window": recent.counts,
                "largest_reward": np.float64(largest_reward),
            }
        )

    def evaluation_is_due() -> bool:
        is_last = environment_step == config.online_steps
        return evaluated < environment_step and (is_last or environment_step % config.evaluation_interval == 0)

    def evaluation() -> Measurement:
        nonlocal evaluated
        with _environment_acts():
            values = evaluator.evaluate(static, agent, -(-environment_step // config.evaluation_interval))
        evaluated = environment_step
        if environment_step > 0:
            return measured(values)
        held = {
            "switch/offline_transitions": float(memory.replay.offline.size),
            "switch/offline_bytes": memory.offline_bytes,
        }
        return measured(held | values | _diagnose(static, agent, memory, probe, diagnosis_key))

    while environment_step < config.online_steps:
        is_stopping = stop_requested()
        if environment_step >= next_checkpoint or is_stopping:
            yield snapshot()
            next_checkpoint = environment_step + config.checkpoint_interval
        if is_stopping:
            raise stopped(environment_step)
        record, take_overs, done = EpisodeRecord(config.confirm_success), TakeOvers(memory), False
        random_actions = np.random.default_rng(jax_tools.episode_seed(config.seed, "acting", episode))
        steps_taken = 0
        try:
            if evaluation_is_due():
                yield evaluation()
            with _environment_acts():
                observation, _ = environment.reset(seed=jax_tools.episode_seed(config.seed, "episodes", episode))
            state, shown = look(static, agent, observation)
            if steps_to_repeat:
                known, count, steps_to_repeat = memory.newest_rows(steps_to_repeat), steps_to_repeat, 0
                repeated = _repeat(config, static, agent, environment, (state, shown), known, count)
                if repeated is None:
                    LOGGER.warning("the task did not repeat the episode that was stopped, which counts as truncated")
                    episode += 1
                    continue
                for step in repeated:
                    record.include(step.task_reward, step.info)
                    take_overs.include(step.is_human, step.seen, is_known=True)
                    if environment_step - len(repeated) + steps_taken < config.random_steps:
                        random_actions.uniform(-1.0, 1.0, static.action_size)
                    steps_taken += 1
                observation, state, shown = step.observation, step.state, step.shown
            while not done and environment_step < config.online_steps:
                if environment_step < config.random_steps:
                    drawn = random_actions.uniform(-1.0, 1.0, static.action_size).astype(np.float32)
                    action = gripper.rounded(static.gripper, drawn)
                else:
                    number, images = np.int32(environment_step), {name: stack[None] for name, stack in shown.items()}
                    policy = sac.policy(agent)
                    action = np.asarray(act(static, policy, acting_key, number, state[None], sampled, images))[0]
                    if not np.isfinite(action).all():
                        raise DivergenceError(f"learning diverged: the policy's action is {action.tolist()}")
                # Copied, since the environment may use its arrays again.
                before = jax.tree.map(np.array, observation) if config.confirm_success else None
                taken = _take_step(config, static, agent, environment, state, shown, action)
                if taken is None:
                    break
                step = taken
                largest_reward = max(largest_reward, abs(float(step.reward)))
                if conservative is not None and environment_step >= faded:
                    # CQL's term has faded out: the program without it takes over.
                    conservative = None
                    sizes = (static.observation_size, static.action_size, static.pixels)
                    static = sac_config(replace(config, conservative_loss="none"), *sizes)
                ratio, beta = memory.offline_ratio(ratios[environment_step]), betas[environment_step]
                if environment_step < first_update:
                    memory.add(*step.seen)
                else:
                    at = environment_step
                    weights = TermWeights(*(None if each is None else each[at] for each in (conservative, cloning)))
                    agent, metrics = memory.learn(static, agent, sampling_key, at, ratio, beta, weights, *step.seen)
                take_overs.include(step.is_human, step.seen)
                observation, state, shown = step.observation, step.state, step.shown
                done = step.ends
                record.include(step.task_reward, step.info)
                recent.include(step.info)
                environment_step += 1
                steps_taken += 1
                if CONFIRMED in step.info:
                    seen = [before, observation]
                    yield _judgement(environment_step, step.info[CONFIRMED], seen, step.action, horizon)
                yield Step(environment_step, config.online_steps, "fine-tuning")
                if environment_step % config.log_interval == 0:
                    values = {f"training/{name}": value for name, value in learning_metrics().items()}
                    values["training/offline_ratio"] = float(ratio)
                    if config.use_prioritized_replay:
                        values["training/priority_beta"] = float(beta)
                    yield measured(values | recent.take() | _diagnose(static, agent, memory, probe, diagnosis_key))
                if not done and environment_step < config.online_steps and stop_requested():
                    if not can_repeat:
                        take_overs.end()
                        episode, steps_taken = episode + 1, 0
                    yield snapshot(steps_taken)
                    raise stopped(environment_step)
                if evaluation_is_due():
                    yield evaluation()
        except _EnvironmentFailed as failure:
            # What was learned so far is kept; a run that goes on begins with the next episode.
            take_overs.end()
            episode += steps_taken > 0
            yield snapshot()
            raise environment_failed(failure.__cause__, environment_step) from failure.__cause__
        take_overs.end()
        episode += 1
        # An episode that the end of the run cuts has no outcome.
        if done:
            if static.is_calibrated:
                rewards = np.array(record.rewards, np.float32)
                _set_returns(config, memory, environment_step, rewards, step.terminated)
            yield measured(record.metrics | take_overs.metrics)
    yield snapshot()


class _Taken(NamedTuple):
    """One environment step, checked.

    Attributes:
        action: what was done, by the policy or a human.
        is_human: whether a human chose it.
        task_reward: the environment's own.
        reward: as learning sees it.
        terminated, truncated: Gymnasium's.
        info: the environment's.
        observation: the next one, as the environment gave it.
        state: its flat state.
        shown: what replay keeps of its images.
        seen: the transition, as replay takes it.
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
    shown: Shown
    seen: Seen

    @property
    def ends(self) -> bool:
        """Whether the episode ends with this step."""
        return self.terminated or self.truncated


def _take_step(
    config: WSRLConfig,
    static: SACConfig,
    agent: SACState,
    environment: gymnasium.Env,
    state: Float32[np.ndarray, " observation"],
    shown: Shown,
    action: Float32[np.ndarray, " action"],
) -> _Taken | None:
    """Acts once; None where contact with the robot was lost, so that nobody saw what happened.

    Args:
        state, shown: what `look` gave before the step.

    Raises:
        _EnvironmentFailed: the environment raised something, or gave a number that is no finite float32.
    """
    with _environment_acts():
        observation, task_reward, terminated, truncated, info = environment.step(action)
        if info.get(CONTACT_LOST):
            return None
        action, is_human = action_taken(action, info)
        with np.errstate(over="ignore"):
            reward = learning_reward(config, np.asarray(task_reward, np.float32))
            penalty: Any = None
            if static.learns_gripper:
                penalty = learning_penalty(config, np.asarray(info.get("grasp_penalty", 0.0), np.float32))
        for name, value in {"reward": reward, "grasp penalty": penalty}.items():
            if value is not None and not np.isfinite(value):
                raise ExperimentError(f"the {name} is {value} for learning: expected a finite number (float32)")
    next_state, next_shown = look(static, agent, observation)
    numbers = (np.float32(not terminated), np.float32(1.0), np.float32(-np.inf))
    row: tuple[Any, ...] = (state, action, reward, next_state, *numbers)
    transition = Transition(*row)._replace(grasp_penalty=penalty)
    return _Taken(
        action, is_human, float(task_reward), reward, bool(terminated), bool(truncated), info,
        observation, next_state, next_shown, (transition, shown, next_shown),
    )  # fmt: skip


def _repeat(
    config: WSRLConfig,
    static: SACConfig,
    agent: SACState,
    environment: gymnasium.Env,
    start: tuple[Float32[np.ndarray, " observation"], Shown],
    known: Transition,
    count: int,
) -> list[_Taken] | None:
    """Plays an episode again as far as replay knows it; None where the task does something else this time.

    Args:
        start: what `look` gave of its first observation.
        known: its transitions so far, in order.
        count: how many it had.
    """
    if len(known.reward) < count:
        return None
    state, shown = start
    repeated: list[_Taken] = []
    for action, reward, next_state in zip(known.action, known.reward, known.next_observation, strict=True):
        step = _take_step(config, static, agent, environment, state, shown, action)
        if step is None or step.ends or step.reward != reward or not np.array_equal(step.state, next_state):
            return None
        repeated.append(step)
        state, shown = step.state, step.shown
    return repeated


class _EnvironmentFailed(Exception):
    """Something went wrong in the environment and nowhere else; the cause is what it raised."""


@contextmanager
def _environment_acts() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _EnvironmentFailed from error


def _judgement(
    environment_step: int,
    is_success: bool,
    observations: list[Any],
    action: Float32[np.ndarray, " action"],
    horizon: int,
) -> Judgement:
    # Nothing ended here: the label speaks of what the step came to.
    label, rewards = LABELS[is_success], [float(is_success)]
    trajectory = trajectory_of(observations, [action], rewards, False, True, is_success, label, horizon)
    return Judgement(environment_step, is_success, trajectory)


def _set_returns(
    config: WSRLConfig, memory: Experience, end: int, rewards: Float[np.ndarray, " episode"], terminated: bool
) -> None:
    """Writes the Monte-Carlo returns of the episode whose last transition was that of step `end - 1`."""
    ends, terminations = np.array([len(rewards)]), np.array([terminated])
    returns = returns_to_go(learning_reward(config, rewards), ends, terminations, config.discount)
    capacity = storage.capacity(memory.replay.online)
    held = min(len(rewards), capacity)
    # Padded to a power of two, so that few programs serve episodes of all lengths.
    padding = (1 << (held - 1).bit_length()) - held
    rows = np.pad(np.arange(end - held, end, dtype=np.int32) % capacity, (0, padding), constant_values=capacity)
    memory.set_returns(rows, np.pad(returns[-held:], (0, padding)))


def _diagnose(
    static: SACConfig, agent: SACState, memory: Experience, probe: Transition | None, key: PRNGKeyArray
) -> dict[str, float]:
    """Values and TD errors on the frozen offline batch, and on as many of the newest online transitions."""
    values: dict[str, float] = {}
    if probe is not None:
        q, error = jax.device_get(_values(static, agent, probe, key))
        values |= {"switch/q_offline_probe": float(q.mean()), "switch/td_error_offline_probe": float(error.mean())}
    if int(memory.replay.online.size) > 0:
        newest, held = memory.newest(PROBE_SIZE)
        # On the host, where a mean over a changing number of rows is not compiled anew.
        q, error = jax.device_get(_values(static, agent, newest, key))
        values |= {"switch/q_online": float(q[:held].mean()), "switch/td_error_online": float(error[:held].mean())}
    return values


PROBE_SIZE = 256
"""Transitions of the frozen offline batch, and of the online batch beside it."""


@partial(jax.jit, static_argnums=0)
def _values(
    static: SACConfig, agent: SACState, batch: Transition, key: PRNGKeyArray
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """Q (mean over the critics) and absolute TD error of each example."""
    q = jnp.mean(sac.action_values(static, agent, batch.observation, batch.action, batch.images), axis=0)
    return q, jnp.abs(sac.td_errors(static, agent, batch, key))
