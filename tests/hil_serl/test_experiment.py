"""HIL-SERL's parts on one simulated robot behind its server: who acts by script, what is refused, what figures read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robot_samples import driven, move, served
from wsrl_kit.envs.collect import collect
from wsrl_kit.envs.human import HumanOptions, ScriptedHuman
from wsrl_kit.errors import ExperimentError, ParameterError
from wsrl_kit.hil_serl.config import HilSerlConfig
from wsrl_kit.hil_serl.figures import episodes, hil_serl_figure, result_rows
from wsrl_kit.runs.run import Run, read_run


@pytest.mark.slow
def test_the_operators_are_through_the_server_what_they_are_in_the_simulation() -> None:
    with served() as server:
        options = {"robot_url": server.url, "random_xy_range": 0.0, "deadline": 5.0}
        expert, clumsy = (
            collect("hirol_robot", options, kind, episodes=8, seed=0) for kind in ("expert", "suboptimal")
        )
    assert sum(bool(trajectory.success) for trajectory in expert) >= 7
    assert 1 <= sum(bool(trajectory.success) for trajectory in clumsy) <= 6


def test_the_human_takes_over_through_the_server_too() -> None:
    options = HumanOptions(patience_steps=3, stuck_steps=0, clipped_steps=0, max_takeover_steps=100)
    with served() as server, driven(server, deadline=5.0) as robot:
        environment = ScriptedHuman(robot, options)
        environment.reset(seed=0)
        done, acted, info = False, [], {}
        while not done:
            _, _, terminated, truncated, info = environment.step(move())
            acted.append("intervene_action" in info)
            done = terminated or truncated
    assert info["success"]
    assert acted == [False] * 3 + [True] * (len(acted) - 3)


def test_a_real_robot_has_no_script() -> None:
    with served() as server:
        del server.endpoints["sim/status"]
        with driven(server) as robot, pytest.raises(ExperimentError, match=r"no script for the real robot at http://"):
            ScriptedHuman(robot).reset(seed=0)


def test_a_script_of_other_axes_is_refused() -> None:
    sentence = "convention 'kit' and gripper False, found 'hil_serl' and False"
    with (
        served() as server,
        driven(server, convention="hil_serl") as robot,
        pytest.raises(ExperimentError, match=sentence),
    ):
        ScriptedHuman(robot).reset(seed=0)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"arms": ["no_human"]}, "there is no arm named no_human"),
        ({"arms": ["hil_serl", "hil_serl"]}, "arms must be a list of different entries"),
        ({"classifier_options": {"steps": 3}}, "there is no parameter named steps"),
        ({"robot_speed": -1.0}, "robot_speed must be a float >= 0, found -1.0"),
    ],
)
def test_bad_parameters_are_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ParameterError, match=sentence):
        HilSerlConfig(**given)


def write_runs(root: Path) -> None:
    """25 episodes of 10 steps: the human takes 4 of each of the first 5; the classifier is fooled in the last 10."""
    Run.open(root, kind="hil_serl", arm="", seed=0, parameters={"arms": ["hil_serl"]}).finish({})
    parameters = {"environment_options": {"control_frequency": 5.0}}
    folder = root / "hil_serl" / "seed_0"
    run = Run.open(folder, kind="finetune", arm="hil_serl", seed=0, parameters=parameters)
    for index in range(25):
        values = {"episode_length": 10.0, "episode_success": float(index >= 5)}
        values |= {"episode_task_success": float(5 <= index < 15)}
        values |= {"episode_intervention_steps": 4.0} if index < 5 else {}
        values |= {"episode_denied_successes": float(index % 2)}
        run.record("online", 10 * (index + 1), 0, {f"training/{name}": value for name, value in values.items()})
    run.finish({})
    test = Run.open(folder / "test", kind="test", arm="hil_serl", seed=0, parameters=parameters)
    for success in (1.0, 0.0, 0.0, 0.0):
        values = {"success_sampled": 1.0, "task_success_sampled": success}
        values |= {"success_deterministic": success, "task_success_deterministic": np.nan}
        test.record("online", 250, 0, {f"evaluation/{name}": value for name, value in values.items()})
    test.finish({})


def test_figure_and_table_tell_success_cycles_help_and_a_fooled_classifier(tmp_path: Path) -> None:
    write_runs(tmp_path)
    seen = episodes(read_run(tmp_path / "hil_serl" / "seed_0"))
    assert seen.human.tolist() == [0.4] * 5 + [0.0] * 20
    assert (seen.seconds == 2.0).all()
    (row,) = result_rows(tmp_path)
    # Of the last 20 episodes the first 10 succeed by the task's own word, all of them by the classifier's.
    assert (row["success"], row["by classifier"], row["false"], row["missed"]) == (0.5, 1.0, 10, 0)
    assert row["denied"] == 12
    assert (row["human at first"], row["human at last"]) == (pytest.approx(0.1), 0.0)
    # Where the task says nothing, the reward's word counts.
    assert (row["alone sampled"], row["alone deterministic"]) == (0.25, 0.25)
    success, _, human, alone = hil_serl_figure(tmp_path).axes
    truth, fooled = success.lines
    # Means of what there is up to 20 episodes, and of the last 20 from then on.
    assert truth.get_xdata()[0] == 10
    np.testing.assert_allclose(truth.get_ydata()[[0, 5, 6]], [0.0, 1 / 6, 2 / 7])
    np.testing.assert_allclose(truth.get_ydata()[-6:], [0.5] * 6)
    np.testing.assert_allclose(fooled.get_ydata()[-6:], [0.75, 0.8, 0.85, 0.9, 0.95, 1.0])
    np.testing.assert_allclose(human.lines[0].get_ydata()[-6:], [0.1, 0.08, 0.06, 0.04, 0.02, 0.0], atol=1e-12)
    assert [line.get_ydata() for line in alone.lines] == [[0.25], [0.25]]


def test_runs_that_share_no_steps_are_drawn_without_a_mean(tmp_path: Path) -> None:
    Run.open(tmp_path, kind="hil_serl", arm="", seed=0, parameters={"arms": ["hil_serl"]}).finish({})
    parameters = {"environment_options": {"control_frequency": 5.0}}
    for seed, step in ((0, 10), (1, 500)):
        run = Run.open(tmp_path / f"seed_{seed}", kind="finetune", arm="hil_serl", seed=seed, parameters=parameters)
        run.record("online", step, 0, {"training/episode_length": 10.0, "training/episode_success": 1.0})
        run.finish({})
    assert [len(line.get_xdata()) for line in hil_serl_figure(tmp_path).axes[1].lines] == [1, 1]


def test_a_figure_of_nothing_yet_is_empty(tmp_path: Path) -> None:
    assert all(not ax.lines for ax in hil_serl_figure(tmp_path).axes)
    assert result_rows(tmp_path) == []
