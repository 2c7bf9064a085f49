"""Small made-up trajectories, and files as HIL-SERL itself writes them."""

import pickle
from pathlib import Path

import numpy as np

from wsrl_kit.data.dataset import Dataset
from wsrl_kit.data.sources import load_sources
from wsrl_kit.data.trajectory import Trajectory


def trajectory(
    length: int = 5,
    *,
    seed: int = 0,
    success: bool | None = True,
    terminated: bool = True,
    source: str = "",
    rewards: list[float] | None = None,
    observation_size: int = 3,
    weight: np.ndarray | None = None,
    cameras: dict[str, tuple[int, int, int]] | None = None,
    horizon: int = 1,
    grasp_penalty: np.ndarray | None = None,
) -> Trajectory:
    generator = np.random.default_rng(seed)
    sparse = np.zeros(length, np.float32)
    sparse[-1] = float(bool(success))
    states = generator.normal(size=(length + 1, observation_size)).astype(np.float32)
    return Trajectory(
        observations=stacked(np.concatenate([states[:1]] * (horizon - 1) + [states]), horizon).reshape(length + 1, -1),
        actions=generator.uniform(-1, 1, (length, 2)).astype(np.float32),
        rewards=sparse if rewards is None else np.array(rewards, np.float32),
        terminated=terminated,
        truncated=not terminated,
        success=success,
        source=source,
        weight=weight,
        images={camera: episode_frames(length, shape, horizon, generator) for camera, shape in (cameras or {}).items()},
        observation_horizon=horizon,
        grasp_penalty=grasp_penalty,
    )


def episode_frames(
    length: int, shape: tuple[int, int, int], horizon: int, generator: np.random.Generator
) -> np.ndarray:
    """The frames of a whole episode, the first one repeated for the horizon as HIL-SERL's wrapper does."""
    frames = generator.integers(0, 256, (length + 1, *shape), dtype=np.uint8)
    return np.concatenate([frames[:1]] * (horizon - 1) + [frames])


def stacked(frames: np.ndarray, horizon: int) -> np.ndarray:
    """Every window of `horizon` frames, oldest first: (windows, horizon, ...)."""
    return np.stack([frames[start : start + horizon] for start in range(len(frames) - horizon + 1)])


def three_sources() -> list[Trajectory]:
    return [
        trajectory(4, seed=1, source="demos"),
        trajectory(3, seed=2, source="demos"),
        trajectory(6, seed=3, source="suboptimal", success=False, terminated=False),
        trajectory(2, seed=4, source="suboptimal"),
        trajectory(6, seed=5, source="random", success=False, terminated=True),
    ]


def dataset(*trajectories: Trajectory) -> Dataset:
    return Dataset.from_trajectories(list(trajectories) or three_sources())


def read_file(
    path: Path, timeout_length: int | None = None, cameras: tuple[str, ...] | None = None
) -> list[Trajectory]:
    return load_sources(str(path), timeout_length, cameras).trajectories()


def assert_same(found: Dataset, expected: Dataset) -> None:
    for name, value in vars(expected).items():
        if isinstance(value, np.ndarray) and name != "episode_source":
            np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)
            assert getattr(found, name).dtype == value.dtype
    assert found.observation_horizon == expected.observation_horizon
    assert list(found.images) == list(expected.images)
    for camera, frames in expected.images.items():
        np.testing.assert_array_equal(found.images[camera], frames, err_msg=camera)
    if expected.grasp_penalty is None:
        assert found.grasp_penalty is None
    sources = [[data.source_names[index] for index in data.episode_source] for data in (found, expected)]
    assert sources[0] == sources[1]


CAMERAS = {"wrist_1": (8, 8, 3), "wrist_2": (6, 4, 3)}


def three_sources_with_images(horizon: int) -> list[Trajectory]:
    """`three_sources`, with two cameras of different sizes and an observation horizon."""
    kinds = [(4, "demos"), (3, "demos"), (6, "suboptimal"), (2, "suboptimal"), (6, "random")]
    return [
        trajectory(
            length,
            seed=seed,
            source=source,
            success=source == "demos",
            terminated=source != "suboptimal",
            cameras=CAMERAS,
            horizon=horizon,
        )
        for seed, (length, source) in enumerate(kinds)
    ]


def upstream_rows(
    lengths: list[int],
    *,
    timeout: int | None = None,
    seed: int = 0,
    infos: bool = True,
    cameras: dict[str, tuple[int, int, int]] | None = None,
    horizon: int = 1,
) -> list[dict]:
    """Transitions as HIL-SERL's `record_demos.py` collects them: a reward of 1 at the end, or the time limit.

    An episode of length `timeout` ends without reward and, as upstream has it, with masks = 0. Every row has arrays of
    its own, as `record_demos.py` copies each transition.
    """
    generator = np.random.default_rng(seed)
    rows = []
    for length in lengths:
        states = generator.normal(size=(length + 1, 3))
        observations = {"state": stacked(np.concatenate([states[:1]] * (horizon - 1) + [states]), horizon)}
        for camera, shape in (cameras or {}).items():
            observations[camera] = stacked(episode_frames(length, shape, horizon, generator), horizon)
        for step in range(length):
            done = step == length - 1
            reward = int(done and length != timeout)
            row = {
                "observations": {key: value[step].copy() for key, value in observations.items()},
                "actions": generator.uniform(-1, 1, 2).astype(np.float32),
                "next_observations": {key: value[step + 1].copy() for key, value in observations.items()},
                "rewards": reward,
                "masks": 1.0 - done,
                "dones": done,
            }
            rows.append(row | ({"infos": {"succeed": bool(reward)}} if infos else {}))
    return rows


def write_upstream(path: Path, rows: object, protocol: int = 4) -> Path:
    with path.open("wb") as file:
        pickle.dump(rows, file, protocol=protocol)
    return path
