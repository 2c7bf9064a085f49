"""Clips: pictures of what a run's policy did, from episodes that play again, and what is said where there are none."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import gymnasium
import numpy as np
import pytest
from matplotlib import image

from trace_samples import INSERTION, ROBOT, episode, write_run
from wsrl_kit.analysis import clips
from wsrl_kit.analysis.clips import contact, moments, write_clip
from wsrl_kit.cli import main
from wsrl_kit.envs import insertion
from wsrl_kit.envs.playback import make_visible, play_again
from wsrl_kit.envs.rendering import missing
from wsrl_kit.errors import ExperimentError, ParameterError, RunError
from wsrl_kit.runs.run import read_run
from wsrl_kit.runs.traces import Trace

av = pytest.importorskip("av")


@pytest.fixture(scope="module")
def success() -> Trace:
    return episode("expert", 1)


@pytest.fixture(scope="module")
def failure() -> Trace:
    return episode("random", 2)


@pytest.fixture
def run(tmp_path: Path, success: Trace, failure: Trace) -> Path:
    """A run that warmed up and went on."""
    write_run(tmp_path / "warmup", {0: [failure], 200: [success, failure]}, kind="warmup")
    checkpoint = str(tmp_path / "warmup" / "warmup.npz")
    both = [success, failure]
    return write_run(tmp_path / "run", {0: both, 50: [failure], 100: both, 150: [success]}, checkpoint_path=checkpoint)


@pytest.fixture
def no_opengl(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise missing(OSError("no library"))

    monkeypatch.setattr(insertion, "Cameras", refuse)


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def refusal(folder: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """The one sentence with which the command ends, status 1."""
    assert main(["watch", str(folder), *flags]) == 1
    (sentence,) = capsys.readouterr().err.strip().split("\n")
    return sentence


def test_an_episode_plays_again_to_the_same_poses(success: Trace, failure: Trace) -> None:
    environment = make_visible(INSERTION, ROBOT)
    for trace in (success, failure, success):
        first, second = (play_again(environment, INSERTION, trace, stride=10**6) for _ in range(2))
        assert first.is_exact and second.is_exact
        assert np.array_equal(first.poses, second.poses) and len(first.poses) == len(trace) + 1
        assert np.array_equal(first.forces, second.forces)
    assert success.success == 1 and failure.success == 0
    environment.close()


def test_another_episode_than_the_recorded_one_is_refused(success: Trace) -> None:
    environment = make_visible(INSERTION, ROBOT)
    longer = replace(success, actions=np.tile(success.actions, (2, 1)), values=np.tile(success.values, 2))
    with pytest.raises(ExperimentError, match="ended at step"):
        play_again(environment, INSERTION, longer, 1)
    with pytest.raises(ExperimentError, match="succeeded, other than recorded"):
        play_again(environment, INSERTION, replace(success, success=0.0), 1)
    moved = play_again(environment, INSERTION, replace(success, last_state=success.last_state + 1), 10**6)
    assert not moved.is_exact


def test_moments_are_in_the_order_of_time_and_an_evaluation_is_shown_once(run: Path, success: Trace) -> None:
    titles = [moment.title for moment in moments(read_run(run))]
    assert titles == [
        "Before warmup: gradient step 0",
        "At the switch: environment step 0, success 0.50",
        "At the bottom of the dip: environment step 50, success 0.20",
        "At the end: environment step 150, success 0.90",
    ]
    alone = write_run(run / "alone", {0: [success]})
    titles = [moment.title for moment in moments(read_run(alone))]
    assert titles == ["Before learning, at the end: environment step 0, success 0.50"]


@pytest.mark.usefixtures("opengl")
@pytest.mark.slow
def test_a_clip_has_a_frame_for_each_step_and_moves(tmp_path: Path, success: Trace, failure: Trace) -> None:
    folder = write_run(tmp_path / "run", {0: [success, failure]})
    clip = write_clip(folder)
    assert clip.path == folder / "videos" / "clip.mp4" and not clip.remarks
    frames = decoded(clip.path)
    # Both episodes side by side, the reset's picture first, and the last one for a second.
    assert len(frames) == 1 + max(len(success), len(failure)) + 10
    assert frames[0].shape == (840, 960, 3)
    picture = (slice(90, 480), slice(100, 460))
    changes = [np.abs(a[picture].astype(int) - b[picture]).mean() for a, b in pairwise(frames)]
    assert min(changes[: len(success) - 1]) > 0.05
    with av.open(str(clip.path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.average_rate) == 10.0
    before = clip.path.read_bytes()
    assert write_clip(folder).path.read_bytes() == before


@pytest.mark.usefixtures("no_opengl")
def test_the_command_names_its_moments_and_draws_peg_and_hole_without_opengl(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["watch", str(run), "--out", str(run / "drawn.png")]) == 0
    shown = capsys.readouterr()
    assert shown.out.split("\n")[-2] == str(run / "drawn.png") and "At the switch" in shown.out
    assert "OpenGL" in shown.err
    page = image.imread(run / "drawn.png")
    assert page.shape[:2] == (4 * 840, 960)
    peg = (np.abs(page[..., :3] - [0.87, 0.49, 0.2]).max(axis=-1) < 0.12).sum()
    assert peg > 4_000


def test_a_long_episode_is_shown_faster(tmp_path: Path, failure: Trace, no_opengl: None) -> None:
    with mock.patch.object(clips, "MOST_PICTURES", 10):
        clip = write_clip(write_run(tmp_path / "run", {0: [failure]}))
    assert len(failure) == 25 and len(decoded(clip.path)) == 1 + -(-25 // 3) + 10


def test_contact_begins_with_a_force(success: Trace) -> None:
    environment = make_visible(INSERTION, ROBOT)
    playback = play_again(environment, INSERTION, success, 10**6)
    first = contact(playback)
    assert first is not None and (playback.forces[: first - 1] < 1.0).all() and playback.forces[first - 1] >= 1.0
    assert contact(replace(playback, forces=None)) is None
    assert contact(replace(playback, forces=np.zeros(3))) is None


def test_what_can_not_be_shown_is_said_in_one_sentence(
    run: Path, tmp_path: Path, success: Trace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "found no run.json" in refusal(tmp_path, capsys)
    assert "holds no traces" in refusal(write_run(tmp_path / "none", {}), capsys)
    robot = write_run(tmp_path / "robot", {0: [success]}, exp_name="hirol_robot")
    assert "a real robot would move" in refusal(robot, capsys)
    other = write_run(tmp_path / "other", {0: [success]}, kind="ablation")
    assert "expected the folder of a warmup or fine-tuning" in refusal(other, capsys)
    nameless = write_run(tmp_path / "nameless", {0: [success]}, exp_name=None)
    assert "must name the task" in refusal(nameless, capsys)
    with pytest.raises(ParameterError, match="must end in .mp4 or .png"):
        write_clip(run, run / "clip.avi")
    (run / "metrics.csv").unlink()
    assert "metrics.csv" in refusal(run, capsys)


class Dot(gymnasium.Env):
    """A dot that moves as told, and three steps long."""

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 4}
    observation_space = gymnasium.spaces.Box(-9, 9, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, render_mode: str | None = None, picture: Any = None) -> None:
        self.render_mode, self.picture = render_mode, picture

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.place, self.steps = self.np_random.uniform(-1, 1, 1), 0
        return self.place.astype(np.float32), {}

    def step(self, action: np.ndarray) -> Any:
        self.place, self.steps = self.place + action, self.steps + 1
        return self.place.astype(np.float32), 0.5, self.steps == 3, False, {}

    def render(self) -> Any:
        assert self.render_mode == "rgb_array"
        if self.picture is not None:
            return self.picture
        picture = np.zeros((24, 48, 3), np.uint8)
        picture[10:14, int(20 + 4 * self.place[0])] = 255
        return picture


class Blind(Dot):
    metadata: ClassVar = {"render_modes": ["human"]}


@pytest.fixture
def dots() -> Iterator[Trace]:
    """Tasks of somebody else's, and an episode of theirs."""
    for task in (Dot, Blind):
        gymnasium.register(f"{task.__name__}-v0", task, max_episode_steps=10)
    actions = np.array([[0.5], [1.0], [-0.25]], np.float32)
    environment = Dot()
    state = environment.reset(seed=5)[0]
    for action in actions:
        state = environment.step(action)[0]
    yield Trace(5, actions, actions[:, 0], np.nan, 1.5, state)
    del gymnasium.registry["Dot-v0"], gymnasium.registry["Blind-v0"]


def test_any_task_that_draws_itself_is_shown_and_others_are_named(
    tmp_path: Path, dots: Trace, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_clip(write_run(tmp_path / "dot", {0: [dots]}, exp_name="Dot-v0", options={}))
    assert len(decoded(clip.path)) == 1 + 3 + 4 and not clip.remarks
    blind = write_run(tmp_path / "blind", {0: [dots]}, exp_name="Blind-v0", options={})
    assert "needs the render mode 'rgb_array', found ['human']" in refusal(blind, capsys)
    broken = write_run(tmp_path / "broken", {0: [dots]}, exp_name="Dot-v0", options={"picture": "none"})
    assert "render() must give an RGB image" in refusal(broken, capsys)
    wide = replace(dots, actions=np.zeros((3, 2), np.float32))
    failing = write_run(tmp_path / "failing", {0: [wide]}, exp_name="Dot-v0", options={})
    assert "Dot-v0 can't be shown" in refusal(failing, capsys)


def test_a_run_that_is_written_or_deleted_meanwhile(run: Path, no_opengl: None, capsys: pytest.CaptureFixture) -> None:
    content = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(content | {"status": "running"}))
    assert moments(read_run(run))[-1].title.startswith("So far: environment step 150")
    last = sorted((run / "traces").iterdir())[-1]
    last.write_bytes(last.read_bytes()[:300])
    assert "must hold traces of episodes" in refusal(run, capsys)
    deleted = moments(read_run(run))
    last.unlink()
    with mock.patch.object(clips, "moments", return_value=deleted), pytest.raises(RunError, match="No such file"):
        write_clip(run)


def test_without_an_encoder_there_are_still_pictures(
    tmp_path: Path, success: Trace, no_opengl: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path, {0: [success]})

    def unknown(*arguments: str) -> None:
        raise av.codec.codec.UnknownCodecError("libx264")

    with monkeypatch.context() as context:
        context.setattr(av.codec, "Codec", unknown)
        assert "with the encoder libx264" in refusal(run, capsys, "--out", str(run / "clip.mp4"))
    monkeypatch.setitem(sys.modules, "av", None)
    assert "pip install 'wsrl-kit[video]'" in refusal(run, capsys, "--out", str(run / "clip.mp4"))
    clip = write_clip(run)
    assert clip.path == run / "videos" / "clip.png" and "PyAV" in clip.remarks[0]
