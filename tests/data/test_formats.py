"""D4RL hdf5, Minari and npz: round trips, what other programs write, and damage."""

import builtins
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces

from data_samples import assert_same, dataset, read_file, three_sources, trajectory
from file_writers import write_hdf5, write_minari, write_npz
from wsrl_kit.data.formats.hil_serl import write_hil_serl
from wsrl_kit.data.sources import load_sources
from wsrl_kit.data.trajectory import Trajectory
from wsrl_kit.data.weights import weigh
from wsrl_kit.errors import DataError

Writer = Callable[[Path, Sequence[Trajectory]], None]
WRITERS = pytest.mark.parametrize(
    ("write", "name"),
    [(write_hil_serl, "a"), (write_hdf5, "b"), (write_npz, "c"), (write_minari, "d-v0")],
    ids=["hil_serl", "hdf5", "npz", "minari"],
)


@WRITERS
def test_every_format_gives_back_what_was_written(tmp_path: Path, write: Writer, name: str) -> None:
    data = dataset(*three_sources(), trajectory(2, success=None, source="random"))
    write(tmp_path / name, data.trajectories())
    # The name has no extension: the format is known by its content.
    assert_same(load_sources(str(tmp_path / name)), data)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@WRITERS
def test_every_format_keeps_weights_and_cut_segments(tmp_path: Path, write: Writer, name: str) -> None:
    kept = weigh(dataset(), {"demos": 2.0}, 1.5).select_transitions(np.array([0, 1, 5, 6, 9, 14, 18]))
    write(tmp_path / name, kept.trajectories())
    assert_same(load_sources(str(tmp_path / name)), kept)


def test_nothing_to_write_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        write_hil_serl(tmp_path / "demos.pkl", [])
    assert list(tmp_path.iterdir()) == []


@WRITERS
@pytest.mark.parametrize("share", [0.1, 0.5, 0.98])
def test_truncated_files_are_reported(tmp_path: Path, write: Writer, name: str, share: float) -> None:
    write(tmp_path / name, three_sources())
    file = tmp_path / name
    if file.is_dir():
        file = file / "data" / "main_data.hdf5"
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match=rf"{name} is truncated or damaged: "):
        load_sources(str(tmp_path / name))


def hdf5_file(path: Path, **arrays: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name.replace("__", "/")] = array
    return path


def d4rl_arrays() -> dict[str, Any]:
    """Two episodes of 3 rows: one ends at the goal, one at the time limit."""
    generator = np.random.default_rng(0)
    return {
        "observations": generator.normal(size=(6, 3)).astype(np.float32),
        "actions": generator.uniform(-1, 1, (6, 2)).astype(np.float32),
        "rewards": np.array([0, 0, 1, 0, 0, 0], np.float32),
        "terminals": np.array([0, 0, 1, 0, 0, 0], bool),
        "timeouts": np.array([0, 0, 0, 0, 0, 1], bool),
    }


def test_d4rl_without_next_observations_leaves_out_the_step_that_leads_nowhere(tmp_path: Path) -> None:
    arrays = d4rl_arrays()
    first, second = read_file(hdf5_file(tmp_path / "file", **arrays))
    assert (len(first), first.terminated, first.success) == (3, True, True)
    assert (len(second), second.terminated, second.truncated) == (2, False, True)
    np.testing.assert_array_equal(second.observations, arrays["observations"][3:])
    np.testing.assert_array_equal(first.observations[:3], arrays["observations"][:3])


def test_d4rl_with_next_observations_keeps_every_step_and_finds_gaps(tmp_path: Path) -> None:
    arrays = d4rl_arrays()
    arrays["next_observations"] = np.roll(arrays["observations"], -1, axis=0)
    arrays["next_observations"][0] += 1
    del arrays["timeouts"]
    found = read_file(hdf5_file(tmp_path / "file", **arrays))
    assert [(len(t), t.terminated) for t in found] == [(1, False), (2, True), (3, False)]


def test_d4rl_success_in_infos_is_read(tmp_path: Path) -> None:
    arrays = d4rl_arrays() | {"infos__success": np.array([0, 0, 0, 0, 1, 0])}
    assert [t.success for t in read_file(hdf5_file(tmp_path / "file", **arrays))] == [False, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions": None}, "is no D4RL file: it has no 'actions'"),
        ({"timeouts": None}, "does not tell its episodes apart"),
        ({"rewards": np.zeros(5)}, r"'observations' has shape \(6, 3\), expected 5 rows as in 'rewards'"),
        ({"actions": np.full((6, 2), 4.0)}, r"the action of transition 0 holds 4, expected \[-1, 1\].*5 transitions"),
        ({"rewards": np.array([0, np.nan, 0, 0, 0, 0])}, "rewards of transition 1 are not finite"),
        ({name: array[:0] for name, array in d4rl_arrays().items()}, "holds no transitions"),
        ({"observations": np.array([b"text"] * 6)}, "'observations' has dtype .*, expected numbers"),
    ],
)
def test_bad_d4rl_files_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    arrays = {name: array for name, array in (d4rl_arrays() | change).items() if array is not None}
    with pytest.raises(DataError, match=rf"file:? {message}"):
        load_sources(str(hdf5_file(tmp_path / "file", **arrays)))


class _Goal(gymnasium.Env):
    """Nested observations and actions in [-2, 2], so that order and scaling are visible."""

    observation_space = spaces.Dict(
        {
            "z": spaces.Box(-10, 10, (2, 2), np.float64),
            "a": spaces.Dict({"mode": spaces.Discrete(3), "pose": spaces.Box(-10, 10, (1,), np.float32)}),
        }
    )
    action_space = spaces.Box(-2, 2, (2,), np.float32)


def minari_folder(path: Path, lengths: Sequence[int], observation_space: Any = None) -> Path:
    """A dataset written by minari's own code, with episodes of random samples."""
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    space = observation_space or _Goal.observation_space
    space.seed(0)
    _Goal.action_space.seed(0)
    (path / "data").mkdir(parents=True)
    storage = MinariStorage.new(path / "data", observation_space=space, action_space=_Goal.action_space)
    storage.update_metadata({"dataset_id": "goal-v0", "minari_version": minari.__version__})
    for length in lengths:
        samples = [space.sample() for _ in range(length + 1)]
        last = [step == length - 1 for step in range(length)]
        storage.update_episodes(
            [
                EpisodeBuffer(
                    observations=_stack(samples),
                    actions=np.stack([_Goal.action_space.sample() for _ in range(length)]),
                    rewards=[0.5] * length,
                    terminations=[end and length == 2 for end in last],
                    truncations=[end and length == 3 for end in last],
                    infos={"is_success": np.arange(length + 1) == 2},
                )
            ]
        )
    return path


def _stack(samples: Sequence[Any]) -> Any:
    if isinstance(samples[0], dict):
        return {key: _stack([sample[key] for sample in samples]) for key in samples[0]}
    return np.stack(samples)


def test_minari_spaces_are_flattened_and_actions_scaled_as_gymnasium_does(tmp_path: Path) -> None:
    folder = minari_folder(tmp_path / "goal-v0", [2, 3, 4])
    found = read_file(folder)
    for ours, theirs in zip(found, minari.MinariDataset(folder / "data").iterate_episodes(), strict=True):
        for step in range(len(ours) + 1):
            observation = {
                "z": theirs.observations["z"][step],
                "a": {name: theirs.observations["a"][name][step] for name in ("mode", "pose")},
            }
            flat = spaces.flatten(_Goal.observation_space, observation)
            np.testing.assert_array_equal(ours.observations[step], flat.astype(np.float32))
        np.testing.assert_allclose(ours.actions, theirs.actions / 2, atol=1e-6)
    assert [(t.terminated, t.truncated) for t in found] == [(True, False), (False, True), (False, True)]
    assert [t.success for t in found] == [True, True, True]


def test_minari_is_found_by_its_folder_or_its_file(tmp_path: Path) -> None:
    folder = minari_folder(tmp_path / "goal-v0", [2, 3])
    by_folder = load_sources(str(folder))
    assert_same(load_sources(str(folder / "data" / "main_data.hdf5")), by_folder)
    assert by_folder.source_names == ("demos",)


def test_minari_datasets_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    images = spaces.Dict({"camera": spaces.Box(0, 255, (8, 8, 3), np.uint8)})
    with pytest.raises(DataError, match="images-v0 has camera images under 'observations/camera'"):
        read_file(minari_folder(tmp_path / "images-v0", [2], images))
    with pytest.raises(DataError, match="empty-v0"):
        read_file(minari_folder(tmp_path / "empty-v0", []))
    folder = minari_folder(tmp_path / "damaged-v0", [2])
    metadata = json.loads((folder / "data" / "metadata.json").read_text())
    (folder / "data" / "metadata.json").write_text(json.dumps(metadata)[:50])
    with pytest.raises(DataError, match="damaged-v0 is truncated or damaged"):
        read_file(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions": None}, "has no array 'actions'; it needs observations, actions, "),
        ({"actions": np.zeros((4, 2), np.float32)}, r"'actions' has shape \(4, 2\), expected 5 rows"),
        ({"next_observations": np.zeros((5, 4))}, r"'next_observations' has shape \(5, 4\), expected .* \(5, 3\)"),
        ({"rewards": np.zeros((5, 2))}, r"'rewards' has shape \(5, 2\), expected 5 rows"),
        ({"observations": np.full((5, 3), np.inf)}, r"observations of transition 0 are not finite"),
        ({"rewards": np.array([{}] * 5)}, "is truncated or damaged: 'rewards' is of dtype object"),
    ],
)
def test_bad_npz_files_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    write_npz(tmp_path / "file", [trajectory(5)])
    with np.load(tmp_path / "file") as file:
        arrays = {name: array for name, array in (dict(file) | change).items() if array is not None}
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DataError, match=rf"bad\.npz:? {message}"):
        load_sources(str(tmp_path / "bad.npz"))


def test_a_missing_extra_is_named_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_hdf5(tmp_path / "file.hdf5", [trajectory()])
    write_minari(tmp_path / "goal-v0", [trajectory()])
    real_import = builtins.__import__

    def without_extra(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name in ("h5py", "minari"):
            raise ImportError(name)
        return real_import(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without_extra)
    for module in ("h5py", "minari"):
        monkeypatch.delitem(sys.modules, module)
    for name, package in (("file.hdf5", "h5py"), ("goal-v0", "minari")):
        with pytest.raises(
            DataError, match=rf"{name} needs {package}, which `pip install 'wsrl-kit\[data\]'` installs"
        ):
            read_file(tmp_path / name)
