"""Observations of any task: numbers into one state, images to cameras, and the last few of both stacked."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from wsrl_kit.envs.collect import collect
from wsrl_kit.envs.make import make
from wsrl_kit.envs.wrappers import ObservationHorizon
from wsrl_kit.errors import ExperimentError, ParameterError

IMAGE = spaces.Box(0, 255, (4, 6, 3), np.uint8)
NUMBERS = spaces.Box(-2.0, 2.0, (2,), np.float64)


class Task(gymnasium.Env):
    """Observes samples of any space; the n-th observation since construction is a function of n."""

    def __init__(self, space: spaces.Space) -> None:
        self.observation_space = space
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.seen: list = []

    def _observe(self):
        self.observation_space.seed(len(self.seen))
        self.seen.append(self.observation_space.sample())
        return self.seen[-1]

    def reset(self, *, seed=None, options=None):
        return self._observe(), {}

    def step(self, action):
        return self._observe(), 0.0, False, False, {}


@pytest.fixture(autouse=True)
def task_id():
    gymnasium.register("WsrlKitCameras-v0", entry_point=Task, max_episode_steps=4)
    yield
    del gymnasium.registry["WsrlKitCameras-v0"]


def make_task(space: spaces.Space, **options) -> gymnasium.Env:
    return make("WsrlKitCameras-v0", {"space": space, **options})


def test_images_of_a_nested_observation_become_cameras_and_the_rest_the_state():
    # gym-hil's form.
    space = spaces.Dict(
        {"pixels": spaces.Dict({"wrist": IMAGE, "front": IMAGE}), "agent_pos": NUMBERS, "mode": spaces.Discrete(3)}
    )
    environment = make_task(space)
    observation, _ = environment.reset(seed=0)
    original = environment.unwrapped.seen[0]
    assert environment.observation_space["state"] == spaces.Box(
        np.array([-2, -2, 0, 0, 0], np.float32), np.array([2, 2, 1, 1, 1], np.float32)
    )
    assert environment.observation_space["front"] == spaces.Box(0, 255, (1, 4, 6, 3), np.uint8)
    assert list(observation) == ["state", "front", "wrist"]
    assert environment.observation_space.contains(observation)
    assert np.array_equal(observation["state"][:2], original["agent_pos"].astype(np.float32))
    assert observation["state"][2:].tolist() == [float(original["mode"] == index) for index in range(3)]
    for camera in ("front", "wrist"):
        assert np.array_equal(observation[camera], original["pixels"][camera][None])


def test_cameras_of_the_same_name_keep_their_paths():
    arm = spaces.Dict({"wrist": IMAGE, "state": IMAGE, "speed": NUMBERS})
    environment = make_task(spaces.Dict({"left": arm, "right": arm, "far": spaces.Dict({"top": IMAGE})}))
    observation, _ = environment.reset(seed=0)
    assert list(observation) == ["state", "left/state", "left/wrist", "right/state", "right/wrist", "top"]
    right = environment.unwrapped.seen[0]["right"]
    assert np.array_equal(observation["right/wrist"][0], right["wrist"]) and observation["state"].shape == (4,)


def test_a_task_with_an_image_alone_has_a_state_that_says_nothing():
    environment = make_task(IMAGE)
    observation, _ = environment.reset(seed=0)
    assert observation["state"].tolist() == [0.0] and observation["image"].shape == (1, 4, 6, 3)
    assert environment.observation_space.contains(observation)


@pytest.mark.parametrize(
    ("space", "found"),
    [
        (spaces.Box(0, 255, (3, 64, 48), np.uint8), r"uint8, channels first, of shape \(3, 64, 48\)"),
        (spaces.Box(0.0, 1.0, (64, 48, 3), np.float32), r"float32 of shape \(64, 48, 3\)"),
        (spaces.Box(0.0, 1.0, (3, 64, 48), np.float32), r"float32, channels first, of shape \(3, 64, 48\)"),
        (spaces.Box(0, 255, (64, 48, 1), np.uint8), r"uint8 of shape \(64, 48, 1\)"),
        (spaces.Box(0, 255, (2, 64, 48, 3), np.uint8), r"uint8 of shape \(2, 64, 48, 3\)"),
    ],
)
def test_images_of_another_form_are_refused(space, found):
    with pytest.raises(ExperimentError, match=rf"images of .* must be uint8 .*\(height, width, 3\), found {found} as"):
        make_task(spaces.Dict({"pixels": spaces.Dict({"front": space}), "arm": NUMBERS}))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.lists(st.integers(0, 6), min_size=1, max_size=3), st.booleans())
def test_a_stack_is_the_last_observations_with_the_first_of_the_episode_repeated(horizon, lengths, with_image):
    space = spaces.Dict({"state": spaces.Box(-1.0, 1.0, (2,), np.float32), "front": IMAGE})
    task = Task(space if with_image else space["state"])
    environment = ObservationHorizon(task, horizon)
    for length in lengths:
        begin = len(task.seen)
        stacks = [environment.reset(seed=0)[0], *(environment.step(np.zeros(1))[0] for _ in range(length))]
        for now, stack in enumerate(stacks, start=begin):
            expected = [task.seen[max(begin, now - back)] for back in reversed(range(horizon))]
            assert environment.observation_space.contains(stack)
            if with_image:
                assert np.array_equal(stack["front"], np.stack([each["front"] for each in expected]))
                assert np.array_equal(stack["state"], np.concatenate([each["state"] for each in expected]))
            else:
                assert np.array_equal(stack, np.concatenate(expected))


def test_a_recorded_episode_holds_every_frame_once():
    (trajectory,) = collect(
        "WsrlKitCameras-v0",
        {"space": spaces.Dict({"front": IMAGE, "arm": NUMBERS}), "observation_horizon": 3},
        "random",
        episodes=1,
        seed=0,
    )
    # What the task showed, by the number of the observation.
    task = Task(spaces.Dict({"front": IMAGE, "arm": NUMBERS}))
    frames = np.stack([task._observe()["front"] for _ in range(5)])
    assert trajectory.observation_horizon == 3 and trajectory.observations.shape == (5, 6)
    assert np.array_equal(trajectory.images["front"], frames[[0, 0, 0, 1, 2, 3, 4]])


def test_states_alone_stack_too_and_scripts_see_the_newest():
    with_history, without = (
        collect("FetchReach-v4", {"observation_horizon": k, "max_episode_steps": 8}, "expert", episodes=1, seed=0)[0]
        for k in (2, 1)
    )
    assert np.array_equal(with_history.actions, without.actions) and not with_history.images
    states = with_history.observations.reshape(9, 2, 16)
    assert np.array_equal(states[:, 1], without.observations)
    assert np.array_equal(states[1:, 0], without.observations[:-1])
    assert np.array_equal(states[0, 0], without.observations[0])


def test_a_horizon_of_nothing_is_refused():
    with pytest.raises(ParameterError, match="observation_horizon must be an int >= 1, found 0"):
        make("hirol_fixed_gripper", {"observation_horizon": 0})
