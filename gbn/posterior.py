"""The answer to a query."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gbn.errors import InferenceError, UnknownNameError
from gbn.evidence import columns
from gbn.joint import Joint, is_shared

if TYPE_CHECKING:
    import pandas

    from gbn.display.document import Document
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
    """One figure for each vertex, computed when first read; read-only, for other figures are computed from it."""

    def __init__(self, names: Sequence[str], compute: Callable[[str], Array]) -> None:
        # A dict: looking a name up must not read all of them.
        self._names, self._compute = dict.fromkeys(names), compute
        self._known: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        if name not in self._known:
            if name not in self._names:
                raise UnknownNameError("target", name, self._names, "name it in the query's targets")
            figure = self._compute(name).view()
            figure.flags.writeable = False
            self._known[name] = figure
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{name!r}: {self._shown(name)}" for name in self) + "}"

    def _shown(self, name: str) -> str:
        try:
            return repr(self[name])
        except InferenceError as error:
            return f"<{error}>"


class Posterior:
    """Posterior of the vertices asked for, given the evidence.  Lazy: means cost no covariance.

    Attributes:
        engine: which engine answered.
        targets: names asked for.
        mean, var, std: vertex -> read-only array of shape (samples, *event); observed entries hold their value and 0.
            A label's mean are its probabilities at the mean logits, not averaged over them; ``sample`` averages.
        messages: vertex -> λ, the precision-weighted error; at a parameter it is -∂L/∂θ, L the free energy.
            Shape (samples, *event), or the event alone for parameters.
        surprise: vertex with noise, or label -> its share of the energy at the mean,
            ½ (εᵀ Λ ε + log |2πQ|) or -log p(label), in nats.  Shape: (samples,).
        converged: whether the engine arrived.
        history: one mapping per round.
        diagnostics: the engine's own figures: what is exact, what is approximate.
        options: what the engine was told.
        asked: the evidence as the engine saw it, soft evidence included.
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
        self.options: Mapping[str, Any] = {}
        self.asked = evidence
        self.mean: Mapping[str, Array] = _ByName(self.targets, solution.mean)
        self.var: Mapping[str, Array] = _ByName(self.targets, solution.variance)
        variance = self.var
        # Not by way of self: an answer in a cycle keeps its arrays until the next collection of garbage.
        self.std: Mapping[str, Array] = _ByName(self.targets, lambda name: np.sqrt(variance[name]))
        self._messages: Mapping[str, Array] | None = None

    def __repr__(self) -> str:
        arrived = "" if self.converged else ", not converged"
        return f"Posterior({self.engine}, {self.evidence.samples} samples, targets {list(self.targets)}{arrived})"

    @cached_property
    def surprise(self) -> Mapping[str, Array]:
        """vertex with noise, or label -> its share of the energy; see the class."""
        noisy = [name for name, vertex in self.net.vertices.items() if vertex.random or vertex.kind == "likelihood"]
        return _ByName(noisy, self._solution.surprise)

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
        self._check_targets([a, b or a])
        return self._solution.covariance(a, b or a)

    def joint(self, names: Sequence[str] | None = None) -> Joint:
        """Some targets (None: all) as one Gaussian vector for each sample.

        Returns:
            ``.mean`` of shape (samples, n) and ``.cov`` of shape (samples, n, n), n the entries of all of them in the
            order named; with ``.condition``, ``.marginal``, ``.entropy`` and ``.mutual_information``.

        Raises:
            UnknownNameError: not a target.
            InferenceError: a label, or an engine without covariances.
        """
        chosen = self.targets if names is None else (names,) if isinstance(names, str) else tuple(names)
        self._check_targets(chosen)
        samples = self.evidence.samples
        covs = {(a, b): self.cov(a, b) for i, a in enumerate(chosen) for b in chosen[i:]}
        blocks = [[covs[a, b] if (a, b) in covs else np.swapaxes(covs[b, a], 1, 2) for b in chosen] for a in chosen]
        if all(is_shared(cov) for cov in covs.values()):
            blocks = [[cov[:1] for cov in row] for row in blocks]
        cov: Array = np.block(blocks)
        sizes = [(samples, self.net[name].size) for name in chosen]
        means = [
            np.broadcast_to(self.mean[n].reshape(-1, size[1]), size) for n, size in zip(chosen, sizes, strict=True)
        ]
        events = tuple(self.net[name].shape or (1,) for name in chosen)
        mean = np.concatenate(means, axis=1)
        return Joint(chosen, events, mean, np.broadcast_to(cov, (samples, *cov.shape[1:])))

    def conditional(self, targets: str | Sequence[str], given: Mapping[str, Any]) -> Joint:
        """The posterior of some targets, given values of other targets besides the evidence.

        Args:
            given: vertex -> array of shape (samples, *event), or one row; complete.

        Raises:
            As :meth:`joint` and :meth:`gbn.joint.Joint.condition`.
        """
        chosen = [targets] if isinstance(targets, str) else list(targets)
        return self.joint([*chosen, *given]).condition(given)

    @property
    def map(self) -> Mapping[str, Array]:
        """target -> its most probable value, shape (samples, *event).

        The mean in a linear-Gaussian net; elsewhere the point of least free energy, which is searched for.
        """
        from gbn.inference.queries import most_probable

        return most_probable(self)

    def kl(self, name: str) -> Array:
        """KL(posterior ‖ prior) of a target: what the evidence says of it, in nats.

        The prior is the answer of the same engine without evidence; inputs without a prior, and interventions,
        are kept.  It is ∞ where entries are observed, and 0 where the prior is certain already.  Shape: (samples,).

        Raises:
            UnknownNameError: not a target.
            InferenceError: a label, or an engine without covariances.
        """
        from gbn.inference.queries import divergence_from_prior

        return divergence_from_prior(self, name)

    def _check_targets(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self.mean:
                raise UnknownNameError("target", name, self.targets, "name it in the query's targets")

    def sample(self, n: int = 1, rng: np.random.Generator | int | None = None) -> dict[str, Array]:
        """Joint posterior draws of the targets.

        Returns:
            vertex -> shape (n, samples, *event).

        Raises:
            InferenceError: n is no whole number from 1 on, or this engine has no samples.
        """
        if not isinstance(n, (int, np.integer)) or n < 1:
            raise InferenceError(f"n: got {n!r}, expected a number of draws, 1 or more")
        return self._solution.sample(n, np.random.default_rng(rng), self.targets)

    @property
    def log_evidence(self) -> Array:
        """log p(evidence) for each sample, in nats.  Shape: (samples,)."""
        return self._solution.log_evidence()

    @property
    def free_energy(self) -> Array:
        """The objective the engine minimised, in nats.  Shape: (samples,)."""
        return self._solution.free_energy()

    def to_frame(self, std: bool = True, wide: bool = False) -> pandas.DataFrame:
        """A table: sample, vertex, index, observed, mean and (where the engine gives it) std.

        wide: a row for each sample instead, with a column ``name`` or ``name[i, j]`` for the mean of every entry, as
            evidence may be given, and ``std(name[i, j])``; vertices with a value per sample only.
        """
        import pandas as pd

        if wide:
            return pd.DataFrame(self._wide(std), index=pd.RangeIndex(self.evidence.samples, name="sample"))
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
                columns["std"] = self._spread(name).reshape(-1)
            parts.append(pd.DataFrame(columns))
        return pd.concat(parts, ignore_index=True)

    def _spread(self, name: str) -> Array:
        """Standard deviations; NaN where there are none (a label, an engine of point estimates)."""
        try:
            return self.std[name]
        except InferenceError:
            return np.full_like(self.mean[name], np.nan)

    def _wide(self, std: bool) -> dict[str, Array]:
        out: dict[str, Array] = {}
        for name in self.targets:
            if self.net[name].plated:
                labels = columns(self.net[name])
                out |= zip(labels, self.mean[name].reshape(self.evidence.samples, -1).T, strict=True)
                if std:
                    spread = self._spread(name).reshape(self.evidence.samples, -1).T
                    out |= zip([f"std({label})" for label in labels], spread, strict=True)
        return out

    def _observed(self, name: str) -> Array:
        evidence, vertex = self.evidence, self.net[name]
        if name in evidence.masks:
            return evidence.masks[name]
        if vertex.kind == "likelihood" and name in evidence.values:
            return ~np.isnan(evidence.values[name])
        shape = (evidence.samples, *vertex.shape) if vertex.plated else vertex.shape
        return np.full(shape, name in evidence.values or name in evidence.do)

    def drawing(self, sample: int = 0) -> Document:
        """One sample drawn in the net; see :func:`gbn.display.document.posterior_drawing`."""
        from gbn.display.document import posterior_drawing

        return posterior_drawing(self, sample)

    def _repr_html_(self) -> str:
        from gbn.display.html import posterior_html

        return posterior_html(self)
