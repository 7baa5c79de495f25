"""Ops that move entries and change none."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gbn.maps import Adjoint, Chain, Diagonal, Permute, Reshape, Select, Slice
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


@op("Expand", linear=always)
def expand(x: Array, *, shape: Sequence[int]) -> tuple[Array, Maps]:
    """The input broadcast with an array of that shape: a size 1 on either side takes the other's."""
    y = np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape)))
    return y, (lambda: Diagonal(1.0, x.shape, y.shape),)


@op("Tile", linear=always)
def tile(x: Array, *, repeats: Sequence[int]) -> tuple[Array, Maps]:
    """Each axis repeated as often as ``repeats`` says, one copy after the other."""
    y = np.tile(x, tuple(repeats))
    if y.ndim != len(repeats) or y.ndim != x.ndim:
        raise ValueError(f"repeats: got {len(repeats)} numbers, expected one for each of {x.ndim} axes")
    apart = tuple(size for pair in zip(repeats, x.shape, strict=True) for size in pair)
    once = tuple(size for pair in zip([1] * x.ndim, x.shape, strict=True) for size in pair)
    return y, (lambda: Chain((Diagonal(1.0, x.shape, apart, view=once), Reshape(apart, y.shape))),)


@op("Split", linear=always)
def split_(
    x: Array, *, index: int = 0, axis: int = 0, split: Sequence[int] | None = None, num_outputs: int = 0
) -> tuple[Array, Maps]:
    """Part number ``index`` of x cut along ``axis`` into parts of sizes ``split``, or ``num_outputs`` equal ones.

    Where these do not divide the axis, the last is smaller.  A vertex holds one part: a split is several vertices.
    """
    size, count = x.shape[axis], len(split) if split is not None else num_outputs
    if not 0 <= index < count:
        raise ValueError(f"index: got {index}, expected 0 to {count - 1}, for there are {count} parts")
    if split is None:
        part = -(-size // count)
        start, stop = index * part, min((index + 1) * part, size)
    else:
        if sum(split) != size or min(split) < 0:
            raise ValueError(f"split: got {list(split)}, expected sizes that add up to {size}")
        start = sum(split[:index])
        stop = start + split[index]
    return slice_(x, starts=[start], ends=[stop], axes=[axis])


def _regrouped(x: Array, shape: Sequence[int], perm: Sequence[int], result: Sequence[int]) -> tuple[Array, Maps]:
    """x seen in another shape, its axes there in another order, and the result in a third shape."""
    regrouped = x.reshape(tuple(shape))
    moved = regrouped.transpose(tuple(perm))
    y = moved.reshape(tuple(result))
    return y, (
        lambda: Chain(
            (
                Reshape(x.shape, regrouped.shape),
                Permute(regrouped.shape, tuple(perm)),
                Reshape(moved.shape, y.shape),
            )
        ),
    )


def _check_mode(mode: str) -> None:
    if mode not in ("DCR", "CRD"):
        raise ValueError(f"mode: got {mode!r}, expected 'DCR' or 'CRD'")


@op("DepthToSpace", linear=always)
def depth_to_space(x: Array, *, blocksize: int, mode: str = "DCR") -> tuple[Array, Maps]:
    """Channels laid out as blocks of pixels: (n, c b², h, w) -> (n, c, h b, w b).

    mode: "DCR" (the place in the block is the slower part of the channel number) or "CRD" (the faster).
    """
    _check_mode(mode)
    n, channels, h, w = x.shape
    b, depth = blocksize, channels // blocksize**2
    if mode == "DCR":
        return _regrouped(x, (n, b, b, depth, h, w), (0, 3, 4, 1, 5, 2), (n, depth, h * b, w * b))
    return _regrouped(x, (n, depth, b, b, h, w), (0, 1, 4, 2, 5, 3), (n, depth, h * b, w * b))


@op("SpaceToDepth", linear=always)
def space_to_depth(x: Array, *, blocksize: int, mode: str = "DCR") -> tuple[Array, Maps]:
    """Blocks of pixels laid out as channels: (n, c, h b, w b) -> (n, c b², h, w); ``mode`` as for DepthToSpace."""
    _check_mode(mode)
    n, channels, high, wide = x.shape
    b, h, w = blocksize, high // blocksize, wide // blocksize
    perm = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    return _regrouped(x, (n, channels, h, b, w, b), perm, (n, channels * b * b, h, w))


@op("Trilu", linear=always)
def trilu(x: Array, *, k: int = 0, upper: int = 1) -> tuple[Array, Maps]:
    """The part of each matrix (the last two axes) on and above diagonal ``k``, or on and below it; 0 elsewhere."""
    rows, columns = x.shape[-2:]
    above = np.arange(columns) - np.arange(rows)[:, None]
    mask = above >= k if upper else above <= k
    return np.where(mask, x, x.dtype.type(0)), (lambda: Diagonal(mask.astype(x.dtype), x.shape, x.shape),)


@op("CenterCropPad", linear=always)
def center_crop_pad(x: Array, *, shape: Sequence[int], axes: Sequence[int] | None = None) -> tuple[Array, Maps]:
    """Each axis cut, or padded with zeros, to the size given, evenly at both ends, the odd one at the last."""
    chosen = list(range(x.ndim)) if axes is None else list(axes)
    more = [size - x.shape[axis] for axis, size in zip(chosen, shape, strict=True)]
    begins = [m // 2 if m > 0 else -(-m // 2) for m in more]
    return pad(x, pads=[*begins, *(m - b for m, b in zip(more, begins, strict=True))], axes=chosen)
