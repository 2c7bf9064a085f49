"""Files appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wsrl_kit.errors import DataError


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
