"""Learning from two cameras, beside the time that its arithmetic takes at the device's best rate.

HIL-SERL's set-up: two 128x128 cameras, a frozen ResNet-10 (here with random weights), 19 numbers of state, 6 of
action, random crops, two critics, hidden layers of 256, two critic updates of a batch of 256 and one actor update.
Beside it the same with the small encoder, which is trained. The batch lies on the device already: what it takes to put
one together is in `pixels.py`. Operations are those XLA counts in the compiled step; the best rate is that of float32
matrix products with JAX's default precision on the same device. On a processor take a small batch: --batch 4.
"""

import argparse
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import turns
from learner_setup import seconds_each, turn_length

from wsrl_kit.agent import sac
from wsrl_kit.agent.sac import SACConfig, SACState
from wsrl_kit.agent.vision import PixelConfig
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.agent.transition import Transition
from wsrl_kit.training.learner import preprocess, select_update

CAMERAS = ("wrist_1", "wrist_2")
STATE, ACTION, UTD = 19, 6, 2
ENCODERS = {"resnet10_frozen": ("resnet10", True), "small": ("small", False)}
PRODUCTS = (1024, 2048, 4096)


def agent_of(encoder: str) -> tuple[SACConfig, SACState]:
    kind, is_frozen = ENCODERS[encoder]
    pixels = PixelConfig(CAMERAS, 128, 128, encoder=kind, is_frozen=is_frozen)
    config = sac.from_parameters(WSRLConfig.of_preset("hil_serl"), STATE, ACTION, pixels)
    create = jax.jit(sac.create, static_argnums=0)
    return config, create(config, jax.random.key(0), np.zeros(STATE, np.float32), np.ones(STATE, np.float32))


def batch_of(size: int, updates: int = UTD) -> Transition:
    generator = np.random.default_rng(0)

    def images() -> dict[str, np.ndarray]:
        shape = (updates, size, 1, 128, 128, 3)
        return {camera: generator.integers(0, 256, shape, dtype=np.uint8) for camera in CAMERAS}

    rows = (updates, size)
    batch = Transition(
        observation=generator.standard_normal((*rows, STATE), np.float32),
        action=generator.uniform(-1, 1, (*rows, ACTION)).astype(np.float32),
        reward=np.zeros(rows, np.float32),
        next_observation=generator.standard_normal((*rows, STATE), np.float32),
        mask=np.ones(rows, np.float32),
        weight=np.ones(rows, np.float32),
        monte_carlo_return=np.zeros(rows, np.float32),
        images=images(),
        next_images=images(),
    )
    return jax.device_put(batch)


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def step(config: SACConfig, agent: SACState, batch: Transition, key: jax.Array) -> tuple[SACState, sac.Metrics]:
    agent, metrics, _ = select_update(config)(config, agent, preprocess(config, agent, batch, key), key)
    return agent, metrics


def operations(encoder: str, size: int) -> float:
    """Floating-point operations of one step, as XLA counts them."""
    config, agent = agent_of(encoder)
    # XLA counts what a loop repeats once; a step of one update has no loop, and every part of it is done UTD times.
    compiled = step.lower(config, agent, batch_of(size, updates=1), jax.random.key(0)).compile()
    return UTD * float(compiled.cost_analysis()["flops"])


def updates(encoder: str, size: int) -> turns.Measure:
    (config, agent), batch = agent_of(encoder), batch_of(size)

    def run(repeats: int) -> None:
        nonlocal agent
        for number in range(repeats):
            agent, metrics = step(config, agent, batch, jax.random.key(number))
        jax.block_until_ready(metrics)

    repeats = turn_length(run)
    return lambda: {"step": seconds_each(run, repeats)}


def products() -> turns.Measure:
    factors = {size: jnp.ones((size, size)) for size in PRODUCTS}
    product = jax.jit(jnp.dot)

    def run(size: int, repeats: int) -> None:
        for _ in range(repeats):
            result = product(factors[size], factors[size])
        result.block_until_ready()

    repeats = {size: turn_length(partial(run, size)) for size in PRODUCTS}
    return lambda: {str(size): seconds_each(partial(run, size), repeats[size]) for size in PRODUCTS}


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--batch", type=int, default=256)
    own, sys.argv[1:] = parser.parse_known_args()
    options = turns.arguments(f"{__doc__}\n--batch N: examples per critic update (default 256)")
    contenders = [turns.Contender(name, updates, (name, own.batch)) for name in ENCODERS]
    results = turns.compare([*contenders, turns.Contender("products", products)], options.rounds)
    medians = turns.medians(results)
    rate = max(2 * int(size) ** 3 / seconds for size, seconds in medians["products"].items())
    rows = [
        ["encoder", "ms a step", "critic updates / s", "GFLOP a step", "GFLOP/s", "best rate", "time of arithmetic"]
    ]
    for name in ENCODERS:
        seconds, count = medians[name]["step"], operations(name, own.batch)
        cells = [
            f"{seconds * 1e3:,.1f}",
            f"{UTD / seconds:,.1f}",
            f"{count / 1e9:,.1f}",
            f"{count / seconds / 1e9:,.0f}",
        ]
        rows.append([name, *cells, f"{rate / 1e9:,.0f}", f"{count / rate / seconds:.0%}"])
    title = f"Learning from two 128x128 cameras on {jax.devices()[0].device_kind}, batch {own.batch}"
    turns.show(turns.machine("wsrl-kit", "jax", "numpy"), {title: rows}, results, options.json)


if __name__ == "__main__":
    main()
