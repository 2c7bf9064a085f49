"""Learning on a robot behind a server: looked at before it moves, waited for when it is lost, and nothing is lost."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import pytest

from robot_samples import Faults, FaultyServer, served
from training_samples import settings
from wsrl_kit.analysis.figures import finetune_figure
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.errors import CheckpointError, ParameterError, RobotError
from wsrl_kit.parameters import build
from wsrl_kit.runs import checkpoint
from wsrl_kit.runs.progress import Silent
from wsrl_kit.runs.run import read_run
from wsrl_kit.training.jobs import run_finetune
from wsrl_kit.training.start import check_robot

QUICK = {"deadline": 0.2, "retries": 0, "max_episode_steps": 6}
STEPS = {"online_steps": 30, "log_interval": 10, "checkpoint_interval": 100, "evaluation_episodes": 0}


def on_robot(server: FaultyServer, **options: Any) -> WSRLConfig:
    return settings(**STEPS, exp_name="hirol_robot", environment_options={"robot_url": server.url} | QUICK | options)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with served() as server:
        yield server


def test_a_robots_address_takes_the_experiments_place() -> None:
    config = build(WSRLConfig, {"robot_url": "http://127.0.0.1:1/", "environment_options": {"gripper": True}})
    assert (config.exp_name, config.evaluation_episodes) == ("hirol_robot", 0)
    assert config.environment_options == {"gripper": True, "robot_url": "http://127.0.0.1:1/"}
    assert build(WSRLConfig, {"robot_url": None}) == WSRLConfig()


def test_a_real_robot_whose_successes_nobody_tells_is_refused_before_it_moves(
    server: FaultyServer, tmp_path: Path
) -> None:
    del server.endpoints["sim/status"]
    with pytest.raises(ParameterError, match="nobody tells the robot at .* its successes: give reward_classifier"):
        run_finetune(on_robot(server), tmp_path, Silent())
    assert not server.arm.commands


@pytest.mark.slow
def test_a_run_on_a_robot_is_like_any_other(server: FaultyServer, tmp_path: Path) -> None:
    run_finetune(on_robot(server), tmp_path, Silent())
    record = read_run(tmp_path)
    assert record.status == "finished"
    assert record.curve("training/episode_length").value.tolist() == [6.0] * 5
    assert len(record.curve("training/episode_overruns")) == 5
    assert len(record.curve("evaluation/success_sampled")) == 0
    assert finetune_figure(record).axes[0].get_ylabel() == "Success rate"


class Interrupted(Silent):
    """A kernel that is interrupted in the middle of the second episode; where the robot was then."""

    def __init__(self, server: FaultyServer) -> None:
        self._arm = server.arm

    def update(self, step: int, total: int, text: str) -> None:
        if step == 9:
            self.pose = self._arm.state()["pose"]
            raise KeyboardInterrupt


def test_a_kernel_that_is_interrupted_leaves_the_robot_holding_and_a_run_to_go_on_with(
    server: FaultyServer, tmp_path: Path
) -> None:
    config = replace(on_robot(server), checkpoint_interval=6)
    kernel = Interrupted(server)
    with pytest.raises(KeyboardInterrupt):
        run_finetune(config, tmp_path, kernel)
    assert read_run(tmp_path).status == "stopped"
    assert server.arm.commands[-1] == kernel.pose != server.arm.commands[-2]
    assert int(checkpoint.read(tmp_path / "checkpoint.npz", "environment_step")["environment_step"]) == 6
    run_finetune(config, tmp_path, Silent())
    assert read_run(tmp_path).status == "finished"


def test_evaluations_beside_training_are_refused(server: FaultyServer, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="evaluation_episodes must be 0 with hirol_robot"):
        run_finetune(replace(on_robot(server), evaluation_episodes=1), tmp_path, Silent())


class Once:
    """Progress that does something at a step of the run."""

    stop_requested = False

    def __init__(self, step: int, act: Callable[[], object]) -> None:
        self._step, self._act = step, act

    def update(self, step: int, total: int, text: str) -> None:
        if step == self._step:
            self._act()


def test_a_robot_that_comes_back_is_waited_for(
    server: FaultyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    healer = Timer(1.0, lambda: server.set_faults(Faults()))

    def vanish() -> None:
        server.set_faults(Faults(silent=True))
        healer.start()

    run_finetune(on_robot(server, reconnect_seconds=30.0), tmp_path, Once(9, vanish))
    healer.join()
    record = read_run(tmp_path)
    assert record.status == "finished"
    assert "the work pauses" in caplog.text and "goes on with the next episode" in caplog.text
    # The second episode is cut after 3 steps, and what nobody saw is no step: 30 are 6 + 3 + 6 + 6 + 6 + 3.
    lengths = record.curve("training/episode_length")
    assert lengths.value.tolist() == [6.0] * 4
    assert lengths.environment_step.tolist() == [6, 15, 21, 27]


def test_a_robot_that_stays_away_ends_the_run_with_everything_saved(server: FaultyServer, tmp_path: Path) -> None:
    config = on_robot(server, reconnect_seconds=0.3)
    with pytest.raises(RobotError, match=r"no contact with the robot for 0\.3 s"):
        run_finetune(config, tmp_path, Once(9, lambda: server.set_faults(Faults(status=500))))
    assert read_run(tmp_path).status == "failed"
    assert checkpoint.read(tmp_path / "checkpoint.npz", "environment_step")["environment_step"] == 9
    server.set_faults(Faults())
    run_finetune(config, tmp_path, Silent())
    record = read_run(tmp_path)
    assert record.status == "finished"
    assert record.curve("training/episode_length").environment_step.tolist() == [6, 15, 21, 27]


def test_a_look_moves_nothing(server: FaultyServer, tmp_path: Path) -> None:
    before = len(server.arm.commands)
    facts = check_robot(on_robot(server))
    assert len(server.arm.commands) == before
    assert any("within the safety box" in fact for fact in facts)
    assert facts[-1] == "observations: state [19]; actions: 6"
    assert check_robot(settings())[-1] == "observations: state [19]; actions: 6"


def test_a_robot_out_of_its_box_or_another_agents_checkpoint_stops_before_anything_moves(
    server: FaultyServer, tmp_path: Path
) -> None:
    below = {
        "abs_pose_limit_low": (0.46, -0.04, 0.23, 2.9, -0.2, -0.2),
        "abs_pose_limit_high": (0.54, 0.04, 0.3, 3.4, 0.2, 0.2),
        "reset_pose": (0.5, 0.0, 0.25, np.pi, 0.0, 0.0),
    }
    before = len(server.arm.commands)
    with pytest.raises(RobotError, match="within its safety box before it moves"):
        check_robot(on_robot(server, **below))
    checkpoint.save(tmp_path / "w.npz", {"x": np.zeros(1)}, {"network": {"observation_size": 3}, "probe_size": 0})
    with pytest.raises(CheckpointError, match="was made with observation_size 3, but this run has observation_size 19"):
        check_robot(replace(on_robot(server), checkpoint_path=str(tmp_path / "w.npz")))
    assert len(server.arm.commands) == before
