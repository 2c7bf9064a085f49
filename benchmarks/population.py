"""Learning of many seeds at once: `jax.vmap` of the learning step against one process per seed.

A step makes UTD 4 critic updates on batches of 256, with 2 critics of two hidden layers of 256; every seed has an agent
and a replay of 10,000 rows of its own. Contenders:

- vmap: all seeds in one compiled call, on all cores (or the GPU).
- processes: one process per seed, all started together; from as many as there are cores on, each is pinned to one core,
  in turn. Wall-clock until the last has finished. Not on a GPU.

Updates are those of all seeds together per second; memory is that of the process, or of the GPU.
"""

import itertools
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from learner_setup import (
    BATCH,
    BETA,
    NORMALISATION,
    RATIO,
    create_agent,
    full_replay,
    parts,
    seconds_each,
    turn_length,
)
from turns import Contender, Measure, arguments, compare, machine, medians, show

from wsrl_kit.training.learner import learning_step, train_step

WIDTHS, ENSEMBLE = (256, 256), 2
UTD = 4
OFFLINE_ROWS, ONLINE_ROWS = 2_000, 8_000
SEEDS = (1, 4, 16)
MANY_SEEDS = 64
GPU_GOAL = 30
MEBIBYTE = 2**20

CHILD = "one-seed"
"""First argument of a process that is one of many."""

SECONDS, MEMORY, STATE = "seconds per critic update", "peak bytes", "bytes of agents and replays"


def one_seed() -> Callable[[int], None]:
    """Runs the kit's own compiled step."""
    static, sampler = parts(WIDTHS, ENSEMBLE)
    agent = create_agent(static, jax.random.key(0), *NORMALISATION)
    replay, key, steps = full_replay(sampler, OFFLINE_ROWS, ONLINE_ROWS), jax.random.key(1), itertools.count()

    def run(repeats: int) -> None:
        nonlocal agent, replay
        for step in itertools.islice(steps, repeats):
            agent, replay, _ = train_step(
                static, sampler, (UTD, BATCH), agent, replay, key, np.int32(step), RATIO, BETA
            )
        jax.block_until_ready((agent, replay))

    return run


def alone() -> Measure:
    """One seed as in fine-tuning, free to use all cores."""
    run = one_seed()
    repeats = turn_length(run)
    return lambda: {SECONDS: seconds_each(run, repeats) / UTD, MEMORY: peak_bytes()}


def together(seeds: int) -> Measure:
    """All seeds in one call: the seed axis leads in agent, replay and key."""
    static, sampler = parts(WIDTHS, ENSEMBLE)

    def step_of_all(agents: Any, replays: Any, keys: jax.Array, step: Any) -> tuple[Any, Any]:
        def step_of_one(agent: Any, replay: Any, key: jax.Array) -> tuple[Any, Any]:
            return learning_step(static, sampler, (UTD, BATCH), agent, replay, key, step, RATIO, BETA)[:2]

        return jax.vmap(step_of_one)(agents, replays, keys)

    compiled = jax.jit(step_of_all, donate_argnums=(0, 1))
    create = jax.jit(jax.vmap(lambda key: create_agent(static, key, *NORMALISATION)))
    agents, keys = create(jax.random.split(jax.random.key(0), seeds)), jax.random.split(jax.random.key(1), seeds)
    # The same data for every seed: what they are doesn't change the work.
    replays = jax.tree.map(
        lambda leaf: jnp.repeat(leaf[None], seeds, axis=0), full_replay(sampler, OFFLINE_ROWS, ONLINE_ROWS)
    )
    state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves((agents, replays)))
    steps = itertools.count()

    def run(repeats: int) -> None:
        nonlocal agents, replays
        for step in itertools.islice(steps, repeats):
            agents, replays = compiled(agents, replays, keys, np.int32(step))
        jax.block_until_ready((agents, replays))

    repeats = turn_length(run)
    return lambda: {
        SECONDS: seconds_each(run, repeats) / (seeds * UTD),
        MEMORY: peak_bytes(),
        STATE: state_bytes,
    }


class Child:
    """A process with one seed, that runs as many steps as it is told to on its standard input."""

    def __init__(self, core: int | None) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), CHILD]
        everything = available_cores()
        if core is not None:
            # Inherited, so that all of its threads are pinned from the start.
            os.sched_setaffinity(0, {core})
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if core is not None:
            os.sched_setaffinity(0, everything)

    def start(self, repeats: int) -> None:
        print(repeats, file=self._process.stdin, flush=True)

    def wait(self) -> float:
        """Peak bytes of its memory, once it has finished."""
        answer = self._process.stdout.readline()
        if not answer:
            raise ChildProcessError("a process of one seed ended early; its error is above")
        return float(answer)


def child() -> None:
    run = one_seed()
    for line in sys.stdin:
        run(int(line))
        print(peak_bytes(), flush=True)


def processes(seeds: int) -> Measure:
    cores = available_cores()
    pinned = cores and seeds >= len(cores)
    children = [Child(cores[index % len(cores)] if pinned else None) for index in range(seeds)]
    peaks: list[float] = []

    def run(repeats: int) -> None:
        for each in children:
            each.start(repeats)
        peaks[:] = [each.wait() for each in children]

    repeats = turn_length(run)
    return lambda: {SECONDS: seconds_each(run, repeats) / (seeds * UTD), MEMORY: sum(peaks)}


def available_cores() -> list[int]:
    """Cores that this process may use; empty where the operating system doesn't pin."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def peak_bytes() -> float:
    """Most memory this process has held so far, on the GPU if it has one."""
    statistics = jax.devices()[0].memory_stats()
    if statistics is not None:
        return statistics["peak_bytes_in_use"]
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    if sys.argv[1:] == [CHILD]:
        child()
        return
    options = arguments(__doc__)
    # Several processes share a GPU.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    gpu = jax.devices()[0].platform == "gpu"
    many = [Contender(f"vmap {MANY_SEEDS}", together, (MANY_SEEDS,))]
    contenders = [Contender("one seed", alone)]
    contenders += [Contender(f"vmap {seeds}", together, (seeds,)) for seeds in SEEDS]
    if not gpu:
        contenders += [Contender(f"processes {seeds}", processes, (seeds,)) for seeds in SEEDS if seeds > 1]
    results = compare(contenders + many * gpu, options.rounds)
    # On a CPU its steps take long, and its speed is that of fewer seeds: once is enough for its memory.
    results |= {} if gpu else compare(many, 1)
    show(machine("jax", "jaxlib", "flax", "numpy"), tables(medians(results), gpu), results, options.json)


def tables(measured: dict[str, dict[str, float]], gpu: bool) -> dict[str, list[list[str]]]:
    def row(name: str, label: str, seeds: int) -> list[str]:
        items = measured[name]
        speed = measured["one seed"][SECONDS] / items[SECONDS]
        same = measured.get(f"processes {seeds}", measured["one seed"] if seeds == 1 else None)
        against = "" if same is None else f"{same[SECONDS] / items[SECONDS]:.2f}"
        per_seed = items[MEMORY] / seeds / MEBIBYTE
        return [label, str(seeds), f"{1 / items[SECONDS]:,.0f}", f"{speed:.2f}", against, f"{per_seed:,.0f}"]

    speeds = [["", "seeds", "updates/s, all seeds", "times one seed", "times processes", "MiB per seed"]]
    speeds.append(row("one seed", "one process, all cores", 1))
    for seeds in SEEDS:
        if f"processes {seeds}" in measured:
            speeds.append(row(f"processes {seeds}", "processes", seeds))
        speeds.append(row(f"vmap {seeds}", "vmap", seeds))
    speeds.append(row(f"vmap {MANY_SEEDS}", "vmap" if gpu else "vmap, one turn", MANY_SEEDS))

    one, many = measured["vmap 1"], measured[f"vmap {MANY_SEEDS}"]
    further = (many[MEMORY] - one[MEMORY]) / (MANY_SEEDS - 1)
    memory = [["", "MiB"]]
    memory.append(["agent and replay, by their arrays' sizes", f"{many[STATE] / MANY_SEEDS / MEBIBYTE:.1f}"])
    memory.append([f"each seed after the first, by the peaks of {MANY_SEEDS} and 1", f"{further / MEBIBYTE:.1f}"])
    found = {SPEEDS_NOTE: speeds, "Memory of one more seed under vmap": memory}
    if gpu:
        speed = measured["one seed"][SECONDS] / many[SECONDS]
        found["Goal"] = [
            ["goal", "wanted", "found"],
            [f"{MANY_SEEDS} seeds, times one seed", f">= {GPU_GOAL}", f"{speed:.1f}"],
        ]
    return found


SPEEDS_NOTE = (
    f"Critic updates per second (UTD {UTD}, batch {BATCH}, {ENSEMBLE} critics, {WIDTHS[0]} x {WIDTHS[1]}); memory is "
    "the peak of all processes by the number of seeds"
)


if __name__ == "__main__":
    main()
