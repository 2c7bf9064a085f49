"""A ring of transitions on the device."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Integer

from wsrl_kit.replay.transition import Transition


class Storage(NamedTuple):
    """Fixed-capacity ring; unwritten rows are zeros.

    Attributes:
        states: observation, next observation, [grasp penalty,] reward, mask, weight, Monte-Carlo return, side by side,
            so that one read fetches all.
        actions: in an array of their own: the two shapes give every field's size.
        size: transitions held, before `position`.
        position: row of the next transition.
    """

    states: Float[Array, "capacity state"]
    actions: Float[Array, "capacity action"]
    size: Integer[Array, ""]
    position: Integer[Array, ""]

    @property
    def transitions(self) -> Transition:
        """All rows, unwritten ones included."""
        # A ring that was read from a device or a file holds NumPy arrays.
        return _unpacked(jnp.asarray(self.states), jnp.asarray(self.actions))


class Window(NamedTuple):
    """The rows that hold transitions, from `first` around the ring's end; 0 if full."""

    first: Integer[Array, ""]
    size: Integer[Array, ""]
    capacity: int


def _packed(transition: Transition) -> tuple[Float[Array, "*batch state"], Float[Array, "*batch action"]]:
    numbers = [transition.reward, transition.mask, transition.weight, transition.monte_carlo_return]
    if transition.grasp_penalty is not None:
        numbers.insert(0, transition.grasp_penalty)
    scalars = jnp.stack(numbers, axis=-1)
    states = jnp.concatenate([transition.observation, transition.next_observation, scalars], axis=-1)
    return states, jnp.asarray(transition.action)


def _unpacked(states: Float[Array, "*batch state"], actions: Float[Array, "*batch action"]) -> Transition:
    end = states.shape[-1] - 4
    size, has_penalty = divmod(end, 2)
    return Transition(
        observation=states[..., :size],
        action=actions,
        reward=states[..., end],
        next_observation=states[..., size : 2 * size],
        mask=states[..., end + 1],
        weight=states[..., end + 2],
        monte_carlo_return=states[..., end + 3],
        grasp_penalty=states[..., 2 * size] if has_penalty else None,
    )


def create(capacity: int, observation_size: int, action_size: int, has_penalty: bool = False) -> Storage:
    """An empty ring."""
    states = jnp.zeros((capacity, 2 * observation_size + has_penalty + 4))
    actions = jnp.zeros((capacity, action_size))
    return Storage(states, actions, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def filled(transitions: Transition, capacity: int) -> Storage:
    """A ring with `transitions` in its first rows."""
    size = len(transitions.reward)
    if size > capacity:
        raise ValueError(f"capacity must be at least the {size} transitions given, found {capacity}")

    def padded(rows: Array) -> Array:
        return jnp.zeros((capacity, rows.shape[1]), jnp.float32).at[:size].set(rows)

    states, actions = _packed(transitions)
    return Storage(padded(states), padded(actions), jnp.int32(size), jnp.int32(size % capacity))


def capacity(storage: Storage) -> int:
    """Rows."""
    return storage.states.shape[0]


def add(storage: Storage, transition: Transition) -> Storage:
    """Adds a transition; a full ring replaces its oldest."""
    rows = (storage.states, storage.actions)
    states, actions = (
        jax.lax.dynamic_update_index_in_dim(rows, row, storage.position, 0)
        for rows, row in zip(rows, _packed(transition), strict=True)
    )
    limit = capacity(storage)
    return Storage(states, actions, jnp.minimum(storage.size + 1, limit), (storage.position + 1) % limit)


def grown(storage: Storage, capacity: int) -> Storage:
    """The ring with a larger capacity; it may not have wrapped yet."""
    rows = len(storage.states)
    if rows == capacity:
        return storage
    states, actions = (
        jnp.zeros((capacity, each.shape[1]), each.dtype).at[:rows].set(each)
        for each in (storage.states, storage.actions)
    )
    is_full = (storage.position == 0) & (storage.size > 0)
    return Storage(states, actions, storage.size, jnp.where(is_full, rows, storage.position))


def drop_oldest(storage: Storage, count: Integer[Array, ""]) -> Storage:
    """The ring without its `count` oldest transitions."""
    return storage._replace(size=jnp.maximum(storage.size - count, 0))


def window(storage: Storage) -> Window:
    """The rows held."""
    limit = capacity(storage)
    first = jnp.where(storage.size == limit, 0, (storage.position - storage.size) % limit)
    return Window(first, storage.size, limit)


def is_held(storage: Storage, row: Integer[Array, "*batch"]) -> Bool[Array, "*batch"]:
    """Whether each row holds a transition."""
    held = window(storage)
    return (row - held.first) % held.capacity < held.size


def set_monte_carlo_returns(storage: Storage, row: Integer[Array, " rows"], value: Float[Array, " rows"]) -> Storage:
    """Writes returns; ignores rows beyond the capacity."""
    return storage._replace(states=storage.states.at[row, -1].set(value, mode="drop"))


def gather(storage: Storage, index: Integer[Array, "*batch"]) -> Transition:
    """The transitions in rows in [0, capacity)."""
    # Checked indices take several times as long.
    states, actions = (rows.at[index].get(mode="promise_in_bounds") for rows in (storage.states, storage.actions))
    return _unpacked(states, actions)


def bytes_per_transition(storage: Storage) -> int:
    """Bytes of one transition."""
    return (storage.states.nbytes + storage.actions.nbytes) // capacity(storage)
