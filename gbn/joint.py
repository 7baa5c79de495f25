"""Several vertices as one Gaussian vector for each sample, and what it says: conditionals, information, divergence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import linalg

from gbn.errors import EvidenceError, ShapeError, SingularEvidenceError, UnknownNameError
from gbn.gaussian import LOG_2PI, Covariance, Gaussian

__all__ = ["Joint", "divergence", "is_shared"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False, repr=False)
class Joint:
    """N(mean, cov) for each sample, over the entries of some vertices in the order named.

    names, events: the vertices, and the shape of one sample of each.
    mean: shape (samples, n), n the number of entries of all vertices together.
    cov: shape (samples, n, n); a read-only broadcast where all samples share it.  Singular where entries are observed,
        or determine one another.
    """

    names: tuple[str, ...]
    events: tuple[tuple[int, ...], ...]
    mean: Array
    cov: Array

    def __repr__(self) -> str:
        return f"Joint({list(self.names)}, {len(self)} samples, {self.mean.shape[1]} entries)"

    def __len__(self) -> int:
        return len(self.mean)

    def __getitem__(self, sample: int) -> Gaussian:
        """The Gaussian of one sample."""
        return Gaussian(self.mean[sample], self.cov[sample])

    def entries(self, names: str | Sequence[str]) -> Array:
        """Where the entries of some vertices stand in the vector."""
        chosen = [names] if isinstance(names, str) else list(names)
        ends = np.cumsum([0, *(int(np.prod(event)) for event in self.events)])
        where = {name: np.arange(a, b) for name, a, b in zip(self.names, ends[:-1], ends[1:], strict=True)}
        for name in chosen:
            if name not in where:
                raise UnknownNameError("vertex of the joint", name, self.names)
        return np.concatenate([np.zeros(0, int), *(where[name] for name in chosen)])

    def marginal(self, names: str | Sequence[str]) -> Joint:
        """Some of the vertices, in the order named."""
        index = self.entries(names)
        chosen = (names,) if isinstance(names, str) else tuple(names)
        events = tuple(self.events[self.names.index(name)] for name in chosen)
        return Joint(chosen, events, self.mean[:, index], _per_sample(self.cov, lambda c: _block(c, index, index)))

    def condition(self, values: Mapping[str, Any]) -> Joint:
        """The other vertices, given these: mean m_h + C_ho C_oo⁻¹ (v_o - m_o), covariance C_hh - C_ho C_oo⁻¹ C_oh.

        Args:
            values: vertex -> array of shape (rows, *event), or the event alone; complete.  Where the joint has one
                sample, ``rows`` may be any number.

        Raises:
            UnknownNameError, ShapeError, EvidenceError: naming the vertex.
            SingularEvidenceError: the given entries are observed already, or determine one another.
        """
        kept = [name for name in self.names if name not in values]
        o, h = self.entries(list(values)), self.entries(kept)
        given = self._given(values)

        def solved(cov: Array) -> Array:
            return _solve(_block(cov, o, o), _block(cov, o, h), list(values))

        gain = np.swapaxes(_per_sample(self.cov, solved), 1, 2)
        mean = self.mean[:, h] + ((given - self.mean[:, o])[:, None] @ np.swapaxes(gain, 1, 2))[:, 0]
        cov = _per_sample(self.cov, lambda c: _symmetric(_block(c, h, h) - _block(c, h, o) @ solved(c)))
        if len(mean) != len(cov):
            cov = np.broadcast_to(cov, (len(mean), *cov.shape[1:]))
        events = tuple(self.events[self.names.index(name)] for name in kept)
        return Joint(tuple(kept), events, mean.astype(self.mean.dtype), cov.astype(self.cov.dtype, copy=False))

    def revise(self, marginals: Mapping[str, tuple[Any, Any]]) -> Joint:
        """Jeffrey's rule: some vertices get these marginals, the others keep their conditional given them.

        q(h, o) = p(h | o) N(o; v, R): with G = Cov(·, o) Cov(o)⁻¹ the mean moves by G (v - m_o), the covariance by
        G (R - Cov(o)) Gᵀ.  Of all distributions with these marginals the one nearest to p, in
        KL(q ‖ p); unlike soft evidence, it does not care what p said of o, and R may be wider than Cov(o).

        Source: Jeffrey, *The Logic of Decision* (1965), chapter 11.

        Args:
            marginals: vertex -> (mean, cov); mean as in :meth:`condition`; cov a number, an array over the event, or a
                matrix.  Several vertices are independent of one another afterwards.

        Returns:
            all vertices, in the order of this joint.

        Raises:
            As :meth:`condition`; CovarianceError: a marginal is none.
        """
        o, every = self.entries(list(marginals)), np.arange(self.mean.shape[1])
        given = self._given({name: pair[0] for name, pair in marginals.items()})
        new = [
            Covariance(pair[1], self.events[self.names.index(name)], name).matrix() for name, pair in marginals.items()
        ]
        target = linalg.block_diag(*new)

        def solved(cov: Array) -> Array:
            return _solve(_block(cov, o, o), _block(cov, o, every), list(marginals))

        mean = self.mean + ((given - self.mean[:, o])[:, None] @ _per_sample(self.cov, solved))[:, 0]

        def revised(cov: Array) -> Array:
            gain = solved(cov)
            return _symmetric(cov + np.swapaxes(gain, 1, 2) @ (target - _block(cov, o, o)) @ gain)

        cov = _per_sample(self.cov, revised)
        if len(mean) != len(cov):
            cov = np.broadcast_to(cov, (len(mean), *cov.shape[1:]))
        return Joint(self.names, self.events, mean.astype(self.mean.dtype), cov.astype(self.cov.dtype, copy=False))

    def _given(self, values: Mapping[str, Any]) -> Array:
        """Shape: (rows, entries of all that is given)."""
        parts = [np.zeros((1, 0))]
        for name, value in values.items():
            self.entries(name)
            event = self.events[self.names.index(name)]
            array = np.asarray(value, dtype=np.float64)
            array = array.reshape(-1, 1) if event == (1,) and array.ndim <= 1 else array
            array = array[None] if array.shape == event else array
            if array.shape[1:] != event or (len(self) != 1 and len(array) not in (1, len(self))):
                rows = "rows" if len(self) == 1 else len(self)
                expected = ", ".join(map(str, (rows, *event)))
                raise ShapeError(f"value of {name!r}: got shape {array.shape}, expected ({expected}), or {event}")
            if not np.isfinite(array).all():
                raise EvidenceError(f"value of {name!r}: expected finite numbers, got NaN or infinity")
            parts.append(array.reshape(len(array), -1))
        counts = sorted({len(part) for part in parts} - {1})
        if len(counts) > 1:
            raise EvidenceError(f"values have different numbers of rows: {counts}; expected the same, or 1")
        rows = counts[0] if counts else 1
        return np.concatenate([np.broadcast_to(part, (rows, part.shape[1])) for part in parts], axis=1)

    def entropy(self) -> Array:
        """½ log |2πe C|, in nats; -∞ where the covariance is singular.  Shape: (samples,)."""
        n = self.mean.shape[1]

        def half(cov: Array) -> Array:
            logdet = np.linalg.slogdet(cov.astype(np.float64))[1]
            return np.asarray(0.5 * (n * (LOG_2PI + 1) + logdet), cov.dtype)

        return _per_sample(self.cov, half)

    def mutual_information(self, a: str | Sequence[str], b: str | Sequence[str]) -> Array:
        """-½ Σ log (1 - ρ²) over the canonical correlations ρ of two groups of vertices, in nats.

        ∞ where one determines a part of the other; what is observed adds nothing.  Hotelling, Biometrika 28 (1936).
        Shape: (samples,).
        """
        i, j = self.entries(a), self.entries(b)

        def information(cov: Array) -> Array:
            scaled, floor = _scaled(cov)
            left, right = (_whitener(_block(scaled, k, k), floor)[0] for k in (i, j))
            correlations = np.linalg.svd(np.swapaxes(left, 1, 2) @ _block(scaled, i, j) @ right, compute_uv=False)
            rest = 1 - correlations**2
            nats = -0.5 * np.log(np.where(rest > floor, rest, 1.0)).sum(axis=-1) + 0.0  # not -0
            return np.where((rest <= floor).any(axis=-1), np.inf, nats).astype(cov.dtype)

        return _per_sample(self.cov, information)


def divergence(q: Joint, p: Joint) -> Array:
    """KL(q ‖ p) = ½ (tr P⁻¹Q - n + gᵀ P⁻¹ g - log |P⁻¹Q|), g the difference of means, in nats.

    Where P is singular, on its range; ∞ where q has less or more room than p: observed entries against a density.
    Shape: (samples,).
    """
    gap = (q.mean - p.mean).astype(np.float64)
    if is_shared(q.cov) and is_shared(p.cov):
        return _divergence(gap, q.cov[:1], p.cov[:1], p.mean)
    return _divergence(gap, q.cov, p.cov, p.mean)


def _divergence(gap: Array, cov_q: Array, cov_p: Array, level: Array) -> Array:
    """Shapes: gap, level (samples, n); the covariances (samples or 1, n, n)."""
    scaled, floor = _scaled(cov_p)
    scale = _scale(cov_p)
    inside, outside = _whitener(scaled, floor)
    gap, level, cov = gap / scale, level / scale, cov_q / (scale[:, :, None] * scale[:, None, :])
    ratio = np.swapaxes(inside, 1, 2) @ cov @ inside
    diagonal = np.arange(ratio.shape[1])
    ratio[:, diagonal, diagonal] += ~inside.any(axis=1)  # a direction outside counts as equal
    values = np.linalg.eigvalsh(ratio)
    narrow = (values <= floor).any(axis=-1)
    values = np.where(values > floor, values, 1.0)
    total = 0.5 * ((values - 1 - np.log(values)).sum(axis=-1) + ((gap[:, None] @ inside) ** 2).sum(axis=(1, 2)))
    reach = 1 + np.maximum(np.abs(level), np.abs(gap)).max(axis=-1, initial=0)
    beyond = np.abs(gap[:, None] @ outside).max(axis=(1, 2), initial=0) > np.sqrt(floor) * reach
    wide = (outside * (cov @ outside)).sum(axis=1).max(axis=-1, initial=0) > np.sqrt(floor)
    return np.where(narrow | beyond | wide, np.inf, total).astype(cov_q.dtype)


def is_shared(cov: Array) -> bool:
    """Whether the covariance is one for all samples: a broadcast, or of a single sample."""
    return len(cov) == 1 or cov.strides[0] == 0


def _per_sample(cov: Array, figure: Any) -> Array:
    """A figure of each sample's covariance; computed once, and broadcast, where all share it."""
    if not is_shared(cov):
        out: Array = figure(cov)
        return out
    one = figure(cov[:1])
    return np.broadcast_to(one, (len(cov), *one.shape[1:]))


def _block(cov: Array, rows: Array, cols: Array) -> Array:
    return cov[:, rows[:, None], cols]


def _symmetric(cov: Array) -> Array:
    return (cov + np.swapaxes(cov, 1, 2)) / 2


def _resolution(cov: Array) -> float:
    return 10 * max(cov.shape[-1], 1) * float(np.finfo(cov.dtype).eps)


def _scale(cov: Array) -> Array:
    """Standard deviations; 1 where the variance is zero, or rounding beside the largest."""
    variance = np.diagonal(cov, axis1=1, axis2=2).astype(np.float64)
    least = _resolution(cov) * variance.max(axis=-1, keepdims=True, initial=0)
    return np.sqrt(np.where(variance > least, variance, 1.0))


def _scaled(cov: Array) -> tuple[Array, float]:
    """The correlation matrix, and the eigenvalue below which it is rounding."""
    scale = _scale(cov)
    return cov / (scale[:, :, None] * scale[:, None, :]), _resolution(cov)


def _whitener(cov: Array, floor: float) -> tuple[Array, Array]:
    """W with Wᵀ C W = I on the range of C, zero columns beyond it; and the directions beyond it, zero columns else."""
    values, vectors = np.linalg.eigh(cov)
    kept = values > floor * np.maximum(values.max(axis=-1, keepdims=True, initial=0), 1)
    roots = np.where(kept, 1 / np.sqrt(np.where(kept, values, 1.0)), 0.0)
    return vectors * roots[:, None, :], vectors * ~kept[:, None, :]


def _solve(cov: Array, right: Array, names: Sequence[str]) -> Array:
    scaled, floor = _scaled(cov)
    if (np.linalg.eigvalsh(scaled) <= floor).any():
        raise SingularEvidenceError(
            f"conditioning on {', '.join(map(repr, names))}: their covariance is singular, for entries are observed or "
            "determine one another; leave those out"
        )
    return np.linalg.solve(cov.astype(np.float64), right.astype(np.float64))
