"""The answer to a query."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gbn.errors import UnknownNameError

if TYPE_CHECKING:
    import pandas

    from gbn.evidence import Evidence
    from gbn.net import GaussianBayesNet

__all__ = ["Posterior", "Solution"]

Array = np.ndarray[Any, Any]


class Solution(Protocol):
    """What an engine returns; every method computes only when asked, and may raise InferenceError where it cannot."""

    def mean(self, name: str) -> Array:
        """Shape: (samples, *event)."""

    def variance(self, name: str) -> Array:
        """Shape: (samples, *event)."""

    def covariance(self, a: str, b: str) -> Array:
        """Shape: (samples, size of a, size of b)."""

    def sample(self, n: int, rng: np.random.Generator, names: Sequence[str]) -> dict[str, Array]:
        """Joint draws.  Shape of each: (n, samples, *event)."""

    def messages(self) -> Mapping[str, Array]:
        """λ of every vertex."""

    def log_evidence(self) -> Array:
        """Nats.  Shape: (samples,)."""

    def surprise(self, name: str) -> Array:
        """Nats.  Shape: (samples,)."""

    def free_energy(self) -> Array:
        """Nats.  Shape: (samples,)."""


class _ByName(Mapping[str, Array]):
    """One figure for each vertex, computed when first read."""

    def __init__(self, names: Sequence[str], compute: Callable[[str], Array]) -> None:
        # A dict: looking a name up must not read all of them.
        self._names, self._compute = dict.fromkeys(names), compute
        self._known: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        if name not in self._known:
            if name not in self._names:
                raise UnknownNameError("target", name, self._names, "name it in the query's targets")
            self._known[name] = self._compute(name)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __len__(self) -> int:
        return len(self._names)


class Posterior:
    """Posterior of the vertices asked for, given the evidence.  Lazy: means cost no covariance.

    Attributes:
        engine: which engine answered.
        targets: names asked for.
        mean, var, std: vertex -> array of shape (samples, *event); observed entries hold their value and 0.
            A label's mean are its probabilities.
        messages: vertex -> λ, the precision-weighted error; at a parameter it is -∂L/∂θ, L the free energy.
            Shape (samples, *event), or the event alone for parameters.
        surprise: vertex with noise, or label -> its share of the energy at the mean,
            ½ (εᵀ Λ ε + log |2πQ|) or -log p(label), in nats.  Shape: (samples,).
        converged: whether the engine arrived.
        history: one mapping per round.
        diagnostics: the engine's own figures: what is exact, what is approximate.
    """

    def __init__(
        self,
        net: GaussianBayesNet,
        evidence: Evidence,
        engine: str,
        targets: Sequence[str],
        solution: Solution,
        *,
        converged: bool = True,
        history: Sequence[Mapping[str, float]] = (),
        diagnostics: Mapping[str, Any] | None = None,
    ) -> None:
        self.net, self.evidence, self.engine = net, evidence, engine
        self.targets = tuple(targets)
        self._solution = solution
        self.converged, self.history = converged, list(history)
        self.diagnostics = dict(diagnostics or {})
        self.mean: Mapping[str, Array] = _ByName(self.targets, solution.mean)
        self.var: Mapping[str, Array] = _ByName(self.targets, solution.variance)
        self.std: Mapping[str, Array] = _ByName(self.targets, lambda name: np.sqrt(self.var[name]))
        noisy = [name for name, vertex in net.vertices.items() if vertex.random or vertex.kind == "likelihood"]
        self.surprise: Mapping[str, Array] = _ByName(noisy, solution.surprise)
        self._messages: Mapping[str, Array] | None = None

    def __repr__(self) -> str:
        arrived = "" if self.converged else ", not converged"
        return f"Posterior({self.engine}, {self.evidence.samples} samples, targets {list(self.targets)}{arrived})"

    @property
    def messages(self) -> Mapping[str, Array]:
        """vertex -> λ; see the class."""
        if self._messages is None:
            self._messages = self._solution.messages()
        return self._messages

    def cov(self, a: str, b: str | None = None) -> Array:
        """Posterior covariance of two vertices (or of one), their events flattened.

        Returns:
            shape (samples, size of a, size of b); a read-only broadcast where all samples share it.

        Raises:
            UnknownNameError: not a target.
        """
        for name in (a, b or a):
            if name not in self.mean:
                raise UnknownNameError("target", name, self.targets, "name it in the query's targets")
        return self._solution.covariance(a, b or a)

    def sample(self, n: int = 1, rng: np.random.Generator | int | None = None) -> dict[str, Array]:
        """Joint posterior draws of the targets.

        Returns:
            vertex -> shape (n, samples, *event).
        """
        return self._solution.sample(n, np.random.default_rng(rng), self.targets)

    @property
    def log_evidence(self) -> Array:
        """log p(evidence) for each sample, in nats.  Shape: (samples,)."""
        return self._solution.log_evidence()

    @property
    def free_energy(self) -> Array:
        """The objective the engine minimised, in nats.  Shape: (samples,)."""
        return self._solution.free_energy()

    def to_frame(self, std: bool = True) -> pandas.DataFrame:
        """A long table: sample, vertex, index, observed, mean and (where the engine gives it) std."""
        import pandas as pd

        parts = []
        for name in self.targets:
            rows = self.evidence.samples if self.net[name].plated else 1
            mean = self.mean[name].reshape(rows, -1)
            size = mean.shape[1]
            index = ["[" + ", ".join(map(str, i)) + "]" for i in np.ndindex(self.net[name].shape or (1,))]
            columns: dict[str, Any] = {
                "sample": np.repeat(np.arange(rows), size),
                "vertex": name,
                "index": np.tile(index, rows),
                "observed": self._observed(name).reshape(-1),
                "mean": mean.reshape(-1),
            }
            if std:
                columns["std"] = self.std[name].reshape(-1)
            parts.append(pd.DataFrame(columns))
        return pd.concat(parts, ignore_index=True)

    def _observed(self, name: str) -> Array:
        evidence, vertex = self.evidence, self.net[name]
        if name in evidence.masks:
            return evidence.masks[name]
        if vertex.kind == "likelihood" and name in evidence.values:
            return ~np.isnan(evidence.values[name])
        shape = (evidence.samples, *vertex.shape) if vertex.plated else vertex.shape
        return np.full(shape, name in evidence.values or name in evidence.do)

    def _repr_html_(self) -> str:
        from gbn.display.html import posterior_html

        return posterior_html(self)
