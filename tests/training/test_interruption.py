"""Nothing that was learned is lost: stops, signals, failing environments, two processes, changed files, more steps."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from slow_cases import one_fast
from training_samples import ROBOT, StopAt, same_checkpoint, settings
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.data.formats.hil_serl import write_hil_serl
from wsrl_kit.data.sources import load_sources
from wsrl_kit.envs.make import is_simulation, make
from wsrl_kit.errors import ExperimentError, RunError, Stopped
from wsrl_kit.runs.progress import Silent
from wsrl_kit.runs.run import Run, read_run
from wsrl_kit.training.jobs import run_finetune, run_warmup

JOBS = {"warmup": run_warmup, "finetune": run_finetune}
LONG = {"warmup_steps": 6_000, "online_steps": 600, "environment_options": ROBOT, "log_interval": 37}

PROCESS = """
import json, signal, sys
from pathlib import Path
# A shell in whose background the tests run ignores it.
signal.signal(signal.SIGINT, signal.default_int_handler)
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.training import jobs
from wsrl_kit.runs.progress import Silent

config = WSRLConfig(**json.loads(sys.argv[2]))
getattr(jobs, f"run_{sys.argv[1]}")(config, Path(sys.argv[3]), Silent())
"""


def wait_until(holds: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    """Waits while the process goes on."""
    deadline = time.monotonic() + 300
    while not holds():
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"it ended too soon: {process.stderr and process.stderr.read()}")
        time.sleep(0.002)


def started(kind: str, config: WSRLConfig, folder: Path) -> "subprocess.Popen[str]":
    """A job in a process of its own, once it has recorded something more."""
    metrics = folder / "metrics.csv"
    known = metrics.stat().st_size if metrics.exists() else 1_000
    arguments = [sys.executable, "-c", PROCESS, kind, json.dumps(asdict(config)), str(folder)]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: metrics.exists() and metrics.stat().st_size > known, process)
    return process


def position(folder: Path) -> dict[str, int]:
    """Where a fine-tuning's checkpoint says it is."""
    with np.load(folder / "checkpoint.npz") as arrays:
        return {name: int(arrays[name]) for name in ("environment_step", "episode", "steps_in_episode")}


def assert_same_end(first: Path, second: Path) -> None:
    assert read_run(second).status == "finished"
    assert (first / "metrics.csv").read_bytes() == (second / "metrics.csv").read_bytes()
    assert same_checkpoint(first / "checkpoint.npz", second / "checkpoint.npz")


def assert_stopped_by(number: signal.Signals, process: "subprocess.Popen[str]", kind: str, folder: Path) -> None:
    """A process that gets the signal saves what it has, and says at which step."""
    process.send_signal(number)
    _, errors = process.communicate(timeout=300)
    (sentence,) = [line for line in errors.splitlines() if "Stopped: " in line]
    step = int(sentence.partition("stopped at step ")[2].partition(",")[0])
    assert sentence.endswith(f"stopped at step {step}, saved; Run All continues, as does the same command")
    assert process.returncode == 1
    assert read_run(folder).status == "stopped"
    with np.load(folder / "checkpoint.npz") as arrays:
        assert int(arrays["step" if kind == "warmup" else "environment_step"]) == step


class SignalAt(StopAt):
    """Progress at whose step this process gets SIGTERM."""

    def __init__(self, step: int) -> None:
        super().__init__(10**9)
        self._signal_step = step

    def update(self, step: int, total: int, text: str) -> None:
        super().update(step, total, text)
        if step == self._signal_step:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_process_that_was_killed_and_one_that_was_stopped_lose_nothing(sources, tmp_path):
    config = settings(**LONG | {"online_steps": 400}, demo_path=str(sources))
    whole, folder = tmp_path / "whole", tmp_path / "interrupted"
    run_finetune(config, whole, Silent())
    process = started("finetune", config, folder)
    try:
        # A folder belongs to one run at a time. The process waits, lest it ends meanwhile.
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(RunError, match=rf"is being written to by process {process.pid} on .*: wait until"):
            run_finetune(config, folder, Silent())
        with pytest.raises(RunError, match=rf"process {process.pid}"):
            run_finetune(config, folder, Silent(), resume=False)
        process.send_signal(signal.SIGCONT)
        # It is killed when it has recorded more than its last checkpoint knows.
        wait_until(lambda: (folder / "checkpoint.npz").exists(), process)
        known = (folder / "metrics.csv").stat().st_size
        wait_until(lambda: (folder / "metrics.csv").stat().st_size > known, process)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
    assert read_run(folder).status == "running"
    known = position(folder)["environment_step"]
    with pytest.raises(Stopped, match=rf"stopped at step {known + 5}, saved"):
        run_finetune(config, folder, SignalAt(known + 5))
    assert (read_run(folder).status, position(folder)["environment_step"]) == ("stopped", known + 5)
    run_finetune(config, folder, Silent())
    assert_same_end(whole, folder)
    forces = read_run(whole).curve("training/peak_contact_force").value
    assert len(set(forces[forces > 0])) > 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", JOBS)
def test_signals_stop_a_process_and_lose_nothing(sources, tmp_path, kind):
    config = settings(**LONG, offline_data_path=str(sources), demo_path=str(sources))
    JOBS[kind](config, tmp_path / "whole", Silent())
    for number in (signal.SIGTERM, signal.SIGINT):
        assert_stopped_by(number, started(kind, config, tmp_path / "signalled"), kind, tmp_path / "signalled")
    JOBS[kind](config, tmp_path / "signalled", Silent())
    assert_same_end(tmp_path / "whole", tmp_path / "signalled")


def test_a_stop_in_the_middle_of_an_episode_goes_on_in_its_middle_with_a_human_in_charge(sources, tmp_path):
    human = {"human": "scripted", "human_options": {"stuck_steps": 4, "patience_steps": 9}}
    config = settings(demo_path=str(sources), **human, random_steps=30)
    run_finetune(config, tmp_path / "whole", Silent())
    rate = read_run(tmp_path / "whole").curve("training/intervention_rate").value
    assert 0 < rate.mean() < 1
    for step in (17, 18, 60):
        with pytest.raises(Stopped, match=f"stopped at step {step}, saved"):
            run_finetune(config, tmp_path / "stopped", StopAt(step))
        assert position(tmp_path / "stopped")["environment_step"] == step
    run_finetune(config, tmp_path / "stopped", Silent())
    assert_same_end(tmp_path / "whole", tmp_path / "stopped")


class OwnTask(gymnasium.Env):
    """A task that nobody knows to be simulated, and that fails once, at the step of all that `FAILURES` names."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    failures: dict[int, str] = {}  # noqa: RUF012
    steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._step = 0
        return np.zeros(3), {}

    def step(self, action: np.ndarray) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        OwnTask.steps += 1
        self._step += 1
        failure = OwnTask.failures.pop(OwnTask.steps, "")
        observation, reward, info = np.full(3, self._step / 100), 0.5, {}
        if failure == "exception":
            raise ZeroDivisionError("the arm is gone")
        if failure == "interrupt":
            raise TimeoutError
        if failure == "reward":
            reward = float("nan")
        if failure == "large reward":
            reward = 1e39
        if failure == "two rewards":
            reward = np.zeros(2)
        if failure == "observation":
            observation = observation * np.inf
        if failure == "large observation":
            observation[1] = 1e300
        if failure == "action":
            info = {"intervene_action": np.array([np.nan, 0.0])}
        return observation, reward, False, self._step >= 20, info


gymnasium.register("wsrl_kit_tests/OwnTask-v0", OwnTask)
OWN = {"exp_name": "wsrl_kit_tests/OwnTask-v0", "environment_options": {}, "evaluation_episodes": 0}

FAILURES = {
    "exception": r"the environment failed with ZeroDivisionError: the arm is gone in .*test_interruption.py, line \d+ ",
    "interrupt": "the environment failed with TimeoutError",
    "reward": "gave the reward nan at step 7 of an episode: expected finite numbers",
    "large reward": "gave the reward inf at step 7 of an episode",
    "two rewards": r"gave the reward array\(\[0., 0.\]\) at step 7 of an episode: expected one number",
    "observation": "gave the observation inf at place 0 at step 7 of an episode",
    "large observation": "gave the observation inf at place 1 at step 7",
    "action": "intervene_action",
}


def test_whatever_the_environment_does_is_told_and_nothing_of_it_is_stored(tmp_path):
    OwnTask.steps = 0
    # The first in the third episode; each later one at the seventh step of the episode that a resumption begins with.
    for number, (failure, sentence) in enumerate(FAILURES.items()):
        OwnTask.failures = {47 + 7 * number: failure}
        step = 46 + 6 * number
        with pytest.raises(ExperimentError, match=sentence) as caught:
            run_finetune(settings(**OWN), tmp_path, Silent())
        end = f"(stopped at step {step}, saved; Run All continues, as does the same command)"
        assert str(caught.value).endswith(end)
        assert "\n" not in str(caught.value)
        assert (read_run(tmp_path).status, read_run(tmp_path).message) == ("failed", str(caught.value))
        assert position(tmp_path) == {"environment_step": step, "episode": 3 + number, "steps_in_episode": 0}
    run_finetune(settings(**OWN), tmp_path, Silent())
    assert read_run(tmp_path).status == "finished"
    with np.load(tmp_path / "checkpoint.npz") as arrays:
        # The last column is -inf where no Monte-Carlo return is known.
        assert np.isfinite(arrays["replay/online/rows"][:, :-1]).all()


def test_a_failing_evaluation_loses_nothing_and_is_made_again(tmp_path):
    config = settings(**OWN | {"evaluation_episodes": 1})
    # Of all steps 40 are in the evaluation before the first step: 20 in each mode.
    OwnTask.steps, OwnTask.failures = 0, {40 + 40 + 3: "exception"}
    with pytest.raises(ExperimentError, match=r"the arm is gone in .* \(stopped at step 40, saved"):
        run_finetune(config, tmp_path, Silent())
    run_finetune(config, tmp_path, Silent())
    assert read_run(tmp_path).curve("evaluation/return_sampled").environment_step.tolist() == [0, 40, 80, 100]


def test_a_task_that_may_be_real_is_never_played_again_after_a_stop(tmp_path):
    OwnTask.steps, OwnTask.failures = 0, {}
    with pytest.raises(Stopped, match="stopped at step 45, saved"):
        run_finetune(settings(**OWN), tmp_path, StopAt(45))
    assert position(tmp_path) == {"environment_step": 45, "episode": 3, "steps_in_episode": 0}
    assert OwnTask.steps == 45
    run_finetune(settings(**OWN), tmp_path, Silent())
    assert OwnTask.steps == 100
    assert not is_simulation(make(OWN["exp_name"]))
    assert is_simulation(make("Pendulum-v1")) and is_simulation(make("hirol_fixed_gripper"))


def test_half_written_files_of_a_killed_process_are_removed_and_those_of_others_are_not(tmp_path):
    for name in (".checkpoint.npz.123-abcd.partial", "figures/.a.png.1-2.partial", "other/.b.npz.1-2.partial"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    Run.open(tmp_path, kind="finetune", arm="", seed=0, parameters={}).stop()
    assert [path.name for path in tmp_path.rglob("*.partial")] == [".b.npz.1-2.partial"]


@pytest.mark.parametrize("kind", one_fast(JOBS))
def test_data_that_changed_since_are_refused(sources, tmp_path, kind):
    dataset = load_sources(str(sources))
    write_hil_serl(tmp_path / "data.pkl", dataset.trajectories())
    config = settings(offline_data_path=str(tmp_path / "data.pkl"), demo_path=str(tmp_path / "data.pkl"))
    with pytest.raises(Stopped):
        JOBS[kind](config, tmp_path / "run", StopAt(40))
    original = (tmp_path / "data.pkl").read_bytes()
    write_hil_serl(tmp_path / "data.pkl", dataset.select_transitions(np.arange(len(dataset) - 1)).trajectories())
    name = "offline_data_path" if kind == "warmup" else "demo_path"
    sentence = (
        rf"began with other data: the files of {name} \(.*data\.pkl\) have changed .* would delete the earlier run"
    )
    with pytest.raises(RunError, match=sentence):
        JOBS[kind](config, tmp_path / "run", Silent())
    assert read_run(tmp_path / "run").status == "stopped"
    (tmp_path / "data.pkl").write_bytes(original)
    JOBS[kind](config, tmp_path / "run", Silent())
    # A finished run is no result of files that are not there any more.
    (tmp_path / "data.pkl").write_bytes(original + b"\0")
    with pytest.raises(RunError, match=sentence):
        JOBS[kind](config, tmp_path / "run", Silent())


SAMPLERS = {
    "by priority": {"use_prioritized_replay": True},
    "replay that is full": {"replay_capacity": 40},
    "a human's transitions": {"human": "scripted", "human_options": {"patience_steps": 9}},
}


@pytest.mark.parametrize("sampler", one_fast(SAMPLERS, "replay that is full"))
def test_a_finished_fine_tuning_goes_on_for_more_steps(sources, tmp_path, sampler, caplog):
    config = settings(demo_path=str(sources), **SAMPLERS[sampler], online_steps=60)
    run_finetune(config, tmp_path, Silent())
    before = (tmp_path / "metrics.csv").read_bytes()
    with pytest.raises(Stopped, match="stopped at step 75, saved"):
        run_finetune(replace(config, online_steps=100), tmp_path, StopAt(75))
    stretched = "online_steps was 60, is 100: from here on the longer run stretches PER's beta"
    assert (stretched in caplog.text) == config.use_prioritized_replay
    run_finetune(replace(config, online_steps=100), tmp_path, Silent())
    record = read_run(tmp_path)
    assert (record.status, record.parameters["online_steps"]) == ("finished", 100)
    assert (tmp_path / "metrics.csv").read_bytes().startswith(before)
    assert record.curve("evaluation/success_sampled").environment_step.tolist() == [0, 40, 60, 80, 100]
    with np.load(tmp_path / "checkpoint.npz") as arrays:
        assert int(arrays["replay/online/size"]) == min(100, config.replay_capacity)
        # Every row has been learned from since: none is empty.
        assert (np.abs(arrays["replay/online/rows"]).sum(axis=1) > 0).all()
    with pytest.raises(RunError, match=r"online_steps was 100, is 60\): set them as they were to continue it"):
        run_finetune(config, tmp_path, Silent())


def test_a_finished_warmup_goes_on_for_more_steps_as_if_it_had_never_ended(sources, tmp_path):
    config = settings(offline_data_path=str(sources), checkpoint_interval=50)
    run_warmup(config, tmp_path / "grown", Silent())
    run_warmup(replace(config, warmup_steps=300), tmp_path / "grown", Silent())
    run_warmup(replace(config, warmup_steps=300), tmp_path / "whole", Silent())
    assert same_checkpoint(tmp_path / "whole" / "warmup.npz", tmp_path / "grown" / "warmup.npz")
    # An evaluation of the first end that is due at no other step, and its record, are there as well.
    rows = [set((tmp_path / name / "metrics.csv").read_text().splitlines()) for name in ("whole", "grown")]
    assert rows[0] <= rows[1]


@pytest.mark.slow
def test_fewer_transitions_than_a_batch_are_drawn_with_replacement(sources, tmp_path):
    few = load_sources(str(sources)).select_transitions(np.arange(30))
    write_hil_serl(tmp_path / "few.pkl", few.trajectories())
    config = settings(offline_data_path=str(tmp_path / "few.pkl"), batch_size=64, random_steps=10)
    checkpoint = run_warmup(config, tmp_path / "warmup", Silent())
    assert read_run(tmp_path / "warmup").summary["kept_transitions"] == 6
    kept = checkpoint.with_name("filtered_demos.pkl")
    run_finetune(replace(config, demo_path=str(kept)), tmp_path / "finetune", Silent())
    record = read_run(tmp_path / "finetune")
    assert record.curve("training/offline_ratio").value[0] > 0.9
    assert np.isfinite(record.curve("training/critic_loss").value).all()


def test_rows_are_on_the_disk_before_the_checkpoint_that_counts_them_and_folders_after_it(tmp_path, monkeypatch):
    fsync, rename, done = os.fsync, os.replace, []

    def noted_fsync(descriptor: int) -> None:
        fsync(descriptor)
        done.append(("synced", Path(os.readlink(f"/proc/self/fd/{descriptor}"))))

    def noted_rename(source: Any, target: Any) -> None:
        rename(source, target)
        done.append(("renamed", Path(target)))

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_rename)
    run_finetune(settings(**OWN), tmp_path, Silent())
    places = [number for number, step in enumerate(done) if step == ("renamed", tmp_path / "checkpoint.npz")]
    assert len(places) > 1
    for place in places:
        assert done[place - 2] == ("synced", tmp_path / "metrics.csv")
        assert done[place - 1][0] == "synced" and done[place - 1][1].name.startswith(".checkpoint.npz.")
        assert done[place + 1] == ("synced", tmp_path)
