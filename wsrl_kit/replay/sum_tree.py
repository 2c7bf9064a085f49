"""Sums over blocks of leaves, for sampling in proportion to mass.

Each level sums blocks of `FANOUT` entries of the level below. Updates recompute sums instead of adding differences, so
rounding errors cannot accumulate.
"""

import numpy as np
from jaxtyping import Float32, Float64, Int64

from wsrl_kit.replay.compiled import LINE, compiled, prefetch

FANOUT = LINE // 4
"""Children per block, which is one cache line."""

_BITS = 4
"""log2 of `FANOUT`."""

AHEAD = 8
"""Rows of which memory is fetched ahead; measured."""


class SumTree:
    """Levels one after the other, from the leaves (zero-padded to whole blocks) to a single block.

    Attributes:
        nodes: entries of all levels.
        starts: first entry of each level.
    """

    def __init__(self, leaves: int) -> None:
        sizes = [-(-leaves // FANOUT) * FANOUT]
        while sizes[-1] > FANOUT:
            sizes.append(-(-sizes[-1] // FANOUT**2) * FANOUT)
        entries = sum(sizes)
        memory = np.zeros(entries + FANOUT, np.float32)
        offset = -memory.ctypes.data % LINE // 4
        self.nodes: Float32[np.ndarray, " entries"] = memory[offset : offset + entries]
        self.starts: Int64[np.ndarray, " levels"] = np.cumsum([0, *sizes[:-1]])
        self._leaves = leaves

    @property
    def masses(self) -> Float32[np.ndarray, " leaves"]:
        """Masses of the leaves; a view."""
        return self.nodes[: self._leaves]

    def set(self, index: Int64[np.ndarray, " rows"], mass: Float32[np.ndarray, " rows"]) -> None:
        """Sets the masses of leaves; of equal indices the last counts."""
        write(self.nodes, self.starts, index, mass)


@compiled
def _sum(nodes: Float32[np.ndarray, " entries"], first: int) -> np.float32:
    """Of a block; in pairs, which do not wait for each other."""
    total = np.float32(0)
    for child in range(first, first + FANOUT, 4):
        total += (nodes[child] + nodes[child + 1]) + (nodes[child + 2] + nodes[child + 3])
    return total


@compiled
def write(
    nodes: Float32[np.ndarray, " entries"],
    starts: Int64[np.ndarray, " levels"],
    index: Int64[np.ndarray, " rows"],
    mass: Float32[np.ndarray, " rows"],
) -> None:
    """`SumTree.set`."""
    rows = len(index)
    for row in range(rows):
        if row + AHEAD < rows:
            prefetch(nodes, (index[row + AHEAD],))
        nodes[index[row]] = mass[row]
    for level in range(1, len(starts)):
        below, start = starts[level - 1], starts[level]
        blocks = (start - below) >> _BITS
        # All sums of a small level cost less than those of the rows' blocks, one by one.
        every = blocks <= rows
        last = -1
        for row in range(blocks if every else rows):
            block = row if every else index[row] >> (_BITS * level)
            # Neighbours often share a block, since samples are in order.
            if block != last:
                nodes[start + block] = _sum(nodes, below + block * FANOUT)
                last = block


@compiled
def find(
    nodes: Float32[np.ndarray, " entries"],
    starts: Int64[np.ndarray, " levels"],
    position: Float64[np.ndarray, " rows"],
    index: Int64[np.ndarray, " rows"],
) -> float:
    """Writes the leaf at each position in [0, 1) of the cumulative mass to `index`; returns the total mass.

    Overwrites `position`.
    """
    top = len(starts) - 1
    total = 0.0
    for child in range(FANOUT):
        total += nodes[starts[top] + child]
    for row in range(len(position)):
        position[row] *= total
        index[row] = 0
    # Level by level for all rows, so that the memory's delays overlap.
    for level in range(top, -1, -1):
        for row in range(len(position)):
            if row + AHEAD < len(position):
                prefetch(nodes, (starts[level] + index[row + AHEAD] * FANOUT,))
            block = starts[level] + index[row] * FANOUT
            target = position[row]
            child = 0
            while child < FANOUT - 1 and target >= nodes[block + child]:
                target -= nodes[block + child]
                child += 1
            if target >= nodes[block + child]:
                # The block's sum was rounded up: the last child that has mass.
                while child > 0 and nodes[block + child] == 0:
                    child -= 1
                target = nodes[block + child] * (1 - 2.0**-30)
            position[row] = target
            index[row] = index[row] * FANOUT + child
    return total
