"""D4RL's and RLPD's flat `.hdf5` files."""

from pathlib import Path

import numpy as np

from wsrl_kit.data.formats.hdf5_file import open_hdf5
from wsrl_kit.data.formats.npz import flat_recording
from wsrl_kit.data.recording import Recording
from wsrl_kit.errors import DataError

_NAMES = {
    "observations": "observations",
    "actions": "actions",
    "rewards": "rewards",
    "terminals": "terminated",
    "timeouts": "truncated",
    "next_observations": "next_observations",
    "infos/success": "success",
    "infos/source": "source",
    "infos/weight": "weight",
    "infos/grasp_penalty": "grasp_penalty",
}


def read_hdf5(path: Path) -> Recording:
    """Reads `observations, actions, rewards, terminals`, and optionally `timeouts, next_observations, infos/success`.

    Without `next_observations`, `timeouts` are needed, and the next row's observation is used. An episode's last row is
    dropped if truncated (as in D4RL's `qlearning_dataset`), and repeats its own if terminal, where the bootstrap value
    is 0.

    Raises:
        DataError: damaged, an array or ends of episodes missing.
    """
    arrays: dict[str, np.ndarray] = {}
    with open_hdf5(path) as file:
        for key, name in _NAMES.items():
            if (found := file.find(key)) is not None:
                arrays[name] = np.array(file.names(found), object) if name == "source" else file.numbers(found)
    for key in ("observations", "actions", "rewards", "terminals"):
        if _NAMES[key] not in arrays:
            raise DataError(f"{path} is no D4RL file: it has no {key!r}.")
    count = len(np.atleast_1d(arrays["rewards"]))
    if count == 0:
        raise DataError(f"{path} holds no transitions.")
    uneven = [key for key, name in _NAMES.items() if name in arrays and arrays[name].shape[:1] != (count,)]
    if uneven:
        found = arrays[_NAMES[uneven[0]]].shape
        raise DataError(f"{path}: {uneven[0]!r} has shape {found}, expected {count} rows as in 'rewards'.")
    for key in ("terminals", "timeouts"):
        flags = arrays.get(_NAMES[key])
        if flags is not None and (flags.size != count or flags.dtype.kind not in "biuf"):
            raise DataError(
                f"{path}: {key!r} is {flags.dtype} {flags.shape}, expected one flag in each of {count} rows."
            )
    if "next_observations" not in arrays:
        arrays = _with_next_observations(path, arrays)
    arrays.setdefault("truncated", np.zeros(len(arrays["rewards"]), dtype=bool))
    return flat_recording(path, arrays, "D4RL hdf5")


def _with_next_observations(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if "truncated" not in arrays:
        # A time limit would look like a step from the end of one episode to the start of the next.
        raise DataError(f"{path} does not tell its episodes apart: it has neither 'timeouts' nor 'next_observations'.")
    terminated, truncated = (arrays[name].reshape(-1).astype(bool) for name in ("terminated", "truncated"))
    if not (terminated | truncated).any():
        raise DataError(f"{path} does not tell its episodes apart: 'terminals' and 'timeouts' mark no end of any.")
    ends = terminated | truncated
    ends[-1] = True
    follows = np.minimum(np.arange(len(ends)) + 1, len(ends) - 1)
    # A terminal row keeps its own observation as the next one.
    follows[ends] = np.flatnonzero(ends)
    arrays = {**arrays, "next_observations": arrays["observations"][follows]}
    dropped = ends & ~terminated
    # The row before a dropped one becomes the end of its episode, unless it is one already.
    arrays["truncated"] = truncated | (np.append(dropped[1:], False) & ~terminated)
    return {name: array[~dropped] for name, array in arrays.items()}
