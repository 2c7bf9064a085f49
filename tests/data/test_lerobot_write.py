"""A LeRobotDataset v3 that the kit writes: what comes back, what statistics say, and when nothing is written."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from data_samples import CAMERAS, dataset, three_sources, three_sources_with_images, trajectory
from full_disk import files_limited_to
from wsrl_kit.cli import main
from wsrl_kit.data.dataset import Dataset
from wsrl_kit.data.doctor import examine
from wsrl_kit.data.formats import lerobot_write
from wsrl_kit.data.formats.hil_serl import write_hil_serl
from wsrl_kit.data.formats.lerobot_write import write_lerobot
from wsrl_kit.data.sources import load_sources
from wsrl_kit.errors import DataError


def assert_comes_back(path: Path, written: Dataset) -> None:
    """All but the last steps of truncated episodes, whose next observation is not recorded."""
    assert not examine(path).problems
    found, kept = load_sources(str(path)), np.flatnonzero(~written.truncated)
    for name in ("actions", "rewards", "terminated"):
        np.testing.assert_array_equal(getattr(found, name), getattr(written, name)[kept], err_msg=name)
    size = written.observations.shape[1] // written.observation_horizon
    np.testing.assert_array_equal(found.observations, written.observations[kept, -size:])
    goes_on = ~found.terminated
    np.testing.assert_array_equal(found.next_observations[goes_on], written.next_observations[kept][goes_on, -size:])
    np.testing.assert_array_equal(found.episode_success, written.episode_success)
    for camera, frames in written.images.items():
        np.testing.assert_array_equal(found.images[camera][found.frame_of_row], frames[written.frame_of_row[kept]])


@pytest.mark.parametrize("horizon", [1, 2])
def test_what_is_written_comes_back(tmp_path: Path, horizon: int) -> None:
    written = dataset(*three_sources_with_images(horizon))
    write_lerobot(tmp_path / "demos", written, 10, "insert the peg")
    assert_comes_back(tmp_path / "demos", written)
    assert [path.name for path in tmp_path.iterdir()] == ["demos"]


def test_many_files_lie_in_several_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lerobot_write, "_FILE_MEGABYTES", 0)
    monkeypatch.setattr(lerobot_write, "_CHUNK_SIZE", 2)
    penalties = [-np.arange(len(each), dtype=np.float32) for each in three_sources()]
    written = dataset(
        *(trajectory(len(penalty), seed=seed, grasp_penalty=penalty) for seed, penalty in enumerate(penalties))
    )
    write_lerobot(tmp_path / "demos", written, 20, "insert the peg")
    assert len(list((tmp_path / "demos" / "data" / "chunk-001").iterdir())) == 2
    assert_comes_back(tmp_path / "demos", written)
    np.testing.assert_array_equal(load_sources(str(tmp_path / "demos")).grasp_penalty, np.concatenate(penalties))


def test_an_end_at_the_time_limit_after_success_comes_back_as_one(tmp_path: Path) -> None:
    written = dataset(trajectory(4, success=True, terminated=False), trajectory(3, seed=1))
    write_lerobot(tmp_path / "demos", written, 10, "push")
    found = load_sources(str(tmp_path / "demos"))
    np.testing.assert_array_equal(found.terminated, [False, False, False, False, False, True])
    np.testing.assert_array_equal(found.episode_success, [1, 1])


def test_unknown_success_is_not_written(tmp_path: Path) -> None:
    written = dataset(trajectory(4, success=None, rewards=[0.5, 0, 0, 0.25]), trajectory(3, seed=1))
    write_lerobot(tmp_path / "demos", written, 10, "push")
    assert np.isnan(load_sources(str(tmp_path / "demos")).episode_success).all()


def test_statistics_are_those_of_the_rows(tmp_path: Path) -> None:
    written = dataset(*three_sources_with_images(1))
    write_lerobot(tmp_path / "demos", written, 10, "insert the peg")
    found = json.loads((tmp_path / "demos" / "meta" / "stats.json").read_text())
    features = json.loads((tmp_path / "demos" / "meta" / "info.json").read_text())["features"]
    columns = pyarrow.parquet.read_schema(tmp_path / "demos" / "data" / "chunk-000" / "file-000.parquet").names
    assert found.keys() == features.keys() == set(columns)
    pictures = written.images["wrist_1"][written.frame_of_row].transpose(0, 3, 1, 2) / 255
    for name, rows, axes in (
        ("observation.state", written.observations, 0),
        ("observation.images.wrist_1", pictures, (0, 2, 3)),
    ):
        shape = (-1, 1, 1) if name.endswith("wrist_1") else (-1,)
        for statistic in ("min", "max", "mean", "std"):
            expected = getattr(rows.astype(np.float64), statistic)(axis=axes).reshape(shape)
            np.testing.assert_allclose(found[name][statistic], expected, atol=1e-6)
        median = np.quantile(rows, 0.5, axis=axes).reshape(shape)
        np.testing.assert_allclose(found[name]["q50"], median, atol=0.005 if shape[1:] else 1e-6)
    assert features["observation.images.wrist_1"]["shape"] == list(CAMERAS["wrist_1"])


def test_nothing_is_written_over_other_files_or_by_half(tmp_path: Path) -> None:
    written = dataset(*three_sources_with_images(1))
    (tmp_path / "demos").mkdir()
    (tmp_path / "demos" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="demos exists already: give a new folder"):
        write_lerobot(tmp_path / "demos", written, 10, "push")
    with files_limited_to(2000), pytest.raises(DataError, match="new can't be written"):
        write_lerobot(tmp_path / "new", written, 10, "push")
    assert [path.name for path in tmp_path.iterdir()] == ["demos"]
    assert [path.name for path in (tmp_path / "demos").iterdir()] == ["notes.txt"]


def test_the_command_writes_files_of_any_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_hil_serl(tmp_path / "demos.pkl", three_sources())
    command = ["export-lerobot", str(tmp_path / "demos.pkl"), "--out", str(tmp_path / "lerobot")]
    assert main([*command, "--frames_per_second=0"]) == 2
    assert main([*command, "--missing_rewards=none"]) == 2
    assert "missing_rewards 'none' leaves no rewards to write" in capsys.readouterr().err
    assert main([*command, "--frames_per_second=20", "--task=insert the peg"]) == 0
    assert "5 episodes, 21 frames" in capsys.readouterr().out
    assert_comes_back(tmp_path / "lerobot", load_sources(str(tmp_path / "demos.pkl")))
    assert json.loads((tmp_path / "lerobot" / "meta" / "info.json").read_text())["fps"] == 20
    assert main(command) == 1
