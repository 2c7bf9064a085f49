"""Runs on Dask workers, each bound to one core or GPU: small networks gain nothing from a second core.

The workers are processes of this machine, or a cluster's. A run is one task. It goes on as long as its client wants it:
a worker whose client stops or is gone lets the run save and end. Dask repeats the run of a lost worker elsewhere, where
it resumes from its folder.
"""

import errno
import functools
import importlib.metadata
import itertools
import logging
import os
import queue
import signal
import socket
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import filelock

from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.data.digests import input_digests
from wsrl_kit.errors import (
    CheckpointError,
    DataError,
    DivergenceError,
    ExperimentError,
    ParameterError,
    RunError,
    Stopped,
    WSRLKitError,
)
from wsrl_kit.experiments.config import EngineConfig
from wsrl_kit.runs.progress import Progress
from wsrl_kit.runs.run import FILTERED_FILE, METRICS, RECORD, WARMUP_FILE, read_run, refuse_locked
from wsrl_kit.training.scheduler import CONNECT_SECONDS, check_versions, client_of, kit_versions

if TYPE_CHECKING:
    from distributed import Client, Future, Worker

ATTEMPTS = 3
"""How often a run is tried before it counts as failed."""

SAME_AGAIN = (ParameterError, DataError, CheckpointError, ExperimentError, DivergenceError)
"""Errors that a second attempt would meet again; any other may be the worker's: a full disk, no memory."""

POLL_SECONDS = 2.0  # between two reports of progress
STOP_SECONDS = 45.0  # that all runs together may take to save; the headless runner kills after 60
LOCK_SECONDS = 120.0  # that a run waits for a lost worker to leave its folder
AHEAD = 1000
"""Runs that a scheduler is told of at a time, so that it is not busy with ten thousand at once."""

SHOWN_RUNS = 8
"""Runs that a report of progress names."""


@dataclass(frozen=True)
class Job:
    """One run that a worker does."""

    kind: str
    arm: str
    config: WSRLConfig
    folder: Path

    def __str__(self) -> str:
        return f"{self.arm} seed {self.config.seed}"

    @property
    def checkpoint(self) -> Path | None:
        """The warmup checkpoint that the run writes or starts from."""
        if self.kind == "warmup":
            return self.folder / WARMUP_FILE
        return Path(self.config.checkpoint_path) if self.config.checkpoint_path else None

    @property
    def kept_data(self) -> Path | None:
        """The file of kept data that fine-tuning reads; None for sources by name."""
        return Path(self.config.demo_path) if isinstance(self.config.demo_path, str) else None

    @property
    def steps(self) -> int:
        """Length in environment steps; an environment step costs about as much as UTD warmup steps."""
        if self.kind == "warmup":
            return max(1, self.config.warmup_steps // self.config.update_to_data_ratio)
        return self.config.online_steps

    def is_finished(self) -> bool:
        """Whether its folder holds this run, finished, from the same files."""
        return finished(self.folder, asdict(self.config), input_digests(self.config, self.kind))

    def steps_done(self) -> float:
        """Environment steps done, from the metrics in its folder."""
        try:
            last = (self.folder / METRICS).read_text().rsplit("\n", 2)[-2].split(",")
            done = int(last[2]) / self.config.update_to_data_ratio if self.kind == "warmup" else int(last[1])
        except (OSError, ValueError, IndexError):
            return 0.0
        return min(float(done), float(self.steps))

    def run(self, progress: Progress, resume: bool) -> None:
        """Does the run, in this process."""
        # Not before a run needs it: JAX takes seconds to import, which a client never needs.
        from wsrl_kit.training.jobs import run_finetune, run_retention, run_warmup

        if self.kind == "warmup":
            run_warmup(self.config, self.folder, progress, arm=self.arm, resume=resume)
            return
        if self.kept_data and self.kept_data.name != FILTERED_FILE:
            # Arms of one retention write the same bytes, whichever comes last.
            assert self.checkpoint is not None
            run_retention(self.config, self.checkpoint, self.kept_data)
        run_finetune(self.config, self.folder, progress, arm=self.arm, resume=resume)


def finished(folder: Path, parameters: dict[str, Any], inputs: Mapping[str, str] = MappingProxyType({})) -> bool:
    """Whether the folder holds this run, finished; of any other run `Run.open` says what differs.

    Args:
        inputs: digests of the files that the parameters name.
    """
    if not (folder / RECORD).exists():
        return False
    record = read_run(folder)
    same_files = all(record.inputs.get(name, now) == now for name, now in inputs.items())
    return record.status == "finished" and record.parameters == parameters and same_files


# The client's side.


@contextmanager
def connected(config: EngineConfig, root: Path, most: int | None = None, cluster: Any = None) -> Iterator["Client"]:
    """Yields a Dask client whose workers can do runs in `root`: processes of this machine, or a cluster's.

    Workers of this machine end with this process, however it ends.

    Args:
        most: more workers than this are not started on this machine.
        cluster: a Dask cluster or client, instead of an address.

    Raises:
        RunError: no scheduler or no worker answers, a worker has another version of the kit or does not share `root`.
    """
    scheduler = config.scheduler if cluster is None else cluster
    if scheduler is None:
        count = config.worker_processes or len(_places())
        with _local_client(count if most is None else max(1, min(count, most))) as client:
            yield client
    else:
        with client_of(scheduler) as client:
            for address, found in client.run(kit_versions, on_error="return").items():
                check_versions(address, found)
            _check_folder(client, root)
            yield client


@contextmanager
def _local_client(count: int) -> Iterator["Client"]:
    import dask
    from distributed import Client, LocalCluster

    settings = {
        # A worker gets its next run when it is free: runs differ in length.
        "distributed.scheduler.worker-saturation": 1.0,
        # On a busy machine a worker takes longer than Dask's 15 s to start again.
        "distributed.deploy.lost-worker-timeout": "10 minutes",
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            host="127.0.0.1",
            security=True,  # temporary certificates: other users of this machine can reach loopback, too
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
            memory_limit=0,
            silence_logs=logging.CRITICAL,
            scheduler_kwargs={"allowed_failures": ATTEMPTS - 1},
            preload=[__name__],
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def _check_folder(client: "Client", root: Path) -> None:
    """Refuses workers that do not see this folder, can't write to it, or do not share its file locks."""
    content = uuid.uuid4().hex
    root.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=".probe-", dir=root, ignore_cleanup_errors=True) as folder,
        filelock.FileLock(Path(folder) / "lock"),
    ):
        probe = Path(folder).absolute()
        (probe / "client").write_text(content)
        answers = client.run(_answer_probe, str(Path.cwd()), str(probe), content, on_error="return")
        for address, trouble in answers.items():
            if isinstance(trouble, BaseException):
                trouble = f"can't look for {root.absolute()} ({trouble})"
            answer = probe / _file_name(address)
            if not trouble and (not answer.exists() or answer.read_text() != content):
                trouble = f"writes files to {root.absolute()} that this machine does not see"
            if trouble:
                raise RunError(
                    f"the worker {address} {trouble}: the folder of the runs, and the folder in which you start them, "
                    "must lie on a disk that all machines share"
                )


def _answer_probe(start: str, folder: str, content: str, dask_worker: "Worker") -> str:
    """Enters the folder in which the client was started; returns what is wrong with the probe's folder, or ""."""
    probe = Path(folder)
    try:
        os.chdir(start)
    except OSError as error:
        return f"can't enter {start} ({error.strerror})"
    try:
        if (probe / "client").read_text() != content:
            return f"sees another file than this machine in {probe.parent}"
    except OSError as error:
        return f"does not see {probe.parent} ({error.strerror})"
    try:
        (probe / _file_name(dask_worker.address)).write_text(content)
        with filelock.FileLock(probe / "lock", timeout=0):
            return f"gets a lock in {probe.parent} that this machine holds"
    except filelock.Timeout:
        return ""
    except OSError as error:
        return f"can't write to {probe.parent} ({error.strerror})"


def _file_name(address: str) -> str:
    return quote(address, safe="")


def run_jobs(jobs: Sequence[Job], client: "Client", progress: Progress, resume: bool = True) -> list[str]:
    """Runs the unfinished jobs, each as soon as its warmup is finished.

    Args:
        client: from `connected`.
        resume: False starts every run anew.

    Returns:
        A sentence for each failed run.

    Raises:
        Stopped: the user stopped it.
        RunError: the scheduler is gone.
    """
    waiting = [job for job in jobs if not resume or not job.is_finished()]
    warming = {job.checkpoint for job in waiting if job.kind == "warmup"}
    steps = {job.folder: job.steps_done() for job in jobs}
    total, before = sum(job.steps for job in jobs), sum(steps.values())
    by_folder = {str(job.folder): job for job in jobs}
    failures: list[str] = []
    running: dict[Future[str], Job] = {}
    ended: queue.SimpleQueue[Future[str]] = queue.SimpleQueue()
    tasks = _Tasks(client, resume)
    try:
        while waiting or running:
            if client.status == "closed":
                raise RunError(
                    "the Dask scheduler is gone; every run keeps its last checkpoint: run it again to resume"
                )
            ready = [job for job in waiting if job.kind == "warmup" or job.checkpoint not in warming]
            ready = ready[: AHEAD - len(running)]
            begun = {job.folder for job in ready}
            waiting = [job for job in waiting if job.folder not in begun]
            for job in ready:
                future = tasks.submit(job)
                running[future] = job
                future.add_done_callback(ended.put)
            for future in _taken(ended):
                job = running.pop(future)
                tasks.places.pop(str(job.folder), None)
                try:
                    failure = tasks.failure(future, job)
                except CancelledError:
                    waiting.append(job)
                    continue
                steps[job.folder] = job.steps_done()
                if failure:
                    failures.append(f"{job}: {failure}")
                if job.kind == "warmup":
                    warming.discard(job.checkpoint)
                    if failure:
                        waiting = [later for later in waiting if later.checkpoint != job.checkpoint]
            active = [(by_folder[folder], place) for folder, place in list(tasks.places.items())]
            steps |= {job.folder: job.steps_done() for job, _ in active}
            done = sum(steps.values())
            doing = _doing(len(jobs) - len(waiting) - len(running), len(jobs), active)
            progress.update(round(done), total, doing + (", compiling" if active and done == before else ""))
            if progress.stop_requested:
                raise Stopped("stopped, every run saved where it was; Run All continues, as does the same command")
    except BaseException as error:
        late = tasks.stop(list(running))
        if late and isinstance(error, Stopped):
            raise Stopped(
                f"stopped, but {len(late)} runs have not ended within {STOP_SECONDS:.0f} s, and may go on from their "
                f"last checkpoint: {', '.join(late)}"
            ) from None
        raise
    finally:
        tasks.unsubscribe()
    return failures


class _Tasks:
    """The tasks of one call of `run_jobs`.

    Attributes:
        places: where a run is being done, by its folder.
    """

    def __init__(self, client: "Client", resume: bool) -> None:
        self.places: dict[str, str] = {}
        self._begun: Counter[str] = Counter()
        self._client = client
        self._resume = resume
        self._topic = f"wsrl-kit {uuid.uuid4()}"
        self.subscribe()

    def subscribe(self) -> None:
        """Listens to what workers begin and end."""
        self.places.clear()
        if self._client.status != "closed":
            self._client.subscribe_topic(self._topic, self._note)

    def unsubscribe(self) -> None:
        if self._client.status != "closed":
            self._client.unsubscribe_topic(self._topic)

    def _note(self, event: tuple[float, tuple[str, str]]) -> None:
        _, (folder, place) = event
        if place:
            self.places[folder] = place
            self._begun[folder] += 1
        else:
            self.places.pop(folder, None)

    def submit(self, job: Job) -> "Future[str]":
        return self._client.submit(
            _work,
            job,
            self._resume,
            str(Path.cwd()),
            kit_versions(),
            self._topic,
            key=f"run-{uuid.uuid4()}",
            retries=ATTEMPTS - 1,
        )

    def failure(self, future: "Future[str]", job: Job) -> str:
        """Why a run failed; "": it did not.

        Raises:
            CancelledError: it did not come to its end, and must be submitted again.
        """
        from distributed import KilledWorker

        if future.cancelled():
            # The scheduler was restarted. Dask connects again, or gives up and closes the client.
            self.subscribe()
            raise CancelledError
        error = future.exception()
        if isinstance(error, KilledWorker):
            # Dask also blames runs that were only waiting for the worker that died.
            if self._begun[str(job.folder)] < ATTEMPTS:
                raise CancelledError
            return f"its workers died, killed or out of memory; it was begun {self._begun[str(job.folder)]} times"
        if error is not None:
            return str(error) if isinstance(error, WSRLKitError) else f"{type(error).__name__}: {error}"
        try:
            return future.result(timeout=CONNECT_SECONDS)
        except TimeoutError:
            # Lost with its worker. The run is finished, and will say so again.
            raise CancelledError from None

    def stop(self, futures: list["Future[str]"]) -> list[str]:
        """Lets every run save and end; returns the folders of those that have not ended in time."""
        if self._client.status == "closed":
            return []
        self._client.cancel(futures, force=True)
        deadline = time.monotonic() + STOP_SECONDS
        while self.places and time.monotonic() < deadline:
            time.sleep(0.02)
        return list(self.places)


def _taken(ended: "queue.SimpleQueue[Future[str]]") -> list["Future[str]"]:
    """All tasks that have ended; waits for the first, though not long."""
    with suppress(queue.Empty):
        taken = [ended.get(timeout=POLL_SECONDS)]
        while not ended.empty():
            taken.append(ended.get())
        return taken
    return []


def _doing(done: int, total: int, active: Sequence[tuple[Job, str]]) -> str:
    """`run 3 of 25: scratch seed 2 (host:0)`; of several at a time `runs 3 to 6 of 25: ...`."""
    if not active:
        return f"{done} of {total} runs done" + (", waiting for a worker" if done < total else "")
    first, last = done + 1, done + len(active)
    numbers = f"run {first}" if first == last else f"runs {first} to {last}"
    shown = ", ".join(f"{job} ({place})" for job, place in active[:SHOWN_RUNS])
    more = f" and {len(active) - SHOWN_RUNS} more" if len(active) > SHOWN_RUNS else ""
    return f"{numbers} of {total}: {shown}{more}"


# The workers' side.


def dask_setup(worker: "Worker") -> None:
    """Dask calls this in a worker of this machine when it starts.

    Signals reach the whole group of processes; the main process decides what they mean, and its workers end with it.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _work(job: Job, resume: bool, start: str, expected: dict[str, str], topic: str) -> str:
    """Does a run in a worker; returns "", or why the run failed where a second attempt would fail, too."""
    from distributed import Reschedule, get_worker

    worker = get_worker()
    progress = _WorkerProgress(worker)
    worker.log_event(topic, (str(job.folder), _own_place()))
    try:
        os.chdir(start)
        if kit_versions() != expected:
            # A worker that came after the check.
            raise RunError(f"the worker {worker.address} has another version of the kit or of a package")
        _wait_for_lock(job.folder, progress)
        return attempt(job, progress, resume)
    except Stopped:
        if progress.is_wanted:
            # The worker is shut down, as a job whose time is up: the run goes on elsewhere.
            raise Reschedule from None
        return ""
    finally:
        worker.log_event(topic, (str(job.folder), ""))


def attempt(job: Job, progress: Progress, resume: bool) -> str:
    """Does a run; returns "", or why it failed where a second attempt would fail, too."""
    try:
        job.run(progress, resume)
    except SAME_AGAIN as error:
        return str(error)
    return ""


class _WorkerProgress:
    """Tells a run to stop when its client does not want it any more, or its worker is shut down."""

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker
        self._key = worker.get_current_task()

    @property
    def is_wanted(self) -> bool:
        task = self._worker.state.tasks.get(self._key)
        return task is not None and task.state != "cancelled"

    @property
    def stop_requested(self) -> bool:
        return not self.is_wanted or self._worker.status.name not in ("running", "paused")

    def update(self, step: int, total: int, text: str) -> None:
        """Does nothing: the client reads the run's folder."""


def _wait_for_lock(folder: Path, progress: Progress) -> None:
    """Waits until the worker that did this run before, and was lost, has left its folder."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            refuse_locked(folder)
            return
        except RunError:
            if progress.stop_requested:
                raise Stopped("stopped before it began") from None
            if time.monotonic() >= deadline:
                raise
        time.sleep(0.1)


@functools.cache
def _own_place() -> str:
    """Binds this worker to a core or a GPU that no other has; returns it as `host:core`.

    Before JAX starts, which sizes its thread pools by the cores that it may use.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    host = socket.gethostname()
    if sys.platform != "linux":
        return host
    place = _claimed(_places())
    if place.startswith("gpu"):
        os.environ["CUDA_VISIBLE_DEVICES"] = place.removeprefix("gpu")
    else:
        os.sched_setaffinity(0, {int(place)})
        os.environ["NPROC"] = "1"  # XLA's own word for it, which a parent process may have set for itself
    return f"{host}:{place}"


def _places() -> list[str]:
    """What workers of this machine are bound to: `gpu0`, ... where JAX would take GPUs, else cores: `0`, ..."""
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    wanted = (os.environ.get("JAX_PLATFORMS") or "cuda").replace("gpu", "cuda").split(",")
    if "cuda" in wanted and any("cuda" in plugin.name for plugin in plugins):
        found = sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(found))
        if gpus := [f"gpu{number}" for number in visible.split(",") if number]:
            return gpus
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return [str(core) for core in sorted(cores)]


def _claimed(places: Sequence[str]) -> str:
    """The first place that no other worker of this machine holds; where all are held, one that the fewest hold.

    A socket's name in the kernel is free again as soon as its process has ended, however it ends.
    """
    for turn in itertools.count():
        for place in places:
            claim = socket.socket(socket.AF_UNIX)
            try:
                claim.bind(f"\0wsrl-kit worker {turn} of {place}")
            except OSError as error:
                claim.close()
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                claim.detach()  # stays open as long as this process lives
                return place
    raise AssertionError
