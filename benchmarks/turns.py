"""Contenders that are measured in turns: A B A B ..., each in a process of its own, nothing else running meanwhile.

What slows the machine for a while slows all contenders alike, and no library's threads or memory are another's.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from multiprocessing.connection import Connection
from typing import Any

from tqdm import tqdm

Measure = Callable[[], Mapping[str, float]]
"""One turn: seconds by what was measured."""

Results = dict[str, dict[str, list[float]]]
"""Seconds of every round, by contender and by what was measured."""


@dataclass(frozen=True)
class Contender:
    """What one of several peers does.

    Attributes:
        prepare: called once in the contender's process, with `arguments`; it warms up (compiles, fills) and returns
            what is called in each round. A function at a module's top level, so that the process can import it.
        cores: cores the process may use; None for all.
    """

    name: str
    prepare: Callable[..., Measure]
    arguments: tuple[Any, ...] = ()
    cores: frozenset[int] | None = None


def compare(contenders: Sequence[Contender], rounds: int) -> Results:
    """Measures all contenders in each of `rounds` rounds."""
    context = multiprocessing.get_context("spawn")
    results: Results = {contender.name: {} for contender in contenders}
    processes, connections = [], []
    try:
        for contender in contenders:
            connection, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, contender), daemon=True)
            _start(process, contender.cores)
            theirs.close()
            processes.append(process)
            connections.append(connection)
            _receive(contender, connection)
        turns = [(contender, connection) for contender, connection in zip(contenders, connections, strict=True)]
        for contender, connection in tqdm(turns * rounds, desc="turns", leave=False):
            connection.send("turn")
            for item, seconds in _receive(contender, connection).items():
                results[contender.name].setdefault(item, []).append(seconds)
    finally:
        for process in processes:
            process.terminate()
            process.join()
    return results


def medians(results: Results) -> dict[str, dict[str, float]]:
    """Median over the rounds."""
    return {
        name: {item: statistics.median(seconds) for item, seconds in items.items()} for name, items in results.items()
    }


def _start(process: Any, cores: frozenset[int] | None) -> None:
    """Starts it on these cores, which it inherits: NumPy starts its threads before a process could pin itself."""
    everything = os.sched_getaffinity(0) if cores else None
    if cores:
        os.sched_setaffinity(0, cores)
    process.start()
    if everything:
        os.sched_setaffinity(0, everything)


def _serve(connection: Connection, contender: Contender) -> None:
    try:
        measure = contender.prepare(*contender.arguments)
        connection.send({})
        while True:
            connection.recv()
            connection.send(dict(measure()))
    except Exception:
        connection.send(traceback.format_exc())


def _receive(contender: Contender, connection: Connection) -> dict[str, float]:
    try:
        answer = connection.recv()
    except EOFError:
        raise SystemExit(f"{contender.name}: its process ended without an answer") from None
    if isinstance(answer, str):
        raise SystemExit(f"{contender.name}: {answer}")
    return answer


def one_core() -> frozenset[int] | None:
    """One of the cores that this process may use; None where the operating system doesn't pin."""
    return frozenset([max(os.sched_getaffinity(0))]) if hasattr(os, "sched_getaffinity") else None


def arguments(description: str) -> argparse.Namespace:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print every round's seconds as JSON instead of tables")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contender; medians are shown (default 7)")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, found {options.rounds}")
    return options


def machine(*packages: str) -> dict[str, Any]:
    """What the figures depend on: processor, cores, date, and versions of the packages named."""
    model = "unknown processor"
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), model)
    versions = {"python": platform.python_version()} | {package: metadata.version(package) for package in packages}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"date": date.today().isoformat(), "processor": model, "cores": cores, "versions": versions}


def show(machine: Mapping[str, Any], tables: Mapping[str, Sequence[Sequence[str]]], raw: Any, as_json: bool) -> None:
    """Prints markdown tables (first row: headings), or the machine and `raw` as JSON."""
    if as_json:
        print(json.dumps({"machine": machine, "results": raw}))
        return
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    print(f"{machine['cores']} cores, {machine['processor']}; {versions}; {machine['date']}")
    for title, (headings, *rows) in tables.items():
        print(f"\n{title}\n\n| {' | '.join(headings)} |\n|---|{'---:|' * (len(headings) - 1)}")
        for row in rows:
            print(f"| {' | '.join(row)} |")
