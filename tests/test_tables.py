"""An ablation's tables: who is in them, in which order, with which numbers, and what is said under them."""

import csv
import io

import numpy as np
import pytest

from synthetic_runs import ARMS, write_ablation, write_finetune, write_warmup
from wsrl_kit.analysis.ablation import report
from wsrl_kit.analysis.metrics import reduce_run
from wsrl_kit.analysis.statistics import Interval, bootstrap_interval
from wsrl_kit.analysis.tables import Column, Table, difference_table, format_cell, per_seed_csv, summary_table
from wsrl_kit.errors import RunError
from wsrl_kit.runs import Run, find_runs, read_run


@pytest.fixture(scope="module")
def ablation(tmp_path_factory):
    return write_ablation(tmp_path_factory.mktemp("ablation"), seeds=5)


@pytest.fixture(scope="module")
def made(ablation):
    return report(ablation)


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_arms_come_in_their_order_under_their_names(made):
    assert [row[0] for row in made.summary.rows] == [
        "From scratch",
        "RLPD, demos",
        "RLPD, all data",
        "Warmup + decaying ratio (kit)",
        "Warmup + frozen rollouts (WSRL)",
    ]
    assert {row[1] for row in made.summary.rows} == {5}


def test_numbers_are_the_iqm_over_runs(ablation, made):
    values = np.array([row["final_success"] for row in made.rows if row["arm"] == "rlpd_all"])
    expected = bootstrap_interval(values)
    written = read_csv((ablation / "summary.csv").read_text())[2]
    assert float(written["final_success"]) == expected.point
    assert float(written["final_success_low"]) == expected.low
    assert written["final_success_n"] == "5"


def test_steps_are_a_restricted_mean_with_the_count_that_reached(ablation, made):
    steps = [row["steps_to_target"] for row in made.rows if row["arm"] == "scratch"]
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
    rows = {(row[0], row[1]): row for row in made.differences.rows}
    steps = rows["Warmup + decaying ratio (kit)", "Steps to 80%"]
    assert steps[2] == 5
    assert steps[3].point < 0
    assert steps[4].point == 1.0
    success = rows["From scratch", "Final success"]
    assert success[3].point < 0
    assert success[4].point == 0.0


def test_everything_is_written_beside_the_runs(ablation, made):
    for name in ("summary.csv", "summary.md", "differences.csv", "per_seed.csv"):
        assert (ablation / name).read_text()
    assert {path.stem for path in (ablation / "figures").iterdir()} == set(made.figures)
    assert not list(ablation.glob("*.tmp"))


def test_the_same_runs_give_the_same_bytes(ablation, made):
    before = {path.name: path.read_bytes() for path in ablation.glob("*.csv")}
    report(ablation)
    assert before == {path.name: path.read_bytes() for path in ablation.glob("*.csv")}


def test_text_fits_a_terminal_and_html_shows_all(made):
    text = made.summary.to_text()
    assert max(map(len, text.splitlines())) <= 118
    assert all(column.heading in text for column in made.summary.columns)
    html = made._repr_html_()
    assert html.count("<tr>") == len(made.summary.rows) + len(made.differences.rows) + 2
    assert "n = 5: nominal 95 % intervals cover the true value in 89 % (IQM)" in html


def test_dead_seeds_short_runs_and_missing_metrics_are_said(tmp_path):
    for seed in range(3):
        write_finetune(tmp_path / "rlpd_all" / str(seed), "rlpd_all", seed, budget=1_000)
        write_finetune(tmp_path / "mine" / str(seed), "mine", seed, budget=800, metrics=seed > 0)
    write_finetune(tmp_path / "rlpd_all" / "3", "rlpd_all", 3, last_step=400)
    Run.open(tmp_path / "mine" / "3", kind="finetune", arm="mine", seed=3, parameters={}).fail("no robot")
    made = report(tmp_path)
    notes = "\n".join(made.summary.notes)
    assert "RLPD, all data: not in the numbers: seed 3 running after step 400." in notes
    assert "mine: not in the numbers: seed 3 failed before its first evaluation." in notes
    assert "Runs differ in length (800 to 1000 steps): compared up to the shortest." in notes
    assert "mine: not recorded by every run: Early peak force (N), Early box clips." in notes
    assert "n = 3: nominal 95 % intervals cover the true value in 74 to 75 % (IQM), 48 to 75 % (mean)" in notes
    assert "A failed run is missing from its arm's numbers, which flatters the arm." in notes
    assert [row[:2] for row in made.summary.rows] == [("RLPD, all data", 3), ("mine", 3)]
    assert max(row["steps_to_target"] for row in made.rows if row["status"] == "finished") <= 800


def test_only_unfinished_runs_make_an_empty_but_whole_table(tmp_path):
    write_finetune(tmp_path / "a", "scratch", 0, last_step=400)
    made = report(tmp_path)
    assert [row[1] for row in made.summary.rows] == [0]
    assert made.differences.rows == ()
    assert "seed 0 running after step 400" in str(made)


def test_one_seed_has_no_interval(tmp_path):
    write_ablation(tmp_path, ("rlpd_all", "scratch"), seeds=1, budget=400)
    made = report(tmp_path)
    assert "[" not in made.summary.to_text()
    assert "n = 1: no interval can be given." in made.summary.notes


def test_a_task_without_success_is_compared_by_its_return(tmp_path):
    for seed in range(2):
        run = Run.open(tmp_path / str(seed), kind="finetune", arm="rlpd_all", seed=seed, parameters={})
        for step in (0, 100):
            values = {"evaluation/success_sampled": float("nan"), "evaluation/return_sampled": float(step)}
            run.record("online", step, step, values)
        run.finish({})
    made = report(tmp_path)
    assert [column.name for column in made.summary.columns] == ["arm", "n", "reached_target", "final_return"]
    assert made.figures["learning_curves"].axes[0].get_ylabel() == "Return"


def test_without_the_control_there_are_no_differences_and_that_is_said(tmp_path):
    write_ablation(tmp_path, ("scratch",), seeds=2, budget=400)
    rows = [reduce_run(record) for record in find_runs(tmp_path) if record.kind == "finetune"]
    assert difference_table(rows).notes == ("No arm shares a finished seed with the control RLPD, all data.",)


def test_a_folder_without_finetuning_is_refused(tmp_path):
    write_warmup(tmp_path / "warmup", 0)
    with pytest.raises(RunError, match="found 1 warmup runs and no other"):
        report(tmp_path)


def test_another_target_is_in_the_headings(ablation):
    rows = [reduce_run(record, target=0.5) for record in find_runs(ablation) if record.kind == "finetune"]
    headings = [column.heading for column in summary_table(rows, 0.5).columns]
    assert "Reached 50%" in headings
    assert "Steps to 50%" in headings


def test_cells_are_readable():
    assert format_cell(Interval(0.916, 0.85, 0.96, 5)) == "0.92 [0.85, 0.96]"
    assert format_cell(Interval(1234.6, np.nan, np.nan, 1), 0) == "1235"
    assert format_cell(Interval(np.nan, np.nan, np.nan, 0)) == "–"
    assert format_cell(Interval(-880.0, -1120.0, 3.0, 5), None) == "-880 [-1120, 3]"
    assert format_cell("From scratch") == "From scratch"


def test_markup_in_an_arms_name_is_escaped():
    table = Table("T", (Column("arm", "Arm"), Column("n", "n")), (("<b>|", 1),))
    assert "&lt;b&gt;" in table._repr_html_()
    assert "&lt;b&gt;\\|" in table.to_markdown()


def test_per_seed_csv_fills_what_a_row_lacks():
    rows = [{"arm": "b", "seed": 0, "x": 1.0}, {"arm": "a", "seed": 1}]
    assert per_seed_csv(rows) == "arm,seed,x\nb,0,1.0\na,1,nan\n"
