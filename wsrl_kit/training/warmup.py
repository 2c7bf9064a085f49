"""Stage 1, offline warmup: gradient steps on the weighted offline data, with held-out episodes and early stopping."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from wsrl_kit import sac
from wsrl_kit.config import WSRLConfig
from wsrl_kit.data.dataset import Dataset
from wsrl_kit.errors import DataError
from wsrl_kit.replay import storage
from wsrl_kit.replay.frame_batches import FrameBatches
from wsrl_kit.replay.frames import FrameStore
from wsrl_kit.sac import SACConfig, SACState, TermWeights
from wsrl_kit.training import gradient_steps, programs, randomness
from wsrl_kit.training.agent import learning_reward, to_transitions
from wsrl_kit.training.divergence import check_divergence
from wsrl_kit.training.evaluation import Evaluator
from wsrl_kit.training.events import Event, Measurement, Snapshot, Step
from wsrl_kit.training.sight import dataset_frames

PADDING = 1024
"""Datasets are padded to multiples of this, so that those of similar size share a compiled program."""

EVALUATION_ROWS = 4096
"""Rows per call when TD errors of a whole dataset are computed."""

IMAGE_EVALUATION_ROWS = 256
"""The same, where each row has images."""


@dataclass(frozen=True)
class WarmupResult:
    """What warmup ends with.

    Attributes:
        agent: the last agent, or the best on held-out episodes where early stopping is on.
        steps: gradient steps taken.
        stopped_early: whether early stopping ended it.
    """

    agent: SACState
    steps: int
    stopped_early: bool


def initial_tree(agent: SACState) -> PyTree:
    """Everything that warmup changes, before its first step; also the structure for reading a `Snapshot` back."""
    return {
        "agent": agent,
        # Copied, since each compiled call takes over the buffers of the agent it is given.
        "best_agent": jax.tree.map(jnp.copy, agent),
        "best_error": np.float64(math.inf),
        "step": np.int64(0),
        "evaluations": np.int64(0),
        "without_improvement": np.int64(0),
    }


def warmup(
    config: WSRLConfig,
    static: SACConfig,
    tree: PyTree,
    dataset: Dataset,
    evaluator: Evaluator,
) -> Iterator[Event | WarmupResult]:
    """Trains on the dataset alone. A generator: the last thing it yields is the result.

    Args:
        tree: what `initial_tree` makes, or the tree of the last `Snapshot` of an interrupted run; it is given up.
        dataset: weighted offline data; `holdout_fraction` of its episodes are never trained on.

    Raises:
        DataError: fewer transitions than one batch takes.
        DivergenceError: the critics have left the range of possible returns.
    """
    training, held_out = dataset.split_holdout(config.holdout_fraction, randomness.episode_seed(config.seed, "data"))
    holdout = held_out or training
    if len(training) < config.batch_size:
        raise DataError(
            f"batch_size {config.batch_size} needs at least as many offline transitions, found {len(training)} "
            f"in the {training.episode_count} training episodes"
        )
    rows = storage.filled(to_transitions(config, training), -(-len(training) // PADDING) * PADDING)
    largest_reward = float(np.abs(learning_reward(config, training.rewards)).max())
    store = dataset_frames(static, tree["agent"], training)
    holdout_store = store if holdout is training else dataset_frames(static, tree["agent"], holdout)
    take_steps = gradient_steps.on(rows, store, static, config.batch_size, randomness.key(config.seed, "warmup"))
    weights = TermWeights(
        conservative=np.float32(config.conservative_weight) if static.is_conservative else None,
        behavior_cloning=np.float32(config.behavior_cloning_weight) if config.behavior_cloning_weight else None,
    )
    agent, step = tree["agent"], int(tree["step"])
    best_agent, best_error = tree["best_agent"], float(tree["best_error"])
    evaluations, without_improvement = int(tree["evaluations"]), int(tree["without_improvement"])
    patience = config.early_stopping_patience
    stopped_early = patience > 0 and without_improvement >= patience

    while step < config.warmup_steps and not stopped_early:
        # Calls end where the next record, evaluation or checkpoint is due.
        intervals = (config.log_interval, config.warmup_evaluation_interval, config.checkpoint_interval)
        end = min(config.warmup_steps, *(step - step % interval + interval for interval in intervals))
        agent, device_metrics = take_steps(agent, step, end, weights)
        metrics = {name: float(value) for name, value in device_metrics.items()}
        check_divergence(config, metrics, largest_reward, step)
        step = end
        yield Step(step, config.warmup_steps, "offline warmup")
        due = [step % interval == 0 or step == config.warmup_steps for interval in intervals]
        if due[0]:
            yield Measurement("warmup", 0, step, {f"training/{name}": value for name, value in metrics.items()})
        if due[1]:
            error = float(np.mean(np.abs(dataset_td_errors(config, static, agent, holdout, holdout_store))))
            values = {"training/holdout_td_error": error} | evaluator.evaluate(static, agent, evaluations)
            yield Measurement("warmup", 0, step, values)
            evaluations += 1
            without_improvement += 1
            if error < best_error:
                best_agent, best_error, without_improvement = jax.tree.map(jnp.copy, agent), error, 0
            stopped_early = patience > 0 and without_improvement >= patience
        if due[2] or stopped_early or step == config.warmup_steps:
            yield Snapshot(
                {
                    "agent": agent,
                    "best_agent": best_agent,
                    "best_error": np.float64(best_error),
                    "step": np.int64(step),
                    "evaluations": np.int64(evaluations),
                    "without_improvement": np.int64(without_improvement),
                }
            )
    yield WarmupResult(best_agent if patience > 0 else agent, step, stopped_early)


def dataset_td_errors(
    config: WSRLConfig, static: SACConfig, agent: SACState, dataset: Dataset, store: FrameStore | None = None
) -> Float[np.ndarray, " transitions"]:
    """TD error of every transition of a dataset, signed; retention ranks by its absolute value.

    Args:
        store: what `dataset_frames` gives of the dataset, for who needs it more than once.
    """
    key = randomness.key(config.seed, "diagnosis")
    transitions = to_transitions(config, dataset)
    at_once = EVALUATION_ROWS if static.pixels is None else IMAGE_EVALUATION_ROWS
    gather = FrameBatches().gather
    store = dataset_frames(static, agent, dataset) if store is None else store
    errors = []
    for rows in programs.parts(len(dataset), at_once):
        part = jax.tree.map(lambda column, rows=rows: column[rows], transitions)
        if store is not None:
            images, next_images = gather(rows, store)
            part = part._replace(images=images, next_images=next_images)
        errors.append(np.asarray(_td_errors(static, agent, part, jax.random.fold_in(key, int(rows[0])))))
    return np.concatenate(errors)[: len(dataset)]


_td_errors = partial(jax.jit, static_argnums=0)(sac.td_errors)
