"""Variants of an ablation: arms that differ in any parameter, sharing what warmup they can."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs_here import jobs_here
from training_samples import same_checkpoint, settings
from wsrl_kit.analysis.report import finetuning_runs, report
from wsrl_kit.config.advice import followed, read_diagnosis
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.data.sources import load_sources
from wsrl_kit.errors import ParameterError
from wsrl_kit.experiments.ablation import plan, run_ablation
from wsrl_kit.experiments.config import AblationConfig
from wsrl_kit.parameters import names_of
from wsrl_kit.runs.progress import Silent
from wsrl_kit.runs.run import RunRecord, read_run
from wsrl_kit.training.jobs import run_retention, run_warmup

VARIANTS = {
    "nothing": {"retention_ratio": 0.0},
    "random": {"retention_ratio": 0.5, "retention_priority": "random"},
    "no_cloning": {"behavior_cloning_weight": 0.0},
    "advised": {"follow_advice": True},
}


def compared(**changes: Any) -> AblationConfig:
    return AblationConfig(
        **{"arms": list(VARIANTS), "variants": VARIANTS, "seeds": [0], "control": "nothing"} | changes
    )


def planned(variants: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The jobs of the variants by arm."""
    config = settings(offline_data_path={"demos": ["demos.pkl"]}, retention_ratio=0.3)
    return {job.arm: job for job in plan(config, compared(variants=variants, **changes), Path("root"))}


@pytest.fixture(scope="module")
def grown(sources, tmp_path_factory) -> tuple[WSRLConfig, Path]:
    """An ablation that began with one variant, and was run again with more before and after it."""
    few = {"warmup_steps": 60, "warmup_evaluation_interval": 30, "online_steps": 50}
    config = settings(offline_data_path=str(sources), retention_ratio=0.3, **few)
    root = tmp_path_factory.mktemp("variants")
    with jobs_here():
        run_ablation(config, compared(arms=["nothing"]), root, Silent())
        before = (root / "nothing" / "seed_0" / "run.json").stat().st_mtime_ns
        run_ablation(config, compared(arms=["random", "nothing", "no_cloning", "advised"]), root, Silent())
    assert (root / "nothing" / "seed_0" / "run.json").stat().st_mtime_ns == before
    return config, root


def run_of(root: Path, arm: str) -> RunRecord:
    return read_run(root / arm / "seed_0")


def test_an_ablation_grows_and_variants_share_the_warmup_where_it_would_be_the_same(grown):
    _, root = grown
    assert read_run(root).status == "finished"
    assert sorted(path.name for path in (root / "warmup").iterdir()) == ["no_cloning", "seed_0"]
    paths = {arm: run_of(root, arm).parameters["checkpoint_path"] for arm in VARIANTS}
    shared, own = (str(root / "warmup" / folder / "warmup.npz") for folder in ("seed_0", "no_cloning/seed_0"))
    assert paths == {"nothing": shared, "random": shared, "no_cloning": own, "advised": shared}
    assert not same_checkpoint(Path(shared), Path(own))


def test_each_variant_keeps_what_its_retention_says_of_the_shared_warmup(grown, sources):
    _, root = grown
    everything = len(load_sources(str(sources)))
    held = {arm: run_of(root, arm).curve("switch/offline_transitions").value.tolist() for arm in VARIANTS}
    best = [int(0.3 * everything)]
    assert held == {"nothing": [0], "random": [everything // 2], "no_cloning": best, "advised": best}


def test_a_variant_follows_the_advice_of_its_own_warmup_and_its_run_says_what_that_was(grown):
    _, root = grown
    diagnosis = read_diagnosis(read_run(root / "warmup" / "seed_0").summary["diagnosis"])
    advised = run_of(root, "advised").parameters
    config = WSRLConfig(**{name: advised[name] for name in advised} | {"behavior_cloning_online_weight": None})
    assert diagnosis.policy is not None
    assert advised == asdict(followed(config, diagnosis))


def test_the_report_names_variants_in_their_order_and_joins_each_to_its_own_warmup(grown):
    _, root = grown
    result = report(root, control="nothing")
    assert list(result.per_seed["arm"]) == ["random", "nothing", "no_cloning", "advised"]
    moved = root.rename(root.with_name("moved"))
    try:
        for record in finetuning_runs(moved):
            warmup = read_run(moved / "warmup" / ("no_cloning" if record.arm == "no_cloning" else "") / "seed_0")
            joined = record.curve("training/actor_loss", "warmup").value
            np.testing.assert_array_equal(joined, warmup.curve("training/actor_loss", "warmup").value)
    finally:
        moved.rename(root)


def test_retention_by_itself_gives_the_bytes_that_it_gave_after_warmup(grown, tmp_path):
    config, root = grown
    shared = root / "warmup" / "seed_0"
    for changes, file in (
        ({}, "filtered_demos.pkl"),
        (VARIANTS["random"], "filtered_demos_0.5_random_transition.pkl"),
    ):
        kept = run_retention(replace(config, **changes), shared / "warmup.npz", tmp_path / file)
        assert kept == len(load_sources(str(tmp_path / file)))
        assert (tmp_path / file).read_bytes() == (shared / file).read_bytes()
    assert run_retention(replace(config, retention_ratio=0.0), shared / "warmup.npz", tmp_path / file) == 0
    assert not (tmp_path / file).exists()


def test_what_only_fine_tuning_reads_leaves_the_warmup_as_it_is_to_the_bit(grown, tmp_path):
    config, root = grown
    changes = {
        "demo_path": "nowhere",
        "frozen_rollout_steps": 7,
        "offline_ratio_schedule": "linear",
        "initial_offline_ratio": 0.7,
        "offline_decay_rate": 0.5,
        "offline_decay_steps": 3,
        "min_offline_ratio": 0.1,
        "random_steps": 9,
        "reward_classifier": "classifier.npz",
        "confirm_success": True,
        "behavior_cloning_online_weight": 0.3,
        "behavior_cloning_fade_steps": 5,
        "replay_capacity": 50,
        "use_prioritized_replay": False,
        "priority_alpha": 0.1,
        "initial_priority_beta": 0.9,
        "final_priority_beta": 0.9,
        "conservative_online_weight": 0.5,
        "conservative_fade_steps": 5,
        "max_target_backup_online": True,
        "human": "scripted",
        "human_options": {"stuck_steps": 5},
        "intervention_capacity": 30,
        "evaluation_interval": 17,
        "retention_ratio": 0.9,
        "retention_priority": "random",
        "retention_unit": "trajectory",
        "importance_normalisation": "max",
        "learner": "thread",
        "learner_lag": 3,
        "follow_advice": True,
    }
    assert changes.keys() == {*names_of(WSRLConfig, stage="finetuning"), *names_of(WSRLConfig, stage="retention")}
    assert all(getattr(config, name) != value for name, value in changes.items())
    run_warmup(replace(config, **changes), tmp_path, Silent())
    shared = root / "warmup" / "seed_0"
    assert same_checkpoint(tmp_path / "warmup.npz", shared / "warmup.npz")
    assert (tmp_path / "metrics.csv").read_bytes() == (shared / "metrics.csv").read_bytes()


def test_arms_with_and_without_a_human_are_variants_that_share_a_warmup():
    variants = {"human": {"human": "scripted"}, "no_human": {"human": "none"}}
    jobs = planned(variants, arms=list(variants), control="no_human")
    assert {name: jobs[name].config.human for name in variants} == {"human": "scripted", "no_human": "none"}
    assert jobs["human"].checkpoint == jobs["no_human"].checkpoint


def test_a_warmup_keeps_its_name_when_arms_are_added():
    variants = {"a": {"discount": 0.9}, "b": {"discount": 0.9, "priority_alpha": 0.2}, "c": {"priority_alpha": 0.2}}
    few, all_of_them = planned(variants, arms=["b"], control="b"), planned(variants, arms=list(variants), control="b")
    assert few["b"].config == all_of_them["b"].config
    assert few["b"].checkpoint == Path("root/warmup/a/seed_0/warmup.npz")
    assert list(few) == ["warmup_a", "b"]
    assert list(all_of_them) == ["warmup", "warmup_a", "a", "b", "c"]


def test_a_variant_is_like_the_base_arm_or_the_one_it_names():
    variants = {"own": {"priority_alpha": 0.1}, "rlpd": {"like": "rlpd_all", "batch_size": 32}}
    jobs = planned(variants, arms=list(variants), control="own")
    assert jobs["own"].config.use_prioritized_replay
    assert jobs["own"].config.demo_path == "root/warmup/seed_0/filtered_demos.pkl"
    assert not jobs["rlpd"].config.use_prioritized_replay
    assert (jobs["rlpd"].config.offline_ratio_schedule, jobs["rlpd"].config.batch_size) == ("constant", 32)
    assert (jobs["rlpd"].checkpoint, jobs["rlpd"].config.demo_path) == (None, {"demos": ["demos.pkl"]})
    jobs = planned({"own": {}}, arms=["own"], control="own", base_arm="warmup_no_data")
    assert (jobs["own"].config.demo_path, jobs["own"].config.frozen_rollout_steps) == (None, 0)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"arms": ["nothin"]}, "there is no arm or variant named nothin: did you mean nothing?"),
        ({"control": "rlpd_al"}, "there is no arm or variant named rlpd_al: did you mean rlpd_all?"),
        ({"variants": {"a": {"like": "scrtch"}}}, "there is no arm for the variant a to be like named scrtch: did you"),
        (
            {"variants": {"a": {"priority_alfa": 1}}},
            "no parameter named priority_alfa: did you mean priority_alpha?",
        ),
        ({"variants": {"a": {"batch_size": 0}}}, "variant a: batch_size must be an int >= 1, found 0"),
        ({"variants": {"a": {"seed": 1}}}, "variant a: seed must be the same for all arms, found one of its own"),
        ({"variants": {"warmup": {}}}, "a variant's name must be letters, .* found 'warmup'"),
        ({"variants": {"../a": {}}}, "a variant's name must be letters, .* found '../a'"),
    ],
)
def test_a_bad_variant_is_one_sentence(changes, sentence):
    with pytest.raises(ParameterError, match=sentence.replace("?", r"\?")):
        compared(**changes)


def test_parameters_that_do_not_fit_the_common_ones_are_said_with_the_name_of_the_variant():
    with pytest.raises(ParameterError, match="variant a: critic_subset_size must be at most critic_ensemble_size"):
        planned({"a": {"critic_subset_size": 5}}, arms=["a"], control="a")
