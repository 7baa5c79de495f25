"""Gaussians: covariances in the form they are given, and densities in moment and information form."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import linalg

from gbn.errors import CovarianceError, ShapeError

__all__ = ["Covariance", "Gaussian"]

Array = np.ndarray[Any, Any]
LOG_2PI = math.log(2 * math.pi)
_MOST_SPLITS = 64


class Covariance:
    """The covariance Q of a vertex, kept in the form given: scalar, diagonal (an array over the event) or full matrix.

    Arrays it acts on have shape (..., *event).  Results have the dtype of their argument.

    Args:
        value: a positive number; positive numbers of shape ``event`` (or their flat vector); or a symmetric positive
            definite matrix of shape (prod(event), prod(event)).
        event: shape of one sample of the vertex.
        name: the vertex, for messages.

    Raises:
        CovarianceError: wrong shape, not finite, not symmetric or not positive definite.
    """

    def __init__(self, value: Any, event: Sequence[int], name: str = "") -> None:
        self.event = tuple(event)
        self.size = math.prod(self.event)
        value = np.array(value, dtype=np.float64)
        where = f"covariance of {name!r}" if name else "covariance"
        if not np.isfinite(value).all():
            raise CovarianceError(f"{where}: expected finite numbers, got NaN or infinity")
        if value.ndim == 0:
            self.form, positive = "scalar", value > 0
        elif value.shape == self.event or value.shape == (self.size,):
            self.form, positive = "diagonal", (value > 0).all()
            value = value.reshape(self.event)
        elif value.shape == (self.size, self.size):
            self.form = "full"
            if not np.allclose(value, value.T, rtol=1e-8, atol=1e-12 * np.abs(value).max()):
                raise CovarianceError(f"{where}: expected a symmetric matrix; use (C + C.T) / 2 if it is only rounded")
            value = (value + value.T) / 2
            positive = _is_positive_definite(value)
        else:
            raise CovarianceError(
                f"{where}: got shape {value.shape}, expected a number, an array of shape {self.event}, "
                f"or a matrix of shape {(self.size, self.size)}"
            )
        if not positive:
            raise CovarianceError(
                f"{where}: expected a positive definite covariance, got {_brief(self.form, value)}; "
                "a vertex without noise is made with cov=None"
            )
        value.flags.writeable = False
        self.value = value
        self._splits: dict[bytes, tuple[Array, Array, Array, Array]] = {}

    def __repr__(self) -> str:
        return f"Covariance({self.form}, event={self.event}, {_brief(self.form, self.value)})"

    @cached_property
    def cholesky(self) -> Array:
        """Lower-triangular factor of the full form.  Shape: (size, size)."""
        return np.linalg.cholesky(self.value)

    @cached_property
    def inverse_root(self) -> Array:
        """R⁻¹ of the full form, for R Rᵀ = Q: lower-triangular.  Shape: (size, size)."""
        inverse = linalg.solve_triangular(self.cholesky, np.eye(self.size), lower=True)
        return np.asarray(inverse)

    @cached_property
    def precision(self) -> Array:
        """Q⁻¹ of the full form, as the product of its roots.  Shape: (size, size)."""
        return np.asarray(self.inverse_root.T @ self.inverse_root)

    @cached_property
    def precisions(self) -> Array:
        """1 / variance of the scalar or diagonal form.  Shape: (size,)."""
        found: Array = 1 / np.array(self.diagonal()).reshape(-1)
        found.flags.writeable = False
        return found

    def _flat(self, matrix: Array, v: Array) -> Array:
        return (v.reshape(-1, self.size) @ matrix.T.astype(v.dtype, copy=False)).reshape(v.shape)

    def _factor(self, factor: Array, v: Array) -> Array:
        return v * (float(factor) if self.form == "scalar" else factor.astype(v.dtype, copy=False))

    def apply(self, v: Array) -> Array:
        """Q v."""
        return self._flat(self.value, v) if self.form == "full" else self._factor(self.value, v)

    def solve(self, v: Array) -> Array:
        """Λ v = Q⁻¹ v."""
        if self.form != "full":
            return self._factor(1 / self.value, v)
        flat = v.reshape(-1, self.size) @ self.inverse_root.T @ self.inverse_root
        return flat.astype(v.dtype, copy=False).reshape(v.shape)

    def root(self, v: Array) -> Array:
        """R v with R Rᵀ = Q."""
        return self._flat(self.cholesky, v) if self.form == "full" else self._factor(np.sqrt(self.value), v)

    def root_adjoint(self, v: Array) -> Array:
        """Rᵀ v."""
        return self._flat(self.cholesky.T, v) if self.form == "full" else self._factor(np.sqrt(self.value), v)

    def quadratic(self, v: Array) -> Array:
        """vᵀ Q v for each row.  Shape: (..., *event) -> (...)."""
        axes = tuple(range(v.ndim - len(self.event), v.ndim))
        return (v * self.apply(v)).sum(axis=axes)

    @cached_property
    def logdet(self) -> float:
        """log |Q|."""
        if self.form == "scalar":
            return self.size * math.log(float(self.value))
        if self.form == "diagonal":
            return float(np.log(self.value).sum())
        return 2 * float(np.log(np.diagonal(self.cholesky)).sum())

    def diagonal(self) -> Array:
        """Variances.  Shape: event."""
        if self.form == "full":
            return np.diagonal(self.value).reshape(self.event)
        return np.broadcast_to(self.value, self.event)

    def matrix(self) -> Array:
        """The whole matrix.  Shape: (size, size)."""
        return np.array(self.value) if self.form == "full" else np.diag(self.diagonal().reshape(-1))

    def split(self, observed: Array) -> tuple[Array, Array, Array, Array]:
        """Of the full form, where some entries are observed: o, h, gain Q_ho Q_oo⁻¹, root of Q_h|o (all float64).

        observed: shape (size,).  Kept, for a long chain of vertices shares a noise and a few patterns.
        """
        key = observed.tobytes()
        if key not in self._splits:
            o, h, q = np.flatnonzero(observed), np.flatnonzero(~observed), self.value
            coupling = q[o[:, None], h]
            gain = np.linalg.solve(q[o[:, None], o], coupling).T
            remaining = q[h[:, None], h] - gain @ coupling
            if len(self._splits) >= _MOST_SPLITS:
                self._splits.clear()
            self._splits[key] = o, h, gain, np.linalg.cholesky((remaining + remaining.T) / 2)
        return self._splits[key]

    def given(self, observed: Array) -> Conditional:
        """What remains uncertain, and what is implied, where the entries ``observed`` (N, *event) are known."""
        return Conditional(self, observed)


class Conditional:
    """A covariance with some entries observed, row by row: o observed, h hidden, N rows.

    Only a full matrix couples the two; its rows are grouped by pattern and each pattern is factored once.
    """

    def __init__(self, cov: Covariance, observed: Array) -> None:
        self.cov, self.observed = cov, observed

    @cached_property
    def _patterns(self) -> list[tuple[Array, Array, Array, Array, Array]]:
        """Per pattern: rows, o, h, gain Q_ho Q_oo⁻¹, root of Q_h|o (all float64)."""
        flat = self.observed.reshape(len(self.observed), -1)
        # One row needs no sorting, and a long chain of partly observed vertices asks for one row each.
        kinds, which = (flat, np.zeros(1, int)) if len(flat) == 1 else np.unique(flat, axis=0, return_inverse=True)
        rows = [np.flatnonzero(which.reshape(-1) == k) for k in range(len(kinds))]
        return [(index, *self.cov.split(kind)) for index, kind in zip(rows, kinds, strict=True)]

    def _each(self, *arrays: Array) -> Iterator[tuple[Any, ...]]:
        flat = [a.reshape(len(a), -1) for a in arrays]
        for rows, *pattern in self._patterns:
            yield rows, pattern, *(a[rows] for a in flat)

    def messages(self, error: Array, pulled: Array) -> Array:
        """λ of the whole vertex: pulled on h, λ_o = Q_oo⁻¹ (ε_o - Q_oh λ_h) on o.  Shapes: (N, *event)."""
        if self.cov.form != "full":
            return np.where(self.observed, self.cov.solve(error), pulled)
        out = pulled.reshape(len(pulled), -1).copy()
        q = self.cov.value
        for rows, (o, h, _, _), e, lam in self._each(error, pulled):
            known = e[:, o] - lam[:, h] @ q[np.ix_(h, o)]
            out[np.ix_(rows, o)] = linalg.solve(q[np.ix_(o, o)], known.T, assume_a="pos").T if len(o) else known
        return out.reshape(pulled.shape)

    def implied(self, error: Array) -> Array:
        """E[ε | ε_o]: the error itself on o, Q_ho Q_oo⁻¹ ε_o on h.  Shape: (N, *event)."""
        out = np.where(self.observed, error, error.dtype.type(0))
        if self.cov.form != "full":
            return out
        flat = out.reshape(len(out), -1)
        for rows, (o, h, gain, _), e in self._each(error):
            flat[np.ix_(rows, h)] = e[:, o] @ gain.T
        return flat.reshape(out.shape)

    def root(self, z: Array) -> Array:
        """R z on h with R Rᵀ = Q_h|o, zero on o.  Shape: (N, *event)."""
        return self._hidden(z, adjoint=False)

    def root_adjoint(self, v: Array) -> Array:
        """Rᵀ v on h, zero on o."""
        return self._hidden(v, adjoint=True)

    def _hidden(self, v: Array, adjoint: bool) -> Array:
        if self.cov.form != "full":
            return np.where(self.observed, v.dtype.type(0), self.cov.root(v))
        out = np.zeros((len(v), self.cov.size), v.dtype)
        for rows, (_, h, _, root), part in self._each(v):
            out[np.ix_(rows, h)] = part[:, h] @ (root if adjoint else root.T)
        return out.reshape(v.shape)

    def energy(self, error: Array) -> Array:
        """ε_oᵀ Q_oo⁻¹ ε_o for each row, from an error whose h part is :meth:`implied`.  Shape: (N,)."""
        implied = self.implied(error)
        return (implied * self.cov.solve(implied)).reshape(len(error), -1).sum(axis=1)

    def logdet(self) -> Array:
        """log |Q_oo| for each row.  Shape: (N,)."""
        rows = len(self.observed)
        if self.cov.form != "full":
            logs = np.where(self.observed, np.log(self.cov.diagonal()), 0.0)
            return logs.reshape(rows, -1).sum(axis=1)
        out = np.full(rows, self.cov.logdet)
        for index, (_, _, _, root) in self._each():
            out[index] -= 2 * np.log(np.diagonal(root)).sum()
        return out


@dataclass(frozen=True)
class Gaussian:
    """N(mean, cov) over a vector.  mean shape: (n,); cov: (n, n) symmetric positive semi-definite.

    Raises:
        ShapeError: the covariance does not fit the mean.
    """

    mean: Array
    cov: Array

    def __post_init__(self) -> None:
        n = self.mean.shape[0] if self.mean.ndim == 1 else -1
        if self.cov.shape != (n, n):
            raise ShapeError(f"expected mean (n,) and cov (n, n), got {self.mean.shape} and {self.cov.shape}")

    @classmethod
    def from_information(cls, precision: Array, h: Array) -> Gaussian:
        """From Λ and h = Λ mean.  Raises numpy.linalg.LinAlgError where Λ is singular."""
        cov = np.linalg.inv(precision)
        return cls(cov @ h, (cov + cov.T) / 2)

    def information(self) -> tuple[Array, Array]:
        """Λ and h = Λ mean."""
        precision = np.linalg.inv(self.cov)
        return (precision + precision.T) / 2, precision @ self.mean

    def product(self, other: Gaussian) -> Gaussian:
        """The normalised product of two densities: informations add."""
        (p, h), (q, k) = self.information(), other.information()
        return Gaussian.from_information(p + q, h + k)

    def marginal(self, index: Sequence[int] | Array) -> Gaussian:
        """The density of some entries."""
        chosen = np.arange(len(self.mean))[np.asarray(index, dtype=int)]
        return Gaussian(self.mean[chosen], self.cov[np.ix_(chosen, chosen)])

    def condition(self, index: Sequence[int] | Array, value: Array) -> Gaussian:
        """The density of the other entries, in order, given that those at ``index`` equal ``value``."""
        entries = np.arange(len(self.mean))
        o = entries[np.asarray(index, dtype=int)]
        h = np.setdiff1d(entries, o)
        gain = linalg.solve(self.cov[np.ix_(o, o)], self.cov[np.ix_(o, h)], assume_a="pos").T
        cov = self.cov[np.ix_(h, h)] - gain @ self.cov[np.ix_(o, h)]
        return Gaussian(self.mean[h] + gain @ (value - self.mean[o]), (cov + cov.T) / 2)

    def push_forward(self, matrix: Array, offset: Array | float = 0.0, noise: Array | float = 0.0) -> Gaussian:
        """The density of A v + offset + e, e ~ N(0, noise); a number stands for that variance in every entry."""
        noise = np.asarray(noise)
        cov = matrix @ self.cov @ matrix.T + (noise * np.eye(len(matrix)) if noise.ndim == 0 else noise)
        return Gaussian(matrix @ self.mean + offset, (cov + cov.T) / 2)

    def entropy(self) -> float:
        """½ log |2πe C|, in nats."""
        return 0.5 * (len(self.mean) * (LOG_2PI + 1) + float(np.linalg.slogdet(self.cov)[1]))

    def kl(self, other: Gaussian) -> float:
        """KL(self ‖ other), in nats."""
        precision, _ = other.information()
        gap = other.mean - self.mean
        logs = np.linalg.slogdet(other.cov)[1] - np.linalg.slogdet(self.cov)[1]
        return 0.5 * float(np.sum(precision * self.cov) - len(gap) + gap @ precision @ gap + logs)

    def log_prob(self, value: Array) -> Array:
        """Log-density in nats.  value shape: (..., n) -> (...)."""
        gap = np.asarray(value) - self.mean
        solved = np.linalg.solve(self.cov, gap[..., None])[..., 0]
        return -0.5 * ((gap * solved).sum(-1) + len(self.mean) * LOG_2PI + np.linalg.slogdet(self.cov)[1])

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """Independent draws.  Shape: (n, len(mean))."""
        return rng.multivariate_normal(self.mean, self.cov, size=n, method="eigh")


def _is_positive_definite(matrix: Array) -> bool:
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return False
    return True


def _brief(form: str, value: Array) -> str:
    if form == "scalar":
        return f"{float(value):g}"
    if form == "full":
        return f"a matrix with smallest eigenvalue {np.linalg.eigvalsh(value)[0]:.3g}"
    return f"numbers between {value.min():.3g} and {value.max():.3g}"
