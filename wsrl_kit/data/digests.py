"""Digests of input files, so that a run never resumes with other files."""

import contextlib
import functools
import hashlib
from pathlib import Path
from typing import Any

from wsrl_kit.data.sources import expand
from wsrl_kit.errors import DataError
from wsrl_kit.parameters import names_of


def input_digests(config: Any, kind: str) -> dict[str, str]:
    """A digest per parameter of `config` that names input files of this kind of run; missing files have none."""
    found = {}
    for name in names_of(type(config), input_of=kind):
        with contextlib.suppress(DataError, OSError):
            if (paths := getattr(config, name)) is not None:
                found[name] = digest([file for files in expand(paths).values() for file in files])
    return found


def digest(paths: list[Path]) -> str:
    """A digest of the content of files and folders, in order."""
    whole = hashlib.blake2b(digest_size=16)
    for path in paths:
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in files:
            status = file.stat()
            whole.update(_of_file(file, status.st_size, status.st_mtime_ns))
    return whole.hexdigest()


@functools.lru_cache(maxsize=1024)
def _of_file(path: Path, size: int, modified: int) -> bytes:
    """Cached until size or time change."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
