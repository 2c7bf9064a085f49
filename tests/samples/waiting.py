"""Waits for what happens in another thread or process."""

import time
from collections.abc import Callable


def wait_for(is_true: Callable[[], object], seconds: float = 300.0) -> None:
    """Fails if it does not become true in time."""
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
