"""Files that appear whole or not at all, and that outlast a power cut once they are there."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from wsrl_kit.errors import WSRLKitError


@contextlib.contextmanager
def written_whole(path: str | os.PathLike[str], error: type[WSRLKitError]) -> Iterator[Path]:
    """Yields a temporary path beside `path`, and moves what was written there to `path` at the end.

    The temporary file has a name of its own, so that two processes can't write into each other's. File and folder are
    on the disk when this returns. The folder is created if need be.

    Args:
        error: what to raise where the file can't be written.

    Raises:
        WSRLKitError: of the kind `error`: no such right, a full disk; an earlier file at `path` is untouched.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            synced(temporary)
            os.replace(temporary, target)
            synced(target.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as reason:
        raise error(
            f"{target} can't be written: {reason.strerror or reason}; an earlier file there is intact"
        ) from reason


def synced(path: Path) -> None:
    """Waits until a file's content, or a folder's entries, are on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders, and writes their entries by itself
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partial(folder: Path) -> None:
    """Removes what killed processes left half-written in a folder that nobody else writes to."""
    for leftover in folder.glob(".*.partial"):
        leftover.unlink(missing_ok=True)
