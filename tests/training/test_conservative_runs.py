"""CQL and Cal-QL in whole runs: returns of online episodes, the fade at the switch, divergence, unfit data."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from training_samples import (
    PENDULUM,
    last,
    measured,
    offline_data,
    same,
    settings,
    snapshots,
    start_finetune,
    start_warmup,
    stored,
    taken,
)
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.data.dataset import Dataset
from wsrl_kit.data.formats.hil_serl import write_hil_serl
from wsrl_kit.envs.make import make
from wsrl_kit.errors import DataError, DivergenceError
from wsrl_kit.runs import checkpoint
from wsrl_kit.runs.progress import Silent
from wsrl_kit.runs.run import read_run
from wsrl_kit.training import finetune, warmup
from wsrl_kit.training import start as agents
from wsrl_kit.training.evaluation import Evaluator
from wsrl_kit.training.jobs import load_offline_data, run_finetune, run_warmup

CALQL = {
    "conservative_loss": "calql",
    "conservative_weight": 0.01,
    "conservative_online_weight": 0.01,
    "cql_actions": 2,
}


def fading(steps: int) -> dict[str, Any]:
    return {"conservative_online_weight": 0.0, "conservative_fade_steps": steps}


# Episodes of 15 steps, far above the hole, in a ring of 40.
SHORT = {"environment_options": {"max_episode_steps": 15}, "replay_capacity": 40, "checkpoint_interval": 20}


@pytest.fixture(scope="module")
def faded(sources) -> tuple[WSRLConfig, Dataset, list[Any]]:
    """A run whose term is gone in its last 20 steps, with its data and events."""
    config = settings(**CALQL | SHORT | fading(80), reward_scale=0.1, reward_bias=0.5)
    dataset = offline_data(config, sources)
    return config, dataset, taken(start_finetune(config, dataset))


def test_online_transitions_get_their_return_when_the_episode_ends_while_there_is_a_term(faded) -> None:
    # Of 100 steps the last ten are of an episode that has not ended, and the 15 before of one that ended too late.
    config, _, events = faded
    rows = stored(last(events)["replay"]["online"], 19, 6)
    rewards, returns = rows.reward[::-1], rows.monte_carlo_return[::-1]
    assert (returns[:25] == -np.inf).all()
    expected = np.zeros(40)
    for age in range(25, 40):
        last_of_episode = age == 25
        expected[age] = rewards[age] + (0.0 if last_of_episode else config.discount * expected[age - 1])
    np.testing.assert_allclose(returns[25:], expected[25:], rtol=1e-5)
    np.testing.assert_allclose(rewards, 0.5)


def test_the_best_of_several_next_actions_stays_online_only_where_it_was_in_warmup(sources) -> None:
    few = SHORT | {"online_steps": 20, "evaluation_episodes": 0}

    def agents_of(**changes: Any) -> list[Any]:
        both = [settings(**few | changes, max_target_backup_online=keeps) for keeps in (False, True)]
        return [last(taken(start_finetune(config, offline_data(config, sources))))["agent"] for config in both]

    ended, kept = agents_of(**CALQL | fading(0))
    assert not same(ended, kept)
    for without in ({}, CALQL | fading(0) | {"cql_max_target_backup": False}):
        assert same(*agents_of(**without))


def test_the_term_fades_out_and_is_then_gone(faded) -> None:
    config, dataset, events = faded
    gaps = measured(events, "training/conservative_gap")
    assert max(gaps) == 77
    assert max(measured(events, "training/critic_loss")) == 98
    # A run that is resumed after the fade ends with the same bits.
    (middle,) = [tree for tree in snapshots(events) if 80 < tree["environment_step"] < 100]
    environment = make(config.exp_name, config.environment_options)
    static, _ = agents.create(config, environment, dataset)
    resumed = taken(finetune.finetune(config, static, middle, environment, Evaluator(config), None))
    assert same(last(resumed), last(events))


def test_without_a_weight_online_the_switch_ends_the_term_at_once(sources) -> None:
    config = settings(**CALQL | SHORT | fading(0))
    events = taken(start_finetune(config, offline_data(config, sources)))
    assert not measured(events, "training/conservative_gap")
    plain = replace(config, conservative_loss="none")
    others = taken(start_finetune(plain, offline_data(plain, sources)))
    assert same(events[-1].tree, others[-1].tree)


@pytest.mark.slow
def test_the_heavier_calqls_term_is_the_smaller_the_gap_that_a_warmup_ends_with(sources) -> None:
    def last_gaps(weight: float) -> np.ndarray:
        config = settings(**CALQL | {"conservative_weight": weight, "critic_learning_rate": 1e-3})
        events = list(start_warmup(config, offline_data(config, sources)))
        return np.array(list(measured(events, "training/conservative_gap").values())[-5:])

    # From one record to the next a gap is mostly noise, which both warmups share.
    light, heavy = last_gaps(0.01), last_gaps(10.0)
    assert np.isfinite([light, heavy]).all()
    assert heavy.mean() < light.mean() - 0.05


@pytest.fixture(scope="module")
def diverging(sources) -> Any:
    # The gap's gradient outweighs the TD error's a million times, and steps are large.
    huge = {"conservative_loss": "cql", "conservative_weight": 1e6, "critic_learning_rate": 0.3, "discount": 0.5}
    bare = {"layer_norm": False, "activation": "relu"}
    return settings(**CALQL | huge | bare, offline_data_path=str(sources), checkpoint_interval=1)


@pytest.mark.slow
def test_a_diverging_warmup_stops_with_a_diagnosis_and_its_last_good_checkpoint(diverging, tmp_path) -> None:
    config = replace(diverging, log_interval=1)
    sentence = (
        r"learning diverged: the critics' mean value is -?[\d.e+]+ at gradient step \d+, where no return is beyond "
        r"2 \(rewards up to 1, discount 0.5\); lower conservative_weight \(1e\+06\).*; the last good checkpoint: "
    )
    with pytest.raises(DivergenceError, match=sentence):
        run_warmup(config, tmp_path, Silent())
    record = read_run(tmp_path)
    assert record.status == "failed"
    assert record.message.startswith("learning diverged")
    assert not (tmp_path / "warmup.npz").exists()
    # The checkpoint is from before: its critics are in range, and a resumed run starts there.
    environment = make(config.exp_name, config.environment_options)
    dataset = load_offline_data(config, config.offline_data_path)
    _, agent = agents.create(config, environment, dataset)
    tree = checkpoint.load(tmp_path / "checkpoint.npz", warmup.initial_tree(agent))
    assert 0 < tree["step"] < 200


def test_values_that_are_not_finite_stop_a_fine_tuning(tmp_path) -> None:
    # Rewards whose squares are no float32 any more.
    config = settings(**PENDULUM, reward_scale=1e30, checkpoint_interval=1000)
    with pytest.raises(DivergenceError, match=r"\w+ is not finite at gradient step \d+; .*: none was made yet"):
        run_finetune(config, tmp_path, Silent())
    assert read_run(tmp_path).status == "failed"


@pytest.mark.slow
def test_calql_needs_whole_episodes(sources, tmp_path) -> None:
    config = settings(**CALQL, offline_data_path=str(sources))
    dataset = offline_data(config, sources)
    (longest,) = [np.argmax(np.where(dataset.terminated[dataset.episode_ends - 1], 0, dataset.episode_lengths))]
    endless = dataset.select_episodes(np.array([longest]))
    write_hil_serl(tmp_path / "endless.pkl", [replace(endless.trajectories()[0], weight=None)])
    one_file = replace(config, offline_data_path=str(tmp_path / "endless.pkl"))
    with pytest.raises(DataError, match=r"but in .*endless.pkl found \d+ transitions in a row without the end of an"):
        run_warmup(one_file, tmp_path / "endless", Silent())
    checkpoint_path = run_warmup(replace(config, conservative_loss="none"), tmp_path / "warmup", Silent())
    kept = str(checkpoint_path.parent / "filtered_demos.pkl")
    with pytest.raises(DataError, match="but in .*filtered_demos.pkl found data that retention has cut"):
        run_finetune(replace(config, demo_path=kept), tmp_path / "finetune", Silent())
    # Where the term has no weight online, the kept data will do.
    run_finetune(replace(config, demo_path=kept, **fading(0)), tmp_path / "faded", Silent())
