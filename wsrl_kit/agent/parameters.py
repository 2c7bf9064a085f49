"""The parameters of an agent; `WSRLConfig` inherits them."""

from dataclasses import dataclass

from wsrl_kit.errors import ParameterError
from wsrl_kit.parameters import parameter, validate

NO_VALUE = "none"
"""`actor_value`: no critic, so that the actor clones alone."""


@dataclass(frozen=True)
class AgentParameters:
    """Parameters of networks, weighted SAC, and optional loss terms.

    Raises:
        ParameterError: a parameter is out of range.
    """

    gripper: str = parameter(
        "fixed",
        "grippers that a discrete critic learns to control: none, one, or one on each of two arms",
        choices=("fixed", "single", "dual"),
        network=True,
        group="Networks",
    )
    hidden_sizes: list[int] = parameter(
        [256, 256], "widths of the hidden layers of actor and critics", minimum=1, network=True
    )
    critic_ensemble_size: int = parameter(2, "number of critics in the ensemble", minimum=1, network=True)
    critic_subset_size: int = parameter(
        2, "critics drawn at random from the ensemble; the TD target uses their minimum (REDQ)", minimum=1
    )
    shared_critic_output: bool = parameter(
        False, "all critics share one output layer, which HIL-SERL's checkpoints need; False: one each", network=True
    )
    layer_norm: bool = parameter(True, "LayerNorm after every hidden layer", network=True)
    activation: str = parameter(
        "tanh", "activation function of the hidden layers", choices=("tanh", "relu"), network=True
    )
    initialisation: str = parameter(
        "xavier",
        "initial weights of actor and critics: Xavier's uniform rule, or orthogonal with gain sqrt(2)",
        choices=("xavier", "orthogonal"),
    )
    output_scale: float = parameter(
        0.01,
        "scale of the initial output weights of actor and critics: their variance (xavier) or gain (orthogonal)",
        minimum=0.0,
    )
    last_hidden_scale: float | None = parameter(
        None,
        "scale (as in output_scale) of the initial weights of the last hidden layer; None: like other hidden layers",
        minimum=0.0,
    )
    dropout_rate: float = parameter(
        0.0, "dropout rate in the critics' hidden layers (DroQ); 0: no dropout", minimum=0.0, maximum=0.9
    )

    discount: float = parameter(0.97, "discount factor (gamma)", minimum=0.0, maximum=1.0, group="Soft actor-critic")
    target_update_rate: float = parameter(
        0.005, "step size of the target critics towards the critics (tau)", minimum=0.0, maximum=1.0
    )
    actor_value: str = parameter(
        "mean",
        "value that the actor maximises: mean or minimum over the critics, or none: it clones alone, without rewards",
        choices=("mean", "minimum", NO_VALUE),
    )
    actor_learning_rate: float = parameter(3e-4, "Adam learning rate of the actor", minimum=0.0)
    critic_learning_rate: float = parameter(3e-4, "Adam learning rate of the critics", minimum=0.0)
    temperature_learning_rate: float = parameter(3e-4, "Adam learning rate of the entropy temperature", minimum=0.0)
    learning_rate_schedule: str = parameter(
        "constant",
        "how the learning rates change after their rise; cosine and linear reach 0 at the end of fine-tuning",
        choices=("constant", "cosine", "linear"),
    )
    learning_rate_warmup_steps: int = parameter(
        0, "first gradient steps, in which the learning rates rise linearly from 0", minimum=0
    )
    temperature_parameterisation: str = parameter(
        "exponential",
        "function that turns the learned number into the entropy temperature",
        choices=("exponential", "softplus"),
        network=True,
    )
    initial_temperature: float = parameter(1e-2, "entropy temperature at the first gradient step", minimum=1e-8)
    target_entropy: float | None = parameter(
        None, "target entropy of the policy; None: target_entropy_per_dimension times the size of the action"
    )
    target_entropy_per_dimension: float = parameter(
        -0.5, "target entropy of the policy per action dimension, if target_entropy is None"
    )
    backup_entropy: bool = parameter(False, "add the entropy bonus of the next action to the TD target")
    official_update_order: bool = parameter(
        False, "update order of the authors' code of WSRL and HIL-SERL, with its optimizer steps on zero losses"
    )

    encoder: str = parameter(
        "small",
        "image encoder: a small convolutional network, or HIL-SERL's ResNet-10, trained further or frozen",
        choices=("small", "resnet10", "resnet10_frozen"),
        group="Images",
    )
    encoder_weights: str | None = parameter(
        None,
        "file with the weights of the ResNet-10 encoder: HIL-SERL's resnet10_params.pkl",
        path=True,
        input_of=("warmup", "finetune", "ablation", "tuning", "hil_serl"),
    )
    augmentation_padding: int = parameter(
        4, "largest random shift of training images, in pixels; 0: no augmentation", minimum=0
    )

    behavior_cloning_weight: float = parameter(
        1.0,
        "weight of the behavior-cloning term of the actor in warmup, in units of mean |Q|; 0: no such term",
        minimum=0.0,
        group="Behavior cloning",
    )
    behavior_cloning_action: str = parameter(
        "sampled",
        "policy action that behavior cloning compares with the data's; mean leaves the policy's noise to the entropy",
        choices=("sampled", "mean"),
    )

    conservative_loss: str = parameter(
        "none",
        "critic loss term that lowers the values of actions outside the data",
        choices=("none", "cql", "calql"),
        group="Conservative critics",
    )
    conservative_weight: float = parameter(0.005, "weight of the conservative term in warmup (alpha)", minimum=0.0)
    cql_actions: int = parameter(
        10, "actions per state that the conservative term samples from each of three distributions", minimum=1
    )
    cql_temperature: float = parameter(
        1.0, "temperature of the log-sum-exp over the conservative term's sampled actions", minimum=1e-3
    )
    cql_max_target_backup: bool = parameter(
        True, "with a conservative term, TD targets use the best of cql_actions next actions instead of one"
    )
    cql_target_gap: float | None = parameter(
        None, "value gap at which a Lagrange multiplier adjusts conservative_weight; None: the weight is fixed"
    )

    def __post_init__(self) -> None:
        validate(self)
        if self.critic_subset_size > self.critic_ensemble_size:
            raise ParameterError(
                f"critic_subset_size must be at most critic_ensemble_size ({self.critic_ensemble_size}), "
                f"found {self.critic_subset_size}"
            )
