"""Stage 1, offline warmup: gradient steps on weighted offline data, held-out episodes, early stopping."""

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray, PyTree

from wsrl_kit.agent import jax_tools, sac
from wsrl_kit.agent.sac import SACConfig, SACState, TermWeights
from wsrl_kit.agent.transition import packed
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.data.dataset import Dataset
from wsrl_kit.replay import ring
from wsrl_kit.replay.frames import FrameBatches, FrameStore
from wsrl_kit.replay.mixture import Replay
from wsrl_kit.replay.ring import Ring
from wsrl_kit.runs import loop
from wsrl_kit.runs.loop import EnvironmentFailed, Evaluation, Event, GradientPlan, environment_acts, environment_failed
from wsrl_kit.training import learner
from wsrl_kit.training.divergence import check_divergence
from wsrl_kit.training.evaluation import Evaluator, traces_output
from wsrl_kit.training.sight import dataset_frames
from wsrl_kit.training.start import learning_reward, to_transitions

TakeSteps = Callable[[SACState, int, int, TermWeights], tuple[SACState, sac.Metrics]]
"""(agent (given up), first step, end, term weights) -> (agent, last metrics)."""


def make_warmup_step(replay: Replay, agent_config: SACConfig, batch_size: int, key: PRNGKeyArray) -> TakeSteps:
    """A function that takes gradient steps on offline rows; step n depends on agent, rows, `key` and n alone."""

    def take_steps(agent_state: SACState, start: int, end: int, weights: TermWeights) -> tuple[SACState, sac.Metrics]:
        in_flight: deque[sac.Metrics] = deque()
        metrics: sac.Metrics = {}
        for step in range(start, end):
            # A batch is sampled while the agent learns from those before; few wait, since they take memory.
            batch, _ = replay.sample(step, (1, batch_size))
            if len(in_flight) == BATCHES_AHEAD:
                jax.block_until_ready(in_flight.popleft())
            agent_state, metrics, _ = learner.learn(agent_config, agent_state, batch, key, np.int32(step), weights)
            in_flight.append(metrics)
        return agent_state, metrics

    return take_steps


BATCHES_AHEAD = 2
"""Gradient steps under way at once."""

EVALUATION_ROWS, IMAGE_EVALUATION_ROWS = 4096, 256
"""Rows per call for a dataset's TD errors, of states and of images."""


def initial_tree(agent_state: SACState) -> PyTree:
    """Everything that warmup changes, before its first step; also the structure for reading a `Snapshot` back."""
    return loop.initial_tree(agent_state, jax_tools.copied)


def warmup(
    config: WSRLConfig,
    agent_config: SACConfig,
    tree: PyTree,
    dataset: Dataset,
    evaluator: Evaluator,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Trains on the dataset alone, sampling with replacement. See `loop.gradient_loop`.

    Args:
        tree: from `initial_tree` or an interrupted run's last `Snapshot`; given up.
        dataset: weighted; `holdout_fraction` of its episodes are never trained on.

    Raises:
        Stopped: on request, after a last `Snapshot`.
        DivergenceError: the critics' values are beyond any possible return.
    """
    training, held_out = dataset.split_holdout(config.holdout_fraction, jax_tools.episode_seed(config.seed, "data"))
    holdout = held_out or training
    rows = packed(to_transitions(config, training))
    largest_reward = float(np.abs(learning_reward(config, training.rewards)).max())
    store = dataset_frames(agent_config, tree["agent"], training)
    holdout_store = store if holdout is training else dataset_frames(agent_config, tree["agent"], holdout)
    replay = Replay(
        Ring(ring.filled(rows, len(rows), prioritized=False), store=store),
        Ring(ring.empty(1, rows.shape[1], prioritized=False)),
        jax_tools.episode_seed(config.seed, "warmup"),
    )
    train = make_warmup_step(replay, agent_config, config.batch_size, jax_tools.key(config.seed, "warmup"))
    weights = TermWeights(
        conservative=np.float32(config.conservative_weight) if agent_config.is_conservative else None,
        behavior_cloning=np.float32(config.behavior_cloning_weight) if config.behavior_cloning_weight else None,
    )

    def take_steps(agent_state: SACState, start: int, end: int) -> tuple[SACState, dict[str, float]]:
        agent_state, metrics = train(agent_state, start, end, weights)
        values = {name: float(value) for name, value in metrics.items()}
        check_divergence(config, values, largest_reward, start)
        return agent_state, values

    def evaluate(agent_state: SACState, count: int) -> Evaluation:
        error = float(np.mean(np.abs(dataset_td_errors(config, agent_config, agent_state, holdout, holdout_store))))
        with environment_acts():
            values, traces = evaluator.evaluate(agent_config, agent_state, count)
        outputs = traces_output("warmup", int(agent_state.updates), traces)
        return Evaluation(error, {"training/holdout_td_error": error} | values, outputs)

    if int(tree["step"]) == 0:
        # One episode of the fresh agent, to look at beside the later ones.
        try:
            with environment_acts():
                fresh = evaluator.one_episode(agent_config, tree["agent"])
        except EnvironmentFailed as failure:
            raise environment_failed(failure, 0) from failure.__cause__
        yield from traces_output("warmup", 0, fresh)
    plan = GradientPlan(
        steps=config.warmup_steps,
        log_interval=config.log_interval,
        evaluation_interval=config.warmup_evaluation_interval,
        checkpoint_interval=config.checkpoint_interval,
        text="offline warmup",
        patience=config.early_stopping_patience,
    )
    yield from loop.gradient_loop(plan, tree, take_steps, evaluate, jax_tools.copied, stop_requested)


def dataset_td_errors(
    config: WSRLConfig,
    agent_config: SACConfig,
    agent_state: SACState,
    dataset: Dataset,
    store: FrameStore | None = None,
) -> Float[np.ndarray, " transitions"]:
    """Signed TD error of every transition.

    Args:
        store: from `dataset_frames`, to share it between calls.
    """
    key = jax_tools.key(config.seed, "diagnosis")
    transitions = to_transitions(config, dataset)
    at_once = EVALUATION_ROWS if agent_config.pixels is None else IMAGE_EVALUATION_ROWS
    gather = FrameBatches().gather
    store = dataset_frames(agent_config, agent_state, dataset) if store is None else store
    errors = []
    for rows in jax_tools.padded_chunks(len(dataset), at_once):
        part = jax.tree.map(lambda column, rows=rows: column[rows], transitions)
        if store is not None:
            images, next_images = gather(rows, [(store, slice(None))])
            part = part._replace(images=images, next_images=next_images)
        errors.append(np.asarray(_td_errors(agent_config, agent_state, part, jax.random.fold_in(key, int(rows[0])))))
    return np.concatenate(errors)[: len(dataset)]


_td_errors = partial(jax.jit, static_argnums=0)(sac.td_errors)
