"""Every notebook, executed with tiny parameters, and what it leaves on disk.

They are executed in this process; by the command line, in a kernel of their own, and longer, where the marker `slow`
says so.
"""

import ast
import csv
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from IPython.display import Video

from jobs_here import jobs_here
from notebooks_here import execute, figures
from synthetic_runs import write_ablation, write_finetune
from training_samples import TINY
from wsrl_kit.analysis.tables import Table
from wsrl_kit.analysis.tuning import read_trials
from wsrl_kit.cli import main
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.data.formats.hil_serl import write_hil_serl
from wsrl_kit.data.sources import load_sources
from wsrl_kit.envs.collect import collect
from wsrl_kit.errors import WSRLKitError
from wsrl_kit.hil_serl.checkpoint import import_hil_serl
from wsrl_kit.notebook import headless
from wsrl_kit.notebook.parameters import read_notebook
from wsrl_kit.runs import checkpoint
from wsrl_kit.runs.run import RunRecord, find_runs, read_run

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
ABLATION = TINY | {"seeds": [0], "worker_processes": 1, "frozen_rollout_steps": 20}


def tiny(notebook: str, changes: dict[str, Any]) -> dict[str, Any]:
    """The tiny parameters that the notebook has, with changes."""
    names = read_notebook(NOTEBOOKS / notebook).names
    return {name: value for name, value in TINY.items() if name in names} | changes


def run_notebook(notebook: Path, given: dict[str, Any], output_dir: Path) -> None:
    """As a user does it, by the command line."""
    command = [str(Path(sys.executable).parent / "wsrl-kit"), "run", str(notebook), "--out", str(output_dir)]
    for name, value in given.items():
        command += ["-p", name, str(value)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def figures_shown(executed: Path) -> int:
    """How many pictures a reader of the executed notebook sees; a figure that is shown as mere text is none."""
    cells = nbformat.read(executed, as_version=4).cells
    outputs = [output.data for cell in cells for output in cell.get("outputs", []) if "data" in output]
    assert all("image/png" in data for data in outputs if str(data.get("text/plain")).startswith("<Figure"))
    return sum("image/png" in data for data in outputs)


@pytest.fixture(scope="module")
def warmup(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """The folder of a warmup and what its notebook shows."""
    folder = tmp_path_factory.mktemp("warmup")
    given = tiny("01_offline_warmup.ipynb", {"offline_data_path": sources, "retention_ratio": 0.5})
    return folder, execute(NOTEBOOKS / "01_offline_warmup.ipynb", given, folder)


def test_collecting_leaves_three_sources_of_the_asked_size(tmp_path: Path) -> None:
    episodes = {"demo_episodes": 3, "suboptimal_episodes": 3, "random_episodes": 2}
    shown = execute(NOTEBOOKS / "00_collect_data.ipynb", episodes, tmp_path)
    dataset = load_sources(str(tmp_path))
    assert sorted(dataset.source_names) == ["demos", "random", "suboptimal"]
    assert dataset.episode_count == 8
    demos = dataset.episode_source == dataset.source_names.index("demos")
    assert dataset.episode_success[demos].tolist() == [1.0, 1.0, 1.0]
    assert read_run(tmp_path).summary["transitions"] == len(dataset)
    assert (tmp_path / "figures" / "sources.png").stat().st_size > 0
    assert figures(shown) == 2
    assert (tmp_path / "figures" / "episode.png").stat().st_size > 0


@pytest.mark.slow
def test_collecting_by_the_command_line_shows_the_same_figures(tmp_path: Path) -> None:
    run_notebook(NOTEBOOKS / "00_collect_data.ipynb", {"demo_episodes": 2, "suboptimal_episodes": 0}, tmp_path)
    assert figures_shown(tmp_path / "00_collect_data.ipynb") == 2
    assert (tmp_path / "00_collect_data.html").stat().st_size > 0


def test_warmup_leaves_its_metrics_checkpoint_and_the_kept_data(sources: Path, warmup: tuple[Path, list[Any]]) -> None:
    folder, shown = warmup
    record = read_run(folder)
    assert record.status == "finished"
    assert record.curve("evaluation/success_sampled", "warmup").gradient_step.tolist() == [50, 100, 150, 200]
    assert np.isfinite(record.curve("training/holdout_td_error", "warmup").value).all()
    kept = load_sources(str(folder / "filtered_demos.pkl"))
    assert len(kept) == len(load_sources(str(sources))) // 2 == record.summary["kept_transitions"]
    assert figures(shown) == 3
    for figure in ("warmup", "sources", "episode"):
        assert (folder / "figures" / f"{figure}.png").stat().st_size > 0


def test_finetuning_goes_on_from_the_warmup(warmup: tuple[Path, list[Any]], tmp_path: Path) -> None:
    folder, _ = warmup
    given = {"checkpoint_path": folder / "warmup.npz", "demo_path": folder / "filtered_demos.pkl"}
    shown = execute(NOTEBOOKS / "02_robot_finetune.ipynb", tiny("02_robot_finetune.ipynb", given), tmp_path)
    record = read_run(tmp_path)
    evaluations = record.curve("evaluation/success_deterministic")
    assert evaluations.environment_step.tolist() == [0, 40, 80, 100]
    assert evaluations.gradient_step.tolist() == [200, 200 + 2 * 40, 200 + 2 * 80, 200 + 2 * 100]
    ratio = record.curve("training/offline_ratio")
    np.testing.assert_allclose(ratio.value, np.maximum(0.5, 0.999 ** (ratio.environment_step - 1.0)), rtol=1e-5)
    assert len(record.curve("switch/q_offline_probe")) == 1 + 100 // 7
    assert figures(shown) == 2
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"finetune.png", "schedules.png"}
    (clip,) = [each for each in shown if isinstance(each, Video)]
    assert clip.embed and Path(clip.filename) == tmp_path / "videos" / "clip.mp4"


@pytest.mark.slow
def test_finetuning_starts_from_nothing_on_any_gymnasium_id(tmp_path: Path) -> None:
    given = {"exp_name": "Pendulum-v1", "random_steps": 30, "online_steps": 60, "environment_options": {}}
    given = tiny("02_robot_finetune.ipynb", given)
    run_notebook(NOTEBOOKS / "02_robot_finetune.ipynb", given, tmp_path)
    record = read_run(tmp_path)
    assert np.isnan(record.curve("evaluation/success_sampled").value).all()
    assert (record.curve("evaluation/return_sampled").value < 0).all()
    assert record.curve("training/offline_ratio").value.max() == 0


@pytest.mark.slow
@pytest.mark.usefixtures("opengl")
def test_all_three_stages_on_rendered_images(tmp_path: Path) -> None:
    task = {
        "exp_name": "hirol_fixed_gripper_pixels",
        "environment_options": {"max_episode_steps": 12, "image_size": 16},
    }
    episodes = {"demo_episodes": 2, "suboptimal_episodes": 2, "random_episodes": 1}
    data, warmup, online = (tmp_path / name for name in ("data", "warmup", "online"))
    run_notebook(NOTEBOOKS / "00_collect_data.ipynb", task | episodes, data)
    assert figures_shown(data / "00_collect_data.ipynb") == 3
    dataset = load_sources(str(data))
    assert {name: frames.shape[1:] for name, frames in dataset.images.items()} == {
        "wrist_1": (16, 16, 3),
        "wrist_2": (16, 16, 3),
    }
    learning = task | {"hidden_sizes": [16], "batch_size": 8, "evaluation_episodes": 1, "augmentation_padding": 1}
    steps = {"warmup_steps": 6, "warmup_evaluation_interval": 6, "log_interval": 3}
    run_notebook(NOTEBOOKS / "01_offline_warmup.ipynb", learning | steps | {"offline_data_path": str(data)}, warmup)
    assert figures_shown(warmup / "01_offline_warmup.ipynb") == 4
    assert (warmup / "figures" / "cameras.png").stat().st_size > 0
    kept = {"checkpoint_path": str(warmup / "warmup.npz"), "demo_path": str(warmup / "filtered_demos.pkl")}
    steps = {"online_steps": 10, "evaluation_interval": 10, "log_interval": 5, "update_to_data_ratio": 1}
    run_notebook(NOTEBOOKS / "02_robot_finetune.ipynb", learning | steps | kept, online)
    record = read_run(online)
    assert record.status == "finished"
    assert np.isfinite(record.curve("switch/q_online").value).all()
    assert {path.name for path in (online / "figures").iterdir()} == {"cameras.png", "finetune.png", "schedules.png"}


CLASSIFIER = {
    "demo_episodes": 12,
    "suboptimal_episodes": 4,
    "random_episodes": 1,
    "success_frames": 3,
    "classifier_steps": 200,
    "learning_rate": 3e-3,
    "max_false_positive_rate": 0.1,
}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """The folder of a classifier and what its notebook shows."""
    folder = tmp_path_factory.mktemp("classifier")
    options = {"max_episode_steps": 40, "reset_height": 0.012, "difficulty": "easy"}
    given = CLASSIFIER | {"environment_options": options, "hidden_sizes": [16]}
    return folder, execute(NOTEBOOKS / "07_reward_classifier.ipynb", given, folder)


def test_a_reward_classifier_is_recorded_trained_and_judged(classifier: tuple[Path, list[Any]]) -> None:
    folder, shown = classifier
    record = read_run(folder)
    assert record.status == "finished"
    validation = np.loadtxt(folder / "validation.csv", delimiter=",", skiprows=1)
    assert (validation[:, 2] == 1).sum() == record.summary["validation_successes"] > 0
    assert ((validation[:, 3] >= 0) & (validation[:, 3] <= 1)).all()
    taken = validation[validation[:, 3] >= record.summary["threshold"], 2]
    assert record.summary["precision"] == pytest.approx(taken.mean())
    loaded = load_sources(str(folder / "success.pkl"))
    assert len(loaded) == record.summary["validation_successes"] + record.summary["training_successes"]
    assert figures(shown) == 3
    saved = {path.name for path in (folder / "figures").iterdir()}
    assert saved == {"learning.png", "thresholds.png", "lookalikes.png"}


@pytest.mark.slow
def test_finetuning_takes_its_reward_from_a_classifier(classifier: tuple[Path, list[Any]], tmp_path: Path) -> None:
    given = {"reward_classifier": str(classifier[0] / "classifier.npz"), "random_steps": 60}
    given = tiny("02_robot_finetune.ipynb", given)
    run_notebook(NOTEBOOKS / "02_robot_finetune.ipynb", given, tmp_path)
    record = read_run(tmp_path)
    # What the classifier says is both the success and the reward of the episodes that are learned from.
    success, rewards = record.curve("training/episode_success"), record.curve("training/episode_return")
    assert len(success) > 0
    np.testing.assert_array_equal(success.value, rewards.value)


HIL_SERL = {
    "hidden_sizes": [16],
    "batch_size": 16,
    "environment_options": {"difficulty": "easy"},
    "robot_port": 0,
    "seeds": [0],
    "demonstrations": 3,
    "human_options": {"patience_steps": 3},
    "warmup_steps": 60,
    "warmup_evaluation_interval": 30,
    "online_steps": 60,
    "frozen_rollout_steps": 20,
    "log_interval": 20,
    "final_episodes": 1,
}


def run_hil_serl(folder: Path, arms: list[str]) -> dict[str, RunRecord]:
    """The runs by arm; each leaves its test and a checkpoint for HIL-SERL."""
    # From 1.5 cm above the hole, always at the same place.
    robot = {"random_xy_range": 0.0, "random_z_range": 0.0, "random_rz_range": 0.0, "max_episode_steps": 20}
    robot |= {"reset_pose": [0.5, 0.0, 0.165, float(np.pi), 0.0, 0.0]}
    recorded = {"demo_episodes": 6, "suboptimal_episodes": 2, "random_episodes": 1, "success_frames": 3}
    learning = {"classifier_steps": 60, "hidden_sizes": [16], "max_false_positive_rate": 0.1}
    given = HIL_SERL | {"robot_options": robot, "classifier_options": recorded | learning, "arms": arms}
    shown = execute(NOTEBOOKS / "08_hil_serl.ipynb", given, folder)
    assert read_run(folder).status == "finished"
    assert figures(shown) == 2
    trained = {record.arm: record for record in find_runs(folder) if record.kind == "finetune"}
    assert trained.keys() == set(arms)
    for record in trained.values():
        # Both the classifier's word and the simulation's are kept, of training and of the policy alone, and what the
        # classifier takes for a success the simulation confirms.
        success, truth = (record.curve(f"training/episode_{name}").value for name in ("success", "task_success"))
        assert len(truth) == len(success) == len(record.curve("training/episode_denied_successes")) > 0
        assert (success <= truth).all()
        test = read_run(record.folder / "test")
        assert (test.status, len(test.curve("evaluation/task_success_deterministic"))) == ("finished", 1)
        (exported,) = (record.folder / "hil_serl").iterdir()
        imported = folder / f"{record.arm}.npz"
        assert import_hil_serl(exported, imported).observation_size == 19
        paths = (record.folder / "checkpoint.npz", imported)
        ours, theirs = (checkpoint.read(path, "agent/updates")["agent/updates"] for path in paths)
        assert ours == theirs > 0
    return trained


def test_hil_serl_whole_leaves_a_test_and_a_checkpoint_for_hil_serl(tmp_path: Path) -> None:
    (record,) = run_hil_serl(tmp_path, ["hil_serl"]).values()
    assert record.curve("training/episode_intervention_steps").value.sum() > 0


@pytest.mark.slow
def test_hil_serl_whole_differs_between_its_arms_as_they_say(tmp_path: Path) -> None:
    trained = run_hil_serl(tmp_path, ["hil_serl", "no_warmup", "no_interventions", "no_demos"])
    helped = {name: record.curve("training/episode_intervention_steps").value.sum() for name, record in trained.items()}
    assert helped.pop("no_interventions") == 0 < min(helped.values())
    warmups = {name: record.parameters["checkpoint_path"] for name, record in trained.items()}
    assert warmups["hil_serl"] == warmups["no_interventions"] == str(tmp_path / "warmup" / "seed_0" / "warmup.npz")
    assert warmups["no_demos"] is warmups["no_warmup"] is trained["no_demos"].parameters["demo_path"] is None
    assert trained["no_warmup"].parameters["demo_path"] == {"demos": [str(tmp_path / "data" / "demos.pkl")]}
    # Actions are held to the demonstrations ever less after a warmup, and nothing pulls where there was none.
    weights = {name: WSRLConfig(**record.parameters).clones_online for name, record in trained.items()}
    assert weights == {"hil_serl": True, "no_warmup": False, "no_interventions": True, "no_demos": False}


ARMS = ["rlpd_all", "rlpd_demos", "scratch", "warmup_decay", "warmup_wsrl"]
FIGURES = {"learning_curves", "sample_efficiency", "safety_and_memory", "switch", "sources"}


def assert_reported(folder: Path, arms: list[str], seeds: list[int]) -> None:
    """Every run of an ablation is finished and in its report."""
    records = [record for record in find_runs(folder) if record.kind == "finetune"]
    assert {record.status for record in records} == {"finished"}
    assert {(record.arm, record.seed) for record in records} == {(arm, seed) for arm in arms for seed in seeds}
    assert {record.curve("evaluation/success_sampled").environment_step[-1] for record in records} == {100}
    with open(folder / "per_seed.csv") as file:
        assert len(list(csv.DictReader(file))) == len(arms) * len(seeds)
    assert f"n = {len(seeds)}" in (folder / "summary.txt").read_text()
    assert (folder / "differences.csv").exists()
    assert {path.stem for path in (folder / "figures").iterdir()} >= FIGURES


def test_the_two_notebooks_of_variants_have_the_same_cells_after_their_parameters() -> None:
    replay, regularisers = (
        [cell.source for cell in nbformat.read(NOTEBOOKS / name, 4).cells if cell.cell_type == "code"]
        for name in ("05_ablate_replay.ipynb", "06_regularisers.ipynb")
    )
    assert replay[1:] == regularisers[1:]


@pytest.mark.slow
def test_an_ablation_of_a_task_without_success_is_of_its_return(tmp_path: Path) -> None:
    options = {"max_episode_steps": 20}
    write_hil_serl(tmp_path / "random.pkl", collect("Pendulum-v1", options, "random", episodes=2, seed=0))
    given = ABLATION | {"exp_name": "Pendulum-v1", "environment_options": options, "target_return": -1.0}
    given |= {"offline_data_path": tmp_path / "random.pkl", "arms": ["scratch"], "control": "scratch"}
    with jobs_here():
        shown = execute(NOTEBOOKS / "03_ablation_warmup.ipynb", given, tmp_path)
    (summary,) = [each for each in shown if isinstance(each, Table) and each.title.startswith("Summary")]
    assert {"Steps to return -1", "Final return", "Return at switch", "Dip after switch"} < set(summary.shown)
    assert "–" not in set(summary.shown.loc[0])


@pytest.mark.slow
def test_an_ablation_of_all_arms_in_worker_processes(sources: Path, tmp_path: Path) -> None:
    given = ABLATION | {"offline_data_path": str(sources), "arms": ARMS, "seeds": [0, 1], "worker_processes": 2}
    run_notebook(NOTEBOOKS / "03_ablation_warmup.ipynb", given, tmp_path)
    assert_reported(tmp_path, ARMS, [0, 1])
    assert figures_shown(tmp_path / "03_ablation_warmup.ipynb") == 6


def test_a_report_on_any_runs_leaves_its_tables_and_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, output = tmp_path / "runs", tmp_path / "report"
    write_ablation(runs, ("rlpd_all", "warmup_decay"), seeds=2, budget=600)
    write_finetune(runs / "warmup_decay" / "seed_2", "warmup_decay", 2, last_step=200)
    shown: list[Any] = []

    def run_here(notebook: Path, given: dict[str, Any], output_dir: Path) -> Path:
        shown.extend(execute(notebook, given, output_dir))
        return output_dir / notebook.name

    monkeypatch.setattr(headless, "run_notebook", run_here)
    assert main(["report", f"{runs}/*/seed_*", "--control=rlpd_all", "--out", str(output)]) == 0
    assert "seed 2 running after step 200" in capsys.readouterr().out
    record = read_run(output)
    assert (record.kind, record.status, record.summary) == ("report", "finished", {"runs": 5, "control": "rlpd_all"})
    with open(output / "per_seed.csv") as file:
        assert len(list(csv.DictReader(file))) == 5
    with open(output / "summary.csv") as file:
        assert [row["n"] for row in csv.DictReader(file)] == ["2", "2"]
    for name in ("summary.txt", "summary.md", "differences.csv", "report.tex"):
        assert (output / name).stat().st_size > 0
    assert figures(shown) == len(list((output / "figures").glob("*.png"))) == 8
    # One run of another task among them, and there is no report.
    write_finetune(runs / "rlpd_all" / "seed_2", "rlpd_all", 2, exp_name="Pendulum-v1")
    sentence = f"found hirol_fixed_gripper in {runs}/rlpd_all/seed_0 and Pendulum-v1 in {runs}/rlpd_all/seed_2"
    with pytest.raises(WSRLKitError, match=f"^all runs of a report must be of one task, {re.escape(sentence)}$"):
        execute(NOTEBOOKS / "90_report.ipynb", {"runs": f"{runs}/*/seed_*"}, tmp_path / "refused")
    assert not (tmp_path / "refused" / "run.json").exists()


def test_exploring_writes_the_table_of_all_runs_and_the_curves_of_the_first(tmp_path: Path) -> None:
    write_ablation(tmp_path / "runs", ("rlpd_all",), seeds=2, budget=400)
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "run.json").write_text("")
    given = {"runs_folder": tmp_path / "runs", "smoothing": 0.5}
    shown = execute(NOTEBOOKS / "91_explore.ipynb", given, tmp_path / "out")
    (table,) = (each for each in shown if isinstance(each, Table))
    assert table.frame["folder"].tolist()[0] == "broken"
    assert len(table.frame) == 5
    assert figures(shown) == len(list((tmp_path / "out" / "figures").glob("curves.png"))) == 1
    assert "broken: " in (tmp_path / "out" / "summary.txt").read_text()
    assert (read_run(tmp_path / "out").status, read_run(tmp_path / "out").summary) == ("finished", {"runs": 5})


def ablated(notebook: str, variants: dict[str, Any], sources: Path, folder: Path) -> list[Any]:
    """The runs that an ablation of two variants leaves, once its report is there too."""
    given = ABLATION | {"offline_data_path": str(sources), "variants": variants}
    given |= {"arms": list(variants), "control": next(iter(variants))}
    run_notebook(NOTEBOOKS / notebook, given, folder)
    assert_reported(folder, list(variants), [0])
    assert figures_shown(folder / notebook) >= 4
    return [read_run(folder / arm / "seed_0") for arm in variants]


@pytest.mark.slow
def test_replay_and_retention_are_ablated_from_one_warmup(sources: Path, tmp_path: Path) -> None:
    variants = {"keep_random": {"retention_priority": "random"}, "uniform": {"use_prioritized_replay": False}}
    first, second = ablated("05_ablate_replay.ipynb", variants, sources, tmp_path)
    assert first.parameters["checkpoint_path"] == second.parameters["checkpoint_path"]
    kept = [load_sources(record.parameters["demo_path"]) for record in (first, second)]
    assert len(kept[0]) == len(kept[1])
    assert not np.array_equal(kept[0].actions, kept[1].actions)
    assert [len(record.curve("training/priority_beta")) > 0 for record in (first, second)] == [True, False]


@pytest.mark.slow
def test_regularisers_are_ablated_from_a_warmup_each(sources: Path, tmp_path: Path) -> None:
    calql = {"conservative_loss": "calql", "cql_actions": 2}
    variants = {"calql": calql, "early_stopping": {"early_stopping_patience": 1}}
    first, second = ablated("06_regularisers.ipynb", variants, sources, tmp_path)
    warmups = [read_run(Path(record.parameters["checkpoint_path"]).parent) for record in (first, second)]
    assert [len(warmup.curve("training/conservative_gap", "warmup")) > 0 for warmup in warmups] == [True, False]
    assert [warmup.parameters["early_stopping_patience"] for warmup in warmups] == [0, 1]


def test_tuning_ranks_its_candidates_and_confirms_the_winner(sources: Path, tmp_path: Path) -> None:
    given = TINY | {"offline_data_path": str(sources), "seeds": [0], "first_seeds": 1, "finalists": 1}
    given |= {"warmup_steps": 60, "warmup_evaluation_interval": 60, "online_steps": 50, "retention_ratio": 0.5}
    given |= {"search_space": {"min_offline_ratio": [0.0, 0.5]}, "confirmation_seeds": [9]}
    with jobs_here():
        shown = execute(NOTEBOOKS / "04_tuning.ipynb", given, tmp_path)
    assert figures(shown) == 2
    scores = {trial.name: trial.score([0]) for trial in read_trials(tmp_path)}
    assert len(scores) == 2
    assert scores[read_run(tmp_path).summary["winner"]] == max(scores.values())
    assert read_run(tmp_path / "confirmation" / "winner" / "seed_9").status == "finished"
    assert (tmp_path / "confirmation" / "differences.csv").exists()


@pytest.mark.slow
def test_tuning_goes_on_after_a_kill_and_confirms_the_winner(sources: Path, tmp_path: Path) -> None:
    given = TINY | {"offline_data_path": str(sources), "seeds": [0, 1], "first_seeds": 1, "finalists": 2}
    given |= {"search_space": {"min_offline_ratio": [0.0, 0.5], "offline_decay_rate": [0.9, 0.99]}}
    given |= {"confirmation_seeds": [9], "retention_ratio": 0.5}
    command = [str(Path(sys.executable).parent / "wsrl-kit"), "tuning", "--out", str(tmp_path)]
    command += [f"--{name}={value}" for name, value in given.items()]
    first_run = tmp_path / "trials" / "trial_0000" / "seed_0" / "run.json"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not (first_run.exists() and '"finished"' in first_run.read_text()):
            time.sleep(0.05)
        process.terminate()
    assert process.returncode == 128 + signal.SIGTERM
    before = first_run.stat().st_mtime_ns
    run_notebook(NOTEBOOKS / "04_tuning.ipynb", given, tmp_path)
    assert first_run.stat().st_mtime_ns == before
    record = read_run(tmp_path)
    trials = {trial.name: trial for trial in read_trials(tmp_path)}
    assert sorted(tuple(trial.values.values()) for trial in trials.values()) == [
        (floor, rate) for floor in (0.0, 0.5) for rate in (0.9, 0.99)
    ]
    # Of four candidates on the first seed the two finalists get the second; the winner is the better of these.
    longest = [name for name, trial in trials.items() if set(trial.scores) == {0, 1}]
    assert len(longest) == 2
    others = trials.keys() - set(longest)
    assert min(trials[name].scores[0] for name in longest) >= max(trials[name].scores[0] for name in others)
    assert record.summary["winner"] == max(longest, key=lambda name: trials[name].score([0, 1]))
    winner = trials[record.summary["winner"]]
    confirmed = read_run(tmp_path / "confirmation" / "winner" / "seed_9")
    assert {name: confirmed.parameters[name] for name in winner.values} == winner.values
    assert (tmp_path / "confirmation" / "differences.csv").exists()
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"effects", "interaction"}
    with open(tmp_path / "trials.csv") as file:
        assert next(csv.DictReader(file))["candidate"] == winner.name


@pytest.mark.parametrize("notebook", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_are_committed_without_outputs_and_stay_small(notebook: Path) -> None:
    cells = nbformat.read(notebook, as_version=4).cells
    assert len(cells) <= 25
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


@pytest.mark.parametrize("notebook", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_cells_use_the_checked_parameters_and_not_what_was_typed(notebook: Path) -> None:
    # What was typed may be a text of papermill's, or a path that begins with ~.
    code = [cell.source for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    assert code[1].startswith("%matplotlib inline\n")
    for source in code[1:]:
        flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        tree = compile(source.replace("%matplotlib inline", ""), notebook.name, "exec", flags)
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert not names & {*read_notebook(notebook).names}


@pytest.mark.parametrize("notebook", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_lists_few_parameters_each_with_a_comment(notebook: Path) -> None:
    described = read_notebook(notebook)
    assert len(described.defaults.keys() - {"more"}) <= 15
    assert described.defaults.keys() - {"more"} <= described.fields.keys()
    (cell,) = (cell for cell in nbformat.read(notebook, 4).cells if "parameters" in cell.metadata.get("tags", []))
    assert all("  # " in line for line in cell.source.splitlines() if re.match(r"\w+: ", line))
