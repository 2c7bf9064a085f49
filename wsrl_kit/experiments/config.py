"""What is compared: arms and their variants, what a tuning searches, and where runs are done."""

import importlib.util
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from wsrl_kit.analysis.config import SCORES
from wsrl_kit.config.config import WSRLConfig, is_scheduler
from wsrl_kit.errors import ExperimentError, ParameterError
from wsrl_kit.parameters import check_distinct, check_some, names_of, parameter, unknown, validate

OTHER_FOLDERS = ("warmup", "figures")
"""Folders beside the arms' in an ablation's folder."""


@dataclass(frozen=True)
class Arm:
    """One setting of the ablation.

    Attributes:
        offline: offline data of stage 2: "none", "demos", "all", or "kept" (by retention, of all).
        warmup: whether the arm starts from a warmup checkpoint.
        overrides: parameters that differ from the common config.
    """

    offline: str
    warmup: bool
    overrides: dict[str, Any] = field(default_factory=dict)


UNIFORM = {"use_prioritized_replay": False}
NO_FROZEN_ROLLOUTS = {"frozen_rollout_steps": 0}
SYMMETRIC = {"offline_ratio_schedule": "constant", "initial_offline_ratio": 0.5, "min_offline_ratio": 0.5}
"""RLPD's symmetric sampling (Ball et al. 2023, section 4.1)."""

ARMS = {
    "scratch": Arm("none", False, UNIFORM | NO_FROZEN_ROLLOUTS),
    "rlpd_demos": Arm("demos", False, UNIFORM | NO_FROZEN_ROLLOUTS | SYMMETRIC),
    "rlpd_all": Arm("all", False, UNIFORM | NO_FROZEN_ROLLOUTS | SYMMETRIC),
    "warmup_decay": Arm("kept", True, NO_FROZEN_ROLLOUTS | {"random_steps": 0}),
    "warmup_wsrl": Arm("none", True, UNIFORM | {"random_steps": 0}),
    "warmup_no_data": Arm("none", True, UNIFORM | NO_FROZEN_ROLLOUTS | {"random_steps": 0}),
}
"""Arms by name. Only arms without warmup begin with `random_steps`, only WSRL's arm with `frozen_rollout_steps`.

`warmup_no_data`, WSRL's arm without frozen rollouts, is the setting of the downward spiral (arXiv 2412.07762,
section 4).
"""

COMMON = names_of(WSRLConfig, of_arm=False)
"""Parameters that a variant can't set: arms share task, data, seeds and environment steps."""


@dataclass(frozen=True)
class EngineConfig:
    """Where runs are done. They end with the same bytes anywhere, so it may change between sessions."""

    worker_processes: int = parameter(
        0, "number of runs at the same time on this machine; 0: one per core, or per GPU", group="Workers", minimum=0
    )
    scheduler: str | None = parameter(
        None, "address of a Dask scheduler whose workers do the runs, as tcp://host:8786; None: this machine does them"
    )

    def __post_init__(self) -> None:
        validate(self)
        if self.scheduler is not None and not is_scheduler(self.scheduler):
            raise ParameterError(f"scheduler must be an address such as tcp://host:8786, found {self.scheduler!r}")
        if self.scheduler is not None and self.worker_processes:
            raise ParameterError(
                f"worker_processes is for runs on this machine, and scheduler for runs elsewhere, found "
                f"{self.worker_processes} and {self.scheduler!r}: give one of them"
            )


@dataclass(frozen=True)
class AblationConfig(EngineConfig):
    """What is compared.

    Raises:
        ParameterError: naming the parameter, what was expected and what was found.
    """

    arms: list[str] = parameter(
        ["scratch", "rlpd_demos", "rlpd_all", "warmup_decay", "warmup_wsrl"],
        "arms and variants to run",
        group="Ablation",
    )
    variants: dict[str, dict] = parameter(
        {}, "more arms, {name: {parameter: value}}: what differs from base_arm, or from the arm that `like` names"
    )
    base_arm: str = parameter("warmup_decay", "arm that variants without `like` start from", choices=tuple(ARMS))
    seeds: list[int] = parameter([0, 1, 2, 3, 4], "seeds: every arm runs once per seed", minimum=0)
    control: str = parameter("rlpd_all", "arm or variant with which the others are compared")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_distinct("arms", self.arms)
        check_distinct("seeds", self.seeds)
        variants = {name: _checked_variant(name, variant) for name, variant in self.variants.items()}
        object.__setattr__(self, "variants", variants)
        for name in (*self.arms, self.control):
            if name not in ARMS and name not in variants:
                raise unknown(name, [*ARMS, *variants], "arm or variant")

    def arm(self, name: str) -> Arm:
        """The arm of `ARMS`, or the variant as an arm."""
        if name in ARMS:
            return ARMS[name]
        overrides = dict(self.variants[name])
        like = ARMS[overrides.pop("like", self.base_arm)]
        return replace(like, overrides=like.overrides | overrides)


def _checked_variant(name: str, variant: dict[str, Any]) -> dict[str, Any]:
    """The variant with its values in the parameters' types."""
    if not re.fullmatch(r"\w[\w.+=-]*", name) or name in (*ARMS, *OTHER_FOLDERS):
        reserved = ", ".join((*ARMS, *OTHER_FOLDERS))
        raise ParameterError(
            f"a variant's name must be letters, digits and any of _ . + = -, and none of {reserved}, found {name!r}"
        )
    overrides = dict(variant)
    like = {"like": overrides.pop("like")} if "like" in overrides else {}
    for arm in like.values():
        if arm not in ARMS:
            raise unknown(str(arm), list(ARMS), f"arm for the variant {name} to be like")
    for parameter_name in COMMON:
        if parameter_name in overrides:
            raise ParameterError(
                f"variant {name}: {parameter_name} must be the same for all arms, found one of its own"
            )
    with naming(name):
        return like | check_some(WSRLConfig, overrides)


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Puts the variant's name before the sentence of a ParameterError."""
    try:
        yield
    except ParameterError as error:
        raise ParameterError(f"variant {name}: {error}") from error


@dataclass(frozen=True)
class TuningConfig(EngineConfig):
    """What is tuned, and how many runs that may take.

    Raises:
        ParameterError: naming the parameter, what was expected and what was found.
        ExperimentError: Optuna is not installed.
    """

    search_space: dict[str, Any] = parameter(
        {"min_offline_ratio": [0.0, 0.25, 0.5], "retention_ratio": [0.1, 0.2, 0.5]},
        "values to try, {parameter: list}; tpe also takes {'low': ..., 'high': ..., 'log': True} for a list",
        group="Tuning",
    )
    method: str = parameter(
        "grid", "grid: every combination; tpe: candidates suggested from the scores so far", choices=("grid", "tpe")
    )
    trials: int = parameter(16, "number of candidates, if method is tpe", minimum=1)
    parallel_trials: int = parameter(4, "candidates that tpe suggests before it learns their scores", minimum=1)
    search_seed: int = parameter(0, "seed of tpe's suggestions and of the order of a grid", minimum=0)
    base_arm: str = parameter("warmup_decay", "arm whose parameters are tuned", choices=tuple(ARMS))
    first_seeds: int = parameter(2, "number of seeds on which every candidate runs", minimum=1)
    finalists: int = parameter(4, "number of best candidates that run on all seeds", minimum=1)
    seeds: list[int] = parameter([0, 1, 2, 3, 4, 5, 6, 7], "seeds on which the finalists run", minimum=0)
    confirmation_seeds: list[int] = parameter(
        [100, 101, 102, 103, 104],
        "fresh seeds on which the winner is compared with the default; []: no comparison",
        minimum=0,
    )
    score: str = parameter("area_under_curve", "quantity that tuning maximises", choices=tuple(SCORES))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_distinct("seeds", self.seeds)
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
