"""Samplers of storage rows: uniform, or prioritized (PER, Schaul et al. 2016).

PER's importance weights are computed in `mixture.sample`, from the probabilities that samplers return.

A sampler is a static object with functions over its state:

    create(capacity) -> state
    insert(state, index) -> state              rows `index` hold new transitions
    sample(state, window, position, bits) -> (index, probability)
                                               rows at positions in [0, 1); random `bits` refine float32 positions
    update(state, index, td_error) -> state    new priorities
    keep(state, held) -> state                 never draw rows not held; `held` may be longer after growth
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Integer, PyTree, UInt32

from wsrl_kit.replay import sum_tree
from wsrl_kit.replay.storage import Window
from wsrl_kit.replay.sum_tree import SumTree


@dataclass(frozen=True)
class Uniform:
    """Equal probability for every held transition; no state."""

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


SMALLEST_PRIORITY = 1e-6
"""Added to every |TD error| (Schaul et al. 2016, section 3.3)."""


class ProportionalState(NamedTuple):
    """Masses `priority ** alpha`, and the largest priority so far."""

    tree: SumTree
    maximum: Float[Array, ""]


@dataclass(frozen=True)
class Proportional:
    """Probability proportional to `(|TD error| + 1e-6) ** alpha` (Schaul et al. 2016, equation 1)."""

    alpha: float

    def create(self, capacity: int) -> ProportionalState:
        return ProportionalState(sum_tree.create(capacity), jnp.ones(()))

    def insert(self, state: ProportionalState, index: Integer[Array, " batch"]) -> ProportionalState:
        """New transitions take the largest priority so far."""
        mass = jnp.broadcast_to(state.maximum**self.alpha, index.shape)
        return state._replace(tree=sum_tree.update(state.tree, index, mass))

    def sample(
        self,
        state: ProportionalState,
        window: Window,
        position: Float[Array, " batch"],
        bits: UInt32[Array, " batch"],
    ) -> tuple[Integer[Array, " batch"], Float[Array, " batch"]]:
        return sum_tree.find(state.tree, position, bits)

    def update(
        self, state: ProportionalState, index: Integer[Array, " batch"], td_error: Float[Array, " batch"]
    ) -> ProportionalState:
        priority = jnp.abs(td_error) + SMALLEST_PRIORITY
        tree = sum_tree.update(state.tree, index, priority**self.alpha)
        return ProportionalState(tree, jnp.maximum(state.maximum, priority.max()))

    def keep(self, state: ProportionalState, held: Bool[Array, " capacity"]) -> ProportionalState:
        return state._replace(tree=sum_tree.masked(state.tree, held))


Sampler = Uniform | Proportional
