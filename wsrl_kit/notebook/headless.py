"""Runs a notebook without a front end, by papermill, and decides whether its run was finished."""

import json
import logging
import os
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import repeat
from pathlib import Path
from types import FrameType
from typing import Any

from wsrl_kit import errors
from wsrl_kit.files import write_text
from wsrl_kit.notebook.parameters import NOTEBOOK_VARIABLE, check_values, read_notebook
from wsrl_kit.runs.progress import signals_handled
from wsrl_kit.runs.run import RECORD, refuse_locked

# Small networks gain nothing from more threads, and several runs on one machine would fight for its cores.
THREADS = 4
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")  # NPROC: XLA on the CPU

# After Ctrl-C a run may take this long to save before its kernel is killed, and a notebook without a run to end: Python
# loses an interrupt that meets it in the midst of some imports.
SAVE_SECONDS, END_SECONDS = 60.0, 10.0
LOOK_SECONDS = 0.2  # between two looks for a kernel to kill

FOLDED = """
{%- extends "lab/index.html.j2" -%}
{%- block input -%}
<details><summary style="color: #555555; font: 80% sans-serif">Code</summary>{{ super() }}</details>
{%- endblock input -%}
"""
"""Template of the HTML: code opens by a click, or Tab and Enter."""


class Interrupted(BaseException):
    """A signal asked for the end of the run, whose notebook is kept as far as it was executed.

    Attributes:
        number: the signal's.
        has_begun: whether a cell had begun.
    """

    has_begun = True

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


def run_notebook(notebook: Path, given: Mapping[str, Any], output_dir: Path) -> Path:
    """Executes a notebook into `output_dir`, with its text output shown as it comes, and writes its HTML beside it.

    The kernel is the running interpreter and works in the current directory. The notebook's parameter `output_dir`, if
    it has one, is set to the folder. To be called from the main thread, which receives the signals.

    Args:
        notebook: the notebook's file.
        given: values by parameter name; a text stands for the value that it spells, as on a command line.
        output_dir: folder of the run, created if need be.

    Returns:
        The executed notebook.

    Raises:
        ParameterError: before anything is executed or written, if the notebook or a parameter is wrong.
        DataError: likewise, if an input file is missing.
        WSRLKitError: if a cell raised one, with its message.
        RunError: if another process writes to `output_dir`, a cell failed otherwise, the kernel died, or the notebook
            left no finished run.
        Interrupted: on SIGINT, SIGTERM or SIGHUP.
    """
    described = read_notebook(notebook)
    if "output_dir" in described.names:
        given = {**given, "output_dir": str(output_dir)}
    values = check_values(described, given)
    refuse_locked(output_dir)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.RunError(f"the output folder {output_dir} can't be made: {error.strerror}") from error
    executed = output_dir / notebook.name
    _bound_threads()
    os.environ.pop(NOTEBOOK_VARIABLE, None)  # inherited when a notebook's cell starts the command
    record = output_dir / RECORD
    before, kept = _content(record), _content(executed)
    executed.unlink(missing_ok=True)  # from here on it tells how far this execution has come
    try:
        _execute(notebook, executed, values, lambda: _content(record) != before)
    except (errors.WSRLKitError, Interrupted) as error:
        if isinstance(error, Interrupted):
            did_nothing = not error.has_begun
        else:  # a refusal
            did_nothing = type(error).__name__ == getattr(error.__cause__, "ename", None)
        if did_nothing and kept is not None and _content(record) == before:
            # What is in the folder keeps its notebook.
            executed.write_bytes(kept)
        raise
    _check_finished(output_dir)
    print(f"writing {executed.with_suffix('.html').name}", flush=True)
    _write_html(executed)
    return executed


def _execute(notebook: Path, executed: Path, values: dict[str, Any], has_run: Callable[[], bool]) -> None:
    """Papermill in a thread of its own, so that the main thread can end the kernel on a signal.

    Args:
        has_run: whether the notebook has opened its run, which saves when it is interrupted.
    """
    kernels: list[Any] = []
    failures: list[BaseException] = []
    ended = threading.Event()

    def work() -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="wsrl-kit-") as sockets:
                try:
                    _papermill(notebook, executed, values, kernels, Path(sockets))
                finally:
                    for kernel in kernels:
                        kernel.shutdown_kernel(now=True)
        except BaseException as error:
            failures.append(error)
        finally:
            ended.set()

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    with signals_handled(interrupt):
        try:
            threading.Thread(target=work, name="papermill", daemon=True).start()
            ended.wait()
        except Interrupted as interrupted:
            interrupted.has_begun = _has_begun(executed)
            if interrupted.has_begun:
                print(f"wsrl-kit: {interrupted}, the run saves", file=sys.stderr, flush=True)
            for number, seconds in _signals(interrupted.has_begun, has_run):
                for kernel in kernels:
                    with suppress(ProcessLookupError):  # it has just ended
                        if kernel.has_kernel:
                            os.kill(kernel.provisioner.pid, number)
                if ended.wait(seconds):
                    break
            raise
    if failures:
        raise _explain(failures[0], executed) from failures[0]


def _papermill(notebook: Path, executed: Path, values: dict[str, Any], kernels: list[Any], sockets: Path) -> None:
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager, KernelManager

    # Sockets in a private folder: no other user can listen, and runs that start together can't share a port.
    place = {"transport": "ipc", "connection_file": str(sockets / "kernel.json")}
    # Without kernelspecs it is this Python, whatever the notebook asks for or the user's home holds.
    kernel = KernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]), **place)
    kernels.append(kernel)
    # It starts while papermill is imported. The option silences what it says to itself when it is shut down; what cells
    # print does not pass its log.
    kernel.start_kernel(extra_arguments=["--log-level=CRITICAL"])

    class StartedKernel(AsyncKernelManager):
        """Papermill's view of the kernel."""

        def __init__(self, **options: Any) -> None:
            super().__init__(**place, **options)
            self.load_connection_file()
            self.provisioner = kernel.provisioner

    # papermill's imports reach jsonschema, which reads this package's grammar of web addresses in 3 s if it can import
    # it. No notebook needs that.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # None: can't be imported
    from papermill import execute_notebook

    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    # What a kernel's end looks like from here is told in our own words.
    logging.getLogger("traitlets").setLevel(logging.CRITICAL)
    execute_notebook(
        notebook,
        executed,
        values,
        kernel_name="python3",
        language="python",
        kernel_manager_class=StartedKernel,
        progress_bar=False,
        stdout_file=sys.stdout,
        stderr_file=sys.stderr,
    )


def _has_begun(executed: Path) -> bool:
    """Whether a cell of the notebook has begun; papermill marks all as pending before it starts the kernel."""
    try:
        cells = json.loads(executed.read_bytes())["cells"]
        return any(cell["metadata"]["papermill"]["status"] != "pending" for cell in cells)
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError):
        return True


def _signals(has_begun: bool, has_run: Callable[[], bool]) -> Iterator[tuple[signal.Signals, float]]:
    """By which a kernel ends, each with the seconds to wait after it.

    A kernel without a cell would answer an interrupt with a traceback of its own; it is only killed.
    """
    if has_begun and not has_run():
        yield signal.SIGINT, END_SECONDS
    if has_begun and has_run():
        yield signal.SIGINT, SAVE_SECONDS
    # Also the kernel that is about to start.
    yield from repeat((signal.SIGKILL, LOOK_SECONDS), 300)


def _explain(error: BaseException, executed: Path) -> errors.WSRLKitError:
    """The failure of a notebook as one of our own errors."""
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    if isinstance(error, PapermillExecutionError):
        kind = getattr(errors, error.ename, None)
        if isinstance(kind, type) and issubclass(kind, errors.WSRLKitError):
            return kind(error.evalue)
        plain = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
        tail = "\n".join(plain.splitlines()[-8:])
        return errors.RunError(f"cell [{error.exec_count}] failed, see {executed}\n{tail}")
    if isinstance(error, DeadKernelError):
        return errors.RunError(f"the kernel died, killed or out of memory; what it had done is in {executed}")
    return errors.RunError(f"{executed.name} could not be executed: {type(error).__name__}: {error}")


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _check_finished(output_dir: Path) -> None:
    record = output_dir / RECORD
    try:
        status = json.loads(record.read_text())["status"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.RunError(f"the notebook ended without a finished run: {record} is missing or damaged") from error
    if status != "finished":
        raise errors.RunError(f"the notebook ended without a finished run: {record} says {status!r}")


def _write_html(executed: Path) -> None:
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(exclude_input_prompt=True, exclude_output_prompt=True)
    exporter.raw_template = FOLDED
    text, _ = exporter.from_filename(str(executed))
    write_text(executed.with_suffix(".html"), text, errors.RunError)


def _bound_threads() -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for variable in THREAD_VARIABLES:
        os.environ.setdefault(variable, str(min(cores, THREADS)))
