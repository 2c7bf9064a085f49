"""Stage 2, fine-tuning: the robot acts and learns, from a warmed-up or fresh agent.

Read from `finetune` down: it plays episodes; `play_episode` repeats the actor's `step`, `learn` and `record`.
"""

import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float32, Float64, PRNGKeyArray, PyTree

from wsrl_kit.agent import jax_tools, sac
from wsrl_kit.agent.sac import SACConfig, SACState, TermWeights
from wsrl_kit.agent.transition import Transition
from wsrl_kit.classifier.data import JUDGED, LABELS
from wsrl_kit.config import schedules
from wsrl_kit.config.config import INLINE, PERSON, THREAD, WSRLConfig
from wsrl_kit.data.dataset import Dataset, returns_to_go
from wsrl_kit.data.formats.hil_serl import write_hil_serl
from wsrl_kit.envs.collect import trajectory_of
from wsrl_kit.envs.make import is_simulation
from wsrl_kit.envs.wrappers import observation_horizon
from wsrl_kit.replay.frames import FrameStore
from wsrl_kit.robot.takeover import CONFIRMED
from wsrl_kit.runs.loop import (
    EnvironmentFailed,
    Event,
    Measurement,
    Output,
    Snapshot,
    Step,
    environment_acts,
    environment_failed,
    stopped,
)
from wsrl_kit.training import experience
from wsrl_kit.training.actor import Actor, ActorStopped, InlineActor, ThreadedActor
from wsrl_kit.training.divergence import check_divergence
from wsrl_kit.training.episode import (
    EnvironmentStep,
    EpisodeRecord,
    InterventionLog,
    MetricWindow,
    empty_window,
)
from wsrl_kit.training.evaluation import Evaluator, traces_output
from wsrl_kit.training.experience import Experience
from wsrl_kit.training.start import PROBE_SIZE, learning_reward, sac_config

LOGGER = logging.getLogger("wsrl_kit")


def online(config: WSRLConfig) -> WSRLConfig:
    """The parameters of fine-tuning: without CQL's term if its weight is 0."""
    weightless = config.conservative_online_weight == 0 and config.conservative_fade_steps == 0
    loss = "none" if weightless else config.conservative_loss
    return replace(config, conservative_loss=loss)


@dataclass
class RunState:
    """Everything that fine-tuning changes.

    Attributes:
        actor: takes the steps; not in checkpoints.
        environment_step, episode: counts since the switch.
        steps_in_episode: steps of an interrupted episode, to repeat; else 0.
        evaluated: step of the last evaluation; -1: none.
        largest_reward: greatest magnitude seen by learning.
        offline_ratio: of the last batches; not in checkpoints.
        metrics: of the last update; not in checkpoints.
    """

    agent: SACState
    memory: Experience
    actor: Actor
    environment_step: int
    episode: int
    steps_in_episode: int
    evaluated: int
    window: MetricWindow
    largest_reward: float
    offline_ratio: float = 0.0
    metrics: sac.Metrics = field(default_factory=dict)

    @property
    def tree(self) -> PyTree:
        """The content of a checkpoint."""
        return _tree(
            self.agent,
            self.memory.tree,
            self.window.counts,
            self.largest_reward,
            environment_step=self.environment_step,
            episode=self.episode,
            steps_in_episode=self.steps_in_episode,
            evaluated=self.evaluated,
        )


def initial_tree(
    config: WSRLConfig,
    agent_config: SACConfig,
    agent_state: SACState,
    offline: Dataset | None,
) -> PyTree:
    """`RunState.tree` before the first step; also the structure for reading a `Snapshot` back."""
    config = online(config)
    rewards = np.zeros(1) if offline is None else learning_reward(config, offline.rewards)
    memory = experience.initial_tree(config, agent_config, agent_state, offline)
    return _tree(agent_state, memory, empty_window(), float(np.abs(rewards).max()))


def _tree(
    agent: SACState,
    memory: PyTree,
    window: Float64[np.ndarray, "5"],
    largest_reward: float,
    environment_step: int = 0,
    episode: int = 0,
    steps_in_episode: int = 0,
    evaluated: int = -1,
) -> PyTree:
    return {
        "agent": agent,
        **memory,
        "environment_step": np.int64(environment_step),
        "episode": np.int64(episode),
        "steps_in_episode": np.int64(steps_in_episode),
        "evaluated": np.int64(evaluated),
        "window": window,
        "largest_reward": np.float64(largest_reward),
    }


@dataclass(frozen=True)
class Setup:
    """Everything that fine-tuning does not change.

    Attributes:
        agent_config: by environment step; see `agent_config_of`.
        faded: first step without CQL's term.
        first_update: first step that learns.
        offline_ratios, betas: by environment step.
        conservative_weights, cloning_weights: by environment step; None: the term is off.
        can_repeat: whether an interrupted episode can be repeated.
    """

    config: WSRLConfig
    agent_config: Callable[[int], SACConfig]
    evaluator: Evaluator
    probe: Transition | None
    stop_requested: Callable[[], bool]
    faded: int
    first_update: int
    offline_ratios: Float32[np.ndarray, " steps"]
    betas: Float32[np.ndarray, " steps"]
    conservative_weights: Float32[np.ndarray, " steps"] | None
    cloning_weights: Float32[np.ndarray, " steps"] | None
    sampling_key: PRNGKeyArray
    diagnosis_key: PRNGKeyArray
    observation_horizon: int
    can_repeat: bool

    def term_weights(self, step: int) -> TermWeights:
        conservative, cloning = self.conservative_weights, self.cloning_weights
        return TermWeights(
            conservative=None if conservative is None or step >= self.faded else conservative[step],
            behavior_cloning=None if cloning is None else cloning[step],
        )


def agent_config_of(config: WSRLConfig, agent_config: SACConfig) -> Callable[[int], SACConfig]:
    """By environment step: the agent's parameters with all loss terms, later without CQL's.

    Args:
        agent_config: as in warmup.
    """
    sizes = (agent_config.observation_size, agent_config.action_size, agent_config.pixels)
    keeps_backup = config.max_target_backup_online and agent_config.cql_max_target_backup

    def with_loss(conservative_loss: str) -> SACConfig:
        own = sac_config(replace(config, conservative_loss=conservative_loss), *sizes)
        return own if own.is_conservative else replace(own, cql_max_target_backup=keeps_backup)

    whole, without = with_loss(config.conservative_loss), with_loss("none")
    faded = _faded(config)
    return lambda step: without if step >= faded else whole


def _faded(config: WSRLConfig) -> int:
    fades_out = config.conservative_loss != "none" and config.conservative_online_weight == 0
    return config.conservative_fade_steps if fades_out else config.online_steps


def _setup(
    config: WSRLConfig,
    agent_config: SACConfig,
    evaluator: Evaluator,
    probe: Transition | None,
    horizon: int,
    can_repeat: bool,
    stop_requested: Callable[[], bool],
) -> Setup:
    schedule = schedules.run_schedules(config)
    ratios = schedule["offline ratio"]
    return Setup(
        config=config,
        agent_config=agent_config_of(config, agent_config),
        evaluator=evaluator,
        probe=probe,
        stop_requested=stop_requested,
        faded=_faded(config),
        first_update=max(config.frozen_rollout_steps, config.random_steps),
        offline_ratios=ratios,
        # Uniform samples need no importance weights.
        betas=schedule.get("PER beta", np.zeros_like(ratios)),
        conservative_weights=schedule.get("conservative weight"),
        cloning_weights=schedule.get("behavior-cloning weight"),
        sampling_key=jax_tools.key(config.seed, "sampling"),
        diagnosis_key=jax_tools.key(config.seed, "diagnosis"),
        observation_horizon=horizon,
        can_repeat=can_repeat,
    )


def finetune(
    config: WSRLConfig,
    agent_config: SACConfig,
    tree: PyTree,
    environment: gymnasium.Env,
    evaluator: Evaluator,
    probe: Transition | None,
    offline_frames: FrameStore | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Generator[Event, None, None]:
    """Acts and learns for `online_steps` environment steps. Yields a `Snapshot` of the final agent last.

    The first `random_steps` actions are uniform; for `frozen_rollout_steps` the policy acts unchanged. Neither phase
    learns (WSRL, arXiv 2412.07762, section 5). After a stop in simulation, a resumed run repeats the interrupted
    episode from its seed and actions; on a robot, or with a person, the episode ends truncated.

    Args:
        tree: from `initial_tree` or an interrupted run's last `Snapshot`; given up.
        probe: frozen offline batch whose values are followed through the switch.
        offline_frames: from `experience.offline_frames`.

    Raises:
        Stopped: on request, after a last `Snapshot`.
        DivergenceError: the critics' values are beyond any possible return.
        WSRLKitError: the environment failed; after a last `Snapshot`.
    """
    horizon, can_repeat = observation_horizon(environment), is_simulation(environment) and config.human != PERSON
    inner = inline_actor(config, agent_config, tree, environment)
    actor = ThreadedActor(inner, config.learner_lag) if config.learner == THREAD else inner
    yield from learn_from(
        actor, config, agent_config, tree, evaluator, probe, horizon, can_repeat, offline_frames, stop_requested
    )


def inline_actor(config: WSRLConfig, agent_config: SACConfig, tree: PyTree, environment: gymnasium.Env) -> InlineActor:
    """Acts with the agent of a tree, from the tree's environment step on."""
    config = online(config)
    key, environment_step = jax_tools.key(config.seed, "acting"), int(tree["environment_step"])
    by_step = agent_config_of(config, agent_config)
    return InlineActor(config, by_step, environment, key, sac.policy(tree["agent"]), environment_step)


def learn_from(
    actor: Actor,
    config: WSRLConfig,
    agent_config: SACConfig,
    tree: PyTree,
    evaluator: Evaluator,
    probe: Transition | None,
    horizon: int,
    can_repeat: bool = False,
    offline_frames: FrameStore | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Generator[Event, None, None]:
    """The loop of `finetune`, with the steps of any actor.

    Args:
        horizon: observations in one that the actor sees.
        can_repeat: whether the actor can repeat an interrupted episode.
    """
    config = online(config)
    setup = _setup(config, agent_config, evaluator, probe, horizon, can_repeat, stop_requested)
    environment_step = int(tree["environment_step"])
    run = RunState(
        agent=tree["agent"],
        memory=Experience(config, agent_config, tree, offline_frames),
        actor=actor,
        environment_step=environment_step,
        episode=int(tree["episode"]),
        steps_in_episode=int(tree["steps_in_episode"]),
        evaluated=int(tree["evaluated"]),
        window=MetricWindow(tree["window"]),
        # The agent may know rewards that fine-tuning has not met yet.
        largest_reward=max(float(tree["largest_reward"]), 0.0 if probe is None else float(jnp.abs(probe.reward).max())),
    )
    next_checkpoint = run.environment_step + config.checkpoint_interval
    with closing(actor):
        while run.environment_step < config.online_steps:
            if stop_requested():
                actor.stop()
            if run.environment_step >= next_checkpoint or actor.has_stopped:
                yield snapshot(setup, run)
                next_checkpoint = run.environment_step + config.checkpoint_interval
            if actor.has_stopped:
                raise stopped(run.environment_step)
            yield from play_episode(setup, run)
        yield snapshot(setup, run)


@dataclass
class Episode:
    """The current episode."""

    record: EpisodeRecord
    interventions: InterventionLog
    terminated: bool = False
    has_ended: bool = False

    @property
    def steps(self) -> int:
        return len(self.record.rewards)

    def include(self, step: EnvironmentStep, is_known: bool = False) -> None:
        """Adds one step; `is_known`: a repeated one."""
        self.interventions.include(step.is_human, step.stored, float(step.info.get("contact_force", 0.0)), is_known)
        self.record.include(step.task_reward, step.info)
        self.terminated, self.has_ended = step.terminated, step.ends


def play_episode(setup: Setup, run: RunState) -> Iterator[Event]:
    """One episode: evaluation if due, reset, then the actor's `step`, `learn` and `record` until it ends."""
    config = setup.config
    episode = Episode(EpisodeRecord(config.is_judged), InterventionLog(run.memory))
    try:
        if evaluation_is_due(setup, run):
            yield from evaluate(setup, run)
        if not begin(run, episode):
            LOGGER.warning("the task did not repeat the episode that was stopped, which counts as truncated")
            run.episode += 1
            return
        while not episode.has_ended and run.environment_step < config.online_steps:
            step = run.actor.step()
            if step is None:
                # Contact with the robot was lost: the step is not stored, and the next episode begins.
                break
            if isinstance(step, ActorStopped):
                yield from stop(setup, run, episode)
            else:
                learn(setup, run, step)
                episode.include(step)
                yield from record(setup, run, step)
                if not episode.has_ended and run.environment_step < config.online_steps and setup.stop_requested():
                    run.actor.stop()
                elif evaluation_is_due(setup, run):
                    yield from evaluate(setup, run)
    except EnvironmentFailed as failure:
        # What was learned so far is kept; the run resumes with the next episode.
        episode.interventions.end()
        run.episode += episode.steps > 0
        yield snapshot(setup, run)
        raise environment_failed(failure, run.environment_step) from failure.__cause__
    episode.interventions.end()
    run.episode += 1
    yield from hand_overs(run, episode)
    # An episode that the end of the run cuts has no outcome.
    if episode.has_ended:
        if setup.agent_config(run.environment_step - 1).is_calibrated:
            _set_returns(setup, run, episode)
        yield _measured(run, episode.record.metrics | episode.interventions.metrics)


def begin(run: RunState, episode: Episode) -> bool:
    """Begins an episode, or repeats an interrupted one; False if the task does not repeat it."""
    count, run.steps_in_episode = run.steps_in_episode, 0
    repeated = run.actor.begin(run.episode, run.memory.newest(count), count)
    for step in repeated or []:
        episode.include(step, is_known=True)
    return repeated is not None


def learn(setup: Setup, run: RunState, step: EnvironmentStep) -> None:
    """Stores the step and, after the frozen rollouts, updates the agent UTD times."""
    at = run.environment_step
    run.largest_reward = max(run.largest_reward, abs(float(step.reward)))
    ratio = run.memory.offline_ratio(setup.offline_ratios[at])
    run.offline_ratio = float(ratio)
    if at < setup.first_update:
        run.memory.add(step.stored)
    else:
        run.agent, run.metrics = run.memory.learn(
            setup.agent_config(at),
            run.agent,
            setup.sampling_key,
            at,
            ratio,
            setup.betas[at],
            setup.term_weights(at),
            step.stored,
        )
    run.actor.learned(run.agent)


def record(setup: Setup, run: RunState, step: EnvironmentStep) -> Iterator[Event]:
    """Counts and reports the step: a judged success, progress, and metrics at intervals."""
    config, at = setup.config, run.environment_step
    run.window.include(step.info)
    run.environment_step += 1
    if CONFIRMED in step.info:
        yield _judged(setup, run, step)
    yield Step(run.environment_step, config.online_steps, "fine-tuning")
    if run.environment_step % config.log_interval == 0:
        values = {f"training/{name}": value for name, value in _learning_metrics(setup, run).items()}
        values["training/offline_ratio"] = run.offline_ratio
        if config.learner != INLINE:
            values["training/steps_ahead"] = float(run.actor.steps_ahead)
        if config.use_prioritized_replay:
            values["training/priority_beta"] = float(setup.betas[at])
        yield _measured(run, values | run.window.pop() | _diagnose(setup, run))


def stop(setup: Setup, run: RunState, episode: Episode) -> Iterator[Event]:
    """Saves in the middle of an episode, then raises `Stopped`."""
    if setup.can_repeat:
        run.steps_in_episode = episode.steps
    else:
        episode.interventions.end()
        run.episode += 1
        yield from hand_overs(run, episode)
    yield snapshot(setup, run)
    raise stopped(run.environment_step)


def hand_overs(run: RunState, episode: Episode) -> Iterator[Measurement]:
    """Who took over when, how long, and with what force; recorded at the episode's end."""
    start = run.environment_step - episode.steps
    for step, values in episode.interventions.hand_overs:
        yield replace(_measured(run, values), environment_step=start + step)


def snapshot(setup: Setup, run: RunState) -> Snapshot:
    """The run's state; raises if learning has diverged, so the last checkpoint is kept."""
    _learning_metrics(setup, run)
    return Snapshot(run.tree)


def evaluation_is_due(setup: Setup, run: RunState) -> bool:
    """Whether an evaluation is due at this step."""
    is_last = run.environment_step == setup.config.online_steps
    is_due = is_last or run.environment_step % setup.config.evaluation_interval == 0
    return run.evaluated < run.environment_step and is_due


def evaluate(setup: Setup, run: RunState) -> Iterator[Event]:
    """Runs evaluation episodes and keeps traces; at the switch also measures the offline data and diagnoses values."""
    count = -(-run.environment_step // setup.config.evaluation_interval)
    with environment_acts():
        values, traces = setup.evaluator.evaluate(setup.agent_config(run.environment_step - 1), run.agent, count)
    run.evaluated = run.environment_step
    if run.environment_step == 0:
        held = {
            "switch/offline_transitions": float(run.memory.replay.offline.size),
            "switch/offline_bytes": float(run.memory.replay.offline.bytes_held),
        }
        values = held | values | _diagnose(setup, run)
    yield _measured(run, values)
    yield from traces_output("online", run.environment_step, traces)


def _measured(run: RunState, values: dict[str, float]) -> Measurement:
    return Measurement("online", run.environment_step, int(run.agent.updates), values)


def _learning_metrics(setup: Setup, run: RunState) -> dict[str, float]:
    values = {name: float(value) for name, value in run.metrics.items()}
    check_divergence(setup.config, values, run.largest_reward, int(run.agent.updates))
    return values


def _judged(setup: Setup, run: RunState, step: EnvironmentStep) -> Output:
    """What somebody judged, as a file for training the next classifier."""
    is_success = step.info[CONFIRMED]
    # Nothing ended here: the label speaks of the step's result.
    label, rewards, observations = LABELS[is_success], [float(is_success)], [step.before, step.observation]
    horizon = setup.observation_horizon
    trajectory = trajectory_of(observations, [step.action], rewards, False, True, is_success, label, horizon)
    name = f"{JUDGED}/{run.environment_step:08d}_{label}.pkl"
    return Output(name, lambda path: write_hil_serl(path, [trajectory]))


def _set_returns(setup: Setup, run: RunState, episode: Episode) -> None:
    """Writes the Monte-Carlo returns of the episode that just ended."""
    config = setup.config
    rewards = learning_reward(config, np.array(episode.record.rewards, np.float32))
    returns = returns_to_go(rewards, np.array([len(rewards)]), np.array([episode.terminated]), config.discount)
    run.memory.set_returns(returns)


def _diagnose(setup: Setup, run: RunState) -> dict[str, float]:
    """Values and TD errors on the frozen offline batch and on the newest online transitions."""
    values: dict[str, float] = {}
    agent_config = setup.agent_config(run.environment_step - 1)
    if setup.probe is not None:
        q, error = jax.device_get(_values(agent_config, run.agent, setup.probe, setup.diagnosis_key))
        values |= {"switch/q_offline_probe": float(q.mean()), "switch/td_error_offline_probe": float(error.mean())}
    if run.memory.replay.online.size > 0:
        newest, held = run.memory.probe(PROBE_SIZE)
        # On the host, where a mean over a changing number of rows is not compiled anew.
        q, error = jax.device_get(_values(agent_config, run.agent, newest, setup.diagnosis_key))
        values |= {"switch/q_online": float(q[:held].mean()), "switch/td_error_online": float(error[:held].mean())}
    return values


@partial(jax.jit, static_argnums=0)
def _values(
    agent_config: SACConfig, agent_state: SACState, batch: Transition, key: PRNGKeyArray
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """Q (mean over the critics) and absolute TD error of each example."""
    q = jnp.mean(sac.action_values(agent_config, agent_state, batch.observation, batch.action, batch.images), axis=0)
    return q, jnp.abs(sac.td_errors(agent_config, agent_state, batch, key))
