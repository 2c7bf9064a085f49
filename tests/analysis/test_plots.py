"""What the figures show, read from the artists; and that any state of the runs can be drawn."""

import base64
import io
import re

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.image import imread

from synthetic_runs import ARMS, WARMUP_STEPS, write_ablation, write_finetune, write_warmup
from wsrl_kit.analysis import plots
from wsrl_kit.analysis.figures import (
    ablation_figures,
    comparison_figures,
    finetune_figure,
    source_figure,
    warmup_figure,
)
from wsrl_kit.analysis.metrics import QUANTITIES, arm_label, arm_order, measure_of, reduce_runs, restricted
from wsrl_kit.analysis.plots import COLOURS, arm_colours
from wsrl_kit.analysis.report import finetuning_runs
from wsrl_kit.analysis.statistics import iqm
from wsrl_kit.runs.run import Run, read_run


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return finetuning_runs(write_ablation(tmp_path_factory.mktemp("ablation"), seeds=3, budget=1_000))


@pytest.fixture
def ax():
    return plots.new_figure()[1][0]


def lines(ax, arm, width):
    return [
        line
        for line in ax.lines
        if to_hex(line.get_color()) == COLOURS[arm] and line.get_linewidth() == width and len(line.get_xdata())
    ]


def test_learning_curves_show_every_seed_and_their_iqm(ax, records):
    assert plots.learning_curves(ax, records) is ax
    for arm in ARMS:
        seeds, [thick] = lines(ax, arm, 0.8), lines(ax, arm, 2.4)
        assert len(seeds) == 3
        assert thick.get_ydata() == pytest.approx(iqm(np.stack([line.get_ydata() for line in seeds]).T))
    assert ax.get_legend_handles_labels()[1] == [*map(arm_label, ARMS), "End of frozen rollouts"]
    assert len(ax.collections) == len(ARMS)


def test_against_gradient_steps_the_warmup_is_left_of_the_switch(ax, records):
    plots.learning_curves(ax, records, against="gradient_step")
    warm, cold = lines(ax, "warmup_decay", 2.4)[0].get_xdata(), lines(ax, "rlpd_all", 2.4)[0].get_xdata()
    assert warm[0] == 0
    assert WARMUP_STEPS in warm
    assert warm[-1] == WARMUP_STEPS + 4_000
    assert cold[-1] == 4_000
    switches = {line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"}
    assert switches == {0, WARMUP_STEPS}


def test_evaluations_of_a_frozen_policy_become_one_point(records):
    record = next(record for record in records if record.arm == "warmup_wsrl")
    steps, values = plots.run_curve(record, against="gradient_step")
    assert (np.diff(steps) > 0).all()
    frozen = [record.curve("evaluation/success_sampled", "warmup").value[-1]]
    frozen += record.curve("evaluation/success_sampled").value[:3].tolist()
    assert values[steps == WARMUP_STEPS] == pytest.approx(np.mean(frozen))


def test_without_its_warmup_in_the_folder_an_arm_begins_at_the_switch(tmp_path, ax):
    write_finetune(tmp_path / "a", "warmup_decay", 0, budget=400)
    steps, _ = plots.run_curve(finetuning_runs(tmp_path)[0], against="gradient_step")
    assert steps[0] == WARMUP_STEPS


def test_an_unfinished_run_is_dashed_and_not_in_the_iqm(tmp_path, ax):
    for seed in range(2):
        write_finetune(tmp_path / str(seed), "scratch", seed, budget=800)
    write_finetune(tmp_path / "2", "scratch", 2, last_step=400)
    plots.learning_curves(ax, finetuning_runs(tmp_path))
    assert [line.get_linestyle() for line in lines(ax, "scratch", 0.8)].count("--") == 1
    assert lines(ax, "scratch", 2.4)[0].get_xdata()[-1] == 800
    assert ax.get_legend_handles_labels()[1][-1] == "Run not finished"


def test_runs_that_recorded_nothing_yet_can_be_drawn(tmp_path):
    Run.open(tmp_path / "a", kind="finetune", arm="", seed=0, parameters={})
    record = read_run(tmp_path / "a")
    for figure in (warmup_figure(record), finetune_figure(record)):
        figure.savefig(tmp_path / "figure.png")
    figure, (ax,) = plots.new_figure()
    plots.learning_curves(ax, [record])
    figure.savefig(tmp_path / "figure.png")


def test_switch_diagnostics_show_probe_and_online_batch(ax, records):
    plots.switch_diagnostic(ax, records, "td_error")
    for arm in ARMS:
        assert sorted(line.get_linestyle() for line in lines(ax, arm, 1.8)) == ["-", "--"]
    assert ax.get_legend_handles_labels()[1] == [*map(arm_label, ARMS), "Online batch", "Offline probe"]


def test_a_warmup_and_a_finetuning_run_have_their_own_figure(tmp_path, records):
    warmup = read_run(write_warmup(tmp_path, 0).folder)
    assert [ax.get_ylabel() for ax in warmup_figure(warmup).axes] == ["Loss", "TD error", "Success rate"]
    finetune = finetune_figure(next(record for record in records if record.arm == "warmup_wsrl"))
    assert [ax.get_ylabel() for ax in finetune.axes if ax.axison] == ["Success rate", "Share", "Q value", "TD error"]
    assert "frozen rollouts" in finetune.axes[0].get_legend_handles_labels()[1]
    prioritized = read_run(write_finetune(tmp_path / "prioritized", "kit", 0, prioritized=True).folder)
    assert finetune_figure(prioritized).axes[1].get_legend_handles_labels()[1] == ["offline ratio", "PER beta"]


def test_summary_points_are_one_per_seed_even_if_they_coincide(ax, records):
    runs = reduce_runs(records)
    steps = QUANTITIES["steps_to_target"]
    plots.summary_points(ax, runs, steps)
    for arm in ARMS:
        dots = [line for line in ax.lines if line.get_marker() == "o" and to_hex(line.get_color()) == COLOURS[arm]]
        places = np.concatenate([line.get_xydata() for line in dots])
        assert len(np.unique(places, axis=0)) == 3
    assert [label.get_text() for label in ax.get_yticklabels()] == [arm_label(arm) for arm in ARMS]


def test_what_was_not_reached_is_hollow(tmp_path, ax):
    for seed, best in enumerate((0.9, 0.1)):
        run = Run.open(tmp_path / str(seed), kind="finetune", arm="rlpd_all", seed=seed, parameters={})
        for step in (0, 200, 400):
            run.record("online", step, step, {"evaluation/success_sampled": best * (step > 0)})
        run.finish({})
    runs = restricted(reduce_runs(finetuning_runs(tmp_path)))
    plots.summary_points(ax, runs, QUANTITIES["steps_to_target"])
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert [(line.get_xdata().tolist(), line.get_markerfacecolor()) for line in dots] == [
        ([200.0], COLOURS["rlpd_all"]),
        ([400.0], "none"),
    ]
    # The mean is larger than the restricted one, from which the arrowhead points.
    assert [line.get_xdata().tolist() for line in ax.lines if line.get_marker() == ">"] == [[300.0]]
    assert ax.get_xlabel() == "Steps to target\n(hollow: not reached by then)"
    area = plots.new_figure()[1][0]
    plots.summary_points(area, runs, QUANTITIES["area_under_curve"])
    assert area.get_xlabel() == "Area under curve"
    assert {line.get_marker() for line in area.lines} <= {"o", "|", "None"}


def test_a_run_that_was_never_good_has_no_recovery_in_the_figure(tmp_path, ax):
    write_finetune(tmp_path / "a", "scratch", 0, budget=400)
    runs = reduce_runs(finetuning_runs(tmp_path))
    plots.summary_points(ax, runs, QUANTITIES["recovery_steps"])
    assert [text.get_text() for text in ax.texts] == ["no success at switch"]


def test_axes_without_a_point_are_a_sentence(tmp_path):
    run = Run.open(tmp_path / "a", kind="finetune", arm="", seed=0, parameters={"frozen_rollout_steps": 50})
    figure = finetune_figure(read_run(tmp_path / "a"))
    assert not any(ax.has_data() or ax.axison for ax in figure.axes)
    run.record("online", 0, 0, {"evaluation/success_sampled": 0.0, "evaluation/success_deterministic": 0.0})
    success, *others = finetune_figure(read_run(tmp_path / "a")).axes
    assert success.axison and success.has_data()
    names = ("Share", "Loss", "Steps of an episode", "Q value", "TD error")
    assert [[text.get_text() for text in ax.texts] for ax in others] == [[f"{n}: nothing recorded yet"] for n in names]
    # Between evaluations, training episodes say how it goes.
    for step, success in ((60, 0.0), (90, 1.0)):
        run.record("online", step, 4 * step, {"training/episode_success": success, "training/episode_length": 30.0})
    success, _, _, length, *_ = finetune_figure(read_run(tmp_path / "a")).axes
    assert success.lines[-1].get_xydata().tolist() == [[60.0, 0.0], [90.0, 0.5]]
    assert length.lines[0].get_ydata().tolist() == [30.0, 30.0]
    run.finish({})
    assert finetune_figure(read_run(tmp_path / "a")).axes[4].texts[0].get_text() == "Q value: not recorded"


@pytest.mark.slow
def test_no_figure_is_wider_than_a_page_can_show(records):
    runs = reduce_runs(records)
    measure = measure_of(records)
    figures = ablation_figures(records, runs, measure) | comparison_figures(records, runs, "rlpd_all", measure)
    assert {name: figure.get_figwidth() for name, figure in figures.items() if figure.get_figwidth() > 14} == {}
    stability = figures["stability"].axes
    assert len(stability) == 5
    named = [any(label.get_text() for label in ax.get_yticklabels()) for ax in stability]
    assert named == [True, False, False, True, False]  # two lines of axes, with the arms' names on the left


def test_what_was_not_recorded_is_said_in_the_figure(tmp_path, ax):
    write_finetune(tmp_path / "a", "scratch", 0, budget=400, metrics=False)
    runs = reduce_runs(finetuning_runs(tmp_path))
    force = QUANTITIES["early_peak_contact_force"]
    plots.summary_points(ax, runs, force)
    plots.summary_bars(plots.new_figure()[1][0], runs, force)
    assert [text.get_text() for text in ax.texts] == ["not recorded"]


def test_memory_bars_carry_their_number(ax, records):
    memory = QUANTITIES["offline_megabytes"]
    plots.summary_bars(ax, reduce_runs(records), memory)
    assert [text.get_text() for text in ax.texts] == ["0.00", "0.90", "4.20", "0.84", "0.00"]


def test_sources_are_drawn_from_plain_arrays(ax):
    plots.source_bars(ax, ["demos", "random"], np.array([1.0, 0.25]), "Success rate")
    assert [text.get_text() for text in ax.texts] == ["1", "0.25"]
    histogram = plots.new_figure()[1][0]
    plots.return_histogram(histogram, {"demos": np.array([1.0, 1.0, 0.0]), "random": np.array([0.0, np.nan])})
    assert [text.get_text() for text in histogram.get_legend().texts] == ["demos (3)", "random (2)"]


def test_the_figure_of_the_sources_says_what_is_not_known():
    rows = [
        {"source": "demos", "success_rate": 1.0, "transitions": 1200, "weight_share": 0.75},
        {"source": "old", "success_rate": float("nan"), "transitions": 300, "weight_share": 0.25},
    ]
    figure = source_figure(rows, {"demos": np.array([1.0, 1.0]), "old": np.array([0.0])})
    texts = [[text.get_text() for text in ax.texts] for ax in figure.axes]
    assert texts == [["1", "not known"], ["1,200", "300"], ["0.75", "0.25"], []]
    rows = [row | {"success_rate": float("nan"), "mean_return": -1193.4} for row in rows]
    outcome = source_figure(rows).axes[0]
    assert (outcome.get_xlabel(), outcome.texts[0].get_text()) == ("Mean return", "-1,193")


def test_schedules_are_drawn_from_plain_arrays(ax):
    steps = np.arange(100)
    plots.schedules(ax, steps, {"offline ratio": np.full(100, 0.5), "PER beta": steps / 100})
    assert [text.get_text() for text in ax.get_legend().texts] == ["offline ratio", "PER beta"]


def test_no_two_arms_share_a_colour_and_known_ones_keep_theirs():
    colours = arm_colours(["zeta", "rlpd_all", "alpha"])
    assert list(colours) == arm_order(["zeta", "alpha", "rlpd_all"]) == ["rlpd_all", "zeta", "alpha"]
    assert colours["rlpd_all"] == COLOURS["rlpd_all"]
    assert len(set(colours.values())) == 3


# How a colour looks to eyes without one kind of cone (Machado et al. 2009, severity 1), on linear red, green, blue.
SIGHT = {
    "normal": np.eye(3),
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("known", [list(COLOURS), []])
def test_twelve_arms_are_told_apart_also_by_the_colour_blind(sight, known):
    names = known + [f"variant_{index}" for index in range(12 - len(known))]
    colours = np.array([to_rgb(colour) for colour in arm_colours(names).values()])
    seen = np.clip((colours**2.2) @ np.transpose(SIGHT[sight]), 0, 1)
    cones = seen @ np.transpose([[0.412, 0.536, 0.051], [0.212, 0.681, 0.107], [0.088, 0.282, 0.630]])
    oklab = np.cbrt(cones) @ np.transpose([[0.210, 0.794, -0.004], [1.978, -2.429, 0.451], [0.026, 0.783, -0.809]])
    apart = np.linalg.norm(oklab[:, None] - oklab[None, :], axis=-1)
    # Oklab distance: 0.02 is about what is just noticeable side by side.
    assert apart[np.triu_indices(12, 1)].min() > 0.04


def test_a_figure_tells_the_value_at_the_place_where_it_is_drawn():
    figure, (ax,) = plots.new_figure()
    (line,) = ax.plot([0, 10, 20], [1.0, np.nan, 3.0], "o", color="#ff0000")
    line.set_gid("a <run>")
    ax.plot([0, 20], [2.0, 2.0])
    shown = plots.with_values(figure)
    spots = re.findall(r'cx="(\d+)" cy="(\d+)" r="6"><title>(.*?)</title>', shown)
    assert [told for _, _, told in spots] == ["a &lt;run&gt;: 1 at 0", "a &lt;run&gt;: 3 at 20"]
    pixels = imread(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", shown)[1])), format="png")
    for across, down, _ in spots:
        np.testing.assert_allclose(pixels[int(down), int(across), :3], to_rgb("#ff0000"), atol=0.01)


def test_an_axis_of_steps_counts_whole_ones_however_few_there_are(ax):
    plots.schedules(ax, np.arange(1), {"offline ratio": np.ones(1)})
    assert all(tick == round(tick) for tick in ax.get_xticks())
    assert ax.get_xlim()[0] > -0.1 and ax.get_xlim()[1] >= 1
