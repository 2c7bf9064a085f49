"""An ablation's tables: who is in them, in which order, with which numbers, and what is said under them."""

import csv
import io

import numpy as np
import pytest

from synthetic_runs import ARMS, write_ablation, write_finetune, write_warmup
from wsrl_kit.analysis.metrics import reduce_run
from wsrl_kit.analysis.report import report
from wsrl_kit.analysis.statistics import Interval, bootstrap_interval
from wsrl_kit.analysis.tables import (
    Column,
    Table,
    difference_table,
    facts_table,
    format_cell,
    per_seed_csv,
    plain_table,
    run_table,
    summary_table,
)
from wsrl_kit.errors import RunError
from wsrl_kit.runs.run import Run, find_runs, read_run


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
    assert steps[3].interval.point < 0
    assert steps[4].point == 1.0
    success = rows["From scratch", "Final success"]
    assert success[3].interval.point < 0
    assert success[4].point == 0.0


def test_everything_is_written_beside_the_runs(ablation, made):
    for name in ("summary.csv", "summary.md", "differences.csv", "per_seed.csv"):
        assert (ablation / name).read_text()
    assert {path.stem for path in (ablation / "figures").iterdir()} == set(made.figures)
    assert not list(ablation.glob("*.tmp"))


def test_steps_of_runs_that_never_got_there_are_bounds(made):
    steps = {row[0]: format_cell(row[3]) for row in made.summary.rows}
    assert made.summary.columns[3].heading == "Steps to 80%"
    assert steps["From scratch"] == "> 3000"
    assert not any(cell.startswith(">") for arm, cell in steps.items() if arm != "From scratch")
    text = made.summary.to_text()
    assert ">: the arm has such runs, its mean is larger." in " ".join(text.split())
    differences = {row[:2]: format_cell(row[3]) for row in made.differences.rows}
    assert differences["From scratch", "Steps to 80%"].startswith("> ")
    assert differences["RLPD, demos", "Steps to 80%"][0].isdigit()


def test_a_difference_to_a_control_that_never_got_there_is_an_upper_bound(ablation):
    rows = [reduce_run(record) for record in find_runs(ablation) if record.kind == "finetune"]
    table = difference_table(rows, "scratch")
    assert {format_cell(row[3])[:2] for row in table.rows if row[1] == "Steps to 80%"} == {"< "}


def test_counts_are_whole_numbers(made):
    for table, column in ((made.summary, "early_safety_box_clips"), (made.summary, "steps_to_target")):
        place = [each.name for each in table.columns].index(column)
        assert not any("." in format_cell(row[place]) for row in table.rows)
    clips = [format_cell(row[3]) for row in made.differences.rows if row[1] == "Early box clips"]
    assert clips and not any("." in cell for cell in clips)
    assert format_cell(Interval(-0.3, -2.4, 0.2, 5), 0) == "0 [-2, 0]"


def test_what_had_no_success_has_nothing_to_recover(made):
    places = [[column.name for column in made.summary.columns].index(name) for name in ("dip_depth", "recovery_steps")]
    cells = {row[0]: [format_cell(row[place]) for place in places] for row in made.summary.rows}
    assert cells["From scratch"] == ["–", "–"]
    assert "–" not in cells["Warmup + frozen rollouts (WSRL)"]
    assert "Dip and steps to recover: over the runs with success at the switch." in made.summary.notes
    assert not any("not recorded by every run" in note for note in made.summary.notes)


def test_one_run_is_told_in_words(tmp_path):
    run = Run.open(tmp_path, kind="finetune", arm="", seed=0, parameters={})
    for step in (0, 200, 400):
        run.record("online", step, step, {"evaluation/success_sampled": 0.0, "training/peak_contact_force": 9.0})
    run.finish({})
    table = run_table(read_run(tmp_path))
    cells = {name: format_cell(value) for name, value in table.rows}
    assert table.title == "Result: finished, last evaluated at step 400"
    assert cells["Steps to 80%"] == "> 400"
    assert cells["Early peak force (N)"] == "9.0"
    # Nothing ever succeeded, nothing was recorded of these.
    assert not {"Steps to recover", "Dip after switch", "Final return", "Early box clips"} & set(cells)
    assert "_" not in table.to_text() and "nan" not in table.to_text()


def test_facts_are_told_in_words():
    facts = {"stopped_early": False, "gradient_steps": 3000, "recall": 0.98765432, "precision": float("nan")}
    table = facts_table("Result", facts | {"arms": ["a", "b"]})
    assert table.rows == (
        ("Stopped early", "no"),
        ("Gradient steps", "3000"),
        ("Recall", "0.9877"),
        ("Precision", "–"),
        ("Arms", "a, b"),
    )


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
    html = table._repr_html_()
    assert "<td style='text-align:right;white-space:nowrap'>1200</td>" in html
    assert "<td style='text-align:left;overflow-wrap:anywhere'>two</td>" in html
    assert plain_table("Runs", []).to_text() == "Runs\n\nFound\n-------\nnothing\n"


def test_a_wide_table_continues_below_on_the_page(made):
    html = made.summary._repr_html_()
    tables = html.split("<table")[1:]
    assert len(tables) > 2
    assert all(f">{row[0]}</td>" in table for table in tables for row in made.summary.rows)
    narrow = plain_table("T", [{"a": "x", "b": 1}])
    assert narrow._repr_html_().count("<table") == 1


def test_the_same_runs_give_the_same_bytes(ablation, made):
    before = {path.name: path.read_bytes() for path in ablation.glob("*.csv")}
    report(ablation)
    assert before == {path.name: path.read_bytes() for path in ablation.glob("*.csv")}


def test_text_fits_a_terminal_and_html_shows_all(made):
    text = made.summary.to_text()
    assert max(map(len, text.splitlines())) <= 118
    html = made._repr_html_()
    for heading in (column.heading for column in made.summary.columns):
        assert all(word in text for word in heading.split())  # where it is wider than its cells it wraps
        assert f">{heading}</th>" in html
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
