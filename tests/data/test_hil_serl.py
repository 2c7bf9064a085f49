"""HIL-SERL's demo files, as upstream writes them and as the kit does."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_samples import assert_same, dataset, read_file, three_sources, trajectory, upstream_rows, write_upstream
from wsrl_kit.data.doctor import examine
from wsrl_kit.data.formats.hil_serl import write_hil_serl
from wsrl_kit.data.sources import load_sources
from wsrl_kit.data.weights import weigh
from wsrl_kit.errors import DataError


def read_rows(tmp_path: Path, rows: object, timeout_length: int | None = None) -> Any:
    return read_file(write_upstream(tmp_path / "demos.pkl", rows), timeout_length)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_upstream_demos_are_read(tmp_path: Path, protocol: int) -> None:
    rows = upstream_rows([4, 2, 3])
    found = read_file(write_upstream(tmp_path / "demos.pkl", rows, protocol))
    assert [len(t) for t in found] == [4, 2, 3]
    assert all(t.terminated and not t.truncated and t.success for t in found)
    np.testing.assert_array_equal(found[1].rewards, [0, 1])
    first = np.concatenate([row["observations"]["state"] for row in rows[:4]] + [rows[3]["next_observations"]["state"]])
    np.testing.assert_array_equal(found[0].observations, first.astype(np.float32))
    np.testing.assert_array_equal(found[2].actions, [row["actions"] for row in rows[6:]])


def test_files_without_infos_and_with_a_grasp_penalty_are_read(tmp_path: Path) -> None:
    rows = [row | {"grasp_penalty": -0.02} for row in upstream_rows([3, 5], timeout=5, infos=False)]
    assert [t.success for t in read_rows(tmp_path, rows)] == [True, False]


def test_flat_observations_are_read(tmp_path: Path) -> None:
    rows = upstream_rows([3])
    for row in rows:
        row["observations"] = row["observations"]["state"][0]
        row["next_observations"] = row["next_observations"]["state"][0]
    assert read_rows(tmp_path, rows)[0].observations.shape == (4, 3)


@pytest.mark.parametrize("key", ["succeed", "success", "is_success"])
def test_success_is_what_infos_say(tmp_path: Path, key: str) -> None:
    rows = upstream_rows([2, 2], infos=False)
    for row, says in zip(rows, [False, np.bool_(False), 0, np.array([1])], strict=True):
        row["infos"] = {key: says}
    assert [t.success for t in read_rows(tmp_path, rows)] == [False, True]


def test_success_is_unknown_where_dense_rewards_tell_nothing(tmp_path: Path) -> None:
    rows = [row | {"rewards": 0.3} for row in upstream_rows([2, 2], infos=False)]
    assert [t.success for t in read_rows(tmp_path, rows)] == [None, None]


def test_done_without_mask_zero_is_truncated(tmp_path: Path) -> None:
    rows = [row | {"masks": 1.0} for row in upstream_rows([3, 2])]
    assert [(t.terminated, t.truncated) for t in read_rows(tmp_path, rows)] == [(False, True), (False, True)]


def test_a_recording_that_stops_early_is_truncated(tmp_path: Path) -> None:
    found = read_rows(tmp_path, upstream_rows([3, 4])[:-2])
    assert [(len(t), t.terminated, t.truncated) for t in found] == [(3, True, False), (2, False, True)]


def test_a_gap_ends_a_segment(tmp_path: Path) -> None:
    rows = upstream_rows([6])
    del rows[2:4]
    found = read_rows(tmp_path, rows)
    assert [(len(t), t.terminated, t.truncated) for t in found] == [(2, False, True), (2, True, False)]


def test_time_limits_recorded_as_ends_of_the_task_are_repaired(tmp_path: Path) -> None:
    found = read_rows(tmp_path, upstream_rows([3, 8, 5, 8], timeout=8))
    assert [t.terminated for t in found] == [True, False, True, False]
    assert [t.truncated for t in found] == [False, True, False, True]
    assert [t.success for t in found] == [True, False, True, False]


def test_one_long_failure_is_a_time_limit_only_if_the_limit_is_known(tmp_path: Path) -> None:
    rows = upstream_rows([3, 8, 5], timeout=8)
    assert [t.terminated for t in read_rows(tmp_path, rows)] == [True, True, True]
    assert [t.terminated for t in read_rows(tmp_path, rows, timeout_length=8)] == [True, False, True]
    assert [t.terminated for t in read_rows(tmp_path, rows, timeout_length=9)] == [True, True, True]


def test_failures_shorter_than_the_longest_episode_and_successes_stay_terminal(tmp_path: Path) -> None:
    failures_before_the_limit = upstream_rows([3, 5, 5, 9], timeout=5)
    assert all(t.terminated for t in read_rows(tmp_path, failures_before_the_limit))
    assert all(t.terminated for t in read_rows(tmp_path, upstream_rows([8, 8, 8])))


def test_files_that_tell_time_limits_apart_are_believed(tmp_path: Path) -> None:
    rows = upstream_rows([8, 8, 8], timeout=8)
    rows[7]["masks"] = 1.0
    assert [t.terminated for t in read_rows(tmp_path, rows)] == [False, True, True]


def test_gyms_own_mark_of_a_time_limit_is_believed(tmp_path: Path) -> None:
    rows = upstream_rows([8, 8], timeout=8)
    rows[7]["infos"] = {"TimeLimit.truncated": True}
    assert [(t.terminated, t.truncated) for t in read_rows(tmp_path, rows)] == [(False, True), (True, False)]


def test_written_files_have_upstreams_form(tmp_path: Path) -> None:
    write_hil_serl(tmp_path / "demos.pkl", [trajectory(3), trajectory(2, success=False, terminated=False)])
    content = (tmp_path / "demos.pkl").read_bytes()
    # HIL-SERL runs on numpy 1, which does not know numpy 2's private modules.
    assert b"_core" not in content
    rows = pickle.loads(content)
    assert isinstance(rows, list)
    assert len(rows) == 5
    for row in rows:
        assert set(row) == {"observations", "actions", "next_observations", "rewards", "masks", "dones", "infos"}
        for name in ("observations", "next_observations"):
            assert set(row[name]) == {"state"}
            assert row[name]["state"].shape == (1, 3)
            assert row[name]["state"].dtype == np.float32
        assert type(row["actions"]) is np.ndarray
        assert type(row["dones"]) is bool
    assert [row["dones"] for row in rows] == [False, False, True, False, True]
    assert [row["masks"] for row in rows] == [1, 1, 0, 1, 1]
    assert [row["rewards"] for row in rows] == [0, 0, 1, 0, 0]
    assert [row["infos"]["succeed"] for row in rows] == [True, True, True, False, False]


def test_what_was_written_is_read_as_it_was(tmp_path: Path) -> None:
    data = dataset(*three_sources(), trajectory(6, success=None, source="random"))
    write_hil_serl(tmp_path / "demos.pkl", data.trajectories())
    assert_same(load_sources(str(tmp_path / "demos.pkl")), data)


def test_filtered_data_is_read_as_it_was_with_sources_and_weights(tmp_path: Path) -> None:
    # Segments of one length without success, which the repair of time limits must leave alone.
    data = weigh(dataset(), {"demos": 2.0}, 1.5)
    kept = data.select_transitions(np.array([0, 1, 3, 5, 6, 8, 9, 11, 12, 15, 16, 19, 20]))
    write_hil_serl(tmp_path / "filtered_demos.pkl", kept.trajectories())
    found = load_sources(str(tmp_path / "filtered_demos.pkl"))
    assert_same(found, kept)
    assert found.is_weighted


def test_segments_that_terminate_without_success_stay_terminal(tmp_path: Path) -> None:
    failures = [trajectory(4, seed=seed, success=False) for seed in range(3)]
    write_hil_serl(tmp_path / "demos.pkl", failures)
    assert all(t.terminated for t in read_file(tmp_path / "demos.pkl"))
    assert all(t.terminated for t in read_file(tmp_path / "demos.pkl", timeout_length=4))


def test_a_failed_write_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "demos.pkl"
    write_hil_serl(path, [trajectory(3)])
    before = path.read_bytes()
    with pytest.raises(DataError, match="no transitions to write"):
        write_hil_serl(path, [])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["demos.pkl"]
    with pytest.raises(DataError, match=r"demos\.pkl/more\.pkl can't be written: (Not a directory|File exists)"):
        write_hil_serl(path / "more.pkl", [trajectory(3)])
    assert path.read_bytes() == before


SIGNALLING = np.full((1, 3), 0x7FF0000000000001).view(np.float64)
"""NaN of the kind that makes a cast to float32 warn."""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observations": {"state": np.full((1, 3), np.nan)}}, "observations of transition 2 are not finite"),
        ({"observations": {"state": SIGNALLING}}, "observations of transition 2 are not finite"),
        ({"next_observations": {"state": np.full((1, 3), np.inf)}}, "next_observations of transition 2 are not finite"),
        ({"rewards": np.nan}, "rewards of transition 2 are not finite"),
        ({"actions": np.array([0, np.nan], np.float32)}, "actions of transition 2 are not finite"),
        ({"actions": np.array([0, -3.5])}, r"the action of transition 2 holds -3\.5, expected \[-1, 1\]"),
        (
            {"actions": np.zeros(3)},
            r"transition 2 has observations \(1, 3\) and actions \(3,\), expected observations \(1, 3\) and",
        ),
        ({"observations": {"state": np.zeros((1, 4))}}, r"transition 2 has observations \(1, 4\)"),
        ({"observations": {"pose": np.zeros(3)}}, "transition 2 has .*'pose'|has no 'state'"),
        ({"observations": "text"}, "transition 2 has observations that are no numbers"),
        ({"rewards": [1, 2]}, "transition 2 has rewards, masks or dones that are no single numbers"),
        ({"rewards": "1"}, "transition 2 has rewards, masks or dones that are no single numbers"),
        ({"rewards": 2**1000}, "transition 2 has rewards, masks or dones that are no single numbers"),
        ({"rewards": 1e300}, "rewards of transition 2 are not finite"),
        ({"actions": [1, "a" * 1000]}, "transition 2 has actions that are no numbers"),
        ({"observations": {"state": [[1.0, 2.0], [3.0]]}}, "transition 2 has observations that are no array"),
        ({"observations": {"state": np.ones((1, 3)), "\x1b[2J": 1}}, "transition 2 has an observation without a name"),
        ({"observations": {"state": np.ones((1, 3)), "a" * 101: 1}}, "transition 2 has an observation without a name"),
        ({"observations": {1: np.ones((1, 3))}}, "transition 2 has an observation without a name"),
        ({"infos": {"source": "a" * 1000}}, "transition 2 has a source that is no name of at most 100 printable"),
        ({"infos": {"source": [1]}}, "transition 2 has a source that is no name of at most 100 printable"),
        ({"masks": 0.5}, "transition 2 has masks 0.5 and dones 0, expected 0 or 1"),
        ({"infos": {"weight": -1.0}}, "the weight of transition 2 is -1, expected 0 or more"),
    ],
)
def test_bad_values_are_refused_with_file_and_transition(tmp_path: Path, change: dict, message: str) -> None:
    rows = upstream_rows([4])
    rows[2] = rows[2] | change
    with pytest.raises(DataError, match=rf"demos\.pkl: .*({message})") as caught:
        read_rows(tmp_path, rows)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_missing_keys_are_named(tmp_path: Path) -> None:
    rows = upstream_rows([4])
    del rows[1]["masks"]
    with pytest.raises(DataError, match=r"demos\.pkl: transition 1 has no 'masks'\.$"):
        read_rows(tmp_path, rows)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], r"demos\.pkl holds no transitions"),
        ({"observations": [1]}, "expected a list of transitions, found dict"),
        ([1, 2], "transition 0 is no dict but int, as in 2 transitions"),
    ],
)
def test_other_pickles_are_refused(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path, content)


def test_lists_pickled_into_one_file_one_after_another_are_all_read(tmp_path: Path) -> None:
    path = tmp_path / "demos.pkl"
    rows = upstream_rows([5, 6, 7])
    for protocol, part in ((4, rows[:5]), (2, []), (4, rows[5:11]), (5, rows[11:])):
        with path.open("ab") as file:
            pickle.dump(part, file, protocol)
    found = read_file(path)
    assert [len(part) for part in found] == [5, 6, 7]
    np.testing.assert_array_equal(found[2].actions, [row["actions"] for row in rows[11:]])
    assert examine(path).problems == ()
    assert examine(path).facts["transitions"] == "18"


@pytest.mark.parametrize("rest", [b"\x00", b"notes", pickle.dumps(upstream_rows([3]))[:-200], pickle.dumps({"a": 1})])
def test_something_else_after_the_list_is_refused(tmp_path: Path, rest: bytes) -> None:
    path = write_upstream(tmp_path / "demos.pkl", upstream_rows([3]))
    with path.open("ab") as file:
        file.write(rest)
    with pytest.raises(
        DataError, match=r"damaged: it .*, after 1 whole pickle\(s\)\.$|expected a list of transitions, found dict"
    ):
        read_file(path)


def test_a_time_limit_may_be_said_in_any_form(tmp_path: Path) -> None:
    for says in (True, np.bool_(True), np.array([1])):
        rows = upstream_rows([3])
        rows[2]["infos"] = {"TimeLimit.truncated": says}
        assert read_rows(tmp_path, rows)[0].truncated
    rows[2]["infos"] = {"TimeLimit.truncated": np.zeros(2)}
    assert read_rows(tmp_path, rows)[0].terminated


def test_actions_of_hil_serls_own_wrappers_are_clipped(tmp_path: Path) -> None:
    rows = upstream_rows([3])
    rows[0]["actions"] = np.array([1.0005, -1.57], np.float32)
    rows[1]["actions"] = np.array([0.5, 1.088], np.float32)
    found = read_rows(tmp_path, rows)[0].actions
    np.testing.assert_array_equal(found[:2], np.float32([[1, -1], [0.5, 1]]))
