"""A person records episodes: what is kept of them, and what a lost device, a frozen camera or a full disk leaves."""

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from full_disk import files_limited_to
from robot_samples import PIXELS, FaultyServer, Hand, person_with, served
from wsrl_kit.classifier.data import episodes_of_rows, load_labelled
from wsrl_kit.cli import main
from wsrl_kit.data.sources import load_sources
from wsrl_kit.envs.config import CollectConfig
from wsrl_kit.errors import DataError, ExperimentError, RobotError, Stopped
from wsrl_kit.parameters import build
from wsrl_kit.robot.devices import SpaceMouse, Verdict
from wsrl_kit.robot.record import run_record
from wsrl_kit.runs.progress import Silent
from wsrl_kit.runs.run import read_run

SUCCESS, FAILURE, KEEP, DISCARD, REDO = (
    Verdict.SUCCESS, Verdict.FAILURE, Verdict.KEEP, Verdict.DISCARD, Verdict.REDO,
)  # fmt: skip
FORWARD = np.float32([0.5, 0, 0, 0, 0, 0, 0])
DOWN = np.float32([0, 0, -2.0, 0, 0, 0, 1.0])


class Told(Silent):
    """What the person is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def update(self, step: int, total: int, text: str) -> None:
        if text not in self.lines[-1:]:
            self.lines.append(text)


def record(server: FaultyServer, folder: Path, hand: Hand, progress: Any = None, **changes: Any) -> None:
    # The robot's default random starts: what is redone begins where it began.
    given = {"robot_url": server.url, "operator": "spacemouse", "demo_episodes": 0, "suboptimal_episodes": 0} | changes
    run_record(build(CollectConfig, given), folder, progress or Told(), person_with(hand))


def starts(server: FaultyServer) -> list[list[float]]:
    """Where episodes begin from now on."""
    found, new_episode = [], server.arm.new_episode
    server.arm.new_episode = lambda seed=None: (found.append(seed), new_episode(seed))  # type: ignore[method-assign]
    return found


def test_episodes_are_kept_discarded_redone_and_relabelled(tmp_path: Path) -> None:
    hand = Hand(
        [FORWARD, DOWN, SUCCESS, KEEP],
        [FORWARD, FORWARD, REDO],
        [FORWARD, FORWARD, DISCARD],
        [FORWARD, None, FORWARD, SUCCESS, FAILURE],
        [FORWARD, DOWN, DOWN, FAILURE, SUCCESS],
    )
    told = Told()
    with served() as server:
        seeds = starts(server)
        record(server, tmp_path, hand, told, demo_episodes=2, suboptimal_episodes=1)
    assert seeds[1] == seeds[2] != seeds[3] and len(set(seeds)) == 4
    assert sorted(path.name for path in tmp_path.glob("*.pkl")) == [
        "demos_0001.pkl", "demos_0002.pkl", "suboptimal_0001.pkl",
    ]  # fmt: skip
    first, second, third = load_sources(str(tmp_path)).trajectories()
    assert [each.source for each in (first, second, third)] == ["demos", "demos", "suboptimal"]
    assert [each.success for each in (first, second, third)] == [True, False, True]
    # What a person holds when the episode begins is not recorded, but the step in which they end it is.
    assert first.actions.tolist() == [[0, 0, -1, 0, 0, 0], [0] * 6]
    assert second.actions[:, 0].tolist() == [0.0, 0.5, 0.0]
    assert first.rewards.tolist() == [0, 1] and second.rewards.tolist() == [0] * 3
    assert third.rewards.tolist() == [0, 0, 1] and third.terminated
    assert read_run(tmp_path).status == "finished"
    assert told.lines[-2].startswith("2 of 3 kept, successes: 1: suboptimal 1: a failure of 3 steps")
    assert told.lines[-1] == "3 of 3 kept, successes: 2: all are recorded"


def test_recording_goes_on_where_it_ended_and_fills_what_is_missing(tmp_path: Path) -> None:
    class StopAfterOne(Told):
        stop_requested = False

        def update(self, step: int, total: int, text: str) -> None:
            self.stop_requested = step == 1

    with served() as server:
        with pytest.raises(Stopped, match="1 of 2 episodes are recorded"):
            record(server, tmp_path, Hand([FORWARD, KEEP]), StopAfterOne(), demo_episodes=2)
        assert read_run(tmp_path).status == "stopped"
        record(server, tmp_path, Hand([FORWARD, KEEP]), demo_episodes=2)
        kept = (tmp_path / "demos_0002.pkl").read_bytes()
        (tmp_path / "demos_0001.pkl").unlink()
        record(server, tmp_path, Hand([FORWARD, KEEP], [FORWARD, KEEP]), demo_episodes=3)
        assert (tmp_path / "demos_0002.pkl").read_bytes() == kept
        assert load_sources(str(tmp_path)).episode_count == 3
        # Nothing is left to do, and nobody is asked.
        record(server, tmp_path, Hand(), demo_episodes=3)


def test_sets_for_the_classifier_tell_the_steps_after_a_success_from_the_others(tmp_path: Path) -> None:
    hand = Hand(
        [FORWARD, FORWARD, DOWN, SUCCESS, DOWN, DOWN, KEEP],
        [FORWARD, DOWN, FAILURE, KEEP],
        [FORWARD, DOWN, DOWN, KEEP, SUCCESS],
    )
    with served() as server:
        record(server, tmp_path, hand, classifier_episodes=2, success_frames=3)
    dataset = load_labelled([str(tmp_path / "classifier")])
    assert dataset.rewards.sum() == 3
    episode = episodes_of_rows(dataset)
    assert len(set(episode)) == 2 and len(set(episode[dataset.rewards > 0])) == 1


def test_while_a_device_is_gone_the_robot_holds_and_the_episode_is_redone(tmp_path: Path) -> None:
    def unplug() -> Any:
        hand.gone = "the device is unplugged"
        raise RobotError(hand.gone)

    class Plugs(Told):
        def update(self, step: int, total: int, text: str) -> None:
            super().update(step, total, text)
            if "the device is unplugged; " in text and text.endswith("move to begin demos 1"):
                hand.gone = ""

    hand, told = Hand([FORWARD, FORWARD, FORWARD, unplug], [DOWN, DOWN, KEEP]), Plugs()
    with served() as server:
        seeds = starts(server)
        record(server, tmp_path, hand, told, demo_episodes=1)
    assert seeds[0] == seeds[1]
    assert any("the episode is dropped: the device is unplugged; move to begin" in line for line in told.lines)
    (trajectory,) = load_sources(str(tmp_path)).trajectories()
    assert (trajectory.actions[:, 0] == 0).all()


@pytest.mark.usefixtures("opengl")
def test_an_episode_whose_camera_freezes_is_dropped_and_says_so(tmp_path: Path) -> None:
    with served(exp_name=PIXELS, image_size=16) as server:
        images, told = server.endpoints["images"], Told()

        def freeze() -> Any:
            # For a second.
            pictures = [images({})] * 11
            server.endpoints["images"] = lambda given: pictures.pop() if pictures else images(given)
            return FORWARD

        hand = Hand([FORWARD, freeze, *[FORWARD] * 20], [DOWN, DOWN, KEEP])
        record(server, tmp_path, hand, told, demo_episodes=1, environment_options={"random_xy_range": 0.0})
    dropped = r"the episode is dropped: camera wrist_\d must show another picture when the robot moves.* it is frozen"
    assert any(re.search(dropped, line) for line in told.lines)
    (trajectory,) = load_sources(str(tmp_path)).trajectories()
    assert len(trajectory) == 2 and trajectory.images["wrist_1"].shape == (3, 16, 16, 3)


def test_a_full_disk_ends_the_recording_with_one_sentence_and_leaves_what_was_kept(tmp_path: Path) -> None:
    hand = Hand([FORWARD, DOWN, KEEP], [*[DOWN] * 25, KEEP])
    with (
        served() as server,
        files_limited_to(5_000),
        pytest.raises(DataError, match=r"demos_0002.pkl can't be written: File too large; an earlier file there is in"),
    ):
        record(server, tmp_path, hand, demo_episodes=2)
    assert [path.name for path in tmp_path.glob("*.pkl")] == ["demos_0001.pkl"]
    assert load_sources(str(tmp_path)).episode_count == 1
    assert not list(tmp_path.glob(".*.partial"))


def test_in_a_terminal_a_killed_recording_keeps_every_episode_that_was_kept(tmp_path: Path) -> None:
    folder, (ours, theirs) = tmp_path / "recorded", pty.openpty()
    code = "import sys; from wsrl_kit.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "record", "--demo_episodes=3", "--out", str(folder)]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)

    def told(sentence: str) -> None:
        heard, deadline = "", time.monotonic() + 60
        while sentence not in heard:
            assert time.monotonic() < deadline and process.poll() is None, heard
            if select.select([ours], [], [], 0.1)[0]:
                heard += os.read(ours, 1).decode(errors="replace")

    try:
        told("Ctrl-C stop.\r\nW/S A/D R/F x y z, J/L I/K U/O around x y z, space stay.\r\n")  # there is no gripper
        for number in (1, 2):
            told(f"move to begin demos {number}")
            time.sleep(0.1)
            os.write(ours, b"w")
            told("recording")
            time.sleep(0.4)
            os.write(ours, b"y")
            told("a success of")
            os.write(ours, b"\n")
        told("move to begin demos 3")
        time.sleep(0.1)
        os.write(ours, b"w")
        told("recording")
        time.sleep(0.3)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        os.close(ours)
    assert [each.success for each in load_sources(str(folder)).trajectories()] == [True, True]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--operator=pad"], "operator of wsrl-kit record must be 'keyboard' or 'spacemouse', found 'pad'"),
        ([], "recording needs a terminal, found none"),
        (["--demo_episodes=-1"], "demo_episodes must be an int >= 0, found -1"),
    ],
)
def test_what_can_not_be_recorded_is_refused(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert main(["record", "--out", str(tmp_path / "new"), *arguments]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


class Cap:
    """Stands for PySpaceMouse's object: the reports that wait, each read once."""

    def __init__(self) -> None:
        self.reports: list[Any] = []
        self.state = SimpleNamespace(t=-1.0, x=0.0, y=0.0, z=0.0, roll=0.0, pitch=0.0, yaw=0.0, buttons=[0, 0])

    def send(self, **changes: Any) -> None:
        self.reports.append(changes)

    def read(self) -> Any:
        if self.reports is None:
            raise OSError("read error")
        if self.reports:
            vars(self.state).update(self.reports.pop(0), t=self.state.t + 1)
        return self.state

    def close(self) -> None:
        pass


def test_a_spacemouse_gives_its_newest_motion_and_its_buttons() -> None:
    cap = Cap()
    mouse = SpaceMouse(lambda: cap)
    assert mouse.read(False) == (None, None)
    for share in (0.1, 0.2, 0.3):
        cap.send(x=share, yaw=-share, z=0.01)
    motion, verdict = mouse.read(False)
    assert motion == pytest.approx([0.3, 0, 0, 0, 0, -0.3, 0]) and verdict is None
    cap.send(x=0.0, yaw=0.0, buttons=[0, 1])
    assert mouse.read(True)[0] == pytest.approx([0] * 6 + [1.0])
    cap.send(buttons=[0, 0])
    assert mouse.read(True) == (None, None)

    def pressed(*states: list[int]) -> Verdict | None:
        for state in states:
            cap.send(buttons=state)
            verdict = mouse.read(False)[1]
        return verdict

    assert pressed([1, 0]) is None
    assert pressed([0, 0]) is SUCCESS
    assert pressed([0, 1], [0, 0]) is FAILURE
    assert pressed([1, 0], [1, 1], [0, 0]) is REDO


def test_a_spacemouse_that_is_unplugged_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    caps, now = [Cap()], [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    mouse = SpaceMouse(lambda: caps[-1])
    caps[-1].reports = None  # type: ignore[assignment]
    for _ in range(2):
        with pytest.raises(RobotError, match="the SpaceMouse can't be read: "):
            mouse.read(False)
    caps.append(Cap())
    now[0] += 1.5
    assert mouse.read(False) == (None, None)


def test_a_missing_spacemouse_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyspacemouse", None)
    with pytest.raises(ExperimentError, match=r"pip install 'wsrl-kit\[spacemouse\]'"):
        SpaceMouse()
