"""What a data file holds, and everything that is wrong with it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Integer

from wsrl_kit.data.files import read_recording
from wsrl_kit.data.layout import Layout
from wsrl_kit.data.recording import Recording, gaps, layout, repair_timeouts, segment_ends, value_problems
from wsrl_kit.errors import DataError
from wsrl_kit.text import printable


@dataclass(frozen=True)
class Report:
    """Facts about one file, and its problems.

    Attributes:
        path: the file.
        format: its format, "" where it can't be read (the facts below are empty then).
        facts: name of a fact -> its value as text, in the order to print them.
        problems: one sentence each; empty for a healthy file.
        layout: sizes and cameras, None where it can't be read.
    """

    path: str
    format: str
    facts: dict[str, str]
    problems: tuple[str, ...]
    layout: Layout | None = None


def examine_all(paths: Sequence[str | os.PathLike[str]], timeout_length: int | None = None) -> list[Report]:
    """`examine` for files that are meant to be one dataset: one whose sizes or cameras are not the first one's says so.

    Args:
        paths: files, or folders of Minari datasets.
        timeout_length: as for `examine`.
    """
    reports: list[Report] = []
    first: tuple[str, Layout] | None = None
    for report in (examine(path, timeout_length) for path in paths):
        if report.layout is not None:
            first = first or (report.path, report.layout)
            if difference := report.layout.difference(first[1]):
                odd = f"{report.path} {difference} as in {first[0]}."
                report = replace(report, problems=(*report.problems, odd))
        reports.append(report)
    return reports


def examine(path: str | os.PathLike[str], timeout_length: int | None = None) -> Report:
    """Reads a file as far as it can be read and reports all it finds; bad data is never an error here.

    Args:
        path: a file, or the folder of a Minari dataset or a LeRobotDataset.
        timeout_length: the task's time limit in transitions; None: inferred.
    """
    try:
        recording = read_recording(path)
    except DataError as error:
        return Report(os.fspath(path), "", {}, (str(error),))
    found = [*recording.problems, *value_problems(recording)]
    broken = gaps(recording)
    if len(broken):
        found.append(
            f"{len(broken)} gap(s): the observation after transition {broken[0]} is not the one it led to, though no "
            "end of an episode is recorded there (it is read as truncated)"
        )
    problems = tuple(f"{os.fspath(path)}: {problem}." for problem in found)
    facts = _facts(repair_timeouts(recording, timeout_length))
    return Report(os.fspath(path), recording.format, facts, problems, layout(recording))


def _facts(recording: Recording) -> dict[str, str]:
    ends = segment_ends(recording)
    lengths = np.diff(ends, prepend=0)
    starts = ends - lengths
    returns = np.add.reduceat(recording.rewards.astype(np.float64), starts)
    success = np.fmax.reduceat(recording.success, starts)
    known = success[~np.isnan(success)]
    terminated, truncated = recording.terminated[ends - 1], recording.truncated[ends - 1]
    actions = recording.actions
    facts = {
        "format": recording.format,
        "episodes": f"{len(ends)}",
        "transitions": f"{len(recording)}",
        "observation": f"{recording.observation_kind}, {recording.observations.shape[1]} flat",
        "action": f"{recording.action_kind}, from {actions.min():.4g} to {actions.max():.4g}",
        "reward": f"from {recording.rewards.min():.4g} to {recording.rewards.max():.4g}",
        "success rate": f"{known.mean():.1%} of {len(known)} episodes" if len(known) else "not recorded",
        "return": _spread(returns),
        "length": _spread(lengths),
        "ends": f"{terminated.sum()} terminated, {(truncated & ~terminated).sum()} truncated, "
        f"{(~truncated & ~terminated).sum()} cut off",
        "timeouts repaired": f"{recording.timeouts_repaired}",
    }
    if recording.frames:
        facts |= _camera_facts(recording)
    if recording.grasp_penalty is not None:
        facts["grasp penalty"] = f"{np.nansum(recording.grasp_penalty):.4g} in all"
    names = [name for name in np.unique(recording.source) if name]
    return facts | ({"sources": ", ".join(names)} if names else {})


def _camera_facts(recording: Recording) -> dict[str, str]:
    found = layout(recording)
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


def render(report: Report) -> str:
    """The report as text, a line per fact and per problem."""
    lines = [report.path, *(f"  {name:<18} {value}" for name, value in report.facts.items())]
    lines += [f"  problem: {problem}" for problem in report.problems] or ["  no problems found"]
    return "\n".join(map(printable, lines))
