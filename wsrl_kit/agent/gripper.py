"""Gripper entries of an action, and the discrete commands of learned grippers.

Each arm's last entry is its gripper: -1 (close), 0 (nothing) or 1 (open). One choice encodes all grippers' commands.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Integer

from wsrl_kit.errors import ParameterError

FIXED = "fixed"
"""No learned gripper: every entry is continuous."""

COUNTS = {FIXED: 0, "single": 1, "dual": 2}
"""Number of learned grippers."""

COMMANDS = 3
"""Commands per gripper."""


def check(gripper: str, action_size: int) -> None:
    """Checks that the action has room for the grippers.

    Raises:
        ParameterError: unequal arms, or fewer than 2 entries each.
    """
    count = COUNTS[gripper]
    if count and (action_size % count or action_size < 2 * count):
        arms = "an action of at least 2 entries" if count == 1 else "two equal halves of at least 2 entries each"
        raise ParameterError(f"gripper {gripper!r} needs {arms}, found an action of {action_size}")


def choices(gripper: str) -> int:
    """Number of choices."""
    return COMMANDS ** COUNTS[gripper]


def continuous(gripper: str, action: Float[Array, "*batch action"]) -> Float[Array, "*batch continuous"]:
    """The action without gripper entries."""
    if gripper == FIXED:
        return action
    arms = action.reshape(*action.shape[:-1], COUNTS[gripper], -1)
    return arms[..., :-1].reshape(*action.shape[:-1], -1)


def choice(gripper: str, action: Float[Array, "*batch action"]) -> Integer[Array, "*batch"]:
    """The choice encoded by the (rounded) gripper entries; the inverse of `joined`."""
    commands = jnp.round(action.reshape(*action.shape[:-1], COUNTS[gripper], -1)[..., -1]).astype(jnp.int32) + 1
    return jnp.sum(commands * jnp.array(_digits(gripper)), axis=-1)


def joined(
    gripper: str, action: Float[Array, "*batch continuous"], choice: Integer[Array, "*batch"]
) -> Float[Array, "*batch action"]:
    """The whole action from its continuous entries and a choice in [0, `choices`)."""
    commands = choice[..., None] // jnp.array(_digits(gripper)) % COMMANDS - 1
    arms = action.reshape(*action.shape[:-1], COUNTS[gripper], -1)
    return jnp.concatenate([arms, commands[..., None].astype(action.dtype)], axis=-1).reshape(*action.shape[:-1], -1)


def rounded(gripper: str, action: Float[np.ndarray, " action"]) -> Float[np.ndarray, " action"]:
    """The action with gripper entries rounded to commands."""
    arms = action.reshape(max(COUNTS[gripper], 1), -1).copy()
    if gripper != FIXED:
        arms[:, -1] = np.round(arms[:, -1])
    return arms.reshape(-1)


def _digits(gripper: str) -> list[int]:
    return [COMMANDS**arm for arm in reversed(range(COUNTS[gripper]))]
