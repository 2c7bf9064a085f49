"""Successes that the classifier sees and somebody confirms or denies: who is asked, when, and what is kept of it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from camera_samples import NAME, register
from robot_samples import driven, served
from slow_cases import one_fast
from training_samples import StopAt, same_checkpoint, settings
from wsrl_kit.agent import vision
from wsrl_kit.classifier import model
from wsrl_kit.classifier.data import JUDGED, examples, load_labelled
from wsrl_kit.classifier.model import Decision, Examples, RewardClassifier
from wsrl_kit.classifier.reward import ASK_AGAIN, ClassifierReward
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.data.formats.hil_serl import write_hil_serl
from wsrl_kit.data.sources import load_sources
from wsrl_kit.envs.make import make
from wsrl_kit.envs.wrappers import camera_shapes, stacked
from wsrl_kit.errors import DataError, ExperimentError, ParameterError, Stopped
from wsrl_kit.robot.takeover import CLASSIFIED, CONFIRMED, HumanTakeover, PersonInput, Verdict, by_person, by_task
from wsrl_kit.runs.progress import Silent
from wsrl_kit.runs.run import read_run
from wsrl_kit.training.episode import EpisodeRecord
from wsrl_kit.training.jobs import run_finetune

STILL = np.zeros(6, np.float32)
create = jax.jit(model.create, static_argnums=0)
probability = jax.jit(model.probability, static_argnums=0)


class Told(gymnasium.Env):
    """A task whose observations are the probabilities that it is told."""

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, told: list[float]) -> None:
        self._told = told

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._step = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._step += 1
        return np.array(self._told[self._step - 1 : self._step], np.float32), 0.0, False, False, {"success": False}


def asked(told: list[float], answers: list[bool | None]) -> tuple[list[int], list[dict[str, Any]]]:
    """Steps after which somebody was asked, and what the steps said; they answer in order, two in a row ask."""
    questions: list[int] = []

    def confirm(observation: Any, info: dict[str, Any]) -> bool | None:
        questions.append(len(steps))
        return answers[len(questions) - 1]

    environment = ClassifierReward(Told(told), lambda seen: float(seen[0]), 0.8, 0.4, 2, confirm)
    environment.reset()
    steps: list[dict[str, Any]] = []
    for _ in told:
        _, reward, terminated, truncated, info = environment.step(np.zeros(1, np.float32))
        assert info["success"] == terminated == bool(reward) and not truncated
        steps.append(info)
    return questions, steps


def test_a_success_counts_once_it_is_confirmed() -> None:
    questions, steps = asked([0.9, 0.9], [True])
    assert questions == [1]
    assert [info["success"] for info in steps] == [False, True]
    assert [info.get(CONFIRMED) for info in steps] == [None, True]


def test_a_denied_success_is_none_and_is_asked_for_again_when_it_is_seen_anew() -> None:
    questions, steps = asked([0.9, 0.9, 0.9, 0.1, 0.9, 0.9], [False, True])
    assert questions == [1, 5]
    assert [info["success"] for info in steps] == [False] * 5 + [True]
    assert [info.get(CONFIRMED) for info in steps] == [None, False, None, None, None, True]


def test_a_denied_success_that_stays_is_asked_for_again_after_a_while() -> None:
    questions, _ = asked([0.9] * (2 * ASK_AGAIN + 2), [False, False, True])
    assert questions == [1, 1 + ASK_AGAIN, 1 + 2 * ASK_AGAIN]


def test_where_nobody_answers_there_is_no_success_and_no_word() -> None:
    questions, steps = asked([0.9, 0.9], [None])
    assert questions == [1]
    assert not steps[-1]["success"] and CONFIRMED not in steps[-1]


# Who is asked


def test_the_simulation_knows_and_others_are_refused() -> None:
    confirm = by_task(make("hirol_fixed_gripper"))
    assert [confirm(None, {"task_success": said}) for said in (True, False)] == [True, False]
    with pytest.raises(ExperimentError, match="needs somebody who knows whether the task is done"):
        by_task(make("Pendulum-v1"))(None, {})


def test_a_real_robot_without_a_target_is_refused_before_it_moves() -> None:
    with served() as server:
        del server.endpoints["sim/status"]
        with driven(server) as robot, pytest.raises(ExperimentError, match=r"the robot at http://.* does not"):
            by_task(robot)
        pose = [0.5, 0.0, 0.1, np.pi, 0.0, 0.0]
        with driven(server, target_pose=pose) as robot:
            assert by_task(robot)(None, {"task_success": True})


def saying(takeover: PersonInput, *verdicts: Verdict) -> Callable[[], bool]:
    """A person who presses one button after the other, each when they are asked; they are never given up."""
    left = iter(verdicts)

    def look() -> bool:
        assert takeover.asks
        takeover.decide(next(left))
        return False

    return look


def test_a_person_denies_confirms_and_aborts() -> None:
    takeover = PersonInput()
    environment = make("hirol_fixed_gripper")
    person = saying(takeover, Verdict.FAILURE, Verdict.SUCCESS, Verdict.ABORT)
    confirm = by_person(environment, takeover, person)
    # Two episodes: asked after the first and third step, and after the second.
    seen = iter([0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0])
    robot = HumanTakeover(ClassifierReward(environment, lambda _: next(seen), 0.5, 0.5, 1, confirm), takeover)
    robot.reset(seed=0)
    _, reward, terminated, truncated, info = robot.step(STILL)
    assert (reward, terminated, truncated, info[CONFIRMED]) == (0.0, False, False, False)
    assert robot.step(STILL)[2:4] == (False, False)
    _, reward, terminated, truncated, info = robot.step(STILL)
    assert (reward, terminated, truncated, info[CONFIRMED]) == (1.0, True, False, True)
    robot.reset(seed=1)
    assert robot.step(STILL)[2:4] == (False, False)
    _, reward, terminated, truncated, info = robot.step(STILL)
    assert (reward, terminated, truncated) == (0.0, False, True) and CONFIRMED not in info


def test_a_verdict_also_judges_a_classifier_that_saw_something_else() -> None:
    takeover, words = PersonInput(), EpisodeRecord(is_judged=True)
    seen = iter([0.0, 0.0, 0.0, 1.0])
    robot = HumanTakeover(ClassifierReward(make("hirol_fixed_gripper"), lambda _: next(seen), 0.5, 0.5, 1), takeover)
    for verdict in (Verdict.SUCCESS, Verdict.FAILURE):
        robot.reset(seed=0)
        takeover.decide(verdict)
        _, reward, terminated, _, info = robot.step(STILL)
        is_success = verdict is Verdict.SUCCESS
        assert (reward, terminated) == (float(is_success), True)
        assert (info["success"], info[CONFIRMED], info[CLASSIFIED]) == (is_success, is_success, not is_success)
        words.include(reward, info)
    assert words.metrics["training/episode_missed_successes"] == 1.0
    assert words.metrics["training/episode_denied_successes"] == 1.0


def test_what_was_pressed_before_the_question_is_no_answer() -> None:
    takeover = PersonInput()
    takeover.decide(Verdict.SUCCESS)
    looks = iter([False, False, True])
    assert takeover.ask(STILL, "?", lambda: next(looks)) is None


def test_a_robot_holds_while_a_person_thinks_and_the_time_is_no_overrun() -> None:
    takeover = PersonInput()
    with served() as server, driven(server, deadline=5.0) as robot:
        robot.reset(seed=0)
        confirm = by_person(robot, takeover, saying(takeover, Verdict.SUCCESS))
        before = server.arm.truth()["tip_pose"]
        assert confirm(np.zeros(19), {}) is True
        np.testing.assert_allclose(server.arm.truth()["tip_pose"], before, atol=2e-3)
        assert robot.step(STILL)[4]["overruns"] == 0


def test_a_run_that_is_stopped_waits_for_nobody() -> None:
    takeover = PersonInput()
    assert by_person(make("Pendulum-v1"), takeover, lambda: True)(np.zeros(3), {}) is None
    assert not takeover.asks


# What is kept


def fooled(folder: Path, **changes: Any) -> WSRLConfig:
    """A run with a classifier that knows nothing, and that takes a fifth of what a random policy sees for a success."""
    config = settings(
        **{
            "reward_classifier": str(folder / "classifier.npz"),
            "confirm_success": True,
            "online_steps": 60,
            "frozen_rollout_steps": 60,  # nothing is learned, which would have to be compiled first
            "evaluation_episodes": 0,
            "checkpoint_interval": 20,
        }
        | changes
    )
    ignorant(folder / "classifier.npz", config)
    return config


def ignorant(path: Path, config: WSRLConfig) -> None:
    environment = make(config.exp_name, config.environment_options)
    environment.action_space.seed(0)
    observations = [environment.reset(seed=0)[0]]
    for _ in range(100):
        observation, _, terminated, truncated, _ = environment.step(environment.action_space.sample())
        observations.append(environment.reset()[0] if terminated or truncated else observation)
    states, images = stacked(observations)
    shapes = camera_shapes(environment)
    sight = replace(vision.for_cameras(shapes, "small", 0), state_width=0) if shapes else None
    size = 0 if shapes else states.shape[1]
    static = RewardClassifier(size, (4,), 0.0, 1e-3, sight)
    state = create(static, jax.random.key(0), jnp.zeros(size), jnp.ones(size))
    seen = Examples(jnp.asarray(states[:, :size]), jnp.zeros(len(states)), images)
    threshold = float(np.quantile(probability(static, state, seen), 0.8))
    model.save(path, static, state, Decision(threshold, threshold, 1))


@pytest.mark.parametrize("task", one_fast(["robot", "cameras"]))
def test_what_was_said_becomes_data_for_the_next_classifier(task: str, tmp_path: Path) -> None:
    register()
    cameras = {
        "exp_name": NAME,
        "environment_options": {"observation_horizon": 2},
        "hidden_sizes": [8],
        "batch_size": 8,
    }
    config = fooled(tmp_path, **(cameras if task == "cameras" else {}))
    run_finetune(config, tmp_path / "run", Silent())
    record = read_run(tmp_path / "run")
    denied = record.curve("training/episode_denied_successes").value
    files = sorted((tmp_path / "run" / JUDGED).iterdir())
    failures = [path for path in files if path.name.endswith("_failure.pkl")]
    assert len(failures) >= denied.sum() > 0
    np.testing.assert_array_equal(
        record.curve("training/episode_success").value <= record.curve("training/episode_task_success").value, True
    )
    if task == "robot":
        with pytest.raises(DataError, match="needs files with 'success' in their names"):
            load_labelled(str(tmp_path / "run" / JUDGED))
    write_hil_serl(tmp_path / "success.pkl", [replace(load_sources(str(failures[0])).trajectories()[0], success=True)])
    found = load_labelled([str(path) for path in failures] + [str(tmp_path / "success.pkl")])
    assert len(found) == len(failures) + 1
    # What it was shown is what the classifier took for a success.
    static, state, decision = model.load(tmp_path / "classifier.npz")
    seen = examples(static, found, np.flatnonzero(found.rewards == 0))
    assert (np.asarray(probability(static, state, seen)) >= decision.threshold - 1e-6).all()


def test_a_killed_run_asks_the_same_again_and_keeps_it_once(tmp_path: Path) -> None:
    config = fooled(tmp_path)
    run_finetune(config, tmp_path / "whole", Silent())
    with pytest.raises(Stopped):
        run_finetune(config, tmp_path / "halves", StopAt(50))
    run_finetune(config, tmp_path / "halves", Silent())
    assert same_checkpoint(*(tmp_path / name / "checkpoint.npz" for name in ("whole", "halves")))
    whole, halves = (tmp_path / name / JUDGED for name in ("whole", "halves"))
    assert [path.name for path in sorted(whole.iterdir())] == [path.name for path in sorted(halves.iterdir())]
    # Begun anew, it does not mix what it hears with what was said before.
    (halves / "00000000_failure.pkl").write_bytes(b"")
    run_finetune(config, tmp_path / "halves", Silent(), resume=False)
    assert [path.name for path in sorted(whole.iterdir())] == [path.name for path in sorted(halves.iterdir())]


def test_nothing_is_confirmed_without_a_classifier(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="confirm_success needs a reward_classifier"):
        run_finetune(settings(confirm_success=True), tmp_path, Silent())
