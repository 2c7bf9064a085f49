"""A tiny task that only cameras can solve: where the spot is, the state does not say."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from wsrl_kit.data.formats.hil_serl import write_hil_serl
from wsrl_kit.data.trajectory import Trajectory
from wsrl_kit.envs.make import make
from wsrl_kit.envs.wrappers import CameraImages, parts

SIZE = 16
NAME = "wsrl_kit_tests/Spot-v0"


class Spot(gymnasium.Env):
    """The action moves a bright column; the task is to bring it to the middle of the picture.

    One camera sees the column, the other its mirror image. A camera's picture is the only thing that depends on it.
    """

    observation_space = gymnasium.spaces.Dict(
        {
            "back": gymnasium.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8),
            "front": gymnasium.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8),
            "time": gymnasium.spaces.Box(0.0, 1.0, (2,), np.float32),
        }
    )
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = float(self.np_random.choice([-1, 1]) * self.np_random.uniform(0.4, 0.9))
        self._time = 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.place = float(np.clip(self.place + 0.25 * action[0], -1.0, 1.0))
        self._time += 1
        success = abs(self.place) < 0.15
        return self._observe(), float(success), success, False, {"success": success}

    def _observe(self) -> dict[str, np.ndarray]:
        columns = np.linspace(-1.0, 1.0, SIZE)
        brightness = np.exp(-np.square((columns - self.place) / 0.15))
        front = np.broadcast_to((255 * brightness)[None, :, None], (SIZE, SIZE, 3)).astype(np.uint8)
        return {"back": front[:, ::-1].copy(), "front": front, "time": np.full(2, self._time / 10, np.float32)}


def register() -> None:
    """Makes the task known to Gymnasium under `NAME`."""
    if NAME not in gymnasium.registry:
        gymnasium.register(NAME, Spot, max_episode_steps=8)


def record(episodes: int, noise: float = 0.3, **options: Any) -> list[Trajectory]:
    """Episodes of one who goes to the middle, with noise."""
    register()
    environment = make(NAME, options)
    generator = np.random.default_rng(0)
    trajectories = []
    for episode in range(episodes):
        state, images = parts(environment.reset(seed=episode)[0])
        states, actions, rewards, done = [state], [], [], False
        seen = [images]
        while not done:
            place = environment.unwrapped.place  # type: ignore[attr-defined]
            action = np.clip([-4 * place + generator.normal(0, noise)], -1, 1).astype(np.float32)
            observation, reward, terminated, truncated, _ = environment.step(action)
            state, images = parts(observation)
            states.append(state)
            seen.append(images)
            actions.append(action)
            rewards.append(float(reward))
            done = terminated or truncated
        frames = {name: np.concatenate([seen[0][name], *(each[name][-1:] for each in seen[1:])]) for name in images}
        trajectories.append(
            Trajectory(
                observations=np.stack(states),
                actions=np.stack(actions),
                rewards=np.array(rewards, np.float32),
                terminated=terminated,
                truncated=truncated,
                success=terminated,
                images=frames,
                observation_horizon=len(seen[0][name_of(seen[0])]),
            )
        )
    return trajectories


def name_of(images: CameraImages) -> str:
    return next(iter(images))


def write_demos(folder: Path, episodes: int = 20, **options: Any) -> Path:
    path = folder / "demos.pkl"
    write_hil_serl(path, record(episodes, **options))
    return path
