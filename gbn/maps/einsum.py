"""The linear map of an Einstein sum in one of its operands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gbn.maps.core import Array, LinearMap, Shape, lead_of

__all__ = ["Einsum"]

Labels = tuple[int, ...]


@dataclass(eq=False)
class Einsum(LinearMap):
    """y = Σ v Π_k factor_k, the axes of each array being labelled, over the labels that y has not.

    Every label of a factor is one of the variable's or of the result's, so that for two entries there is one product:
    ``squared`` squares the factors.  A label occurs once in an array.
    """

    in_shape: Shape
    out_shape: Shape
    variable: Labels
    result: Labels
    factors: tuple[Array, ...]
    labels: tuple[Labels, ...]

    def push(self, v: Array) -> Array:
        return self._apply(v, self.in_shape, self.variable, self.out_shape, self.result)

    def pull(self, g: Array) -> Array:
        return self._apply(g, self.out_shape, self.result, self.in_shape, self.variable)

    def _apply(self, v: Array, source: Shape, have: Labels, target: Shape, want: Labels) -> Array:
        lead = lead_of(v, source)
        front = 1 + max((*have, *want, *(label for labels in self.labels for label in labels)), default=-1)
        arguments: list[Array | Sequence[int]] = [v.reshape(math.prod(lead), *source), (front, *have)]
        for factor, labels in zip(self.factors, self.labels, strict=True):
            arguments += [factor, labels]
        known = set(have).union(*self.labels)
        # A label that was summed over comes back as copies.
        kept = tuple(label for label in want if label in known)
        out = np.asarray(np.einsum(*arguments, (front, *kept), optimize=len(self.factors) > 0))
        view = [size if label in known else 1 for label, size in zip(want, target, strict=True)]
        return np.broadcast_to(out.reshape((*lead, *view)), lead + target)

    def squared(self) -> LinearMap:
        squares = tuple(factor**2 for factor in self.factors)
        return Einsum(self.in_shape, self.out_shape, self.variable, self.result, squares, self.labels)
