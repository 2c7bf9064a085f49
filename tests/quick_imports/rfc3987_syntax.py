"""See `tests/conftest.py`."""

raise ImportError("tests do without it")
