"""Sums and means over axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gbn.maps import Adjoint, Diagonal
from gbn.ops.base import Array, Maps, always, op

__all__: list[str] = []


def _reduce(x: Array, axes: Sequence[int] | None, keepdims: int, mean: bool) -> tuple[Array, Maps]:
    """A sum is the adjoint of broadcasting; a mean is a scaled sum."""
    chosen = tuple(range(x.ndim)) if axes is None else tuple(axis % x.ndim for axis in axes)
    kept = tuple(1 if axis in chosen else size for axis, size in enumerate(x.shape))
    y = np.asarray(x.sum(axis=chosen, keepdims=bool(keepdims)))
    factor = 1.0 / math.prod(x.shape[axis] for axis in chosen) if mean else 1.0
    y = y * x.dtype.type(factor) if mean else y
    return y, (lambda: Adjoint(Diagonal(factor, y.shape, x.shape, view=kept)),)


@op("ReduceSum", linear=always)
def reduce_sum(x: Array, *, axes: Sequence[int] | None = None, keepdims: int = 1) -> tuple[Array, Maps]:
    """The sum over ``axes`` (None: all)."""
    return _reduce(x, axes, keepdims, mean=False)


@op("ReduceMean", linear=always)
def reduce_mean(x: Array, *, axes: Sequence[int] | None = None, keepdims: int = 1) -> tuple[Array, Maps]:
    """The mean over ``axes`` (None: all)."""
    return _reduce(x, axes, keepdims, mean=True)


@op("GlobalAveragePool", linear=always)
def global_average_pool(x: Array) -> tuple[Array, Maps]:
    """The mean over all spatial axes.  Shape: (samples, channels, *spatial) -> (samples, channels, 1, ...)."""
    return _reduce(x, range(2, x.ndim), 1, mean=True)
