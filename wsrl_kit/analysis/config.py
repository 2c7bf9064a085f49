"""Parameters of a report, and the quantities that may be tuned; a command's help reads them, so imports are few."""

from dataclasses import dataclass

from wsrl_kit.parameters import parameter, validate

Runs = str | list[str] | dict[str, str | list[str]]

SCORES = {"area_under_curve": "Area under curve", "final_success": "Final success", "final_return": "Final return"}
"""Axis labels of the quantities that may be tuned; more is better."""


@dataclass(frozen=True)
class ReportConfig:
    """Parameters of a report."""

    runs: Runs = parameter(
        "runs/ablation", "runs to report: folder, glob, list of these, or {arm: folders}", path=True, group="Report"
    )
    control: str | None = parameter(
        None, "arm with which the others are compared; None: rlpd_all, or the first arm if there is no rlpd_all"
    )

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True)
class Targets:
    """What counts as reached in steps-to-target."""

    target: float = parameter(
        0.8, "success rate that counts as reached in steps-to-target", minimum=0.0, maximum=1.0, group="Targets"
    )
    target_return: float | None = parameter(
        None, "return that counts as reached, for tasks that report no success; None: no steps-to-target there"
    )

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True)
class ExploreConfig:
    """Which runs are looked at, and how their curves are drawn."""

    runs_folder: str = parameter("runs", "folder with runs at any depth", path=True, group="Runs")
    metric: str = parameter("evaluation/success_sampled", "metric whose curves are drawn, as metrics.csv names it")
    against: str = parameter("environment_step", "steps of the curves", choices=("environment_step", "gradient_step"))
    smoothing: float = parameter(
        0.0, "weight of the past in the curves' exponential moving mean; 0: none", minimum=0.0, maximum=0.99
    )

    def __post_init__(self) -> None:
        validate(self)


USUAL_TARGETS = Targets()
