"""Control steps per second of the simulated robot on one core, and how often the scripted policies succeed."""

import os
import statistics
import time

import numpy as np

from wsrl_kit.envs.collect import collect
from wsrl_kit.envs.make import INSERTION, make

STEPS = 3000
REPEATS = 5
EPISODES = 100


def steps_per_second(difficulty: str) -> float:
    """Uniformly random actions, resets not counted."""
    environment = make(INSERTION, {"difficulty": difficulty})
    actions = np.random.default_rng(0).uniform(-1, 1, (STEPS, 6)).astype(np.float32)
    environment.reset(seed=0)
    busy = 0.0
    for action in actions:
        start = time.perf_counter()
        _, _, terminated, truncated, _ = environment.step(action)
        busy += time.perf_counter() - start
        if terminated or truncated:
            environment.reset()
    return STEPS / busy


def main() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print("| difficulty | control steps/s, one core | expert | suboptimal | random |")
    print("|---|---:|---:|---:|---:|")
    for difficulty in ("easy", "default", "hard"):
        speed = statistics.median(steps_per_second(difficulty) for _ in range(REPEATS))
        cells = []
        for kind in ("expert", "suboptimal", "random"):
            trajectories = collect(INSERTION, {"difficulty": difficulty}, kind, episodes=EPISODES, seed=1)
            success = np.mean([trajectory.success for trajectory in trajectories])
            cells.append(f"{success:.2f}, {np.mean([len(trajectory) for trajectory in trajectories]):.0f} steps")
        print(f"| {difficulty} | {speed:,.0f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
