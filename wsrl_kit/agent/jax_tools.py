"""Random keys by purpose, the cache of compiled programs, and padded chunks for compiled functions.

Every random draw is a function of (seed, purpose, count), so a checkpoint holds counts and no random state.
"""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Int, PRNGKeyArray

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


SHORTEST_COMPILATION = 0.5
"""Seconds of compilation from which a program is kept."""


def keep() -> None:
    """Lets JAX keep compiled programs in the user's cache folder, `~/.cache/wsrl-kit/programs`.

    Most of a short run's time is compilation. To be called before the first. `XDG_CACHE_HOME` moves the folder; where
    the user has chosen a folder (`JAX_COMPILATION_CACHE_DIR`) or turned JAX's cache off
    (`JAX_ENABLE_COMPILATION_CACHE=0`), that holds.
    Results are the same bits either way. A folder that can't be used costs no more than the time to compile.
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
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST_COMPILATION)


def parts(count: int, at_once: int) -> Iterator[Int[np.ndarray, " at_once"]]:
    """Numbers from 0 to `count`, in parts of one size, so that one compiled program serves them all.

    The last is padded with numbers of its own, repeated: what is made of them is cut off.
    """
    for start in range(0, count, at_once):
        yield np.resize(np.arange(start, min(start + at_once, count)), at_once)
