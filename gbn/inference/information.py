"""The exact posterior of a linearised net in information form: a sparse system over what is hidden.

The factors of the net give K and h (:mod:`gbn.inference.factors`), and then::

    posterior N(v + K⁻¹ h, K⁻¹),      log p(evidence) = -F(v + K⁻¹ h) - ½ log |K / 2π|

K is factored by block elimination: linear in the number of vertices where the net is a chain of layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from gbn.gaussian import LOG_2PI
from gbn.inference.elimination import Factorization, Plan
from gbn.inference.factored import FactoredPosterior
from gbn.inference.factors import Factors
from gbn.inference.jacobians import dense
from gbn.inference.solution import per_sample

__all__ = ["InformationPosterior"]

Array = np.ndarray[Any, Any]
# Where pivots are wrong by more than this, solutions are refined, so often.
_NEGLIGIBLE = 1e-12
_REFINEMENTS = 2


class _Slots:
    """Rows of samples arranged for the batch: groups of rows that share a system stand side by side as columns.

    A group larger than the average is split, so that padding at most doubles the work.
    """

    def __init__(self, pattern: Array, patterns: int) -> None:
        self.plain = patterns == 1
        if self.plain:
            return
        width = -(-len(pattern) // patterns)
        order = np.argsort(pattern, kind="stable")
        counts = np.bincount(pattern, minlength=patterns)
        rank = np.empty(len(pattern), int)
        rank[order] = np.arange(len(pattern)) - np.repeat(np.cumsum(counts) - counts, counts)
        slots = -(-counts // width)
        first = np.cumsum(slots) - slots
        self.slot, self.column = first[pattern] + rank // width, rank % width
        self.which = np.repeat(np.arange(patterns), slots)
        self.rows = np.zeros((len(self.which), width), int)
        self.rows[self.slot, self.column] = np.arange(len(pattern))

    def gather(self, x: Array) -> Array:
        """(size, lead, samples) -> (slots, size, columns)."""
        if self.plain:
            return x.reshape(1, x.shape[0], x.shape[1] * x.shape[2])
        columns = x[:, :, self.rows].transpose(2, 0, 1, 3)
        return columns.reshape(len(self.which), x.shape[0], x.shape[1] * self.rows.shape[1])

    def scatter(self, y: Array, lead: int) -> Array:
        """(slots, size, columns) -> (size, lead, samples)."""
        if self.plain:
            return y.reshape(y.shape[1], lead, y.shape[2] // lead)
        split = y.reshape(*y.shape[:2], lead, self.rows.shape[1])
        return split[self.slot, :, :, self.column].transpose(1, 2, 0)


class InformationPosterior(FactoredPosterior):
    """The posterior from a factorisation of K.

    Args:
        factors: of the net at its operating point.
        targets: vertices asked for.
        plan: of the elimination, from :meth:`Structure.plan <gbn.inference.hidden.Structure.plan>`.
    """

    def __init__(self, factors: Factors, targets: Sequence[str], plan: Plan) -> None:
        super().__init__(factors, targets)
        self.plan = plan
        self.slots = _Slots(factors.pattern, factors.by_pattern.evidence.samples)

    @cached_property
    def factorization(self) -> Factorization:
        """K, factored; raises IllConditionedError."""
        return Factorization(self.plan, self.factors.elements(self.plan.elements), list(self.structure.hidden))

    def _refined(self, sources: Mapping[str, Array], lead: tuple[int, ...] = ()) -> dict[str, Array]:
        """K⁻¹ h, improved by what is left of the sources there where K is so ill-conditioned that digits are lost.

        Prior spreads of a million beside measurements to a millionth lose more of a mean than its standard deviation.
        """
        found = self._solved(sources, lead)
        for _ in range(_REFINEMENTS if self.factorization.rounding > _NEGLIGIBLE else 0):
            more = self._solved(self._left(sources, self.spread(found)), lead)
            found = {name: d + more[name] for name, d in found.items()}
        return found

    def _left(self, sources: Mapping[str, Array], deviations: Mapping[str, Array]) -> dict[str, Array]:
        """What each factor says once these deviations are made: -Λ (ε + A d), of a label s - W T d."""
        out: dict[str, Array] = {}
        for name in self.structure.factors:
            source, arriving = sources.get(name), self.arriving(name, deviations)
            if self.factors.is_label(name):
                change = (
                    None if arriving is None else self.factors.root(name, self.factors.root_adjoint(name, arriving))
                )
            else:
                moved = deviations.get(name) if arriving is None else deviations.get(name, 0.0) - arriving
                change = None if moved is None else self.factors.noise(name).solve(moved)
            parts = [part for part in (source, None if change is None else -change) if part is not None]
            if parts:
                out[name] = sum(parts[1:], parts[0])
        return out

    def _solved(self, sources: Mapping[str, Array], lead: tuple[int, ...] = ()) -> dict[str, Array]:
        """Deviations of the hidden vertices, K⁻¹ h.  Shape: (*lead, samples, *event)."""
        samples, count = self.evidence.samples, math.prod(lead)
        potentials, spans = self.factors.potentials(sources), self.plan.spans
        right = np.zeros((self.plan.size, count, samples))
        for name, variable in self.structure.hidden.items():
            if name in potentials:
                part = potentials[name].reshape(-1, samples, self.structure.sizes[variable])
                right[spans[variable]] = part.transpose(2, 0, 1)
        which = None if self.slots.plain or self.factorization.batch == 1 else self.slots.which
        solved = self.factorization.solve(self.slots.gather(right).swapaxes(1, 2), which)
        found = self.slots.scatter(solved.swapaxes(1, 2), count).transpose(1, 2, 0)
        vertices = self.net.vertices
        return {
            name: found[:, :, spans[variable]].reshape(*lead, samples, *vertices[name].shape)
            for name, variable in self.structure.hidden.items()
        }

    @cached_property
    def hidden(self) -> Mapping[str, Array]:  # type: ignore[override]
        return self._refined(self.factors.sources)

    def joint(self, first: int, second: int) -> Array:
        return self.factorization.covariance(first, second)

    def covariance_by_pattern(self, a: str, b: str) -> Array:
        left, right = self.totals.of(a), self.totals.of(b)
        if all(self.factorization.together(j, k) for j in left for k in right):
            return super().covariance_by_pattern(a, b)
        return self._by_solving(left, right, self.net.vertices[a].size)

    def _by_solving(self, left: Mapping[int, Array], right: Mapping[int, Array], size: int) -> Array:
        """The covariance of vertices that meet in no front: one solve against the unit vectors of the first."""
        batch = max(self.factorization.batch, *(len(block) for block in left.values()))
        columns = np.zeros((batch, size, self.plan.size))
        for j, block in left.items():
            columns[:, :, self.plan.spans[j]] = dense(block)
        solved = self.factorization.solve(columns)
        parts = (solved[:, :, self.plan.spans[k]] @ dense(block).swapaxes(1, 2) for k, block in right.items())
        return np.asarray(sum(parts))

    def draws(self, n: int, rng: np.random.Generator) -> Mapping[str, Array]:
        """K⁻¹ (h + Σ A_iᵀ Λ_i^½ z_i), z white: the perturbed terms have the covariance K (Papandreou & Yuille 2010)."""
        sources: dict[str, Array] = {}
        for name in self.structure.factors:
            z = rng.standard_normal((n, self.evidence.samples, *self.net.vertices[name].shape))
            if self.factors.is_label(name):
                kick = self.factors.root(name, z)
            else:
                noise = self.factors.noise(name)
                kick = noise.solve(noise.root(z))
            known = self.factors.sources.get(name)
            sources[name] = kick if known is None else kick + known
        deviations = self.spread(self._refined(sources, (n,)))
        return {name: d.astype(self.net.dtype, copy=False) for name, d in deviations.items()}

    def log_evidence(self) -> Array:
        free = np.zeros(self.evidence.samples)
        for name in self.structure.hidden:
            mask = self.evidence.masks.get(name)
            size = self.net.vertices[name].size
            free += size if mask is None else (~mask).reshape(len(free), size).sum(axis=1)
        logdet = per_sample(self.factorization.logdet, self.pattern)
        found = -self._energy() - 0.5 * (logdet - free * LOG_2PI)
        return np.where(self._anything, found, 0.0).astype(self.net.dtype)

    @property
    def _anything(self) -> Array:
        """Whether a row observes anything: otherwise its terms cancel, but for rounding.  Shape: (samples,)."""
        out = np.zeros(self.evidence.samples, bool)
        for name, value in self.evidence.values.items():
            label = self.factors.is_label(name)
            known = ~np.isnan(value) if label else self.evidence.masks.get(name, np.ones_like(value, bool))
            out |= known.reshape(len(out), -1).any(axis=1)
        return out
