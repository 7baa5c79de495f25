"""Likelihoods of leaves beside the Gaussian: what a label says about the logits under it.

Each reads logits of shape (N, *event) and targets of the same shape, NaN where a label is missing, and gives

    log_prob   log p(target | logits), per sample, in nats                            shape: (N,)
    score      ∂ log p / ∂ logits: backprop's error at the logits, with its sign reversed   shape: (N, *event)
    root       L v with L Lᵀ = W, the Fisher information at the logits; ``root_adjoint`` is Lᵀ v
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special

from gbn.errors import EvidenceError, UnknownNameError

__all__ = ["LIKELIHOODS", "Bernoulli", "Categorical", "Likelihood", "get"]

Array = np.ndarray[Any, Any]


class Likelihood:
    """Base of the leaf likelihoods; see the module's docstring."""

    name: str

    def encode(self, labels: Array, event: tuple[int, ...], vertex: str, dtype: Any) -> Array:
        """Labels in any accepted form as targets of shape (N, *event), NaN where missing.

        Raises:
            EvidenceError: labels out of range or of another shape.
        """
        raise NotImplementedError

    def mean(self, logits: Array) -> Array:
        """Probabilities.  Shape: (N, *event)."""
        raise NotImplementedError

    def log_prob(self, logits: Array, target: Array) -> Array:
        raise NotImplementedError

    def score(self, logits: Array, target: Array) -> Array:
        gap = target - self.mean(logits)
        return np.where(np.isnan(target), gap.dtype.type(0), gap)

    def whitened_score(self, logits: Array, target: Array) -> Array:
        """s with L s = score: the score in the units of ``root``."""
        raise NotImplementedError

    def root(self, logits: Array, v: Array, present: Array) -> Array:
        raise NotImplementedError

    def root_adjoint(self, logits: Array, v: Array, present: Array) -> Array:
        raise NotImplementedError

    def sample(self, logits: Array, rng: np.random.Generator) -> Array:
        """One draw per sample, as targets.  Shape: (N, *event)."""
        raise NotImplementedError


def _per_sample(target: Array, values: Array) -> Array:
    """Sum of the values whose target is known."""
    return np.where(np.isnan(target), values.dtype.type(0), values).reshape(len(values), -1).sum(axis=1)


class Categorical(Likelihood):
    """Softmax likelihood; classes lie on the first axis of the event, as in torch's cross_entropy.

    Labels: integers of shape (N, *event[1:]) (NaN = missing), or one-hot rows or probabilities of shape (N, *event).
    """

    name = "categorical"

    def encode(self, labels: Array, event: tuple[int, ...], vertex: str, dtype: Any) -> Array:
        classes, rest = event[0], event[1:]
        labels = np.asarray(labels)
        if labels.ndim == len(event) + 1 and labels.shape[1:] == event and labels.shape[1:] != (1,):
            return _distributions(_probabilities(labels, vertex, dtype), vertex)
        if labels.shape[1:] == (1, *rest):
            labels = labels[:, 0]
        if labels.ndim == 0 or labels.shape[1:] != rest:
            raise EvidenceError(
                f"evidence for {vertex!r}: got shape {labels.shape}, expected integer labels {_rows(rest)} "
                f"or one-hot rows {_rows(event)}"
            )
        numbers = labels.astype(np.float64)
        missing = np.isnan(numbers)
        whole = np.where(missing, 0, numbers)
        if (whole != np.floor(whole)).any() or (whole < 0).any() or (whole >= classes).any():
            wrong = whole[(whole != np.floor(whole)) | (whole < 0) | (whole >= classes)][0]
            raise EvidenceError(f"evidence for {vertex!r}: got label {wrong:g}, expected 0 to {classes - 1}")
        out = np.moveaxis(np.eye(classes, dtype=dtype)[whole.astype(int)], -1, 1)
        return np.where(missing[:, None], np.asarray(np.nan, dtype), out) if missing.any() else out

    def mean(self, logits: Array) -> Array:
        y = np.exp(logits - logits.max(axis=1, keepdims=True))
        return y / y.sum(axis=1, keepdims=True)

    def log_prob(self, logits: Array, target: Array) -> Array:
        shifted = logits - logits.max(axis=1, keepdims=True)
        return _per_sample(target, target * (shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))))

    def score(self, logits: Array, target: Array) -> Array:
        # Soft targets sum to one but for rounding, which Σ t log p keeps and backprop sees.
        known = np.where(np.isnan(target), target.dtype.type(0), target)
        gap = target - self.mean(logits) * known.sum(axis=1, keepdims=True)
        return np.where(np.isnan(target), gap.dtype.type(0), gap)

    def _floored(self, logits: Array) -> Array:
        """Probabilities that have not underflowed to zero, so that L s = score can be solved for s."""
        p = self.mean(logits)
        return np.maximum(p, np.finfo(p.dtype).tiny)

    def whitened_score(self, logits: Array, target: Array) -> Array:
        return self.score(logits, target) / np.sqrt(self._floored(logits))

    def root(self, logits: Array, v: Array, present: Array) -> Array:
        """L = diag(√p) - p √pᵀ."""
        p = self._floored(logits) * present
        r = np.sqrt(p)
        axis = v.ndim - logits.ndim + 1
        return r * v - p * (r * v).sum(axis=axis, keepdims=True)

    def root_adjoint(self, logits: Array, v: Array, present: Array) -> Array:
        p = self._floored(logits) * present
        r = np.sqrt(p)
        axis = v.ndim - logits.ndim + 1
        return r * (v - (p * v).sum(axis=axis, keepdims=True))

    def sample(self, logits: Array, rng: np.random.Generator) -> Array:
        # The largest of Gumbel-perturbed logits is a draw from the softmax.
        noisy = logits + rng.gumbel(size=logits.shape)
        return (noisy == noisy.max(axis=1, keepdims=True)).astype(logits.dtype)


class Bernoulli(Likelihood):
    """Independent logistic likelihoods, one per entry.

    Labels: 0, 1 or probabilities (NaN = missing), shape (N, *event).
    """

    name = "bernoulli"

    def encode(self, labels: Array, event: tuple[int, ...], vertex: str, dtype: Any) -> Array:
        labels = np.asarray(labels)
        if labels.ndim and labels.shape[1:] != event and event in ((1,), ()) and labels.size == len(labels):
            labels = labels.reshape(len(labels), *event)
        if labels.ndim == 0 or labels.shape[1:] != event:
            raise EvidenceError(
                f"evidence for {vertex!r}: got shape {labels.shape}, expected 0/1 labels {_rows(event)}"
            )
        return _probabilities(labels, vertex, dtype)

    def mean(self, logits: Array) -> Array:
        return special.expit(logits)

    def log_prob(self, logits: Array, target: Array) -> Array:
        return _per_sample(target, target * logits - np.logaddexp(logits, logits.dtype.type(0)))

    def _deviation(self, logits: Array) -> Array:
        return np.sqrt(np.maximum(special.expit(logits) * special.expit(-logits), np.finfo(logits.dtype).tiny))

    def whitened_score(self, logits: Array, target: Array) -> Array:
        return self.score(logits, target) / self._deviation(logits)

    def root(self, logits: Array, v: Array, present: Array) -> Array:
        return v * (self._deviation(logits) * present)

    def root_adjoint(self, logits: Array, v: Array, present: Array) -> Array:
        return self.root(logits, v, present)

    def sample(self, logits: Array, rng: np.random.Generator) -> Array:
        return (rng.random(logits.shape) < special.expit(logits)).astype(logits.dtype)


def _probabilities(values: Array, vertex: str, dtype: Any) -> Array:
    values = values.astype(dtype)
    known = values[~np.isnan(values)]
    if ((known < 0) | (known > 1)).any():
        raise EvidenceError(
            f"evidence for {vertex!r}: got values between {known.min():g} and {known.max():g}, expected 0 to 1"
        )
    return values


def _distributions(rows: Array, vertex: str) -> Array:
    """Rows over the classes (axis 1), each missing altogether or summing to one."""
    missing = np.isnan(rows)
    if (missing.any(axis=1) != missing.all(axis=1)).any():
        raise EvidenceError(f"evidence for {vertex!r}: some classes of a row are NaN; a missing label is a row of NaN")
    total = rows.sum(axis=1)
    wrong = np.abs(total - 1) > 1e-3
    if wrong.any():
        raise EvidenceError(
            f"evidence for {vertex!r}: got class probabilities with sum {total[wrong][0]:g}, "
            "expected rows that sum to 1"
        )
    return rows


def _rows(event: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, ('N', *event)))}{'' if event else ','})"


LIKELIHOODS: dict[str, Likelihood] = {entry.name: entry for entry in (Categorical(), Bernoulli())}


def get(name: str) -> Likelihood:
    """The likelihood of that name.  Raises UnknownNameError."""
    try:
        return LIKELIHOODS[name]
    except KeyError:
        raise UnknownNameError("likelihood", name, LIKELIHOODS) from None
