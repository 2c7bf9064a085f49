"""robomimic's `.hdf5` demonstrations: `data/demo_<n>/{obs, actions, rewards, dones}`, and optionally `next_obs`."""

import re
from pathlib import Path

import numpy as np

from wsrl_kit.data.formats.d4rl import build_recording, read_arrays
from wsrl_kit.data.formats.hdf5_file import File, open_hdf5
from wsrl_kit.data.formats.npz import check_rows
from wsrl_kit.data.recording import CameraChoice, Recording, join
from wsrl_kit.errors import DataError

_NAMES = {
    "obs": "observations",
    "actions": "actions",
    "rewards": "rewards",
    "dones": "terminated",
    "next_obs": "next_observations",
}


def demonstrations(file: File) -> list[str]:
    """The names of a file's demonstrations, by their numbers."""
    names = [name for name in file.names_in("data") if re.fullmatch(r"demo_\d+", name)]
    return sorted(names, key=lambda name: int(name.removeprefix("demo_")))


def read_robomimic(path: Path, cameras: CameraChoice) -> Recording:
    """Reads all demonstrations; observations as by `read_hdf5`, also for want of `next_obs`.

    robomimic's `dones` are successes, ends of recordings, or both: an episode terminates at its first done with a
    reward, and is else truncated at its end.

    Raises:
        DataError: damaged, inconsistent, or an array is missing.
    """
    with open_hdf5(path) as file:
        found = [_demonstration(path, file, name, cameras) for name in demonstrations(file)]
    demos = [demo for demo in found if demo is not None]
    if not demos:
        raise DataError(f"{path} holds no transitions.")
    for demo in demos:
        if difference := demo.layout.difference(demos[0].layout):
            raise DataError(f"{path}: one demonstration {difference} as in the first.")
    return join(demos)


def _demonstration(path: Path, file: File, name: str, cameras: CameraChoice) -> Recording | None:
    """One episode; None if its only step leads nowhere."""
    where = f"data/{name}"
    arrays, *views = read_arrays(file, file.find(where), _NAMES, cameras)
    missing = [key for key, known in _NAMES.items() if known not in arrays and key != "next_obs"]
    if missing:
        remedy = "; robomimic's dataset_states_to_obs.py adds observations" if "obs" in missing else ""
        raise DataError(f"{path}: {where} has no {missing[0]!r}{remedy}.")
    check_rows(path, arrays, {known: f"{where}/{key}" for key, known in _NAMES.items()})
    done = (arrays["terminated"].reshape(-1) != 0) & (arrays["rewards"].reshape(len(arrays["rewards"]), -1)[:, 0] > 0)
    solved = bool(done.any())
    end = int(done.argmax()) + 1 if solved else len(done)
    if end == 1 and not solved and "next_observations" not in arrays:
        return None
    last = np.arange(end) == end - 1
    arrays = {key: array[:end] for key, array in arrays.items()}
    arrays |= {"terminated": last & solved, "truncated": last & (not solved)}
    images, next_images = ({camera: frames[:end] for camera, frames in view.items()} for view in views)
    return build_recording(path, arrays, images, next_images, "robomimic hdf5")
