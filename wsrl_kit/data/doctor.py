"""What a data file holds, and everything that is wrong with it."""

import os
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer

from wsrl_kit.data.files import read_recording
from wsrl_kit.data.recording import Recording, gaps, repair_timeouts, segment_ends, value_problems
from wsrl_kit.errors import DataError


@dataclass(frozen=True)
class Report:
    """Facts about one file, and its problems.

    Attributes:
        path: the file.
        format: its format, "" where it can't be read (the facts below are empty then).
        facts: name of a fact -> its value as text, in the order to print them.
        problems: one sentence each; empty for a healthy file.
    """

    path: str
    format: str
    facts: dict[str, str]
    problems: tuple[str, ...]


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
    return Report(os.fspath(path), recording.format, _facts(repair_timeouts(recording, timeout_length)), problems)


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
    names = [name for name in np.unique(recording.source) if name]
    return facts | ({"sources": ", ".join(names)} if names else {})


def _spread(values: Float[np.ndarray, " episode"] | Integer[np.ndarray, " episode"]) -> str:
    return f"{values.mean():.4g} on average, from {values.min():.4g} to {values.max():.4g}"


def render(report: Report) -> str:
    """The report as text, a line per fact and per problem."""
    lines = [report.path, *(f"  {name:<18} {value}" for name, value in report.facts.items())]
    lines += [f"  problem: {problem}" for problem in report.problems] or ["  no problems found"]
    return "\n".join(lines)
