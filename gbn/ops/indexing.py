"""Ops that read or write entries at given positions.

Indices are inputs like any other, held as whole numbers of the net's dtype: parameters, where they are fixed, or a
vertex with a value per sample, as the tokens of a text.  They have no derivative.  Negative ones count from the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gbn.maps import Adjoint, Chain, Diagonal, LinearMap, Select
from gbn.ops.base import Array, Maps, Varying, first_only, op

__all__: list[str] = []


def _whole(numbers: Array) -> Array:
    return np.asarray(numbers).astype(np.intp)


def _positions(indices: Array, size: int) -> Array:
    """Indices along an axis of that size, counted from its beginning."""
    index = _whole(indices)
    outside = (index < -size) | (index >= size)
    if outside.any():
        raise IndexError(f"indices: got {index[outside].flat[0]}, expected {-size} to {size - 1} on an axis of {size}")
    return np.where(index < 0, index + size, index)


def _selected(x: Array, select: Select) -> tuple[Array, Maps]:
    return select.push(x), (lambda: select, None)


@op("Gather", linear=first_only)
def gather(x: Array, indices: Array, *, axis: int = 0) -> tuple[Array, Maps]:
    """Entries of x at ``indices`` along ``axis``: an embedding, where x is a table of rows.

    Shape: (*before, size, *after), (*chosen) -> (*before, *chosen, *after).
    """
    axis = axis % x.ndim
    before, size = x.shape[:axis], x.shape[axis]
    place = _positions(indices, size)

    def of_x() -> Select:
        index = np.add.outer(np.arange(math.prod(before)) * size, place)
        return Select(x.shape, index.reshape(before + place.shape), x.ndim - axis - 1)

    return x.take(place, axis), (of_x, None)


def _elements(shape: tuple[int, ...], indices: Array, axis: int) -> Array:
    """Flat positions of the entries that share all coordinates with their index but the one along ``axis``."""
    axis = axis % len(shape)
    if indices.ndim != len(shape):
        raise ValueError(f"indices of shape {indices.shape} for entries of shape {shape}: expected as many axes")
    coordinates: list[Array] = list(np.indices(indices.shape, sparse=True))
    coordinates[axis] = _positions(indices, shape[axis])
    return np.asarray(np.ravel_multi_index(tuple(coordinates), shape))


def _tuples(shape: tuple[int, ...], indices: Array, batch_dims: int = 0) -> tuple[Array, int]:
    """Flat positions that the last axis of ``indices`` spells out, and how many axes they leave over."""
    depth = batch_dims + indices.shape[-1]
    if not batch_dims < depth <= len(shape):
        raise ValueError(f"indices of shape {indices.shape} after {batch_dims} batch axes for entries of shape {shape}")
    coordinates: list[Array] = list(np.indices(indices.shape[:-1], sparse=True))[:batch_dims]
    for k in range(batch_dims, depth):
        coordinates.append(_positions(indices[..., k - batch_dims], shape[k]))
    return np.asarray(np.ravel_multi_index(tuple(coordinates), shape[:depth])), len(shape) - depth


@op("GatherElements", linear=first_only)
def gather_elements(x: Array, indices: Array, *, axis: int = 0) -> tuple[Array, Maps]:
    """y[i, j, k] = x[i, indices[i, j, k], k], here along axis 1.  Shape: that of ``indices``."""
    return _selected(x, Select(x.shape, _elements(x.shape, indices, axis)))


@op("GatherND", linear=first_only)
def gather_nd(x: Array, indices: Array, *, batch_dims: int = 0) -> tuple[Array, Maps]:
    """y[b, ..., :] = x[b, *indices[b, ..., :], :].

    Shape: (*batch, *sizes, *after), (*batch, *chosen, len(sizes)) -> (*batch, *chosen, *after).
    """
    index, carried = _tuples(x.shape, indices, batch_dims)
    return _selected(x, Select(x.shape, index, carried))


def _scattered(x: Array, select: Select, updates: Array, reduction: str) -> tuple[Array, Maps]:
    """x with ``updates`` put, or added, where ``select`` reads; of those put at one place the last one stays."""
    if updates.shape != select.out_shape:
        raise ValueError(f"updates of shape {updates.shape}, expected {select.out_shape}")
    if reduction == "add":
        y = x + select.pull(updates)
        return y, (lambda: Diagonal(1.0, x.shape, y.shape), None, lambda: Adjoint(select))
    if reduction != "none":
        raise ValueError(f"reduction: got {reduction!r}, expected 'none' or 'add'")
    tail = x.shape[x.ndim - select.carried :]
    place = select.index.reshape(-1)
    rows = math.prod(x.shape[: x.ndim - select.carried])
    last = np.full(rows, -1)
    last[place] = np.arange(place.size)
    y = x.reshape(rows, *tail).copy()
    y[place] = updates.reshape(place.size, *tail)
    y = y.reshape(x.shape)
    over = (1,) * select.carried

    def of_x() -> LinearMap:
        kept = (last < 0).astype(x.dtype).reshape(*x.shape[: x.ndim - select.carried], *over)
        return Diagonal(kept, x.shape, x.shape)

    def of_updates() -> LinearMap:
        stays = last[place] == np.arange(place.size)
        put = Adjoint(select)
        if stays.all():
            return put
        factor = stays.astype(x.dtype).reshape(*select.index.shape, *over)
        return Chain((Diagonal(factor, updates.shape, updates.shape), put))

    return y, (of_x, None, of_updates)


def _indices_constant(varying: Varying) -> bool:
    return not varying[1]


@op("ScatterElements", linear=_indices_constant)
def scatter_elements(
    x: Array, indices: Array, updates: Array, *, axis: int = 0, reduction: str = "none"
) -> tuple[Array, Maps]:
    """x with y[i, indices[i, j, k], k] = updates[i, j, k], here along axis 1; or with that added (``reduction``)."""
    return _scattered(x, Select(x.shape, _elements(x.shape, indices, axis)), updates, reduction)


@op("ScatterND", linear=_indices_constant)
def scatter_nd(x: Array, indices: Array, updates: Array, *, reduction: str = "none") -> tuple[Array, Maps]:
    """x with y[*indices[..., :]] = updates[...]; or with that added (``reduction``)."""
    index, carried = _tuples(x.shape, indices)
    return _scattered(x, Select(x.shape, index, carried), updates, reduction)


@op("ReverseSequence", linear=first_only)
def reverse_sequence(x: Array, sequence_lens: Array, *, batch_axis: int = 1, time_axis: int = 0) -> tuple[Array, Maps]:
    """The first ``sequence_lens`` steps of each sequence in reverse order, the others as they are.

    x: (time, batch, *any) or (batch, time, *any); sequence_lens: (batch,).
    """
    if {batch_axis, time_axis} != {0, 1}:
        raise ValueError(f"batch_axis and time_axis: got {batch_axis} and {time_axis}, expected 0 and 1, or 1 and 0")
    steps = np.arange(x.shape[time_axis])
    lengths = _whole(sequence_lens)[:, None]
    if lengths.shape[0] != x.shape[batch_axis] or (lengths > steps.size).any() or (lengths < 0).any():
        raise ValueError(f"sequence_lens: expected {x.shape[batch_axis]} whole numbers from 0 to {steps.size}")
    time = np.where(steps < lengths, lengths - 1 - steps, steps)
    batch = np.arange(x.shape[batch_axis])[:, None]
    pair = (batch, time) if batch_axis == 0 else (time.T, batch.T)
    return _selected(x, Select(x.shape, np.ravel_multi_index(pair, x.shape[:2]), x.ndim - 2))


@op("OneHot")
def one_hot(indices: Array, *, depth: int, values: Sequence[float] = (0.0, 1.0), axis: int = -1) -> tuple[Array, Maps]:
    """A new axis of size ``depth`` with the second of ``values`` at the index and the first elsewhere.

    An index outside -depth to depth - 1 leaves the first everywhere.
    """
    off, on = values
    index = _whole(indices)
    index = np.expand_dims(np.where(index < 0, index + depth, index), axis)
    view = [1] * index.ndim
    view[axis] = depth
    kind = indices.dtype.type
    return np.where(index == np.arange(depth).reshape(view), kind(on), kind(off)), (None,)
