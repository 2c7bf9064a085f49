"""Data of fine-tuning: kept offline data, online transitions, and camera frames.

Interventions are demonstrations too, and join the offline side.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, PRNGKeyArray, PyTree, Shaped

from wsrl_kit.agent import sac
from wsrl_kit.agent.sac import SACConfig, SACState, TermWeights
from wsrl_kit.config.config import NOBODY, ROBOT, WSRLConfig
from wsrl_kit.data.dataset import Dataset
from wsrl_kit.replay import frames, mixture, storage
from wsrl_kit.replay.frames import FrameBatches, FrameRing, FrameStore
from wsrl_kit.replay.mixture import Replay
from wsrl_kit.replay.samplers import Proportional, Sampler, Uniform
from wsrl_kit.replay.transition import Images, Transition
from wsrl_kit.training import learner
from wsrl_kit.training.sight import dataset_frames, example
from wsrl_kit.training.start import to_transitions

Frames = dict[str, Shaped[np.ndarray, "horizon ..."]]
"""Camera -> one observation's images as replay stores them; from `split_observation`."""

StoredStep = tuple[Transition, Frames, Frames]
"""One transition, and the frames of its observation and next observation."""


def sampler_of(config: WSRLConfig) -> Sampler:
    """The configured replay sampler."""
    return Proportional(config.priority_alpha) if config.use_prioritized_replay else Uniform()


def intervention_rows(config: WSRLConfig) -> int:
    """Offline rows reserved for interventions; at most `online_steps`."""
    wanted = config.intervention_capacity
    if wanted is None:
        # Beside a robot there may be a person, whom the parameters do not name.
        expected = config.human != NOBODY or config.exp_name == ROBOT
        wanted = config.online_steps if expected else 0
    return min(wanted, config.online_steps)


def offline_frames(
    config: WSRLConfig, agent_config: SACConfig, agent_state: SACState, offline: Dataset | None
) -> FrameStore | None:
    """Frames of the offline data, not copied; None if `initial_tree` copied them, for interventions to join."""
    if offline is None or intervention_rows(config):
        return None
    return dataset_frames(agent_config, agent_state, offline)


def initial_tree(
    config: WSRLConfig,
    agent_config: SACConfig,
    agent_state: SACState,
    offline: Dataset | None,
    offline_capacity: int | None,
) -> PyTree:
    """Everything of `Experience` that changes, before the first step.

    Args:
        offline_capacity: rows to pad the offline data to, so that runs share a compiled program.
    """
    sizes = (agent_config.observation_size, agent_config.action_size, agent_config.learns_gripper)
    spare = intervention_rows(config)
    rows = max((offline_capacity or (0 if offline is None else len(offline))) + spare, 1)
    if offline is None:
        offline_rows = storage.create(rows, *sizes)
    else:
        offline_rows = storage.filled(to_transitions(config, offline), rows)
    capacity = min(config.replay_capacity, config.online_steps)
    ring: FrameRing | tuple[()] = ()
    demo_ring: FrameRing | tuple[()] = ()
    if agent_config.pixels is not None:
        ring = frames.create(capacity, example(agent_config, agent_state))
        if spare:
            store = None if offline is None else dataset_frames(agent_config, agent_state, offline)
            demo_ring = (
                frames.create(rows, example(agent_config, agent_state)) if store is None else frames.filled(store, rows)
            )
    replay = mixture.create(sampler_of(config), offline_rows, storage.create(capacity, *sizes))
    return {"replay": replay, "frames": ring, "demo_frames": demo_ring}


def grown(config: WSRLConfig, tree: PyTree, larger: PyTree) -> PyTree:
    """The tree of a run with fewer `online_steps`, with room for more.

    Args:
        larger: `initial_tree` for the new steps; given up.
    """
    replay: Replay = larger["replay"]
    capacities = (storage.capacity(side) for side in (replay.offline, replay.online))
    rings = {
        name: frames.grown(tree[name], larger[name]) if isinstance(tree[name], FrameRing) else tree[name]
        for name in ("frames", "demo_frames")
    }
    return tree | rings | {"replay": mixture.grown(sampler_of(config), tree["replay"], *capacities)}


class Experience:
    """Stores transitions and trains an agent on them.

    Args:
        tree: from `initial_tree` or `tree`; given up.
        offline: from `offline_frames`.
    """

    def __init__(self, config: WSRLConfig, tree: PyTree, offline: FrameStore | None) -> None:
        self._sampler = sampler_of(config)
        self._shape = (config.update_to_data_ratio, config.batch_size)
        self._batches = FrameBatches()
        self.replay: Replay = tree["replay"]
        self._ring: FrameRing | tuple[()] = tree["frames"]
        self._demo_ring: FrameRing | tuple[()] = tree["demo_frames"]
        self._dataset_frames = offline
        self._keeps_interventions = intervention_rows(config) > 0
        # Data that were given fill their share of a batch however few they are. What a human does begins with a single
        # transition, which must not fill half of a batch.
        self._enough_offline = 1 if config.demo_path is not None else config.batch_size
        # Counted here, since asking the device would wait for it.
        self._offline_size = int(self.replay.offline.size)

    @property
    def tree(self) -> PyTree:
        """The content of a checkpoint."""
        return {"replay": self.replay, "frames": self._ring, "demo_frames": self._demo_ring}

    @property
    def offline_bytes(self) -> float:
        """Memory of the offline data."""
        images = 0.0
        if self._offline is not None:
            images = float(sum(leaf.nbytes for leaf in self._offline.frames.values()))
        if isinstance(self._demo_ring, FrameRing):
            slots = frames.slots(self._demo_ring)
            images *= min(int(self._demo_ring.written), slots) / slots
        return float(self.replay.offline.size) * storage.bytes_per_transition(self.replay.offline) + images

    @property
    def _offline(self) -> FrameStore | None:
        """Frames of the offline side."""
        return self._demo_ring.store if isinstance(self._demo_ring, FrameRing) else self._dataset_frames

    def offline_ratio(self, scheduled: np.floating) -> np.floating:
        """The offline share of the next batches: 0 while the offline side holds too few transitions."""
        return scheduled if self._offline_size >= self._enough_offline else scheduled * 0

    def add(self, stored: StoredStep) -> None:
        transition, current_frames, next_frames = stored
        self._add_frames(current_frames, next_frames)
        self.replay = learner.add(self._sampler, self.replay, transition)

    def add_interventions(self, segment: Iterable[StoredStep]) -> None:
        """Adds a human's steps to the offline side, if it has rows for them; the oldest are dropped."""
        if not self._keeps_interventions:
            return
        for transition, current_frames, next_frames in segment:
            if isinstance(self._demo_ring, FrameRing):
                self._demo_ring, dropped = frames.add(self._demo_ring, current_frames, next_frames)
                if dropped:
                    self.replay = learner.drop_oldest_offline(self._sampler, self.replay, np.int32(dropped))
                    self._offline_size -= dropped
            self.replay = learner.add_offline(self._sampler, self.replay, transition)
            self._offline_size = min(self._offline_size + 1, storage.capacity(self.replay.offline))

    def learn(
        self,
        agent_config: SACConfig,
        agent_state: SACState,
        key: PRNGKeyArray,
        step: int,
        ratio: np.floating,
        beta: np.floating,
        weights: TermWeights,
        stored: StoredStep,
    ) -> tuple[SACState, sac.Metrics]:
        """Adds an online transition and runs `learner.learning_step`; `agent_state` is given up."""
        transition, current_frames, next_frames = stored
        at, sampler, shape = np.int32(step), self._sampler, self._shape
        if agent_config.pixels is None:
            agent_state, self.replay, metrics = learner.train_step(
                agent_config, sampler, shape, agent_state, self.replay, key, at, ratio, beta, weights, transition
            )
            return agent_state, metrics
        self._add_frames(current_frames, next_frames)
        self.replay, batch, offline_rows = learner.sample_batch(
            sampler, shape, self.replay, key, at, ratio, beta, transition
        )
        images, next_images = self._gather_frames(batch.row, offline_rows)
        batch = batch._replace(transition=batch.transition._replace(images=images, next_images=next_images))
        agent_state, self.replay, metrics = learner.update_from_batch(
            agent_config, sampler, agent_state, self.replay, batch, offline_rows, key, at, weights
        )
        return agent_state, metrics

    def newest(self, count: int) -> tuple[Transition, int]:
        """The newest online transitions, `count` rows, and how many rows are valid."""
        capacity = storage.capacity(self.replay.online)
        size = min(int(self.replay.online.size), count)
        rows = (int(self.replay.online.position) - 1 - np.arange(count)) % capacity
        batch = storage.gather(self.replay.online, jnp.asarray(rows))
        if isinstance(self._ring, FrameRing):
            images, next_images = self._gather_frames(np.where(np.arange(count) < size, rows, rows[0]), np.array(0))
            batch = batch._replace(images=images, next_images=next_images)
        return batch, size

    def newest_rows(self, count: int) -> Transition:
        """The newest online transitions, at most `count`, oldest first, without images."""
        held = min(int(self.replay.online.size), count)
        rows = (int(self.replay.online.position) - held + np.arange(held)) % storage.capacity(self.replay.online)
        return jax.device_get(storage.gather(self.replay.online, jnp.asarray(rows)))

    def set_returns(self, row: Integer[np.ndarray, " rows"], monte_carlo_return: Float[np.ndarray, " rows"]) -> None:
        """See `mixture.set_returns`."""
        self.replay = learner.set_returns(self.replay, row, monte_carlo_return)

    def _add_frames(self, current_frames: Frames, next_frames: Frames) -> None:
        if not isinstance(self._ring, FrameRing):
            return
        self._ring, dropped = frames.add(self._ring, current_frames, next_frames)
        if dropped:
            self.replay = learner.drop_oldest(self._sampler, self.replay, np.int32(dropped))

    def _gather_frames(
        self, row: Integer[Array | np.ndarray, "*rows"], offline_rows: Integer[Array | np.ndarray, ""]
    ) -> tuple[Images, Images]:
        assert isinstance(self._ring, FrameRing)
        return self._batches.gather(np.asarray(row), self._ring.store, self._offline, int(offline_rows))
