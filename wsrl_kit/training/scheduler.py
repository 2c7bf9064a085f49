"""Connects to a Dask scheduler, compares the versions of its workers with this machine's, and calls a learner."""

import functools
import platform
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import wsrl_kit
from wsrl_kit.data.digests import digest
from wsrl_kit.errors import RunError
from wsrl_kit.runs.run import versions
from wsrl_kit.text import one_line

if TYPE_CHECKING:
    from distributed import Client

CONNECT_SECONDS = 10.0
"""Time that a scheduler, or its first worker, may take to answer."""

LEARNER = "learner"
"""The resource of the worker that learns."""

IMPORT_SECONDS = 60.0
"""Time that a worker has to import the kit."""

CALL_SECONDS = 5.0
"""Time for an answer, after which the connection counts as lost."""

T = TypeVar("T")


@contextmanager
def client_of(scheduler: Any) -> Iterator["Client"]:
    """Yields a client of a scheduler that has a worker.

    Args:
        scheduler: address, cluster or client.

    Raises:
        RunError: no scheduler or no worker answers.
    """
    from distributed import Client

    address = getattr(scheduler, "scheduler_address", scheduler)
    is_own = not isinstance(scheduler, Client)
    try:
        if isinstance(scheduler, str):
            # Dask would try a closed port again and again.
            parts = urlsplit(scheduler)
            socket.create_connection((parts.hostname, parts.port), CONNECT_SECONDS).close()
        client = Client(scheduler, set_as_default=False, timeout=CONNECT_SECONDS) if is_own else scheduler
    except (OSError, TypeError, RuntimeError) as error:  # the last two: Dask, of encryption
        raise RunError(
            f"no Dask scheduler can be reached at {address} ({one_line(str(error))}): start one with `dask scheduler`, "
            "and give the address that it prints"
        ) from error
    with client if is_own else nullcontext():
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError as error:
            raise RunError(
                f"the Dask scheduler at {address} has no worker: start some on each machine with "
                f"`dask worker {address} --nworkers auto --nthreads 1`"
            ) from error
        yield client


def check_versions(address: str, found: dict[str, str] | BaseException) -> None:
    """Compares a worker's `kit_versions`, or what it raised instead, with this machine's.

    Raises:
        RunError: the worker can't import the kit, or has another version of the kit or of a package.
    """
    if isinstance(found, BaseException):
        raise RunError(
            f"the worker {address} can't import this version of the kit ({one_line(str(found))}): install on the "
            "worker what is installed here"
        )
    own = kit_versions()
    for name in own | found:
        if own.get(name) != found.get(name):
            raise RunError(
                f"the worker {address} has {name} {found.get(name)}, expected {own.get(name)} as here: install on the "
                "worker what is installed here"
            )


@functools.cache
def kit_versions() -> dict[str, str]:
    """Versions of what the bytes of a run depend on, with a digest of the kit's source."""
    source = digest(sorted(Path(wsrl_kit.__file__).parent.rglob("*.py")))
    python = ".".join(platform.python_version_tuple()[:2])
    return versions() | {"python": python, "source of the kit with digest": source}


class ContactLost(Exception):
    """The learner did not answer in time."""


class Link:
    """Calls functions of the worker with the resource `LEARNER`, each with a deadline.

    Raises:
        RunError: no scheduler or worker answers, no worker or two have the resource, or its versions differ.
    """

    def __init__(self, address: str) -> None:
        self._address, self._stack = address, ExitStack()
        self._client: Client | None = None
        self._worker = ""
        self._connect()

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """The function's result; the call may run twice.

        Raises:
            ContactLost: no answer, or none any more.
        """
        try:
            if self._client is None:
                self._connect()
            return self._submit(function, *arguments, seconds=CALL_SECONDS)
        # Dask has many errors for a connection that is gone, and what the learner raises it returns.
        except Exception as error:
            self.close()
            reason = one_line(str(error)) or f"no answer within {CALL_SECONDS:.0f} s"
            raise ContactLost(reason) from error

    def tell(self, function: Callable[..., object], *arguments: Any) -> None:
        """Calls a function if there is contact, and it does not matter whether it runs."""
        if self._client is not None:
            with suppress(ContactLost):
                self.call(function, *arguments)

    def close(self) -> None:
        self._client = None
        # A lost connection may fail once more while it is closed.
        with suppress(Exception):
            self._stack.close()

    def _connect(self) -> None:
        try:
            client = self._client = self._stack.enter_context(client_of(self._address))
            before, self._worker = self._worker, self._find(client)
            if self._worker != before:
                self._check()
        except BaseException:
            self._worker = ""
            self.close()
            raise

    def _check(self) -> None:
        try:
            found: Any = self._submit(kit_versions, seconds=IMPORT_SECONDS)
        except TimeoutError:
            raise RunError(f"the worker {self._worker} does not answer: start it again") from None
        except Exception as error:
            found = error
        check_versions(self._worker, found)

    def _find(self, client: "Client") -> str:
        deadline = time.monotonic() + CONNECT_SECONDS
        while True:
            workers = client.scheduler_info()["workers"]
            found = [address for address, worker in workers.items() if worker["resources"].get(LEARNER)]
            if len(found) == 1:
                return found[0]
            if found or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        start = f"`dask worker {self._address} --nthreads 1 --resources {LEARNER}=1`"
        if not found:
            raise RunError(
                f"no worker of the scheduler at {self._address} has the resource {LEARNER}: start one where learning "
                f"is to run, with {start}"
            )
        raise RunError(
            f"{len(found)} workers of the scheduler at {self._address} have the resource {LEARNER}, expected one for "
            f"one robot ({', '.join(sorted(found))}): give the other robot a scheduler of its own"
        )

    def _submit(self, function: Callable[..., T], *arguments: Any, seconds: float) -> T:
        assert self._client is not None
        future = self._client.submit(function, *arguments, workers=[self._worker], pure=False)
        return future.result(timeout=seconds)
