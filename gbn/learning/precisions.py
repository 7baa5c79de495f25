"""Beliefs of the precision of a noise: fixed, Gamma (one for all entries, or one for each), or Wishart.

Gamma(λ; a, b) ∝ λ^(a-1) e^(-bλ),  E λ = a / b          Wishart(Λ; ν, S) ∝ |Λ|^((ν-d-1)/2) e^(-½ tr SΛ),  E Λ = ν S⁻¹
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import special

__all__ = [
    "Gamma",
    "Known",
    "Precision",
    "Wishart",
    "gamma_kl",
    "packed",
    "student_log_density",
    "student_quantile",
    "unpacked",
]

Array = np.ndarray[Any, Any]


def gamma_kl(a: Array, b: Array, a0: Array | float, b0: Array | float) -> float:
    """Σ KL(Gamma(a, b) ‖ Gamma(a0, b0)), in nats."""
    terms = (a - a0) * special.digamma(a) - special.gammaln(a) + special.gammaln(a0)
    terms = terms + a0 * (np.log(b) - np.log(b0)) + a * (b0 / b - 1)
    return float(np.sum(terms))


def student_quantile(dof: Array, chance: float) -> Array:
    """The quantile of Student's t distribution, of the Gaussian where dof = ∞."""
    finite = np.isfinite(dof)
    return np.where(finite, special.stdtrit(np.where(finite, dof, 1.0), chance), special.ndtri(chance))


def student_log_density(x: Array, dof: Array, square: Array) -> Array:
    """Of Student's t distribution with this squared scale, of the Gaussian where dof = ∞."""
    finite = np.isfinite(dof)
    v = np.where(finite, dof, 1.0)
    ratio, logs = x * x / square, np.log(np.pi * square)
    student = (
        special.gammaln((v + 1) / 2) - special.gammaln(v / 2) - 0.5 * np.log(v) - (v + 1) / 2 * np.log1p(ratio / v)
    )
    return np.asarray(np.where(finite, student, -0.5 * ratio - 0.5 * math.log(2)) - 0.5 * logs)


@dataclass(frozen=True, eq=False)
class Known:
    """A precision that is not learned.

    form: of the covariance, "scalar", "diagonal" or "full"; precision: Λ, its diagonal, shape (size,), or the matrix.
    """

    form: str
    precision: Array

    @property
    def size(self) -> int:
        return len(self.precision)

    @property
    def diagonal(self) -> Array:
        """The diagonal of E Λ.  Shape: (size,)."""
        return np.diagonal(self.precision) if self.form == "full" else self.precision

    @property
    def mean(self) -> Array:
        """E Λ: its diagonal, or for "full" the matrix."""
        return self.precision

    @property
    def slack(self) -> Array:
        """E log |Λ| - log |E Λ|, shared out among the entries.  Shape: (size,)."""
        return np.zeros(self.size)

    def kl(self, prior: Any) -> float:
        """KL from a prior, in nats."""
        return 0.0


@dataclass(frozen=True, eq=False)
class Gamma:
    """A Gamma precision of each entry, or of all together.

    entries: of the vertex; shape, rate: a and b, of shape (1,) or (entries,).
    """

    entries: int
    shape: Array
    rate: Array

    @property
    def form(self) -> str:
        return "scalar" if self.entries != len(self.shape) else "diagonal"

    @property
    def size(self) -> int:
        return self.entries

    @property
    def diagonal(self) -> Array:
        return np.broadcast_to(self.shape / self.rate, (self.entries,))

    @property
    def mean(self) -> Array:
        return self.diagonal

    @property
    def slack(self) -> Array:
        return np.broadcast_to(special.digamma(self.shape) - np.log(self.shape), (self.entries,))

    def kl(self, prior: Gamma) -> float:
        return gamma_kl(self.shape, self.rate, prior.shape, prior.rate)


@dataclass(frozen=True, eq=False)
class Wishart:
    """A Wishart precision of a full covariance.

    dof: ν, above size - 1; scatter: S, shape (size, size).
    """

    dof: float
    scatter: Array

    form = "full"

    @property
    def size(self) -> int:
        return len(self.scatter)

    @cached_property
    def mean(self) -> Array:
        found = self.dof * np.linalg.inv(self.scatter)
        return np.asarray((found + found.T) / 2)

    @property
    def diagonal(self) -> Array:
        return np.diagonal(self.mean)

    def draw(self, rng: np.random.Generator) -> Array:
        """One Λ = L B (L B)ᵀ, with L Lᵀ = S⁻¹ (Bartlett 1933).  Shape: (size, size)."""
        square = rng.chisquare(self.dof - np.arange(self.size))
        white = np.tril(rng.standard_normal((self.size, self.size)), -1) + np.diag(np.sqrt(square))
        root = np.linalg.cholesky(self.mean / self.dof) @ white
        return np.asarray(root @ root.T)

    @property
    def slack(self) -> Array:
        size = self.size
        total = special.digamma((self.dof - np.arange(size)) / 2).sum() + size * math.log(2 / self.dof)
        return np.full(size, total / size)

    def kl(self, prior: Wishart) -> float:
        d, v, w = self.size, self.dof, prior.dof
        logs = np.linalg.slogdet(self.scatter)[1] - np.linalg.slogdet(prior.scatter)[1]
        expected = special.digamma((v - np.arange(d)) / 2).sum()
        return float(
            0.5 * (v - w) * expected
            + 0.5 * w * logs
            + 0.5 * np.sum(prior.scatter * self.mean)
            - 0.5 * v * d
            - special.multigammaln(v / 2, d)
            + special.multigammaln(w / 2, d)
        )


Precision = Known | Gamma | Wishart


def packed(noise: Precision) -> dict[str, Any]:
    """A belief as plain values and arrays."""
    if isinstance(noise, Known):
        return {"kind": "known", "form": noise.form, "precision": noise.precision}
    if isinstance(noise, Gamma):
        return {"kind": "gamma", "entries": noise.entries, "shape": noise.shape, "rate": noise.rate}
    return {"kind": "wishart", "dof": float(noise.dof), "scatter": noise.scatter}


def unpacked(held: Mapping[str, Any]) -> Precision:
    """What :func:`packed` took apart."""
    if held["kind"] == "known":
        return Known(held["form"], held["precision"])
    if held["kind"] == "gamma":
        return Gamma(held["entries"], held["shape"], held["rate"])
    return Wishart(held["dof"], held["scatter"])
