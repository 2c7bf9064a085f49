"""The claims about warmup, tested: all arms of all claims on one task after another, and a table of verdicts.

    python benchmarks/claims.py runs/claims                             # every task whose packages are installed
    python benchmarks/claims.py runs/claims --tasks insertion hard      # some of them
    python benchmarks/claims.py runs/claims --tasks                     # verdicts and figures alone, of what is there

Finished runs are kept: the same command goes on where it was. Beside the runs it writes verdicts.md, per_seed.csv and
figures/*.png. A verdict is that of the 95 % interval of a difference paired by seed: it `holds` if the interval lies on
the claimed side of 0, `does not` if on the other, and is `undecided` if it holds 0. How often such intervals are right
stands in docs/coverage.md; no correction is made for the number of comparisons.
"""

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

from wsrl_kit.analysis import plots
from wsrl_kit.analysis.metrics import QUANTITIES, SUCCESS, finished, finite_curve, reduce_run, values_by_seed
from wsrl_kit.analysis.report import finetuning_runs, write_report
from wsrl_kit.analysis.statistics import Interval, iqm, paired_difference
from wsrl_kit.analysis.tables import Estimate, cell_text
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.envs.config import CollectConfig
from wsrl_kit.errors import ExperimentError
from wsrl_kit.experiments.ablation import run_ablation
from wsrl_kit.experiments.config import AblationConfig
from wsrl_kit.notebook.parameters import read_notebook
from wsrl_kit.parameters import build
from wsrl_kit.runs.progress import Silent
from wsrl_kit.runs.run import RunRecord, save_figure
from wsrl_kit.training.jobs import run_collect

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "03_ablation_warmup.ipynb"
SEEDS = [0, 1, 2, 3, 4]
NOT_RUN = "–"
MARKERS = ("o", "s", "D", "^", "v", "P", "*", "X")
DIGITS = {"steps_to_target": 0, "gradient_steps_to_target": 0, "seconds_to_target": 1}


@dataclass(frozen=True)
class Task:
    """A task, its data, and what differs from the ablation notebook's parameters."""

    exp_name: str
    environment_options: dict[str, Any] = field(default_factory=dict)
    data: dict[str, int] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)


FETCH = Task(
    "FetchReach-v4",
    {"success_reward": True, "max_episode_steps": 10},
    {"suboptimal_episodes": 80, "random_episodes": 40},
    {"online_steps": 1_000, "evaluation_interval": 50, "frozen_rollout_steps": 250},
)
TASKS = {
    "insertion": Task("hirol_fixed_gripper"),
    "hard": Task("hirol_fixed_gripper", {"difficulty": "hard"}),
    "fetch": FETCH,
    "fetch-random": replace(FETCH, data={"demo_episodes": 0, "suboptimal_episodes": 0, "random_episodes": 140}),
    **{
        name: Task(
            f"metaworld/{name}-v3",
            {"max_episode_steps": 25, "action_repeat": 4},
            {"suboptimal_episodes": 80, "random_episodes": 40},
            {"online_steps": 2_500, "evaluation_interval": 250, "evaluation_episodes": 10},
        )
        for name in ("coffee-button", "drawer-open", "window-open", "door-open")
    },
}
"""Parameters were chosen on the insertion and drawer-open, options and budgets of Fetch and coffee-button too, all by
seeds that no table shows; on hard, fetch-random, window-open and door-open nothing was chosen."""

NO_CLONING = {"behavior_cloning_weight": 0.0}
CONSERVATIVE = {"conservative_weight": 0.005, "cql_actions": 4}
"""The weight by seed 100 of the insertion (0.05 learns nothing there); four actions of each kind take half the time."""
VARIANTS: dict[str, dict[str, Any]] = {
    "keep_all": {"retention_ratio": 1.0},
    "keep_random": {"retention_priority": "random"},
    "uniform": {"use_prioritized_replay": False},
    "prioritized_max": {"importance_normalisation": "max"},
    "cloning_ends": {"behavior_cloning_online_weight": 0.0},
    "advised": {"follow_advice": True},
    "unweighted": {
        "demo_weight": 1.0,
        "source_weights": {},
        "success_weight_bonus": 1.0,
        "quality_weighting": False,
    },
    "no_cloning": NO_CLONING,
    "cql": NO_CLONING | CONSERVATIVE | {"conservative_loss": "cql"},
    "calql": NO_CLONING | CONSERVATIVE | {"conservative_loss": "calql"},
    "dropout": NO_CLONING | {"dropout_rate": 0.01},
    "early_stopping": NO_CLONING | {"early_stopping_patience": 2, "warmup_evaluation_interval": 500},
}
ARMS = ["rlpd_all", "warmup_decay", "warmup_wsrl", "warmup_no_data", *VARIANTS]


@dataclass(frozen=True)
class Claim:
    """That `arm` is better than `control` in `quantity`; `text` says it in words."""

    number: str
    text: str
    arm: str
    control: str
    quantity: str


CLAIMS = [
    Claim("1", "warmup reaches 80 % in fewer steps than RLPD", "warmup_decay", "rlpd_all", "steps_to_target"),
    Claim("1", "... WSRL's too", "warmup_wsrl", "rlpd_all", "steps_to_target"),
    Claim("1", "... in fewer gradient steps", "warmup_decay", "rlpd_all", "gradient_steps_to_target"),
    Claim("1", "... in less time", "warmup_decay", "rlpd_all", "seconds_to_target"),
    Claim("1", "... has the higher success over the run", "warmup_decay", "rlpd_all", "area_under_curve"),
    Claim("1", "... and ends better", "warmup_decay", "rlpd_all", "final_success"),
    Claim("2", "frozen rollouts keep Q up once no data are kept", "warmup_wsrl", "warmup_no_data", "q_kept"),
    Claim("2", "... make the dip less deep", "warmup_wsrl", "warmup_no_data", "dip_depth"),
    Claim("2", "... and success higher over the run", "warmup_wsrl", "warmup_no_data", "area_under_curve"),
    Claim("3", "keeping the best 20 % is better than keeping all", "warmup_decay", "keep_all", "area_under_curve"),
    Claim("3", "... than keeping none", "warmup_decay", "warmup_no_data", "area_under_curve"),
    Claim("3", "... than keeping a random 20 %", "warmup_decay", "keep_random", "area_under_curve"),
    Claim("3", "... than all, at the end", "warmup_decay", "keep_all", "final_success"),
    Claim("4", "prioritized replay is better than uniform", "warmup_decay", "uniform", "area_under_curve"),
    Claim("4", "... at the end", "warmup_decay", "uniform", "final_success"),
    Claim("4", "... makes the dip less deep", "warmup_decay", "uniform", "dip_depth"),
    Claim(
        "4",
        "importance over its mean, not its largest, is better",
        "warmup_decay",
        "prioritized_max",
        "area_under_curve",
    ),
    Claim("4", "weights are better than none, at the switch", "warmup_decay", "unweighted", "switch_success"),
    Claim("4", "... and over the run", "warmup_decay", "unweighted", "area_under_curve"),
    Claim("5", "behavior cloning in warmup helps at the switch", "warmup_decay", "no_cloning", "switch_success"),
    Claim("5", "... and at the end", "warmup_decay", "no_cloning", "final_success"),
    Claim("5", "cloning that goes on online is better than none", "warmup_decay", "cloning_ends", "area_under_curve"),
    Claim("5", "... makes the dip less deep", "warmup_decay", "cloning_ends", "dip_depth"),
    Claim("5", "... and the time below it shorter", "warmup_decay", "cloning_ends", "below_switch"),
    Claim("5", "... at the end", "warmup_decay", "cloning_ends", "final_success"),
    Claim("5", "CQL in warmup helps at the switch", "cql", "no_cloning", "switch_success"),
    Claim("5", "... and at the end", "cql", "no_cloning", "final_success"),
    Claim("5", "Cal-QL in warmup helps at the switch", "calql", "no_cloning", "switch_success"),
    Claim("5", "... and at the end", "calql", "no_cloning", "final_success"),
    Claim("5", "dropout in the critics helps at the switch", "dropout", "no_cloning", "switch_success"),
    Claim("5", "early stopping helps at the switch", "early_stopping", "no_cloning", "switch_success"),
    Claim(
        "6",
        "the advice of the warmup's diagnosis is better than the defaults",
        "advised",
        "warmup_decay",
        "area_under_curve",
    ),
    Claim("6", "... at the end", "advised", "warmup_decay", "final_success"),
]
BETTER = {name: quantity.better for name, quantity in QUANTITIES.items()} | {"q_kept": 1, "below_switch": -1}


def settings(task: Task, data: Path) -> WSRLConfig:
    common = {"exp_name": task.exp_name, "environment_options": task.environment_options}
    return build(
        WSRLConfig, read_notebook(NOTEBOOK).defaults | common | task.parameters | {"offline_data_path": str(data)}
    )


class Bar:
    """Progress in a terminal."""

    stop_requested = False

    def __init__(self, name: str) -> None:
        self._bar = tqdm(desc=name, unit="step")

    def update(self, step: int, total: int, text: str) -> None:
        self._bar.total = total
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(step - self._bar.n)


def run(name: str, root: Path, arms: list[str]) -> None:
    task, data = TASKS[name], root / name / "data"
    if not (data / "run.json").exists():
        counts: dict[str, Any] = {"demo_episodes": 20, "suboptimal_episodes": 100, "random_episodes": 50} | task.data
        own = CollectConfig(exp_name=task.exp_name, environment_options=task.environment_options, **counts)
        run_collect(own, data, Silent())
    ablation = AblationConfig(arms=arms, variants=VARIANTS, seeds=SEEDS)
    run_ablation(settings(task, data), ablation, root / name / "runs", Bar(name))


def q_kept(record: RunRecord) -> float:
    """Lowest mean value of the offline probe in the first half of the run, over that at the switch; nan without one."""
    steps, value = finite_curve(record, "switch/q_offline_probe")
    return float(value[steps <= steps[-1] / 2].min() / value[0]) if len(steps) else math.nan


def below_switch(record: RunRecord) -> float:
    """Share of the evaluations after the switch that lie 0.15 below it; nan if it was below 0.5."""
    _, success = finite_curve(record, SUCCESS.metric)
    return float(np.mean(success[1:] <= success[0] - 0.15)) if success[0] >= 0.5 else math.nan


def rows_of(records: Sequence[RunRecord]) -> pd.DataFrame:
    own = {"q_kept": q_kept, "below_switch": below_switch}
    return pd.DataFrame([reduce_run(record) | {name: of(record) for name, of in own.items()} for record in records])


def judge(claim: Claim, runs: pd.DataFrame) -> tuple[Interval, str] | None:
    """The difference and its verdict; None where the task has no runs of one of the arms."""
    # Both arms are restricted to what either had spent, where that is not the same for all.
    runs, quantity = runs[runs["arm"].isin([claim.arm, claim.control])].copy(), QUANTITIES.get(claim.quantity)
    if quantity and quantity.spent:
        runs[claim.quantity] = runs[claim.quantity].clip(upper=runs[quantity.spent].min())
    arm, control = (values_by_seed(runs, name, claim.quantity) for name in (claim.arm, claim.control))
    if not arm.keys() & control.keys():
        return None
    difference = paired_difference(arm, control, quantity.statistic if quantity else iqm)
    sign = BETTER[claim.quantity]
    ends = sorted((sign * difference.low, sign * difference.high))
    verdict = "holds" if ends[0] > 0 else "does not" if ends[1] < 0 else "undecided"
    return difference, verdict


def verdicts(tables: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    names = list(tables)
    yield f"| claim | | {' | '.join(names)} |\n|---|---|{'---:|' * len(names)}"
    for claim in CLAIMS:
        cells = []
        for rows in tables.values():
            if (judged := judge(claim, finished(rows))) is None:
                cells.append(NOT_RUN)
                continue
            difference, verdict = judged
            shown = verdict if verdict == "undecided" else f"**{verdict}**"
            cells.append(f"{cell_text(Estimate(difference, DIGITS.get(claim.quantity, 2)))}, {shown}")
        if set(cells) == {NOT_RUN}:
            continue
        what = f"{claim.text} ({claim.quantity.replace('_', ' ')}: {claim.arm} - {claim.control})"
        yield f"| {claim.number} | {what} | {' | '.join(cells)} |"


def forest(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Every claim about a success rate, a dot and an interval per task; to the right of 0 the claim holds."""
    shown = [
        claim
        for claim in CLAIMS
        if claim.quantity not in DIGITS
        and claim.quantity != "q_kept"
        and any(judge(claim, finished(rows)) for rows in tables.values())
    ]
    figure, (ax,) = plots.new_figure(width=9.0, height=0.48 * len(shown) + 1.2)
    for task, name in enumerate(tables):
        colour, marker = (of[task % len(of)] for of in (plots.SERIES_COLOURS, MARKERS))
        for height, claim in enumerate(shown):
            judged = judge(claim, finished(tables[name]))
            if judged is not None:
                sign = BETTER[claim.quantity]
                point, ends = sign * judged[0].point, sorted((sign * judged[0].low, sign * judged[0].high))
                place = height + 0.8 * ((task + 0.5) / len(tables) - 0.5)
                ax.plot(ends, [place, place], color=colour, linewidth=1.6)
                ax.plot([point], [place], marker, color=colour, markersize=4)
        ax.plot([], [], f"{marker}-", color=colour, label=name)
    labels = [f"{claim.arm} vs. {claim.control}: {claim.quantity.replace('_', ' ')}" for claim in shown]
    ax.set_yticks(range(len(shown)), labels, fontsize=8)
    ax.set_ylim(len(shown) - 0.5, -0.5)
    ax.axvline(0.0, color=plots.NEUTRAL, linewidth=1.0)
    ax.set_xlabel("Difference of IQMs, in the claimed direction (right: the claim holds)")
    plots.shared_legend(figure, ax)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--arms", nargs="*", default=ARMS, metavar="ARM", help="some of the arms, to split the work")
    options = parser.parse_args()
    for name in options.tasks:
        try:
            run(name, options.root, options.arms)
        except ExperimentError as error:
            print(f"{name}: left out: {error}")
    tables: dict[str, pd.DataFrame] = {}
    for name in TASKS:
        if (options.root / name / "runs" / "run.json").exists():
            records = [run for run in finetuning_runs(options.root / name / "runs") if run.status == "finished"]
            report = write_report(records, options.root / name, "rlpd_all")
            tables[name] = rows_of(records)
            print(f"## {name}\n\n{report.summary.to_markdown()}")
    lines = list(verdicts(tables))
    (options.root / "verdicts.md").write_text("\n".join(lines) + "\n")
    save_figure(options.root / "figures" / "claims.png", forest(tables))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
