"""What learning needs to know of rows before its first round: sums over them, which add up over blocks.

Rows are told apart by a digest that adds up, too: each row's numbers are hashed to 64 bits, and n rows to
Σ_k h_k r^(n-1-k) mod 2⁶⁴, so that rows in blocks and the same rows in one piece have the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from gbn.learning.data import Data

__all__ = ["Digest", "Facts", "digests_of", "variances"]

Array = np.ndarray[Any, Any]

_WORD = 1 << 64
# Odd numbers without pattern: the golden ratio, and the multipliers of SplitMix64 (Steele, Lea & Flood, 2014).
_ROOT, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_HASHED_AT_ONCE = 1 << 18


@dataclass(frozen=True, eq=False)
class Facts:
    """Sums over rows.

    samples: number of rows.
    total: Σ w, their weights together.
    sums: observed vertex -> Σ w, Σ w y and Σ w y² of its observed entries.  Shape: (3, size).
    fixed: names of vertices that are set from outside, such as inputs without a prior.
    """

    samples: int
    total: float
    sums: Mapping[str, Array]
    fixed: frozenset[str]

    @classmethod
    def of(cls, data: Data) -> Facts:
        """Those of some rows."""
        evidence = data.evidence
        return cls(data.samples, data.total, {n: _sums(data, n) for n in evidence.values}, frozenset(evidence.do))

    @classmethod
    def merged(cls, parts: Iterable[Facts]) -> Facts:
        """Those of all rows together."""
        parts = list(parts)
        sums: dict[str, Array] = {}
        for part in parts:
            for name, found in part.sums.items():
                sums[name] = sums[name] + found if name in sums else found
        fixed = frozenset().union(*(part.fixed for part in parts))
        return cls(sum(p.samples for p in parts), sum(p.total for p in parts), sums, fixed)

    @property
    def given(self) -> frozenset[str]:
        """Vertices of which at least one entry is known in one row."""
        return frozenset(self.sums) | self.fixed

    @property
    def observed(self) -> float:
        """How many numbers were observed, by weight."""
        return float(sum(found[0].sum() for found in self.sums.values()))


def variances(sums: Array) -> Array:
    """Variances from Σ w, Σ w y and Σ w y², but 0 where they are only rounding in a constant column.

    Shape: (3, size) -> (size,).
    """
    weight, first, second = sums
    weight = np.maximum(weight, 1e-300)
    found = second / weight - (first / weight) ** 2
    return np.where(found > 1e-12 * second / weight, found, 0.0)


def _sums(data: Data, name: str) -> Array:
    value = data.evidence.values[name].reshape(data.samples, -1).astype(np.float64)
    mask = data.evidence.masks.get(name)
    known = ~np.isnan(value) if mask is None else mask.reshape(value.shape)
    weight = known * data.counts[:, None]
    value = np.where(known, value, 0.0)
    return np.stack([weight.sum(axis=0), (weight * value).sum(axis=0), (weight * value * value).sum(axis=0)])


@dataclass(frozen=True)
class Digest:
    """The digest of some rows of one array.

    kind: dtype and shape of a row, the same in all blocks.
    """

    kind: str
    rows: int
    value: int

    def then(self, other: Digest) -> Digest:
        """That of these rows and others after them."""
        value = (self.value * pow(_ROOT, other.rows, _WORD) + other.value) % _WORD
        return Digest(self.kind, self.rows + other.rows, value)


def digests_of(data: Data, names: Iterable[str] = ()) -> dict[str, Digest]:
    """The digests of some rows by vertex, and of their weights by "".

    Args:
        names: vertices that count as wholly missing where nothing is known of them.
    """
    evidence = data.evidence
    out = {"": _digest(data.counts[:, None])}
    for name in {*names, *evidence.values, *evidence.do}:
        vertex = evidence.net.vertices[name]
        held = evidence.do.get(name, evidence.values.get(name))
        if held is None:
            held = np.broadcast_to(np.array(np.nan, evidence.net.dtype), (data.samples, *vertex.shape))
        out[name] = _digest(held, evidence.masks.get(name))
    return out


def _digest(array: Array, mask: Array | None = None) -> Digest:
    kind, step = f"{array.dtype}{array.shape[1:]}", max(1, _HASHED_AT_ONCE // max(1, array[:1].size))
    total = Digest(kind, 0, 0)
    for start in range(0, len(array), step):
        part = array[start : start + step]
        known = ~np.isnan(part) if mask is None else mask[start : start + step]
        # One bit pattern for all that is missing.
        part = np.where(known, part, part.dtype.type(np.nan)).reshape(len(part), -1)
        hashed = _mixed(_mixed(part.view(f"u{part.itemsize}").astype(np.uint64) + _keys(part.shape[1])).sum(axis=1))
        powers = np.multiply.accumulate(np.array([1, *[_ROOT] * (len(part) - 1)], np.uint64))[::-1]
        total = total.then(Digest(kind, len(part), int((hashed * powers).sum())))
    return total


def _keys(size: int) -> Array:
    """Another number for each column.  Shape: (size,)."""
    return _mixed(np.arange(1, size + 1, dtype=np.uint64) * np.uint64(_ROOT))


def _mixed(words: Array) -> Array:
    """Each word with all its bits spread over all of them."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(_FIRST)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(_SECOND)
    return words ^ (words >> np.uint64(31))
