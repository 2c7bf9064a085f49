"""Tiny settings, data and loops for the tests of training: real robot, real data, small networks."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np
from jaxtyping import PyTree

from wsrl_kit.agent.transition import Transition, unpacked
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.data.dataset import Dataset
from wsrl_kit.envs.config import CollectConfig
from wsrl_kit.envs.make import make
from wsrl_kit.replay.ring import Ring
from wsrl_kit.runs.loop import Measurement, Snapshot
from wsrl_kit.runs.progress import Silent
from wsrl_kit.training import finetune, warmup
from wsrl_kit.training import start as agents
from wsrl_kit.training.evaluation import Evaluator
from wsrl_kit.training.jobs import load_offline_data, run_collect

# Short episodes that begin near the hole: the demonstrations touch it, and some succeed.
ROBOT = {"max_episode_steps": 25, "reset_height": 0.012}
PENDULUM = {"exp_name": "Pendulum-v1", "environment_options": {"max_episode_steps": 15}}

TINY = {
    "environment_options": ROBOT,
    "hidden_sizes": [16],
    "batch_size": 16,
    "warmup_steps": 200,
    "online_steps": 100,
    "update_to_data_ratio": 2,
    "warmup_evaluation_interval": 50,
    "evaluation_interval": 40,
    "evaluation_episodes": 1,
    "log_interval": 7,
    "checkpoint_interval": 30,
}


def settings(**changes: Any) -> WSRLConfig:
    return WSRLConfig(**(TINY | changes))


def collect_sources(folder: Path) -> Path:
    episodes = {"demo_episodes": 8, "suboptimal_episodes": 8, "random_episodes": 8}
    run_collect(CollectConfig(environment_options=ROBOT, **episodes), folder, Silent())
    return folder


def offline_data(config: WSRLConfig, sources: Path) -> Dataset:
    return load_offline_data(config, str(sources))


def start_warmup(config: WSRLConfig, dataset: Dataset) -> Iterator[Any]:
    environment = make(config.exp_name, config.environment_options)
    static, agent = agents.create(config, environment, dataset)
    return warmup.warmup(config, static, warmup.initial_tree(agent), dataset, Evaluator(config))


def start_finetune(
    config: WSRLConfig,
    dataset: Dataset | None = None,
    environment: gymnasium.Env | None = None,
    probe_size: int = 0,
) -> Iterator[Any]:
    environment = environment or make(config.exp_name, config.environment_options)
    static, agent = agents.create(config, environment, dataset)
    probe = agents.probe_batch(config, dataset, probe_size) if dataset and probe_size else None
    tree = finetune.initial_tree(config, static, agent, dataset)
    return finetune.finetune(config, static, tree, environment, Evaluator(config), probe)


def stored(side: PyTree, observation_size: int, action_size: int) -> Transition:
    """The rows that one side of a replay holds, as transitions, oldest first."""
    ring = Ring(side)
    return unpacked(ring.rows[ring.newest(ring.size)], observation_size, action_size)


def host(tree: PyTree) -> PyTree:
    """A copy that stays as it is when the loop goes on."""
    return jax.tree.map(lambda leaf: np.array(leaf), tree)


def taken(events: Iterable[Any]) -> list[Any]:
    """All events of a loop, snapshots copied."""
    return [Snapshot(host(event.tree)) if isinstance(event, Snapshot) else event for event in events]


def snapshots(events: list[Any]) -> list[Any]:
    return [event.tree for event in events if isinstance(event, Snapshot)]


def last(events: list[Any]) -> Any:
    assert isinstance(events[-1], Snapshot)
    return events[-1].tree


def measured(events: list[Any], metric: str) -> dict[int, float]:
    """Values of a metric by environment step (fine-tuning) or gradient step (warmup)."""
    return {
        event.environment_step if event.phase == "online" else event.gradient_step: event.values[metric]
        for event in events
        if isinstance(event, Measurement) and metric in event.values
    }


def same(first: PyTree, second: PyTree) -> bool:
    """Whether two trees hold the same bits."""
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


def same_checkpoint(first: Path, second: Path) -> bool:
    """Whether two checkpoint files hold the same arrays, bit by bit."""
    with np.load(first) as a, np.load(second) as b:
        return a.files == b.files and all(
            (a[name].dtype, a[name].shape, a[name].tobytes()) == (b[name].dtype, b[name].shape, b[name].tobytes())
            for name in a.files
        )


class StopAt:
    """Progress that asks for the end at a step, and keeps what it was told.

    Attributes:
        texts: one after the other, without repetitions.
    """

    def __init__(self, step: int) -> None:
        self._step = step
        self.stop_requested = False
        self.texts: list[str] = []

    def update(self, step: int, total: int, text: str) -> None:
        if text not in self.texts[-1:]:
            self.texts.append(text)
        self.stop_requested = step >= self._step
