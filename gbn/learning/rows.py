"""The rows of a regression: which entries of a vertex, and of what it reads, one of them consists of.

A dense layer has one row a sample.  Where a mean does the same thing at many positions (a convolution, a matrix product
with an array of rows) every position is a row, and the moments of all of them add up: in place of a matrix over whole
images learning needs one over patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

__all__ = ["EVERYTHING", "Index", "Rows", "fold", "gather"]

Array = np.ndarray[Any, Any]
# Entries of a vertex that stand for a row, -1 for a zero.  Shape: (positions, entries); None: all, as one row.
Index = Array | None
EVERYTHING: tuple[Index, Index] = (None, None)
_FOLDED_AT_ONCE = 2**22


@dataclass(frozen=True, eq=False)
class Rows:
    """What belongs together at each position.

    place: entries of the vertex.  Shape: (positions, entries of a row).
    reads: entries of each regressor, -1 where a position reads nothing.  Shape of each: (positions, entries of a row).
    """

    place: Array
    reads: tuple[Array, ...]

    @property
    def count(self) -> int:
        """Number of positions."""
        return len(self.place)

    @cached_property
    def shown(self) -> Array:
        """For each entry read a position that reads it; one position for as many of them as can be."""
        real = np.concatenate(self.reads, axis=1) >= 0
        fullest = int(real.sum(axis=1).argmax())
        return np.asarray(np.where(real[fullest], fullest, real.argmax(axis=0)))


def gather(values: Array, index: Index) -> Array:
    """The rows of some values.  Shape: (n, size) -> (n · positions, entries)."""
    if index is None:
        return values
    if (index < 0).any():
        # The last entry, which -1 stands for, is then a zero.
        values = np.concatenate([values, np.zeros((len(values), 1), values.dtype)], axis=1)
    return values[:, index].reshape(-1, index.shape[1])


def fold(cov: Array, first: Index, second: Index) -> Array:
    """Σ over positions of a covariance of whole vertices.  Shape: (a, b) -> (entries of first, entries of second)."""
    if first is None or second is None:
        return cov
    cov = np.pad(cov, ((0, 1), (0, 1)))
    total = np.zeros((first.shape[1], second.shape[1]))
    width = max(1, _FOLDED_AT_ONCE // max(1, total.size))
    for start in range(0, len(first), width):
        part = slice(start, start + width)
        total += cov[first[part, :, None], second[part, None, :]].sum(axis=0)
    return total
