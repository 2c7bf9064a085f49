"""The doctor says what a file holds and all that is wrong with it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_samples import read_file, three_sources, trajectory, upstream_rows, write_upstream
from file_writers import write_hdf5, write_minari, write_npz
from wsrl_kit.cli import main
from wsrl_kit.data.doctor import examine, examine_all, render
from wsrl_kit.data.formats.hil_serl import write_hil_serl
from wsrl_kit.data.sources import Paths, load_sources
from wsrl_kit.errors import DataError


def test_a_healthy_file_is_described(tmp_path: Path) -> None:
    report = examine(write_upstream(tmp_path / "demos.pkl", upstream_rows([3, 8, 5, 8], timeout=8)))
    assert report.problems == ()
    assert report.format == "HIL-SERL pickle"
    assert report.facts["episodes"] == "4"
    assert report.facts["transitions"] == "24"
    assert report.facts["observation"] == "float64 (1, 3), 3 flat"
    assert report.facts["action"].startswith("float32 (2,), from -0.9")
    assert report.facts["reward"] == "from 0 to 1"
    assert report.facts["success rate"] == "50.0% of 4 episodes"
    assert report.facts["return"] == "0.5 on average, from 0 to 1"
    assert report.facts["length"] == "6 on average, from 3 to 8"
    assert report.facts["ends"] == "2 terminated, 2 truncated, 0 cut off"
    assert report.facts["timeouts repaired"] == "2"
    assert render(report).splitlines()[-1] == "  no problems found"


@pytest.mark.parametrize(
    ("write", "name", "format_name"),
    [
        (write_hil_serl, "a", "HIL-SERL pickle"),
        (write_hdf5, "b", "D4RL hdf5"),
        (write_npz, "c", "npz"),
        (write_minari, "d", "Minari"),
    ],
)
def test_every_format_the_kit_writes_is_healthy(tmp_path: Path, write: object, name: str, format_name: str) -> None:
    write(tmp_path / name, three_sources())  # type: ignore[operator]
    report = examine(tmp_path / name)
    assert (report.format, report.problems) == (format_name, ())
    assert report.facts["sources"] == "demos, random, suboptimal"
    assert report.facts["timeouts repaired"] == "0"


def test_a_known_time_limit_repairs_what_could_not_be_inferred(tmp_path: Path) -> None:
    path = write_upstream(tmp_path / "demos.pkl", upstream_rows([3, 8], timeout=8))
    assert examine(path).facts["timeouts repaired"] == "0"
    assert examine(path, timeout_length=8).facts["timeouts repaired"] == "1"


def test_the_doctor_does_not_stop_at_the_first_problem(tmp_path: Path) -> None:
    rows = upstream_rows([6, 6, 6])
    rows[1]["observations"] = {"state": np.full((1, 3), np.nan)}
    rows[4]["rewards"] = np.inf
    rows[7]["actions"] = np.array([30.0, 0.0])
    rows[8]["actions"] = np.array([-30.0, 0.0])
    rows[10]["observations"] = {"state": np.zeros((1, 4))}
    rows[11]["observations"]["wrist"] = np.zeros((1, 4, 4, 3), np.uint8)
    del rows[13]["dones"]
    rows[16]["next_observations"] = {"state": np.zeros((1, 3))}
    report = examine(write_upstream(tmp_path / "demos.pkl", rows))
    text = render(report)
    for expected in (
        "observations of transition 1 are not finite",
        "rewards of transition 4 are not finite",
        "the action of transition 7 holds 30, expected [-1, 1], as in 2 transitions in all",
        "transition 10 has observations (1, 4)",
        "transition 11 has observations (1, 3), wrist (1, 4, 4, 3) and next_observations (1, 3)",
        "transition 13 has no 'dones'",
        "gap(s): the observation after transition",
    ):
        assert sum(expected in problem for problem in report.problems) == 1, expected
        assert expected in text
    assert report.facts["transitions"] == "15"


def test_gaps_alone_are_a_problem(tmp_path: Path) -> None:
    rows = upstream_rows([9])
    del rows[3]
    (problem,) = examine(write_upstream(tmp_path / "demos.pkl", rows)).problems
    assert "1 gap(s): the observation after transition 2" in problem


@pytest.mark.parametrize(
    "content", [b"", b"notes", b"\x80\x04K", b"\x89HDF\r\n\x1a\nrest", b"PK\x03\x04rest", b"cos\nsystem\n(S'x'\ntR."]
)
def test_unreadable_files_are_one_problem_and_no_facts(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    report = examine(path)
    assert (report.format, report.facts, len(report.problems)) == ("", {}, 1)
    assert str(path) in report.problems[0]
    assert "problem: " in render(report)


def test_a_missing_file_is_a_problem(tmp_path: Path) -> None:
    assert "does not exist" in examine(tmp_path / "nothing.pkl").problems[0]


def test_cut_recordings_are_a_fact_and_no_problem(tmp_path: Path) -> None:
    report = examine(write_upstream(tmp_path / "demos.pkl", upstream_rows([4, 4])[:-1]))
    assert report.problems == ()
    assert report.facts["ends"] == "1 terminated, 0 truncated, 1 cut off"


def test_unknown_success_is_said(tmp_path: Path) -> None:
    write_npz(tmp_path / "file", [trajectory(3, success=None, rewards=[0.1, 0.2, 0.3])])
    assert examine(tmp_path / "file").facts["success rate"] == "not recorded"


def write_dumps(folder: Path) -> Path:
    """What a HIL-SERL run leaves, in whose first thousand steps nobody intervened."""
    for name, rows in (("buffer/transitions_1000", upstream_rows([5])), ("demo_buffer/transitions_1000", [])):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_upstream(folder / f"{name}.pkl", rows)
    write_upstream(folder / "demo_buffer/transitions_2000.pkl", upstream_rows([3]))
    return folder


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        ("data", ["demos.pkl", "random.npz"]),
        ("data/*.pkl", ["demos.pkl"]),
        ("data/*.[pn]*", ["demos.pkl", "random.npz"]),
        ("run", ["transitions_1000.pkl", "transitions_2000.pkl", "transitions_1000.pkl"]),
        (["data/random.npz", "run/buffer"], ["random.npz", "transitions_1000.pkl"]),
        ({"demos": "data/demos.pkl", "other": ["data/random.npz", "run"]}, 5),
    ],
)
def test_the_doctor_reads_what_warmup_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], paths: Paths, names: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "notes.txt").write_text("no data")
    write_upstream(tmp_path / "data" / "demos.pkl", upstream_rows([4]))
    write_npz(tmp_path / "data" / "random.npz", [trajectory(6)])
    write_dumps(tmp_path / "run")
    reports = examine_all(paths)
    assert [Path(report.path).name for report in reports] == names or len(reports) == names
    assert sum(int(report.facts["transitions"]) for report in reports) == len(load_sources(paths))
    assert main(["doctor", *(paths if isinstance(paths, list) else [str(paths)])]) == 0
    assert "problem:" not in capsys.readouterr().out


def test_what_warmup_would_refuse_is_a_problem_of_the_doctor(tmp_path: Path) -> None:
    write_npz(tmp_path / "demos.npz", [trajectory(4)])
    write_npz(tmp_path / "other.npz", [trajectory(4, observation_size=5)])
    (tmp_path / "empty").mkdir()
    (tmp_path / "dumps").mkdir()
    write_upstream(tmp_path / "dumps" / "transitions_1000.pkl", [])
    write_upstream(tmp_path / "nothing.pkl", [])
    demos = str(tmp_path / "demos.npz")
    refused: list[Paths] = [
        str(tmp_path / "*.npz"),
        [demos, str(tmp_path / "absent.pkl")],
        [demos, str(tmp_path / "*.hdf5")],
        [demos, str(tmp_path / "empty")],
        [demos, str(tmp_path / "nothing.pkl")],
        {"demos": demos, "other": str(tmp_path / "other.npz")},
        {"demos": demos, "other": []},
        str(tmp_path / "dumps"),
    ]
    for paths in refused:
        with pytest.raises(DataError):
            load_sources(paths)
        assert sum(len(report.problems) for report in examine_all(paths)) == 1, paths
        assert main(["doctor", str(paths)]) == 1


def test_a_name_in_infos_that_sounds_like_success_is_pointed_out(tmp_path: Path) -> None:
    rows = [
        row | {"rewards": -0.5, "infos": {"task_success": row["dones"], "grip": "open"}} for row in upstream_rows([3])
    ]
    facts = examine(write_upstream(tmp_path / "demos.pkl", rows)).facts
    assert facts["success rate"] == (
        "not recorded; info holds 'task_success': give success_key='task_success' in environment_options"
    )


@pytest.mark.parametrize("write", [write_hil_serl, write_npz, write_hdf5, write_minari])
def test_actions_beyond_one_are_clipped_and_a_fact(tmp_path: Path, write: Callable[..., None]) -> None:
    data = trajectory(5)
    data.actions[1:3] = [[1.1, 0.5], [-1.57, 1.09]]
    write(tmp_path / "file-v0", [data])
    report = examine(tmp_path / "file-v0")
    assert report.problems == ()
    assert report.facts["actions clipped"] == "2 of 5, the largest 1.57"
    np.testing.assert_array_equal(read_file(tmp_path / "file-v0")[0].actions, np.clip(data.actions, -1, 1))


def test_a_file_with_all_actions_in_range_says_nothing_of_clipping(tmp_path: Path) -> None:
    write_npz(tmp_path / "file", three_sources())
    assert "actions clipped" not in examine(tmp_path / "file").facts
