"""Cases of one test of which one runs by default and the others behind the marker `slow`."""

from collections.abc import Iterable
from typing import Any

import pytest


def one_fast(cases: Iterable[Any], fast: Any = None) -> list[Any]:
    """The cases; all but `fast` (None: the first) are slow."""
    cases = list(cases)
    chosen = cases[0] if fast is None else fast
    assert chosen in cases
    return [case if case == chosen else _slow(case) for case in cases]


def _slow(case: Any) -> Any:
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
