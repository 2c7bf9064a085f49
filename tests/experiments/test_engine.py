"""Runs on Dask workers, of this machine and of a scheduler of its own: lost, stopped, restarted, refused."""

import json
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import LocalCluster

from counting_runs import counting_jobs
from dask_samples import KIT, cluster, free_port, is_listening, process, scheduler_process, worker_process
from jobs_here import AtOnce, jobs_here
from training_samples import StopAt, settings
from waiting import wait_for
from wsrl_kit.errors import ParameterError, RunError, Stopped
from wsrl_kit.experiments import engine
from wsrl_kit.experiments.ablation import run_ablation
from wsrl_kit.experiments.config import AblationConfig, EngineConfig
from wsrl_kit.experiments.engine import connected, run_jobs
from wsrl_kit.runs.progress import Silent
from wsrl_kit.runs.run import read_run
from wsrl_kit.training import scheduler


class Does(StopAt):
    """Progress that does something once, when a count has come to 20."""

    def __init__(self, action: Callable[[], object], folder: Path) -> None:
        super().__init__(10**9)
        self._action = action
        self._folder = folder
        self.is_done = False

    def update(self, step: int, total: int, text: str) -> None:
        super().update(step, total, text)
        if not self.is_done and count(self._folder) > 20:
            self.is_done = True
            self._action()


class StopsAtTwo(Silent):
    """Progress that asks for the end when two counts have come to 20."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def stop_requested(self) -> bool:  # type: ignore[override]
        return sum(count(folder) > 20 for folder in self._root.iterdir()) >= 2


def count(folder: Path) -> int:
    """How far a count has come."""
    path = folder / "metrics.csv"
    return path.read_bytes().count(b"\n") - 1 if path.exists() else 0


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "POLL_SECONDS", 0.02)


def counted(root: Path, arm: str, steps: int = 100) -> bytes:
    """The metrics of a count that nothing disturbed."""
    (job,) = counting_jobs(root / "undisturbed", arm, steps=steps)
    job.run(Silent(), resume=True)
    return (job.folder / "metrics.csv").read_bytes()


def metrics(root: Path, arm: str) -> bytes:
    assert read_run(root / arm).status == "finished"
    return (root / arm / "metrics.csv").read_bytes()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two workers of this machine."""
    with connected(EngineConfig(worker_processes=2), tmp_path_factory.mktemp("local")) as client:
        yield client


def test_a_lost_run_ends_with_the_same_bytes_and_one_that_fails_is_told(local: Any, tmp_path: Path) -> None:
    def kill_the_worker() -> None:
        holder = json.loads((tmp_path / "first" / "run.json").read_text())["process"]
        os.kill(holder["pid"], signal.SIGKILL)

    progress = Does(kill_the_worker, tmp_path / "first")
    failures = run_jobs(counting_jobs(tmp_path, "first", "second", "raises", "bad"), local, progress)
    assert progress.is_done
    assert sorted(failures) == ["bad seed 0: the file is damaged", "raises seed 0: MemoryError: too large"]
    for arm in ("first", "second"):
        assert metrics(tmp_path, arm) == counted(tmp_path, arm)
    host = socket.gethostname()
    assert any(f"first seed 0 ({host}:" in text and f"second seed 0 ({host}:" in text for text in progress.texts)
    assert progress.texts[-1] == "4 of 4 runs done"


@pytest.mark.slow
def test_a_run_whose_workers_die_thrice_is_told_and_the_others_are_finished(local: Any, tmp_path: Path) -> None:
    (dies,) = run_jobs(counting_jobs(tmp_path, "first", "dies"), local, Silent())
    # Begun more often where Dask blamed it for a death while it was still waiting.
    assert re.fullmatch(r"dies seed 0: its workers died, killed or out of memory; it was begun [3-6] times", dies)
    assert metrics(tmp_path, "first") == counted(tmp_path, "first")


def test_a_stop_saves_every_run_where_it_is(local: Any, tmp_path: Path) -> None:
    # Two workers; which of the three runs they take, Dask decides.
    with pytest.raises(Stopped, match="^stopped, every run saved where it was"):
        run_jobs(counting_jobs(tmp_path, "first", "second", "third", steps=10**9), local, StopsAtTwo(tmp_path))
    begun = [read_run(folder) for folder in tmp_path.iterdir()]
    assert [record.status for record in begun] == ["stopped", "stopped"]
    # Exactly as far as they had come.
    for record in begun:
        assert int((record.folder / "checkpoint.npz").read_text()) == len(record.curve("count"))


def test_every_worker_has_a_core_of_its_own(local: Any) -> None:
    places = local.run(engine._own_place)
    assert len(set(places.values())) == min(2, len(os.sched_getaffinity(0)))


class Fake:
    """A client whose only worker sees other folders than this machine."""

    def __init__(self, worker: Callable[..., str]) -> None:
        self._worker = worker

    def run(self, answer: Callable[..., str], *arguments: str, on_error: str) -> dict[str, str]:
        return {"tcp://node:1": self._worker(answer, *arguments)}


def worker_of(change: Callable[[list[str]], None]) -> Fake:
    class Address:
        address = "tcp://node:1"

    def answer(function: Callable[..., str], *arguments: str) -> str:
        changed = list(arguments)
        change(changed)
        return function(*changed, dask_worker=Address)

    return Fake(answer)


def elsewhere(arguments: list[str]) -> None:
    Path(arguments[1]).parent.joinpath("other").mkdir()
    arguments[1] = str(Path(arguments[1]).parent / "other")


def writes_elsewhere(arguments: list[str]) -> None:
    """To another disk that holds the same files."""
    elsewhere(arguments)
    (Path(arguments[1]) / "client").write_text(arguments[2])
    (Path(arguments[1]) / "lock").touch()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda arguments: arguments.__setitem__(0, "/nowhere"), "can't enter /nowhere .No such file or directory."),
        (elsewhere, "does not see ROOT .No such file or directory."),
        (lambda arguments: arguments.__setitem__(2, "other"), "sees another file than this machine in ROOT"),
        (
            lambda arguments: (Path(arguments[1]) / "tcp%3A%2F%2Fnode%3A1").mkdir(),
            "can't write to ROOT .Is a directory.",
        ),
        (writes_elsewhere, "gets a lock in ROOT that this machine holds"),
    ],
)
def test_a_worker_that_does_not_share_the_folder_is_refused(
    tmp_path: Path, change: Callable[[list[str]], None], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "root"
    with pytest.raises(RunError) as caught:
        engine._check_folder(worker_of(change), root)  # type: ignore[arg-type]
    assert re.match(f"the worker tcp://node:1 {sentence.replace('ROOT', str(root))}: the folder of", str(caught.value))
    assert not list(root.glob(".probe-*"))


def test_a_worker_that_shares_the_folder_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    engine._check_folder(worker_of(lambda arguments: None), tmp_path / "root")  # type: ignore[arg-type]
    assert not list((tmp_path / "root").iterdir())


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"scheduler": "8786"}, "scheduler must be an address such as tcp://host:8786, found '8786'"),
        ({"scheduler": "tcp://host:8786", "worker_processes": 2}, "give one of them"),
    ],
)
def test_a_bad_choice_of_workers_is_one_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ParameterError, match=sentence):
        AblationConfig(**values)


def test_without_a_scheduler_or_a_worker_nothing_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    with pytest.raises(RunError, match=f"^no Dask scheduler can be reached at {address} .*refused.*: start one with"):
        connected(EngineConfig(scheduler=address), tmp_path).__enter__()
    monkeypatch.setattr(scheduler, "CONNECT_SECONDS", 2.0)
    with LocalCluster(n_workers=0, processes=False, protocol="tcp", dashboard_address="127.0.0.1:0") as cluster:
        address = cluster.scheduler_address
        with pytest.raises(RunError, match=f"^the Dask scheduler at {address} has no worker: .*dask worker {address}"):
            connected(EngineConfig(scheduler=address), tmp_path).__enter__()
    assert not list(tmp_path.iterdir())


CLIENT = """
import sys
from pathlib import Path
from counting_runs import counting_jobs
from wsrl_kit.experiments.config import EngineConfig
from wsrl_kit.experiments.engine import connected, run_jobs
from wsrl_kit.runs.progress import Silent

if __name__ == "__main__":
    root, scheduler = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None
    with connected(EngineConfig(scheduler=scheduler), root, most=1) as client:
        run_jobs(counting_jobs(root, "first", steps=int(1e9)), client, Silent())
"""


def client_process(folder: Path, *arguments: str) -> Any:
    script = folder / "client.py"
    script.write_text(CLIENT)
    return process(sys.executable, str(script), *arguments, folder=folder)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers take a while to start on a loaded machine."""
    monkeypatch.setattr(scheduler, "CONNECT_SECONDS", 300.0)


@pytest.mark.slow
@pytest.mark.usefixtures("patient")
def test_a_scheduler_does_the_very_runs_and_what_its_client_leaves_is_saved(sources: Path, tmp_path: Path) -> None:
    config = settings(offline_data_path=str(sources))
    arms: dict[str, Any] = {"arms": ["scratch", "warmup_wsrl"], "control": "scratch", "seeds": [0]}
    with jobs_here():
        run_ablation(config, AblationConfig(**arms), tmp_path / "here", Silent())
    with cluster(tmp_path) as address:
        run_ablation(config, AblationConfig(scheduler=address, **arms), tmp_path / "there", Silent())
        runs = sorted(path.relative_to(tmp_path / "here") for path in (tmp_path / "here").rglob("metrics.csv"))
        assert len(runs) == 4
        for run in runs:
            assert (tmp_path / "there" / run).read_bytes() == (tmp_path / "here" / run).read_bytes()
        with client_process(tmp_path, str(tmp_path), address) as client:
            wait_for(lambda: count(tmp_path / "first") > 50)
            client.kill()
        wait_for(lambda: read_run(tmp_path / "first").status == "stopped")
        saved = int((tmp_path / "first" / "checkpoint.npz").read_text())
        assert saved == count(tmp_path / "first") >= 50


@pytest.mark.slow
@pytest.mark.usefixtures("patient")
def test_runs_go_on_with_a_scheduler_that_was_restarted(tmp_path: Path) -> None:
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    jobs = counting_jobs(tmp_path, "first", "second", steps=300)
    with scheduler_process(port, tmp_path) as scheduler, worker_process(address, tmp_path):
        wait_for(lambda: is_listening(port))
        with connected(EngineConfig(scheduler=address), tmp_path) as client, ExitStack() as stack:

            def restart() -> None:
                scheduler.kill()
                scheduler.wait()
                stack.enter_context(scheduler_process(port, tmp_path))
                stack.enter_context(worker_process(address, tmp_path))

            progress = Does(restart, tmp_path / "first")
            assert run_jobs(jobs, client, progress) == []
    assert progress.is_done
    for arm in ("first", "second"):
        assert metrics(tmp_path, arm) == counted(tmp_path, arm, steps=300)


@pytest.mark.slow
@pytest.mark.usefixtures("patient")
def test_where_the_scheduler_stays_away_the_same_runs_go_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = counting_jobs(tmp_path, "first", steps=300)
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    with scheduler_process(port, tmp_path) as scheduler, worker_process(address, tmp_path):
        wait_for(lambda: is_listening(port))
        with connected(EngineConfig(scheduler=address), tmp_path) as client:
            monkeypatch.setattr(client, "_timeout", 1.0)
            with pytest.raises(RunError, match="^the Dask scheduler is gone; .* run it again to resume$"):
                run_jobs(jobs, client, Does(scheduler.kill, tmp_path / "first"))
    assert run_jobs_here(jobs) == []
    assert metrics(tmp_path, "first") == counted(tmp_path, "first", steps=300)


def run_jobs_here(jobs: list[engine.Job]) -> list[str]:
    return run_jobs(jobs, AtOnce(), Silent())  # type: ignore[arg-type]


@pytest.mark.slow
def test_workers_of_this_machine_leave_signals_to_the_main_process(tmp_path: Path) -> None:
    with client_process(tmp_path, str(tmp_path)) as client:
        wait_for(lambda: count(tmp_path / "first") > 5)
        workers = [each for each in psutil.Process(client.pid).children() if "spawn_main" in " ".join(each.cmdline())]
        for worker in workers:
            worker.send_signal(signal.SIGINT)
            worker.send_signal(signal.SIGTERM)
        before = count(tmp_path / "first")
        wait_for(lambda: count(tmp_path / "first") > before + 5)
        client.send_signal(signal.SIGINT)
        client.wait(60)
    assert read_run(tmp_path / "first").status == "stopped"


@pytest.mark.slow
@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("change", ["none", "other"])
def test_a_worker_without_the_kit_or_with_another_one_is_refused(tmp_path: Path, change: str) -> None:
    kit = tmp_path / "kit" / "wsrl_kit"
    if change == "none":
        kit.mkdir(parents=True)
        (kit / "__init__.py").write_text("raise ImportError('there is no kit here')")
        sentence = "^the worker tcp://.* can't import this version of the kit .*there is no kit here.*: install on"
    else:
        shutil.copytree(KIT / "wsrl_kit", kit)
        with (kit / "errors.py").open("a") as file:
            file.write("# another version\n")
        sentence = "^the worker tcp://.* has source of the kit with digest .*, expected .* as here: install on the"
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    with scheduler_process(port, tmp_path), worker_process(address, tmp_path, path=kit.parent):
        wait_for(lambda: is_listening(port))
        with pytest.raises(RunError, match=sentence):
            connected(EngineConfig(scheduler=address), tmp_path / "runs").__enter__()
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("patient")
def test_a_cluster_object_and_its_encryption_are_used(tmp_path: Path) -> None:
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, security=True, dashboard_address="127.0.0.1:0") as cluster,
        connected(EngineConfig(), tmp_path, cluster=cluster) as client,
    ):
        assert cluster.scheduler_address.startswith("tls://127.0.0.1:")
        assert run_jobs(counting_jobs(tmp_path, "first"), client, Silent()) == []
    assert metrics(tmp_path, "first") == counted(tmp_path, "first")
