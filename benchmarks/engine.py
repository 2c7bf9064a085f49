"""What the engine costs: a run beside a warm worker, many empty runs, the start; beside a bare pool of processes.

With `--simulate`: 1,000 runs on 100 workers that only wait, by Dask's own scheduler, in one process.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import dask
import numpy as np
import psutil
from distributed import LocalCluster

from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.experiments.config import EngineConfig
from wsrl_kit.experiments.engine import Job, connected, run_jobs
from wsrl_kit.runs.progress import Progress, Silent
from wsrl_kit.runs.run import WARMUP_FILE


class EmptyJob(Job):
    """A run without work; it says when it began."""

    def run(self, progress: Progress, resume: bool) -> None:
        self.folder.with_suffix(".began").write_text(repr(time.time()))


class NoJob(Job):
    """A run without work or files."""

    def run(self, progress: Progress, resume: bool) -> None:
        pass


class Nap(Job):
    """A run that takes a while and no processor."""

    def run(self, progress: Progress, resume: bool) -> None:
        begun = time.time()
        time.sleep(seconds_of(self))
        self.folder.with_suffix(".times").write_text(json.dumps([begun, time.time()]))


def seconds_of(job: Job, mean: float = 20.0) -> float:
    """The length of a run, differently long by a third; a warmup takes half of it."""
    length = mean * float(np.random.default_rng(job.config.seed).uniform(2 / 3, 4 / 3))
    return length / 2 if job.kind == "warmup" else length


def simulate(runs: int, workers: int) -> dict[str, Any]:
    """An ablation's runs, a fifth of them warmups that two others start from, on workers that wait."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        jobs: list[Job] = []
        for seed in range(runs // 5):
            config, warmup = WSRLConfig(seed=seed), root / f"warmup_{seed}"
            after = replace(config, checkpoint_path=str(warmup / WARMUP_FILE))
            jobs.append(Nap("warmup", "warmup", config, warmup))
            jobs += [Nap("finetune", "warm", after, root / f"warm_{seed}_{arm}") for arm in range(2)]
            jobs += [Nap("finetune", "cold", config, root / f"cold_{seed}_{arm}") for arm in range(2)]
        # What every worker does for itself, on a machine of its own: a hundred profilers would fill this process.
        dask.config.set(
            {"distributed.worker.profile.enabled": False, "distributed.admin.system-monitor.interval": "10 s"}
        )
        local = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=False,
            protocol="tcp",
            host="127.0.0.1",
            memory_limit=0,
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
        )
        with local, connected(EngineConfig(), root, cluster=local) as client:
            before, sent = memory(), psutil.net_io_counters(pernic=True)["lo"].bytes_sent
            start, began, spent = time.perf_counter(), time.time(), time.process_time()
            assert run_jobs(jobs, client, Silent()) == []
            taken, spent = time.perf_counter() - start, time.process_time() - spent
            sent = psutil.net_io_counters(pernic=True)["lo"].bytes_sent - sent
            after_runs = memory()
        times = np.array([json.loads(job.folder.with_suffix(".times").read_text()) for job in jobs]) - began
    # Until the last run is handed out there is work for every worker; after that some must wait.
    full = times[:, 0].max()
    return {
        "runs": len(jobs),
        "workers": workers,
        "seconds": taken,
        "idle_share": 1 - np.diff(times).sum() / (workers * taken),
        "idle_share_until_the_last_run_begins": 1 - np.diff(np.minimum(times, full)).sum() / (workers * full),
        "processor_seconds": spent,
        "MB_over_loopback": sent / 2**20,
        "peak_MB_before": before,
        "peak_MB_after": after_runs,
    }


def import_kit() -> None:
    import wsrl_kit.experiments.engine  # noqa: F401


def seconds_of_pool(workers: int) -> float:
    """From nothing until every worker of a bare pool has imported the kit."""
    start = time.perf_counter()
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for each in [pool.submit(import_kit) for _ in range(workers)]:
            each.result()
        return time.perf_counter() - start


def seconds_of_start(workers: int, root: Path) -> float:
    """From nothing until every worker of the engine has imported the kit."""
    start = time.perf_counter()
    with connected(EngineConfig(worker_processes=workers), root) as client:
        client.run(import_kit)
        return time.perf_counter() - start


def measure(runs: int, rounds: int, workers: int) -> dict[str, Any]:
    config = WSRLConfig()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        starts = [(seconds_of_pool(workers), seconds_of_start(workers, root)) for _ in range(rounds)]
        with connected(EngineConfig(worker_processes=workers), root) as client:
            latencies, single = [], []
            for number in range(100):
                start, wall = time.perf_counter(), time.time()
                job = EmptyJob("finetune", "empty", config, root / f"run_{number}")
                assert run_jobs([job], client, Silent()) == []
                single.append(time.perf_counter() - start)
                latencies.append(float(job.folder.with_suffix(".began").read_text()) - wall)
            jobs = [NoJob("finetune", "empty", config, root / f"many_{number}") for number in range(runs)]
            before = client.run_on_scheduler(memory)
            start, spent = time.perf_counter(), processor_seconds(client)
            assert run_jobs(jobs, client, Silent()) == []
            many, spent = time.perf_counter() - start, processor_seconds(client) - spent
            after = client.run_on_scheduler(memory)
    # The first one includes the workers' first look at the kit's source.
    return {
        "pool_start": statistics.median(pool for pool, _ in starts),
        "engine_start": statistics.median(engine for _, engine in starts),
        "until_a_run_begins": statistics.median(latencies[1:]),
        "one_run": statistics.median(single[1:]),
        "runs": runs,
        "many_runs": many,
        "per_run_of_many": many / runs,
        "processor_per_run_of_many": spent / runs,
        "peak_MB_before": before,
        "peak_MB_after": after,
    }


def processor_seconds(client: Any) -> float:
    """Spent so far by this process, which holds client and scheduler, and by all workers."""
    return time.process_time() + sum(client.run(time.process_time).values())


def memory() -> float:
    """The most memory that this process, which holds client and scheduler, has taken, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000, help="empty runs (default: 10000)")
    parser.add_argument("--rounds", type=int, default=3, help="starts of each kind (default: 3)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: 2)")
    parser.add_argument("--simulate", action="store_true", help="1,000 waiting runs on 100 workers in this process")
    options = parser.parse_args()
    found = simulate(1_000, 100) if options.simulate else measure(options.runs, options.rounds, options.workers)
    print(json.dumps(found, indent=2))
