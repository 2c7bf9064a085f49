"""Data beside the task that they are for: what does not fit is said, and how they are to be read can be said."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

from data_samples import trajectory, upstream_rows, write_upstream
from file_writers import write_hdf5, write_minari, write_npz
from lerobot_samples import episode, write_lerobot
from training_samples import settings
from wsrl_kit.cli import main
from wsrl_kit.data.conventions import Conventions
from wsrl_kit.data.doctor import examine_all
from wsrl_kit.data.formats.hil_serl import write_hil_serl
from wsrl_kit.data.sources import load_sources
from wsrl_kit.data.task import Task
from wsrl_kit.errors import DataError
from wsrl_kit.runs.progress import Silent
from wsrl_kit.training.inputs import check_data, describe, load_and_check
from wsrl_kit.training.jobs import load_offline_data, run_warmup

NAME = "WsrlKitOwn-v0"


class Own(gymnasium.Env):
    """A task with small actions, which pays `reward` and says success under a name of its own."""

    def __init__(self, bound: float = 0.1, reward: float = 0.0, goal: int = 0) -> None:
        self.observation_space = spaces.Box(-1, 1, (3,))
        self.action_space = spaces.Box(-bound, bound, (2,), np.float32)
        self.reward = reward

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {}

    def step(self, action: np.ndarray) -> Any:
        return np.zeros(3, np.float32), self.reward, False, False, {"task_success": False}


@pytest.fixture(autouse=True)
def _registered() -> Any:
    gymnasium.register(NAME, entry_point=Own, max_episode_steps=5)
    yield
    del gymnasium.registry[NAME]


def rows(scale: float = 1.0, **changes: Any) -> list[dict[str, Any]]:
    return [row | {"actions": scale * row["actions"]} | changes for row in upstream_rows([3, 8, 5])]


def warnings(paths: Any, task: Task | None = None) -> list[str]:
    task = task or describe(NAME, {"success_key": "task_success"})
    reports = examine_all(paths, task=task)
    assert not [problem for report in reports for problem in report.problems]
    return [warning for report in reports for warning in report.warnings]


def test_data_that_fit_the_task_bring_no_warning(tmp_path: Path) -> None:
    write_upstream(tmp_path / "demos.pkl", rows())
    (tmp_path / "run.json").write_text(json.dumps({"parameters": {"exp_name": NAME, "environment_options": {}}}))
    assert warnings(tmp_path) == []


@pytest.mark.parametrize(
    ("bound", "scale", "expected"),
    [
        (0.1, 0.1, "has actions within the bounds of WsrlKitOwn-v0, -0.1 to 0.1, and so in a small part of [-1, 1]: "),
        (0.4, 0.4, "-0.4 to 0.4, and so in a small part"),
        (3.0, 3.0, "-3 to 3, and some beyond [-1, 1]: "),
        (0.1, 0.2, ""),
        (1.0, 0.1, ""),
        (3.0, 1.0, ""),
    ],
)
def test_actions_in_the_units_of_the_task_are_pointed_out(
    tmp_path: Path, bound: float, scale: float, expected: str
) -> None:
    write_upstream(tmp_path / "demos.pkl", rows(scale))
    task = describe(NAME, {"success_key": "task_success", "bound": bound})
    found = [warning for report in examine_all(tmp_path, task=task) for warning in report.warnings]
    assert len(found) == bool(expected)
    for warning in found:
        assert expected in warning
        assert warning.startswith(str(tmp_path / "demos.pkl"))
        assert 'give action_units="task"' in warning


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        ({"exp_name": "Hopper-v5", "environment_options": {}}, "was recorded for 'Hopper-v5', not WsrlKitOwn-v0"),
        (
            {"exp_name": NAME, "environment_options": {"goal": 2}},
            "run.json beside it says: 'goal' = 2 instead of none given",
        ),
        ({"exp_name": NAME, "environment_options": {"success_key": "x"}}, ""),
        ({"exp_name": 3, "environment_options": {}}, ""),
        ({"seed": 1}, ""),
        ([[]], ""),
    ],
)
def test_data_of_another_task_are_pointed_out(tmp_path: Path, recorded: Any, expected: str) -> None:
    write_upstream(tmp_path / "demos.pkl", rows())
    (tmp_path / "run.json").write_text(json.dumps({"parameters": recorded}))
    found = warnings(tmp_path)
    assert len(found) == bool(expected)
    assert all(expected in warning for warning in found)


@pytest.mark.parametrize("content", ["", "no json", "[" * 100_000, "3", '{"parameters": null}'])
def test_a_damaged_run_json_says_nothing(tmp_path: Path, content: str) -> None:
    path = write_upstream(tmp_path / "demos.pkl", rows())
    (tmp_path / "run.json").write_text(content)
    assert warnings(path) == []


@pytest.mark.parametrize(
    ("shift", "options", "expected"),
    [
        (-1, {}, "rewards of 0 for success and else -1, but those of WsrlKitOwn-v0 are 0 without a success"),
        (-1, {"reward": -1.0}, ""),
        (-1, {"reward": -1.0, "success_reward": True}, "are 1 for success and else 0"),
        (0, {"reward": -1.0}, "rewards of 1 for success and else 0, but those of WsrlKitOwn-v0 are 0 for success"),
        (0, {"reward": -0.3}, "but those of WsrlKitOwn-v0 are others"),
        (-0.2, {"success_reward": True}, "rewards of others than 0 and 1"),
        (-0.2, {}, ""),
        (-0.2, {"reward": -0.3}, ""),
    ],
)
def test_rewards_that_the_task_does_not_have_are_pointed_out(
    tmp_path: Path, shift: float, options: dict[str, Any], expected: str
) -> None:
    shifted = [row | {"rewards": row["rewards"] + shift} for row in rows()]
    write_upstream(tmp_path / "demos.pkl", shifted)
    found = warnings(tmp_path, describe(NAME, {"success_key": "task_success"} | options))
    assert len(found) == bool(expected)
    assert all(expected in warning for warning in found)


def test_data_without_a_success_are_pointed_out(tmp_path: Path) -> None:
    failures = [row | {"rewards": 0, "infos": {"succeed": False}} for row in rows()]
    write_upstream(tmp_path / "random.pkl", failures)
    assert warnings(tmp_path) == ["no success in 3 episodes: what leads to one can't be learned from these data."]
    unknown = [row | {"rewards": 0.3, "infos": {"solved_successfully": row["dones"]}} for row in rows()]
    write_upstream(tmp_path / "random.pkl", unknown)
    (found,) = warnings(tmp_path, describe(NAME, {"success_key": "task_success", "reward": 0.3}))
    assert found.startswith("none of 3 episodes says whether it succeeded; info holds 'solved_successfully': give")
    # One success in one of the files is enough.
    write_upstream(tmp_path / "demos.pkl", rows())
    assert not any("none of" in warning for warning in warnings(tmp_path))


def test_a_task_whose_success_has_another_name_is_pointed_out(tmp_path: Path) -> None:
    expected = "WsrlKitOwn-v0: success is not recorded; info holds 'task_success': give success_key='task_success' in"
    config = settings(exp_name=NAME, environment_options={})
    (found,) = check_data(config, None)
    assert found.startswith(expected)
    write_upstream(tmp_path / "demos.pkl", rows())
    assert [warning.startswith(expected) for warning in warnings(tmp_path, describe(NAME, {}))] == [True]


def test_sizes_that_the_task_does_not_have_are_a_problem(tmp_path: Path) -> None:
    write_npz(tmp_path / "demos.npz", [trajectory(4, observation_size=5)])
    (report,) = examine_all(tmp_path, task=describe(NAME, {"success_key": "task_success"}))
    assert report.problems == (
        f"{tmp_path / 'demos.npz'} has observations of size 5, expected 3 as WsrlKitOwn-v0 has.",
    )


def test_warnings_leave_the_exit_status_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_upstream(tmp_path / "demos.pkl", rows(0.1))
    assert main(["doctor", str(path), "--exp_name", NAME]) == 0
    assert capsys.readouterr().out.count("  warning: ") == 2
    given = ["--environment_options={'success_key': 'task_success'}", "--action_units=task"]
    assert main(["doctor", str(path), "--exp_name", NAME, *given]) == 0
    assert "  warning: " not in capsys.readouterr().out
    assert main(["doctor", str(path), "--action_units=task"]) == 2
    assert main(["doctor", str(path), "--exp_name", NAME, "--action_units=metres"]) == 2
    # Ten times too large, once the bounds have rescaled them.
    assert main(["doctor", str(write_upstream(path, rows())), "--exp_name", NAME, *given]) == 1


def test_training_says_what_the_doctor_says_and_names_files_that_agree_once(tmp_path: Path) -> None:
    config = settings(exp_name=NAME, environment_options={"success_key": "task_success"})
    for number in range(3):
        write_upstream(tmp_path / f"demos_{number}.pkl", rows(0.1))
    dataset, found = load_and_check(config, str(tmp_path))
    assert len(dataset) == 48
    assert found == check_data(config, str(tmp_path))
    (sentence,) = found
    assert sentence.startswith(f"{tmp_path / 'demos_0.pkl'} and 2 more: has actions within the bounds")


BOUNDS = np.array([-0.1, -2.0]), np.array([0.1, 4.0])


@pytest.mark.parametrize("name", ["pickle", "npz", "hdf5", "lerobot"])
def test_actions_in_the_units_of_the_task_are_rescaled_in_every_format(tmp_path: Path, name: str) -> None:
    unit = np.random.default_rng(0).uniform(-1, 1, (4, 2)).astype(np.float32)
    own = (BOUNDS[0] + (unit + 1) / 2 * (BOUNDS[1] - BOUNDS[0])).astype(np.float32)
    path = tmp_path / name
    one = trajectory(4)
    one = type(one)(**vars(one) | {"actions": own})
    if name == "pickle":
        write_upstream(path, [row | {"actions": action} for row, action in zip(upstream_rows([4]), own, strict=True)])
    elif name == "lerobot":
        write_lerobot(path, [episode(4) | {"action": own}])
    else:
        {"npz": write_npz, "hdf5": write_hdf5}[name](path, [one])
    found = load_sources(str(path), conventions=Conventions(action_bounds=BOUNDS))
    np.testing.assert_allclose(found.actions, unit, atol=1e-5)


@pytest.mark.parametrize("write", [write_hil_serl, write_minari])
def test_actions_that_are_known_to_be_normalized_are_not_rescaled_again(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "kept", [trajectory(4)])
    found = load_sources(str(tmp_path / "kept"), conventions=Conventions(action_bounds=BOUNDS))
    np.testing.assert_array_equal(found.actions, trajectory(4).actions)


def test_actions_of_another_size_than_the_bounds_are_refused(tmp_path: Path) -> None:
    write_npz(tmp_path / "demos.npz", [trajectory(4)])
    with pytest.raises(DataError, match="demos.npz: has actions of size 2, expected 3 as the task has"):
        load_sources(str(tmp_path), conventions=Conventions(action_bounds=(-np.ones(3), np.ones(3))))


@pytest.mark.slow
def test_warmup_learns_from_rescaled_actions_and_keeps_them_normalized(tmp_path: Path) -> None:
    write_upstream(tmp_path / "demos.pkl", rows(0.1))
    data = tmp_path / "demos.pkl"
    task = {"exp_name": NAME, "environment_options": {}, "action_units": "task", "offline_data_path": str(data)}
    tiny = {"warmup_steps": 2, "warmup_evaluation_interval": 2, "evaluation_episodes": 0, "batch_size": 4}
    config = settings(**task | tiny, retention_ratio=1.0)
    run_warmup(config, tmp_path / "run", Silent())
    for units in ("task", "normalized"):
        kept = load_offline_data(replace(config, action_units=units), str(tmp_path / "run" / "filtered_demos.pkl"))
        assert np.abs(kept.actions).max() == pytest.approx(max(np.abs(row["actions"]).max() for row in rows()))


def test_success_is_read_under_the_name_that_the_user_gives(tmp_path: Path) -> None:
    path = tmp_path / "demos"
    other = {"steps": 1e300, "x" * 1000: 1.0, 3: None, "note": "text", "both": np.zeros(2)}
    said = [other | {"task_success": row["dones"], "succeed": False} for row in rows()]
    write_upstream(path, [row | {"infos": info} for row, info in zip(rows(), said, strict=True)])
    assert load_sources(str(path)).episode_success.tolist() == [0, 0, 0]
    found = load_sources(str(path), conventions=Conventions(success_key="task_success"))
    assert found.episode_success.tolist() == [1, 1, 1]
    # A file without that name keeps the usual ones.
    write_upstream(path, rows())
    kept = load_sources(str(path), conventions=Conventions(success_key="task_success"))
    np.testing.assert_array_equal(kept.episode_success, load_sources(str(path)).episode_success)


def test_minari_has_bounds_of_its_own_and_success_under_any_name(tmp_path: Path) -> None:
    none = np.full(2, np.finfo(np.float32).max)
    actions = np.array([[0.05, 4.0], [-0.1, 1.0], [0.1, -2.0]], np.float32)
    for name, bounds in {"bounded": BOUNDS, "unbounded": (-none, none)}.items():
        (tmp_path / name / "data").mkdir(parents=True)
        space = spaces.Box(bounds[0].astype(np.float32), bounds[1].astype(np.float32), dtype=np.float32)
        storage = MinariStorage.new(
            tmp_path / name / "data", observation_space=spaces.Box(-1, 1, (3,), np.float32), action_space=space
        )
        storage.update_metadata({"dataset_id": f"{name}-v0", "minari_version": minari.__version__})
        episode = EpisodeBuffer(
            observations=np.zeros((4, 3), np.float32),
            actions=actions if name == "bounded" else actions / 4,
            rewards=[0.5] * 3,
            terminations=[False, False, True],
            truncations=[False] * 3,
            infos={"task_success": np.array([False, False, False, True])},
        )
        storage.update_episodes([episode])
    expected = np.array([[0.5, 1.0], [-1.0, 0.0], [1.0, -1.0]], np.float32)
    given = Conventions(success_key="task_success", action_bounds=BOUNDS)
    bounded = load_sources(str(tmp_path / "bounded"), conventions=given)
    np.testing.assert_allclose(bounded.actions, expected, atol=1e-6)
    assert bounded.episode_success.tolist() == [1]
    # Bounds that are none say nothing about units.
    unbounded = load_sources(str(tmp_path / "unbounded"))
    np.testing.assert_array_equal(unbounded.actions, actions / 4)
    assert np.isnan(unbounded.episode_success).all()
