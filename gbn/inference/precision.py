"""The precision of the hidden vertices, block by block, at an operating point.

Deterministic vertices are eliminated on the way down: what depends on hidden deviations d_j does so through its total
Jacobian T_j, over all paths of deterministic vertices.  Every vertex with noise is then a factor, and so is a label::

    error  ε_i + A_i d,  A_i = [I at i, -T at those above]       energy  ½ (ε_i + A_i d)ᵀ Λ_i (ε_i + A_i d)
    label  score s, Fisher information W = L Lᵀ at the logits    energy  -sᵀ T d + ½ dᵀ Tᵀ W T d

    K = Σ_i A_iᵀ Λ_i A_i + Σ Tᵀ W T,      h = -Σ_i A_iᵀ Λ_i ε_i + Σ Tᵀ s,      energy(d) = energy(0) - hᵀ d + ½ dᵀ K d

Two hidden vertices are neighbours where their block of K is not zero: the moral graph without deterministic ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from gbn.errors import InferenceError
from gbn.gaussian import LOG_2PI
from gbn.linearize import Linearization

__all__ = ["Precision", "by_pattern"]

Array = np.ndarray[Any, Any]
Blocks = Mapping[str, Array]


class Precision:
    """K and h of the hidden vertices that matter, in float64.

    Matrices have a row for each missingness pattern of a linear net, for each sample of any other, or a single one
    where all share it; vectors have a row for each sample.  An observed entry of a partly observed vertex is pinned:
    its row of K is that of the identity, its h is zero.

    hidden: vertices with noise that are not wholly observed and lie above evidence or above what is wanted.
    neighbours: hidden vertex -> those whose block with it is not zero.
    h: hidden vertex -> shape (samples, size).
    energy: at the operating point, in nats.  Shape: (samples,).
    free: number of hidden entries.  Shape: (samples,).
    pattern: which row of a matrix belongs to each sample.

    Raises:
        InferenceError: evidence on a deterministic vertex, whose precision would be infinite.
    """

    def __init__(self, point: Linearization, wanted: Iterable[str], shared: bool) -> None:
        self.point, self.net, evidence = point, point.net, point.evidence
        for name in evidence.values:
            if self.net[name].kind != "likelihood" and self.net.noise(name) is None:
                raise InferenceError(
                    f"evidence on {name!r}, a deterministic vertex: its precision would be infinite; give it noise "
                    f"with net.set_noise({{{name!r}: cov}}), or use engine='exact'"
                )
        if shared:
            rows, self.pattern = evidence.patterns()
            self._at = Linearization.forward(evidence.rows(rows))
        else:
            self._at, self.pattern = point, np.arange(evidence.samples)
        concerned = point.upstream({*wanted, *evidence.values})
        self._order = [n for n, v in self.net.vertices.items() if n in concerned and v.plated]
        self._factors = [n for n in self._order if self.net[n].random and n not in evidence.do]
        self.hidden = tuple(n for n in self._factors if not point.closed(n))
        self._own = {name: self._free(name) for name in self.hidden}
        self._values: dict[str, Blocks] = {}
        self._means: dict[str, Blocks] = {}
        self._trace()
        self._matrix: dict[tuple[str, str], Array] = {}
        self.h = {n: np.zeros((evidence.samples, self.net[n].size)) for n in self.hidden}
        self.energy = np.zeros(evidence.samples)
        self._assemble()
        self.free = sum((d.sum(axis=(1, 2)) for d in self._own.values()), np.zeros(1))[self._rows_of_free()]
        self.neighbours = {n: [m for m in self.hidden if m != n and self._joined(n, m)] for n in self.hidden}

    def block(self, a: str, b: str) -> Array:
        """K_ab.  Shape: (1 or patterns, size of a, size of b)."""
        return self._matrix[a, b]

    def deviation(self, name: str, d: Blocks) -> Array:
        """How far a vertex moves with the hidden ones.  d: (*lead, samples, size) -> the same for this vertex."""
        return self._moved(self._values.get(name, {}), name, d)

    def shift(self, name: str, d: Blocks) -> Array:
        """How far the mean of a vertex, or the logits of a label, moves with the hidden vertices above it."""
        return self._moved(self._means.get(name, {}), name, d)

    def dependence(self, name: str) -> Blocks:
        """Hidden vertex -> the Jacobian of a vertex by it.  Shape: (1 or patterns, size, size of the hidden one)."""
        return self._values.get(name, {})

    def _free(self, name: str) -> Array:
        """The identity on hidden entries.  Shape: (1 or patterns, size, size)."""
        eye, mask = np.eye(self.net[name].size)[None], self._at.evidence.masks.get(name)
        return eye if mask is None else eye * ~mask.reshape(len(mask), -1, 1)

    def _rows_of_free(self) -> Array:
        several = any(len(own) > 1 for own in self._own.values())
        return self.pattern if several else np.zeros_like(self.pattern)

    def _trace(self) -> None:
        """Total Jacobians, forward: of every mean, and of every value as its children see it."""
        at = self._at
        for name in self._order:
            means: dict[str, Array] = {}
            for position, parent in enumerate(at.parents(name)):
                above = self._values.get(parent)
                map_ = at.map(name, position) if above else None
                if not above or map_ is None:
                    continue
                jacobian = map_.blocks(np.float64)
                for hidden, block in above.items():
                    part = jacobian @ block
                    means[hidden] = means[hidden] + part if hidden in means else part
            self._means[name] = means
            if name in self._own:
                self._values[name] = {name: self._own[name]}
            elif not at.closed(name):
                self._values[name] = means

    def _assemble(self) -> None:
        point, net = self.point, self.net
        for name in self._factors:
            noise, error = net.noises[str(net[name].noise)], point.errors.get(name)
            blocks = {j: -block for j, block in self._means[name].items()}
            if name in self._own:
                blocks[name] = self._own[name]
            self.energy += 0.5 * (noise.logdet + net[name].size * LOG_2PI)
            weighted = None
            if error is not None:
                weighted = noise.solve(error.astype(np.float64))
                self.energy += 0.5 * (error * weighted).reshape(len(error), -1).sum(axis=1)
            self._add(blocks, net[name].shape, noise.solve, weighted)
        for name in net.labels:
            if name in point.evidence.values:
                self._add_label(name, point.evidence.values[name])
        for name, own in self._own.items():
            block = self._matrix[name, name] + (np.eye(net[name].size) - own)
            self._matrix[name, name] = (block + np.swapaxes(block, 1, 2)) / 2

    def _add_label(self, name: str, target: Array) -> None:
        vertex, label = self.net[name], self.net.label_of(name)
        logits = self.point.values[vertex.parents[0]].astype(np.float64)
        present = (~np.isnan(target)).astype(np.float64)

        def weigh(v: Array) -> Array:
            return label.root(logits, label.root_adjoint(logits, v, present), present)

        self.energy -= label.log_prob(logits, target)
        self._add(self._means[name], vertex.shape, weigh, -label.score(logits, target))

    def _add(
        self, blocks: Blocks, event: tuple[int, ...], weigh: Callable[[Array], Array], weighted: Array | None
    ) -> None:
        """Add Aᵀ Λ A to K and -Aᵀ (Λ ε) to h.  ``weigh`` applies Λ to arrays of shape (columns, rows, *event)."""
        for k, right in blocks.items():
            columns = np.moveaxis(right, 2, 0)
            image = weigh(columns.reshape(*columns.shape[:2], *event))
            image = np.moveaxis(image.reshape(*image.shape[:2], -1), 0, 2)
            for j, left in blocks.items():
                part = np.swapaxes(left, 1, 2) @ image
                self._matrix[j, k] = self._matrix[j, k] + part if (j, k) in self._matrix else part
            if weighted is not None:
                flat = weighted.reshape(len(weighted), -1)
                self.h[k] -= by_pattern(np.swapaxes(right, 1, 2), flat, self.pattern)

    def _joined(self, a: str, b: str) -> bool:
        return (a, b) in self._matrix and bool(self._matrix[a, b].any())

    def _moved(self, blocks: Blocks, name: str, d: Blocks) -> Array:
        total = np.zeros((len(self.pattern), self.net[name].size))
        for hidden, block in blocks.items():
            total = total + by_pattern(block, d[hidden], self.pattern)
        return total


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
