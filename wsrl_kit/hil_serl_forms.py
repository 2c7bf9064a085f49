"""The same functions by parameters of another form: a layer without normalisation before it, a temperature by softplus.

With the parameters go Adam's moments. Gradients by one form's parameters are linear in those by the other's, so that
first moments are exact. Second moments are too, but for a kernel that takes up a normalisation whose center is not 0:
there the gradients of kernel and bias count as uncorrelated, as they are for inputs of mean 0.
"""

import numpy as np
from jaxtyping import Float

Layer = tuple[Float[np.ndarray, "*ensemble input output"], Float[np.ndarray, "*ensemble output"]]
"""Kernel and bias, or the moments of the gradients by them."""


def unnormalised(
    kernel: Float[np.ndarray, "*ensemble input output"],
    bias: Float[np.ndarray, "*ensemble output"],
    center: Float[np.ndarray, " state"],
    scale: Float[np.ndarray, " state"],
) -> Layer:
    """The layer that does of states what the given one does of `(state - center) / scale`.

    Args:
        kernel: the state's entries are the first inputs.
    """
    rows = kernel[..., : len(scale), :] / scale[:, None]
    rest = kernel[..., len(scale) :, :]
    return np.concatenate([rows.astype(np.float32), rest], axis=-2), (bias - center @ rows).astype(np.float32)


def unnormalised_moment(
    kernel: Float[np.ndarray, "*ensemble input output"],
    bias: Float[np.ndarray, "*ensemble output"],
    power: int,
    center: Float[np.ndarray, " state"],
    scale: Float[np.ndarray, " state"],
) -> Layer:
    """The moments of the gradients by that layer: by its kernel they are `scale * by kernel + center * by bias`.

    Args:
        kernel, bias: moments of the gradients by the given layer.
        power: 1 or 2, the moment's.
    """
    rows = scale[:, None] ** power * kernel[..., : len(scale), :] + center[:, None] ** power * bias[..., None, :]
    rest = kernel[..., len(scale) :, :]
    return np.concatenate([rows.astype(np.float32), rest], axis=-2), bias


def softplus_argument(log_temperature: float) -> float:
    """What softplus makes the temperature of."""
    temperature = np.exp(log_temperature)
    # log(exp(temperature) - 1), in a form that does not overflow.
    return float(temperature + np.log(-np.expm1(-temperature)))


def log_softplus(argument: float) -> float:
    """The logarithm of the temperature that softplus makes of its argument."""
    return float(np.log(np.logaddexp(0.0, argument)))


def temperature_slope(log_temperature: float) -> float:
    """Factor from a gradient by the logarithm of the temperature to that by softplus's argument."""
    temperature = np.exp(log_temperature)
    return float(-np.expm1(-temperature) / temperature)
