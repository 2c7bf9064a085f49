"""What the engine costs: a run beside a warm worker, many empty runs, the start; beside a bare pool of processes."""

import argparse
import json
import resource
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.experiments.config import EngineConfig
from wsrl_kit.experiments.engine import Job, connected, run_jobs
from wsrl_kit.runs.progress import Progress, Silent


class EmptyJob(Job):
    """A run without work; it says when it began."""

    def run(self, progress: Progress, resume: bool) -> None:
        self.folder.with_suffix(".began").write_text(repr(time.time()))


class NoJob(Job):
    """A run without work or files."""

    def run(self, progress: Progress, resume: bool) -> None:
        pass


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
    options = parser.parse_args()
    print(json.dumps(measure(options.runs, options.rounds, options.workers), indent=2))
