"""One environment step's learning against what the machine's matrix products allow, and against its peers.

A step samples by ratio and priority, makes UTD critic updates and one actor and temperature update on all their rows,
and writes the priorities back, in one compiled call. Critics and actor have two hidden layers of 256, the batch is 256,
an observation has 39 numbers and an action 28; replay holds 100,000 online and 20,000 offline rows. Beside it:

- products: the best float32 rate of NumPy's and XLA's matrix products, over several sizes.
- limit: the step's own matrix products, same shapes and order, compiled with nothing in between.
- sbx-rl and stable-baselines3: `train` of their SAC on a full buffer, with as many critic updates.

Milliseconds are medians over the rounds; rates are needed floating-point operations (`needed_gflop`) by that time.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float
from learner_setup import (
    ACTION,
    BATCH,
    BETA,
    NORMALISATION,
    OBSERVATION,
    RATIO,
    SUBSET,
    create_agent,
    full_replay,
    parts,
    seconds_each,
    transitions,
    turn_length,
)
from turns import Contender, Measure, arguments, compare, machine, medians, show

from wsrl_kit.training.learner import train_step

WIDTHS = (256, 256)
ENSEMBLES = (2, 10)
UTDS = (1, 4, 20)
OFFLINE_ROWS, ONLINE_ROWS = 20_000, 100_000
PRODUCTS: Mapping[str, tuple[int, ...]] = {
    "512": (512, 512),
    "1024": (1024, 1024),
    "2048": (2048, 2048),
    "2 x 256": (2, 256, 256),
    "10 x 256": (10, 256, 256),
}

OFFICIAL = {2: (3.1, 0.078), 10: (12.6, 0.335)}
"""Official WSRL (jax 0.4.28) at UTD 4, on another machine: GFLOP as counted there, and seconds, by critics."""

OFFICIAL_PRODUCT_RATE = (130.0, 148.0)
"""GFLOP/s of that machine's best float32 matrix products, two cores."""

ACTOR_EACH = "with an actor update each"

SHARE_GOAL, SHARE_TIMES_OFFICIAL_GOAL, PEER_GOAL = 0.7, 2.5, 1.5


def needed_gflop(
    observation: int, action: int, widths: Sequence[int], ensemble: int, subset: int, critic_rows: int, actor_rows: int
) -> float:
    """10^9 floating-point operations that a step can't do without: 2 per multiply-add of its matrix products.

    `critic_rows` and `actor_rows` are those of all the step's critic and actor updates together.

    Elementwise work is not counted. A layer's forward pass, its weights' gradient and its input's gradient are one
    product each, of the same size; nobody needs the gradient of an input that is data.
    """
    critic_widths = (observation + action, *widths, 1)
    # The actor's last layer gives mean and standard deviation.
    actor_widths = (observation, *widths, 2 * action)
    critic, actor = (sum(a * b for a, b in itertools.pairwise(sizes)) for sizes in (critic_widths, actor_widths))
    critic_first, actor_first = critic_widths[0] * widths[0], observation * widths[0]
    # Next action; target; each critic forward, weights' gradient, and inputs' gradient down to the first layer.
    critic_update = actor + subset * critic + ensemble * (2 * critic + critic - critic_first)
    # Actor forward and backward; each critic forward, and backward down to the action.
    actor_update = (2 * actor + actor - actor_first) + ensemble * (2 * critic - critic_first + action * widths[0])
    return 2 * (critic_rows * critic_update + actor_rows * actor_update) / 1e9


def kit(ensemble: int) -> Measure:
    static, sampler = parts(WIDTHS, ensemble)
    agent = create_agent(static, jax.random.key(0), *NORMALISATION)
    replay = full_replay(sampler, OFFLINE_ROWS, ONLINE_ROWS)
    key, steps = jax.random.key(1), itertools.count()

    def run(utd: int, repeats: int) -> None:
        nonlocal agent, replay
        for step in itertools.islice(steps, repeats):
            shape = (utd, BATCH)
            agent, replay, _ = train_step(static, sampler, shape, agent, replay, key, np.int32(step), RATIO, BETA)
        jax.block_until_ready((agent, replay))

    return timed(run, UTDS)


def limit(ensemble: int) -> Measure:
    """The step's matrix products alone, in the fastest of the forms tried: the critics as batched products."""
    generator = np.random.default_rng(0)

    def normal(*shape: int) -> Array:
        return jnp.asarray(generator.standard_normal(shape, np.float32))

    def network(leading: tuple[int, ...], sizes: Sequence[int]) -> list[Array]:
        return [normal(*leading, *shape) / np.sqrt(shape[0]) for shape in itertools.pairwise(sizes)]

    actor = network((), (OBSERVATION, *WIDTHS, 2 * ACTION))
    critic, target = (network((size,), (OBSERVATION + ACTION, *WIDTHS, 1)) for size in (ensemble, SUBSET))
    compiled = jax.jit(step_products)
    data = {
        utd: (normal(utd, BATCH, OBSERVATION), normal(utd, BATCH, ACTION), normal(utd, BATCH, OBSERVATION))
        for utd in UTDS
    }

    def run(utd: int, repeats: int) -> None:
        for _ in range(repeats):
            jax.block_until_ready(compiled(actor, critic, target, *data[utd]))

    for utd in UTDS:
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(compiled(actor, critic, target, *data[utd]))):
            raise ValueError(f"the chain of products at UTD {utd} overflows: it no longer stands for the step's")
    return timed(run, UTDS)


def step_products(
    actor: list[Array],
    critic: list[Array],
    target: list[Array],
    observation: Float[Array, "utd batch observation"],
    action: Float[Array, "utd batch action"],
    next_observation: Float[Array, "utd batch observation"],
) -> tuple[list[Array], list[Array], list[Array]]:
    """Each product takes what the one before gave: gradients are the next update's weights, so none can be left out."""

    def critic_update(
        networks: tuple[list[Array], list[Array]], batch: tuple[Array, Array, Array]
    ) -> tuple[tuple[list[Array], list[Array]], None]:
        critic, target = networks
        observation, action, next_observation = batch
        next_action = forward(actor, next_observation)[-1][:, :ACTION]
        next_value = forward(target, critic_inputs(next_observation, next_action, len(target[0])))[-1]
        layers = forward(critic, critic_inputs(observation, action, len(critic[0])))
        slope = kept_in_range(layers[-1] - next_value.min(axis=0))
        return (weight_gradients(critic, layers, slope), [weights[:SUBSET] for weights in critic]), None

    (critic, target), _ = jax.lax.scan(critic_update, (critic, target), (observation, action, next_observation))
    rows = observation.reshape(-1, OBSERVATION)
    actor_layers = forward(actor, rows)
    value = forward(critic, critic_inputs(rows, actor_layers[-1][:, :ACTION], len(critic[0])))[-1]
    slope = kept_in_range(value)
    for weights in critic[:0:-1]:
        slope = slope @ weights.mT
    slope = (slope @ critic[0][:, OBSERVATION:].mT).sum(axis=0)
    return weight_gradients(actor, actor_layers, jnp.concatenate([slope, slope], axis=1)), critic, target


def critic_inputs(observation: Array, action: Array, critics: int) -> Float[Array, "ensemble batch input"]:
    inputs = jnp.concatenate([observation, action], axis=1)
    return jnp.broadcast_to(inputs, (critics, *inputs.shape))


def forward(network: list[Array], inputs: Array) -> list[Array]:
    """Inputs, and every layer's outputs."""
    layers = [inputs]
    for weights in network:
        layers.append(layers[-1] @ weights)
    return layers


def weight_gradients(network: list[Array], layers: list[Array], slope: Array) -> list[Array]:
    """Gradients of all weights, from the slope of the last layer's outputs."""
    gradients = [layers[-2].mT @ slope]
    for weights, inputs in zip(network[:0:-1], layers[-3::-1], strict=True):
        slope = slope @ weights.mT
        gradients.append(inputs.mT @ slope)
    return gradients[::-1]


def kept_in_range(slope: Float[Array, "ensemble batch 1"]) -> Float[Array, "ensemble batch 1"]:
    """One number a row, scaled so that gradients taken as weights neither grow nor vanish over the updates.

    Values are products of all three layers' weights, gradients of two and the slope: with the slope's size to the power
    1 - 5/3, the product of the three sizes forgets what it was.
    """
    return slope * jnp.mean(jnp.square(slope), axis=1, keepdims=True) ** (-5 / 6) / np.sqrt(BATCH)


def sbx(ensemble: int) -> Measure:
    """Its SAC with the kit's network, as far as it allows: LayerNorm in the critics only."""
    from sbx import SAC

    network = {"net_arch": list(WIDTHS), "n_critics": ensemble, "layer_norm": True, "activation_fn": jnp.tanh}

    def model(policy_delay: int) -> Any:
        return SAC("MlpPolicy", Spaces(), policy_delay=policy_delay, **peer_options(network))

    # When the delayed update comes is static in its compiled program: a model for each UTD never has to compile again.
    once = {str(utd): (utd, model(policy_delay=utd)) for utd in UTDS}
    each = {f"{utd} {ACTOR_EACH}": (utd, model(policy_delay=1)) for utd in UTDS}
    return peer(once | each)


def stable_baselines3(ensemble: int) -> Measure:
    """Its SAC with the kit's sizes; LayerNorm and fewer actor updates can't be set. Threads are torch's default."""
    import torch
    from stable_baselines3 import SAC

    network = {"net_arch": list(WIDTHS), "n_critics": ensemble, "activation_fn": torch.nn.Tanh}
    model = SAC("MlpPolicy", Spaces(), **peer_options(network))
    return peer({str(utd): (utd, model) for utd in UTDS})


def peer_options(network: dict[str, Any]) -> dict[str, Any]:
    return {"buffer_size": OFFLINE_ROWS + ONLINE_ROWS, "batch_size": BATCH, "policy_kwargs": network, "seed": 0}


def peer(models: Mapping[str, tuple[int, Any]]) -> Measure:
    """Turns of `train` by name, with UTD and model; all models share one full buffer."""
    from stable_baselines3.common.logger import Logger

    buffer = models[str(UTDS[0])][1].replay_buffer
    rows = transitions(OFFLINE_ROWS + ONLINE_ROWS)
    for observation, action, reward, next_observation, mask, _ in zip(*rows, strict=True):
        buffer.add(observation, next_observation, action, reward, 1 - mask, [{}])
    for _, model in models.values():
        model.replay_buffer = buffer
        model.set_logger(Logger(folder=None, output_formats=[]))

    def run(name: str, repeats: int) -> None:
        utd, model = models[name]
        for _ in range(repeats):
            model.train(gradient_steps=utd, batch_size=BATCH)

    return timed(run, models)


class Spaces(gymnasium.Env):
    """Tells the peers the sizes; never stepped."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (OBSERVATION,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (ACTION,), np.float32)


def numpy_products() -> Measure:
    factors = {
        name: np.random.default_rng(0).standard_normal((2, *shape), np.float32) for name, shape in PRODUCTS.items()
    }
    outputs = {name: np.empty(shape, np.float32) for name, shape in PRODUCTS.items()}

    def run(name: str, repeats: int) -> None:
        for _ in range(repeats):
            np.matmul(*factors[name], out=outputs[name])

    return timed(run, PRODUCTS)


def xla_products() -> Measure:
    factors = {name: jax.random.normal(jax.random.key(0), (2, *shape)) for name, shape in PRODUCTS.items()}
    pairs = {name: (left, right) for name, (left, right) in factors.items()}
    product = jax.jit(jnp.matmul)

    def run(name: str, repeats: int) -> None:
        for _ in range(repeats):
            product(*pairs[name]).block_until_ready()

    return timed(run, PRODUCTS)


def timed(run: Callable[[Any, int], None], items: Sequence[Any] | Mapping[str, Any]) -> Measure:
    """Seconds of one repeat of each item."""
    repeats = {item: turn_length(partial(run, item)) for item in items}
    return lambda: {str(item): seconds_each(partial(run, item), count) for item, count in repeats.items()}


def product_gflop(name: str) -> float:
    shape = PRODUCTS[name]
    return 2 * np.prod(shape) * shape[-1] / 1e9


def main() -> None:
    options = arguments(__doc__)
    try:
        about = machine("jax", "jaxlib", "flax", "numpy", "sbx-rl", "stable-baselines3", "torch")
    except PackageNotFoundError as error:
        raise SystemExit(
            f"{error.name} is not installed; run `make bench`, or this with .venv-bench/bin/python"
        ) from None
    entrants = {"kit": kit, "limit": limit, "sbx": sbx, "sb3": stable_baselines3}
    contenders = [Contender("NumPy", numpy_products), Contender("XLA", xla_products)]
    for ensemble in ENSEMBLES:
        contenders += [Contender(f"{name} {ensemble}", prepare, (ensemble,)) for name, prepare in entrants.items()]
    results = compare(contenders, options.rounds)
    show(about, tables(medians(results)), results, options.json)


def tables(seconds: Mapping[str, Mapping[str, float]]) -> dict[str, list[list[str]]]:
    product_rates = {
        (library, name): product_gflop(name) / seconds[library][name]
        for library in ("NumPy", "XLA")
        for name in PRODUCTS
    }
    (library, size), best = max(product_rates.items(), key=lambda item: item[1])

    products = [["size", "NumPy GFLOP/s", "XLA GFLOP/s"]]
    products += [[name, *(f"{product_rates[side, name]:.0f}" for side in ("NumPy", "XLA"))] for name in PRODUCTS]

    steps = [
        ["critics, UTD", "kit ms", "needed GFLOP", "GFLOP/s", "of best", "limit ms", "limit of best", "kit / limit"]
    ]
    names = ("sbx", "sbx each", "sb3")
    peers = [["critics, UTD", "kit ms", *(f"{name} ms" for name in names), *(f"{name} / kit" for name in names)]]
    rates = [["critics, UTD", *(f"{name} GFLOP/s" for name in ("kit", *names)), *(f"kit / {name}" for name in names)]]
    goals = [["goal", "wanted", "found"]]
    for ensemble in ENSEMBLES:
        for utd in UTDS:
            row = f"{ensemble}, {utd}"
            kit, limit, sbx, sb3 = (seconds[f"{name} {ensemble}"][str(utd)] for name in ("kit", "limit", "sbx", "sb3"))
            each = seconds[f"sbx {ensemble}"][f"{utd} {ACTOR_EACH}"]
            sizes, rows = (OBSERVATION, ACTION, WIDTHS, ensemble), utd * BATCH
            gflop = needed_gflop(*sizes, SUBSET, rows, rows)
            # The peers' targets take all critics.
            few, many = needed_gflop(*sizes, ensemble, rows, BATCH), needed_gflop(*sizes, ensemble, rows, rows)
            share, reachable = gflop / kit / best, gflop / limit / best
            beside = [f"{1e3 * limit:.1f}", f"{reachable:.0%}", f"{limit / kit:.0%}"]
            steps.append([row, f"{1e3 * kit:.1f}", f"{gflop:.2f}", f"{gflop / kit:.0f}", f"{share:.0%}", *beside])
            rivals = (sbx, each, sb3)
            peers.append(
                [row, *(f"{1e3 * time:.1f}" for time in (kit, *rivals)), *(f"{time / kit:.2f}" for time in rivals)]
            )
            work = [needed / time for needed, time in zip((few, many, many), rivals, strict=True)]
            cells = [*(f"{rate:.0f}" for rate in (gflop / kit, *work)), *(f"{gflop / kit / rate:.2f}" for rate in work)]
            rates.append([row, *cells])
            at = f"{ensemble} critics, UTD {utd}"
            if utd == 4:
                theirs = official_share(ensemble)
                times = [f">= {SHARE_TIMES_OFFICIAL_GOAL}", f"{share / theirs:.2f}"]
                goals.append([f"share of best product, {at}", f">= {SHARE_GOAL:.0%}", f"{share:.0%}"])
                goals.append([f"that / official code's {theirs:.0%}, {at}", *times])
            goals.append([f"best peer / kit, {at}", f">= {PEER_GOAL}", f"{min(rivals) / kit:.2f}"])

    official = [["critics", "ms", "GFLOP", "GFLOP/s", "share of that machine's products"]]
    for ensemble, (gflop, time) in OFFICIAL.items():
        low, high = (gflop / time / rate for rate in reversed(OFFICIAL_PRODUCT_RATE))
        official.append(
            [str(ensemble), f"{1e3 * time:.0f}", f"{gflop}", f"{gflop / time:.0f}", f"{low:.0%} to {high:.0%}"]
        )
    return {
        f"Best float32 matrix products: {best:.0f} GFLOP/s ({library}, {size}). {SIZES_NOTE}": products,
        STEPS_NOTE: steps,
        OFFICIAL_NOTE: official,
        PEERS_NOTE: peers,
        RATES_NOTE: rates,
        "Goals": goals,
    }


def official_share(ensemble: int) -> float:
    """Share of that machine's best products, taken in the middle of their range."""
    gflop, time = OFFICIAL[ensemble]
    return gflop / time / np.mean(OFFICIAL_PRODUCT_RATE)


SIZES_NOTE = "Square, or a batch of square ones."
STEPS_NOTE = (
    "One environment step's learning. Needed: 2 per multiply-add of the step's matrix products, nothing elementwise; "
    "limit: these products alone, compiled in one."
)
OFFICIAL_NOTE = (
    "Official WSRL's step at UTD 4, quoted from another machine (two cores, products at 130 to 148 GFLOP/s) with its "
    "own count of operations; not measured here."
)
PEERS_NOTE = (
    "SAC of sbx-rl and stable-baselines3 (sb3): UTD critic updates in a call of `train`, uniform replay, tanh as in "
    "the kit. What differs: sbx has LayerNorm in its critics only; it updates the actor once, on 256 rows (kit: once, "
    "on UTD x 256), or UTD times on 256 rows (each); sb3 has no LayerNorm and updates the actor UTD times on 256 rows; "
    "both take the target's minimum over all critics (kit: over 2)."
)

RATES_NOTE = "The same calls, each by the operations that it needs itself"


if __name__ == "__main__":
    main()
