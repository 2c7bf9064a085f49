"""The names that a pickle of data may call, and the records that stand for the results.

Nothing here calls NumPy. A record takes its state once, so a file can't change what was checked.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

LARGEST_AXIS = 2**31
LARGEST_COUNT = 2**48
MOST_AXES = 32
# Keys that differ by multiples of 2**61 - 1 have one hash. Integers of 64 bits leave room for few of these.
LARGEST_KEY = 2**63

_NUMBER = re.compile(r"[<>|=]?(\?|b1|[iu][1248]|f[248]|c8|c16)")
_PLAIN_CODECS = ("latin1", "latin-1")
_PLAIN_NAME = re.compile(r"[\w.]{1,100}", re.ASCII)


class Damaged(Exception):
    """Why a stream is no whole pickle, as the end of a sentence that begins with `it`."""


class Refused(Exception):
    """What the stream asks for and no data file needs."""


class Name:
    """An allowed name, which the stream can only call."""

    __slots__ = ("function", "title")

    def __init__(self, title: str, function: Callable[..., Any]) -> None:
        self.title = title
        self.function = function


class Bytearray:
    """The content of a bytearray."""

    __slots__ = ("content",)

    def __init__(self, content: bytes) -> None:
        self.content = content


class Dtype:
    """A dtype of numbers: its code, and the byte order from its state."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, *_flags: Any) -> None:
        self.code = _dtype_code(code).lstrip("<>|=")
        self.order: str | None = None

    def set_state(self, state: Any) -> None:
        if self.order is not None:
            raise Damaged("sets the state of a dtype twice")
        # Version, byte order, then sub-arrays, names and fields of structured dtypes.
        if type(state) is not tuple or len(state) < 5 or state[1] not in ("<", ">", "|", "="):
            raise Damaged("sets a dtype to a state that dtypes do not have")
        if state[2:5] != (None, None, None):
            raise Refused(f"numpy.dtype({self.code!r}) with fields")
        self.order = state[1]


class Array:
    """An array or a scalar: shape, dtype code and bytes.

    Attributes:
        shape: at most `MOST_AXES` lengths.
        count: the product of the lengths.
        code: such as `<f4`.
        content: None before the state is set.
        offset: where in `content` the array begins.
        is_fortran: first axis fastest.
        axes: to transpose to; None: no transposition.
    """

    __slots__ = ("axes", "code", "content", "count", "is_fortran", "is_scalar", "offset", "shape")

    def __init__(self) -> None:
        self.content: bytes | None = None
        self.is_fortran = self.is_scalar = False
        self.axes: tuple[int, ...] | None = None

    def set_state(self, state: Any) -> None:
        if self.content is not None:
            raise Damaged("sets the state of an array twice")
        if type(state) is not tuple or len(state) != 5:
            raise Damaged("sets an array to a state that arrays do not have")
        _, shape, dtype, is_fortran, content = state
        self.is_fortran = is_fortran is True or is_fortran == 1
        self.fill(content, dtype, shape)

    def fill(self, content: Any, dtype: Any, shape: Any, offset: Any = None) -> None:
        """Takes over everything if the array lies in its bytes, from `offset` on (None: all of them)."""
        self.code = _dtype_code(dtype)
        self.count = _count(shape)
        self.shape, self.offset = shape, offset or 0
        plain = content if type(content) is bytes else _content(content)
        size = self.count * _item_size(self.code)
        if offset is None:
            if len(plain) != size:
                raise Damaged("holds an array whose bytes do not fill its shape")
        elif type(offset) is not int or not 0 <= offset <= len(plain) - size:
            raise Damaged("holds an array that does not lie inside its bytes")
        self.content = plain


def _dtype_code(value: Any) -> str:
    if type(value) is Dtype:
        return (value.order or "=") + value.code
    if type(value) is not str or not _NUMBER.fullmatch(value):
        raise Refused(f"numpy.dtype({quoted(value)})")
    return value


@functools.cache
def _item_size(code: str) -> int:
    digits = code.lstrip("<>|=")[1:]
    return int(digits) if digits else 1


def _count(shape: Any) -> int:
    """How many numbers an array of this shape has."""
    if type(shape) is not tuple or len(shape) > MOST_AXES:
        raise Damaged("holds an array without a plain shape")
    # Of empty arrays too: numpy multiplies their other lengths.
    count = 1
    for length in shape:
        if type(length) is not int or not 0 <= length < LARGEST_AXIS:
            raise Damaged("holds an array with a length that arrays do not have")
        count *= length or 1
    if count > LARGEST_COUNT:
        raise Damaged("holds an array with a length that arrays do not have")
    return 0 if 0 in shape else count


def _content(value: Any) -> bytes:
    if type(value) is str:
        return value.encode("latin1")
    content = value.content if type(value) is Bytearray else value
    if type(content) is not bytes:
        raise Damaged("holds an array whose content is no bytes")
    return content


def _ndarray(shape: Any, dtype: Any, buffer: Any, offset: Any = None) -> Array:
    array = Array()
    array.fill(buffer, dtype, shape, offset=offset)
    return array


def _frombuffer(buffer: Any, dtype: Any, shape: Any, order: Any = "C", axes: Any = None) -> Array:
    array = _ndarray(shape, dtype, buffer)
    if order == "K":
        if type(axes) is not tuple or any(type(axis) is not int for axis in axes):
            raise Damaged("holds an array without a plain order of axes")
        if sorted(axes) != list(range(len(array.shape))):
            raise Damaged("holds an array without a plain order of axes")
        array.axes = axes
    elif order not in ("C", "F"):
        raise Damaged("holds an array in an unknown order")
    array.is_fortran = order == "F"
    return array


def _reconstruct(subtype: Any, shape: Any, _code: Any) -> Array:
    if subtype is not _NDARRAY or shape != (0,):
        raise Damaged("holds an array of another kind")
    return Array()


def _jax_array(reconstruct: Any, arguments: Any, state: Any, *_type: Any) -> Array:
    """JAX pickles an array as the steps that make its NumPy copy."""
    if type(reconstruct) is not Name or reconstruct.function is not _reconstruct or type(arguments) is not tuple:
        raise Damaged("holds an array of another kind")
    array = _reconstruct(*arguments)
    array.set_state(state)
    return array


def _scalar(dtype: Any, data: Any) -> Array:
    array = _ndarray((), dtype, data)
    array.is_scalar = True
    return array


def _encode(text: Any, codec: Any = "latin1") -> bytes:
    if type(text) is not str or codec not in _PLAIN_CODECS:
        raise Refused(f"_codecs.encode with {quoted(codec)}")
    return text.encode("latin1")


def _bytearray(content: Any = b"", codec: Any = "latin1") -> Bytearray:
    return Bytearray(content if type(content) is bytes else _encode(content, codec))


def _dict(entries: Any = ()) -> dict[Any, Any]:
    if type(entries) not in (dict, list, tuple):
        raise Damaged("makes a dict of something else")
    # Pairs are checked before the dict sees their keys.
    pairs = list(entries.items()) if type(entries) is dict else list(entries)
    if any(type(pair) not in (list, tuple) or len(pair) != 2 for pair in pairs):
        raise Damaged("makes a dict of something else")
    for key, _ in pairs:
        check_key(key)
    return {key: value for key, value in pairs}  # noqa: C416 (a list of lists is no argument of dict)


def _copied(kind: type) -> Callable[..., Any]:
    def copy(elements: Any = ()) -> Any:
        if type(elements) not in (list, tuple, set, frozenset):
            raise Damaged(f"makes a {kind.__name__} of something else")
        if kind in (set, frozenset):
            for element in elements:
                check_key(element)
        return kind(elements)

    return copy


def _complex(real: Any, imaginary: Any = 0) -> complex:
    if type(real) not in (int, float) or type(imaginary) not in (int, float):
        raise Damaged("makes a complex number of something else")
    return complex(real, imaginary)


def check_key(key: Any) -> None:
    """Checks a key of a dict or an element of a set."""
    if type(key) not in (str, float, bool, int) or (type(key) is int and abs(key) >= LARGEST_KEY):
        raise Damaged("holds a dict or a set with a key that is neither text nor a number of 64 bits")


def quoted(value: Any) -> str:
    """A value for a message: short, without control characters."""
    if type(value) is not str:
        return type(value).__name__
    return ascii(value if len(value) <= 60 else value[:57] + "...")


_BUILTINS: dict[str, Callable[..., Any]] = {
    "list": _copied(list),
    "tuple": _copied(tuple),
    "set": _copied(set),
    "frozenset": _copied(frozenset),
    "dict": _dict,
    "complex": _complex,
    "bytes": lambda: b"",
    "bytearray": _bytearray,
}
_FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _ndarray,
    ("numpy", "dtype"): Dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): _dict,
    # Parameters of networks, as flax and JAX (of 2022, and since) leave them.
    ("flax.core.frozen_dict", "FrozenDict"): _dict,
    ("jax._src.device_array", "reconstruct_device_array"): _jax_array,
    ("jax._src.array", "_reconstruct_array"): _jax_array,
    # The same modules under their names of numpy 1 and numpy 2, and of Python 2 and Python 3.
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},
    **{(module, name): _BUILTINS[name] for module in ("builtins", "__builtin__") for name in _BUILTINS},
}
_KNOWN = {(module, name): Name(f"{module}.{name}", function) for (module, name), function in _FUNCTIONS.items()}
_NDARRAY = _KNOWN["numpy", "ndarray"]


def find_name(module: str, name: str) -> Name:
    """The record of an allowed name.

    Raises:
        Refused: the name is not allowed.
    """
    known = _KNOWN.get((module, name))
    if known is None:
        full = f"{module}.{name}"
        raise Refused(full if _PLAIN_NAME.fullmatch(full) else quoted(full))
    return known
