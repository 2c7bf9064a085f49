"""Tuning of any parameters: many candidates on few seeds, the better half on more, the winner on fresh ones.

Everything is on disk: finished runs are kept, so a tuning that was stopped or killed goes on where it was.
"""

import importlib.util
import itertools
import math
import shutil
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_type_hints

from wsrl_kit.analysis.tuning import CONFIRMATION, SCORES, TRIALS, read_trials
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.errors import ParameterError, RunError
from wsrl_kit.experiments.ablation import ARMS, COMMON, AblationConfig, padded, plan, run_ablation, with_files
from wsrl_kit.experiments.engine import finished, run_jobs
from wsrl_kit.parameters import check_some, parameter, validate
from wsrl_kit.runs.progress import NamedProgress, Progress, outcome_recorded
from wsrl_kit.runs.run import Run
from wsrl_kit.training.inputs import input_digests

STUDY_FILE = "study.log"
"""Optuna's journal, beside the trials."""


@dataclass(frozen=True)
class TuningConfig:
    """What is tuned, and how many runs that may take.

    Raises:
        ParameterError: naming the parameter, what was expected and what was found.
    """

    search_space: dict[str, Any] = parameter(
        {"min_offline_ratio": [0.0, 0.25, 0.5], "retention_ratio": [0.1, 0.2, 0.5]},
        "values by parameter: a list, or for optuna also {'low': ..., 'high': ..., 'log': True}",
    )
    method: str = parameter("grid", "how candidates are found", choices=("grid", "optuna"))
    trials: int = parameter(16, "candidates that optuna tries; a grid has as many as it has", minimum=1)
    parallel_trials: int = parameter(4, "candidates that optuna suggests at a time", minimum=1)
    search_seed: int = parameter(0, "seed of optuna's suggestions", minimum=0)
    base_arm: str = parameter("warmup_decay", "arm whose parameters are tuned", choices=tuple(ARMS))
    seeds: list[int] = parameter([0, 1, 2, 3, 4, 5, 6, 7], "runs of the best candidates", minimum=0)
    first_seeds: int = parameter(2, "the first of the seeds, which every candidate gets", minimum=1)
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
        if self.method == "optuna" and importlib.util.find_spec("optuna") is None:
            raise ParameterError("method 'optuna' needs an extra: pip install 'wsrl-kit[tuning]'; 'grid' works without")

    @property
    def rungs(self) -> list[int]:
        """Seeds of a candidate on each rung: every rung has twice as many seeds, and half of the candidates."""
        sizes = [self.first_seeds]
        while sizes[-1] < len(self.seeds):
            sizes.append(min(2 * sizes[-1], len(self.seeds)))
        return sizes

    @property
    def stages(self) -> int:
        """Of the whole tuning: searches on the first rung, the other rungs, and the confirmation."""
        searches = -(-self.trials // self.parallel_trials) if self.method == "optuna" else 1
        return searches + len(self.rungs) - 1 + bool(self.confirmation_seeds)


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
    inputs = input_digests(config, "ablation")
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
