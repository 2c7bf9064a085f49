"""A run's folder, safe against a crash at any moment.

    run.json        kind, arm, seed, status, parameters, inputs, versions, summary, seconds, message, process
    metrics.csv     phase,environment_step,gradient_step,metric,value; append-only
    checkpoint.npz  written by training
    figures/*.png
    traces/*.npz    episodes of each evaluation, to play again (`runs/traces.py`)
    videos/*.mp4
    tensorboard, wandb    copies of the metrics, if wanted (`analysis/loggers.py`)
    .lock           held by the one process that writes here

`metrics.csv` holds no clock: a resumed run ends with the same bytes as an uninterrupted one.
"""

import contextlib
import csv
import errno
import functools
import importlib.metadata
import json
import math
import os
import platform
import re
import shutil
import socket
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat, SupportsIndex

import filelock
import numpy as np
from jaxtyping import Float64, Int64

from wsrl_kit.errors import RunError
from wsrl_kit.files import read_json, reading, remove_partial, synced, write_text, written_whole
from wsrl_kit.parameters import check
from wsrl_kit.text import printable

if TYPE_CHECKING:  # every command reads runs, and matplotlib takes half a second to import
    from matplotlib.figure import Figure

PHASES = ("warmup", "online")
STATUSES = ("running", "stopped", "failed", "finished")
RECORD, METRICS, CHECKPOINT, LOCK = "run.json", "metrics.csv", "checkpoint.npz", ".lock"
HEADER = "phase,environment_step,gradient_step,metric,value\n"
TENSORBOARD, WANDB = "tensorboard", "wandb"
OWN_FOLDERS = ("figures", "frames", "demo_frames", "judged", "spool", TENSORBOARD, "traces", "videos", WANDB)
"""Folders that the run itself writes."""
WARMUP_FILE, FILTERED_FILE = "warmup.npz", "filtered_demos.pkl"
"""What a warmup leaves for fine-tuning: the agent, and the data that retention kept."""
ELSEWHERE = "give this one another output_dir (--out); resume=False would delete the earlier run and start anew"
PACKAGES = ("wsrl-kit", "jax", "numpy", "mujoco")


@dataclass(frozen=True)
class Curve:
    """One metric of one run, in recording order.

    Attributes:
        environment_step: since the switch; 0 during warmup.
        gradient_step: critic updates, warmup included.
        value: nan: nothing to measure.
    """

    environment_step: Int64[np.ndarray, " points"]
    gradient_step: Int64[np.ndarray, " points"]
    value: Float64[np.ndarray, " points"]

    def __len__(self) -> int:
        return len(self.value)

    @classmethod
    def of(cls, rows: Iterable[tuple[SupportsIndex, SupportsIndex, SupportsFloat]]) -> "Curve":
        """The curve with these points: environment step, gradient step, value."""
        kinds = (np.int64, np.int64, np.float64)
        return cls(*(np.array(column, kind) for column, kind in zip(zip(*rows, strict=True), kinds, strict=True)))


@dataclass(frozen=True)
class RunRecord:
    """A run's folder, read once.

    Attributes:
        metrics: a `Curve` per (phase, metric).
        inputs: digest of each parameter's files.
        message: why the run failed; else "".
        seconds: wall-clock, over all sessions.
        warmup_seconds: wall-clock of a joined warmup run.
    """

    folder: Path
    kind: str
    arm: str
    seed: int
    status: str
    parameters: dict[str, Any]
    inputs: dict[str, str]
    versions: dict[str, str]
    summary: dict[str, Any]
    seconds: float
    message: str
    metrics: dict[tuple[str, str], Curve]
    warmup_seconds: float = 0.0

    def curve(self, metric: str, phase: str = "online") -> Curve:
        """The metric's curve; of length 0 if never recorded."""
        empty = Curve(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
        return self.metrics.get((phase, metric), empty)


# What run.json holds, each of which type.
FIELDS: dict[str, Any] = {
    field.name: field.type for field in fields(RunRecord) if field.name not in ("folder", "metrics", "warmup_seconds")
}


class Run:
    """The writing side of a run's folder, locked until `finish`, `stop`, `fail` or `close`.

    Every `record` has reached the operating system when it returns.

    Attributes:
        rows: metric rows written so far.
        parameters: by name, as JSON holds them.
        is_finished: nothing left to do, nothing locked.
        grown: parameters that exceed the earlier run's, with the earlier values.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder = folder
        self.rows = 0
        self.parameters: dict[str, Any] = identity["parameters"]
        self.is_finished = False
        self.grown: dict[str, int] = {}
        self._identity = identity
        self._earlier_seconds = 0.0
        self._start = time.monotonic()
        self._lock = _take(folder)

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        kind: str,
        arm: str,
        seed: int,
        parameters: Mapping[str, Any],
        inputs: Mapping[str, str] | None = None,
        may_grow: Collection[str] = (),
        outputs: Collection[Path] = (),
        resume: bool = True,
    ) -> "Run":
        """Creates a run, or reopens the same one in any status.

        Args:
            kind: such as "warmup" or "finetune".
            arm: of an ablation; "": none.
            inputs: digest of each parameter's files; a run never continues with other files.
            may_grow: parameters that may exceed the earlier run's; a finished run then continues.
            outputs: files of a finished run; if one is missing, the run continues.
            resume: False deletes an earlier run in the folder.

        Raises:
            RunError: the folder is locked, not writable, damaged or another run's, or input files have changed.
        """
        plain, digests = _plain(parameters), dict(inputs or {})
        identity = {"kind": kind, "arm": arm, "seed": int(seed), "parameters": plain, "inputs": digests}
        with _changing(folder):
            Path(folder).mkdir(parents=True, exist_ok=True)
            run = cls(Path(folder), identity)
        try:
            with _changing(run.folder):
                for place in (run.folder, *(entry for entry in run.folder.iterdir() if entry.name in OWN_FOLDERS)):
                    remove_partial(place)
            if resume and (run.folder / RECORD).exists():
                run._reopen(may_grow, outputs)
            else:
                run._create(overwrite=not resume)
            if run.is_finished:
                run.close()
            else:
                run._write("running")
        except BaseException:
            run.close()
            raise
        return run

    def close(self) -> None:
        """Releases the folder without recording an outcome."""
        self._lock.release()

    @property
    def metrics_path(self) -> Path:
        return self.folder / METRICS

    @property
    def checkpoint_path(self) -> Path:
        return self.folder / CHECKPOINT

    def _create(self, overwrite: bool) -> None:
        if overwrite:
            self._refuse_another_kind()
        else:
            for path, empty_size in ((self.checkpoint_path, 0), (self.metrics_path, len(HEADER))):
                if path.exists() and path.stat().st_size > empty_size:
                    raise RunError(f"{self.folder} holds a {path.name} but no run.json: expected a run or a new folder")
        # run.json is replaced last: a crash before that leaves the earlier run, emptied, which is still a valid run.
        with _changing(self.folder):
            for outputs in (CHECKPOINT, "figures/*.png", "traces/*.npz", "videos/clip.*"):
                for path in self.folder.glob(outputs):
                    path.unlink(missing_ok=True)
            write_text(self.metrics_path, HEADER, RunError)

    def _refuse_another_kind(self) -> None:
        """Refuses to replace a run of another kind, whose folder was named by mistake."""
        try:
            found = _read_json(self.folder)["kind"]
        except RunError:
            return
        if found != self._identity["kind"]:
            raise RunError(
                f"{self.folder} holds a {found} run: expected a {self._identity['kind']} run or a new folder"
            )

    def _reopen(self, may_grow: Collection[str], outputs: Collection[Path]) -> None:
        found = _read_json(self.folder)
        self.grown = _check_same(self.folder, found, self._identity, may_grow)
        self._earlier_seconds = float(found["seconds"])
        self.rows = len(_complete_lines(self.metrics_path)) - 1
        is_complete = all(path.exists() for path in outputs)
        self.is_finished = found["status"] == "finished" and not self.grown and is_complete
        if not self.is_finished:
            self.rewind(self.rows)

    def record(
        self,
        phase: str,
        environment_step: SupportsIndex,
        gradient_step: SupportsIndex,
        values: Mapping[str, SupportsFloat],
    ) -> None:
        """Appends one row per metric, all or none; steps as in `Curve`.

        Args:
            phase: "warmup" or "online".

        Raises:
            RunError: unknown phase, separator in a name, or full disk; earlier rows are intact.
        """
        if phase not in PHASES:
            raise RunError(f"phase must be one of {', '.join(PHASES)}, found {phase!r}")
        for name in values:
            if any(character in name for character in ',"\r\n'):
                raise RunError(f"a metric's name must be free of commas, quotes and line ends, found {name!r}")
        prefix = f"{phase},{int(environment_step)},{int(gradient_step)},"
        rows = "".join(f"{prefix}{name},{float(value)!r}\n" for name, value in values.items()).encode()
        with _changing(self.metrics_path), open(self.metrics_path, "r+b", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            try:
                written = file.write(rows)
                if written != len(rows):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                file.truncate(end)
                raise
        self.rows += len(values)

    def rewind(self, rows: int) -> None:
        """Keeps the first `rows` metric rows, those of the checkpoint to resume from.

        Raises:
            RunError: there are fewer rows.
        """
        lines = _complete_lines(self.metrics_path)
        if not 0 <= rows <= len(lines) - 1:
            raise RunError(f"{self.metrics_path} must hold at least {rows} rows to resume, found {len(lines) - 1}")
        with _changing(self.metrics_path):
            # Shortening a file in place is one system call: it can't be half done, and needs no room on the disk.
            os.truncate(self.metrics_path, sum(map(len, lines[: rows + 1])))
        self.rows = rows

    def sync(self) -> None:
        """Waits until all rows are on the disk; call before a checkpoint counts them.

        Raises:
            RunError: the disk fails.
        """
        with _changing(self.metrics_path):
            synced(self.metrics_path)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Marks the run finished; the last write."""
        with contextlib.closing(self):
            self._write("finished", summary=summary)

    def stop(self) -> None:
        """Marks the run stopped by its user; it can be reopened."""
        with contextlib.closing(self):
            self._write("stopped")

    def fail(self, message: str) -> None:
        """Marks the run failed, with the reason; it can be reopened."""
        with contextlib.closing(self):
            self._write("failed", message=message)

    def _write(self, status: str, summary: Mapping[str, Any] | None = None, message: str = "") -> None:
        content = self._identity | {
            "status": status,
            "versions": versions(),
            "summary": _plain(summary or {}),
            "seconds": round(self._earlier_seconds + time.monotonic() - self._start, 3),
            "message": message,
            "process": {"host": socket.gethostname(), "pid": os.getpid()},
        }
        write_text(self.folder / RECORD, json.dumps(content, indent=2, allow_nan=False) + "\n", RunError)


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and packages that results depend on, without importing them."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package.replace("-", "_")] = importlib.metadata.version(package)
    return found


def save_figure(path: Path, figure: "Figure") -> None:
    """Writes a PNG atomically, and creates its folder.

    Raises:
        RunError: it can't be written; an earlier one is intact.
    """
    with written_whole(path, RunError) as temporary:
        figure.savefig(temporary, format="png")


def read_run(folder: Path, with_metrics: bool = True) -> RunRecord:
    """Reads a run's folder, also while the run is being written.

    Args:
        with_metrics: False: leaves `metrics` empty, and metrics.csv alone.

    Raises:
        RunError: there is no run, or it is damaged.
    """
    folder = Path(folder)
    # Names become part of tables, figures, and what a terminal shows.
    content: dict[str, Any] = {
        name: printable(value) if isinstance(value, str) else value for name, value in _read_json(folder).items()
    }
    return RunRecord(folder=folder, metrics=_read_metrics(folder / METRICS) if with_metrics else {}, **content)


def find_runs(root: Path) -> list[RunRecord]:
    """Reads every run under a folder, sorted by kind, arm and seed.

    Raises:
        RunError: the folder is missing, or a run is damaged.
    """
    if not Path(root).is_dir():
        raise RunError(f"{root} must be a folder of runs, found no folder")
    records = [read_run(path.parent) for path in sorted(Path(root).rglob(RECORD))]
    return sorted(records, key=lambda record: (record.kind, record.arm, record.seed))


def _read_json(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    if not path.exists():
        raise RunError(f"{folder} must hold a run, found no {RECORD} in it")
    with reading(path, RunError, "must hold a run's JSON, found a damaged file"):
        content = read_json(path)
        # Runs from before inputs were watched name none.
        content = {"inputs": {}} | content if isinstance(content, dict) else {}
        if missing := [name for name in FIELDS if name not in content]:
            raise RunError(f"{path} must hold {', '.join(FIELDS)}, found no {missing[0]}")
        if content["status"] not in STATUSES:
            raise RunError(f"{path} must have a status of {', '.join(STATUSES)}, found {content['status']!r}")
        return {name: check(name, content[name], kind) for name, kind in FIELDS.items()}


def _complete_lines(path: Path) -> list[bytes]:
    """Header and rows, without a last line cut short by a crash."""
    with reading(path, RunError, "must be a readable file, found"):
        lines = path.read_bytes().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    if not lines or lines[0] != HEADER.encode():
        raise RunError(f"{path} must begin with the line {HEADER.strip()!r}, found another")
    return lines


def _read_metrics(path: Path) -> dict[tuple[str, str], Curve]:
    found: dict[tuple[str, str], list[tuple[int, int, float]]] = {}
    with reading(path, RunError):
        rows = csv.reader(line.decode(errors="replace") for line in _complete_lines(path)[1:])
        for number, row in enumerate(rows, start=2):
            try:
                phase, environment_step, gradient_step, metric, value = row
                parsed = int(environment_step), int(gradient_step), float(value)
            except ValueError:
                raise RunError(f"{path} must hold {HEADER.strip()} in line {number}, found {','.join(row)!r}") from None
            found.setdefault((printable(phase), printable(metric)), []).append(parsed)
        return {key: Curve.of(own) for key, own in found.items()}


def _check_same(
    folder: Path, found: dict[str, Any], wanted: dict[str, Any], may_grow: Collection[str]
) -> dict[str, int]:
    """Refuses another run than the wanted one; returns the earlier values of parameters that have grown."""
    for name in ("kind", "arm", "seed"):
        if found[name] != wanted[name]:
            raise RunError(
                f"{folder} holds a run of {name} {found[name]!r}, this one is of {name} {wanted[name]!r}: {ELSEWHERE}"
            )
    before, now, absent = found["parameters"], wanted["parameters"], "not given"
    names = [name for name in {**now, **before} if before.get(name, absent) != now.get(name, absent)]
    growing = [name for name in names if name in may_grow and isinstance(before.get(name), int)]
    grown = {name: before[name] for name in growing if now[name] > before[name]}
    if others := [name for name in names if name not in grown]:
        changes = ", ".join(f"{name} was {before.get(name, absent)!r}, is {now.get(name, absent)!r}" for name in others)
        raise RunError(
            f"{folder} holds a run with other parameters ({changes}): set them as they were to continue it, or "
            f"{ELSEWHERE}"
        )
    for name, digest in wanted["inputs"].items():
        if found["inputs"].get(name, digest) != digest:
            raise RunError(
                f"{folder} holds a run that began with other data: the files of {name} ({now.get(name)}) have changed "
                f"since; put the earlier ones back to continue it, or {ELSEWHERE}"
            )
    return grown


def refuse_locked(folder: Path) -> None:
    """Raises RunError if another process writes to the folder."""
    if (folder / LOCK).exists():
        _take(folder).release()


def _take(folder: Path) -> filelock.BaseFileLock:
    """The folder's lock, which is held from now on.

    Raises:
        RunError: another process holds it.
    """
    # Any thread may end the run.
    lock = filelock.FileLock(folder / LOCK, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise RunError(
            f"{folder} is being written to by {_holder(folder)}: wait until that run has ended or stop it, or give "
            "this one another output_dir (--out)"
        ) from None
    return lock


def delete_run(folder: Path) -> None:
    """Deletes the folder of a run that nobody writes to; `run.json` goes last, so that it can be repeated.

    Raises:
        RunError: no run, being written to, holds anything that runs do not write, or can't be deleted; in all but the
            last case nothing is deleted.
    """
    _read_json(folder)
    if folder.is_symlink():
        raise RunError(f"{folder} must be a run's folder, found a link to one: delete it by hand")
    with _changing(folder, "can't be deleted as a whole", ""):
        lock = _take(folder)
        try:
            entries = sorted(folder.iterdir(), key=lambda entry: entry.name == RECORD)
            for entry in entries:
                is_own = entry.name in OWN_FOLDERS if entry.is_dir() else _OWN(entry.name)
                if entry.is_symlink() or not is_own:
                    raise RunError(f"{folder} holds {printable(entry.name)}, which no run writes: delete it by hand")
            for entry in entries:
                if entry.is_dir():
                    shutil.rmtree(entry)
                elif entry.name != LOCK:
                    entry.unlink()
        finally:
            lock.release()
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()


# What warmup and fine-tuning write, and the notebook that a command executed with them.
_FILES = (LOCK, RECORD, METRICS, CHECKPOINT, WARMUP_FILE, FILTERED_FILE)
_OWN = re.compile(rf"{'|'.join(map(re.escape, _FILES))}|0[12]_\w+\.(ipynb|html)|\..+\.partial").fullmatch


def was_killed(folder: Path) -> bool:
    """Whether a run that says it is running does not: its process was on this machine and is no more."""
    process = _process(folder)
    try:
        if os.name != "posix" or process["host"] != socket.gethostname():
            return False
        os.kill(process["pid"], 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        pass
    return False


def _holder(folder: Path) -> str:
    process = _process(folder)
    known = "pid" in process and "host" in process
    return f"process {process['pid']} on {process['host']}" if known else "another process"


def _process(folder: Path) -> dict[str, Any]:
    """The process that wrote `run.json`; {} if that does not say."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        process = json.loads((folder / RECORD).read_text())["process"]
        return process if isinstance(process, dict) else {}
    return {}


def _plain(value: Any) -> Any:
    """The value as JSON reads it back: numpy, tuples and paths become plain, non-finite numbers null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


@contextlib.contextmanager
def _changing(
    path: Path, failed: str = "can't be written", kept: str = "; all recorded before is intact"
) -> Iterator[None]:
    """Turns an error of the system inside into one sentence."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{path} {failed}: {error.strerror or error}{kept}") from error
