"""Linear maps that pick entries, or mix those of one axis."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gbn.maps.core import Array, LinearMap, Shape, lead_of

__all__ = ["Cumulative", "Select", "Sparse"]


@dataclass(eq=False)
class Select(LinearMap):
    """Gather: output entry k is input entry ``index[k]`` (flat positions); its adjoint scatters and adds.

    ``carried``: the last axes that travel along whole, as the rows of an embedding table do; positions then count the
    axes before them.
    """

    in_shape: Shape
    index: Array
    carried: int = 0

    @property
    def _tail(self) -> Shape:
        return self.in_shape[len(self.in_shape) - self.carried :]

    @property
    def _size(self) -> int:
        return math.prod(self.in_shape[: len(self.in_shape) - self.carried])

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return self.index.shape + self._tail

    @cached_property
    def _distinct(self) -> bool:
        return int(np.bincount(self.index.reshape(-1), minlength=1).max()) <= 1

    @cached_property
    def _adders(self) -> dict[Any, Any]:
        return {}

    def _adder(self, dtype: Any) -> Any:
        """The adjoint as a matrix of zeros and ones, one row an input entry."""
        if dtype not in self._adders:
            from scipy import sparse  # not needed by most nets, and slow to import

            positions = self.index.reshape(-1)
            ones, ends = np.ones(positions.size, dtype), np.arange(positions.size + 1)
            matrix = sparse.csc_array((ones, positions, ends), shape=(self._size, positions.size))
            self._adders[dtype] = matrix.tocsr()
        return self._adders[dtype]

    def push(self, v: Array) -> Array:
        lead = lead_of(v, self.in_shape)
        return v.reshape(*lead, self._size, *self._tail).take(self.index, axis=len(lead))

    def pull(self, g: Array) -> Array:
        lead, tail, place = lead_of(g, self.out_shape), self._tail, self.index.reshape(-1)
        rows, columns = math.prod(lead), math.prod(tail)
        if columns == 1:
            # numpy is fast on flat arrays only.
            out = np.zeros(rows * self._size, g.dtype)
            each = place if rows == 1 else np.add.outer(np.arange(rows) * self._size, place).reshape(-1)
            if self._distinct:
                out[each] = g.reshape(-1)
            else:
                np.add.at(out, each, g.reshape(-1))
        elif self._distinct:
            out = np.zeros((rows, self._size, columns), g.dtype)
            out[:, place] = g.reshape(rows, place.size, columns)
        else:
            # One product for all leading axes at once.
            joined = g.reshape(rows, place.size, columns).transpose(1, 0, 2).reshape(place.size, rows * columns)
            total = self._adder(g.dtype) @ joined
            out = total.reshape(self._size, rows, columns).transpose(1, 0, 2)
        return out.reshape(lead + self.in_shape)

    def squared(self) -> LinearMap:
        return self


@dataclass(eq=False)
class Sparse(LinearMap):
    """A sparse matrix along one axis, the same for all entries of the others: interpolation, for instance.

    matrix: a scipy sparse array, shape (new size of the axis, old size).
    """

    matrix: Any
    in_shape: Shape
    axis: int

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return (*self.in_shape[: self.axis], self.matrix.shape[0], *self.in_shape[self.axis + 1 :])

    def _apply(self, matrix: Any, v: Array, lead: int) -> Array:
        first = np.moveaxis(v, lead + self.axis, 0)
        matrix = matrix if matrix.dtype == v.dtype else matrix.astype(v.dtype)
        out = matrix @ first.reshape(len(first), math.prod(first.shape[1:]))
        return np.moveaxis(out.reshape(matrix.shape[0], *first.shape[1:]), 0, lead + self.axis)

    def push(self, v: Array) -> Array:
        return self._apply(self.matrix, v, v.ndim - len(self.in_shape))

    def pull(self, g: Array) -> Array:
        return self._apply(self.matrix.T, g, g.ndim - len(self.in_shape))

    def squared(self) -> LinearMap:
        return Sparse(self.matrix.multiply(self.matrix), self.in_shape, self.axis)


@dataclass(eq=False)
class Cumulative(LinearMap):
    """Running sums along one axis; ``exclusive``: without the entry itself; ``reverse``: from the end."""

    in_shape: Shape
    axis: int
    exclusive: bool = False
    reverse: bool = False

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return self.in_shape

    def _apply(self, v: Array, reverse: bool) -> Array:
        last = np.moveaxis(v, v.ndim - len(self.in_shape) + self.axis, -1)
        last = last[..., ::-1] if reverse else last
        out = np.cumsum(last, axis=-1, dtype=v.dtype)
        if self.exclusive:
            out[..., 1:] = out[..., :-1]
            out[..., :1] = 0
        out = out[..., ::-1] if reverse else out
        return np.moveaxis(out, -1, v.ndim - len(self.in_shape) + self.axis)

    def push(self, v: Array) -> Array:
        return self._apply(v, self.reverse)

    def pull(self, g: Array) -> Array:
        return self._apply(g, not self.reverse)

    def squared(self) -> LinearMap:
        return self
