"""A run that was killed or stopped ends with the same bits as one that was not."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from slow_cases import one_fast
from training_samples import ROBOT, StopAt, same_checkpoint, settings
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.errors import RunError, Stopped
from wsrl_kit.runs.progress import Silent
from wsrl_kit.runs.run import read_run
from wsrl_kit.training.jobs import run_finetune, run_warmup

JOBS = {"warmup": run_warmup, "finetune": run_finetune}
SAMPLERS = {
    "proportional": {"use_prioritized_replay": True},
    "uniform": {"use_prioritized_replay": False},
}
# Long enough to be killed in the middle; intervals that share no divisor, so that a checkpoint falls between records.
LONG = {
    "warmup_steps": 6_000,
    "online_steps": 900,
    "warmup_evaluation_interval": 150,
    "evaluation_interval": 50,
    "log_interval": 37,
    "checkpoint_interval": 130,
    "early_stopping_patience": 1_000,
    "environment_options": ROBOT | {"reset_height": 0.02},
}

PROCESS = """
import json, sys
from pathlib import Path
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.training import jobs
from wsrl_kit.runs.progress import Silent

config = WSRLConfig(**json.loads(sys.argv[2]))
getattr(jobs, f"run_{sys.argv[1]}")(config, Path(sys.argv[3]), Silent())
"""


def kill_in_the_middle(kind: str, config: WSRLConfig, folder: Path) -> None:
    """Runs a job in a process of its own, and kills it when it has recorded more than its last checkpoint knows."""
    arguments = [sys.executable, "-c", PROCESS, kind, json.dumps(asdict(config)), str(folder)]
    metrics, checkpoint = folder / "metrics.csv", folder / "checkpoint.npz"
    with subprocess.Popen(arguments) as process:
        deadline = time.monotonic() + 120
        while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        known = metrics.stat().st_size
        while metrics.stat().st_size == known and process.poll() is None:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
    assert read_run(folder).status == "running"


def assert_same_end(first: Path, second: Path) -> None:
    assert read_run(second).status == "finished"
    assert (first / "metrics.csv").read_bytes() == (second / "metrics.csv").read_bytes()
    assert same_checkpoint(first / "checkpoint.npz", second / "checkpoint.npz")


@pytest.fixture(scope="module")
def warmed_up(sources, tmp_path_factory) -> tuple[WSRLConfig, Path]:
    config = settings(**LONG | {"warmup_steps": 300}, offline_data_path=str(sources))
    folder = tmp_path_factory.mktemp("warmup")
    run_warmup(config, folder, Silent())
    return config, folder


def finetuning(warmed_up: tuple[WSRLConfig, Path], sampler: str) -> WSRLConfig:
    config, folder = warmed_up
    start = {"checkpoint_path": str(folder / "warmup.npz"), "demo_path": str(folder / "filtered_demos.pkl")}
    return replace(config, **start, **SAMPLERS[sampler])


@pytest.mark.slow
def test_a_warmup_that_was_killed_ends_with_the_same_bits(sources, tmp_path):
    config = settings(**LONG, offline_data_path=str(sources))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_warmup(config, whole, Silent())
    kill_in_the_middle("warmup", config, killed)
    run_warmup(config, killed, Silent())
    assert_same_end(whole, killed)
    assert same_checkpoint(whole / "warmup.npz", killed / "warmup.npz")
    assert (whole / "filtered_demos.pkl").read_bytes() == (killed / "filtered_demos.pkl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_fine_tuning_run_that_was_killed_ends_with_the_same_bits(warmed_up, tmp_path, sampler):
    config = finetuning(warmed_up, sampler)
    run_finetune(config, tmp_path / "whole", Silent())
    kill_in_the_middle("finetune", config, tmp_path / "killed")
    run_finetune(config, tmp_path / "killed", Silent())
    assert_same_end(tmp_path / "whole", tmp_path / "killed")
    forces = read_run(tmp_path / "whole").curve("training/peak_contact_force").value
    assert len(set(forces[forces > 0])) > 5


@pytest.mark.parametrize("kind", one_fast(JOBS, "warmup"))
def test_a_run_that_was_stopped_again_and_again_ends_with_the_same_bits(sources, tmp_path, kind):
    paths = {"offline_data_path": str(sources), "demo_path": str(sources)}
    # The record right after the checkpoint shows, to the last bit, what that carries of forces before it.
    config = settings(**paths, log_interval=76, checkpoint_interval=75, early_stopping_patience=9)
    JOBS[kind](config, tmp_path / "whole", Silent())
    # Before the first checkpoint, at one, after one, and right before the end.
    for step in (3, 75, 82, 150 if kind == "warmup" else 99):
        # A step of fine-tuning is one; warmup asks after some.
        with pytest.raises(Stopped, match=rf"stopped at step {step if kind == 'finetune' else '.*'}, saved; Run All"):
            JOBS[kind](config, tmp_path / "stopped", StopAt(step))
        assert read_run(tmp_path / "stopped").status == "stopped"
    JOBS[kind](config, tmp_path / "stopped", Silent())
    assert_same_end(tmp_path / "whole", tmp_path / "stopped")
    if kind == "finetune":
        assert read_run(tmp_path / "whole").curve("training/peak_contact_force").value.min() > 0


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(sources, tmp_path):
    for name, seed in {"first": 0, "again": 0, "other": 1}.items():
        config = settings(seed=seed, offline_data_path=str(sources), demo_path=str(sources))
        for kind, job in JOBS.items():
            job(config, tmp_path / kind / name, Silent())
    for kind in JOBS:
        assert_same_end(tmp_path / kind / "first", tmp_path / kind / "again")
        first, other = (tmp_path / kind / name / "metrics.csv" for name in ("first", "other"))
        assert first.read_bytes() != other.read_bytes()


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", JOBS)
def test_a_finished_run_is_left_as_it_is(sources, tmp_path, kind):
    config = settings(offline_data_path=str(sources), demo_path=str(sources))
    JOBS[kind](config, tmp_path, Silent())
    before = contents(tmp_path)
    JOBS[kind](config, tmp_path, Silent())
    assert contents(tmp_path) == before
    with pytest.raises(
        RunError, match=r"discount was 0.97, is 0.9\): set them as they were .* would delete the earlier run"
    ):
        JOBS[kind](replace(config, discount=0.9), tmp_path, Silent())
    assert contents(tmp_path) == before
