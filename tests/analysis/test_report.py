"""A report on any set of runs: which are taken, which are refused, what is said of them, what is written."""

import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex

from synthetic_runs import write_ablation, write_finetune
from wsrl_kit.analysis import plots
from wsrl_kit.analysis.config import Targets
from wsrl_kit.analysis.figures import ablation_figures, comparison_figures, learning_curves_figure
from wsrl_kit.analysis.metrics import (
    ARM_LABELS,
    QUANTITIES,
    SUCCESS,
    compare,
    finished,
    measure_of,
    reduce_runs,
    values_by_seed,
)
from wsrl_kit.analysis.plots import COLOURS
from wsrl_kit.analysis.report import choose_control, parameter_notes, report, select_runs, write_report
from wsrl_kit.analysis.statistics import paired_difference, probability_of_improvement
from wsrl_kit.analysis.tables import difference_table, plain_table, summary_table
from wsrl_kit.errors import ParameterError, RunError
from wsrl_kit.runs.run import Run
from wsrl_kit.text import for_latex

ARMS = ("rlpd_all", "warmup_decay")


def write_run(
    folder: Path, arm: str = "a", seed: int = 0, success: tuple[float, ...] = (), **parameters: object
) -> Run:
    """A running run with an evaluation every 100 steps."""
    parameters = {"exp_name": "hirol_fixed_gripper", "environment_options": {}} | parameters
    run = Run.open(folder, kind="finetune", arm=arm, seed=seed, parameters=parameters)
    for index, value in enumerate(success):
        run.record("online", 100 * index, 400 * index, {"evaluation/success_sampled": value})
    return run


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two arms, three seeds; besides, a failed, a killed, a shorter and a missing run."""
    root = write_ablation(tmp_path_factory.mktemp("runs"), ARMS, seeds=3, budget=1_000)
    write_finetune(root / "rlpd_all" / "seed_3", "rlpd_all", 3, budget=800)
    write_run(root / "rlpd_all" / "seed_4", "rlpd_all", 4, (0.0, 0.1)).fail("the critic diverged")
    write_run(root / "warmup_decay" / "seed_4", "warmup_decay", 4, (0.5, 0.6))
    return root


@pytest.fixture(scope="module")
def made(root, tmp_path_factory):
    return write_report(select_runs(str(root)), tmp_path_factory.mktemp("report"), "rlpd_all")


def folders(records):
    return sorted(f"{record.arm}/{record.folder.name}" for record in records)


def test_a_root_a_glob_and_a_list_find_the_same_runs(root):
    everything = folders(select_runs(str(root)))
    assert len(everything) == 9
    assert folders(select_runs(f"{root}/*/seed_*")) == everything
    assert folders(select_runs([f"{root}/rlpd_all", f"{root}/warmup_decay/seed_?", str(root)])) == everything


def test_warmups_are_joined_wherever_they_are_among_the_folders(root):
    (record,) = select_runs([f"{root}/warmup_decay/seed_1", f"{root}/warmup/seed_1"])
    assert len(record.curve("evaluation/success_sampled", "warmup")) > 0
    assert record.warmup_seconds > 0
    (alone,) = select_runs(f"{root}/warmup_decay/seed_1")
    assert alone.warmup_seconds == 0


def test_arms_can_be_named_anew(root):
    records = select_runs({"old": f"{root}/rlpd_all", "new": [f"{root}/warmup_decay/seed_0"]})
    assert {record.arm for record in records} == {"old", "new"}
    assert choose_control(None, records) == "old"
    assert choose_control("new", records) == "new"


def test_the_control_is_an_arm_that_is_there(root):
    records = select_runs(str(root))
    assert choose_control(None, records) == "rlpd_all"
    with pytest.raises(
        ParameterError, match=r"control must be an arm of the runs \(rlpd_all, warmup_decay\), found 'x'"
    ):
        choose_control("x", records)
    with pytest.raises(ParameterError, match="target must be"):
        Targets(target=1.5)


def test_runs_of_different_tasks_are_refused_with_both_and_where_they_are(tmp_path):
    write_run(tmp_path / "a", exp_name="Pendulum-v1", environment_options={})
    write_run(tmp_path / "b", seed=1, exp_name="hirol_fixed_gripper", environment_options={"difficulty": "hard"})
    with pytest.raises(RunError) as caught:
        select_runs(str(tmp_path))
    assert str(caught.value) == (
        f"all runs of a report must be of one task, found Pendulum-v1 in {tmp_path / 'a'} and "
        f"hirol_fixed_gripper (difficulty='hard') in {tmp_path / 'b'}"
    )


def test_tasks_that_differ_in_an_option_are_different(tmp_path):
    for name, difficulty in (("a", "easy"), ("b", "hard")):
        write_run(tmp_path / name, name, exp_name="e", environment_options={"difficulty": difficulty})
    with pytest.raises(RunError, match=r"e \(difficulty='easy'\) in .*e \(difficulty='hard'\)"):
        select_runs(str(tmp_path))


def test_two_runs_of_an_arm_and_a_seed_are_refused_unless_they_are_told_apart(tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / name, "")
    with pytest.raises(RunError, match=r"one run of a seed, found seed 0 of Run in .*/a and .*/b: name the arms"):
        select_runs(str(tmp_path))
    assert len(select_runs({"a": f"{tmp_path}/a", "b": f"{tmp_path}/b"})) == 2


def test_where_nothing_is_found_that_is_said(tmp_path, root):
    with pytest.raises(RunError, match="nowhere must be a folder that holds runs, or a glob of such, found no run"):
        select_runs([str(root), "nowhere"])
    with pytest.raises(RunError, match="runs must hold at least one fine-tuning run"):
        select_runs(f"{root}/warmup")


def test_dead_missing_and_shorter_runs_are_said(made):
    notes = "\n".join(made.summary.notes)
    assert "RLPD, all data: not in the numbers: seed 4 failed after step 100." in notes
    assert "Warmup + decaying ratio (kit): not in the numbers: seed 4 running after step 100." in notes
    assert "No run of seed 3: Warmup + decaying ratio (kit)." in notes
    assert "Runs differ in length (800 to 1000 steps): compared up to the shortest." in notes
    assert "A failed run is missing from its arm's numbers, which flatters the arm." in notes
    assert "Seconds: wall-clock with warmup and evaluations" in notes
    assert [note[:5] for note in made.summary.notes if note.startswith("n =")] == ["n = 3", "n = 4"]
    assert list(made.summary.frame["n"]) == [4, 3]
    assert set(made.differences.frame["pairs"]) == {3}


def test_settings_that_differ_within_an_arm_or_make_evaluations_unlike_are_said(tmp_path):
    write_run(tmp_path / "0", seed=0, batch_size=128, evaluation_episodes=20, demo_path="x")
    write_run(tmp_path / "1", seed=1, batch_size=256, evaluation_episodes=20, demo_path="y", newer=1)
    records = select_runs(str(tmp_path))
    assert parameter_notes(records) == ["a: its runs differ in batch_size."]
    write_run(tmp_path / "2", "b", seed=1, evaluation_episodes=10)
    (note,) = parameter_notes([records[0], *select_runs(f"{tmp_path}/2")])
    assert note.startswith("Runs differ in evaluation_episodes: dip, drawdown and dispersion are comparable only")


def test_the_files_of_a_report(made):
    names = {"summary.txt", "summary.md", "summary.csv", "differences.csv", "per_seed.csv", "report.tex", "figures"}
    assert {path.name for path in made.root.iterdir()} == names
    assert {path.stem for path in (made.root / "figures").iterdir()} == set(made.figures)
    assert {"reached_target", "performance_profiles", "stability", "against_control"} < set(made.figures)


def test_an_ablation_writes_the_same_tables(root, made, tmp_path):
    shutil.copytree(root, tmp_path / "copy")
    of_ablation = report(tmp_path / "copy")
    for name in ("summary.csv", "differences.csv", "per_seed.csv", "report.tex"):
        assert (tmp_path / "copy" / name).read_text() == (made.root / name).read_text()
    assert set(of_ablation.figures) < set(made.figures)


def test_one_seed_can_be_reported(tmp_path):
    write_ablation(tmp_path / "runs", ARMS, seeds=1, budget=400)
    made = write_report(select_runs(str(tmp_path / "runs")), tmp_path, "rlpd_all", every_figure=False)
    assert "n = 1: no interval can be given." in made.summary.notes
    assert "n = 1: no interval can be given." in made.differences.notes
    assert "[" not in (tmp_path / "summary.txt").read_text()


def test_a_single_run_has_no_empty_figure_and_no_table_of_differences(tmp_path):
    write_finetune(tmp_path / "run", "scratch", 0, budget=400)
    made = write_report(select_runs(str(tmp_path / "run")), tmp_path, "scratch")
    assert not {"against_control", "performance_profiles"} & made.figures.keys()
    labels = [ax.get_xlabel() for ax in made.figures["stability"].axes]
    assert labels == ["Success at switch", "Drawdown (CVaR)", "Dispersion (IQR)"]  # without a dip
    assert "against the control" not in (tmp_path / "summary.txt").read_text()


@pytest.mark.slow
def test_runs_without_any_evaluation_make_a_whole_report_that_says_so(tmp_path):
    write_run(tmp_path / "run", "rlpd_all")
    made = write_report(select_runs(str(tmp_path / "run")), tmp_path, "rlpd_all")
    assert "RLPD, all data: not in the numbers: seed 0 running before its first evaluation." in made.summary.notes
    assert "not recorded" in {text.get_text() for ax in made.figures["reached_target"].axes for text in ax.texts}


@pytest.fixture(scope="module")
def unrewarded(tmp_path_factory):
    """Two arms, two seeds of a task that reports no success; `mine` is ahead by 10 and dips by 100 once."""
    root = tmp_path_factory.mktemp("returns")
    for arm in ("rlpd_all", "mine"):
        for seed in range(2):
            run = write_run(root / arm / str(seed), arm, seed)
            for index, value in enumerate((-1000.0, -1100.0 if arm == "mine" else -1000.0, -500.0, -200.0, -200.0)):
                values = {
                    "evaluation/success_sampled": np.nan,
                    "evaluation/return_sampled": value + 10 * (arm == "mine"),
                }
                run.record("online", 100 * index, 400 * index, values)
            run.finish({})
    return root


def test_a_task_without_success_is_compared_by_its_return(unrewarded, tmp_path):
    made = write_report(select_runs(str(unrewarded)), tmp_path, "rlpd_all", Targets(target_return=-195.0))
    assert list(made.summary.shown) == [
        *("Arm", "Runs", "Reached return -195", "Steps to return -195", "Gradient steps to return -195"),
        *("Seconds to return -195", "Area under curve", "Final return", "Return at switch", "Dip after switch"),
        *("Steps to recover", "Drawdown (CVaR)", "Dispersion (IQR)"),
    ]
    assert list(made.summary.shown["Dip after switch"]) == ["0.00 [0.00, 0.00]", "100 [100, 100]"]
    assert list(made.summary.shown["Reached return -195"]) == ["0 of 2", "2 of 2"]
    differences = made.differences.frame.set_index("quantity")["difference"]
    assert (differences["Final return"], differences["Area under curve"]) == (10, 10 - 100 / 4)
    assert any(note.startswith("No run reports success: area, dip") for note in made.summary.notes)
    assert not any("with success at the switch" in note for note in made.summary.notes)
    for ax in made.figures["learning_curves"].axes:
        assert ax.get_ylabel() == "Return"
        assert -195.0 in {line.get_ydata()[0] for line in ax.lines if len(line.get_ydata())}
    labels = {name: [ax.get_xlabel() for ax in figure.axes] for name, figure in made.figures.items()}
    assert [label.partition("\n")[0] for label in labels["sample_efficiency"]] == [
        *("Steps to return -195", "Area under curve", "Final return")
    ]
    assert labels["stability"][:2] == ["Return at switch", "Dip after switch"]
    assert labels["performance_profiles"] == ["Final return", "Area under curve"]
    profile = made.figures["performance_profiles"].axes[0].lines[0]
    assert profile.get_ydata()[[0, -1]].tolist() == [1, 0]
    assert -301 < profile.get_xdata()[0] < -300 and -290 < profile.get_xdata()[-1] < -289
    assert made.figures["reached_target"].axes[0].get_ylabel() == "Fraction of runs at return -195"


def test_without_a_target_return_nothing_is_said_of_a_target(unrewarded):
    records = select_runs(str(unrewarded))
    runs, measure = reduce_runs(records), measure_of(records)
    headings = [*summary_table(runs, measure).shown, *difference_table(runs, "rlpd_all", measure).frame["quantity"]]
    figures = ablation_figures(records, runs, measure) | comparison_figures(records, runs, "rlpd_all", measure)
    headings += [ax.get_xlabel() for name in ("sample_efficiency", "against_control") for ax in figures[name].axes]
    assert not any("arget" in heading or "teps to return" in heading for heading in headings)
    assert "reached_target" not in figures


def test_runs_without_success_among_others_are_said_and_not_compared(tmp_path):
    for seed, success in enumerate((0.9, np.nan)):
        run = write_run(tmp_path / str(seed), "rlpd_all", seed, (success, success))
        run.record("online", 200, 800, {"evaluation/success_sampled": success, "evaluation/return_sampled": 7.0})
        run.finish({})
    made = write_report(select_runs(str(tmp_path)), tmp_path, "rlpd_all", every_figure=False)
    assert "Measured by success: 1 of 2 runs report none and have no numbers of it." in made.summary.notes
    assert list(made.summary.shown["Final success"]) == ["0.90"]


def test_latex_is_balanced_and_every_row_is_as_wide_as_its_table(made):
    text = (made.root / "report.tex").read_text().replace("% \\usepackage{booktabs}\n", "")
    assert text.count(r"\begin{table*}") == text.count(r"\end{table*}") == 2
    tabulars = re.findall(r"\\begin\{tabular\}\{([lr]+)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL)
    assert len(tabulars) == text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") >= 2
    rules = [r"\toprule", r"\midrule", r"\bottomrule"]
    for columns, body in tabulars:
        assert [line for line in body.splitlines() if line in rules] == rules
        rows = [line for line in body.splitlines() if line not in rules]
        assert all(row.endswith(r" \\") for row in rows)
        assert {row.count(" & ") + 1 for row in rows} == {len(columns)}
    # Without what separates, escapes and subtracts, no character with a meaning is left, and braces come in pairs.
    plain = re.sub(r"\\[&%$#_{}]|\$-\$| & ", "", text)
    assert r" & \bfseries " in text
    assert not re.search(r"[&%$#_^~–]", plain)
    assert plain.count("{") == plain.count("}")


def test_special_characters_of_an_arms_name_reach_the_paper_as_themselves():
    assert for_latex(r"50% of a_b & {c} #1 $2 ~ ^ \ <x>") == (
        r"50\% of a\_b \& \{c\} \#1 \$2 \textasciitilde{} \textasciicircum{} \textbackslash{} "
        r"\textless{}x\textgreater{}"
    )
    assert for_latex("-0.5 [-1.0, 0.2]") == "$-$0.5 {[}$-$1.0, 0.2]"
    assert for_latex("2024-11 warm-up-2") == "2024-11 warm-up-2"
    table = plain_table("A & B", [{"arm": "[odd]_arm", "n": 1}], ("100 % sure",))
    assert "{[}odd]\\_arm & 1 \\\\" in table.to_latex()
    assert r"\caption{A \& B.}" in table.to_latex()
    assert r"100 \% sure\par" in table.to_latex()


def test_a_comparison_is_paired_by_seed_and_knows_what_better_means(made):
    (area,) = [c for c in compare(made.per_seed, "rlpd_all") if c.quantity.name == "area_under_curve"]
    values = {arm: values_by_seed(finished(made.per_seed), arm, "area_under_curve") for arm in ARMS}
    assert area.arm == "warmup_decay"
    assert area.difference == paired_difference(values["warmup_decay"], values["rlpd_all"])
    arrays = (np.array(list(values[arm].values())) for arm in ("warmup_decay", "rlpd_all"))
    assert area.better == probability_of_improvement(*arrays)


@pytest.fixture
def ax():
    return plots.new_figure()[1][0]


def curve(ax, arm):
    (line,) = [line for line in ax.lines if to_hex(line.get_color()) == COLOURS[arm]]
    return line.get_xdata(), line.get_ydata()


def test_a_failed_run_never_reaches_the_target_and_a_killed_one_is_lost_from_sight(tmp_path, ax):
    for seed, status in enumerate(("finished", "failed")):
        run = write_run(tmp_path / f"a{seed}", "rlpd_all", seed, (0.0, 0.9, 0.9) if status == "finished" else (0.0,))
        run.finish({}) if status == "finished" else run.fail("it diverged")
    write_run(tmp_path / "b0", "scratch", 0, (0.0, 0.0, 0.9)).finish({})
    write_run(tmp_path / "b1", "scratch", 1, (0.0, 0.0))
    write_run(tmp_path / "c0", "rlpd_demos", 0).fail("it diverged")
    runs = reduce_runs(select_runs(str(tmp_path)))
    plots.fraction_reached(ax, runs, QUANTITIES["steps_to_target"], "Steps")
    steps, shares = curve(ax, "rlpd_all")
    assert (steps.tolist(), shares.tolist()) == ([0, 100, 200], [0, 0.5, 0.5])
    assert curve(ax, "rlpd_demos")[1].tolist() == [0, 0, 0]
    steps, shares = curve(ax, "scratch")
    assert (steps.tolist(), shares.tolist()) == ([0, 100, 200], [0, 0, 1])


def test_a_profile_is_the_share_of_finished_runs_above_each_value(made, ax):
    plots.performance_profiles(ax, made.per_seed, QUANTITIES["final_success"], SUCCESS)
    thresholds, shares = curve(ax, "rlpd_all")
    values = values_by_seed(finished(made.per_seed), "rlpd_all", "final_success").values()
    assert shares == pytest.approx([np.mean([value > threshold for value in values]) for threshold in thresholds])
    assert (thresholds[0], thresholds[-1]) == (0.0, 1.0)


@pytest.mark.slow
def test_many_arms_have_no_bands_and_rows_of_their_own(tmp_path):
    names = (*ARM_LABELS, *(f"variant_{index}" for index in range(12 - len(ARM_LABELS))))
    for name in names:
        for seed in range(2):
            write_run(tmp_path / name / str(seed), name, seed, (0.0, 0.3 + 0.1 * seed, 0.9)).finish({})
    records = select_runs(str(tmp_path))
    measure = measure_of(records)
    figures = comparison_figures(records, reduce_runs(records), "rlpd_all", measure)
    figures["learning_curves"] = learning_curves_figure(records, measure)
    for name in ("learning_curves", "reached_target", "performance_profiles"):
        assert not any(ax.collections for ax in figures[name].axes)
    for name, rows in (("against_control", 11), ("stability", 12)):
        figures[name].canvas.draw()
        boxes = [label.get_window_extent() for label in figures[name].axes[0].get_yticklabels()]
        assert len(boxes) == rows
        assert not any(first.overlaps(second) for first, second in itertools.pairwise(boxes))
