"""Replay beside cpprb, flashbax and torchrl: microseconds of a learner's step, and memory.

A step samples a batch (every field and its importance weights), writes the batch's priorities back, and adds one
transition, from full buffers of 10^4 to 10^6 transitions, with batches of 256 and 1024, on one core each. Priorities
are random, exponentially distributed; alpha 0.6, beta 0.4. The last column is the peer's step over the kit's.

Below it two cameras of 128x128, from full stores of 20,000 transitions in host memory, beside a store that keeps both
observations of each transition and gathers by NumPy's indexing; two threads.
"""

import importlib
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import turns

from wsrl_kit.agent.transition import Transition, packed, row_width
from wsrl_kit.replay import ring
from wsrl_kit.replay.mixture import Replay
from wsrl_kit.replay.ring import Ring

CAPACITIES = (10**4, 10**5, 10**6)
BATCH_SIZES = (256, 1024)
OBSERVATION_SIZE, ACTION_SIZE = 39, 28
ALPHA, BETA = 0.6, 0.4
KINDS = ("prioritized", "uniform")
PARTS = ("sample", "update", "add")

WARMUP_CALLS, CALLS = 20, 200
"""Per setting: before the first turn, and in each turn."""

FILL_ROWS = 10_000
"""Transitions per call while a buffer is filled."""

CAMERAS, FRAME = ("wrist_1", "wrist_2"), (128, 128, 3)
FRAME_ROWS, EPISODE = 20_000, 100
FRAME_ADDS, FRAME_SAMPLES = 300, 20
"""Per turn."""


@dataclass(frozen=True)
class Buffer:
    """A full buffer: three calls that each return when their work is done.

    Attributes:
        sample: batch size -> whatever `update` needs to write priorities back.
        update: (what `sample` returned, |TD errors|); None where there are no priorities.
        add: a transition's fields by name, arrays of one row.
    """

    sample: Callable[[int], Any]
    update: Callable[[Any, Any], None] | None
    add: Callable[[Any], None]
    convert: Callable[[np.ndarray], Any] = np.asarray
    """Makes of a host array what the library's own learner would hand it; not counted."""
    row: Callable[[dict[str, np.ndarray]], Any] = dict
    """Makes of a transition what `add` takes; not counted."""


def transitions(rows: int, seed: int) -> dict[str, Any]:
    """Random transitions: 39 + 28 + 1 + 39 + 1 + 1 + 1 float32, 440 bytes each."""
    generator = np.random.default_rng(seed)
    sizes = {"observation": (OBSERVATION_SIZE,), "action": (ACTION_SIZE,), "reward": ()}
    sizes |= {"next_observation": (OBSERVATION_SIZE,), "mask": (), "weight": (), "monte_carlo_return": ()}
    return {name: generator.random((rows, *size), np.float32) for name, size in sizes.items()}


def fills(capacity: int) -> Iterator[tuple[np.ndarray, dict[str, Any], np.ndarray]]:
    """Row numbers, transitions and |TD errors| that fill a buffer."""
    generator = np.random.default_rng(0)
    for start in range(0, capacity, FILL_ROWS):
        errors = generator.exponential(size=FILL_ROWS).astype(np.float32)
        yield np.arange(start, start + FILL_ROWS), transitions(FILL_ROWS, seed=start), errors


def kit(kind: str, capacity: int) -> Buffer:
    """All transitions are online, as in the peers."""
    width, prioritized = row_width(OBSERVATION_SIZE, ACTION_SIZE, has_penalty=False), kind == "prioritized"
    tree = ring.empty(capacity, width, prioritized) | {"size": np.array(capacity)}
    online = Ring(tree, ALPHA)
    for index, rows, errors in fills(capacity):
        online.rows[index] = packed(Transition(**rows))
        online.update_priorities(index, errors)
    replay = Replay(Ring(ring.empty(1, width, prioritized)), online, seed=0)
    calls = iter(range(2**31))
    return Buffer(
        lambda batch_size: replay.sample(next(calls), (1, batch_size), 0.0, BETA)[1],
        replay.update_priorities if prioritized else None,
        lambda row: online.add(packed(row)),
        convert=lambda error: error[None],
        row=lambda row: Transition(**{name: value[0] for name, value in row.items()}),
    )


def cpprb(kind: str, capacity: int) -> Buffer:
    from cpprb import PrioritizedReplayBuffer, ReplayBuffer

    fields = {name: {"shape": value.shape[1:] or 1} for name, value in transitions(1, seed=0).items()}
    if kind == "prioritized":
        buffer = PrioritizedReplayBuffer(capacity, fields, alpha=ALPHA)
        for _, rows, errors in fills(capacity):
            buffer.add(**rows, priorities=errors)
        return Buffer(
            lambda batch_size: buffer.sample(batch_size, BETA)["indexes"],
            buffer.update_priorities,
            lambda row: buffer.add(**row),
        )
    buffer = ReplayBuffer(capacity, fields)
    for _, rows, _ in fills(capacity):
        buffer.add(**rows)
    return Buffer(buffer.sample, None, lambda row: buffer.add(**row))


def flashbax(kind: str, capacity: int) -> Buffer:
    """The item buffer: whole transitions as items, as in the other libraries; compiled, its state donated."""
    import flashbax as fbx

    def made(batch_size: int, **options: Any) -> Any:
        if kind == "prioritized":
            options |= {"priority_exponent": ALPHA, "device": "cpu"}
            return fbx.make_prioritised_item_buffer(capacity, 1, batch_size, **options)
        return fbx.make_item_buffer(capacity, 1, batch_size, **options)

    # Buffers of one kind share their state: what differs is only what each call adds or samples.
    buffers = {batch_size: made(batch_size) for batch_size in BATCH_SIZES}
    one = made(1)
    state = one.init({name: value[0] for name, value in transitions(1, seed=0).items()})
    fill = jax.jit(made(1, add_sequences=True).add, donate_argnums=0)
    set_priorities = jax.jit(one.set_priorities, donate_argnums=0) if kind == "prioritized" else lambda state, *_: state
    add = jax.jit(one.add, donate_argnums=0)
    for index, rows, errors in fills(capacity):
        state = fill(state, rows)
        state = set_priorities(state, index, errors)
    key = jax.random.key(0)
    calls = iter(range(2**31))

    @partial(jax.jit, static_argnums=2)
    def sample(state: Any, call: Any, batch_size: int) -> Any:
        batch = buffers[batch_size].sample(state, jax.random.fold_in(key, call))
        if kind == "uniform":
            return batch
        # It gives probabilities; the importance weights are left to the caller.
        weight = (capacity * batch.probabilities) ** -BETA
        return batch, weight / weight.max()

    def do_sample(batch_size: int) -> Any:
        return jax.block_until_ready(sample(state, np.int32(next(calls)), batch_size))

    def do_update(sampled: Any, error: Any) -> None:
        nonlocal state
        state = jax.block_until_ready(set_priorities(state, sampled[0].indices, error))

    def do_add(row: Any) -> None:
        nonlocal state
        state = jax.block_until_ready(add(state, row))

    return Buffer(
        do_sample,
        do_update if kind == "prioritized" else None,
        do_add,
        convert=jnp.asarray,
        row=lambda row: {name: value[0] for name, value in row.items()},
    )


def torchrl(kind: str, capacity: int) -> Buffer | None:
    """Tensors in one contiguous storage, the samplers in C++; None where that C++ was built for another torch."""
    os.environ["RL_LOGGING_LEVEL"] = "WARNING"
    import torch
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    from torchrl.data.replay_buffers.samplers import PrioritizedSampler, RandomSampler

    prioritized = kind == "prioritized"
    if prioritized:
        try:
            importlib.import_module("torchrl._torchrl")
        except ImportError as error:
            print(f"torchrl: no prioritized replay, its compiled part does not load: {error}", file=sys.stderr)
            return None
    sampler = PrioritizedSampler(capacity, alpha=ALPHA, beta=BETA) if prioritized else RandomSampler()
    # Its default batch size is replaced at each call.
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(capacity), sampler=sampler, batch_size=1)
    for index, rows, errors in fills(capacity):
        buffer.extend(TensorDict({name: torch.from_numpy(value) for name, value in rows.items()}, len(index)))
        if prioritized:
            buffer.update_priority(torch.from_numpy(index), torch.from_numpy(errors))
    return Buffer(
        lambda batch_size: buffer.sample(batch_size)["index"],
        buffer.update_priority if prioritized else None,
        buffer.add,
        convert=torch.from_numpy,
        row=lambda row: TensorDict({name: torch.as_tensor(value[0]) for name, value in row.items()}, []),
    )


def spent(buffer: Buffer, row: Any, error: Any, batch_size: int, calls: int) -> dict[str, float]:
    """Mean seconds of each part, in the order of a learner's step, so that each finds the caches as it would there."""
    seconds = dict.fromkeys(PARTS, 0.0)
    for _ in range(calls):
        start = time.perf_counter()
        sampled = buffer.sample(batch_size)
        after_sample = time.perf_counter()
        if buffer.update:
            buffer.update(sampled, error)
        after_update = time.perf_counter()
        buffer.add(row)
        end = time.perf_counter()
        seconds["sample"] += after_sample - start
        seconds["update"] += after_update - after_sample
        seconds["add"] += end - after_update
    return {part: value / calls for part, value in seconds.items()}


def prepare(make: Callable[[str, int], Buffer | None]) -> turns.Measure:
    buffers = {(kind, capacity): make(kind, capacity) for kind in KINDS for capacity in CAPACITIES}
    errors = np.random.default_rng(1).exponential(size=max(BATCH_SIZES)).astype(np.float32)
    numpy_row = transitions(1, seed=1)

    def one_turn(calls: int) -> dict[str, float]:
        seconds: dict[str, float] = {}
        for (kind, capacity), buffer in buffers.items():
            if buffer is None:
                continue
            row = buffer.row(numpy_row)
            for batch_size in BATCH_SIZES:
                parts = spent(buffer, row, buffer.convert(errors[:batch_size]), batch_size, calls)
                seconds |= {f"{kind} {capacity} {batch_size} {part}": value for part, value in parts.items()}
        return seconds

    one_turn(WARMUP_CALLS)
    return partial(one_turn, CALLS)


# Images


def observations(count: int) -> list[dict[str, np.ndarray]]:
    """Random images, in arrays of their own as an environment gives them."""
    generator = np.random.default_rng(0)
    return [
        {camera: generator.integers(0, 256, (1, *FRAME), dtype=np.uint8) for camera in CAMERAS} for _ in range(count)
    ]


def kit_images() -> turns.Measure:
    shown, row = observations(2 * EPISODE), np.zeros(1, np.float32)
    replay = Replay(
        Ring(ring.empty(1, 1, prioritized=False)),
        Ring(ring.empty(FRAME_ROWS, 1, prioritized=False, example=shown[0])),
        seed=0,
    )

    def add(number: int) -> None:
        # Every episode begins with another image than the last one ended with.
        moment = (number + number // EPISODE) % (len(shown) - 1)
        replay.online.add(row, shown[moment], shown[moment + 1])

    for number in range(FRAME_ROWS):
        add(number)
    return image_turn(add, lambda number: replay.sample(number, (1, BATCH_SIZES[0]), 0.0))


def naive_images() -> turns.Measure:
    shown, generator = observations(2 * EPISODE), np.random.default_rng(1)
    store = [{camera: np.ones((FRAME_ROWS, *FRAME), np.uint8) for camera in CAMERAS} for _ in range(2)]

    def add(number: int) -> None:
        for side, observation in zip(store, (shown[number % 100], shown[number % 100 + 1]), strict=True):
            for camera, images in side.items():
                images[number % FRAME_ROWS] = observation[camera][0]

    def sample(number: int) -> object:
        row = generator.integers(0, FRAME_ROWS, BATCH_SIZES[0])
        return [{camera: images[row] for camera, images in side.items()} for side in store]

    return image_turn(add, sample)


def image_turn(add: Callable[[int], object], sample: Callable[[int], object]) -> turns.Measure:
    """Median seconds of each call, which gets its number."""

    def timed(calls: int, call: Callable[[int], object]) -> float:
        seconds = []
        for number in range(calls):
            start = time.perf_counter()
            call(number)
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)

    timed(FRAME_SAMPLES, sample)
    return lambda: {"add": timed(FRAME_ADDS, add), "sample": timed(FRAME_SAMPLES, sample)}


# Tables


def speed_table(kind: str, results: turns.Results) -> list[Sequence[str]]:
    """Medians in microseconds; ratios are paired by round."""
    parts = PARTS if kind == "prioritized" else ("sample", "add")
    rows: list[Sequence[str]] = [["capacity, batch, buffer", *parts, "step", "step / kit"]]
    for capacity in CAPACITIES:
        for batch_size in BATCH_SIZES:
            steps = {}
            for name, items in results.items():
                found = [items.get(f"{kind} {capacity} {batch_size} {part}", []) for part in parts]
                steps[name] = [sum(round_) for round_ in zip(*found, strict=True)]
                if not steps[name]:
                    continue
                ratio = statistics.median(own / kit for own, kit in zip(steps[name], steps["kit"], strict=True))
                cells = [f"{statistics.median(values) * 1e6:,.1f}" for values in (*found, steps[name])]
                rows.append([f"10^{len(str(capacity)) - 1}, {batch_size}, {name}", *cells, f"{ratio:.2f}"])
    return rows


def image_table(results: turns.Results) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [["microseconds", "kit", "naive", "naive / kit"]]
    for item, title in (("add", "adding a transition"), ("sample", f"sampling {BATCH_SIZES[0]} transitions")):
        own, other = results["kit"][item], results["naive"][item]
        ratio = statistics.median(theirs / mine for theirs, mine in zip(other, own, strict=True))
        cells = [f"{statistics.median(values) * 1e6:,.0f}" for values in (own, other)]
        rows.append([title, *cells, f"{ratio:.2f}"])
    return rows


def bytes_held(tree: Any) -> int:
    """Bytes of a ring's arrays; they are zeros, which take no memory yet."""
    sums = Ring(tree).sums
    sum_bytes = 0 if sums is None else len(sums.nodes) * 4
    return sum(leaf.nbytes for name, leaf in named(tree) if "masses" not in name) + sum_bytes


def named(tree: Any) -> list[tuple[str, Any]]:
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]]


def memory_table() -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [["replay of the kit", "data, MB", "held, MB", "held / data"]]
    width = row_width(OBSERVATION_SIZE, ACTION_SIZE, has_penalty=False)
    trees = {f"10^6, {kind}": (ring.empty(10**6, width, kind == "prioritized"), 4 * width * 10**6) for kind in KINDS}
    frame_bytes = 200_000 * len(CAMERAS) * int(np.prod(FRAME))
    trees["200,000 with two cameras"] = (ring.empty(200_000, 1, False, observations(1)[0]), frame_bytes)
    for name, (tree, data) in trees.items():
        held = bytes_held(tree)
        rows.append([name, f"{data / 1e6:,.1f}", f"{held / 1e6:,.1f}", f"{held / data:.3f}"])
    return rows


def main() -> None:
    options = turns.arguments(__doc__)
    makers = {"kit": kit, "cpprb": cpprb, "flashbax": flashbax, "torchrl": torchrl}
    core = turns.one_core()
    results = turns.compare([turns.Contender(n, prepare, (make,), core) for n, make in makers.items()], options.rounds)
    pictures = {"kit": kit_images, "naive": naive_images}
    images = turns.compare([turns.Contender(name, make) for name, make in pictures.items()], options.rounds)
    tables = {f"{kind.capitalize()} replay, microseconds": speed_table(kind, results) for kind in KINDS}
    tables |= {"Two cameras, host memory": image_table(images), "Memory": memory_table()}
    about = turns.machine("wsrl-kit", "jax", "numba", "cpprb", "flashbax", "torchrl", "torch")
    turns.show(about, tables, {"seconds": results, "images": images}, options.json)


if __name__ == "__main__":
    main()
