"""What a data file holds, and what is wrong with it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Integer

from wsrl_kit.data.conventions import AS_WRITTEN, Conventions
from wsrl_kit.data.labels import labelled, read_labels, summary
from wsrl_kit.data.recording import Recording, repair_timeouts, value_problems
from wsrl_kit.data.sources import Paths, expand, is_dump, read_recording
from wsrl_kit.data.task import Task, file_remarks, sentences, success_hint, success_remarks, task_remarks
from wsrl_kit.data.trajectory import Layout
from wsrl_kit.errors import DataError, NoTransitionsError
from wsrl_kit.files import digest, reading
from wsrl_kit.text import printable


@dataclass(frozen=True)
class FileReport:
    """Facts and problems of one file.

    Attributes:
        format: "" for an unreadable file.
        facts: name -> value as text, in printing order.
        problems: one sentence each; empty for a healthy file.
        layout: None: unreadable.
        warnings: what does not fit the task, one sentence each.
        success: 1, 0 or nan (unknown) of every episode.
        info_names: names in the rows' `infos`.
        is_empty: an empty dump of a HIL-SERL run.
    """

    path: str
    format: str
    facts: dict[str, str]
    problems: tuple[str, ...]
    layout: Layout | None = None
    warnings: tuple[str, ...] = ()
    success: tuple[float, ...] = ()
    info_names: frozenset[str] = frozenset()
    is_empty: bool = False


def examine_all(
    paths: Paths | Sequence[str | os.PathLike[str]],
    timeout_length: int | None = None,
    conventions: Conventions = AS_WRITTEN,
    task: Task | None = None,
) -> list[FileReport]:
    """`examine` for all files of one dataset; also reports differences between files."""
    files, reports = _files(paths)
    first: tuple[str, Layout] | None = None
    success: list[float] = []
    names: set[str] = set()
    for file in files:
        report = examine(file, timeout_length, conventions, task)
        if report.layout is not None:
            first = first or (report.path, report.layout)
            if difference := report.layout.difference(first[1]):
                odd = f"{report.path} {difference} as in {first[0]}."
                report = replace(report, problems=(*report.problems, odd))
        success += report.success
        names |= report.info_names
        reports.append(report)
    if task is not None and reports:
        remarks = success_remarks(np.array(success, np.float32), names)
        reports[-1] = replace(reports[-1], warnings=(*reports[-1].warnings, *remarks, *task_remarks(task)))
    if files and all(report.is_empty for report in reports):
        nothing = "the dumps hold no transitions."
        reports[-1] = replace(reports[-1], problems=(*reports[-1].problems, nothing))
    return reports


def _files(paths: Paths | Sequence[str | os.PathLike[str]]) -> tuple[list[Path], list[FileReport]]:
    """The files behind paths, and reports for paths without files."""
    given: list[Any] = list(paths.values()) if isinstance(paths, Mapping) else [paths]
    entries = [entry for each in given for entry in (each if each and isinstance(each, list | tuple) else [each])]
    files: list[Path] = []
    missing = []
    for entry in entries:
        try:
            files += [file for found in expand(entry).values() for file in found]
        except DataError as error:
            missing.append(FileReport(os.fspath(entry or ""), "", {}, (str(error),)))
    return list(dict.fromkeys(files)), missing


def examine(
    path: str | os.PathLike[str],
    timeout_length: int | None = None,
    conventions: Conventions = AS_WRITTEN,
    task: Task | None = None,
) -> FileReport:
    """Reads a file and reports all it finds; bad data never raise.

    Args:
        timeout_length: the task's time limit in transitions; None: inferred.
        task: what the file is for; other sizes and missing cameras are problems.
    """
    name = os.fspath(path)
    if task is not None:
        conventions = replace(conventions, views=task.views)
    try:
        recording = read_recording(path, None if task is None else tuple(task.layout.cameras), conventions)
    except NoTransitionsError as error:
        # Of a run's dumps some may be empty; any other file should hold something.
        is_problem = not is_dump(Path(path))
        return FileReport(name, "", {"transitions": "0"}, (str(error),) if is_problem else (), is_empty=not is_problem)
    except DataError as error:
        return FileReport(name, "", {}, (str(error),))
    found, more = [*recording.problems, *value_problems(recording)], {}
    refused: tuple[str, ...] = ()
    try:
        with reading(path, DataError):
            more["digest"] = digest([Path(path)])
        recording = labelled(Path(path), recording, conventions.missing_rewards)
        if labels := summary(read_labels(Path(path))):
            more["labels"] = labels
    except DataError as error:
        refused = (str(error),)
    if len(broken := recording.gaps):
        found.append(
            f"{len(broken)} gap(s): the observation after transition {broken[0]} is not the one it led to, though no "
            "end of an episode is recorded there (it is read as truncated)"
        )
    problems = [*(f"{name}: {problem}." for problem in found), *refused]
    remarks: list[str] = []
    if task is not None:
        if difference := recording.layout.difference(task.layout):
            problems.append(f"{name} {difference} as {task.exp_name} has.")
        remarks = sentences((name, remark) for remark in file_remarks(path, recording, task))
    return FileReport(
        name,
        recording.format,
        _facts(repair_timeouts(recording, timeout_length)) | more,
        tuple(problems),
        recording.layout,
        tuple(remarks),
        tuple(recording.episode_success.tolist()),
        frozenset(recording.infos),
    )


def _facts(recording: Recording) -> dict[str, str]:
    success, last = recording.episode_success, recording.episode_ends - 1
    known = success[~np.isnan(success)]
    terminated, truncated = recording.terminated[last], recording.truncated[last]
    actions = recording.actions
    facts = {
        "format": recording.format,
        "episodes": f"{recording.episode_count}",
        "transitions": f"{len(recording)}",
        "observation": f"{recording.observation_kind}, {recording.observations.shape[1]} flat",
        "action": f"{recording.action_kind}, from {actions.min():.4g} to {actions.max():.4g}",
        "reward": f"from {recording.rewards.min():.4g} to {recording.rewards.max():.4g}"
        + ("" if recording.rewards_recorded else ", not recorded"),
        "success rate": f"{known.mean():.1%} of {len(known)} episodes"
        if len(known)
        else f"not recorded{success_hint(recording.infos)}",
        "return": _spread(recording.episode_returns.astype(np.float64)),
        "length": _spread(recording.episode_lengths),
        "ends": f"{terminated.sum()} terminated, {(truncated & ~terminated).sum()} truncated, "
        f"{(~truncated & ~terminated).sum()} cut off",
        "timeouts repaired": f"{recording.timeouts_repaired}",
    }
    if count := int(recording.is_clipped.sum()):
        facts["actions clipped"] = f"{count} of {len(recording)}, the largest {np.nanmax(np.abs(actions)):.4g}"
    if recording.frames:
        facts |= _camera_facts(recording)
    if recording.grasp_penalty is not None:
        facts["grasp penalty"] = f"{np.nansum(recording.grasp_penalty):.4g} in all"
    names = [name for name in np.unique(recording.source) if name]
    return facts | ({"sources": ", ".join(names)} if names else {})


def _camera_facts(recording: Recording) -> dict[str, str]:
    found = recording.layout
    count = len(next(iter(recording.frames.values())))
    frame_bytes = sum(int(np.prod(shape)) for shape in found.cameras.values())
    repeated = recording.stored_frames - count
    return {
        "cameras": ", ".join(f"{camera} uint8 {shape}" for camera, shape in found.cameras.items()),
        "horizon": f"{found.observation_horizon} frame(s) in an observation",
        "frames": f"{count} of each camera, {count * frame_bytes / 1e6:.1f} MB in all",
        "frames in file": "each once"
        if not repeated
        else f"{recording.stored_frames} of each camera, of which {repeated} repeat another",
    }


def _spread(values: Float[np.ndarray, " episode"] | Integer[np.ndarray, " episode"]) -> str:
    return f"{values.mean():.4g} on average, from {values.min():.4g} to {values.max():.4g}"


def render(report: FileReport) -> str:
    """The report as text."""
    lines = [report.path, *(f"  {name:<18} {value}" for name, value in report.facts.items())]
    lines += [f"  warning: {warning}" for warning in report.warnings]
    lines += [f"  problem: {problem}" for problem in report.problems] or ["  no problems found"]
    return "\n".join(map(printable, lines))
