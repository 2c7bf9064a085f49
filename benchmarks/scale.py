"""Replay at large scale: measured beside what its sizes say on paper.

State transitions (440 bytes): the kit's prioritized replay at 10^6 and 10^7, batch 256. On paper, bytes are those of
the rows and of the tree, and times are those at 10^6 times the ratio of the trees' depths. Measured memory is the
growth of the process's peak.

Two-camera image transitions (98,304 bytes, each frame stored once): only the memory traffic of frames that XLA moves,
on 20,000 rows; on paper it is the time of copying as many contiguous bytes. On a processor it is why the kit's image
replay, which `pixels.py` measures, moves frames with NumPy.
"""

import math
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import replay
import turns

from wsrl_kit.replay import mixture, storage
from wsrl_kit.replay.samplers import Proportional

SMALL, LARGE = 10**6, 10**7
BATCH_SIZE = 256
WARMUP_CALLS, CALLS = 10, 50

CAMERAS = (2, 128, 128, 3)
FRAME_BYTES = math.prod(CAMERAS)
FRAME_ROWS, IMAGE_TRANSITIONS = 20_000, 2 * 10**5
FRAME_CALLS = 5


def peak_memory() -> int:
    """The process's largest memory so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# State transitions


def full_replay(sampler: Proportional, capacity: int) -> mixture.Replay:
    """Full, with random priorities. The rows are zeros: what is in them does not change the cost."""
    none = storage.create(1, replay.OBSERVATION_SIZE, replay.ACTION_SIZE)
    online = storage.create(capacity, replay.OBSERVATION_SIZE, replay.ACTION_SIZE)._replace(size=jnp.int32(capacity))
    update = jax.jit(sampler.update, donate_argnums=0)
    state = sampler.create(capacity)
    for index, errors in priorities(capacity):
        state = update(state, index, errors)
    return jax.block_until_ready(mixture.Replay(none, online, sampler.create(1), state))


def priorities(capacity: int) -> Any:
    generator = np.random.default_rng(0)
    for start in range(0, capacity, SMALL):
        yield np.arange(start, start + SMALL, dtype=np.int32), generator.exponential(size=SMALL).astype(np.float32)


def states(capacity: int) -> turns.Measure:
    jax.block_until_ready(jnp.zeros(1) + 1)
    before = peak_memory()
    sampler = Proportional(replay.ALPHA)
    buffer = replay.kit_buffer(sampler, full_replay(sampler, capacity))
    row = buffer.row(replay.transitions(1, seed=1))
    error = buffer.convert(np.random.default_rng(1).exponential(size=BATCH_SIZE).astype(np.float32))
    replay.spent(buffer, row, error, BATCH_SIZE, WARMUP_CALLS)

    def measure() -> Mapping[str, float]:
        seconds = replay.spent(buffer, row, error, BATCH_SIZE, CALLS)
        return seconds | {"bytes": peak_memory() - before}

    return measure


def depth(capacity: int) -> int:
    """Levels of the sum tree."""
    return len(jax.eval_shape(partial(Proportional(replay.ALPHA).create, capacity)).tree.levels)


# Frames


def frames() -> turns.Measure:
    held = jnp.zeros((FRAME_ROWS, *CAMERAS), jnp.uint8) + jnp.uint8(1)
    contiguous = np.ones((2 * BATCH_SIZE, *CAMERAS), np.uint8)
    copied = np.empty_like(contiguous)
    frame = np.ones(CAMERAS, np.uint8)
    generator = np.random.default_rng(0)

    @jax.jit
    def gather(held: jax.Array, index: jax.Array) -> tuple[jax.Array, jax.Array]:
        # The next transition's frames are this one's next frames.
        return tuple(held.at[rows].get(mode="promise_in_bounds") for rows in (index, index + 1))

    @partial(jax.jit, donate_argnums=0)
    def write(held: jax.Array, frame: jax.Array, row: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_index_in_dim(held, frame, row, 0)

    def measure() -> Mapping[str, float]:
        nonlocal held
        seconds = {"gather": 0.0, "write": 0.0, "copy": 0.0}
        for _ in range(FRAME_CALLS):
            index = generator.integers(0, FRAME_ROWS - 1, BATCH_SIZE).astype(np.int32)
            start = time.perf_counter()
            jax.block_until_ready(gather(held, index))
            after_gather = time.perf_counter()
            held = jax.block_until_ready(write(held, frame, index[0]))
            after_write = time.perf_counter()
            np.copyto(copied, contiguous)
            end = time.perf_counter()
            seconds["gather"] += after_gather - start
            seconds["write"] += after_write - after_gather
            seconds["copy"] += end - after_write
        return {name: value / FRAME_CALLS for name, value in seconds.items()}

    measure()
    return measure


# Tables


def state_table(small: Mapping[str, float], large: Mapping[str, float]) -> list[Sequence[str]]:
    paper = replay.bytes_held("prioritized", LARGE)
    deeper = depth(LARGE) / depth(SMALL)
    rows: list[Sequence[str]] = [["10^7 state transitions", "measured", "on paper", "measured / on paper"]]
    rows.append(["memory, GB", f"{large['bytes'] / 1e9:.2f}", f"{paper / 1e9:.2f}", f"{large['bytes'] / paper:.2f}"])
    for part in ("sample", "update", "add"):
        expected = small[part] * deeper
        rows.append(
            [f"{part}, us", f"{large[part] * 1e6:,.0f}", f"{expected * 1e6:,.0f}", f"{large[part] / expected:.2f}"]
        )
    return rows


def frame_table(measured: Mapping[str, float]) -> list[Sequence[str]]:
    per_byte = measured["copy"] / (2 * BATCH_SIZE * FRAME_BYTES)
    rows: list[Sequence[str]] = [["memory traffic of frames, no image replay", "measured", "on paper", "ratio"]]
    for name, item, frames_moved in (
        (f"gather {BATCH_SIZE} observations and next observations, us", "gather", 2 * BATCH_SIZE),
        ("write one transition's frames, us", "write", 1),
    ):
        expected = per_byte * frames_moved * FRAME_BYTES
        rows.append(
            [name, f"{measured[item] * 1e6:,.0f}", f"{expected * 1e6:,.0f}", f"{measured[item] / expected:.2f}"]
        )
    gigabytes = IMAGE_TRANSITIONS * FRAME_BYTES / 1e9
    rows.append([f"{IMAGE_TRANSITIONS:,} transitions' frames, GB", "not measured", f"{gigabytes:.1f}", "-"])
    return rows


def main() -> None:
    options = turns.arguments(__doc__)
    results = turns.compare(
        [
            turns.Contender("10^6 states", states, (SMALL,)),
            turns.Contender("10^7 states", states, (LARGE,)),
            turns.Contender("frames", frames),
        ],
        options.rounds,
    )
    medians = turns.medians(results)
    tables = {
        f"State transitions, prioritized, batch {BATCH_SIZE}": state_table(
            medians["10^6 states"], medians["10^7 states"]
        ),
        f"Two-camera frames: the cost of their memory traffic on {FRAME_ROWS:,} rows, not of an image replay": (
            frame_table(medians["frames"])
        ),
    }
    turns.show(turns.machine("wsrl-kit", "jax"), tables, results, options.json)


if __name__ == "__main__":
    main()
