"""Labels beside a data file: what they do to its episodes, and which are refused."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_samples import trajectory, upstream_rows, write_upstream
from file_writers import write_minari, write_npz
from wsrl_kit.cli import main
from wsrl_kit.data.digests import input_digests
from wsrl_kit.data.doctor import examine
from wsrl_kit.data.formats.hil_serl import write_hil_serl
from wsrl_kit.data.labels import Label, labels_path, read_labels, write_labels
from wsrl_kit.data.sources import expand, load_sources
from wsrl_kit.data.trajectory import Trajectory
from wsrl_kit.errors import DataError, NoTransitionsError
from wsrl_kit.parameters import parameter


def three(**changes: Any) -> list[Trajectory]:
    """A success, a failure that timed out, and another success."""
    failure = trajectory(5, seed=2, success=False, terminated=False, **changes)
    return [trajectory(4, seed=1, **changes), failure, trajectory(3, seed=3, **changes)]


def labelled(path: Path, labels: dict[int, Label], episodes: int = 3) -> list[Trajectory]:
    write_labels(path, labels, episodes)
    return load_sources(str(path)).trajectories()


@pytest.mark.parametrize("write", [write_hil_serl, write_npz, write_minari])
def test_excluded_episodes_are_gone_and_the_others_unchanged(tmp_path: Path, write: Callable[..., None]) -> None:
    write(tmp_path / "data-v0", three())
    whole = load_sources(str(tmp_path / "data-v0")).trajectories()
    first, last = labelled(tmp_path / "data-v0", {1: Label("exclude")})
    for found, expected in ((first, whole[0]), (last, whole[2])):
        np.testing.assert_array_equal(found.observations, expected.observations)
        assert (found.terminated, found.success) == (expected.terminated, expected.success)
    assert expand(str(tmp_path)) == {"demos": [tmp_path / "data-v0"]}
    assert expand(str(tmp_path / "data*")) == {"demos": [tmp_path / "data-v0"]}


def test_images_stay_with_their_episodes(tmp_path: Path) -> None:
    write_hil_serl(tmp_path / "data.pkl", three(cameras={"wrist": (8, 8, 3)}, horizon=2))
    whole = load_sources(str(tmp_path / "data.pkl")).trajectories()
    cut, last = labelled(tmp_path / "data.pkl", {0: Label(cut=2), 1: Label("exclude")})
    np.testing.assert_array_equal(cut.images["wrist"], whole[0].images["wrist"][: 2 + 2])
    np.testing.assert_array_equal(last.images["wrist"], whole[2].images["wrist"])


def test_a_success_ends_the_task_with_its_reward_and_a_failure_does_not(tmp_path: Path) -> None:
    write_npz(tmp_path / "data.npz", three())
    first, second, third = labelled(
        tmp_path / "data.npz", {0: Label("failure"), 1: Label("success"), 2: Label("success")}
    )
    assert (first.success, first.terminated, first.truncated, first.rewards.tolist()) == (False, False, True, [0] * 4)
    assert (second.success, second.terminated, second.truncated) == (True, True, False)
    assert second.rewards.tolist() == [0, 0, 0, 0, 1]
    assert (third.success, third.terminated, third.rewards.tolist()) == (True, True, [0, 0, 1])


@pytest.mark.parametrize(
    ("rewards", "success", "failure"),
    [
        ([-1, -1, 0], [-1, -1, 0], [-1, -1, -1]),
        ([-1, -1, -1], [-1, -1, 0], [-1, -1, -1]),
        ([0.1, 0.2, 7], [0.1, 0.2, 7], [0.1, 0.2, 7]),
    ],
)
def test_rewards_follow_the_files_convention(
    tmp_path: Path, rewards: list[float], success: list[float], failure: list[float]
) -> None:
    write_npz(tmp_path / "data.npz", [trajectory(3, seed=seed, success=None, rewards=rewards) for seed in range(2)])
    found = labelled(tmp_path / "data.npz", {0: Label("success"), 1: Label("failure")}, 2)
    assert [each.success for each in found] == [True, False]
    np.testing.assert_allclose([each.rewards for each in found], [success, failure])


def test_a_cut_truncates_and_leaves_success_unknown_unless_it_is_said(tmp_path: Path) -> None:
    write_npz(tmp_path / "data.npz", three())
    first, second, third = labelled(
        tmp_path / "data.npz", {0: Label(cut=2), 1: Label("success", 3), 2: Label("failure", 1)}
    )
    assert (len(first), first.success, first.terminated, first.truncated) == (2, None, False, True)
    assert (len(second), second.success, second.terminated, second.rewards.tolist()) == (3, True, True, [0, 0, 1])
    assert (len(third), third.success, third.terminated, third.truncated) == (1, False, False, True)


def test_labels_survive_writing_and_none_leave_no_file(tmp_path: Path) -> None:
    path = write_upstream(tmp_path / "data.pkl", upstream_rows([4, 5]))
    before = path.read_bytes()
    labels = {1: Label("failure", 2), 0: Label("exclude")}
    write_labels(path, labels, 2)
    assert read_labels(path) == labels
    assert path.read_bytes() == before
    write_labels(path, {0: Label()}, 2)
    assert os.listdir(tmp_path) == ["data.pkl"]
    assert read_labels(path) == {}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "must hold labels of episodes, found a damaged file"),
        ("[]", "must hold data, episodes and labels, found no such JSON"),
        ({"labels": []}, "must hold a number of episodes and labels by episode"),
        ({"labels": {"2": {"label": "exclude"}}}, "labels the episode '2', expected a number from 0 to 1"),
        ({"labels": {"-1": {}}}, "labels the episode '-1', expected a number from 0 to 1"),
        ({"labels": {"0": {"label": "good"}}}, "labels episode 0 'good', expected exclude, success or failure"),
        ({"labels": {"0": "exclude"}}, "must say `label` or `cut` of episode 0, found 'exclude'"),
        ({"labels": {"0": {"cut": 0}}}, "cuts episode 0 after 0 transitions, expected a number from 1"),
        ({"labels": {"0": {"cut": 4}}}, "cuts episode 0 after 4 transitions, expected fewer than the 4 that it has"),
        ({"data": "0123"}, "labels other data: .*data.pkl has changed since, or is another file"),
        ({"episodes": 9, "labels": {"7": {"label": "exclude"}}}, "labels episode 7, but .*data.pkl has 2 episodes"),
        ({"labels": {"0": {"label": "exclude"}, "1": {"label": "exclude"}}}, "holds no transitions but those that"),
    ],
)
def test_bad_labels_are_refused_in_one_sentence_and_a_problem_for_the_doctor(
    tmp_path: Path, content: str | dict[str, Any], sentence: str
) -> None:
    path = write_upstream(tmp_path / "data.pkl", upstream_rows([4, 5]))
    write_labels(path, {0: Label("success")}, 2)
    good = json.loads(labels_path(path).read_text())
    labels_path(path).write_text(content if isinstance(content, str) else json.dumps(good | content))
    with pytest.raises((DataError, NoTransitionsError), match=sentence) as caught:
        load_sources(str(path))
    assert "\n" not in str(caught.value)
    (problem,) = examine(path).problems
    assert problem == str(caught.value)
    assert main(["doctor", str(path)]) == 1


def test_the_doctor_reports_labels_and_what_they_leave(tmp_path: Path) -> None:
    path = write_upstream(tmp_path / "data.pkl", upstream_rows([4, 5, 6]))
    write_labels(path, {0: Label("exclude"), 1: Label("failure", 3)}, 3)
    facts = examine(path).facts
    assert (facts["labels"], facts["episodes"], facts["transitions"]) == ("1 exclude, 1 failure, 1 cut", "2", "9")
    assert facts["digest"] == json.loads(labels_path(path).read_text())["data"]  # for labels written by hand


@dataclass
class Config:
    data: str = parameter("", "data", input_of=("warmup",))


def test_a_run_knows_the_labels_that_it_began_with(tmp_path: Path) -> None:
    path = write_upstream(tmp_path / "data.pkl", upstream_rows([4, 5]))
    config = Config(str(tmp_path))
    without = input_digests(config, "warmup")
    write_labels(path, {0: Label("exclude")}, 2)
    one = input_digests(config, "warmup")
    write_labels(path, {1: Label("exclude")}, 2)
    other = input_digests(config, "warmup")
    write_labels(path, {}, 2)
    assert len({each["data"] for each in (without, one, other)}) == 3
    assert input_digests(config, "warmup") == without
