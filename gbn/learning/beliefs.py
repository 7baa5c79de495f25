"""q(weights), q(noise precisions) and q(relevance precisions) of a net, and their coordinate updates.

Weights θ are Gaussian in blocks (:mod:`gbn.learning.blocks`), precisions are Gamma or Wishart.  A block whose rows have
one noise λ (or, of a full noise, blocks that are the rows of one matrix) is *conjugate*: its prior N(m₀, (λ P₀)⁻¹)
scales with the noise, and q(θ, λ) is found jointly, in closed form::

    P = P₀ + C_uu,   m = m₀ + P⁻¹ (C_xu - m₀ C_uu),   shape = a₀ + ½ w,   rate = b₀ + ½ (R(m) + (m - m₀)ᵀ P₀ (m - m₀))

(Normal-Gamma; of a full noise matrix-normal-Wishart).  Elsewhere the prior is N(m₀, P₀⁻¹), and q(θ) q(λ) factorises::

    P = P₀ + E λ C_uu,       rate = b₀ + ½ (R(m) + tr P⁻¹ C_uu)

Relevance (ARD): the entries of θ on one column of regressors share a precision α ~ Gamma in place of P₀.
Sources: Bishop, *Pattern Recognition and Machine Learning* (2006), sections 3.3, 10.2 and 12.2.3; for BayesPy's models,
Luttinen, J. Mach. Learn. Res. 17 (2016).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from gbn.errors import LearningError
from gbn.learning.blocks import Blocks, Quadratic, SingularBlock
from gbn.learning.precisions import Gamma, Precision, Wishart, gamma_kl

if TYPE_CHECKING:
    from scipy import sparse

    from gbn.learning.counted import Part
    from gbn.learning.regressions import Family

__all__ = ["Beliefs", "Couplings", "Prior", "Term"]

Array = np.ndarray[Any, Any]
Statistics = Sequence[Sequence["Part"]]


@dataclass(frozen=True, eq=False)
class Prior:
    """What was believed before the data.

    mean, precision: m₀, and P₀ as a flat matrix, 0 at entries with a relevance precision.
    relevance: entry of θ -> number of its α, -1 where it has none.
    relevance_shape, relevance_rate: of each α.
    noises: noise -> Gamma or Wishart, of those that are learned.
    """

    mean: Array
    precision: Array
    relevance: Array
    relevance_shape: Array
    relevance_rate: Array
    noises: Mapping[str, Precision]


@dataclass(frozen=True, eq=False)
class Beliefs:
    """q.

    mean: of θ; precision: P, and covariance: P⁻¹, as flat matrices; logdet: log |P| of each block.  Of conjugate blocks
        they are in units of the noise: Cov(θ | λ) = (λ P)⁻¹.
    noises: noise -> its precision, those that are not learned included.
    relevance_shape, relevance_rate: of each α.
    """

    mean: Array
    precision: Array
    covariance: Array
    logdet: Array
    noises: Mapping[str, Precision]
    relevance_shape: Array
    relevance_rate: Array


@dataclass(frozen=True, eq=False)
class Term:
    """A family as a function of θ: A(θ).

    design: T, its columns those of ``entries``; entries: their numbers in θ, -1 where they are not learned.
    quadratic: the products of coefficients.
    group: row of A -> its group of rows.
    """

    family: Family
    design: sparse.csc_array
    entries: Array
    quadratic: Quadratic
    group: Array


class Couplings:
    """How families, blocks of θ and noises hang together; it stays the same while q moves.

    Args:
        terms: the families.
        blocks: of θ.
        keys: noises; owner: block -> number of the noise that its prior scales with, -1 where it is not conjugate;
            row: and which row of it.
        rows: noise of full form with conjugate blocks -> entries of θ, shape (size, columns), a block in each row.
        values: from θ to the values of all parameters.
    """

    def __init__(
        self,
        terms: Sequence[Term],
        blocks: Blocks,
        keys: Sequence[str],
        owner: Array,
        row: Array,
        rows: Mapping[str, Sequence[Array]],
        values: Callable[[Array], Mapping[str, Array]],
    ) -> None:
        self.terms, self.blocks, self.keys, self.owner, self.row = terms, blocks, list(keys), owner, row
        self.rows, self.values = rows, values
        self.conjugate = owner >= 0
        self._place = [blocks.place(t.quadratic.first, t.quadratic.second) for t in terms]
        self._own = [self.conjugate[blocks.label[t.quadratic.first]] for t in terms]

    def spread(self, q: Beliefs, number: int) -> list[Array]:
        """D = E (A - Ā)ᵀ Λ (A - Ā) of a family, for each group of its rows.  Shape of each: (columns, columns)."""
        term, products = self.terms[number], self.terms[number].quadratic
        groups, columns = int(term.group.max(initial=0)) + 1, products.columns
        place = (term.group[products.i] * columns + products.c) * columns + products.d
        flat = np.bincount(place, self._weight(q, number) * q.covariance[self._place[number]], groups * columns**2)
        return list(flat.reshape(groups, columns, columns))

    def _weight(self, q: Beliefs, number: int) -> Array:
        """t_k Λ_ij of each product; of conjugate blocks 1 for Λ."""
        products, precision = self.terms[number].quadratic, q.noises[self.terms[number].family.noise].mean
        found = precision[products.i, products.j] if precision.ndim == 2 else precision[products.i]
        return products.factor * np.where(self._own[number], 1.0, found)

    def weighed(self, q: Beliefs, number: int, squares: Array) -> Array:
        """What a family adds to P, given C_cd for each of its products; a flat matrix."""
        return np.bincount(self._place[number], self._weight(q, number) * squares, self.blocks.length)

    def update(self, q: Beliefs, prior: Prior, statistics: Statistics) -> Beliefs:
        """One round of coordinate ascent, given q of the latents: weights, noises, relevance."""
        q = self._weights(q, prior, statistics)
        return self.relevance(replace(q, noises=self._noises(q, prior, statistics)), prior)

    def prior_precision(self, q: Beliefs, prior: Prior) -> Array:
        """E P₀, relevance included, as a flat matrix."""
        known = prior.relevance >= 0
        if not known.any():
            return prior.precision
        added = np.zeros(len(known))
        added[known] = (q.relevance_shape / q.relevance_rate)[prior.relevance[known]]
        return self.blocks.with_diagonal(prior.precision, added)

    def _weights(self, q: Beliefs, prior: Prior, statistics: Statistics) -> Beliefs:
        """The optimal q(θ), of conjugate blocks in units of the noise."""
        blocks, start, values = self.blocks, self.prior_precision(q, prior), self.values(q.mean)
        precision, slope = start.copy(), blocks.times(start, prior.mean - q.mean)
        for number, (term, parts) in enumerate(zip(self.terms, statistics, strict=True)):
            precision += self.weighed(q, number, _squares(term, parts))
            slope += self._slope(term, parts, q.noises[term.family.noise].mean, values)
        try:
            covariance, logdet = blocks.inverse(precision)
        except SingularBlock as error:
            raise self._undetermined(error.block) from None
        mean = q.mean + blocks.times(covariance, slope)
        return replace(q, mean=mean, precision=precision, covariance=covariance, logdet=logdet)

    def _undetermined(self, block: int) -> LearningError:
        hit = (t.family for t in self.terms if (self.blocks.label[t.quadratic.first] == block).any())
        family = next(hit)
        return LearningError(
            f"{family.name!r}: the posterior of {', '.join(map(repr, family.learned))} is lost to rounding, because "
            "regressors (nearly) determine one another or differ by many orders of size; raise weight_precision, or "
            "rescale what it reads"
        )

    def _slope(self, term: Term, parts: Sequence[Part], precision: Array, values: Mapping[str, Array]) -> Array:
        """Tᵀ vec Λ (C_xu - A C_uu); of conjugate blocks without Λ."""
        a = term.family.coefficients(values)
        gradient = np.zeros_like(a)
        for part in parts:
            gradient[part.rows] = part.moments.gradient(part.moments.about(a[part.rows]))
        weighed = precision @ gradient if precision.ndim == 2 else precision[:, None] * gradient
        free = term.entries >= 0
        entries = term.entries[free]
        plain, scaled = ((term.design.T @ g.T.reshape(-1))[free] for g in (gradient, weighed))
        return np.bincount(
            entries, np.where(self.conjugate[self.blocks.label[entries]], plain, scaled), self.blocks.entries
        )

    def _noises(self, q: Beliefs, prior: Prior, statistics: Statistics) -> dict[str, Precision]:
        """The optimal q of every noise that is learned, given q(θ)."""
        counts: dict[str, Array] = {}
        errors: dict[str, Array] = {}
        values = self.values(q.mean)
        for number, (term, parts) in enumerate(zip(self.terms, statistics, strict=True)):
            key = term.family.noise
            if key in prior.noises:
                count, error = self._residual(q, number, parts, values)
                counts[key], errors[key] = counts.get(key, 0) + count, errors.get(key, 0) + error
        squares = self._squared_gaps(q, prior)
        found = dict(q.noises)
        for key, before in prior.noises.items():
            if key not in counts:
                continue
            count, error = counts[key], errors[key] + self._gaps_of(key, squares, len(counts[key]))
            if isinstance(before, Wishart):
                error = error + self._gaps_of_rows(q, prior, key)
                found[key] = Wishart(before.dof + float(count[0]), before.scatter + (error + error.T) / 2)
            elif isinstance(before, Gamma):
                if len(before.shape) < len(count):
                    count, error = count.sum(keepdims=True), error.sum(keepdims=True)
                found[key] = replace(before, shape=before.shape + count / 2, rate=before.rate + error / 2)
        return found

    def _residual(
        self, q: Beliefs, number: int, parts: Sequence[Part], values: Mapping[str, Array]
    ) -> tuple[Array, Array]:
        """Σ w for each row, and Σ w E[(x - A u)(x - A u)ᵀ], of independent blocks with their spread.

        Of the latter the diagonal, or all of it where the noise is full.
        """
        term, size = self.terms[number], self.terms[number].family.size
        a, whole = term.family.coefficients(values), q.noises[term.family.noise].form == "full"
        count, error = np.zeros(size), np.zeros((size, size) if whole else size)
        for part in parts:
            about = part.moments.about(a[part.rows])
            count[part.rows] = part.moments.weight
            if whole:
                error[np.ix_(part.rows, part.rows)] = part.moments.residual(about)
            else:
                joint = np.concatenate([np.eye(len(about)), -about], axis=1)
                error[part.rows] = ((joint @ part.moments.second) * joint).sum(axis=1)
        apart, products = ~self._own[number], term.quadratic
        if apart.any():
            found = products.factor * q.covariance[self._place[number]] * _squares(term, parts) * apart
            place = products.i * size + products.j if whole else products.i
            error += np.bincount(place, found, error.size).reshape(error.shape)
        return count, error

    def _squared_gaps(self, q: Beliefs, prior: Prior) -> Array:
        """(m - m₀)ᵀ P₀ (m - m₀) of each block."""
        gap = q.mean - prior.mean
        return self.blocks.by_block(gap * self.blocks.times(self.prior_precision(q, prior), gap))

    def _gaps_of(self, key: str, squares: Array, size: int) -> Array | float:
        """What conjugate blocks add to the squared errors of each row of a noise."""
        if key in self.rows or key not in self.keys:
            return 0.0
        mine = self.owner == self.keys.index(key)
        return np.bincount(self.row[mine], squares[mine], size) if mine.any() else 0.0

    def _gaps_of_rows(self, q: Beliefs, prior: Prior, key: str) -> Array | float:
        """(M - M₀) P₀ (M - M₀)ᵀ of the conjugate weights of a full noise."""
        start, gap = self.prior_precision(q, prior), q.mean - prior.mean
        total: Array | float = 0.0
        for entry in self.rows.get(key, ()):
            first = entry[0]
            square = start[self.blocks.place(np.repeat(first, len(first)), np.tile(first, len(first)))]
            total = total + gap[entry] @ square.reshape(len(first), -1) @ gap[entry].T
        return total

    def relevance(self, q: Beliefs, prior: Prior) -> Beliefs:
        """The optimal q(α), given the rest."""
        known = prior.relevance >= 0
        if not known.any():
            return q
        number = prior.relevance[known]
        square = self.second_moments(q, prior)[known]
        count = np.bincount(number, minlength=len(prior.relevance_shape))
        return replace(
            q,
            relevance_shape=prior.relevance_shape + count / 2,
            relevance_rate=prior.relevance_rate + np.bincount(number, square, len(count)) / 2,
        )

    def second_moments(self, q: Beliefs, prior: Prior) -> Array:
        """E (θ - m₀)², of conjugate blocks E λ (θ - m₀)² (of a full noise E θᵀ Λ θ, shared out among the rows)."""
        gap = q.mean - prior.mean
        square = gap * gap * self.block_precision(q)[self.blocks.label]
        for key, matrices in self.rows.items():
            for entry in matrices:
                square[entry] = gap[entry] * (q.noises[key].mean @ gap[entry])
        return np.asarray(square + self.blocks.diagonal(q.covariance))

    def block_precision(self, q: Beliefs) -> Array:
        """E λ of the noise that each block's prior scales with; 1 where it does not."""
        out = np.ones(self.blocks.count)
        for number, key in enumerate(self.keys):
            mine = self.owner == number
            out[mine] = q.noises[key].diagonal[self.row[mine]]
        return out

    def divergence(self, q: Beliefs, prior: Prior) -> float:
        """KL from the prior of all that is learned, in nats."""
        blocks, start = self.blocks, self.prior_precision(q, prior)
        squares = self._squared_gaps(q, prior) * self.block_precision(q)
        for key, matrices in self.rows.items():
            squares[self.blocks.label[np.concatenate([e[:, 0] for e in matrices])]] = 0.0
            squares = np.append(squares, np.sum(q.noises[key].mean * self._gaps_of_rows(q, prior, key)))
        logs = q.logdet.sum() - self._log_prior(q, prior, start)
        total = 0.5 * (float(np.sum(start * q.covariance)) - blocks.entries + float(logs) + float(squares.sum()))
        for key, before in prior.noises.items():
            total += q.noises[key].kl(before)  # type: ignore[arg-type]
        if len(prior.relevance_shape):
            total += gamma_kl(q.relevance_shape, q.relevance_rate, prior.relevance_shape, prior.relevance_rate)
        return total

    def _log_prior(self, q: Beliefs, prior: Prior, start: Array) -> float:
        """E log |P₀|."""
        diagonal = self.blocks.diagonal(start)
        if np.count_nonzero(start) == np.count_nonzero(diagonal):
            total = float(np.log(diagonal).sum())
        else:
            total = float(self.blocks.inverse(start)[1].sum())
        number = prior.relevance[prior.relevance >= 0]
        slack = special.digamma(q.relevance_shape) - np.log(q.relevance_shape)
        return total + float(slack[number].sum())


def _squares(term: Term, parts: Sequence[Part]) -> Array:
    """C_cd of each product, C the second moments of the regressors where its row counts."""
    products = term.quadratic
    if not len(products.c):
        return np.zeros(0)
    squares = np.stack([part.moments.about_zero.uu for part in parts])
    return np.asarray(squares[term.group[products.i], products.c, products.d])
