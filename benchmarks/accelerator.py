"""What a GPU gives, in at most 8 minutes: learning beside its arithmetic, many seeds, images, frames to the device.

- States: the update of one environment step (UTD 4, batch 256, 256 x 256), 2 and 10 critics.
- Seeds: 1, 16 and 64 under `jax.vmap`, each sampling from a replay of its own in host memory.
- Images: HIL-SERL's set-up, two cameras of 128x128, two critic updates and one actor update; a frozen ResNet-10 (with
  random weights) and a trained one.
- Frames: two cameras' images of a batch, from host memory to the device.

Operations are those XLA counts; the best rate is that of float32 matrix products with JAX's default precision.
`--small` takes sizes that a processor does in a minute.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import turns
from learner_setup import BATCH, agent_of, full_replay, seconds_each, turn_length

from wsrl_kit.agent import sac
from wsrl_kit.agent.transition import Transition, packed
from wsrl_kit.agent.vision import PixelConfig
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.replay.mixture import Batch
from wsrl_kit.training import learner

UTD, ENSEMBLES = 4, (2, 10)
CAMERAS, STATE, ACTION, IMAGE_UTD = ("wrist_1", "wrist_2"), 19, 6, 2
ENCODERS = {"resnet10, frozen": ("resnet10", True), "resnet10, trained": ("resnet10", False)}
ROWS = 10_000
KEY = jax.random.key(1)


def measured(run: Callable[[int], Any], rounds: int) -> float:
    """Median seconds of one repeat."""
    repeats = turn_length(run)
    return statistics.median(seconds_each(run, repeats) for _ in range(rounds))


def always(batch: Batch) -> Callable[[int], Batch]:
    """The same batch for every step."""
    return lambda count: batch


def learning(config: Any, agent: Any, batch: Callable[[int], Any], step: Callable[..., Any]) -> Callable[[int], None]:
    """Repeats of a step that takes over the agent."""
    state, count = agent, 0

    def run(repeats: int) -> None:
        nonlocal state, count
        for _ in range(repeats):
            state, metrics, _ = step(config, state, batch(count), KEY, np.int32(count))
            count += 1
        jax.block_until_ready(metrics)

    return run


def gflop(step: Any, *arguments: Any, repeats: int) -> float:
    """10^9 operations; XLA counts once what a loop repeats, so the step compiled has one critic update."""
    return repeats * float(step.lower(*arguments).compile().cost_analysis()["flops"]) / 1e9


def multiply(product: Callable[..., jax.Array], factor: jax.Array, repeats: int) -> None:
    for _ in range(repeats):
        product(factor, factor).block_until_ready()


def best_rate(rounds: int) -> float:
    """GFLOP/s of the best matrix product."""
    rates = []
    for size in (1024, 2048, 4096):
        factor, product = jnp.ones((size, size)), jax.jit(jnp.dot)
        seconds = measured(partial(multiply, product, factor), rounds)
        rates.append(2 * size**3 / seconds / 1e9)
    return max(rates)


def states(rounds: int, best: float) -> list[list[str]]:
    rows = [["critics", "ms a step", "GFLOP a step", "GFLOP/s", "time of arithmetic"]]
    for ensemble in ENSEMBLES:
        batch, _ = full_replay(ROWS, ROWS).sample(0, (UTD, BATCH), 0.5, 0.5)
        config, agent = agent_of(ensemble)
        one = jax.tree.map(lambda leaf: leaf[:1], batch)
        needed = gflop(learner.learn, config, agent, one, KEY, np.int32(0), repeats=UTD)
        on_device = jax.device_put(batch)
        seconds = measured(learning(config, agent, always(on_device), learner.learn), rounds)
        rows.append([str(ensemble), *_cells(seconds, needed, best)])
    return rows


def _cells(seconds: float, needed: float, best: float) -> list[str]:
    return [f"{1e3 * seconds:.2f}", f"{needed:.2f}", f"{needed / seconds:,.0f}", f"{needed / best / seconds:.0%}"]


def seeds(counts: tuple[int, ...], rounds: int) -> list[list[str]]:
    rows, one = [["seeds", "ms a step", "critic updates/s, all seeds", "times one seed"]], 0.0

    @partial(jax.jit, static_argnums=0, donate_argnums=1)
    def step(config: Any, agents: Any, batch: Batch, key: Any, count: Any) -> Any:
        return jax.vmap(partial(learner.learning_step, config), in_axes=(0, 0, None, None))(agents, batch, key, count)

    for count in counts:
        replays = [full_replay(ROWS // 5, ROWS, seed) for seed in range(count)]

        def batch(number: int, replays: list = replays) -> Batch:
            sampled = [replay.sample(number, (UTD, BATCH), 0.5, 0.5)[0] for replay in replays]
            return jax.tree.map(lambda *leaves: np.stack(leaves), *sampled)

        config, agents = agent_of(2, count)
        seconds = measured(learning(config, agents, batch, step), rounds)
        speed = count * UTD / seconds
        one = one or speed
        rows.append([str(count), f"{1e3 * seconds:.2f}", f"{speed:,.0f}", f"{speed / one:.1f}"])
    return rows


def images(size: int, rounds: int, best: float) -> list[list[str]]:
    rows = [["encoder", "ms a step", "GFLOP a step", "GFLOP/s", "time of arithmetic"]]
    generator = np.random.default_rng(0)
    shape = (IMAGE_UTD, size)
    sides = [
        {camera: generator.integers(0, 256, (*shape, 1, 128, 128, 3), dtype=np.uint8) for camera in CAMERAS}
        for _ in range(2)
    ]
    for name, (kind, is_frozen) in ENCODERS.items():
        pixels = PixelConfig(CAMERAS, 128, 128, encoder=kind, is_frozen=is_frozen)
        config = sac.from_parameters(WSRLConfig.of_preset("hil_serl"), STATE, ACTION, pixels)
        agent = jax.jit(partial(sac.create, config))(KEY, np.zeros(STATE, np.float32), np.ones(STATE, np.float32))
        batch = jax.device_put(Batch(packed(blank(shape)), None, *sides))
        one = jax.tree.map(lambda leaf: leaf[:1], batch)
        needed = gflop(learner.learn, config, agent, one, KEY, np.int32(0), repeats=IMAGE_UTD)
        seconds = measured(learning(config, agent, always(batch), learner.learn), rounds)
        rows.append([name, *_cells(seconds, needed, best)])
    return rows


def blank(shape: tuple[int, int]) -> Transition:
    """Zeros that bootstrap and count; what they hold changes no time."""
    one, zero = np.ones(shape, np.float32), np.zeros(shape, np.float32)
    observation, action = (np.zeros((*shape, size), np.float32) for size in (STATE, ACTION))
    numbers: Any = (observation, action, zero, observation, one, one, zero)
    return Transition(*numbers)


def frames(size: int, rounds: int) -> list[list[str]]:
    batch = np.ones((2 * len(CAMERAS) * size, 128, 128, 3), np.uint8)
    seconds = measured(lambda n: [jax.device_put(batch).block_until_ready() for _ in range(n)], rounds)
    cells = [f"{1e3 * seconds:.1f}", f"{len(batch) / seconds:,.0f}", f"{batch.nbytes / seconds / 1e9:.1f}"]
    return [["frames of 128x128", "ms a batch", "frames/s", "GB/s"], [str(len(batch)), *cells]]


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--small", action="store_true")
    own, sys.argv[1:] = parser.parse_known_args()
    options = turns.arguments(__doc__)
    size, counts = (4, (1, 4)) if own.small else (256, (1, 16, 64))
    best = best_rate(options.rounds)
    tables = {
        f"States, UTD {UTD}, batch {BATCH}; best product {best:,.0f} GFLOP/s": states(options.rounds, best),
        f"Seeds in one call, UTD {UTD}, batch {BATCH}, two critics": seeds(counts, options.rounds),
        f"Two 128x128 cameras, batch {size}": images(size, options.rounds, best),
        "From host memory to the device": frames(size, options.rounds),
    }
    about = turns.machine("wsrl-kit", "jax", "numpy") | {"processor": jax.devices()[0].device_kind}
    turns.show(about, tables, tables, options.json)


if __name__ == "__main__":
    main()
