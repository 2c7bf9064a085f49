"""Stage 1, offline warmup: gradient steps on weighted offline data, held-out episodes, early stopping."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, PRNGKeyArray, PyTree

from wsrl_kit.agent import jax_tools, sac
from wsrl_kit.agent.sac import SACConfig, SACState, TermWeights
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.data.dataset import Dataset
from wsrl_kit.replay import storage
from wsrl_kit.replay.frames import FrameBatches, FrameStore
from wsrl_kit.replay.storage import Storage
from wsrl_kit.replay.transition import Images
from wsrl_kit.runs import loop
from wsrl_kit.runs.loop import Event, GradientPlan, environment_acts
from wsrl_kit.training.divergence import check_divergence
from wsrl_kit.training.evaluation import Evaluator
from wsrl_kit.training.learner import metric_names, preprocess, select_update
from wsrl_kit.training.sight import dataset_frames
from wsrl_kit.training.start import learning_reward, to_transitions

TakeSteps = Callable[[SACState, int, int, TermWeights], tuple[SACState, sac.Metrics]]
"""(agent (given up), first step, end, term weights) -> (agent, last metrics)."""


def make_warmup_step(
    rows: Storage, frames: FrameStore | None, agent_config: SACConfig, batch_size: int, key: PRNGKeyArray
) -> TakeSteps:
    """A function that takes gradient steps on a dataset; step n depends on agent, `key` and n alone.

    Without cameras, a call is one compiled program. With cameras, each batch of frames is gathered while the agent
    learns from the previous one.
    """
    if frames is None:
        return lambda agent_state, start, end, weights: _on_states(
            agent_config, batch_size, agent_state, rows, key, np.int32(start), np.int32(end), weights
        )
    gather = FrameBatches().gather
    thread = ThreadPoolExecutor(1, thread_name_prefix="batches")

    def take_steps(agent_state: SACState, start: int, end: int, weights: TermWeights) -> tuple[SACState, sac.Metrics]:
        steps = np.arange(start, end, dtype=np.int32)
        index = np.asarray(_draw(batch_size, rows, key, steps))
        metrics: sac.Metrics = {}
        coming = thread.submit(gather, index[0], frames)
        for place, step in enumerate(steps):
            images = coming.result()
            if place + 1 < len(steps):
                coming = thread.submit(gather, index[place + 1], frames)
            agent_state, metrics = _on_images(agent_config, agent_state, rows, index[place], images, key, step, weights)
        return agent_state, metrics

    return take_steps


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _on_states(
    agent_config: SACConfig,
    batch_size: int,
    agent_state: SACState,
    rows: Storage,
    key: PRNGKeyArray,
    start: Integer[Array, ""],
    end: Integer[Array, ""],
    weights: TermWeights,
) -> tuple[SACState, sac.Metrics]:
    def one_step(step: Integer[Array, ""], carry: tuple[SACState, sac.Metrics]) -> tuple[SACState, sac.Metrics]:
        index = _rows_of_batch(batch_size, rows, key, step)
        return _learn(agent_config, carry[0], rows, index, None, key, step, weights)

    nothing = {name: jnp.zeros(()) for name in metric_names(agent_config)}
    return jax.lax.fori_loop(start, end, one_step, (agent_state, nothing))


def _rows_of_batch(
    batch_size: int, rows: Storage, key: PRNGKeyArray, step: Integer[Array, ""]
) -> Integer[Array, " batch"]:
    sample_key, _ = jax.random.split(jax.random.fold_in(key, step))
    return jax.random.randint(sample_key, (batch_size,), 0, rows.size)


def _learn(
    agent_config: SACConfig,
    agent_state: SACState,
    rows: Storage,
    index: Integer[Array, " batch"],
    images: tuple[Images, Images] | None,
    key: PRNGKeyArray,
    step: Integer[Array, ""],
    weights: TermWeights,
) -> tuple[SACState, sac.Metrics]:
    _, update_key = jax.random.split(jax.random.fold_in(key, step))
    batch = storage.gather(rows, index)
    if images is not None:
        batch = batch._replace(images=images[0], next_images=images[1])
    batch = preprocess(agent_config, agent_state, jax.tree.map(lambda leaf: leaf[None], batch), update_key)
    agent_state, metrics, _ = select_update(agent_config)(agent_config, agent_state, batch, update_key, weights)
    return agent_state, metrics


_draw = partial(jax.jit, static_argnums=0)(jax.vmap(_rows_of_batch, in_axes=(None, None, None, 0)))
_on_images = partial(jax.jit, static_argnums=0, donate_argnums=1)(_learn)


PADDING = 1024
"""Datasets are padded to multiples of this, to share compiled programs."""

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
    rows = storage.filled(to_transitions(config, training), -(-len(training) // PADDING) * PADDING)
    largest_reward = float(np.abs(learning_reward(config, training.rewards)).max())
    store = dataset_frames(agent_config, tree["agent"], training)
    holdout_store = store if holdout is training else dataset_frames(agent_config, tree["agent"], holdout)
    train = make_warmup_step(rows, store, agent_config, config.batch_size, jax_tools.key(config.seed, "warmup"))
    weights = TermWeights(
        conservative=np.float32(config.conservative_weight) if agent_config.is_conservative else None,
        behavior_cloning=np.float32(config.behavior_cloning_weight) if config.behavior_cloning_weight else None,
    )

    def take_steps(agent_state: SACState, start: int, end: int) -> tuple[SACState, dict[str, float]]:
        agent_state, metrics = train(agent_state, start, end, weights)
        values = {name: float(value) for name, value in metrics.items()}
        check_divergence(config, values, largest_reward, start)
        return agent_state, values

    def evaluate(agent_state: SACState, count: int) -> tuple[float, dict[str, float]]:
        error = float(np.mean(np.abs(dataset_td_errors(config, agent_config, agent_state, holdout, holdout_store))))
        with environment_acts():
            return error, {"training/holdout_td_error": error} | evaluator.evaluate(agent_config, agent_state, count)

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
            images, next_images = gather(rows, store)
            part = part._replace(images=images, next_images=next_images)
        errors.append(np.asarray(_td_errors(agent_config, agent_state, part, jax.random.fold_in(key, int(rows[0])))))
    return np.concatenate(errors)[: len(dataset)]


_td_errors = partial(jax.jit, static_argnums=0)(sac.td_errors)
