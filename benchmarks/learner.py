"""The update of one environment step against what the machine's matrix products allow, and against its peers.

UTD critic updates of 256 rows and one actor and temperature update on all their rows, in one compiled call, on a batch
from host memory. Critics and actor have two hidden layers of 256; an observation has 39 numbers and an action 28.

- best product: the best float32 rate of NumPy's and XLA's matrix products, over several sizes.
- products alone: the step's own matrix products, same shapes and order, compiled with nothing in between.
- sbx-rl and stable-baselines3 (sb3): `train` of their SAC on a full uniform buffer, with as many critic updates and
  tanh as in the kit. sbx has LayerNorm in its critics only, and updates the actor once, on 256 rows, or UTD times
  ("each"); sb3 has no LayerNorm and updates the actor UTD times; both take the target's minimum over all critics
  (kit: over 2). Rates are compared: each by the operations that it needs itself.

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
    OBSERVATION,
    SUBSET,
    WIDTHS,
    agent_of,
    full_replay,
    seconds_each,
    transitions,
    turn_length,
)
from turns import Contender, Measure, arguments, compare, machine, medians, one_core, show

from wsrl_kit.training.learner import learn

ENSEMBLES = (2, 10)
UTDS = (1, 4, 20)
BUFFER_ROWS = 120_000
PRODUCTS: Mapping[str, tuple[int, ...]] = {
    "512": (512, 512),
    "1024": (1024, 1024),
    "2048": (2048, 2048),
    "2 x 256": (2, 256, 256),
    "10 x 256": (10, 256, 256),
}

ACTOR_EACH = "with an actor update each"


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
    static, agent = agent_of(ensemble)
    replay, key = full_replay(BUFFER_ROWS // 2, BUFFER_ROWS // 2), jax.random.key(1)
    batches = {utd: replay.sample(0, (utd, BATCH), 0.5, 0.5)[0] for utd in UTDS}
    steps = itertools.count()

    def run(utd: int, repeats: int) -> None:
        nonlocal agent
        for step in itertools.islice(steps, repeats):
            agent, _, _ = learn(static, agent, batches[utd], key, np.int32(step))
        jax.block_until_ready(agent)

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
    return {"buffer_size": BUFFER_ROWS, "batch_size": BATCH, "policy_kwargs": network, "seed": 0}


def peer(models: Mapping[str, tuple[int, Any]]) -> Measure:
    """Turns of `train` by name, with UTD and model; all models share one full buffer."""
    from stable_baselines3.common.logger import Logger

    buffer = models[str(UTDS[0])][1].replay_buffer
    rows = transitions(BUFFER_ROWS)
    for observation, action, reward, next_observation, mask in zip(*rows[:5], strict=True):
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
            left, right = factors[name]
            np.matmul(left, right, out=outputs[name])

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
    found: dict[str, list[list[str]]] = {}
    raw = {}
    for where, cores in {"one core": one_core(), "all cores": None}.items():
        contenders = [Contender("NumPy", numpy_products, (), cores), Contender("XLA", xla_products, (), cores)]
        for ensemble in ENSEMBLES:
            contenders += [Contender(f"{n} {ensemble}", prepare, (ensemble,), cores) for n, prepare in entrants.items()]
        raw[where] = compare(contenders, options.rounds)
        title, rows = table(medians(raw[where]))
        found[f"{where.capitalize()}: {title}"] = rows
    show(about, found, raw, options.json)


def table(seconds: Mapping[str, Mapping[str, float]]) -> tuple[str, list[list[str]]]:
    rates = {
        f"{library}, {name}": product_gflop(name) / seconds[library][name]
        for library in ("NumPy", "XLA")
        for name in PRODUCTS
    }
    size, best = max(rates.items(), key=lambda item: item[1])
    peers = ("sbx", "sbx each", "sb3")
    headings = ["critics, UTD", "kit ms", "GFLOP", "of best product", "products alone", *(f"kit / {n}" for n in peers)]
    rows = [headings]
    for ensemble in ENSEMBLES:
        for utd in UTDS:
            kit, limit, sbx, sb3 = (seconds[f"{name} {ensemble}"][str(utd)] for name in ("kit", "limit", "sbx", "sb3"))
            each = seconds[f"sbx {ensemble}"][f"{utd} {ACTOR_EACH}"]
            sizes, count = (OBSERVATION, ACTION, WIDTHS, ensemble), utd * BATCH
            own = needed_gflop(*sizes, SUBSET, count, count)
            few, many = needed_gflop(*sizes, ensemble, count, BATCH), needed_gflop(*sizes, ensemble, count, count)
            shares = [f"{own / time / best:.0%}" for time in (kit, limit)]
            theirs = zip((few, many, many), (sbx, each, sb3), strict=True)
            ratios = [f"{own / kit / (needed / time):.2f}" for needed, time in theirs]
            rows.append([f"{ensemble}, {utd}", f"{1e3 * kit:.1f}", f"{own:.2f}", *shares, *ratios])
    return f"best product {best:.0f} GFLOP/s ({size}); the last three columns are ratios of rates", rows


if __name__ == "__main__":
    main()
