"""An evening at a robot, on its simulated twin with a scripted person: `run_hil_serl`, timed, and the export."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wsrl_kit.config.config import PERSON, ROBOT, WSRLConfig
from wsrl_kit.envs.make import make
from wsrl_kit.errors import ParameterError
from wsrl_kit.hil_serl.checkpoint import export_all
from wsrl_kit.hil_serl.config import HilSerlConfig
from wsrl_kit.hil_serl.experiment import run_hil_serl
from wsrl_kit.hil_serl.figures import result_rows
from wsrl_kit.robot.devices import MOTION_SIZE, Motion, Verdict
from wsrl_kit.robot.environment import RobotEnv
from wsrl_kit.robot.record import BEGIN
from wsrl_kit.robot.server import RobotServer, simulated_arm
from wsrl_kit.robot.takeover import QUESTION, PersonInput
from wsrl_kit.runs.progress import Progress
from wsrl_kit.runs.run import find_runs, read_run

PATIENCE = 40
"""Steps of the policy in an episode after which the scripted person takes over."""


class ScriptedPerson:
    """A device in the hand of somebody who knows where the simulated hole is.

    They demonstrate as the scripted expert, take over from a policy that needs more than `PATIENCE` steps, keep every
    episode, and say of a success what the simulation knows.

    Args:
        options: of the robot.

    Attributes:
        person: whose device it is; set before the first look.
        robot: only looked at.
    """

    person: PersonInput

    def __init__(self, options: dict[str, Any], seed: int) -> None:
        robot = make(ROBOT, options).unwrapped
        assert isinstance(robot, RobotEnv)
        self.robot = robot
        self._generator = np.random.default_rng(seed)
        self._episode = -1.0
        self._looks = 0
        self._has_let_go = False

    def read(self, gripper: bool) -> tuple[Motion | None, Verdict | None]:
        truth = self.robot.client.truth()
        assert truth is not None
        if truth["episode"] != self._episode:
            self._episode, self._looks, self._script = truth["episode"], 0, self.robot.script()
        asks = self.person.asks
        if BEGIN in asks:
            # First they let go; then they act, for the whole episode.
            self._has_let_go = not self._has_let_go
            self._looks = PATIENCE
            return (None if self._has_let_go else np.zeros(MOTION_SIZE, np.float32)), None
        if asks == QUESTION:
            return None, Verdict.SUCCESS if truth["success"] else Verdict.FAILURE
        if asks:
            return None, Verdict.KEEP
        self._looks += 1
        return (self._motion() if self._looks > PATIENCE else None), None

    def close(self) -> None:
        self.robot.close()

    def _motion(self) -> Motion:
        # The insertion's script looks at the simulation, not at the observation.
        wish = np.clip(self._script.controller(np.zeros(19, np.float32), np.zeros(2)), -1.0, 1.0)
        noise = self._generator.normal(0.0, self._script.expert_noise, len(wish))
        return np.append(wish + noise, 0.0).clip(-1.0, 1.0).astype(np.float32)


class StepTime(NamedTuple):
    """What a step of the evening took, s: here, and at least on a robot that takes its control steps in real time."""

    name: str
    seconds: float
    robot_seconds: float
    result: str


def run_rehearsal(config: WSRLConfig, plan: HilSerlConfig, folder: Path, progress: Progress) -> list[StepTime]:
    """Runs an evening with a scripted person, or goes on with it; returns the times of this call.

    Raises:
        Stopped: the user stopped it.
        ParameterError: more than one arm or seed, a lockstep robot, or another human.
        WSRLKitError: a step failed.
    """
    if len(plan.arms) != 1 or len(plan.seeds) != 1:
        raise ParameterError(f"a rehearsal needs one arm and one seed, found {plan.arms} and {plan.seeds}")
    if plan.robot_speed == 0 or config.human != PERSON:
        raise ParameterError(
            f"a rehearsal needs robot_speed above 0 and human {PERSON!r}, found {plan.robot_speed:g} and "
            f"{config.human!r}"
        )
    with RobotServer(
        simulated_arm(plan.exp_name, plan.environment_options, plan.robot_speed), port=plan.robot_port
    ) as server:
        hand = ScriptedPerson(plan.robot_options | {"robot_url": server.url}, plan.seeds[0])
        period = 1 / hand.robot.options.control_frequency
        person = hand.person = PersonInput(devices=[hand])
        times: list[StepTime] = []
        at, commands = time.monotonic(), 0

        def ended(step: str) -> None:
            nonlocal at, commands
            now, sent = time.monotonic(), server.arm.truth()["commands"]
            seconds = now - at
            times.append(StepTime(step, seconds, max(seconds, (sent - commands) * period), _result(step, folder)))
            at, commands = now, sent

        try:
            run_hil_serl(config, plan, folder, progress, robot_url=server.url, person=person, ended=ended)
        finally:
            person.close()
    exported = export_all(folder)
    seconds = time.monotonic() - at
    return [*times, StepTime("export", seconds, seconds, "; ".join(str(row["exported"]) for row in exported))]


def _result(step: str, folder: Path) -> str:
    """In words."""
    if step in ("record", "classifier") and not (folder / ("data" if step == "record" else step)).exists():
        return "given"
    if step == "record":
        return f"{read_run(folder / 'data').summary['episodes']} episodes"
    if step == "classifier":
        rates = read_run(folder / "classifier").summary
        return f"recall {rates['recall']:.2f}, false positive rate {rates['false_positive_rate']:.3f}"
    if step == "warmup":
        (warm,) = find_runs(folder / "warmup")
        return f"{warm.parameters['warmup_steps']} gradient steps"
    (row,) = result_rows(folder)
    if step == "test":
        return f"success of the policy alone {row['alone sampled']:.2f}"
    return (
        f"{row['episodes']} episodes, {row['denied']} successes denied; of the last episodes success "
        f"{row['success']:.2f}, share of the person {row['human at last']:.2f}"
    )
