"""Learned grippers: a discrete critic beside the continuous agent."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import PyTree

from training_samples import same, settings, stored, taken
from wsrl_kit.agent import grasp, gripper, sac
from wsrl_kit.agent.sac import SACConfig, SACState
from wsrl_kit.agent.state import GraspState
from wsrl_kit.agent.transition import MONTE_CARLO_RETURN, Transition, packed, row_width, unpacked
from wsrl_kit.agent.vision import PixelConfig
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.data.dataset import Dataset
from wsrl_kit.data.trajectory import Trajectory
from wsrl_kit.envs.make import make
from wsrl_kit.errors import CheckpointError, ParameterError
from wsrl_kit.runs import checkpoint
from wsrl_kit.runs.loop import Measurement, Snapshot
from wsrl_kit.training import finetune, learner, warmup
from wsrl_kit.training import start as agents
from wsrl_kit.training.evaluation import Evaluator

# Actions and choices


def test_choices_are_hil_serls() -> None:
    single = gripper.joined("single", jnp.full((3, 6), 0.5), jnp.arange(3))
    np.testing.assert_array_equal(single, [[0.5] * 6 + [command] for command in (-1, 0, 1)])
    dual = gripper.joined("dual", jnp.arange(12.0)[None], jnp.array([5]))
    np.testing.assert_array_equal(dual, [[0, 1, 2, 3, 4, 5, 0, 6, 7, 8, 9, 10, 11, 1]])
    assert [int(gripper.choice("dual", gripper.joined("dual", jnp.zeros(2), jnp.int32(n)))) for n in range(9)] == list(
        range(9)
    )


@hypothesis.settings(deadline=None)
@given(
    gripper_and_size=st.sampled_from([("fixed", 3), ("single", 2), ("single", 7), ("dual", 4), ("dual", 14)]),
    seed=st.integers(0, 2**32 - 1),
)
def test_an_action_taken_apart_and_joined_is_the_action_with_its_commands_rounded(
    gripper_and_size: tuple[str, int], seed: int
) -> None:
    setup, size = gripper_and_size
    action = np.random.default_rng(seed).uniform(-1, 1, size).astype(np.float32)
    places = {"fixed": [], "single": [size - 1], "dual": [size // 2 - 1, size - 1]}[setup]
    expected = action.copy()
    expected[places] = np.round(action[places])
    np.testing.assert_array_equal(gripper.rounded(setup, action), expected)
    continuous = gripper.continuous(setup, jnp.asarray(action))
    np.testing.assert_array_equal(continuous, np.delete(action, places))
    if setup != "fixed":
        choice = gripper.choice(setup, jnp.asarray(action))
        np.testing.assert_array_equal(gripper.joined(setup, continuous, choice), expected)


@pytest.mark.parametrize(
    ("setup", "size", "sentence"),
    [
        ("single", 1, "gripper 'single' needs an action of at least 2 entries, found an action of 1"),
        ("dual", 7, "gripper 'dual' needs two equal halves of at least 2 entries each, found an action of 7"),
        ("dual", 2, "gripper 'dual' needs two equal halves of at least 2 entries each, found an action of 2"),
    ],
)
def test_an_action_that_does_not_fit_is_refused(setup: str, size: int, sentence: str) -> None:
    with pytest.raises(ParameterError, match=f"^{sentence}$"):
        sac.from_parameters(WSRLConfig(gripper=setup), 3, size)


# What the discrete critic learns


def static_of(setup: str, action_size: int, pixels: PixelConfig | None = None, **changes: Any) -> SACConfig:
    rates = dict.fromkeys(("actor_learning_rate", "critic_learning_rate", "temperature_learning_rate"), 0.01)
    sizes = {"hidden_sizes": [8], "discount": 0.5, "target_update_rate": 0.25}
    config = WSRLConfig(gripper=setup, **(sizes | rates | {"initial_temperature": 1e-3} | changes))
    return sac.from_parameters(config, 1, action_size, pixels)


create = jax.jit(sac.create, static_argnums=0)


def fresh(config: SACConfig) -> SACState:
    return create(config, jax.random.key(0), jnp.zeros(1), jnp.ones(1))


def transitions(observation: Any, action: Any, reward: Any, **changed: Any) -> Transition:
    """One-step episodes unless changed, with a leading axis of one update."""
    rows = len(reward)
    columns = {
        "observation": observation,
        "action": action,
        "reward": reward,
        "next_observation": observation,
        "mask": np.zeros(rows),
        "weight": np.ones(rows),
        "monte_carlo_return": np.full(rows, -np.inf),
    } | changed
    return Transition(**{name: jnp.asarray(column, jnp.float32)[None] for name, column in columns.items()})


def constant(network: PyTree, values: list[float]) -> PyTree:
    """A critic that gives these values whatever it sees."""
    output = {"kernel": jnp.zeros_like(network["params"]["Dense_0"]["kernel"]), "bias": jnp.array(values)}
    return {"params": network["params"] | {"Dense_0": output}}


def test_a_step_goes_to_the_double_dqn_target() -> None:
    config = static_of("single", 3)
    state = fresh(config)
    # The online critic chooses "nothing" next (3 is its greatest), which the target critic values at 4.
    network = state.grasp.critic
    online, target = constant(network, [1.0, 3.0, 2.0]), constant(network, [10.0, 4.0, 50.0])
    state = state._replace(grasp=GraspState(online, target, state.grasp.optimizer))
    batch = transitions(
        np.zeros((3, 1)),
        [[0.3, 0.1, -0.9], [0.0, 0.0, 0.2], [0.0, 0.0, 1.0]],
        [1.0, 1.0, 0.0],
        mask=[1.0, 0.0, 1.0],
        weight=[1.0, 2.0, 0.0],
        grasp_penalty=[-0.25, -0.5, -9.0],
    )
    update = jax.jit(grasp.update, static_argnums=0)
    after, metrics = update(config, state, batch)
    # Values of what was taken: close 1, nothing 3, open 2; targets 1 - 0.25 + 0.5 * 4 = 2.75, 1 - 0.5, and one unseen.
    expected = (1.0 * (1.0 - 2.75) ** 2 + 2.0 * (3.0 - 0.5) ** 2 + 0.0) / 3
    np.testing.assert_allclose(metrics["grasp_loss"], expected, rtol=1e-6)
    np.testing.assert_allclose(metrics["grasp_q_mean"], 2.0, rtol=1e-6)
    # Adam's first step is the learning rate against the gradient's sign; what has weight 0 stays.
    bias = after.grasp.critic["params"]["Dense_0"]["bias"]
    np.testing.assert_allclose(bias, [1.01, 2.99, 2.0], atol=1e-6)
    averaged = 0.75 * np.array([10.0, 4.0, 50.0]) + 0.25 * np.asarray(bias)
    np.testing.assert_allclose(after.grasp.target["params"]["Dense_0"]["bias"], averaged, rtol=1e-6)
    assert same(after._replace(grasp=()), state._replace(grasp=()))
    without, none = batch._replace(grasp_penalty=None), batch._replace(grasp_penalty=jnp.zeros((1, 3)))
    assert same(update(config, state, without), update(config, state, none))


@pytest.mark.slow
def test_grippers_learn_what_to_do_and_what_not_to() -> None:
    # At -1 the first gripper must close, at 1 open; at 0 nothing helps. Each command but "nothing" costs 0.2.
    config = static_of("dual", 4, critic_learning_rate=5e-3, hidden_sizes=[8, 8])
    generator = np.random.default_rng(0)
    observation = generator.integers(-1, 2, (256, 1)).astype(np.float32)
    continuous = generator.uniform(-1, 1, (256, config.continuous_size)).astype(np.float32)
    choices = jnp.asarray(generator.integers(0, 9, 256))
    action = np.asarray(gripper.joined("dual", jnp.asarray(continuous), choices))
    reward = 1.0 * ((action[:, 1] == observation[:, 0]) & (observation[:, 0] != 0))
    penalty = -0.2 * np.abs(action[:, [1, 3]]).sum(axis=1)
    batch = transitions(observation, action, reward, grasp_penalty=penalty)

    @jax.jit
    def learn(state: SACState, batch: Transition) -> tuple[SACState, sac.Metrics]:
        def one_update(step: jax.Array, carry: Any) -> Any:
            key = jax.random.fold_in(jax.random.key(1), step)
            return learner.select_update(config)(config, carry[0], batch, key)[:2]

        return jax.lax.fori_loop(1, 400, one_update, one_update(jnp.int32(0), (state, {})))

    state, metrics = learn(fresh(config), batch)
    assert float(metrics["grasp_loss"]) < 0.02
    seen = jnp.array([[-1.0], [0.0], [1.0]])
    act = sac.act(config, sac.policy(state), seen, jnp.zeros((3, config.continuous_size)))
    np.testing.assert_array_equal(act[:, [1, 3]], [[-1, 0], [0, 0], [1, 0]])
    np.testing.assert_allclose(metrics["grasp_q_mean"], (reward + penalty).mean(), atol=0.05)
    np.testing.assert_allclose(metrics["q_mean"], reward.mean(), atol=0.05)
    # The continuous agent sees neither the grasp actions nor their penalties.
    others = batch._replace(action=batch.action.at[..., jnp.array([1, 3])].set(0.3), grasp_penalty=-batch.reward)
    other, _ = learn(fresh(config), others)
    assert same(other._replace(grasp=()), state._replace(grasp=())) and not same(other.grasp, state.grasp)


@pytest.mark.slow
def test_with_cameras_it_learns_from_what_the_critics_encoder_sees_and_leaves_that_alone() -> None:
    sight = PixelConfig(("wrist",), 16, 16, encoder="small", is_frozen=False, camera_width=8, state_width=4)
    config = static_of("single", 3, sight)
    state = fresh(config)
    # The state says nothing: whether to close or to open is seen by the camera alone, black or white.
    white = np.arange(32) % 2 == 0
    shown = {"wrist": np.repeat(255 * white, 16 * 16 * 3).astype(np.uint8).reshape(1, 32, 1, 16, 16, 3)}
    command = np.where(np.arange(32) % 4 < 2, 1.0, -1.0)
    batch = transitions(np.zeros((32, 1)), np.stack([command] * 3, axis=1), 1.0 * ((command > 0) == white))
    batch = batch._replace(images=shown, next_images=shown)
    learn = jax.jit(lambda state: jax.lax.fori_loop(0, 60, lambda _, s: grasp.update(config, s, batch)[0], state))
    learnt = learn(state)
    images = {"wrist": jnp.asarray(shown["wrist"][0, :2])}
    act = sac.act(config, sac.policy(learnt), jnp.zeros((2, 1)), jnp.zeros((2, 2)), images)
    np.testing.assert_array_equal(act[:, 2], [1, -1])
    assert same(learnt._replace(grasp=()), state._replace(grasp=()))


def test_the_entropy_aimed_at_is_that_of_the_continuous_entries() -> None:
    assert static_of("single", 7).target_entropy == static_of("fixed", 6).target_entropy == -3.0
    assert static_of("dual", 14).target_entropy == -6.0


def test_a_fixed_gripper_adds_no_array_anywhere() -> None:
    config = static_of("fixed", 2)
    assert jax.tree.leaves(fresh(config).grasp) == jax.tree.leaves(sac.policy(fresh(config)).grasp_critic) == []
    assert len(jax.tree.leaves(agents.to_transitions(WSRLConfig(), recorded()))) == 7
    assert (row_width(3, 2, has_penalty=False), row_width(3, 2, has_penalty=True)) == (13, 14)


@pytest.mark.parametrize("has_penalty", [False, True])
def test_a_row_of_replay_holds_the_whole_transition(has_penalty: bool) -> None:
    penalty = {"grasp_penalty": [-1, -2, -3, -4]} if has_penalty else {}
    held = jax.device_get(transitions(np.ones((4, 3)), np.full((4, 2), 0.5), [1, 2, 3, 4], **penalty))
    zeros, cloned = np.zeros((1, 4), np.float32), np.array([[1, 0, 0, 1]], np.float32)
    held = held._replace(next_observation=np.full((1, 4, 3), 2.0, np.float32), mask=zeros, cloned=cloned)
    rows = packed(held)
    assert rows.shape == (1, 4, row_width(3, 2, has_penalty))
    assert same(unpacked(rows, 3, 2), held)
    rows[..., MONTE_CARLO_RETURN] = 7.0
    assert same(unpacked(rows, 3, 2), held._replace(monte_carlo_return=np.full((1, 4), 7.0, np.float32)))


# Runs


class Pinch(gymnasium.Env):
    """An arm of six directions and a gripper that should be closed; changing the gripper's command costs 0.02."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (7,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._command = 0.0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        changed = float(action[6]) != self._command
        self._command = float(action[6])
        info = {"grasp_penalty": -0.02} if changed else {}
        return self._observe(), float(self._command < 0), False, False, info

    def _observe(self) -> np.ndarray:
        return np.array([self._command, self.np_random.uniform(-1, 1)], np.float32)


gymnasium.register("Pinch-v0", Pinch, max_episode_steps=8)
RUN = {
    "exp_name": "Pinch-v0",
    "environment_options": {},
    "gripper": "single",
    "online_steps": 60,
    "warmup_steps": 20,
    # As online, so that both stages share programs.
    "behavior_cloning_weight": 0.0,
    "use_prioritized_replay": False,
}


def recorded() -> Dataset:
    """Two episodes with grasp actions that are no whole commands, of which the second says its penalties."""
    generator = np.random.default_rng(1)
    episodes = [
        Trajectory(
            observations=generator.uniform(-1, 1, (17, 2)).astype(np.float32),
            actions=generator.uniform(-1, 1, (16, 7)).astype(np.float32),
            rewards=np.ones(16, np.float32),
            terminated=False,
            truncated=True,
            success=None,
            source="demos",
            grasp_penalty=penalty,
        )
        for penalty in (None, np.full(16, -0.5, np.float32))
    ]
    return Dataset.from_trajectories(episodes)


def start(config: WSRLConfig, resumed_from: Path | None = None) -> Iterator[Any]:
    environment = make(config.exp_name, config.environment_options)
    static, agent = agents.create(config, environment, recorded())
    probe = agents.probe_batch(config, recorded(), agents.PROBE_SIZE)
    tree = finetune.initial_tree(config, static, agent, recorded())
    if resumed_from is not None:
        tree = checkpoint.load(resumed_from, tree)
    return finetune.finetune(config, static, tree, environment, Evaluator(config), probe)


@pytest.mark.slow
def test_a_run_with_a_learned_gripper_resumes_to_the_same_bits(tmp_path: Path) -> None:
    config = settings(**RUN, random_steps=10, reward_scale=2.0)
    events = taken(start(config))
    snapshots = [event.tree for event in events if isinstance(event, Snapshot)]
    assert len(snapshots) == 2 and 10 < snapshots[0]["environment_step"] < 60
    checkpoint.save(tmp_path / "checkpoint.npz", snapshots[0], {})
    resumed = taken(start(config, tmp_path / "checkpoint.npz"))
    assert same(resumed[-1].tree, snapshots[1])
    measured = [event.values for event in events if isinstance(event, Measurement)]
    assert any(values.get("training/grasp_loss", 0) > 0 for values in measured)

    held = stored(snapshots[1]["replay"]["online"], 2, 7)
    command, before = held.action[:, 6], held.observation[:, 0]
    assert set(np.asarray(command)) <= {-1.0, 0.0, 1.0} and len(set(np.asarray(command[:10]))) > 1
    np.testing.assert_allclose(held.grasp_penalty, np.where(command != before, -0.04, 0.0), atol=1e-7)
    kept = stored(snapshots[1]["replay"]["offline"], 2, 7)
    np.testing.assert_array_equal(kept.grasp_penalty, [0.0] * 16 + [-1.0] * 16)


@pytest.mark.slow
def test_a_warmup_teaches_the_gripper() -> None:
    config = settings(**RUN, holdout_fraction=0.5)
    static, agent = agents.create(config, make(config.exp_name), recorded())
    tree = warmup.initial_tree(agent)
    events = list(warmup.warmup(config, static, tree, recorded(), Evaluator(config)))
    assert any("training/grasp_loss" in event.values for event in events if isinstance(event, Measurement))


def test_a_checkpoint_of_another_gripper_is_refused(tmp_path: Path) -> None:
    config = settings(**RUN)
    environment = make(config.exp_name)
    static, agent = agents.create(config, environment, recorded())
    file, probe = tmp_path / "warmup.npz", agents.probe_batch(config, recorded(), 8)
    agents.save_warmup(file, static, agent, probe, {})

    assert same(agents.load_warmup(file, static), (agent, probe))
    fixed = agents.configure(replace(config, gripper="fixed"), environment, recorded())
    with pytest.raises(CheckpointError, match="was made with gripper single, but this run has gripper fixed$"):
        agents.load_warmup(file, fixed)
