"""The ablation: every arm on the same data and budget, in worker processes that may be killed.

One ablation, executed by its notebook, is looked at by most of these tests.
"""

import csv
import json
import multiprocessing
import re
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs_here import jobs_here
from notebooks_here import execute, figures
from training_samples import TINY, StopAt, settings
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.data.formats.hil_serl import write_hil_serl
from wsrl_kit.data.sources import load_sources
from wsrl_kit.errors import DataError, ParameterError, RunError
from wsrl_kit.experiments import engine
from wsrl_kit.experiments.ablation import plan, run_ablation
from wsrl_kit.experiments.config import AblationConfig
from wsrl_kit.runs.progress import Silent
from wsrl_kit.runs.run import RunRecord, read_run

ARMS = AblationConfig().arms
ONE_RUN = AblationConfig(arms=["scratch"], seeds=[0], control="scratch", worker_processes=1)
PROCESS = """
import json, sys
from pathlib import Path
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.experiments.ablation import run_ablation
from wsrl_kit.experiments.config import AblationConfig
from wsrl_kit.runs.progress import Silent

if __name__ == "__main__":
    config, ablation = (json.loads(text) for text in sys.argv[1:3])
    run_ablation(WSRLConfig(**config), AblationConfig(**ablation), Path(sys.argv[3]), Silent())
"""


NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@dataclass(frozen=True)
class Done:
    """A finished ablation of one seed.

    Attributes:
        given: the notebook's parameters.
        shown: what its cells showed.
    """

    given: dict[str, Any]
    config: WSRLConfig
    root: Path
    shown: list[Any]

    def run(self, arm: str) -> RunRecord:
        return read_run(self.root / arm / "seed_0")


@pytest.fixture(scope="module")
def done(sources, tmp_path_factory) -> Done:
    root = tmp_path_factory.mktemp("ablation")
    changes = {"random_steps": 20, "frozen_rollout_steps": 30, "retention_ratio": 0.3}
    given = TINY | changes | {"offline_data_path": str(sources), "seeds": [0], "worker_processes": 1}
    with jobs_here():
        shown = execute(NOTEBOOKS / "03_ablation_warmup.ipynb", given, root)
    parameters = read_run(root).parameters
    config = WSRLConfig(**{name: parameters[name] for name in WSRLConfig.__dataclass_fields__})
    return Done(given, config, root, shown)


def test_every_arm_is_finished_on_the_same_budget(done):
    assert read_run(done.root).status == "finished"
    assert sorted(path.name for path in done.root.iterdir() if path.is_dir()) == sorted([*ARMS, "figures", "warmup"])
    for arm in ARMS:
        run = done.run(arm)
        assert (run.kind, run.arm, run.seed, run.status) == ("finetune", arm, 0, "finished")
        assert run.curve("evaluation/success_sampled").environment_step.tolist() == [0, 40, 80, 100]
        assert run.parameters["batch_size"] == done.config.batch_size
    assert done.run("warmup").status == "finished"


def test_arms_with_warmup_share_that_of_their_seed(done, tmp_path):
    config = replace(done.config, offline_data_path={"demos": ["demos.pkl"]})
    for job in plan(config, AblationConfig(seeds=[0, 1]), tmp_path):
        shared = tmp_path / "warmup" / f"seed_{job.config.seed}" / "warmup.npz"
        assert job.checkpoint == (shared if "warmup" in job.arm else None)
    starts = {arm: done.run(arm).curve("evaluation/success_sampled").gradient_step[0] for arm in ARMS}
    assert starts == {arm: 200 if "warmup" in arm else 0 for arm in ARMS}


def test_every_arm_has_the_offline_data_it_should(done, sources):
    everything = len(load_sources(str(sources)))
    demos = len(load_sources(str(sources / "demos.pkl")))
    kept = done.run("warmup").summary["kept_transitions"]
    assert kept == int(0.3 * everything)
    expected = {"scratch": 0, "rlpd_demos": demos, "rlpd_all": everything, "warmup_decay": kept, "warmup_wsrl": 0}
    found = {arm: done.run(arm).curve("switch/offline_transitions").value.tolist() for arm in ARMS}
    assert found == {arm: [transitions] for arm, transitions in expected.items()}


def test_each_arm_begins_to_learn_when_it_should(done):
    first = {arm: done.run(arm).curve("training/critic_loss").environment_step[0] for arm in ARMS}
    # Random steps (20) for arms without warmup, frozen rollouts (30) for WSRL's; recorded every 7 steps.
    assert first == {"scratch": 21, "rlpd_demos": 21, "rlpd_all": 21, "warmup_decay": 7, "warmup_wsrl": 35}


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    return [child for child in process.children() if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.slow
def test_a_killed_ablation_takes_its_workers_with_it(sources, tmp_path):
    script = tmp_path / "ablation.py"
    script.write_text(PROCESS)
    config = settings(offline_data_path=str(sources), online_steps=100_000)
    parameters = [json.dumps(asdict(each)) for each in (config, ONE_RUN)]
    with subprocess.Popen([sys.executable, str(script), *parameters, str(tmp_path)]) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "scratch" / "seed_0" / "run.json").exists() and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.01)
        workers = workers_of(psutil.Process(process.pid))
        process.kill()
    assert len(workers) == 1
    _, survivors = psutil.wait_procs(workers, timeout=20)
    assert survivors == []


class KillsAWorker(StopAt):
    """Progress that kills the worker when its run has begun."""

    def __init__(self, run: Path) -> None:
        super().__init__(10**9)
        self._run = run
        self.has_killed = False

    def update(self, step: int, total: int, text: str) -> None:
        super().update(step, total, text)
        if not self.has_killed and (self._run / "run.json").exists():
            (worker,) = workers_of(psutil.Process())
            worker.kill()
            self.has_killed = True


@pytest.mark.slow
def test_the_run_of_a_lost_worker_goes_on_in_another_and_ends_with_the_same_bytes(done, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "POLL_SECONDS", 0.02)
    progress = KillsAWorker(tmp_path / "scratch" / "seed_0")
    run_ablation(done.config, ONE_RUN, tmp_path, progress)
    assert progress.has_killed
    place = re.escape(socket.gethostname()) + r":\w+"
    assert any(re.fullmatch(rf"run 1 of 1: scratch seed 0 \({place}\), compiling", text) for text in progress.texts)
    assert read_run(tmp_path).status == "finished"
    metrics = [root / "scratch" / "seed_0" / "metrics.csv" for root in (tmp_path, done.root)]
    assert metrics[0].read_bytes() == metrics[1].read_bytes()
    assert not multiprocessing.active_children()


def test_running_it_again_changes_nothing(done):
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in done.root.rglob("*") if path.is_file()}
    run_ablation(done.config, AblationConfig(seeds=[0]), done.root, Silent())
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in before} == before


def test_another_ablation_in_the_folder_is_refused_by_the_parameter_that_differs(done):
    with pytest.raises(RunError, match="online_steps was 100, is 90"):
        run_ablation(replace(done.config, online_steps=90), AblationConfig(seeds=[0, 1, 2]), done.root, Silent())


def test_its_notebook_shows_and_writes_the_report(done):
    assert figures(done.shown) == 6
    with open(done.root / "per_seed.csv") as file:
        assert sorted(row["arm"] for row in csv.DictReader(file)) == sorted(ARMS)
    assert "n = 1" in (done.root / "summary.txt").read_text()
    assert (done.root / "differences.csv").exists()
    drawn = {path.stem for path in (done.root / "figures").iterdir()}
    assert drawn >= {"learning_curves", "sample_efficiency", "safety_and_memory", "switch", "sources"}


def test_another_notebook_of_ablations_finds_it_and_draws_it_again(done, tmp_path):
    # Such notebooks differ in their variants alone.
    root = shutil.copytree(done.root, tmp_path / "root")
    before = {path: path.stat().st_mtime_ns for path in root.rglob("metrics.csv")}
    (root / "figures" / "learning_curves.png").unlink()
    given = done.given | {"arms": ARMS, "variants": {}, "control": "rlpd_all"}
    assert figures(execute(NOTEBOOKS / "05_ablate_replay.ipynb", given, root)) >= 4
    assert {path: path.stat().st_mtime_ns for path in root.rglob("metrics.csv")} == before
    assert (root / "figures" / "learning_curves.png").stat().st_size > 0


def test_a_warmup_that_fails_is_said_once_and_the_other_runs_are_finished(sources, tmp_path):
    # Rewards so large that learning diverges, and that only warmup sees.
    huge = [replace(each, rewards=each.rewards + 1e30) for each in load_sources(str(sources)).trajectories()[:3]]
    write_hil_serl(tmp_path / "huge.pkl", huge)
    config = settings(offline_data_path=str(tmp_path / "huge.pkl"), online_steps=50)
    ablation = AblationConfig(arms=["scratch", "warmup_wsrl"], seeds=[0], control="scratch")
    progress = StopAt(10**9)
    with jobs_here(), pytest.raises(RunError) as caught:
        run_ablation(config, ablation, tmp_path / "root", progress)
    # The third run will never be: its warmup has failed.
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
    (decay,) = [job for job in plan(config, AblationConfig(seeds=[0]), tmp_path) if job.arm == "warmup_decay"]
    assert decay.config.demo_path is None


@pytest.mark.parametrize("values", [{"seeds": []}, {"seeds": [1, 1]}, {"arms": ["scratch", "scratch"]}, {"arms": []}])
def test_arms_and_seeds_must_differ(values):
    with pytest.raises(ParameterError, match="must be a list of different entries"):
        AblationConfig(**values)
