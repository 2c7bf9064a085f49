"""Microseconds that replay costs a learner, beside cpprb, flashbax and torchrl, and the memory it takes.

For capacities 10^4 to 10^6 and batches of 256 and 1024, from full buffers: adding one transition, sampling a batch
(every field and its importance weights), and writing the batch's priorities back; a step is one of each. Every call is
made from Python and waited for. Priorities are random, exponentially distributed; alpha 0.6, beta 0.4.

The kit's learner makes a whole step in one compiled call, in which it learns too; "kit, one call" is such a call
without the learning. A ratio compares what each library's learner does: the kit's one call, and the peers' three.
"""

import importlib
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import turns

from wsrl_kit.replay import mixture, storage
from wsrl_kit.replay.samplers import Proportional, Sampler, Uniform
from wsrl_kit.replay.transition import Transition
from wsrl_kit.training import learner

CAPACITIES = (10**4, 10**5, 10**6)
BATCH_SIZES = (256, 1024)
OBSERVATION_SIZE, ACTION_SIZE = 39, 28
ALPHA, BETA = 0.6, 0.4
KINDS = ("prioritized", "uniform")
ONE_CALL = "kit, one call"

WARMUP_CALLS, CALLS = 10, 50
"""Per setting: before the first turn, and in each turn."""

FILL_ROWS = 10_000
"""Transitions per call while a buffer is filled."""


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


@dataclass(frozen=True)
class OneCall:
    """A full buffer whose step is one call: (row, |TD errors| of the batch)."""

    step: Callable[[Any, Any], None]
    convert: Callable[[np.ndarray], Any]
    row: Callable[[dict[str, np.ndarray]], Any]


def transitions(rows: int, seed: int) -> dict[str, np.ndarray]:
    """Random transitions: 39 + 28 + 1 + 39 + 1 + 1 + 1 float32, 440 bytes each."""
    generator = np.random.default_rng(seed)
    sizes = {"observation": (OBSERVATION_SIZE,), "action": (ACTION_SIZE,), "reward": ()}
    sizes |= {"next_observation": (OBSERVATION_SIZE,), "mask": (), "weight": (), "monte_carlo_return": ()}
    return {name: generator.random((rows, *size), np.float32) for name, size in sizes.items()}


def fills(capacity: int) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]]:
    """Row numbers, transitions and |TD errors| that fill a buffer."""
    generator = np.random.default_rng(0)
    for start in range(0, capacity, FILL_ROWS):
        errors = generator.exponential(size=FILL_ROWS).astype(np.float32)
        yield np.arange(start, start + FILL_ROWS), transitions(FILL_ROWS, seed=start), errors


# The kit


def kit_replay(sampler: Sampler, offline: int, online: int) -> mixture.Replay:
    """Full storages of the given capacities (0 offline: none), with random priorities."""

    def full(capacity: int) -> tuple[storage.Storage, Any]:
        rows = storage.filled(Transition(**transitions(capacity, seed=0)), capacity)
        index = jnp.arange(capacity)
        errors = np.random.default_rng(0).exponential(size=capacity).astype(np.float32)
        return rows, sampler.update(sampler.insert(sampler.create(capacity), index), index, jnp.asarray(errors))

    none = storage.create(1, OBSERVATION_SIZE, ACTION_SIZE), sampler.create(1)
    offline_rows, offline_state = full(offline) if offline else none
    online_rows, online_state = full(online)
    return mixture.Replay(offline_rows, online_rows, offline_state, online_state)


def kit(kind: str, capacity: int, offline_ratio: float = 0.0) -> Buffer:
    """All transitions are online, as in the peers; with an offline ratio, the offline side has as many of its own."""
    sampler: Sampler = Uniform() if kind == "uniform" else Proportional(ALPHA)
    return kit_buffer(sampler, kit_replay(sampler, capacity if offline_ratio else 0, capacity), offline_ratio)


def kit_buffer(sampler: Sampler, replay: mixture.Replay, offline_ratio: float = 0.0) -> Buffer:
    """The functions that training compiles, with buffers donated as there; the replay is given up."""
    key, ratio, beta = jax.random.key(0), np.float32(offline_ratio), np.float32(BETA)
    calls = iter(range(2**31))

    @partial(jax.jit, static_argnums=2)
    def sample(replay: mixture.Replay, call: Any, batch_size: int) -> Any:
        return mixture.sample(sampler, replay, jax.random.fold_in(key, call), (1, batch_size), ratio, beta)

    update = jax.jit(partial(mixture.update_priorities, sampler), donate_argnums=0)

    def do_sample(batch_size: int) -> Any:
        return jax.block_until_ready(sample(replay, np.int32(next(calls)), batch_size))

    def do_update(sampled: Any, error: Any) -> None:
        nonlocal replay
        replay = jax.block_until_ready(update(replay, *sampled, error))

    def do_add(row: Transition) -> None:
        nonlocal replay
        replay = jax.block_until_ready(learner.add(sampler, replay, row))

    return Buffer(
        do_sample,
        None if isinstance(sampler, Uniform) else do_update,
        do_add,
        convert=lambda error: jnp.asarray(error[None]),
        row=one_row,
    )


def one_row(row: dict[str, np.ndarray]) -> Transition:
    return Transition(**{name: value[0] for name, value in row.items()})


def kit_in_one_call(kind: str, capacity: int) -> OneCall:
    """Adds, samples and writes priorities back as `learning.learn` does, in one call."""
    sampler: Sampler = Uniform() if kind == "uniform" else Proportional(ALPHA)
    replay = kit_replay(sampler, 0, capacity)
    key, ratio, beta = jax.random.key(0), np.float32(0), np.float32(BETA)
    calls = iter(range(2**31))

    @partial(jax.jit, donate_argnums=0)
    def step(replay: mixture.Replay, row: Transition, call: Any, error: jax.Array) -> Any:
        replay = mixture.add(sampler, replay, row)
        batch, offline = mixture.sample(sampler, replay, jax.random.fold_in(key, call), error.shape, ratio, beta)
        return mixture.update_priorities(sampler, replay, batch, offline, error), batch

    def do_step(row: Transition, error: jax.Array) -> None:
        nonlocal replay
        replay, _ = jax.block_until_ready(step(replay, row, np.int32(next(calls)), error))

    return OneCall(do_step, convert=lambda error: jnp.asarray(error[None]), row=one_row)


kit_mixed = partial(kit, offline_ratio=0.5)


# The peers


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
    set_priorities = jax.jit(one.set_priorities, donate_argnums=0) if kind == "prioritized" else None
    add = jax.jit(one.add, donate_argnums=0)
    for index, rows, errors in fills(capacity):
        state = fill(state, rows)
        if set_priorities:
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


# Measuring


def spent(buffer: Buffer | OneCall, row: Any, error: Any, batch_size: int, calls: int) -> dict[str, float]:
    """Mean seconds of each part, in the order of a learner's step, so that each finds the caches as it would there."""
    if isinstance(buffer, OneCall):
        start = time.perf_counter()
        for _ in range(calls):
            buffer.step(row, error)
        return {"step": (time.perf_counter() - start) / calls}
    seconds = {"sample": 0.0, "update": 0.0, "add": 0.0}
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
    each = {part: value / calls for part, value in seconds.items()}
    return each | {"step": sum(each.values())}


def prepare(make: Callable[[str, int], Buffer | OneCall | None]) -> turns.Measure:
    buffers = {(kind, capacity): make(kind, capacity) for kind in KINDS for capacity in CAPACITIES}
    errors = np.random.default_rng(1).exponential(size=max(BATCH_SIZES)).astype(np.float32)
    numpy_row = transitions(1, seed=1)

    def one_turn(calls: int) -> dict[str, float]:
        seconds = {}
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


def bytes_held(kind: str, capacity: int) -> int:
    """Bytes of all arrays that the kit's replay holds for `capacity` online transitions."""
    sampler: Sampler = Uniform() if kind == "uniform" else Proportional(ALPHA)
    create = partial(storage.create, capacity, OBSERVATION_SIZE, ACTION_SIZE)
    shapes = jax.eval_shape(lambda: (create(), sampler.create(capacity)))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


# Tables


def speed_table(kind: str, results: turns.Results) -> list[Sequence[str]]:
    """Medians in microseconds, and each library's step over that of the kit's one call; empty without results."""
    parts = ["add", "sample", "update"] if kind == "prioritized" else ["add", "sample"]
    rows: list[Sequence[str]] = [["capacity, batch, buffer", *parts, "sample + update", "step", "step / kit, one call"]]
    for capacity in CAPACITIES if results else ():
        for batch_size in BATCH_SIZES:
            setting = f"{kind} {capacity} {batch_size}"
            kit_step = statistics.median(results[ONE_CALL][f"{setting} step"])
            for name, items in results.items():
                if f"{setting} step" not in items:
                    continue
                step = statistics.median(items[f"{setting} step"])
                cells = [""] * (len(parts) + 1)
                if f"{setting} add" in items:
                    pairs = zip(items[f"{setting} sample"], items[f"{setting} update"], strict=True)
                    values = [statistics.median(items[f"{setting} {part}"]) for part in parts]
                    values.append(statistics.median(sum(pair) for pair in pairs))
                    cells = [f"{value * 1e6:,.0f}" for value in values]
                cells += [f"{step * 1e6:,.0f}", f"{step / kit_step:.2f}"]
                rows.append([f"10^{len(str(capacity)) - 1}, {batch_size}, {name}", *cells])
    return rows


def growth_table(medians: Mapping[str, Mapping[str, float]]) -> list[Sequence[str]]:
    """Seconds at the largest capacity over those at the smallest."""
    first, last = CAPACITIES[0], CAPACITIES[-1]
    allowed = np.log(last) / np.log(first)
    parts = ("add", "sample", "update", "step")
    rows: list[Sequence[str]] = [["buffer, batch", *parts, "logarithmic"]]
    for name, items in medians.items():
        for batch_size in BATCH_SIZES:
            ends = [[items.get(f"prioritized {end} {batch_size} {part}") for part in parts] for end in (last, first)]
            if ends[0][-1] is None:
                continue
            cells = [f"{large / small:.2f}" if large and small else "" for large, small in zip(*ends, strict=True)]
            rows.append([f"{name}, {batch_size}", *cells, f"{allowed:.2f}"])
    return rows


def memory_table() -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [["capacity, replay of the kit", "data, MB", "held, MB", "held / data"]]
    size = sum(value.nbytes for value in transitions(1, seed=0).values())
    for capacity in CAPACITIES:
        for kind in KINDS:
            data, held = size * capacity, bytes_held(kind, capacity)
            rows.append([f"{capacity:,}, {kind}", f"{data / 1e6:.2f}", f"{held / 1e6:.2f}", f"{held / data:.3f}"])
    return rows


def main() -> None:
    options = turns.arguments(__doc__)
    makers = {
        ONE_CALL: kit_in_one_call,
        "kit": kit,
        "kit, half offline": kit_mixed,
        "cpprb": cpprb,
        "flashbax": flashbax,
        "torchrl": torchrl,
    }
    contenders = [turns.Contender(name, prepare, (make,)) for name, make in makers.items()]
    results = turns.compare(contenders, options.rounds)
    # Again as in an ablation, whose workers have one core each: small compiled calls take longer on several.
    core = turns.one_core()
    alone = [turns.Contender(c.name, c.prepare, c.arguments, core) for c in contenders if core]
    results_on_one_core = turns.compare(alone, options.rounds)
    memory = {f"{kind} {capacity}": bytes_held(kind, capacity) for kind in KINDS for capacity in CAPACITIES}
    tables = {
        "Prioritized replay, all cores, microseconds": speed_table("prioritized", results),
        "Prioritized replay, one core each, microseconds": speed_table("prioritized", results_on_one_core),
        "Uniform replay, all cores, microseconds": speed_table("uniform", results),
        "Uniform replay, one core each, microseconds": speed_table("uniform", results_on_one_core),
        "Growth of the cost from capacity 10^4 to 10^6, prioritized, one core each": growth_table(
            turns.medians(results_on_one_core)
        ),
        "Memory": memory_table(),
    }
    turns.show(
        turns.machine("wsrl-kit", "jax", "cpprb", "flashbax", "torchrl", "torch"),
        tables,
        {"seconds": results, "seconds on one core": results_on_one_core, "bytes": memory},
        options.json,
    )


if __name__ == "__main__":
    main()
