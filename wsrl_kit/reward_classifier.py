"""A classifier of success: from what an observation shows to the probability that the task is done.

As HIL-SERL's (Luo et al. 2024, arXiv 2410.21845; `reward_classifier.py`): camera encoders, a hidden layer with dropout,
LayerNorm and relu, and one logit, trained on as many successes as failures by binary cross-entropy on randomly cropped
images. It sees images, the state, or both; theirs sees images alone.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, PRNGKeyArray, PyTree

from wsrl_kit import pixels
from wsrl_kit.augmentation import random_crops
from wsrl_kit.networks import mlp
from wsrl_kit.pixels import SHARED_TRUNK, PixelConfig
from wsrl_kit.types import NO_IMAGES, Images


@dataclass(frozen=True)
class RewardClassifier:
    """The static part of a classifier.

    Attributes:
        state_size: numbers of the state that it sees; 0 for one that sees images alone.
        hidden_sizes: widths of the hidden layers after the encoder.
        dropout_rate: in them, while it is trained.
        learning_rate: Adam's.
        pixels: how images are seen; None for a classifier of states alone.
    """

    state_size: int
    hidden_sizes: tuple[int, ...]
    dropout_rate: float
    learning_rate: float
    pixels: PixelConfig | None = None


class Examples(NamedTuple):
    """Observations and what they are.

    Attributes:
        state: flat, in the environment's units; of size 0 where images alone are seen.
        label: 1 success, 0 failure.
        images: by camera the last frames, (*batch, horizon, height, width, 3) uint8; empty without cameras.
    """

    state: Float[Array, "*batch state"]
    label: Float[Array, "*batch"]
    images: Images = NO_IMAGES


class ClassifierState(NamedTuple):
    """Everything that learning changes, and the fixed normalisation of states.

    Attributes:
        parameters: {"head": of the hidden layers and the logit; with images also "maps": of the encoder, and "trunks":
            of its trunks, unless they are frozen}.
        state_center, state_scale: the networks see `(state - center) / scale`.
        trunk: parameters of frozen trunks, which no optimizer knows; () without any.
    """

    parameters: PyTree
    optimizer: PyTree
    state_center: Float[Array, " state"]
    state_scale: Float[Array, " state"]
    trunk: PyTree = ()


def create(
    config: RewardClassifier,
    key: PRNGKeyArray,
    state_center: Float[Array, " state"],
    state_scale: Float[Array, " state"],
    trunk_weights: PyTree | None = None,
) -> ClassifierState:
    """A fresh classifier.

    Args:
        trunk_weights: of a ResNet-10 (see `resnet_weights`), in place of random ones; None keeps these.
    """
    head_key, encoder_key, trunk_key = jax.random.split(key, 3)
    parameters: dict[str, PyTree] = {}
    trunk: PyTree = ()
    size = config.state_size
    if config.pixels is not None:
        size = config.pixels.encoded_size
        parameters["maps"] = pixels.create_encoder(config.pixels, encoder_key, config.state_size)
        trunks = pixels.create_trunks(config.pixels, trunk_key)
        if trunk_weights is not None:
            trunks = {SHARED_TRUNK: jax.tree.map(jnp.asarray, trunk_weights)}
        if config.pixels.is_frozen:
            trunk = trunks
        else:
            parameters["trunks"] = trunks
    parameters["head"] = _head(config).init(head_key, jnp.zeros((1, size)), False)
    return ClassifierState(parameters, _optimizer(config).init(parameters), state_center, state_scale, trunk)


def probability(config: RewardClassifier, state: ClassifierState, examples: Examples) -> Float[Array, "*batch"]:
    """Of success, in [0, 1], as if successes and failures were equally frequent; labels are not looked at."""
    return jax.nn.sigmoid(_logits(config, state, examples))


def loss(
    config: RewardClassifier, state: ClassifierState, examples: Examples, key: PRNGKeyArray | None = None
) -> Float[Array, ""]:
    """Binary cross-entropy, nats: the mean over the successes and that over the failures, half of either.

    Args:
        key: drops activations as in training; None: nothing is dropped.
    """
    losses = optax.sigmoid_binary_cross_entropy(_logits(config, state, examples, key), examples.label)
    kinds = (examples.label, 1.0 - examples.label)
    means = [jnp.sum(losses * kind) / jnp.maximum(jnp.sum(kind), 1.0) for kind in kinds]
    return (means[0] + means[1]) / 2


def update(
    config: RewardClassifier, state: ClassifierState, examples: Examples, key: PRNGKeyArray
) -> tuple[ClassifierState, Float[Array, ""]]:
    """One gradient step on a batch whose images it crops at random; the state after it, and the loss before."""
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
        maps = pixels.trunk_features(config.pixels, trunks, examples.images)
        seen = pixels.encode(config.pixels, parameters["maps"], maps, seen, encoder_key)
    flat = seen.reshape(-1, seen.shape[-1])
    return _head(config).apply(parameters["head"], flat, rngs is not None, rngs=rngs).reshape(seen.shape[:-1])


def _head(config: RewardClassifier) -> mlp.Network:
    # A critic of the encoded observation: the same layers, and their one output is the logit.
    return mlp.Critic(config.hidden_sizes, True, "relu", 1.0, config.dropout_rate)


def _optimizer(config: RewardClassifier) -> optax.GradientTransformation:
    return optax.adam(config.learning_rate)
