"""What posteriors over hidden vertices share, however they are found: elimination, or belief propagation.

A method gives ``hidden``, the posterior mean deviations of the hidden vertices, and ``joint``, covariances of two of
them; means, covariances, messages and energies of all vertices follow by total Jacobians.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from gbn.gaussian import LOG_2PI
from gbn.inference.factors import Factors
from gbn.inference.jacobians import times
from gbn.inference.solution import LinearizedPosterior, per_sample
from gbn.linearize import Rule

__all__ = ["FactoredPosterior"]

Array = np.ndarray[Any, Any]
Deviations = Mapping[str, Array]


class FactoredPosterior(LinearizedPosterior):
    """The posterior at a linearisation from its factors, as a Solution: computed as far as it is asked for.

    hidden: hidden vertex -> posterior mean less operating point, in float64.  Shape: (samples, *event).
    """

    hidden: Deviations

    def __init__(self, factors: Factors, targets: Sequence[str]) -> None:
        super().__init__(factors.point, targets)
        self.factors, self.structure = factors, factors.structure
        self.totals, self.pattern = factors.totals, factors.pattern

    def joint(self, first: int, second: int) -> Array:
        """Covariance of two hidden variables.  Shape: (patterns or 1, size of the first, of the second)."""
        raise NotImplementedError

    def arriving(self, name: str, deviations: Deviations) -> Array | None:
        """How far the mean of a vertex (a label: its logits) moves, Σ_p J_p d_p; None where no parent moves."""
        total = None
        for position, parent in self.structure.lines.get(name, ()):
            map_ = self.point.map(name, position) if parent in deviations else None
            if map_ is not None:
                part = map_.push(deviations[parent])
                total = part if total is None else total + part
        return total

    def spread(self, hidden: Deviations) -> dict[str, Array]:
        """Deviations of all relevant vertices from those of the hidden ones."""
        deviations = dict(hidden)
        for name in self.structure.determined:
            total = self.arriving(name, deviations)
            if total is not None:
                deviations[name] = total
        return deviations

    @cached_property
    def _mean(self) -> dict[str, Array]:
        return self.spread(self.hidden)

    @cached_property
    def deviations(self) -> Deviations:  # type: ignore[override]
        if self.net.dtype == np.float64:
            return self._mean
        return {name: d.astype(self.net.dtype) for name, d in self._mean.items()}

    def _error(self, name: str) -> Array:
        """ε of a noisy vertex at the posterior mean.  Shape: (samples, *event)."""
        error = np.zeros((self.evidence.samples, *self.net.vertices[name].shape))
        for part in (self.point.errors.get(name), self._mean.get(name)):
            if part is not None:
                error = error + part
        arriving = self.arriving(name, self._mean)
        return error if arriving is None else error - arriving

    @cached_property
    def all_messages(self) -> Mapping[str, Array]:  # type: ignore[override]
        rules = {name: self._message_rule(name) for name in self.evidence.values}
        heard = self.point.pull(rules, self.net.vertices)
        return self.point.everywhere({n: m.astype(self.net.dtype, copy=False) for n, m in heard.items()})

    def _message_rule(self, name: str) -> Rule:
        """What an observed vertex sends at the posterior mean: Λ ε, a label its score there; hidden entries pass on."""
        if self.factors.is_label(name):
            gap = self.arriving(name, self._mean)
            score = self.factors.sources[name]
            if gap is not None:
                score = score - self.factors.root(name, self.factors.root_adjoint(name, gap))
            return lambda pulled: score
        error = self._error(name)
        if name not in self.evidence.masks:
            own = self.factors.noise(name).solve(error)
            return lambda pulled: own
        conditional = self.evidence.conditionals[name]
        return lambda pulled: conditional.messages(error, np.zeros_like(error) if pulled is None else pulled)

    def variance(self, name: str) -> Array:
        vertex = self.gaussian(name)
        if not vertex.plated:
            return np.zeros(vertex.shape, self.net.dtype)
        totals = self.totals.of(name)
        if len(totals) == 1 and next(iter(totals.values())).ndim == 2:
            ((variable, scale),) = totals.items()
            found = scale * scale * np.einsum("bii->bi", self.joint(variable, variable))
        else:
            found = np.einsum("bii->bi", self.covariance_by_pattern(name, name))
        found = np.maximum(found, 0).astype(self.net.dtype)
        return per_sample(found.reshape(len(found), *vertex.shape), self.pattern)

    def covariance(self, a: str, b: str) -> Array:
        if a == b and self.totals.whole(a):
            variable = self.structure.hidden[a]
            found = self.joint(variable, variable)
        else:
            self.gaussian(a), self.gaussian(b)
            found = self.covariance_by_pattern(a, b)
            found = (found + found.swapaxes(1, 2)) / 2 if a == b else found
        return per_sample(found.astype(self.net.dtype, copy=False), self.pattern)

    def covariance_by_pattern(self, a: str, b: str) -> Array:
        """Σ_jk T_aj C_jk T_bkᵀ over the hidden variables of the two.  Shape: (patterns or 1, size of a, size of b)."""
        if self.totals.whole(a) and self.totals.whole(b):
            return self.joint(self.structure.hidden[a], self.structure.hidden[b])
        out = np.zeros((1, self.net.vertices[a].size, self.net.vertices[b].size))
        for k, outer in self.totals.of(b).items():
            for j, block in self.totals.of(a).items():
                part = times(block, self.joint(j, k))
                out = out + times(outer, part.swapaxes(1, 2)).swapaxes(1, 2)
        return out

    def _energy(self) -> Array:
        """F at the posterior mean, in nats.  Shape: (samples,)."""
        total = np.zeros(self.evidence.samples)
        for name in self.structure.factors:
            if self.factors.is_label(name):
                total -= self._label_evidence(name)
                continue
            noise, error = self.factors.noise(name), self._error(name)
            total += 0.5 * (error * noise.solve(error)).reshape(len(total), -1).sum(axis=1)
            total += 0.5 * (noise.logdet + noise.size * LOG_2PI)
        return total

    def _label_evidence(self, name: str) -> Array:
        """The quadratic that stands for log p(label), at the posterior mean of its logits."""
        logits = self.point.values[self.net.vertices[name].parents[0]]
        out = self.net.label_of(name).log_prob(logits, self.evidence.values[name]).astype(np.float64)
        gap = self.arriving(name, self._mean)
        if gap is None:
            return out
        root = self.factors.root_adjoint(name, gap)
        term = self.factors.sources[name] * gap - 0.5 * root * root
        return np.asarray(out + term.reshape(len(out), -1).sum(axis=1))
