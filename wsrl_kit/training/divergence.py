"""Stops learning that has diverged, while an earlier checkpoint exists."""

import math
from collections.abc import Mapping

from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.errors import DivergenceError

TOLERANCE = 10.0
"""Values beyond the largest possible return by this factor are no mere overestimate."""


SMALLEST_REWARD = 1.0
"""Rewards up to this size are thought possible, even before any was seen."""


def check_divergence(
    config: WSRLConfig, metrics: Mapping[str, float], largest_reward: float, gradient_step: int
) -> None:
    """Raises if losses are not finite, or if the critics' values are beyond any possible return.

    The largest return is `largest_reward / (1 - discount)`, plus the entropy bonus where TD targets hold one.

    Args:
        metrics: of the last update; may be empty.
        largest_reward: greatest magnitude seen by learning.

    Raises:
        DivergenceError: naming what to change.
    """
    bad = next((name for name, value in metrics.items() if not math.isfinite(value)), None)
    if bad is not None:
        raise DivergenceError(
            f"learning diverged: {bad} is not finite at gradient step {gradient_step}; {_advice(config)}"
        )
    if "q_mean" not in metrics:
        return
    horizon = 1.0 / max(1.0 - config.discount, 1e-3)
    entropy_bonus = abs(metrics["temperature"] * metrics["entropy"]) * config.backup_entropy
    largest_value = (max(largest_reward, SMALLEST_REWARD) + entropy_bonus) * horizon
    value = metrics["q_mean"]
    if abs(value) > TOLERANCE * largest_value:
        raise DivergenceError(
            f"learning diverged: the critics' mean value is {value:.3g} at gradient step {gradient_step}, where no "
            f"return is beyond {largest_value:.3g} (rewards up to {largest_reward:.3g}, discount {config.discount:g}); "
            f"{_advice(config)}"
        )


def _advice(config: WSRLConfig) -> str:
    if config.conservative_loss != "none":
        return (
            f"lower conservative_weight ({config.conservative_weight:g}) or set cql_target_gap, since the term grows "
            "without bound where rewards are small"
        )
    return "lower the learning rates, or raise critic_ensemble_size"
