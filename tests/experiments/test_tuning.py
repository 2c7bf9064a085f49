"""Tuning: many candidates on few seeds, the better half on more, the winner on fresh ones."""

from pathlib import Path

import pytest

from training_samples import StopAt, settings
from wsrl_kit.analysis.tuning import read_trials, tuning_report
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.errors import ParameterError, RunError, Stopped
from wsrl_kit.experiments.config import TuningConfig
from wsrl_kit.experiments.tuning import run_tuning
from wsrl_kit.runs.progress import Silent
from wsrl_kit.runs.run import Run, read_run

SPACE = {
    "min_offline_ratio": {"low": 0.0, "high": 0.5},
    "offline_decay_rate": {"low": 0.1, "high": 1.0, "log": True},
    "initial_offline_ratio": [0.5, 1.0],
}


def optuna_config(sources: Path) -> tuple[WSRLConfig, TuningConfig]:
    config = settings(offline_data_path=str(sources), retention_ratio=0.3)
    return config, TuningConfig(
        search_space=SPACE, method="optuna", trials=2, parallel_trials=1, seeds=[0], first_seeds=1,
        confirmation_seeds=[], search_seed=1, score="final_return", worker_processes=1,
    )  # fmt: skip


def test_optuna_goes_on_after_a_stop_and_suggests_the_same_again_from_the_same_scores(sources, tmp_path):
    pytest.importorskip("optuna")
    config, tuning = optuna_config(sources)
    progress = StopAt(1)
    with pytest.raises(Stopped):
        run_tuning(config, tuning, tmp_path, progress)
    assert progress.texts[0].startswith("stage 1 of 2, 1 candidates on 1 seeds: run ")
    assert read_run(tmp_path).status == "stopped"
    run_tuning(config, tuning, tmp_path, Silent())
    trials = read_trials(tmp_path)
    assert [trial.name for trial in trials] == ["trial_0000", "trial_0001"]
    assert trials[0].values != trials[1].values
    for trial in trials:
        assert 0.0 <= trial.values["min_offline_ratio"] <= 0.5
        assert 0.1 <= trial.values["offline_decay_rate"] <= 1.0
        assert trial.values["initial_offline_ratio"] in (0.5, 1.0)
    best = max(trials, key=lambda trial: trial.scores[0])
    assert read_run(tmp_path).summary["winner"] == best.name
    report = tuning_report(tmp_path)
    assert (report.table.frame["candidate"][0], list(report.figures)) == (best.name, ["effects"])
    # Without its memory it finds every run done, which it would not with other suggestions.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "trials").rglob("run.json")}
    (tmp_path / "trials" / "study.log").unlink()
    (tmp_path / "run.json").unlink()
    run_tuning(config, tuning, tmp_path, Silent())
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "trials").rglob("run.json")} == before
    assert read_trials(tmp_path) == trials


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"search_space": {}}, "search_space must name at least one parameter"),
        (
            {"search_space": {"retention_rate": [0.1]}},
            "no parameter named retention_rate: did you mean retention_ratio",
        ),
        ({"search_space": {"retention_ratio": [0.1, 2]}}, r"retention_ratio must be a float in \[0, 1\], found 2"),
        ({"search_space": {"retention_ratio": {"low": 0.1, "high": 1}}}, "must be a list of values for a grid"),
        ({"search_space": {"retention_ratio": []}}, "must be a list of values for a grid"),
        ({"search_space": {"online_steps": [1]}}, "online_steps must be the same for all candidates"),
        ({"method": "optuna", "search_space": {"discount": {"low": 0.9}}}, "must be a list, or low and high"),
        ({"method": "optuna", "search_space": {"discount": {"low": 0.9, "high": 0.5}}}, "numbers low < high"),
        ({"method": "optuna", "search_space": {"discount": {"low": 0, "high": 1, "log": True}}}, "above 0 where log"),
        ({"first_seeds": 9}, "first_seeds must be at most 8, found 9"),
        ({"confirmation_seeds": [3, 100]}, r"confirmation_seeds must be none of seeds, found \[3\] in both"),
    ],
)
def test_a_bad_search_is_one_sentence(changes, sentence):
    with pytest.raises(ParameterError, match=sentence):
        TuningConfig(**changes)


def test_without_its_extra_optuna_is_refused_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ParameterError, match=r"pip install 'wsrl-kit\[tuning\]'; 'grid' works without"):
        TuningConfig(method="optuna")
    assert TuningConfig().method == "grid"


def test_each_rung_has_twice_as_many_seeds():
    assert TuningConfig().rungs == [2, 4, 8]
    assert TuningConfig(seeds=[0, 1, 2, 3, 4], first_seeds=2).rungs == [2, 4, 5]
    assert TuningConfig(seeds=[7], first_seeds=1).rungs == [1]


def write_tuning(root: Path, failed: bool = False) -> None:
    """A tuning of 3 x 2 candidates on seeds 0 and 1, of which the two best have seeds 2 and 3 too."""
    space = {"min_offline_ratio": [0.0, 0.25, 0.5], "hidden_sizes": [[16], [32]]}
    parameters = {"search_space": space, "seeds": [0, 1, 2, 3], "first_seeds": 2, "score": "area_under_curve"}
    Run.open(root, kind="tuning", arm="", seed=0, parameters=parameters).stop()
    candidates = [(ratio, sizes) for ratio in space["min_offline_ratio"] for sizes in space["hidden_sizes"]]
    for number, (ratio, sizes) in enumerate(candidates):
        for seed in range(4 if ratio == 0.5 else 2):
            name, values = f"trial_{number:04d}", {"min_offline_ratio": ratio, "hidden_sizes": sizes}
            folder = root / "trials" / name / f"seed_{seed}"
            run = Run.open(folder, kind="finetune", arm=name, seed=seed, parameters=values)
            if failed and number == 0:
                run.fail("the disk is full")
                continue
            success = ratio + 0.1 * (sizes == [32]) + 0.05 * seed
            for step in (0, 100):
                run.record("online", step, 4 * step, {"evaluation/success_sampled": success})
            run.finish({})


def test_the_report_ranks_candidates_and_pictures_what_each_parameter_does(tmp_path):
    write_tuning(tmp_path)
    report = tuning_report(tmp_path)
    assert list(report.table.frame["candidate"][:3]) == ["trial_0005", "trial_0004", "trial_0003"]
    _, *values, point, low, high, n = report.table.frame.iloc[0]
    assert values == ["0.5", "[32]"]
    assert (n, point) == (4, pytest.approx(0.6 + 0.05 * 1.5))
    assert low < point < high
    assert "the luckiest" in str(report)
    ratio, sizes = report.figures["effects"].axes
    assert [ax.get_xlabel() for ax in (ratio, sizes)] == ["min_offline_ratio", "hidden_sizes"]
    # The mean over all candidates of a value is that of the first seeds: later ones are for the better only.
    for ax, means in ((ratio, [0.075, 0.325, 0.575]), (sizes, [0.275, 0.375])):
        (line,) = [line for line in ax.lines if line.get_marker() == "D"]
        assert line.get_ydata() == pytest.approx(means)
        assert sum(line.get_marker() == "o" for line in ax.lines) == 6
    (cells,) = report.figures["interaction"].axes
    assert [text.get_text() for text in cells.texts] == ["0.03", "0.28", "0.53", "0.12", "0.38", "0.62"]
    assert (tmp_path / "trials.csv").read_text().count("\n") == 7


def test_a_candidate_that_failed_is_named_and_not_ranked(tmp_path):
    write_tuning(tmp_path, failed=True)
    report = tuning_report(tmp_path)
    assert list(report.table.frame["candidate"])[-1] == "trial_0000"
    assert "trial_0000 goes no further, a run failed: the disk is full" in report.table.notes
    assert report.figures["interaction"].axes[0].texts[0].get_text() == "–"


def test_the_report_of_another_run_is_refused(tmp_path):
    Run.open(tmp_path, kind="ablation", arm="", seed=0, parameters={})
    with pytest.raises(RunError, match="must hold a tuning, found a run of kind ablation"):
        tuning_report(tmp_path)
