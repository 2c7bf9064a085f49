"""What writers share: files appear whole or not at all, and nothing is left out of them in silence."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from wsrl_kit.errors import DataError
from wsrl_kit.trajectory import Trajectory


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path`, and moves what was written there to `path` at the end.

    Raises:
        DataError: the file can't be written (no such folder, no right, disk full); an older one is left as it was.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        raise DataError(f"{target} can't be written: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


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
