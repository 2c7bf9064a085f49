"""Damaged files of every format: one sentence or success, in bounded time and memory.

`pytest tests/data/test_fuzzing.py -n 0 --fuzz-inputs=100000` reads as many; the default is 100.
"""

import pytest

from fuzzing import FORMATS, Outcome, run


@pytest.fixture(scope="module")
def outcomes(pytestconfig: pytest.Config) -> dict[str, Outcome]:
    shares, count = sum(entry.share for entry in FORMATS.values()), pytestconfig.getoption("--fuzz-inputs")
    counts = {name: max(round(count * entry.share / shares), 1) for name, entry in FORMATS.items()}
    return run(counts, pytestconfig.getoption("--fuzz-seed"))


def test_damaged_files_cost_one_sentence_each(outcomes: dict[str, Outcome]) -> None:
    for outcome in outcomes.values():
        print(
            f"{outcome.format}: {outcome.read} read, {outcome.refused} refused, {len(outcome.failures)} failed; "
            f"at most {outcome.slowest_seconds:.1f} s and {outcome.largest_megabytes:.0f} MB"
        )
    failures = [failure for outcome in outcomes.values() for failure in outcome.failures]
    assert not failures, "\n".join(f"{found.format} {found.number}: {found.what}" for found in failures[:5])


def test_some_of_the_damage_is_harmless_and_some_is_not(outcomes: dict[str, Outcome]) -> None:
    """Otherwise the fuzzer would test nothing."""
    assert sum(outcome.read for outcome in outcomes.values()) > 0
    assert sum(outcome.refused for outcome in outcomes.values()) > 0
