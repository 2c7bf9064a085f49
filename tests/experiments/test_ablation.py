"""The ablation: every arm on the same data and budget, in worker processes that may be killed."""

import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil
import pytest

from training_samples import StopAt, settings
from wsrl_kit.analysis.report import report
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.data.formats.hil_serl import write_hil_serl
from wsrl_kit.data.sources import load_sources
from wsrl_kit.errors import DataError, ParameterError, RunError, Stopped
from wsrl_kit.experiments.ablation import plan, run_ablation
from wsrl_kit.experiments.config import AblationConfig
from wsrl_kit.runs.progress import Silent
from wsrl_kit.runs.run import RunRecord, read_run

SEEDS = [0, 1]
ARMS = AblationConfig().arms
PROCESS = """
import json, sys
from pathlib import Path
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.errors import WSRLKitError
from wsrl_kit.experiments.ablation import run_ablation
from wsrl_kit.experiments.config import AblationConfig
from wsrl_kit.runs.progress import Silent

if __name__ == "__main__":
    try:
        run_ablation(WSRLConfig(**json.loads(sys.argv[1])), AblationConfig(seeds=[0, 1]), Path(sys.argv[2]), Silent())
    except WSRLKitError as error:
        sys.exit(f"{type(error).__name__}: {error}")
"""


@dataclass(frozen=True)
class Done:
    """One ablation, which was killed, lost a worker and was stopped before it was finished."""

    config: WSRLConfig
    root: Path
    survivors_of_the_kill: list[psutil.Process]
    output_after_a_lost_worker: str
    status_after_a_lost_worker: str
    status_after_the_stop: str

    def runs(self, arm: str) -> list[RunRecord]:
        return [read_run(self.root / arm / f"seed_{seed}") for seed in SEEDS]


@pytest.fixture(scope="module")
def done(sources, tmp_path_factory) -> Done:
    root = tmp_path_factory.mktemp("ablation")
    script = root.with_suffix(".py")
    script.write_text(PROCESS)
    config = settings(offline_data_path=str(sources), random_steps=20, frozen_rollout_steps=30, retention_ratio=0.3)

    def interrupted(
        interrupt: Callable[[psutil.Process, list[psutil.Process]], None],
    ) -> tuple[str, list[psutil.Process]]:
        """Interrupts the ablation when a run is on its way."""
        rows = count_rows(root)
        arguments = [sys.executable, str(script), json.dumps(asdict(config)), str(root)]
        with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process:
            deadline = time.monotonic() + 120
            while count_rows(root) == rows and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            parent = psutil.Process(process.pid)
            workers = [child for child in parent.children() if "spawn_main" in " ".join(child.cmdline())]
            interrupt(parent, workers)
            message = process.stderr.read() if process.stderr else ""
        return message, workers

    _, workers = interrupted(lambda parent, workers: parent.kill())
    _, survivors = psutil.wait_procs(workers, timeout=10)
    message, _ = interrupted(lambda parent, workers: workers[0].kill())
    lost = read_run(root).status
    with pytest.raises(Stopped):
        run_ablation(config, AblationConfig(seeds=SEEDS), root, StopAt(0))
    stopped = read_run(root).status
    run_ablation(config, AblationConfig(seeds=SEEDS, worker_processes=1), root, Silent())
    return Done(config, root, survivors, message, lost, stopped)


def count_rows(root: Path) -> int:
    return sum(path.read_bytes().count(b"\n") - 1 for path in root.glob("*/seed_*/metrics.csv"))


def test_every_arm_and_seed_is_finished_on_the_same_budget(done):
    assert read_run(done.root).status == "finished"
    assert sorted(path.name for path in done.root.iterdir() if path.is_dir()) == sorted([*ARMS, "warmup"])
    for arm in ARMS:
        for seed, run in zip(SEEDS, done.runs(arm), strict=True):
            assert (run.kind, run.arm, run.seed, run.status) == ("finetune", arm, seed, "finished")
            assert run.curve("evaluation/success_sampled").environment_step.tolist() == [0, 40, 80, 100]
            assert run.parameters["batch_size"] == done.config.batch_size
    assert [run.status for run in done.runs("warmup")] == ["finished", "finished"]


def test_arms_with_warmup_share_that_of_their_seed(done):
    for seed in SEEDS:
        shared = str(done.root / "warmup" / f"seed_{seed}" / "warmup.npz")
        paths = {arm: done.runs(arm)[seed].parameters["checkpoint_path"] for arm in ARMS}
        assert paths == {arm: shared if "warmup" in arm else None for arm in ARMS}
    for arm in ARMS:
        start = [run.curve("evaluation/success_sampled").gradient_step[0] for run in done.runs(arm)]
        assert start == ([200, 200] if "warmup" in arm else [0, 0])


def test_every_arm_has_the_offline_data_it_should(done, sources):
    everything = load_sources(str(sources))
    demos = len(load_sources(str(sources / "demos.pkl")))
    kept = [run.summary["kept_transitions"] for run in done.runs("warmup")]
    assert kept == [int(0.3 * len(everything))] * 2
    expected = {
        "scratch": [0, 0],
        "rlpd_demos": [demos, demos],
        "rlpd_all": [len(everything)] * 2,
        "warmup_decay": kept,
        "warmup_wsrl": [0, 0],
    }
    for arm, transitions in expected.items():
        runs = done.runs(arm)
        assert [run.curve("switch/offline_transitions").value.tolist() for run in runs] == [[n] for n in transitions]


def test_each_arm_begins_to_learn_when_it_should(done):
    first = {arm: done.runs(arm)[0].curve("training/critic_loss").environment_step[0] for arm in ARMS}
    # Random steps (20) for arms without warmup, frozen rollouts (30) for WSRL's; recorded every 7 steps.
    assert first == {"scratch": 21, "rlpd_demos": 21, "rlpd_all": 21, "warmup_decay": 7, "warmup_wsrl": 35}


def test_a_killed_ablation_takes_its_workers_with_it(done):
    assert done.survivors_of_the_kill == []


def test_a_lost_worker_and_a_stop_are_said_and_resumed(done):
    sentence = "a worker process died, killed or out of memory; run it again to resume"
    assert f"RunError: {sentence}" in done.output_after_a_lost_worker.splitlines()
    assert "Traceback" not in done.output_after_a_lost_worker
    assert (done.status_after_a_lost_worker, done.status_after_the_stop) == ("failed", "stopped")
    assert not multiprocessing.active_children()


def test_running_it_again_changes_nothing(done):
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in done.root.rglob("*") if path.is_file()}
    run_ablation(done.config, AblationConfig(seeds=SEEDS), done.root, Silent())
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in before} == before


def test_another_ablation_in_the_folder_is_refused_by_the_parameter_that_differs(done):
    with pytest.raises(RunError, match="online_steps was 100, is 90"):
        run_ablation(replace(done.config, online_steps=90), AblationConfig(seeds=[0, 1, 2]), done.root, Silent())


def test_the_report_reads_it(done):
    result = report(done.root)
    assert sorted(set(result.per_seed["arm"])) == sorted(ARMS)
    assert len(result.per_seed) == 10
    assert (done.root / "summary.md").exists()


def test_a_warmup_that_fails_is_said_once_and_the_other_runs_are_finished(sources, tmp_path):
    # Rewards so large that learning diverges, and that only warmup sees.
    huge = [replace(each, rewards=each.rewards + 1e30) for each in load_sources(str(sources)).trajectories()[:3]]
    write_hil_serl(tmp_path / "huge.pkl", huge)
    config = settings(offline_data_path=str(tmp_path / "huge.pkl"))
    ablation = AblationConfig(arms=["scratch", "warmup_wsrl"], seeds=[0], control="scratch")
    progress = StopAt(10**9)
    with pytest.raises(RunError) as caught:
        run_ablation(config, replace(ablation, worker_processes=1), tmp_path / "root", progress)
    # The second run will never be: its warmup has failed.
    assert "run 3 of 3: scratch seed 0, compiling" in progress.texts
    assert progress.texts[-1] == "3 of 3 runs done"
    message = str(caught.value)
    assert message.startswith("1 of 3 runs failed: warmup seed 0: learning diverged")
    assert (read_run(tmp_path / "root").status, read_run(tmp_path / "root").message) == ("failed", message)
    assert read_run(tmp_path / "root" / "scratch" / "seed_0").status == "finished"
    assert not (tmp_path / "root" / "warmup_wsrl").exists()


def test_the_arm_with_demonstrations_needs_a_source_of_that_name(sources, tmp_path):
    config = settings(offline_data_path=str(sources / "random.pkl"))
    with pytest.raises(DataError, match="the arm rlpd_demos needs a source named demos, found random"):
        run_ablation(config, AblationConfig(), tmp_path, Silent())
    with pytest.raises(DataError, match="No offline data is given"):
        run_ablation(settings(), AblationConfig(), tmp_path, Silent())


def test_where_nothing_is_retained_the_warmed_up_arm_goes_on_without_offline_data(sources, tmp_path):
    config = settings(offline_data_path={"demos": str(sources / "demos.pkl")}, retention_ratio=0.0)
    (decay,) = [job for job in plan(config, AblationConfig(seeds=[0]), tmp_path, 1024) if job.arm == "warmup_decay"]
    assert decay.config.demo_path is None


@pytest.mark.parametrize("values", [{"seeds": []}, {"seeds": [1, 1]}, {"arms": ["scratch", "scratch"]}, {"arms": []}])
def test_arms_and_seeds_must_differ(values):
    with pytest.raises(ParameterError, match="must be a list of different entries"):
        AblationConfig(**values)
