"""All randomness of a run, split by purpose from its one seed.

Every draw is a function of (seed, purpose, count), so nothing has to be kept in a checkpoint but the counts.
"""

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

PURPOSES = (
    "initialisation",
    "warmup",
    "acting",
    "sampling",
    "episodes",
    "evaluation",
    "diagnosis",
    "data",
    "retention",
    "classifier",
)


def key(seed: int, purpose: str) -> PRNGKeyArray:
    """JAX key of a purpose."""
    return jax.random.fold_in(jax.random.key(seed), PURPOSES.index(purpose))


def episode_seed(seed: int, purpose: str, *count: int) -> int:
    """Seed for an environment's reset: a 32-bit number for each count (such as evaluation, episode)."""
    # Purpose and count as a spawn key: in a plain list trailing zeros are ignored, and [seed, purpose, 0] would be the
    # [seed, episode] that the data were collected with.
    sequence = np.random.SeedSequence(seed, spawn_key=(PURPOSES.index(purpose), *count))
    return int(sequence.generate_state(1)[0])
