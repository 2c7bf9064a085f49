"""Schedules: traced functions from a count to a value, so that nothing annealed recompiles."""

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Float

from wsrl_kit.agent.state import learning_rate_schedule
from wsrl_kit.config.config import WSRLConfig

Schedule = Callable[[ArrayLike], ArrayLike]


def exponential_with_floor(initial: float, decay_rate: float, floor: float) -> Schedule:
    """`max(floor, initial * decay_rate ** count)`, the offline ratio; the floor holds even if `initial` is lower."""

    def schedule(count: ArrayLike) -> ArrayLike:
        return jnp.maximum(floor, initial * jnp.power(jnp.float32(decay_rate), count))

    return schedule


OFFLINE_RATIO_SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "exponential": lambda initial, decay_rate, decay_steps, floor: exponential_with_floor(initial, decay_rate, floor),
    "linear": lambda initial, decay_rate, decay_steps, floor: optax.linear_schedule(
        max(initial, floor), floor, decay_steps
    ),
    "constant": lambda initial, decay_rate, decay_steps, floor: optax.constant_schedule(max(initial, floor)),
}
"""(initial, decay_rate, decay_steps, floor) -> schedule, over environment steps since the switch."""


def priority_beta(initial: float, final: float, steps: int) -> Schedule:
    """Linear rise of PER's importance exponent (Schaul et al. 2016, section 3.4) over `steps` environment steps."""
    return optax.linear_schedule(initial, final, steps)


def fading_weight(offline: float, online: float, fade_steps: int) -> Schedule:
    """Linear from a loss term's weight in warmup to its weight in fine-tuning, in `fade_steps` environment steps."""
    return optax.linear_schedule(offline, online, fade_steps) if fade_steps else optax.constant_schedule(online)


def run_schedules(config: WSRLConfig) -> dict[str, Float[np.ndarray, " steps"]]:
    """Values of all schedules of fine-tuning, by name, at every environment step since the switch.

    The learning rate is the critics', as a share of its peak, after a warmup (if any) of all its steps.
    """
    offline_ratio = OFFLINE_RATIO_SCHEDULES[config.offline_ratio_schedule](
        config.initial_offline_ratio, config.offline_decay_rate, config.offline_decay_steps, config.min_offline_ratio
    )
    share = learning_rate_schedule(
        config.learning_rate_schedule, 1.0, config.learning_rate_warmup_steps, config.critic_updates
    )
    earlier = config.warmup_steps if config.checkpoint_path else 0
    values = {
        "offline ratio": evaluate(offline_ratio, config.online_steps),
        "learning rate / peak": evaluate(
            lambda step: share(earlier + step * config.update_to_data_ratio), config.online_steps
        ),
    }
    if config.use_prioritized_replay:
        beta = priority_beta(config.initial_priority_beta, config.final_priority_beta, config.online_steps)
        values["PER beta"] = evaluate(beta, config.online_steps)
    if config.conservative_loss != "none":
        weight = fading_weight(
            config.conservative_weight, config.conservative_online_weight, config.conservative_fade_steps
        )
        values["conservative weight"] = evaluate(weight, config.online_steps)
    if config.clones_online:
        weight = fading_weight(
            config.behavior_cloning_weight, config.final_cloning_weight, config.behavior_cloning_fade_steps
        )
        values["behavior-cloning weight"] = evaluate(weight, config.online_steps)
    return values


def offline_share(config: WSRLConfig, first: int, steps: int) -> float:
    """Share of offline examples in all batches of `steps` environment steps from `first` on; nan without a batch."""
    if config.demo_path is None:
        return 0.0
    ratio = run_schedules(config)["offline ratio"][max(first, config.frozen_rollout_steps) : first + steps]
    # Whole examples, as `Replay.offline_count` gives them.
    return float(np.floor(config.batch_size * ratio + 1e-3).mean() / config.batch_size) if len(ratio) else math.nan


def evaluate(schedule: Schedule, steps: int) -> Float[np.ndarray, " steps"]:
    """The schedule's values at counts 0 .. steps - 1."""
    counts = jnp.arange(steps)
    return np.broadcast_to(np.asarray(schedule(counts), dtype=np.float32), (steps,))
