"""Reads untrusted files safely, and writes files atomically.

A name in a file may hold terminal commands, a small file may declare terabytes, a pipe never ends. Every reader runs
inside `reading` and calls `check_size` before it allocates.
"""

import functools
import hashlib
import json
import math
import os
import secrets
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from wsrl_kit.errors import WSRLKitError
from wsrl_kit.text import one_line

SPARE_BYTES = 128 * 2**20
"""Bytes of arrays that any file may declare."""

LARGEST_RATIO = 100
"""Bytes of arrays per byte of file, beyond `SPARE_BYTES`; camera images shrink about tenfold."""

LARGEST_JSON = 16 * 2**20
"""In bytes. Parsed JSON takes about thirty times its size."""


@contextmanager
def reading(
    path: str | os.PathLike[str], error: type[WSRLKitError], damaged: str = "is truncated or damaged"
) -> Iterator[None]:
    """Turns every failure of the block into one sentence.

    Args:
        damaged: predicate for failures that do not name the file.

    Raises:
        error: the block raised anything, or `path` is a pipe, socket or device. An `error`'s own message stays, made
        printable.
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
    """Refuses anything but files and folders.

    Raises:
        error: `path` is a pipe, socket or device, or its name is impossible.
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
    """Refuses a file of `stored` bytes that declares more than it can hold.

    Raises:
        ValueError: it declares over `SPARE_BYTES` plus `ratio` bytes per stored byte.
    """
    if declared > SPARE_BYTES + ratio * stored:
        raise ValueError(f"it declares {declared:.3g} bytes of data, far more than its {stored} bytes can hold")


def read_json(path: Path) -> Any:
    """The content of a JSON file, of a `.jsonl` a list of its lines'; use inside `reading`.

    Raises:
        OSError: the file is missing or can't be read.
        ValueError: no JSON, or larger than `LARGEST_JSON`.
        RecursionError: nested too deeply.
    """
    if (size := path.stat().st_size) > LARGEST_JSON:
        raise ValueError(f"{path.name} has {size} bytes, expected at most {LARGEST_JSON}")
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines() if line] if path.suffix == ".jsonl" else json.loads(text)


def within(folder: Path, path: Path) -> bool:
    """Whether a file exists and, links resolved, lies in a folder."""
    return path.is_file() and path.resolve().is_relative_to(folder.resolve())


@contextmanager
def written_whole(path: str | os.PathLike[str], error: type[WSRLKitError]) -> Iterator[Path]:
    """Yields a temporary path, and atomically moves the result to `path`, on disk on return. Creates the folder.

    The result is a file, or a folder where `path` is none yet or empty.

    Raises:
        error: the file can't be written; an earlier file is untouched.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            for part in (*temporary.rglob("*"), temporary):
                synced(part)
            os.replace(temporary, target)
            synced(target.parent)
        finally:
            _remove(temporary)
    except OSError as reason:
        raise error(
            f"{target} can't be written: {reason.strerror or reason}; an earlier file there is intact"
        ) from reason


def write_text(path: Path, text: str, error: type[WSRLKitError]) -> None:
    """Writes a text file as a whole; raises as `written_whole`."""
    with written_whole(path, error) as temporary:
        temporary.write_text(text)


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
    """Removes half-written files of killed processes."""
    for leftover in folder.glob(".*.partial"):
        _remove(leftover)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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


_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_PORTION = 2**20


def load_arrays(path: Path, is_wanted: Callable[[str], bool] = lambda name: True) -> dict[str, np.ndarray | None]:
    """Array names of an npz file -> the array, or None if not wanted; use inside `reading`.

    Raises:
        Exception: of nearly any kind.
    """
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise ValueError("it holds two arrays of one name")
        wanted = {name: info for name, info in members.items() if is_wanted(name)}
        check_size(sum(info.file_size for info in wanted.values()), path.stat().st_size)
        return dict.fromkeys(members) | {name: _member(archive, name, info) for name, info in wanted.items()}


def _member(archive: zipfile.ZipFile, name: str, info: zipfile.ZipInfo) -> np.ndarray:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name!r} is compressed by method {info.compress_type}, expected none or deflate")
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        if version not in _HEADERS:
            raise ValueError(f"{name!r} is an array of numpy's format {version}, expected 1.0 or 2.0")
        shape, is_fortran, dtype = _HEADERS[version](member)
        if dtype.kind not in "biufcSU" or not dtype.itemsize:
            raise ValueError(f"{name!r} is of dtype {dtype}, expected numbers or text")
        size = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or size != info.file_size - member.tell():
            raise ValueError(f"{name!r} has other bytes than its shape {shape} needs")
        array = np.empty(math.prod(shape), dtype)
        _fill(member, array.view(np.uint8))
    if dtype.kind == "b":
        # Other bytes than 0 and 1 are no booleans to numpy.
        array = array.view(np.uint8) != 0
    return array.reshape(shape, order="F" if is_fortran else "C")


def _fill(member: Any, content: UInt8[np.ndarray, " bytes"]) -> None:
    for start in range(0, len(content), _PORTION):
        part = content[start : start + _PORTION]
        # Too few bytes do not fit either.
        part[:] = np.frombuffer(member.read(len(part)), np.uint8)
    # The end of the member: there the checksum is compared.
    member.read(1)
