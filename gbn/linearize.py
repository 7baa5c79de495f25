"""A net at an operating point: values, Jacobians, and the two local sweeps that every engine is made of.

With deviations d from the operating point v, errors ε_i = v_i - f_i(v_pa) and messages λ_i = Λ_i ε_i::

    pull, in reverse order:   λ_i = Σ_{c ∈ ch(i)} J_{c←i}ᵀ λ_c      (each vertex may then say what it sends instead)
    push, forward:            y_i = source_i + Σ_p J_{i←p} d_p;   d_i = y_i on latent entries, 0 on observed ones

A vertex hears its neighbours through these two and nothing else.

A nonlinearity is expanded at the point (Taylor), or replaced by a regression under a Gaussian of its parent (moment
linearisation: see :mod:`gbn.inference.regression`), which leaves the vertex a noise ω of its own beside e_i.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial
from typing import Any

import numpy as np

from gbn.errors import GraphError
from gbn.evidence import Evidence
from gbn.maps import Diagonal, LinearMap
from gbn.net import GaussianBayesNet, Vertex
from gbn.ops import Maps

__all__ = ["Linearization", "Regression", "Rule", "linear_net"]

Array = np.ndarray[Any, Any]
Rule = Callable[[Array | None], Array | None]
Source = Callable[[str], Array | None]
Regression = Callable[[Array], tuple[Array, Array, Array]]


class Linearization:
    """A net linearised at one point per sample, given evidence; made by :meth:`forward` or :meth:`at`.

    values: every vertex at the operating point (labels excepted), observed entries at their evidence.
    errors: vertex -> ε = v - f(v_pa), where it is not zero: observed vertices, and those moved away from their mean.
    spread: regressed vertex -> Ω, the variance of ω, independent over entries.  Shape: (samples, *event).
    """

    def __init__(
        self,
        evidence: Evidence,
        values: dict[str, Array],
        errors: dict[str, Array],
        maps: dict[str, Maps],
        spread: Mapping[str, Array] | None = None,
    ) -> None:
        self.net = evidence.net
        self.evidence = evidence
        self.values = values
        self.errors = errors
        self.spread: Mapping[str, Array] = spread or {}
        self._makers = maps
        self._maps: dict[tuple[str, int], LinearMap | None] = {}
        self._closed = frozenset(name for name in evidence.values if name not in evidence.masks)

    @classmethod
    def forward(
        cls,
        evidence: Evidence,
        innovations: Mapping[str, Array] | None = None,
        regress: Mapping[str, Regression] | None = None,
    ) -> Linearization:
        """The live forward pass: v_i = f_i(v_pa) + R_i z_i, with R_i R_iᵀ = Q_i.

        Observed entries are clamped and feed their children; in a vertex with some entries observed the others move to
        their conditional mean and spread.

        Args:
            evidence: what is clamped.
            innovations: latent vertex -> whitened error z, shape (samples, *event); left out: zero.
            regress: vertex of one parent -> function from the parent's value to E f, E f' and Ω, in place of its op.
        """
        net = evidence.net
        innovations = innovations or {}
        errors: dict[str, Array] = {}

        def clamp(name: str, mean: Array) -> Array:
            value = evidence.values[name]
            errors[name] = value - mean
            return value

        def clamp_part(name: str, mean: Array) -> Array:
            value = evidence.values[name]
            errors[name] = error = _partial_error(evidence, name, value - mean, innovations.get(name))
            return np.where(evidence.masks[name], value, mean + error)

        def move(name: str, mean: Array) -> Array:
            errors[name] = error = net.noise(name).root(innovations[name])  # type: ignore[union-attr]
            return mean + error

        rules = {name: partial(move, name) for name in innovations}
        rules |= {name: partial(clamp_part if name in evidence.masks else clamp, name) for name in evidence.values}
        return cls._run(evidence, errors, rules, regress or {})

    @classmethod
    def at(
        cls, evidence: Evidence, held: Mapping[str, Array], regress: Mapping[str, Regression] | None = None
    ) -> Linearization:
        """The net where some vertices have values of their own, and all others follow.

        Args:
            held: vertex -> value of the entries that are not observed, shape (samples, *event).
            regress: as in :meth:`forward`.
        """
        errors: dict[str, Array] = {}
        chosen = {**evidence.values, **held}
        for name in evidence.masks.keys() & held.keys():
            chosen[name] = np.where(evidence.masks[name], evidence.values[name], held[name])

        def place(name: str, mean: Array) -> Array:
            value = chosen[name]
            if name in evidence.masks and name not in held:
                value = np.where(evidence.masks[name], value, mean)
            errors[name] = value - mean
            return value

        return cls._run(evidence, errors, {name: partial(place, name) for name in chosen}, regress or {})

    @classmethod
    def _run(
        cls,
        evidence: Evidence,
        errors: dict[str, Array],
        rules: Mapping[str, Callable[[Array], Array]],
        regress: Mapping[str, Regression],
    ) -> Linearization:
        """Evaluate the net; ``rules`` fill ``errors``."""
        spread: dict[str, Array] = {}

        def regression(name: str, parent: Array) -> tuple[Array, Maps]:
            value, slope, spread[name] = regress[name](parent)
            return value, (partial(Diagonal, slope, slope.shape, slope.shape),)

        functions = {name: partial(regression, name) for name in regress}
        values, maps = evidence.net.evaluate(evidence.do, evidence.samples, rules, functions)
        return cls(evidence, values, errors, maps, spread)

    def map(self, child: str, position: int) -> LinearMap | None:
        """The Jacobian of a vertex by its parent at ``position``; None where the op has no derivative there."""
        key = (child, position)
        if key in self._maps:
            return self._maps[key]
        makers = self._makers.get(child)
        if makers is None:
            shape = self.values[self.net.vertices[child].parents[0]].shape
            made: LinearMap | None = Diagonal(1.0, shape, shape)
        else:
            maker = makers[position]
            made = None if maker is None else maker()
        self._maps[key] = made
        return made

    def parents(self, name: str) -> tuple[str, ...]:
        """The parents a vertex listens to: none where it is set from outside."""
        return () if name in self.evidence.do else self.net.vertices[name].parents

    def closed(self, name: str) -> bool:
        """Whether the vertex is wholly observed, so that nothing passes through it."""
        return name in self._closed

    @cached_property
    def _lines(self) -> dict[str, list[tuple[str, int]]]:
        """Vertex -> the children that tell it something, with its position among their parents."""
        lines: dict[str, list[tuple[str, int]]] = {name: [] for name in self.net.vertices}
        for child in self.net.vertices:
            for position, parent in enumerate(self.parents(child)):
                if not self.closed(parent):
                    lines[parent].append((child, position))
        return lines

    def listeners(self, name: str) -> tuple[str, ...]:
        """The parents to whom a vertex speaks: those that are not wholly observed."""
        return tuple(dict.fromkeys(parent for parent in self.parents(name) if not self.closed(parent)))

    def hear(self, name: str, messages: Mapping[str, Array]) -> Array | None:
        """What one vertex hears from its children, Σ_c J_{c←i}ᵀ λ_c; None where none of them has spoken.

        The single-vertex form of :meth:`pull`.

        Args:
            messages: child -> λ_c; only those of the vertex's own children are read.
        """
        total: Array | None = None
        for child, position in self._lines[name]:
            message, map_ = messages.get(child), self.map(child, position)
            if message is not None and map_ is not None:
                part = map_.pull(message)
                total = part if total is None else total + part
        return total

    def upstream(self, names: Iterable[str]) -> set[str]:
        """These vertices and the ancestors whose deviations reach them."""
        found = set(names)
        for name in reversed(self.net.vertices):
            if name in found:
                found.update(parent for parent in self.parents(name) if not self.closed(parent))
        return found

    def downstream(self, names: Iterable[str]) -> set[str]:
        """These vertices and the descendants whose messages reach them."""
        found = set(names)
        for name, vertex in self.net.vertices.items():
            if name in found or found.isdisjoint(vertex.parents) or name in self.evidence.do:
                continue
            if any(parent in found and parent not in self._closed for parent in vertex.parents):
                found.add(name)
        return found

    def everywhere(self, messages: Mapping[str, Array]) -> dict[str, Array]:
        """λ of every vertex: zero where nothing was heard."""

        def zeros(vertex: Vertex) -> Array:
            lead = (self.evidence.samples,) if vertex.plated else ()
            return np.zeros((*lead, *vertex.shape), self.net.dtype)

        return {n: messages[n] if n in messages else zeros(v) for n, v in self.net.vertices.items()}

    def pull(self, rules: Mapping[str, Rule], wanted: Iterable[str]) -> dict[str, Array]:
        """Messages from children to parents, in reverse topological order.

        Args:
            rules: vertex -> function from the sum of its children's messages (None: there are none) to its own message
                λ, which travels on to its parents (None: it sends nothing).  A vertex without a rule passes on what it
                hears.
            wanted: vertices whose messages are asked for; others are visited only where they lie on the way.

        Returns:
            wanted vertex -> λ, shape (*lead, samples, *event), or (*lead, *event) for shared vertices; none where
            nothing was heard.
        """
        wanted = set(wanted)
        concerned, closed, do = self.downstream(wanted), self._closed, self.evidence.do
        incoming: dict[str, Array] = {}
        messages: dict[str, Array] = {}
        for name in reversed(self.net.vertices):
            if name not in concerned:
                continue
            message = incoming.pop(name, None)
            if name in rules:
                message = rules[name](message)
            if message is None:
                continue
            if name in wanted:
                messages[name] = message
            if name in do:
                continue
            for position, parent in enumerate(self.net.vertices[name].parents):
                if parent not in concerned or parent in closed:
                    continue
                map_ = self.map(name, position)
                if map_ is not None:
                    part = map_.pull(message)
                    incoming[parent] = incoming[parent] + part if parent in incoming else part
        return messages

    def push(
        self, source: Source, wanted: Iterable[str] | None = None, *, squared: bool = False
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Deviations from parents to children, in topological order.

        Args:
            source: the vertex's own contribution (noise response and residual); None: zero.
            wanted: stop at the ancestors of these vertices (default: go everywhere).
            squared: by maps with their entries squared: what sources and deviations are is then variances, carried as
                if entries were independent.

        Returns:
            y, the reaction of every vertex reached, and d, its deviation: y with observed entries at zero.
        """
        concerned = self.net.vertices if wanted is None else self.upstream(wanted)
        reactions: dict[str, Array] = {}
        deviations: dict[str, Array] = {}
        for name in self.net.vertices:
            if name not in concerned or name in self.evidence.do:
                continue
            total = source(name)
            for position, parent in enumerate(self.parents(name)):
                if parent in deviations:
                    map_ = self.map(name, position)
                    if map_ is not None:
                        part = (map_.squared() if squared else map_).push(deviations[parent])
                        total = part if total is None else total + part
            if total is None:
                continue
            reactions[name] = total
            if name in self.evidence.masks:
                deviations[name] = np.where(self.evidence.masks[name], total.dtype.type(0), total)
            elif name not in self.evidence.values:
                deviations[name] = total
        return reactions, deviations


def _partial_error(evidence: Evidence, name: str, error: Array, innovation: Array | None) -> Array:
    """ε of a partly observed vertex: given on observed entries, conditional mean plus innovation on the others."""
    conditional = evidence.conditionals.get(name)
    if conditional is None:
        return np.where(evidence.masks[name], error, error.dtype.type(0))
    implied = conditional.implied(error)
    return implied if innovation is None else implied + conditional.root(innovation)


def linear_net(net: GaussianBayesNet, at: Mapping[str, Any], sample: int = 0) -> GaussianBayesNet:
    """The linear-Gaussian net at one operating point: v_i ~ N(f_i + Σ_p J_{i←p} (v_p - v_p*), Q_i).

    Args:
        net: any net with plain parameters.
        at: values of the inputs (those with a prior default to its mean) and of any other vertex.
        sample: which row of ``at``.

    Returns:
        A net of the same inputs and vertices, all of op "Linear"; parameters are folded into weights and biases.

    Raises:
        GraphError: parameters with a prior, which make the net bilinear.
    """
    uncertain = [name for name in net.parameters if net[name].random]
    if uncertain:
        raise GraphError(f"linearize: parameter {uncertain[0]!r} is random; a linear net needs plain parameters")
    everything = Evidence.read(net, do=at)
    if not -everything.samples <= sample < everything.samples:
        raise IndexError(f"sample {sample}: `at` has {everything.samples} rows")
    row = Evidence(net, 1, {}, {}, dict(everything.rows(np.array([sample])).do))
    means: dict[str, Array] = {}

    def keep(name: str, mean: Array) -> Array:
        means[name] = mean
        return chosen.get(name, mean)

    # Values given for op vertices move the operating point; the vertices keep their CPDs.
    chosen = {name: value for name, value in row.do.items() if net[name].kind == "op"}
    roots = {name: value for name, value in row.do.items() if name not in chosen}
    values, maps = net.evaluate(roots, 1, {name: partial(keep, name) for name in net})
    point = Linearization(Evidence(net, 1, {}, {}, {}), values, {}, maps)
    out = GaussianBayesNet(net.dtype)
    shared_noises = {v.noise for v in net.vertices.values() if v.noise is not None}
    for key in sorted(shared_noises - set(net.vertices)):
        out.add_noise(key, net.noises[key].value, net.noises[key].event)
    for name, vertex in net.vertices.items():
        _add_linearized(out, net, point, means, vertex, name)
    out.set_outputs([name for name in net.outputs if name in out])
    return out


def _add_linearized(
    out: GaussianBayesNet,
    net: GaussianBayesNet,
    point: Linearization,
    means: Mapping[str, Array],
    vertex: Vertex,
    name: str,
) -> None:
    noise: Any = None if vertex.noise is None else net.noises[vertex.noise].value
    if vertex.kind == "input":
        known = noise is None and vertex.value is not None
        out.add_input(name, vertex.shape, mean=vertex.value, cov=1.0 if known else noise)
        if known:
            out.set_noise({name: None})
    elif vertex.kind == "likelihood":
        out.add_likelihood(name, str(vertex.op), vertex.parents[0])
    elif vertex.plated:
        weights: dict[str, Array] = {}
        bias = means[name][0].reshape(-1).astype(np.float64)
        for position, parent in enumerate(vertex.parents):
            map_ = point.map(name, position)
            if net[parent].plated and parent in out and map_ is not None:
                block = map_.blocks(net.dtype)[0]
                weights[parent] = weights.get(parent, 0) + block
                bias = bias - block @ point.values[parent][0].reshape(-1)
        if weights or noise is not None:
            shared = vertex.noise in out.noises
            out.add_linear(name, weights, bias=bias, cov=vertex.noise if shared else noise, shape=vertex.shape)
