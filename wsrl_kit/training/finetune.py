"""Stage 2, fine-tuning: the robot acts and learns, from a warmed-up agent or a fresh one."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, PRNGKeyArray, PyTree

from wsrl_kit import sac, schedules
from wsrl_kit.config import WSRLConfig
from wsrl_kit.data.dataset import Dataset, returns_to_go
from wsrl_kit.envs.wrappers import succeeded
from wsrl_kit.errors import DataError
from wsrl_kit.replay import mixture, storage
from wsrl_kit.replay.mixture import Replay
from wsrl_kit.replay.prioritized import Proportional, RankBased
from wsrl_kit.replay.uniform import Sampler, Uniform
from wsrl_kit.sac import SACConfig, SACState
from wsrl_kit.training import randomness
from wsrl_kit.training.agent import learning_reward, to_transitions
from wsrl_kit.training.divergence import check_divergence
from wsrl_kit.training.evaluation import Evaluator, act
from wsrl_kit.training.events import Event, Measurement, Snapshot, Step
from wsrl_kit.training.learning import add, learn, set_returns
from wsrl_kit.types import Transition

RANK_REFRESH_INTERVAL = 100
"""Environment steps between exact re-rankings of rank-based replay."""


def sampler_of(config: WSRLConfig) -> Sampler:
    """The replay sampler that the parameters ask for."""
    if not config.use_prioritized_replay:
        return Uniform()
    kinds: dict[str, Callable[[float], Sampler]] = {"proportional": Proportional, "rank": RankBased}
    return kinds[config.priority_kind](config.priority_alpha)


def online(config: WSRLConfig) -> WSRLConfig:
    """The parameters as fine-tuning takes them: without the terms that belong to warmup.

    Behavior cloning holds the actor to the data there; online it is free to leave them. CQL's term goes where it has no
    weight.
    """
    weightless = config.conservative_online_weight == 0 and config.conservative_fade_steps == 0
    loss = "none" if weightless else config.conservative_loss
    return replace(config, behavior_cloning_weight=0.0, conservative_loss=loss)


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
    sizes = (static.observation_size, static.action_size)
    if offline is None:
        offline_rows = storage.create(offline_capacity or 1, *sizes)
    elif len(offline) < config.batch_size:
        raise DataError(
            f"batch_size {config.batch_size} needs at least as many offline transitions, found {len(offline)}; "
            "keep more (retention_ratio) or take smaller batches"
        )
    else:
        offline_rows = storage.filled(to_transitions(config, offline), offline_capacity or len(offline))
    online_rows = storage.create(min(config.replay_capacity, config.online_steps), *sizes)
    return {
        "agent": agent,
        "replay": mixture.create(sampler_of(config), offline_rows, online_rows),
        "environment_step": np.int64(0),
        "episode": np.int64(0),
        "window": np.zeros(2),
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
) -> Iterator[Event]:
    """Acts and learns for `online_steps` environment steps. A generator; its last `Snapshot` holds the final agent.

    For the first `random_steps` steps actions are uniform, and for the first `frozen_rollout_steps` the agent acts
    unchanged; neither learns (WSRL's warm start, arXiv 2412.07762, section 5).

    Args:
        tree: what `initial_tree` makes, or the tree of the last `Snapshot` of an interrupted run; it is given up.
        probe: frozen offline batch on which values are followed through the switch; None for none.

    Raises:
        DivergenceError: the critics have left the range of possible returns.
    """
    config = online(config)
    static = sac.from_parameters(config, static.observation_size, static.action_size)
    sampler = sampler_of(config)
    agent, replay = tree["agent"], tree["replay"]
    environment_step, episode = int(tree["environment_step"]), int(tree["episode"])
    window = _Window(*(float(value) for value in tree["window"]))

    # The agent may know rewards that fine-tuning has not met yet.
    largest_reward = max(float(tree["largest_reward"]), 0.0 if probe is None else float(jnp.abs(probe.reward).max()))

    schedule = schedules.run_schedules(config)
    ratios = schedule["offline ratio"] * float(replay.offline.size > 0)
    # Uniform samples want no importance weights.
    betas = schedule.get("PER beta", np.zeros_like(ratios))
    acting_key, sampling_key = (randomness.key(config.seed, purpose) for purpose in ("acting", "sampling"))
    diagnosis_key = randomness.key(config.seed, "diagnosis")
    weights = schedule.get("conservative weight")
    faded = config.conservative_fade_steps if config.conservative_online_weight == 0 else config.online_steps
    first_update = max(config.frozen_rollout_steps, config.random_steps)
    shape = (config.update_to_data_ratio, config.batch_size)
    sampled = np.ones(1, np.float32)
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
                "replay": replay,
                "environment_step": np.int64(environment_step),
                "episode": np.int64(episode),
                "window": np.array([window.peak_contact_force, window.safety_box_clips]),
                "largest_reward": np.float64(largest_reward),
            }
        )

    if environment_step == 0:
        size = float(replay.offline.size)
        held = {
            "switch/offline_transitions": size,
            "switch/offline_bytes": size * storage.bytes_per_transition(replay.offline),
        }
        yield measured(
            held | evaluator.evaluate(static, agent, 0) | _diagnose(static, agent, replay, probe, diagnosis_key)
        )

    while environment_step < config.online_steps:
        # Episode ends are the only moments at which any environment's state is known: a reset with the next seed.
        if environment_step >= next_checkpoint:
            learning_metrics()
            yield snapshot()
            next_checkpoint = environment_step + config.checkpoint_interval
        observation, _ = environment.reset(seed=randomness.episode_seed(config.seed, "episodes", episode))
        random_actions = np.random.default_rng(randomness.episode_seed(config.seed, "acting", episode))
        rewards: list[float] = []
        success, done = None, False
        while not done and environment_step < config.online_steps:
            if environment_step < config.random_steps:
                action = random_actions.uniform(-1.0, 1.0, static.action_size).astype(np.float32)
            else:
                step = np.int32(environment_step)
                action = np.asarray(act(static, sac.policy(agent), acting_key, step, observation[None], sampled))[0]
            next_observation, reward, terminated, truncated, info = environment.step(action)
            learnt = learning_reward(config, np.asarray(reward, np.float32))
            numbers = (np.float32(not terminated), np.float32(1.0), np.float32(-np.inf))
            row: tuple[Any, ...] = (observation, action, learnt, next_observation, *numbers)
            transition = Transition(*row)
            largest_reward = max(largest_reward, abs(float(learnt)))
            if weights is not None and environment_step >= faded:
                # CQL's term has faded out: the program without it takes over.
                weights = None
                static = sac.from_parameters(
                    replace(config, conservative_loss="none"), static.observation_size, static.action_size
                )
            if environment_step < first_update:
                replay = add(sampler, replay, transition)
            else:
                agent, replay, metrics = learn(
                    static,
                    sampler,
                    shape,
                    agent,
                    replay,
                    sampling_key,
                    np.int32(environment_step),
                    ratios[environment_step],
                    betas[environment_step],
                    None if weights is None else weights[environment_step],
                    transition,
                )
            observation = next_observation
            rewards.append(float(reward))
            done = terminated or truncated
            success = succeeded(success, info)
            window.include(info)
            environment_step += 1
            yield Step(environment_step, config.online_steps, "fine-tuning")
            if environment_step % RANK_REFRESH_INTERVAL == 0:
                replay = _refresh(sampler, replay)
            if environment_step % config.log_interval == 0:
                values = {f"training/{name}": value for name, value in learning_metrics().items()}
                values["training/offline_ratio"] = float(ratios[environment_step - 1])
                if config.use_prioritized_replay:
                    values["training/priority_beta"] = float(betas[environment_step - 1])
                yield measured(values | window.take() | _diagnose(static, agent, replay, probe, diagnosis_key))
            if environment_step % config.evaluation_interval == 0 or environment_step == config.online_steps:
                count = -(-environment_step // config.evaluation_interval)
                yield measured(evaluator.evaluate(static, agent, count))
        episode += 1
        # An episode that the end of the run cuts has no outcome.
        if done:
            if static.is_calibrated:
                replay = _with_returns(config, replay, environment_step, np.array(rewards, np.float32), terminated)
            yield measured(
                {
                    "training/episode_return": sum(rewards),
                    "training/episode_length": float(len(rewards)),
                    "training/episode_success": float("nan") if success is None else float(success),
                }
            )
    yield snapshot()


def _with_returns(
    config: WSRLConfig, replay: Replay, end: int, rewards: Float[np.ndarray, " episode"], terminated: bool
) -> Replay:
    """The replay with the Monte-Carlo returns of the episode whose last transition was that of step `end - 1`."""
    ends, terminations = np.array([len(rewards)]), np.array([terminated])
    returns = returns_to_go(learning_reward(config, rewards), ends, terminations, config.discount)
    capacity = storage.capacity(replay.online)
    held = min(len(rewards), capacity)
    # Padded to a power of two, so that few programs serve episodes of all lengths.
    padding = (1 << (held - 1).bit_length()) - held
    rows = np.pad(np.arange(end - held, end, dtype=np.int32) % capacity, (0, padding), constant_values=capacity)
    return set_returns(replay, rows, np.pad(returns[-held:], (0, padding)))


class _Window:
    """What the robot's safety showed since the last record; environments that don't report it add nothing."""

    def __init__(self, peak_contact_force: float, safety_box_clips: float) -> None:
        self.peak_contact_force = peak_contact_force
        self.safety_box_clips = safety_box_clips

    def include(self, info: dict) -> None:
        self.peak_contact_force = max(self.peak_contact_force, float(info.get("contact_force", 0.0)))
        self.safety_box_clips += float(info.get("safety_box_clipped", False))

    def take(self) -> dict[str, float]:
        values = {
            "training/peak_contact_force": self.peak_contact_force,
            "training/safety_box_clips": self.safety_box_clips,
        }
        self.peak_contact_force, self.safety_box_clips = 0.0, 0.0
        return values


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def _refresh(sampler: Sampler, replay: Replay) -> Replay:
    return replay._replace(
        offline_sampler=sampler.refresh(replay.offline_sampler, replay.offline.size),
        online_sampler=sampler.refresh(replay.online_sampler, replay.online.size),
    )


def _diagnose(
    static: SACConfig, agent: SACState, replay: Replay, probe: Transition | None, key: PRNGKeyArray
) -> dict[str, float]:
    """Values and TD errors on the frozen offline batch, and on as many of the newest online transitions."""
    values: dict[str, float] = {}
    if probe is not None:
        q, error = jax.device_get(_values(static, agent, probe, key))
        values |= {"switch/q_offline_probe": float(q.mean()), "switch/td_error_offline_probe": float(error.mean())}
    size = int(replay.online.size)
    if size > 0:
        capacity = storage.capacity(replay.online)
        newest = jnp.asarray((int(replay.online.position) - 1 - np.arange(PROBE_SIZE)) % capacity)
        # On the host, where a mean over a changing number of rows is not compiled anew.
        q, error = jax.device_get(_values(static, agent, storage.gather(replay.online, newest), key))
        held = slice(0, min(size, PROBE_SIZE))
        values |= {"switch/q_online": float(q[held].mean()), "switch/td_error_online": float(error[held].mean())}
    return values


PROBE_SIZE = 256
"""Transitions of the frozen offline batch, and of the online batch beside it."""


@partial(jax.jit, static_argnums=0)
def _values(
    static: SACConfig, agent: SACState, batch: Transition, key: PRNGKeyArray
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """Q (mean over the critics) and absolute TD error of each example."""
    q = jnp.mean(sac.action_values(static, agent, batch.observation, batch.action), axis=0)
    return q, jnp.abs(sac.td_errors(static, agent, batch, key))
