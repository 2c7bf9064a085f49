"""A trained reward classifier as a file, and as the reward of an environment."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import gymnasium
import jax
import jax.numpy as jnp

from wsrl_kit import reward_classifier
from wsrl_kit.envs.classifier_reward import ClassifierReward
from wsrl_kit.envs.confirmation import Confirm
from wsrl_kit.errors import CheckpointError
from wsrl_kit.parameters import check
from wsrl_kit.pixels import PixelConfig
from wsrl_kit.reading import reading
from wsrl_kit.reward_classifier import ClassifierState, Examples, RewardClassifier
from wsrl_kit.training import checkpoint
from wsrl_kit.training.observations import camera_shapes, parts, state_space

KIND = "reward classifier"

# No network that a robot's data can train is larger: what a file says beyond is not compiled.
SIZES, MOST_LAYERS = {"minimum": 0, "maximum": 100_000}, 100


class Decision(NamedTuple):
    """When a probability is a success; see `ClassifierReward`."""

    threshold: float
    release: float
    steps: int


def save(path: Path, config: RewardClassifier, state: ClassifierState, decision: Decision) -> None:
    """Writes a classifier, without what only training needs.

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
        shapes = jax.eval_shape(partial(reward_classifier.create, config), jax.random.key(0), state, state)
        return config, checkpoint.load(path, shapes._replace(optimizer=())), Decision(threshold, release, steps)


def _config(said: dict[str, Any]) -> RewardClassifier:
    """The classifier that a file's metadata describe.

    Raises:
        Exception: of nearly any kind, where they describe none, or one of a size that none has.
    """
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
    """The environment with the reward that a classifier gives it.

    Args:
        environment: as `envs.make` gives.
        path: of the classifier.
        name: of the experiment, for the errors.
        confirm: who confirms what it sees; None: nobody.

    Raises:
        CheckpointError: not a reward classifier, or one of other cameras, image sizes, observation horizon or state.
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
    """What the classifier was trained on and what there is in its place; None where it sees what it knows."""
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


_probability = partial(jax.jit, static_argnums=0)(reward_classifier.probability)
