"""What an ablation compares: known arms, and variants of them in any parameter."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from wsrl_kit.config import WSRLConfig
from wsrl_kit.errors import ParameterError
from wsrl_kit.parameters import check_distinct, check_some, parameter, unknown, validate

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

COMMON = (
    "seed",
    "exp_name",
    "environment_options",
    "offline_data_path",
    "demo_path",
    "checkpoint_path",
    "online_steps",
)
"""Parameters that a variant can't have of its own: arms share task, data and budget, the rest follows from the arm."""


@dataclass(frozen=True)
class AblationConfig:
    """What is compared.

    Raises:
        ParameterError: naming the parameter, what was expected and what was found.
    """

    arms: list[str] = parameter(
        ["scratch", "rlpd_demos", "rlpd_all", "warmup_decay", "warmup_wsrl"], "settings to compare: arms and variants"
    )
    variants: dict[str, dict] = parameter(
        {}, "more arms by name: {parameter: value} that differ, and `like`: the arm that they differ from"
    )
    base_arm: str = parameter("warmup_decay", "arm that a variant without `like` differs from", choices=tuple(ARMS))
    seeds: list[int] = parameter([0, 1, 2, 3, 4], "one run of every arm for each seed", minimum=0)
    control: str = parameter("rlpd_all", "arm or variant that the others are compared with")
    worker_processes: int = parameter(0, "runs at the same time; 0: one per core", minimum=0)

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
