"""Runs that count instead of learning: they resume, stop and fail as training does, and need no compilation."""

import os
import signal
import time
from dataclasses import asdict
from pathlib import Path

from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.errors import DataError, Stopped
from wsrl_kit.experiments.engine import Job
from wsrl_kit.runs.progress import Progress, outcome_recorded
from wsrl_kit.runs.run import Run

STEP_SECONDS = 0.01
CHECKPOINT_INTERVAL = 10


class CountingJob(Job):
    """One count; the arms `dies`, `raises` and `bad` fail at step 5."""

    def run(self, progress: Progress, resume: bool) -> None:
        run = Run.open(
            self.folder,
            kind="finetune",
            arm=self.arm,
            seed=self.config.seed,
            parameters=asdict(self.config),
            resume=resume,
        )
        if run.is_finished:
            return
        with outcome_recorded(run, progress) as progress:
            done = int(run.checkpoint_path.read_text()) if run.checkpoint_path.exists() else 0
            run.rewind(done)
            for step in range(done, self.config.online_steps):
                if step == 5:
                    self._fail()
                if step % CHECKPOINT_INTERVAL == 0 or progress.stop_requested:
                    run.checkpoint_path.write_text(str(step))
                if progress.stop_requested:
                    raise Stopped(f"stopped at step {step}")
                run.record("online", step + 1, step + 1, {"count": self.config.seed + step / 7})
                time.sleep(STEP_SECONDS)
            run.finish({})

    def _fail(self) -> None:
        match self.arm:
            case "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            case "raises":
                raise MemoryError("too large")
            case "bad":
                raise DataError("the file is damaged")


def counting_jobs(root: Path, *arms: str, steps: int = 100) -> list[Job]:
    """A run of each arm."""
    config = WSRLConfig(online_steps=steps)
    return [CountingJob("finetune", arm, config, root / arm) for arm in arms]
