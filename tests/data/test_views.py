"""Pictures cut and scaled as HIL-SERL does it: one by one, and in data files that were recorded larger."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from camera_samples import NAME, SIZE, record
from data_samples import trajectory
from lerobot_samples import episode, write_lerobot
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.data.conventions import Conventions
from wsrl_kit.data.doctor import examine
from wsrl_kit.data.formats.hil_serl import write_hil_serl
from wsrl_kit.data.sources import load_sources
from wsrl_kit.data.views import View
from wsrl_kit.training.inputs import conventions, describe, load_and_check


def test_scaling_weighs_the_two_nearest_pixels_by_their_centres():
    line = np.array([0, 100], np.uint8)
    across = np.broadcast_to(line[None, :, None], (4, 2, 3)).copy()
    # New centres lie at -0.25 (the edge), 0.25, 0.75 and 1.25 (the edge) of the old pixels.
    assert View(4, 4).of(across)[1, :, 2].tolist() == [0, 25, 75, 100]
    assert View(4, 4).of(across.transpose(1, 0, 2).copy())[:, 1, 0].tolist() == [0, 25, 75, 100]
    assert View(8, 8).of(np.full((3, 5, 3), 7, np.uint8)).tolist() == np.full((8, 8, 3), 7).tolist()


def test_what_is_cropped_is_rows_then_columns():
    picture = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    assert np.array_equal(View(3, 3, [1, 4, 3, 6]).of(picture), picture[1:4, 3:6])


LARGE = {"wrist_1": (12, 16), "wrist_2": (12, 16)}
VIEWS = {"wrist_1": View(8, 8), "wrist_2": View(4, 4, (2, 8, 1, 9))}


@pytest.mark.parametrize("video", [False, True])
def test_larger_frames_of_a_lerobot_folder_are_seen_as_the_task_sees_them(tmp_path: Path, video: bool) -> None:
    path = write_lerobot(tmp_path, [episode(4, cameras=LARGE), episode(3, 4, cameras=LARGE)], video=video)
    recorded, seen = load_sources(str(path)), load_sources(str(path), conventions=Conventions(views=VIEWS))
    for name, view in VIEWS.items():
        assert recorded.images[name].shape[1:3] == LARGE[name]
        np.testing.assert_array_equal(seen.images[name], [view.of(frame) for frame in recorded.images[name]])


def test_frames_that_are_smaller_or_lack_what_is_cropped_stay_and_do_not_fit(tmp_path: Path) -> None:
    write_hil_serl(tmp_path / "demos.pkl", [trajectory(cameras={"wrist_1": (12, 16, 3)})])
    for view in (View(20, 8), View(12, 16), View(8, 8, (0, 13, 0, 9))):
        data = load_sources(str(tmp_path), conventions=Conventions(views={"wrist_1": view}))
        assert data.images["wrist_1"].shape[1:] == (12, 16, 3)


def test_a_task_says_which_frames_it_sees_scaled(tmp_path: Path) -> None:
    demos = record(2)
    larger = [
        replace(each, images={name: frames.repeat(2, axis=1).repeat(3, axis=2) for name, frames in each.images.items()})
        for each in demos
    ]
    write_hil_serl(tmp_path / "demos.pkl", larger)
    data, remarks = load_and_check(WSRLConfig(exp_name=NAME), str(tmp_path))
    assert data.images["back"].shape[1:3] == (SIZE, SIZE)
    said = [
        f"has frames of 32 x 48 from camera {name}, cut and scaled to the task's 16 x 16" for name in ("back", "front")
    ]
    assert [remark.split(": ", 1)[1] for remark in remarks] == [f"{sentence}." for sentence in said]
    report = examine(tmp_path / "demos.pkl", task=describe(NAME, {}))
    assert not report.problems and len(report.warnings) == 2
    assert "(32, 48, 3)" in examine(tmp_path / "demos.pkl").facts["cameras"]


def test_a_robots_crops_are_those_of_its_cameras() -> None:
    options = {"cameras": {"wrist_1": {"opencv": 0, "crop": [0, 100, 20, 120]}, "wrist_2": {"opencv": 1}}}
    config = WSRLConfig(exp_name="hirol_robot", environment_options=options)
    shapes = {"wrist_1": (1, 64, 64, 3), "wrist_2": (1, 96, 96, 3)}
    assert conventions(config, shapes).views == {"wrist_1": View(64, 64, [0, 100, 20, 120]), "wrist_2": View(96, 96)}
    # Elsewhere an option of this name means something else.
    other = WSRLConfig(exp_name=NAME, environment_options={"cameras": ["wrist_1"]})
    assert conventions(other, shapes).views["wrist_1"] == View(64, 64)
