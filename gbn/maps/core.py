"""The base class of linear maps, the ways to combine them, and those of matrices, factors and shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from gbn import arrays

__all__ = [
    "Adjoint",
    "Array",
    "Chain",
    "Contraction",
    "Diagonal",
    "LinearMap",
    "Permute",
    "Reshape",
    "Rowwise",
    "Shape",
    "Slice",
    "Sum",
]

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]


class LinearMap:
    """A linear map between two arrays; subclasses give ``push``, ``pull`` and ``squared``."""

    in_shape: Shape
    out_shape: Shape

    def push(self, v: Array) -> Array:
        """J v.  Shape: (*lead, *in_shape) -> (*lead, *out_shape)."""
        raise NotImplementedError

    def pull(self, g: Array) -> Array:
        """Jᵀ g.  Shape: (*lead, *out_shape) -> (*lead, *in_shape)."""
        raise NotImplementedError

    def squared(self) -> LinearMap:
        """The map whose matrix has this one's entries squared: it carries independent variances."""
        raise NotImplementedError

    def blocks(self, dtype: Any = np.float64) -> Array:
        """Jacobians sample by sample.  Shape: (1 or samples, out, in); 1 where every sample has the same.

        Both sides carry the samples on axis 0, and the op does not mix them.
        """
        samples, event = self.out_shape[0], self.out_shape[1:]
        size = math.prod(event)
        unit = np.eye(size, dtype=dtype).reshape(size, 1, *event)
        rows = self.pull(np.broadcast_to(unit, (size, samples, *event)))
        return np.moveaxis(rows.reshape(size, samples, math.prod(self.in_shape[1:])), 0, 1)

    def dense(self, dtype: Any = np.float64) -> Array:
        """The whole matrix, samples included, for tests.  Shape: (prod(out_shape), prod(in_shape))."""
        size = math.prod(self.in_shape)
        columns = self.push(np.eye(size, dtype=dtype).reshape(size, *self.in_shape))
        return columns.reshape(size, -1).T


def lead_of(v: Array, shape: Shape) -> Shape:
    return v.shape[: v.ndim - len(shape)]


@dataclass(eq=False)
class Adjoint(LinearMap):
    """Another map read backwards: broadcasting becomes a sum, slicing becomes zero padding."""

    inner: LinearMap

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        return self.inner.out_shape

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return self.inner.in_shape

    def push(self, v: Array) -> Array:
        return self.inner.pull(v)

    def pull(self, g: Array) -> Array:
        return self.inner.push(g)

    def squared(self) -> LinearMap:
        return Adjoint(self.inner.squared())


@dataclass(eq=False)
class Chain(LinearMap):
    """Maps one after the other, the first applied first.

    ``squared`` is the chain of the squares, which is right where at most one path joins an input to an output entry:
    chain only so (a selection or a diagonal with anything).
    """

    maps: tuple[LinearMap, ...]

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        return self.maps[0].in_shape

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return self.maps[-1].out_shape

    def push(self, v: Array) -> Array:
        for map_ in self.maps:
            v = map_.push(v)
        return v

    def pull(self, g: Array) -> Array:
        for map_ in reversed(self.maps):
            g = map_.pull(g)
        return g

    def squared(self) -> LinearMap:
        return Chain(tuple(map_.squared() for map_ in self.maps))


@dataclass(eq=False)
class Sum(LinearMap):
    """Maps between the same two arrays, added up.

    ``squared`` is the sum of the squares, which is right where at most one of them joins an input to an output entry:
    add only such.
    """

    maps: tuple[LinearMap, ...]

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        return self.maps[0].in_shape

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return self.maps[0].out_shape

    def push(self, v: Array) -> Array:
        return reduce(np.add, (map_.push(v) for map_ in self.maps))

    def pull(self, g: Array) -> Array:
        return reduce(np.add, (map_.pull(g) for map_ in self.maps))

    def squared(self) -> LinearMap:
        return Sum(tuple(map_.squared() for map_ in self.maps))


@dataclass(eq=False)
class Reshape(LinearMap):
    """The same entries in another shape."""

    in_shape: Shape
    out_shape: Shape

    def push(self, v: Array) -> Array:
        return v.reshape(lead_of(v, self.in_shape) + self.out_shape)

    def pull(self, g: Array) -> Array:
        return g.reshape(lead_of(g, self.out_shape) + self.in_shape)

    def squared(self) -> LinearMap:
        return self


@dataclass(eq=False)
class Permute(LinearMap):
    """Axes in another order: axis k of the output is axis ``perm[k]`` of the input."""

    in_shape: Shape
    perm: tuple[int, ...]

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return tuple(self.in_shape[axis] for axis in self.perm)

    def _apply(self, v: Array, perm: Sequence[int]) -> Array:
        lead = v.ndim - len(perm)
        return v.transpose(*range(lead), *(lead + axis for axis in perm))

    def push(self, v: Array) -> Array:
        return self._apply(v, self.perm)

    def pull(self, g: Array) -> Array:
        return self._apply(g, np.argsort(self.perm).tolist())

    def squared(self) -> LinearMap:
        return self


@dataclass(eq=False)
class Slice(LinearMap):
    """A rectangular part (one ``slice`` an axis); its adjoint pads with zeros."""

    in_shape: Shape
    slices: tuple[slice, ...]

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return tuple(len(range(*part.indices(size))) for part, size in zip(self.slices, self.in_shape, strict=True))

    @property
    def _index(self) -> tuple[Any, ...]:
        return (..., *self.slices)

    def push(self, v: Array) -> Array:
        return v[self._index]

    def pull(self, g: Array) -> Array:
        out = np.zeros(lead_of(g, self.out_shape) + self.in_shape, g.dtype)
        out[self._index] = g
        return out

    def squared(self) -> LinearMap:
        return self


@dataclass(eq=False)
class Diagonal(LinearMap):
    """Entry-wise factors, after numpy broadcasting of the input to ``out_shape``: y = d ⊙ broadcast(v).

    ``factor`` broadcasts to ``out_shape``.  ``view``: the shape that the input takes before broadcasting, where that is
    not its own (a channel vector against an image: (C, 1, 1)).
    """

    factor: Array | float
    in_shape: Shape
    out_shape: Shape
    view: Shape | None = None

    def push(self, v: Array) -> Array:
        lead = lead_of(v, self.in_shape)
        if self.in_shape == self.out_shape:
            return self._scale(v)
        view = self.in_shape if self.view is None else self.view
        ones = (1,) * (len(self.out_shape) - len(view))
        v = self._scale(v.reshape(*lead, *ones, *view))
        return np.broadcast_to(v, lead + self.out_shape)

    def pull(self, g: Array) -> Array:
        scaled = self._scale(g)
        if self.in_shape == self.out_shape:
            return scaled
        if g.ndim == 2 and len(self.in_shape) == 1 and self.view is None and len(self.out_shape) == 2:
            return arrays.unbroadcast(scaled, self.in_shape)
        lead = lead_of(g, self.out_shape)
        view = self.in_shape if self.view is None else self.view
        return arrays.unbroadcast(scaled, view, len(lead)).reshape(lead + self.in_shape)

    def _scale(self, v: Array) -> Array:
        return v if isinstance(self.factor, float) and self.factor == 1.0 else v * self.factor

    def squared(self) -> LinearMap:
        return Diagonal(self.factor * self.factor, self.in_shape, self.out_shape, self.view)


@dataclass(eq=False)
class Contraction(LinearMap):
    """Matrix product with a fixed factor, batched as ``np.matmul`` batches.

    side="left":  y = v @ fixed   (the variable stands left of the fixed factor)
    side="right": y = fixed @ v
    ``transposed``: the variable is stored with its last two axes exchanged (Gemm's transA, transB).
    All factors have at least two axes.
    """

    fixed: Array
    side: str
    in_shape: Shape
    out_shape: Shape
    transposed: bool = False

    def push(self, v: Array) -> Array:
        lead = lead_of(v, self.in_shape)
        if self.transposed:
            v = v.swapaxes(-1, -2)
        if self.side == "left":
            return arrays.matmul(self._align(v, lead), self.fixed).reshape(lead + self.out_shape)
        return np.matmul(self.fixed, self._align(v, lead))

    def _align(self, v: Array, lead: Shape) -> Array:
        """Missing batch axes of the variable are put between the leading axes and its own."""
        missing = max(len(self.out_shape), self.fixed.ndim) - len(self.in_shape)
        return v.reshape(lead + (1,) * missing + v.shape[len(lead) :]) if lead and missing > 0 else v

    def pull(self, g: Array) -> Array:
        fixed = self.fixed
        if g.ndim == 2 == fixed.ndim:
            # Plain layers come here, and the overhead of the general case would show in their gradient.
            out = arrays.matmul(g, fixed.T) if self.side == "left" else fixed.T @ g
            return out.T if self.transposed else out
        lead = lead_of(g, self.out_shape)
        if self.side == "right" and len(self.in_shape) == 2 and fixed.ndim > 2:
            # One product over all rows, not one per batch entry followed by a sum.
            g = g.reshape(*lead, -1, g.shape[-1]) if g.ndim == len(lead) + fixed.ndim else g
            fixed = fixed.reshape(-1, fixed.shape[-1])
        if self.side == "left":
            out = arrays.matmul(g, fixed.swapaxes(-1, -2))
        else:
            out = np.matmul(fixed.swapaxes(-1, -2), g)
        out = out.swapaxes(-1, -2) if self.transposed else out
        if out.shape == lead + self.in_shape:
            return out
        return arrays.unbroadcast(out, self.in_shape, len(lead))

    def squared(self) -> LinearMap:
        return Contraction(self.fixed**2, self.side, self.in_shape, self.out_shape, self.transposed)

    def blocks(self, dtype: Any = np.float64) -> Array:
        plain = self.side == "left" and not self.transposed and self.fixed.ndim == 2 and len(self.in_shape) == 2
        return self.fixed.T[None].astype(dtype, copy=False) if plain else super().blocks(dtype)


@dataclass(eq=False)
class Rowwise(LinearMap):
    """Diagonal plus low rank along some axes: y = d ⊙ v + Σ_r u_r Σ_axes (w_r ⊙ v), of one shape.

    Softmax, log-softmax and layer normalisation have Jacobians of this form, and so have their squares.
    ``terms``: pairs (u_r, w_r), each broadcasting to ``in_shape``; ``axes`` are negative.
    """

    diagonal: Array | float
    terms: tuple[tuple[Array | float, Array | float], ...]
    axes: tuple[int, ...]
    in_shape: Shape

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return self.in_shape

    def _apply(self, v: Array, terms: Sequence[tuple[Array | float, Array | float]]) -> Array:
        out = self.diagonal * v
        for u, w in terms:
            out = out + u * (w * v).sum(axis=self.axes, keepdims=True)
        return out

    def push(self, v: Array) -> Array:
        return self._apply(v, self.terms)

    def pull(self, g: Array) -> Array:
        return self._apply(g, [(w, u) for u, w in self.terms])

    def squared(self) -> LinearMap:
        crossed = sum((2 * u * w for u, w in self.terms), start=self.diagonal)
        pairs = tuple((u * s, w * t) for u, w in self.terms for s, t in self.terms)
        return Rowwise(self.diagonal * crossed, pairs, self.axes, self.in_shape)
