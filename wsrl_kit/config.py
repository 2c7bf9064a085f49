"""Every parameter of a warmup and a fine-tuning run, in one place."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wsrl_kit.errors import ParameterError
from wsrl_kit.parameters import parameter, unknown, validate
from wsrl_kit.presets import preset

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

Paths = str | list[str] | dict[str, str | list[str]] | None


@dataclass(frozen=True)
class WSRLConfig:
    """The parameters of one run, with the names and defaults that users already know.

    Raises:
        ParameterError: naming the parameter, what was expected and what was found.
    """

    # The experiment
    exp_name: str = parameter("hirol_fixed_gripper", "experiment: the simulated Franka, or any Gymnasium id")
    environment_options: dict = parameter({}, "options of the environment, such as its difficulty")
    gripper: str = parameter(
        "fixed",
        "grippers that a discrete critic learns to use: none, one arm's, or those of two arms",
        choices=("fixed", "single", "dual"),
    )
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
    behavior_cloning_weight: float = parameter(
        0.1, "weight of the behavior-cloning term of the actor in warmup; 0: none", minimum=0.0
    )
    behavior_cloning_action: str = parameter(
        "sampled",
        "the policy's action that the term holds to the data's; the mean leaves its noise to the entropy",
        choices=("sampled", "mean"),
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
    priority_kind: str = parameter("proportional", "PER variant", choices=("proportional", "rank"))
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
    hidden_sizes: list[int] = parameter([256, 256], "widths of the hidden layers", minimum=1)
    critic_ensemble_size: int = parameter(2, "critics", minimum=1)
    critic_subset_size: int = parameter(2, "critics drawn at random for the target minimum (REDQ)", minimum=1)
    shared_critic_output: bool = parameter(
        False, "one last layer for all critics, as HIL-SERL's, which its checkpoints need; False: one for each"
    )
    actor_value: str = parameter(
        "mean", "how the actor's objective makes one value of the critics'", choices=("mean", "minimum")
    )
    layer_norm: bool = parameter(True, "LayerNorm after every hidden layer")
    activation: str = parameter("tanh", "of the hidden layers", choices=("tanh", "relu"))
    output_scale: float = parameter(0.01, "variance scale of the output layers at the start", minimum=0.0)
    dropout_rate: float = parameter(0.0, "critic dropout (DroQ); 0: none", minimum=0.0, maximum=0.9)
    discount: float = parameter(0.97, "discount factor", minimum=0.0, maximum=1.0)
    target_update_rate: float = parameter(0.005, "step of the target critics (tau)", minimum=0.0, maximum=1.0)
    actor_learning_rate: float = parameter(3e-4, "Adam step size of the actor", minimum=0.0)
    critic_learning_rate: float = parameter(3e-4, "Adam step size of the critics", minimum=0.0)
    temperature_learning_rate: float = parameter(3e-4, "Adam step size of the temperature", minimum=0.0)
    learning_rate_schedule: str = parameter(
        "constant", "shape of the learning rates over gradient steps", choices=("constant", "cosine", "linear")
    )
    learning_rate_warmup_steps: int = parameter(0, "gradient steps of linear rise of the learning rates", minimum=0)
    initial_temperature: float = parameter(1e-2, "entropy temperature at the start", minimum=1e-8)
    target_entropy: float | None = parameter(None, "entropy aimed at; None: by the next parameter")
    target_entropy_per_dimension: float = parameter(-0.5, "entropy aimed at, for each dimension of the action")
    backup_entropy: bool = parameter(False, "entropy bonus in the TD target")
    official_update_order: bool = parameter(
        False, "order of the steps, and steps on losses of zero, as in the authors' code of WSRL and HIL-SERL"
    )

    # Images
    encoder: str = parameter(
        "small",
        "of the cameras: a small convolutional one, or HIL-SERL's ResNet-10, trained on or frozen",
        choices=("small", "resnet10", "resnet10_frozen"),
    )
    encoder_weights: str | None = parameter(
        None, "file of ResNet-10's weights: HIL-SERL's resnet10_params.pkl", path=True
    )
    augmentation_padding: int = parameter(4, "pixels that training shifts images by at most; 0: none", minimum=0)
    frame_memory: str = parameter(
        "host", "where replay keeps images: in the host's memory or the accelerator's", choices=("host", "device")
    )

    # Conservative critics
    conservative_loss: str = parameter(
        "none", "term against values of actions that the data do not hold", choices=("none", "cql", "calql")
    )
    conservative_weight: float = parameter(0.005, "weight of that term in warmup (alpha)", minimum=0.0)
    conservative_online_weight: float = parameter(0.0, "its weight in fine-tuning, after the fade", minimum=0.0)
    conservative_fade_steps: int = parameter(
        0, "environment steps over which its weight goes from the one to the other", minimum=0
    )
    cql_actions: int = parameter(10, "actions sampled from each of three distributions", minimum=1)
    cql_temperature: float = parameter(1.0, "of the log-sum-exp over them", minimum=1e-3)
    cql_max_target_backup: bool = parameter(True, "TD targets take the best of so many actions of the policy")
    cql_target_gap: float | None = parameter(
        None, "gap that a Lagrange multiplier on the weight aims at; None: the weight is as given"
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
    def clones_online(self) -> bool:
        """Whether fine-tuning holds the actor to what replay holds, as its warmup did."""
        return self.checkpoint_path is not None and bool(
            self.behavior_cloning_online_weight or self.behavior_cloning_fade_steps
        )

    def __post_init__(self) -> None:
        validate(self)
        if self.critic_subset_size > self.critic_ensemble_size:
            raise ParameterError(
                f"critic_subset_size must be at most critic_ensemble_size ({self.critic_ensemble_size}), "
                f"found {self.critic_subset_size}"
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
    "priority_kind",
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
