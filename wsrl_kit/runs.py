"""A run's folder: parameters, status, metrics, figures and the checkpoint's place, safe against a crash at any moment.

    run.json        kind, arm, seed, status, parameters, versions, summary, seconds, message; replaced as a whole
    metrics.csv     phase,environment_step,gradient_step,metric,value; one row per number, only ever appended to
    checkpoint.npz  written by training
    figures/*.png

`metrics.csv` holds no clock, so that a resumed run ends with the same bytes as one that was never interrupted.
"""

import contextlib
import csv
import errno
import importlib.metadata
import json
import math
import os
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsFloat, SupportsIndex

import numpy as np
from jaxtyping import Float64, Int64
from matplotlib.figure import Figure

from wsrl_kit.errors import RunError
from wsrl_kit.reading import read_json, reading
from wsrl_kit.text import printable

PHASES = ("warmup", "online")
STATUSES = ("running", "stopped", "failed", "finished")
HEADER = "phase,environment_step,gradient_step,metric,value\n"
PACKAGES = ("wsrl-kit", "jax", "numpy", "mujoco")

# What run.json holds, each of which type.
FIELDS: dict[str, Any] = {
    "kind": str,
    "arm": str,
    "seed": int,
    "status": str,
    "parameters": dict,
    "versions": dict,
    "summary": dict,
    "seconds": (int, float),
    "message": str,
}


@dataclass(frozen=True)
class Curve:
    """One metric of one run over time, in the order in which it was recorded.

    Attributes:
        environment_step: online environment steps since the switch; 0 during warmup.
        gradient_step: critic updates in all, warmup included.
        value: the metric, in its own unit; nan where there was nothing to measure.
    """

    environment_step: Int64[np.ndarray, " points"]
    gradient_step: Int64[np.ndarray, " points"]
    value: Float64[np.ndarray, " points"]

    def __len__(self) -> int:
        return len(self.value)


@dataclass(frozen=True)
class RunRecord:
    """What a run's folder says, read once.

    Attributes:
        metrics: a `Curve` per (phase, metric).
        message: why the run failed; "" where it did not.
        seconds: wall-clock of all its sessions together.
        warmup_seconds: that of the warmup run whose metrics were joined to this one's; 0 where none was.
    """

    folder: Path
    kind: str
    arm: str
    seed: int
    status: str
    parameters: dict[str, Any]
    versions: dict[str, str]
    summary: dict[str, Any]
    seconds: float
    message: str
    metrics: dict[tuple[str, str], Curve]
    warmup_seconds: float = 0.0

    def curve(self, metric: str, phase: str = "online") -> Curve:
        """The metric's curve, of length 0 where it was never recorded."""
        empty = Curve(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
        return self.metrics.get((phase, metric), empty)


class Run:
    """The writing side of a run's folder. Every `record` has reached the operating system when it returns.

    Attributes:
        folder: the run's folder.
        rows: number of metric rows written so far.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], rows: int, earlier_seconds: float) -> None:
        self.folder = folder
        self.rows = rows
        self._identity = identity
        self._earlier_seconds = earlier_seconds
        self._start = time.monotonic()

    @classmethod
    def open(
        cls, folder: Path, *, kind: str, arm: str, seed: int, parameters: Mapping[str, Any], resume: bool = True
    ) -> "Run":
        """Create a run, or reopen the same one where it was interrupted, stopped or failed.

        Args:
            folder: created if it is not there.
            kind: what was run, such as "warmup" or "finetune".
            arm: setting of an ablation the run belongs to; "" where it belongs to none.
            seed: the run's seed.
            parameters: all parameters by name; what JSON can hold (tuples become lists).
            resume: False starts anew and throws away what an earlier run left in the folder.

        Raises:
            RunError: the folder holds another run, a finished one or a damaged one, or can't be written.
        """
        identity = {"kind": kind, "arm": arm, "seed": int(seed), "parameters": _plain(parameters)}
        run = cls(Path(folder), identity, 0, 0.0)
        with _writing(run.folder):
            run.folder.mkdir(parents=True, exist_ok=True)
        if resume and (run.folder / "run.json").exists():
            run._reopen()
        else:
            run._create(overwrite=not resume)
        run._write("running")
        return run

    @property
    def metrics_path(self) -> Path:
        """Where the metrics are."""
        return self.folder / "metrics.csv"

    @property
    def checkpoint_path(self) -> Path:
        """Where training keeps the checkpoint of everything."""
        return self.folder / "checkpoint.npz"

    def _create(self, overwrite: bool) -> None:
        if overwrite:
            self._refuse_another_kind()
        else:
            for path, empty_size in ((self.checkpoint_path, 0), (self.metrics_path, len(HEADER))):
                if path.exists() and path.stat().st_size > empty_size:
                    raise RunError(f"{self.folder} holds a {path.name} but no run.json: expected a run or a new folder")
        # run.json is replaced last: a crash before that leaves the earlier run, emptied, which is still a valid run.
        with _writing(self.folder):
            for path in [self.checkpoint_path, *self.folder.glob("figures/*.png")]:
                path.unlink(missing_ok=True)
            _replace(self.metrics_path, HEADER)

    def _refuse_another_kind(self) -> None:
        """Starting anew may replace a run, but not one of another kind, whose folder was named by mistake."""
        try:
            found = _read_json(self.folder)["kind"]
        except RunError:
            return
        if found != self._identity["kind"]:
            raise RunError(
                f"{self.folder} holds a {found} run: expected a {self._identity['kind']} run or a new folder"
            )

    def _reopen(self) -> None:
        found = _read_json(self.folder)
        _check_same(self.folder, found, self._identity)
        if found["status"] == "finished":
            raise RunError(f"{self.folder} holds a finished run: expected an unfinished one, or resume=False")
        self._earlier_seconds = float(found["seconds"])
        self.rows = len(_complete_lines(self.metrics_path)) - 1
        self.rewind(self.rows)

    def record(
        self,
        phase: str,
        environment_step: SupportsIndex,
        gradient_step: SupportsIndex,
        values: Mapping[str, SupportsFloat],
    ) -> None:
        """Append one row per metric, all or none of them.

        Args:
            phase: "warmup" or "online".
            environment_step: online environment steps since the switch; 0 during warmup.
            gradient_step: critic updates in all, warmup included.
            values: numbers by metric name; nan is a value.

        Raises:
            RunError: unknown phase, a name with a separator in it, or a disk that takes no more; all rows recorded
                before are intact.
        """
        if phase not in PHASES:
            raise RunError(f"phase must be one of {', '.join(PHASES)}, found {phase!r}")
        for name in values:
            if any(character in name for character in ',"\r\n'):
                raise RunError(f"a metric's name must be free of commas, quotes and line ends, found {name!r}")
        prefix = f"{phase},{int(environment_step)},{int(gradient_step)},"
        rows = "".join(f"{prefix}{name},{float(value)!r}\n" for name, value in values.items()).encode()
        with _writing(self.metrics_path), open(self.metrics_path, "r+b", buffering=0) as file:
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
        """Keep the first `rows` metric rows: what was recorded when the checkpoint to resume from was written.

        Raises:
            RunError: fewer rows than that are there.
        """
        lines = _complete_lines(self.metrics_path)
        if not 0 <= rows <= len(lines) - 1:
            raise RunError(f"{self.metrics_path} must hold at least {rows} rows to resume, found {len(lines) - 1}")
        with _writing(self.metrics_path):
            # Shortening a file in place is one system call: it can't be half done, and needs no room on the disk.
            os.truncate(self.metrics_path, sum(map(len, lines[: rows + 1])))
        self.rows = rows

    def figure(self, name: str, figure: Figure) -> Path:
        """Keep a figure as figures/<name>.png, replacing the one before.

        Raises:
            RunError: it can't be written; the one before is intact.
        """
        path = self.folder / "figures" / f"{name}.png"
        with _writing(path):
            save_figure(path, figure)
        return path

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Mark the run finished: the last thing that is written."""
        self._write("finished", summary=summary)

    def stop(self) -> None:
        """Mark the run stopped by its user; it can be reopened."""
        self._write("stopped")

    def fail(self, message: str) -> None:
        """Mark the run failed and say why; it can be reopened."""
        self._write("failed", message=message)

    def _write(self, status: str, summary: Mapping[str, Any] | None = None, message: str = "") -> None:
        content = self._identity | {
            "status": status,
            "versions": versions(),
            "summary": _plain(summary or {}),
            "seconds": round(self._earlier_seconds + time.monotonic() - self._start, 3),
            "message": message,
        }
        with _writing(self.folder / "run.json"):
            _replace(self.folder / "run.json", json.dumps(content, indent=2, allow_nan=False) + "\n")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on, without importing them."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package.replace("-", "_")] = importlib.metadata.version(package)
    return found


def save_figure(path: Path, figure: Figure) -> None:
    """Write a PNG as a whole or not at all, and create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    try:
        figure.savefig(temporary, format="png")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_run(folder: Path) -> RunRecord:
    """Read a run's folder, also while the run is still being written.

    Raises:
        RunError: there is no run in it, or it is damaged.
    """
    folder = Path(folder)
    # Names become part of tables, figures, and what a terminal shows.
    content: dict[str, Any] = {
        name: printable(value) if isinstance(value, str) else value for name, value in _read_json(folder).items()
    }
    return RunRecord(folder=folder, metrics=_read_metrics(folder / "metrics.csv"), **content)


def find_runs(root: Path) -> list[RunRecord]:
    """Read every run under a folder, sorted by kind, arm and seed.

    Raises:
        RunError: the folder is missing, or one of its runs is damaged.
    """
    if not Path(root).is_dir():
        raise RunError(f"{root} must be a folder of runs, found no folder")
    records = [read_run(path.parent) for path in sorted(Path(root).rglob("run.json"))]
    return sorted(records, key=lambda record: (record.kind, record.arm, record.seed))


def _read_json(folder: Path) -> dict[str, Any]:
    path = folder / "run.json"
    if not path.exists():
        raise RunError(f"{folder} must hold a run, found no run.json in it")
    with reading(path, RunError, "must hold a run's JSON, found a damaged file"):
        content = read_json(path)
        missing = [name for name in FIELDS if not isinstance(content, dict) or name not in content]
        if missing:
            raise RunError(f"{path} must hold {', '.join(FIELDS)}, found no {missing[0]}")
        for name, kind in FIELDS.items():
            if not isinstance(content[name], kind) or isinstance(content[name], bool):
                raise RunError(f"{path} must hold a {name} of another type, found {content[name]!r}")
        if content["status"] not in STATUSES:
            raise RunError(f"{path} must have a status of {', '.join(STATUSES)}, found {content['status']!r}")
        return {name: content[name] for name in FIELDS} | {"seconds": float(content["seconds"])}


def _complete_lines(path: Path) -> list[bytes]:
    """The header and all rows with their line ends, without a last line that a crash cut short."""
    with reading(path, RunError, "must be a readable file, found"):
        lines = path.read_bytes().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    if not lines or lines[0] != HEADER.encode():
        raise RunError(f"{path} must begin with the line {HEADER.strip()!r}, found another")
    return lines


def _read_metrics(path: Path) -> dict[tuple[str, str], Curve]:
    columns: dict[tuple[str, str], tuple[list[int], list[int], list[float]]] = {}
    with reading(path, RunError):
        rows = csv.reader(line.decode(errors="replace") for line in _complete_lines(path)[1:])
        for number, row in enumerate(rows, start=2):
            try:
                phase, environment_step, gradient_step, metric, value = row
                parsed = int(environment_step), int(gradient_step), float(value)
            except ValueError:
                raise RunError(f"{path} must hold {HEADER.strip()} in line {number}, found {','.join(row)!r}") from None
            key = printable(phase), printable(metric)
            for column, entry in zip(columns.setdefault(key, ([], [], [])), parsed, strict=True):
                column.append(entry)  # type: ignore[attr-defined]
        return {
            key: Curve(np.array(environment, np.int64), np.array(gradient, np.int64), np.array(value, np.float64))
            for key, (environment, gradient, value) in columns.items()
        }


def _check_same(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    pairs = [(name, found[name], wanted[name]) for name in ("kind", "arm", "seed")]
    absent = "nothing"
    for name in [*wanted["parameters"], *found["parameters"]]:
        pairs.append((name, found["parameters"].get(name, absent), wanted["parameters"].get(name, absent)))
    for name, before, now in pairs:
        if before != now:
            raise RunError(f"{folder} holds another run: expected {name} = {now!r}, found {before!r}")


def _plain(value: Any) -> Any:
    """The value as JSON reads it back: numpy numbers, tuples and paths become plain, non-finite numbers null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"{path} can't be written: {error.strerror or error}; all recorded before is intact") from error
