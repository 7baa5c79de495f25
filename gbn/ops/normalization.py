"""Softmax and the normalisations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gbn import arrays
from gbn.maps import Adjoint, Chain, Diagonal, LinearMap, Reshape, Rowwise, Slice, Sum
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


def _mean_square(x: Array, axes: tuple[int, ...]) -> Array:
    return (x * x).mean(axis=axes, keepdims=True)


def _count(x: Array, axes: tuple[int, ...]) -> int:
    return math.prod(x.shape[axis] for axis in axes)


def _standardised(x: Array, axes: tuple[int, ...], epsilon: float) -> tuple[Array, Array]:
    """x̂ = (x - mean) / √(var + ε) over the axes, and 1 / √(var + ε)."""
    centred = x - x.mean(axis=axes, keepdims=True)
    inverse = 1 / np.sqrt(_mean_square(centred, axes) + x.dtype.type(epsilon))
    return centred * inverse, inverse


def _slope(gain: Array, normal: Array, axes: tuple[int, ...], centred: bool = True) -> Rowwise:
    """``gain`` ∂x̂/∂x √(var + ε) = gain (I - 1 1ᵀ/n - x̂ x̂ᵀ/n), without its middle term where no mean is taken off."""
    n = _count(normal, axes)
    middle = ((gain * (-1 / n), 1.0),) if centred else ()
    return Rowwise(gain, (*middle, (gain * normal * (-1 / n), normal)), axes, normal.shape)


@op("LayerNormalization", linear=_input_constant)
def layer_normalization(
    x: Array, scale: Array, bias: Array | None = None, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> tuple[Array, Maps]:
    """y = scale (x - mean) / √(var + ε) + bias, mean and variance over the axes from ``axis`` to the last."""
    axes = tuple(range(_negative(axis, x.ndim), 0))
    normal, inverse = _standardised(x, axes, epsilon)
    y = normal * scale
    maps = (lambda: _slope(scale * inverse, normal, axes), lambda: Diagonal(normal, scale.shape, y.shape))
    if bias is None:
        return y, maps
    z = y + bias
    return z, (*maps, lambda: Diagonal(1.0, bias.shape, z.shape))


@op("RMSNormalization", linear=_input_constant)
def rms_normalization(
    x: Array, scale: Array, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> tuple[Array, Maps]:
    """y = scale x / √(mean of x² + ε), the mean over the axes from ``axis`` to the last."""
    axes = tuple(range(_negative(axis, x.ndim), 0))
    inverse = 1 / np.sqrt(_mean_square(x, axes) + x.dtype.type(epsilon))
    normal = x * inverse
    y = normal * scale
    return y, (
        lambda: _slope(scale * inverse, normal, axes, centred=False),
        lambda: Diagonal(normal, scale.shape, y.shape),
    )


def _by_groups(x: Array, scale: Array, bias: Array, groups: int, epsilon: float) -> tuple[Array, Maps]:
    """y = scale x̂ + bias per channel (axis 1), x̂ standardised over the channels of a group and all positions."""
    samples, channels, *spatial = x.shape
    if groups < 1 or channels % groups:
        raise ValueError(f"{channels} channels do not make {groups} groups")
    apart = (samples, groups, channels // groups, *spatial)
    axes = tuple(range(2 - len(apart), 0))
    normal, inverse = _standardised(x.reshape(apart), axes, epsilon)
    view = (channels,) + (1,) * len(spatial)
    spread = scale.reshape(groups, channels // groups, *view[1:])
    y = normal.reshape(x.shape) * scale.reshape(view) + bias.reshape(view)

    def of_input() -> LinearMap:
        return Chain((Reshape(x.shape, apart), _slope(spread * inverse, normal, axes), Reshape(apart, x.shape)))

    return y, (
        of_input,
        lambda: Diagonal(normal.reshape(x.shape), scale.shape, x.shape, view),
        lambda: Diagonal(1.0, bias.shape, x.shape, view),
    )


@op("GroupNormalization", linear=_input_constant)
def group_normalization(
    x: Array, scale: Array, bias: Array, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> tuple[Array, Maps]:
    """Each group of channels standardised over its channels and positions, then scaled and shifted by channel."""
    return _by_groups(x, scale, bias, num_groups, epsilon)


@op("InstanceNormalization", linear=_input_constant)
def instance_normalization(x: Array, scale: Array, bias: Array, *, epsilon: float = 1e-5) -> tuple[Array, Maps]:
    """Each channel standardised over its positions, then scaled and shifted."""
    return _by_groups(x, scale, bias, x.shape[1], epsilon)


@op("MeanVarianceNormalization")
def mean_variance_normalization(x: Array, *, axes: Sequence[int] = (0, 2, 3)) -> tuple[Array, Maps]:
    """y = (x - mean) / (√var + 1e-9) over ``axes``, by default all but the channels: that mixes samples."""
    chosen = tuple(sorted(_negative(axis, x.ndim) for axis in axes))
    centred = x - x.mean(axis=chosen, keepdims=True)
    spread = np.sqrt(_mean_square(centred, chosen))
    inverse = 1 / (spread + x.dtype.type(1e-9))

    def of_input() -> Rowwise:
        # The slope of the spread is x̂/n with x̂ = centred / spread, whatever is added to the spread.
        normal = centred / np.where(spread == 0, x.dtype.type(1), spread)
        n = _count(x, chosen)
        terms = ((inverse * (-1 / n), 1.0), (centred * inverse * inverse * (-1 / n), normal))
        return Rowwise(inverse, terms, chosen, x.shape)

    return centred * inverse, (of_input,)


@op("LpNormalization")
def lp_normalization(x: Array, *, axis: int = -1, p: int = 2) -> tuple[Array, Maps]:
    """y = x / ‖x‖_p along ``axis``, p being 1 or 2; J = (I - y dᵀ) / ‖x‖ with d = sign(x) or y.  0 has no direction."""
    if p not in (1, 2):
        raise ValueError(f"p: got {p}, expected 1 or 2")
    along = _negative(axis, x.ndim)
    total = np.abs(x).sum(along, keepdims=True) if p == 1 else np.sqrt((x * x).sum(along, keepdims=True))
    nothing = total == 0
    inverse = np.where(nothing, x.dtype.type(0), 1 / np.where(nothing, x.dtype.type(1), total))
    y = x * inverse
    return y, (lambda: Rowwise(inverse, ((-y * inverse, np.sign(x) if p == 1 else y),), (along,), x.shape),)


@op("LRN")
def local_response_normalization(
    x: Array, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> tuple[Array, Maps]:
    """y = x s^-β with s = bias + (α / size) Σ x², the sum over ``size`` neighbouring channels (axis 1).

    ∂y_i/∂x_j = s_i^-β [i = j] - (2 α β / size) x_i s_i^(-β-1) x_j for j in the window around i.
    """
    channels = x.shape[1]
    before, after = min((size - 1) // 2, channels), min(size // 2, channels)
    squares, width = np.moveaxis(x * x, 1, -1), before + after + 1
    sums = arrays.window_sum(squares, kernel=(width,), strides=(1,), dilations=(1,), pads=(before, after))
    sums = np.moveaxis(sums, -1, 1)
    s = bias + alpha / size * sums
    power = s**-beta

    def of_input() -> LinearMap:
        outer = (-2 * alpha * beta / size) * x * power / s

        def shifted(offset: int) -> LinearMap:
            """The window's entry at this offset, for all windows that have one."""
            target = (slice(None), slice(max(0, -offset), min(channels, channels - offset)))
            source = (slice(None), slice(max(0, offset), min(channels, channels + offset)))
            factor = outer[target] * x[source]
            rest = (slice(None),) * (x.ndim - 2)
            read, write = Slice(x.shape, source + rest), Slice(x.shape, target + rest)
            return Chain((read, Diagonal(factor, factor.shape, factor.shape), Adjoint(write)))

        own = Diagonal(power + outer * x, x.shape, x.shape)
        offsets = range(max(-before, 1 - channels), min(after, channels - 1) + 1)
        return Sum((own, *(shifted(offset) for offset in offsets if offset)))

    return x * power, (of_input,)


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
