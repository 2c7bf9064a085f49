"""Image replay: what adding and sampling image transitions costs, beside a store that keeps both whole observations.

Two cameras of 128x128, horizon 1, batches of 256 of random rows; buffers full, in host memory. The naive store has an
array of observations and one of next observations for each camera and gathers by NumPy's indexing. Adding is from the
environment's arrays, as in training: comparing what the transition shows with what the one before showed, and writing
the new frames. What the compiled learner does with the state's part of a transition is in `replay.py`.
"""

import statistics
import time
from collections.abc import Mapping, Sequence

import jax
import numpy as np
import turns

from wsrl_kit.replay import frames as frame_ring
from wsrl_kit.replay.frames import FrameBatches

CAMERAS = ("wrist_1", "wrist_2")
FRAME = (128, 128, 3)
FRAME_BYTES = len(CAMERAS) * 128 * 128 * 3
CAPACITY, BATCH_SIZE = 20_000, 256
LARGE_CAPACITY = 200_000
EPISODE = 100
"""Transitions between resets."""
ADDS, SAMPLES = 300, 20
"""Per turn."""


def observations(count: int) -> list[dict[str, np.ndarray]]:
    """Random images, in arrays of their own as an environment gives them."""
    generator = np.random.default_rng(0)
    return [
        {camera: generator.integers(0, 256, (1, *FRAME), dtype=np.uint8) for camera in CAMERAS} for _ in range(count)
    ]


def timed(calls: int, call: turns.Callable[[int], object]) -> float:
    """Median seconds of a call, which gets its number."""
    seconds = []
    for number in range(calls):
        start = time.perf_counter()
        call(number)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def kit() -> turns.Measure:
    shown = observations(2 * EPISODE)
    ring = frame_ring.create(CAPACITY, shown[0])
    gatherer, generator = FrameBatches(), np.random.default_rng(1)

    def add(number: int) -> None:
        nonlocal ring
        # Every episode begins with another image than the last one ended with.
        moment = (number + number // EPISODE) % (len(shown) - 1)
        ring, _ = frame_ring.add(ring, shown[moment], shown[moment + 1])

    for number in range(CAPACITY):
        add(number)

    def sample(number: int) -> object:
        return gatherer.gather(generator.integers(0, CAPACITY, BATCH_SIZE), ring.store)

    timed(SAMPLES, sample)
    return lambda: {"add": timed(ADDS, add), "sample": timed(SAMPLES, sample)}


def naive() -> turns.Measure:
    shown = observations(2 * EPISODE)
    generator = np.random.default_rng(1)
    store = [{camera: np.ones((CAPACITY, *FRAME), np.uint8) for camera in CAMERAS} for _ in range(2)]

    def add(number: int) -> None:
        for side, observation in zip(store, (shown[number % 100], shown[number % 100 + 1]), strict=True):
            for camera, images in side.items():
                images[number % CAPACITY] = observation[camera][0]

    def sample(number: int) -> object:
        row = generator.integers(0, CAPACITY, BATCH_SIZE)
        return [{camera: images[row] for camera, images in side.items()} for side in store]

    timed(SAMPLES, sample)
    return lambda: {"add": timed(ADDS, add), "sample": timed(SAMPLES, sample)}


def speed_table(results: turns.Results) -> list[Sequence[str]]:
    medians = turns.medians(results)
    rows: list[Sequence[str]] = [["microseconds", "kit", "naive", "naive / kit"]]
    for item, title in (("add", "adding a transition"), ("sample", f"sampling {BATCH_SIZE} transitions")):
        # Rounds are paired: what slows the machine slows both.
        pairs = zip(results["naive"][item], results["kit"][item], strict=True)
        ratio = statistics.median(other / own for other, own in pairs)
        own, other = medians["kit"][item], medians["naive"][item]
        rows.append([title, f"{own * 1e6:,.0f}", f"{other * 1e6:,.0f}", f"{ratio:.2f}"])
    return rows


def bytes_held(capacity: int) -> int:
    """Bytes of a ring's arrays; they are zeros, which take no memory yet."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(frame_ring.create(capacity, observations(1)[0])))


def memory_table(held: Mapping[int, int]) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [["capacity", "frames, GB", "held, GB", "held / frames", "held / both observations"]]
    for capacity, size in held.items():
        frames = capacity * FRAME_BYTES
        cells = [f"{frames / 1e9:.3f}", f"{size / 1e9:.3f}", f"{size / frames:.4f}", f"{size / frames / 2:.3f}"]
        rows.append([f"{capacity:,}", *cells])
    return rows


def main() -> None:
    options = turns.arguments(__doc__)
    results = turns.compare([turns.Contender("kit", kit), turns.Contender("naive", naive)], options.rounds)
    held = {capacity: bytes_held(capacity) for capacity in (CAPACITY, LARGE_CAPACITY)}
    tables = {
        "Two-camera 128x128 transitions, in host memory": speed_table(results),
        "Memory, one frame per camera and transition": memory_table(held),
    }
    turns.show(turns.machine("wsrl-kit", "jax", "numpy"), tables, {"seconds": results, "bytes": held}, options.json)


if __name__ == "__main__":
    main()
