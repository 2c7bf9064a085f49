"""Every parameter of a warmup and a fine-tuning run, and the parameters that all notebooks share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wsrl_kit.agent.parameters import AgentParameters
from wsrl_kit.config.presets import preset
from wsrl_kit.parameters import parameter, unknown, validate


@dataclass(frozen=True)
class SessionConfig:
    """Where a notebook writes, and whether it shows widgets.

    Raises:
        ParameterError: naming the parameter, what was expected and what was found.
    """

    preset: str = parameter("kit", "published method that gives the values left at None")
    robot_url: str | None = parameter(
        None, "address of a robot's server, such as http://127.0.0.1:5000; it takes the place of exp_name"
    )
    output_dir: str = parameter("runs/latest", "folder of the run: metrics, checkpoint and figures", path=True)
    live: bool | None = parameter(None, "widgets and a Stop button; None: if a Jupyter front end is attached")
    resume: bool = parameter(True, "continue an unfinished run found in output_dir")

    def __post_init__(self) -> None:
        validate(self)
        preset(self.preset)


ROBOT = "hirol_robot"
"""Name of the experiment that is a robot behind a server."""

NOBODY = "none"
"""`human` where nobody takes over."""

PERSON = "person"
"""`human` where it is a person, at the pad of a notebook."""

TASK_UNITS = "task"
"""`action_units` where data files hold actions in the task's own units."""

ACTION_UNITS = ("normalized", TASK_UNITS)
"""What `action_units` may be."""

SMALLEST_SCALE = 1e-3
"""Lower bound of a normalisation scale estimated from data: a constant input must not become infinite."""

Paths = str | list[str] | dict[str, str | list[str]] | None


@dataclass(frozen=True)
class WSRLConfig(AgentParameters):
    """The parameters of one run, with the names and defaults that users already know.

    Raises:
        ParameterError: naming the parameter, what was expected and what was found.
    """

    # The experiment
    exp_name: str = parameter("hirol_fixed_gripper", "experiment: the simulated Franka, or any Gymnasium id")
    environment_options: dict = parameter({}, "options of the environment, such as its difficulty")
    seed: int = parameter(0, "seed of everything random in the run", minimum=0, maximum=2**32 - 1)

    # Offline data
    offline_data_path: Paths = parameter(None, "offline data: file, glob, folder, list, or {source: files}", path=True)
    demo_path: Paths = parameter(None, "offline data for fine-tuning; same forms as offline_data_path", path=True)
    action_units: str = parameter(
        "normalized",
        "units of actions in data files: normalized to [-1, 1], or the task's own, which its bounds then rescale",
        choices=ACTION_UNITS,
    )
    demo_weight: float = parameter(2.0, "weight of the source `demos`", minimum=0.0)
    source_weights: dict[str, float] = parameter(
        {"suboptimal": 1.0, "random": 0.5}, "weight of every other source by name; 1.0 for one not named", minimum=0.0
    )
    success_weight_bonus: float = parameter(1.5, "factor on the weight of successful episodes", minimum=0.0)
    quality_weighting: bool = parameter(True, "weigh episodes by their quality too; False: by source and success alone")
    holdout_fraction: float = parameter(0.1, "share of episodes held out for early stopping", minimum=0.0, maximum=0.9)

    # Reward
    reward_scale: float = parameter(1.0, "factor on the rewards that learning sees", minimum=1e-8)
    reward_bias: float = parameter(0.0, "added to them, after the factor")

    reward_classifier: str | None = parameter(
        None, "file of a classifier that gives the reward in fine-tuning; None: the task gives it", path=True
    )
    confirm_success: bool = parameter(
        False,
        "a success that the classifier sees counts once it is confirmed, by the person at the pad or the simulation",
    )

    # Offline warmup
    checkpoint_path: str | None = parameter(
        None, "warmup checkpoint: written by warmup, read by fine-tuning", path=True
    )
    warmup_steps: int = parameter(50_000, "gradient steps on the offline sources", minimum=1)
    early_stopping_patience: int = parameter(
        0, "evaluations without a better held-out TD error before warmup stops; 0: never", minimum=0
    )
    warmup_evaluation_interval: int = parameter(5_000, "gradient steps between evaluations in warmup", minimum=1)

    # The switch
    frozen_rollout_steps: int = parameter(
        0, "environment steps of the warmed-up policy before the first online update (WSRL: 5000)", minimum=0
    )
    retention_ratio: float = parameter(0.2, "share of the offline data kept online", minimum=0.0, maximum=1.0)
    retention_priority: str = parameter(
        "mix", "what the kept data are chosen by", choices=("td_error", "reward", "quality", "mix", "random")
    )
    retention_unit: str = parameter("transition", "what is kept as a whole", choices=("transition", "trajectory"))
    offline_ratio_schedule: str = parameter(
        "exponential", "how the offline ratio decays", choices=("exponential", "linear", "constant")
    )
    initial_offline_ratio: float = parameter(1.0, "offline share of a batch at the switch", minimum=0.0, maximum=1.0)
    offline_decay_rate: float = parameter(0.999, "factor on the offline ratio a step", minimum=0.0, maximum=1.0)
    offline_decay_steps: int = parameter(5_000, "environment steps of the linear decay", minimum=1)
    min_offline_ratio: float = parameter(0.5, "floor of the offline ratio", minimum=0.0, maximum=1.0)

    behavior_cloning_online_weight: float = parameter(
        0.0, "weight of the behavior-cloning term in fine-tuning after a warmup, after the fade", minimum=0.0
    )
    behavior_cloning_fade_steps: int = parameter(
        0, "environment steps over which its weight goes from warmup's to that", minimum=0
    )

    # Online fine-tuning
    online_steps: int = parameter(10_000, "environment steps of fine-tuning", minimum=1)
    random_steps: int = parameter(0, "first environment steps with uniformly random actions", minimum=0)
    update_to_data_ratio: int = parameter(4, "critic updates per environment step (UTD)", minimum=1)
    replay_capacity: int = parameter(200_000, "online transitions kept", minimum=1)
    use_prioritized_replay: bool = parameter(
        False, "sample by priority (PER) instead of uniformly, which was as good or better on every task measured"
    )
    priority_alpha: float = parameter(0.6, "PER exponent: 0 uniform, 1 fully by priority", minimum=0.0, maximum=1.0)
    initial_priority_beta: float = parameter(0.4, "PER importance exponent at the switch", minimum=0.0, maximum=1.0)
    final_priority_beta: float = parameter(1.0, "PER importance exponent at the end", minimum=0.0, maximum=1.0)

    # Interventions
    human: str = parameter(
        NOBODY,
        "who takes over from the policy in training: nobody, a scripted operator, or a person at a pad in JupyterLab",
        choices=(NOBODY, "scripted", PERSON),
    )
    human_options: dict = parameter({}, "options of the human: see HumanOptions (scripted) and PersonOptions (person)")
    intervention_capacity: int | None = parameter(
        None,
        "a human's transitions kept beside the offline data; 0: online alone; None: all, where one may be",
        minimum=0,
    )

    # Soft actor-critic
    batch_size: int = parameter(256, "examples per critic update", minimum=1)

    # Conservative critics
    conservative_online_weight: float = parameter(0.0, "its weight in fine-tuning, after the fade", minimum=0.0)
    conservative_fade_steps: int = parameter(
        0, "environment steps over which its weight goes from the one to the other", minimum=0
    )

    # Evaluation and records
    evaluation_interval: int = parameter(1_000, "environment steps between evaluations", minimum=1)
    evaluation_episodes: int = parameter(20, "episodes per evaluation and action mode; 0: no evaluations", minimum=0)
    log_interval: int = parameter(100, "steps between recorded training metrics", minimum=1)
    checkpoint_interval: int = parameter(1_000, "steps between checkpoints of the run", minimum=1)

    @staticmethod
    def completed(values: Mapping[str, Any]) -> dict[str, Any]:
        """The values, and where they say nothing those of the preset that `preset` names; None says nothing.

        A `robot_url` stands for the experiment `hirol_robot` there, and since one robot can't be evaluated beside its
        training, for no evaluations.

        Raises:
            ParameterError: there is no such preset.
        """
        given = {name: value for name, value in values.items() if value is not None}
        if "robot_url" in given:
            options = given.get("environment_options", {}) | {"robot_url": given["robot_url"]}
            given = {"evaluation_episodes": 0} | given | {"exp_name": ROBOT, "environment_options": options}
        return preset(given.get("preset", "kit")) | given

    @classmethod
    def of_preset(cls, name: str, **values: Any) -> "WSRLConfig":
        """A published method (see `presets`), with other values where they are given.

        Raises:
            ParameterError: there is no such preset, no such parameter, or a value is refused.
        """
        for parameter_name in values:
            if parameter_name not in cls.__dataclass_fields__:
                raise unknown(parameter_name, list(cls.__dataclass_fields__))
        return cls(**preset(name) | values)

    @property
    def critic_updates(self) -> int:
        """Critic updates of warmup and fine-tuning together, after which their decaying learning rate reaches 0."""
        return self.warmup_steps + self.online_steps * self.update_to_data_ratio

    @property
    def actor_updates(self) -> int:
        """Actor updates of warmup and fine-tuning together, after which their decaying learning rate reaches 0."""
        return self.warmup_steps + self.online_steps

    @property
    def clones_online(self) -> bool:
        """Whether fine-tuning holds the actor to what replay holds, as its warmup did."""
        return self.checkpoint_path is not None and bool(
            self.behavior_cloning_online_weight or self.behavior_cloning_fade_steps
        )


RETENTION_PARAMETERS = ("retention_ratio", "retention_priority", "retention_unit")
"""What chooses the kept data, once warmup has ended."""

FINETUNING_PARAMETERS = (
    "demo_path",
    "frozen_rollout_steps",
    "offline_ratio_schedule",
    "initial_offline_ratio",
    "offline_decay_rate",
    "offline_decay_steps",
    "min_offline_ratio",
    "behavior_cloning_online_weight",
    "behavior_cloning_fade_steps",
    "random_steps",
    "reward_classifier",
    "confirm_success",
    "replay_capacity",
    "use_prioritized_replay",
    "priority_alpha",
    "initial_priority_beta",
    "final_priority_beta",
    "conservative_online_weight",
    "conservative_fade_steps",
    "human",
    "human_options",
    "intervention_capacity",
    "evaluation_interval",
)
"""What fine-tuning alone reads: runs that differ only in these and in retention have the same warmup.

The lengths of fine-tuning are not among them, since the learning rates may decay over both stages together.
"""
