"""Files with camera images: what HIL-SERL writes, what the kit writes, and what is wrong with them."""

import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_samples import (
    CAMERAS,
    assert_same,
    read_file,
    three_sources_with_images,
    trajectory,
    upstream_rows,
    write_upstream,
)
from file_writers import write_hdf5, write_minari, write_npz
from wsrl_kit.data.dataset import Dataset
from wsrl_kit.data.doctor import examine, examine_all
from wsrl_kit.data.formats.hil_serl import write_hil_serl
from wsrl_kit.data.sources import expand, load_sources, read_recording
from wsrl_kit.errors import DataError

HORIZONS = pytest.mark.parametrize("horizon", [1, 3])


def shown(data: Dataset, row: int, camera: str, later: int) -> np.ndarray:
    end = int(data.frame_of_row[row]) + 1 + later
    return data.images[camera][end - data.observation_horizon : end]


def assert_shows(data: Dataset, rows: list[dict[str, Any]]) -> None:
    """Every row of the dataset shows what that of the file does."""
    assert len(data) == len(rows)
    for number, row in enumerate(rows):
        for later, key in enumerate(("observations", "next_observations")):
            for camera in data.images:
                np.testing.assert_array_equal(shown(data, number, camera, later), row[key][camera])


@HORIZONS
@pytest.mark.parametrize("protocol", [2, 4])
def test_upstreams_image_demos_are_read(tmp_path: Path, horizon: int, protocol: int) -> None:
    rows = upstream_rows([4, 2, 5], cameras=CAMERAS, horizon=horizon)
    path = write_upstream(tmp_path / "demos.pkl", rows, protocol)
    data = load_sources(str(path))
    assert_shows(data, rows)
    assert (list(data.images), data.observation_horizon) == (["wrist_1", "wrist_2"], horizon)
    assert len(data.images["wrist_1"]) == len(rows) + 3 * horizon
    np.testing.assert_array_equal(data.observations[5], rows[5]["observations"]["state"].reshape(-1).astype(np.float32))


@settings(max_examples=25, deadline=None)
@given(
    kept=st.sets(st.integers(0, 10), min_size=1),
    horizon=st.integers(1, 3),
    cut=st.integers(0, 10),
    still=st.booleans(),
    shared=st.booleans(),
)
def test_dumps_with_gaps_show_what_was_recorded(
    tmp_path_factory: pytest.TempPathFactory, kept: set[int], horizon: int, cut: int, still: bool, shared: bool
) -> None:
    """Interventions leave gaps, dumps cut episodes, a scene may stand still, and files may share arrays or not."""
    rows = upstream_rows([6, 5], cameras=CAMERAS, horizon=horizon)
    for before, row in pairwise(rows):
        if shared and not before["dones"]:
            row["observations"] = before["next_observations"]
    if still:
        for row in rows:
            row["observations"]["wrist_2"] = row["next_observations"]["wrist_2"] = np.ones((horizon, 6, 4, 3), np.uint8)
    folder = tmp_path_factory.mktemp("dumps")
    left = [row for number, row in enumerate(rows) if number in kept]
    parts = {2000: left[:cut], 10000: left[cut:]}
    for step, part in parts.items():
        if part:
            write_upstream(folder / f"transitions_{step}.pkl", part)
    data = load_sources(str(folder))
    assert_shows(data, left)
    # A new segment where a row is missing or an episode begins, and nowhere else.
    starts = [row for row in sorted(kept) if row - 1 not in kept or row == 6]
    assert data.episode_count == len(starts)


def test_a_gap_is_also_where_only_the_image_differs(tmp_path: Path) -> None:
    rows = upstream_rows([4], cameras=CAMERAS)
    rows[2]["observations"]["wrist_1"] = rows[2]["observations"]["wrist_1"] ^ 1
    path = write_upstream(tmp_path / "demos.pkl", rows)
    assert [len(part) for part in read_file(path)] == [2, 2]
    assert [len(part) for part in read_file(path, cameras=())] == [4]
    assert [len(part) for part in read_file(path, cameras=("wrist_2",))] == [4]
    assert "1 gap(s): the observation after transition 1" in examine(path).problems[0]


@HORIZONS
def test_what_the_kit_writes_is_read_again_and_holds_each_frame_once(tmp_path: Path, horizon: int) -> None:
    data = Dataset.from_trajectories(three_sources_with_images(horizon))
    kept = data.select_transitions(np.array([0, 1, 3, 5, 6, 8, 9, 11, 12, 15, 16, 19, 20]))
    for whole in (data, kept):
        write_hil_serl(tmp_path / "filtered_demos.pkl", whole.trajectories())
        write_npz(tmp_path / "demos.npz", read_file(tmp_path / "filtered_demos.pkl"))
        for name in ("filtered_demos.pkl", "demos.npz"):
            assert_same(load_sources(str(tmp_path / name)), whole)
            assert examine(tmp_path / name).problems == ()
    content = (tmp_path / "filtered_demos.pkl").read_bytes()
    assert content.count(kept.images["wrist_1"][-1].tobytes()) == 1
    # What repeats is the first frame of an episode, for the horizon.
    write_hil_serl(tmp_path / "whole.pkl", data.trajectories())
    repeated = f"{21 + 5 * horizon} of each camera, of which {5 * (horizon - 1)} repeat another"
    assert examine(tmp_path / "whole.pkl").facts["frames in file"] == (repeated if horizon > 1 else "each once")


@HORIZONS
def test_written_files_have_upstreams_form(tmp_path: Path, horizon: int) -> None:
    penalty = np.array([0, -0.02, 0], np.float32)
    write_hil_serl(tmp_path / "demos.pkl", [trajectory(3, cameras=CAMERAS, horizon=horizon, grasp_penalty=penalty)])
    rows = pickle.loads((tmp_path / "demos.pkl").read_bytes())
    assert [row["grasp_penalty"] for row in rows] == pytest.approx([0, -0.02, 0])
    for row, following in pairwise(rows):
        for camera, shape in CAMERAS.items():
            stack = row["observations"][camera]
            assert (type(stack), stack.dtype, stack.shape) == (np.ndarray, np.uint8, (horizon, *shape))
            np.testing.assert_array_equal(row["next_observations"][camera], following["observations"][camera])
        assert row["observations"]["state"].shape == (horizon, 3)
        assert row["observations"]["state"].dtype == np.float32


def test_a_grasp_penalty_is_kept_by_every_format(tmp_path: Path) -> None:
    rows = upstream_rows([3, 2])
    rows[1]["grasp_penalty"] = np.float32(-0.5)
    rows[3]["infos"]["grasp_penalty"] = -0.25
    data = load_sources(str(write_upstream(tmp_path / "run.pkl", rows)))
    np.testing.assert_array_equal(data.grasp_penalty, np.array([0, -0.5, 0, -0.25, 0], np.float32))
    for name, write in (("a", write_hil_serl), ("b", write_npz), ("c", write_hdf5), ("d-v0", write_minari)):
        write(tmp_path / name, data.trajectories())
        np.testing.assert_array_equal(load_sources(str(tmp_path / name)).grasp_penalty, data.grasp_penalty)


def test_images_without_a_horizon_axis_are_one_frame(tmp_path: Path) -> None:
    rows = upstream_rows([3], cameras={"wrist": (8, 8, 3)})
    expected = load_sources(str(write_upstream(tmp_path / "demos.pkl", rows)))
    for row in rows:
        for observation in (row["observations"], row["next_observations"]):
            observation |= {key: value[0] for key, value in observation.items()}
    assert_same(load_sources(str(write_upstream(tmp_path / "bare.pkl", rows))), expected)


def test_the_policys_cameras_are_read_and_no_others(tmp_path: Path) -> None:
    write_upstream(tmp_path / "a.pkl", upstream_rows([3], cameras=CAMERAS))
    write_npz(tmp_path / "b.npz", read_file(tmp_path / "a.pkl"))
    write_upstream(tmp_path / "c.pkl", upstream_rows([3]))
    for name in ("a.pkl", "b.npz"):
        assert list(load_sources(str(tmp_path / name), cameras=("wrist_2",)).images) == ["wrist_2"]
        assert load_sources(str(tmp_path / name), cameras=()).images == {}
        with pytest.raises(DataError, match=rf"{name}:? .*has no images of front, found wrist_1, wrist_2"):
            load_sources(str(tmp_path / name), cameras=("front", "wrist_1"))
    with pytest.raises(DataError, match=r"c\.pkl: transition 0 has no images of wrist_1, found no cameras"):
        load_sources(str(tmp_path / "c.pkl"), cameras=("wrist_1",))
    assert len(load_sources(str(tmp_path), cameras=())) == 9


def test_the_folder_of_a_run_holds_demos_and_what_the_robot_did(tmp_path: Path) -> None:
    rows = upstream_rows([7, 6], cameras=CAMERAS, horizon=2)
    (tmp_path / "buffer").mkdir()
    (tmp_path / "demo_buffer").mkdir()
    (tmp_path / "checkpoint_2000").write_bytes(b"\x85")
    for step, part in ((10000, rows[9:]), (2000, rows[:9])):
        write_upstream(tmp_path / "buffer" / f"transitions_{step}.pkl", part)
    write_upstream(tmp_path / "demo_buffer" / "transitions_2000.pkl", rows[3:6])
    names = {source: [file.name for file in files] for source, files in expand(str(tmp_path)).items()}
    assert names == {
        "demos": ["transitions_2000.pkl"],
        "suboptimal": ["transitions_2000.pkl", "transitions_10000.pkl"],
    }
    data = load_sources(str(tmp_path))
    np.testing.assert_array_equal(data.episode_lengths, [3, 7, 6])
    assert_shows(data, rows[3:6] + rows)
    assert list(expand([str(tmp_path / "buffer")])) == ["suboptimal"]


def test_a_dump_of_demonstrations_may_be_empty(tmp_path: Path) -> None:
    rows = upstream_rows([4], cameras=CAMERAS)
    for folder, parts in {"buffer": [rows[:2], rows[2:]], "demo_buffer": [[], rows[1:3]]}.items():
        (tmp_path / folder).mkdir()
        for number, part in enumerate(parts):
            write_upstream(tmp_path / folder / f"transitions_{number}.pkl", part)
    assert_shows(load_sources(str(tmp_path)), rows[1:3] + rows)
    with pytest.raises(DataError, match="The dumps in .* hold no transitions"):
        load_sources(str(tmp_path / "demo_buffer" / "transitions_0.pkl"))


@pytest.mark.parametrize("share", [0.2, 0.7, 0.999])
def test_a_half_written_dump_is_named(tmp_path: Path, share: float) -> None:
    path = write_upstream(tmp_path / "transitions_100.pkl", upstream_rows([4], cameras=CAMERAS))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(DataError, match=r"transitions_100\.pkl is truncated or damaged: .*\.$"):
        load_sources(str(tmp_path))


EMPTY = np.zeros((1, 8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wrist_1": EMPTY.astype(np.float32)}, "has float32 images under 'wrist_1', expected uint8"),
        ({"wrist_1": EMPTY[..., :1]}, r"has images of shape \(1, 8, 8, 1\) under 'wrist_1', expected .*, 3\)"),
        ({"wrist_1": EMPTY[0, :, :, 0]}, r"has images of shape \(8, 8\) under 'wrist_1'"),
        ({"wrist_1": EMPTY[:, :6]}, r"wrist_1 \(1, 6, 8, 3\), .*expected observations .*wrist_1 \(1, 8, 8, 3\)"),
        ({"wrist_1": np.repeat(EMPTY, 2, axis=0)}, r"has 2 frames under 'wrist_1' .* beside 1 of `state`"),
        ({"wrist_1": None}, r"has observations \(1, 3\), wrist_2 .*expected observations \(1, 3\), wrist_1"),
        ({"state": None}, r"has no 'state', expected it beside the camera images \(wrist_1, wrist_2\)"),
        ({"pose": np.zeros(3)}, r"has an observation under 'pose' \(float64 \(3,\)\), expected `state` and camera"),
    ],
)
def test_bad_images_are_refused_by_loader_and_doctor(tmp_path: Path, change: dict, message: str) -> None:
    rows = upstream_rows([4], cameras=CAMERAS)
    for key in ("observations", "next_observations"):
        rows[2][key] = {name: value for name, value in (rows[2][key] | change).items() if value is not None}
    path = write_upstream(tmp_path / "demos.pkl", rows)
    with pytest.raises(DataError, match=rf"demos\.pkl: transition 2 {message}|transition 2 .*{message}") as caught:
        load_sources(str(path))
    assert str(caught.value) in examine(path).problems
    assert examine(path).facts["transitions"] == "3"


def test_stacks_that_jump_are_refused(tmp_path: Path) -> None:
    rows = upstream_rows([4, 4], cameras=CAMERAS, horizon=2)
    for row in rows[1:3]:
        row["next_observations"]["wrist_2"] = row["next_observations"]["wrist_2"] ^ 1
    path = write_upstream(tmp_path / "demos.pkl", rows)
    with pytest.raises(DataError, match="images of transition 1 are no stacks that move on by one .* 2 transitions"):
        load_sources(str(path))


@pytest.mark.parametrize(
    ("cameras", "horizon", "message"),
    [
        (CAMERAS | {"wrist_2": (6, 6, 3)}, 2, r"has images \(6, 6, 3\) from camera 'wrist_2', expected \(6, 4, 3\)"),
        ({"wrist_1": (8, 8, 3)}, 2, "has cameras wrist_1, expected cameras wrist_1, wrist_2"),
        ({}, 1, "has no cameras, expected cameras wrist_1, wrist_2"),
        (CAMERAS, 1, "has an observation horizon of 1, expected 2"),
    ],
)
def test_files_that_do_not_fit_each_other_are_named(tmp_path: Path, cameras: dict, horizon: int, message: str) -> None:
    first = write_upstream(tmp_path / "a.pkl", upstream_rows([3], cameras=CAMERAS, horizon=2))
    second = write_upstream(tmp_path / "b.pkl", upstream_rows([3], cameras=cameras, horizon=horizon))
    with pytest.raises(DataError, match=rf"b\.pkl {message} as in .*a\.pkl\.$") as caught:
        load_sources(str(tmp_path))
    reports = examine_all([first, second])
    assert [report.problems for report in reports] == [(), (str(caught.value),)]


def test_the_doctor_describes_cameras(tmp_path: Path) -> None:
    rows = upstream_rows([3, 2], cameras=CAMERAS, horizon=2)
    facts = examine(write_upstream(tmp_path / "demos.pkl", rows)).facts
    assert facts["cameras"] == "wrist_1 uint8 (8, 8, 3), wrist_2 uint8 (6, 4, 3)"
    assert facts["horizon"] == "2 frame(s) in an observation"
    # A first frame for each of two episodes (shown twice), and one after each of the five steps.
    assert facts["frames"] == f"7 of each camera, {7 * (192 + 72) / 1e6:.1f} MB in all"
    assert facts["frames in file"] == "20 of each camera, of which 13 repeat another"


def test_images_are_copied_once(tmp_path: Path) -> None:
    write_hil_serl(tmp_path / "demos.pkl", three_sources_with_images(2))
    recording = read_recording(tmp_path / "demos.pkl")
    for frames in recording.frames.values():
        assert not any(frame.flags.owndata for frame in frames)
    data = load_sources(str(tmp_path / "demos.pkl"))
    for camera, frames in data.images.items():
        assert all(np.shares_memory(frames, part.images[camera]) for part in data.trajectories())
    assert read_recording(tmp_path / "demos.pkl", cameras=()).frames == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"images/wrist_1": np.zeros((24, 8, 8, 3))},
            r"images of 'wrist_1' are float64 \(24, 8, 8, 3\), expected uint8",
        ),
        ({"images/wrist_1": np.zeros((25, 8, 8, 3), np.uint8)}, "has different numbers of frames per camera"),
        ({"frame": None}, "has images, expected 'observation_horizon' and 21 rows of 'frame' beside them"),
        ({"frame": np.zeros(21)}, "'frame' and 'observation_horizon' are float64 and int64, expected integers"),
        ({"frame": np.arange(21) + 20}, "'frame' refers to frames that are not among the 26 it holds"),
        ({"observation_horizon": np.array(0)}, "'frame' refers to frames that are not among"),
    ],
)
def test_bad_images_in_npz_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    write_npz(tmp_path / "file", three_sources_with_images(1))
    with np.load(tmp_path / "file") as file:
        arrays = {name: array for name, array in (dict(file) | change).items() if array is not None}
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DataError, match=rf"bad\.npz:? {message}"):
        load_sources(str(tmp_path / "bad.npz"))
