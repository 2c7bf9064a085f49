"""With and without warmup: every arm on the same data and the same environment steps, one run per arm and seed.

Runs are spread over worker processes, one core each: small networks gain nothing from a second core, and a run that is
one process with one folder can be killed and resumed by itself.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.synchronize import Event as StopEvent
from pathlib import Path
from typing import Any

from wsrl_kit.config import Paths, WSRLConfig
from wsrl_kit.data.files import expand, load_sources
from wsrl_kit.errors import DataError, ParameterError, RunError, Stopped
from wsrl_kit.parameters import parameter, validate
from wsrl_kit.runs import Run, read_run
from wsrl_kit.training.events import Progress
from wsrl_kit.training.jobs import FILTERED_FILE, WARMUP_FILE, outcome_recorded, run_finetune, run_warmup
from wsrl_kit.training.warmup import PADDING

POLL_SECONDS = 2.0
"""Between two looks at how far the runs are."""


@dataclass(frozen=True)
class Arm:
    """One setting of the ablation.

    Attributes:
        offline: what stage 2 is given: "none", "demos", "all", or "kept" (what retention kept of all).
        warmup: whether it starts from the seed's warmup checkpoint.
        overrides: parameters that differ from the common ones.
    """

    offline: str
    warmup: bool
    overrides: dict[str, Any] = field(default_factory=dict)


UNIFORM = {"use_prioritized_replay": False}
NO_FROZEN_ROLLOUTS = {"frozen_rollout_steps": 0}
SYMMETRIC = {"offline_ratio_schedule": "constant", "initial_offline_ratio": 0.5, "min_offline_ratio": 0.5}
"""RLPD's symmetric sampling (Ball et al. 2023, section 4.1)."""

ARMS = {
    "scratch": Arm("none", False, UNIFORM | NO_FROZEN_ROLLOUTS),
    "rlpd_demos": Arm("demos", False, UNIFORM | NO_FROZEN_ROLLOUTS | SYMMETRIC),
    "rlpd_all": Arm("all", False, UNIFORM | NO_FROZEN_ROLLOUTS | SYMMETRIC),
    "warmup_decay": Arm("kept", True, NO_FROZEN_ROLLOUTS | {"random_steps": 0}),
    "warmup_wsrl": Arm("none", True, UNIFORM | {"random_steps": 0}),
}
"""By name. `random_steps` is the start of the arms without warmup, `frozen_rollout_steps` that of WSRL's arm alone."""


@dataclass(frozen=True)
class AblationConfig:
    """What is compared.

    Raises:
        ParameterError: naming the parameter, what was expected and what was found.
    """

    arms: list[str] = parameter(list(ARMS), "settings to compare", choices=tuple(ARMS))
    seeds: list[int] = parameter([0, 1, 2, 3, 4], "one run of every arm for each seed", minimum=0)
    control: str = parameter("rlpd_all", "arm that the others are compared with", choices=tuple(ARMS))
    worker_processes: int = parameter(0, "runs at the same time; 0: one per core", minimum=0)

    def __post_init__(self) -> None:
        validate(self)
        for name in ("arms", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ParameterError(f"{name} must be a list of different entries, at least one, found {values}")


@dataclass(frozen=True)
class Job:
    """One run that a worker does."""

    kind: str
    arm: str
    config: WSRLConfig
    folder: Path
    offline_capacity: int

    @property
    def steps(self) -> int:
        """Its length in environment steps; an environment step costs about as much as UTD warmup steps."""
        if self.kind == "warmup":
            return max(1, self.config.warmup_steps // self.config.update_to_data_ratio)
        return self.config.online_steps

    def steps_done(self) -> float:
        """How far its folder says it is."""
        try:
            last = (self.folder / "metrics.csv").read_text().rsplit("\n", 2)[-2].split(",")
            done = int(last[2]) / self.config.update_to_data_ratio if self.kind == "warmup" else int(last[1])
        except (OSError, ValueError, IndexError):
            return 0.0
        return min(float(done), float(self.steps))


def run_ablation(
    config: WSRLConfig, ablation: AblationConfig, root: Path, progress: Progress, resume: bool = True
) -> None:
    """Runs every arm and seed that is not finished yet, in `root/<arm>/seed_<n>`, and the warmups in `root/warmup`.

    Args:
        config: parameters that all arms share; its `offline_data_path` is the data of all of them.
        resume: continue what is there; False starts every run anew.

    Raises:
        Stopped: the user stopped it; what is finished stays finished, and the rest resumes.
        RunError: a run failed (the others are finished first), or a worker process died.
        WSRLKitError: the data or parameters are bad.
    """
    sources = expand(config.offline_data_path)
    if "rlpd_demos" in ablation.arms and "demos" not in sources:
        raise DataError(f"the arm rlpd_demos needs a source named demos, found {', '.join(sources) or 'no source'}")
    paths: Paths = {name: [str(path) for path in files] for name, files in sources.items()}
    config = replace(config, offline_data_path=paths)
    transitions = len(load_sources(paths))
    capacity = -(-transitions // PADDING) * PADDING
    # How many runs go on at the same time may change between sessions: it is no part of what is compared.
    compared = {"arms": ablation.arms, "seeds": ablation.seeds, "control": ablation.control}
    parameters = asdict(config) | compared
    if resume and _finished(root, parameters):
        return
    run = Run.open(root, kind="ablation", arm="", seed=0, parameters=parameters, resume=resume)
    jobs = list(plan(config, ablation, root, capacity))
    with outcome_recorded(run):
        waiting = [job for job in jobs if not resume or not _finished(job.folder, asdict(job.config))]
        failures = _run_all(jobs, waiting, ablation, progress, resume)
        if failures:
            raise RunError(f"{len(failures)} of {len(jobs)} runs failed: {'; '.join(failures)}")
        run.finish({"runs": len(jobs), "transitions": transitions})


def plan(config: WSRLConfig, ablation: AblationConfig, root: Path, offline_capacity: int) -> Iterator[Job]:
    """All runs of an ablation, warmups first; arms with warmup share the checkpoint of their seed."""
    arms = {name: ARMS[name] for name in ablation.arms}
    assert isinstance(config.offline_data_path, dict)
    for seed in ablation.seeds:
        if any(arm.warmup for arm in arms.values()):
            warmup_config = replace(config, seed=seed, checkpoint_path=None, demo_path=None)
            yield Job("warmup", "warmup", warmup_config, root / "warmup" / f"seed_{seed}", offline_capacity)
    for seed in ablation.seeds:
        warmup_folder = root / "warmup" / f"seed_{seed}"
        offline: dict[str, Paths] = {
            "none": None,
            "demos": {"demos": config.offline_data_path.get("demos", [])},
            "all": config.offline_data_path,
            "kept": str(warmup_folder / FILTERED_FILE) if config.retention_ratio > 0 else None,
        }
        for name, arm in arms.items():
            run_config = replace(
                config,
                seed=seed,
                checkpoint_path=str(warmup_folder / WARMUP_FILE) if arm.warmup else None,
                demo_path=offline[arm.offline],
                **arm.overrides,
            )
            yield Job("finetune", name, run_config, root / name / f"seed_{seed}", offline_capacity)


def _run_all(
    jobs: list[Job], waiting: list[Job], ablation: AblationConfig, progress: Progress, resume: bool
) -> list[str]:
    """Runs the waiting jobs, each as soon as its warmup is there; returns a sentence for each that failed."""
    context = multiprocessing.get_context("spawn")
    cores = _cores()
    workers = min(ablation.worker_processes or len(cores), max(1, len(waiting)))
    stop = context.Event()
    core_queue = context.SimpleQueue()
    for index in range(workers):
        core_queue.put(cores[index % len(cores)])
    failures: list[str] = []
    running: dict[Future[None], Job] = {}
    warming = {job.config.seed for job in waiting if job.kind == "warmup"}
    total = sum(job.steps for job in jobs)
    with ProcessPoolExecutor(workers, context, _prepare_worker, (core_queue, stop)) as pool:
        try:
            while waiting or running:
                ready = [job for job in waiting if job.config.checkpoint_path is None or job.config.seed not in warming]
                waiting = [job for job in waiting if job not in ready]
                running |= {pool.submit(_work, job, resume): job for job in ready}
                finished, _ = wait(running, POLL_SECONDS, FIRST_COMPLETED)
                for future in finished:
                    job = running.pop(future)
                    error = future.exception()
                    if isinstance(error, BrokenProcessPool):
                        raise error
                    if error is not None:
                        failures.append(f"{job.arm} seed {job.config.seed}: {error}")
                    if job.kind == "warmup":
                        warming.discard(job.config.seed)
                        if error is not None:
                            waiting = [later for later in waiting if later.config.seed != job.config.seed]
                active = [job for future, job in running.items() if future.running()]
                names = ", ".join(f"{job.arm} {job.config.seed}" for job in active[:workers])
                progress.update(round(sum(job.steps_done() for job in jobs)), total, names)
                if progress.stop_requested:
                    raise Stopped("stopped by the user; run it again to resume")
        except BaseException as error:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            if isinstance(error, BrokenProcessPool):
                raise RunError("a worker process died, killed or out of memory; run it again to resume") from error
            raise
    return failures


def _finished(folder: Path, parameters: dict[str, Any]) -> bool:
    """Whether the very same run is there already; another one is left to `Run.open`, which says what differs."""
    if not (folder / "run.json").exists():
        return False
    record = read_run(folder)
    return record.status == "finished" and record.parameters == parameters


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


class _WorkerProgress:
    """Tells a worker's run to stop when the ablation does."""

    def __init__(self, stop: StopEvent) -> None:
        self._stop = stop

    @property
    def stop_requested(self) -> bool:
        return self._stop.is_set()

    def update(self, step: int, total: int, text: str) -> None:
        """The ablation reads the run's folder instead."""


_progress: _WorkerProgress


def _prepare_worker(core_queue: Any, stop: StopEvent) -> None:
    global _progress
    _progress = _WorkerProgress(stop)
    # Ctrl-C reaches the whole group of processes; the ablation decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    core = core_queue.get()
    if hasattr(os, "sched_setaffinity"):
        # Before JAX starts: the sizes of its thread pools follow from it.
        os.sched_setaffinity(0, {core})
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    threading.Thread(target=_end_with_the_ablation, daemon=True).start()


def _end_with_the_ablation() -> None:
    """Ends a worker whose ablation was killed, or it would wait for work for ever; its run resumes as a killed one."""
    ablation = multiprocessing.parent_process()
    assert ablation is not None
    ablation.join()
    os._exit(1)


def _work(job: Job, resume: bool) -> None:
    if job.kind == "warmup":
        run_warmup(job.config, job.folder, _progress, arm=job.arm, resume=resume)
    else:
        run_finetune(
            job.config, job.folder, _progress, arm=job.arm, resume=resume, offline_capacity=job.offline_capacity
        )
