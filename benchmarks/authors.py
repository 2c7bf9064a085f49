"""The authors' code of WSRL and RLPD beside the kit's: do both give the same curves from the same start?

    python benchmarks/authors.py kit FOLDER                          # with wsrl_kit: data, weights, the kit's curves
    PYTHONPATH=CHECKOUT python benchmarks/authors.py theirs FOLDER   # with the requirements of zhouzypaul/wsrl
    python benchmarks/authors.py table FOLDER

`theirs` follows the loop of their finetune.py with their agents (tried with jax 0.4.35, flax 0.10.2, optax 0.2.4,
distrax and ml_collections); of wsrl_kit it needs the parameters and the simulated insertion.
Both sides have the same data (20 expert, 100 clumsy, 50 random episodes), networks, batches, environment steps and
parameters, begin with the same weights, moments of Adam included, and are evaluated on the same episodes; the other
random numbers of a seed differ.

| arm | stage 1 | stage 2 |
|---|---|---|
| wsrl | the kit's warmup with behavior cloning, for both sides | no offline data, 500 frozen rollout steps |
| rlpd | none; weights as the kit draws them | half of each batch offline |
| rlpd_orthogonal | none; weights as the authors draw them | the same |
| calql | each side's own Cal-QL, preset `wsrl` but for 2 critics and 4 actions | as wsrl |

Finished parts are kept.
"""

import argparse
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.config.presets import SMALL, UNWEIGHTED
from wsrl_kit.envs.make import INSERTION, make

SEEDS = (0, 1, 2)
STEPS, INTERVAL, EPISODES = 2_000, 200, 20
SAME = SMALL | {
    "exp_name": INSERTION,
    "online_steps": STEPS,
    "evaluation_interval": INTERVAL,
    "evaluation_episodes": EPISODES,
    "warmup_steps": 3_000,
    "frozen_rollout_steps": 500,
    "random_steps": 0,
    "use_prioritized_replay": False,
    # As the authors' networks and actor loss are.
    "shared_critic_output": True,
    "temperature_parameterisation": "softplus",
    "actor_value": "minimum",
}
RLPD: dict[str, Any] = {
    "offline_ratio_schedule": "constant",
    "initial_offline_ratio": 0.5,
    "min_offline_ratio": 0.5,
    # Theirs waits for as many online examples as a batch needs.
    "frozen_rollout_steps": SMALL["batch_size"] // 2,
}
ARMS: dict[str, dict[str, Any]] = {
    "wsrl": {"retention_ratio": 0.0, "behavior_cloning_online_weight": 0.0},
    "rlpd": UNWEIGHTED | RLPD,
    "rlpd_orthogonal": UNWEIGHTED | RLPD | {"initialisation": "orthogonal", "output_scale": 2**0.5},
    # After 3,000 steps of the preset the temperature is near 1, the policy uniform; fewer critics and actions for time.
    "calql": {"preset": "wsrl", "warmup_steps": 20_000, "critic_ensemble_size": 2, "cql_actions": 4},
}
DATA = ("observations", "actions", "rewards", "next_observations", "masks", "mc_returns")


def config_of(arm: str, seed: int, folder: Path) -> WSRLConfig:
    given = SAME | {"seed": seed, "offline_data_path": str(folder / "data")} | ARMS[arm]
    return WSRLConfig.of_preset(given.pop("preset", "kit"), **given)


def kit(folder: Path, arms: list[str]) -> None:
    from wsrl_kit.envs.config import CollectConfig
    from wsrl_kit.runs.progress import Silent
    from wsrl_kit.training.inputs import load_offline_data
    from wsrl_kit.training.jobs import WARMUP_FILE, run_collect, run_finetune, run_warmup
    from wsrl_kit.training.start import start, to_transitions

    if not (folder / "data" / "random.pkl").exists():
        run_collect(CollectConfig(), folder / "data", Silent())
    environment = make(INSERTION)
    for arm in arms:
        for seed in SEEDS:
            config, place = config_of(arm, seed, folder), folder / arm / f"seed_{seed}"
            dataset = load_offline_data(config, config.offline_data_path)
            online = replace(config, demo_path=config.offline_data_path)
            if not arm.startswith("rlpd"):
                run_warmup(config, place / "warmup", Silent())
                online = replace(config, checkpoint_path=str(place / "warmup" / WARMUP_FILE))
            # Theirs makes its own Cal-QL, from weights as they were before any learning.
            begun = replace(online, checkpoint_path=None) if arm == "calql" else online
            _, agent, _ = start(begun, environment, dataset)
            held: Any = to_transitions(config, dataset)
            place.mkdir(parents=True, exist_ok=True)
            np.savez(
                place / "start.npz",
                **their_weights(agent),
                center=agent.observation_center,
                scale=agent.observation_scale,
                **dict(zip(DATA, (held.observation, held.action, held.reward, held.next_observation), strict=False)),
                masks=held.mask,
                mc_returns=held.monte_carlo_return,
            )
            run_finetune(online, place / "kit", Silent(), arm=arm)


def their_weights(agent: Any) -> dict[str, Any]:
    """Weights, target weights and moments of an agent of ours, by their names."""
    parts = {"params": (agent.actor, agent.critic), "target": (agent.actor, agent.target_critic)}
    moments = agent.actor_optimizer[0], agent.critic_optimizer[0]
    parts |= {name: (moments[0][index], moments[1][index]) for name, index in (("mu", 1), ("nu", 2))}
    found = {}
    for part, (actor, critic) in parts.items():
        for name, value in flat(actor["params"]):
            if name.startswith("HiddenLayers_0/"):
                found[f"{part}/modules_actor/{their_name(name)}"] = value
            else:
                # One layer of ours gives both.
                means, deviations = np.split(value, 2, axis=-1)
                found |= {
                    f"{part}/modules_actor/{name}": means,
                    f"{part}/modules_actor/{name.replace('Dense_0', 'Dense_1')}": deviations,
                }
        for name, value in flat(critic["params"]):
            found[f"{part}/modules_critic/{their_name(name)}"] = value
    (temperature,) = agent.temperature_parameter.values()
    found |= {f"{part}/modules_temperature/lagrange": temperature for part in ("params", "target")}
    for name, field in (("mu", 1), ("nu", 2)):
        (moment,) = agent.temperature_optimizer[0][field].values()
        found[f"{name}/modules_temperature/lagrange"] = moment
    counts = {"actor": moments[0][0], "critic": moments[1][0], "temperature": agent.temperature_optimizer[0][0]}
    found |= {f"count/{name}": count for name, count in counts.items()}
    return {name: np.asarray(value) for name, value in found.items()}


THEIR_NAMES = {
    "VmapHiddenLayers_0": "network",
    "HiddenLayers_0": "network",
    "NormalisedTanh": "LayerNorm",
    "shared_output": "Dense_0",
}


def their_name(ours: str) -> str:
    for mine, name in THEIR_NAMES.items():
        ours = ours.replace(mine, name)
    return ours


def flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", np.asarray(value)


def theirs(folder: Path, arms: list[str]) -> None:
    for arm in arms:
        for seed in SEEDS:
            place = folder / arm / f"seed_{seed}"
            if not (place / "theirs.json").exists():
                curve = their_run(config_of(arm, seed, folder), dict(np.load(place / "start.npz")))
                (place / "theirs.json").write_text(json.dumps(curve))


def their_run(config: WSRLConfig, begun: dict[str, np.ndarray]) -> list[float]:
    """Success of sampled actions by evaluation, in the loop of their finetune.py."""
    import jax
    from experiments.configs import cql_config, wsrl_config
    from wsrl.agents.calql import CalQLAgent
    from wsrl.agents.sac import SACAgent

    from wsrl_kit.agent.jax_tools import episode_seed

    is_calql = config.conservative_loss == "calql"
    network = {
        "hidden_dims": config.hidden_sizes,
        "activations": config.activation,
        "use_layer_norm": config.layer_norm,
    }
    environment: Any = make(INSERTION)
    generator = np.random.default_rng(config.seed)

    def observe(seen: Any) -> np.ndarray:
        return (seen - begun["center"]) / begun["scale"]

    given = {
        "discount": config.discount,
        "soft_target_update_rate": config.target_update_rate,
        "critic_ensemble_size": config.critic_ensemble_size,
        "critic_subsample_size": config.critic_subset_size,
        "temperature_init": config.initial_temperature,
        "target_entropy": config.target_entropy_per_dimension * environment.action_space.shape[0],
        "critic_network_kwargs": network,
        "policy_network_kwargs": network,
    }
    for name in ("actor", "critic", "temperature"):
        given[f"{name}_optimizer_kwargs"] = {"learning_rate": getattr(config, f"{name}_learning_rate")}
    if is_calql:
        given |= {"cql_alpha": config.conservative_weight, "cql_n_actions": config.cql_actions}
    settings = (cql_config if is_calql else wsrl_config).get_config(given)
    data = {name: begun[name] for name in DATA}
    data |= {name: observe(data[name]) for name in ("observations", "next_observations")}
    key = jax.random.PRNGKey(config.seed)
    agent = (CalQLAgent if is_calql else SACAgent).create(
        rng=key, observations=data["observations"][:1], actions=data["actions"][:1], encoder_def=None, **settings
    )
    agent = agent.replace(state=with_weights(agent.state, begun))

    def sampled(source: dict[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
        rows = generator.integers(len(source["rewards"]), size=size)
        return {name: values[rows] for name, values in source.items()}

    def action_of(seen: Any, count: int) -> np.ndarray:
        action = agent.sample_actions(observe(seen), seed=jax.random.fold_in(key, count))
        return np.clip(np.asarray(action), -0.99999, 0.99999)

    def evaluated(step: int) -> float:
        successes = []
        for episode in range(EPISODES):
            seen, _ = environment.reset(seed=episode_seed(config.seed, "evaluation", step // INTERVAL, episode))
            for count in itertools.count():
                number = 10**6 + step * 10**4 + episode * 100 + count
                seen, _, terminated, truncated, info = environment.step(action_of(seen, number))
                if terminated or truncated:
                    break
            successes.append(float(info["success"]))
        return float(np.mean(successes))

    if is_calql:
        for _ in range(config.warmup_steps):
            agent, _ = agent.update(sampled(data, config.batch_size))
        agent.update_config({"use_cql_loss": False})
    offline = {name: values for name, values in data.items() if name != "mc_returns"}
    online = {name: np.zeros((STEPS, *values.shape[1:]), np.float32) for name, values in offline.items()}
    curve, size, per_step = [], config.batch_size, config.update_to_data_ratio
    kept = int(size * config.min_offline_ratio) if config.retention_ratio else 0
    robot: Any = make(INSERTION)
    seen, _ = robot.reset(seed=config.seed)
    for step in range(STEPS):
        if step % INTERVAL == 0:
            curve.append(evaluated(step))
        action = action_of(seen, step)
        following, reward, terminated, truncated, _ = robot.step(action)
        reward = reward * config.reward_scale + config.reward_bias
        row = (observe(seen), action, reward, observe(following), 1.0 - terminated)
        for name, value in zip(online, row, strict=True):
            online[name][step] = value
        seen = robot.reset()[0] if terminated or truncated else following
        if step >= config.frozen_rollout_steps:
            batches = []
            held = {name: values[: step + 1] for name, values in online.items()}
            for _ in range(per_step):
                batches += [sampled(held, size - kept), *([sampled(offline, kept)] if kept else [])]
            whole = {name: np.concatenate([batch[name] for batch in batches]) for name in online}
            if is_calql:
                whole["mc_returns"] = np.zeros(len(whole["rewards"]), np.float32)
            agent, _ = agent.update_high_utd(whole, utd_ratio=per_step)
    return [*curve, evaluated(STEPS)]


def with_weights(state: Any, begun: dict[str, np.ndarray]) -> Any:
    """Their state with our weights and moments."""
    from flax.traverse_util import flatten_dict, unflatten_dict

    def replaced(part: str, own: Any, module: str = "") -> Any:
        leaves = flatten_dict(own, sep="/")
        assert {name: value.shape for name, value in leaves.items()} == {
            name: begun[f"{part}/{name}"].shape for name in leaves
        }
        # The optimizer of a network has moments for every network, of which it uses its own.
        mine = {name: begun[f"{part}/{name}"] for name in leaves if name.startswith(module)}
        return unflatten_dict(leaves | mine, sep="/")

    def moved(name: str, optimizer: Any) -> Any:
        adam, *rest = optimizer.inner_state[0]
        module = f"modules_{name}"
        adam = adam._replace(
            count=begun[f"count/{name}"],
            mu=replaced("mu", adam.mu, module),
            nu=replaced("nu", adam.nu, module),
        )
        return optimizer._replace(inner_state=((adam, *rest), *optimizer.inner_state[1:]))

    return state.replace(
        params=replaced("params", state.params),
        target_params=replaced("target", state.target_params),
        opt_states={name: moved(name, optimizer) for name, optimizer in state.opt_states.items()},
    )


def table(folder: Path, arms: list[str]) -> None:
    from wsrl_kit.runs.run import read_run

    steps = range(0, STEPS + 1, INTERVAL)
    print("| arm | code | seed | mean | " + " | ".join(map(str, steps)) + " |")
    print("|---|---|---:|---:" + "|---:" * len(steps) + "|")
    for arm in arms:
        for seed in SEEDS:
            place = folder / arm / f"seed_{seed}"
            ours = read_run(place / "kit").curve("evaluation/success_sampled").value.tolist()
            for code, curve in (("kit", ours), ("authors'", json.loads((place / "theirs.json").read_text()))):
                shown = " | ".join(f"{value:.2f}" for value in curve)
                print(f"| {arm} | {code} | {seed} | {np.mean(curve):.2f} | {shown} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("kit", "theirs", "table"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    options = parser.parse_args()
    {"kit": kit, "theirs": theirs, "table": table}[options.part](options.folder.resolve(), options.arms)


if __name__ == "__main__":
    main()
