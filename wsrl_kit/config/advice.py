"""What a finished warmup says about fine-tuning: whether the policy or the data are better, and what follows.

Fine-tuning should preserve whichever is better, and stay able to learn (Li et al. 2025, "The three regimes of
offline-to-online reinforcement learning", arXiv 2510.01460). Our departures: episodes of the data count by their loss
weight, poor policies and data are a regime of their own, and the parameters that follow are the kit's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.data.dataset import Dataset
from wsrl_kit.errors import RunError
from wsrl_kit.files import reading
from wsrl_kit.parameters import check_some
from wsrl_kit.runs.run import RECORD, RunRecord

CLEAR_DIFFERENCE = 0.1
"""Difference of policy and data that counts: of a success rate, or as a share of the range of the data's returns."""

POOR = 0.2
"""Success rate below which policy and data are both poor."""

OVERFITTED = 1.2
"""Growth of the held-out TD error, from its lowest to the last, above which warmup was too long."""

FROZEN_EPISODES = 10
"""Episodes of the data's length that a policy better than the data acts before it learns, where none are kept."""


@dataclass(frozen=True)
class Diagnosis:
    """Policy and data after a warmup, in one measure.

    Attributes:
        measure: "success", or "return" where not both know success.
        policy: mean of the last evaluation, sampled actions; None: there was none.
        policy_before: of the evaluation before.
        data: mean over the offline episodes by their loss weight.
        data_episode_steps: mean length of these episodes, likewise.
        clear_difference: see `CLEAR_DIFFERENCE`.
        holdout_growth: last held-out TD error over the lowest.
    """

    measure: str
    policy: float | None
    policy_before: float | None
    data: float
    data_episode_steps: float
    clear_difference: float
    holdout_growth: float | None


@dataclass(frozen=True)
class Advice:
    """What follows from a diagnosis.

    Attributes:
        regime: "policy", "data" (that one is better), "equal", "poor" (both) or "unknown".
        reasons: sentences.
        parameters: of fine-tuning, that differ from the kit's defaults.
    """

    regime: str
    reasons: tuple[str, ...]
    parameters: dict[str, Any]

    def __str__(self) -> str:
        lines = list(self.reasons)
        if self.parameters:
            lines.append(f"Advised for fine-tuning: {_flags(self.parameters)} (or --preset=advised).")
        return "\n".join(lines)


def _flags(parameters: Mapping[str, Any]) -> str:
    return " ".join(f"--{name}={value}" for name, value in parameters.items())


def of_run(warmup: RunRecord) -> Advice:
    """The advice of a finished warmup.

    Raises:
        RunError: the run is no finished warmup, or is from before there were diagnoses.
    """
    stored = warmup.summary.get("diagnosis")
    if stored is None:
        raise RunError(
            f"{warmup.folder} must be the folder of a finished warmup, found a {warmup.status} {warmup.kind} run "
            "without a diagnosis"
        )
    with reading(warmup.folder / RECORD, RunError):
        return advise(read_diagnosis(stored))


def diagnose(dataset: Dataset, warmup: RunRecord) -> Diagnosis:
    """Compares the policy of a warmup with its weighted offline data."""
    success, returns = dataset.episode_success, dataset.episode_returns
    weight = dataset.weight[dataset.episode_starts].astype(np.float64)
    evaluated = warmup.curve("evaluation/success_sampled", "warmup").value
    if len(evaluated) and np.isfinite(evaluated).all() and np.isfinite(success).all():
        measure, values, clear_difference = "success", success, CLEAR_DIFFERENCE
    else:
        measure, values, clear_difference = "return", returns, CLEAR_DIFFERENCE * float(np.ptp(returns))
        evaluated = warmup.curve("evaluation/return_sampled", "warmup").value
    holdout = warmup.curve("training/holdout_td_error", "warmup").value
    return Diagnosis(
        measure=measure,
        policy=float(evaluated[-1]) if len(evaluated) else None,
        policy_before=float(evaluated[-2]) if len(evaluated) > 1 else None,
        data=float(np.average(values, weights=weight)),
        data_episode_steps=float(np.average(dataset.episode_lengths, weights=weight)),
        clear_difference=clear_difference,
        holdout_growth=float(holdout[-1] / holdout.min()) if len(holdout) and holdout.min() > 0 else None,
    )


def read_diagnosis(stored: Mapping[str, Any]) -> Diagnosis:
    """The diagnosis that a file holds as a dict.

    Raises:
        ParameterError, TypeError: it holds something else.
    """
    return Diagnosis(**check_some(Diagnosis, stored, "fact"))


def advise(diagnosis: Diagnosis, keeps_data: bool = True) -> Advice:
    """The regime of a diagnosis, and the parameters that follow; `keeps_data`: offline data go online."""
    policy, data, clear = diagnosis.policy, diagnosis.data, diagnosis.clear_difference
    if policy is None:
        reason = "No evaluation episodes were run, so nobody knows what the policy can do: the defaults stay."
        return Advice("unknown", (reason,), {})
    found = f"{diagnosis.measure} {policy:.2f} against {data:.2f} of the data, by their weights"
    parameters: dict[str, Any]
    if diagnosis.measure == "success" and max(policy, data) < POOR:
        regime, parameters = "poor", {"behavior_cloning_online_weight": 0.0}
        reasons = [f"Policy and data are both poor ({found}): nothing to preserve, so cloning ends at the switch."]
    elif policy > data + clear:
        frozen = {"frozen_rollout_steps": round(FROZEN_EPISODES * diagnosis.data_episode_steps)}
        regime, parameters = "policy", {} if keeps_data else frozen
        reasons = [
            f"The policy is better than the data ({found}): cloning their best part online keeps it, by default. Where "
            f"no offline data go online, its own episodes come first, without learning: {_flags(frozen)}."
        ]
    elif policy < data - clear:
        regime, parameters = "data", {}
        reasons = [f"The data are better than the policy ({found}): their best part stays and is cloned, by default."]
    else:
        regime, parameters = "equal", {}
        reasons = [f"Policy and data are equally good ({found}): the defaults stay."]
    if diagnosis.policy_before is not None and policy > diagnosis.policy_before + clear:
        reasons.append("The policy still got better between the last two evaluations: warm up longer.")
    if diagnosis.holdout_growth is not None and diagnosis.holdout_growth > OVERFITTED:
        reasons.append(
            f"The held-out TD error has grown to {diagnosis.holdout_growth:.1f} times its lowest: warm up shorter, or "
            "set early_stopping_patience."
        )
    return Advice(regime, tuple(reasons), parameters)


def followed(config: WSRLConfig, diagnosis: Diagnosis) -> WSRLConfig:
    """The config with advised values in place of defaults; values that were changed stay."""
    # Fine-tuning reads the data at demo_path, whatever share of them warmup kept.
    defaults, advised = WSRLConfig(), advise(diagnosis, keeps_data=config.demo_path is not None).parameters
    unchanged = {name for name in advised if getattr(config, name) == getattr(defaults, name)}
    return replace(config, **{name: advised[name] for name in unchanged})
