"""Tuning of any parameters: all candidates on few seeds, the best ones on all, the winner on fresh ones.

Optuna suggests the candidates. Everything is on disk, so a tuning that was stopped or killed goes on where it was.
"""

import math
import shutil
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_type_hints

from wsrl_kit.analysis.tuning import CONFIRMATION, TRIALS, read_trials
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.data.digests import input_digests
from wsrl_kit.errors import RunError
from wsrl_kit.experiments.ablation import plan, run_ablation, with_files
from wsrl_kit.experiments.config import AblationConfig, EngineConfig, TuningConfig
from wsrl_kit.experiments.engine import connected, finished, run_jobs
from wsrl_kit.parameters import names_of
from wsrl_kit.runs.progress import Progress, ProgressRelay, outcome_recorded
from wsrl_kit.runs.run import Run

STUDY_FILE = "study.log"
"""Optuna's journal of the search, beside the trials."""


def run_tuning(
    config: WSRLConfig,
    tuning: TuningConfig,
    root: Path,
    progress: Progress,
    resume: bool = True,
    cluster: Any = None,
) -> None:
    """Runs every unfinished candidate in `root/trials/<candidate>/seed_<n>`, then the confirmation.

    All candidates run on the first seeds, the finalists on all seeds. None of Optuna's pruners does this: they compare
    a candidate with earlier ones, so that the first always passes, and a kill can lose a decision.

    The confirmation is an ablation in `root/confirmation`, with the arms `default` and `winner`.

    Args:
        config: parameters that all candidates share.
        resume: False deletes an earlier tuning in the folder.
        cluster: a Dask cluster or client whose workers do the runs, instead of an address in `scheduler`.

    Raises:
        Stopped: the user stopped it; finished runs are kept, the others resume.
        RunError: every candidate has a failed run, or the workers can't do the runs.
        WSRLKitError: the data or parameters are bad.
    """
    config, transitions = with_files(config)
    searched = {name: value for name, value in asdict(tuning).items() if name not in names_of(EngineConfig)}
    parameters = asdict(config) | searched
    inputs = input_digests(config, "tuning")
    if resume and finished(root, parameters, inputs):
        return
    run = Run.open(root, kind="tuning", arm="", seed=0, parameters=parameters, inputs=inputs, resume=resume)
    with outcome_recorded(run, progress) as progress, connected(tuning, root, cluster=cluster) as client:
        if not resume:
            for folder in (TRIALS, CONFIRMATION):
                shutil.rmtree(root / folder, ignore_errors=True)
        search = _Search(tuning, root)
        count = len(tuning.batches) + 1 + bool(tuning.confirmation_seeds)
        stages = (f"stage {number} of {count}" for number in range(1, count + 1))

        def evaluate(names: Collection[str], seeds: list[int]) -> None:
            # With all candidates as variants: a warmup that several share is named after the first.
            variants = search.candidates()
            ablation = AblationConfig(arms=list(names), variants=variants, base_arm=tuning.base_arm, seeds=seeds)
            jobs = plan(config, ablation, root / TRIALS)
            name = f"{next(stages)}, {len(names)} candidates on {len(seeds)} seeds"
            run_jobs(jobs, client, ProgressRelay(progress, name))

        first = tuning.seeds[: tuning.first_seeds]
        for batch in tuning.batches:
            search.suggest(batch)
            evaluate([_name(number) for number in batch], first)
            search.learn(batch, first)
        candidates = search.candidates()
        finalists = _best(root, candidates, first, tuning.finalists)
        evaluate(finalists, tuning.seeds)
        (winner,) = _best(root, finalists, tuning.seeds, 1)
        if tuning.confirmation_seeds:
            variants: dict[str, dict] = {"default": {}, "winner": candidates[winner]}
            ablation = AblationConfig(
                arms=list(variants),
                variants=variants,
                base_arm=tuning.base_arm,
                seeds=tuning.confirmation_seeds,
                control="default",
            )
            confirmation = ProgressRelay(progress, f"{next(stages)}, confirmation")
            run_ablation(config, ablation, root / CONFIRMATION, confirmation, cluster=client)
        run.finish({"winner": winner, "candidates": len(candidates), "transitions": transitions})


def _best(root: Path, names: Collection[str], seeds: Sequence[int], count: int) -> list[str]:
    """The candidates with the highest scores on the seeds; of equal ones the earlier.

    Raises:
        RunError: no candidate has a score.
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


class _Search:
    """Optuna's study of a tuning. A suggestion follows from `search_seed` and the scores so far alone."""

    def __init__(self, tuning: TuningConfig, root: Path) -> None:
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalStorage

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        (root / TRIALS).mkdir(parents=True, exist_ok=True)
        storage = JournalStorage(JournalFileBackend(str(root / TRIALS / STUDY_FILE)))
        self._optuna: Any = optuna
        self._study = optuna.create_study(
            storage=storage, study_name="tuning", direction="maximize", load_if_exists=True
        )
        self._tuning = tuning
        self._root = root
        self._distributions = {name: _distribution(name, values) for name, values in tuning.search_space.items()}

    def candidates(self) -> dict[str, dict[str, Any]]:
        """Values of every candidate so far, by its name."""
        space = self._tuning.search_space
        return {
            _name(trial.number): {
                name: values[trial.params[name]] if isinstance(values, list) else trial.params[name]
                for name, values in space.items()
            }
            for trial in self._study.trials
        }

    def suggest(self, batch: range) -> None:
        """Adds the candidates of a batch, unless an earlier session did."""
        for number in range(len(self._study.trials), batch.stop):
            # A copy is asked: a kill while the study is asked would leave a candidate without all its values.
            copy = self._optuna.create_study(direction="maximize", sampler=self._sampler(number))
            copy.add_trials(self._study.trials)
            copy.ask(self._distributions)
            self._study.add_trial(copy.trials[-1])

    def _sampler(self, number: int) -> Any:
        tuning, samplers = self._tuning, self._optuna.samplers
        if tuning.method == "tpe":
            return samplers.TPESampler(seed=tuning.search_seed * tuning.trials + number)
        return samplers.GridSampler(
            {name: range(len(values)) for name, values in tuning.search_space.items()}, seed=tuning.search_seed
        )

    def learn(self, batch: range, seeds: Sequence[int]) -> None:
        """Tells Optuna the scores of a batch, unless an earlier session did."""
        scores = {trial.name: trial.score(seeds) for trial in read_trials(self._root)}
        for number in batch:
            score = scores.get(_name(number), math.nan)
            if math.isfinite(score):
                self._study.tell(number, score, skip_if_finished=True)
            else:
                self._study.tell(number, state=self._optuna.trial.TrialState.FAIL, skip_if_finished=True)


def _distribution(name: str, values: Any) -> Any:
    """Optuna's distribution of a parameter; for a list, of the index, since entries may be lists."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(values, list):
        return CategoricalDistribution(tuple(range(len(values))))
    kinds = {int: IntDistribution, float: FloatDistribution}
    return kinds[get_type_hints(WSRLConfig)[name]](values["low"], values["high"], log=values["log"])
