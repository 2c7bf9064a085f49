"""Sums over blocks of leaves, for sampling in proportion to mass.

Each level sums blocks of `FANOUT` entries of the level below. Updates recompute sums instead of adding differences, so
rounding errors cannot accumulate.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Integer, UInt32

FANOUT = 16
"""Children per block; measured."""

SMALLEST = jnp.finfo(jnp.float32).tiny

SMALLEST_SHARE = 2.0**-10
"""Below this share of total mass, a 24-bit position has too few bits left."""


class SumTree(NamedTuple):
    """Levels from the leaves (zero-padded to whole blocks) to a single block."""

    levels: tuple[Float[Array, " entries"], ...]


def create(capacity: int) -> SumTree:
    """A tree of zero masses."""
    levels = []
    blocks = capacity
    while True:
        blocks = -(-blocks // FANOUT)
        levels.append(jnp.zeros(blocks * FANOUT))
        if blocks == 1:
            return SumTree(tuple(levels))


def from_mass(mass: Float[Array, " capacity"]) -> SumTree:
    """A tree of given masses."""
    empty = create(len(mass))
    levels = [empty.levels[0].at[: len(mass)].set(mass)]
    for level in empty.levels[1:]:
        sums = levels[-1].reshape(-1, FANOUT).sum(axis=1)
        levels.append(level.at[: len(sums)].set(sums))
    return SumTree(tuple(levels))


def masked(tree: SumTree, kept: Bool[Array, " capacity"]) -> SumTree:
    """The tree with the masses of kept leaves only; `kept` may be longer. O(capacity)."""
    mass = tree.levels[0][: len(kept)]
    return from_mass(jnp.where(kept, jnp.pad(mass, (0, len(kept) - len(mass))), 0.0))


def update(tree: SumTree, index: Integer[Array, " batch"], mass: Float[Array, " batch"]) -> SumTree:
    """Sets the mass of leaves; ignores indices past the last leaf."""
    levels = [tree.levels[0].at[index].set(mass)]
    for level in tree.levels[1:]:
        index = index // FANOUT
        blocks = levels[-1].reshape(-1, FANOUT)
        if len(blocks) <= len(index):
            # All sums of a small level cost less than those of the batch's own blocks, one by one.
            levels.append(level.at[: len(blocks)].set(blocks.sum(axis=1)))
        else:
            levels.append(level.at[index].set(blocks.at[index].get(mode="clip").sum(axis=1)))
    return SumTree(tuple(levels))


def unit_interval(bits: UInt32[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Uniform float32 numbers in [0, 1) with all 24 bits."""
    return (bits >> 8).astype(jnp.float32) * 2.0**-24


def find(
    tree: SumTree, position: Float[Array, " batch"], bits: UInt32[Array, " batch"]
) -> tuple[Integer[Array, " batch"], Float[Array, " batch"]]:
    """Leaf at each position in [0, 1) of the cumulative mass, and its probability.

    Args:
        bits: random, independent of `position`; tell apart leaves too small for a float32 position.
    """
    fresh = unit_interval(bits)
    index = jnp.zeros(position.shape, jnp.int32)
    probability = jnp.ones(position.shape)
    children = jnp.arange(FANOUT, dtype=jnp.int32)
    for level in reversed(tree.levels):
        block = level.reshape(-1, FANOUT).at[index].get(mode="promise_in_bounds")
        # A product with a triangle of ones is the cumulative sum, and faster.
        cumulative = jnp.dot(block, jnp.triu(jnp.ones((FANOUT, FANOUT))), precision="highest")
        total = cumulative[:, -1]
        target = position * total
        # Rounding may put the target on the block's end, past the last child that has mass, or widen one that has none.
        last = jnp.where(block > 0, children, 0).max(axis=1)
        beyond = (cumulative > target[:, None]) & (block > 0)
        child = jnp.minimum(jnp.where(beyond, children, FANOUT).min(axis=1), last)
        mass = jnp.take_along_axis(block, child[:, None], axis=1, mode="promise_in_bounds")[:, 0]
        before = jnp.take_along_axis(cumulative, child[:, None], axis=1, mode="promise_in_bounds")[:, 0] - mass
        position = jnp.clip((target - before) / jnp.maximum(mass, SMALLEST), 0.0, 1.0 - 2.0**-24)
        share = probability * (mass / jnp.maximum(total, SMALLEST))
        position = jnp.where((share < SMALLEST_SHARE) & (probability >= SMALLEST_SHARE), fresh, position)
        index, probability = index * FANOUT + child, share
    return index, probability
