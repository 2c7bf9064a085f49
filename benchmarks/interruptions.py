"""Warmup, fine-tuning and ablation, interrupted at random moments in every way, and continued to the last byte.

Each kind of run is done once undisturbed. Then, for each way of interrupting it, it is interrupted at random moments of
its whole length, measured by what it has recorded, each time in a process of its own, and continued, until it has
ended. What it ends with is compared with the undisturbed run, byte by byte.

    --moments N   interruptions of each kind and way (default 20)
    --seed N      of the moments

    stop          the Stop button: the run's progress asks for the end
    SIGINT        Ctrl-C, or the kernel's Interrupt
    SIGTERM       what a cluster or a shutdown sends
    SIGKILL       no time for anything; the run goes on from its last checkpoint
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WAYS = ("stop", "SIGINT", "SIGTERM", "SIGKILL")
KINDS = ("warmup", "finetune", "ablation")
COMMON: dict[str, Any] = {
    "environment_options": {"max_episode_steps": 25, "reset_height": 0.012},
    "hidden_sizes": [32, 32],
    "batch_size": 32,
    "warmup_steps": 8_000,
    "online_steps": 800,
    "update_to_data_ratio": 2,
    "human": "scripted",
    "human_options": {"stuck_steps": 8, "patience_steps": 15},
    "warmup_evaluation_interval": 700,
    "evaluation_interval": 170,
    "evaluation_episodes": 2,
    "log_interval": 37,
    "checkpoint_interval": 60,
}


def work(kind: str, folder: Path, data: Path, button: Path) -> None:
    """One run in this process, whose Stop button is pressed when a file appears."""
    from wsrl_kit.config.config import WSRLConfig
    from wsrl_kit.experiments.ablation import run_ablation
    from wsrl_kit.experiments.config import AblationConfig
    from wsrl_kit.training.jobs import run_finetune, run_warmup

    class Button:
        @property
        def stop_requested(self) -> bool:
            return button.exists()

        def update(self, step: int, total: int, text: str) -> None:
            """Nobody watches."""

    # A shell in whose background this runs ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config = WSRLConfig(**COMMON, offline_data_path=str(data), demo_path=None if kind != "finetune" else str(data))
    if kind == "ablation":
        arms = AblationConfig(arms=["warmup_decay", "rlpd_all"], seeds=[0])
        run_ablation(config, arms, folder, Button())
    else:
        run = run_warmup if kind == "warmup" else run_finetune
        run(config, folder, Button())


def process(kind: str, folder: Path, data: Path, button: Path) -> subprocess.Popen[str]:
    """The run in a process of its own."""
    command = [sys.executable, __file__, "--work", kind, str(folder), str(data), str(button)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def recorded(folder: Path) -> int:
    """Bytes of metrics: how far the runs in a folder are."""
    return sum(path.stat().st_size for path in folder.rglob("metrics.csv"))


def content(root: Path) -> dict[str, Any]:
    """What runs end with: metrics, and the arrays of checkpoints; not how long they took."""
    import numpy as np

    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                found |= {f"{name}:{key}": arrays[key].tobytes() for key in arrays.files if key != "__metadata__"}
        elif path.name == "metrics.csv":
            found[name] = path.read_bytes()
    return found


def interrupted(kind: str, way: str, folder: Path, data: Path, length: int, moments: int, dice: random.Random) -> int:
    """Interrupts a run again and again at random moments, then lets it end; how often it was running.

    Args:
        length: bytes of metrics of the undisturbed run.
    """
    count, button = 0, folder.with_suffix(".button")
    for left in range(moments, 0, -1):
        before = recorded(folder)
        # Any share of what is left, so that on average all moments fit.
        goal = before + dice.uniform(0.0, 2.0 * max(length - before, 0) / (left + 1))
        running = process(kind, folder, data, button)
        while running.poll() is None and recorded(folder) < goal:
            time.sleep(0.005)
        time.sleep(dice.uniform(0.0, 0.2))
        if running.poll() is None:
            count += 1
            if way == "stop":
                button.touch()
            else:
                os.kill(running.pid, getattr(signal, way))
        running.communicate(timeout=900)
        button.unlink(missing_ok=True)
    last = process(kind, folder, data, button)
    _, errors = last.communicate(timeout=3600)
    if last.returncode:
        raise SystemExit(f"{kind}, {way}: could not be continued:\n{errors}")
    return count


def main() -> None:
    if sys.argv[1:2] == ["--work"]:
        kind, *paths = sys.argv[2:]
        work(kind, *map(Path, paths))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    options = parser.parse_args()
    from wsrl_kit.envs.config import CollectConfig
    from wsrl_kit.runs.progress import Silent
    from wsrl_kit.training.jobs import run_collect

    dice, different = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        episodes: dict[str, Any] = {"demo_episodes": 8, "suboptimal_episodes": 8, "random_episodes": 8}
        run_collect(CollectConfig(environment_options=COMMON["environment_options"], **episodes), data, Silent())
        for kind in options.kinds:
            for way in options.ways:
                start = time.monotonic()
                whole, broken = Path(scratch) / "whole" / kind, Path(scratch) / way / kind
                if not whole.exists():
                    run = process(kind, whole, data, Path(scratch) / "none")
                    _, errors = run.communicate(timeout=3600)
                    if run.returncode:
                        raise SystemExit(f"{kind} failed undisturbed:\n{errors}")
                count = interrupted(kind, way, broken, data, recorded(whole), options.moments, dice)
                same = content(whole) == content(broken)
                different += not same
                result = {"kind": kind, "way": way, "interruptions": count, "same bytes": same}
                print(json.dumps(result | {"seconds": round(time.monotonic() - start)}), flush=True)
    if different:
        raise SystemExit(f"{different} ended with other bytes")


if __name__ == "__main__":
    main()
