"""A ring of transitions on the device; adding is in place where the caller donates it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Integer

from wsrl_kit.types import Transition


class Storage(NamedTuple):
    """Fixed-capacity ring.

    Attributes:
        transitions: arrays with the capacity as their leading axis; rows from `size` on are zeros.
        size: transitions held.
        position: row that the next transition takes.
    """

    transitions: Transition
    size: Integer[Array, ""]
    position: Integer[Array, ""]


def create(capacity: int, observation_size: int, action_size: int) -> Storage:
    """An empty ring."""
    transitions = Transition(
        observation=jnp.zeros((capacity, observation_size)),
        action=jnp.zeros((capacity, action_size)),
        reward=jnp.zeros(capacity),
        next_observation=jnp.zeros((capacity, observation_size)),
        mask=jnp.zeros(capacity),
        weight=jnp.zeros(capacity),
    )
    return Storage(transitions, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def filled(transitions: Transition, capacity: int) -> Storage:
    """A ring that holds `transitions` (leading axis rows, at most `capacity` of them), padded to `capacity`.

    Padding datasets of different sizes to one capacity lets them share a compiled program.
    """
    size = len(transitions.reward)
    if size > capacity:
        raise ValueError(f"capacity must be at least the {size} transitions given, found {capacity}")

    def padded(rows: Array) -> Array:
        return jnp.zeros((capacity, *rows.shape[1:]), jnp.float32).at[:size].set(rows)

    return Storage(jax.tree.map(padded, transitions), jnp.int32(size), jnp.int32(size % capacity))


def capacity(storage: Storage) -> int:
    """Transitions that fit."""
    return storage.transitions.reward.shape[0]


def add(storage: Storage, transition: Transition) -> Storage:
    """The ring with one more transition; when full, the oldest is replaced."""
    transitions = jax.tree.map(
        lambda rows, row: jax.lax.dynamic_update_index_in_dim(rows, row, storage.position, 0),
        storage.transitions,
        transition,
    )
    limit = capacity(storage)
    return Storage(transitions, jnp.minimum(storage.size + 1, limit), (storage.position + 1) % limit)


def gather(storage: Storage, index: Integer[Array, "*batch"]) -> Transition:
    """The transitions in the given rows."""
    return jax.tree.map(lambda rows: rows[index], storage.transitions)


def bytes_per_transition(storage: Storage) -> int:
    """Bytes that one transition takes."""
    return sum(rows.nbytes for rows in jax.tree.leaves(storage.transitions)) // capacity(storage)
