"""Do HIL-SERL's own agents restore what `wsrl-kit export-hil-serl` writes, act and value the same, and train on?

    python benchmarks/upstream_checkpoints.py make KIND FOLDER   # with wsrl_kit; KIND is pixels, states, single or dual
    python benchmarks/upstream_checkpoints.py check KIND FOLDER  # with serl_launcher: hil-serl's; for states serl's
    python benchmarks/upstream_checkpoints.py back KIND FOLDER   # with wsrl_kit

`make` trains an agent for some steps on noise and exports it, beside what it does at some observations. `check` builds
the agent of HIL-SERL's scripts, restores the export, compares, takes a step of training and saves. `back` imports that
and compares again. `single` and `dual` have cameras and learned grippers of one arm and of two. HIL-SERL downloads the
weights of its ResNet-10 unless ~/.serl/resnet10_params.pkl is there; they are then overwritten by the checkpoint's.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

STATE, ROWS, STEPS, CAMERAS = 19, 16, 3, ("wrist_1", "wrist_2")
ACTIONS = {"pixels": 6, "states": 6, "single": 7, "dual": 14}
MAKERS = {
    "pixels": "make_sac_pixel_agent",
    "single": "make_sac_pixel_agent_hybrid_single_arm",
    "dual": "make_sac_pixel_agent_hybrid_dual_arm",
}
"""HIL-SERL's functions that make agents with cameras."""

Arrays = dict[str, Any]


def make(kind: str, folder: Path) -> None:
    import jax
    import jax.numpy as jnp

    from wsrl_kit.agent import grasp, sac
    from wsrl_kit.agent.transition import Transition
    from wsrl_kit.agent.vision import PixelConfig
    from wsrl_kit.config.config import WSRLConfig
    from wsrl_kit.hil_serl import checkpoint
    from wsrl_kit.training import learner
    from wsrl_kit.training import start as agents

    has_cameras, has_gripper = kind != "states", kind in ("single", "dual")
    pixels = PixelConfig(CAMERAS, 128, 128) if has_cameras else None
    critics: dict[str, Any] = {"critic_ensemble_size": 2 if pixels else 10, "shared_critic_output": pixels is not None}
    config = WSRLConfig(**critics, initial_temperature=0.01, discount=0.97, gripper=kind if has_gripper else "fixed")
    static = sac.from_parameters(config, STATE, ACTIONS[kind], pixels)
    random = np.random.default_rng(0)
    center, scale = jnp.asarray(random.normal(size=STATE)), jnp.asarray(random.uniform(0.05, 2.0, STATE))
    agent = sac.create(static, jax.random.key(0), center, scale)

    def states() -> jax.Array:
        return center + scale * random.normal(size=(ROWS, STATE))

    def images() -> dict[str, jax.Array]:
        shape = (ROWS, 1, 128, 128, 3)
        return {
            camera: jnp.asarray(random.integers(0, 256, shape, np.uint8)) for camera in (CAMERAS if has_cameras else ())
        }

    batch = Transition(
        observation=states(),
        action=jnp.asarray(random.uniform(-1, 1, (ROWS, ACTIONS[kind]))),
        reward=jnp.asarray(random.normal(size=ROWS)),
        next_observation=states(),
        mask=jnp.ones(ROWS),
        weight=jnp.ones(ROWS),
        monte_carlo_return=jnp.zeros(ROWS),
        images=images(),
        next_images=images(),
        grasp_penalty=jnp.asarray(random.uniform(-1, 0, ROWS)) if has_gripper else None,
    )

    def one_update(prepared: Transition) -> Transition:
        return jax.tree.map(lambda leaf: leaf[None], prepared)

    @jax.jit
    def update(agent: sac.SACState, key: jax.Array) -> sac.SACState:
        prepared = sac.prepare(static, agent, batch, key)
        return learner.select_update(static)(static, agent, one_update(prepared), key)[0]

    for step in range(STEPS):
        agent = update(agent, jax.random.key(step))
    inputs: dict[str, Any] = {"state": batch.observation, "action": batch.action, **batch.images}
    inputs["noise"] = jnp.asarray(random.normal(size=(ROWS, static.continuous_size)))
    if has_gripper:
        # So that not one choice is the best everywhere.
        agent.grasp.critic["params"]["Dense_0"]["bias"] -= _outputs_here(static, agent, inputs)["grasp_value"].mean(0)
    agents.save_warmup(folder / "agent.npz", static, agent, batch, {})
    print(checkpoint.export(folder / "agent.npz", folder / "exported"))

    outputs = _outputs_here(static, agent, inputs)
    inputs["reward"] = batch.reward
    if has_gripper:
        # Nothing moves, as in the step of training that `check` takes.
        still = batch._replace(next_observation=batch.observation, next_images=batch.images)
        _, metrics = grasp.update(static, agent, one_update(sac.prepare(static, agent, still)))
        inputs["grasp_penalty"], outputs["grasp_loss"] = batch.grasp_penalty, metrics["grasp_loss"]
    np.savez(folder / "inputs.npz", **inputs)
    np.savez(folder / "made.npz", **outputs)


def check(kind: str, folder: Path) -> None:
    import jax
    import jax.numpy as jnp
    from flax.core import FrozenDict
    from flax.training import checkpoints
    from serl_launcher.utils import launcher

    inputs, made = dict(np.load(folder / "inputs.npz")), dict(np.load(folder / "made.npz"))
    observation: Any = inputs["state"]
    if kind == "states":
        agent = launcher.make_sac_agent(0, observation[0], inputs["action"][0])
    else:
        observation = {"state": observation[:, None], **{camera: inputs[camera] for camera in CAMERAS}}
        one = jax.tree_util.tree_map(lambda leaf: leaf[0], observation)
        agent = getattr(launcher, MAKERS[kind])(0, one, inputs["action"][0], image_keys=CAMERAS)
    state = checkpoints.restore_checkpoint(str((folder / "exported").absolute()), agent.state)
    agent = agent.replace(state=jax.tree_util.tree_map(jnp.asarray, state))

    batch: Any = FrozenDict(
        observations=observation,
        next_observations=observation,
        actions=inputs["action"],
        rewards=inputs["reward"],
        masks=np.ones(ROWS, np.float32),
        **{name: array for name, array in inputs.items() if name == "grasp_penalty"},
    )
    found = _outputs_there(agent, observation, inputs)
    if "grasp_loss" in made:
        found["grasp_loss"] = agent.grasp_critic_loss_fn(batch, agent.state.params, jax.random.PRNGKey(0))[0]
    _compare(found, made)

    before = agent.state
    agent, info = agent.update(batch)
    assert all(np.isfinite(value).all() for value in jax.tree_util.tree_leaves((agent.state.params, info)))
    moved = jax.tree_util.tree_map(
        lambda one, other: float(np.abs(one - other).max()), before.params, agent.state.params
    )
    print("a step on, parameters have moved by at most", max(jax.tree_util.tree_leaves(moved)))
    print("saved", checkpoints.save_checkpoint(str((folder / "trained").absolute()), agent.state, agent.state.step))
    np.savez(folder / "trained.npz", **_outputs_there(agent, observation, inputs))


def back(kind: str, folder: Path) -> None:

    from wsrl_kit.hil_serl import checkpoint
    from wsrl_kit.training import start as agents

    static = checkpoint.import_hil_serl(folder / "trained", folder / "back.npz")
    assert static.gripper == (kind if kind in ("single", "dual") else "fixed")
    agent, _ = agents.load_warmup(folder / "back.npz", static)
    _compare(_outputs_here(static, agent, dict(np.load(folder / "inputs.npz"))), dict(np.load(folder / "trained.npz")))


def _outputs_here(static: Any, agent: Any, inputs: Arrays) -> Arrays:
    import jax.numpy as jnp

    from wsrl_kit.agent import gripper, sac
    from wsrl_kit.agent import state as sac_state

    state, action, noise = (jnp.asarray(inputs[name]) for name in ("state", "action", "noise"))
    images = {camera: jnp.asarray(inputs[camera]) for camera in CAMERAS if camera in inputs}
    policy, target = sac.policy(agent), agent._replace(critic=agent.target_critic)
    outputs = {
        "mode": sac.act(static, policy, state, 0 * noise, images),
        "sample": gripper.continuous(static.gripper, sac.act(static, policy, state, noise, images)),
        "value": sac.action_values(static, agent, state, action, images),
        "target_value": sac.action_values(static, target, state, action, images),
        "temperature": sac_state.entropy_temperature(agent.temperature_parameter),
    }
    if static.learns_gripper:
        maps = sac_state.frozen_features(static, agent, images)
        for name, critic, parameters in (
            ("grasp_value", agent.critic, agent.grasp.critic),
            ("target_grasp_value", agent.target_critic, agent.grasp.target),
        ):
            seen = sac_state.features(static, agent, sac_state.encoder(critic), state, maps)
            outputs[name] = sac_state.grasp_network(static).apply(parameters, seen)
    return outputs


def _outputs_there(agent: Any, observation: Any, inputs: Arrays) -> Arrays:
    import jax
    import jax.numpy as jnp

    target = {"train": False, "grad_params": agent.state.target_params}
    normal = agent.forward_policy(observation, train=False).distribution
    # Entries that are not a gripper's: the last of every seven.
    size = inputs["action"].shape[1]
    continuous = inputs["action"] if size == 6 else np.delete(inputs["action"], range(6, size, 7), axis=1)
    # SERL's wants no seed where nothing is random, and HIL-SERL's for grippers splits one all the same.
    has_gripper = hasattr(agent, "forward_grasp_critic")
    seed = jax.random.PRNGKey(0) if has_gripper else None
    outputs = {
        "mode": agent.sample_actions(observation, argmax=True, seed=seed),
        "sample": jnp.tanh(normal.loc + normal.scale_diag * inputs["noise"]),
        "value": agent.forward_critic(observation, continuous, None, train=False),
        "target_value": agent.forward_critic(observation, continuous, None, **target),
        "temperature": agent.forward_temperature(),
    }
    if has_gripper:
        outputs["grasp_value"] = agent.forward_grasp_critic(observation, None, train=False)
        outputs["target_grasp_value"] = agent.forward_grasp_critic(observation, None, **target)
    return outputs


def _compare(found: Arrays, expected: Arrays) -> None:
    assert set(found) == set(expected)
    differences = {name: float(np.abs(value - expected[name]).max()) for name, value in found.items()}
    print({name: f"{difference:.1e}" for name, difference in differences.items()})
    if "grasp_value" in found:
        print("grasp choices", np.bincount(np.argmax(found["grasp_value"], axis=-1)).tolist())
    assert max(differences.values()) < 1e-5, differences


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("make", "check", "back"))
    parser.add_argument("kind", choices=tuple(ACTIONS))
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    {"make": make, "check": check, "back": back}[options.command](options.kind, options.folder)
