"""The reward classifier: from an observation to the probability of success; saved, loaded, used as a reward.

As HIL-SERL's (Luo et al. 2024, arXiv 2410.21845; `reward_classifier.py`): camera encoders, a hidden layer with dropout,
LayerNorm and relu, one logit, trained on as many successes as failures by binary cross-entropy on randomly cropped
images. Departure: it sees images, the state, or both; theirs images alone.
"""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import gymnasium
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, PRNGKeyArray, PyTree

from wsrl_kit.agent import networks, vision
from wsrl_kit.agent.transition import NO_IMAGES, Images
from wsrl_kit.agent.vision import SHARED_TRUNK, PixelConfig, random_crops
from wsrl_kit.classifier.reward import ClassifierReward
from wsrl_kit.envs.wrappers import camera_shapes, parts, state_space
from wsrl_kit.errors import CheckpointError
from wsrl_kit.files import reading
from wsrl_kit.parameters import check
from wsrl_kit.robot.takeover import Confirm
from wsrl_kit.runs import checkpoint


@dataclass(frozen=True)
class RewardClassifier:
    """The static part of a classifier.

    Attributes:
        state_size: 0: images alone.
        hidden_sizes: widths after the encoder.
        dropout_rate: in the hidden layers, during training.
        learning_rate: Adam's.
        pixels: None: states alone.
    """

    state_size: int
    hidden_sizes: tuple[int, ...]
    dropout_rate: float
    learning_rate: float
    pixels: PixelConfig | None = None


class Examples(NamedTuple):
    """Labelled observations.

    Attributes:
        state: flat, in the environment's units; size 0 for images alone.
        label: 1 success, 0 failure.
        images: by camera, (*batch, horizon, height, width, 3) uint8.
    """

    state: Float[Array, "*batch state"]
    label: Float[Array, "*batch"]
    images: Images = NO_IMAGES


class ClassifierState(NamedTuple):
    """Everything that learning changes, and the fixed normalisation of states.

    Attributes:
        parameters: "head"; with images "maps", and "trunks" unless frozen.
        state_center, state_scale: networks see `(state - center) / scale`.
        trunk: parameters of frozen trunks, or ().
    """

    parameters: PyTree
    optimizer: PyTree
    state_center: Float[Array, " state"]
    state_scale: Float[Array, " state"]
    trunk: PyTree = ()


# Compiled whole, as an agent is.
@partial(jax.jit, static_argnums=0)
def create(
    config: RewardClassifier,
    key: PRNGKeyArray,
    state_center: Float[Array, " state"],
    state_scale: Float[Array, " state"],
    trunk_weights: PyTree | None = None,
) -> ClassifierState:
    """A fresh classifier; `trunk_weights` are a ResNet-10's (see `load_resnet10`), None: random."""
    head_key, encoder_key, trunk_key = jax.random.split(key, 3)
    parameters: dict[str, PyTree] = {}
    trunk: PyTree = ()
    size = config.state_size
    if config.pixels is not None:
        size = config.pixels.encoded_size
        parameters["maps"] = vision.create_encoder(config.pixels, encoder_key, config.state_size)
        trunks = vision.create_trunks(config.pixels, trunk_key)
        if trunk_weights is not None:
            trunks = {SHARED_TRUNK: jax.tree.map(jnp.asarray, trunk_weights)}
        if config.pixels.is_frozen:
            trunk = trunks
        else:
            parameters["trunks"] = trunks
    parameters["head"] = _head(config).init(head_key, jnp.zeros((1, size)), False)
    return ClassifierState(parameters, _optimizer(config).init(parameters), state_center, state_scale, trunk)


def probability(config: RewardClassifier, state: ClassifierState, examples: Examples) -> Float[Array, "*batch"]:
    """Of success, in [0, 1], as if successes and failures were equally frequent; ignores labels."""
    return jax.nn.sigmoid(_logits(config, state, examples))


def loss(
    config: RewardClassifier, state: ClassifierState, examples: Examples, key: PRNGKeyArray | None = None
) -> Float[Array, ""]:
    """Binary cross-entropy, nats, successes and failures weighing half each; `key` turns dropout on."""
    losses = optax.sigmoid_binary_cross_entropy(_logits(config, state, examples, key), examples.label)
    kinds = (examples.label, 1.0 - examples.label)
    means = [jnp.sum(losses * kind) / jnp.maximum(jnp.sum(kind), 1.0) for kind in kinds]
    return (means[0] + means[1]) / 2


def update(
    config: RewardClassifier, state: ClassifierState, examples: Examples, key: PRNGKeyArray
) -> tuple[ClassifierState, Float[Array, ""]]:
    """One gradient step on a randomly cropped batch; the new state, and the loss before."""
    crop_key, dropout_key = jax.random.split(key)
    if config.pixels is not None:
        cropped = random_crops(crop_key, examples.images, config.pixels.augmentation_padding)
        examples = examples._replace(images=cropped)

    def loss_of(parameters: PyTree) -> Float[Array, ""]:
        return loss(config, state._replace(parameters=parameters), examples, dropout_key)

    value, gradient = jax.value_and_grad(loss_of)(state.parameters)
    changes, optimizer = _optimizer(config).update(gradient, state.optimizer, state.parameters)
    return state._replace(parameters=optax.apply_updates(state.parameters, changes), optimizer=optimizer), value


def _logits(
    config: RewardClassifier, state: ClassifierState, examples: Examples, dropout_key: PRNGKeyArray | None = None
) -> Float[Array, "*batch"]:
    parameters = state.parameters
    seen = (examples.state - state.state_center) / state.state_scale
    rngs = None
    encoder_key = None
    if dropout_key is not None:
        encoder_key, head_key = jax.random.split(dropout_key)
        rngs = {"dropout": head_key}
    if config.pixels is not None:
        trunks = state.trunk if config.pixels.is_frozen else parameters["trunks"]
        maps = vision.trunk_features(config.pixels, trunks, examples.images)
        seen = vision.encode(config.pixels, parameters["maps"], maps, seen, encoder_key)
    flat = seen.reshape(-1, seen.shape[-1])
    return _head(config).apply(parameters["head"], flat, rngs is not None, rngs=rngs).reshape(seen.shape[:-1])


def _head(config: RewardClassifier) -> networks.Network:
    # A critic of the encoded observation: the same layers, and their one output is the logit.
    weights = networks.InitialWeights("xavier", output_scale=1.0)
    return networks.Critic(config.hidden_sizes, True, "relu", weights, config.dropout_rate)


def _optimizer(config: RewardClassifier) -> optax.GradientTransformation:
    return optax.adam(config.learning_rate)


KIND = "reward classifier"

# No network that a robot's data can train is larger: what a file says beyond is not compiled.
SIZES, MOST_LAYERS = {"minimum": 0, "maximum": 100_000}, 100


class Decision(NamedTuple):
    """See `ClassifierReward`."""

    threshold: float
    release: float
    steps: int


def save(path: Path, config: RewardClassifier, state: ClassifierState, decision: Decision) -> None:
    """Writes a classifier, without its optimizer.

    Raises:
        CheckpointError: it can't be written; an earlier file there is intact.
    """
    metadata = {"kind": KIND, "network": asdict(config), "decision": decision._asdict()}
    checkpoint.save(path, state._replace(optimizer=()), metadata)


def load(path: Path) -> tuple[RewardClassifier, ClassifierState, Decision]:
    """Reads a classifier.

    Raises:
        CheckpointError: no such file, damaged, or not a reward classifier.
    """
    metadata = checkpoint.read_metadata(path)
    if metadata.get("kind") != KIND:
        raise CheckpointError(f"{path} is another checkpoint: expected a reward classifier, as notebook 07 writes it")
    with reading(path, CheckpointError, checkpoint.DAMAGED):
        config = _config(metadata["network"])
        decision = Decision(**metadata["decision"])
        steps = check("steps", decision.steps, int, {"minimum": 1})
        threshold, release = (check(name, getattr(decision, name), float) for name in ("threshold", "release"))
        # Shapes alone: fresh parameters would have to be computed, and are not wanted.
        state = jax.ShapeDtypeStruct((config.state_size,), jnp.float32)
        shapes = jax.eval_shape(partial(create, config), jax.random.key(0), state, state)
        return config, checkpoint.load(path, shapes._replace(optimizer=())), Decision(threshold, release, steps)


def _config(said: dict[str, Any]) -> RewardClassifier:
    """The classifier in a file's metadata; raises nearly any exception if they are unfit."""
    return RewardClassifier(
        state_size=check("state_size", said["state_size"], int, SIZES),
        hidden_sizes=check("hidden_sizes", said["hidden_sizes"][:MOST_LAYERS], tuple[int, ...], SIZES),
        dropout_rate=check("dropout_rate", said["dropout_rate"], float),
        learning_rate=check("learning_rate", said["learning_rate"], float),
        pixels=None if said["pixels"] is None else _pixels(said["pixels"]),
    )


def _pixels(said: dict[str, Any]) -> PixelConfig:
    said, types = said | {"cameras": said["cameras"][:MOST_LAYERS]}, get_type_hints(PixelConfig)
    return PixelConfig(**{name: check(name, value, types[name], SIZES) for name, value in said.items()})


def rewarded(environment: gymnasium.Env, path: Path, name: str, confirm: Confirm | None = None) -> ClassifierReward:
    """The environment with a classifier's reward.

    Args:
        name: of the experiment, for errors.
        confirm: who confirms its successes; None: nobody.

    Raises:
        CheckpointError: not a reward classifier, or of other cameras, image sizes, observation horizon or state.
    """
    config, state, decision = load(path)
    if difference := _difference(config, environment):
        raise CheckpointError(f"{path} was trained on {difference[0]}, but {name} has {difference[1]}")

    def probability(observation: Any) -> float:
        seen, images = parts(observation)
        wanted = {camera: images[camera] for camera in (config.pixels.cameras if config.pixels else ())}
        example = Examples(jnp.asarray(seen[: config.state_size]), jnp.zeros(()), wanted)
        return float(_probability(config, state, example))

    return ClassifierReward(environment, probability, *decision, confirm)


def _difference(config: RewardClassifier, environment: gymnasium.Env) -> tuple[str, str] | None:
    """What the classifier was trained on and what it finds; None: they agree."""
    size = state_space(environment).shape[0]
    if config.state_size not in (0, size):
        return f"states of size {config.state_size}", f"states of size {size}"
    found = camera_shapes(environment)
    sight = config.pixels
    for camera in () if sight is None else sight.cameras:
        if camera not in found:
            return f"camera {camera}", f"cameras {', '.join(found)}" if found else "no cameras"
        assert sight is not None
        if found[camera] != sight.image_shape:
            sizes = (list(sight.image_shape), list(found[camera]))
            return f"images {sizes[0]} of camera {camera}", f"{sizes[1]} (observation horizon, height, width, channels)"
    return None


_probability = partial(jax.jit, static_argnums=0)(probability)
