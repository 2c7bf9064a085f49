"""Actor and critic ensemble for flat observations."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from flax import linen
from jax import Array
from jaxtyping import Float, PRNGKeyArray, PyTree


@runtime_checkable
class Network(Protocol):
    """What the rest of the kit knows of a network: pure functions of parameters and inputs."""

    def init(self, key: PRNGKeyArray, /, *inputs: Any) -> PyTree:
        """Fresh parameters."""
        ...

    def apply(self, parameters: PyTree, /, *inputs: Any, rngs: dict[str, PRNGKeyArray] | None = None) -> Any:
        """The network's output."""
        ...


STANDARD_DEVIATION_RANGE = (1e-5, 5.0)
"""HIL-SERL's clip of the actor's standard deviation (before tanh)."""

OUTPUT_SCALE = 1e-2
"""Variance scale of the output layers: near-zero Q values and centred actions at the start.

At scale 1 the first Q values exceed the returns of a sparse task, and learning from a few demonstrations stalls.
"""


class HiddenLayers(linen.Module):
    """Dense, dropout, LayerNorm and tanh, once per width: the order of HIL-SERL's and RLPD's networks."""

    widths: Sequence[int]
    layer_norm: bool
    dropout_rate: float = 0.0

    @linen.compact
    def __call__(self, inputs: Float[Array, "*batch input"], train: bool) -> Float[Array, "*batch hidden"]:
        hidden = inputs
        for width in self.widths:
            hidden = linen.Dense(width, kernel_init=linen.initializers.xavier_uniform())(hidden)
            if self.dropout_rate > 0:
                hidden = linen.Dropout(self.dropout_rate, deterministic=not train)(hidden)
            if self.layer_norm:
                hidden = linen.LayerNorm()(hidden)
            hidden = jnp.tanh(hidden)
        return hidden


class Actor(linen.Module):
    """Gaussian before tanh, with a state-dependent diagonal standard deviation."""

    action_size: int
    widths: Sequence[int]
    layer_norm: bool

    @linen.compact
    def __call__(
        self, observation: Float[Array, "*batch observation"]
    ) -> tuple[Float[Array, "*batch action"], Float[Array, "*batch action"]]:
        """Mean and standard deviation of the action before tanh."""
        hidden = HiddenLayers(self.widths, self.layer_norm)(observation, train=False)
        output = linen.initializers.variance_scaling(OUTPUT_SCALE, "fan_avg", "uniform")
        mean = linen.Dense(self.action_size, kernel_init=output)(hidden)
        log_standard_deviation = linen.Dense(self.action_size, kernel_init=output)(hidden)
        # Clipped before exp, whose overflow would make the gradient NaN.
        return mean, jnp.exp(jnp.clip(log_standard_deviation, *jnp.log(jnp.array(STANDARD_DEVIATION_RANGE))))


class Critic(linen.Module):
    """One action-value function."""

    widths: Sequence[int]
    layer_norm: bool
    dropout_rate: float

    @linen.compact
    def __call__(
        self, observation: Float[Array, "*batch observation"], action: Float[Array, "*batch action"], train: bool
    ) -> Float[Array, "*batch"]:
        inputs = jnp.concatenate([observation, action], axis=-1)
        hidden = HiddenLayers(self.widths, self.layer_norm, self.dropout_rate)(inputs, train)
        output = linen.initializers.variance_scaling(OUTPUT_SCALE, "fan_avg", "uniform")
        return linen.Dense(1, kernel_init=output)(hidden).squeeze(-1)


def critic_ensemble(size: int, widths: Sequence[int], layer_norm: bool, dropout_rate: float) -> Network:
    """`size` critics with parameters of their own, as one batched network: every parameter has a leading axis."""
    ensemble = linen.vmap(
        Critic,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(None, None, None),
        out_axes=0,
        axis_size=size,
    )
    return ensemble(widths, layer_norm, dropout_rate)
