"""Gradient steps on uniform batches of a fixed dataset: what warmup repeats, compiled."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Integer, PRNGKeyArray

from wsrl_kit import sac
from wsrl_kit.replay import storage
from wsrl_kit.replay.frame_batches import FrameBatches
from wsrl_kit.replay.frames import FrameStore
from wsrl_kit.replay.storage import Storage
from wsrl_kit.sac import SACConfig, SACState, TermWeights
from wsrl_kit.training.learning import metric_names, prepared, update_of
from wsrl_kit.types import Images

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
