"""Softmax and the normalisations."""

from __future__ import annotations

import math

import numpy as np

from gbn.maps import Diagonal, Rowwise
from gbn.ops.base import Array, Maps, Varying, op

__all__: list[str] = []


def _negative(axis: int, ndim: int) -> int:
    return axis if axis < 0 else axis - ndim


@op("Softmax")
def softmax(x: Array, *, axis: int = -1) -> tuple[Array, Maps]:
    """y = exp(x) / Σ exp(x) along ``axis``; J = diag(y) - y yᵀ."""
    y = np.exp(x - x.max(axis=axis, keepdims=True))
    y /= y.sum(axis=axis, keepdims=True)
    axis = _negative(axis, x.ndim)
    return y, (lambda: Rowwise(y, ((-y, y),), (axis,), x.shape),)


@op("LogSoftmax")
def log_softmax(x: Array, *, axis: int = -1) -> tuple[Array, Maps]:
    """y = x - log Σ exp(x) along ``axis``; J = I - 1 softmax(x)ᵀ."""
    shifted = x - x.max(axis=axis, keepdims=True)
    y = shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
    axis = _negative(axis, x.ndim)
    return y, (lambda: Rowwise(1.0, ((-1.0, np.exp(y)),), (axis,), x.shape),)


@op("Hardmax")
def hardmax(x: Array, *, axis: int = -1) -> tuple[Array, Maps]:
    """1 at the first of the greatest entries along ``axis``, 0 elsewhere."""
    y = np.zeros_like(x)
    np.put_along_axis(y, np.expand_dims(x.argmax(axis), axis), 1, axis)
    return y, (None,)


def _input_constant(varying: Varying) -> bool:
    return not varying[0]


@op("LayerNormalization", linear=_input_constant)
def layer_normalization(
    x: Array, scale: Array, bias: Array | None = None, *, axis: int = -1, epsilon: float = 1e-5
) -> tuple[Array, Maps]:
    """y = scale (x - mean) / √(var + ε) + bias, mean and variance over the axes from ``axis`` to the last.

    With n entries and x̂ the normalised input, ∂x̂/∂x = (I - 1 1ᵀ/n - x̂ x̂ᵀ/n) / √(var + ε).
    """
    axes = tuple(range(_negative(axis, x.ndim), 0))
    centred = x - x.mean(axis=axes, keepdims=True)
    inverse = 1 / np.sqrt((centred * centred).mean(axis=axes, keepdims=True) + x.dtype.type(epsilon))
    normal = centred * inverse
    y = normal * scale
    n = math.prod(x.shape[axis] for axis in axes)

    def of_input() -> Rowwise:
        gain = scale * inverse
        return Rowwise(gain, ((gain * (-1 / n), 1.0), (gain * normal * (-1 / n), normal)), axes, x.shape)

    maps = (of_input, lambda: Diagonal(normal, scale.shape, y.shape))
    if bias is None:
        return y, maps
    y = y + bias
    return y, (*maps, lambda: Diagonal(1.0, bias.shape, y.shape))


def _statistics_constant(varying: Varying) -> bool:
    x, scale, _, mean, var = varying
    return not var and not (scale and (x or mean))


@op("BatchNormalization", linear=_statistics_constant)
def batch_normalization(
    x: Array,
    scale: Array,
    bias: Array,
    mean: Array,
    var: Array,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> tuple[Array, Maps]:
    """y = scale (x - mean) / √(var + ε) + bias per channel (axis 1), with the stored statistics."""
    if training_mode:
        raise ValueError(
            "BatchNormalization in training mode mixes the samples of a batch; convert the model in inference mode"
        )
    view = (len(scale),) + (1,) * (x.ndim - 2)
    inverse = 1 / np.sqrt(var + x.dtype.type(epsilon))
    gain = (scale * inverse).reshape(view)
    y = x * gain
    y += (bias - mean * scale * inverse).reshape(view)

    def channelwise(factor: Array | float) -> Diagonal:
        return Diagonal(factor, scale.shape, x.shape, view)

    def normal() -> Array:
        return (x - mean.reshape(view)) * inverse.reshape(view)

    return y, (
        lambda: Diagonal(gain, x.shape, x.shape),
        lambda: channelwise(normal()),
        lambda: channelwise(1.0),
        lambda: channelwise(-gain),
        lambda: channelwise(normal() * (-0.5 * scale * inverse * inverse).reshape(view)),
    )
