"""Checkpoints of HIL-SERL's agents with learned grippers, both ways."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization, traverse_util

from hil_serl_samples import (
    DATA,
    PIXEL_TREE,
    UPDATES,
    arrays,
    exported,
    feature_maps,
    flat,
    group,
    random_agent,
    rows,
    saved,
    upstream_encoded,
    upstream_grasp_values,
    upstream_policy,
    upstream_values,
)
from slow_cases import one_fast
from wsrl_kit.agent import sac, state
from wsrl_kit.agent.sac import SACConfig, SACState
from wsrl_kit.agent.vision import PixelConfig
from wsrl_kit.cli import main
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.errors import CheckpointError
from wsrl_kit.hil_serl import agent as hil_serl_agent
from wsrl_kit.hil_serl.checkpoint import import_hil_serl
from wsrl_kit.training import start as agents

DIFFERENCES = json.loads((DATA / "hil_serl_gripper_agent_trees.json").read_text())
"""Of upstream's trees from that of an agent without a learned gripper."""

TRUNK = "/pretrained_encoder/"
CAMERAS = ("wrist_1", "wrist_2")
NETWORKS = ("actor", "critic", "temperature", "grasp_critic")
ACTION_SIZES = {"single": 7, "dual": 14}


def config(setup: str, action_size: int | None = None, cameras: tuple[str, ...] = CAMERAS) -> SACConfig:
    pixels = PixelConfig(cameras, 128, 128) if cameras else None
    parameters = WSRLConfig(gripper=setup, shared_critic_output=bool(cameras), temperature_parameterisation="softplus")
    return sac.from_parameters(parameters, 19, action_size or ACTION_SIZES[setup], pixels)


@pytest.fixture(scope="module", params=one_fast(["single", "dual"]))
def gripping(request: pytest.FixtureRequest) -> tuple[SACConfig, SACState]:
    static = config(request.param)
    return static, random_agent(static)


def test_all_that_is_learned_has_the_names_and_shapes_of_hil_serls(gripping: tuple[SACConfig, SACState]) -> None:
    static, agent = gripping
    learned = hil_serl_agent.from_agent(arrays(agent), CAMERAS)
    for found in (learned.parameters, learned.target, learned.first_moment, learned.second_moment):
        assert {name: list(array.shape) for name, array in found.items()} == PIXEL_TREE | DIFFERENCES[static.gripper]
    assert learned.steps == dict.fromkeys(NETWORKS, UPDATES)


def test_it_acts_and_values_the_same_by_hil_serls_networks(gripping: tuple[SACConfig, SACState]) -> None:
    static, agent = gripping
    learned = hil_serl_agent.from_agent(arrays(agent), CAMERAS)
    maps, observation = feature_maps(*CAMERAS), rows(19)
    action, noise = jnp.tanh(rows(static.action_size)), rows(static.continuous_size, seed=2)
    size = static.action_size
    grippers = [size - 1] if static.gripper == "single" else [6, 13]

    for found, critic, grasp_critic in (
        (learned.parameters, agent.critic, agent.grasp.critic),
        (learned.target, agent.target_critic, agent.grasp.target),
    ):
        encoded = upstream_encoded(found, maps, observation)
        values = upstream_values(found, encoded, np.delete(action, grippers, axis=1), "VmapMLP_0/")
        expected = sac.action_values(static, agent._replace(critic=critic), observation, action, maps)
        assert np.abs(values - expected).max() < 2e-5
        seen = state.features(static, agent, state.encoder(critic), observation, maps)
        expected = state.grasp_network(static).apply(grasp_critic, seen)
        # Values are tens, whose last bit is 2e-6.
        np.testing.assert_allclose(upstream_grasp_values(found, encoded), expected, rtol=1e-5, atol=2e-5)

    encoded = upstream_encoded(learned.parameters, maps, observation)
    choice = jnp.argmax(upstream_grasp_values(learned.parameters, encoded), axis=-1)
    acted = sac.act(static, sac.policy(agent), observation, noise, maps)
    continuous = upstream_policy(learned.parameters, encoded, noise)
    assert np.abs(np.delete(acted, grippers, axis=1) - continuous).max() < 1e-5
    commands = [choice - 1] if static.gripper == "single" else [choice // 3 - 1, choice % 3 - 1]
    np.testing.assert_array_equal(acted[:, jnp.array(grippers)], np.stack(commands, axis=1))


def test_its_file_is_hil_serls_and_comes_back_as_the_same_agent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    static = config("dual")
    agent = random_agent(static)._replace(
        observation_center=jnp.zeros(19), observation_scale=jnp.ones(19), log_multiplier=jnp.zeros(())
    )
    assert main(["export-hil-serl", str(saved(tmp_path / "agent.npz", static, agent)), str(tmp_path / "there")]) == 0
    said = capsys.readouterr().out
    assert "serl_launcher.agents.continuous.sac_hybrid_dual.SACAgentHybridDualArm.create_pixels(" in said
    assert "grasp_critic_network_kwargs={'hidden_dims': [256, 256]" in said

    leaves = flat(tmp_path / "there" / f"checkpoint_{UPDATES}")
    assert {name.split("/")[1] for name in leaves if name.startswith("opt_states/")} == set(NETWORKS)
    encoder, own = "modules_actor/encoder/", "modules_grasp_critic/"
    first, second = (group(leaves, f"opt_states/grasp_critic/inner_state/0/0/{kind}/") for kind in ("mu", "nu"))
    assert {name for name, leaf in first.items() if np.any(leaf)} == {name for name in first if name.startswith(own)}
    assert all(np.any(leaf) == name.startswith((own, encoder)) for name, leaf in second.items() if TRUNK not in name)
    # HIL-SERL's grasp critic trains the encoder, which without second moments would take leaps.
    critics = group(leaves, "opt_states/critic/inner_state/0/0/nu/")
    assert all(np.array_equal(leaf, critics[name]) for name, leaf in second.items() if name.startswith(encoder))

    assert main(["import-hil-serl", str(tmp_path / "there"), str(tmp_path / "back.npz")]) == 0
    assert "gripper 'dual'" in capsys.readouterr().out
    back, _ = agents.load_warmup(tmp_path / "back.npz", static)
    found = arrays(back)
    for name, leaf in arrays(agent).items():
        if not name.startswith("multiplier_optimizer"):
            assert np.array_equal(found[name], leaf), name


def test_cameras_in_another_order_are_so_for_the_grasp_critic(gripping: tuple[SACConfig, SACState]) -> None:
    _, agent = gripping
    here = arrays(agent)
    sorted_order, other = (hil_serl_agent.from_agent(here, order) for order in (CAMERAS, CAMERAS[::-1]))
    kernel = "modules_grasp_critic/network/Dense_0/kernel"
    one, two = sorted_order.parameters[kernel], other.parameters[kernel]
    assert np.array_equal(two, np.concatenate([one[256:512], one[:256], one[512:]]))
    back = hil_serl_agent.to_agent(other, CAMERAS[::-1])
    grasp = [name for name in here if name.startswith("grasp/")]
    assert len(grasp) == 4 * 8 + 2 and all(np.array_equal(back[name], here[name]) for name in grasp)


@pytest.mark.parametrize(
    ("static", "reason"),
    [
        (config("single", cameras=()), "expected cameras, which all of .* learned grippers have, found none"),
        (config("single", 4, ("front",)), "HIL-SERL's SACAgentHybridSingleArm learns actions of 7 entries, found 4"),
        (config("dual", 12, ("front",)), "HIL-SERL's SACAgentHybridDualArm learns actions of 14 entries, found 12"),
    ],
)
def test_an_agent_that_hil_serl_does_not_build_is_refused(tmp_path: Path, static: SACConfig, reason: str) -> None:
    with pytest.raises(CheckpointError, match=f"agent.npz can't be exported: {reason}$"):
        exported(tmp_path, static, random_agent(static))
    assert not (tmp_path / "upstream").exists()


@pytest.mark.parametrize(
    ("choices", "continuous", "reason"),
    [
        (5, 6, r"holds params/modules_grasp_critic/Dense_0/bias of 5 choices: expected 3 or 9$"),
        (9, 11, r"is of no agent that this kit has: gripper 'dual' needs two equal halves .*, found an action of 13$"),
    ],
)
def test_a_file_of_other_grippers_is_refused(tmp_path: Path, choices: int, continuous: int, reason: str) -> None:
    sizes: dict[str, Any] = {
        "modules_actor/encoder/encoder_front/pretrained_encoder/conv_init/kernel": (1,),
        "modules_actor/encoder/Dense_0/kernel": (3, 2),
        "modules_actor/network/Dense_0/bias": (2,),
        "modules_actor/Dense_0/bias": (continuous,),
        "modules_critic/network/VmapMLP_0/Dense_0/bias": (2, 2),
        "modules_grasp_critic/Dense_0/bias": (choices,),
    }
    leaves = {f"params/{name}": np.zeros(size, np.float32) for name, size in sizes.items()}
    path = tmp_path / "checkpoint_1"
    path.write_bytes(serialization.msgpack_serialize(traverse_util.unflatten_dict(leaves, sep="/")))
    with pytest.raises(CheckpointError, match=reason):
        import_hil_serl(path, tmp_path / "back.npz")
