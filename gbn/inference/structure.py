"""What mean-field inference reads off a net before its first round: who is hidden, who sees whom, where q starts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gbn import ops
from gbn.errors import InferenceError
from gbn.evidence import Evidence
from gbn.linearize import Linearization
from gbn.net import GaussianBayesNet
from gbn.ops.base import always

__all__ = ["Belief", "Product", "Shift", "Structure", "times"]

Array = np.ndarray[Any, Any]
_LARGEST_BLOCK = 4096


@dataclass
class Belief:
    """q of one vertex.

    mean: (samples, *event), or the event of a parameter; observed entries at their value.
    cov: (patterns, size, size), zero at observed entries.
    hidden: (patterns, size), False at observed entries.
    pattern: sample -> row of cov and hidden.
    """

    mean: Array
    cov: Array
    hidden: Array
    pattern: Array

    def logdet(self) -> Array:
        """log |C| over hidden entries.  Shape: (patterns,)."""
        return np.linalg.slogdet(self.cov + _on_diagonal(~self.hidden))[1]

    def restricted_inverse(self, precision: Array) -> Array:
        """Inverse of the hidden block of a precision, zero elsewhere.  Shape: (1 or patterns, size, size) -> cov's."""
        both = self.hidden[:, :, None] & self.hidden[:, None, :]
        inverse = np.linalg.inv(np.where(both, precision, 0.0) + _on_diagonal(~self.hidden))
        return np.where(both, (inverse + inverse.swapaxes(1, 2)) / 2, 0.0)


def _on_diagonal(flags: Array) -> Array:
    return flags[:, :, None] * np.eye(flags.shape[1])


def times(matrix: Array, pattern: Array, v: Array) -> Array:
    """matrix[pattern[n]] v_n.  Shapes: (patterns, a, b), (samples,), (samples, b) -> (samples, a)."""
    if len(matrix) == 1:
        return v @ matrix[0].T
    if len(matrix) == len(v):
        return np.matmul(matrix[pattern], v[:, :, None])[:, :, 0]
    out = np.empty((len(v), matrix.shape[1]))
    for k, one in enumerate(matrix):
        out[pattern == k] = v[pattern == k] @ one.T
    return out


@dataclass(frozen=True)
class Product:
    """d = scale · u W + ...: an uncertain weight (stored as Wᵀ when ``transposed``) and what multiplies it."""

    vertex: str
    input: str
    weight: str
    transposed: bool
    scale: float

    def weight_cov(self, cov: Array, shape: tuple[int, ...]) -> Array:
        """Covariance of the scaled W.  Shape: (1, size, size) -> (in, out, in, out)."""
        cov = self.scale**2 * cov[0].reshape(*shape, *shape)
        return cov.transpose(1, 0, 3, 2) if self.transposed else cov


@dataclass(frozen=True)
class Shift:
    """d = ... + J b: an uncertain parameter that enters linearly, at this position among the parents of d."""

    vertex: str
    position: int
    parameter: str


class Structure:
    """What does not change over the rounds: who is hidden, who sees whom.

    hidden: random vertices with hidden entries; ``plated`` and ``shared`` are those with a value per sample, and the
        uncertain parameters.
    factors: random vertices that are not set from outside, and observed labels.
    reach: hidden vertex (or deterministic one) -> factors that see it with no hidden vertex between.
    linear: all Jacobians are constants, so that blocks and precisions are made once and shared by samples.

    Raises:
        InferenceError: evidence on a deterministic vertex; uncertain parameters used otherwise than in products and
            sums; blocks too large.
    """

    def __init__(self, evidence: Evidence, use_moments: bool) -> None:
        net = evidence.net
        self.evidence, self.net, self.use_moments = evidence, net, use_moments
        closed = {n for n in evidence.values if n not in evidence.masks}
        self.hidden = [n for n, v in net.vertices.items() if v.random and n not in evidence.do and n not in closed]
        self.plated = [n for n in self.hidden if net[n].plated]
        self.shared = [n for n in self.hidden if not net[n].plated]
        labels = [n for n in net.labels if n in evidence.values]
        self.factors = [n for n, v in net.vertices.items() if v.random and n not in evidence.do] + labels
        self._check(closed)
        self._read_graph(closed)
        self.products: list[Product] = []
        self.shifts: list[Shift] = []
        for name in self.shared:
            self._read_parameter(name)
        self.linear = net.is_linear() and not self.products

    def _check(self, closed: Iterable[str]) -> None:
        for name in self.evidence.values:
            if not self.net[name].random and self.net[name].kind != "likelihood":
                raise InferenceError(
                    f"evidence on {name!r}, a deterministic vertex: vmp needs a density there; "
                    f"give it noise with net.set_noise({{{name!r}: cov}}), or use engine='exact'"
                )
        for name in self.hidden:
            if self.net[name].size > _LARGEST_BLOCK:
                raise InferenceError(
                    f"{name!r} has {self.net[name].size} entries; vmp holds a covariance within each hidden vertex and "
                    f"takes at most {_LARGEST_BLOCK}; use engine='pc', or split the vertex"
                )

    def _read_graph(self, closed: set[str]) -> None:
        """sources[v]: hidden vertices in v's mean; through[v]: deterministic vertices on the way."""
        evidence, hidden = self.evidence, set(self.hidden)
        self.sources: dict[str, set[str]] = {}
        self.through: dict[str, set[str]] = {}
        for name, vertex in self.net.vertices.items():
            self.sources[name], self.through[name] = set(), set()
            for parent in () if name in evidence.do else vertex.parents:
                if parent in hidden:
                    self.sources[name].add(parent)
                elif parent not in closed and not self.net[parent].random and self.net[parent].plated:
                    self.sources[name] |= self.sources[parent]
                    self.through[name] |= self.through[parent] | {parent}
        self.reach: dict[str, list[str]] = {
            name: [c for c in self.factors if name in self.sources[c] or name in self.through[c]] for name in self.net
        }

    def affected(self, vertex: str) -> set[str]:
        """Factors whose mean changes with the mean of this vertex's op."""
        return {vertex} if vertex in self.factors else set(self.reach[vertex])

    def inputs(self, name: str) -> set[str]:
        """Hidden vertices that the value of a vertex depends on."""
        if name in self.hidden:
            return {name}
        return set() if self.net[name].random else self.sources[name]

    def _read_parameter(self, name: str) -> None:
        """How an uncertain parameter is used: in products, or linearly."""
        used: set[str] = set()
        for child, vertex in self.net.vertices.items():
            if child in self.evidence.do:
                continue
            for position, parent in enumerate(vertex.parents):
                if parent != name:
                    continue
                self._read_use(name, child, position)
                twice = sorted(used & self.affected(child))
                if twice:
                    raise InferenceError(
                        f"parameter {name!r} is uncertain and acts twice on {twice[0]!r}; "
                        "vmp takes a shared weight only where noise stands between its uses: add it with net.set_noise"
                    )
                used |= self.affected(child)

    def _read_use(self, name: str, child: str, position: int) -> None:
        vertex, entry = self.net[child], ops.get(str(self.net[child].op))
        if (vertex.plated and entry.linear is always) or self._is_bias(child, position):
            self.shifts.append(Shift(child, position, name))
            return
        product = _product(self.net, child, position)
        if product is None:
            raise InferenceError(
                f"parameter {name!r} is uncertain and enters {child!r} (op {vertex.op}, parent {position}): vmp takes "
                "uncertain weights as the right factor of Gemm or MatMul, in Linear, or added; use a plain parameter"
            )
        others = [p for p in self.inputs(product.input) if not self.net[p].plated]
        if others:
            raise InferenceError(
                f"the uncertain parameters {others[0]!r} and {name!r} are multiplied with no noise between them; "
                "give a vertex between them noise with net.set_noise"
            )
        self.products.append(product)

    def _is_bias(self, child: str, position: int) -> bool:
        vertex = self.net[child]
        if vertex.op == "Linear":
            return position == len(vertex.parents) - 1 and len(vertex.parents) % 2 == 1
        return vertex.op in ("Gemm", "Conv", "ConvTranspose") and position == 2

    def beliefs(self) -> dict[str, Belief]:
        """Where the rounds start: means at the forward pass, covariances those of the noise."""
        start = Linearization.forward(self.evidence).values
        samples = self.evidence.samples
        out = {}
        for name in self.hidden:
            vertex, noise = self.net[name], self.net.noise(name)
            rows = np.ones((1, vertex.size), bool)
            pattern = np.zeros(samples if vertex.plated else 1, int)
            if name in self.evidence.masks:
                rows = ~self.evidence.masks[name].reshape(samples, -1)
                if self.linear:
                    rows, pattern = np.unique(rows, axis=0, return_inverse=True)
            if vertex.plated and not self.linear:
                rows, pattern = np.broadcast_to(rows, (samples, vertex.size)), np.arange(samples)
            belief = Belief(np.array(start[name], np.float64), np.empty(0), rows, pattern.reshape(-1))
            precision = noise.solve(np.eye(vertex.size).reshape(-1, *vertex.shape))  # type: ignore[union-attr]
            belief.cov = belief.restricted_inverse(precision.reshape(1, vertex.size, vertex.size))
            out[name] = belief
        return out


def _product(net: GaussianBayesNet, child: str, position: int) -> Product | None:
    """The product of a plated input with a weight matrix at this position; None where it is something else."""
    vertex = net[child]
    parents, get = vertex.parents, vertex.attributes.get
    weight = net[parents[position]]
    if vertex.op == "Linear" and position % 2 == 1:
        return Product(child, parents[position - 1], weight.name, True, 1.0)
    right = position == 1 and net[parents[0]].plated and len(weight.shape) == 2
    if vertex.op == "MatMul" and right:
        return Product(child, parents[0], weight.name, False, 1.0)
    if vertex.op == "Gemm" and right and not get("transA", 0):
        return Product(child, parents[0], weight.name, bool(get("transB", 0)), float(get("alpha", 1.0)))
    return None
