"""Samplers of replay: uniform, and by priority (PER, Schaul et al. 2016), proportional or by rank.

A sampler is a small static object with seven functions over a state of its own:

    create(capacity) -> state
    insert(state, index) -> state                   a new transition was written to row `index`
    sample(state, window, position, bits) -> (index, probability)   held rows at positions in [0, 1) of the
                                                    distribution; random `bits` add what a float32 position can't
    update(state, index, td_error) -> state         priorities back, once per environment step
    keep(state, held) -> state                      rows that no longer hold a transition are never sampled again
    refresh(state, size) -> state                   what is too slow to do each step
    grown(state, capacity) -> state                 the same rows, and room for more

PER keeps probability masses in a sum tree. Importance weights are computed where the batch is put together
(`mixture`), from the probabilities that `sample` returns.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Integer, PyTree, UInt32

from wsrl_kit.replay import sum_tree
from wsrl_kit.replay.storage import Window
from wsrl_kit.replay.sum_tree import SumTree


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


SMALLEST_PRIORITY = 1e-6
"""Added to every |TD error|, so that no transition is lost for good (Schaul et al. 2016, section 3.3)."""


class ProportionalState(NamedTuple):
    """Masses priority ** alpha, and the largest priority seen, which new transitions take."""

    tree: SumTree
    maximum: Float[Array, ""]


@dataclass(frozen=True)
class Proportional:
    """Probability in proportion to `(|TD error| + 1e-6) ** alpha` (Schaul et al. 2016, equation 1)."""

    alpha: float

    def create(self, capacity: int) -> ProportionalState:
        return ProportionalState(sum_tree.create(capacity), jnp.ones(()))

    def insert(self, state: ProportionalState, index: Integer[Array, " batch"]) -> ProportionalState:
        """New transitions take the largest priority seen so far, so that each is soon replayed."""
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

    def refresh(self, state: ProportionalState, size: Integer[Array, ""]) -> ProportionalState:
        return state

    def grown(self, state: ProportionalState, capacity: int) -> ProportionalState:
        return state._replace(tree=sum_tree.grown(state.tree, capacity))


class RankState(NamedTuple):
    """Masses by rank; each row's priority, 0 if empty; all of them, falling, at the last refresh; the largest seen."""

    tree: SumTree
    priority: Float[Array, " capacity"]
    order: Float[Array, " capacity"]
    maximum: Float[Array, ""]


@dataclass(frozen=True)
class RankBased:
    """Probability in proportion to `rank ** -alpha`, rank 1 for the largest |TD error| (Schaul et al. 2016, 3.3).

    Ranks are exact at a refresh; between refreshes a changed priority gets the rank it would have had there. The
    importance weights use the probabilities really sampled with, so they stay exact either way. (Schaul et al. use an
    unbalanced heap with the same effect.)
    """

    alpha: float

    def create(self, capacity: int) -> RankState:
        return RankState(sum_tree.create(capacity), jnp.zeros(capacity), jnp.zeros(capacity), jnp.ones(()))

    def insert(self, state: RankState, index: Integer[Array, " batch"]) -> RankState:
        """New transitions take rank 1, at the largest priority seen so far."""
        priority = state.priority.at[index].set(state.maximum)
        return state._replace(tree=sum_tree.update(state.tree, index, jnp.ones(index.shape)), priority=priority)

    def sample(
        self,
        state: RankState,
        window: Window,
        position: Float[Array, " batch"],
        bits: UInt32[Array, " batch"],
    ) -> tuple[Integer[Array, " batch"], Float[Array, " batch"]]:
        return sum_tree.find(state.tree, position, bits)

    def update(self, state: RankState, index: Integer[Array, " batch"], td_error: Float[Array, " batch"]) -> RankState:
        priority = jnp.abs(td_error) + SMALLEST_PRIORITY
        rank = 1 + jnp.searchsorted(-state.order, -priority, side="left")
        tree = sum_tree.update(state.tree, index, rank.astype(jnp.float32) ** -self.alpha)
        maximum = jnp.maximum(state.maximum, priority.max())
        return state._replace(tree=tree, priority=state.priority.at[index].set(priority), maximum=maximum)

    def keep(self, state: RankState, held: Bool[Array, " capacity"]) -> RankState:
        priority = jnp.where(held, state.priority, 0.0)
        return state._replace(tree=sum_tree.masked(state.tree, held), priority=priority)

    def refresh(self, state: RankState, size: Integer[Array, ""]) -> RankState:
        """Sorts: exact ranks for all rows. O(capacity log capacity), so once in many steps."""
        rows = jnp.argsort(-state.priority)
        rank = jnp.zeros(rows.shape, jnp.int32).at[rows].set(jnp.arange(1, len(rows) + 1))
        mass = jnp.where(state.priority > 0, rank.astype(jnp.float32) ** -self.alpha, 0.0)
        return state._replace(tree=sum_tree.from_mass(mass), order=state.priority[rows])

    def grown(self, state: RankState, capacity: int) -> RankState:
        priority, order = (jnp.zeros(capacity).at[: len(each)].set(each) for each in (state.priority, state.order))
        return state._replace(tree=sum_tree.grown(state.tree, capacity), priority=priority, order=order)
