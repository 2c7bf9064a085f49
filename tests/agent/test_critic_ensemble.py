"""Critics of an ensemble are as many networks, with a last layer each or one for all."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsrl_kit.agent import networks, sac
from wsrl_kit.agent.transition import Transition
from wsrl_kit.config.config import WSRLConfig

SIZE, WIDTHS, OBSERVATIONS, ACTIONS, BATCH = 4, (6, 5), 3, 2, 7


def ensemble(size: int, shared_output: bool) -> networks.CriticEnsemble:
    return networks.CriticEnsemble(
        size, WIDTHS, True, "tanh", networks.InitialWeights("xavier", 1.0), 0.0, shared_output
    )


def inputs(seed: int = 0) -> tuple[jax.Array, jax.Array]:
    random = np.random.default_rng(seed)
    return tuple(jnp.asarray(random.normal(size=(BATCH, size)), jnp.float32) for size in (OBSERVATIONS, ACTIONS))


def test_a_shared_output_is_one_layer_on_the_hidden_layers_of_each() -> None:
    observation, action = inputs()
    network = ensemble(SIZE, shared_output=True)
    random = np.random.default_rng(2)
    shapes = jax.eval_shape(partial(network.init, train=False), jax.random.key(0), observation, action)["params"]
    parameters = jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), shapes)
    output, (hidden_layers,) = parameters.pop(networks.SHARED_OUTPUT), parameters.values()
    assert output["kernel"].shape == (WIDTHS[-1], 1) and output["bias"].shape == (1,)
    expected = []
    for member in range(SIZE):
        hidden = np.concatenate([observation, action], axis=1)
        for layer in range(len(WIDTHS)):
            dense, norm = (hidden_layers[f"{kind}_{layer}"] for kind in ("Dense", "NormalisedTanh"))
            hidden = hidden @ dense["kernel"][member] + dense["bias"][member]
            centered = hidden - hidden.mean(axis=1, keepdims=True)
            normalised = centered / np.sqrt((centered**2).mean(axis=1, keepdims=True) + 1e-6)
            hidden = np.tanh(normalised * norm["scale"][member] + norm["bias"][member])
        expected.append((hidden @ output["kernel"] + output["bias"])[:, 0])
    found = jax.jit(partial(network.apply, train=False))(
        {"params": parameters | {networks.SHARED_OUTPUT: output}}, observation, action
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert len({float(value) for value in found[:, 0]}) == SIZE


@pytest.mark.parametrize("shared_output", [False, True])
def test_members_have_the_values_they_have_in_the_ensemble(shared_output: bool) -> None:
    observation, action = inputs()
    network = ensemble(SIZE, shared_output)
    parameters = jax.jit(partial(network.init, train=False))(jax.random.key(0), observation, action)
    values = jax.jit(partial(network.apply, train=False))(parameters, observation, action)
    chosen = np.array([3, 1])
    two = jax.jit(
        lambda parameters: ensemble(2, shared_output).apply(
            networks.members(parameters, jnp.asarray(chosen)), observation, action, False
        )
    )
    some = two(parameters)
    np.testing.assert_allclose(some, values[chosen], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_an_agent_with_a_shared_output_learns_and_takes_its_target_from_a_subset() -> None:
    parameters = WSRLConfig(hidden_sizes=[6], critic_ensemble_size=SIZE, output_scale=1.0, shared_critic_output=True)
    config = sac.from_parameters(parameters, OBSERVATIONS, ACTIONS)
    values_of = jax.jit(partial(sac.action_values, config))
    state = jax.jit(partial(sac.create, config))(jax.random.key(0), jnp.zeros(OBSERVATIONS), jnp.ones(OBSERVATIONS))
    # Every action is the same, so that the critics' values at the next observation are known.
    state = state._replace(actor=jax.tree.map(np.zeros_like, state.actor))
    actor_output = next(layer for layer in state.actor["params"].values() if "bias" in layer)
    actor_output["bias"] = np.float32([0.3, -0.3, -50.0, -50.0])
    (observation, action), (next_observation, _) = inputs(0), inputs(1)
    ones = jnp.ones(BATCH)
    batch = Transition(observation, action, ones, next_observation, ones, ones, ones)
    same = np.tile(np.tanh(np.float32([0.3, -0.3])), (BATCH, 1))
    next_values = np.sort(values_of(state, next_observation, same), axis=0)
    value = np.mean(values_of(state, observation, action), axis=0)
    found = value - np.asarray(jax.jit(partial(sac.td_errors, config))(state, batch, jax.random.key(0)))
    # The minimum of two of four is the least, the second or the third value, here of the same pair in every row.
    possible = 1.0 + config.discount * next_values[:3]
    assert np.abs(found - possible).min(axis=0).max() < 1e-3
    learned, _, _ = jax.jit(partial(sac.update_critic, config))(state, batch, jax.random.key(1))
    before, after = (np.asarray(agent.critic["params"][networks.SHARED_OUTPUT]["kernel"]) for agent in (state, learned))
    assert np.all(before != after)
