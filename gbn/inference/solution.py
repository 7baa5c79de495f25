"""What the exact solvers share: a posterior at a linearisation, read off deviations, messages and draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from gbn.errors import InferenceError
from gbn.gaussian import LOG_2PI
from gbn.linearize import Linearization
from gbn.net import Vertex

__all__ = ["LinearizedPosterior", "coordinates_observed", "per_sample"]

Array = np.ndarray[Any, Any]


class LinearizedPosterior:
    """The part of a Solution that is the same however the linear system is solved.

    A solver gives ``deviations`` (vertex -> posterior mean less operating point), ``all_messages`` (vertex -> λ),
    ``draws``, ``variance``, ``covariance_by_pattern`` and ``log_evidence``.

    pattern: sample -> the row of what is computed once for all samples that miss the same entries.
    relevant: the targets, what is observed, and their ancestors; all others are barren, and left out.
    """

    deviations: Mapping[str, Array]
    all_messages: Mapping[str, Array]
    pattern: Array

    def __init__(self, point: Linearization, targets: Sequence[str]) -> None:
        self.point, self.net, self.evidence = point, point.net, point.evidence
        self.targets = tuple(targets)
        self._shared: dict[tuple[str, str], Array] = {}

    @cached_property
    def relevant(self) -> set[str]:
        return self.point.upstream({*self.targets, *self.evidence.values})

    def draws(self, n: int, rng: np.random.Generator) -> Mapping[str, Array]:
        """Deviations of n joint draws.  Shape of each: (n, samples, *event)."""
        raise NotImplementedError

    def variance(self, name: str) -> Array:
        """Shape: (samples, *event)."""
        raise NotImplementedError

    def covariance_by_pattern(self, a: str, b: str) -> Array:
        """Shape: (patterns, size of a, size of b); one row where all patterns have the same."""
        raise NotImplementedError

    def covariance(self, a: str, b: str) -> Array:
        """Shape: (samples, size of a, size of b)."""
        self.gaussian(a)
        self.gaussian(b)
        found = self.covariance_by_pattern(a, b)
        found = (found + found.swapaxes(1, 2)) / 2 if a == b else found
        return per_sample(found.astype(self.net.dtype), self.pattern)

    def summed_covariance(self, pairs: Sequence[tuple[str, str]], counts: Array) -> Array | None:
        """Σ_n counts_n Σ_(a, b) Cov_n(a, b), each pattern computed once.

        Args:
            pairs: vertices of the same two sizes in every pair.
            counts: a weight for each sample.  Shape: (samples,).

        Returns:
            shape (size of a, size of b), in float64; None where all of it is zero.
        """
        by_pattern = np.bincount(self.pattern, counts)
        found = [self._kept(a, b) for a, b in pairs if not (self.known(a) or self.known(b))]
        shared = [cov for cov in found if len(cov) == 1]
        parts = [np.tensordot(by_pattern, cov, 1) for cov in found if len(cov) > 1]
        if shared:
            parts.append(np.concatenate(shared).sum(axis=0) * counts.sum())
        return sum(parts[1:], parts[0]) if parts else None

    def _kept(self, a: str, b: str) -> Array:
        """A covariance, found once where all patterns share it: a vertex is in the sums of all its neighbours."""
        found = self._shared.get((a, b))
        if found is None:
            found = self.covariance_by_pattern(a, b)
            if len(found) == 1:
                self._shared[a, b] = found
        return found

    def known(self, name: str) -> bool:
        """Whether a vertex is wholly observed, or set from outside, so that it has no covariance."""
        return self.point.closed(name) or name in self.evidence.do

    def log_evidence(self) -> Array:
        """Nats.  Shape: (samples,)."""
        raise NotImplementedError

    def messages(self) -> Mapping[str, Array]:
        return self.all_messages

    def free_energy(self) -> Array:
        return -self.log_evidence()

    def mean(self, name: str) -> Array:
        vertex = self.net[name]
        if vertex.kind == "likelihood":
            known = self.evidence.values.get(name)
            probabilities = self.net.label_of(name).mean(self.mean(vertex.parents[0]))
            return probabilities if known is None else np.where(np.isnan(known), probabilities, known)
        value = self.point.values[name]
        return value + self.deviations[name] if name in self.deviations else value

    def sample(self, n: int, rng: np.random.Generator, names: Sequence[str]) -> dict[str, Array]:
        deviations = self.draws(n, rng)
        return {name: self._draw(name, deviations, (n,), rng) for name in names}

    def _draw(
        self, name: str, deviations: Mapping[str, Array], lead: tuple[int, ...], rng: np.random.Generator
    ) -> Array:
        vertex = self.net[name]
        if vertex.kind == "likelihood":
            logits = self._draw(vertex.parents[0], deviations, lead, rng)
            flat = self.net.label_of(name).sample(logits.reshape(-1, *vertex.shape), rng).reshape(logits.shape)
            known = self.evidence.values.get(name)
            return flat if known is None else np.where(np.isnan(known), flat, known)
        value = self.point.values[name]
        if name in deviations:
            return value + deviations[name]
        return np.broadcast_to(value, (*lead, *value.shape))

    def surprise(self, name: str) -> Array:
        vertex, noise = self.net[name], self.net.noise(name)
        if vertex.kind == "likelihood":
            if name not in self.evidence.values:
                return np.zeros(self.evidence.samples, self.net.dtype)
            logits = self.mean(vertex.parents[0])
            return -self.net.label_of(name).log_prob(logits, self.evidence.values[name])
        if name in self.evidence.do or noise is None:
            return np.zeros(self.evidence.samples, self.net.dtype)
        # The posterior mean of the noise is Q λ, so its energy is λᵀ Q λ.
        return 0.5 * (noise.quadratic(self.all_messages[name]) + noise.logdet + vertex.size * LOG_2PI)

    def gaussian(self, name: str) -> Vertex:
        """The vertex, where it has a covariance; raises InferenceError for labels."""
        vertex = self.net[name]
        if vertex.kind == "likelihood":
            raise InferenceError(f"{name!r} is a label: ask for the covariance of its logits {vertex.parents[0]!r}")
        return vertex


def coordinates_observed(point: Linearization) -> int:
    """How many quantities are observed in at least one row."""
    net, evidence = point.net, point.evidence
    total = 0
    for name, value in evidence.values.items():
        if net[name].kind == "likelihood":
            total += int((~np.isnan(value)).any(axis=0).sum())
        elif name in evidence.masks:
            total += int(evidence.masks[name].any(axis=0).sum())
        else:
            total += net[name].size
    return total


def per_sample(by_pattern: Array, pattern: Array) -> Array:
    """From one row a pattern to one row a sample; a read-only broadcast where there is one pattern."""
    if len(by_pattern) == len(pattern) == 1:
        return by_pattern
    if len(by_pattern) == 1:
        return np.broadcast_to(by_pattern, (len(pattern), *by_pattern.shape[1:]))
    return by_pattern[pattern]
