"""Parameters of warmup and fine-tuning runs, and of all notebooks."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from wsrl_kit.agent.parameters import AgentParameters
from wsrl_kit.config.presets import PRESETS, preset
from wsrl_kit.data.conventions import FROM_LABELS, MISSING_REWARDS
from wsrl_kit.errors import ParameterError
from wsrl_kit.parameters import parameter, unknown, validate


@dataclass(frozen=True)
class SessionConfig:
    """Where a notebook writes, and whether it shows widgets."""

    output_dir: str = parameter(
        "runs/latest", "folder of the run: metrics, checkpoint and figures", path=True, group="Notebook"
    )
    live: bool | None = parameter(None, "show widgets and a Stop button; None: if a Jupyter front end is attached")

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True)
class TrainingSession(SessionConfig):
    """For notebooks whose runs can be resumed."""

    resume: bool = parameter(True, "continue an unfinished run in output_dir; False: delete it and start anew")
    tensorboard: bool = parameter(False, "copy the metrics for TensorBoard, to the folder tensorboard of each run")
    wandb: bool = parameter(False, "copy the metrics for Weights & Biases, offline, to the folder wandb of each run")

    @property
    def loggers(self) -> tuple[str, ...]:
        """Names of the loggers that are wanted."""
        return tuple(name for name in ("tensorboard", "wandb") if getattr(self, name))


@dataclass(frozen=True)
class AgentSession(TrainingSession):
    """For notebooks that train agents."""

    preset: str = parameter("kit", f"named set of values for all parameters that are not given: {', '.join(PRESETS)}")

    def __post_init__(self) -> None:
        super().__post_init__()
        preset(self.preset)


@dataclass(frozen=True)
class RobotSession(AgentSession):
    """For notebooks that can act on a robot."""

    robot_url: str | None = parameter(
        None, "address of a robot's server, such as http://127.0.0.1:5000; it takes the place of exp_name"
    )


ROBOT = "hirol_robot"
"""The experiment on a robot behind a server."""


def at_robot(given: Mapping[str, Any]) -> dict[str, Any]:
    """Values in which `robot_url` is the task and its option."""
    options = given.get("environment_options", {}) | {"robot_url": given["robot_url"]}
    return {**given, "exp_name": ROBOT, "environment_options": options}


NOBODY = "none"
"""`human`: nobody takes over."""

PERSON = "person"
"""`human`: a person at the pad of a notebook."""

INLINE = "inline"
"""`learner`: learning runs between the robot's steps."""

THREAD = "thread"
"""`learner`: learning runs beside the robot's control loop."""


def is_scheduler(text: str) -> bool:
    """Whether a text is the address of a Dask scheduler."""
    return re.fullmatch(r"(tcp|tls)://\S+:\d+", text) is not None


TASK_UNITS = "task"
"""`action_units`: data files hold actions in the task's own units."""

ACTION_UNITS = ("normalized", TASK_UNITS)

SMALLEST_SCALE = 1e-3
"""Lower bound of a normalisation scale from data: a constant input must not become infinite."""

Paths = str | list[str] | dict[str, str | list[str]] | None

warmup, retention, finetuning = (partial(parameter, stage=stage) for stage in ("warmup", "retention", "finetuning"))
"""Declare a parameter that one stage alone reads."""


@dataclass(frozen=True)
class WSRLConfig(AgentParameters):
    """All parameters of warmup and fine-tuning; command line, notebooks and tables take them from here."""

    exp_name: str = parameter(
        "hirol_fixed_gripper", "task: the simulated Franka, or any Gymnasium id", of_arm=False, group="Task"
    )
    environment_options: dict = parameter(
        {}, "options of the environment, such as {'difficulty': 'easy'}", of_arm=False
    )
    seed: int = parameter(0, "seed of everything random in the run", minimum=0, maximum=2**32 - 1, of_arm=False)

    offline_data_path: Paths = parameter(
        None,
        "offline data: file, glob, folder, list of these, or {source name: files}",
        path=True,
        input_of=("warmup", "ablation", "tuning"),
        of_arm=False,
        group="Offline data",
    )
    demo_path: Paths = parameter(
        None,
        "offline data that fine-tuning keeps in its batches; same forms as offline_data_path",
        path=True,
        stage="finetuning",
        input_of=("finetune", "hil_serl"),
        of_arm=False,
    )
    action_units: str = parameter(
        "normalized",
        "units of the actions in data files: normalized to [-1, 1], or the task's own, rescaled by its bounds",
        choices=ACTION_UNITS,
    )
    camera_names: dict[str, str] = parameter(
        {}, "names of cameras in data files -> their names in the task, such as {'laptop': 'wrist_1'}"
    )
    missing_rewards: str = parameter(
        FROM_LABELS,
        "success in data without rewards: by the labels beside the data, last_frame (every episode ends in success), "
        "or none (unknown: the policy can only clone, with actor_value none)",
        choices=MISSING_REWARDS,
    )
    demo_weight: float = parameter(2.0, "loss weight of the source named demos", minimum=0.0)
    source_weights: dict[str, float] = parameter(
        {"suboptimal": 1.0, "random": 0.5}, "loss weight of every other source by name; not named: 1.0", minimum=0.0
    )
    success_weight_bonus: float = parameter(1.5, "factor on the loss weight of successful episodes", minimum=0.0)
    quality_weighting: bool = parameter(True, "weight episodes by their quality too; False: only by source and success")
    holdout_fraction: float = warmup(
        0.1, "share of the episodes held out from warmup to measure overfitting", minimum=0.0, maximum=0.9
    )

    reward_scale: float = parameter(
        1.0, "factor on every reward that the agent learns from", minimum=1e-8, group="Reward"
    )
    reward_bias: float = parameter(0.0, "constant added to every reward after reward_scale")
    reward_classifier: str | None = finetuning(
        None,
        "file of a success classifier that gives the reward in fine-tuning; None: the task gives it",
        path=True,
        input_of=("finetune", "hil_serl"),
    )
    confirm_success: bool = finetuning(
        False, "successes of reward_classifier count only once the person at the pad, or the simulation, confirms them"
    )

    checkpoint_path: str | None = parameter(
        None,
        "warmup checkpoint: warmup writes it, fine-tuning starts from it",
        path=True,
        input_of=("finetune",),
        of_arm=False,
        group="Offline warmup",
    )
    warmup_steps: int = parameter(50_000, "gradient steps of offline warmup", minimum=1)
    early_stopping_patience: int = warmup(
        0, "evaluations without a lower held-out TD error after which warmup stops; 0: never", minimum=0
    )
    warmup_evaluation_interval: int = warmup(5_000, "gradient steps between two evaluations in warmup", minimum=1)

    follow_advice: bool = finetuning(
        False,
        "choose what the warmup's diagnosis advises (wsrl-kit advise) for parameters that have their defaults",
        group="The switch",
    )
    retention_ratio: float = retention(
        0.2, "share of the offline data that is kept after warmup", minimum=0.0, maximum=1.0
    )
    retention_priority: str = retention(
        "mix",
        "priority by which the kept offline data are chosen",
        choices=("td_error", "reward", "quality", "mix", "random"),
    )
    retention_unit: str = retention(
        "transition", "unit in which offline data are kept", choices=("transition", "trajectory")
    )
    frozen_rollout_steps: int = finetuning(
        0, "environment steps of the warmed-up policy before the first online update (WSRL: 5000)", minimum=0
    )
    offline_ratio_schedule: str = finetuning(
        "exponential", "how the offline share of every batch decays", choices=("exponential", "linear", "constant")
    )
    initial_offline_ratio: float = finetuning(1.0, "offline share of a batch at the switch", minimum=0.0, maximum=1.0)
    offline_decay_rate: float = finetuning(
        0.999, "factor on the offline share per environment step, if the decay is exponential", minimum=0.0, maximum=1.0
    )
    offline_decay_steps: int = finetuning(
        5_000, "environment steps of the offline share's decay, if it is linear", minimum=1
    )
    min_offline_ratio: float = finetuning(0.5, "lower bound of the offline share of a batch", minimum=0.0, maximum=1.0)
    behavior_cloning_online_weight: float | None = finetuning(
        None,
        "weight of behavior cloning in fine-tuning, once behavior_cloning_fade_steps have passed; None: as in warmup, "
        "or 0 if it fades",
        minimum=0.0,
    )
    behavior_cloning_fade_steps: int = finetuning(
        0, "environment steps in which behavior cloning fades from its weight in warmup to its weight online", minimum=0
    )
    conservative_online_weight: float = finetuning(
        0.0, "weight of the conservative term in fine-tuning, once conservative_fade_steps have passed", minimum=0.0
    )
    conservative_fade_steps: int = finetuning(
        0,
        "environment steps in which the conservative term fades from its weight in warmup to its weight online",
        minimum=0,
    )
    max_target_backup_online: bool = finetuning(
        False, "keep cql_max_target_backup once the conservative term has ended, as WSRL's code does"
    )

    online_steps: int = parameter(
        10_000,
        "environment steps of fine-tuning; warmup reads them only for learning rates that decay",
        minimum=1,
        of_arm=False,
        group="Online fine-tuning",
    )
    batch_size: int = parameter(256, "examples per critic update", minimum=1)
    update_to_data_ratio: int = parameter(4, "critic updates per environment step (UTD)", minimum=1)
    learner: str = finetuning(
        INLINE,
        "where learning runs: inline, between the steps; in a thread beside them, so that the robot does not wait (the "
        "default with a robot_url); or on another machine, by the address of a Dask scheduler such as tcp://host:8786 "
        "(docs/remote_learner.md)",
    )
    learner_lag: int = finetuning(
        10, "steps that acting may be ahead of learning, unless it is inline, before the robot holds", minimum=1
    )
    random_steps: int = finetuning(0, "first environment steps, with uniformly random actions", minimum=0)
    replay_capacity: int = finetuning(200_000, "online transitions that replay keeps", minimum=1)
    use_prioritized_replay: bool = finetuning(
        True, "sample replay by priority (PER); it helped on none of six tasks (docs/claims.md)"
    )
    priority_alpha: float = finetuning(
        0.6, "PER exponent of the priorities: 0 uniform, 1 fully by priority", minimum=0.0, maximum=1.0
    )
    initial_priority_beta: float = finetuning(
        0.4, "PER exponent of the importance weights at the switch", minimum=0.0, maximum=1.0
    )
    final_priority_beta: float = finetuning(
        1.0, "PER exponent of the importance weights at the last step", minimum=0.0, maximum=1.0
    )
    importance_normalisation: str = finetuning(
        "mean",
        "what PER's importance weights of an environment step are divided by: their mean, so that losses keep their "
        "size, or their largest (max)",
        choices=("mean", "max"),
    )

    human: str = finetuning(
        NOBODY,
        "who takes over from the policy in training: nobody, a scripted operator, or a person at a pad in JupyterLab",
        choices=(NOBODY, "scripted", PERSON),
        group="Interventions",
    )
    human_options: dict = parameter(
        {}, "options of the scripted operator or the pad: see docs/human.md", stage="finetuning"
    )
    intervention_capacity: int | None = finetuning(
        None, "human transitions that are kept as offline data too; 0: none; None: all", minimum=0
    )

    evaluation_interval: int = finetuning(
        1_000,
        "environment steps between two evaluations in fine-tuning",
        minimum=1,
        evaluation=True,
        group="Evaluation and records",
    )
    evaluation_episodes: int = parameter(
        20,
        "episodes of an evaluation, for sampled and for deterministic actions each; 0: no evaluations",
        minimum=0,
        evaluation=True,
    )
    log_interval: int = parameter(100, "steps between two records of the training metrics", minimum=1)
    checkpoint_interval: int = parameter(1_000, "steps between two checkpoints of the run", minimum=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learner not in (INLINE, THREAD) and not is_scheduler(self.learner):
            raise ParameterError(
                f"learner must be {INLINE!r}, {THREAD!r} or an address such as tcp://host:8786, found {self.learner!r}"
            )

    @property
    def weight_by_source(self) -> dict[str, float]:
        """The weight of every source that has one of its own, `demos` included."""
        return {**self.source_weights, "demos": self.demo_weight}

    @staticmethod
    def completed(values: Mapping[str, Any]) -> dict[str, Any]:
        """Fills values that are None or missing from the preset that `preset` names.

        A `robot_url` sets the experiment `hirol_robot` and, unless given, a learner's thread and no evaluations: one
        robot can't be evaluated beside its training.

        Raises:
            ParameterError: there is no such preset.
        """
        given = {name: value for name, value in values.items() if value is not None}
        if "robot_url" in given:
            robot: dict[str, Any] = {"evaluation_episodes": 0, "learner": THREAD}
            given = robot | at_robot(given)
        return preset(given.get("preset", "kit")) | given

    @classmethod
    def of_preset(cls, name: str, **values: Any) -> "WSRLConfig":
        """A preset with some values replaced.

        Raises:
            ParameterError: no such preset or parameter, or a value is refused.
        """
        for parameter_name in values:
            if parameter_name not in cls.__dataclass_fields__:
                raise unknown(parameter_name, list(cls.__dataclass_fields__))
        return cls(**preset(name) | values)

    @property
    def is_judged(self) -> bool:
        """Whether somebody judges what `reward_classifier` sees: where asked, or a person at any step."""
        return self.reward_classifier is not None and (self.confirm_success or self.human == PERSON)

    @property
    def critic_updates(self) -> int:
        """Critic updates of warmup and fine-tuning together, after which their decaying learning rate is 0."""
        return self.warmup_steps + self.online_steps * self.update_to_data_ratio

    @property
    def actor_updates(self) -> int:
        """Likewise of the actor."""
        return self.warmup_steps + self.online_steps

    @property
    def clones_online(self) -> bool:
        """Whether behavior cloning stays on during fine-tuning."""
        fades = self.behavior_cloning_weight > 0 and self.behavior_cloning_fade_steps > 0
        return self.checkpoint_path is not None and (fades or self.final_cloning_weight > 0)

    @property
    def final_cloning_weight(self) -> float:
        """Weight of behavior cloning once it has faded, if it does."""
        if self.behavior_cloning_online_weight is not None:
            return self.behavior_cloning_online_weight
        return 0.0 if self.behavior_cloning_fade_steps else self.behavior_cloning_weight
