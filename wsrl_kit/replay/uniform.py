"""Uniform replay, with the interface of a sampler.

A sampler is a small static object with seven functions over a state of its own; `prioritized` has the others:

    create(capacity) -> state
    insert(state, index) -> state                   a new transition was written to row `index`
    sample(state, window, position, bits) -> (index, probability)   held rows at positions in [0, 1) of the
                                                    distribution; random `bits` add what a float32 position can't
    update(state, index, td_error) -> state         priorities back, once per environment step
    keep(state, held) -> state                      rows that no longer hold a transition are never sampled again
    refresh(state, size) -> state                   what is too slow to do each step
    grown(state, capacity) -> state                 the same rows, and room for more
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Integer, PyTree, UInt32

from wsrl_kit.replay.storage import Window


@runtime_checkable
class Sampler(Protocol):
    """How rows of a storage are chosen; see the module's text."""

    def create(self, capacity: int) -> PyTree: ...

    def insert(self, state: PyTree, index: Integer[Array, " batch"]) -> PyTree: ...

    def sample(
        self, state: PyTree, window: Window, position: Float[Array, " batch"], bits: UInt32[Array, " batch"]
    ) -> tuple[Integer[Array, " batch"], Float[Array, " batch"]]: ...

    def update(self, state: PyTree, index: Integer[Array, " batch"], td_error: Float[Array, " batch"]) -> PyTree: ...

    def keep(self, state: PyTree, held: Bool[Array, " capacity"]) -> PyTree: ...

    def refresh(self, state: PyTree, size: Integer[Array, ""]) -> PyTree: ...

    def grown(self, state: PyTree, capacity: int) -> PyTree: ...


@dataclass(frozen=True)
class Uniform:
    """Every held transition with the same probability; there is no state."""

    def create(self, capacity: int) -> PyTree:
        return ()

    def insert(self, state: PyTree, index: Integer[Array, " batch"]) -> PyTree:
        return state

    def sample(
        self, state: PyTree, window: Window, position: Float[Array, " batch"], bits: UInt32[Array, " batch"]
    ) -> tuple[Integer[Array, " batch"], Float[Array, " batch"]]:
        held = jnp.maximum(window.size, 1)
        index = jnp.minimum((position * held).astype(jnp.int32), held - 1)
        # Among millions of rows some would get one position in 2^24 more than others: turning all of a call's rows by
        # one random offset gives each the same chance, and leaves strata whole.
        index = (index + (bits[0] % held.astype(jnp.uint32)).astype(jnp.int32)) % held
        row = (window.first + index) % window.capacity
        return row, jnp.broadcast_to(1.0 / held, position.shape)

    def update(self, state: PyTree, index: Integer[Array, " batch"], td_error: Float[Array, " batch"]) -> PyTree:
        return state

    def keep(self, state: PyTree, held: Bool[Array, " capacity"]) -> PyTree:
        return state

    def refresh(self, state: PyTree, size: Integer[Array, ""]) -> PyTree:
        return state

    def grown(self, state: PyTree, capacity: int) -> PyTree:
        return state
