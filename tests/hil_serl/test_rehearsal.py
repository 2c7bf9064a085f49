"""An evening at the robot, rehearsed: what the scripted person does, what is refused, and the whole."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robot_samples import driven, move, served
from wsrl_kit.cli import main
from wsrl_kit.hil_serl.checkpoint import FOLDER
from wsrl_kit.hil_serl.rehearsal import PATIENCE, ScriptedPerson
from wsrl_kit.robot.record import BEGIN
from wsrl_kit.robot.takeover import QUESTION, HumanTakeover, PersonInput, Verdict
from wsrl_kit.runs.run import find_runs


def test_the_scripted_person_demonstrates_and_takes_over_once_their_patience_ends() -> None:
    options: dict[str, Any] = {"random_xy_range": 0.0, "random_z_range": 0.0, "random_rz_range": 0.0}
    with served(difficulty="easy") as server, driven(server, deadline=5.0) as robot:
        hand = ScriptedPerson({"robot_url": server.url, "deadline": 5.0} | options, seed=0)
        person = hand.person = PersonInput(devices=[hand])
        environment = HumanTakeover(robot, person)
        environment.reset(seed=0)
        acted, info, done = [], {}, False
        while not done:
            _, _, terminated, truncated, info = environment.step(move())
            acted.append("intervene_action" in info)
            done = terminated or truncated
        assert info["success"] and acted == [False] * PATIENCE + [True] * (len(acted) - PATIENCE)
        # They say what the simulation knows, keep what they have recorded, and let go before they begin.
        person.asks = QUESTION
        assert hand.read(gripper=False) == (None, Verdict.SUCCESS)
        environment.reset(seed=1)
        assert hand.read(gripper=False) == (None, Verdict.FAILURE)
        person.asks = f"{BEGIN} demos 1"
        assert [hand.read(gripper=False)[0] is None for _ in range(2)] == [True, False]
        person.asks = "keep, discard or redo it?"
        assert hand.read(gripper=False) == (None, Verdict.KEEP)
        person.asks = ""
        motion, verdict = hand.read(gripper=False)
        assert motion is not None and np.abs(motion).max() > 0 and verdict is None
        person.close()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--robot_url=http://127.0.0.1:5000"], "a rehearsal has a simulated robot of its own"),
        (["--arms=['hil_serl', 'no_demos']"], "a rehearsal needs one arm and one seed, found"),
        (["--robot_speed=0"], "a rehearsal needs robot_speed above 0 and human 'person', found 0 and 'person'"),
        (["--human=scripted"], "a rehearsal needs robot_speed above 0 and human 'person', found 10 and 'scripted'"),
    ],
)
def test_what_is_no_rehearsal_is_refused_before_it_begins(
    flags: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rehearse", f"--out={tmp_path / 'evening'}", *flags]) == 2
    assert capsys.readouterr().err.startswith(f"wsrl-kit: error: {sentence}")
    assert not (tmp_path / "evening").exists()


@pytest.mark.slow
def test_an_evening_is_rehearsed_and_every_step_is_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--demonstrations=4", "--classifier_episodes=6", "--warmup_steps=100", "--online_steps=120"]
    few += ["--final_episodes=1", "--classifier_options={'classifier_steps': 100}", "--hidden_sizes=[16]"]
    assert main(["rehearse", f"--out={tmp_path}", "--robot_port=0", "--robot_speed=20", *few]) == 0
    table = capsys.readouterr().out.partition("\nstep ")[2]
    for step in ("record", "classifier", "warmup", "fine-tune", "test", "export"):
        assert f"\n{step} " in table
    assert "10 episodes" in table and "100 gradient steps" in table
    assert all(run.status == "finished" for run in find_runs(tmp_path))
    assert (tmp_path / "hil_serl" / "seed_0" / FOLDER).is_dir()
