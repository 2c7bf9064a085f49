"""Traces: what is kept of an evaluation's episodes, and damaged files of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wsrl_kit.errors import RunError
from wsrl_kit.runs.run import Run
from wsrl_kit.runs.traces import Trace, find_traces, read_traces, success_and_failure, trace_name, write_traces


def trace(seed: int, success: float, total_reward: float = 0.0, steps: int = 100) -> Trace:
    actions = np.random.default_rng(seed).uniform(-1, 1, (steps, 6)).astype(np.float32)
    return Trace(seed, actions, actions[:, 0], success, total_reward, np.arange(19, dtype=np.float32))


def test_traces_come_back_and_are_small(tmp_path: Path) -> None:
    written = [trace(2**32 - 1, 1.0, 1.0), trace(4, np.nan, -3.5, steps=7)]
    path = tmp_path / trace_name("online", 500)
    write_traces(path, written)
    assert path.stat().st_size < 8_000
    for before, after in zip(written, read_traces(path), strict=True):
        assert (after.seed, after.total_reward, len(after)) == (before.seed, before.total_reward, len(before))
        assert np.array_equal(after.success, before.success, equal_nan=True)
        for name in ("actions", "values", "last_state"):
            assert np.array_equal(getattr(after, name), getattr(before, name))
    again = path.read_bytes()
    write_traces(path, written)
    assert path.read_bytes() == again


def test_a_success_and_a_failure_are_kept_or_the_best_and_the_worst_return() -> None:
    ended = [trace(0, 0.0), trace(1, 1.0), trace(2, 0.0), trace(3, 1.0)]
    assert [each.seed for each in success_and_failure(ended)] == [1, 0]
    assert [each.seed for each in success_and_failure(ended[:1])] == [0]
    returns = [trace(seed, np.nan, reward) for seed, reward in enumerate((0.0, 3.0, -2.0))]
    assert [each.seed for each in success_and_failure(returns)] == [1, 2]
    assert [each.seed for each in success_and_failure(returns[:1])] == [0]
    assert success_and_failure([]) == []


def test_files_are_found_in_the_order_of_time(tmp_path: Path) -> None:
    for phase, step in (("online", 0), ("warmup", 1000), ("warmup", 0), ("online", 20)):
        write_traces(tmp_path / trace_name(phase, step), [trace(0, 1.0)])
    (tmp_path / "traces" / "other.npz").write_bytes(b"")
    assert list(find_traces(tmp_path)) == [("warmup", 0), ("warmup", 1000), ("online", 0), ("online", 20)]
    assert find_traces(tmp_path / "nowhere") == {}


@pytest.mark.parametrize("damage", ["cut", "empty", "shape", "infinite"])
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path: Path, damage: str) -> None:
    path, good = tmp_path / "traces.npz", trace(0, 1.0)
    write_traces(path, [good])
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "infinite":
        write_traces(path, [replace(good, actions=np.full_like(good.actions, np.inf))])
    else:
        np.savez(
            path, numbers_0=np.zeros(3), actions_0=np.zeros((2, 1)), values_0=np.zeros(3), last_state_0=np.zeros(1)
        )
    with pytest.raises(RunError, match=r"must hold traces of episodes, found a damaged file: .*[.]$"):
        read_traces(path)


def test_a_run_that_starts_anew_has_no_earlier_traces(tmp_path: Path) -> None:
    for expected in ([], [("online", 0)]):
        run = Run.open(tmp_path, kind="finetune", arm="", seed=0, parameters={}, resume=bool(expected))
        assert list(find_traces(tmp_path)) == expected
        write_traces(tmp_path / trace_name("online", 0), [trace(0, 1.0)])
        run.stop()
    Run.open(tmp_path, kind="finetune", arm="", seed=0, parameters={}, resume=False).close()
    assert find_traces(tmp_path) == {}
