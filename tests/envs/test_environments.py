"""Gymnasium environments in this kit's form: flat observations, unit actions, success, clear refusals."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from wsrl_kit.envs.make import make
from wsrl_kit.envs.wrappers import succeeded
from wsrl_kit.errors import ExperimentError, ParameterError

LARGEST = np.finfo(np.float32).max


class Task(gymnasium.Env):
    """A task with nested observations, whose info is what a test asks for, and which remembers the last action."""

    def __init__(self, action_space: spaces.Space | None = None, info: dict | None = None) -> None:
        largest = np.finfo(np.float64).max
        self.observation_space = spaces.Dict(
            {
                "goal": spaces.Tuple((spaces.Box(-1.0, 1.0, (2,), np.float64), spaces.Discrete(3))),
                "arm": spaces.Box(-largest, largest, (2, 2), np.float64),
            }
        )
        self.action_space = action_space or spaces.Box(np.array([0.0, -0.3]), np.array([4.0, 0.1]), dtype=np.float64)
        self.info = info or {}
        self.last_action: np.ndarray | None = None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {"goal": (np.zeros(2), 0), "arm": np.zeros((2, 2))}, {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.last_action = action
        return {"goal": (np.array([0.5, -0.5]), 2), "arm": np.arange(4.0).reshape(2, 2)}, 1, False, False, self.info


@pytest.fixture(autouse=True)
def task_id():
    gymnasium.register("WsrlKitTask-v0", entry_point=Task, max_episode_steps=3)
    yield
    del gymnasium.registry["WsrlKitTask-v0"]


def test_pendulum_keeps_its_time_limit_and_gets_unit_actions():
    environment = make("Pendulum-v1")
    assert environment.action_space == spaces.Box(-1.0, 1.0, (1,), np.float32)
    observation, _ = environment.reset(seed=0)
    truncated, steps = False, 0
    while not truncated:
        observation, _, terminated, truncated, info = environment.step(np.ones(1, np.float32))
        steps += 1
        assert observation.dtype == np.float32 and environment.observation_space.contains(observation)
        assert not terminated and "success" not in info
    assert steps == 200


def test_rescaled_actions_do_what_the_original_ones_do():
    ours, original = make("Pendulum-v1"), gymnasium.make("Pendulum-v1")
    ours.reset(seed=4)
    original.reset(seed=4)
    for share in (-1.0, -0.25, 0.5, 1.0):
        mine = ours.step(np.array([share], np.float32))
        theirs = original.step(np.array([2.0 * share], np.float32))
        assert np.array_equal(mine[0], theirs[0]) and mine[1] == theirs[1]


def test_nested_observations_become_one_float32_vector_with_meaningful_bounds_only():
    environment = make("WsrlKitTask-v0")
    environment.reset(seed=0)
    observation, *_ = environment.step(np.zeros(2, np.float32))
    assert observation.dtype == np.float32
    # Dict keys in alphabetical order, a discrete entry as one-hot.
    assert observation.tolist() == [0, 1, 2, 3, 0.5, -0.5, 0, 0, 1]
    space = environment.observation_space
    assert space.low.tolist() == [-np.inf] * 4 + [-1, -1, 0, 0, 0]
    assert space.high.tolist() == [np.inf] * 4 + [1, 1, 1, 1, 1]


def test_actions_reach_the_task_in_its_own_bounds_and_type():
    environment = make("WsrlKitTask-v0")
    environment.reset(seed=0)
    for unit, expected in (([-1, -1], [0, -0.3]), ([0, 0], [2, -0.1]), ([1, 1], [4, 0.1]), ([9, -9], [4, -0.3])):
        environment.step(np.array(unit, np.float32))
        reached = environment.unwrapped.last_action
        assert reached.dtype == np.float64 and reached == pytest.approx(expected)


def test_actions_of_more_axes_are_flattened():
    environment = make("WsrlKitTask-v0", {"action_space": spaces.Box(-2.0, 2.0, (2, 3), np.float32)})
    assert environment.action_space.shape == (6,)
    environment.reset(seed=0)
    environment.step(np.linspace(-1, 1, 6, dtype=np.float32))
    assert environment.unwrapped.last_action == pytest.approx(np.linspace(-2, 2, 6).reshape(2, 3))


@pytest.mark.parametrize("key", ("success", "is_success", "succeed"))
@pytest.mark.parametrize("value", (True, 0.0, np.float32(1.0), np.False_))
def test_success_is_taken_from_info_as_a_bool(key, value):
    environment = make("WsrlKitTask-v0", {"info": {key: value}})
    environment.reset(seed=0)
    info = environment.step(np.zeros(2, np.float32))[-1]
    assert info["success"] is bool(value)


def step(**options):
    environment = make("WsrlKitTask-v0", options)
    environment.reset(seed=0)
    return environment.step(np.zeros(2, np.float32))


@pytest.mark.parametrize("key", ("success", "is_success", "succeed"))
@pytest.mark.parametrize("unknown", (None, float("nan"), np.float32(np.nan), np.array([np.nan])))
def test_success_that_the_task_does_not_know_is_none(key, unknown):
    _, reward, terminated, _, info = step(info={key: unknown}, success_reward=True)
    assert (info["success"], reward, terminated) == (None, 0.0, False)


@pytest.mark.parametrize("said", ("False", b"1", np.array([True, False]), [], [[1], [1, 2]], {"done": True}, object()))
def test_success_that_is_no_single_truth_value_is_refused(said):
    with pytest.raises(ExperimentError, match=r"'WsrlKitTask-v0' reports as info\['is_success'\] must be one truth"):
        step(info={"is_success": said})


def test_an_episode_succeeds_as_soon_as_one_step_is_known_to():
    told = [succeeded(None, {"success": said}) for said in (None, False, True)]
    assert told == [None, False, True]
    assert [succeeded(before, {"success": None}) for before in (None, False, True)] == [None, False, True]


def test_success_is_found_under_the_name_that_the_user_gives():
    info = {"task_success": 1.0, "success": False}
    told = step(info=info, success_key="task_success", success_reward=True)
    assert (told[-1]["success"], *told[1:3]) == (True, 1.0, True)
    assert step(info=info)[-1]["success"] is False
    assert "success" not in step(info=info, success_key="done")[-1]
    # The name that a reward classifier's wrapper gives the task's own success is free for it.
    assert all("task_success" not in step(info=info, **given)[-1] for given in ({}, {"success_key": "task_success"}))
    with pytest.raises(ParameterError, match="success_key must be"):
        make("WsrlKitTask-v0", {"success_key": 3})


def test_success_reward_names_what_sounds_like_success():
    with pytest.raises(ExperimentError, match="does not; info holds 'task_success': give success_key='task_success'"):
        step(info={"task_success": True}, success_reward=True, max_episode_steps=1)


@pytest.mark.parametrize(
    ("action_space", "reason"),
    [
        (spaces.Discrete(3), "continuous"),
        (spaces.MultiDiscrete([2, 2]), "continuous"),
        (spaces.Box(0, 5, (2,), np.int64), "continuous"),
        (spaces.Box(-np.inf, np.inf, (2,), np.float32), "finite bounds"),
        (spaces.Box(-LARGEST, LARGEST, (2,), np.float32), "finite bounds"),
        (spaces.Box(-1, LARGEST, (2,), np.float32), "finite bounds"),
        (spaces.Box(-np.inf, 1, (2,), np.float32), "finite bounds"),
        (spaces.Box(np.array([-1.0, -1.1e6]), np.array([1.0, 1.0]), dtype=np.float64), "finite bounds"),
    ],
)
def test_actions_that_do_not_fit_are_refused(action_space, reason):
    with pytest.raises(ExperimentError, match=f"actions of 'WsrlKitTask-v0' must .*{reason}"):
        make("WsrlKitTask-v0", {"action_space": action_space})


@pytest.mark.parametrize("name", ("Pendulm-v1", "Pendulum-v99", "somewhere/Pendulum-v1", "not an id!"))
def test_an_unknown_id_is_refused_with_the_nearest_ones(name):
    with pytest.raises(ExperimentError, match="Pendulum-v1" if "Pend" in name else "nearest"):
        make(name)


def test_a_misspelt_robot_is_refused_with_its_name():
    with pytest.raises(ExperimentError, match="nearest are hirol_fixed_gripper"):
        make("hirol_fixed_griper")


def test_an_id_whose_package_is_missing_says_so():
    with pytest.raises(ExperimentError, match="needs a package that is not installed: .*no_such_robot_package"):
        make("no_such_robot_package:Reach-v1")


def test_an_option_that_the_task_does_not_have_is_refused():
    with pytest.raises(ParameterError, match="environment_options do not fit 'Pendulum-v1': .*clearance"):
        make("Pendulum-v1", {"clearance": 0.001})
