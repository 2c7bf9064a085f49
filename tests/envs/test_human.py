"""The scripted human beside the simulated robot: when they take over, what they do, and that they hand back."""

from itertools import groupby
from typing import Any

import gymnasium
import numpy as np
import pytest

from training_samples import settings
from wsrl_kit.analysis.figures import finetune_figure
from wsrl_kit.analysis.metrics import reduce_run
from wsrl_kit.envs.human import HumanOptions, ScriptedHuman, human_options, with_human
from wsrl_kit.envs.make import make
from wsrl_kit.errors import ExperimentError, ParameterError
from wsrl_kit.runs.progress import Silent
from wsrl_kit.runs.run import read_run
from wsrl_kit.training.jobs import run_finetune

ROBOT = "hirol_fixed_gripper"
NEVER = {"stuck_steps": 0, "clipped_steps": 0, "patience_steps": 0}
STILL = np.zeros(6, np.float32)


def robot(task: dict[str, Any] | None = None, **options: Any) -> ScriptedHuman:
    return ScriptedHuman(make(ROBOT, task), HumanOptions(**(NEVER | options)))


def play(environment: gymnasium.Env, action: Any, seed: int = 0) -> tuple[list[bool], list[dict[str, Any]]]:
    """An episode under a constant action, or one of a generator: who acted in each step, and what was reported."""
    environment.reset(seed=seed)
    generator, done, infos = np.random.default_rng(seed), False, []
    while not done:
        chosen = action if isinstance(action, np.ndarray) else action(generator)
        _, _, terminated, truncated, info = environment.step(chosen)
        infos.append(info)
        done = terminated or truncated
    return ["intervene_action" in info for info in infos], infos


def random_action(generator: np.random.Generator) -> np.ndarray:
    return generator.uniform(-1, 1, 6).astype(np.float32)


def segments(acted: list[bool]) -> list[tuple[bool, int]]:
    """Who acted, for how many steps."""
    return [(is_human, len(list(steps))) for is_human, steps in groupby(acted)]


def test_with_a_human_random_actions_succeed() -> None:
    alone = [play(robot(), random_action, seed) for seed in range(8)]
    helped = [play(ScriptedHuman(make(ROBOT)), random_action, seed) for seed in range(8)]
    assert sum(infos[-1]["success"] for _, infos in alone) == 0
    assert not any(any(acted) for acted, _ in alone)
    assert sum(infos[-1]["success"] for _, infos in helped) >= 7
    assert all(5 < sum(acted) < 60 for acted, _ in helped)
    actions = np.array(
        [info["intervene_action"] for _, infos in helped for info in infos if "intervene_action" in info]
    )
    assert actions.dtype == np.float32
    assert np.abs(actions).max() <= 1.0


def test_a_robot_that_stands_still_is_stuck_and_is_let_go_where_it_has_moved_on() -> None:
    environment = robot(stuck_steps=6, helped_distance=0.008)
    tips = [environment.reset(seed=0)[0][4:7]]
    acted = []
    for _ in range(12):
        observation, _, _, _, info = environment.step(STILL)
        tips.append(observation[4:7])
        acted.append("intervene_action" in info)
    # Six steps in which nothing happened; then help, until the tip is 8 mm away.
    (_, alone), (_, helped), *_ = segments(acted)
    assert alone == 6
    distance = np.linalg.norm(np.array(tips) - tips[6], axis=1)
    assert (distance[7 : 6 + helped] < 0.008).all()
    assert distance[6 + helped] >= 0.008


def test_a_robot_that_pushes_against_the_safety_box_is_brought_back() -> None:
    sideways = np.array([1, 0, 0, 0, 0, 0], np.float32)
    acted, infos = play(robot({"max_episode_steps": 40}, clipped_steps=3), sideways)
    first = acted.index(True)
    assert [info["safety_box_clipped"] for info in infos[:first]] == [False] * (first - 3) + [True] * 3
    assert all(steps < 10 for is_human, steps in segments(acted) if is_human)


def test_at_the_end_of_their_patience_the_human_finishes_the_task() -> None:
    acted, infos = play(robot(patience_steps=20), STILL)
    assert segments(acted) == [(False, 20), (True, len(infos) - 20)]
    assert infos[-1]["success"]


def test_a_take_over_has_a_limit() -> None:
    acted, _ = play(robot({"max_episode_steps": 20}, patience_steps=4, max_takeover_steps=3), STILL)
    assert segments(acted) == [
        (False, 4),
        (True, 3),
        (False, 1),
        (True, 3),
        (False, 1),
        (True, 3),
        (False, 1),
        (True, 3),
        (False, 1),
    ]


def test_a_human_who_never_hands_back_ends_with_the_time_limit() -> None:
    # From a height of 4 cm even the expert, at 1 cm a step, needs more than the 11 steps that are left.
    environment = robot({"max_episode_steps": 12}, patience_steps=1, max_takeover_steps=10**9, helped_distance=1e9)
    acted, infos = play(environment, STILL)
    assert segments(acted) == [(False, 1), (True, 11)]
    assert not infos[-1]["success"]
    # The policy begins the next episode.
    assert segments(play(environment, STILL, seed=1)[0])[0] == (False, 1)


def test_a_seed_fixes_all_that_the_human_does() -> None:
    def actions(seed: int, environment: ScriptedHuman) -> np.ndarray:
        return np.array([info.get("intervene_action", STILL) for info in play(environment, STILL, seed)[1]])

    first, again = robot(patience_steps=5), robot(patience_steps=5)
    actions(1, again)
    assert np.array_equal(actions(0, first), actions(0, again))
    assert not np.array_equal(actions(0, first)[:20], actions(1, first)[:20])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"patience": 3}, "patience"),
        ({"max_takeover_steps": 0}, "max_takeover_steps must be an int >= 1, found 0"),
    ],
)
def test_a_bad_option_of_the_human_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ParameterError, match=sentence):
        human_options(options)


def test_a_task_without_a_script_has_no_scripted_human() -> None:
    environment = with_human(make("Pendulum-v1"), "scripted", {})
    with pytest.raises(ExperimentError, match="needs a task with a script, found .*Pendulum"):
        environment.reset(seed=0)


def test_a_run_with_a_human_records_them_and_evaluates_without(tmp_path) -> None:
    config = settings(
        human="scripted",
        human_options={"patience_steps": 1},
        environment_options={"max_episode_steps": 50, "difficulty": "easy", "reset_height": 0.012},
        random_steps=100,
    )
    run_finetune(config, tmp_path, Silent())
    record = read_run(tmp_path)
    row = reduce_run(record)
    assert 50 < row["interventions"] <= 98
    assert row["early_intervention_rate"] > 0.5
    assert row["late_intervention_rate"] > 0.5
    assert record.curve("training/episode_success").value.max() == 1.0
    assert record.curve("evaluation/success_sampled").value.max() == 0.0
    assert (record.curve("evaluation/length_deterministic").value == 50).all()
    axes = finetune_figure(record).axes
    assert len(axes) == 8
    assert len(axes[6].lines) == 2 and (record.curve("training/takeover_force").value > 0).any()
    rates = [line for line in axes[1].lines if line.get_label() == "intervention rate"]
    np.testing.assert_array_equal(rates[0].get_ydata(), record.curve("training/intervention_rate").value)
