"""Tuning of any parameters: many candidates on few seeds, the better half on more, the winner on fresh ones.

Everything is on disk: finished runs are kept, so a tuning that was stopped or killed goes on where it was.
"""

import itertools
import math
import shutil
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_type_hints

from wsrl_kit.analysis.tuning import CONFIRMATION, TRIALS, read_trials
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.errors import RunError
from wsrl_kit.experiments.ablation import padded, plan, run_ablation, with_files
from wsrl_kit.experiments.config import AblationConfig, TuningConfig
from wsrl_kit.experiments.engine import finished, run_jobs
from wsrl_kit.runs.progress import NamedProgress, Progress, outcome_recorded
from wsrl_kit.runs.run import Run
from wsrl_kit.training.inputs import input_digests

STUDY_FILE = "study.log"
"""Optuna's journal, beside the trials."""


def run_tuning(config: WSRLConfig, tuning: TuningConfig, root: Path, progress: Progress, resume: bool = True) -> None:
    """Runs what is not finished yet: candidates in `root/trials/<candidate>/seed_<n>`, then the confirmation.

    Successive halving (Jamieson and Talwalkar 2016, section 3) over seeds; a candidate of which a run fails goes no
    further. The confirmation is an ablation of its own in `root/confirmation`: arms `default` and `winner`.

    Args:
        config: parameters that all candidates share; what is tuned is replaced.
        resume: continue what is there; False throws away an earlier tuning in the folder.

    Raises:
        Stopped: the user stopped it; what is finished stays finished, and the rest resumes.
        RunError: no candidate is left, or a worker process died.
        WSRLKitError: the data or parameters are bad.
    """
    config, transitions = with_files(config)
    parameters = asdict(config) | {name: value for name, value in asdict(tuning).items() if name != "worker_processes"}
    inputs = input_digests(config, "tuning")
    if resume and finished(root, parameters, inputs):
        return
    run = Run.open(root, kind="tuning", arm="", seed=0, parameters=parameters, inputs=inputs, resume=resume)
    with outcome_recorded(run, progress) as progress:
        if not resume:
            for folder in (TRIALS, CONFIRMATION):
                shutil.rmtree(root / folder, ignore_errors=True)
        candidates: dict[str, dict[str, Any]] = {}
        stages = (f"stage {number} of {tuning.stages}" for number in range(1, tuning.stages + 1))

        def evaluate(names: Iterable[str], seeds: list[int]) -> None:
            # All candidates are told of, since a warmup that several share is named after the first.
            ablation = AblationConfig(arms=list(names), variants=candidates, base_arm=tuning.base_arm, seeds=seeds)
            jobs = plan(config, ablation, root / TRIALS, padded(transitions))
            name = f"{next(stages)}, {len(ablation.arms)} candidates on {len(seeds)} seeds"
            run_jobs(jobs, tuning.worker_processes, NamedProgress(progress, name))

        first = tuning.seeds[: tuning.first_seeds]
        for more in _grid(tuning) if tuning.method == "grid" else _suggestions(tuning, root):
            candidates |= more
            evaluate(more, first)
        names, seeds = list(candidates), first
        for size in tuning.rungs[1:]:
            names, seeds = _best(root, names, seeds, -(-len(names) // 2)), tuning.seeds[:size]
            evaluate(names, seeds)
        (winner,) = _best(root, names, seeds, 1)
        if tuning.confirmation_seeds:
            variants: dict[str, dict] = {"default": {}, "winner": candidates[winner]}
            ablation = AblationConfig(
                arms=list(variants),
                variants=variants,
                base_arm=tuning.base_arm,
                seeds=tuning.confirmation_seeds,
                control="default",
                worker_processes=tuning.worker_processes,
            )
            named = NamedProgress(progress, f"{next(stages)}, confirmation")
            run_ablation(config, ablation, root / CONFIRMATION, named)
        run.finish({"winner": winner, "candidates": len(candidates), "transitions": transitions})


def _best(root: Path, names: Collection[str], seeds: Sequence[int], count: int) -> list[str]:
    """The candidates among these with the highest scores on the seeds; of equal ones the earlier.

    Raises:
        RunError: not one has a score.
    """
    trials = read_trials(root)
    scores = {trial.name: trial.score(seeds) for trial in trials if trial.name in names}
    scored = [name for name, score in scores.items() if math.isfinite(score)]
    if not scored:
        reason = next((trial.message for trial in trials if trial.message), "the task does not measure what is tuned")
        raise RunError(f"none of {len(names)} candidates has a score on seeds {list(seeds)}: {reason}")
    return sorted(scored, key=lambda name: -scores[name])[:count]


def _name(number: int) -> str:
    return f"trial_{number:04d}"


def _grid(tuning: TuningConfig) -> list[dict[str, dict[str, Any]]]:
    combinations = itertools.product(*tuning.search_space.values())
    names = tuning.search_space
    return [{_name(n): dict(zip(names, values, strict=True)) for n, values in enumerate(combinations)}]


def _suggestions(tuning: TuningConfig, root: Path) -> Iterator[dict[str, dict[str, Any]]]:
    """Candidates as Optuna suggests them, some at a time, which learns their scores before the next.

    What it suggests follows from `search_seed` and the scores so far alone, in one session as in several.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    (root / TRIALS).mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        journal = JournalFileBackend(str(root / TRIALS / STUDY_FILE))
        storage = optuna.storages.JournalStorage(journal)
        study = optuna.create_study(storage=storage, study_name="tuning", direction="maximize", load_if_exists=True)
    distributions = {name: _distribution(name, values) for name, values in tuning.search_space.items()}
    for start in range(0, tuning.trials, tuning.parallel_trials):
        end = min(start + tuning.parallel_trials, tuning.trials)
        for number in range(len(study.trials), end):
            study.sampler = optuna.samplers.TPESampler(seed=tuning.search_seed * tuning.trials + number)
            study.ask(distributions)
        batch = {trial.number: _values(trial.params, tuning.search_space) for trial in study.trials[start:end]}
        yield {_name(number): values for number, values in batch.items()}
        scores = {trial.name: trial.score(tuning.seeds[: tuning.first_seeds]) for trial in read_trials(root)}
        for trial in study.trials[start:end]:
            score = scores.get(_name(trial.number), math.nan)
            if not trial.state.is_finished():
                failed = optuna.trial.TrialState.FAIL
                study.tell(trial.number, score) if math.isfinite(score) else study.tell(trial.number, state=failed)


def _distribution(name: str, values: Any) -> Any:
    """Optuna's distribution of a parameter; of a list it chooses the place, since entries may be lists themselves."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(values, list):
        return CategoricalDistribution(tuple(range(len(values))))
    kinds = {int: IntDistribution, float: FloatDistribution}
    return kinds[get_type_hints(WSRLConfig)[name]](values["low"], values["high"], log=values["log"])


def _values(suggested: Mapping[str, Any], space: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: values[suggested[name]] if isinstance(values, list) else suggested[name] for name, values in space.items()
    }
