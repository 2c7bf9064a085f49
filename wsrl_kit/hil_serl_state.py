"""The layout of HIL-SERL's checkpoints: leaves of its `JaxRLTrainState`, from what an agent has learned and back."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from wsrl_kit.errors import CheckpointError
from wsrl_kit.hil_serl_agent import ENCODER, Arrays, Learned, cameras_there, trained_with
from wsrl_kit.networks.flax_checkpoint import Leaves

LEARNING_RATE = 3e-4
"""HIL-SERL's default. Its checkpoints hold the rate of the last step, which its next step computes anew."""

MOMENTS = {"mu": "first_moment", "nu": "second_moment"}

ADAM = "opt_states/{}/inner_state/0/0"
"""The state of a network's Adam."""


def to_leaves(learned: Learned) -> Leaves:
    """HIL-SERL's state: each optimizer is over all parameters, with 0 for those of other networks.

    But all have the encoder's second moments, which are the critics': from 0 the first steps of those optimizers that
    train it there and not here would be several times as long as the critics'.
    """
    found: Leaves = {"step": learned.updates, "rng": np.array([0, learned.updates], np.uint32)}
    found |= {f"params/{name}": array for name, array in learned.parameters.items()}
    found |= {f"target_params/{name}": array for name, array in learned.target.items()}
    for network, count_of_steps in learned.steps.items():
        state, adam = f"opt_states/{network}", ADAM.format(network)
        steps = np.asarray(count_of_steps, np.int32)
        found |= {
            f"{state}/count": steps,
            f"{state}/hyperparams/learning_rate": np.asarray(LEARNING_RATE, np.float32),
            f"{state}/hyperparams_states/learning_rate/count": steps,
            f"{adam}/count": steps,
            f"{state}/inner_state/0/1": {},
        }
        for kind, field in MOMENTS.items():
            found |= {
                f"{adam}/{kind}/{name}": array
                if trained_with(name) == network or (kind == "nu" and name.startswith(ENCODER))
                else np.zeros_like(array)
                for name, array in getattr(learned, field).items()
            }
    # A field of hil-serl's state that serl's, whose are the agents without cameras, does not have.
    return found | ({"epsilon": 0.0} if cameras_there(learned.parameters) else {})


def from_leaves(source: Path, leaves: Leaves, expected: Learned) -> Learned:
    """What a checkpoint holds of the expected parameters.

    Args:
        expected: of an agent of the checkpoint's sizes.

    Raises:
        CheckpointError: it holds others as well, or not all of them, or of other sizes; naming the entry.
    """
    if extra := set(group(leaves, "params")) - set(expected.parameters):
        raise CheckpointError(f"{source} holds params/{min(extra)}, which this kit's agents do not have")

    def found(place: Callable[[str], str]) -> Arrays:
        return {name: entry(source, leaves, place(name), array.shape) for name, array in expected.parameters.items()}

    def moments(kind: str) -> Arrays:
        return found(lambda name: f"{ADAM.format(trained_with(name))}/{kind}/{name}")

    return Learned(
        parameters=found(lambda name: f"params/{name}"),
        target=found(lambda name: f"target_params/{name}"),
        **{field: moments(kind) for kind, field in MOMENTS.items()},
        steps={network: int(entry(source, leaves, f"{ADAM.format(network)}/count", ())) for network in expected.steps},
        updates=int(entry(source, leaves, "step", ())),
    )


def group(leaves: Leaves, prefix: str) -> Arrays:
    """The leaves below an entry, by the rest of their names."""
    start = f"{prefix}/"
    return {name.removeprefix(start): np.asarray(leaf) for name, leaf in leaves.items() if name.startswith(start)}


def entry(source: Path, leaves: Leaves, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """One leaf.

    Raises:
        CheckpointError: it is missing, or not of the expected shape.
    """
    if name not in leaves:
        raise CheckpointError(f"{source} has no {name}: expected a checkpoint of HIL-SERL's agents")
    found = np.asarray(leaves[name])
    if shape is not None and found.shape != shape:
        raise CheckpointError(
            f"{source} holds {name} as {list(found.shape)}, but the sizes of its other entries need {list(shape)}"
        )
    return found
