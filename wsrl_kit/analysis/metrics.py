"""Reduce each run to one row of numbers, and compare every arm with the control."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Num

from wsrl_kit.analysis.config import USUAL_TARGETS, Targets
from wsrl_kit.analysis.statistics import (
    Interval,
    Statistic,
    bootstrap_interval,
    iqm,
    mean,
    paired_difference,
    probability_of_improvement,
)
from wsrl_kit.config.config import NOBODY
from wsrl_kit.errors import ParameterError
from wsrl_kit.runs.run import Curve, RunRecord

INTERVENTION_RATE = "training/intervention_rate"
EARLY_STEPS = 500
NO_SUCCESS_AT_SWITCH = "no success at switch"

ARM_LABELS = {
    "scratch": "From scratch",
    "rlpd_demos": "RLPD, demos",
    "rlpd_all": "RLPD, all data",
    "warmup_decay": "Warmup + decaying ratio (kit)",
    "warmup_wsrl": "Warmup + frozen rollouts (WSRL)",
    "warmup_no_data": "Warmup, no data, no frozen rollouts",
}


def arm_order(names: Iterable[str]) -> list[str]:
    """Each arm once: first those of `ARM_LABELS`, then the others as they appear."""
    names = dict.fromkeys(names)
    return [name for name in ARM_LABELS if name in names] + [name for name in names if name not in ARM_LABELS]


def arm_label(name: str) -> str:
    """An arm's name in tables and figures."""
    return ARM_LABELS.get(name, name or "Run")


@dataclass(frozen=True)
class Measure:
    """What all runs of a set are measured by.

    Attributes:
        label: of the axis.
        limits: lowest and highest possible value.
        target_format: of the target in a heading.
        target: value that counts as reached; None: there are no steps to a target.
    """

    name: str
    label: str
    limits: tuple[float, float]
    target_format: str
    target: float | None = None

    @property
    def metric(self) -> str:
        """Name of the sampled evaluations."""
        return f"evaluation/{self.name}_sampled"

    def heading(self, text: str) -> str:
        """The text with the target's value instead of the word."""
        return text if self.target is None else text.replace("target", self.target_format.format(self.target))


SUCCESS = Measure("success", "Success rate", (0.0, 1.0), "{:.0%}")
RETURN = Measure("return", "Return", (-math.inf, math.inf), "return {:g}")


def measure_of(records: Iterable[RunRecord], targets: Targets = USUAL_TARGETS) -> Measure:
    """Success if any run reports it, else the return.

    Runs that are never evaluated, such as those of a robot, are measured in their training episodes.

    Raises:
        ParameterError: a target for the return, of runs that report success.
    """
    found = {
        metric for each in records for (_, metric), curve in each.metrics.items() if np.isfinite(curve.value).any()
    }
    measured = [
        measure
        for metric in ("evaluation/{}_sampled", "training/episode_{}")
        for measure in (SUCCESS, RETURN)
        if metric.format(measure.name) in found
    ]
    measure = measured[0] if measured else SUCCESS if targets.target_return is None else RETURN
    if measure is RETURN:
        return replace(RETURN, target=targets.target_return)
    if targets.target_return is not None:
        raise ParameterError(
            f"target_return must be None for runs that report success (see target), found {targets.target_return:g}"
        )
    return replace(SUCCESS, target=targets.target)


@dataclass(frozen=True)
class Quantity:
    """How one number of a run is shown and compared.

    Attributes:
        heading: with the unit.
        digits: decimals; None: by size.
        better: +1 if more is better, -1 if less is better.
        reached: column that is 0 for a censored run, which holds its budget; "": never censored.
        spent: column of a run's total at its last evaluation; see `restricted`.
        absent: text for a run without this number.
    """

    name: str
    heading: str
    digits: int | None
    better: int
    reached: str = ""
    spent: str = ""
    absent: str = "not recorded"

    @property
    def statistic(self) -> Statistic:
        """The IQM; where runs may be censored, the restricted mean."""
        return mean if self.reached else iqm


QUANTITIES = {
    quantity.name: quantity
    for quantity in (
        Quantity("steps_to_target", "Steps to target", 0, -1, "reached_target"),
        Quantity("gradient_steps_to_target", "Gradient steps to target", 0, -1, "reached_target", "gradient_steps"),
        Quantity("seconds_to_target", "Seconds to target", 0, -1, "reached_target", "seconds"),
        Quantity("area_under_curve", "Area under curve", None, +1),
        Quantity("final_success", "Final success", None, +1),
        Quantity("final_success_deterministic", "Final success, deterministic", None, +1),
        Quantity("final_return", "Final return", None, +1),
        Quantity("final_return_deterministic", "Final return, deterministic", None, +1),
        Quantity("switch_success", "Success at switch", None, +1),
        Quantity("switch_return", "Return at switch", None, +1),
        Quantity("dip_depth", "Dip after switch", None, -1, absent=NO_SUCCESS_AT_SWITCH),
        Quantity("recovery_steps", "Steps to recover", 0, -1, "recovered", absent=NO_SUCCESS_AT_SWITCH),
        Quantity("drawdown", "Drawdown (CVaR)", None, -1),
        Quantity("dispersion", "Dispersion (IQR)", None, -1),
        Quantity("early_peak_contact_force", "Early peak force (N)", 1, -1),
        Quantity("early_safety_box_clips", "Early box clips", 0, -1),
        Quantity("interventions", "Intervention steps", 0, -1),
        Quantity("early_intervention_rate", "Intervention rate, first quarter", 2, -1),
        Quantity("late_intervention_rate", "Intervention rate, last quarter", 2, -1),
        Quantity("offline_megabytes", "Offline data held (MB)", 2, -1),
    )
}


class Dip(NamedTuple):
    """See `switch_dip`."""

    depth: float
    recovery_steps: float
    recovered: bool
    lowest_step: float


def steps_to_target(
    environment_step: Num[np.ndarray, " points"], value: Float[np.ndarray, " points"], target: float
) -> tuple[float, bool]:
    """Step of the first evaluation at the target, or the last step, and whether the target was reached."""
    reached = value >= target
    return float(environment_step[np.argmax(reached) if reached.any() else -1]), bool(reached.any())


def area_under_curve(environment_step: Num[np.ndarray, " points"], value: Float[np.ndarray, " points"]) -> float:
    """Mean height of the curve, by trapezoids, in the units of its values."""
    span = float(environment_step[-1] - environment_step[0])
    return float(np.trapezoid(value, environment_step) / span) if span else float(value.mean())


def final(value: Float[np.ndarray, " points"], evaluations: int = 3) -> float:
    """Mean of the last few evaluations."""
    return float(value[-evaluations:].mean())


def switch_dip(
    environment_step: Num[np.ndarray, " points"], value: Float[np.ndarray, " points"], window: float | None = None
) -> Dip:
    """Fall of a curve below its first point, within `window` steps (None: half of the budget).

    The minimum of noisy evaluations is biased downwards: compare dips only between runs evaluated alike.

    Returns:
        depth: at least 0.
        recovery_steps: until the first value is reached again; the budget if it never is.
        lowest_step: environment step of the lowest value.
    """
    window = (environment_step[-1] - environment_step[0]) / 2.0 if window is None else window
    inside = environment_step <= environment_step[0] + window
    lowest = int(np.argmin(value[inside]))
    depth = float(value[0] - value[lowest])
    back = np.flatnonzero(value[lowest:] >= value[0])
    recovered = len(back) > 0
    end = environment_step[lowest + back[0]] if recovered else environment_step[-1]
    return Dip(depth, float(end - environment_step[0]), recovered, float(environment_step[lowest]))


def drawdown(value: Float[np.ndarray, " points"], alpha: float = 0.05) -> float:
    """Mean of the worst `alpha` share of drops below the best value so far (CVaR), at least 0.

    Chan et al. 2020, "Measuring the reliability of reinforcement learning algorithms", section 4: long-term risk.
    """
    drops = np.maximum.accumulate(value) - value
    return float(drops[drops >= np.quantile(drops, 1.0 - alpha)].mean())


def dispersion(value: Float[np.ndarray, " points"]) -> float:
    """Inter-quartile range of the changes between evaluations (Chan et al. 2020, section 4: short-term dispersion)."""
    return float(np.subtract(*np.quantile(np.diff(value), [0.75, 0.25]))) if len(value) > 1 else math.nan


def early_safety(record: RunRecord, steps: int = EARLY_STEPS) -> tuple[float, float]:
    """Peak contact force (N) and number of safety-box clips in the first online steps; nan where not recorded."""
    _, force = finite_curve(record, "training/peak_contact_force", float(steps))
    _, clips = finite_curve(record, "training/safety_box_clips", float(steps))
    return float(force.max()) if len(force) else math.nan, float(clips.sum()) if len(clips) else math.nan


def interventions(record: RunRecord, budget: float | None = None) -> tuple[float, float, float]:
    """Steps that a human took, and their share of the first and last quarter of the steps; nan without a human.

    Rates are recorded from the first intervention on. A quarter consists of whole windows between records.
    """
    rate = record.curve(INTERVENTION_RATE)
    # Recorded at the end of every window.
    ends = record.curve("training/peak_contact_force").environment_step.astype(float)
    ends = ends[ends <= (np.inf if budget is None else budget)]
    if len(ends) == 0 or (len(rate) == 0 and record.parameters.get("human", NOBODY) == NOBODY):
        return math.nan, math.nan, math.nan
    steps = np.diff(ends, prepend=0.0)
    taken = np.zeros(len(ends))
    taken[np.isin(ends, rate.environment_step)] = rate.value[np.isin(rate.environment_step, ends)]
    taken *= steps
    quarters = (ends <= ends[-1] / 4, ends - steps >= ends[-1] * 3 / 4)
    early, late = (float(taken[q].sum() / steps[q].sum()) if q.any() else math.nan for q in quarters)
    return float(taken.sum()), early, late


def gradient_steps(record: RunRecord, environment_step: float) -> float:
    """Critic updates, warmup included, at the last evaluation up to an environment step."""
    curve = evaluations(record)
    before = np.searchsorted(curve.environment_step, environment_step, side="right")
    return float(curve.gradient_step[before - 1])


def seconds(record: RunRecord, environment_step: float) -> float:
    """Wall-clock up to an environment step, warmup included; nan if the warmup's is not known.

    A run's seconds are spread evenly over its environment steps.
    """
    if record.parameters.get("checkpoint_path") is not None and record.warmup_seconds == 0.0:
        return math.nan
    return record.warmup_seconds + record.seconds * environment_step / max(1.0, last_step(record))


def finite_curve(
    record: RunRecord, metric: str, budget: float | None = None
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Environment steps and finite values of an online metric up to the budget."""
    curve = record.curve(metric)
    kept = np.isfinite(curve.value) & (curve.environment_step <= (np.inf if budget is None else budget))
    return curve.environment_step[kept].astype(float), curve.value[kept]


def reduce_run(record: RunRecord, budget: float | None = None, measure: Measure | None = None) -> dict[str, Any]:
    """`QUANTITIES` of one run and the columns that they name, up to an environment step; nan where not recorded.

    A run without success at the switch has no dip.

    Args:
        measure: None: of this run alone.
    """
    measure = measure or measure_of([record])
    row: dict[str, Any] = {"arm": record.arm, "seed": record.seed, "status": record.status}
    row |= {"last_step": last_step(record)}
    row |= dict.fromkeys((*QUANTITIES, "reached_target", "recovered", "gradient_steps", "seconds"), math.nan)
    row["early_peak_contact_force"], row["early_safety_box_clips"] = early_safety(record)
    held = record.curve("switch/offline_bytes").value
    row["offline_megabytes"] = float(held[0]) / 1e6 if len(held) else math.nan
    names = ("interventions", "early_intervention_rate", "late_intervention_rate")
    row |= dict(zip(names, interventions(record, budget), strict=True))
    steps, values = finite_curve(record, measure.metric, budget)
    if len(steps):
        if measure.target is not None:
            reached_at, reached = steps_to_target(steps, values, measure.target)
            row |= {"steps_to_target": reached_at, "reached_target": float(reached)}
            row |= {"gradient_steps_to_target": gradient_steps(record, reached_at)}
            row |= {"seconds_to_target": seconds(record, reached_at)}
        row |= {"gradient_steps": gradient_steps(record, steps[-1]), "seconds": seconds(record, steps[-1])}
        if values[0] > measure.limits[0]:
            dip = switch_dip(steps, values)
            row |= {"dip_depth": dip.depth, "recovery_steps": dip.recovery_steps, "recovered": float(dip.recovered)}
        row |= {f"switch_{measure.name}": float(values[0]), f"final_{measure.name}": final(values)}
        row |= {"area_under_curve": area_under_curve(steps, values)}
        row |= {"drawdown": drawdown(values), "dispersion": dispersion(values)}
    _, values = finite_curve(record, f"evaluation/{measure.name}_deterministic", budget)
    row[f"final_{measure.name}_deterministic"] = final(values) if len(values) else math.nan
    return row


def reduce_runs(records: Sequence[RunRecord], measure: Measure | None = None) -> pd.DataFrame:
    """`reduce_run` of each run, up to the last environment step that all finished runs cover.

    Args:
        measure: None: `measure_of` the runs.
    """
    measure = measure or measure_of(records)
    lengths = [last_step(record) for record in records if record.status == "finished"]
    budget = min((length for length in lengths if math.isfinite(length)), default=None)
    return pd.DataFrame([reduce_run(record, budget, measure) for record in records])


def restricted(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs with gradient steps and seconds to the target censored at the least total of a finished run.

    A restricted mean compares only runs with the same restriction.
    """
    runs = runs.copy()
    for quantity in QUANTITIES.values():
        if quantity.spent:
            limit = finished(runs)[quantity.spent].min()
            runs[f"{quantity.name}_cut"] = runs[quantity.name] > limit
            runs[quantity.name] = runs[quantity.name].mask(runs[f"{quantity.name}_cut"], limit)
    return runs


def is_censored(runs: pd.DataFrame, quantity: Quantity) -> pd.Series:
    """Whether each run's number is only a lower bound."""
    if not quantity.reached:
        return pd.Series(False, index=runs.index)
    return (runs[quantity.reached] == 0.0) | runs.get(f"{quantity.name}_cut", False)


def last_step(record: RunRecord) -> float:
    """Environment step of the last evaluation; nan if there was none."""
    steps = evaluations(record).environment_step
    return float(steps[-1]) if len(steps) else math.nan


def evaluations(record: RunRecord) -> Curve:
    """A curve with every sampled evaluation of fine-tuning; its values may be nan."""
    return max((record.curve(measure.metric) for measure in (SUCCESS, RETURN)), key=len)


COMPARED = (
    "steps_to_target", "gradient_steps_to_target", "seconds_to_target", "area_under_curve", "final_success",
    "final_return", "early_peak_contact_force", "early_safety_box_clips",
)  # fmt: skip


class Comparison(NamedTuple):
    """One arm against the control in one quantity.

    Attributes:
        difference: of IQMs (of restricted means where censored), arm minus control, over shared seeds.
        better: probability that a run of the arm is better.
        bound: ">" or "<" if the true difference is larger or smaller, because only one has censored runs.
    """

    arm: str
    quantity: Quantity
    difference: Interval
    better: Interval
    bound: str


def compare(runs: pd.DataFrame, control: str) -> list[Comparison]:
    """Every arm against the control, where both have a finished run of the same seed."""
    runs = finished(restricted(runs))
    comparisons = []
    for arm in arm_order(runs.loc[runs["arm"] != control, "arm"]):
        for quantity in (quantity for quantity in recorded(runs) if quantity.name in COMPARED):
            first, second = (values_by_seed(runs, name, quantity.name) for name in (arm, control))
            shared = runs[runs["seed"].isin(first.keys() & second.keys())]
            if len(shared):
                difference = paired_difference(first, second, quantity.statistic)
                higher, lower = (quantity.better * np.array(list(values.values())) for values in (first, second))
                better = probability_of_improvement(higher, lower)
                of_arm, of_control = (censored_sign(shared[shared["arm"] == each], quantity) for each in (arm, control))
                bound = {(">", ""): ">", ("", ">"): "<"}.get((of_arm, of_control), "")
                comparisons.append(Comparison(arm, quantity, difference, better, bound))
    return comparisons


def recorded(runs: pd.DataFrame) -> list[Quantity]:
    """The quantities that any run recorded."""
    return [quantity for quantity in QUANTITIES.values() if runs[quantity.name].notna().any()]


def finished(runs: pd.DataFrame) -> pd.DataFrame:
    """The finished runs."""
    return runs[runs["status"] == "finished"]


def estimate(runs: pd.DataFrame, quantity: Quantity) -> Interval:
    """The quantity's statistic over the runs that recorded it, with its interval."""
    return bootstrap_interval(runs[quantity.name].dropna().to_numpy(float), quantity.statistic)


def censored_sign(runs: pd.DataFrame, quantity: Quantity) -> str:
    """`>` if a run is censored and the true mean larger than the restricted mean; else ""."""
    return ">" if is_censored(runs, quantity).any() else ""


def values_by_seed(runs: pd.DataFrame, arm: str, name: str) -> dict[int, float]:
    """An arm's recorded values of a column."""
    return runs[runs["arm"] == arm].set_index("seed")[name].dropna().to_dict()
