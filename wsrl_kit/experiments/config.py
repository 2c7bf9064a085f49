"""What is compared: arms and their variants, and what a tuning searches."""

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from wsrl_kit.analysis.tuning import SCORES
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.errors import ParameterError
from wsrl_kit.parameters import check_distinct, check_some, names_of, parameter, unknown, validate

OTHER_FOLDERS = ("warmup", "figures")
"""What an ablation's folder holds beside one folder per arm."""


@dataclass(frozen=True)
class Arm:
    """One setting of the ablation.

    Attributes:
        offline: what stage 2 is given: "none", "demos", "all", or "kept" (what retention kept of all).
        warmup: whether it starts from the seed's warmup checkpoint.
        overrides: parameters that differ from the common ones.
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
"""By name. `random_steps` is the start of the arms without warmup, `frozen_rollout_steps` that of WSRL's arm alone.

`warmup_no_data` is WSRL's arm without its frozen rollouts: the setting of the downward spiral (arXiv 2412.07762,
section 4).
"""

COMMON = names_of(WSRLConfig, of_arm=False)
"""Parameters that a variant can't set: arms share task, data, seeds and environment steps."""


@dataclass(frozen=True)
class AblationConfig:
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
    worker_processes: int = parameter(0, "number of runs at the same time; 0: one per core", minimum=0)

    def __post_init__(self) -> None:
        validate(self)
        check_distinct("arms", self.arms)
        check_distinct("seeds", self.seeds)
        variants = {name: _checked_variant(name, variant) for name, variant in self.variants.items()}
        object.__setattr__(self, "variants", variants)
        for name in (*self.arms, self.control):
            if name not in ARMS and name not in variants:
                raise unknown(name, [*ARMS, *variants], "arm or variant")

    def arm(self, name: str) -> Arm:
        """A known arm, or a variant as an arm of its own."""
        if name in ARMS:
            return ARMS[name]
        overrides = dict(self.variants[name])
        like = ARMS[overrides.pop("like", self.base_arm)]
        return replace(like, overrides=like.overrides | overrides)


def _checked_variant(name: str, variant: dict[str, Any]) -> dict[str, Any]:
    """The variant with its values in their annotated types."""
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
    """Puts the variant's name before a sentence about its parameters."""
    try:
        yield
    except ParameterError as error:
        raise ParameterError(f"variant {name}: {error}") from error


@dataclass(frozen=True)
class TuningConfig:
    """What is tuned, and how many runs that may take.

    Raises:
        ParameterError: naming the parameter, what was expected and what was found.
    """

    search_space: dict[str, Any] = parameter(
        {"min_offline_ratio": [0.0, 0.25, 0.5], "retention_ratio": [0.1, 0.2, 0.5]},
        "values to try, {parameter: list}; optuna also takes {'low': ..., 'high': ..., 'log': True} for a list",
        group="Tuning",
    )
    method: str = parameter(
        "grid", "how candidates are chosen: every combination, or by Optuna", choices=("grid", "optuna")
    )
    trials: int = parameter(16, "number of candidates, if method is optuna", minimum=1)
    parallel_trials: int = parameter(4, "candidates that optuna suggests before it learns their scores", minimum=1)
    search_seed: int = parameter(0, "seed of Optuna's suggestions", minimum=0)
    base_arm: str = parameter("warmup_decay", "arm whose parameters are tuned", choices=tuple(ARMS))
    seeds: list[int] = parameter(
        [0, 1, 2, 3, 4, 5, 6, 7], "seeds on which the best candidates run; worse ones run on fewer", minimum=0
    )
    first_seeds: int = parameter(2, "number of seeds on which every candidate runs", minimum=1)
    confirmation_seeds: list[int] = parameter(
        [100, 101, 102, 103, 104],
        "fresh seeds on which the winner is compared with the default; []: no comparison",
        minimum=0,
    )
    score: str = parameter("area_under_curve", "quantity that tuning maximises", choices=tuple(SCORES))
    worker_processes: int = parameter(0, "number of runs at the same time; 0: one per core", minimum=0)

    def __post_init__(self) -> None:
        validate(self)
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
