"""Parameters of the reward classifier."""

from dataclasses import dataclass

from wsrl_kit.errors import ParameterError
from wsrl_kit.parameters import parameter, validate


@dataclass(frozen=True)
class ClassifierConfig:
    """What a reward classifier learns from, how, and when it says success; raises ParameterError."""

    seed: int = parameter(0, "seed of everything random in the run", minimum=0, maximum=2**32 - 1, group="Data")

    classifier_data: str | list[str] | None = parameter(
        None,
        "files with success or failure in their names: file, glob, folder or list; None: scripts record some",
        path=True,
        input_of=("classifier",),
    )
    judged_data: str | list[str] | None = parameter(
        None,
        "judged folders of fine-tunings, to train on too; validation episodes of the other data stay the same",
        path=True,
        input_of=("classifier",),
    )
    exp_name: str = parameter("hirol_fixed_gripper", "task: the simulated Franka, or any Gymnasium id")
    environment_options: dict = parameter({}, "options of the environment, such as {'difficulty': 'easy'}")
    demo_episodes: int = parameter(30, "recorded episodes of the scripted expert", minimum=0)
    suboptimal_episodes: int = parameter(
        60, "recorded episodes of the scripted clumsy operator, who often just misses", minimum=0
    )
    random_episodes: int = parameter(20, "recorded episodes of uniformly random actions", minimum=0)
    success_frames: int = parameter(5, "observations recorded after each success, the first one included", minimum=1)
    validation_fraction: float = parameter(
        0.25, "share of the episodes that validate the classifier and never train it", minimum=0.01, maximum=0.9
    )

    classifier_inputs: str | None = parameter(
        None,
        "inputs of the classifier; None: images if there are any, else the state",
        choices=("state", "images", "both"),
        group="Network",
    )
    cameras: list[str] | None = parameter(None, "names of the cameras whose images the classifier sees; None: all")
    encoder: str = parameter(
        "small",
        "image encoder: a small convolutional network, or HIL-SERL's ResNet-10, trained further or frozen",
        choices=("small", "resnet10", "resnet10_frozen"),
    )
    encoder_weights: str | None = parameter(
        None,
        "file with the weights of the ResNet-10 encoder: HIL-SERL's resnet10_params.pkl",
        path=True,
        input_of=("classifier",),
    )
    augmentation_padding: int = parameter(
        4, "largest random shift of training images, in pixels; 0: no augmentation", minimum=0
    )

    classifier_steps: int = parameter(1_000, "gradient steps of the classifier", minimum=1, group="Training")
    batch_size: int = parameter(128, "examples per gradient step, half of them successes", minimum=2)
    hidden_sizes: list[int] = parameter([256], "widths of the hidden layers after the encoder", minimum=1)
    dropout_rate: float = parameter(0.1, "dropout rate in the hidden layers; 0: no dropout", minimum=0.0, maximum=0.9)
    learning_rate: float = parameter(1e-3, "Adam learning rate of the classifier", minimum=0.0)
    evaluation_interval: int = parameter(
        100, "gradient steps between two evaluations on the validation episodes", minimum=1
    )

    max_false_positive_rate: float = parameter(
        0.01,
        "largest share of failures above the threshold, which is chosen by it",
        minimum=0.0,
        maximum=1.0,
        group="Decision",
    )
    release_ratio: float = parameter(
        0.5, "a success ends when the probability falls below this share of the threshold", minimum=0.0, maximum=1.0
    )
    success_steps: int = parameter(2, "consecutive observations above the threshold that make a success", minimum=1)

    def __post_init__(self) -> None:
        validate(self)
        if self.encoder == "resnet10_frozen" and self.encoder_weights is None:
            raise ParameterError(
                "encoder 'resnet10_frozen' needs encoder_weights, such as HIL-SERL's resnet10_params.pkl, found None: "
                "features of a network that nobody has trained, and nothing trains, say little"
            )
        if self.encoder == "small" and self.encoder_weights is not None:
            raise ParameterError(
                "encoder_weights are those of a ResNet-10: encoder must be 'resnet10' or 'resnet10_frozen', "
                "found 'small'"
            )

    @property
    def episodes(self) -> dict[str, int]:
        """Recorded episodes by kind of policy, without zeros."""
        counts = {"expert": self.demo_episodes, "suboptimal": self.suboptimal_episodes, "random": self.random_episodes}
        return {kind: count for kind, count in counts.items() if count > 0}
