"""robomimic hdf5, and groups of observations in D4RL hdf5: states in Gymnasium's order, cameras, ends, and damage."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest

from data_samples import CAMERAS, assert_same, dataset, read_file, trajectory
from file_writers import flat_arrays, write_robomimic
from wsrl_kit.data.conventions import Conventions
from wsrl_kit.data.doctor import examine
from wsrl_kit.data.sources import load_sources
from wsrl_kit.data.trajectory import Trajectory
from wsrl_kit.envs.wrappers import flat_observations
from wsrl_kit.errors import DataError


def demos(**changes: Any) -> list[Trajectory]:
    """More than ten, so that demo_10 comes after demo_9; every third failed."""
    return [
        trajectory(
            3 + seed % 4, seed=seed, source="demos", success=bool(seed % 3), terminated=bool(seed % 3), **changes
        )
        for seed in range(12)
    ]


def test_demonstrations_come_back_with_their_cameras(tmp_path: Path) -> None:
    written = dataset(*demos(cameras=CAMERAS))
    write_robomimic(tmp_path / "demos.hdf5", written.trajectories())
    assert_same(load_sources(str(tmp_path / "demos.hdf5")), written)
    report = examine(tmp_path / "demos.hdf5")
    assert (report.format, report.problems) == ("robomimic hdf5", ())
    named = Conventions(camera_names={"wrist_2": "front"})
    found = load_sources(str(tmp_path / "demos.hdf5"), cameras=["front"], conventions=named)
    assert list(found.images) == ["front"]
    np.testing.assert_array_equal(found.images["front"], written.images["wrist_2"])
    assert not load_sources(str(tmp_path / "demos.hdf5"), cameras=()).images


def test_without_next_observations_the_last_step_of_a_truncated_episode_is_lost(tmp_path: Path) -> None:
    written = dataset(*demos(cameras=CAMERAS))
    write_robomimic(tmp_path / "demos.hdf5", written.trajectories(), next_obs=False)
    found, kept = load_sources(str(tmp_path / "demos.hdf5")), np.flatnonzero(~written.truncated)
    np.testing.assert_array_equal(found.observations, written.observations[kept])
    np.testing.assert_array_equal(found.terminated, written.terminated[kept])
    goes_on = ~found.terminated
    np.testing.assert_array_equal(found.next_observations[goes_on], written.next_observations[kept][goes_on])
    for camera, frames in written.images.items():
        own, expected = found.frame_of_row, written.frame_of_row[kept]
        np.testing.assert_array_equal(found.images[camera][own], frames[expected])
        np.testing.assert_array_equal(found.images[camera][own + 1][goes_on], frames[expected + 1][goes_on])


def test_an_episode_ends_at_its_first_success(tmp_path: Path) -> None:
    write_robomimic(tmp_path / "demos.hdf5", [trajectory(5, rewards=[0, 0, 1, 1, 1])])
    with h5py.File(tmp_path / "demos.hdf5", "r+") as file:
        file["data/demo_0/dones"][...] = [0, 0, 1, 1, 1]
    (found,) = read_file(tmp_path / "demos.hdf5")
    assert (len(found), found.terminated, found.success) == (3, True, True)


class Nested(gymnasium.Env):
    """Observations as robomimic's, in a group of their own."""

    observation_space = gymnasium.spaces.Dict(
        {
            "robot": gymnasium.spaces.Dict({name: gymnasium.spaces.Box(-9, 9, (2,)) for name in ("pos", "gripper")}),
            "object": gymnasium.spaces.Box(-9, 9, (1,)),
            "pixels": gymnasium.spaces.Dict({"top": gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8)}),
        }
    )
    action_space = gymnasium.spaces.Box(-1, 1, (2,))


@pytest.mark.parametrize("next_observations", [True, False])
def test_a_group_of_observations_is_flat_as_an_environment_flattens_it(tmp_path: Path, next_observations: bool) -> None:
    trajectories = [trajectory(4, seed=1), trajectory(3, seed=2)]
    arrays = flat_arrays(trajectories)
    sets = {}
    Nested.observation_space.seed(0)
    for name in ("observations", "next_observations"):
        sets[name] = [Nested.observation_space.sample() for _ in range(7)]
    for row in range(6):
        if row != 3:
            sets["next_observations"][row] = sets["observations"][row + 1]
    with h5py.File(tmp_path / "file.hdf5", "w") as file:
        for name in ("actions", "rewards"):
            file[name] = arrays[name]
        file["terminals"], file["timeouts"] = arrays["terminated"], arrays["truncated"]
        for name, observations in sets.items() if next_observations else [("observations", sets["observations"])]:
            for path in ("robot/pos", "robot/gripper", "object", "pixels/top"):
                first, _, second = path.partition("/")
                file[f"{name}/{path}"] = np.stack([o[first][second] if second else o[first] for o in observations])
    found = load_sources(str(tmp_path / "file.hdf5"))
    flat: Any = flat_observations(Nested(), "nested")
    for row, number in enumerate(found.frame_of_row):
        expected = flat.observation(sets["observations"][row])
        np.testing.assert_array_equal(found.observations[row], expected["state"])
        np.testing.assert_array_equal(found.images["top"][number], expected["top"])
        if next_observations:
            expected = flat.observation(sets["next_observations"][row])
            np.testing.assert_array_equal(found.next_observations[row], expected["state"])
            np.testing.assert_array_equal(found.images["top"][number + 1], expected["top"])


def without(*names: str) -> Callable[[h5py.File], None]:
    def remove(file: h5py.File) -> None:
        for name in names:
            del file[f"data/demo_1/{name}"]

    return remove


def replaced(name: str, values: Any) -> Callable[[h5py.File], None]:
    def replace(file: h5py.File) -> None:
        if name in file["data/demo_1"]:
            del file[f"data/demo_1/{name}"]
        file[f"data/demo_1/{name}"] = values

    return replace


def holds_itself(file: h5py.File) -> None:
    file["data/demo_1/obs/again"] = file["data/demo_1/obs"]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (without("obs", "next_obs"), r"data/demo_1 has no 'obs'; robomimic's dataset_states_to_obs\.py adds"),
        (without("rewards"), r"data/demo_1 has no 'rewards'\.$"),
        (without("obs/object", "next_obs/object"), r"one demonstration has observations of size 1, expected 3"),
        (without("next_obs/wrist_1"), "the cameras of observations and next observations differ"),
        (replaced("obs/object", np.zeros((9, 2))), r"'obs' must hold arrays of equally many rows, found 4 and 9"),
        (replaced("actions", np.zeros((9, 2))), r"'data/demo_1/actions' has shape \(9, 2\), expected 4 rows"),
        (replaced("obs/wrist_1", np.zeros((4, 8, 8, 1), np.float32)), r"images of 'wrist_1' under 'obs' are float32"),
        (replaced("obs/object", h5py.SoftLink("/data/demo_0/obs/object")), "is a link to another place"),
        (replaced("obs/object", np.array([b"left"] * 4, object)), "expected numbers"),
        (replaced("obs/\x1b[31m", np.zeros((4, 1))), "names that are not printable or too long"),
        (holds_itself, r"'obs' holds more groups in groups than any observation"),
    ],
)
def test_a_damaged_demonstration_is_named(tmp_path: Path, harm: Callable[[h5py.File], None], message: str) -> None:
    path = tmp_path / "demos.hdf5"
    write_robomimic(path, demos(cameras=CAMERAS)[:2])
    with h5py.File(path, "r+") as file:
        harm(file)
    with pytest.raises(DataError, match=message) as caught:
        load_sources(str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_depth_map_beside_the_wanted_camera_is_passed_over(tmp_path: Path) -> None:
    write_robomimic(tmp_path / "demos.hdf5", demos(cameras=CAMERAS)[:1])
    with h5py.File(tmp_path / "demos.hdf5", "r+") as file:
        for name in ("obs", "next_obs"):
            file[f"data/demo_0/{name}/depth"] = np.zeros((3, 8, 8, 1), np.float32)
    assert list(load_sources(str(tmp_path / "demos.hdf5"), cameras=["wrist_1"]).images) == ["wrist_1"]
    with pytest.raises(DataError, match="images of 'depth' under 'obs' are float32"):
        load_sources(str(tmp_path / "demos.hdf5"))
