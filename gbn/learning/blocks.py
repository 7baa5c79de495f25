"""Gaussians over many entries of which few hang together, and the quadratic forms by which regressions couple them.

The coefficients of a regression are A(θ), vec A = vec F + T θ (:mod:`gbn.learning.design`).  Entries of θ that meet in
no expected quadratic are independent under the optimal q(θ): they are kept as *blocks*, dense within and zero between.
For a layer with diagonal noise a block is a row of the weights with its bias; for a kernel all that makes one channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import linalg, sparse
from scipy.sparse import csgraph

from gbn.errors import LearningError

if TYPE_CHECKING:
    from gbn.learning.design import Coefficients

__all__ = ["Blocks", "Quadratic", "SingularBlock"]

Array = np.ndarray[Any, Any]
# Products of two coefficients of one row, over all rows: what is kept of a family.
_MOST_PRODUCTS = 2**23


@dataclass(frozen=True, eq=False)
class Quadratic:
    """θ ↦ Σ_ij Λ_ij A_i C A_jᵀ of one family, as a list of products of two coefficients.

    Product k is t_k θ_e θ_f Λ_ij C_cd: A_ic has the entry e of θ in it, and A_jd the entry f.

    size, columns: of A.
    first, second: e and f; i, j: rows; c, d: columns; factor: t.  Shape of each: (products,).
    """

    size: int
    columns: int
    first: Array
    second: Array
    i: Array
    j: Array
    c: Array
    d: Array
    factor: Array

    @classmethod
    def of(cls, coefficients: Coefficients, entries: Array, across: bool, name: str) -> Quadratic:
        """The products of a family.

        Args:
            entries: for each column of T the number of its entry of θ, -1 where it is not learned.
            across: whether the noise couples rows; otherwise only products within a row count.

        Raises:
            LearningError: too many of them.
        """
        size, columns = coefficients.fixed.shape
        t = sparse.coo_array(coefficients.design)
        kept = entries[t.col] >= 0
        place, entry, value = t.row[kept], entries[t.col[kept]], t.data[kept]
        row, column = place % size, place // size
        order = np.argsort(row, kind="stable")
        row, column, entry, value = row[order], column[order], entry[order], value[order]
        counts = np.array([len(row)]) if across else np.bincount(row, minlength=size)
        if (counts.astype(float) ** 2).sum() > _MOST_PRODUCTS:
            raise LearningError(
                f"{name!r}: {len(row)} weights on {columns} columns are more than a posterior with covariances is kept "
                f"of (at most {_MOST_PRODUCTS} products of two in a row); freeze some, or take method 'em'"
            )
        start = np.cumsum(counts) - counts
        left, right = [np.zeros(0, int)], [np.zeros(0, int)]
        for count in np.unique(counts[counts > 0]):
            index = start[counts == count][:, None] + np.arange(count)
            left.append(np.repeat(index, count, axis=1).reshape(-1))
            right.append(np.tile(index, (1, count)).reshape(-1))
        a, b = np.concatenate(left), np.concatenate(right)
        row, column, entry = (part.astype(np.int32) for part in (row, column, entry))
        return cls(size, columns, entry[a], entry[b], row[a], row[b], column[a], column[b], value[a] * value[b])


class SingularBlock(np.linalg.LinAlgError):
    """A block is not positive definite, to rounding."""

    def __init__(self, block: int) -> None:
        super().__init__(f"block {block} is not positive definite")
        self.block = block


class Blocks:
    """Entries in blocks, and matrices over them: one flat array of all blocks' entries.

    Args:
        entries: how many there are.
        pairs: arrays (e, f) of entries that hang together.

    label: entry -> its block; count: of blocks; size: of each block.
    local: entry -> its number within the block.
    length: of a flat matrix.
    """

    def __init__(self, entries: int, pairs: Sequence[tuple[Array, Array]]) -> None:
        e = np.concatenate([np.zeros(0, int), *(a for a, _ in pairs)])
        f = np.concatenate([np.zeros(0, int), *(b for _, b in pairs)])
        graph = sparse.coo_array((np.ones(len(e), np.int8), (e, f)), shape=(entries, entries)).tocsr()
        self.entries = entries
        count, label = csgraph.connected_components(graph, directed=False) if entries else (0, np.zeros(0, int))
        # Blocks of one size stand together, so that one call serves them all.
        size = np.bincount(label, minlength=count)
        rank = np.empty(count, int)
        rank[np.argsort(size, kind="stable")] = np.arange(count)
        self.count, self.label, self.size = count, rank[label], np.sort(size)
        order = np.argsort(self.label, kind="stable")
        self._order, self._first = order, np.cumsum(self.size) - self.size
        first = self._first
        self.local = np.empty(entries, int)
        self.local[order] = np.arange(entries) - np.repeat(first, self.size)
        area = self.size**2
        self._start, self.length = np.cumsum(area) - area, int(area.sum())
        self.stacks: list[tuple[Array, Array, slice]] = []
        for s in np.unique(self.size):
            blocks = np.flatnonzero(self.size == s)
            index = order[first[blocks[0]] : first[blocks[-1]] + s].reshape(-1, s)
            self.stacks.append((blocks, index, slice(self._start[blocks[0]], self._start[blocks[-1]] + s * s)))

    def place(self, e: Array, f: Array) -> Array:
        """Where the element (e, f) stands in a flat matrix; e and f of one block."""
        block = self.label[e]
        return np.asarray(self._start[block] + self.local[e] * self.size[block] + self.local[f])

    def entry(self, block: Array, local: Array) -> Array:
        """The entry of that number within a block."""
        return np.asarray(self._order[self._first[block] + local])

    def diagonal(self, flat: Array) -> Array:
        """Shape: (entries,)."""
        every = np.arange(self.entries)
        return flat[self.place(every, every)]

    def scaled(self, flat: Array, by_block: Array) -> Array:
        """Each block times a number."""
        return flat * np.repeat(by_block, self.size**2)

    def with_diagonal(self, flat: Array, added: Array) -> Array:
        """A flat matrix with numbers added to its diagonal."""
        every, out = np.arange(self.entries), flat.copy()
        out[self.place(every, every)] += added
        return out

    def stacked(self, flat: Array) -> list[Array]:
        """Views of the blocks of each size.  Shape of each: (blocks, s, s)."""
        return [flat[span].reshape(len(index), index.shape[1], index.shape[1]) for _, index, span in self.stacks]

    def times(self, flat: Array, v: Array) -> Array:
        """The product with a vector."""
        out = np.empty(self.entries)
        for (_, index, _), matrix in zip(self.stacks, self.stacked(flat), strict=True):
            out[index] = (matrix @ v[index][..., None])[..., 0]
        return out

    def inverse(self, flat: Array) -> tuple[Array, Array]:
        """The inverse of a positive definite matrix, and the log-determinant of each block.

        Raises:
            SingularBlock: it is not positive definite.
        """
        out, logdet = np.empty(self.length), np.empty(self.count)
        for (blocks, _, span), matrix in zip(self.stacks, self.stacked(flat), strict=True):
            # Rows of one layer often share theirs.
            alike = len(matrix) > 1 and bool((matrix[1:] == matrix[:1]).all())
            found = [_inverse(one, blocks[k]) for k, one in enumerate(matrix[:1] if alike else matrix)]
            inverses = np.stack([one for one, _ in found])
            logdet[blocks] = [one for _, one in found] * (len(matrix) if alike else 1)
            out[span] = np.broadcast_to(inverses, matrix.shape).reshape(-1)
        return out, logdet

    def by_block(self, v: Array) -> Array:
        """Sums over the entries of each block."""
        return np.bincount(self.label, v, self.count)

    def traces(self, a: Array, b: Array) -> Array:
        """tr(a b) of each block, for symmetric a and b."""
        block = np.repeat(np.arange(self.count), self.size**2)
        return np.bincount(block, a * b, self.count)


def _inverse(matrix: Array, block: int) -> tuple[Array, float]:
    """Scaled to a unit diagonal first: units of regressors may differ by many orders."""
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = 1 / np.sqrt(np.diagonal(matrix))
    factor, failed = linalg.lapack.dpotrf(matrix * scale[:, None] * scale, lower=1)
    if failed or not np.isfinite(scale).all():
        raise SingularBlock(int(block))
    inverse, _ = linalg.lapack.dpotri(factor, lower=1)
    whole = np.tril(inverse) + np.tril(inverse, -1).T
    logdet = 2 * float(np.log(np.diagonal(factor)).sum() - np.log(scale).sum())
    return whole * scale[:, None] * scale, logdet
