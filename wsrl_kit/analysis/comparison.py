"""Arms against the control: each quantity's difference, paired by seed, and how probably a run of the arm is better."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from wsrl_kit.analysis.arms import arm_order
from wsrl_kit.analysis.metrics import QUANTITIES, Quantity, is_censored, restricted
from wsrl_kit.analysis.statistics import Interval, iqm, mean, paired_difference, probability_of_improvement

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
