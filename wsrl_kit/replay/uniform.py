"""Uniform replay, with the interface of a sampler.

A sampler is a small static object with five functions over a state of its own; `prioritized` has the others:

    create(capacity) -> state
    insert(state, index) -> state                   a new transition was written to row `index`
    sample(state, size, position, bits) -> (index, probability)   rows at positions in [0, 1) of the distribution;
                                                    random `bits` add what a float32 position can't resolve
    update(state, index, td_error) -> state         priorities back, once per environment step
    refresh(state, size) -> state                   what is too slow to do each step
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer, PyTree, UInt32


@runtime_checkable
class Sampler(Protocol):
    """How rows of a storage are chosen; see the module's text."""

    def create(self, capacity: int) -> PyTree: ...

    def insert(self, state: PyTree, index: Integer[Array, " batch"]) -> PyTree: ...

    def sample(
        self, state: PyTree, size: Integer[Array, ""], position: Float[Array, " batch"], bits: UInt32[Array, " batch"]
    ) -> tuple[Integer[Array, " batch"], Float[Array, " batch"]]: ...

    def update(self, state: PyTree, index: Integer[Array, " batch"], td_error: Float[Array, " batch"]) -> PyTree: ...

    def refresh(self, state: PyTree, size: Integer[Array, ""]) -> PyTree: ...


@dataclass(frozen=True)
class Uniform:
    """Every held transition with the same probability; there is no state."""

    def create(self, capacity: int) -> PyTree:
        return ()

    def insert(self, state: PyTree, index: Integer[Array, " batch"]) -> PyTree:
        return state

    def sample(
        self, state: PyTree, size: Integer[Array, ""], position: Float[Array, " batch"], bits: UInt32[Array, " batch"]
    ) -> tuple[Integer[Array, " batch"], Float[Array, " batch"]]:
        held = jnp.maximum(size, 1)
        index = jnp.minimum((position * held).astype(jnp.int32), held - 1)
        # Among millions of rows some would get one position in 2^24 more than others: turning all of a call's rows by
        # one random offset gives each the same chance, and leaves strata whole.
        index = (index + (bits[0] % held.astype(jnp.uint32)).astype(jnp.int32)) % held
        return index, jnp.broadcast_to(1.0 / held, position.shape)

    def update(self, state: PyTree, index: Integer[Array, " batch"], td_error: Float[Array, " batch"]) -> PyTree:
        return state

    def refresh(self, state: PyTree, size: Integer[Array, ""]) -> PyTree:
        return state
