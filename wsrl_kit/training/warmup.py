"""Stage 1, offline warmup: gradient steps on the weighted offline data, held-out episodes, early stopping."""

import math
import time
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
from wsrl_kit.training.evaluation import Evaluator
from wsrl_kit.training.learner import metric_names, prepared, update_of
from wsrl_kit.training.loop import (
    Event,
    Measurement,
    Snapshot,
    Step,
    WarmupResult,
    check_divergence,
    environment_failed,
    stopped,
)
from wsrl_kit.training.sight import dataset_frames
from wsrl_kit.training.start import learning_reward, to_transitions

TakeSteps = Callable[[SACState, int, int, TermWeights], tuple[SACState, sac.Metrics]]
"""Agent (given up), first step, the one after the last, and the terms' weights; to the agent and its last metrics."""


def on(rows: Storage, frames: FrameStore | None, static: SACConfig, batch_size: int, key: PRNGKeyArray) -> TakeSteps:
    """The steps on a dataset; step n depends on the agent, `key` and n alone.

    Without cameras all steps of a call are one compiled program. With them, batches of frames are put together in host
    memory, each while the agent learns from the one before.

    Args:
        frames: what the rows show; None where there are no cameras.
    """
    if frames is None:
        return lambda agent, start, end, weights: _on_states(
            static, batch_size, agent, rows, key, np.int32(start), np.int32(end), weights
        )
    gather = FrameBatches().gather
    thread = ThreadPoolExecutor(1, thread_name_prefix="batches")

    def take_steps(agent: SACState, start: int, end: int, weights: TermWeights) -> tuple[SACState, sac.Metrics]:
        steps = np.arange(start, end, dtype=np.int32)
        index = np.asarray(_draw(batch_size, rows, key, steps))
        metrics: sac.Metrics = {}
        coming = thread.submit(gather, index[0], frames)
        for place, step in enumerate(steps):
            images = coming.result()
            if place + 1 < len(steps):
                coming = thread.submit(gather, index[place + 1], frames)
            agent, metrics = _on_images(static, agent, rows, index[place], images, key, step, weights)
        return agent, metrics

    return take_steps


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _on_states(
    static: SACConfig,
    batch_size: int,
    agent: SACState,
    rows: Storage,
    key: PRNGKeyArray,
    start: Integer[Array, ""],
    end: Integer[Array, ""],
    weights: TermWeights,
) -> tuple[SACState, sac.Metrics]:
    def one_step(step: Integer[Array, ""], carry: tuple[SACState, sac.Metrics]) -> tuple[SACState, sac.Metrics]:
        index = _rows_of_batch(batch_size, rows, key, step)
        return _learn(static, carry[0], rows, index, None, key, step, weights)

    nothing = {name: jnp.zeros(()) for name in metric_names(static)}
    return jax.lax.fori_loop(start, end, one_step, (agent, nothing))


def _rows_of_batch(
    batch_size: int, rows: Storage, key: PRNGKeyArray, step: Integer[Array, ""]
) -> Integer[Array, " batch"]:
    sample_key, _ = jax.random.split(jax.random.fold_in(key, step))
    return jax.random.randint(sample_key, (batch_size,), 0, rows.size)


def _learn(
    static: SACConfig,
    agent: SACState,
    rows: Storage,
    index: Integer[Array, " batch"],
    images: tuple[Images, Images] | None,
    key: PRNGKeyArray,
    step: Integer[Array, ""],
    weights: TermWeights,
) -> tuple[SACState, sac.Metrics]:
    """One step on the given rows, with what their observations and next observations show."""
    _, update_key = jax.random.split(jax.random.fold_in(key, step))
    batch = storage.gather(rows, index)
    if images is not None:
        batch = batch._replace(images=images[0], next_images=images[1])
    batch = prepared(static, agent, jax.tree.map(lambda leaf: leaf[None], batch), update_key)
    agent, metrics, _ = update_of(static)(static, agent, batch, update_key, weights)
    return agent, metrics


_draw = partial(jax.jit, static_argnums=0)(jax.vmap(_rows_of_batch, in_axes=(None, None, None, 0)))
_on_images = partial(jax.jit, static_argnums=0, donate_argnums=1)(_learn)


PADDING = 1024
"""Datasets are padded to multiples of this, so that those of similar size share a compiled program."""

EVALUATION_ROWS = 4096
"""Rows per call when TD errors of a whole dataset are computed."""

CALL_SECONDS = 0.5
"""Aim for the time of one call of gradient steps, after which a stop is heeded."""

IMAGE_EVALUATION_ROWS = 256
"""The same, where each row has images."""


def initial_tree(agent: SACState) -> PyTree:
    """Everything that warmup changes, before its first step; also the structure for reading a `Snapshot` back."""
    return {
        "agent": agent,
        # Copied, since each compiled call takes over the buffers of the agent it is given.
        "best_agent": jax.tree.map(jnp.copy, agent),
        "best_error": np.float64(math.inf),
        "step": np.int64(0),
        # The step of the last evaluation.
        "evaluated": np.int64(0),
        "evaluations": np.int64(0),
        "without_improvement": np.int64(0),
    }


def warmup(
    config: WSRLConfig,
    static: SACConfig,
    tree: PyTree,
    dataset: Dataset,
    evaluator: Evaluator,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Iterator[Event | WarmupResult]:
    """Trains on the dataset alone, by batches drawn with replacement.

    A generator: the last thing it yields is the result. A stop ends it with a last `Snapshot`.

    Args:
        tree: what `initial_tree` makes, or the tree of the last `Snapshot` of an interrupted run; it is given up.
        dataset: weighted offline data; `holdout_fraction` of its episodes are never trained on.
        stop_requested: asked about once a second.

    Raises:
        Stopped: as asked for; a last `Snapshot` comes before it.
        DivergenceError: the critics have left the range of possible returns.
    """
    training, held_out = dataset.split_holdout(config.holdout_fraction, jax_tools.episode_seed(config.seed, "data"))
    holdout = held_out or training
    rows = storage.filled(to_transitions(config, training), -(-len(training) // PADDING) * PADDING)
    largest_reward = float(np.abs(learning_reward(config, training.rewards)).max())
    store = dataset_frames(static, tree["agent"], training)
    holdout_store = store if holdout is training else dataset_frames(static, tree["agent"], holdout)
    take_steps = on(rows, store, static, config.batch_size, jax_tools.key(config.seed, "warmup"))
    weights = TermWeights(
        conservative=np.float32(config.conservative_weight) if static.is_conservative else None,
        behavior_cloning=np.float32(config.behavior_cloning_weight) if config.behavior_cloning_weight else None,
    )
    agent, step, evaluated = tree["agent"], int(tree["step"]), int(tree["evaluated"])
    best_agent, best_error = tree["best_agent"], float(tree["best_error"])
    evaluations, without_improvement = int(tree["evaluations"]), int(tree["without_improvement"])
    patience = config.early_stopping_patience
    stopped_early = patience > 0 and without_improvement >= patience
    intervals = (config.log_interval, config.warmup_evaluation_interval, config.checkpoint_interval)
    steps_at_once = 1

    def snapshot() -> Snapshot:
        return Snapshot(
            {
                "agent": agent,
                "best_agent": best_agent,
                "best_error": np.float64(best_error),
                "step": np.int64(step),
                "evaluated": np.int64(evaluated),
                "evaluations": np.int64(evaluations),
                "without_improvement": np.int64(without_improvement),
            }
        )

    def is_due(interval: int) -> bool:
        return step % interval == 0 or step == config.warmup_steps

    def is_evaluation_due() -> bool:
        return evaluated < step and is_due(config.warmup_evaluation_interval)

    while is_evaluation_due() or (step < config.warmup_steps and not stopped_early):
        if not is_evaluation_due():
            # Calls end where the next record, evaluation or checkpoint is due, and where a stop can't wait longer. How
            # many steps a call takes changes no number.
            due = (step - step % interval + interval for interval in intervals)
            end = min(config.warmup_steps, step + steps_at_once, *due)
            before = time.monotonic()
            agent, device_metrics = take_steps(agent, step, end, weights)
            metrics = {name: float(value) for name, value in device_metrics.items()}
            if time.monotonic() - before < CALL_SECONDS:
                steps_at_once *= 2
            else:
                steps_at_once = max(1, (end - step) // 2)
            check_divergence(config, metrics, largest_reward, step)
            step = end
            yield Step(step, config.warmup_steps, "offline warmup")
            if is_due(config.log_interval):
                yield Measurement("warmup", 0, step, {f"training/{name}": value for name, value in metrics.items()})
        if step < config.warmup_steps and stop_requested():
            yield snapshot()
            raise stopped(step)
        if is_evaluation_due():
            error = float(np.mean(np.abs(dataset_td_errors(config, static, agent, holdout, holdout_store))))
            try:
                values = evaluator.evaluate(static, agent, evaluations)
            except Exception as failure:
                yield snapshot()
                raise environment_failed(failure, step) from failure
            yield Measurement("warmup", 0, step, {"training/holdout_td_error": error} | values)
            evaluated = step
            evaluations += 1
            without_improvement += 1
            if error < best_error:
                best_agent, best_error, without_improvement = jax.tree.map(jnp.copy, agent), error, 0
            stopped_early = patience > 0 and without_improvement >= patience
        if is_due(config.checkpoint_interval) or stopped_early:
            yield snapshot()
    yield WarmupResult(best_agent if patience > 0 else agent, step, stopped_early)


def dataset_td_errors(
    config: WSRLConfig, static: SACConfig, agent: SACState, dataset: Dataset, store: FrameStore | None = None
) -> Float[np.ndarray, " transitions"]:
    """TD error of every transition of a dataset, signed; retention ranks by its absolute value.

    Args:
        store: what `dataset_frames` gives of the dataset, for who needs it more than once.
    """
    key = jax_tools.key(config.seed, "diagnosis")
    transitions = to_transitions(config, dataset)
    at_once = EVALUATION_ROWS if static.pixels is None else IMAGE_EVALUATION_ROWS
    gather = FrameBatches().gather
    store = dataset_frames(static, agent, dataset) if store is None else store
    errors = []
    for rows in jax_tools.parts(len(dataset), at_once):
        part = jax.tree.map(lambda column, rows=rows: column[rows], transitions)
        if store is not None:
            images, next_images = gather(rows, store)
            part = part._replace(images=images, next_images=next_images)
        errors.append(np.asarray(_td_errors(static, agent, part, jax.random.fold_in(key, int(rows[0])))))
    return np.concatenate(errors)[: len(dataset)]


_td_errors = partial(jax.jit, static_argnums=0)(sac.td_errors)
