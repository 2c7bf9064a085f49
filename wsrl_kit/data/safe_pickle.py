"""An unpickler that knows numpy arrays, containers and numbers, and runs nothing else.

Unpickling can call whatever a file names. Here every name that a file may use stands for one of the few functions
below, which check their arguments and build plain values; nothing of numpy or the standard library is handed to the
file. Numpy's own `__setstate__` of dtypes, which trusts sizes and flags that the file gives, is never reached.
"""

import copyreg
import functools
import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from wsrl_kit.errors import DataError

_NUMBER = re.compile(r"[<>|=]?(\?|b1|[iu][1248]|f[248]|c8|c16)")
_PLAIN_CODECS = ("latin1", "latin-1")


class _Refused(Exception):
    """A name that the file has no business with; carries the name."""


class _Known:
    """Stands for an allowed name. A file can call it, and nothing else: it has no state to be set."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("the state of a function can't be set")


class _Dtype:
    """A dtype of numbers under construction: its code, and the byte order that the state adds."""

    __slots__ = ("code",)

    def __init__(self, code: Any, *_flags: Any) -> None:
        self.code = _number_dtype(code).str.lstrip("<>|=")

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        if order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("unknown byte order")
        self.code = order + self.code


def _dtype_of(value: Any) -> np.dtype:
    return _number_dtype(value.code if isinstance(value, _Dtype) else value)


@functools.cache
def _number_dtype(code: Any) -> np.dtype:
    if not (isinstance(code, str) and _NUMBER.fullmatch(code)):
        raise _Refused(f"numpy.dtype({code!r})")
    return np.dtype(code)


class _Array(np.ndarray):
    """An array under construction, as `_reconstruct` leaves it; its state brings shape, dtype and bytes."""

    def __setstate__(self, state: Any) -> None:
        version, shape, dtype, is_fortran, data = state
        content = data.encode("latin1") if isinstance(data, str) else data
        # Numpy checks that the bytes fill the shape. (It wants a plain bool, though its type stubs say otherwise.)
        super().__setstate__((version, shape, _dtype_of(dtype), bool(is_fortran), content))  # type: ignore[arg-type]


def _ndarray(shape: Any, dtype: Any, buffer: Any, offset: Any = None) -> np.ndarray:
    if offset is not None:
        size = math.prod(shape) * _dtype_of(dtype).itemsize
        if type(offset) is not int or not 0 <= offset <= offset + size <= len(buffer):
            raise pickle.UnpicklingError("an array does not lie inside its bytes")
        buffer = memoryview(buffer)[offset : offset + size]
    return _frombuffer(buffer, dtype, shape, "C")


_NDARRAY = _Known(_ndarray)


def _frombuffer(buffer: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    resolved, size = _dtype_of(dtype), math.prod(shape)
    if len(buffer) != size * resolved.itemsize:
        raise pickle.UnpicklingError("an array's bytes do not fill its shape")
    return np.frombuffer(buffer, resolved, count=size).reshape(shape, order=order)


def _reconstruct(subtype: Any, shape: Any, code: Any) -> np.ndarray:
    if subtype is not _NDARRAY or tuple(shape) != (0,):
        raise pickle.UnpicklingError("an array of another kind")
    return np.empty(0, np.int8).view(_Array)


def _scalar(dtype: Any, data: Any) -> Any:
    data = data.encode("latin1") if isinstance(data, str) else data
    return _frombuffer(data, dtype, ())[()]


def _encode(text: Any, codec: Any = "latin1") -> bytes:
    if not isinstance(text, str) or codec not in _PLAIN_CODECS:
        raise _Refused(f"_codecs.encode with {codec!r}")
    return text.encode("latin1")


def _empty_bytes() -> bytes:
    return b""


def _bytearray(content: Any = b"", codec: Any = "latin1") -> bytearray:
    return bytearray(content if isinstance(content, bytes) else _encode(content, codec))


_KNOWN: dict[tuple[str, str], _Known] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Known(_Dtype),
    ("_codecs", "encode"): _Known(_encode),
    ("collections", "OrderedDict"): _Known(dict),
    # The same modules under their names of numpy 1 and numpy 2, and of Python 2 and Python 3.
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Known(_reconstruct) for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Known(_scalar) for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _Known(_frombuffer) for core in ("core", "_core")},
    **{
        (module, function.__name__): _Known(function)
        for module in ("builtins", "__builtin__")
        for function in (list, dict, tuple, set, frozenset, complex)
    },
    **{(module, "bytes"): _Known(_empty_bytes) for module in ("builtins", "__builtin__")},
    **{(module, "bytearray"): _Known(_bytearray) for module in ("builtins", "__builtin__")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None

    def persistent_load(self, identifier: Any) -> Any:
        raise _Refused(f"persistent object {str(identifier)[:40]!r}")


def load_pickle(path: Path) -> Any:
    """What a pickle holds, if that is nothing but numpy arrays, containers, text and numbers.

    Raises:
        DataError: the file names anything else (which is refused by name and never run), or is no whole pickle.
    """
    # Objects registered by extension code are taken from this cache without asking find_class.
    copyreg.clear_extension_cache()
    try:
        # From the file itself: one copy of large images in memory, not two.
        with path.open("rb") as file:
            return _Unpickler(file).load()
    except _Refused as refused:
        raise DataError(
            f"{path} is refused: it asks for {refused}, and a data file may hold only numpy arrays, containers "
            "and numbers (nothing of it was run)."
        ) from None
    # A damaged or hostile stream can make the unpickler stumble in any way.
    except Exception as error:
        raise DataError(f"{path} is truncated or damaged: {str(error) or type(error).__name__}.") from error
