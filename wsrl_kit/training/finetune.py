"""Stage 2, fine-tuning: the robot acts and learns, from a warmed-up agent or a fresh one."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float32, PRNGKeyArray, PyTree

from wsrl_kit import gripper, sac, schedules
from wsrl_kit.config import WSRLConfig
from wsrl_kit.data.dataset import Dataset, returns_to_go
from wsrl_kit.data.labels import LABELS
from wsrl_kit.envs.classifier_reward import CONFIRMED
from wsrl_kit.envs.collect import trajectory_of
from wsrl_kit.envs.horizon import observation_horizon
from wsrl_kit.envs.reconnecting import CONTACT_LOST
from wsrl_kit.errors import RobotError
from wsrl_kit.replay import storage
from wsrl_kit.replay.frames import FrameStore
from wsrl_kit.sac import SACConfig, SACState, TermWeights
from wsrl_kit.training import experience, randomness, window
from wsrl_kit.training.agent import learning_penalty, learning_reward
from wsrl_kit.training.divergence import check_divergence
from wsrl_kit.training.episode import EpisodeRecord
from wsrl_kit.training.evaluation import Evaluator, act
from wsrl_kit.training.events import Event, Judgement, Measurement, Snapshot, Step
from wsrl_kit.training.experience import Experience
from wsrl_kit.training.interventions import TakeOvers, action_taken
from wsrl_kit.training.sight import look
from wsrl_kit.training.window import Window
from wsrl_kit.types import Transition

RANK_REFRESH_INTERVAL = 100
"""Environment steps between exact re-rankings of rank-based replay."""


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
) -> Iterator[Event]:
    """Acts and learns for `online_steps` environment steps. A generator; its last `Snapshot` holds the final agent.

    For the first `random_steps` steps actions are uniform, and for the first `frozen_rollout_steps` the agent acts
    unchanged; neither learns (WSRL's warm start, arXiv 2412.07762, section 5). Where a human takes over, their action
    is the one recorded, and joins the offline side too (see `interventions`).

    Args:
        tree: what `initial_tree` makes, or the tree of the last `Snapshot` of an interrupted run; it is given up.
        probe: frozen offline batch on which values are followed through the switch; None for none.
        offline_frames: what the cameras saw in the offline data, as `experience.offline_frames` gives it.

    Raises:
        DivergenceError: the critics have left the range of possible returns.
        RobotError: contact with the robot is lost; a last `Snapshot` comes before it.
    """
    config = online(config)
    static = sac.from_parameters(config, static.observation_size, static.action_size, static.pixels)
    agent, memory = tree["agent"], Experience(config, tree, offline_frames)
    environment_step, episode = int(tree["environment_step"]), int(tree["episode"])
    recent = Window(tree["window"])

    # The agent may know rewards that fine-tuning has not met yet.
    largest_reward = max(float(tree["largest_reward"]), 0.0 if probe is None else float(jnp.abs(probe.reward).max()))

    schedule = schedules.run_schedules(config)
    ratios = schedule["offline ratio"]
    # Uniform samples want no importance weights.
    betas = schedule.get("PER beta", np.zeros_like(ratios))
    acting_key, sampling_key = (randomness.key(config.seed, purpose) for purpose in ("acting", "sampling"))
    diagnosis_key = randomness.key(config.seed, "diagnosis")
    conservative, cloning = schedule.get("conservative weight"), schedule.get("behavior-cloning weight")
    faded = config.conservative_fade_steps if config.conservative_online_weight == 0 else config.online_steps
    first_update = max(config.frozen_rollout_steps, config.random_steps)
    sampled = np.ones(1, np.float32)
    horizon = observation_horizon(environment)
    next_checkpoint = environment_step + config.checkpoint_interval
    metrics: sac.Metrics = {}

    def learning_metrics() -> dict[str, float]:
        values = {name: float(value) for name, value in metrics.items()}
        check_divergence(config, values, largest_reward, int(agent.updates))
        return values

    def measured(values: dict[str, float]) -> Measurement:
        return Measurement("online", environment_step, int(agent.updates), values)

    def snapshot() -> Snapshot:
        return Snapshot(
            {
                "agent": agent,
                **memory.tree,
                "environment_step": np.int64(environment_step),
                "episode": np.int64(episode),
                "window": recent.counts,
                "largest_reward": np.float64(largest_reward),
            }
        )

    if environment_step == 0:
        held = {
            "switch/offline_transitions": float(memory.replay.offline.size),
            "switch/offline_bytes": memory.offline_bytes,
        }
        yield measured(
            held | evaluator.evaluate(static, agent, 0) | _diagnose(static, agent, memory, probe, diagnosis_key)
        )

    while environment_step < config.online_steps:
        # Episode ends are the only moments at which any environment's state is known: a reset with the next seed.
        if environment_step >= next_checkpoint:
            learning_metrics()
            yield snapshot()
            next_checkpoint = environment_step + config.checkpoint_interval
        try:
            observation, _ = environment.reset(seed=randomness.episode_seed(config.seed, "episodes", episode))
        except RobotError:
            yield snapshot()
            raise
        state, shown = look(static, agent, observation)
        random_actions = np.random.default_rng(randomness.episode_seed(config.seed, "acting", episode))
        record, take_overs, done = EpisodeRecord(config.confirm_success), TakeOvers(memory), False
        while not done and environment_step < config.online_steps:
            if environment_step < config.random_steps:
                drawn = random_actions.uniform(-1.0, 1.0, static.action_size).astype(np.float32)
                action = gripper.rounded(static.gripper, drawn)
            else:
                step, images = np.int32(environment_step), {name: stack[None] for name, stack in shown.items()}
                policy = sac.policy(agent)
                action = np.asarray(act(static, policy, acting_key, step, state[None], sampled, images))[0]
            # Copied, since the environment may use its arrays again.
            before = jax.tree.map(np.array, observation) if config.confirm_success else None
            try:
                next_observation, reward, terminated, truncated, info = environment.step(action)
            except RobotError:
                # What was learned so far is kept; a run that goes on begins with the next episode.
                take_overs.end()
                episode += 1
                yield snapshot()
                raise
            if info.get(CONTACT_LOST):
                break
            action, is_human = action_taken(action, info)
            learnt = learning_reward(config, np.asarray(reward, np.float32))
            numbers = (np.float32(not terminated), np.float32(1.0), np.float32(-np.inf))
            next_state, next_shown = look(static, agent, next_observation)
            row: tuple[Any, ...] = (state, action, learnt, next_state, *numbers)
            penalty: Any = None
            if static.learns_gripper:
                penalty = learning_penalty(config, np.asarray(info.get("grasp_penalty", 0.0), np.float32))
            seen = (Transition(*row)._replace(grasp_penalty=penalty), shown, next_shown)
            largest_reward = max(largest_reward, abs(float(learnt)))
            if conservative is not None and environment_step >= faded:
                # CQL's term has faded out: the program without it takes over.
                conservative = None
                sizes = (static.observation_size, static.action_size, static.pixels)
                static = sac.from_parameters(replace(config, conservative_loss="none"), *sizes)
            ratio, beta = memory.offline_ratio(ratios[environment_step]), betas[environment_step]
            if environment_step < first_update:
                memory.add(*seen)
            else:
                at = environment_step
                weights = TermWeights(*(None if each is None else each[at] for each in (conservative, cloning)))
                agent, metrics = memory.learn(static, agent, sampling_key, at, ratio, beta, weights, *seen)
            take_overs.include(is_human, seen)
            observation, state, shown = next_observation, next_state, next_shown
            done = terminated or truncated
            record.include(float(reward), info)
            recent.include(info)
            environment_step += 1
            if CONFIRMED in info:
                yield _judgement(environment_step, info[CONFIRMED], [before, next_observation], action, horizon)
            yield Step(environment_step, config.online_steps, "fine-tuning")
            if environment_step % RANK_REFRESH_INTERVAL == 0:
                memory.refresh()
            if environment_step % config.log_interval == 0:
                values = {f"training/{name}": value for name, value in learning_metrics().items()}
                values["training/offline_ratio"] = float(ratio)
                if config.use_prioritized_replay:
                    values["training/priority_beta"] = float(beta)
                yield measured(values | recent.take() | _diagnose(static, agent, memory, probe, diagnosis_key))
            if environment_step % config.evaluation_interval == 0 or environment_step == config.online_steps:
                count = -(-environment_step // config.evaluation_interval)
                yield measured(evaluator.evaluate(static, agent, count))
        take_overs.end()
        episode += 1
        # An episode that the end of the run cuts has no outcome.
        if done:
            if static.is_calibrated:
                _set_returns(config, memory, environment_step, np.array(record.rewards, np.float32), terminated)
            yield measured(record.metrics | take_overs.metrics)
    yield snapshot()


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
