"""Checkpoints of HIL-SERL's agents, both ways.

Upstream's layout is taken from trees that its own code printed (tests/data); benchmarks/upstream_checkpoints.py does
the same with upstream's code itself.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization, traverse_util
from flax.training import checkpoints

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
    upstream_policy,
    upstream_values,
)
from slow_cases import one_fast
from wsrl_kit.agent import sac
from wsrl_kit.agent import state as sac_state
from wsrl_kit.agent.sac import SACConfig, SACState
from wsrl_kit.agent.vision import PixelConfig
from wsrl_kit.cli import main
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.errors import CheckpointError
from wsrl_kit.hil_serl import agent as hil_serl_agent
from wsrl_kit.hil_serl.checkpoint import export, import_hil_serl
from wsrl_kit.runs import checkpoint
from wsrl_kit.training import start as agents

STATE_TREE = json.loads((DATA / "serl_state_agent_tree.json").read_text())
NETWORKS = ("actor", "critic", "temperature")


def states_config(**changes: Any) -> SACConfig:
    """An agent of the sizes of `STATE_TREE`."""
    sizes = {"hidden_sizes": [8, 6], "critic_ensemble_size": 3}
    return sac.from_parameters(WSRLConfig(**(sizes | changes)), 5, 2)


def pixels_config(*cameras: str) -> SACConfig:
    return sac.from_parameters(WSRLConfig(shared_critic_output=True), 19, 6, PixelConfig(cameras, 128, 128))


def test_a_state_agents_file_has_the_entries_of_serls(tmp_path: Path) -> None:
    leaves = flat(exported(tmp_path, states_config(), random_agent(states_config())))
    groups = ["params/", "target_params/"]
    groups += [f"opt_states/{network}/inner_state/0/0/{kind}/" for network in NETWORKS for kind in ("mu", "nu")]
    for prefix in groups:
        found = group(leaves, prefix)
        assert {name: list(leaf.shape) for name, leaf in found.items()} == STATE_TREE["parameters"]
        assert all(leaf.dtype == np.float32 for leaf in found.values())
    others = {name: leaf for name, leaf in leaves.items() if not name.startswith(tuple(groups))}
    found = {
        name: [list(np.shape(leaf)), str(np.asarray(leaf).dtype)] if np.size(leaf) and "0/1" not in name else None
        for name, leaf in others.items()
    }
    assert found == STATE_TREE["others"]
    assert {int(leaf) for name, leaf in others.items() if name == "step" or name.endswith("count")} == {UPDATES}


def test_each_optimizer_has_moments_of_its_own_network_alone(tmp_path: Path) -> None:
    leaves = flat(exported(tmp_path, states_config(), random_agent(states_config())))
    for network in NETWORKS:
        for kind in ("mu", "nu"):
            moments = group(leaves, f"opt_states/{network}/inner_state/0/0/{kind}/")
            assert {name.split("/")[0] for name, leaf in moments.items() if np.any(leaf)} == {f"modules_{network}"}


def test_actions_and_values_are_the_same_by_serls_networks(tmp_path: Path) -> None:
    static, agent = states_config(), random_agent(states_config())
    leaves = flat(exported(tmp_path, static, agent))
    parameters, target = group(leaves, "params/"), group(leaves, "target_params/")
    observation, action, noise = rows(5), jnp.tanh(rows(2)), rows(2, seed=2)
    act, values_of = jax.jit(sac.act, static_argnums=0), jax.jit(sac.action_values, static_argnums=0)
    for scaled in (noise, 0 * noise):
        expected = act(static, sac.policy(agent), observation, scaled)
        assert np.abs(upstream_policy(parameters, observation, scaled) - expected).max() < 1e-5
    values = upstream_values(parameters, observation, action)
    assert np.abs(values - values_of(static, agent, observation, action)).max() < 1e-5
    lagged = agent._replace(critic=agent.target_critic)
    values = upstream_values(target, observation, action)
    assert np.abs(values - values_of(static, lagged, observation, action)).max() < 1e-5
    softplus = np.logaddexp(0.0, parameters["modules_temperature/lagrange"])
    assert softplus == pytest.approx(np.exp(agent.temperature_parameter["exponential"]), rel=1e-6)


@pytest.mark.parametrize("parameterisation", one_fast(["softplus", "exponential"]))
def test_first_moments_are_gradients_by_upstreams_parameters(tmp_path: Path, parameterisation: str) -> None:
    """One gradient as the moments here must come out as the gradient of the same loss by upstream's parameters."""
    static = states_config(temperature_parameterisation=parameterisation)
    agent = random_agent(static)
    observation, action, noise = rows(5, 1), jnp.tanh(rows(2, 1)), rows(2, 1, seed=2)

    def loss(actor: Any, critic: Any, temperature: Any) -> jax.Array:
        changed = agent._replace(actor=actor, critic=critic)
        acted = sac.act(static, sac.policy(changed), observation, noise).sum()
        values = sac.action_values(static, changed, observation, action).sum()
        return acted + values + sac_state.entropy_temperature(temperature)

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(agent.actor, agent.critic, agent.temperature_parameter)
    moments = {}
    for network, gradient in zip(NETWORKS, gradients, strict=True):
        adam, schedule = getattr(agent, f"{network}_optimizer")
        moments[f"{network}_optimizer"] = (adam._replace(mu=gradient, nu=jax.tree.map(jnp.square, gradient)), schedule)
    leaves = flat(exported(tmp_path, static, agent._replace(**moments)))

    def upstream_loss(parameters: dict[str, Any]) -> jax.Array:
        acted = upstream_policy(parameters, observation, noise).sum()
        values = upstream_values(parameters, observation, action).sum()
        return acted + values + jax.nn.softplus(parameters["modules_temperature/lagrange"])

    expected = jax.jit(jax.grad(upstream_loss))(group(leaves, "params/"))
    for name, gradient in jax.tree.map(np.asarray, expected).items():
        network = name.split("/")[0].removeprefix("modules_")
        adam = f"opt_states/{network}/inner_state/0/0"
        assert leaves[f"{adam}/mu/{name}"] == pytest.approx(gradient, rel=1e-3, abs=1e-4)
        if not name.endswith("network/Dense_0/kernel"):
            assert leaves[f"{adam}/nu/{name}"] == pytest.approx(gradient**2, rel=1e-3, abs=1e-4)


def test_second_moments_behind_the_normalisation_hold_for_inputs_of_mean_zero() -> None:
    static, generator = states_config(), np.random.default_rng(3)
    center, scale = np.array([2.0, -1.0, 0.0, 0.3, 5.0]), np.array([0.1, 2.0, 1.0, 0.5, 3.0])
    normalised, errors = generator.standard_normal((200_000, 5)), generator.standard_normal((200_000, 8))
    agent = arrays(random_agent(static))
    agent |= {"observation_center": center.astype(np.float32), "observation_scale": scale.astype(np.float32)}
    layer = "actor_optimizer/0/nu/params/HiddenLayers_0/Dense_0"
    agent[f"{layer}/kernel"] = np.float32((normalised**2).T @ errors**2 / len(errors))
    agent[f"{layer}/bias"] = np.float32((errors**2).mean(0))
    found = hil_serl_agent.from_agent(agent, []).second_moment["modules_actor/network/Dense_0/kernel"]
    seen = center + scale * normalised
    np.testing.assert_allclose(found, (seen**2).T @ errors**2 / len(errors), rtol=0.03)


def test_there_and_back_is_the_same_agent(tmp_path: Path) -> None:
    static = states_config(temperature_parameterisation="softplus")
    agent = random_agent(static)._replace(
        observation_center=jnp.zeros(5), observation_scale=jnp.ones(5), log_multiplier=jnp.zeros(())
    )
    import_hil_serl(exported(tmp_path, static, agent), tmp_path / "back.npz")
    back, probe = agents.load_warmup(tmp_path / "back.npz", static)
    assert probe is None
    found = arrays(back)
    for name, leaf in arrays(agent).items():
        if not name.startswith("multiplier_optimizer"):
            assert np.array_equal(found[name], leaf), name


def test_upstreams_agent_comes_back_with_the_same_bits(tmp_path: Path) -> None:
    first = exported(tmp_path, states_config(), random_agent(states_config()))
    # In its own folder, as upstream's runs have it, and in the other format that flax writes.
    tree = serialization.msgpack_restore(first.read_bytes())
    checkpoints.save_checkpoint(str(tmp_path / "orbax"), jax.tree.map(jnp.asarray, tree), UPDATES)
    for source in (first, first.parent, tmp_path / "orbax"):
        import_hil_serl(source, tmp_path / "back.npz")
        export(tmp_path / "back.npz", tmp_path / "again")
        again = flat(tmp_path / "again" / first.name)
        for name, leaf in flat(first).items():
            # The rest of the target, which upstream never uses, is the actor's own.
            if name.startswith(("params/", "target_params/modules_critic/")) or "/mu/" in name or "/nu/" in name:
                assert np.array_equal(again[name], leaf), name


@pytest.fixture(scope="module")
def pixel_agent() -> tuple[SACConfig, SACState]:
    static = pixels_config("wrist_1", "wrist_2")
    return static, random_agent(static)


def test_a_pixel_agent_is_hil_serls(tmp_path: Path, pixel_agent: tuple[SACConfig, SACState]) -> None:
    static, agent = pixel_agent
    path = exported(tmp_path, static, agent)
    # HIL-SERL's actor wants a dump beside a checkpoint, and its learner reads what is in it.
    assert [file.name for file in (path.parent / "buffer").iterdir()] == ["transitions_0.pkl"]
    leaves = flat(path)
    path.unlink()
    parameters, target = group(leaves, "params/"), group(leaves, "target_params/")
    for found in (parameters, target):
        assert {name: list(leaf.shape) for name, leaf in found.items()} == PIXEL_TREE
    assert leaves["epsilon"] == 0.0

    maps = feature_maps("wrist_1", "wrist_2")
    observation, action, noise = rows(19), jnp.tanh(rows(6)), rows(6, seed=2)

    @jax.jit
    def upstream(parameters: Any) -> tuple[Any, Any]:
        encoded = upstream_encoded(parameters, maps, observation)
        values = upstream_values(parameters, encoded, action, "VmapMLP_0/")
        return upstream_policy(parameters, encoded, noise), values

    act, action_values = (jax.jit(each, static_argnums=0) for each in (sac.act, sac.action_values))
    actions, _ = upstream(parameters)
    assert np.abs(actions - act(static, sac.policy(agent), observation, noise, maps)).max() < 1e-5
    for found, critic in ((parameters, agent.critic), (target, agent.target_critic)):
        _, values = upstream(found)
        expected = action_values(static, agent._replace(critic=critic), observation, action, maps)
        assert np.abs(values - expected).max() < 2e-5
    # The trunk is HIL-SERL's by name already; it is never trained there, so no momentum may move it.
    trunk = group(parameters, "modules_actor/encoder/encoder_wrist_1/pretrained_encoder/")
    own = traverse_util.flatten_dict(agent.trunk["all cameras"]["params"], sep="/")
    assert all(np.array_equal(trunk[name], leaf) for name, leaf in own.items())
    moving = group(leaves, "opt_states/critic/inner_state/0/0/mu/modules_actor/encoder/")
    assert {name for name, leaf in moving.items() if not np.any(leaf)} == {
        name for name in moving if "pretrained_encoder" in name
    }


def test_cameras_in_another_order_come_back_in_theirs(pixel_agent: tuple[SACConfig, SACState]) -> None:
    _, agent = pixel_agent
    here = arrays(agent)
    sorted_order, other = (
        hil_serl_agent.from_agent(here, order) for order in (["wrist_1", "wrist_2"], ["wrist_2", "wrist_1"])
    )
    kernel = "modules_actor/network/Dense_0/kernel"
    one, two = sorted_order.parameters[kernel], other.parameters[kernel]
    assert np.array_equal(two, np.concatenate([one[256:512], one[:256], one[512:]]))
    assert hil_serl_agent.hil_serl_cameras(other.parameters) == ["wrist_2", "wrist_1"]
    back = hil_serl_agent.to_agent(other, ["wrist_2", "wrist_1"])
    straight = hil_serl_agent.to_agent(sorted_order, ["wrist_1", "wrist_2"])
    assert set(back) == set(straight) and all(np.array_equal(back[name], straight[name]) for name in back)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"activation": "relu"}, "expected layer_norm True and activation 'tanh', found others"),
        ({"layer_norm": False}, "expected layer_norm True and activation 'tanh', found others"),
        ({"shared_critic_output": True}, "expected shared_critic_output False, as .*, found True"),
    ],
)
def test_an_agent_that_upstream_does_not_build_is_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    static = states_config(**changes)
    with pytest.raises(CheckpointError, match=f"agent.npz can't be exported: .*{reason}"):
        exported(tmp_path, static, random_agent(static))
    assert not (tmp_path / "upstream").exists()


@pytest.mark.slow
def test_pixel_agents_that_hil_serl_does_not_build_are_refused(tmp_path: Path) -> None:
    for changes, shared, reason in (
        ({"encoder": "small", "is_frozen": False}, True, "expected encoder 'resnet10'"),
        ({}, False, "expected shared_critic_output True, as .*, found False"),
        ({"observation_horizon": 2}, True, "HIL-SERL's encoder takes one frame"),
    ):
        static = sac.from_parameters(
            WSRLConfig(hidden_sizes=[4], shared_critic_output=shared),
            3,
            2,
            PixelConfig(("front",), 128, 128, **changes),
        )
        with pytest.raises(CheckpointError, match=reason):
            exported(tmp_path, static, random_agent(static))


def test_a_trunk_that_was_trained_is_handed_over_without_momentum(pixel_agent: tuple[SACConfig, SACState]) -> None:
    static, _ = pixel_agent
    assert static.pixels is not None
    agent = arrays(random_agent(replace(static, pixels=replace(static.pixels, is_frozen=False))))
    learned = hil_serl_agent.from_agent(agent, ["wrist_1", "wrist_2"])
    name = "encoder_wrist_1/pretrained_encoder/conv_init/kernel"
    own = "critic/encoder/trunks/all cameras/params/conv_init/kernel"
    assert set(learned.parameters) == set(PIXEL_TREE)
    assert np.array_equal(learned.parameters[f"modules_actor/encoder/{name}"], agent[own])
    assert np.array_equal(learned.target[f"modules_actor/encoder/{name}"], agent[f"target_{own}"])
    assert np.any(agent[own.replace("critic", "critic_optimizer/0/mu", 1)])
    assert not np.any(learned.first_moment[f"modules_actor/encoder/{name}"])


def test_the_checkpoint_of_a_run_is_taken_and_one_with_more_to_learn_is_not(tmp_path: Path) -> None:
    agent = random_agent(states_config())
    checkpoint.save(tmp_path / "run.npz", {"agent": agent, "replay": {"states": np.zeros((9, 14))}}, {"rows": 3})
    assert export(tmp_path / "run.npz", tmp_path / "run").startswith(
        "serl_launcher.agents.continuous.sac.SACAgent.create_states(critic_ensemble_size=3"
    )
    expected, found = flat(exported(tmp_path, states_config(), agent)), flat(tmp_path / "run" / f"checkpoint_{UPDATES}")
    assert all(np.array_equal(found[name], leaf) for name, leaf in expected.items() if np.size(leaf))
    more = agent._asdict() | {"value_critic": {"kernel": np.zeros(3)}}
    checkpoint.save(tmp_path / "more.npz", {"agent": more}, {"rows": 3})
    with pytest.raises(
        CheckpointError, match="can't be exported: expected no parameters .*, found value_critic/kernel"
    ):
        export(tmp_path / "more.npz", tmp_path / "more")


def test_a_folder_with_another_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "upstream").mkdir()
    (tmp_path / "upstream" / "checkpoint_1000").touch()
    with pytest.raises(CheckpointError, match="holds checkpoint_1000, which HIL-SERL could restore instead"):
        exported(tmp_path, states_config(), random_agent(states_config()))


def test_files_that_are_not_hil_serls_are_refused_by_the_entry(tmp_path: Path) -> None:
    path = exported(tmp_path, states_config(), random_agent(states_config()))
    whole, good = path.read_bytes(), flat(path)
    actor, critic = "modules_actor/Dense_1/kernel", "modules_critic/network/Dense_0/kernel"

    def refusal(content: bytes | dict[str, Any]) -> str:
        if isinstance(content, dict):
            content = serialization.msgpack_serialize(traverse_util.unflatten_dict(content, sep="/"))
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            import_hil_serl(path, tmp_path / "back.npz")
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
        return str(caught.value)

    assert "is damaged or no checkpoint" in refusal(whole[: len(whole) // 2])
    assert "has no params/modules_actor/network/Dense_0/bias: expected a checkpoint of HIL-SERL's" in refusal(
        {"a/b": 1}
    )
    without = {name: leaf for name, leaf in good.items() if name != f"params/{actor}"}
    assert f"has no params/{actor}: expected" in refusal(without)
    without = {name: leaf for name, leaf in good.items() if not name.startswith("opt_states/critic/inner_state")}
    assert "has no opt_states/critic/inner_state/0/0/mu/modules_critic/" in refusal(without)
    narrow = good | {f"params/{critic}": good[f"params/{critic}"][:, :-1]}
    assert f"holds params/{critic} as [3, 6, 8], but the sizes of its other entries need [3, 7, 8]" in refusal(narrow)
    grasping = good | {"params/modules_grasp_critic/Dense_0/bias": np.zeros(3, np.float32)}
    assert "holds params/modules_grasp_critic/Dense_0/bias, which this kit's agents do not have" in refusal(grasping)
    with pytest.raises(CheckpointError, match="nowhere does not exist"):
        import_hil_serl(tmp_path / "nowhere", tmp_path / "back.npz")
    assert not (tmp_path / "back.npz").exists()


def test_the_command_line_converts_both_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = saved(tmp_path / "agent.npz", states_config(), random_agent(states_config()))
    assert main(["export-hil-serl", str(source), str(tmp_path / "upstream")]) == 0
    assert (
        "create_states(critic_ensemble_size=3, critic_network_kwargs={'hidden_dims': [8, 6]" in capsys.readouterr().out
    )
    assert main(["import-hil-serl", str(tmp_path / "upstream"), str(tmp_path / "back.npz")]) == 0
    said = capsys.readouterr().out
    assert "hidden_sizes [8, 6], critic_ensemble_size 3" in said and "temperature_parameterisation 'softplus'" in said
    assert main(["export-hil-serl", str(source), str(tmp_path / "upstream"), "--cameras", "front"]) == 1
    assert "is of cameras none, found front" in capsys.readouterr().err
