"""LeRobotDataset v3 and v2: what a step led to, how its episode ended, and what the cameras saw."""

import builtins
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_samples import assert_same, read_file, trajectory
from file_writers import write_npz
from lerobot_samples import episode, write_lerobot, write_records, write_video
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.data.conventions import Conventions
from wsrl_kit.data.doctor import examine
from wsrl_kit.data.formats.hil_serl import write_hil_serl
from wsrl_kit.data.labels import Label, labels_path, write_labels
from wsrl_kit.data.sources import expand, load_sources
from wsrl_kit.errors import DataError
from wsrl_kit.training.inputs import load_offline_data

CAMERAS = {"wrist_1": (16, 16), "wrist_2": (8, 24)}


def test_steps_lead_to_the_next_frame_and_the_task_ends_where_it_succeeded(tmp_path: Path) -> None:
    write_lerobot(tmp_path, [episode(3), episode(4, 3, reward=0), episode(4, 7, reward=0)])
    data = load_sources(str(tmp_path))
    # The second and the third stopped at the time limit: what their last step led to is not recorded.
    np.testing.assert_array_equal(data.observations[:, 0], [0, 1, 2, 3, 4, 5, 7, 8, 9])
    np.testing.assert_array_equal(data.next_observations[:, 0], [1, 2, 2, 4, 5, 6, 8, 9, 10])
    np.testing.assert_array_equal(data.observations[0], [0, 0.25, 0.5])
    np.testing.assert_array_equal(data.actions[8], np.float32([0.09, -0.09]))
    np.testing.assert_array_equal(data.rewards, [0, 0, 1, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(np.flatnonzero(data.terminated), [2])
    np.testing.assert_array_equal(np.flatnonzero(data.truncated), [5, 8])
    np.testing.assert_array_equal(data.episode_lengths, [3, 3, 3])
    np.testing.assert_array_equal(data.episode_success, [1, 0, 0])


def test_an_end_that_may_be_a_failure_or_a_time_limit_is_judged_by_its_length(tmp_path: Path) -> None:
    write_lerobot(tmp_path, [episode(5), episode(3, 5, reward=0)])
    failure = load_sources(str(tmp_path))
    np.testing.assert_array_equal(np.flatnonzero(failure.terminated), [4, 7])
    np.testing.assert_array_equal(failure.next_observations[7], failure.observations[7])
    # The limit is that of the task, in steps, though the last of them is left out.
    timeout = load_sources(str(tmp_path), timeout_length=3)
    np.testing.assert_array_equal(np.flatnonzero(timeout.truncated), [6])
    np.testing.assert_array_equal(timeout.next_observations[6], [7, 7.25, 7.5])
    np.testing.assert_array_equal(timeout.episode_success, [1, 0])


def test_an_episode_of_one_step_never_vanishes_as_a_time_limit(tmp_path: Path) -> None:
    write_lerobot(tmp_path, [episode(1, reward=0), episode(1, 1, reward=0)])
    np.testing.assert_array_equal(load_sources(str(tmp_path)).terminated, [True, True])


def test_without_done_an_episode_is_truncated_unless_it_succeeded(tmp_path: Path) -> None:
    episodes = [episode(3), episode(3, 3, reward=0)]
    for frames in episodes:
        del frames["next.done"]
    data = load_sources(str(write_lerobot(tmp_path, episodes)))
    np.testing.assert_array_equal(data.observations[:, 0], [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(np.flatnonzero(data.terminated), [2])
    np.testing.assert_array_equal(np.flatnonzero(data.truncated), [4])


def test_said_success_counts_and_not_the_reward(tmp_path: Path) -> None:
    first = episode(3, reward=0.5, flags={"next.success": [False, False, True]})
    second = episode(3, 3, reward=0.5, flags={"next.success": [False, False, False]})
    # Both last equally long, and one succeeded: the limit must be said here.
    data = load_sources(str(write_lerobot(tmp_path, [first, second])), timeout_length=3)
    np.testing.assert_array_equal(data.episode_success, [1, 0])
    np.testing.assert_array_equal(np.flatnonzero(data.terminated), [2])
    np.testing.assert_array_equal(np.flatnonzero(data.truncated), [4])


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=5), min_size=1, max_size=4),
    st.integers(1, 3),
)
def test_where_truncation_is_recorded_every_transition_is_what_a_naive_reading_says(
    ends: list[list[tuple[bool, bool]]], episodes_per_file: int
) -> None:
    episodes, expected, start = [], [], 0
    for flags in ends:
        done, truncated = (list(part) for part in zip(*flags, strict=True))
        episodes.append(episode(len(flags), start, reward=0, flags={"next.done": done, "next.truncated": truncated}))
        kept = []
        for step, (is_done, is_truncated) in enumerate(flags):
            is_last, terminates = step == len(flags) - 1, is_done and not is_truncated
            if is_last and not terminates:
                # Truncated with nothing recorded after it.
                if kept:
                    kept[-1] = (*kept[-1][:3], not kept[-1][2])
            else:
                kept.append((start + step, start + step + (not is_last), terminates, is_truncated))
        expected += kept
        start += len(flags)
    with TemporaryDirectory() as folder:
        path = write_lerobot(Path(folder), episodes, episodes_per_file=episodes_per_file)
        if not expected:
            with pytest.raises(DataError, match="holds no transitions"):
                load_sources(str(path))
            return
        data = load_sources(str(path))
    found = zip(data.observations[:, 0], data.next_observations[:, 0], data.terminated, data.truncated, strict=True)
    assert [tuple(map(float, row)) for row in found] == [tuple(map(float, row)) for row in expected]


@pytest.mark.parametrize("video", [False, True])
def test_v2_holds_what_v3_holds(tmp_path: Path, video: bool) -> None:
    episodes = [episode(4, cameras=CAMERAS), episode(3, 4, reward=0, cameras=CAMERAS), episode(2, 7, cameras=CAMERAS)]
    older, newer = (
        load_sources(str(write_lerobot(tmp_path / version, episodes, video=video, version=version)))
        for version in ("v2.1", "v3.0")
    )
    assert_same(replace(older, source_names=newer.source_names), newer)


def test_cameras_have_the_names_that_the_task_gives_them(tmp_path: Path) -> None:
    write_lerobot(tmp_path / "lerobot", [episode(3, cameras={"laptop": (8, 8), "phone": (8, 8)})])
    frames = load_sources(str(tmp_path / "lerobot")).images["laptop"]
    named = Conventions(camera_names={"laptop": "wrist_1", "phone": "wrist_2"})
    for cameras in (None, ["wrist_1"]):
        found = load_sources(str(tmp_path / "lerobot"), cameras=cameras, conventions=named).images
        assert list(found) == (cameras or ["wrist_1", "wrist_2"])
        np.testing.assert_array_equal(found["wrist_1"], frames)
    # A file that has the task's own names is read beside it.
    write_hil_serl(tmp_path / "own.pkl", [trajectory(cameras={"wrist_1": (8, 8, 3)}, observation_size=3)])
    write_npz(tmp_path / "other.npz", [trajectory(cameras={"laptop": (8, 8, 3)}, observation_size=3)])
    paths = [str(tmp_path / name) for name in ("lerobot", "own.pkl", "other.npz")]
    assert load_sources(paths, cameras=["wrist_1"], conventions=named).images["wrist_1"].shape == (16, 8, 8, 3)
    both = Conventions(camera_names={"laptop": "phone"})
    with pytest.raises(DataError, match="has two cameras that camera_names calls 'phone'"):
        load_sources(str(tmp_path / "lerobot"), conventions=both)


def teleoperated(path: Path, **changes: Any) -> Path:
    """Two episodes, without rewards."""
    episodes = [episode(4), episode(3, 4)]
    for frames in episodes:
        del frames["next.reward"]
    return write_lerobot(path, [{**frames, **changes} for frames in episodes])


def test_without_rewards_success_comes_from_labels_or_from_the_last_frame_or_is_unknown(tmp_path: Path) -> None:
    path = teleoperated(tmp_path / "demos")
    question = "has no rewards, and 2 of its 2 episodes have no label: .*'last_frame'.*'none'"
    with pytest.raises(DataError, match=question):
        load_sources(str(path))
    assert re.search(question, examine(path).problems[0])
    # The last frame is where the last step led to.
    found = load_sources(str(path), conventions=Conventions(missing_rewards="last_frame"))
    np.testing.assert_array_equal(found.next_observations[:, 0], [1, 2, 3, 5, 6])
    np.testing.assert_array_equal(found.rewards, [0, 0, 1, 0, 1])
    np.testing.assert_array_equal(found.terminated, [False, False, True, False, True])
    np.testing.assert_array_equal(found.episode_success, [1, 1])
    unknown = load_sources(str(path), conventions=Conventions(missing_rewards="none"))
    assert not unknown.rewards.any() and not unknown.terminated.any() and np.isnan(unknown.episode_success).all()
    write_labels(path, {1: Label("failure", 1)}, 2)
    with pytest.raises(DataError, match="has no rewards, and 1 of its 2 episodes have no label"):
        load_sources(str(path))
    np.testing.assert_array_equal(
        load_sources(str(path), conventions=Conventions(missing_rewards="last_frame")).rewards, [0, 0, 1, 0]
    )
    write_labels(path, {0: Label("success"), 1: Label("failure", 1)}, 2)
    labelled = load_sources(str(path))
    np.testing.assert_array_equal(labelled.rewards, [0, 0, 1, 0])
    np.testing.assert_array_equal(labelled.episode_success, [1, 0])
    assert not examine(path).problems


def test_labels_of_another_folder_are_refused(tmp_path: Path) -> None:
    path, other = teleoperated(tmp_path / "demos"), write_lerobot(tmp_path / "other", [episode(4), episode(3, 4)])
    write_labels(other, {0: Label("success"), 1: Label("failure")}, 2)
    labels_path(other).rename(labels_path(path))
    with pytest.raises(DataError, match=r"labels other data: .*demos has changed since, or is another file"):
        load_sources(str(path))


def test_recorded_success_is_the_reward_where_no_other_is(tmp_path: Path) -> None:
    flags = {"next.success": [False, False, True]}
    frames = {name: values for name, values in episode(3, flags=flags).items() if name != "next.reward"}
    found = load_sources(str(write_lerobot(tmp_path, [frames])))
    np.testing.assert_array_equal(found.rewards, [0, 0, 1])
    np.testing.assert_array_equal(found.terminated, [False, False, True])


@pytest.mark.parametrize("names", [["shoulder_pan.pos", "gripper.pos"], {"motors": ["a", "b"]}, ["joint_0", "joint_1"]])
def test_positions_of_joints_need_a_task_that_takes_them(tmp_path: Path, names: Any) -> None:
    write_lerobot(tmp_path, [episode(3)])
    assert not examine(tmp_path).problems
    feature("action", names=names)(tmp_path)
    with pytest.raises(DataError, match=r"has positions of joints as actions \(.*\), which only a task with the same"):
        load_sources(str(tmp_path))
    with pytest.raises(DataError, match="has positions of joints"):
        load_offline_data(WSRLConfig(action_units="task"), str(tmp_path))
    bounds = -np.full(2, 0.1), np.full(2, 0.1)
    found = load_sources(str(tmp_path), conventions=Conventions(action_bounds=bounds))
    np.testing.assert_allclose(found.actions[1], [0.1, -0.1], rtol=1e-6)


@pytest.mark.parametrize("video", [False, True])
def test_every_observation_has_the_frames_of_its_row(tmp_path: Path, video: bool) -> None:
    episodes, start = [], 0
    for length, reward in ((5, 1.0), (7, 0.0), (6, 1.0), (7, 0.0), (2, 1.0)):
        episodes.append(episode(length, start, reward=reward, cameras=CAMERAS))
        start += length
    data = load_sources(str(write_lerobot(tmp_path, episodes, video=video)))
    assert len(data) == 5 + 6 + 6 + 6 + 2 and data.observation_horizon == 1
    for camera, size in CAMERAS.items():
        recorded = np.concatenate([frames[f"observation.images.{camera}"] for frames in episodes])
        assert recorded.shape == (start, *size, 3)
        newest = data.frame_of_row
        np.testing.assert_array_equal(data.images[camera][newest], recorded[data.observations[:, 0].astype(int)])
        np.testing.assert_array_equal(
            data.images[camera][newest + 1], recorded[data.next_observations[:, 0].astype(int)]
        )


def test_cameras_that_are_not_wanted_are_not_even_decoded(tmp_path: Path) -> None:
    write_lerobot(tmp_path, [episode(4, cameras=CAMERAS)], video=True)
    (tmp_path / "videos" / "observation.images.wrist_2" / "chunk-000" / "file-000.mp4").unlink()
    assert load_sources(str(tmp_path), cameras=["wrist_1"]).images["wrist_1"].shape == (5, 16, 16, 3)
    assert not load_sources(str(tmp_path), cameras=()).images
    with pytest.raises(DataError, match=r"has no images of front, found wrist_1, wrist_2: camera_names tells"):
        load_sources(str(tmp_path), cameras=["front"])


def test_the_state_is_all_numeric_observations_in_alphabetical_order(tmp_path: Path) -> None:
    frames = episode(3)
    frames["observation.environment_state"] = np.array([7, 8, 9], np.int64)
    frames["observation.tcp"] = np.full((3, 1), 5.0)
    frames["complementary_info.discrete_penalty"] = np.array([0, -0.5, 0], np.float32)
    data = load_sources(str(write_lerobot(tmp_path, [frames])))
    np.testing.assert_array_equal(data.observations[1], [8, 1, 1.25, 1.5, 5])
    assert data.grasp_penalty is not None
    np.testing.assert_array_equal(data.grasp_penalty, [0, -0.5, 0])


def test_folders_are_sources_and_the_doctor_describes_them(tmp_path: Path) -> None:
    for name in ("demos", "random"):
        write_lerobot(tmp_path / name, [episode(4, cameras={"front": (8, 8)})])
    assert {name: len(files) for name, files in expand(str(tmp_path)).items()} == {"demos": 1, "random": 1}
    assert load_sources(str(tmp_path)).source_names == ("demos", "random")
    report = examine(tmp_path / "demos")
    assert (report.format, report.problems) == ("LeRobotDataset v3.0", ())
    assert report.facts["ends"] == "1 terminated, 0 truncated, 0 cut off"


def info(**changes: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        file = path / "meta" / "info.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def feature(name: str, **changes: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        features = json.loads((path / "meta" / "info.json").read_text())["features"]
        info(features=features | {name: features[name] | changes})(path)

    return change


def records(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[Path], None]:
    def rewrite(path: Path) -> None:
        said = pyarrow.parquet.read_table(path / "meta" / "episodes" / "chunk-000" / "file-000.parquet").to_pylist()
        change(said)
        write_records(path, said)

    return rewrite


def content(name: Path, *, text: str | None = None) -> Callable[[Path], object]:
    """Replaces a file's content, by its own first half where none is given."""
    return lambda path: (path / name).write_bytes(
        (path / name).read_bytes()[: (path / name).stat().st_size // 2] if text is None else text.encode()
    )


def film(*shape: int) -> Callable[[Path], None]:
    return lambda path: write_video(path / VIDEO, np.zeros((*shape, 3), np.uint8))


def swap_two_lengths(said: list[dict[str, Any]]) -> None:
    said[0]["length"], said[1]["length"] = 3, 5


INFO = Path("meta", "info.json")
DATA = Path("data", "chunk-001", "file-000.parquet")
OLDER_DATA = Path("data", "chunk-001", "episode_000001.parquet")
VIDEO = Path("videos", "observation.images.wrist_2", "chunk-001", "file-000.mp4")
WRIST = "observation.images.wrist_1"


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (info(codebase_version="v1.6"), r"is a LeRobotDataset v1\.6, expected v3\.0, v2\.1 or v2\.0\.$"),
        (info(fps=0), r"info\.json is damaged: fps is 0"),
        (info(features=[]), r"info\.json is damaged"),
        (info(data_path="{other}"), r"no path can be made of the template '\{other\}'"),
        (info(total_frames=5), r"has 12 frames in meta/episodes, expected 5 as in"),
        (info(video_path=None), r"do not say where 'observation\.images\.wrist_1' of episode 0"),
        (content(INFO, text="{"), r"info\.json is damaged"),
        (content(INFO, text="{}"), r"info\.json has no 'codebase_version'"),
        (records(swap_two_lengths), r"episode 0 has 4 rows of data, expected 3"),
        (records(lambda said: said[2].pop("length")), r"does not say its 'length'"),
        (records(lambda said: said[1].update(episode_index=7)), r"episode 7 has 0 rows of data, expected 4"),
        (lambda path: (path / DATA).unlink(), r"is incomplete: data/chunk-001/file-000\.parquet is missing"),
        (content(DATA), r"chunk-001/file-000\.parquet is truncated or damaged"),
        (lambda path: (path / VIDEO).unlink(), r"incomplete: videos/observation\.images\.wrist_2/.*\.mp4 is missing"),
        (content(VIDEO), r"chunk-001/file-000\.mp4 is truncated or damaged"),
        (film(3, 8, 24), r"\.mp4 has 3 frames of episode 2, expected 4"),
        (film(4, 24, 8), r"frame 8 has shape \(24, 8, 3\), expected \(8, 24, 3\)"),
        (feature(WRIST, info={"is_depth_map": True}), r"wrist_1' is a depth map"),
        (feature(WRIST, dtype="float32"), r"float32 arrays of shape \(16, 16, 3\), expected vectors"),
        (feature("observation.state", shape=["x"]), r"info\.json is damaged"),
    ],
)
def test_a_damaged_folder_is_named(tmp_path: Path, harm: Callable[[Path], object], message: str) -> None:
    write_lerobot(tmp_path, [episode(4, start, cameras=CAMERAS) for start in (0, 4, 8)], video=True)
    harm(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        load_sources(str(tmp_path))
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    assert examine(tmp_path).problems == (str(caught.value),)


OLDER_VIDEO = Path("videos", "chunk-001", "observation.images.wrist_1", "episode_000001.mp4")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: (path / "meta" / "episodes.jsonl").unlink(), r"incomplete: meta/episodes\.jsonl is missing"),
        (lambda path: (path / INFO).unlink(), r"incomplete: meta/info\.json is missing"),
        (lambda path: (path / OLDER_DATA).unlink(), r"incomplete: data/chunk-001/episode_000001\.parquet is missing"),
        (lambda path: (path / OLDER_VIDEO).unlink(), r"incomplete: videos/chunk-001/.*\.mp4 is missing"),
        (content(Path("meta", "episodes.jsonl"), text="{}\n"), r"episodes\.jsonl is damaged: 'episode_index'"),
        (content(Path("meta", "episodes.jsonl"), text="[" * 10**5), r"episodes\.jsonl is damaged"),
        (info(data_path="{episode_chunk:0999999999d}"), r"no path can be made of the template"),
        (info(chunks_size=10), r"incomplete: data/chunk-000/episode_000001\.parquet is missing"),
    ],
)
def test_a_half_copied_folder_of_v2_is_named(tmp_path: Path, harm: Callable[[Path], object], message: str) -> None:
    write_lerobot(tmp_path, [episode(3, cameras=CAMERAS), episode(4, 3, cameras=CAMERAS)], video=True, version="v2.1")
    harm(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        load_sources(str(tmp_path))
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


SMALL_IMAGES = np.zeros((4, 8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"action": None}, r"has no column 'action'\.$"),
        ({"action": np.full((4, 2), 30.0)}, r"the action of transition 0 holds 30, expected \[-1, 1\]"),
        ({"action": np.array(["left"] * 4)}, r"'action' holds string, expected equally many numbers"),
        ({"observation.state": None}, r"has no numeric 'observation\.\*' column"),
        ({"observation.image": SMALL_IMAGES[..., 0].astype(np.uint16)}, r"pictures of kind 'I(;16)?', expected 8-bit"),
        ({"observation.image": SMALL_IMAGES[..., 0].astype(np.float32)}, r"pictures of kind 'F', expected 8-bit"),
        (
            {"observation.image.x": SMALL_IMAGES, "observation.images.x": SMALL_IMAGES},
            r"has two cameras of the name 'x'",
        ),
    ],
)
def test_what_can_not_be_learned_from_is_named(
    tmp_path: Path, columns: Mapping[str, np.ndarray | None], message: str
) -> None:
    frames = {name: values for name, values in {**episode(4), **columns}.items() if values is not None}
    write_lerobot(tmp_path, [frames])
    with pytest.raises(DataError, match=message):
        load_sources(str(tmp_path))


def test_a_recording_that_stopped_before_its_second_frame_holds_nothing(tmp_path: Path) -> None:
    write_lerobot(tmp_path, [episode(1, reward=0, flags={"next.done": [False]})])
    with pytest.raises(DataError, match="holds no transitions: no episode has a second frame, or ends in success"):
        load_sources(str(tmp_path))


@pytest.mark.parametrize(("package", "extra"), [("pyarrow", "lerobot"), ("av", "video")])
def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, extra: str) -> None:
    write_lerobot(tmp_path, [episode(3, cameras=CAMERAS)], video=True)
    real_import = builtins.__import__

    def without_extra(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.split(".")[0] == package:
            raise ImportError(name)
        return real_import(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without_extra)
    with pytest.raises(DataError, match=rf"`pip install 'wsrl-kit\[{extra}\]'` installs"):
        read_file(tmp_path)
