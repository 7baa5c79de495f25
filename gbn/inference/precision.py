"""The precision of the hidden vertices, block by block: the factors of a query, summed.

Two hidden vertices are neighbours where their block of K is not zero: the moral graph without deterministic ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gbn.inference.factors import Factors

__all__ = ["Precision", "by_pattern"]

Array = np.ndarray[Any, Any]


class Precision:
    """K and h of the hidden vertices that matter, in float64.

    Matrices have a row for each missingness pattern of a linear net, for each sample of any other, or a single one
    where all share it; vectors have a row for each sample.  An observed entry of a partly observed vertex is pinned:
    its row of K is that of the identity, its h is zero.

    hidden: vertices with noise that are not wholly observed and lie above evidence or above what is wanted.
    neighbours: hidden vertex -> those whose block with it is not zero.
    h: hidden vertex -> shape (samples, size).
    free: number of hidden entries.  Shape: (samples,).
    pattern: which row of a matrix belongs to each sample.
    """

    def __init__(self, factors: Factors) -> None:
        structure, samples = factors.structure, factors.evidence.samples
        self.hidden, self.pattern = tuple(structure.hidden), factors.pattern
        self._matrix: dict[tuple[str, str], Array] = {}
        for variables, element in zip(structure.variables, factors.elements(structure.variables), strict=True):
            ends = np.cumsum([structure.sizes[v] for v in variables])
            parts = [(self.hidden[v], slice(e - structure.sizes[v], e)) for v, e in zip(variables, ends, strict=True)]
            for a, rows in parts:
                for b, columns in parts:
                    block = element[:, rows, columns]  # type: ignore[index]
                    self._matrix[a, b] = self._matrix[a, b] + block if (a, b) in self._matrix else block
        potentials = factors.potentials(factors.sources)
        self.h: dict[str, Array] = {}
        self.free = np.zeros(samples)
        for name, size in zip(self.hidden, structure.sizes, strict=True):
            block = self._matrix[name, name]
            self._matrix[name, name] = (block + np.swapaxes(block, 1, 2)) / 2
            self.h[name] = potentials[name].reshape(samples, size) if name in potentials else np.zeros((samples, size))
            mask = factors.evidence.masks.get(name)
            self.free += size if mask is None else (~mask).reshape(samples, size).sum(axis=1)
        joined: dict[str, list[str]] = {name: [] for name in self.hidden}
        for (a, b), block in self._matrix.items():
            if a != b and block.any():
                joined[a].append(b)
        self.neighbours = {a: sorted(others, key=structure.hidden.__getitem__) for a, others in joined.items()}

    def block(self, a: str, b: str) -> Array:
        """K_ab.  Shape: (1 or patterns, size of a, size of b)."""
        return self._matrix[a, b]


def by_pattern(matrix: Array, v: Array, pattern: Array) -> Array:
    """M v, each sample with the matrix of its pattern.

    Args:
        matrix: shape (1, out, in) or (patterns, out, in).
        v: shape (*lead, samples, in).
        pattern: shape (samples,).

    Returns:
        shape (*lead, samples, out).
    """
    if len(matrix) == 1:
        return v @ matrix[0].T
    if len(matrix) == len(pattern):
        return (matrix[pattern] @ v[..., None])[..., 0]
    out = np.empty((*v.shape[:-1], matrix.shape[1]))
    for p, one in enumerate(matrix):
        rows = pattern == p
        out[..., rows, :] = v[..., rows, :] @ one.T
    return out
