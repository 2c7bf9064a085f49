"""Batches of offline and online transitions in an exact ratio."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Integer, PRNGKeyArray, PyTree

from wsrl_kit.replay import storage, sum_tree
from wsrl_kit.replay.samplers import Sampler
from wsrl_kit.replay.storage import Storage
from wsrl_kit.replay.transition import Batch, Transition


class Replay(NamedTuple):
    """Kept offline data and online transitions, each with its sampler's state."""

    offline: Storage
    online: Storage
    offline_sampler: PyTree
    online_sampler: PyTree


def create(sampler: Sampler, offline: Storage, online: Storage) -> Replay:
    """A replay over offline data of equal priority; nothing online."""
    capacity = storage.capacity(offline)
    offline_state = sampler.create(capacity)
    rows = jnp.arange(int(offline.size))
    if len(rows):
        offline_state = sampler.insert(offline_state, rows)
    return Replay(offline, online, offline_state, sampler.create(storage.capacity(online)))


def add(sampler: Sampler, replay: Replay, transition: Transition) -> Replay:
    """Adds an online transition."""
    sampler_state = sampler.insert(replay.online_sampler, replay.online.position[None])
    return replay._replace(online=storage.add(replay.online, transition), online_sampler=sampler_state)


def add_offline(sampler: Sampler, replay: Replay, transition: Transition) -> Replay:
    """Adds an offline transition; a full side drops its oldest."""
    sampler_state = sampler.insert(replay.offline_sampler, replay.offline.position[None])
    return replay._replace(offline=storage.add(replay.offline, transition), offline_sampler=sampler_state)


def grown(sampler: Sampler, replay: Replay, offline_capacity: int, online_capacity: int) -> Replay:
    """The replay with larger capacities; neither ring may have wrapped yet."""
    offline = storage.grown(replay.offline, offline_capacity)
    online = storage.grown(replay.online, online_capacity)
    return Replay(
        offline, online, _kept(sampler, offline, replay.offline_sampler), _kept(sampler, online, replay.online_sampler)
    )


def drop_oldest(sampler: Sampler, replay: Replay, count: Integer[Array, ""]) -> Replay:
    """Removes the `count` oldest online transitions. O(capacity)."""
    online = storage.drop_oldest(replay.online, count)
    return replay._replace(online=online, online_sampler=_kept(sampler, online, replay.online_sampler))


def drop_oldest_offline(sampler: Sampler, replay: Replay, count: Integer[Array, ""]) -> Replay:
    """Removes the `count` oldest offline transitions."""
    offline = storage.drop_oldest(replay.offline, count)
    return replay._replace(offline=offline, offline_sampler=_kept(sampler, offline, replay.offline_sampler))


def _kept(sampler: Sampler, side: Storage, state: PyTree) -> PyTree:
    return sampler.keep(state, storage.is_held(side, jnp.arange(storage.capacity(side))))


def set_returns(replay: Replay, row: Integer[Array, " rows"], monte_carlo_return: Float[Array, " rows"]) -> Replay:
    """Writes Monte-Carlo returns of online transitions."""
    return replay._replace(online=storage.set_monte_carlo_returns(replay.online, row, monte_carlo_return))


def offline_count(replay: Replay, batch_size: int, ratio: Float[Array, ""]) -> Integer[Array, ""]:
    """Offline rows per batch: `int(batch_size * ratio)`, or all or none if one side is empty."""
    # The addend undoes float32 rounding: 0.29 of 100 is 29.
    count = jnp.floor(batch_size * ratio + 1e-3).astype(jnp.int32)
    count = jnp.where(replay.online.size == 0, batch_size, count)
    return jnp.where(replay.offline.size == 0, 0, jnp.clip(count, 0, batch_size))


def sample(
    sampler: Sampler,
    replay: Replay,
    key: PRNGKeyArray,
    shape: tuple[int, int],
    ratio: Float[Array, ""],
    beta: Float[Array, ""],
) -> tuple[Batch, Integer[Array, ""]]:
    """Batches of `offline_count` offline rows, then online rows; each side is stratified by probability.

    PER's importance weight `(N p) ** -beta` of the row's side, over the call's largest, multiplies the weight (Schaul
    et al. 2016, section 3.4).

    Args:
        shape: (batches, batch size).
        ratio: offline share, in [0, 1].
        beta: importance exponent, in [0, 1].

    Returns:
        Batches, and the number of offline rows in each.
    """
    batch_size = shape[1]
    count = offline_count(replay, batch_size, ratio)
    row = jnp.arange(batch_size)
    is_offline = row < count
    # Position of a row among those of its side: strata give each its share, and lower the variance of the sample.
    stratum = jnp.where(is_offline, row, row - count)
    strata = jnp.where(is_offline, count, batch_size - count)
    # A row comes from one side only, so both may use the same bits, and all are made in one call.
    position_bits, bits = jax.random.bits(key, (2, *shape))
    position = jnp.minimum((stratum + sum_tree.unit_interval(position_bits)) / strata, 1.0 - 2.0**-24).reshape(-1)
    bits = bits.reshape(-1)
    is_offline = jnp.broadcast_to(is_offline, shape).reshape(-1)

    offline_window, online_window = storage.window(replay.offline), storage.window(replay.online)
    offline_index, offline_probability = sampler.sample(replay.offline_sampler, offline_window, position, bits)
    online_index, online_probability = sampler.sample(replay.online_sampler, online_window, position, bits)
    index = jnp.where(is_offline, offline_index, online_index)
    expected = jnp.where(is_offline, offline_probability * replay.offline.size, online_probability * replay.online.size)
    importance = jnp.maximum(expected, jnp.finfo(jnp.float32).tiny) ** -beta

    offline_rows = storage.gather(replay.offline, offline_index)
    online_rows = storage.gather(replay.online, online_index)

    def choose(offline: Array, online: Array) -> Array:
        chosen = jnp.where(is_offline.reshape(-1, *([1] * (offline.ndim - 1))), offline, online)
        return chosen.reshape(*shape, *offline.shape[1:])

    transition = jax.tree.map(choose, offline_rows, online_rows)
    weight = transition.weight * (importance / importance.max()).reshape(shape)
    return Batch(transition._replace(weight=weight), index.reshape(shape)), count


def update_priorities(
    sampler: Sampler,
    replay: Replay,
    batch: Batch,
    offline_rows: Integer[Array, ""],
    td_error: Float[Array, "batches batch"],
) -> Replay:
    """Writes TD errors back as priorities."""
    is_offline = jnp.broadcast_to(jnp.arange(td_error.shape[1]) < offline_rows, td_error.shape).reshape(-1)
    index, error = batch.row.reshape(-1), td_error.reshape(-1)
    is_online = ~is_offline & storage.is_held(replay.online, index)

    def written(state: PyTree, mine: Bool[Array, " rows"]) -> PyTree:
        # Rows of the other side go to an index past every capacity, which JAX drops.
        beyond = jnp.iinfo(jnp.int32).max
        return sampler.update(state, jnp.where(mine, index, beyond), jnp.where(mine, error, 0.0))

    return replay._replace(
        offline_sampler=written(replay.offline_sampler, is_offline),
        online_sampler=written(replay.online_sampler, is_online),
    )
