"""Data of fine-tuning: kept offline data, online transitions, and camera frames.

Interventions are demonstrations too, and join the offline side.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

from wsrl_kit.agent import jax_tools, sac
from wsrl_kit.agent.sac import SACConfig, SACState, TermWeights
from wsrl_kit.agent.transition import MONTE_CARLO_RETURN, Transition, packed, row_width, unpacked
from wsrl_kit.config.config import NOBODY, ROBOT, WSRLConfig, is_scheduler
from wsrl_kit.data.dataset import Dataset
from wsrl_kit.replay import ring
from wsrl_kit.replay.frames import FrameStore
from wsrl_kit.replay.mixture import Drawn, Replay
from wsrl_kit.replay.ring import Ring
from wsrl_kit.training import learner
from wsrl_kit.training.sight import dataset_frames, example
from wsrl_kit.training.start import to_transitions

Frames = dict[str, Shaped[np.ndarray, "horizon ..."]]
"""Camera -> one observation's images as replay stores them; from `split_observation`."""

StoredStep = tuple[Transition, Frames, Frames]
"""One transition, and the frames of its observation and next observation."""


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
    """Frames of the offline data, not copied; None if `initial_tree` copied them."""
    if offline is None or _copies_frames(config):
        return None
    return dataset_frames(agent_config, agent_state, offline)


def _copies_frames(config: WSRLConfig) -> bool:
    """Whether offline frames are part of the tree: for interventions to join, or for a learner elsewhere."""
    return intervention_rows(config) > 0 or is_scheduler(config.learner)


def initial_tree(config: WSRLConfig, agent_config: SACConfig, agent_state: SACState, offline: Dataset | None) -> PyTree:
    """Everything of `Experience` that changes, before the first step."""
    width = row_width(agent_config.observation_size, agent_config.action_size, agent_config.learns_gripper)
    prioritized, spare = config.use_prioritized_replay, intervention_rows(config)
    stack = None if agent_config.pixels is None else example(agent_config, agent_state)
    rows = max((0 if offline is None else len(offline)) + spare, 1)
    if offline is None:
        offline_side = ring.empty(rows, width, prioritized, stack if spare else None)
    else:
        store = dataset_frames(agent_config, agent_state, offline) if _copies_frames(config) else None
        offline_side = ring.filled(packed(to_transitions(config, offline)), rows, prioritized, store)
    capacity = min(config.replay_capacity, config.online_steps)
    return {"replay": {"offline": offline_side, "online": ring.empty(capacity, width, prioritized, stack)}}


def grown(tree: PyTree, larger: PyTree) -> PyTree:
    """The tree of a run with fewer `online_steps`, with room for more.

    Args:
        larger: `initial_tree` for the new steps; given up.
    """
    sides = {side: ring.grown(content, larger["replay"][side]) for side, content in tree["replay"].items()}
    return tree | {"replay": sides}


class Experience:
    """Stores transitions and trains an agent on them.

    Args:
        tree: from `initial_tree` or `tree`; given up.
        offline: from `offline_frames`.
    """

    def __init__(self, config: WSRLConfig, agent_config: SACConfig, tree: PyTree, offline: FrameStore | None) -> None:
        alpha, sides = config.priority_alpha, tree["replay"]
        self._replay = Replay(
            Ring(sides["offline"], alpha, offline),
            Ring(sides["online"], alpha),
            jax_tools.episode_seed(config.seed, "sampling"),
            config.importance_normalisation,
        )
        self._late: tuple[Drawn, Array] | None = None
        self._sizes = (agent_config.observation_size, agent_config.action_size)
        self._shape = (config.update_to_data_ratio, config.batch_size)
        self._keeps_interventions = intervention_rows(config) > 0
        # Data that were given fill their share of a batch however few they are. What a human does begins with a single
        # transition, which must not fill half of a batch.
        self._enough_offline = 1 if config.demo_path is not None else config.batch_size

    @property
    def replay(self) -> Replay:
        """The replay, with all priorities written; waits for learning."""
        if self._late is not None:
            drawn, td_error = self._late
            self._late = None
            self._replay.update_priorities(drawn, np.asarray(td_error))
        return self._replay

    @property
    def tree(self) -> PyTree:
        """The content of a checkpoint."""
        return {"replay": self.replay.tree}

    def offline_ratio(self, scheduled: np.floating) -> np.floating:
        """The offline share of the next batches: 0 while the offline side holds too few transitions."""
        return scheduled if self._replay.offline.size >= self._enough_offline else scheduled * 0

    def add(self, stored: StoredStep) -> None:
        _add(self.replay.online, stored)

    def add_interventions(self, segment: Iterable[StoredStep]) -> None:
        """Adds a human's steps to the offline side, if it has rows for them; the oldest are dropped."""
        if self._keeps_interventions:
            for stored in segment:
                _add(self.replay.offline, stored)

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
        """Adds an online transition, samples, and runs `learner.learn`; `agent_state` is given up.

        Returns before learning has ended; its TD errors become priorities when replay is next used.
        """
        self.add(stored)
        batch, drawn = self._replay.sample(step, self._shape, float(ratio), float(beta))
        agent_state, metrics, td_error = learner.learn(agent_config, agent_state, batch, key, np.int32(step), weights)
        if self._replay.online.is_prioritized:
            self._late = (drawn, td_error)
        return agent_state, metrics

    def newest(self, count: int) -> Transition:
        """The newest online transitions, at most `count`, oldest first, without images."""
        online = self._replay.online
        return unpacked(online.rows[online.newest(min(online.size, count))], *self._sizes)

    def probe(self, count: int) -> tuple[Transition, int]:
        """`count` transitions with images for a compiled function, and how many of them are online ones: the newest."""
        online = self._replay.online
        held = min(online.size, count)
        places = np.resize(online.newest(held)[::-1], count)
        images, next_images = self._replay.images_of(places)
        rows = unpacked(online.rows[places], *self._sizes)
        return rows._replace(images=images, next_images=next_images, cloned=None), held

    def set_returns(self, value: Float[np.ndarray, " rows"]) -> None:
        """Writes the Monte-Carlo returns of the newest online transitions."""
        online = self._replay.online
        held = min(online.size, len(value))
        online.rows[online.newest(held), MONTE_CARLO_RETURN] = value[len(value) - held :]


def _add(side: Ring, stored: StoredStep) -> None:
    transition, images, next_images = stored
    side.add(packed(transition), images, next_images)
