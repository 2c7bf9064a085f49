"""Damaged files of every format: one sentence or success, in bounded time and memory.

`pytest tests/test_fuzzing.py --fuzz-inputs=100000` reads as many; the default is a few hundred.
"""

import pytest

from fuzzing import FORMATS, run


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_costs_one_sentence(name: str, pytestconfig: pytest.Config) -> None:
    shares = sum(entry.share for entry in FORMATS.values())
    count = max(round(pytestconfig.getoption("--fuzz-inputs") * FORMATS[name].share / shares), 1)
    outcome = run(name, pytestconfig.getoption("--fuzz-seed"), count)
    print(
        f"{name}: {outcome.read} read, {outcome.refused} refused, {len(outcome.failures)} failed; "
        f"at most {outcome.slowest_seconds:.1f} s and {outcome.largest_megabytes:.0f} MB"
    )
    assert not outcome.failures, "\n".join(
        f"input {failure.number}: {failure.what}" for failure in outcome.failures[:5]
    )
    assert outcome.read + outcome.refused == count
