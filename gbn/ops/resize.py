"""Resampling: every output position reads a few input positions along each axis, one axis at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gbn.maps import Chain, LinearMap, Reshape, Shape, Sparse
from gbn.ops.base import Array, Maps, always, op

__all__ = ["resized"]

Axis = tuple[int, int, float]
_TRANSFORMATIONS = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
_POLICIES: dict[str, Callable[..., float]] = {"not_larger": min, "not_smaller": max}


def resized(
    shape: Shape,
    *,
    scales: Sequence[float] | None = None,
    sizes: Sequence[int] | None = None,
    axes: Sequence[int] | None = None,
    keep_aspect_ratio_policy: str = "stretch",
) -> list[Axis]:
    """The axes that are resized: (axis, new size, scale).

    Raises:
        ValueError: neither scales nor sizes, or both; numbers that do not fit the axes, or are not positive.
    """
    chosen = [range(len(shape))[axis] for axis in (range(len(shape)) if axes is None else axes)]
    given = scales if sizes is None else sizes
    if given is None or (scales is not None and sizes is not None) or len(given) != len(chosen):
        raise ValueError(f"scales {scales} and sizes {sizes}: expected one of them, with {len(chosen)} numbers")
    if not all(0 < number < math.inf for number in given):
        raise ValueError(f"scales or sizes: got {list(given)}, expected positive numbers")
    if sizes is None:
        return [(axis, math.floor(shape[axis] * s), float(s)) for axis, s in zip(chosen, given, strict=True)]
    ratios = [size / shape[axis] for axis, size in zip(chosen, sizes, strict=True)]
    if keep_aspect_ratio_policy == "stretch":
        return [(axis, int(size), r) for axis, size, r in zip(chosen, sizes, ratios, strict=True)]
    if keep_aspect_ratio_policy not in _POLICIES:
        expected = "'stretch', 'not_larger' or 'not_smaller'"
        raise ValueError(f"keep_aspect_ratio_policy: got {keep_aspect_ratio_policy!r}, expected {expected}")
    scale = _POLICIES[keep_aspect_ratio_policy](ratios)
    return [(axis, math.floor(scale * shape[axis] + 0.5), scale) for axis in chosen]


def _coordinates(size: int, out: int, scale: float, mode: str) -> Array:
    """Where on the input's axis each output position lies."""
    position = np.arange(out, dtype=np.float64)
    length = scale * size
    if mode == "asymmetric":
        return position / scale
    if mode == "align_corners":
        return position * 0 if length == 1 else position * ((size - 1) / (length - 1))
    if mode == "pytorch_half_pixel" and length == 1:
        return position * 0 - 0.5
    centred = (position + 0.5) / scale - 0.5
    return centred + size / 2 * (1 - out / length) if mode == "half_pixel_symmetric" else centred


def _cubic(t: Array, a: float) -> list[Array]:
    """Weights of the positions -1, 0, 1, 2 for a point at t in [0, 1): Keys' kernel of parameter a (1981, eq. 4)."""

    def near(d: Array) -> Array:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: Array) -> Array:
        return ((d - 5) * d + 8) * d * a - 4 * a

    return [far(1 + t), near(t), near(1 - t), far(2 - t)]


_NEAREST: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _taps(x: Array, mode: str, nearest_mode: str, cubic_coeff_a: float) -> tuple[Array, list[Array]]:
    """The first position that each coordinate reads, and the weights of that and the following ones."""
    if mode == "nearest":
        if nearest_mode not in _NEAREST:
            raise ValueError(f"nearest_mode: got {nearest_mode!r}, expected one of {', '.join(_NEAREST)}")
        return _NEAREST[nearest_mode](x), [np.ones_like(x)]
    below = np.floor(x)
    t = x - below
    if mode == "linear":
        return below, [1 - t, t]
    if mode == "cubic":
        return below - 1, _cubic(t, cubic_coeff_a)
    raise ValueError(f"mode: got {mode!r}, expected 'nearest', 'linear' or 'cubic'")


def _matrix(size: int, first: Array, weights: Sequence[Array], exclude_outside: bool) -> Any:
    """The weights as a sparse matrix, shape (out, size): positions outside count as the nearest one, or not at all."""
    from scipy import sparse  # not needed by most nets, and slow to import

    place = first.astype(np.intp)[:, None] + np.arange(len(weights))
    values = np.stack(weights, axis=1)
    if exclude_outside:
        values = np.where((place < 0) | (place >= size), 0, values)
        total = values.sum(axis=1, keepdims=True)
        values = values / np.where(total == 0, 1, total)
    rows = np.repeat(np.arange(len(first)), len(weights))
    columns = np.clip(place, 0, size - 1).reshape(-1)
    return sparse.coo_array((values.reshape(-1), (rows, columns)), shape=(len(first), size)).tocsr()


def _resampled(x: Array, axes: Sequence[Axis], matrix: Callable[[int, int, float], Any]) -> tuple[Array, Maps]:
    """One sparse map after the other; of two entries one path joins them, a product of one weight an axis."""
    maps: list[LinearMap] = []
    shape = x.shape
    for axis, out, scale in axes:
        if out != shape[axis] or scale != 1:
            maps.append(Sparse(matrix(shape[axis], out, scale).astype(x.dtype), shape, axis))
            shape = maps[-1].out_shape
    chain = Chain(tuple(maps)) if maps else Reshape(x.shape, x.shape)
    return chain.push(x), (lambda: chain,)


@op("Resize", linear=always)
def resize(
    x: Array,
    *,
    scales: Sequence[float] | None = None,
    sizes: Sequence[int] | None = None,
    axes: Sequence[int] | None = None,
    mode: str = "nearest",
    coordinate_transformation_mode: str = "half_pixel",
    nearest_mode: str = "round_prefer_floor",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    keep_aspect_ratio_policy: str = "stretch",
    extrapolation_value: float = 0.0,
    antialias: int = 0,
) -> tuple[Array, Maps]:
    """x at other positions along ``axes`` (None: all), as many as ``sizes`` say, or ``scales`` times as many.

    mode: "nearest", "linear" or "cubic"; of this ``exclude_outside`` leaves out the weights beyond the edge, which else
    count for the last entry.  Not taken: ``antialias``, and the region of "tf_crop_and_resize".
    """
    if antialias:
        raise ValueError("Resize with antialias=1 is not taken; export the model without it")
    if coordinate_transformation_mode not in _TRANSFORMATIONS:
        known = ", ".join(_TRANSFORMATIONS)
        got = coordinate_transformation_mode
        raise ValueError(f"coordinate_transformation_mode: got {got!r}, expected one of {known}")

    def matrix(size: int, out: int, scale: float) -> Any:
        place = _coordinates(size, out, scale, coordinate_transformation_mode)
        first, weights = _taps(place, mode, nearest_mode, cubic_coeff_a)
        return _matrix(size, first, weights, mode == "cubic" and bool(exclude_outside))

    chosen = resized(x.shape, scales=scales, sizes=sizes, axes=axes, keep_aspect_ratio_policy=keep_aspect_ratio_policy)
    return _resampled(x, chosen, matrix)


@op("Upsample", linear=always)
def upsample(x: Array, *, scales: Sequence[float], mode: str = "nearest") -> tuple[Array, Maps]:
    """``Resize`` of old: position i reads i / scale, rounded down or interpolated."""
    return resize(x, scales=scales, mode=mode, coordinate_transformation_mode="asymmetric", nearest_mode="floor")
