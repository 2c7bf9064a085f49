"""Copies of runs' metrics for TensorBoard and Weights & Biases, while the runs go on.

A copy follows `metrics.csv` from outside, wherever the run is done: it can't stop a run, and knows no step twice.
"""

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

from wsrl_kit.analysis.overview import GrowingFile, run_folders
from wsrl_kit.errors import RunError
from wsrl_kit.runs.run import HEADER, METRICS, TENSORBOARD, WANDB, read_run
from wsrl_kit.text import one_line

COPY_SECONDS = 10.0  # between two looks at the runs
LAST_SECONDS = 60.0  # that the last look may take


class TensorBoard:
    """Events in the run's folder `tensorboard`, against gradient steps in warmup and environment steps online."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary
        from tensorboardX.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        place = folder / TENSORBOARD
        place.mkdir(exist_ok=True)
        for earlier in place.glob("events.out.tfevents.*"):
            earlier.unlink()
        # Not its SummaryWriter, whose thread would keep errors to itself.
        self._file = RecordWriter(str(place / f"events.out.tfevents.{time.time_ns()}"))
        self._write(file_version="brain.Event:2")

    def write(self, phase: str, environment_step: int, gradient_step: int, values: Mapping[str, float]) -> None:
        found = [self._summary.Value(tag=f"{phase}/{name}", simple_value=value) for name, value in values.items()]
        step = gradient_step if phase == "warmup" else environment_step
        self._write(step=step, summary=self._summary(value=found))
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _write(self, **content: Any) -> None:
        self._file.write(self._event(wall_time=time.time(), **content).SerializeToString())


class WandB:
    """An offline run in the run's folder `wandb`, which `wandb sync` uploads."""

    def __init__(self, folder: Path) -> None:
        import wandb

        for earlier in (folder / WANDB).glob("offline-run-*"):
            shutil.rmtree(earlier)
        record = read_run(folder, with_metrics=False)
        self._run = wandb.init(
            mode="offline",
            dir=folder,
            project="wsrl_kit",
            group=record.arm or None,
            name=f"{folder.parent.name}/{folder.name}",
            config=record.parameters,
            reinit="create_new",
            settings=wandb.Settings(
                console="off", silent=True, disable_git=True, save_code=False, x_disable_stats=True
            ),
        )
        for step in ("environment_step", "gradient_step"):
            self._run.define_metric(step, hidden=True)
        self._run.define_metric("warmup/*", step_metric="gradient_step")
        self._run.define_metric("online/*", step_metric="environment_step")

    def write(self, phase: str, environment_step: int, gradient_step: int, values: Mapping[str, float]) -> None:
        steps = {"environment_step": environment_step, "gradient_step": gradient_step}
        self._run.log({f"{phase}/{name}": value for name, value in values.items()} | steps)

    def close(self) -> None:
        self._run.finish()


LOGGERS: dict[str, Callable[[Path], TensorBoard | WandB]] = {"tensorboard": TensorBoard, "wandb": WandB}


@contextmanager
def copied(root: Path, names: tuple[str, ...], say: Callable[[str], None]) -> Iterator[None]:
    """Copies the metrics of all runs under a folder while the block is done.

    Args:
        names: of `LOGGERS`.
        say: gets one sentence of each logger that fails; the others and the block go on.
    """
    ended = threading.Event()

    def follow(name: str) -> None:
        runs: dict[Path, _Copy] = {}
        try:
            is_last = False
            while not is_last:
                is_last = ended.wait(COPY_SECONDS)
                for folder in run_folders(root) if root.is_dir() else ():
                    runs.setdefault(folder, _Copy(folder, LOGGERS[name])).catch_up()
            for run in runs.values():
                run.close()
        except ImportError:
            say(f"no copy for {name}: `pip install 'wsrl-kit[{name}]'` installs what it needs; metrics.csv holds all")
        # Whatever a logger's package raises, runs go on.
        except Exception as error:
            say(one_line(f"no further copy for {name}: {type(error).__name__}: {error}; metrics.csv holds all", 300))

    threads = [threading.Thread(target=follow, args=(name,), name=name, daemon=True) for name in names]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join(LAST_SECONDS)


class _Copy:
    """One run's rows in one logger, which is made anew, without the earlier rows, where `metrics.csv` was rewound."""

    def __init__(self, folder: Path, make: Callable[[Path], TensorBoard | WandB]) -> None:
        self._folder, self._make = folder, make
        self._file = GrowingFile(folder / METRICS)
        self._logger: TensorBoard | WandB | None = None

    def catch_up(self) -> None:
        try:
            block, is_new = self._file.read()
            rows = [line.split(",") for line in block.decode(errors="replace").splitlines() if line != HEADER.strip()]
            if is_new:
                self.close()
            if rows:
                self._logger = self._logger or self._make(self._folder)
        except (RunError, FileNotFoundError):
            # Half written or half deleted: perhaps later, from its first row.
            self._file = GrowingFile(self._file.path)
            return
        for moment, own in groupby(rows, key=lambda row: row[:3]):
            phase, environment_step, gradient_step = moment
            values = {metric: float(value) for *_, metric, value in own}
            assert self._logger is not None
            self._logger.write(phase, int(environment_step), int(gradient_step), values)

    def close(self) -> None:
        if self._logger:
            self._logger.close()
        self._logger = None
