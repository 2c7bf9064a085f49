"""Agents that see: what they learn, what replay keeps for them, and runs from image demos to fine-tuning."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from camera_samples import NAME, record, register, write_demos
from training_samples import StopAt, measured, same, same_checkpoint, settings, taken
from wsrl_kit.agent import sac
from wsrl_kit.agent.sac import SACConfig, SACState
from wsrl_kit.agent.transition import Transition
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.data.dataset import Dataset, stacks_of
from wsrl_kit.data.formats.hil_serl import write_hil_serl
from wsrl_kit.data.sources import load_sources
from wsrl_kit.envs.make import make
from wsrl_kit.errors import CheckpointError, DataError, ParameterError, Stopped
from wsrl_kit.replay.frames import FrameBatches
from wsrl_kit.runs import checkpoint
from wsrl_kit.runs.loop import Snapshot
from wsrl_kit.runs.progress import Silent
from wsrl_kit.runs.run import read_run
from wsrl_kit.training import finetune, learner, warmup
from wsrl_kit.training import start as agents
from wsrl_kit.training.evaluation import Evaluator
from wsrl_kit.training.jobs import run_finetune, run_warmup
from wsrl_kit.training.sight import dataset_frames, split_observation

SPOT = {
    "exp_name": NAME,
    "environment_options": {},
    "hidden_sizes": [32],
    "batch_size": 32,
    "warmup_steps": 150,
    "warmup_evaluation_interval": 150,
    "behavior_cloning_weight": 1.0,
    "augmentation_padding": 1,
    "evaluation_episodes": 10,
    "online_steps": 24,
    "update_to_data_ratio": 1,
    "evaluation_interval": 24,
    "checkpoint_interval": 10,
    "log_interval": 8,
}


def spot(**changes: Any) -> WSRLConfig:
    register()
    return settings(**(SPOT | changes))


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return Dataset.from_trajectories(record(30))


def fresh(config: WSRLConfig, dataset: Dataset | None) -> tuple[SACConfig, SACState]:
    environment = make(config.exp_name, config.environment_options)
    static, agent = agents.create(config, environment, dataset)
    environment.close()
    return static, agent


@pytest.fixture(scope="module")
def seeing(dataset: Dataset) -> tuple[WSRLConfig, SACConfig, SACState]:
    config = spot(augmentation_padding=3)
    return config, *fresh(config, dataset)


def batch_of(config: WSRLConfig, dataset: Dataset, size: int = 8) -> Transition:
    return agents.probe_batch(config, dataset, size)


@pytest.mark.slow
def test_who_sees_learns_what_the_state_does_not_say(dataset: Dataset) -> None:
    config = spot()
    static, agent = fresh(config, dataset)
    events = taken(warmup.warmup(config, static, warmup.initial_tree(agent), dataset, Evaluator(config)))
    success = measured(events, "evaluation/success_deterministic")
    assert success[150] >= 0.8


@pytest.mark.slow
def test_the_critics_train_the_encoder_and_the_actor_does_not(dataset: Dataset) -> None:
    config = spot()
    static, agent = fresh(config, dataset)
    batch, key = batch_of(config, dataset), jax.random.key(0)
    prepared = jax.jit(sac.prepare, static_argnums=0)(static, agent, batch, key)
    by_critics, _, _ = jax.jit(sac.update_critic, static_argnums=0)(static, agent, prepared, key)
    assert not same(by_critics.critic["encoder"], agent.critic["encoder"])
    assert same(by_critics.actor, agent.actor)
    moved = jax.tree.map(lambda new, old: new - old, by_critics.critic["encoder"], agent.critic["encoder"])
    followed = jax.tree.map(lambda new, old: new - old, by_critics.target_critic["encoder"], agent.critic["encoder"])
    for target, online in zip(jax.tree.leaves(followed), jax.tree.leaves(moved), strict=True):
        np.testing.assert_allclose(target, config.target_update_rate * online, atol=1e-7)
    by_actor, _ = jax.jit(sac.update_actor, static_argnums=0)(static, agent, prepared, key)
    assert same(by_actor.critic, agent.critic)
    assert not same(by_actor.actor, agent.actor)


def test_what_learns_from_images_lowers_for_a_gpu_where_there_is_none(dataset: Dataset, seeing: Any) -> None:
    config, static, agent = seeing

    @jax.jit
    def step(agent: SACState, batch: Transition, seed: jax.Array) -> SACState:
        key = jax.random.key(seed)
        return learner.select_update(static)(static, agent, learner.preprocess(static, agent, batch, key), key)[0]

    batch = jax.tree.map(lambda leaf: leaf[None], batch_of(config, dataset))
    lowered = jax.export.export(step, platforms=["cuda"])(agent, batch, jnp.int32(0))
    assert lowered.platforms == ("cuda",)
    assert lowered.out_avals == tuple(jax.typeof(leaf) for leaf in jax.tree.leaves(agent))


def test_training_sees_crops_and_acting_does_not(dataset: Dataset, seeing: Any) -> None:
    config, static, agent = seeing
    batch = batch_of(config, dataset)
    prepare = jax.jit(sac.prepare, static_argnums=0)
    assert same(prepare(static, agent, batch).images, batch.images)
    first, second = (prepare(static, agent, batch, jax.random.key(seed)) for seed in (0, 1))
    for name in ("front", "back"):
        assert not same(first.images[name], batch.images[name])
        assert not same(first.images[name], second.images[name])
        assert not same(first.images[name], first.next_images[name])
    assert same(first.observation, batch.observation)


@pytest.mark.slow
def test_features_kept_of_a_frozen_trunk_are_those_it_would_compute(dataset: Dataset) -> None:
    config = spot(augmentation_padding=0)
    static, agent = fresh(config, dataset)
    # The small trunk frozen as it is: a ResNet of 128x128 would take the machine a minute.
    static = replace(static, pixels=replace(static.pixels, is_frozen=True))
    agent = sac.create(static, jax.random.key(0), agent.observation_center, agent.observation_scale)
    store = dataset_frames(static, agent, dataset)
    assert store is not None
    rows = np.array([0, 3, len(dataset) - 1])
    images, next_images = FrameBatches().gather(rows, [(store, slice(None))])
    assert {leaf.dtype for leaf in images.values()} == {np.dtype(np.float32)}
    batch = jax.tree.map(lambda column: jnp.asarray(column[rows]), agents.to_transitions(config, dataset))
    newest, following = stacks_of(dataset, rows)
    raw = batch._replace(
        images={name: frames[newest] for name, frames in dataset.images.items()},
        next_images={name: frames[following] for name, frames in dataset.images.items()},
    )
    kept = batch._replace(images=images, next_images=next_images)
    errors = [sac.td_errors(static, agent, jax.device_put(each), jax.random.key(1)) for each in (raw, kept)]
    np.testing.assert_allclose(*errors, rtol=1e-5, atol=1e-6)
    # What acting looks at is the same too.
    environment = make(config.exp_name, config.environment_options)
    state, shown = split_observation(static, sac.policy(agent), environment.reset(seed=0)[0])
    assert shown["front"].dtype == np.float32 and state.shape == (2,)


@pytest.mark.slow
@pytest.mark.parametrize("horizon", [1, 2])
def test_a_run_that_sees_goes_on_from_a_checkpoint_to_the_same_bits(horizon: int, tmp_path: Path) -> None:
    config = spot(environment_options={"observation_horizon": horizon})
    dataset = Dataset.from_trajectories(record(20, observation_horizon=horizon))
    static, agent = fresh(config, dataset)
    frames = dataset_frames(static, agent, dataset)

    def run(tree: Any) -> list[Any]:
        environment = make(config.exp_name, config.environment_options)
        return taken(finetune.finetune(config, static, tree, environment, Evaluator(config), None, frames))

    def start() -> Any:
        return finetune.initial_tree(config, static, jax.tree.map(jnp.copy, agent), dataset)

    whole = run(start())
    snapshots = [event.tree for event in whole if isinstance(event, Snapshot)]
    checkpoint.save(tmp_path / "checkpoint.npz", snapshots[0], {})
    rest = run(checkpoint.load(tmp_path / "checkpoint.npz", start()))
    assert len(snapshots) >= 2
    assert same(snapshots[-1], rest[-1].tree)
    assert not same(snapshots[0]["agent"].critic["encoder"], snapshots[-1]["agent"].critic["encoder"])


@pytest.mark.slow
def test_from_image_demos_to_fine_tuning(tmp_path: Path) -> None:
    demos = write_demos(tmp_path)
    config = spot(offline_data_path=str(demos), warmup_steps=10, warmup_evaluation_interval=10, evaluation_episodes=1)
    target = run_warmup(config, tmp_path / "warmup", Silent())
    kept = load_sources(str(tmp_path / "warmup" / "filtered_demos.pkl"))
    assert sorted(kept.images) == ["back", "front"]
    assert 0 < len(kept) < len(load_sources(str(demos)))
    online = replace(
        config, checkpoint_path=str(target), demo_path=str(tmp_path / "warmup" / "filtered_demos.pkl"), batch_size=8
    )
    run_finetune(online, tmp_path / "finetune", Silent())
    with pytest.raises(CheckpointError, match=r"was made with encoder small, but this run has encoder resnet10$"):
        run_finetune(replace(online, encoder="resnet10"), tmp_path / "other", Silent())


@pytest.mark.slow
def test_a_stopped_run_that_sees_goes_on_to_the_same_end(tmp_path: Path) -> None:
    demos = write_demos(tmp_path)
    # Fewer rows than steps, so that frames are overwritten; more steps than a block of frames on disk.
    config = spot(demo_path=str(demos), online_steps=300, frozen_rollout_steps=290, replay_capacity=40, batch_size=8)
    config = replace(config, evaluation_interval=300, evaluation_episodes=1)
    run_finetune(config, tmp_path / "whole", Silent())
    # In the middle of an episode this task, which may be a robot for all that is known, would end it.
    ends = read_run(tmp_path / "whole").curve("training/episode_length").environment_step
    with pytest.raises(Stopped):
        run_finetune(config, tmp_path / "halves", StopAt(int(ends[ends >= 280][0])))
    blocks = sorted((tmp_path / "halves" / "frames").iterdir())
    assert 1 <= len(blocks) <= 2 and sum(path.stat().st_size for path in blocks) < 2 * 2 * 256 * 16 * 16 * 3
    run_finetune(config, tmp_path / "halves", Silent())
    assert (tmp_path / "whole" / "metrics.csv").read_bytes() == (tmp_path / "halves" / "metrics.csv").read_bytes()
    assert same_checkpoint(*(tmp_path / name / "checkpoint.npz" for name in ("whole", "halves")))


@pytest.mark.slow
def test_a_finished_run_that_sees_goes_on_for_more_steps(tmp_path: Path) -> None:
    config = spot(online_steps=30, frozen_rollout_steps=20, batch_size=8, evaluation_episodes=1)
    run_finetune(config, tmp_path, Silent())
    run_finetune(replace(config, online_steps=45), tmp_path, Silent())
    assert read_run(tmp_path).status == "finished"
    with np.load(tmp_path / "checkpoint.npz") as arrays:
        assert int(arrays["replay/online/size"]) == 45


def test_data_that_lack_what_the_task_shows_are_refused(tmp_path: Path) -> None:
    one_eyed = [replace(each, images={"front": each.images["front"]}) for each in record(3)]
    write_hil_serl(tmp_path / "one_eyed.pkl", one_eyed)
    with pytest.raises(DataError, match=r"one_eyed\.pkl: transition 0 has no images of back, found front"):
        run_warmup(spot(offline_data_path=str(tmp_path / "one_eyed.pkl")), tmp_path / "warmup", Silent())
    smaller = [replace(each, images={name: leaf[:, :8] for name, leaf in each.images.items()}) for each in record(3)]
    sentence = (
        r"hold camera back \[1, 8, 16, 3\], camera front \[1, 8, 16, 3\], but .* has camera back \[1, 16, 16, 3\]"
    )
    with pytest.raises(DataError, match=sentence):
        fresh(spot(), Dataset.from_trajectories(smaller))


def test_a_frozen_trunk_wants_weights(tmp_path: Path) -> None:
    demos = write_demos(tmp_path, episodes=10)
    config = spot(offline_data_path=str(demos), encoder="resnet10_frozen")
    with pytest.raises(ParameterError, match=r"needs encoder_weights.*found None"):
        run_warmup(config, tmp_path / "warmup", Silent())
    with pytest.raises(DataError, match=r"none\.pkl does not exist"):
        run_warmup(replace(config, encoder_weights=str(tmp_path / "none.pkl")), tmp_path / "other", Silent())
