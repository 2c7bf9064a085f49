"""Loops over host arrays, compiled by Numba on their first call."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numba


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
