"""Offline data as flat arrays, episode after episode."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float32, Int64, Integer, Shaped

from wsrl_kit.data.trajectory import CameraFrames, Trajectory
from wsrl_kit.errors import DataError, ParameterError


@dataclass(frozen=True, kw_only=True)
class Transitions:
    """N transitions in E episodes (or segments of episodes), in time order.

    Attributes:
        observations: flat, in the environment's units.
        actions: in [-1, 1], or as recorded in a `Recording`.
        terminated: the task ended.
        truncated: the recording stopped for another reason.
        weight: loss weight.
        grasp_penalty: None: never recorded.
    """

    ROWS: ClassVar[tuple[str, ...]] = (
        "observations",
        "actions",
        "rewards",
        "next_observations",
        "terminated",
        "truncated",
        "weight",
        "grasp_penalty",
    )
    """Fields with one entry a row, or None."""

    observations: Float32[np.ndarray, "transition observation"]
    actions: Float32[np.ndarray, "transition action"]
    rewards: Float32[np.ndarray, " transition"]
    next_observations: Float32[np.ndarray, "transition observation"]
    terminated: Bool[np.ndarray, " transition"]
    truncated: Bool[np.ndarray, " transition"]
    weight: Float32[np.ndarray, " transition"]
    grasp_penalty: Float32[np.ndarray, " transition"] | None = None

    def __len__(self) -> int:
        return len(self.rewards)

    @cached_property
    def episode_ends(self) -> Int64[np.ndarray, " episode"]:
        """Exclusive end of each episode."""
        return np.flatnonzero(self.terminated | self.truncated) + 1

    @property
    def episode_count(self) -> int:
        return len(self.episode_ends)

    @property
    def episode_starts(self) -> Int64[np.ndarray, " episode"]:
        return self.episode_ends - self.episode_lengths

    @property
    def episode_lengths(self) -> Int64[np.ndarray, " episode"]:
        return np.diff(self.episode_ends, prepend=0)

    @property
    def episode_of_row(self) -> Int64[np.ndarray, " transition"]:
        """Index of each row's episode."""
        return np.repeat(np.arange(self.episode_count), self.episode_lengths)

    @property
    def episode_returns(self) -> Float32[np.ndarray, " episode"]:
        """Undiscounted sum of rewards."""
        return np.add.reduceat(self.rewards, self.episode_starts, dtype=np.float64).astype(np.float32)

    def arrays(self) -> dict[str, Shaped[np.ndarray, "transition ..."]]:
        """The fields in `ROWS` that are not None."""
        found = {name: getattr(self, name) for name in self.ROWS}
        return {name: array for name, array in found.items() if array is not None}


@dataclass(frozen=True, kw_only=True)
class Dataset(Transitions):
    """Transitions for training: terminated or truncated on the last row of each episode and on no other.

    Attributes:
        weight: 1, or mean 1 after `weigh`.
        episode_success: 1 success, 0 failure, nan unknown.
        episode_source: index in `source_names`.
        images: by camera, length + k frames per episode (see `Trajectory`).
        observation_horizon: k, frames per observation.
    """

    episode_success: Float32[np.ndarray, " episode"]
    episode_source: Int64[np.ndarray, " episode"]
    source_names: tuple[str, ...]
    images: CameraFrames = field(default_factory=dict)
    observation_horizon: int = 1

    @property
    def frame_of_row(self) -> Int64[np.ndarray, " transition"]:
        """Index in `images` of each observation's newest frame; the next observation's is one later."""
        return np.arange(len(self)) + (self.episode_of_row + 1) * self.observation_horizon - 1

    @property
    def is_weighted(self) -> bool:
        return bool((self.weight != 1).any())

    @classmethod
    def from_trajectories(cls, trajectories: Sequence[Trajectory]) -> "Dataset":
        """Joins trajectories; a recorded end is terminated or else truncated.

        Raises:
            DataError: there are none, one is empty, or shapes differ.
        """
        if not trajectories:
            raise DataError("A dataset needs at least one trajectory, found none.")
        expected = trajectories[0].layout
        for number, trajectory in enumerate(trajectories):
            where = f"Episode {number}" + (f" of source {trajectory.source!r}" if trajectory.source else "")
            if difference := trajectory.layout.difference(expected):
                raise DataError(f"{where} {difference} as in episode 0.")
            if len(trajectory) == 0 or len(trajectory.observations) != len(trajectory) + 1:
                raise DataError(
                    f"{where} has {len(trajectory.observations)} observations for {len(trajectory)} actions, "
                    "expected at least one action and one observation more than actions."
                )
            for camera, frames in trajectory.images.items():
                if len(frames) != len(trajectory) + expected.observation_horizon:
                    raise DataError(
                        f"{where} has {len(frames)} frames of camera {camera!r} for {len(trajectory)} actions, "
                        f"expected {len(trajectory) + expected.observation_horizon}."
                    )
        source_names = tuple(dict.fromkeys(trajectory.source for trajectory in trajectories))
        lengths = np.array([len(trajectory) for trajectory in trajectories], dtype=np.int64)
        episode_ends = np.cumsum(lengths)
        terminated, truncated = np.zeros((2, episode_ends[-1]), dtype=bool)
        terminated[episode_ends - 1] = [trajectory.terminated for trajectory in trajectories]
        truncated[episode_ends - 1] = [t.truncated or not t.terminated for t in trajectories]
        weights = [np.ones(len(t), np.float32) if t.weight is None else t.weight for t in trajectories]
        success = [np.nan if trajectory.success is None else trajectory.success for trajectory in trajectories]
        return cls(
            observations=np.concatenate([trajectory.observations[:-1] for trajectory in trajectories]),
            actions=np.concatenate([trajectory.actions for trajectory in trajectories]),
            rewards=np.concatenate([trajectory.rewards for trajectory in trajectories]),
            next_observations=np.concatenate([trajectory.observations[1:] for trajectory in trajectories]),
            terminated=terminated,
            truncated=truncated,
            weight=np.concatenate(weights),
            episode_success=np.array(success, dtype=np.float32),
            episode_source=np.array([source_names.index(t.source) for t in trajectories], dtype=np.int64),
            source_names=source_names,
            images={camera: np.concatenate([t.images[camera] for t in trajectories]) for camera in expected.cameras},
            observation_horizon=expected.observation_horizon,
            grasp_penalty=_penalties(trajectories),
        )

    def trajectories(self) -> list[Trajectory]:
        """The inverse of `from_trajectories`."""
        return [self._trajectory(episode) for episode in range(self.episode_count)]

    def _trajectory(self, episode: int) -> Trajectory:
        end = int(self.episode_ends[episode])
        rows = slice(end - int(self.episode_lengths[episode]), end)
        # Each episode so far has `observation_horizon` frames more than rows.
        horizon = self.observation_horizon
        frames = slice(rows.start + episode * horizon, end + (episode + 1) * horizon)
        success = self.episode_success[episode]
        return Trajectory(
            observations=np.concatenate([self.observations[rows], self.next_observations[end - 1 : end]]),
            actions=self.actions[rows],
            rewards=self.rewards[rows],
            terminated=bool(self.terminated[end - 1]),
            truncated=bool(self.truncated[end - 1]),
            success=None if np.isnan(success) else bool(success),
            source=self.source_names[self.episode_source[episode]],
            weight=self.weight[rows],
            images={camera: images[frames] for camera, images in self.images.items()},
            observation_horizon=self.observation_horizon,
            grasp_penalty=None if self.grasp_penalty is None else self.grasp_penalty[rows],
        )

    def select_episodes(self, episodes: Integer[np.ndarray, " selected"]) -> "Dataset":
        """Whole episodes, each once, in their order here.

        Raises:
            DataError: none is selected.
        """
        return self.select_transitions(np.flatnonzero(np.isin(self.episode_of_row, episodes)))

    def select_transitions(self, rows: Integer[np.ndarray, " selected"]) -> "Dataset":
        """Rows, each once, in their order here; neighbours in one episode stay a segment, truncated at its end.

        Raises:
            DataError: none is selected.
        """
        rows = np.unique(rows)
        if len(rows) == 0:
            raise DataError("A selection of the dataset needs at least one transition, found none.")
        episode = self.episode_of_row[rows]
        last = np.append((np.diff(rows) > 1) | (np.diff(episode) > 0), True)
        frames = self._frames_of_segments(rows, np.flatnonzero(last) + 1)
        selected = {name: array[rows] for name, array in self.arrays().items()}
        selected["truncated"] |= last & ~selected["terminated"]
        return replace(
            self,
            **selected,
            episode_success=self.episode_success[episode[last]],
            episode_source=self.episode_source[episode[last]],
            images={camera: images[frames] for camera, images in self.images.items()},
        )

    def _frames_of_segments(
        self, rows: Integer[np.ndarray, " selected"], ends: Integer[np.ndarray, " segment"]
    ) -> Integer[np.ndarray, " frame"]:
        lengths = np.diff(ends, prepend=0)
        counts = lengths + self.observation_horizon
        first = self.frame_of_row[rows[ends - lengths]] + 1 - self.observation_horizon
        return np.arange(counts.sum()) + np.repeat(first - (np.cumsum(counts) - counts), counts)

    def split_holdout(self, fraction: float, seed: int) -> tuple["Dataset", "Dataset | None"]:
        """Splits whole episodes at random: (training, held out).

        Args:
            fraction: of the episodes, in [0, 1), rounded to at least one and not all; 0, or a single episode: nothing
                held out.
        """
        if not 0 <= fraction < 1:
            raise ParameterError(f"The held-out fraction must be in [0, 1), found {fraction}.")
        if fraction == 0 or self.episode_count == 1:
            return self, None
        count = min(max(round(fraction * self.episode_count), 1), self.episode_count - 1)
        order = np.random.default_rng(seed).permutation(self.episode_count)
        return self.select_episodes(order[count:]), self.select_episodes(order[:count])


def _penalties(trajectories: Sequence[Trajectory]) -> Float32[np.ndarray, " transition"] | None:
    if all(trajectory.grasp_penalty is None for trajectory in trajectories):
        return None
    return np.concatenate(
        [np.zeros(len(t), np.float32) if t.grasp_penalty is None else t.grasp_penalty for t in trajectories]
    )


def monte_carlo_returns(dataset: Dataset, discount: float) -> Float32[np.ndarray, " transition"]:
    """Discounted sum of rewards from each row to its episode's end, without bootstrapping.

    Exception, from Cal-QL (Nakamoto et al. 2023, appendix): an episode that never terminates and whose every reward is
    the same r < 0 returns r / (1 - discount) in every row (discount below 1). Departure: the authors' code does so for
    terminated episodes too, whose return is known.
    """
    terminated = dataset.terminated[dataset.episode_ends - 1]
    return returns_to_go(dataset.rewards, dataset.episode_ends, terminated, discount)


def returns_to_go(
    rewards: Float32[np.ndarray, " transition"],
    episode_ends: Int64[np.ndarray, " episode"],
    episode_terminated: Bool[np.ndarray, " episode"],
    discount: float,
) -> Float32[np.ndarray, " transition"]:
    """`monte_carlo_returns` without a dataset; `episode_ends` are exclusive."""
    lengths = np.diff(episode_ends, prepend=0)
    starts, ends = episode_ends - lengths, episode_ends
    returns = rewards.astype(np.float64)
    # One step back in time in all episodes at once; the long ones last longest.
    by_length = np.argsort(-lengths, kind="stable")
    ends, still_running = ends[by_length], -lengths[by_length]
    for steps in range(1, int(lengths.max())):
        rows = ends[: np.searchsorted(still_running, -steps)] - 1 - steps
        returns[rows] += discount * returns[rows + 1]
    if discount < 1:
        lowest = np.minimum.reduceat(rewards, starts)
        endless = (lowest < 0) & (lowest == np.maximum.reduceat(rewards, starts)) & ~episode_terminated
        rows = np.repeat(endless, lengths)
        returns[rows] = rewards[rows] / (1 - discount)
    return returns.astype(np.float32)


def stacks_of(
    dataset: Dataset, rows: Integer[np.ndarray, " rows"]
) -> tuple[Integer[np.ndarray, "rows horizon"], Integer[np.ndarray, "rows horizon"]]:
    """Indices of the frames of each row's observation and next observation, oldest first."""
    newest = dataset.frame_of_row[rows][:, None] + np.arange(1 - dataset.observation_horizon, 1)
    return newest, newest + 1
