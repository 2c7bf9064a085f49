"""What HIL-SERL's experiment compares, and on which robot."""

from dataclasses import dataclass

from wsrl_kit.classifier.config import ClassifierConfig
from wsrl_kit.parameters import check_distinct, check_some, parameter, unknown, validate


@dataclass(frozen=True)
class HilSerlArm:
    """Which of HIL-SERL's two sources of human knowledge an arm has, and whether it has the kit's warmup.

    Attributes:
        demos: demonstrations, in the offline half of every batch.
        human: somebody who takes over.
        warmup: offline, on the demonstrations; requires `demos`.
    """

    demos: bool
    human: bool
    warmup: bool


HIL_SERL_ARMS = {
    "hil_serl": HilSerlArm(demos=True, human=True, warmup=True),
    "no_warmup": HilSerlArm(demos=True, human=True, warmup=False),
    "no_interventions": HilSerlArm(demos=True, human=False, warmup=True),
    "no_demos": HilSerlArm(demos=False, human=True, warmup=False),
}


@dataclass(frozen=True)
class HilSerlConfig:
    """The robot, what people give it, and what is compared.

    Raises:
        ParameterError: naming the parameter, what was expected and what was found.
    """

    exp_name: str = parameter(
        "hirol_fixed_gripper", "simulated robot to serve, if no robot_url is given", group="Robot"
    )
    environment_options: dict = parameter({}, "options of the simulated robot, such as {'difficulty': 'easy'}")
    robot_speed: float = parameter(
        0.0, "speed of the simulated robot relative to real time; 0: one command, one step", minimum=0.0
    )
    robot_port: int = parameter(
        5000,
        "port of the simulated robot's server; 0: any free port, and an interrupted run can't be resumed",
        minimum=0,
        maximum=65535,
    )
    robot_options: dict = parameter({}, "options of the robot's client: safety box, reset pose, compliance ...")
    demonstrations: int = parameter(
        20, "episodes that the scripted expert demonstrates, if no demo_path is given", minimum=1, group="HIL-SERL"
    )
    classifier_episodes: int = parameter(
        12, "episodes that a person records for the classifier, if no reward_classifier is given", minimum=2
    )
    classifier_options: dict = parameter(
        {}, "parameters for 07_reward_classifier that differ from its defaults, if no reward_classifier is given"
    )
    arms: list[str] = parameter(list(HIL_SERL_ARMS), "arms to run")
    seeds: list[int] = parameter([0, 1, 2], "seeds: every arm runs once per seed", minimum=0)
    final_episodes: int = parameter(
        20, "test episodes without a human after training, for sampled and for deterministic actions each", minimum=0
    )

    def __post_init__(self) -> None:
        validate(self)
        check_distinct("arms", self.arms)
        check_distinct("seeds", self.seeds)
        for arm in self.arms:
            if arm not in HIL_SERL_ARMS:
                raise unknown(arm, list(HIL_SERL_ARMS), "arm")
        object.__setattr__(self, "classifier_options", check_some(ClassifierConfig, self.classifier_options))

    @property
    def is_demonstrated(self) -> bool:
        """Whether any arm needs demonstrations."""
        return any(HIL_SERL_ARMS[arm].demos for arm in self.arms)

    @property
    def is_warmed_up(self) -> bool:
        """Whether any arm begins with a warmup."""
        return any(HIL_SERL_ARMS[arm].warmup for arm in self.arms)
