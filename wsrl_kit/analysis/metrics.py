"""Reduce each run to a few numbers, and compare the numbers of each arm with the control's."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Num

from wsrl_kit.analysis.arms import arm_order
from wsrl_kit.analysis.statistics import Interval, iqm, mean, paired_difference, probability_of_improvement
from wsrl_kit.config.config import NOBODY
from wsrl_kit.runs.run import RunRecord

SUCCESS = "evaluation/success_sampled"
INTERVENTION_RATE = "training/intervention_rate"
EARLY_STEPS = 500
NOTHING_TO_LOSE = "no success at switch"


@dataclass(frozen=True)
class Quantity:
    """How one number of a run is shown and compared.

    Attributes:
        name: its key in `reduce_run`.
        heading: column heading and axis label, with the unit.
        digits: decimals shown.
        better: +1 if more is better, -1 if less is better, 0 if neither.
        reached: key that says whether a run got there; one that did not holds the budget. "" where there is nothing to
            reach.
        spent: key of what a run had spent of it by its last evaluation, where that differs between runs; see
            `restricted`.
        absent: what a reader sees where a run has no such number.
    """

    name: str
    heading: str
    digits: int
    better: int
    reached: str = ""
    spent: str = ""
    absent: str = "not recorded"

    @property
    def censored(self) -> bool:
        """Whether runs that never got there hold the budget, so that only a restricted mean is honest."""
        return bool(self.reached)


QUANTITIES = (
    Quantity("steps_to_target", "Steps to target", 0, -1, "reached_target"),
    Quantity("gradient_steps_to_target", "Gradient steps to target", 0, -1, "reached_target", "gradient_steps"),
    Quantity("seconds_to_target", "Seconds to target", 0, -1, "reached_target", "seconds"),
    Quantity("area_under_curve", "Area under curve", 2, +1),
    Quantity("final_success", "Final success", 2, +1),
    Quantity("final_success_deterministic", "Final success, deterministic", 2, +1),
    Quantity("final_return", "Final return", 2, +1),
    Quantity("switch_success", "Success at switch", 2, +1),
    Quantity("dip_depth", "Dip after switch", 2, -1, absent=NOTHING_TO_LOSE),
    Quantity("recovery_steps", "Steps to recover", 0, -1, "recovered", absent=NOTHING_TO_LOSE),
    Quantity("drawdown", "Drawdown (CVaR)", 2, -1),
    Quantity("dispersion", "Dispersion (IQR)", 2, -1),
    Quantity("early_peak_contact_force", "Early peak force (N)", 1, -1),
    Quantity("early_safety_box_clips", "Early box clips", 0, -1),
    Quantity("interventions", "Intervention steps", 0, -1),
    Quantity("early_intervention_rate", "Intervention rate, first quarter", 2, -1),
    Quantity("late_intervention_rate", "Intervention rate, last quarter", 2, -1),
    Quantity("offline_megabytes", "Offline data held (MB)", 2, -1),
)


class Dip(NamedTuple):
    """What happened to a curve after the switch: see `switch_dip`."""

    depth: float
    recovery_steps: float
    recovered: bool


def steps_to_target(
    environment_step: Num[np.ndarray, " points"], success: Float[np.ndarray, " points"], target: float = 0.8
) -> tuple[float, bool]:
    """First evaluation at which the target is reached, and whether it was; the budget (last step) where it was not.

    The mean of these steps over runs is the restricted mean: a run that never got there counts with the whole budget.
    """
    reached = success >= target
    return float(environment_step[np.argmax(reached) if reached.any() else -1]), bool(reached.any())


def area_under_curve(environment_step: Num[np.ndarray, " points"], value: Float[np.ndarray, " points"]) -> float:
    """Mean height of the curve from the first to the last evaluation, by trapezoids; in [0, 1] for success rates."""
    span = float(environment_step[-1] - environment_step[0])
    if span == 0.0:
        return float(value.mean())
    return float(np.sum(np.diff(environment_step) * (value[1:] + value[:-1])) / 2.0 / span)


def final(value: Float[np.ndarray, " points"], evaluations: int = 3) -> float:
    """Mean of the last few evaluations: not the best, nor the luck of a single one."""
    return float(value[-evaluations:].mean())


def switch_dip(
    environment_step: Num[np.ndarray, " points"],
    value: Float[np.ndarray, " points"],
    window: float | None = None,
) -> Dip:
    """How deep the curve falls after the switch, and when it is back.

    A minimum over noisy evaluations is biased downwards: compare dips only between runs evaluated alike.

    Args:
        environment_step: steps since the switch; the first point is the switch itself.
        value: the curve.
        window: environment steps after the switch in which the minimum is looked for; None: half of the budget.

    Returns:
        depth: value at the switch minus the minimum in the window, at least 0.
        recovery_steps: first step after the minimum at which the curve is back at its value at the switch; 0 without a
            dip, the budget where it never is back.
        recovered: whether it is back within the budget.
    """
    window = (environment_step[-1] - environment_step[0]) / 2.0 if window is None else window
    inside = environment_step <= environment_step[0] + window
    lowest = int(np.argmin(value[inside]))
    depth = float(value[0] - value[lowest])
    back = np.flatnonzero(value[lowest:] >= value[0])
    if len(back) == 0:
        return Dip(depth, float(environment_step[-1] - environment_step[0]), False)
    return Dip(depth, float(environment_step[lowest + back[0]] - environment_step[0]), True)


def drawdown(value: Float[np.ndarray, " points"], alpha: float = 0.05) -> float:
    """Mean of the worst `alpha` share of drops below the best value so far (upper CVaR), at least 0.

    Long-term risk of Chan et al. 2020, "Measuring the reliability of reinforcement learning algorithms", section 4.
    """
    drops = np.maximum.accumulate(value) - value
    return float(drops[drops >= np.quantile(drops, 1.0 - alpha)].mean())


def dispersion(value: Float[np.ndarray, " points"]) -> float:
    """Inter-quartile range of the changes between evaluations (the differences take the trend out).

    Short-term dispersion across time of Chan et al. 2020, section 4; nan for fewer than 2 points.
    """
    if len(value) < 2:
        return float("nan")
    return float(np.subtract(*np.quantile(np.diff(value), [0.75, 0.25])))


def early_safety(record: RunRecord, steps: int = EARLY_STEPS) -> tuple[float, float]:
    """Peak contact force (N) and number of safety-box clips in the first online steps; nan where not recorded."""
    force = record.curve("training/peak_contact_force")
    clips = record.curve("training/safety_box_clips")
    early_force = force.value[(force.environment_step <= steps) & np.isfinite(force.value)]
    early_clips = clips.value[(clips.environment_step <= steps) & np.isfinite(clips.value)]
    return (
        float(early_force.max()) if len(early_force) else float("nan"),
        float(early_clips.sum()) if len(early_clips) else float("nan"),
    )


def interventions(record: RunRecord, budget: float | None = None) -> tuple[float, float, float]:
    """Steps that a human took, and their share of the first and of the last quarter of the steps; nan without a human.

    Rates are recorded from the first intervention on: before that there were none, nor where the human was never
    needed. A quarter is made of whole windows between two records, and is nan where it is shorter than one.
    """
    rate = record.curve(INTERVENTION_RATE)
    # Recorded at the end of every window.
    ends = record.curve("training/peak_contact_force").environment_step.astype(float)
    ends = ends[ends <= (np.inf if budget is None else budget)]
    if len(ends) == 0 or (len(rate) == 0 and record.parameters.get("human", NOBODY) == NOBODY):
        return float("nan"), float("nan"), float("nan")
    steps = np.diff(ends, prepend=0.0)
    taken = np.zeros(len(ends))
    taken[np.isin(ends, rate.environment_step)] = rate.value[np.isin(rate.environment_step, ends)]
    taken *= steps
    quarters = (ends <= ends[-1] / 4, ends - steps >= ends[-1] * 3 / 4)
    early, late = (
        float(taken[quarter].sum() / steps[quarter].sum()) if quarter.any() else np.nan for quarter in quarters
    )
    return float(taken.sum()), early, late


def offline_bytes(record: RunRecord) -> float:
    """Bytes of offline data held during fine-tuning; nan where not recorded."""
    held = record.curve("switch/offline_bytes").value
    return float(held[0]) if len(held) else float("nan")


def gradient_steps(record: RunRecord, environment_step: float) -> float:
    """Critic updates, warmup included, that a run had made at its last evaluation up to an environment step."""
    curve = record.curve(SUCCESS)
    before = np.searchsorted(curve.environment_step, environment_step, side="right")
    return float(curve.gradient_step[before - 1])


def seconds(record: RunRecord, environment_step: float) -> float:
    """Wall-clock up to an environment step, warmup included; nan for a run whose warmup is not known.

    A run's metrics hold no clock: its own seconds, evaluations included, are spread evenly over its environment steps.
    """
    if record.parameters.get("checkpoint_path") is not None and record.warmup_seconds == 0.0:
        return float("nan")
    return record.warmup_seconds + record.seconds * environment_step / max(1.0, last_step(record))


def finite_curve(
    record: RunRecord, metric: str, budget: float | None = None
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Environment steps and values of an online metric up to the budget, without the points that measured nothing."""
    curve = record.curve(metric)
    kept = np.isfinite(curve.value) & (curve.environment_step <= (np.inf if budget is None else budget))
    return curve.environment_step[kept].astype(float), curve.value[kept]


def reduce_run(record: RunRecord, budget: float | None = None, target: float = 0.8) -> dict[str, Any]:
    """One row of numbers for one run: the row of the per-seed CSV.

    Args:
        record: a run with an online phase.
        budget: environment steps compared; None: all there are.
        target: success rate for `steps_to_target`.

    Returns:
        arm, seed, status, `reached_target` and `recovered` (1 or 0), `last_step`, what was spent up to the last
        evaluation within the budget (`gradient_steps`, `seconds`), and every name in `QUANTITIES`; nan where the run
        did not record what is needed. A run without success at the switch has no dip, and nothing to recover.
    """
    force, clips = early_safety(record)
    row: dict[str, Any] = {"arm": record.arm, "seed": record.seed, "status": record.status}
    row |= {"last_step": last_step(record)} | {quantity.name: float("nan") for quantity in QUANTITIES}
    row |= dict.fromkeys(("reached_target", "recovered", "gradient_steps", "seconds"), float("nan"))
    row |= {"early_peak_contact_force": force, "early_safety_box_clips": clips}
    row |= {"offline_megabytes": offline_bytes(record) / 1e6}
    names = ("interventions", "early_intervention_rate", "late_intervention_rate")
    row |= dict(zip(names, interventions(record, budget), strict=True))
    steps, success = finite_curve(record, SUCCESS, budget)
    if len(steps):
        reached_at, reached = steps_to_target(steps, success, target)
        dip = switch_dip(steps, success)
        row |= {"steps_to_target": reached_at, "reached_target": float(reached)}
        row |= {"gradient_steps_to_target": gradient_steps(record, reached_at)}
        row |= {"gradient_steps": gradient_steps(record, float(steps[-1]))}
        row |= {"seconds_to_target": seconds(record, reached_at), "seconds": seconds(record, float(steps[-1]))}
        if success[0] > 0:
            row |= {"dip_depth": dip.depth, "recovery_steps": dip.recovery_steps, "recovered": float(dip.recovered)}
        row |= {"area_under_curve": area_under_curve(steps, success), "final_success": final(success)}
        row |= {"switch_success": float(success[0]), "drawdown": drawdown(success), "dispersion": dispersion(success)}
    for name, metric in (
        ("final_success_deterministic", "evaluation/success_deterministic"),
        ("final_return", "evaluation/return_sampled"),
    ):
        _, values = finite_curve(record, metric, budget)
        row[name] = final(values) if len(values) else float("nan")
    return row


def shared_budget(records: Sequence[RunRecord]) -> float | None:
    """Environment steps that all finished runs cover; None if none is finished and evaluated."""
    lengths = [last_step(record) for record in records if record.status == "finished"]
    return min((length for length in lengths if math.isfinite(length)), default=None)


def restricted(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `reduce_run` whose gradient steps and seconds to the target end at what every finished run had spent.

    Runs of equal length in environment steps differ in these, and a restricted mean compares only what is restricted
    alike: a run that got there later counts with the restriction, as one that never did: see `is_censored`.
    """
    changed = [{**row, "cut": ()} for row in rows]
    for quantity in (quantity for quantity in QUANTITIES if quantity.spent):
        spent = [row[quantity.spent] for row in rows if row["status"] == "finished"]
        limit = min((value for value in spent if math.isfinite(value)), default=math.inf)
        for row in changed:
            if row[quantity.name] > limit:
                row[quantity.name], row["cut"] = limit, (*row["cut"], quantity.name)
    return changed


def is_censored(row: Mapping[str, Any], quantity: Quantity) -> bool:
    """Whether a run's number is only a lower bound: it had not got there by then."""
    return quantity.censored and (row[quantity.reached] == 0.0 or quantity.name in row.get("cut", ()))


def last_step(record: RunRecord) -> float:
    """Environment step of the last evaluation; nan if there was none."""
    steps = record.curve("evaluation/return_sampled").environment_step
    steps = np.concatenate([steps, record.curve(SUCCESS).environment_step])
    return float(steps.max()) if len(steps) else float("nan")


COMPARED = (
    "steps_to_target",
    "gradient_steps_to_target",
    "seconds_to_target",
    "area_under_curve",
    "final_success",
    "final_return",
    "early_peak_contact_force",
    "early_safety_box_clips",
)


class Comparison(NamedTuple):
    """One arm against the control in one quantity.

    Attributes:
        difference: of IQMs (of restricted means where censored), arm minus control, over the seeds they share.
        better: probability that a run of the arm is better than one of the control.
        bound: ">" where only the arm has runs that never got there, so that the difference is larger; "<" where only
            the control has some; else "".
    """

    arm: str
    quantity: Quantity
    difference: Interval
    better: Interval
    bound: str


def compare(rows: Sequence[Mapping[str, Any]], control: str) -> list[Comparison]:
    """Every arm against the control, in the order of the arms, where they share a finished seed.

    Args:
        rows: of `metrics.reduce_run`; only finished runs count.
        control: name of the arm that the others are compared with.
    """
    rows = finished(restricted(rows))
    comparisons = []
    for arm in arm_order(row["arm"] for row in rows if row["arm"] != control):
        for quantity in (quantity for quantity in recorded(rows) if quantity.name in COMPARED):
            first, second = (by_seed(rows, name, quantity.name) for name in (arm, control))
            shared = [row for row in rows if row["seed"] in first.keys() & second.keys()]
            if shared:
                difference = paired_difference(first, second, mean if quantity.censored else iqm)
                higher, lower = (quantity.better * np.array(list(values.values())) for values in (first, second))
                better = probability_of_improvement(higher, lower)
                signs = censored_sign(shared, arm, quantity), censored_sign(shared, control, quantity)
                bound = {(">", ""): ">", ("", ">"): "<"}.get(signs, "")
                comparisons.append(Comparison(arm, quantity, difference, better, bound))
    return comparisons


def recorded(rows: Sequence[Mapping[str, Any]]) -> list[Quantity]:
    """The quantities that any run recorded; the return only where the task reports no success."""
    found = [quantity for quantity in QUANTITIES if any(math.isfinite(row[quantity.name]) for row in rows)]
    success = any(quantity.name == "final_success" for quantity in found)
    return [quantity for quantity in found if not (success and quantity.name == "final_return")]


def finished(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows of the runs that were finished."""
    return [row for row in rows if row["status"] == "finished"]


def censored_sign(rows: Iterable[Mapping[str, Any]], arm: str, quantity: Quantity) -> str:
    """`>` where some run of the arm never got there, so that its mean is larger than the restricted one; else ""."""
    return ">" if any(row["arm"] == arm and is_censored(row, quantity) for row in rows) else ""


def by_seed(rows: Iterable[Mapping[str, Any]], arm: str, name: str) -> dict[int, float]:
    """An arm's recorded values of one quantity."""
    return {row["seed"]: row[name] for row in rows if row["arm"] == arm and math.isfinite(row[name])}
