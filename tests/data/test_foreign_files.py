"""Files from other people: none reads what is not its own, fills the memory, waits, or gives orders by a name."""

import json
import os
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest

from data_samples import read_file, trajectory, upstream_rows, write_upstream
from file_writers import write_hdf5, write_minari, write_npz
from fuzzing import _warmup_agent, _write_classifier, _write_hil_serl, _write_warmup
from lerobot_samples import episode, write_lerobot
from wsrl_kit.analysis import plots
from wsrl_kit.analysis.tables import plain_table
from wsrl_kit.classifier import model
from wsrl_kit.data.doctor import examine, render
from wsrl_kit.data.sources import expand, load_sources
from wsrl_kit.errors import CheckpointError, DataError, RunError, WSRLKitError
from wsrl_kit.hil_serl.checkpoint import import_hil_serl
from wsrl_kit.runs import checkpoint
from wsrl_kit.runs.run import Run, read_run
from wsrl_kit.training import start as agents

ORDER = "\x1b[31mred\n"


def refusal(path: Path, **options: Any) -> str:
    """The sentence by which loading refuses a file, which is the doctor's problem too."""
    with pytest.raises(DataError) as refused:
        load_sources(str(path), **options)
    assert "\n" not in str(refused.value)
    if not options:
        assert examine(path).problems == (str(refused.value),)
    return str(refused.value)


# What never ends, and what is larger than it looks


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (load_sources, "demos.npz"),
        (lambda path: read_run(path.parent), "run.json"),
        (checkpoint.read_metadata, "checkpoint.npz"),
        (lambda path: import_hil_serl(path, path.with_name("agent.npz")), "checkpoint_1"),
    ],
)
def test_a_pipe_is_refused_and_never_opened(tmp_path: Path, read: Callable[[Path], Any], name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(WSRLKitError, match=name):
        read(tmp_path / name)


def test_a_pipe_in_a_folder_of_data_is_passed_over(tmp_path: Path) -> None:
    write_npz(tmp_path / "demos.npz", [trajectory()])
    os.mkfifo(tmp_path / "suboptimal.npz")
    assert expand(str(tmp_path)) == {"demos": [tmp_path / "demos.npz"]}


def test_arrays_that_no_file_of_this_size_holds_are_refused(tmp_path: Path) -> None:
    """As a header that lies, and as a megabyte that unpacks to a gigabyte."""
    write_npz(tmp_path / "demos.npz", [trajectory()])
    with zipfile.ZipFile(tmp_path / "demos.npz") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    lie = members["rewards.npy"].replace(b"(5,)", b"(10000000000000,)")
    for path, rewards in ((tmp_path / "lie.npz", lie), (tmp_path / "bomb.npz", bytes(400 * 2**20))):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, content in (members | {"rewards.npy": rewards}).items():
                archive.writestr(name, content)
    assert "other bytes than its shape" in refusal(tmp_path / "lie.npz")
    assert "far more than its" in refusal(tmp_path / "bomb.npz")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda file: file.create_dataset("actions", (10**12, 2), "f4", fillvalue=1, chunks=(1, 2)),
            "far more than its",
        ),
        (
            lambda file: file.create_dataset("actions", (5, 2), "f4", chunks=(10**8, 2), maxshape=(None, 2)),
            "far more than",
        ),
        (lambda file: file.__setitem__("actions", h5py.ExternalLink("other.hdf5", "/actions")), "is a link"),
        (lambda file: file.__setitem__("actions", h5py.SoftLink("/observations")), "is a link"),
        (lambda file: file.create_dataset("actions", (5, 2), "f4", external=[("other", 0, 40)]), "lies in other files"),
        (lambda file: file.create_dataset("actions", (5, 2), "f4", scaleoffset=3), "is stored by filter 6"),
        (lambda file: file.create_group("actions"), "is no array"),
        (lambda file: file.create_dataset("actions", (5,), h5py.vlen_dtype(np.float32)), "expected numbers"),
    ],
)
def test_an_hdf5_file_is_read_alone_and_by_known_filters(
    tmp_path: Path, damage: Callable[[h5py.File], Any], message: str
) -> None:
    path = tmp_path / "demos.hdf5"
    write_hdf5(path, [trajectory()])
    with h5py.File(path, "r+") as file:
        del file["actions"]
        damage(file)
    assert message in refusal(path)


def test_a_virtual_dataset_is_refused(tmp_path: Path) -> None:
    write_hdf5(tmp_path / "other.hdf5", [trajectory()])
    write_hdf5(tmp_path / "demos.hdf5", [trajectory()])
    layout = h5py.VirtualLayout((5, 2), "f4")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.hdf5"), "actions", (5, 2))
    with h5py.File(tmp_path / "demos.hdf5", "r+") as file:
        del file["actions"]
        file.create_virtual_dataset("actions", layout)
    assert "lies in other files" in refusal(tmp_path / "demos.hdf5")


def test_lengths_that_a_checkpoint_only_declares_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_1"
    _write_hil_serl(path)
    path.write_bytes(b"\xdd\x00\x01\xff\xff" * 400 + path.read_bytes() + bytes(200_000))
    with pytest.raises(CheckpointError, match="is damaged or no checkpoint of HIL-SERL's: .*max_array_len"):
        import_hil_serl(path, tmp_path / "agent.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state_size": 10**12}, "state_size must be an int"),
        ({"hidden_sizes": [90_000, 90_000]}, "but the configured network needs"),
        ({"hidden_sizes": ["4"]}, "hidden_sizes must be"),
    ],
)
def test_a_classifier_of_another_size_than_its_file_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    _write_classifier(tmp_path / "classifier.npz")
    change_metadata(tmp_path / "classifier.npz", lambda metadata: metadata["network"].update(change))
    with pytest.raises(CheckpointError, match=message):
        model.load(tmp_path / "classifier.npz")


@pytest.mark.parametrize(
    ("size", "message"), [(10**9, r"\[1000000000,"), (-1, "probe_size must be"), ("2", "probe_size")]
)
def test_a_warmup_checkpoint_that_declares_another_probe_batch_is_refused(
    tmp_path: Path, size: Any, message: str
) -> None:
    _write_warmup(tmp_path / "warmup.npz")
    change_metadata(tmp_path / "warmup.npz", lambda metadata: metadata.update(probe_size=size))
    with pytest.raises(CheckpointError, match=message):
        agents.load_warmup(tmp_path / "warmup.npz", _warmup_agent()[0])


def change_metadata(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    arrays = checkpoint.read(path)
    metadata = json.loads(arrays[checkpoint.METADATA].tobytes())
    change(metadata)
    arrays[checkpoint.METADATA] = np.frombuffer(json.dumps(metadata).encode(), np.uint8)
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "3"}, "seed must be an int"),
        ({"seconds": None}, "seconds must be a float"),
        ({"parameters": []}, "parameters must be a dict"),
        ({"arm": 3}, "arm must be a str"),
    ],
)
def test_a_run_of_other_types_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = written_run(tmp_path, "arm") / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RunError, match=message):
        read_run(tmp_path)


@pytest.mark.parametrize("content", ["[" * 100_000, "{" + " " * 2**25 + "}", "1" * 5000, "\ufeff{}", "[]"])
def test_a_run_of_other_json_is_refused(tmp_path: Path, content: str) -> None:
    (written_run(tmp_path, "arm") / "run.json").write_text(content)
    with pytest.raises(RunError, match="run.json must hold"):
        read_run(tmp_path)


def written_run(folder: Path, arm: str) -> Path:
    run = Run.open(folder, kind="finetune", arm=arm, seed=0, parameters={})
    run.record("online", 1, 2, {"success": 1.0})
    run.finish({})
    return folder


# Other files and other programs


def test_no_environment_is_made_because_a_dataset_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Minari itself makes it where the metadata do not say the spaces: any function of any module, with arguments."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "foreign_module.py").write_text("")
    gymnasium.register("Foreign-v0", entry_point="foreign_module:make")
    write_minari(tmp_path / "demos-v0", [trajectory()])
    path = tmp_path / "demos-v0" / "data" / "metadata.json"
    metadata = json.loads(path.read_text()) | {"env_spec": gymnasium.spec("Foreign-v0").to_json()}
    del metadata["observation_space"]
    path.write_text(json.dumps(metadata))
    assert "does not say its observation_space" in refusal(tmp_path / "demos-v0")
    assert "foreign_module" not in sys.modules


@pytest.mark.parametrize("outside", ["../elsewhere.parquet", "/tmp/elsewhere.parquet", "link.parquet"])
def test_a_lerobot_folder_is_read_alone(tmp_path: Path, outside: str) -> None:
    folder = write_lerobot(tmp_path / "demos", [episode(3)])
    (tmp_path / "elsewhere.parquet").write_bytes((folder / "data/chunk-000/file-000.parquet").read_bytes())
    (folder / "link.parquet").symlink_to(tmp_path / "elsewhere.parquet")
    change_info(folder, data_path=outside.replace("/tmp", str(tmp_path)))
    assert "lies outside of the folder" in refusal(folder)


@pytest.mark.parametrize(
    "template", ["{chunk_index:0999999999d}", "{chunk_index.__class__}", "{video_key!r:>99999999}"]
)
def test_a_template_makes_no_name_but_of_places(tmp_path: Path, template: str) -> None:
    folder = write_lerobot(tmp_path / "demos", [episode(3)])
    change_info(folder, data_path=template)
    assert "no path can be made of the template" in refusal(folder)


def change_info(folder: Path, **changes: Any) -> None:
    path = folder / "meta" / "info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# Names


def test_a_name_from_a_file_is_text_wherever_it_is_shown(tmp_path: Path) -> None:
    write_npz(tmp_path / "demos.npz", [trajectory(source=ORDER)])
    assert load_sources(str(tmp_path / "demos.npz")).source_names == (r"\x1b[31mred\n",)
    assert render(examine(tmp_path / "demos.npz")).isprintable() is False
    assert re.search(r"[^ -~\n]", render(examine(tmp_path / "demos.npz"))) is None
    assert read_run(written_run(tmp_path / "run", ORDER)).arm == r"\x1b[31mred\n"


def test_a_name_is_no_formula_no_page_and_no_sum(tmp_path: Path) -> None:
    names = ["=1+1", "<script>", "a|b", "$x_1$"]
    table = plain_table("=<b>", [{"source": name, "gain": -0.5} for name in names])
    assert [line.split(",") for line in table.to_csv().splitlines()[1:3]] == [["'=1+1", "-0.5"], ["<script>", "-0.5"]]
    assert all(text in table.to_markdown() for text in ("=1+1", "&lt;script&gt;", r"a\|b", "&lt;b&gt;"))
    assert "<script>" not in table._repr_html_()
    figure, (ax,) = plots.new_figure()
    plots.source_bars(ax, names, np.ones(4), "weight")
    figure.canvas.draw()
    shown = [label.get_window_extent().width for label in ax.get_yticklabels()]
    plain = ax.text(0, 0, r"\$x_1\$", fontsize=ax.get_yticklabels()[0].get_fontsize())
    assert shown[3] == pytest.approx(plain.get_window_extent().width, rel=0.05)


@pytest.mark.parametrize("name", ["x" * 1000, "é" * 300])
def test_a_name_of_any_length_is_refused(tmp_path: Path, name: str) -> None:
    """As many rows as there are would each take the longest name's memory."""
    for write, path in ((write_npz, tmp_path / "demos.npz"), (write_hdf5, tmp_path / "demos.hdf5")):
        write(path, [trajectory(source=name)])
        assert "100 characters" in refusal(path)


# What was misread in silence


@pytest.mark.parametrize("changes", [{1: -1}, {1: 1}, {0: -1, 1: 1}])
def test_a_minari_episode_of_other_observations_than_its_actions_need_is_named(
    tmp_path: Path, changes: dict[int, int]
) -> None:
    write_minari(tmp_path / "demos-v0", [trajectory(length, seed=length) for length in (4, 5, 6)])
    with h5py.File(tmp_path / "demos-v0" / "data" / "main_data.hdf5", "r+") as file:
        for number, more in changes.items():
            found = file[f"episode_{number}/observations"][()]
            del file[f"episode_{number}/observations"]
            file[f"episode_{number}/observations"] = found[:more] if more < 0 else np.concatenate([found, found[:more]])
    first = min(changes)
    assert f"episode {first} has observations of shape ({5 + first + changes[first]}, 3)" in refusal(
        tmp_path / "demos-v0"
    )


def d4rl(path: Path, **changes: Any) -> Path:
    """Three episodes of four steps, of which the last ends the task and the others at the time limit."""
    states = np.random.default_rng(0).normal(size=(3, 5, 3)).astype(np.float32)
    arrays = {
        "observations": states[:, :4].reshape(12, 3),
        "next_observations": states[:, 1:].reshape(12, 3),
        "actions": np.zeros((12, 2), np.float32),
        "rewards": (np.arange(12) == 11).astype(np.float32),
        "terminals": np.arange(12) == 11,
        "timeouts": np.arange(12) % 4 == 3,
    } | changes
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            if array is not None:
                file[name] = array
    return path


def test_d4rl_episodes_are_told_apart_or_the_file_is_refused(tmp_path: Path) -> None:
    for timeouts in (None, np.zeros(12, bool)):
        assert [len(t) for t in read_file(d4rl(tmp_path / "a", timeouts=timeouts))] == [4, 4, 4]
    assert [len(t) for t in read_file(d4rl(tmp_path / "b", next_observations=None))] == [3, 3, 4]
    unknown = d4rl(tmp_path / "c", next_observations=None, timeouts=None)
    assert "does not tell its episodes apart" in refusal(unknown)
    unmarked = {"timeouts": np.zeros(12, bool), "terminals": np.zeros(12, bool)}
    assert "mark no end" in refusal(d4rl(tmp_path / "d", next_observations=None, **unmarked))


def test_a_folder_named_data_makes_no_minari_dataset(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_upstream(tmp_path / "data" / "demos.pkl", upstream_rows([3]))
    write_upstream(tmp_path / "demos.pkl", upstream_rows([4]))
    assert expand(str(tmp_path)) == {"demos": [tmp_path / "demos.pkl"]}
    assert expand(str(tmp_path / "data")) == {"demos": [tmp_path / "data" / "demos.pkl"]}


def test_images_are_no_numbers_of_a_state(tmp_path: Path) -> None:
    images = np.zeros((12, 8, 8, 3), np.uint8)
    assert "look like camera images" in refusal(d4rl(tmp_path / "a", observations=images, next_observations=images))
    floats = np.zeros((12, 8, 8, 3), np.float32)
    assert "look like camera images" in refusal(d4rl(tmp_path / "b", observations=floats, next_observations=floats))


@pytest.mark.parametrize(
    "beside",
    [
        np.zeros((1, 32, 32), np.float32),
        np.zeros((32, 32), np.uint16),
        np.zeros((1, 32, 32, 1), np.uint8),
        np.zeros((1, 32, 32, 4), np.uint8),
    ],
)
def test_a_camera_that_nobody_wants_may_be_of_any_kind(tmp_path: Path, beside: np.ndarray) -> None:
    rows = upstream_rows([3], cameras={"wrist_1": (6, 5, 3)})
    expected = load_sources(str(write_upstream(tmp_path / "plain.pkl", rows)), cameras=["wrist_1"])
    for row in rows:
        for name in ("observations", "next_observations"):
            row[name]["depth"] = beside
    found = load_sources(str(write_upstream(tmp_path / "demos.pkl", rows)), cameras=["wrist_1"])
    np.testing.assert_array_equal(found.images["wrist_1"], expected.images["wrist_1"])
    assert len(load_sources(str(tmp_path / "demos.pkl"), cameras=())) == 3


def test_a_depth_map_beside_the_wanted_camera_of_a_lerobot_folder_is_passed_over(tmp_path: Path) -> None:
    frames = episode(3, cameras={"top": (16, 16)}) | {"observation.depth": np.zeros((3, 256), np.float32)}
    folder = write_lerobot(tmp_path / "demos", [frames])
    info = json.loads((folder / "meta" / "info.json").read_text())
    info["features"]["observation.depth"]["shape"] = [16, 16]
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    assert load_sources(str(folder), cameras=["top"]).observations.shape[1] == 3
    assert "expected vectors" in refusal(folder)
