"""What a finished warmup advises: regimes by policy and data, and how advice enters a run's parameters."""

from dataclasses import replace
from pathlib import Path

import pytest

from data_samples import dataset, trajectory
from wsrl_kit.config.advice import Diagnosis, advise, diagnose, followed, of_run
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.data.weights import weigh
from wsrl_kit.errors import RunError
from wsrl_kit.runs.run import Run, RunRecord, read_run


def warmup_run(folder: Path, success: list[float], returns: list[float], holdout: list[float]) -> RunRecord:
    run = Run.open(folder, kind="warmup", arm="", seed=0, parameters={"online_steps": 500})
    for step, error in enumerate(holdout):
        run.record("warmup", 0, step, {"training/holdout_td_error": error})
    for step, value in enumerate(success):
        run.record("warmup", 0, step, {"evaluation/success_sampled": value})
    for step, value in enumerate(returns):
        run.record("warmup", 0, step, {"evaluation/return_sampled": value})
    return read_run(folder)


def test_policy_and_weighted_data_are_measured_alike(tmp_path: Path) -> None:
    episodes = [trajectory(4, source="demos"), trajectory(8, source="other", success=False)]
    data = weigh(dataset(*episodes), {"demos": 2.0, "other": 1.0}, success_weight_bonus=1.5, quality_weighting=False)
    found = diagnose(data, warmup_run(tmp_path / "both", [0.2, 0.6], [0.3, 0.7], [0.5, 0.4, 0.6]))
    # Weights 3 to 1.
    assert found == Diagnosis("success", 0.6, 0.2, pytest.approx(0.75), pytest.approx(5.0), 0.1, pytest.approx(1.5))
    unknown = dataset(trajectory(4, success=None, rewards=[0, 0, 0, 7]), trajectory(4, rewards=[0, 0, 0, -3]))
    found = diagnose(unknown, warmup_run(tmp_path / "return", [0.2, 0.6], [0.3, 0.7], []))
    assert found == Diagnosis("return", pytest.approx(0.7), pytest.approx(0.3), 2.0, 4.0, 1.0, None)
    nothing = diagnose(data, warmup_run(tmp_path / "nothing", [], [], []))
    assert (nothing.policy, nothing.policy_before) == (None, None)


SUCCESS = Diagnosis("success", 0.5, 0.5, 0.5, 20.0, 0.1, 1.0)


@pytest.mark.parametrize(
    ("policy", "data", "regime"),
    [(0.5, 0.45, "equal"), (0.9, 0.5, "policy"), (0.3, 0.5, "data"), (0.1, 0.15, "poor"), (None, 0.5, "unknown")],
)
def test_whichever_is_clearly_better_is_the_regime(policy: float | None, data: float, regime: str) -> None:
    assert advise(replace(SUCCESS, policy=policy, data=data)).regime == regime


def test_returns_alone_are_never_called_poor() -> None:
    assert advise(Diagnosis("return", -900.0, None, -905.0, 20.0, 100.0, None)).regime == "equal"


def test_the_length_of_warmup_is_judged_by_what_was_still_changing() -> None:
    reasons = "\n".join(advise(replace(SUCCESS, policy_before=0.3, holdout_growth=1.5)).reasons)
    assert "warm up longer" in reasons
    assert "1.5 times its lowest" in reasons


def test_advice_takes_the_place_of_defaults_and_of_nothing_that_was_given() -> None:
    better = replace(SUCCESS, policy=0.9)
    config = WSRLConfig()
    # Ten episodes of twenty steps, however long the run: one that grows keeps its parameters.
    assert followed(config, better) == replace(config, frozen_rollout_steps=200)
    assert followed(replace(config, online_steps=77_000), better).frozen_rollout_steps == 200
    given = replace(config, frozen_rollout_steps=77)
    assert followed(given, better) == given


def test_frozen_rollouts_are_advised_only_where_no_offline_data_go_online() -> None:
    better, config = replace(SUCCESS, policy=0.9), WSRLConfig(demo_path="kept.pkl")
    assert followed(config, better) == config
    nothing_kept = replace(config, demo_path=None)
    assert followed(nothing_kept, better) == replace(nothing_kept, frozen_rollout_steps=200)
    reasons = "\n".join(advise(better).reasons)
    assert "cloning their best part online keeps it" in reasons
    assert "--frozen_rollout_steps=200" in reasons


def test_advice_is_read_from_a_finished_warmup_and_refused_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="must be the folder of a finished warmup, found a running warmup"):
        of_run(warmup_run(tmp_path, [], [], []))
    run = Run.open(tmp_path, kind="warmup", arm="", seed=0, parameters={"online_steps": 500}, resume=False)
    run.finish({"diagnosis": vars(replace(SUCCESS, policy=0.1, data=0.1))})
    assert "Advised for fine-tuning: --behavior_cloning_online_weight=0.0" in str(of_run(read_run(tmp_path)))
    damaged = Run.open(tmp_path / "damaged", kind="warmup", arm="", seed=0, parameters={"online_steps": 500})
    damaged.finish({"diagnosis": {"policy": "great"}})
    with pytest.raises(RunError, match=r"run\.json"):
        of_run(read_run(tmp_path / "damaged"))
