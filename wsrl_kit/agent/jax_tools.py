"""Random keys by purpose, the compilation cache, copies of trees, and padded chunks for compiled functions.

Every random draw is a function of (seed, purpose, count), so checkpoints hold counts and no random state.
"""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, PRNGKeyArray, PyTree

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
    """The JAX key of a purpose."""
    return jax.random.fold_in(jax.random.key(seed), PURPOSES.index(purpose))


def episode_seed(seed: int, purpose: str, *count: int) -> int:
    """A 32-bit seed for an environment's reset."""
    # Purpose and count as a spawn key: in a plain list trailing zeros are ignored, and [seed, purpose, 0] would be the
    # [seed, episode] that the data were collected with.
    sequence = np.random.SeedSequence(seed, spawn_key=(PURPOSES.index(purpose), *count))
    return int(sequence.generate_state(1)[0])


def enable_compilation_cache() -> None:
    """Caches all compiled programs in `~/.cache/wsrl-kit/programs` (`XDG_CACHE_HOME` moves it).

    Call before the first compilation. The user's `JAX_COMPILATION_CACHE_DIR` or `JAX_ENABLE_COMPILATION_CACHE=0` wins.
    """
    chosen = jax.config.values
    if chosen["jax_compilation_cache_dir"] is not None or not chosen["jax_enable_compilation_cache"]:
        return
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wsrl-kit" / "programs"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # a read-only disk, or no home
        return
    # What a full disk or a killed process left of a program is compiled again, which no user needs to act on.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache", UserWarning)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Short ones too: a start has some fifty, which take a second together.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def copied(tree: PyTree) -> PyTree:
    """The tree in arrays of its own, for who gives the original to a program that takes over its buffers."""
    return jax.tree.map(jnp.copy, tree)


def padded_chunks(count: int, at_once: int) -> Iterator[Int[np.ndarray, " at_once"]]:
    """Indices below `count` in equal chunks, for one compiled program; the last repeats its indices."""
    for start in range(0, count, at_once):
        yield np.resize(np.arange(start, min(start + at_once, count)), at_once)
