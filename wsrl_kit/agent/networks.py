"""Actor, critic ensemble and their layers for flat observations, and the tanh-normal distribution.

Stated gains of hand-written derivatives are for a whole update with two critics on one processor core.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import linen
from jax import Array, lax, nn
from jaxtyping import Float, Integer, PRNGKeyArray, PyTree


def sample(
    mean: Float[Array, "*batch action"],
    standard_deviation: Float[Array, "*batch action"],
    noise: Float[Array, "*batch action"],
) -> tuple[Float[Array, "*batch action"], Float[Array, "*batch"]]:
    """Action and log-probability from standard normal noise; differentiable in mean and standard deviation."""
    before_tanh = mean + standard_deviation * noise
    log_normal = -0.5 * jnp.square(noise) - jnp.log(standard_deviation) - 0.5 * jnp.log(2 * jnp.pi)
    return jnp.tanh(before_tanh), jnp.sum(log_normal - log_tanh_slope(before_tanh), axis=-1)


def log_tanh_slope(before_tanh: Float[Array, "*batch action"]) -> Float[Array, "*batch action"]:
    """log(1 - tanh(x)^2), finite also where tanh(x) rounds to 1."""
    return 2.0 * (jnp.log(2.0) - before_tanh - nn.softplus(-2.0 * before_tanh))


EPSILON = 1e-6
"""Added to the variance, as in flax's LayerNorm."""


@jax.custom_vjp
def normalised_tanh(
    hidden: Float[Array, "batch hidden"], scale: Float[Array, " hidden"], bias: Float[Array, " hidden"]
) -> Float[Array, "batch hidden"]:
    """LayerNorm (Ba et al. 2016) over each row, then tanh; derivatives by hand are 5 to 6 % faster."""
    return _normalised_tanh_forward(hidden, scale, bias)[0]


def _normalised_tanh_forward(hidden: Array, scale: Array, bias: Array) -> tuple[Array, tuple[Array, ...]]:
    mean = jnp.mean(hidden, axis=-1, keepdims=True)
    # Rounding may make the difference of the two means negative.
    variance = jnp.maximum(jnp.mean(jnp.square(hidden), axis=-1, keepdims=True) - jnp.square(mean), 0.0)
    inverse_deviation = lax.rsqrt(variance + EPSILON)
    output = jnp.tanh((hidden - mean) * (inverse_deviation * scale) + bias)
    return output, (hidden, mean, inverse_deviation, scale, output)


def _normalised_tanh_backward(saved: tuple[Array, ...], gradient: Array) -> tuple[Array, Array, Array]:
    hidden, mean, inverse_deviation, scale, output = saved
    before_tanh = gradient * (1.0 - jnp.square(output))
    normalised = (hidden - mean) * inverse_deviation
    scaled = before_tanh * scale
    along_mean = jnp.mean(scaled, axis=-1, keepdims=True)
    along_deviation = jnp.mean(scaled * normalised, axis=-1, keepdims=True)
    to_hidden = (scaled - along_mean - normalised * along_deviation) * inverse_deviation
    return to_hidden, jnp.sum(before_tanh * normalised, axis=0), jnp.sum(before_tanh, axis=0)


normalised_tanh.defvjp(_normalised_tanh_forward, _normalised_tanh_backward)


class NormalisedTanh(linen.Module):
    """LayerNorm with learned scale and bias, then tanh."""

    @linen.compact
    def __call__(self, hidden: Float[Array, "batch hidden"]) -> Float[Array, "batch hidden"]:
        scale = self.param("scale", linen.initializers.ones, hidden.shape[-1:])
        return normalised_tanh(hidden, scale, self.param("bias", linen.initializers.zeros, hidden.shape[-1:]))


@runtime_checkable
class Network(Protocol):
    """A network as pure functions of parameters and inputs."""

    def init(self, key: PRNGKeyArray, /, *inputs: Any) -> PyTree: ...

    def apply(self, parameters: PyTree, /, *inputs: Any, rngs: dict[str, PRNGKeyArray] | None = None) -> Any: ...


STANDARD_DEVIATION_RANGE = (1e-5, 5.0)
"""HIL-SERL's bounds of the actor's standard deviation (before tanh)."""


@dataclass(frozen=True)
class InitialWeights:
    """Rule and scales of the layers' initial weights, as in `AgentParameters`; biases start at 0."""

    rule: str
    output_scale: float
    last_hidden_scale: float | None = None

    def hidden(self, is_last: bool) -> linen.initializers.Initializer:
        """Initialiser of a hidden layer."""
        scale = self.last_hidden_scale if is_last else None
        return self._scaled({"xavier": 1.0, "orthogonal": 2**0.5}[self.rule] if scale is None else scale)

    def output(self) -> linen.initializers.Initializer:
        """Initialiser of an output layer."""
        return self._scaled(self.output_scale)

    def _scaled(self, scale: float) -> linen.initializers.Initializer:
        if self.rule == "orthogonal":
            return linen.initializers.orthogonal(scale)
        return linen.initializers.variance_scaling(scale, "fan_avg", "uniform")


class HiddenLayers(linen.Module):
    """Dense, dropout, LayerNorm, activation, once per width: the order of HIL-SERL and RLPD.

    Attributes:
        linear_end: no LayerNorm or activation at the end.
    """

    widths: Sequence[int]
    layer_norm: bool
    activation: str
    weights: InitialWeights
    dropout_rate: float = 0.0
    linear_end: bool = False

    @linen.compact
    def __call__(self, inputs: Float[Array, "batch input"], train: bool) -> Float[Array, "batch hidden"]:
        hidden = inputs
        last = len(self.widths) - 1
        for index, width in enumerate(self.widths):
            hidden = linen.Dense(width, kernel_init=self.weights.hidden(index == last))(hidden)
            if self.dropout_rate > 0:
                hidden = linen.Dropout(self.dropout_rate, deterministic=not train)(hidden)
            if index < last or not self.linear_end:
                hidden = self._activated(hidden)
        return hidden

    def _activated(self, hidden: Float[Array, "batch hidden"]) -> Float[Array, "batch hidden"]:
        if self.layer_norm and self.activation == "tanh":
            return NormalisedTanh()(hidden)
        if self.layer_norm:
            hidden = linen.LayerNorm()(hidden)
        return {"tanh": jnp.tanh, "relu": linen.relu}[self.activation](hidden)


class Actor(linen.Module):
    """Mean and standard deviation (diagonal, state-dependent) of the action before tanh."""

    action_size: int
    widths: Sequence[int]
    layer_norm: bool
    activation: str
    weights: InitialWeights

    @linen.compact
    def __call__(
        self, observation: Float[Array, "batch observation"]
    ) -> tuple[Float[Array, "batch action"], Float[Array, "batch action"]]:
        hidden = HiddenLayers(self.widths, self.layer_norm, self.activation, self.weights)(observation, train=False)
        # One layer for both: two narrow products take longer than one.
        output = linen.Dense(2 * self.action_size, kernel_init=self.weights.output())(hidden)
        mean, log_standard_deviation = jnp.split(output, 2, axis=-1)
        # Clipped before exp, whose overflow would make the gradient NaN.
        return mean, jnp.exp(jnp.clip(log_standard_deviation, *jnp.log(jnp.array(STANDARD_DEVIATION_RANGE))))


class Critic(linen.Module):
    """Q-function of observation and action, concatenated."""

    widths: Sequence[int]
    layer_norm: bool
    activation: str
    weights: InitialWeights
    dropout_rate: float

    @linen.compact
    def __call__(self, inputs: Float[Array, "batch input"], train: bool) -> Float[Array, " batch"]:
        layers = (self.widths, self.layer_norm, self.activation, self.weights)
        hidden = HiddenLayers(*layers, self.dropout_rate)(inputs, train)
        return linen.Dense(1, kernel_init=self.weights.output())(hidden).squeeze(-1)


class ChoiceCritic(linen.Module):
    """Values of discrete choices; the last hidden layer is linear, as in HIL-SERL's `create_pixels`."""

    choices: int
    widths: Sequence[int]
    layer_norm: bool
    activation: str
    weights: InitialWeights

    @linen.compact
    def __call__(self, observation: Float[Array, "batch observation"]) -> Float[Array, "batch choices"]:
        layers = (self.widths, self.layer_norm, self.activation, self.weights)
        hidden = HiddenLayers(*layers, linear_end=True)(observation, train=False)
        return linen.Dense(self.choices, kernel_init=self.weights.output())(hidden)


SHARED_OUTPUT = "shared_output"
"""Parameter name of an output layer that all critics share."""


class CriticEnsemble(linen.Module):
    """`size` critics as one batched network; parameters have a leading ensemble axis, except a shared output layer."""

    size: int
    widths: Sequence[int]
    layer_norm: bool
    activation: str
    weights: InitialWeights
    dropout_rate: float
    shared_output: bool = False

    @linen.compact
    def __call__(
        self, observation: Float[Array, "batch observation"], action: Float[Array, "batch action"], train: bool
    ) -> Float[Array, "ensemble batch"]:
        # Each critic has a copy of the inputs: with a shared one the compiler makes one product for all critics, and
        # transposes what it gives and what comes back.
        inputs = jnp.concatenate([observation, action], axis=-1)
        inputs = jnp.broadcast_to(inputs, (self.size, *inputs.shape))
        layers = (self.widths, self.layer_norm, self.activation, self.weights)
        if not self.shared_output:
            return self._each(Critic)(*layers, self.dropout_rate)(inputs, train)
        hidden = self._each(HiddenLayers)(*layers, self.dropout_rate)(inputs, train)
        output = linen.Dense(1, kernel_init=self.weights.output(), name=SHARED_OUTPUT)
        return output(hidden.reshape(-1, hidden.shape[-1])).reshape(hidden.shape[:-1])

    def _each(self, module: type[linen.Module]) -> type[linen.Module]:
        return linen.vmap(
            module,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, None),
            axis_size=self.size,
        )


def members(ensemble: PyTree, chosen: Integer[Array, " subset"]) -> PyTree:
    """Parameters of the chosen critics."""
    return {
        "params": {
            name: layer if name == SHARED_OUTPUT else jax.tree.map(lambda leaf: leaf[chosen], layer)
            for name, layer in ensemble["params"].items()
        }
    }
