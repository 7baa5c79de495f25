"""Jacobians from the hidden variables: deterministic vertices substituted, entry-wise factors kept as vectors.

A block is an array of shape (batch, entries) for a diagonal matrix, or (batch, out, in) for any other; the batch is 1
where all samples share it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from gbn.linearize import Linearization
from gbn.maps import Chain, Diagonal, LinearMap, Reshape

__all__ = ["Totals", "block_of", "dense", "is_entrywise", "times"]

Array = np.ndarray[Any, Any]


def is_entrywise(map_: LinearMap) -> bool:
    """Whether the matrix of a map is diagonal, entries in their own order."""
    if isinstance(map_, Chain):
        return all(is_entrywise(part) for part in map_.maps)
    return isinstance(map_, Reshape) or (isinstance(map_, Diagonal) and map_.in_shape == map_.out_shape)


def block_of(map_: LinearMap) -> Array:
    """The Jacobian of a map between arrays with samples on axis 0, in float64."""
    samples = map_.in_shape[0]
    if isinstance(map_, Diagonal) and map_.in_shape == map_.out_shape:
        if np.ndim(map_.factor) == 0:
            return np.full((1, int(np.prod(map_.in_shape[1:]))), float(map_.factor))
        return np.broadcast_to(map_.factor, map_.out_shape).reshape(samples, -1).astype(np.float64, copy=False)
    if isinstance(map_, Reshape) and map_.out_shape[0] == samples:
        return np.ones((1, int(np.prod(map_.in_shape[1:]))))
    if isinstance(map_, Chain) and all(part.in_shape[0] == part.out_shape[0] == samples for part in map_.maps):
        total = block_of(map_.maps[0])
        for part in map_.maps[1:]:
            total = times(block_of(part), total)
        return total
    return map_.blocks(np.float64)


def dense(block: Array) -> Array:
    """A block as full matrices."""
    if block.ndim == 3:
        return block
    out = np.zeros((*block.shape, block.shape[1]))
    np.einsum("bii->bi", out)[...] = block
    return out


def times(a: Array, b: Array) -> Array:
    """The product of two blocks."""
    if a.ndim == 2:
        return a * b if b.ndim == 2 else a[:, :, None] * b
    return a * b[:, None, :] if b.ndim == 2 else a @ b


def _plus(a: Array, b: Array) -> Array:
    return a + b if a.ndim == b.ndim else dense(a) + dense(b)


@lru_cache(maxsize=64)
def _ones(size: int) -> Array:
    out = np.ones((1, size))
    out.flags.writeable = False
    return out


class Totals:
    """∂(vertex)/∂(hidden variables): each vertex's deviation as a linear function of the hidden noisy vertices.

    Args:
        point: the linearisation.
        hidden: noisy vertex -> its number; its entries that a row observes count as fixed there.
    """

    def __init__(self, point: Linearization, hidden: Mapping[str, int]) -> None:
        self.point, self.hidden = point, hidden
        self._known: dict[str, dict[int, Array]] = {}

    def free(self, name: str) -> Array:
        """1 at entries that a row leaves free, 0 at observed ones.  Shape: (batch, entries)."""
        mask = self.point.evidence.masks.get(name)
        if mask is None:
            return _ones(self.point.net.vertices[name].size)
        return (~mask).reshape(len(mask), -1).astype(np.float64)

    def whole(self, name: str) -> bool:
        """Whether the vertex is a hidden variable, no entry of it observed: its total is the identity."""
        return name in self.hidden and name not in self.point.evidence.masks

    def of(self, name: str) -> Mapping[int, Array]:
        """Hidden variable -> block; those left out are zero."""
        if name in self._known:
            return self._known[name]
        if name in self.hidden:
            self._known[name] = {self.hidden[name]: self.free(name)}
        elif self.point.closed(name) or name in self.point.evidence.do:
            self._known[name] = {}
        else:
            self._compute(name)
        return self._known[name]

    def _compute(self, name: str) -> None:
        """With the ancestors first, for a chain of deterministic vertices may be deeper than Python's stack."""
        stack = [name]
        while stack:
            top = stack[-1]
            waiting = [p for p in self.point.parents(top) if p not in self._known and not self._settled(p)]
            if waiting:
                stack += waiting
                continue
            self._known[stack.pop()] = self.through(top)

    def _settled(self, name: str) -> bool:
        """Whether :meth:`of` needs no ancestors to answer; it is answered then."""
        if name in self.hidden or self.point.closed(name) or name in self.point.evidence.do:
            self.of(name)
            return True
        return False

    def through(self, name: str, lines: Iterable[tuple[int, str]] | None = None) -> dict[int, Array]:
        """What arrives at a vertex from its parents: Σ_p J_p (their totals).

        lines: the parents that count, with their positions (default: all).
        """
        out: dict[int, Array] = {}
        for position, parent in enumerate(self.point.parents(name)) if lines is None else lines:
            totals = self.of(parent)
            map_ = self.point.map(name, position) if totals else None
            if map_ is None:
                continue
            jacobian = block_of(map_)
            whole = self.whole(parent)
            for variable, block in totals.items():
                part = jacobian if whole else times(jacobian, block)
                out[variable] = _plus(out[variable], part) if variable in out else part
        return out
