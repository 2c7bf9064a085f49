"""The parameters of an agent, declared once; `WSRLConfig` inherits them."""

from dataclasses import dataclass

from wsrl_kit.errors import ParameterError
from wsrl_kit.parameters import parameter, validate


@dataclass(frozen=True)
class AgentParameters:
    """Parameters of networks, weighted SAC, and its optional loss terms.

    Raises:
        ParameterError: naming the parameter, what was expected and what was found.
    """

    # Networks
    hidden_sizes: list[int] = parameter([256, 256], "widths of the hidden layers", minimum=1)
    critic_ensemble_size: int = parameter(2, "critics", minimum=1)
    critic_subset_size: int = parameter(2, "critics drawn at random for the target minimum (REDQ)", minimum=1)
    shared_critic_output: bool = parameter(
        False, "one last layer for all critics, as HIL-SERL's, which its checkpoints need; False: one for each"
    )
    layer_norm: bool = parameter(True, "LayerNorm after every hidden layer")
    activation: str = parameter("tanh", "of the hidden layers", choices=("tanh", "relu"))
    output_scale: float = parameter(0.01, "variance scale of the output layers at the start", minimum=0.0)
    dropout_rate: float = parameter(0.0, "critic dropout (DroQ); 0: none", minimum=0.0, maximum=0.9)

    # Soft actor-critic
    discount: float = parameter(0.97, "discount factor", minimum=0.0, maximum=1.0)
    target_update_rate: float = parameter(0.005, "step of the target critics (tau)", minimum=0.0, maximum=1.0)
    actor_value: str = parameter(
        "mean", "how the actor's objective makes one value of the critics'", choices=("mean", "minimum")
    )
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
    gripper: str = parameter(
        "fixed",
        "grippers that a discrete critic learns to use: none, one arm's, or those of two arms",
        choices=("fixed", "single", "dual"),
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

    # Behavior cloning
    behavior_cloning_weight: float = parameter(
        0.1, "weight of the behavior-cloning term of the actor in warmup; 0: none", minimum=0.0
    )
    behavior_cloning_action: str = parameter(
        "sampled",
        "the policy's action that the term holds to the data's; the mean leaves its noise to the entropy",
        choices=("sampled", "mean"),
    )

    # Conservative critics
    conservative_loss: str = parameter(
        "none", "term against values of actions that the data do not hold", choices=("none", "cql", "calql")
    )
    conservative_weight: float = parameter(0.005, "weight of that term in warmup (alpha)", minimum=0.0)
    cql_actions: int = parameter(10, "actions sampled from each of three distributions", minimum=1)
    cql_temperature: float = parameter(1.0, "of the log-sum-exp over them", minimum=1e-3)
    cql_max_target_backup: bool = parameter(True, "TD targets take the best of so many actions of the policy")
    cql_target_gap: float | None = parameter(
        None, "gap that a Lagrange multiplier on the weight aims at; None: the weight is as given"
    )

    def __post_init__(self) -> None:
        validate(self)
        if self.critic_subset_size > self.critic_ensemble_size:
            raise ParameterError(
                f"critic_subset_size must be at most critic_ensemble_size ({self.critic_ensemble_size}), "
                f"found {self.critic_subset_size}"
            )
