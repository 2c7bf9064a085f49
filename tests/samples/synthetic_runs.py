"""Run folders with made-up but plausible numbers, written through `Run` as training would."""

from pathlib import Path

import numpy as np

from wsrl_kit.runs.run import Run

WARMUP_STEPS = 4_000
# Success at the switch, at the end, rate of the climb per 1000 steps, depth of the dip, peak force (N), clips, bytes.
ARMS = {
    "scratch": (0.0, 0.45, 0.45, 0.0, 46.0, 60, 0),
    "rlpd_demos": (0.0, 0.85, 0.8, 0.0, 38.0, 42, 900_000),
    "rlpd_all": (0.0, 0.9, 0.9, 0.0, 36.0, 40, 4_200_000),
    "warmup_decay": (0.55, 0.97, 1.0, 0.1, 18.0, 8, 840_000),
    "warmup_wsrl": (0.55, 0.95, 0.9, 0.3, 19.0, 9, 0),
}


def write_warmup(folder: Path, seed: int, steps: int = WARMUP_STEPS) -> Run:
    """A finished warmup run."""
    generator = np.random.default_rng(seed)
    run = Run.open(folder, kind="warmup", arm="", seed=seed, parameters={"warmup_steps": steps})
    for step in range(0, steps + 1, 500):
        decay = float(np.exp(-step / 1_500))
        losses = {"training/critic_loss": 0.1 + 2.0 * decay, "training/actor_loss": -1.0 + decay}
        errors = {"training/td_error": 0.1 + decay, "training/holdout_td_error": 0.2 + decay}
        run.record("warmup", 0, step, losses | errors)
        for mode in ("sampled", "deterministic"):
            success = generator.binomial(20, 0.55 * (1.0 - decay)) / 20
            run.record("warmup", 0, step, {f"evaluation/success_{mode}": success})
    run.finish({})
    return run


def write_finetune(
    folder: Path,
    arm: str,
    seed: int,
    *,
    budget: int = 3_000,
    last_step: int | None = None,
    metrics: bool = True,
    exp_name: str = "hirol_fixed_gripper",
    prioritized: bool = False,
) -> Run:
    """A fine-tuning run of `budget` environment steps, finished unless it ends at an earlier `last_step`."""
    start, end, rate, dip, force, clips, held = ARMS.get(arm, ARMS["scratch"])
    generator = np.random.default_rng([seed, len(arm)])
    warm = start > 0
    parameters = {
        "exp_name": exp_name,
        "seed": seed,
        "online_steps": budget,
        "checkpoint_path": f"warmup/seed_{seed}/checkpoint.npz" if warm else None,
        "use_prioritized_replay": prioritized,
        "frozen_rollout_steps": 400 if arm == "warmup_wsrl" else 0,
    }
    run = Run.open(folder, kind="finetune", arm=arm, seed=seed, parameters=parameters)
    gradient_start, frozen = (WARMUP_STEPS if warm else 0), parameters["frozen_rollout_steps"]
    for step in range(0, (budget if last_step is None else last_step) + 1, 100):
        gradient_step = gradient_start + 4 * max(0, step - frozen)
        moved = max(0, step - frozen) / 1_000
        if step == 0:
            run.record(
                "online", 0, gradient_step, {"switch/offline_transitions": held / 100, "switch/offline_bytes": held}
            )
        elif metrics:
            run.record(
                "online",
                step,
                gradient_step,
                {
                    "training/offline_ratio": max(0.5, 0.999**step),
                    "training/priority_beta": 0.4 + 0.6 * step / budget,
                    "training/peak_contact_force": force * generator.uniform(0.7, 1.1),
                    "training/safety_box_clips": generator.poisson(clips / 5),
                    "switch/q_offline_probe": 0.8 - 0.3 * np.exp(-moved) * warm,
                    "switch/q_online": (0.3 if warm else 0.0) + 0.5 * (1 - np.exp(-rate * moved)),
                    "switch/td_error_offline_probe": 0.05 + 0.02 * moved,
                    "switch/td_error_online": 0.05 + 0.3 * np.exp(-moved),
                },
            )
        if step % 200 == 0:
            rise = start + (end - start) * (1.0 - np.exp(-rate * moved * 1.5))
            chance = float(np.clip(rise - dip * moved * 5 * np.exp(-moved * 5) * 2.7, 0, 1))
            returns = {}
            for mode in ("sampled", "deterministic"):
                success = generator.binomial(20, chance) / 20
                returns |= {f"evaluation/success_{mode}": success, f"evaluation/return_{mode}": success}
            run.record("online", step, gradient_step, returns)
    if last_step is None:
        run.finish({"final": 1.0})
    return run


def write_ablation(root: Path, arms: tuple[str, ...] = tuple(ARMS), seeds: int = 5, budget: int = 3_000) -> Path:
    """ROOT/<arm>/seed_<n>/ for every arm and seed, and one warmup per seed."""
    for seed in range(seeds):
        write_warmup(root / "warmup" / f"seed_{seed}", seed)
        for arm in arms:
            write_finetune(root / arm / f"seed_{seed}", arm, seed, budget=budget)
    return root
