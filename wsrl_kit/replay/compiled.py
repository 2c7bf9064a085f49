"""Loops over host arrays, compiled by Numba on their first call."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

LINE = 64
"""Bytes of a cache line."""


def compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    """The loop as machine code, which other threads may run beside Python.

    It is cached beside its module, in the user's cache folder where that is read-only, or not at all.
    """
    compile_loop: Callable[..., Any] = partial(numba.njit, nogil=True, error_model="numpy")
    # Tests wrap functions to check their annotations; only the loop itself can be compiled.
    loop = inspect.unwrap(loop)
    try:
        return compile_loop(loop, cache=True)
    except RuntimeError:  # no folder for a cache
        return compile_loop(loop)


def _prefetch(context: Any, array: Any, index: Any) -> tuple[Any, Any]:
    """Types, and the code, of `prefetch`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        memory = context.make_array(signature.args[0])(context, builder, arguments[0])
        places = cgutils.unpack_tuple(builder, arguments[1])
        address = cgutils.get_item_pointer(context, builder, signature.args[0], memory, places)
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        instruction = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        # To read; to all caches; data.
        builder.call(instruction, [builder.bitcast(address, pointer), number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(array, index), generate


prefetch: Callable[..., None] = intrinsic(_prefetch)
"""In compiled loops, of an array and a tuple of indices: has the processor fetch that cache line, without waiting."""
