"""Robot tasks of other packages: by name alone, with success as the reward, scripted data, and clear refusals."""

import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer

from wsrl_kit.data.dataset import Dataset
from wsrl_kit.data.sources import load_sources
from wsrl_kit.data.trajectory import Trajectory
from wsrl_kit.envs import tasks
from wsrl_kit.envs.collect import collect
from wsrl_kit.envs.make import make
from wsrl_kit.errors import ExperimentError, ParameterError

FETCH = ("FetchReach-v4", "FetchPush-v4", "FetchPickAndPlace-v4")
ADROIT = {
    "AdroitHandDoorSparse-v1": (39, 28),
    "AdroitHandPenSparse-v1": (45, 24),
    "AdroitHandRelocateSparse-v1": (39, 30),
}
METAWORLD = "metaworld/button-press-topdown-v3"
GYM_HIL = "gym_hil/PandaPickCube-v0"

# Optional packages that no lock pins: their tasks are tested where they are installed.
metaworld_installed = pytest.mark.skipif(find_spec("metaworld") is None, reason="metaworld is not installed")
gym_hil_installed = pytest.mark.skipif(find_spec("gym_hil") is None, reason="gym-hil is not installed")
can_draw = pytest.mark.skipif(
    not {"MUJOCO_GL", "DISPLAY"} & os.environ.keys(), reason="neither MUJOCO_GL nor a display"
)
# Both packages give float64 bounds to float32 spaces.
pytestmark = pytest.mark.filterwarnings("ignore:.*precision lowered by casting:UserWarning")


def success_rate(trajectories: list[Trajectory]) -> float:
    return float(np.mean([trajectory.success for trajectory in trajectories]))


def assert_repeats(exp_name: str, options: dict, kind: str) -> None:
    """Episode i is a function of the seed and i alone, in a new environment too."""
    few, many = (collect(exp_name, options, kind, episodes=count, seed=9) for count in (2, 3))
    for one, other in zip(few, many, strict=False):
        assert np.array_equal(one.observations, other.observations) and np.array_equal(one.actions, other.actions)
        assert np.array_equal(one.rewards, other.rewards)
    other_seed = collect(exp_name, options, kind, episodes=2, seed=10)
    for another in (many[2], other_seed[1]):
        assert not np.array_equal(many[1].observations[0], another.observations[0])


def assert_success_ends_the_episode(trajectory: Trajectory) -> None:
    assert trajectory.success and trajectory.terminated
    assert trajectory.rewards.tolist() == [0.0] * (len(trajectory) - 1) + [1.0]
    # What the learner makes of it: the value after the last step is 0, and after no other.
    assert Dataset.from_trajectories([trajectory]).terminated.tolist() == [False] * (len(trajectory) - 1) + [True]


@pytest.mark.parametrize("exp_name", FETCH)
def test_the_experts_of_fetch_succeed_and_success_ends_the_episode(exp_name):
    trajectories = collect(exp_name, {"success_reward": True}, "expert", episodes=20, seed=0)
    assert success_rate(trajectories) >= 0.9
    for trajectory in trajectories:
        if trajectory.success:
            assert_success_ends_the_episode(trajectory)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("exp_name", "low", "high"), [(FETCH[0], 0.5, 0.9), (FETCH[1], 0.15, 0.6), (FETCH[2], 0.1, 0.5)]
)
def test_the_clumsy_operators_of_fetch_succeed_sometimes(exp_name, low, high):
    trajectories = collect(exp_name, {"success_reward": True}, "suboptimal", episodes=30, seed=0)
    assert low <= success_rate(trajectories) <= high
    failures = [trajectory for trajectory in trajectories if not trajectory.success]
    assert all(trajectory.truncated and not trajectory.rewards.any() for trajectory in failures)


@pytest.mark.parametrize("exp_name", FETCH)
@pytest.mark.parametrize("kind", ("expert", "suboptimal", "random"))
def test_episodes_of_fetch_repeat(exp_name, kind):
    assert_repeats(exp_name, {"max_episode_steps": 20}, kind)


def test_without_the_option_a_task_keeps_its_own_reward_and_end():
    (trajectory,) = collect("FetchReach-v4", {"max_episode_steps": 30}, "expert", episodes=1, seed=0)
    assert trajectory.success and trajectory.truncated and not trajectory.terminated
    assert len(trajectory) == 30 and set(trajectory.rewards.tolist()) == {-1.0, 0.0}


def test_fetch_has_flat_observations_and_unit_actions():
    environment = make("FetchPush-v4")
    assert environment.observation_space.shape == (31,) and environment.observation_space.dtype == np.float32
    assert environment.action_space == gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)


@pytest.mark.parametrize("exp_name", ADROIT)
def test_adroit_reports_success_and_takes_it_as_reward(exp_name):
    environment = make(exp_name, {"success_reward": True, "max_episode_steps": 5})
    assert (environment.observation_space.shape[0], environment.action_space.shape[0]) == ADROIT[exp_name]
    environment.reset(seed=0)
    truncated = False
    while not truncated:
        observation, reward, terminated, truncated, info = environment.step(environment.action_space.sample())
        assert observation.dtype == np.float32
        assert reward == float(info["success"]) and terminated == info["success"]


@pytest.mark.parametrize("kind", ("expert", "suboptimal"))
def test_adroit_has_no_script_and_the_refusal_says_what_to_do(kind):
    with pytest.raises(ExperimentError, match=f"found '{kind}' of .*Adroit.*offline_data_path"):
        collect("AdroitHandDoorSparse-v1", {}, kind, episodes=1, seed=0)


@pytest.mark.filterwarnings("ignore:.*is set to None:UserWarning")
def test_published_adroit_files_fit_the_observations_of_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Minari's and D4RL's files are recorded from the very task, with float64 observations and the task's actions."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    theirs = gymnasium.make("AdroitHandDoorSparse-v1", max_episode_steps=6)
    ours = make("AdroitHandDoorSparse-v1", {"max_episode_steps": 6})
    generator = np.random.default_rng(0)
    names = ("observations", "actions", "rewards", "terminations", "truncations")
    episodes, seen = [], []
    for seed in (0, 1):
        episode: dict[str, list] = {name: [] for name in names}
        (observation, _), (mine, _) = theirs.reset(seed=seed), ours.reset(seed=seed)
        truncated = False
        while not truncated:
            seen.append(mine)
            action = generator.uniform(-1, 1, 28).astype(np.float32)
            following, reward, terminated, truncated, _ = theirs.step(action)
            mine = ours.step(action)[0]
            for name, value in zip(names, (observation, action, reward, terminated, truncated), strict=True):
                episode[name].append(value)
            observation = following
        episodes.append(episode | {"observations": [*episode["observations"], observation]})
    buffers = [EpisodeBuffer(**{name: np.array(values) for name, values in episode.items()}) for episode in episodes]
    about = {"author": "x", "author_email": "x", "code_permalink": "x", "algorithm_name": "x"}
    minari.create_dataset_from_buffers("door/test-v0", buffers, env=theirs, **about)
    with h5py.File(tmp_path / "door.hdf5", "w") as file:
        for name, key in zip(names, ("observations", "actions", "rewards", "terminals", "timeouts"), strict=True):
            file[key] = np.concatenate([episode[name][:6] for episode in episodes])
    from_minari = load_sources({"demos": str(tmp_path / "minari" / "door" / "test-v0")})
    assert np.array_equal(from_minari.observations, np.stack(seen))
    from_hdf5 = load_sources({"demos": str(tmp_path / "door.hdf5")})
    # The last row of an episode that was cut has no next observation there.
    assert np.array_equal(from_hdf5.observations, np.stack(seen)[[0, 1, 2, 3, 4, 6, 7, 8, 9, 10]])
    assert from_hdf5.observations.shape[1:] == ours.observation_space.shape
    assert from_hdf5.actions.shape[1:] == ours.action_space.shape


def test_success_as_reward_of_a_task_that_reports_none_is_refused():
    environment = make("Pendulum-v1", {"success_reward": True, "max_episode_steps": 2})
    environment.reset(seed=0)
    environment.step(np.zeros(1, np.float32))
    with pytest.raises(ExperimentError, match="success_reward needs a task that reports success .*'Pendulum-v1' does"):
        environment.step(np.zeros(1, np.float32))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"success_reward": 1}, "success_reward must be .*found 1"),
        ({"max_episode_steps": 0}, "max_episode_steps must be .*found 0"),
        ({"max_episode_steps": "50"}, "max_episode_steps must be .*found '50'"),
        ({"sucess_reward": True}, "do not fit 'FetchReach-v4': .*sucess_reward"),
    ],
)
def test_options_are_checked(options, sentence):
    with pytest.raises(ParameterError, match=sentence):
        make("FetchReach-v4", options)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("FetchReech-v4", "FetchReach-v4"),
        ("fetch-push-v4", "FetchPush-v4"),
        ("AdroitDoorSparse-v1", "AdroitHandDoorSparse-v1"),
    ],
)
def test_a_name_that_does_not_exist_is_refused_with_the_nearest(wrong, right):
    with pytest.raises(ExperimentError, match=f"found '{wrong}'; the nearest are .*{right}"):
        make(wrong)


@pytest.mark.parametrize(
    ("exp_name", "extra", "module"),
    [
        ("FetchReach-v4", "gymnasium-robotics", "gymnasium_robotics"),
        ("metaworld/door-open-v3", "metaworld", "metaworld"),
        ("gym_hil/PandaPickCube-v0", "gym-hil", "gym_hil"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, exp_name, extra, module):
    # Importing it fails, whether or not it is installed and was imported before.
    monkeypatch.setitem(sys.modules, module, None)
    again = tuple(replace(package, register=package.register.__wrapped__) for package in tasks.PACKAGES)
    monkeypatch.setattr(tasks, "PACKAGES", again)
    with pytest.raises(ExperimentError, match=rf"'{exp_name}' needs .*`pip install 'wsrl-kit\[{extra}\]'`"):
        make(exp_name)


def test_no_package_is_imported_before_a_task_asks_for_it():
    code = "import sys, wsrl_kit.envs.collect; print({'gymnasium_robotics', 'metaworld', 'gym_hil'} & {*sys.modules})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


@pytest.mark.slow
def test_the_notebook_collects_three_sources_of_a_third_party_task(tmp_path: Path):
    counts = ["--demo_episodes=2", "--suboptimal_episodes=2", "--random_episodes=1"]
    options = '--environment_options={"success_reward": true}'
    command = [str(Path(sys.executable).parent / "wsrl-kit"), "collect", "--exp_name=FetchPush-v4", options, *counts]
    result = subprocess.run([*command, "--out", str(tmp_path / "data")], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    dataset = load_sources(str(tmp_path / "data"))
    assert sorted(dataset.source_names) == ["demos", "random", "suboptimal"] and dataset.episode_count == 5


@metaworld_installed
def test_metaworld_takes_success_as_reward_by_default_and_its_own_on_request():
    trajectories = collect(METAWORLD, {"max_episode_steps": 100}, "expert", episodes=5, seed=0)
    assert success_rate(trajectories) == 1.0
    for trajectory in trajectories:
        assert_success_ends_the_episode(trajectory)
    own = {"success_reward": False, "max_episode_steps": 100}
    (trajectory,) = collect(METAWORLD, own, "expert", episodes=1, seed=0)
    assert len(trajectory) == 100 and trajectory.truncated and not trajectory.terminated
    assert len(set(trajectory.rewards.tolist())) > 50 and trajectory.rewards.max() > 5


@metaworld_installed
@pytest.mark.parametrize("kind", ("expert", "suboptimal", "random"))
def test_episodes_of_metaworld_repeat(kind):
    assert_repeats("metaworld/door-open-v3", {"max_episode_steps": 15}, kind)


@metaworld_installed
def test_every_task_of_metaworld_has_a_script_and_shows_its_goal():
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    for task in ALL_V3_ENVIRONMENTS:
        (trajectory,) = collect(f"metaworld/{task}", {"max_episode_steps": 2}, "suboptimal", episodes=1, seed=0)
        assert trajectory.observations.shape[1] == 39 and trajectory.observations[0, -3:].any()


@metaworld_installed
def test_the_time_limit_of_metaworld_may_be_longer_than_its_own():
    (trajectory,) = collect(METAWORLD, {"max_episode_steps": 510}, "random", episodes=1, seed=0)
    assert len(trajectory) == 510 and trajectory.truncated


@metaworld_installed
def test_an_action_may_be_held_for_several_control_steps_of_metaworld():
    held, single = (make(METAWORLD, {"success_reward": False, "action_repeat": times}) for times in (3, 1))
    held.reset(seed=0)
    single.reset(seed=0)
    for value in (0.5, -1.0):
        action = np.full(4, value, np.float32)
        observation, reward, *_ = held.step(action)
        steps = [single.step(action) for _ in range(3)]
        assert np.array_equal(observation, steps[-1][0]) and reward == sum(step[1] for step in steps)
    with pytest.raises(ParameterError, match="action_repeat must be .*found 0"):
        make(METAWORLD, {"action_repeat": 0})


@metaworld_installed
def test_a_task_that_metaworld_does_not_have_is_refused_with_its_nearest():
    with pytest.raises(ExperimentError, match="the nearest are metaworld/door-open-v3"):
        make("metaworld/dor-open-v3")


@can_draw
@gym_hil_installed
@pytest.mark.parametrize("kind", ("expert", "suboptimal"))
def test_gym_hil_picks_its_cube(kind):
    options = {"success_reward": True, "random_block_position": True}
    trajectories = collect(GYM_HIL, options, kind, episodes=10, seed=0)
    if kind == "expert":
        assert success_rate(trajectories) == 1.0
        assert_success_ends_the_episode(trajectories[0])
    else:
        assert 0.1 <= success_rate(trajectories) <= 0.7
    assert_repeats(GYM_HIL, options, kind)


@gym_hil_installed
def test_gym_hil_without_opengl_names_the_package_that_brings_it():
    code = f"from wsrl_kit.envs.make import make; make({GYM_HIL!r})"
    environment = {name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", "DISPLAY")}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "ExperimentError: tasks of gym-hil make an OpenGL renderer" in result.stderr and "libegl1" in result.stderr
