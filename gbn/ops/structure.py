"""Ops that move entries and change none."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gbn.maps import Adjoint, Chain, Permute, Reshape, Select, Slice
from gbn.ops.base import Array, Maps, always, op

__all__: list[str] = []


def _reshaped(x: Array, shape: Sequence[int]) -> tuple[Array, Maps]:
    y = x.reshape(tuple(shape))
    return y, (lambda: Reshape(x.shape, y.shape),)


@op("Reshape", linear=always)
def reshape(x: Array, *, shape: Sequence[int], allowzero: int = 0) -> tuple[Array, Maps]:
    """Another shape: -1 is inferred, 0 copies the input's size (unless ``allowzero``)."""
    return _reshaped(x, [x.shape[k] if size == 0 and not allowzero else size for k, size in enumerate(shape)])


@op("Flatten", linear=always)
def flatten(x: Array, *, axis: int = 1) -> tuple[Array, Maps]:
    """A matrix: the axes before ``axis`` are its rows, the others its columns."""
    axis = axis % x.ndim if axis < 0 else axis
    return _reshaped(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


@op("Squeeze", linear=always)
def squeeze(x: Array, *, axes: Sequence[int] | None = None) -> tuple[Array, Maps]:
    """Without the axes named, each of size 1 (None: all such)."""
    return _reshaped(x, np.squeeze(x, None if axes is None else tuple(axes)).shape)


@op("Unsqueeze", linear=always)
def unsqueeze(x: Array, *, axes: Sequence[int]) -> tuple[Array, Maps]:
    """With new axes of size 1 at these positions of the result."""
    return _reshaped(x, np.expand_dims(x, tuple(axes)).shape)


@op("Transpose", linear=always)
def transpose(x: Array, *, perm: Sequence[int] | None = None) -> tuple[Array, Maps]:
    """Axes in the order ``perm`` (None: reversed)."""
    order = tuple(range(x.ndim))[::-1] if perm is None else tuple(axis % x.ndim for axis in perm)
    return x.transpose(order), (lambda: Permute(x.shape, order),)


@op("Concat", linear=always)
def concat(*inputs: Array, axis: int) -> tuple[Array, Maps]:
    """Inputs one after the other along ``axis``."""
    y = np.concatenate(inputs, axis=axis)
    ends = np.cumsum([x.shape[axis] for x in inputs]).tolist()

    def part(begin: int, end: int) -> Adjoint:
        slices = [slice(None)] * y.ndim
        slices[axis] = slice(begin, end)
        return Adjoint(Slice(y.shape, tuple(slices)))

    return y, tuple(lambda b=b, e=e: part(b, e) for b, e in zip([0, *ends[:-1]], ends, strict=True))


@op("Slice", linear=always)
def slice_(
    x: Array,
    *,
    starts: Sequence[int],
    ends: Sequence[int],
    axes: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
) -> tuple[Array, Maps]:
    """x[starts:ends:steps] along ``axes`` (None: the first ones); out-of-range ends are clipped."""
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    slices = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        # Counting backwards past the first entry needs None: -1 would mean the last one.
        stop = None if step < 0 and end < -x.shape[axis] else end
        slices[axis] = slice(start, stop, step)
    chosen = tuple(slices)
    return x[chosen], (lambda: Slice(x.shape, chosen),)


@op("Pad", linear=always)
def pad(
    x: Array, *, pads: Sequence[int], mode: str = "constant", value: float = 0.0, axes: Sequence[int] | None = None
) -> tuple[Array, Maps]:
    """Entries added (or, where negative, cut) before and after each axis: begins..., then ends....

    mode: "constant" (``value``), "reflect", "edge" or "wrap".
    """
    axes = range(x.ndim) if axes is None else axes
    begins, ends = [0] * x.ndim, [0] * x.ndim
    for axis, begin, end in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        begins[axis], ends[axis] = begin, end
    cut = tuple(slice(max(0, -b), size - max(0, -e)) for b, e, size in zip(begins, ends, x.shape, strict=True))
    width = [(max(0, b), max(0, e)) for b, e in zip(begins, ends, strict=True)]
    if mode not in ("constant", "reflect", "edge", "wrap"):
        raise ValueError(f"mode: got {mode!r}, expected 'constant', 'reflect', 'edge' or 'wrap'")
    if mode != "constant":
        index = np.pad(np.arange(x.size).reshape(x.shape)[cut], width, mode=mode)  # type: ignore[call-overload]
        return x.reshape(-1)[index], (lambda: Select(x.shape, index),)
    y = np.pad(x[cut], width, constant_values=value)
    inside = tuple(slice(b, size - e) for (b, e), size in zip(width, y.shape, strict=True))
    maps: Maps = (lambda: Adjoint(Slice(y.shape, inside)),)
    if any(part.stop - part.start != size for part, size in zip(cut, x.shape, strict=True)):
        maps = (lambda: Chain((Slice(x.shape, cut), Adjoint(Slice(y.shape, inside)))),)
    return y, maps
