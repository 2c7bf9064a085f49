"""Runs in worker processes, one core each: small networks gain nothing from a second core."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing.synchronize import Event as StopEvent
from pathlib import Path
from types import MappingProxyType
from typing import Any

from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.data.digests import input_digests
from wsrl_kit.errors import RunError, Stopped
from wsrl_kit.runs.progress import Progress
from wsrl_kit.runs.run import read_run
from wsrl_kit.training.jobs import FILTERED_FILE, WARMUP_FILE, run_finetune, run_retention, run_warmup

POLL_SECONDS = 2.0
"""Seconds between two reports of progress."""


@dataclass(frozen=True)
class Job:
    """One run that a worker does."""

    kind: str
    arm: str
    config: WSRLConfig
    folder: Path

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
            last = (self.folder / "metrics.csv").read_text().rsplit("\n", 2)[-2].split(",")
            done = int(last[2]) / self.config.update_to_data_ratio if self.kind == "warmup" else int(last[1])
        except (OSError, ValueError, IndexError):
            return 0.0
        return min(float(done), float(self.steps))


def run_jobs(jobs: Sequence[Job], worker_processes: int, progress: Progress, resume: bool = True) -> list[str]:
    """Runs the unfinished jobs, each as soon as its warmup is finished.

    Args:
        worker_processes: runs at the same time; 0: one per core.
        resume: False starts every run anew.

    Returns:
        A sentence for each failed run.

    Raises:
        Stopped: the user stopped it.
        RunError: a worker process died.
    """
    waiting = [job for job in jobs if not resume or not job.is_finished()]
    context = multiprocessing.get_context("spawn")
    cores = _cores()
    workers = min(worker_processes or len(cores), max(1, len(waiting)))
    stop = context.Event()
    core_queue = context.SimpleQueue()
    for index in range(workers):
        core_queue.put(cores[index % len(cores)])
    failures: list[str] = []
    running: dict[Future[None], Job] = {}
    warming = {job.checkpoint for job in waiting if job.kind == "warmup"}
    total, before = sum(job.steps for job in jobs), sum(job.steps_done() for job in jobs)
    with ProcessPoolExecutor(workers, context, _prepare_worker, (core_queue, stop)) as pool:
        try:
            while waiting or running:
                ready = [job for job in waiting if job.kind == "warmup" or job.checkpoint not in warming]
                waiting = [job for job in waiting if job not in ready]
                running |= {pool.submit(_work, job, resume): job for job in ready}
                ended, _ = wait(running, POLL_SECONDS, FIRST_COMPLETED)
                for future in ended:
                    job = running.pop(future)
                    error = future.exception()
                    if isinstance(error, BrokenProcessPool):
                        raise error
                    if error is not None:
                        failures.append(f"{job.arm} seed {job.config.seed}: {error}")
                    if job.kind == "warmup":
                        warming.discard(job.checkpoint)
                        if error is not None:
                            waiting = [later for later in waiting if later.checkpoint != job.checkpoint]
                active = [job for future, job in running.items() if future.running()]
                steps = sum(job.steps_done() for job in jobs)
                doing = _doing(len(jobs) - len(waiting) - len(running), len(jobs), active[:workers])
                progress.update(round(steps), total, doing + (", compiling" if active and steps == before else ""))
                if progress.stop_requested:
                    raise Stopped("stopped, every run saved where it was; Run All continues, as does the same command")
        except BaseException as error:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            if isinstance(error, BrokenProcessPool):
                raise RunError("a worker process died, killed or out of memory; run it again to resume") from error
            raise
    return failures


def _doing(done: int, total: int, active: Sequence[Job]) -> str:
    """`run 3 of 25: scratch seed 2`; of several at a time `runs 3 to 6 of 25: ...`."""
    if not active:
        return f"{done} of {total} runs done"
    first, last = done + 1, done + len(active)
    numbers = f"run {first}" if first == last else f"runs {first} to {last}"
    return f"{numbers} of {total}: " + ", ".join(f"{job.arm} seed {job.config.seed}" for job in active)


def finished(folder: Path, parameters: dict[str, Any], inputs: Mapping[str, str] = MappingProxyType({})) -> bool:
    """Whether the folder holds this run, finished; of any other run `Run.open` says what differs.

    Args:
        inputs: digests of the files that the parameters name.
    """
    if not (folder / "run.json").exists():
        return False
    record = read_run(folder)
    same_files = all(record.inputs.get(name, now) == now for name, now in inputs.items())
    return record.status == "finished" and record.parameters == parameters and same_files


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


class _WorkerProgress:
    """Tells a worker's run to stop when the main process stops."""

    def __init__(self, stop: StopEvent) -> None:
        self._stop = stop

    @property
    def stop_requested(self) -> bool:
        return self._stop.is_set()

    def update(self, step: int, total: int, text: str) -> None:
        """Does nothing: the main process reads the run's folder."""


_progress: _WorkerProgress


def _prepare_worker(core_queue: Any, stop: StopEvent) -> None:
    global _progress
    _progress = _WorkerProgress(stop)
    # Ctrl-C reaches the whole group of processes; the main process decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    core = core_queue.get()
    if hasattr(os, "sched_setaffinity"):
        # Before JAX starts, which sizes its thread pools by it.
        os.sched_setaffinity(0, {core})
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    threading.Thread(target=_end_with_main_process, daemon=True).start()


def _end_with_main_process() -> None:
    """Ends a worker whose main process was killed; it would wait for work for ever."""
    main_process = multiprocessing.parent_process()
    assert main_process is not None
    main_process.join()
    os._exit(1)


def _work(job: Job, resume: bool) -> None:
    if job.kind == "warmup":
        run_warmup(job.config, job.folder, _progress, arm=job.arm, resume=resume)
    else:
        if job.kept_data and job.kept_data.name != FILTERED_FILE:
            # Arms of one retention write the same bytes, whichever comes last.
            assert job.checkpoint is not None
            run_retention(job.config, job.checkpoint, job.kept_data)
        run_finetune(job.config, job.folder, _progress, arm=job.arm, resume=resume)
