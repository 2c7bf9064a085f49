"""A run's folder survives what happens to runs: kills, full disks, wrong settings, interruptions."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from full_disk import files_limited_to
from wsrl_kit.errors import RunError
from wsrl_kit.runs.run import Run, delete_run, find_runs, read_run, save_figure

PARAMETERS = {"batch_size": 256, "hidden_sizes": [64, 64], "discount": 0.97, "checkpoint_path": None}


def open_run(folder: Path, **changes: Any) -> Run:
    return Run.open(folder, **({"kind": "finetune", "arm": "kit", "seed": 3, "parameters": PARAMETERS} | changes))


def test_what_was_recorded_is_read_back(tmp_path):
    run = open_run(tmp_path / "run")
    run.record("warmup", 0, 500, {"training/critic_loss": 0.1 + 0.2})
    run.record("online", 0, 500, {"evaluation/success_sampled": 0.5, "evaluation/return_sampled": float("nan")})
    run.record("online", 100, 900, {"evaluation/success_sampled": np.float32(0.25)})
    run.finish({"success": 0.25, "missing": float("nan")})
    record = read_run(tmp_path / "run")
    assert (record.kind, record.arm, record.seed, record.status) == ("finetune", "kit", 3, "finished")
    assert record.parameters == PARAMETERS
    assert record.summary == {"success": 0.25, "missing": None}
    success = record.curve("evaluation/success_sampled")
    assert success.environment_step.tolist() == [0, 100]
    assert success.gradient_step.tolist() == [500, 900]
    assert success.value.tolist() == [0.5, 0.25]
    assert np.isnan(record.curve("evaluation/return_sampled").value).all()
    assert record.curve("training/critic_loss", "warmup").value.tolist() == [0.1 + 0.2]
    assert len(record.curve("training/critic_loss", "online")) == 0
    assert run.rows == 4


def test_versions_of_what_results_depend_on_are_recorded(tmp_path):
    open_run(tmp_path)
    assert read_run(tmp_path).versions.keys() >= {"python", "wsrl_kit", "jax", "numpy", "mujoco"}


def test_reopening_continues_where_the_run_was_left(tmp_path):
    run = open_run(tmp_path)
    run.record("online", 0, 0, {"a": 1.0, "b": 2.0})
    run.stop()
    assert read_run(tmp_path).status == "stopped"
    again = open_run(tmp_path)
    assert again.rows == 2
    assert read_run(tmp_path).status == "running"
    again.fail("the robot is gone")
    assert (read_run(tmp_path).status, read_run(tmp_path).message) == ("failed", "the robot is gone")


def test_rewinding_and_recording_again_gives_the_same_bytes(tmp_path):
    whole, resumed = open_run(tmp_path / "whole"), open_run(tmp_path / "resumed")
    for run in (whole, resumed):
        run.record("online", 0, 0, {"a": 1 / 3})
    resumed.record("online", 100, 400, {"a": 9.0, "b": 9.0})
    resumed.stop()
    resumed = open_run(tmp_path / "resumed")
    resumed.rewind(1)
    for run in (whole, resumed):
        run.record("online", 100, 400, {"a": 2 / 3, "b": float("nan")})
    assert whole.metrics_path.read_bytes() == resumed.metrics_path.read_bytes()
    assert whole.rows == resumed.rows == 3


def test_rewinding_beyond_what_was_recorded_is_refused(tmp_path):
    run = open_run(tmp_path)
    run.record("online", 0, 0, {"a": 1.0})
    with pytest.raises(RunError, match="at least 5 rows to resume, found 1"):
        run.rewind(5)


def test_a_half_written_last_line_is_dropped(tmp_path):
    run = open_run(tmp_path)
    run.record("online", 0, 0, {"a": 1.0})
    intact = run.metrics_path.read_bytes()
    run.close()
    run.metrics_path.write_bytes(intact + b"online,100,40")
    assert read_run(tmp_path).curve("a").value.tolist() == [1.0]
    assert open_run(tmp_path).rows == 1
    assert run.metrics_path.read_bytes() == intact


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"kind": "warmup"},
            "a run of kind 'finetune', this one is of kind 'warmup': give this one another output_dir",
        ),
        ({"arm": "other"}, "a run of arm 'kit', this one is of arm 'other': give"),
        ({"seed": 4}, "a run of seed 3, this one is of seed 4: give"),
        ({"parameters": PARAMETERS | {"discount": 0.9}}, "(discount was 0.97, is 0.9): set them as they were"),
        ({"parameters": PARAMETERS | {"new": 1}}, "(new was 'not given', is 1)"),
        ({"parameters": PARAMETERS | {"hidden_sizes": [1]}}, "(hidden_sizes was [64, 64], is [1])"),
    ],
)
def test_another_run_in_the_folder_is_refused_by_what_differs_and_says_what_to_do(tmp_path, changes, sentence):
    open_run(tmp_path).stop()
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(RunError) as caught:
        open_run(tmp_path, **changes)
    assert sentence in str(caught.value)
    assert str(caught.value).endswith(
        "another output_dir (--out); resume=False would delete the earlier run and start anew"
    )
    assert (tmp_path / "run.json").read_bytes() == before
    # What was refused holds nothing.
    open_run(tmp_path)


def test_tuples_and_numpy_numbers_are_the_same_parameters_as_lists_and_numbers(tmp_path):
    open_run(tmp_path, parameters={"hidden_sizes": (64, 64), "rate": np.float64(0.5), "folder": Path("a")}).stop()
    open_run(tmp_path, parameters={"hidden_sizes": [64, 64], "rate": 0.5, "folder": "a"})


def test_a_finished_run_is_not_reopened_but_can_be_started_anew(tmp_path):
    run = open_run(tmp_path)
    run.record("online", 0, 0, {"a": 1.0})
    run.checkpoint_path.write_bytes(b"checkpoint")
    save_figure(tmp_path / "figures" / "curve.png", Figure())
    run.finish({})
    content = (tmp_path / "run.json").read_bytes()
    assert open_run(tmp_path).is_finished
    assert (tmp_path / "run.json").read_bytes() == content
    fresh = open_run(tmp_path, resume=False, seed=8)
    assert fresh.rows == 0
    assert not fresh.checkpoint_path.exists()
    assert not list(tmp_path.glob("figures/*"))
    assert read_run(tmp_path).seed == 8


def test_a_folder_with_metrics_but_no_run_is_left_alone(tmp_path):
    run = open_run(tmp_path)
    run.record("online", 0, 0, {"a": 1.0})
    run.stop()
    (tmp_path / "run.json").unlink()
    with pytest.raises(RunError, match="but no run.json"):
        open_run(tmp_path)
    assert b"1.0" in run.metrics_path.read_bytes()


KILLED = """
import os, signal, sys
from pathlib import Path
from wsrl_kit.runs.run import Run
run = Run.open(Path(sys.argv[1]), kind="finetune", arm="kit", seed=3, parameters={})
for step in range(50):
    run.record("online", step, step, {"a": float(step)})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_loses_nothing_it_recorded(tmp_path):
    finished = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False, timeout=60)
    assert finished.returncode == -signal.SIGKILL
    record = read_run(tmp_path)
    assert record.status == "running"
    assert record.curve("a").value.tolist() == list(range(50))


def test_a_full_disk_is_one_sentence_and_keeps_what_was_recorded(tmp_path):
    run = open_run(tmp_path)
    run.record("online", 0, 0, {"a": 1.0})
    intact, status = run.metrics_path.read_bytes(), (tmp_path / "run.json").read_bytes()
    figure = Figure()
    figure.subplots()
    with files_limited_to(len(intact) + 25):
        with pytest.raises(RunError, match="can't be written"):
            run.record("online", 100, 400, {"a": 2.0, "b": 3.0, "c": 4.0})
        with pytest.raises(RunError, match=r"run\.json can't be written"):
            run.finish({"long": "x" * 1000})
        with pytest.raises(RunError, match="can't be written"):
            save_figure(tmp_path / "figures" / "curve.png", figure)
    assert run.metrics_path.read_bytes() == intact
    assert run.rows == 1
    assert (tmp_path / "run.json").read_bytes() == status
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".tmp", ".png")]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="can't be written"):
        open_run(tmp_path / "file" / "run")


def test_a_metric_name_or_phase_that_would_damage_the_file_is_refused(tmp_path):
    run = open_run(tmp_path)
    with pytest.raises(RunError, match="free of commas"):
        run.record("online", 0, 0, {"a,b": 1.0})
    with pytest.raises(RunError, match="phase must be one of warmup, online, found 'offline'"):
        run.record("offline", 0, 0, {"a": 1.0})
    assert run.rows == 0


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("run.json", "{", "damaged"),
        ("run.json", "[]", "found no kind"),
        ("run.json", None, "found no run.json"),
        ("metrics.csv", "step,value\n1,2\n", "must begin with"),
        ("metrics.csv", "phase,environment_step,gradient_step,metric,value\nonline,x,0,a,1\n", "in line 2"),
        ("metrics.csv", "phase,environment_step,gradient_step,metric,value\nonline,0\n", "in line 2"),
        ("metrics.csv", None, "No such file"),
    ],
)
def test_a_damaged_folder_is_named(tmp_path, name, content, sentence):
    open_run(tmp_path)
    if content is None:
        os.unlink(tmp_path / name)
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(RunError, match=sentence):
        read_run(tmp_path)


def test_an_unknown_status_is_named(tmp_path):
    open_run(tmp_path)
    content = json.loads((tmp_path / "run.json").read_text()) | {"status": "lost"}
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match="found 'lost'"):
        read_run(tmp_path)


def test_runs_are_found_in_order_whatever_their_folders(tmp_path):
    for seed in (10, 2):
        for arm in ("b", "a"):
            open_run(tmp_path / arm / f"seed_{seed}", arm=arm, seed=seed)
    assert [(record.arm, record.seed) for record in find_runs(tmp_path)] == [("a", 2), ("a", 10), ("b", 2), ("b", 10)]
    with pytest.raises(RunError, match="found no folder"):
        find_runs(tmp_path / "absent")


def test_figures_are_pngs(tmp_path):
    path = tmp_path / "figures" / "success.png"
    save_figure(path, Figure())
    assert path.read_bytes().startswith(b"\x89PNG")


def test_starting_anew_never_replaces_a_run_of_another_kind(tmp_path: Path) -> None:
    run = Run.open(tmp_path, kind="warmup", arm="", seed=0, parameters={})
    run.record("warmup", 0, 1, {"loss": 1.0})
    run.stop()
    with pytest.raises(RunError, match=r"holds a warmup run: expected a collect run or a new folder"):
        Run.open(tmp_path, kind="collect", arm="", seed=0, parameters={}, resume=False)
    assert read_run(tmp_path).curve("loss", "warmup").value.tolist() == [1.0]


def test_a_run_is_deleted_whole_unless_it_is_written_to_or_holds_something_else(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run")
    for name in ("warmup.npz", "01_offline_warmup.ipynb", "01_offline_warmup.html", "figures/a.png", "frames/0/x"):
        (run.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (run.folder / name).touch()
    with pytest.raises(RunError, match="is being written to by process"):
        delete_run(run.folder)
    run.stop()
    for name in ("notes.txt", "data"):
        (run.folder / name).mkdir()
        with pytest.raises(RunError, match=f"holds {name}, which no run writes: delete it by hand"):
            delete_run(run.folder)
        (run.folder / name).rmdir()
    (tmp_path / "link").symlink_to(run.folder)
    with pytest.raises(RunError, match="found a link to one"):
        delete_run(tmp_path / "link")
    (run.folder / "traces").symlink_to(tmp_path)
    with pytest.raises(RunError, match="holds traces, which no run writes"):
        delete_run(run.folder)
    (run.folder / "traces").unlink()
    assert len(list(run.folder.rglob("*"))) > 8
    delete_run(run.folder)
    assert not run.folder.exists()
    with pytest.raises(RunError, match="must hold a run, found no run.json"):
        delete_run(tmp_path)
