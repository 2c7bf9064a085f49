"""Arrays of an `.npz` file from anyone: sizes are checked before they are allocated, Python objects are refused."""

import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from wsrl_kit.reading import check_size

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_PORTION = 2**20


def load_arrays(path: Path, is_wanted: Callable[[str], bool] = lambda name: True) -> dict[str, np.ndarray | None]:
    """Every array's name, and its array where it is wanted; for use inside `reading`.

    Raises:
        Exception: of nearly any kind, where the file is missing, damaged, or declares more than it can hold.
        ValueError: an array holds anything but numbers and text.
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
