"""The Gaussian Bayes net: vertices, their CPDs, and the forward pass.

Every vertex of a computation graph is a variable, v_i | parents ~ N(f_i(parents), Q_i).  A vertex with noise is a
random variable, one without a deterministic function of its parents; weights are vertices too, shared by all samples.

Arrays carry the samples on axis 0; the *event* is the shape of one sample.  Parameters and constants have no sample
axis.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from operator import is_
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn import likelihoods, ops
from gbn.build import NetBuilder
from gbn.errors import EvidenceError
from gbn.evidence import Evidence
from gbn.gaussian import LOG_2PI, Covariance
from gbn.likelihoods import Likelihood
from gbn.maps import Chain, Diagonal, LinearMap
from gbn.vertex import Vertex

if TYPE_CHECKING:
    import networkx
    from pgmpy.models import LinearGaussianBayesianNetwork

    from gbn.learning import FitResult
    from gbn.posterior import Posterior

__all__ = ["GaussianBayesNet", "Vertex"]

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
# Evidence patterns whose structure is kept.
_REMEMBERED = 8


class GaussianBayesNet(NetBuilder):
    """A directed acyclic graph of Gaussian CPDs over tensor-valued vertices.

    Build it with :func:`gbn.convert`, or by hand; parents must exist when they are named::

        net = gbn.GaussianBayesNet()
        net.add_input("x", shape=(3,), mean=0.0, cov=1.0)
        net.add_parameter("W", weight)
        net.add("a", "Gemm", parents=["x", "W"], cov=0.01)
        net.add("h", "Tanh", parents=["a"])
        net.add_linear("y", {"h": V}, bias=c, cov=0.1)

    Args:
        dtype: of all values (float32 or float64); what is given is converted to it.
    """

    def copy(self) -> GaussianBayesNet:
        """An independent net (arrays, which are never changed in place, are shared)."""
        other: GaussianBayesNet = object.__new__(type(self))
        own = {"vertices": dict(self.vertices), "noises": dict(self.noises), "_sources": dict(self._sources)}
        other.__dict__.update(self.__dict__, **own)
        return other

    def remembered(self, what: Hashable, find: Callable[[], Any]) -> Any:
        """``find()``, or what it gave when the net (or the net it is a copy of) had these same vertices.

        For what engines read off the graph, which does not depend on the values of noises.
        """
        now = tuple(self.vertices.values())
        then, found = self._remembered.get(what, (None, None))
        if then is None or len(then) != len(now) or not all(map(is_, then, now)):
            found = find()
            self._remembered.pop(what, None)
            while len(self._remembered) >= _REMEMBERED:
                self._remembered.pop(next(iter(self._remembered)), None)
            self._remembered[what] = now, found
        return found

    def __contains__(self, name: object) -> bool:
        return name in self.vertices

    def __getitem__(self, name: str) -> Vertex:
        self._known(name)
        return self.vertices[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.vertices)

    def __len__(self) -> int:
        return len(self.vertices)

    def __repr__(self) -> str:
        latents = len(self.latents)
        return f"GaussianBayesNet({len(self)} vertices, {latents} with noise, {self.dtype})"

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, in call order."""
        return self._of_kind("input")

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, in call order: what the source model returns."""
        if self._outputs is not None:
            return self._outputs
        has_child = {p for v in self.vertices.values() if v.kind == "op" for p in v.parents}
        return tuple(n for n, v in self.vertices.items() if v.plated and v.kind != "likelihood" and n not in has_child)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the weights."""
        return self._of_kind("parameter")

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the likelihood leaves."""
        return self._of_kind("likelihood")

    @property
    def latents(self) -> tuple[str, ...]:
        """Names of the vertices with noise (random variables), parameters excepted."""
        return tuple(n for n, v in self.vertices.items() if v.random and v.plated)

    def _of_kind(self, kind: str) -> tuple[str, ...]:
        return tuple(name for name, vertex in self.vertices.items() if vertex.kind == kind)

    def noise(self, name: str) -> Covariance | None:
        """The covariance Q of a vertex; None where it is deterministic."""
        key = self[name].noise
        return None if key is None else self.noises[key]

    def label_of(self, name: str) -> Likelihood:
        """The likelihood of a label vertex."""
        return likelihoods.get(str(self[name].op))

    def is_linear(self) -> bool:
        """Whether every Jacobian is a constant: the net is linear-Gaussian given its parameters."""
        return bool(self.remembered("linear", self._is_linear))

    def _is_linear(self) -> bool:
        for vertex in self.vertices.values():
            if vertex.kind == "likelihood":
                return False
            if vertex.kind == "op":
                varying = [self.vertices[p].plated or self.vertices[p].random for p in vertex.parents]
                if not ops.get(str(vertex.op)).linear(varying):
                    return False
        return True

    def evaluate(
        self,
        do: Mapping[str, Array],
        samples: int,
        choose: Mapping[str, Callable[[Array], Array]] | None = None,
        functions: Mapping[str, Callable[..., tuple[Array, ops.Maps]]] | None = None,
    ) -> tuple[dict[str, Array], dict[str, ops.Maps]]:
        """One pass in topological order: each vertex gets its mean given its parents' values.

        Args:
            do: values that replace CPDs (shape (samples, *event)); their ops are not run.
            samples: number of rows.
            choose: vertex -> function from its mean to the value that its children see (default: the mean itself).
            functions: vertex -> mean function in place of its op, of the same form, attributes taken care of.

        Returns:
            values of every vertex, labels excepted, and for every op that ran one map-maker per parent.
        """
        choose, functions = choose or {}, functions or {}
        values: dict[str, Array] = {}
        maps: dict[str, ops.Maps] = {}
        for name, vertex in self.vertices.items():
            if name in do:
                values[name] = do[name]
                continue
            if vertex.kind == "likelihood":
                continue
            mean, made = self.mean_given(name, [values[p] for p in vertex.parents], samples, functions.get(name))
            if vertex.kind == "op":
                maps[name] = made
            values[name] = choose[name](mean) if name in choose else mean
        return values, maps

    def mean_given(
        self,
        name: str,
        parents: Sequence[Array],
        samples: int,
        function: Callable[..., tuple[Array, ops.Maps]] | None = None,
    ) -> tuple[Array, ops.Maps]:
        """The mean of one vertex, no label, given its parents' values, and one map-maker per parent.

        Args:
            parents: in the order of the vertex's parents.
            samples: number of rows.
            function: in place of its op, of the same form, attributes taken care of.

        Raises:
            EvidenceError: it is an input without a prior.
        """
        vertex = self.vertices[name]
        if vertex.kind != "op":
            shared = not vertex.plated and vertex.value is not None
            return (vertex.value if shared else self._root_mean(vertex, samples)), ()  # type: ignore[return-value]
        if function is None:
            mean, maps = ops.OPS[str(vertex.op)].function(*parents, **vertex.attributes)
        else:
            mean, maps = function(*parents)
        if vertex.plated and mean.shape != (samples, *vertex.shape):
            return _repeated(mean, maps, (samples, *vertex.shape))
        return mean, maps

    def _root_mean(self, vertex: Vertex, samples: int) -> Array:
        """The mean of a root: a parameter's array, or an input's prior mean for each sample."""
        if vertex.value is None:
            raise EvidenceError(
                f"input {vertex.name!r} has no prior and was not given; give it as evidence of shape "
                f"({_axes('samples', vertex.shape)}), or call net.set_prior({vertex.name!r}, mean, cov)"
            )
        if not vertex.plated:
            return vertex.value
        return vertex.value[None] if samples == 1 else np.broadcast_to(vertex.value, (samples, *vertex.shape))

    def forward(self, inputs: Mapping[str, Any] | None = None) -> dict[str, Array]:
        """The forward pass: every vertex at its mean, given the inputs.

        Args:
            inputs: name -> array of shape (samples, *event); any vertex may be set; inputs with a prior may be
                left out.

        Returns:
            name -> value, shape (samples, *event), or the event alone for parameters; labels hold probabilities.
        """
        evidence = Evidence.read(self, do=inputs)
        values, _ = self.evaluate(evidence.do, evidence.samples)
        for name in self.labels:
            if name not in values:
                values[name] = self.label_of(name).mean(values[self.vertices[name].parents[0]])
        return values

    def sample(
        self, n: int = 1, rng: np.random.Generator | int | None = None, do: Mapping[str, Any] | None = None
    ) -> dict[str, Array]:
        """Ancestral samples of every vertex.

        Args:
            n: number of samples; arrays of several rows in ``do`` decide instead.
            rng: a Generator, or a seed.
            do: values of inputs without a prior, or interventions.

        Returns:
            name -> draw, shape (n, *event).

        Raises:
            EvidenceError: n is no whole number from 1 on; an input without prior is not in ``do``.
        """
        if not isinstance(n, (int, np.integer)) or n < 1:
            raise EvidenceError(f"n: got {n!r}, expected a number of samples, 1 or more")
        rng = np.random.default_rng(rng)
        evidence = Evidence.read(self, do=do or {}, samples=n)

        def draw(noise: Covariance, mean: Array) -> Array:
            return mean + noise.root(np.asarray(rng.standard_normal(mean.shape), self.dtype))

        draws = {n: partial(draw, self.noises[v.noise]) for n, v in self.vertices.items() if v.noise is not None}
        values, _ = self.evaluate(evidence.do, evidence.samples, draws)
        for name in self.labels:
            values[name] = self.label_of(name).sample(values[self.vertices[name].parents[0]], rng)
        return values

    def log_prob(self, values: Mapping[str, Any]) -> Array:
        """Log-density of a complete assignment, in nats: Σ_i log N(v_i; f_i, Q_i) + Σ log p(label).

        Args:
            values: every vertex with noise, and inputs without a prior; labels may be left out.  Deterministic
                vertices are computed.

        Returns:
            shape (samples,); shape () when parameters are random, for these couple the samples.

        Raises:
            EvidenceError: a vertex with noise is missing or incomplete.
        """
        shared = {n: self._array(values[n], n) for n in self.parameters if n in values}
        evidence = Evidence.read(self, {n: v for n, v in values.items() if self._independent(n)})
        total = np.zeros(evidence.samples, self.dtype)
        prior = np.zeros((), self.dtype)

        def score(vertex: Vertex, noise: Covariance, mean: Array) -> Array:
            nonlocal total, prior
            value = self._complete(vertex, evidence, shared)
            error = (value - mean).reshape(*value.shape[: int(vertex.plated)], -1)
            density = -0.5 * ((error * noise.solve(value - mean).reshape(error.shape)).sum(-1) + noise.logdet)
            density = density - 0.5 * vertex.size * LOG_2PI
            total, prior = (total + density, prior) if vertex.plated else (total, prior + density)
            return value

        rules: dict[str, Callable[[Array], Array]] = {
            n: partial(score, v, self.noises[v.noise]) for n, v in self.vertices.items() if v.noise is not None
        }
        plain = {n: value for n, value in shared.items() if n not in rules}
        known, _ = self.evaluate({**evidence.do, **plain}, evidence.samples, rules)
        for name in self.labels:
            if name in evidence.values:
                logits = known[self.vertices[name].parents[0]]
                total = total + self.label_of(name).log_prob(logits, evidence.values[name])
        coupled = any(self.vertices[name].random for name in self.parameters)
        return total.sum() + prior if coupled else total

    def _independent(self, name: str) -> bool:
        """Whether log_prob needs the value given: per sample, and not a function of other vertices."""
        vertex = self[name]
        return vertex.plated and (vertex.kind != "op" or vertex.random)

    @staticmethod
    def _complete(vertex: Vertex, evidence: Evidence, shared: Mapping[str, Array]) -> Array:
        if not vertex.plated:
            return shared.get(vertex.name, vertex.value)  # type: ignore[arg-type, return-value]
        if vertex.name not in evidence.values or vertex.name in evidence.masks:
            raise EvidenceError(
                f"log_prob needs a complete value of {vertex.name!r}, shape ({_axes('samples', vertex.shape)})"
            )
        return evidence.values[vertex.name]

    def linearize(self, at: Mapping[str, Any] | None = None, sample: int = 0) -> GaussianBayesNet:
        """The linear-Gaussian net at one operating point; see :func:`gbn.linearize.linear_net`."""
        from gbn.linearize import linear_net

        return linear_net(self, at or {}, sample)

    def query(
        self,
        targets: str | Sequence[str] | None = None,
        evidence: Any = None,
        do: Any = None,
        engine: str = "exact",
        **options: Any,
    ) -> Posterior:
        """The posterior of some vertices given others; see :func:`gbn.inference.query`."""
        from gbn.inference import query

        return query(self, targets, evidence, do, engine, **options)

    def fit(self, data: Any, method: str = "em", **options: Any) -> FitResult:
        """A copy of the net with parameters and noises learned from data; see :func:`gbn.learning.fit`."""
        from gbn.learning import fit

        return fit(self, data, method, **options)

    def counterfactual(
        self, evidence: Any, do: Any, targets: str | Sequence[str] | None = None, **options: Any
    ) -> Posterior:
        """What would have been under ``do``; see :func:`gbn.inference.queries.counterfactual`."""
        from gbn.inference.queries import counterfactual

        return counterfactual(self, evidence, do, targets, **options)

    def mutual_information(
        self, a: str | Sequence[str], b: str | Sequence[str], evidence: Any = None, **options: Any
    ) -> Array:
        """I(a; b | evidence) in nats; see :func:`gbn.inference.queries.mutual_information`."""
        from gbn.inference.queries import mutual_information

        return mutual_information(self, a, b, evidence, **options)

    def d_separated(self, a: str | Sequence[str], b: str | Sequence[str], given: str | Sequence[str] = ()) -> bool:
        """Whether the graph makes two groups independent; see :func:`gbn.graph.d_separated`."""
        from gbn.graph import d_separated

        return d_separated(self, a, b, given)

    def markov_blanket(self, name: str) -> tuple[str, ...]:
        """The variables that shield a vertex from all others; see :func:`gbn.graph.markov_blanket`."""
        from gbn.graph import markov_blanket

        return markov_blanket(self, name)

    def save(self, path: str | PathLike[str]) -> None:
        """Write one ``.gbn`` file; see :func:`gbn.io.save`."""
        from gbn.io import save

        save(self, path)

    def to_state_dict(self, *, tensors: bool = False) -> dict[str, Any]:
        """The arrays of the source model, as the net holds them; see :func:`gbn.export.write_back.to_state_dict`."""
        from gbn.export.write_back import to_state_dict

        return to_state_dict(self, tensors=tensors)

    def to_networkx(self) -> networkx.MultiDiGraph:
        """The graph, with vertex attributes; see :func:`gbn.export.networkx.to_networkx`."""
        from gbn.export.networkx import to_networkx

        return to_networkx(self)

    def to_pgmpy(self) -> LinearGaussianBayesianNetwork:
        """A pgmpy model of scalars; see :func:`gbn.export.pgmpy.to_pgmpy`."""
        from gbn.export.pgmpy import to_pgmpy

        return to_pgmpy(self)

    def _repr_html_(self) -> str:
        from gbn.display.html import net_html

        return net_html(self)


def _repeated(mean: Array, maps: ops.Maps, shape: Shape) -> tuple[Array, ops.Maps]:
    """The mean of a noisy vertex whose parents are all shared, once per sample.  shape: (samples, *event)."""

    def repeat(make: Callable[[], LinearMap]) -> LinearMap:
        return Chain((make(), Diagonal(1.0, mean.shape, shape)))

    return np.broadcast_to(mean, shape), tuple(None if make is None else partial(repeat, make) for make in maps)


def _axes(first: str, shape: Shape) -> str:
    return ", ".join([first, *map(str, shape)])
