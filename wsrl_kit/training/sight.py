"""What replay keeps and the policy sees of camera images: images, or a frozen trunk's features.

A frozen trunk's features never change, so each frame passes once. With random crops, replay keeps images.
"""

from contextlib import closing
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float32, PyTree, Shaped, UInt8

from wsrl_kit.agent import jax_tools, vision
from wsrl_kit.agent.sac import Policy, SACConfig, SACState
from wsrl_kit.agent.transition import Images
from wsrl_kit.agent.vision import PixelConfig, random_crops
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.data.dataset import Dataset
from wsrl_kit.envs.make import make
from wsrl_kit.envs.wrappers import CameraImages, camera_shapes, parts
from wsrl_kit.replay import frames
from wsrl_kit.replay.frames import FrameStore

FRAMES_AT_ONCE = 256
"""Frames per call when computing a dataset's features."""


def keeps_features(config: PixelConfig) -> bool:
    """Whether replay keeps features instead of frames."""
    return config.is_frozen and config.augmentation_padding == 0


def split_observation(
    agent_config: SACConfig, policy: Policy, observation: Any
) -> tuple[Float32[np.ndarray, " observation"], dict[str, Shaped[np.ndarray, "horizon ..."]]]:
    """The state, and the images as replay keeps them, by camera; empty without cameras."""
    state, images = parts(observation)
    if agent_config.pixels is None or not keeps_features(agent_config.pixels):
        return state, images
    return state, jax.device_get(_features(agent_config.pixels, policy.trunk, images))


def example(agent_config: SACConfig, agent_state: SACState) -> dict[str, Shaped[np.ndarray, "horizon ..."]]:
    """One observation's images as replay keeps them, for shapes and types."""
    assert agent_config.pixels is not None
    images = {name: np.zeros(agent_config.pixels.image_shape, np.uint8) for name in agent_config.pixels.cameras}
    if not keeps_features(agent_config.pixels):
        return images
    features = jax.eval_shape(partial(_features, agent_config.pixels), agent_state.trunk, images)
    return {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in features.items()}


def dataset_frames(agent_config: SACConfig, agent_state: SACState, dataset: Dataset) -> FrameStore | None:
    """A dataset's frames as replay keeps them, not copied; None without cameras."""
    if agent_config.pixels is None:
        return None
    kept = {name: np.ascontiguousarray(images) for name, images in dataset.images.items()}
    if keeps_features(agent_config.pixels):
        kept = _features_of_all(agent_config.pixels, agent_state.trunk, kept)
    return frames.of_rows(kept, dataset.frame_of_row, dataset.observation_horizon)


def pictures_of_data(config: WSRLConfig, dataset: Dataset, count: int = 6) -> dict[str, UInt8[np.ndarray, "two ..."]]:
    """By camera: images spread evenly over the data, and their training crops."""
    frames_held = max(map(len, dataset.images.values()), default=0)
    rows = np.linspace(0, frames_held - 1, count).astype(int)
    return _with_crops(config, {name: images[rows] for name, images in dataset.images.items()})


def pictures_of_robot(config: WSRLConfig, count: int = 6) -> dict[str, UInt8[np.ndarray, "two ..."]]:
    """Like `pictures_of_data`, for the first images of some episodes."""
    with closing(make(config.exp_name, config.environment_options)) as environment:
        if not camera_shapes(environment):
            return {}
        seeds = (jax_tools.episode_seed(config.seed, "episodes", episode) for episode in range(count))
        seen = [parts(environment.reset(seed=seed)[0])[1] for seed in seeds]
    return _with_crops(config, {name: np.stack([images[name][-1] for images in seen]) for name in seen[0]})


def _with_crops(config: WSRLConfig, images: CameraImages) -> dict[str, UInt8[np.ndarray, "two ..."]]:
    stacks = {name: frames[:, None] for name, frames in images.items()}
    cropped = random_crops(jax_tools.key(config.seed, "diagnosis"), stacks, config.augmentation_padding)
    return {name: np.stack([images[name], np.asarray(cropped[name])[:, 0]]) for name in images}


def _features_of_all(config: PixelConfig, trunk: PyTree, images: Images) -> dict[str, Float32[np.ndarray, "..."]]:
    count = len(next(iter(images.values())))
    found = [
        jax.device_get(_features(config, trunk, {name: leaf[rows] for name, leaf in images.items()}))
        for rows in jax_tools.padded_chunks(count, FRAMES_AT_ONCE)
    ]
    return {name: np.concatenate([part[name] for part in found])[:count] for name in images}


@partial(jax.jit, static_argnums=0)
def _features(config: PixelConfig, trunk: PyTree, images: Images) -> dict[str, Shaped[Array, "frames ..."]]:
    return vision.trunk_features(config, trunk, images)
