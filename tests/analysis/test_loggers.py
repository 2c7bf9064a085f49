"""Copies of the metrics: every row once, and no failure that reaches the run."""

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from synthetic_runs import write_finetune, write_warmup
from wsrl_kit.analysis import loggers
from wsrl_kit.analysis.loggers import copied
from wsrl_kit.runs.run import Run, delete_run

LOSS = "training/critic_loss"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "COPY_SECONDS", 0.02)


def events(folder: Path) -> list[tuple[str, int, float]]:
    """Tag, step and value of each event in TensorBoard's files, which hold records between checksums."""
    from tensorboardX.proto.event_pb2 import Event

    def records(content: bytes) -> Iterator[bytes]:
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            yield content[12 : 12 + length]
            content = content[16 + length :]

    found = [
        Event.FromString(record) for path in (folder / "tensorboard").iterdir() for record in records(path.read_bytes())
    ]
    return [(value.tag, event.step, value.simple_value) for event in found for value in event.summary.value]


def test_tensorboard_has_every_row_of_every_run_once_also_after_a_resume(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    run = write_finetune(tmp_path / "arm/seed_0", "", 0, last_step=400)
    write_warmup(tmp_path / "warmup", 0, steps=1_000)
    said: list[str] = []
    rows = run.rows
    with copied(tmp_path, ("tensorboard",), said.append):
        wait_for(lambda: len(events(tmp_path / "arm/seed_0")) == rows)
        run.record("online", 500, 2_000, {LOSS: 0.5})
        wait_for(lambda: len(events(tmp_path / "arm/seed_0")) == rows + 1)
        run.rewind(3)
        run.record("online", 100, 400, {LOSS: 0.25, "training/new": float("nan")})
    assert len(events(tmp_path / "arm/seed_0")) == 5
    with copied(tmp_path, ("tensorboard",), said.append):
        run.record("online", 200, 800, {LOSS: 0.125})
    assert events(tmp_path / "arm/seed_0")[-1] == (f"online/{LOSS}", 200, 0.125)
    assert len(events(tmp_path / "arm/seed_0")) == 6
    assert ("warmup/training/td_error", 1_000) in [event[:2] for event in events(tmp_path / "warmup")]
    assert not said
    delete_run(tmp_path / "warmup")


def wait_for(condition) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 20
    while True:
        try:
            if condition():
                return
        except (OSError, struct.error):
            pass  # not there yet, or half written
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_wandb_writes_an_offline_run(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    said: list[str] = []
    for _ in range(2):
        run = Run.open(tmp_path / "arm/seed_0", kind="finetune", arm="arm", seed=0, parameters={"discount": 0.9})
        with copied(tmp_path, ("wandb",), said.append):
            run.record("online", 100, 400, {LOSS: 0.25})
        run.stop()
    (folder,) = (tmp_path / "arm/seed_0/wandb").glob("offline-run-*")
    (written,) = folder.glob("run-*.wandb")
    assert LOSS.encode() in written.read_bytes() and not said


def test_a_logger_that_fails_says_so_once_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(folder: Path) -> Any:
        raise ImportError

    def full(folder: Path) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loggers, "LOGGERS", {"wandb": missing, "tensorboard": full})
    said: list[str] = []
    with copied(tmp_path / "runs", ("wandb", "tensorboard"), said.append):
        run = write_finetune(tmp_path / "runs/run", "", 0, last_step=200)
        wait_for(lambda: len(said) == 2)
        run.record("online", 400, 1_600, {LOSS: 0.5})
        time.sleep(0.1)
    assert sorted(said) == [
        "no copy for wandb: `pip install 'wsrl-kit[wandb]'` installs what it needs; metrics.csv holds all",
        "no further copy for tensorboard: OSError: [Errno 28] No space left on device; metrics.csv holds all",
    ]
