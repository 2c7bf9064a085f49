"""From paths, globs, folders and lists to named sources."""

import os
from pathlib import Path

import numpy as np
import pytest

from data_samples import dataset, read_file, trajectory, upstream_rows, write_upstream
from file_writers import write_npz
from wsrl_kit.data.formats.hil_serl import write_hil_serl
from wsrl_kit.data.sources import expand, load_sources
from wsrl_kit.errors import DataError


def sources_of(paths: object) -> dict[str, list[str]]:
    return {name: [file.name for file in files] for name, files in expand(paths).items()}  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("demos", "suboptimal", "random"):
        write_hil_serl(tmp_path / f"{name}.pkl", [trajectory(3)])
    return tmp_path


def test_files_named_after_sources_belong_to_them(folder: Path) -> None:
    by_name = {name: [f"{name}.pkl"] for name in ("demos", "random", "suboptimal")}
    assert sources_of(str(folder)) == by_name
    assert sources_of(str(folder / "*.pkl")) == by_name
    assert sources_of(str(folder / "random.pkl")) == {"random": ["random.pkl"]}
    assert load_sources(str(folder)).source_names == ("demos", "random", "suboptimal")


def test_a_single_file_of_any_name_holds_demos(folder: Path) -> None:
    write_hil_serl(folder / "peg.pkl", [trajectory(3)])
    assert sources_of(str(folder / "peg.pkl")) == {"demos": ["peg.pkl"]}
    assert sources_of([str(folder / "peg.pkl"), str(folder / "random.pkl")]) == {
        "peg": ["peg.pkl"],
        "random": ["random.pkl"],
    }


def test_a_dict_names_sources_freely(folder: Path) -> None:
    paths: dict[str, str | list[str]] = {"mine": str(folder / "random.pkl"), "theirs": [str(folder / "[ds]*.pkl")]}
    assert sources_of(paths) == {"mine": ["random.pkl"], "theirs": ["demos.pkl", "suboptimal.pkl"]}
    data = load_sources(paths)
    assert data.source_names == ("mine", "theirs")
    np.testing.assert_array_equal(data.episode_source, [0, 1, 1])


def test_dumps_of_a_run_are_one_source_in_natural_order_and_their_episodes_are_joined(tmp_path: Path) -> None:
    rows = upstream_rows([7, 6])
    for step, part in ((1000, rows[9:]), (900, rows[4:9]), (20, rows[:4])):
        write_upstream(tmp_path / f"transitions_{step}.pkl", part)
    names = ["transitions_20.pkl", "transitions_900.pkl", "transitions_1000.pkl"]
    assert sources_of(str(tmp_path)) == {"demos": names}
    data = load_sources(str(tmp_path))
    np.testing.assert_array_equal(data.episode_lengths, [7, 6])
    assert not data.truncated.any()


def test_files_that_do_not_continue_each_other_are_not_joined(tmp_path: Path) -> None:
    write_upstream(tmp_path / "a_1.pkl", upstream_rows([7], seed=1)[:4])
    write_upstream(tmp_path / "a_2.pkl", upstream_rows([7], seed=2)[4:])
    data = load_sources(str(tmp_path))
    np.testing.assert_array_equal(data.episode_lengths, [4, 3])
    np.testing.assert_array_equal(np.flatnonzero(data.truncated), [3])


def test_the_time_limit_is_inferred_over_all_files_of_a_source(tmp_path: Path) -> None:
    write_upstream(tmp_path / "a_1.pkl", upstream_rows([3, 8], timeout=8, seed=1))
    write_upstream(tmp_path / "a_2.pkl", upstream_rows([8, 4], timeout=8, seed=2))
    data = load_sources(str(tmp_path))
    np.testing.assert_array_equal(np.flatnonzero(data.truncated), [10, 18])
    assert len(read_file(tmp_path / "a_1.pkl")) == 2
    assert load_sources(str(tmp_path / "a_1.pkl"), timeout_length=8).truncated.sum() == 1


def test_the_extension_of_a_file_means_nothing(tmp_path: Path) -> None:
    write_npz(tmp_path / "file.pkl", [trajectory(3)])
    assert len(load_sources(str(tmp_path / "file.pkl"))) == 3


def test_a_folder_may_hold_other_things(folder: Path) -> None:
    (folder / "notes.txt").write_text("(demos were recorded on a Monday)")
    (folder / ".hidden").write_bytes(b"\x80\x04")
    (folder / "figures").mkdir()
    assert len(expand(str(folder))) == 3


def test_paths_may_begin_at_home_or_be_given_twice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert len(load_sources(["~/demos.pkl", str(folder / "demos.pkl")])) == 3


def test_mixed_formats_make_one_dataset(folder: Path) -> None:
    write_npz(folder / "more.npz", [trajectory(4)])
    data = load_sources({"all": str(folder)})
    assert len(data) == len(dataset(trajectory(3), trajectory(3), trajectory(3), trajectory(4)))


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (None, "No offline data is given"),
        ("", "No offline data is given"),
        ([], "No offline data is given"),
        ({}, "No offline data is given"),
        ({"demos": []}, "The list of files for source 'demos' is empty"),
        ("missing.pkl", r"missing\.pkl does not exist"),
        ("missing*.pkl", r"No file matches missing\*\.pkl"),
        ("empty_folder", "The folder empty_folder holds no data file of a known format"),
        ("empty.pkl", r"empty\.pkl is empty"),
        ("with_empty", r"with_empty/empty\.pkl is empty"),
        ("notes.txt", r"notes\.txt is in no known format, expected a HIL-SERL pickle"),
        ("demos/../demos.pkl", r"demos\.pkl does not exist"),
    ],
)
def test_bad_paths_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: object, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkdir("empty_folder")
    os.mkdir("with_empty")
    Path("with_empty", "empty.pkl").touch()
    Path("empty.pkl").touch()
    Path("notes.txt").write_text("some notes")
    with pytest.raises(DataError, match=message) as caught:
        load_sources(paths)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_files_of_different_shapes_are_named(folder: Path) -> None:
    write_hil_serl(folder / "wide.pkl", [trajectory(3, observation_size=5)])
    with pytest.raises(DataError, match=r"wide\.pkl has observations of size 5, expected 3 as in .*demos\.pkl\.$"):
        load_sources(str(folder))
