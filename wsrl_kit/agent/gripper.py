"""Which entries of an action are grippers', and the commands that a discrete critic chooses from.

A gripper's entry is the last of its arm's. Robots take it as one of three commands, -1 (close), 0 (nothing) and
1 (open); the commands of all grippers together are one choice, in HIL-SERL's order.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Integer

from wsrl_kit.errors import ParameterError

FIXED = "fixed"
"""No gripper is learned: every entry of the action is continuous."""

COUNTS = {FIXED: 0, "single": 1, "dual": 2}
"""Learned grippers, by set-up."""

COMMANDS = 3
"""Commands of one gripper."""


def check(gripper: str, action_size: int) -> None:
    """Checks that an action of this size has room for the grippers.

    Raises:
        ParameterError: each arm needs as many entries as the other, and one beside its gripper's.
    """
    count = COUNTS[gripper]
    if count and (action_size % count or action_size < 2 * count):
        arms = "an action of at least 2 entries" if count == 1 else "two equal halves of at least 2 entries each"
        raise ParameterError(f"gripper {gripper!r} needs {arms}, found an action of {action_size}")


def choices(gripper: str) -> int:
    """Number of choices."""
    return COMMANDS ** COUNTS[gripper]


def continuous(gripper: str, action: Float[Array, "*batch action"]) -> Float[Array, "*batch continuous"]:
    """The action without its grippers' entries."""
    if gripper == FIXED:
        return action
    arms = action.reshape(*action.shape[:-1], COUNTS[gripper], -1)
    return arms[..., :-1].reshape(*action.shape[:-1], -1)


def choice(gripper: str, action: Float[Array, "*batch action"]) -> Integer[Array, "*batch"]:
    """The choice that the grippers' entries of an action encode, rounded to commands; the inverse of `joined`."""
    commands = jnp.round(action.reshape(*action.shape[:-1], COUNTS[gripper], -1)[..., -1]).astype(jnp.int32) + 1
    return jnp.sum(commands * jnp.array(_digits(gripper)), axis=-1)


def joined(
    gripper: str, action: Float[Array, "*batch continuous"], choice: Integer[Array, "*batch"]
) -> Float[Array, "*batch action"]:
    """The whole action, from its continuous entries and a choice in [0, `choices`)."""
    commands = choice[..., None] // jnp.array(_digits(gripper)) % COMMANDS - 1
    arms = action.reshape(*action.shape[:-1], COUNTS[gripper], -1)
    return jnp.concatenate([arms, commands[..., None].astype(action.dtype)], axis=-1).reshape(*action.shape[:-1], -1)


def rounded(gripper: str, action: Float[np.ndarray, " action"]) -> Float[np.ndarray, " action"]:
    """The action with its grippers' entries rounded to commands."""
    arms = action.reshape(max(COUNTS[gripper], 1), -1).copy()
    if gripper != FIXED:
        arms[:, -1] = np.round(arms[:, -1])
    return arms.reshape(-1)


def _digits(gripper: str) -> list[int]:
    return [COMMANDS**arm for arm in reversed(range(COUNTS[gripper]))]
