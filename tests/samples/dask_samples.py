"""Schedulers and workers as processes, and a network between them that fails."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

import wsrl_kit
from waiting import wait_for

KIT = Path(wsrl_kit.__file__).parent.parent
SAMPLES = Path(__file__).parent
DASK = Path(sys.executable).parent / "dask"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(*command: str, folder: Path, path: Path = KIT) -> Iterator[subprocess.Popen[bytes]]:
    """A process in another folder, with the kit from `path`, ended with its children in the end."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (path, SAMPLES)))}
    with (
        (folder / "log.txt").open("ab") as log,
        subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log) as started,
    ):
        try:
            yield started
        finally:
            with suppress(psutil.NoSuchProcess):
                for each in [*psutil.Process(started.pid).children(recursive=True), started]:
                    with suppress(psutil.NoSuchProcess):
                        each.kill()


def scheduler_process(port: int, folder: Path, *options: str) -> Any:
    command = [DASK, "scheduler", "--host", "127.0.0.1", "--port", str(port), "--dashboard-address", "127.0.0.1:0"]
    return process(*map(str, command), *options, folder=folder)


def worker_process(address: str, folder: Path, *options: str, path: Path = KIT) -> Any:
    command = [DASK, "worker", address, "--host", "127.0.0.1", "--nthreads", "1", "--dashboard-address", "127.0.0.1:0"]
    return process(*map(str, command), *options, folder=folder, path=path)


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def cluster(folder: Path, workers: int = 2, port: int | None = None) -> Iterator[str]:
    """The address of a scheduler with workers, all of them processes in another folder than this one."""
    port = port or free_port()
    address = f"tcp://127.0.0.1:{port}"
    with scheduler_process(port, folder), worker_process(address, folder, "--nworkers", str(workers)):
        wait_for(lambda: is_listening(port))
        yield address


class Network:
    """A TCP relay to a port, whose network can be cut and slowed.

    Attributes:
        port: of this side.
        is_cut: nothing passes, and no end of a connection is told: what is half-open.
        rate: bytes per second in each direction; None: unlimited.
    """

    def __init__(self, target: int) -> None:
        self.is_cut, self.rate = False, None
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self, seconds: float) -> None:
        """Cuts the network for a while, and does not wait."""
        self.is_cut = True
        threading.Timer(seconds, setattr, (self, "is_cut", False)).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._connect, args=(self._listener.accept()[0],), daemon=True).start()

    def _connect(self, here: socket.socket) -> None:
        with here, suppress(OSError), socket.create_connection(("127.0.0.1", self._target)) as there:
            back = threading.Thread(target=self._relay, args=(there, here), daemon=True)
            back.start()
            self._relay(here, there)
            back.join()

    def _relay(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(2**14):
                if self.rate is not None:
                    time.sleep(len(content) / self.rate)
                while self.is_cut:
                    time.sleep(0.01)
                sink.sendall(content)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
