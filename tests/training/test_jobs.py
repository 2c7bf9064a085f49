"""Jobs from parameters to a finished folder, and what each says when it can't be done."""

import resource
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from full_disk import files_limited_to
from lerobot_samples import write_lerobot
from training_samples import PENDULUM, ROBOT, StopAt, same_checkpoint, settings
from wsrl_kit.agent import sac
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.data.sources import load_sources
from wsrl_kit.envs.config import CollectConfig
from wsrl_kit.envs.make import make
from wsrl_kit.errors import CheckpointError, DataError, ParameterError, RunError, Stopped, WSRLKitError
from wsrl_kit.runs.progress import Silent
from wsrl_kit.runs.run import read_run
from wsrl_kit.training import start as agents
from wsrl_kit.training.jobs import load_offline_data, run_collect, run_finetune, run_warmup


@pytest.fixture(scope="module")
def warmed_up(sources, tmp_path_factory) -> tuple[WSRLConfig, Path]:
    config = settings(offline_data_path=str(sources), retention_ratio=0.3)
    folder = tmp_path_factory.mktemp("warmup")
    assert run_warmup(config, folder, Silent()) == folder / "warmup.npz"
    return config, folder


def test_collecting_writes_three_files_that_reload(tmp_path):
    counts = {"demo_episodes": 3, "suboptimal_episodes": 4, "random_episodes": 5}
    config = CollectConfig(environment_options=ROBOT, **counts)
    dataset = run_collect(config, tmp_path, Silent())
    reloaded = load_sources(str(tmp_path))
    assert reloaded.source_names == ("demos", "random", "suboptimal")
    assert np.bincount(reloaded.episode_source).tolist() == [3, 5, 4]
    record = read_run(tmp_path)
    assert (record.kind, record.status) == ("collect", "finished")
    assert record.summary == {"episodes": 12, "transitions": len(dataset)}
    assert len(reloaded) == len(dataset)
    for source in ("demos", "suboptimal", "random"):
        (own,) = np.flatnonzero(np.array(dataset.source_names) == source)
        before = dataset.select_episodes(np.flatnonzero(dataset.episode_source == own))
        after = load_sources(str(tmp_path / f"{source}.pkl"))
        for name in ("observations", "actions", "rewards", "next_observations", "terminated", "truncated"):
            np.testing.assert_array_equal(getattr(before, name), getattr(after, name))


def test_collecting_that_was_stopped_leaves_earlier_files_alone(tmp_path):
    counts = {"demo_episodes": 2, "suboptimal_episodes": 2, "random_episodes": 2}
    run_collect(CollectConfig(environment_options=ROBOT, **counts), tmp_path, Silent())
    before = {path: path.read_bytes() for path in tmp_path.glob("*.pkl")}
    with pytest.raises(Stopped):
        run_collect(CollectConfig(environment_options=ROBOT, seed=1, **counts), tmp_path, StopAt(3))
    assert read_run(tmp_path).status == "stopped"
    assert {path: path.read_bytes() for path in tmp_path.glob("*.pkl")} == before
    with pytest.raises(ParameterError, match="must not all be 0"):
        run_collect(CollectConfig(demo_episodes=0, suboptimal_episodes=0, random_episodes=0), tmp_path, Silent())
    assert read_run(tmp_path).status == "failed"


def test_sources_are_weighed_and_files_that_bring_weights_keep_them(warmed_up, sources):
    config, folder = warmed_up
    dataset = load_offline_data(config, str(sources))
    assert dataset.weight.mean() == pytest.approx(1.0, rel=1e-5)
    weight = {name: dataset.weight[rows].mean() for name, rows in rows_by_source(dataset).items()}
    assert weight["demos"] > weight["suboptimal"] > weight["random"]
    kept = load_offline_data(replace(config, demo_weight=9.0), str(folder / "filtered_demos.pkl"))
    assert len(kept) == int(len(dataset) * 0.3)
    # Every kept row is one of the data's, with its weight but for a factor that makes their mean 1.
    rows = {row.tobytes(): weight for row, weight in zip(dataset.next_observations, dataset.weight, strict=True)}
    weights = np.array([rows[row.tobytes()] for row in kept.next_observations])
    np.testing.assert_allclose(kept.weight, weights / weights.mean(), rtol=1e-5)
    assert weights.mean() > 1.2


def rows_by_source(dataset: Any) -> dict[str, Any]:
    source = dataset.episode_source[dataset.episode_of_row]
    return {name: source == index for index, name in enumerate(dataset.source_names)}


def test_warmup_writes_its_checkpoint_and_what_is_kept(warmed_up, sources):
    _, folder = warmed_up
    record = read_run(folder)
    assert (record.kind, record.status) == ("warmup", "finished")
    diagnosis = record.summary.pop("diagnosis")
    assert diagnosis["policy"] == record.curve("evaluation/success_sampled", "warmup").value[-1]
    transitions = len(load_sources(str(sources)))
    assert record.summary == {
        "gradient_steps": 200,
        "stopped_early": False,
        "checkpoint": str(folder / "warmup.npz"),
        "transitions": transitions,
        "kept_transitions": int(transitions * 0.3),
    }


def test_warmup_writes_where_checkpoint_path_says_and_keeps_nothing_at_ratio_0(sources, tmp_path):
    config = settings(
        offline_data_path=str(sources),
        warmup_steps=50,
        retention_ratio=0.0,
        checkpoint_path=str(tmp_path / "far" / "agent"),
    )
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "filtered_demos.pkl").write_bytes(b"of an earlier warmup")
    assert run_warmup(config, tmp_path / "run", Silent()) == tmp_path / "far" / "agent"
    assert [path.name for path in (tmp_path / "far").iterdir()] == ["agent"]
    assert read_run(tmp_path / "run").summary["kept_transitions"] == 0


@pytest.fixture
def without_rewards(sources, tmp_path) -> WSRLConfig:
    demos = [t for t in load_sources(str(sources / "demos.pkl")).trajectories() if len(t) > 1]
    path = tmp_path / "demos"
    write_lerobot(path, [{"observation.state": t.observations[:-1], "action": t.actions} for t in demos])
    return settings(offline_data_path=str(path), missing_rewards="none", evaluation_episodes=0)


def test_what_learns_from_rewards_refuses_to_do_without(without_rewards, tmp_path):
    with pytest.raises(DataError, match="has no rewards, so that a policy can only clone it: give actor_value='none'"):
        run_warmup(without_rewards, tmp_path / "run", Silent())
    with pytest.raises(ParameterError, match="actor_value 'none' clones alone, but fine-tuning learns from rewards"):
        run_finetune(replace(without_rewards, actor_value="none"), tmp_path / "finetune", Silent())


@pytest.mark.slow
def test_without_rewards_a_policy_clones_alone_and_nothing_is_kept(without_rewards, tmp_path):
    config = replace(without_rewards, actor_value="none")
    checkpoint = run_warmup(config, tmp_path / "run", Silent())
    record = read_run(tmp_path / "run")
    assert record.status == "finished" and record.summary["kept_transitions"] == 0
    assert not (tmp_path / "run" / "filtered_demos.pkl").exists()
    data = load_offline_data(config, config.offline_data_path)
    with closing(make(config.exp_name, config.environment_options)) as environment:
        static, fresh = agents.create(config, environment, data)
    cloned, _ = agents.load_warmup(checkpoint, static)
    observations = jnp.asarray(data.observations)
    distances = [
        np.square(sac.act(static, sac.policy(agent), observations, jnp.zeros(data.actions.shape)) - data.actions)
        for agent in (fresh, cloned)
    ]
    assert distances[1].mean() < 0.9 * distances[0].mean()


def test_whole_trajectories_can_be_kept(sources, tmp_path):
    kept = {"retention_unit": "trajectory", "retention_priority": "mix"}
    config = settings(offline_data_path=str(sources), warmup_steps=50, **kept)
    run_warmup(config, tmp_path, Silent())
    kept, everything = (load_sources(str(path)) for path in (tmp_path / "filtered_demos.pkl", sources))
    assert set(kept.episode_lengths) <= set(everything.episode_lengths)
    assert len(kept) >= int(0.2 * len(everything))


def test_fine_tuning_goes_on_from_the_warmup_with_what_it_kept(warmed_up, tmp_path):
    config, folder = warmed_up
    config = replace(config, checkpoint_path=str(folder / "warmup.npz"), demo_path=str(folder / "filtered_demos.pkl"))
    run_finetune(config, tmp_path, Silent(), arm="kit")
    record = read_run(tmp_path)
    assert (record.kind, record.arm, record.status) == ("finetune", "kit", "finished")
    switch = record.curve("evaluation/success_sampled")
    assert (switch.environment_step[0], switch.gradient_step[0]) == (0, 200)
    assert (switch.environment_step[-1], switch.gradient_step[-1]) == (100, 400)
    kept = read_run(folder).summary["kept_transitions"]
    assert record.curve("switch/offline_transitions").value.tolist() == [kept]
    assert len(record.curve("switch/q_offline_probe")) > 5


def test_fine_tuning_works_from_nothing_at_all(tmp_path):
    run_finetune(settings(), tmp_path, Silent())
    record = read_run(tmp_path)
    assert record.status == "finished"
    assert record.curve("training/critic_loss").gradient_step[0] == 14
    assert len(record.curve("switch/q_offline_probe")) == 0


@pytest.mark.slow
def test_warmup_and_fine_tuning_work_for_any_gymnasium_environment(tmp_path):
    counts = {"demo_episodes": 0, "suboptimal_episodes": 0, "random_episodes": 8}
    run_collect(CollectConfig(**PENDULUM, **counts), tmp_path / "data", Silent())
    config = settings(**PENDULUM, offline_data_path=str(tmp_path / "data"))
    checkpoint = run_warmup(config, tmp_path / "warmup", Silent())
    start = {"checkpoint_path": str(checkpoint), "demo_path": str(checkpoint.with_name("filtered_demos.pkl"))}
    run_finetune(replace(config, **start), tmp_path / "finetune", Silent())
    assert np.isnan(read_run(tmp_path / "finetune").curve("evaluation/success_sampled").value).all()
    robot = settings(checkpoint_path=str(checkpoint))
    with pytest.raises(CheckpointError, match="was made with observation_size 3, but this run has observation_size 19"):
        run_finetune(robot, tmp_path / "robot", Silent())


def bad_checkpoints(folder: Path, other: Path) -> Iterator[tuple[Path, dict[str, Any], str]]:
    good, network = folder / "warmup.npz", "was made with hidden_sizes [16], but this run has hidden_sizes (16, 16)"
    yield good, {"hidden_sizes": [16, 16]}, network
    yield good, {"critic_ensemble_size": 3}, "critic_ensemble_size 2, but this run has critic_ensemble_size 3"
    yield folder / "checkpoint.npz", {}, "is a run's checkpoint: expected one written by offline warmup"
    yield other / "absent.npz", {}, "does not exist"
    yield other, {}, "does not exist: expected a checkpoint file"
    (other / "cut.npz").write_bytes(good.read_bytes()[:5000])
    yield other / "cut.npz", {}, "is damaged or not a checkpoint"
    (other / "empty.npz").touch()
    yield other / "empty.npz", {}, "is damaged or not a checkpoint"
    yield folder / "filtered_demos.pkl", {}, "is damaged or not a checkpoint"
    np.savez(other / "arrays.npz", weights=np.zeros(3))
    yield other / "arrays.npz", {}, "is not a checkpoint of wsrl_kit"
    np.save(other / "array.npy", np.zeros(3))
    yield other / "array.npy", {}, "is damaged or not a checkpoint"


def test_a_checkpoint_that_does_not_fit_is_one_clear_sentence(warmed_up, tmp_path):
    config, folder = warmed_up
    for number, (path, changes, sentence) in enumerate(bad_checkpoints(folder, tmp_path)):
        run = tmp_path / str(number)
        with pytest.raises(CheckpointError) as caught:
            run_finetune(replace(config, checkpoint_path=str(path), **changes), run, Silent())
        message = str(caught.value)
        assert sentence in message
        assert message.startswith(str(path))
        assert "\n" not in message
        assert (read_run(run).status, read_run(run).message) == ("failed", message)


@pytest.mark.parametrize(
    ("kind", "changes", "error", "sentence"),
    [
        ("warmup", {"offline_data_path": None}, ParameterError, "offline_data_path must name the offline data"),
        ("warmup", {"offline_data_path": "absent.pkl"}, DataError, "absent.pkl does not exist"),
        ("finetune", {"demo_path": "absent.pkl"}, DataError, "absent.pkl does not exist"),
        ("finetune", {"demo_path": "data", **PENDULUM}, DataError, "observations of size 19 and actions of size 6"),
        ("finetune", {"exp_name": "Pendulum-v9"}, WSRLKitError, "Pendulum-v9"),
    ],
)
def test_bad_data_or_parameters_are_one_sentence_and_the_run_says_so(sources, tmp_path, kind, changes, error, sentence):
    config = settings(offline_data_path=str(sources))
    changes = {name: str(sources) if value == "data" else value for name, value in changes.items()}
    with pytest.raises(error, match=sentence) as caught:
        (run_warmup if kind == "warmup" else run_finetune)(replace(config, **changes), tmp_path / "run", Silent())
    assert "\n" not in str(caught.value)
    if error is not ParameterError:
        record = read_run(tmp_path / "run")
        assert (record.status, record.message) == ("failed", str(caught.value))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["warmup", "finetune"])
def test_a_disk_that_fills_up_is_one_sentence_loses_nothing_and_the_run_resumes(sources, tmp_path, kind):
    job = run_warmup if kind == "warmup" else run_finetune
    config = settings(offline_data_path=str(sources), demo_path=str(sources))
    job(config, tmp_path / "whole", Silent())
    with pytest.raises(Stopped):
        job(config, tmp_path / "full", StopAt(60))
    folder = tmp_path / "full"
    checkpoint, metrics = (folder / "checkpoint.npz").read_bytes(), (folder / "metrics.csv").read_bytes()
    # Room for metrics and run.json, but not for a checkpoint.
    with files_limited_to(len(checkpoint) - 1000), pytest.raises(CheckpointError) as caught:
        job(config, folder, Silent())
    reason = "can't be written: File too large; an earlier file there is intact"
    assert str(caught.value) == f"{folder / 'checkpoint.npz'} {reason}"
    assert (read_run(folder).status, read_run(folder).message) == ("failed", str(caught.value))
    assert (folder / "checkpoint.npz").read_bytes() == checkpoint
    assert (folder / "metrics.csv").read_bytes().startswith(metrics)
    assert not list(folder.glob(".*partial"))
    job(config, folder, Silent())
    assert (folder / "metrics.csv").read_bytes() == (tmp_path / "whole" / "metrics.csv").read_bytes()
    assert same_checkpoint(folder / "checkpoint.npz", tmp_path / "whole" / "checkpoint.npz")


class FullAt(StopAt):
    """Progress at a step of which the disk takes no more."""

    def update(self, step: int, total: int, text: str) -> None:
        if step >= self._step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def test_on_a_disk_that_takes_nothing_any_more_the_first_error_is_told(sources, tmp_path):
    config = settings(demo_path=str(sources))
    with files_limited_to(1_000_000), pytest.raises(RunError, match=r"metrics\.csv can't be written: File too large"):
        run_finetune(config, tmp_path, FullAt(60))
    assert read_run(tmp_path).status == "running"
    run_finetune(config, tmp_path, Silent())
    assert read_run(tmp_path).status == "finished"


def test_a_fine_tuning_that_would_be_all_frozen_rollouts_is_refused(tmp_path):
    with pytest.raises(
        ParameterError, match="must be at most online_steps, else nothing is learned: found 101 and 100"
    ):
        run_finetune(settings(frozen_rollout_steps=101), tmp_path, Silent())
    assert not (tmp_path / "run.json").exists()
