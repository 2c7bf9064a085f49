"""What a hidden layer computes, with the derivatives written out where the compiler's own take longer.

The gains named are those of a whole update with two critics on one processor core.
"""

import jax
import jax.numpy as jnp
from flax import linen
from jax import Array, lax
from jaxtyping import Float

EPSILON = 1e-6
"""Added to the variance, as flax's LayerNorm does."""


@jax.custom_vjp
def product(inputs: Float[Array, "batch input"], kernel: Float[Array, "input output"]) -> Float[Array, "batch output"]:
    """`inputs @ kernel`; for the kernel's gradient the inputs are transposed in memory first.

    A product over the rows of both factors, which differentiation would give, reads one of them against its order in
    memory: on processors it reaches two thirds of the rate of a plain product (a whole update takes 6 % longer).
    """
    return inputs @ kernel


def _product_forward(inputs: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return inputs @ kernel, (inputs, kernel)


def _product_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    inputs, kernel = saved
    # Without the barrier the compiler folds the transpose back into the product.
    return gradient @ kernel.T, lax.optimization_barrier(inputs.T) @ gradient


product.defvjp(_product_forward, _product_backward)


@jax.custom_vjp
def normalised_tanh(
    hidden: Float[Array, "batch hidden"], scale: Float[Array, " hidden"], bias: Float[Array, " hidden"]
) -> Float[Array, "batch hidden"]:
    """`tanh(scale * normalised + bias)`, each row normalised to mean 0 and variance 1 (LayerNorm, Ba et al. 2016).

    Derivatives by hand pass over the activations fewer times (a whole update takes 6 % less).
    """
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


class Dense(linen.Module):
    """`inputs @ kernel + bias`, by `product`."""

    width: int
    kernel_init: linen.initializers.Initializer

    @linen.compact
    def __call__(self, inputs: Float[Array, "batch input"]) -> Float[Array, "batch output"]:
        kernel = self.param("kernel", self.kernel_init, (inputs.shape[-1], self.width))
        return product(inputs, kernel) + self.param("bias", linen.initializers.zeros, (self.width,))


class NormalisedTanh(linen.Module):
    """LayerNorm with learned scale and bias, then tanh, by `normalised_tanh`."""

    @linen.compact
    def __call__(self, hidden: Float[Array, "batch hidden"]) -> Float[Array, "batch hidden"]:
        scale = self.param("scale", linen.initializers.ones, hidden.shape[-1:])
        return normalised_tanh(hidden, scale, self.param("bias", linen.initializers.zeros, hidden.shape[-1:]))
