"""Digests of input files, so that a run never resumes with other files."""

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

from wsrl_kit.data.sources import Paths, expand
from wsrl_kit.errors import DataError


def digests(paths: Mapping[str, Paths]) -> dict[str, str]:
    """Digests of the files behind each parameter; missing files have none."""
    found = {}
    for name, given in paths.items():
        if given is not None:
            try:
                found[name] = digest([file for files in expand(given).values() for file in files])
            except (DataError, OSError):
                continue
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
