"""A person records episodes: demonstrations, suboptimal ones, and sets for the reward classifier.

    demos_0001.pkl, suboptimal_0001.pkl ...     an episode each, as HIL-SERL's scripts read them
    classifier/success_0001.pkl, failure_0001.pkl ...     an episode's steps after which the task is done, or is not

A file is written as a whole once its episode has ended and is kept, so that a crash loses the running episode alone.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from wsrl_kit.data.dataset import Dataset
from wsrl_kit.data.formats.hil_serl import write_hil_serl
from wsrl_kit.data.trajectory import Trajectory
from wsrl_kit.envs.collect import trajectory_of
from wsrl_kit.envs.config import CollectConfig
from wsrl_kit.envs.human import INTERVENTION
from wsrl_kit.envs.make import make
from wsrl_kit.envs.wrappers import observation_horizon, succeeded
from wsrl_kit.errors import ParameterError, Stopped
from wsrl_kit.robot.devices import Motion, Verdict
from wsrl_kit.robot.environment import OVERRUNS
from wsrl_kit.robot.reconnecting import CONTACT_LOST, reconnecting
from wsrl_kit.robot.takeover import LISTENING, VERDICT, PersonInput, beside_person, paused
from wsrl_kit.runs.progress import Progress, outcome_recorded
from wsrl_kit.runs.run import Run

BEGIN = "move to begin"
"""In what the person is told while the robot waits at a start."""
CLASSIFIER = "classifier"
"""Source, and folder, of the sets for the reward classifier."""

_COUNTS = ("demo_episodes", "suboptimal_episodes", "random_episodes", "classifier_episodes")


def run_record(config: CollectConfig, folder: Path, progress: Progress, person: PersonInput) -> None:
    """Records the episodes that a folder lacks; those that it has stay as they are.

    The robot holds until the person moves. An episode ends by a verdict or by the task. Then the person keeps it, with
    its outcome or with another one, discards it for another start, or redoes it from the same one. If contact, a
    camera or a device fails within an episode, it is dropped and redone.

    Raises:
        Stopped: on request; every kept episode is on disk.
        WSRLKitError: no such task, bad options, no contact for long, or a full disk; every kept episode is on disk.
    """
    wanted = {
        "demos": config.demo_episodes,
        "suboptimal": config.suboptimal_episodes,
        CLASSIFIER: config.classifier_episodes,
    }
    episodes = [(source, number) for source, count in wanted.items() for number in range(1, count + 1)]
    if not episodes:
        raise ParameterError("demo_episodes, suboptimal_episodes and classifier_episodes must not all be 0")
    files = [_path(folder, *episode) for episode in episodes if episode[0] != CLASSIFIER]
    parameters = asdict(config) | {"operator": "person"}
    run = Run.open(
        folder, kind="record", arm="", seed=config.seed, parameters=parameters, may_grow=_COUNTS, outputs=files
    )
    if run.is_finished:
        return
    with outcome_recorded(run, progress) as progress:
        environment = reconnecting(beside_person(make(config.exp_name, config.environment_options), person))
        with closing(environment):
            recorder = _Recorder(config, environment, person, progress, len(episodes))
            for source, number in episodes:
                if not _is_recorded(folder, source, number):
                    trajectory = recorder.record(source, number)
                    for path, part in _files(folder, trajectory, number):
                        write_hil_serl(path, [part])
                recorder.kept += 1
            recorder.say("all are recorded")
        run.finish({"episodes": len(episodes)})


def _path(folder: Path, name: str, number: int) -> Path:
    return folder / f"{name}_{number:04d}.pkl"


def _is_recorded(folder: Path, source: str, number: int) -> bool:
    if source == CLASSIFIER:
        return any(_path(folder / CLASSIFIER, label, number).exists() for label in ("success", "failure"))
    return _path(folder, source, number).exists()


def _files(folder: Path, trajectory: Trajectory, number: int) -> Iterator[tuple[Path, Trajectory]]:
    """The files of an episode, and what goes into each."""
    if trajectory.source != CLASSIFIER:
        yield _path(folder, trajectory.source, number), trajectory
        return
    dataset = Dataset.from_trajectories([trajectory])
    for label, rows in (("success", dataset.rewards > 0), ("failure", dataset.rewards <= 0)):
        if rows.any():
            (part,) = dataset.select_transitions(np.flatnonzero(rows)).trajectories()
            yield _path(folder / CLASSIFIER, label, number), part


class _Take(NamedTuple):
    """An episode that has ended; `late`: steps beyond their control period."""

    trajectory: Trajectory
    verdict: Verdict | None
    late: int


class _Recorder:
    """Records one episode after another.

    Attributes:
        kept: episodes on disk.
    """

    def __init__(
        self,
        config: CollectConfig,
        environment: gymnasium.Env,
        person: PersonInput,
        progress: Progress,
        total: int,
    ) -> None:
        self.kept = 0
        self._successes = 0
        self._config, self._environment, self._person = config, environment, person
        self._progress, self._total = progress, total
        person.idle = "the robot waits"

    def record(self, source: str, number: int) -> Trajectory:
        """The episode that is kept."""
        attempt, remark = 0, ""
        while True:
            entropy = (self._config.seed, *source.encode(), number, attempt)
            seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
            take = self._act(source, seed, f"{remark}{BEGIN} {source} {number}")
            remark = ""
            if isinstance(take, str):
                remark = f"the episode is dropped: {take}; "
                continue
            verdict = take.verdict
            if verdict not in (Verdict.KEEP, Verdict.DISCARD, Verdict.REDO):
                verdict = self._review(take, f"{source} {number}")
            if verdict is Verdict.REDO:
                continue
            if verdict is Verdict.DISCARD:
                attempt += 1
                continue
            frames = self._config.success_frames if source == CLASSIFIER else 1
            trajectory = _relabelled(take.trajectory, verdict, frames)
            self._successes += trajectory.success is True
            return trajectory

    def _act(self, source: str, seed: int, prompt: str) -> _Take | str:
        """One episode, or why it must be dropped."""
        environment, person = self._environment, self._person
        still = np.zeros(environment.action_space.shape or (), np.float32)
        if person.trouble:
            # Nothing moves while the person sees to the device.
            self._wait(prompt, lambda _: not person.trouble)
        environment.reset(seed=seed)
        self._wait(prompt, lambda motion: motion is None)
        self._wait(prompt, lambda motion: motion is not None)
        self.say(f"{source}: recording")
        observations: list[Any] = []
        actions: list[Any] = []
        rewards: list[float] = []
        penalties: list[float] = []
        success, left, ends = None, self._config.success_frames, False
        while not ends:
            observation, reward, terminated, truncated, info = environment.step(still)
            self._check_stop()
            if trouble := info.get(CONTACT_LOST) or person.trouble:
                return str(trouble)
            # The first step only gives an observation from now: that of the reset is from before the wait.
            if observations:
                success = succeeded(success, info)
                actions.append(info.get(INTERVENTION, still))
                penalties += [info["grasp_penalty"]] if "grasp_penalty" in info else []
                rewards.append(float(success or False) if source == CLASSIFIER else float(reward))
                left -= bool(success)
            observations.append(observation)
            stays_after_success = source == CLASSIFIER and success
            ends = truncated or (left == 0 if stays_after_success else terminated)
        if not actions:
            return "it ended with its first step"
        horizon = observation_horizon(environment)
        trajectory = trajectory_of(
            observations, actions, rewards, bool(terminated), bool(truncated), success, source, horizon
        )
        if penalties:
            trajectory = replace(trajectory, grasp_penalty=np.array(penalties, np.float32))
        return _Take(trajectory, info.get(VERDICT), info.get(OVERRUNS, 0))

    def _wait(self, prompt: str, is_met: Callable[[Motion | None], bool]) -> None:
        """Until what the person holds meets a condition; the robot holds meanwhile."""
        person = self._person
        person.asks = prompt
        try:
            with paused(self._environment):
                while True:
                    motion = person.motion()
                    self.say(f"{person.trouble}; {prompt}" if person.trouble else prompt)
                    self._check_stop()
                    if is_met(motion):
                        break
                    time.sleep(LISTENING)
        finally:
            person.asks = ""
        person.take_verdict()

    def _review(self, take: _Take, name: str) -> Verdict:
        trajectory, outcome = take.trajectory, {True: "a success", False: "a failure", None: "no outcome"}
        late = f", {take.late} of them late" if take.late else ""
        question = (
            f"{name}: {outcome[trajectory.success]} of {len(trajectory)} steps{late}; keep, discard or redo it, or "
            "keep it as a success or a failure?"
        )
        self.say(question)
        with paused(self._environment):
            verdict = self._person.ask(None, question, lambda: self._progress.stop_requested)
        self._check_stop()
        assert verdict is not None
        return verdict

    def say(self, what: str) -> None:
        done = f"{self.kept} of {self._total} kept, successes: {self._successes}"
        self._progress.update(self.kept, self._total, f"{done}: {what}")

    def _check_stop(self) -> None:
        if self._progress.stop_requested:
            raise Stopped(f"stopped: {self.kept} of {self._total} episodes are recorded; the same command continues")


def _relabelled(trajectory: Trajectory, verdict: Verdict, frames: int) -> Trajectory:
    """The episode with the outcome that a person gave it at its end; a success is that of its last `frames` steps."""
    is_success = verdict is Verdict.SUCCESS
    if verdict not in (Verdict.SUCCESS, Verdict.FAILURE) or trajectory.success is is_success:
        return trajectory
    rewards = trajectory.rewards.copy()
    if is_success:
        rewards[-frames:] = 1.0
    else:
        rewards = np.minimum(rewards, 0.0)
    return replace(trajectory, rewards=rewards, success=is_success, terminated=is_success, truncated=not is_success)
