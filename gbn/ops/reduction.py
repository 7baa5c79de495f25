"""Sums, products, norms and extremes over axes, positions of extremes, and running sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from gbn.maps import Adjoint, Cumulative, Diagonal
from gbn.ops.base import Array, Maps, Varying, always, never, op

__all__ = ["reduced"]

Axes = Sequence[int] | None


def reduced(
    x: Array,
    axes: Axes,
    keepdims: int,
    value: Callable[..., Any],
    weight: Callable[[Array, Array], Array | float],
    noop_with_empty_axes: int = 0,
) -> tuple[Array, Maps]:
    """y = value(x, axis, keepdims) and its map, dy = Σ_axes weight(x, y) dx: a weighted sum, adjoint of broadcasting.

    ``weight`` is given y with the axes kept.  ``axes``: None or empty: all, or none with ``noop_with_empty_axes``.
    """
    everything = () if noop_with_empty_axes else range(x.ndim)
    chosen = tuple(axis % x.ndim for axis in axes) if axes is not None and len(axes) else tuple(everything)
    full = np.asarray(value(x, axis=chosen, keepdims=True))
    y = full if keepdims else full.reshape([size for axis, size in enumerate(x.shape) if axis not in chosen])
    return y, (lambda: Adjoint(Diagonal(weight(x, full), y.shape, x.shape, view=full.shape)),)


def _reduction(
    name: str,
    value: Callable[..., Any],
    weight: Callable[[Array, Array], Array | float],
    linear: Callable[[Varying], bool] = never,
) -> None:
    @op(name, linear)
    def reduce(
        x: Array, *, axes: Sequence[int] | None = None, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> tuple[Array, Maps]:
        return reduced(x, axes, keepdims, value, weight, noop_with_empty_axes)


def _holders(x: Array, y: Array) -> Array:
    """Those that are equal to an extreme share its derivative in equal parts."""
    mask = (x == y).astype(x.dtype)
    axes = tuple(axis for axis, size in enumerate(y.shape) if size == 1)
    return mask / mask.sum(axis=axes, keepdims=True)


def _log_sum_exp(x: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    top = x.max(axis=axis, keepdims=True, initial=-np.inf)
    top = np.where(np.isfinite(top), top, x.dtype.type(0))
    with np.errstate(divide="ignore"):
        return top + np.log(np.exp(x - top).sum(axis=axis, keepdims=True))


def _others(x: Array, y: Array) -> Array:
    """The product of all other entries, also where some are 0."""
    axes = tuple(axis for axis, size in enumerate(y.shape) if size == 1)
    zero = x == 0
    rest = np.where(zero, x.dtype.type(1), x)
    zeros = zero.sum(axis=axes, keepdims=True)
    alone = np.where(zero, zeros == 1, zeros == 0)
    return np.where(alone, rest.prod(axis=axes, keepdims=True) / rest, x.dtype.type(0))


def _direction(x: Array, y: Array) -> Array:
    """x / y, and 0 where the norm y is 0."""
    return x / np.where(y == 0, y.dtype.type(1), y)


def _euclidean(x: Array, **how: Any) -> Array:
    return np.sqrt((x * x).sum(**how))


_reduction("ReduceSum", np.sum, lambda x, y: 1.0, always)
_reduction("ReduceMean", np.mean, lambda x, y: y.size / x.size, always)
_reduction("ReduceMax", partial(np.max, initial=-np.inf), _holders)
_reduction("ReduceMin", partial(np.min, initial=np.inf), _holders)
_reduction("ReduceProd", np.prod, _others)
_reduction("ReduceL1", lambda x, **how: np.abs(x).sum(**how), lambda x, y: np.sign(x))
_reduction("ReduceL2", _euclidean, _direction)
_reduction("ReduceSumSquare", lambda x, **how: (x * x).sum(**how), lambda x, y: 2 * x)
_reduction("ReduceLogSum", lambda x, **how: np.log(x.sum(**how)), lambda x, y: np.exp(-y))
_reduction("ReduceLogSumExp", _log_sum_exp, lambda x, y: np.exp(x - y))


def _position(name: str, find: Callable[..., Any]) -> None:
    @op(name)
    def compute(x: Array, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> tuple[Array, Maps]:
        if select_last_index:
            found = x.shape[axis] - 1 - find(np.flip(x, axis), axis=axis, keepdims=bool(keepdims))
        else:
            found = find(x, axis=axis, keepdims=bool(keepdims))
        return np.asarray(found).astype(x.dtype), (None,)


_position("ArgMax", np.argmax)
_position("ArgMin", np.argmin)


@op("CumSum", linear=always)
def cum_sum(x: Array, *, axis: int, exclusive: int = 0, reverse: int = 0) -> tuple[Array, Maps]:
    """Running sums along ``axis``: without the entry itself (``exclusive``), from the end (``reverse``)."""
    sums = Cumulative(x.shape, axis % x.ndim, bool(exclusive), bool(reverse))
    return sums.push(x), (lambda: sums,)
