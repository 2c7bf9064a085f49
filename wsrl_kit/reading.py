"""The one door for files from outside: whatever goes wrong while one is read becomes one sentence of the kit's errors.

Files come from other people. A name in one may be an order to a terminal, a small file may declare terabytes, a pipe
never ends. Every reader of the kit runs inside `reading`, and asks `check_size` before it allocates what is declared.
"""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wsrl_kit.errors import WSRLKitError
from wsrl_kit.text import one_line

SPARE_BYTES = 128 * 2**20
"""A file of any size may declare this many bytes of arrays."""

LARGEST_RATIO = 100
"""Beyond `SPARE_BYTES`, how many bytes of arrays a byte of a file may declare: camera images shrink about tenfold."""

LARGEST_JSON = 16 * 2**20
"""In bytes. Parsed JSON takes about thirty times its size."""


@contextmanager
def reading(
    path: str | os.PathLike[str], error: type[WSRLKitError], damaged: str = "is truncated or damaged"
) -> Iterator[None]:
    """Turns every failure of the block into one sentence.

    Args:
        path: what the block reads.
        error: the class of error to raise.
        damaged: the sentence's predicate, for failures that say nothing about the file themselves.

    Raises:
        error: the block raised anything, or `path` is a pipe, a socket or a device. Where the block raised `error`
            itself, its message stays, on one line and without control characters.
    """
    try:
        refuse_special(path, error)
        yield
    except error as known:
        if (sentence := one_line(str(known))) == str(known):
            raise
        raise type(known)(sentence) from None
    # Damaged bytes can make parsers raise anything, RecursionError and MemoryError among them.
    except Exception as reason:
        raise error(one_line(f"{path} {damaged}: {_reason(reason)}.")) from reason


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return one_line(str(error) or type(error).__name__).rstrip(". ")


def refuse_special(path: str | os.PathLike[str], error: type[WSRLKitError]) -> None:
    """Refuses what is neither a file nor a folder; to open a pipe can wait forever.

    Raises:
        error: `path` is a pipe, a socket or a device, or its name is impossible.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    except (OSError, ValueError) as reason:
        raise error(one_line(f"{path} can't be read: {_reason(reason)}.")) from reason
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise error(one_line(f"{path} is a pipe, a socket or a device, expected a file."))


def check_size(declared: int, stored: int, ratio: int = LARGEST_RATIO) -> None:
    """Refuses a file that declares far more than it holds, before anything of that size is allocated.

    Args:
        declared: bytes of the arrays that are about to be read.
        stored: bytes of the file.
        ratio: bytes that a stored byte may declare.

    Raises:
        ValueError: there are too many.
    """
    if declared > SPARE_BYTES + ratio * stored:
        raise ValueError(f"it declares {declared:.3g} bytes of data, far more than its {stored} bytes can hold")


def read_json(path: Path) -> Any:
    """What a JSON file holds; for use inside `reading`.

    Raises:
        OSError: the file is missing or can't be read.
        ValueError: it is no JSON, or larger than `LARGEST_JSON`.
        RecursionError: it is nested too deeply.
    """
    if (size := path.stat().st_size) > LARGEST_JSON:
        raise ValueError(f"{path.name} has {size} bytes, expected at most {LARGEST_JSON}")
    return json.loads(path.read_text(encoding="utf-8"))


def within(folder: Path, path: Path) -> bool:
    """Whether a file is there, and lies in a folder when all links are followed."""
    return path.is_file() and path.resolve().is_relative_to(folder.resolve())
