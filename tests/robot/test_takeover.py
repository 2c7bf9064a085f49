"""A person at the pad: when they act, when they no longer do, and what their verdicts make of an episode."""

import re
import sys
import time
from typing import Any

import gymnasium
import ipywidgets
import numpy as np
import pytest

from robot_samples import driven, served
from training_samples import settings
from widgets_here import find, press
from wsrl_kit.classifier.reward import ClassifierReward
from wsrl_kit.envs.human import PersonOptions, person_options
from wsrl_kit.envs.insertion import InsertionEnv
from wsrl_kit.envs.make import make
from wsrl_kit.errors import ExperimentError, ParameterError, RobotError
from wsrl_kit.notebook import pad as pads
from wsrl_kit.robot.takeover import HumanTakeover, PersonInput, Verdict, beside_person
from wsrl_kit.runs.progress import Silent
from wsrl_kit.runs.run import read_run
from wsrl_kit.training.episode import action_taken
from wsrl_kit.training.jobs import run_finetune

ROBOT = "hirol_fixed_gripper"
STILL = np.zeros(6, np.float32)
UP = [0.0, 0.0, 0.5, 0.0, 0.0, 0.25, 1.0]


class Clock:
    """Time passes when a test says so."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


class Camera(gymnasium.Wrapper):
    """One picture beside the state; its brightness is the number of the step."""

    def __init__(self) -> None:
        super().__init__(make(ROBOT))
        self._frames = np.zeros((2, 4, 4, 3), np.uint8)

    def reset(self, **given: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(**given)
        self._frames[:] = 0
        return {"state": observation, "wrist": self._frames}, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, *rest = self.env.step(action)
        self._frames[-1] += 1
        return {"state": observation, "wrist": self._frames}, *rest


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def takeover(clock: Clock) -> PersonInput:
    return PersonInput(clock=clock)


def test_what_is_held_counts_until_it_is_let_go_or_too_old(takeover: PersonInput, clock: Clock) -> None:
    assert takeover.motion() is None
    takeover.hold(UP, told=100.0)
    clock.seconds = 100.25
    np.testing.assert_array_equal(takeover.motion(), np.float32(UP))
    clock.seconds = 100.35
    assert takeover.motion() is None
    takeover.hold(UP, told=100.25)
    assert takeover.motion() is not None
    takeover.release()
    assert takeover.motion() is None


def test_a_message_that_waited_on_its_way_moves_nothing(takeover: PersonInput, clock: Clock) -> None:
    clock.seconds = 105.0
    takeover.hold(UP, told=104.6)
    assert takeover.motion() is None
    # Nor does one that knows of a time to come count for longer than one from now.
    takeover.hold(UP, told=200.0)
    assert takeover.motion() is not None
    clock.seconds = 105.4
    assert takeover.motion() is None


def test_motions_are_clipped_and_a_held_nothing_is_a_take_over(takeover: PersonInput, clock: Clock) -> None:
    takeover.hold([2.0, -3.0, 0.5, 0.0, 0.0, 0.0, 1.5], told=100.0)
    np.testing.assert_array_equal(takeover.motion(), np.float32([1, -1, 0.5, 0, 0, 0, 1]))
    takeover.hold([0.0] * 7, told=100.0)
    np.testing.assert_array_equal(takeover.motion(), np.zeros(7, np.float32))


def test_the_robot_does_what_the_person_holds_and_reports_it(takeover: PersonInput, clock: Clock) -> None:
    person, policy = HumanTakeover(make(ROBOT), takeover), make(ROBOT)
    person.reset(seed=3)
    policy.reset(seed=3)
    action = np.float32([0, 0, 0.5, 0, 0, 0.25])
    takeover.hold(UP, told=100.0)
    observation, _, _, _, info = person.step(STILL)
    np.testing.assert_array_equal(info["intervene_action"], action)
    assert info["intervene_action"].dtype == np.float32
    np.testing.assert_array_equal(observation, policy.step(action)[0])
    takeover.release()
    observation, _, _, _, info = person.step(STILL)
    assert "intervene_action" not in info
    np.testing.assert_array_equal(observation, policy.step(STILL)[0])


FORWARD = np.full(6, 0.5, np.float32)
"""What the policy would do."""


@pytest.mark.parametrize("late", ["hold", "policy"])
def test_where_the_persons_word_is_late_the_robot_holds_or_the_policy_goes_on(late: str, clock: Clock) -> None:
    takeover = PersonInput(person_options({"late": late}), clock)
    person, same = HumanTakeover(make(ROBOT), takeover), make(ROBOT)
    person.reset(seed=3)
    same.reset(seed=3)
    takeover.hold(UP, told=100.0)
    clock.seconds += 1.0  # the browser was closed, or the network is gone
    done = STILL if late == "hold" else FORWARD
    for _ in range(3):
        observation, _, _, _, info = person.step(FORWARD)
        np.testing.assert_array_equal(observation, same.step(done)[0])
        # What was done is recorded, and is nobody's intervention.
        action, is_human = action_taken(FORWARD, info)
        np.testing.assert_array_equal(action, done)
        assert not is_human
    assert takeover.holds == (late == "hold")
    takeover.hold(UP, told=101.0)
    assert action_taken(FORWARD, person.step(FORWARD)[4])[1]
    clock.seconds += 1.0
    person.step(FORWARD)
    takeover.release()  # it was let go meanwhile
    assert not takeover.holds
    np.testing.assert_array_equal(action_taken(FORWARD, person.step(FORWARD)[4])[0], FORWARD)


def test_at_a_hand_over_the_robot_goes_on_from_where_it_is(takeover: PersonInput) -> None:
    with served(speed=1.0) as server, driven(server) as robot:
        environment = HumanTakeover(robot, takeover)
        environment.reset(seed=0)
        read: dict[int, Any] = {}  # the last pose that was read before a command, by number of commands
        answer = server.endpoints["getstate"]

        def getstate(given: Any) -> Any:
            state: Any = answer(given)
            read[len(server.arm.commands)] = state["pose"][:3]
            return state

        server.endpoints["getstate"] = getstate
        for motion in (UP, None, UP):
            takeover.release() if motion is None else takeover.hold(motion, told=100.0)
            before = len(server.arm.commands)
            read.clear()
            environment.step(FORWARD)
            # The robot's place is read anew before the command, which is a step away from it.
            assert np.abs(np.subtract(server.arm.commands[-1][:3], read[before])).max() < 0.0051
            environment.step(FORWARD)


def test_while_a_device_is_gone_the_robot_holds_whoever_may_act(takeover: PersonInput) -> None:
    class Unplugged:
        is_back = False

        def read(self, gripper: bool) -> Any:
            if not self.is_back:
                raise RobotError("the device is unplugged")
            return 2 * np.float32(UP), Verdict.FAILURE

        def close(self) -> None:
            pass

    device = Unplugged()
    person = PersonInput(person_options({"late": "policy"}), devices=[device])
    environment = HumanTakeover(make(ROBOT), person)
    environment.reset(seed=0)
    _, _, terminated, truncated, info = environment.step(FORWARD)
    np.testing.assert_array_equal(info["held_action"], STILL)
    assert (terminated, truncated, person.trouble) == (False, False, "the device is unplugged")
    device.is_back = True
    _, _, terminated, _, info = environment.step(FORWARD)
    np.testing.assert_array_equal(info["intervene_action"], np.float32([0, 0, 1, 0, 0, 0.5]))
    assert terminated and not person.trouble


def test_a_watcher_whose_browser_is_silent_holds_nothing_up(takeover: PersonInput, clock: Clock) -> None:
    takeover.hold(UP, told=100.0)
    takeover.release()
    clock.seconds += 60.0
    assert takeover.motion() is None and not takeover.holds


def test_a_word_that_arrives_late_holds_the_robot(takeover: PersonInput, clock: Clock) -> None:
    clock.seconds = 105.0
    takeover.hold(UP, told=104.6)
    assert takeover.motion() is None and takeover.holds


def test_options_of_the_pad_are_checked_before_a_run(tmp_path) -> None:
    with pytest.raises(ParameterError, match="late must be one of 'hold', 'policy', found 'go'"):
        pads.show_pad("person", {"late": "go"}, live=True)
    config = settings(human="person", human_options={"stuck_steps": 3})
    with pytest.raises(ParameterError, match="there is no option of the human named stuck_steps"):
        run_finetune(config, tmp_path, Silent(), takeover=PersonInput())


@pytest.mark.parametrize(
    ("exp_name", "action"),
    [("FetchReach-v4", [0, 0, 0.5, 1.0]), ("Swimmer-v5", None), ("Pendulum-v1", None)],
)
def test_a_motion_becomes_the_actions_of_arms_alone(exp_name: str, action: Any, takeover: PersonInput) -> None:
    environment = make(exp_name)
    if action is None:
        size = environment.action_space.shape[0]
        with pytest.raises(ParameterError, match=rf"human 'person' needs .* \(3, 4, 6, 7 numbers\), found {size}"):
            HumanTakeover(environment, takeover)
        return
    environment = HumanTakeover(environment, takeover)
    environment.reset(seed=0)
    takeover.hold(UP, told=100.0)
    info = environment.step(np.zeros(4, np.float32))[4]
    np.testing.assert_array_equal(info["intervene_action"], np.float32(action))


@pytest.mark.parametrize(
    ("verdict", "reward", "ends", "success"),
    [
        (Verdict.SUCCESS, 1.0, (True, False), True),
        (Verdict.FAILURE, 0.0, (True, False), False),
        (Verdict.ABORT, 0.0, (False, True), False),
    ],
)
def test_a_verdict_ends_the_episode_once(
    verdict: Verdict, reward: float, ends: tuple[bool, bool], success: bool, takeover: PersonInput
) -> None:
    # A classifier that sees no success is overruled.
    classified = ClassifierReward(make(ROBOT), lambda _: 0.0, threshold=0.5, release=0.5, steps=1)
    environment = HumanTakeover(classified, takeover)
    takeover.decide(verdict)  # of the episode before
    environment.reset(seed=0)
    assert environment.step(STILL)[2:4] == (False, False)
    takeover.decide(verdict)
    _, found, terminated, truncated, info = environment.step(STILL)
    assert (found, (terminated, truncated), info["success"]) == (reward, ends, success)
    environment.reset(seed=1)
    assert environment.step(STILL)[2:4] == (False, False)


def test_a_simulation_goes_no_faster_than_a_person_can_follow(takeover: PersonInput) -> None:
    environment = beside_person(make(ROBOT), takeover)
    environment.reset(seed=0)
    environment.step(STILL)
    start = time.monotonic()
    environment.step(STILL)
    environment.step(STILL)
    assert time.monotonic() - start >= 0.19


def test_who_never_lets_go_ends_with_the_time_limit(takeover: PersonInput) -> None:
    environment = HumanTakeover(make(ROBOT, {"max_episode_steps": 5}), takeover)
    environment.reset(seed=0)
    takeover.hold(UP, told=100.0)
    ends = [environment.step(STILL)[3] for _ in range(5)]
    assert ends == [False] * 4 + [True]


# The front end: what the browser sends comes in as it does from there, through the widgets' channel.


@pytest.fixture
def pad(takeover: PersonInput) -> ipywidgets.Widget:
    return pads.pad_of(takeover)


def say(
    pad: ipywidgets.Widget, motion: list[float] | None, told: float | None, released: bool = False, kept: float = 0.0
) -> None:
    content = {"motion": motion, "told": told, "released": released, "kept": kept}
    message = {"content": {"data": {"method": "custom", "content": content}}, "buffers": []}
    pad.children[0].comm.handle_msg(message)


def test_the_pad_holds_and_lets_go(pad: ipywidgets.Widget, takeover: PersonInput, clock: Clock) -> None:
    say(pad, UP, None)  # it was told no time yet
    assert takeover.motion() is None
    speed = pad.children[1].children[-1]
    speed.value = 0.2
    say(pad, UP, 100.0)
    # The gripper has no speed.
    np.testing.assert_allclose(takeover.motion(), [0, 0, 0.1, 0, 0, 0.05, 1.0], rtol=1e-6)
    say(pad, None, 100.0)  # a second view of the pad, in which nothing is held
    assert takeover.motion() is not None
    say(pad, None, 100.0, released=True)
    assert takeover.motion() is None


def test_the_pad_is_told_the_time_who_acts_and_the_links_delay(
    pad: ipywidgets.Widget, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(type(pad.children[0].comm), "publish_msg", lambda _, kind, data, **rest: told.append(data))
    say(pad, UP, None)
    clock.seconds = 100.25
    say(pad, UP, 100.0, kept=0.125)
    clock.seconds = 100.5
    say(pad, UP, 100.0)  # as a browser whose line is cut on the way back
    say(pad, None, 100.25, released=True)
    answers = [data["content"] for data in told if data["method"] == "custom"]
    assert all(answer.pop("idle") == "the policy acts" and answer.pop("trouble") == "" for answer in answers)
    assert not any(answer.pop("gripper") for answer in answers)  # its keys are hidden
    assert answers == [
        {"time": 100.0, "acts": False, "holds": False, "is_held": False, "delay": None},
        {"time": 100.25, "acts": True, "holds": False, "is_held": False, "delay": 0.125},
        {"time": 100.5, "acts": False, "holds": True, "is_held": False, "delay": 0.5},
        {"time": 100.5, "acts": False, "holds": False, "is_held": False, "delay": 0.25},
    ]


def test_the_buttons_are_verdicts(pad: ipywidgets.Widget, takeover: PersonInput) -> None:
    *buttons, _, _ = pad.children[1].children
    assert [button.description for button in buttons] == ["Success", "Failure", "Abort"]
    for button, verdict in zip(buttons, pads.TAKEOVER, strict=True):
        button.click()
        assert takeover.take_verdict() is verdict
    assert takeover.take_verdict() is None


def test_the_pad_for_recording_has_buttons_that_keep_discard_and_redo(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(pads, "display", shown.append)
    assert pads.show_recording_pad("scripted") is None
    with pytest.raises(ParameterError, match="operator 'keyboard' needs a terminal: use `wsrl-kit record`"):
        pads.show_recording_pad("keyboard", live=True)
    with pytest.raises(ParameterError, match="operator 'pad' needs the notebook to run in JupyterLab"):
        pads.show_recording_pad("pad", live=False)
    person = pads.show_recording_pad("pad", live=True)
    assert person is not None
    *buttons, _ = shown[0].children[1].children
    for button in buttons:
        button.click()
        assert person.take_verdict() == button.description.lower()
    assert [button.description for button in buttons] == ["Success", "Failure", "Keep", "Discard", "Redo"]
    for verdict in ("redo", "abort"):  # by a key; there is no such button
        message = {"content": {"data": {"method": "custom", "content": {"verdict": verdict}}}, "buffers": []}
        shown[0].children[0].comm.handle_msg(message)
        assert person.take_verdict() == (verdict if verdict == "redo" else None)


def test_the_pad_shows_the_question_while_the_robot_waits(pad: ipywidgets.Widget, takeover: PersonInput) -> None:
    question, shown = pad.children[2], []

    def give_up() -> bool:
        say(pad, None, None)
        shown.append(question.value)
        return len(shown) > 1

    assert takeover.ask(STILL, "is it one?", give_up) is None
    say(pad, None, None)
    shown.append(question.value)
    assert shown[0] == "<b>is it one?</b>" and shown[2] == "<b></b>"


def test_hold_is_pressed_once_to_hold_and_once_to_go_on(pad: ipywidgets.Widget, takeover: PersonInput) -> None:
    environment, same = HumanTakeover(make(ROBOT), takeover), make(ROBOT)
    environment.reset(seed=3)
    same.reset(seed=3)
    hold = find(pad, ipywidgets.ToggleButton, "Hold")
    for is_held, done in ((True, STILL), (False, FORWARD)):
        hold.value = is_held
        observation, *_, info = environment.step(FORWARD)
        np.testing.assert_array_equal(observation, same.step(done)[0])
        assert ("held_action" in info) == is_held
    hold.value = True
    takeover.hold(UP, told=100.0)
    assert "intervene_action" in environment.step(FORWARD)[4]  # who acts is not held


def test_the_pad_shows_the_robot_from_outside_its_pose_force_and_the_last_verdicts(
    pad: ipywidgets.Widget, takeover: PersonInput, clock: Clock
) -> None:
    environment = beside_person(make(ROBOT), takeover)
    environment.reset(seed=0)
    start = time.monotonic()
    pictures = set()
    for _ in range(12):
        environment.step(STILL)
        clock.seconds += 0.2
        say(pad, None, None)
        pictures |= {id(takeover.frames["outside"])}
    assert len(pictures) <= 2 + (time.monotonic() - start) / 0.25
    (column,) = pad.children[-1].children
    assert bytes(column.children[1].value).startswith(b"\xff\xd8\xff")
    press(pad, "Failure")
    say(pad, None, None)
    facts = pad.children[3].value
    assert re.search(r"step 12; force [\d.]+ of 50 N; x [-\d.]+, y [-\d.]+, z [\d.]+ mm; turned", facts)
    assert "last verdicts: failure" in facts


def test_without_opengl_the_pad_says_so_and_the_robot_goes_on(
    pad: ipywidgets.Widget, takeover: PersonInput, monkeypatch: pytest.MonkeyPatch
) -> None:
    def render(_: Any) -> None:
        raise ExperimentError("drawing needs OpenGL")

    monkeypatch.setattr(InsertionEnv, "render", render)
    environment = HumanTakeover(make(ROBOT), takeover)
    environment.reset(seed=0)
    environment.step(STILL)
    say(pad, None, None)
    assert "no outside view: drawing needs OpenGL" in pad.children[3].value and not pad.children[-1].children


def test_cameras_are_shown_at_most_ten_times_a_second(
    pad: ipywidgets.Widget, takeover: PersonInput, clock: Clock
) -> None:
    environment = HumanTakeover(Camera(), takeover)
    environment.reset(seed=0)
    first: list[bytes] = []
    pad.children[-1].observe(lambda change: first.append(change["new"][0].children[1].value), "children")
    say(pad, None, None)
    # A browser shows an image without a picture as a broken one.
    assert bytes(first[0]).startswith(b"\xff\xd8\xff")
    _, column = pad.children[-1].children
    label, image = column.children
    assert label.value == "wrist"
    assert bytes(image.value).startswith(b"\xff\xd8\xff")
    pictures = []
    for _ in range(16):  # a second
        environment.step(STILL)
        clock.seconds += 1 / 16
        say(pad, None, None)
        pictures.append(bytes(image.value))
    # The first of each pair comes within 0.1 s of the picture before.
    assert pictures[1:-1:2] == pictures[2::2]
    assert len(set(pictures)) == 9


def test_there_is_a_pad_only_for_a_person_and_only_where_they_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(pads, "display", shown.append)
    assert pads.show_pad("none", {}) is None
    assert pads.show_pad("scripted", {"stuck_steps": 3}, live=True) is None
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    with pytest.raises(ParameterError, match="human 'person' needs the notebook to run in JupyterLab"):
        pads.show_pad("person", {})
    assert not shown
    assert isinstance(pads.show_pad("person", {}, live=True), PersonInput)
    assert len(shown) == 1


def test_a_missing_anywidget_is_named(takeover: PersonInput, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(ExperimentError, match=r"needs anywidget, which `pip install 'wsrl-kit\[takeover\]'` installs"):
        pads.pad_of(takeover)


def test_a_run_without_a_pad_is_refused_before_it_begins(tmp_path) -> None:
    with pytest.raises(ParameterError, match="human 'person' needs somebody at the pad"):
        run_finetune(settings(human="person"), tmp_path / "run", Silent())
    assert not (tmp_path / "run").exists()


def test_a_run_records_what_a_person_does(tmp_path) -> None:
    takeover = PersonInput(PersonOptions(late_seconds=1e9))
    takeover.hold(UP, takeover.now())
    config = settings(human="person", random_steps=14, online_steps=14, evaluation_episodes=0)
    run_finetune(config, tmp_path, Silent(), takeover=takeover)
    rate = read_run(tmp_path).curve("training/intervention_rate").value
    np.testing.assert_array_equal(rate, 1.0)
