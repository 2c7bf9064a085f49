"""Parameters of collecting data."""

from dataclasses import dataclass

from wsrl_kit.parameters import parameter, validate

SOURCES = {"expert": "demos", "suboptimal": "suboptimal", "random": "random"}
"""Data source by kind of policy."""


@dataclass(frozen=True)
class CollectConfig:
    """How much data to collect; raises ParameterError."""

    exp_name: str = parameter("hirol_fixed_gripper", "task: the simulated Franka, or any Gymnasium id", group="Data")
    environment_options: dict = parameter({}, "options of the environment, such as {'difficulty': 'easy'}")
    seed: int = parameter(0, "seed of everything random in the recording", minimum=0)
    demo_episodes: int = parameter(20, "recorded episodes of the scripted expert", minimum=0)
    suboptimal_episodes: int = parameter(100, "recorded episodes of the scripted clumsy operator", minimum=0)
    random_episodes: int = parameter(50, "recorded episodes of uniformly random actions", minimum=0)

    def __post_init__(self) -> None:
        validate(self)

    @property
    def episodes(self) -> dict[str, int]:
        counts: dict[str, int] = {
            "expert": self.demo_episodes,
            "suboptimal": self.suboptimal_episodes,
            "random": self.random_episodes,
        }
        return {kind: count for kind, count in counts.items() if count > 0}
