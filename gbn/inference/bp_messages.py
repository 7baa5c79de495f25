"""The messages of Gaussian belief propagation: the state, and the schedules by which they are sent.

K_{i\\j} = K_ii + Σ_{k≠j} P_{k→i},          h_{i\\j} = h_i + Σ_{k≠j} h_{k→i}
P_{i→j} = -K_ji K_{i\\j}⁻¹ K_ij,            h_{i→j} = -K_ji K_{i\\j}⁻¹ h_{i\\j}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from gbn.errors import IllConditionedError, InferenceError
from gbn.inference.precision import Precision, by_pattern

__all__ = ["Density", "Edge", "Messages"]

Array = np.ndarray[Any, Any]
Edge = tuple[str, str]
Message = tuple[Array, Array]
# The largest relative error of a precision that passes.
_MOST_ERROR = 1e-8


def _forest(neighbours: Mapping[str, Sequence[str]]) -> list[Edge] | None:
    """(parent, child) from the roots outward; None where there is a loop."""
    order: list[Edge] = []
    seen: set[str] = set()
    for root in neighbours:
        if root in seen:
            continue
        seen.add(root)
        front = [(root, child) for child in neighbours[root]]
        while front:
            parent, child = front.pop()
            if child in seen:
                return None
            seen.add(child)
            order.append((parent, child))
            front += [(child, k) for k in neighbours[child] if k != parent]
    return order


class Messages:
    """The state: P_{i→j} and h_{i→j} of every directed edge; those not sent yet are zero.

    order: (parent, child) from the roots outward where the graph is a forest, else None.
    """

    def __init__(self, system: Precision, damping: float) -> None:
        self.system, self.damping, self.sent = system, damping, 0
        self.edges = [(i, j) for i, others in system.neighbours.items() for j in others]
        self.order = _forest(system.neighbours)
        self.state: dict[Edge, Message] = {}
        self._pending: dict[Edge, tuple[float, Message]] = {}
        # Units in which changes are measured: the standard deviation of an entry when all others are known.
        self._unit = {i: 1 / np.sqrt(np.diagonal(system.block(i, i), axis1=1, axis2=2)) for i in system.hidden}
        largest = [np.abs(system.h[i] * self._rows(self._unit[i])).max(axis=1) for i in system.hidden]
        self._scale = np.max([np.full(len(system.pattern), np.finfo(float).tiny), *largest], axis=0)

    def _rows(self, matrix_rows: Array) -> Array:
        """One row for each sample."""
        return matrix_rows if len(matrix_rows) == 1 else matrix_rows[self.system.pattern]

    def cavity(self, i: str, without: str | None = None) -> Message:
        """K_{i\\j} and h_{i\\j}; the belief's, when nothing is left out."""
        precision, potential = self.system.block(i, i), self.system.h[i]
        for k in self.system.neighbours[i]:
            if k != without and (k, i) in self.state:
                precision, potential = precision + self.state[k, i][0], potential + self.state[k, i][1]
        return precision, potential

    def regression(self, i: str, j: str) -> Array:
        """The matrix of E[d_i | d_j] in what i's side of the edge knows: -K_{i\\j}⁻¹ K_ij."""
        return -self.density(i, j).cov @ self.system.block(i, j)

    def density(self, i: str, without: str | None = None) -> Density:
        """The precision K_{i\\j}, or the belief's, factored.

        Raises:
            IllConditionedError: it is the small rest of precisions so large that its digits are lost.
        """
        try:
            density = Density(self.cavity(i, without)[0], i)
        except InferenceError:
            if self.order is None:
                raise
            raise _lost(i) from None
        variance = np.einsum("brs,brs->bs", density.root, density.root)
        if np.finfo(float).eps * (variance / self._unit[i] ** 2).max(initial=0) > _MOST_ERROR:
            raise _lost(i)
        return density

    def fresh(self, edge: Edge) -> Message:
        """The message that i would send to j now."""
        i, j = edge
        with np.errstate(over="ignore", invalid="ignore"):
            gain = np.swapaxes(self.regression(i, j), 1, 2)
            precision = gain @ self.system.block(i, j)
            precision = (precision + np.swapaxes(precision, 1, 2)) / 2
            potential = by_pattern(gain, self.cavity(i, j)[1], self.system.pattern)
        if not (np.isfinite(precision).all() and np.isfinite(potential).all()):
            raise InferenceError(
                f"belief propagation: the messages from {i!r} overflowed; raise damping, or use engine='exact'"
            )
        return precision, potential

    def two_passes(self) -> None:
        """Collect at the roots, then distribute."""
        order = self.order or []
        for edge in [*((j, i) for i, j in reversed(order)), *order]:
            self._send(edge, self.fresh(edge))

    def parallel(self, _round: int) -> Mapping[str, float]:
        """All messages from those of the round before."""
        fresh = {edge: self.fresh(edge) for edge in self.edges}
        change = max((self._change(edge, message) for edge, message in fresh.items()), default=0.0)
        for edge, message in fresh.items():
            self._send(edge, message)
        return {"residual": change, "messages": self.sent}

    def by_residual(self, _round: int) -> Mapping[str, float]:
        """As many messages as there are directed edges, each time the one that changes most."""
        if not self._pending:
            self._consider(self.edges)
        for _ in self.edges:
            edge = max(self._pending, key=lambda e: self._pending[e][0])
            if self._pending[edge][0] == 0:
                break
            self._send(edge, self._pending[edge][1])
            i, j = edge
            self._consider([edge, *((j, k) for k in self.system.neighbours[j] if k != i)])
        return {"residual": max((p[0] for p in self._pending.values()), default=0.0), "messages": self.sent}

    def _consider(self, edges: Sequence[Edge]) -> None:
        for edge in edges:
            message = self.fresh(edge)
            self._pending[edge] = self._change(edge, message), message

    def _send(self, edge: Edge, message: Message) -> None:
        old = self.state.get(edge)
        if self.damping and old is not None:
            keep = self.damping
            message = (1 - keep) * message[0] + keep * old[0], (1 - keep) * message[1] + keep * old[1]
        self.state[edge] = message
        self.sent += 1

    def _change(self, edge: Edge, message: Message) -> float:
        """How far a message is from the one last sent, in units of its receiver."""
        unit, old = self._unit[edge[1]], self.state.get(edge)
        precision, potential = message if old is None else (message[0] - old[0], message[1] - old[1])
        relative = np.abs(potential * self._rows(unit)).max(axis=1, initial=0) / self._scale
        matrix = np.abs(precision * unit[:, :, None] * unit[:, None, :])
        return float(max(relative.max(initial=0), matrix.max(initial=0)))


class Density:
    """A precision K of positive definite rows: ``root`` R with Rᵀ R = K⁻¹, and log |K|.

    Raises:
        InferenceError: naming the vertex, where it is not positive definite.
    """

    def __init__(self, precision: Array, name: str) -> None:
        try:
            factor = np.linalg.cholesky(precision)
        except np.linalg.LinAlgError:
            # Precisions fall from round to round, so what is lost here no later round and no damping brings back.
            raise InferenceError(
                f"belief propagation: the precision of {name!r} is not positive definite: loops count the same "
                "information too often (or the net is nearly singular in float64), so there is no answer; join "
                "vertices on loops into larger ones, or use engine='exact'"
            ) from None
        self.root = np.linalg.inv(factor)
        self.logdet = 2 * np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(axis=1)

    @cached_property
    def cov(self) -> Array:
        """K⁻¹."""
        return np.swapaxes(self.root, 1, 2) @ self.root


def _lost(name: str) -> IllConditionedError:
    return IllConditionedError(
        f"belief propagation: the precision of {name!r} is lost to rounding (noises of very different size, or "
        "near-deterministic relations); use engine='exact', or rescale the noise"
    )
