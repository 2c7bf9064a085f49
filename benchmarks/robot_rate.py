"""Whether a robot keeps its 10 Hz while the policy learns from images: learning inline, and beside the control loop.

    python benchmarks/robot_rate.py                # 1,000 steps each
    python benchmarks/robot_rate.py --steps 100

The robot is simulated, served over HTTP by a process of its own in real time. An overrun is a control step that came
late; a hold is a wait for learning, with the robot told to hold.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from wsrl_kit.config.config import ROBOT, THREAD, WSRLConfig
from wsrl_kit.envs.make import make
from wsrl_kit.runs.loop import Step
from wsrl_kit.training import finetune
from wsrl_kit.training import start as agents
from wsrl_kit.training.evaluation import Evaluator

WARM_UP_STEPS = 20
"""Steps in which programs are compiled, not counted."""


class Counted(gymnasium.Wrapper):
    """Counts steps, late steps and holds."""

    def __init__(self, environment: gymnasium.Env) -> None:
        super().__init__(environment)
        self.counts = np.zeros(3, int)
        self._before = 0
        robot: Any = environment.unwrapped
        hold = robot.hold

        def counted_hold() -> None:
            self.counts[2] += 1
            self._before = 0
            hold()

        robot.hold = counted_hold

    def reset(self, **given: Any) -> Any:
        self._before = 0
        return self.env.reset(**given)

    def step(self, action: Any) -> Any:
        result = self.env.step(action)
        late = result[4].get("overruns", self._before)
        self.counts[:2] += 1, max(0, late - self._before)
        self._before = late
        return result


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


def measure(learner: str, steps: int, size: int, batch_size: int) -> str:
    with served(size) as url:
        config = WSRLConfig(
            exp_name=ROBOT,
            environment_options={"robot_url": url, "max_episode_steps": 50},
            learner=learner,
            online_steps=WARM_UP_STEPS + steps,
            batch_size=batch_size,
            update_to_data_ratio=1,
            evaluation_episodes=0,
        )
        with closing(Counted(make(config.exp_name, config.environment_options))) as environment:
            static, agent = agents.create(config, environment, None)
            tree = finetune.initial_tree(config, static, agent, None)
            before = environment.counts.copy()
            with closing(finetune.finetune(config, static, tree, environment, Evaluator(config), None)) as events:
                for event in events:
                    if isinstance(event, Step) and event.step == WARM_UP_STEPS:
                        before = environment.counts.copy()
    taken, overruns, holds = environment.counts - before
    return f"| {learner} | {taken} | {overruns} | {holds} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=32)
    options = parser.parse_args()
    print("| learner | control steps | overruns | holds |\n|---|---:|---:|---:|")
    for learner in ("inline", THREAD):
        print(measure(learner, options.steps, options.image_size, options.batch_size), flush=True)


if __name__ == "__main__":
    main()
