"""Pooling over windows and over all positions.  Arrays: (samples, channels, *spatial)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gbn import arrays
from gbn.maps import Chain, Diagonal, Select, WindowSelect, WindowSum
from gbn.ops.base import Array, Maps, always, op
from gbn.ops.reduction import reduced
from gbn.ops.windows import geometry

__all__: list[str] = []


@op("MaxPool")
def max_pool(
    x: Array,
    *,
    kernel_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    ceil_mode: int = 0,
    auto_pad: str = "NOTSET",
) -> tuple[Array, Maps]:
    """The greatest entry of each window; of equal ones the first, which alone gets the derivative."""
    how = geometry(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad)
    how["kernel"] = tuple(kernel_shape)
    y, index = arrays.max_pool(x, ceil_mode=bool(ceil_mode), **how)
    return y, (lambda: WindowSelect(index, x.shape, how),)


@op("AveragePool", linear=always)
def average_pool(
    x: Array,
    *,
    kernel_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    auto_pad: str = "NOTSET",
) -> tuple[Array, Maps]:
    """The mean of each window; padding counts only with ``count_include_pad``."""
    how = geometry(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad)
    how["kernel"] = tuple(kernel_shape)
    total = arrays.window_sum(x, ceil_mode=bool(ceil_mode), **how)
    entries = _entries(x.shape[2:], total.shape[2:], how, bool(count_include_pad))
    # A window that lies in the padding altogether has no entries; its mean is taken as zero.
    factor = 1 / np.maximum(entries, 1).astype(x.dtype)
    sums = WindowSum(x.shape, total.shape, how, bool(ceil_mode))
    return total * factor, (lambda: Chain((sums, Diagonal(factor, total.shape, total.shape))),)


def _entries(spatial: Sequence[int], out: Sequence[int], how: dict[str, Any], include_pad: bool) -> Array:
    """How many entries each window averages over; what ``ceil_mode`` adds beyond the padding never counts."""
    rank = len(spatial)
    counts = np.ones(())
    for axis in range(rank):
        begin, end = how["pads"][axis], how["pads"][rank + axis]
        first = np.arange(out[axis]) * how["strides"][axis] - begin
        taps = first[:, None] + np.arange(how["kernel"][axis]) * how["dilations"][axis]
        low, high = (-begin, spatial[axis] + end) if include_pad else (0, spatial[axis])
        counts = np.multiply.outer(counts, ((taps >= low) & (taps < high)).sum(axis=1))
    return counts


def _norm_slope(x: Array, y: Array, p: int) -> tuple[Array, Array]:
    """∂y/∂x = |x|^(p-1) sign(x) · y^(1-p) for y = (Σ |x|^p)^(1/p), as its two factors; 0 where y is 0."""
    empty = y == 0
    outer = np.where(empty, y.dtype.type(0), np.where(empty, y.dtype.type(1), y) ** (1 - p))
    return np.sign(x) * np.abs(x) ** (p - 1), outer


@op("LpPool")
def lp_pool(
    x: Array,
    *,
    kernel_shape: Sequence[int],
    p: int = 2,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    ceil_mode: int = 0,
    auto_pad: str = "NOTSET",
) -> tuple[Array, Maps]:
    """(Σ |x|^p)^(1/p) over each window."""
    how = geometry(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad)
    how["kernel"] = tuple(kernel_shape)
    y = arrays.window_sum(np.abs(x) ** p, ceil_mode=bool(ceil_mode), **how) ** (1 / p)

    def chain() -> Chain:
        inner, outer = _norm_slope(x, y, p)
        sums = WindowSum(x.shape, y.shape, how, bool(ceil_mode))
        return Chain((Diagonal(inner, x.shape, x.shape), sums, Diagonal(outer, y.shape, y.shape)))

    return y, (chain,)


@op("GlobalAveragePool", linear=always)
def global_average_pool(x: Array) -> tuple[Array, Maps]:
    """The mean over all spatial axes.  Shape: (samples, channels, *spatial) -> (samples, channels, 1, ...)."""
    return reduced(x, range(2, x.ndim), 1, np.mean, lambda x, y: y.size / x.size, noop_with_empty_axes=1)


@op("GlobalLpPool")
def global_lp_pool(x: Array, *, p: int = 2) -> tuple[Array, Maps]:
    """(Σ |x|^p)^(1/p) over all spatial axes.  Shape: (samples, channels, *spatial) -> (samples, channels, 1, ...)."""

    def norm(x: Array, **how: Any) -> Array:
        return (np.abs(x) ** p).sum(**how) ** (1 / p)

    return reduced(x, range(2, x.ndim), 1, norm, lambda x, y: math.prod(_norm_slope(x, y, p)), noop_with_empty_axes=1)


@op("GlobalMaxPool")
def global_max_pool(x: Array) -> tuple[Array, Maps]:
    """The greatest entry over all spatial axes; of equal ones the first, which alone gets the derivative.

    Shape: (samples, channels, *spatial) -> (samples, channels, 1, ...).
    """
    rows = x.reshape(*x.shape[:2], math.prod(x.shape[2:]))
    first = np.arange(math.prod(x.shape[:2])).reshape(x.shape[:2]) * rows.shape[2]
    select = Select(x.shape, (first + rows.argmax(2)).reshape(*x.shape[:2], *(1,) * (x.ndim - 2)))
    return select.push(x), (lambda: select,)
