"""The learner on another machine: whatever fails on the way, each step is learned from once, and in its order.

The slow tests print a row each: `pytest -m slow -s tests/training/test_remote.py`.
"""

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import dask
import gymnasium
import numpy as np
import psutil
import pytest
from distributed import LocalCluster

from camera_samples import Spot, write_demos
from dask_samples import Network, free_port
from remote_samples import check_whole, learned_inline, loaded, machines, remote_settings, robot_process, start_of
from training_samples import StopAt, same
from waiting import wait_for
from wsrl_kit.agent import sac
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.envs.make import make
from wsrl_kit.envs.wrappers import camera_shapes
from wsrl_kit.errors import CheckpointError, ParameterError, RunError, Stopped
from wsrl_kit.parameters import build
from wsrl_kit.replay import frame_files
from wsrl_kit.replay.ring import Ring
from wsrl_kit.runs import checkpoint
from wsrl_kit.runs.progress import Silent
from wsrl_kit.runs.run import read_run
from wsrl_kit.training import finetune, remote_learner, scheduler
from wsrl_kit.training import start as agents
from wsrl_kit.training.inputs import load_offline_data
from wsrl_kit.training.jobs import run_finetune
from wsrl_kit.training.remote_learner import Request

RESOURCE = {"learner": 1}


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes take a while to start on a loaded machine."""
    monkeypatch.setattr(scheduler, "CONNECT_SECONDS", 60.0)
    monkeypatch.setattr(scheduler, "IMPORT_SECONDS", 300.0)


def workers_here(count: int = 1, resources: dict[str, int] | None = None) -> LocalCluster:
    """A scheduler, and workers in threads of this process."""
    return LocalCluster(
        n_workers=count,
        threads_per_worker=1,
        processes=False,
        protocol="tcp",
        host="127.0.0.1",
        resources=resources,
        dashboard_address="127.0.0.1:0",
        worker_dashboard_address="127.0.0.1:0",
    )


def port_of(cluster: LocalCluster) -> int:
    return int(cluster.scheduler_address.rpartition(":")[2])


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Network, Any]]:
    """A network to processes of a scheduler and a worker that learns."""
    with machines(tmp_path_factory.mktemp("there")) as (network, worker):
        yield network, worker


@pytest.fixture(scope="module")
def here() -> Iterator[int]:
    """The port of a scheduler whose worker learns."""
    with workers_here(resources=RESOURCE) as cluster:
        yield port_of(cluster)


class At(StopAt):
    """Progress that does something once at each step given."""

    def __init__(self, actions: dict[int, Callable[[], object]]) -> None:
        super().__init__(10**9)
        self._actions = actions

    def update(self, step: int, total: int, text: str) -> None:
        super().update(step, total, text)
        for at in [at for at in self._actions if at <= step]:
            self._actions.pop(at)()


def kill_worker(nanny: subprocess.Popen[bytes]) -> None:
    """Kills the process that learns; Dask starts another."""
    for child in psutil.Process(nanny.pid).children():
        if "spawn_main" in " ".join(child.cmdline()):
            with suppress(psutil.NoSuchProcess):
                child.kill()


def test_a_killed_learner_and_a_cut_network_change_nothing_in_what_is_learned(
    there: tuple[Network, Any], tmp_path: Path
) -> None:
    network, worker = there
    config = remote_settings(network.port, random_steps=20)
    progress = At({50: lambda: kill_worker(worker), 80: lambda: network.cut(1.0)})
    run_finetune(config, tmp_path, progress)
    check_whole(config, tmp_path)
    found = loaded(config, tmp_path)
    assert same(learned_inline(config, found), found["agent"])
    assert any(text.startswith("no contact with the learner, the robot holds (") for text in progress.texts)


def test_a_stopped_run_learned_from_every_step_and_goes_on_where_it_was(here: int, tmp_path: Path) -> None:
    config = remote_settings(here, random_steps=20, evaluation_episodes=1)
    with pytest.raises(Stopped, match="^stopped at step [3-6][0-9], saved; "):
        run_finetune(config, tmp_path, StopAt(30))
    assert read_run(tmp_path).status == "stopped"
    assert not (tmp_path / "spool").exists()
    run_finetune(config, tmp_path, Silent())
    check_whole(config, tmp_path, cuts=1)
    evaluated = read_run(tmp_path).curve("evaluation/return_sampled")
    assert evaluated.environment_step.tolist() == [0, 40, 80, 100]


def test_a_learner_that_another_robot_uses_is_refused_and_nothing_is_started(here: int, tmp_path: Path) -> None:
    session = Request(session="other", run="/runs/first on robot-1", begins=True)
    assert remote_learner.exchange(session).is_known
    with pytest.raises(RunError, match="^the learner can't learn for this run: it learns for /runs/first on robot-1: "):
        run_finetune(remote_settings(here), tmp_path, Silent())
    assert read_run(tmp_path).status == "failed"
    assert not (tmp_path / "spool").exists()
    # Whoever has long been silent uses it no more.
    remote_learner.end("other")
    assert not remote_learner.exchange(session).refusal
    remote_learner.end("other")


def refused(folder: Path, port: int, sentence: str) -> None:
    with pytest.raises(RunError, match=sentence):
        run_finetune(remote_settings(port), folder, Silent())
    assert {path.name for path in folder.iterdir()} <= {"run.json", "metrics.csv", ".lock"}


def test_without_one_learner_nothing_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "CONNECT_SECONDS", 2.0)
    # One run, which may find its learner at another address.
    refused(tmp_path, free_port(), "^no Dask scheduler can be reached at tcp://.*refused.*: start one with")
    only_encrypted = dask.config.set({"distributed.comm.require-encryption": True})
    with socket.create_server(("127.0.0.1", 0)) as server, only_encrypted:
        refused(tmp_path, server.getsockname()[1], "^no Dask scheduler can be reached at tcp://.*encryption required")
    with workers_here() as cluster:
        refused(tmp_path, port_of(cluster), "^no worker of .* the resource learner: .* --resources learner=1`$")
    with workers_here(2, RESOURCE) as cluster:
        refused(tmp_path, port_of(cluster), "^2 workers of the scheduler at .* expected one for one robot")


def test_a_policy_of_another_network_is_refused() -> None:
    policies = [
        sac.policy(start_of(remote_settings(1, hidden_sizes=[size]))[1]["agent"])._replace(trunk=()) for size in (16, 8)
    ]
    with pytest.raises(CheckpointError, match=r"^the learner's policy holds actor/.* but the configured network needs"):
        checkpoint.fitted("the learner's policy", checkpoint.named_arrays(policies[0]), policies[1])


@pytest.mark.parametrize("learner", ["host:8786", "http://host:8786", "tcp://host", "process"])
def test_a_learner_is_a_word_or_an_address(learner: str) -> None:
    with pytest.raises(ParameterError, match="^learner must be 'inline', 'thread' or an address such as tcp://host:"):
        build(WSRLConfig, {"learner": learner})


class Watched(Spot):
    """A task with cameras that notes what it showed before and after each step."""

    shown: ClassVar[list[tuple[np.ndarray, np.ndarray]]] = []

    def step(self, action: np.ndarray) -> Any:
        before = self._observe()["front"]
        result = super().step(action)
        self.shown.append((before, result[0]["front"]))
        return result


@pytest.mark.slow
def test_images_arrive_as_they_were_while_replay_overwrites_its_oldest(here: int, tmp_path: Path) -> None:
    gymnasium.register("wsrl_kit_tests/Watched-v0", Watched, max_episode_steps=8)
    changes = {
        "environment_options": {"observation_horizon": 2},
        "demo_path": str(write_demos(tmp_path, 5, observation_horizon=2)),
        "use_prioritized_replay": False,
    }
    lengths = {"online_steps": 120, "frozen_rollout_steps": 110, "replay_capacity": 40}
    config = remote_settings(here, exp_name="wsrl_kit_tests/Watched-v0", batch_size=8, **lengths, **changes)
    run_finetune(config, tmp_path / "run", Silent())

    assert len(Watched.shown) == 120
    environment = make(config.exp_name, config.environment_options)
    dataset = load_offline_data(config, config.demo_path, camera_shapes(environment))
    static, agent = agents.create(config, environment, dataset)
    template = finetune.initial_tree(config, static, agent, dataset)
    replay = frame_files.load(tmp_path / "run" / "checkpoint.npz", template)["replay"]
    assert same(replay["offline"], template["replay"]["offline"])
    online = Ring(replay["online"])
    assert online.store is not None and online.size >= 30
    slots = online.store.stacks[online.newest(online.size)]
    for side in (0, 1):
        newest = online.store.frames["front"][slots[:, side, -1]]
        np.testing.assert_array_equal(newest, [pair[side] for pair in Watched.shown[-online.size :]])


# Faults, each many times or for long.


def faulty(port: int, **changes: Any) -> WSRLConfig:
    return remote_settings(port, **{"online_steps": 300, "checkpoint_interval": 60} | changes)


def row(fault: str, config: WSRLConfig, folder: Path, begun: float, cuts: int = 0) -> None:
    """Checks a run, and prints its line of the table: fault, steps, updates, seconds."""
    seconds = time.monotonic() - begun
    check_whole(config, folder, cuts)
    found = loaded(config, folder)
    assert same(learned_inline(config, found), found["agent"])
    print(f"\n| {fault} | {config.online_steps} | {int(found['agent'].updates)} | {seconds:.0f} |")


class WhileCut(At):
    """Progress that notes how far the robot goes while the network is cut."""

    def __init__(self, network: Network, at: int, seconds: float) -> None:
        super().__init__({at: lambda: network.cut(seconds)})
        self._network = network
        self.seen: list[int] = []

    def update(self, step: int, total: int, text: str) -> None:
        super().update(step, total, text)
        if self._network.is_cut:
            self.seen.append(step)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [1, 10, 60])
def test_a_cut_network(there: tuple[Network, Any], tmp_path: Path, seconds: int) -> None:
    network, _ = there
    config, begun = faulty(network.port), time.monotonic()
    progress = WhileCut(network, 100, seconds)
    run_finetune(config, tmp_path, progress)
    # The steps that it may take, and those that it had taken and not told.
    assert max(progress.seen) - min(progress.seen) <= 2 * config.learner_lag
    row(f"network cut for {seconds} s", config, tmp_path, begun)


@pytest.mark.slow
def test_a_slow_network(there: tuple[Network, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, _ = there
    monkeypatch.setattr(network, "rate", 125_000)
    config, begun = faulty(network.port, hidden_sizes=[128, 128]), time.monotonic()
    run_finetune(config, tmp_path, Silent())
    row("1 Mbit/s", config, tmp_path, begun)


@pytest.mark.slow
def test_a_full_disk(there: tuple[Network, Any], tmp_path: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(tmp_path)]).returncode:
        pytest.skip("only root can make a small disk")
    try:
        config, begun = faulty(there[0].port, checkpoint_interval=150), time.monotonic()
        with pytest.raises((RunError, CheckpointError), match="No space left on device"):
            run_finetune(config, tmp_path / "run", At({100: lambda: fill(tmp_path / "ballast")}))
        (tmp_path / "ballast").unlink()
        run_finetune(config, tmp_path / "run", Silent())
        row("disk of the spool full", config, tmp_path / "run", begun, cuts=1)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def fill(path: Path) -> None:
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@pytest.mark.slow
def test_five_killed_robots(there: tuple[Network, Any], tmp_path: Path) -> None:
    folder, begun = tmp_path / "run", time.monotonic()
    config = faulty(there[0].port)
    for steps in (40, 90, 140, 190, 240):
        with robot_process(config, folder, tmp_path) as robot:
            wait_for(lambda: robot.poll() is not None or last_step(folder) >= steps)  # noqa: B023
            assert robot.poll() is None
            robot.kill()
            robot.wait()
    run_finetune(config, folder, Silent())
    row("robot's process killed 5 times", config, folder, begun, cuts=5)


def last_step(folder: Path) -> int:
    with suppress(OSError, ValueError, IndexError):
        return int((folder / "metrics.csv").read_text().rsplit("\n", 2)[-2].split(",")[1])
    return 0


@pytest.mark.slow
def test_five_killed_learners(there: tuple[Network, Any], tmp_path: Path) -> None:
    network, worker = there
    config, begun = faulty(network.port), time.monotonic()
    run_finetune(config, tmp_path, At({at: lambda: kill_worker(worker) for at in (40, 90, 140, 190, 240)}))
    row("learner killed 5 times", config, tmp_path, begun)
