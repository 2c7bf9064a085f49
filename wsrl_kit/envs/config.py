"""Parameters of collecting data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wsrl_kit.config.config import at_robot
from wsrl_kit.parameters import parameter, validate

SCRIPTED, PAD, SPACEMOUSE, KEYBOARD = "scripted", "pad", "spacemouse", "keyboard"
"""`operator`: who acts, and by what."""

SOURCES = {"expert": "demos", "suboptimal": "suboptimal", "random": "random"}
"""Data source by kind of policy."""


@dataclass(frozen=True)
class CollectConfig:
    """How much data to collect; raises ParameterError."""

    exp_name: str = parameter("hirol_fixed_gripper", "task: the simulated Franka, or any Gymnasium id", group="Data")
    robot_url: str | None = parameter(
        None, "address of a robot's server, such as http://127.0.0.1:5000; it takes the place of exp_name"
    )
    environment_options: dict = parameter({}, "options of the environment, such as {'difficulty': 'easy'}")
    operator: str = parameter(
        SCRIPTED,
        "who acts: scripts, or a person: pad or spacemouse in JupyterLab, keyboard or spacemouse in a terminal",
        choices=(SCRIPTED, PAD, SPACEMOUSE, KEYBOARD),
    )
    seed: int = parameter(0, "seed of everything random in the recording", minimum=0)
    demo_episodes: int = parameter(20, "recorded episodes of the expert, a script or a person", minimum=0)
    suboptimal_episodes: int = parameter(100, "recorded episodes of a clumsy script, or of a person", minimum=0)
    random_episodes: int = parameter(50, "recorded episodes of uniformly random actions; a person does none", minimum=0)
    classifier_episodes: int = parameter(
        0, "episodes in which a person records successes and failures for the reward classifier", minimum=0
    )
    success_frames: int = parameter(
        5, "observations recorded after each success for the reward classifier, the first one included", minimum=1
    )

    def __post_init__(self) -> None:
        validate(self)

    @staticmethod
    def completed(values: Mapping[str, Any]) -> dict[str, Any]:
        """Turns a `robot_url` into the experiment and its options."""
        given = {name: value for name, value in values.items() if value is not None}
        return at_robot(given) if "robot_url" in given else given

    @property
    def episodes(self) -> dict[str, int]:
        """Episodes by kind of script, without zeros."""
        counts: dict[str, int] = {
            "expert": self.demo_episodes,
            "suboptimal": self.suboptimal_episodes,
            "random": self.random_episodes,
        }
        return {kind: count for kind, count in counts.items() if count > 0}
