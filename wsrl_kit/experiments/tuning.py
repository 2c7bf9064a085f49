"""Tuning of any parameters: all candidates on few seeds, the best ones on all, the winner on fresh ones.

Optuna suggests the candidates. Everything is on disk, so a tuning that was stopped or killed goes on where it was.
"""

import importlib.util
import math
import shutil
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_type_hints

from wsrl_kit.analysis.tuning import CONFIRMATION, SCORES, TRIALS, read_trials
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.errors import ExperimentError, ParameterError, RunError
from wsrl_kit.experiments.ablation import ARMS, COMMON, AblationConfig, padded, plan, run_ablation, with_files
from wsrl_kit.experiments.engine import finished, run_jobs
from wsrl_kit.parameters import check_some, parameter, validate
from wsrl_kit.runs.progress import Progress, ProgressRelay, outcome_recorded
from wsrl_kit.runs.run import Run
from wsrl_kit.training.inputs import input_digests

STUDY_FILE = "study.log"
"""Optuna's journal of the search, beside the trials."""


@dataclass(frozen=True)
class TuningConfig:
    """What is tuned, and how many runs that may take.

    Raises:
        ParameterError: naming the parameter, what was expected and what was found.
        ExperimentError: Optuna is not installed.
    """

    search_space: dict[str, Any] = parameter(
        {"min_offline_ratio": [0.0, 0.25, 0.5], "retention_ratio": [0.1, 0.2, 0.5]},
        "values by parameter: a list, or for tpe also {'low': ..., 'high': ..., 'log': True}",
    )
    method: str = parameter(
        "grid", "grid: every combination; tpe: candidates near the best so far", choices=("grid", "tpe")
    )
    trials: int = parameter(16, "candidates that tpe tries; a grid has as many as it has", minimum=1)
    parallel_trials: int = parameter(4, "candidates that tpe suggests at a time", minimum=1)
    search_seed: int = parameter(0, "seed of the suggestions, and of the order of a grid", minimum=0)
    base_arm: str = parameter("warmup_decay", "arm whose parameters are tuned", choices=tuple(ARMS))
    first_seeds: int = parameter(2, "the first of the seeds, which every candidate gets", minimum=1)
    finalists: int = parameter(4, "best candidates on the first seeds, which get all seeds", minimum=1)
    seeds: list[int] = parameter([0, 1, 2, 3, 4, 5, 6, 7], "runs of each finalist", minimum=0)
    confirmation_seeds: list[int] = parameter(
        [100, 101, 102, 103, 104], "fresh seeds on which the winner meets the default; none: it does not", minimum=0
    )
    score: str = parameter("area_under_curve", "quantity of a run that is tuned", choices=tuple(SCORES))
    worker_processes: int = parameter(0, "runs at the same time; 0: one per core", minimum=0)

    def __post_init__(self) -> None:
        validate(self)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ParameterError(f"seeds must be a list of different entries, at least one, found {self.seeds}")
        if self.first_seeds > len(self.seeds):
            raise ParameterError(f"first_seeds must be at most {len(self.seeds)}, found {self.first_seeds}")
        shared = sorted({*self.seeds} & {*self.confirmation_seeds})
        if shared:
            raise ParameterError(f"confirmation_seeds must be none of seeds, found {shared} in both")
        if not self.search_space:
            raise ParameterError("search_space must name at least one parameter, found none")
        space = {name: _checked_values(name, values, self.method) for name, values in self.search_space.items()}
        object.__setattr__(self, "search_space", space)
        if importlib.util.find_spec("optuna") is None:
            raise ExperimentError("tuning needs optuna, which `pip install 'wsrl-kit[tuning]'` installs")

    @property
    def batches(self) -> list[range]:
        """Numbers of the candidates that are suggested together: of a grid all."""
        if self.method == "grid":
            return [range(math.prod(map(len, self.search_space.values())))]
        starts = range(0, self.trials, self.parallel_trials)
        return [range(start, min(start + self.parallel_trials, self.trials)) for start in starts]


def _checked_values(name: str, values: Any, method: str) -> Any:
    """One entry of the search space with its values in the parameter's type."""
    if name in COMMON:
        raise ParameterError(f"search_space: {name} must be the same for all candidates, found it among the parameters")
    if isinstance(values, list) and values:
        return [check_some(WSRLConfig, {name: value})[name] for value in values]
    if method == "grid":
        raise ParameterError(f"search_space: {name} must be a list of values for a grid, found {values!r}")
    if not isinstance(values, dict) or not {"low", "high"} <= values.keys() <= {"low", "high", "log"}:
        raise ParameterError(
            f"search_space: {name} must be a list, or low and high with or without log, found {values!r}"
        )
    ends = {end: check_some(WSRLConfig, {name: values[end]})[name] for end in ("low", "high")}
    log = values.get("log", False)
    numbers = all(type(end) in (int, float) for end in ends.values())
    if not numbers or type(log) is not bool or ends["low"] >= ends["high"] or (log and ends["low"] <= 0):
        raise ParameterError(
            f"search_space: {name} must have numbers low < high, above 0 where log is True, found {values!r}"
        )
    return ends | {"log": log}


def run_tuning(config: WSRLConfig, tuning: TuningConfig, root: Path, progress: Progress, resume: bool = True) -> None:
    """Runs what is not finished yet: candidates in `root/trials/<candidate>/seed_<n>`, then the confirmation.

    The finalists are chosen by a plain rule rather than by one of Optuna's pruners: those compare a candidate with the
    ones judged before it, so that the first always passes, and forget what they decided when they are killed.

    A candidate of which a run fails is no finalist, a finalist of which one fails no winner. The confirmation is an
    ablation of its own in `root/confirmation`: arms `default` and `winner`.

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
    inputs = input_digests(config, "ablation")
    if resume and finished(root, parameters, inputs):
        return
    run = Run.open(root, kind="tuning", arm="", seed=0, parameters=parameters, inputs=inputs, resume=resume)
    with outcome_recorded(run, progress) as progress:
        if not resume:
            for folder in (TRIALS, CONFIRMATION):
                shutil.rmtree(root / folder, ignore_errors=True)
        search = _Search(tuning, root)
        count = len(tuning.batches) + 1 + bool(tuning.confirmation_seeds)
        stages = (f"stage {number} of {count}" for number in range(1, count + 1))

        def evaluate(names: Collection[str], seeds: list[int]) -> None:
            # All candidates are told of, since a warmup that several share is named after the first.
            variants = search.candidates()
            ablation = AblationConfig(arms=list(names), variants=variants, base_arm=tuning.base_arm, seeds=seeds)
            jobs = plan(config, ablation, root / TRIALS, padded(transitions))
            name = f"{next(stages)}, {len(names)} candidates on {len(seeds)} seeds"
            run_jobs(jobs, tuning.worker_processes, ProgressRelay(progress, name))

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
                worker_processes=tuning.worker_processes,
            )
            run_ablation(
                config, ablation, root / CONFIRMATION, ProgressRelay(progress, f"{next(stages)}, confirmation")
            )
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
        create_trial, running = self._optuna.trial.create_trial, self._optuna.trial.TrialState.RUNNING
        for number in range(len(self._study.trials), batch.stop):
            # Asked of a copy and written as a whole: a kill while asking would leave a candidate without values.
            copy = self._optuna.create_study(direction="maximize", sampler=self._sampler(number))
            copy.add_trials(self._study.trials)
            params = copy.ask(self._distributions).params
            self._study.add_trial(create_trial(state=running, params=params, distributions=self._distributions))

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
    """Optuna's distribution of a parameter; of a list it chooses the place, since entries may be lists themselves."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(values, list):
        return CategoricalDistribution(tuple(range(len(values))))
    kinds = {int: IntDistribution, float: FloatDistribution}
    return kinds[get_type_hints(WSRLConfig)[name]](values["low"], values["high"], log=values["log"])
