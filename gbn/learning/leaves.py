"""Leaves of which each row misses other entries, and whose noise does not couple entries: faster E-steps for them.

What is missing of such a leaf says nothing of anything else, so it need not be solved for.  The E-step goes to a twin
of the net in which the leaf x ~ N(m, Q) becomes s ⊙ m + e, s the mask of what a row has seen: missing entries then
stand at 0 with mean 0, and add only the constant -½ log 2πq.  Their own moments follow from those of m::

    E x = m̂,   Cov(x, u) = Cov(m, u),   Cov(x) = Cov(m) + Q        at entries that are missing
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.evidence import Evidence
from gbn.gaussian import LOG_2PI
from gbn.learning.data import Data
from gbn.vertex import Vertex

if TYPE_CHECKING:
    from gbn.inference.guarded import Guarded
    from gbn.inference.solution import LinearizedPosterior
    from gbn.net import GaussianBayesNet

__all__ = ["Twin", "scattered_leaves"]

Array = np.ndarray[Any, Any]
# Multiplications for which the twin is worth its vertices.
_WORTH = 1e6


def scattered_leaves(data: Data) -> list[str]:
    """Leaves for which the twin is the cheaper way: large ones, in many patterns."""
    evidence = data.evidence
    net, patterns = evidence.net, len(evidence.patterns()[0])
    if not evidence.masks or 4 * patterns < data.samples or not net.is_linear():
        return []
    parents = {p for vertex in net.vertices.values() for p in vertex.parents}
    chosen = []
    for name in evidence.masks:
        vertex, noise = net.vertices[name], net.noise(name)
        plain = vertex.kind == "op" and noise is not None and noise.form != "full" and name not in parents
        if plain and patterns * float(vertex.size) ** 3 > _WORTH:
            chosen.append(name)
    return chosen


class Twin:
    """The E-step by way of the twin.

    Args:
        data: the rows.
        leaves: of :func:`scattered_leaves`.
        names: vertices whose moments are asked for.
        make: from evidence of the twin, and the vertices asked for there, its E-step.
    """

    def __init__(
        self,
        data: Data,
        leaves: Sequence[str],
        names: Sequence[str],
        make: Callable[[Evidence, list[str]], Callable[[GaussianBayesNet], LinearizedPosterior | Guarded]],
    ) -> None:
        self.data, self.leaves = data, leaves
        evidence = data.evidence
        seen = {name: evidence.masks[name].astype(evidence.net.dtype) for name in leaves}
        self.evidence = Evidence(
            self.net(evidence.net),
            evidence.samples,
            evidence.values,
            {name: mask for name, mask in evidence.masks.items() if name not in seen},
            {**evidence.do, **{_seen(name): mask for name, mask in seen.items()}},
        )
        self.hidden = {name: 1.0 - mask.reshape(len(mask), -1) for name, mask in seen.items()}
        self.expect = make(self.evidence, [self.stand_in(name) for name in names])

    def stand_in(self, name: str) -> str:
        """The vertex of the twin whose moments are those of a leaf's missing entries."""
        return _mean(name) if name in self.leaves else name

    def net(self, net: GaussianBayesNet) -> GaussianBayesNet:
        """The twin of a net."""
        out, chosen = net.copy(), set(self.leaves)
        out.vertices = {}
        for name, vertex in net.vertices.items():
            if name in chosen:
                mean, seen = _mean(name), _seen(name)
                out.vertices[mean] = replace(vertex, name=mean, noise=None)
                out.vertices[seen] = Vertex(seen, "input", vertex.shape, plated=True)
                vertex = replace(vertex, op="Mul", parents=(mean, seen), attributes={})
            out.vertices[name] = vertex
        return out

    def __call__(self, net: GaussianBayesNet) -> _SeenInPart:
        return _SeenInPart(self, net, self.expect(self.net(net)))


def _mean(name: str) -> str:
    return f"{name}\0mean"


def _seen(name: str) -> str:
    return f"{name}\0seen"


class _SeenInPart:
    """The posterior of the net itself, from that of its twin; see :class:`gbn.learning.expectations.Expected`."""

    def __init__(self, twin: Twin, net: GaussianBayesNet, solution: LinearizedPosterior | Guarded) -> None:
        self.twin, self.original, self.solution = twin, net, solution

    def mean(self, name: str) -> Array:
        found = self.solution.mean(self.twin.stand_in(name))
        if name not in self.twin.hidden:
            return found
        evidence = self.twin.data.evidence
        return np.where(evidence.masks[name], evidence.values[name], found)

    def summed_covariance(self, pairs: Sequence[tuple[str, str]], counts: Array) -> Array | None:
        hidden = self.twin.hidden
        if all(a not in hidden and b not in hidden for a, b in pairs):
            return self.solution.summed_covariance(pairs, counts)
        total: Array | None = None
        for a, b in pairs:
            part = self._pair(a, b, counts)
            if part is not None:
                total = part if total is None else total + part
        return total

    def _pair(self, a: str, b: str, counts: Array) -> Array | None:
        hidden, solution = self.twin.hidden, self.solution
        if a not in hidden and b not in hidden:
            return solution.summed_covariance([(a, b)], counts)
        if solution.known(self.twin.stand_in(a)) or solution.known(self.twin.stand_in(b)):
            return None
        cov = solution.covariance_by_pattern(self.twin.stand_in(a), self.twin.stand_in(b))
        rows = counts[:, None] * hidden[a] if a in hidden else counts[:, None] * np.ones((1, cov.shape[1]))
        # Σ_n w_n h_nk h'_nl C_nkl, the mask of the second among the columns.
        found = np.einsum("nk,nkl->kl", rows, cov * hidden[b][:, None, :] if b in hidden else cov)
        if a == b:
            found = found + np.diag(rows.sum(axis=0) * self._variances(a))
        return found

    def _variances(self, name: str) -> Array:
        return self.original.noises[str(self.original.vertices[name].noise)].diagonal().reshape(-1)

    def log_evidence(self) -> Array:
        """Nats.  Shape: (samples,)."""
        found = self.solution.log_evidence().astype(np.float64)
        for name, hidden in self.twin.hidden.items():
            found = found + 0.5 * hidden @ (np.log(self._variances(name)) + LOG_2PI)
        return found
