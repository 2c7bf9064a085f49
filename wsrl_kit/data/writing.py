"""What writers of data share: nothing is left out of a file in silence."""

import os
from collections.abc import Sequence

from wsrl_kit.errors import DataError
from wsrl_kit.trajectory import Trajectory


def refuse_images(path: str | os.PathLike[str], trajectories: Sequence[Trajectory]) -> None:
    """For writers of formats in which the kit writes states only.

    Raises:
        DataError: a trajectory holds images.
    """
    cameras = sorted({camera for trajectory in trajectories for camera in trajectory.images})
    if cameras:
        raise DataError(
            f"{os.fspath(path)} is not written: its format takes no camera images here, found {', '.join(cameras)}; "
            "a HIL-SERL pickle (.pkl) and the kit's npz do."
        )
