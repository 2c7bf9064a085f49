"""Agents to hand back to HIL-SERL, what their files hold, and upstream's networks, written a second time."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization, traverse_util

from wsrl_kit.agent import sac
from wsrl_kit.agent.sac import SACConfig, SACState
from wsrl_kit.hil_serl.checkpoint import export
from wsrl_kit.runs import checkpoint
from wsrl_kit.training import start as agents

DATA = Path(__file__).parent
PIXEL_TREE = json.loads((DATA / "hil_serl_pixel_agent_tree.json").read_text())
UPDATES = 7


def random_agent(static: SACConfig, seed: int = 0) -> SACState:
    """An agent in the midst of training: every array is random, second moments are positive."""
    generator = np.random.default_rng(seed)
    size = static.observation_size
    shapes = jax.eval_shape(lambda: sac.create(static, jax.random.key(0), jnp.zeros(size), jnp.ones(size)))

    def filled(name: str, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if leaf.dtype == np.int32:
            return np.asarray(UPDATES, np.int32)
        values = 0.3 * generator.standard_normal(leaf.shape, np.float32)
        positive = "/nu" in name or name == "observation_scale"
        return np.asarray(np.abs(values) + 0.05 if positive else values, np.float32)

    leaves = [jnp.asarray(filled(name, leaf)) for name, leaf in checkpoint.named_leaves(shapes)]
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def arrays(agent: SACState) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf) for name, leaf in checkpoint.named_leaves(agent)}


def saved(path: Path, static: SACConfig, agent: SACState) -> Path:
    agents.save_warmup(path, static, agent, agents.probe_zeros(static, 2), {})
    return path


def exported(folder: Path, static: SACConfig, agent: SACState) -> Path:
    export(saved(folder / "agent.npz", static, agent), folder / "upstream")
    return folder / "upstream" / f"checkpoint_{UPDATES}"


def flat(path: Path) -> dict[str, Any]:
    tree = serialization.msgpack_restore(path.read_bytes())
    return traverse_util.flatten_dict(tree, keep_empty_nodes=True, sep="/")


def group(leaves: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): leaf for name, leaf in leaves.items() if name.startswith(prefix)}


def upstream_hidden(parameters: dict[str, Any], prefix: str, inputs: Any, layers: int = 2) -> Any:
    """Dense, LayerNorm, tanh, as upstream's MLP; parameters may have a leading axis of critics."""
    for index in range(layers):
        dense, norm = f"{prefix}Dense_{index}/", f"{prefix}LayerNorm_{index}/"
        inputs = inputs @ parameters[f"{dense}kernel"] + parameters[f"{dense}bias"][..., None, :]
        centered = inputs - inputs.mean(-1, keepdims=True)
        inputs = centered / jnp.sqrt((centered**2).mean(-1, keepdims=True) + 1e-6)
        inputs = jnp.tanh(inputs * parameters[f"{norm}scale"][..., None, :] + parameters[f"{norm}bias"][..., None, :])
    return inputs


def upstream_policy(parameters: dict[str, Any], encoded: Any, noise: Any) -> Any:
    hidden = upstream_hidden(parameters, "modules_actor/network/", encoded)
    mean, log_deviation = (
        hidden @ parameters[f"modules_actor/Dense_{index}/kernel"] + parameters[f"modules_actor/Dense_{index}/bias"]
        for index in range(2)
    )
    return jnp.tanh(mean + jnp.clip(jnp.exp(log_deviation), 1e-5, 5.0) * noise)


def upstream_values(parameters: dict[str, Any], encoded: Any, action: Any, network: str = "") -> Any:
    inputs = jnp.concatenate([encoded, action], axis=-1)
    hidden = upstream_hidden(parameters, f"modules_critic/network/{network}", inputs)
    bias = parameters["modules_critic/Dense_0/bias"]
    return (hidden @ parameters["modules_critic/Dense_0/kernel"] + bias[..., None, :])[..., 0]


def rows(size: int, count: int = 4, seed: int = 1) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal((count, size)), jnp.float32)


def feature_maps(*cameras: str) -> dict[str, jax.Array]:
    """Of four observations, as a ResNet-10 gives them."""
    generator = np.random.default_rng(4)
    return {name: jnp.asarray(generator.random((4, 1, 4, 4, 512), np.float32)) for name in cameras}


def upstream_encoded(parameters: dict[str, Any], maps: dict[str, jax.Array], observation: Any) -> Any:
    encoder, parts = "modules_actor/encoder/", []
    for name, features in maps.items():
        kernel = parameters[f"{encoder}encoder_{name}/SpatialLearnedEmbeddings_0/kernel"]
        pooled = (features[:, 0, ..., None] * kernel).sum((1, 2)).reshape(len(features), -1)
        parts.append(upstream_hidden(parameters, f"{encoder}encoder_{name}/", pooled, layers=1))
    return jnp.concatenate([*parts, upstream_hidden(parameters, encoder, observation, layers=1)], axis=-1)


def upstream_grasp_values(parameters: dict[str, Any], encoded: Any) -> Any:
    """Its second hidden layer has neither LayerNorm nor tanh."""
    hidden = upstream_hidden(parameters, "modules_grasp_critic/network/", encoded, layers=1)
    for layer in ("modules_grasp_critic/network/Dense_1/", "modules_grasp_critic/Dense_0/"):
        hidden = hidden @ parameters[f"{layer}kernel"] + parameters[f"{layer}bias"]
    return hidden
