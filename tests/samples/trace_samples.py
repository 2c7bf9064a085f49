"""Runs with traces of scripted episodes, without training."""

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from wsrl_kit.envs.make import make
from wsrl_kit.envs.scripts import scripted_policy
from wsrl_kit.envs.wrappers import parts, succeeded
from wsrl_kit.runs.run import Run
from wsrl_kit.runs.traces import Trace, trace_name, write_traces

# Short episodes near an easy hole.
ROBOT = {"max_episode_steps": 25, "reset_height": 0.02, "difficulty": "easy"}
INSERTION = "hirol_fixed_gripper"


def episode(kind: str, seed: int, exp_name: str = INSERTION, options: dict[str, Any] = ROBOT) -> Trace:
    """One episode of a scripted policy; Q is made up."""
    with closing(make(exp_name, options)) as environment:
        observation, _ = environment.reset(seed=seed)
        policy = scripted_policy(kind, environment, np.random.default_rng(seed))
        actions, total, success, ended = [], 0.0, None, False
        while not ended:
            actions.append(np.asarray(policy(observation), np.float32))
            observation, reward, terminated, truncated, info = environment.step(actions[-1])
            total, success, ended = total + float(reward), succeeded(success, info), terminated or truncated
        values = np.linspace(0.2, 0.9, len(actions), dtype=np.float32)
        said = np.nan if success is None else float(success)
        return Trace(seed, np.stack(actions), values, said, total, parts(observation)[0])


def write_run(
    folder: Path,
    traces: dict[int, list[Trace]],
    kind: str = "finetune",
    exp_name: str = INSERTION,
    options: dict[str, Any] = ROBOT,
    **parameters: Any,
) -> Path:
    """A finished run whose evaluations recorded these traces, by step; success falls after the switch and rises."""
    phase = "warmup" if kind == "warmup" else "online"
    given = {"exp_name": exp_name, "environment_options": options, "checkpoint_path": None} | parameters
    run = Run.open(folder, kind=kind, arm="", seed=0, parameters=given)
    for index, (step, episodes) in enumerate(traces.items()):
        at = (0, step) if kind == "warmup" else (step, 0)
        run.record(phase, *at, {"evaluation/success_sampled": (0.5, 0.2, 0.4, 0.9)[index]})
        write_traces(folder / trace_name(phase, step), episodes)
    run.finish({})
    return folder
