"""Whether a robot keeps its 10 Hz while the policy learns from images.

    python benchmarks/robot_rate.py                # 1,000 steps each
    python benchmarks/robot_rate.py --steps 100

Learning inline, in a thread beside the control loop, and in a process of its own with less right to the processor
(`nice`), which is a learner at an address. The robot is simulated, served over HTTP by a process of its own in real
time. An overrun is a control step that came late. A robot that waits for learning takes less than 10 steps a second.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from wsrl_kit.config.config import INLINE, ROBOT, THREAD, WSRLConfig
from wsrl_kit.runs.progress import Silent
from wsrl_kit.runs.run import read_run
from wsrl_kit.training.jobs import run_finetune

EPISODE_STEPS = 50
"""Steps of an episode; in the first one programs are compiled, and it is not counted."""
PROCESS = "process, nice"
WORKER = ["--nthreads", "1", "--memory-limit", "0", "--no-dashboard", "--resources", "learner=1"]


class Clock(Silent):
    """When the first episode was over, and when the last step was taken."""

    begun = ended = 0.0

    def update(self, step: int, total: int, text: str) -> None:
        self.ended = time.monotonic()
        if step <= EPISODE_STEPS:
            self.begun = self.ended


@contextmanager
def served(size: int) -> Iterator[str]:
    """The address of a simulated robot."""
    options = f"--environment_options={{'image_size': {size}}}"
    command = [str(Path(sys.executable).with_name("wsrl-kit")), "robot-sim", "--port=0", options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield next(word for line in process.stdout for word in line.split() if word.startswith("http"))
        process.terminate()
        process.communicate()


@contextmanager
def learner_process() -> Iterator[str]:
    """The address of a scheduler with one worker that learns, at the lowest priority."""
    dask = str(Path(sys.executable).with_name("dask"))
    with TemporaryDirectory() as folder:
        file = Path(folder) / "scheduler.json"
        here = ["--host", "127.0.0.1"]
        commands = [
            [dask, "scheduler", *here, "--port", "0", "--no-dashboard", "--scheduler-file", str(file)],
            ["nice", "-n", "19", dask, "worker", "--scheduler-file", str(file), *here, *WORKER],
        ]
        processes = []
        try:
            for command in commands:
                processes.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
                while not file.exists():
                    time.sleep(0.1)
            yield json.loads(file.read_text())["address"]
        finally:
            for process in reversed(processes):
                process.terminate()
                process.wait()


def measure(learner: str, steps: int, size: int, batch_size: int) -> str:
    at = learner_process() if learner == PROCESS else nullcontext(learner)
    with served(size) as url, at as address, TemporaryDirectory() as folder:
        config = WSRLConfig(
            exp_name=ROBOT,
            environment_options={"robot_url": url, "max_episode_steps": EPISODE_STEPS},
            learner=address,
            online_steps=EPISODE_STEPS + steps,
            checkpoint_interval=10 * steps,
            batch_size=batch_size,
            update_to_data_ratio=1,
            evaluation_episodes=0,
        )
        clock = Clock()
        run_finetune(config, Path(folder), clock)
        late = read_run(Path(folder)).curve("training/episode_overruns")
    counted = late.value[late.environment_step > EPISODE_STEPS].sum()
    rate = steps / (clock.ended - clock.begun)
    return f"| {learner} | {steps} | {counted:.0f} | {rate:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--learners", nargs="+", default=[INLINE, THREAD, PROCESS])
    options = parser.parse_args()
    print("| learner | control steps | overruns | steps a second |\n|---|---:|---:|---:|")
    for learner in options.learners:
        print(measure(learner, options.steps, options.image_size, options.batch_size), flush=True)


if __name__ == "__main__":
    main()
