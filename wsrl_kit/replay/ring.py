"""A ring of rows in host memory: uniform or prioritized (PER, Schaul et al. 2016), with camera frames if there are any.

What a row's numbers mean is not known here.
"""

import numpy as np
from jaxtyping import Float32, Float64, Int64, PyTree

from wsrl_kit.replay import frames
from wsrl_kit.replay.compiled import LINE, compiled, prefetch
from wsrl_kit.replay.frames import FrameRing, FrameStore, Stacks
from wsrl_kit.replay.sum_tree import AHEAD, SumTree, find

SMALLEST_PRIORITY = np.float32(1e-6)
"""Added to every |TD error| (Schaul et al. 2016, section 3.3)."""


_NO_IMAGES: Stacks = {}


def empty(capacity: int, width: int, prioritized: bool, example: Stacks | None = None) -> PyTree:
    """The content of a `Ring` without rows.

    Args:
        width: numbers per row.
        example: one observation's images, for cameras, horizon, shapes and types.
    """
    count = np.zeros((), np.int64)
    tree: PyTree = {"rows": np.zeros((capacity, width), np.float32), "size": count, "position": count}
    if prioritized:
        tree |= {"masses": np.zeros(capacity, np.float32), "largest_priority": np.ones((), np.float32)}
    return tree if example is None else tree | {"frames": frames.create(capacity, example)}


def filled(
    rows: Float32[np.ndarray, "rows width"], capacity: int, prioritized: bool, store: FrameStore | None = None
) -> PyTree:
    """The content of a `Ring` with `rows` in its first places, all of the same priority.

    Args:
        store: the rows' frames, to copy.
    """
    if len(rows) > capacity:
        raise ValueError(f"capacity must be at least the {len(rows)} rows given, found {capacity}")
    tree = empty(capacity, rows.shape[1], prioritized)
    tree["rows"][: len(rows)] = rows
    if prioritized:
        tree["masses"][: len(rows)] = 1.0
    tree |= {"size": np.array(len(rows)), "position": np.array(len(rows) % capacity)}
    return tree if store is None else tree | {"frames": frames.filled(store, capacity)}


def grown(tree: PyTree, larger: PyTree) -> PyTree:
    """The content of a ring in the arrays of `larger` (given up); its oldest row comes first."""
    capacity, size = len(tree["rows"]), int(tree["size"])
    if capacity == len(larger["rows"]):
        return tree
    order = _newest(int(tree["position"]), size, capacity)
    for name in ("rows", "masses"):
        if name in tree:
            larger[name][:] = 0
            larger[name][:size] = tree[name][order]
    kept: PyTree = {"size": np.array(size), "position": np.array(size)}
    if "largest_priority" in tree:
        kept["largest_priority"] = tree["largest_priority"]
    if "frames" in tree:
        kept["frames"] = frames.grown(tree["frames"], larger["frames"], order)
    return larger | kept


class Ring:
    """Rows; a full ring replaces its oldest. Row n was added before row n + 1, around the end.

    Args:
        tree: from `empty`, `filled` or `tree`; given up.
        alpha: exponent of priorities; without effect if the tree has none.
        store: frames of the rows, if the tree holds none.
    """

    def __init__(self, tree: PyTree, alpha: float = 0.0, store: FrameStore | None = None) -> None:
        self.rows: Float32[np.ndarray, "capacity width"] = tree["rows"]
        self.size, self._position = int(tree["size"]), int(tree["position"])
        self._alpha = np.float32(alpha)
        self.sums: SumTree | None = None
        if "masses" in tree:
            self.sums = SumTree(self.capacity)
            self.sums.set(np.arange(self.capacity), tree["masses"])
            self._largest_priority = np.float32(tree["largest_priority"])
        self._frames: FrameRing | None = tree.get("frames")
        self._store = store

    @property
    def tree(self) -> PyTree:
        """The content of a checkpoint; later changes show in its arrays."""
        tree: PyTree = {"rows": self.rows, "size": np.array(self.size), "position": np.array(self._position)}
        if self.sums is not None:
            tree |= {"masses": self.sums.masses, "largest_priority": np.array(self._largest_priority)}
        return tree if self._frames is None else tree | {"frames": self._frames}

    @property
    def capacity(self) -> int:
        return len(self.rows)

    @property
    def is_prioritized(self) -> bool:
        return self.sums is not None

    @property
    def store(self) -> FrameStore | None:
        """The rows' frames; None without cameras."""
        return self._store if self._frames is None else self._frames.store

    @property
    def bytes_held(self) -> int:
        """Bytes of the rows and frames held."""
        held = self.size * self.rows[:1].nbytes
        if self.store is not None:
            share = 1.0 if self._frames is None else frames.share_written(self._frames)
            held += int(share * sum(images.nbytes for images in self.store.frames.values()))
        return held

    def newest(self, count: int) -> Int64[np.ndarray, " count"]:
        """Places of the newest `count` rows, oldest first."""
        return _newest(self._position, count, self.capacity)

    def add(
        self, row: Float32[np.ndarray, " width"], images: Stacks = _NO_IMAGES, next_images: Stacks = _NO_IMAGES
    ) -> None:
        """Adds a row, with the largest priority so far.

        Raises:
            DataError: images do not fit the frames held.
        """
        if self._frames is not None:
            self._frames, lost = frames.add(self._frames, self._position, self.size, images, next_images)
            if lost:
                self.drop_oldest(lost)
        self.rows[self._position] = row
        if self.sums is not None:
            self.sums.set(np.array([self._position]), np.array([self._largest_priority**self._alpha]))
        self._position = (self._position + 1) % self.capacity
        self.size = min(self.size + 1, self.capacity)

    def drop_oldest(self, count: int) -> None:
        """Removes the `count` oldest rows."""
        count = min(count, self.size)
        if self.sums is not None:
            self.sums.set(self.newest(self.size)[:count], np.zeros(count, np.float32))
        self.size -= count

    def draw(
        self,
        seed: np.uint64,
        step: int,
        columns: slice,
        rows: Float32[np.ndarray, "batches size width"],
        index: Int64[np.ndarray, "batches size"],
        expected: Float64[np.ndarray, "batches size"],
    ) -> None:
        """Fills `columns` of batches with rows, each batch stratified by probability.

        Args:
            seed, step: decide the random numbers.
            index: gets the rows' places.
            expected: gets size x probability of each row; untouched by uniform sampling.
        """
        nodes, starts = (_NO_NODES, _NO_STARTS) if self.sums is None else (self.sums.nodes, self.sums.starts)
        first = (self._position - self.size) % self.capacity
        _draw(
            self.rows, nodes, starts, first, self.size, seed, step, columns.start, columns.stop, rows, index, expected
        )

    def update_priorities(self, index: Int64[np.ndarray, " rows"], td_error: Float32[np.ndarray, " rows"]) -> None:
        """Makes `(|TD error| + 1e-6) ** alpha` the mass of rows (Schaul et al. 2016, equation 1), if still held."""
        if self.sums is None or not len(index):
            return
        priority = np.abs(td_error) + SMALLEST_PRIORITY
        self._largest_priority = max(self._largest_priority, priority.max())
        mass = priority**self._alpha
        if self.size < self.capacity:
            held = (index - (self._position - self.size)) % self.capacity < self.size
            index, mass = index[held], mass[held]
        self.sums.set(index, mass)


def _newest(position: int, count: int, capacity: int) -> Int64[np.ndarray, " count"]:
    """Places of `count` rows, oldest first, the last of them before `position`."""
    return (position - count + np.arange(count)) % capacity


_NO_NODES, _NO_STARTS = np.zeros(0, np.float32), np.zeros(0, np.int64)

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@compiled
def _mixed(bits: np.uint64) -> np.uint64:
    """SplitMix64's output function (Steele, Lea, Flood 2014): counters become independent random bits."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


@compiled
def _draw(
    rows: Float32[np.ndarray, "capacity width"],
    nodes: Float32[np.ndarray, " entries"],
    starts: Int64[np.ndarray, " levels"],
    first: int,
    held: int,
    seed: np.uint64,
    step: int,
    begin: int,
    end: int,
    out: Float32[np.ndarray, "batches size width"],
    index: Int64[np.ndarray, "batches size"],
    expected: Float64[np.ndarray, "batches size"],
) -> None:
    batches, size, width = out.shape
    strata = end - begin
    position = np.empty(batches * strata)
    place = np.empty(batches * strata, np.int64)
    stream = _mixed(_mixed(seed) + _GOLDEN * np.uint64(step + 1))
    for batch in range(batches):
        for stratum in range(strata):
            bits = _mixed(stream + _GOLDEN * np.uint64(batch * size + begin + stratum + 1))
            fraction = np.float64(bits >> np.uint64(11)) * 2.0**-53
            position[batch * strata + stratum] = min((stratum + fraction) / strata, 1 - 2.0**-53)
    if len(nodes):
        total = find(nodes, starts, position, place)
    else:
        for row in range(len(place)):
            place[row] = (first + np.int64(position[row] * held)) % len(rows)
    for batch in range(batches):
        for stratum in range(strata):
            row, column = batch * strata + stratum, begin + stratum
            found = place[row]
            if row + AHEAD < len(place):
                for number in range(0, width, LINE // 4):
                    prefetch(rows, (place[row + AHEAD], number))
            index[batch, column] = found
            if len(nodes):
                expected[batch, column] = held * (nodes[found] / total)
            for number in range(width):
                out[batch, column, number] = rows[found, number]
