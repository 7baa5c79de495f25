"""Convolution and its transpose over any number of spatial axes.  Arrays: (samples, channels, *spatial)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gbn import arrays
from gbn.maps import Adjoint, Chain, Convolution, Diagonal, LinearMap, Slice, TransposedKernel
from gbn.ops.base import Array, Maps, op, product
from gbn.ops.windows import geometry, transposed_geometry

__all__: list[str] = []


def _with_bias(y: Array, b: Array | None, maps: Maps) -> tuple[Array, Maps]:
    """The bias added in place, a number a channel."""
    if b is None:
        return y, maps
    view = (len(b),) + (1,) * (y.ndim - 2)
    y += b.reshape(view)
    return y, (*maps, lambda: Diagonal(1.0, b.shape, y.shape, view))


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
    how = geometry(x.shape[2:], w.shape[2:], strides, dilations, pads, auto_pad) | {"groups": group}
    y = arrays.convolve(x, w, **how)
    shape = y.shape
    maps: Maps = (
        lambda: Convolution(w, "input", x.shape, shape, how),
        lambda: Convolution(x, "weight", w.shape, shape, how),
    )
    return _with_bias(y, b, maps)


@op("ConvTranspose", linear=product)
def conv_transpose(
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
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
) -> tuple[Array, Maps]:
    """The adjoint of the convolution with these strides, dilations and pads.  w: (in, out / group, *kernel); b: (out,).

    ``output_padding``: entries added at the end of each axis; ``output_shape``: spatial sizes, in place of ``pads``.
    """
    if len(w) != x.shape[1]:
        raise ValueError(f"a kernel for {len(w)} channels and an input of {x.shape[1]}")
    how, spatial, positions = transposed_geometry(
        x.shape[2:], w.shape[2:], strides, dilations, pads, auto_pad, output_padding, output_shape
    )
    how["groups"] = group
    shape = (len(x), w.shape[1] * group, *spatial)
    grow = None
    if positions != x.shape[2:]:
        parts = tuple(slice(size) for size in x.shape[2:])
        grow = Adjoint(Slice((*x.shape[:2], *positions), (slice(None), slice(None), *parts)))
    image = x if grow is None else grow.push(x)

    def of_input() -> LinearMap:
        spread = Adjoint(Convolution(w, "input", shape, image.shape, how))
        return spread if grow is None else Chain((grow, spread))

    y = np.asarray(arrays.convolve_pull_input(image, w, shape, **how))
    return _with_bias(y, b, (of_input, lambda: TransposedKernel(image, w.shape, shape, how)))
