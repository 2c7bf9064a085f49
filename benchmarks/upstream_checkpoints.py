"""Do HIL-SERL's own agents restore what `wsrl-kit export-hil-serl` writes, act and value the same, and train on?

    python benchmarks/upstream_checkpoints.py make pixels FOLDER   # with wsrl_kit; or states
    python benchmarks/upstream_checkpoints.py check pixels FOLDER  # with serl_launcher: hil-serl's; for states serl's

`make` trains an agent for some steps on noise and exports it, beside what it does at some observations. `check` builds
the agent of HIL-SERL's scripts, restores the export, compares, takes a step of training, saves, and leaves it for
`wsrl-kit import-hil-serl`. HIL-SERL downloads the weights of its ResNet-10 unless ~/.serl/resnet10_params.pkl is there;
they are then overwritten by the checkpoint's.
"""

import argparse
from pathlib import Path

import numpy as np

STATE, ACTION, ROWS, STEPS, CAMERAS = 19, 6, 16, 3, ("wrist_1", "wrist_2")


def make(kind: str, folder: Path) -> None:
    import jax
    import jax.numpy as jnp

    from wsrl_kit import hil_serl_checkpoint, sac
    from wsrl_kit.config import WSRLConfig
    from wsrl_kit.pixels import PixelConfig
    from wsrl_kit.training import agent as agents
    from wsrl_kit.types import Transition

    pixels = PixelConfig(CAMERAS, 128, 128) if kind == "pixels" else None
    critics = {"critic_ensemble_size": 2, "shared_critic_output": True} if pixels else {"critic_ensemble_size": 10}
    static = sac.from_parameters(WSRLConfig(**critics, initial_temperature=0.01), STATE, ACTION, pixels)
    random = np.random.default_rng(0)
    center, scale = jnp.asarray(random.normal(size=STATE)), jnp.asarray(random.uniform(0.05, 2.0, STATE))
    agent = sac.create(static, jax.random.key(0), center, scale)

    def states() -> jax.Array:
        return center + scale * random.normal(size=(ROWS, STATE))

    def images() -> dict[str, jax.Array]:
        shape = (ROWS, 1, 128, 128, 3)
        return {camera: jnp.asarray(random.integers(0, 256, shape, np.uint8)) for camera in (CAMERAS if pixels else ())}

    batch = Transition(
        observation=states(),
        action=jnp.asarray(random.uniform(-1, 1, (ROWS, ACTION))),
        reward=jnp.asarray(random.normal(size=ROWS)),
        next_observation=states(),
        mask=jnp.ones(ROWS),
        weight=jnp.ones(ROWS),
        monte_carlo_return=jnp.zeros(ROWS),
        images=images(),
        next_images=images(),
    )

    @jax.jit
    def update(agent: sac.SACState, key: jax.Array) -> sac.SACState:
        prepared = sac.prepare(static, agent, batch, key)
        return sac.update(static, agent, jax.tree.map(lambda leaf: leaf[None], prepared), key)[0]

    for step in range(STEPS):
        agent = update(agent, jax.random.key(step))
    agents.save_warmup(folder / "agent.npz", static, agent, batch, {})
    print(hil_serl_checkpoint.export(folder / "agent.npz", folder / "exported"))

    noise = jnp.asarray(random.normal(size=(ROWS, ACTION)))
    target = agent._replace(critic=agent.target_critic)
    np.savez(
        folder / "reference.npz",
        state=batch.observation,
        action=batch.action,
        reward=batch.reward,
        next_state=batch.next_observation,
        noise=noise,
        mode=sac.act(static, sac.policy(agent), batch.observation, 0 * noise, batch.images),
        sample=sac.act(static, sac.policy(agent), batch.observation, noise, batch.images),
        value=sac.action_values(static, agent, batch.observation, batch.action, batch.images),
        target_value=sac.action_values(static, target, batch.observation, batch.action, batch.images),
        temperature=jnp.exp(agent.log_temperature),
        **batch.images,
    )


def check(kind: str, folder: Path) -> None:
    import jax
    import jax.numpy as jnp
    from flax.core import FrozenDict
    from flax.training import checkpoints
    from serl_launcher.utils import launcher

    stored = np.load(folder / "reference.npz")
    if kind == "pixels":
        observation = {"state": stored["state"][:, None], **{camera: stored[camera] for camera in CAMERAS}}
        one = jax.tree_util.tree_map(lambda leaf: leaf[0], observation)
        agent = launcher.make_sac_pixel_agent(0, one, stored["action"][0], image_keys=CAMERAS)
    else:
        observation = stored["state"]
        agent = launcher.make_sac_agent(0, observation[0], stored["action"][0])
    state = checkpoints.restore_checkpoint(str((folder / "exported").absolute()), agent.state)
    agent = agent.replace(state=jax.tree_util.tree_map(jnp.asarray, state))

    normal = agent.forward_policy(observation, train=False).distribution
    found = {
        "mode": agent.sample_actions(observation, argmax=True),
        "sample": jnp.tanh(normal.loc + normal.scale_diag * stored["noise"]),
        "value": agent.forward_critic(observation, stored["action"], None, train=False),
        "target_value": agent.forward_critic(
            observation, stored["action"], None, train=False, grad_params=agent.state.target_params
        ),
        "temperature": agent.forward_temperature(),
    }
    differences = {name: float(np.abs(value - stored[name]).max()) for name, value in found.items()}
    print({name: f"{difference:.1e}" for name, difference in differences.items()})
    assert max(differences.values()) < 1e-5, differences

    batch = FrozenDict(
        observations=observation,
        next_observations=observation,
        actions=stored["action"],
        rewards=stored["reward"],
        masks=np.ones(ROWS, np.float32),
    )
    before = agent.state
    agent, info = agent.update(batch)
    assert all(np.isfinite(value).all() for value in jax.tree_util.tree_leaves((agent.state.params, info)))
    moved = jax.tree_util.tree_map(
        lambda one, other: float(np.abs(one - other).max()), before.params, agent.state.params
    )
    print("a step on, parameters have moved by at most", max(jax.tree_util.tree_leaves(moved)))
    print("saved", checkpoints.save_checkpoint(str((folder / "trained").absolute()), agent.state, agent.state.step))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("make", "check"))
    parser.add_argument("kind", choices=("pixels", "states"))
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    {"make": make, "check": check}[options.command](options.kind, options.folder)
