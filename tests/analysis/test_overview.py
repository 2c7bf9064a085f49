"""The table of all runs under a folder, and their curves, while the runs go on."""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from synthetic_runs import write_finetune, write_warmup
from wsrl_kit.analysis.overview import KILLED, UNREADABLE, RunFolders, overlay_figure, overview_table
from wsrl_kit.errors import RunError
from wsrl_kit.runs.run import Run, read_run

SUCCESS = "evaluation/success_sampled"


def row_of(folders: RunFolders, name: str) -> pd.Series:
    return folders.table().set_index("folder").loc[name]


def test_every_run_is_a_row_with_its_last_values(tmp_path: Path) -> None:
    write_finetune(tmp_path / "rlpd_all" / "seed_1", "rlpd_all", 1, budget=600)
    write_warmup(tmp_path / "warmup", 0, steps=1_000)
    write_finetune(tmp_path / "going_on", "", 2, budget=600, last_step=200)
    Run.open(tmp_path / "report", kind="report", arm="", seed=0, parameters={}).finish({})
    folders = RunFolders(tmp_path)
    table = folders.table()
    assert table["folder"].tolist() == ["going_on", "rlpd_all/seed_1", "warmup"]
    assert table["status"].tolist() == ["running", "finished", "finished"]
    assert table[["step", "steps"]].to_numpy().tolist() == [[200, 600], [600, 600], [1_000, 1_000]]
    assert (table["arm"][1], table["seed"][1]) == ("rlpd_all", "1")
    for name, success in zip(table["folder"], table["success"], strict=True):
        phase = "warmup" if name == "warmup" else "online"
        assert success == read_run(tmp_path / name).curve(SUCCESS, phase).value[-1]
    assert "going_on" in overview_table(table, tmp_path).to_text()


def test_what_is_appended_is_read_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_finetune(tmp_path / "run", "", 0, budget=10_000, last_step=400)
    folders = RunFolders(tmp_path)
    assert row_of(folders, "run")["step"] == 400
    assert len(folders.record("run", SUCCESS).curve(SUCCESS)) == 3
    # Other bytes of the same length, up to the last line: who reads them again would see them.
    lines = run.metrics_path.read_bytes().splitlines(keepends=True)
    blanked = [line[:-2] + b"x\n" if b"success" in line else line for line in lines[:-1]]
    run.metrics_path.write_bytes(b"".join([*blanked, lines[-1]]))
    run.record("online", 600, 2_400, {SUCCESS: 0.75, "training/new": 1.0})
    assert row_of(folders, "run")[["step", "success"]].tolist() == [600, 0.75]
    curve = folders.record("run", SUCCESS).curve(SUCCESS)
    assert curve.environment_step.tolist() == [0, 200, 400, 600]
    assert curve.value[-1] == 0.75
    assert "training/new" in folders.metrics(["run"])


def test_a_half_written_line_waits_for_its_end(tmp_path: Path) -> None:
    run = write_finetune(tmp_path / "run", "", 0, last_step=200)
    folders = RunFolders(tmp_path)
    folders.table()
    with run.metrics_path.open("ab") as file:
        file.write(f"online,800,3200,{SUCCESS},0.".encode())
        file.flush()
        assert row_of(folders, "run")["step"] == 200
        assert len(folders.record("run", SUCCESS).curve(SUCCESS)) == 2
        file.write(b"5\n")
    assert row_of(folders, "run")[["step", "success"]].tolist() == [800, 0.5]
    assert folders.record("run", SUCCESS).curve(SUCCESS).value[-1] == 0.5


def test_a_run_that_was_rewound_is_read_anew(tmp_path: Path) -> None:
    run = write_finetune(tmp_path / "run", "", 0, last_step=600)
    folders = RunFolders(tmp_path)
    folders.table(), folders.record("run", SUCCESS)
    run.rewind(run.rows // 2)
    run.record("online", 250, 1_000, {SUCCESS: 0.125})
    for _ in range(20):
        run.record("online", 300, 1_200, {SUCCESS: 0.25, "training/critic_loss": 1.0})
    whole = read_run(tmp_path / "run").curve(SUCCESS)
    np.testing.assert_array_equal(folders.record("run", SUCCESS).curve(SUCCESS).value, whole.value)
    assert row_of(folders, "run")[["step", "success"]].tolist() == [300, 0.25]


def test_what_is_no_whole_run_is_listed_and_never_raises(tmp_path: Path) -> None:
    write_finetune(tmp_path / "good", "", 0, budget=400)
    for name in ("no_metrics", "bad_rows", "other_kind", "no_json"):
        shutil.copytree(tmp_path / "good", tmp_path / name)
    (tmp_path / "no_metrics/metrics.csv").unlink()
    (tmp_path / "no_json/run.json").unlink()
    (tmp_path / "other_kind/run.json").write_text('{"project": "another"}')
    (tmp_path / "bad_rows/metrics.csv").write_text(f"phase\nonline,x,{SUCCESS},1,\n")
    (tmp_path / "truncated").mkdir()
    (tmp_path / "truncated/run.json").write_text('{"kind": ')
    os.mkfifo(tmp_path / "truncated/metrics.csv")
    folders = RunFolders(tmp_path)
    table = folders.table().set_index("folder")
    assert table["status"].drop("good").eq(UNREADABLE).all()
    assert table["status"]["good"] == "finished"
    assert table["message"].drop("good").str.len().gt(0).all()
    assert folders.metrics(["truncated", "no_metrics", "gone"]) == []
    for name in [*table.index.drop("good")] * 2:
        with pytest.raises(RunError):
            folders.record(name, SUCCESS)
    assert folders.table().set_index("folder").equals(table)
    shutil.rmtree(tmp_path / "good")
    assert "good" not in folders.table()["folder"].tolist()
    with pytest.raises(RunError, match="must be a folder of runs"):
        RunFolders(tmp_path / "nowhere").table()


def test_time_left_is_estimated_at_the_mean_pace(tmp_path: Path) -> None:
    run = write_finetune(tmp_path / "run", "", 0, budget=900, last_step=300)
    now = time.time()
    os.utime(tmp_path / "run/run.json", (now - 100, now - 100))
    os.utime(run.metrics_path, (now, now))
    assert row_of(RunFolders(tmp_path), "run")["seconds_left"] == pytest.approx(200, abs=5)


def test_a_killed_run_is_told_from_a_running_one(tmp_path: Path) -> None:
    write_finetune(tmp_path / "run", "", 0, last_step=200)
    assert row_of(RunFolders(tmp_path), "run")["status"] == "running"
    content = json.loads((tmp_path / "run/run.json").read_text())
    for pid, host, status in (
        (2**22 + 1, None, KILLED),
        (2**22 + 1, "elsewhere", "running"),
        (-(10**30), None, "running"),
    ):
        content["process"] |= {"pid": pid} | ({"host": host} if host else {})
        (tmp_path / "run/run.json").write_text(json.dumps(content))
        content["process"]["host"] = json.loads(json.dumps(os.uname().nodename))
        assert row_of(RunFolders(tmp_path), "run")["status"] == status


def test_curves_are_smoothed_named_and_thinned(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "a$b", kind="finetune", arm="", seed=0, parameters={})
    for step in range(3_000):
        run.record("online", step, step, {"m": float(step % 2)})
    record = RunFolders(tmp_path).record("a$b", "m")
    figure = overlay_figure({"a$b": record, "other": record}, "m", smoothing=0.9)
    (ax,) = figure.axes
    pale, smooth = ax.lines[0].get_ydata(), ax.lines[1].get_ydata()
    assert len(pale) == len(smooth) == 1_000
    assert np.ptp(smooth[100:]) < 0.2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [r"a\$b", "other"]
    assert ax.lines[1].get_color() != ax.lines[3].get_color()
    figure.canvas.draw()
    overlay_figure({}, "m").canvas.draw()
