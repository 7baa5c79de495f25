"""Convolution and pooling over 1 to 3 spatial axes.  Arrays: (samples, channels, *spatial)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gbn import arrays
from gbn.maps import Chain, Convolution, Diagonal, WindowSelect, WindowSum
from gbn.ops.base import Array, Maps, always, op, product

__all__: list[str] = []


def _geometry(
    spatial: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    pads: Sequence[int] | None,
    auto_pad: str,
) -> dict[str, Any]:
    """Defaults filled in, and ``auto_pad`` turned into pads (begins, then ends)."""
    rank = len(kernel)
    strides = tuple(strides or (1,) * rank)
    dilations = tuple(dilations or (1,) * rank)
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        total = [max(0, (-(-size // s) - 1) * s + r - size) for size, s, r in zip(spatial, strides, reach, strict=True)]
        small = [t // 2 for t in total]
        large = [t - s for t, s in zip(total, small, strict=True)]
        pads = [*small, *large] if auto_pad == "SAME_UPPER" else [*large, *small]
    return {"strides": strides, "dilations": dilations, "pads": tuple(pads or (0,) * (2 * rank))}


@op("Conv", linear=product)
def conv(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    kernel_shape: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    group: int = 1,
    auto_pad: str = "NOTSET",
) -> tuple[Array, Maps]:
    """Cross-correlation.  w: (out, in / group, *kernel); b: (out,)."""
    geometry = _geometry(x.shape[2:], w.shape[2:], strides, dilations, pads, auto_pad) | {"groups": group}
    y = arrays.convolve(x, w, **geometry)
    maps: Maps = (
        lambda: Convolution(w, "input", x.shape, y.shape, geometry),
        lambda: Convolution(x, "weight", w.shape, y.shape, geometry),
    )
    if b is None:
        return y, maps
    view = (len(b),) + (1,) * (x.ndim - 2)
    y += b.reshape(view)
    return y, (*maps, lambda: Diagonal(1.0, b.shape, y.shape, view))


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
    geometry = _geometry(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad)
    geometry["kernel"] = tuple(kernel_shape)
    y, index = arrays.max_pool(x, ceil_mode=bool(ceil_mode), **geometry)
    return y, (lambda: WindowSelect(index, x.shape, geometry),)


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
    geometry = _geometry(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad)
    geometry["kernel"] = tuple(kernel_shape)
    total = arrays.window_sum(x, ceil_mode=bool(ceil_mode), **geometry)
    entries = _entries(x.shape[2:], total.shape[2:], geometry, bool(count_include_pad))
    # A window that lies in the padding altogether has no entries; its mean is taken as zero.
    factor = 1 / np.maximum(entries, 1).astype(x.dtype)
    sums = WindowSum(x.shape, total.shape, geometry, bool(ceil_mode))
    return total * factor, (lambda: Chain((sums, Diagonal(factor, total.shape, total.shape))),)


def _entries(spatial: Sequence[int], out: Sequence[int], geometry: dict[str, Any], include_pad: bool) -> Array:
    """How many entries each window averages over; what ``ceil_mode`` adds beyond the padding never counts."""
    rank = len(spatial)
    counts = np.ones(())
    for axis in range(rank):
        begin, end = geometry["pads"][axis], geometry["pads"][rank + axis]
        first = np.arange(out[axis]) * geometry["strides"][axis] - begin
        taps = first[:, None] + np.arange(geometry["kernel"][axis]) * geometry["dilations"][axis]
        low, high = (-begin, spatial[axis] + end) if include_pad else (0, spatial[axis])
        counts = np.multiply.outer(counts, ((taps >= low) & (taps < high)).sum(axis=1))
    return counts
