"""Numbers of one run, computed by hand."""

import dataclasses
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from synthetic_runs import write_finetune
from wsrl_kit.analysis.config import Targets
from wsrl_kit.analysis.metrics import (
    QUANTITIES,
    RETURN,
    SUCCESS,
    area_under_curve,
    dispersion,
    drawdown,
    early_safety,
    final,
    measure_of,
    reduce_run,
    reduce_runs,
    restricted,
    steps_to_target,
    switch_dip,
)
from wsrl_kit.errors import ParameterError
from wsrl_kit.runs.run import Run, read_run

STEPS = np.array([0.0, 100.0, 200.0, 300.0, 400.0])


def test_steps_to_target_is_the_first_evaluation_at_the_target():
    assert steps_to_target(STEPS, np.array([0.0, 0.79, 0.8, 0.1, 0.9]), 0.8) == (200.0, True)
    assert steps_to_target(STEPS, np.array([0.9, 0.0, 0.0, 0.0, 0.0]), 0.8) == (0.0, True)


def test_steps_to_target_is_censored_at_the_budget():
    assert steps_to_target(STEPS, np.full(5, 0.7), 0.8) == (400.0, False)


def test_area_under_curve_is_the_mean_height():
    assert area_under_curve(STEPS, np.full(5, 0.3)) == pytest.approx(0.3)
    assert area_under_curve(STEPS, STEPS / 400.0) == pytest.approx(0.5)
    # Uneven steps: (0 + 1) / 2 * 100 + 1 * 300 over 400.
    assert area_under_curve(np.array([0.0, 100.0, 400.0]), np.array([0.0, 1.0, 1.0])) == pytest.approx(0.875)
    assert area_under_curve(np.array([0.0]), np.array([0.4])) == 0.4


def test_final_is_the_mean_of_the_last_evaluations_not_the_best():
    assert final(np.array([1.0, 0.3, 0.6, 0.6])) == pytest.approx(0.5)
    assert final(np.array([0.4])) == 0.4


def test_dip_and_recovery():
    dip = switch_dip(STEPS, np.array([0.6, 0.5, 0.2, 0.6, 0.9]))
    assert dip.depth == pytest.approx(0.4)
    assert (dip.recovery_steps, dip.recovered) == (300.0, True)


def test_no_dip_is_depth_zero_and_recovers_at_once():
    assert switch_dip(STEPS, np.array([0.0, 0.1, 0.2, 0.3, 0.4])) == (0.0, 0.0, True, 0.0)


def test_recovery_is_censored_at_the_budget():
    assert switch_dip(STEPS, np.array([0.6, 0.1, 0.2, 0.3, 0.5])) == (0.5, 400.0, False, 100.0)


def test_a_late_collapse_is_no_dip_of_the_switch():
    assert switch_dip(STEPS, np.array([0.6, 0.7, 0.8, 0.0, 0.0])).depth == 0.0
    assert switch_dip(STEPS, np.array([0.6, 0.7, 0.8, 0.0, 0.0]), window=300.0).depth == 0.6


def test_drawdown_is_the_mean_of_the_worst_drops():
    assert drawdown(np.array([0.0, 0.5, 1.0])) == 0.0
    assert drawdown(np.array([0.0, 1.0, 0.3, 0.9])) == pytest.approx(0.7)
    # Drops 0, 0.1, ..., 1.0: the worst half are those from the median 0.5 upwards.
    assert drawdown(1.0 - np.arange(11) / 10, alpha=0.5) == pytest.approx(0.75)


def test_dispersion_ignores_a_steady_trend():
    assert dispersion(STEPS / 400.0) == pytest.approx(0.0)
    assert dispersion(np.array([0.0, 1.0, 0.0, 1.0, 0.0])) == pytest.approx(2.0)
    assert np.isnan(dispersion(np.array([0.5])))


def test_early_safety_counts_the_first_steps_only(tmp_path):
    run = Run.open(tmp_path, kind="finetune", arm="a", seed=0, parameters={})
    for step, force, clips in ((100, 10.0, 2), (500, 30.0, 3), (600, 99.0, 50)):
        run.record("online", step, 0, {"training/peak_contact_force": force, "training/safety_box_clips": clips})
    assert early_safety(read_run(tmp_path)) == (30.0, 5.0)
    assert early_safety(read_run(tmp_path), steps=100) == (10.0, 2.0)


def test_a_run_is_reduced_to_every_quantity(tmp_path):
    write_finetune(tmp_path, "warmup_wsrl", seed=0)
    row = reduce_run(read_run(tmp_path))
    assert (row["arm"], row["seed"], row["status"], row["last_step"]) == ("warmup_wsrl", 0, "finished", 3000.0)
    # Its warmup is not there, so that nobody knows how long that took, and there was no human.
    missing = {name for name in QUANTITIES if not np.isfinite(row[name])}
    human = {"interventions", "early_intervention_rate", "late_intervention_rate"}
    assert missing == {"seconds_to_target"} | human | OF_RETURN


OF_RETURN = {"switch_return", "final_return", "final_return_deterministic"}


def write_returns(folder, returns, success=float("nan"), **parameters):
    """A finished run with an evaluation every 100 environment steps and 400 gradient steps."""
    run = Run.open(folder, kind="finetune", arm="a", seed=0, parameters=parameters)
    for index, value in enumerate(returns):
        values = {f"evaluation/return_{mode}": value + shift for mode, shift in (("sampled", 0), ("deterministic", 5))}
        run.record("online", 100 * index, 400 * index, values | {"evaluation/success_sampled": success})
    run.finish({})
    return read_run(folder)


def test_a_run_without_success_is_reduced_on_its_return(tmp_path):
    record = write_returns(tmp_path, [-600.0, -1000.0, -500.0, -300.0, -100.0])
    row = reduce_run(record, measure=measure_of([record], Targets(target_return=-300.0)))
    assert (row["steps_to_target"], row["reached_target"], row["gradient_steps_to_target"]) == (300, 1, 1_200)
    assert row["area_under_curve"] == pytest.approx((-800 - 750 - 400 - 200) / 4)
    assert (row["switch_return"], row["final_return"], row["final_return_deterministic"]) == (-600, -300, -295)
    assert (row["dip_depth"], row["recovery_steps"], row["recovered"]) == (400, 200, 1)
    assert (row["drawdown"], row["dispersion"]) == (400, 225)
    assert all(np.isnan(row[name]) for name in QUANTITIES if "success" in name)
    # Nobody said which return is enough.
    row = reduce_run(record)
    assert all(np.isnan(row[name]) for name in (*row, "reached_target") if name.endswith("_target"))
    assert row["area_under_curve"] == pytest.approx((-800 - 750 - 400 - 200) / 4)


def test_a_return_of_zero_at_the_switch_can_fall_unlike_no_success(tmp_path):
    fallen = write_returns(tmp_path / "return", [0.0, -2.0, -1.0])
    assert (reduce_run(fallen)["dip_depth"], reduce_run(fallen)["recovered"]) == (2, 0)
    assert np.isnan(reduce_run(write_returns(tmp_path / "success", [0.0, -2.0, -1.0], success=0.0))["dip_depth"])


def test_runs_are_measured_by_success_as_soon_as_one_reports_it(tmp_path):
    without, reporting = write_returns(tmp_path / "without", [5.0]), write_returns(tmp_path / "with", [5.0], 0.0)
    assert measure_of([without]) == RETURN
    assert measure_of([without, reporting]) == measure_of([]) == replace(SUCCESS, target=0.8)
    assert list(reduce_runs([without, reporting])["final_success"].isna()) == [True, False]
    with pytest.raises(ParameterError, match=r"target_return must be None for runs that report success .* found -3"):
        measure_of([without, reporting], Targets(target_return=-3.0))
    # Runs that have not been evaluated yet contradict nobody.
    assert measure_of([], Targets(target_return=-3.0)) == replace(RETURN, target=-3.0)


def test_a_robot_that_is_never_evaluated_is_measured_by_its_training_episodes(tmp_path):
    run = Run.open(tmp_path, kind="finetune", arm="a", seed=0, parameters={"evaluation_episodes": 0})
    run.record("online", 10, 0, {"training/episode_success": float("nan"), "training/episode_return": 3.0})
    assert measure_of([read_run(tmp_path)]) == RETURN
    run.record("online", 20, 0, {"training/episode_success": 1.0, "training/episode_return": 3.0})
    assert measure_of([read_run(tmp_path)]).name == "success"


def timed(folder, seconds, success, checkpoint_path=None):
    """The record of a run whose evaluations, 100 environment steps apart, took as many seconds as it says."""
    run = Run.open(folder, kind="finetune", arm="a", seed=0, parameters={"checkpoint_path": checkpoint_path})
    for index, value in enumerate(success):
        values = {"evaluation/success_sampled": value, "evaluation/return_sampled": value}
        run.record("online", 100 * index, 1_000 + 400 * index, values)
    run.finish({})
    return dataclasses.replace(read_run(folder), seconds=seconds)


def test_the_target_has_a_price_in_gradient_steps_and_seconds_warmup_included(tmp_path):
    record = dataclasses.replace(timed(tmp_path, 80.0, [0.0, 0.5, 0.9, 0.9, 0.9], "w.npz"), warmup_seconds=20.0)
    row = reduce_run(record)
    assert (row["steps_to_target"], row["gradient_steps_to_target"], row["seconds_to_target"]) == (200, 1_800, 60)
    assert (row["gradient_steps"], row["seconds"]) == (2_600, 100)
    # Cut at 100 steps, the run has not got there, and had spent this much.
    row = reduce_run(record, budget=100.0)
    assert (row["reached_target"], row["gradient_steps_to_target"], row["seconds_to_target"]) == (0, 1_400, 40)
    assert np.isnan(reduce_run(dataclasses.replace(record, warmup_seconds=0.0))["seconds_to_target"])


def test_gradient_steps_and_seconds_are_restricted_to_what_every_finished_run_spent(tmp_path):
    fast = timed(tmp_path / "fast", 10.0, [0.0, 0.0, 0.9])
    slow = timed(tmp_path / "slow", 90.0, [0.0, 0.0, 0.9])
    dead = dataclasses.replace(timed(tmp_path / "dead", 1.0, [0.0]), status="failed")
    runs = pd.DataFrame([reduce_run(record) for record in (fast, slow, dead)])
    assert list(runs["seconds_to_target"]) == [10, 90, 0]
    assert list(restricted(runs)["seconds_to_target"]) == [10, 10, 0]
    assert list(restricted(runs)["steps_to_target"]) == [200, 200, 0]


def test_the_shared_budget_is_the_shortest_finished_run(tmp_path):
    runs = [timed(tmp_path / str(length), 1.0, [0.0] * length) for length in (2, 3, 5)]
    runs[0] = dataclasses.replace(runs[0], status="running")
    assert list(reduce_runs(runs)["steps_to_target"]) == [100, 200, 200]
    assert list(reduce_runs(runs[:1])["steps_to_target"]) == [100]


def test_interventions_are_counted_by_the_windows_between_records(tmp_path):
    run = Run.open(tmp_path, kind="finetune", arm="a", seed=0, parameters={"human": "scripted"})
    # The human was first needed in the third window of eight, each of ten steps.
    for window, rate in enumerate([None, None, 0.5, 1.0, 0.2, 0.0, 0.3, 0.1], start=1):
        human = {} if rate is None else {"training/intervention_rate": rate}
        run.record("online", 10 * window, 0, {"training/peak_contact_force": 0.0} | human)
    row = reduce_run(read_run(tmp_path))
    assert row["interventions"] == pytest.approx(5 + 10 + 2 + 0 + 3 + 1)
    assert row["early_intervention_rate"] == 0.0
    assert row["late_intervention_rate"] == pytest.approx(0.2)
    row = reduce_run(read_run(tmp_path), budget=40.0)
    assert (row["interventions"], row["late_intervention_rate"]) == (15.0, 1.0)


@pytest.mark.parametrize(("human", "expected"), [("scripted", 0.0), ("none", np.nan)])
def test_a_human_who_was_never_needed_is_told_from_none(tmp_path, human, expected):
    run = Run.open(tmp_path, kind="finetune", arm="a", seed=0, parameters={"human": human})
    for window in range(1, 5):
        run.record("online", 10 * window, 0, {"training/peak_contact_force": 0.0})
    row = reduce_run(read_run(tmp_path))
    np.testing.assert_equal([row["interventions"], row["late_intervention_rate"]], [expected] * 2)


def test_a_budget_cuts_what_comes_after_it(tmp_path):
    write_finetune(tmp_path, "rlpd_all", seed=0)
    record = read_run(tmp_path)
    assert reduce_run(record, budget=200.0)["steps_to_target"] == 200.0
    success = record.curve("evaluation/success_sampled").value
    assert reduce_run(record, budget=200.0)["final_success"] == pytest.approx(success[:2].mean())


def test_what_was_not_recorded_is_nan(tmp_path):
    run = Run.open(tmp_path, kind="finetune", arm="a", seed=0, parameters={})
    run.record("online", 0, 0, {"evaluation/success_sampled": float("nan"), "evaluation/return_sampled": -3.0})
    row = reduce_run(read_run(tmp_path))
    of_one = {"switch_return": -3, "final_return": -3, "area_under_curve": -3} | dict.fromkeys(
        ("dip_depth", "recovery_steps", "drawdown"), 0
    )
    assert {name: row[name] for name in QUANTITIES if not np.isnan(row[name])} == of_one
