"""Traces: episodes of an evaluation, kept so that they can be played again and looked at later.

A trace is an episode's seed and actions. In a simulation they give every picture, pose and force again, so none of
these is kept. Q is kept: it needs the agent of that moment, which a run does not keep. An episode of the simulated
robot takes about 4 kB.

    traces/<phase>_<step>.npz    phase: warmup or online; step: gradient steps or environment steps
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from wsrl_kit.errors import RunError
from wsrl_kit.files import load_arrays, reading, written_whole
from wsrl_kit.runs.run import PHASES

TRACES = "traces"
"""Folder, within a run's."""


@dataclass(frozen=True)
class Trace:
    """One episode.

    Attributes:
        seed: of the reset.
        values: Q of each action when it was taken, mean over the critics.
        success: 1 or 0; nan: not reported.
        total_reward: the return.
        last_state: after the last action; says whether the episode played again exactly.
    """

    seed: int
    actions: Float32[np.ndarray, "steps action"]
    values: Float32[np.ndarray, " steps"]
    success: float
    total_reward: float
    last_state: Float32[np.ndarray, " observation"]

    def __len__(self) -> int:
        return len(self.actions)


def success_and_failure(episodes: Sequence[Trace]) -> list[Trace]:
    """The first success and the first failure; where success is not reported, the best and the worst return."""
    successes = [episode for episode in episodes if episode.success == 1.0]
    failures = [episode for episode in episodes if episode.success == 0.0]
    if not successes and not failures:
        ranked = sorted(episodes, key=lambda episode: -episode.total_reward)
        successes, failures = ranked[:1], ranked[1:][-1:]
    return successes[:1] + failures[:1]


def trace_name(phase: str, step: int) -> str:
    """The file of one evaluation, as a path within the run's folder."""
    return f"{TRACES}/{phase}_{step:09d}.npz"


def find_traces(folder: Path) -> dict[tuple[str, int], Path]:
    """A run's files of traces by phase and step, in the order of time; empty without any."""
    found = {}
    for path in (folder / TRACES).glob("*.npz"):
        if match := re.fullmatch(rf"({'|'.join(PHASES)})_(\d{{9,15}})", path.stem):
            found[match[1], int(match[2])] = path
    return dict(sorted(found.items(), key=lambda entry: (PHASES.index(entry[0][0]), entry[0][1])))


def write_traces(path: Path, traces: Sequence[Trace]) -> None:
    """Writes the traces of one evaluation.

    Raises:
        RunError: it can't be written; an earlier file is intact.
    """
    arrays: dict[str, np.ndarray] = {}
    for index, trace in enumerate(traces):
        numbers = np.array([trace.seed, trace.success, trace.total_reward], np.float64)
        arrays |= {f"numbers_{index}": numbers, f"actions_{index}": trace.actions}
        arrays |= {f"values_{index}": trace.values, f"last_state_{index}": trace.last_state}
    with written_whole(path, RunError) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_traces(path: Path) -> list[Trace]:
    """The traces of one evaluation.

    Raises:
        RunError: missing or damaged.
    """
    with reading(path, RunError, "must hold traces of episodes, found a damaged file"):
        arrays = {name: array for name, array in load_arrays(path).items() if array is not None}
        return [_trace(arrays, index) for index in range(len(arrays) // 4)]


def _trace(arrays: dict[str, np.ndarray], index: int) -> Trace:
    actions, last_state = (arrays[f"{name}_{index}"].astype(np.float32) for name in ("actions", "last_state"))
    values = arrays[f"values_{index}"].astype(np.float32)
    seed, success, total_reward = arrays[f"numbers_{index}"].astype(np.float64).tolist()
    if actions.ndim != 2 or not actions.size or values.shape != actions.shape[:1] or last_state.ndim != 1:
        raise ValueError(f"episode {index} has actions of shape {actions.shape} and values of shape {values.shape}")
    if not (np.isfinite(actions).all() and 0 <= seed < 2**32):
        raise ValueError(f"episode {index} has a number that is not finite, or the seed {seed}")
    return Trace(int(seed), actions, values, success, total_reward, last_state)
