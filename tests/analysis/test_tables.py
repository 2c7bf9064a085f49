"""An ablation's tables: who is in them, in which order, with which numbers, and what is said under them."""

import csv
import io
import re

import numpy as np
import pandas as pd
import pytest

from synthetic_runs import ARMS, write_ablation, write_finetune, write_warmup
from wsrl_kit.analysis.config import Targets
from wsrl_kit.analysis.metrics import QUANTITIES, finished, measure_of, reduce_run, reduce_runs
from wsrl_kit.analysis.report import finetuning_runs, parameter_notes, report
from wsrl_kit.analysis.statistics import Interval, bootstrap_interval
from wsrl_kit.analysis.tables import (
    Estimate,
    Table,
    cell_text,
    difference_table,
    facts_table,
    make_table,
    per_seed_csv,
    plain_table,
    run_table,
    summary_table,
)
from wsrl_kit.errors import RunError
from wsrl_kit.runs.run import Run, read_run


@pytest.fixture(scope="module")
def ablation(tmp_path_factory):
    return write_ablation(tmp_path_factory.mktemp("ablation"), seeds=5)


@pytest.fixture(scope="module")
def made(ablation):
    return report(ablation)


def tables(root) -> tuple[pd.DataFrame, Table, Table]:
    """What `report` reduces the runs to, and its tables, without files and figures."""
    records = finetuning_runs(root)
    measure = measure_of(records)
    runs = reduce_runs(records, measure)
    return runs, summary_table(runs, measure, parameter_notes(records)), difference_table(runs, "rlpd_all", measure)


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_arms_come_in_their_order_under_their_names(made):
    assert list(made.summary.frame["arm"]) == [
        "From scratch",
        "RLPD, demos",
        "RLPD, all data",
        "Warmup + decaying ratio (kit)",
        "Warmup + frozen rollouts (WSRL)",
    ]
    assert set(made.summary.frame["n"]) == {5}


def test_numbers_are_the_iqm_over_runs(ablation, made):
    values = made.per_seed.loc[made.per_seed["arm"] == "rlpd_all", "final_success"].to_numpy()
    expected = bootstrap_interval(values)
    written = read_csv((ablation / "summary.csv").read_text())[2]
    assert float(written["final_success"]) == expected.point
    assert float(written["final_success_low"]) == expected.low
    assert written["final_success_n"] == "5"


def test_steps_are_a_restricted_mean_with_the_count_that_reached(ablation, made):
    steps = made.per_seed.loc[made.per_seed["arm"] == "scratch", "steps_to_target"]
    written = read_csv((ablation / "summary.csv").read_text())[0]
    assert float(written["steps_to_target"]) == np.mean(steps)
    assert written["reached_target"] == "0 of 5"


def test_per_seed_csv_has_every_run_unrounded(ablation, made):
    written = read_csv((ablation / "per_seed.csv").read_text())
    assert [(row["arm"], row["seed"]) for row in written] == [(arm, str(seed)) for arm in ARMS for seed in range(5)]
    record = read_run(ablation / "rlpd_all" / "seed_3")
    row = next(row for row in written if (row["arm"], row["seed"]) == ("rlpd_all", "3"))
    assert float(row["area_under_curve"]) == reduce_run(record)["area_under_curve"]


def test_differences_are_paired_and_know_what_better_means(made):
    rows = made.differences.frame.set_index(["arm", "quantity"])
    steps = rows.loc["Warmup + decaying ratio (kit)", "Steps to 80%"]
    assert steps["pairs"] == 5
    assert steps["difference"] < 0
    assert steps["probability_better"] == 1.0
    success = rows.loc["From scratch", "Final success"]
    assert success["difference"] < 0
    assert success["probability_better"] == 0.0


def test_everything_is_written_beside_the_runs(ablation, made):
    for name in ("summary.csv", "summary.md", "differences.csv", "per_seed.csv"):
        assert (ablation / name).read_text()
    assert {path.stem for path in (ablation / "figures").iterdir()} == set(made.figures)
    assert not list(ablation.glob("*.tmp"))


def test_steps_of_runs_that_never_got_there_are_bounds(made):
    steps = dict(made.summary.shown.set_index("Arm")["Steps to 80%"])
    assert steps["From scratch"] == "> 3000"
    assert not any(cell.startswith(">") for arm, cell in steps.items() if arm != "From scratch")
    text = made.summary.to_text()
    assert ">: the arm has such runs, its mean is larger." in " ".join(text.split())
    differences = made.differences.shown.set_index(["Arm", "Quantity"])["Arm minus control"]
    assert differences["From scratch", "Steps to 80%"].startswith("> ")
    assert differences["RLPD, demos", "Steps to 80%"][0].isdigit()


def test_a_difference_to_a_control_that_never_got_there_is_an_upper_bound(ablation):
    records = finetuning_runs(ablation)
    table = difference_table(reduce_runs(records), "scratch", measure_of(records)).shown
    assert set(table.loc[table["Quantity"] == "Steps to 80%", "Arm minus control"].str[:2]) == {"< "}


def test_counts_are_whole_numbers(made):
    for heading in ("Early box clips", "Steps to 80%"):
        assert not any("." in cell for cell in made.summary.shown[heading])
    differences = made.differences.shown
    clips = differences.loc[differences["Quantity"] == "Early box clips", "Arm minus control"]
    assert len(clips) and not any("." in cell for cell in clips)
    assert cell_text(Estimate(Interval(-0.3, -2.4, 0.2, 5), 0)) == "0 [-2, 0]"


def test_what_had_no_success_has_nothing_to_recover(made):
    cells = made.summary.shown.set_index("Arm")[["Dip after switch", "Steps to recover"]]
    assert list(cells.loc["From scratch"]) == ["–", "–"]
    assert "–" not in list(cells.loc["Warmup + frozen rollouts (WSRL)"])
    assert "Dip and steps to recover: over the runs with success at the switch." in made.summary.notes
    assert not any("not recorded by every run" in note for note in made.summary.notes)


def test_one_run_is_told_in_words(tmp_path):
    run = Run.open(tmp_path, kind="finetune", arm="", seed=0, parameters={})
    for step in (0, 200, 400):
        run.record("online", step, step, {"evaluation/success_sampled": 0.0, "training/peak_contact_force": 9.0})
    run.finish({})
    table = run_table(read_run(tmp_path))
    cells = dict(table.shown.to_numpy().tolist())
    assert table.title == "Result: finished, last evaluated at step 400"
    assert cells["Steps to 80%"] == "> 400"
    assert cells["Early peak force (N)"] == "9.0"
    # Nothing ever succeeded, nothing was recorded of these.
    assert not {"Steps to recover", "Dip after switch", "Final return", "Early box clips"} & set(cells)
    assert "_" not in table.to_text() and "nan" not in table.to_text()


def test_facts_are_told_in_words():
    facts = {"stopped_early": False, "gradient_steps": 3000, "recall": 0.98765432, "precision": float("nan")}
    table = facts_table("Result", facts | {"arms": ["a", "b"]})
    assert table.shown.to_numpy().tolist() == [
        ["Stopped early", "no"],
        ["Gradient steps", "3000"],
        ["Recall", "0.9877"],
        ["Precision", "–"],
        ["Arms", "a, b"],
    ]


def test_numbers_stand_to_the_right_and_words_to_the_left():
    rows = [{"source": "demos", "what_it_is": "a file", "episodes": 5, "mean_return": 0.5}]
    rows += [{"source": "old", "what_it_is": "two", "episodes": 1200, "mean_return": float("nan")}]
    table = plain_table("Sources", rows)
    assert table.to_text().splitlines()[2:] == [
        "Source  What it is  Episodes  Mean return",
        "------  ----------  --------  -----------",
        "demos   a file             5         0.50",
        "old     two             1200            –",
    ]
    assert "| --- | --- | ---: | ---: |" in table.to_markdown()
    assert "{llrr}" in table.to_latex()
    sides = re.findall(r"\.col(\d) \{\s*text-align: (\w+)", table._repr_html_())
    assert sides == [("0", "left"), ("1", "left"), ("2", "right"), ("3", "right")]
    assert plain_table("Runs", []).to_text() == "Runs\n\nFound\n-------\nnothing\n"


def test_a_wide_table_continues_below_on_the_page(made):
    html = made.summary._repr_html_()
    tables = html.split("<table")[1:]
    assert len(tables) > 2
    assert all(f">{arm}</td>" in table for table in tables for arm in made.summary.frame["arm"])
    narrow = plain_table("T", [{"a": "x", "b": 1}])
    assert narrow._repr_html_().count("<table") == 1


def test_the_same_runs_give_the_same_bytes(ablation, made):
    runs, summary, differences = tables(ablation)
    again = {"per_seed": per_seed_csv(runs), "summary": summary.to_csv(), "differences": differences.to_csv()}
    assert again == {path.stem: path.read_text() for path in ablation.glob("*.csv")}


def test_text_fits_a_terminal_and_html_shows_all(made):
    text = made.summary.to_text()
    assert max(map(len, text.splitlines())) <= 118
    html = made._repr_html_()
    for heading in made.summary.shown:
        assert heading in text
        assert f">{heading}</th>" in html
    assert "n = 5: nominal 95 % intervals cover the true value in 89 % (IQM)" in html


def test_dead_seeds_short_runs_and_missing_metrics_are_said(tmp_path):
    for seed in range(3):
        write_finetune(tmp_path / "rlpd_all" / str(seed), "rlpd_all", seed, budget=1_000)
        write_finetune(tmp_path / "mine" / str(seed), "mine", seed, budget=800, metrics=seed > 0)
    write_finetune(tmp_path / "rlpd_all" / "3", "rlpd_all", 3, last_step=400)
    Run.open(tmp_path / "mine" / "3", kind="finetune", arm="mine", seed=3, parameters={}).fail("no robot")
    runs, summary, _ = tables(tmp_path)
    notes = "\n".join(summary.notes)
    assert "RLPD, all data: not in the numbers: seed 3 running after step 400." in notes
    assert "mine: not in the numbers: seed 3 failed before its first evaluation." in notes
    assert "Runs differ in length (800 to 1000 steps): compared up to the shortest." in notes
    assert "mine: not recorded by every run: Early peak force (N), Early box clips." in notes
    assert "n = 3: nominal 95 % intervals cover the true value in 74 to 75 % (IQM), 48 to 75 % (mean)" in notes
    assert "A failed run is missing from its arm's numbers, which flatters the arm." in notes
    assert summary.frame[["arm", "n"]].to_numpy().tolist() == [["RLPD, all data", 3], ["mine", 3]]
    assert finished(runs)["steps_to_target"].max() <= 800


def test_only_unfinished_runs_make_an_empty_but_whole_table(tmp_path):
    write_finetune(tmp_path / "a", "scratch", 0, last_step=400)
    _, summary, differences = tables(tmp_path)
    assert list(summary.frame["n"]) == [0]
    assert differences.frame.empty
    assert differences.to_csv() == "arm,quantity,pairs,difference,probability_better\n"
    assert "seed 0 running after step 400" in summary.to_text()


def test_without_the_control_there_are_no_differences_and_that_is_said(tmp_path):
    write_ablation(tmp_path, ("scratch",), seeds=2, budget=400)
    records = finetuning_runs(tmp_path)
    table = difference_table(reduce_runs(records), "rlpd_all", measure_of(records))
    assert table.notes == ("No arm shares a finished seed with the control RLPD, all data.",)


def test_a_folder_without_finetuning_is_refused(tmp_path):
    write_warmup(tmp_path / "warmup", 0)
    with pytest.raises(RunError, match="found 1 warmup runs and no other"):
        report(tmp_path)


def test_another_target_is_in_the_headings(ablation):
    records = finetuning_runs(ablation)
    measure = measure_of(records, Targets(target=0.5))
    headings = list(summary_table(reduce_runs(records, measure), measure).shown)
    assert "Reached 50%" in headings
    assert "Steps to 50%" in headings


def test_cells_are_readable():
    assert cell_text(Estimate(Interval(0.916, 0.85, 0.96, 5))) == "0.92 [0.85, 0.96]"
    assert cell_text(Estimate(Interval(1234.6, np.nan, np.nan, 1), 0)) == "1235"
    assert cell_text(Estimate(Interval(np.nan, np.nan, np.nan, 0))) == "–"
    assert cell_text(Estimate(Interval(-880.0, -1120.0, 3.0, 5), None)) == "-880 [-1120, 3]"
    assert cell_text(Estimate(Interval(400.0, 400.0, 400.0, 5), 0, ">")) == "> 400"
    assert cell_text("From scratch") == "From scratch"


def test_the_best_arm_of_a_column_is_bold_unless_it_is_a_bound_or_all_are_equal(made):
    bold = made.summary.bold.set_axis(made.summary.frame["arm"])
    assert list(bold.index[bold["Final success"]]) == [
        made.summary.frame["arm"][made.summary.frame["final_success"].idxmax()]
    ]
    assert list(bold.index[bold["Steps to 80%"]]) == ["Warmup + decaying ratio (kit)"]
    assert not bold[["Arm", "Runs", "Reached 80%"]].to_numpy().any()
    assert not made.differences.bold.to_numpy().any()
    html = made.summary._repr_html_()
    assert html.count("font-weight: bold") > 0 and "Bold: the best point estimate" in html
    assert "Bold" not in made.summary.to_text()
    rows = [{"arm": arm, "drawdown": Estimate(Interval(0.5, 0.4, 0.6, 5))} for arm in "ab"]
    table = make_table("T", rows, {"arm": "Arm", "drawdown": "Drawdown"}, compared=[QUANTITIES["drawdown"]])
    assert not table.bold.to_numpy().any()


def test_markup_in_an_arms_name_is_escaped():
    table = plain_table("<i>", [{"arm": "<b>|", "<u>": 1}], ("<s>",))
    assert not re.search(r"<[bius]>", table._repr_html_())
    assert "&lt;b&gt;\\|" in table.to_markdown()


def test_per_seed_csv_fills_what_a_row_lacks():
    runs = pd.DataFrame([{"arm": "b", "seed": 0, "x": 1.0}, {"arm": "a", "seed": 1}])
    assert per_seed_csv(runs) == "arm,seed,x\nb,0,1.0\na,1,nan\n"
