"""Tuning: all candidates on few seeds, the best ones on all, the winner on fresh ones."""

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from training_samples import StopAt, settings
from wsrl_kit.analysis.tuning import read_trials, tuning_report
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.errors import ExperimentError, ParameterError, RunError, Stopped
from wsrl_kit.experiments import tuning as tuning_module
from wsrl_kit.experiments.config import TuningConfig
from wsrl_kit.experiments.tuning import run_tuning
from wsrl_kit.runs.progress import Silent
from wsrl_kit.runs.run import Run, read_run

SPACE = {
    "min_offline_ratio": {"low": 0.0, "high": 0.5},
    "offline_decay_rate": {"low": 0.1, "high": 1.0, "log": True},
    "initial_offline_ratio": [0.5, 1.0],
}


def tpe_config(sources: Path) -> tuple[WSRLConfig, TuningConfig]:
    config = settings(offline_data_path=str(sources), retention_ratio=0.3)
    return config, TuningConfig(
        search_space=SPACE, method="tpe", trials=2, parallel_trials=1, seeds=[0], first_seeds=1,
        confirmation_seeds=[], search_seed=1, score="final_return", worker_processes=1,
    )  # fmt: skip


@pytest.mark.slow
def test_tpe_goes_on_after_a_stop_and_suggests_the_same_again_from_the_same_scores(sources, tmp_path):
    config, tuning = tpe_config(sources)
    progress = StopAt(1)
    with pytest.raises(Stopped):
        run_tuning(config, tuning, tmp_path, progress)
    assert any(text.startswith("stage 1 of 3, 1 candidates on 1 seeds: run ") for text in progress.texts)
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
        ({"method": "tpe", "search_space": {"discount": {"low": 0.9}}}, "must be a list, or low and high"),
        ({"method": "tpe", "search_space": {"discount": {"low": 0.9, "high": 0.5}}}, "numbers low < high"),
        ({"method": "tpe", "search_space": {"discount": {"low": 0, "high": 1, "log": True}}}, "above 0 where log"),
        ({"first_seeds": 9}, "first_seeds must be at most 8, found 9"),
        ({"confirmation_seeds": [3, 100]}, r"confirmation_seeds must be none of seeds, found \[3\] in both"),
    ],
)
def test_a_bad_search_is_one_sentence(changes, sentence):
    with pytest.raises(ParameterError, match=sentence):
        TuningConfig(**changes)


def test_without_optuna_tuning_is_refused_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ExperimentError, match=r"tuning needs optuna, which `pip install 'wsrl-kit\[tuning\]'` installs"
    ):
        TuningConfig()


SEEDS = {"seeds": [0, 1, 2, 3], "first_seeds": 2}


def without_training(
    monkeypatch: pytest.MonkeyPatch, kill_at: int = 0, broken: str = ""
) -> Callable[[TuningConfig, Path], list[tuple[int, list[int]]]]:
    """Returns a tuning whose runs score by their values, without any work, and which tells its stages.

    Args:
        kill_at: a number of jobs, after which the first session ends.
        broken: a candidate whose runs fail.
    """
    stages: list[tuple[int, list[int]]] = []
    done = itertools.count(1)

    def run_jobs(jobs: Any, client: None, progress: Any) -> list[str]:
        finetunes = [job for job in jobs if job.kind == "finetune"]
        stages.append((len({job.arm for job in finetunes}), sorted({job.config.seed for job in finetunes})))
        for job in finetunes:
            if (job.folder / "run.json").exists():
                continue
            values = {"min_offline_ratio": job.config.min_offline_ratio, "hidden_sizes": job.config.hidden_sizes}
            run = Run.open(job.folder, kind="finetune", arm=job.arm, seed=job.config.seed, parameters=values)
            if job.arm == broken:
                run.fail("the disk is full")
                continue
            for step in (0, 100):
                success = job.config.min_offline_ratio + 0.01 * job.config.seed
                run.record("online", step, 4 * step, {"evaluation/success_sampled": success})
            run.finish({})
            if next(done) == kill_at:
                raise KeyboardInterrupt
        return []

    monkeypatch.setattr(tuning_module, "connected", lambda *arguments, **options: nullcontext())
    monkeypatch.setattr(tuning_module, "run_jobs", run_jobs)
    monkeypatch.setattr(tuning_module, "with_files", lambda config: (config, 10))

    def tune(tuning: TuningConfig, folder: Path) -> list[tuple[int, list[int]]]:
        stages.clear()
        run_tuning(settings(offline_data_path={"demos": []}, hidden_sizes=[8]), tuning, folder, Silent())
        return list(stages)

    return tune


def test_of_a_grid_every_combination_gets_the_first_seeds_and_the_finalists_all(tmp_path, monkeypatch):
    space = {"min_offline_ratio": [0.0, 0.25, 0.5], "hidden_sizes": [[16], [32]]}
    tuning = TuningConfig(search_space=space, finalists=2, confirmation_seeds=[], **SEEDS)
    assert without_training(monkeypatch)(tuning, tmp_path) == [(6, [0, 1]), (2, [0, 1, 2, 3])]
    trials = read_trials(tmp_path)
    combinations = [(ratio, sizes) for ratio in space["min_offline_ratio"] for sizes in space["hidden_sizes"]]
    assert sorted(tuple(trial.values.values()) for trial in trials) == combinations
    finalists = [trial for trial in trials if set(trial.scores) == {0, 1, 2, 3}]
    assert [trial.values["min_offline_ratio"] for trial in finalists] == [0.5, 0.5]
    assert read_run(tmp_path).summary["winner"] == finalists[0].name


@pytest.mark.parametrize("method", ["grid", "tpe"])
def test_a_search_that_was_killed_has_the_same_candidates_and_winner(tmp_path, monkeypatch, method):
    space = {"min_offline_ratio": [0.0, 0.1, 0.2, 0.3], "hidden_sizes": [[16], [32]]}
    if method == "tpe":
        space["min_offline_ratio"] = {"low": 0.0, "high": 0.5}
    tuning = TuningConfig(
        search_space=space, method=method, trials=12, parallel_trials=4, confirmation_seeds=[], **SEEDS
    )
    without_training(monkeypatch)(tuning, tmp_path / "whole")
    tune = without_training(monkeypatch, kill_at=9)
    with pytest.raises(KeyboardInterrupt):
        tune(tuning, tmp_path / "killed")
    tune(tuning, tmp_path / "killed")
    assert read_trials(tmp_path / "killed") == read_trials(tmp_path / "whole")
    assert read_run(tmp_path / "killed").summary == read_run(tmp_path / "whole").summary


def test_a_candidate_of_which_a_run_fails_is_no_finalist(tmp_path, monkeypatch):
    space = {"min_offline_ratio": [0.0, 0.25, 0.5]}
    tuning = TuningConfig(search_space=space, finalists=3, confirmation_seeds=[], **SEEDS)
    assert without_training(monkeypatch, broken="trial_0001")(tuning, tmp_path) == [(3, [0, 1]), (2, [0, 1, 2, 3])]


def test_where_every_candidate_fails_one_of_the_reasons_is_told(tmp_path, monkeypatch):
    tuning = TuningConfig(search_space={"min_offline_ratio": [0.5]}, confirmation_seeds=[], **SEEDS)
    with pytest.raises(RunError, match="none of 1 candidates has a score on seeds .*: the disk is full"):
        without_training(monkeypatch, broken="trial_0000")(tuning, tmp_path)


def write_tuning(root: Path, failed: bool = False, metric: str = "success", scale: float = 1.0) -> None:
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
                run.record("online", step, 4 * step, {f"evaluation/{metric}_sampled": scale * success})
            run.finish({})


def test_the_report_ranks_candidates_and_pictures_what_each_parameter_does(tmp_path):
    write_tuning(tmp_path)
    report = tuning_report(tmp_path)
    assert list(report.table.frame["candidate"][:3]) == ["trial_0005", "trial_0004", "trial_0003"]
    _, *values, point, low, high, n = report.table.frame.iloc[0]
    assert values == ["0.5", "[32]"]
    assert (n, point) == (4, pytest.approx(0.6 + 0.05 * 1.5))
    assert low < point < high
    assert "the luckiest" in str(report.table)
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


def test_without_success_the_area_is_that_of_the_return(tmp_path):
    write_tuning(tmp_path, metric="return", scale=1000.0)
    report = tuning_report(tmp_path)
    assert list(report.table.shown["Candidate"][:2]) == ["trial_0005", "trial_0004"]
    assert report.table.shown["Area under curve"][0].startswith("675 [")
    (cells,) = report.figures["interaction"].axes
    assert [text.get_text() for text in cells.texts] == ["25.0", "275", "525", "125", "375", "625"]


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
