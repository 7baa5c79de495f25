"""Linear maps of sliding windows: convolutions and pooling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gbn import arrays
from gbn.maps.core import Array, LinearMap, Shape, lead_of

__all__ = ["Convolution", "TransposedKernel", "WindowSelect", "WindowSum"]


@dataclass(eq=False)
class Convolution(LinearMap):
    """Cross-correlation as ONNX ``Conv`` defines it, linear in the image or in the kernel, the other one fixed.

    variable="input":  y = conv(v, fixed);   variable="weight": y = conv(fixed, v).
    ``geometry``: strides, dilations, pads (begins then ends), groups.
    """

    fixed: Array
    variable: str
    in_shape: Shape
    out_shape: Shape
    geometry: dict[str, Any]

    def push(self, v: Array) -> Array:
        lead = lead_of(v, self.in_shape)
        if self.variable == "input":
            out = arrays.convolve(v.reshape(-1, *self.in_shape[1:]), self.fixed, **self.geometry)
            return out.reshape(lead + self.out_shape)
        kernels = v.reshape(-1, *self.in_shape)
        out = np.stack([arrays.convolve(self.fixed, kernel, **self.geometry) for kernel in kernels])
        return out.reshape(lead + self.out_shape)

    def pull(self, g: Array) -> Array:
        lead = lead_of(g, self.out_shape)
        if self.variable == "input":
            g = g if not lead else g.reshape(-1, *self.out_shape[1:])
            shape = (g.shape[0], *self.in_shape[1:])
            out = arrays.convolve_pull_input(g, self.fixed, shape, **self.geometry)
            return out if not lead else out.reshape(lead + self.in_shape)
        return arrays.convolve_pull_weight(g, self.fixed, self.in_shape[2:], **self.geometry)

    def squared(self) -> LinearMap:
        return Convolution(self.fixed**2, self.variable, self.in_shape, self.out_shape, self.geometry)


@dataclass(eq=False)
class TransposedKernel(LinearMap):
    """Transposed convolution as ONNX ``ConvTranspose`` defines it, linear in the kernel, the image fixed.

    In the image it is the adjoint of a :class:`Convolution` with the same kernel.

    fixed: (samples, channels, *spatial); in_shape: (channels, out / groups, *kernel).
    """

    fixed: Array
    in_shape: Shape
    out_shape: Shape
    geometry: dict[str, Any]

    def push(self, v: Array) -> Array:
        lead = lead_of(v, self.in_shape)
        kernels = v.reshape(-1, *self.in_shape)
        pull = arrays.convolve_pull_input
        out = np.stack([pull(self.fixed, kernel, self.out_shape, **self.geometry) for kernel in kernels])
        return out.reshape(lead + self.out_shape)

    def pull(self, g: Array) -> Array:
        lead = lead_of(g, self.out_shape)
        images = g.reshape(-1, *self.out_shape)
        pull = arrays.convolve_pull_weight
        out = np.stack([pull(self.fixed, image, self.in_shape[2:], **self.geometry) for image in images])
        return out.reshape(lead + self.in_shape)

    def squared(self) -> LinearMap:
        return TransposedKernel(self.fixed**2, self.in_shape, self.out_shape, self.geometry)


@dataclass(eq=False)
class WindowSum(LinearMap):
    """Sums over sliding windows; padding counts as zero.  ``geometry``: kernel, strides, dilations, pads."""

    in_shape: Shape
    out_shape: Shape
    geometry: dict[str, Any]
    ceil_mode: bool = False

    def push(self, v: Array) -> Array:
        return arrays.window_sum(v, ceil_mode=self.ceil_mode, **self.geometry)

    def pull(self, g: Array) -> Array:
        return arrays.window_scatter(g, self.in_shape, **self.geometry)

    def squared(self) -> LinearMap:
        return self


@dataclass(eq=False)
class WindowSelect(LinearMap):
    """One entry of each sliding window: the tap recorded in ``index`` (max pooling at its operating point)."""

    index: Array
    in_shape: Shape
    geometry: dict[str, Any]

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return self.index.shape

    def push(self, v: Array) -> Array:
        return arrays.pool_select(v, self.index, **self.geometry)

    def pull(self, g: Array) -> Array:
        return arrays.pool_scatter(g, self.index, self.in_shape, **self.geometry)

    def squared(self) -> LinearMap:
        return self
