"""The E-step: summed second moments of every family under the posterior.

C = Σ_n w_n E[z zᵀ | evidence_n] with z = (x, u, 1), from posterior means and family covariances.  In a linear net the
covariances depend on which entries are missing alone, so each pattern's counts once, times the rows that have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gbn.errors import InferenceError, LearningError
from gbn.evidence import Evidence
from gbn.graph import nonlinear_given
from gbn.inference import solver
from gbn.inference.exact import Repeated
from gbn.joint import is_shared
from gbn.learning.data import Data
from gbn.learning.leaves import Twin, scattered_leaves
from gbn.learning.regressions import Family, names_of
from gbn.learning.rows import EVERYTHING, Index, fold, gather
from gbn.options import check_options

if TYPE_CHECKING:
    from gbn.net import GaussianBayesNet
    from gbn.posterior import Posterior

__all__ = ["Expectation", "Expected", "Moments", "estep", "moments_of"]

Array = np.ndarray[Any, Any]
Pairs = Sequence[tuple[str, str]]
# Numbers in rows that are gathered from one vertex and its regressors at once.
_GATHERED_AT_ONCE = 2**22


@dataclass(frozen=True, eq=False)
class Moments:
    """Σ w E[(z - s)(z - s)ᵀ] of a family, z = (x, u, 1), taken about a point s to keep digits.

    weight: Σ w, over samples, members and positions.
    second: shape (d, d), d the entries of x, of u, and 1.
    shift: s, with 0 for the constant.  Shape: (d,).
    size: entries of x.
    """

    weight: float
    second: Array
    shift: Array
    size: int

    @property
    def xx(self) -> Array:
        """C_xx.  Shape: (size, size)."""
        return self.second[: self.size, : self.size]

    @property
    def xu(self) -> Array:
        """C_xu, the constant among the columns.  Shape: (size, columns)."""
        return self.second[: self.size, self.size :]

    @property
    def uu(self) -> Array:
        """C_uu, the constant included.  Shape: (columns, columns)."""
        return self.second[self.size :, self.size :]

    @cached_property
    def about_zero(self) -> Moments:
        """The same moments with s = 0."""
        return self.moved(np.zeros_like(self.shift))

    def moved(self, shift: Array) -> Moments:
        """The same moments about another point."""
        move = np.eye(len(self.shift))
        move[:, -1] += self.shift - shift
        return Moments(self.weight, move @ self.second @ move.T, shift, self.size)

    @classmethod
    def merged(cls, parts: Sequence[Moments]) -> Moments:
        """The moments of all rows together, about the one point that the parts have, else about the mean of theirs.

        Where each part is taken about its own mean, that is the mean of all, and no digits are lost on the way
        (Chan, Golub & LeVeque, *Algorithms for computing the sample variance*, Am. Stat. 37, 1983).
        """
        first, weight = parts[0], sum(part.weight for part in parts)
        shift = first.shift
        if any(not np.array_equal(part.shift, shift) for part in parts):
            shift = sum((part.weight * part.shift for part in parts), np.zeros_like(shift)) / (weight or 1.0)
            parts = [part.moved(shift) for part in parts]
        second = sum((part.second for part in parts), np.zeros_like(first.second))
        return cls(weight, second, shift, first.size)

    @cached_property
    def transport(self) -> Array:
        """P, by which the coefficients about s are A P - [0, s_x].  Shape: (columns, columns)."""
        move = np.eye(len(self.shift) - self.size)
        move[:, -1] += self.shift[self.size :]
        return move

    def about(self, coefficients: Array) -> Array:
        """Coefficients A of z as those of z - s."""
        out = np.array(coefficients, np.float64)
        out[:, -1] += coefficients[:, :-1] @ self.shift[self.size : -1] - self.shift[: self.size]
        return out

    def back(self, coefficients: Array) -> Array:
        """Coefficients of z - s as those of z."""
        out = coefficients.copy()
        out[:, -1] += self.shift[: self.size] - coefficients[:, :-1] @ self.shift[self.size : -1]
        return out

    def residual(self, about: Array) -> Array:
        """Σ w E[(x - A u)(x - A u)ᵀ], from the coefficients about s.  Shape: (size, size)."""
        joint = np.concatenate([np.eye(self.size), -about], axis=1)
        found = joint @ self.second @ joint.T
        return (found + found.T) / 2

    def gradient(self, about: Array) -> Array:
        """C_xu - A C_uu for the coefficients of z itself.  Shape: (size, columns)."""
        return (self.xu - about @ self.uu) @ self.transport.T


class Expected(Protocol):
    """A posterior, as far as learning needs it."""

    def mean(self, name: str) -> Array:
        """Shape: (samples, *event)."""

    def summed_covariance(self, pairs: Pairs, counts: Array, rows: tuple[Index, Index] = EVERYTHING) -> Array | None:
        """Σ_n counts_n Σ_pairs Cov_n; None where all of it is zero.

        Args:
            rows: which entries of either vertex are one row; what comes back is the sum over rows.

        Returns:
            shape (entries of a row of a, of b).
        """

    def objective(self, counts: Array) -> float:
        """What the E-step says of the net, in nats: more is better."""


class Expectation(Protocol):
    """An E-step for one set of rows: from a net to its posterior."""

    def __call__(self, net: GaussianBayesNet) -> Expected:
        """The posterior in a net that differs from the first one in its numbers alone."""


class _Exact:
    def __init__(self, solution: Any) -> None:
        self.mean, self._solution = solution.mean, solution

    def summed_covariance(self, pairs: Pairs, counts: Array, rows: tuple[Index, Index] = EVERYTHING) -> Array | None:
        found = self._solution.summed_covariance(pairs, counts)
        return None if found is None else fold(found, *rows)

    def objective(self, counts: Array) -> float:
        return float(counts @ self._solution.log_evidence().astype(np.float64))


class _Approximate:
    """A posterior of another engine: vmp has covariances within vertices, pc has none."""

    def __init__(self, post: Posterior, certain: bool) -> None:
        self.post, self.certain = post, certain

    def mean(self, name: str) -> Array:
        return self.post.mean[name]

    def summed_covariance(self, pairs: Pairs, counts: Array, rows: tuple[Index, Index] = EVERYTHING) -> Array | None:
        if self.certain:
            return None
        total: Array | None = None
        for a, b in pairs:
            cov = self.post.cov(a, b)
            part = cov[0] * counts.sum() if is_shared(cov) else np.tensordot(counts, cov, 1)
            total = part if total is None else total + part
        return None if total is None else fold(total, *rows)

    def objective(self, counts: Array) -> float:
        return -float(counts @ self.post.free_energy.astype(np.float64))


def estep(data: Data, families: Sequence[Family], engine: str, options: Mapping[str, Any]) -> Expectation:
    """The E-step of an engine: "exact", "vmp" or "pc", with options of that engine.

    Raises:
        LearningError: an engine without expectations, or a net that is nonlinear in what is hidden.
        UnknownNameError, ArgumentTypeError: options.
    """
    names = list(names_of(families))
    if engine not in ("exact", "vmp", "pc"):
        raise LearningError(f"engine: got {engine!r}, expected 'exact', 'vmp' or 'pc'")
    at = nonlinear_given(data.evidence)
    if at is not None:
        raise LearningError(
            f"{at!r} ({data.evidence.net[at].title}) is nonlinear in what is hidden, and method 'em' is for nets that "
            "are linear-Gaussian given the data; give batch_size= (stepwise EM, of the net linearised), take method "
            "'local', observe what it reads, or linearise the net with net.linearize"
        )
    check_options(Repeated if engine == "exact" else solver(engine), options, f"engine {engine!r} (engine_options)")
    if engine == "exact":

        def repeated(evidence: Evidence, asked: list[str]) -> Repeated:
            return Repeated(evidence, asked, **options)

        leaves = scattered_leaves(data)
        found = Twin(data, leaves, names, repeated) if leaves else repeated(data.evidence, names)
        return lambda net: _Exact(found(net))
    settings = {"prediction": "live"} | dict(options) if engine == "pc" else dict(options)
    solve = solver(engine)

    def approximate(net: GaussianBayesNet) -> Expected:
        return _Approximate(solve(net, data.of(net).evidence, names, **settings), engine == "pc")

    return approximate


def moments_of(
    expected: Expected, families: Sequence[Family], data: Data, shifts: Sequence[Array] | None = None
) -> list[Moments]:
    """The moments of every family; ``shifts``: the points about which they are taken (None: their means now)."""
    counts = data.counts
    means: dict[str, Array] = {}
    for name in names_of(families):
        means[name] = np.asarray(expected.mean(name), np.float64).reshape(len(counts), -1)
    return [
        _moments(expected, family, means, counts, None if shifts is None else shifts[k])
        for k, family in enumerate(families)
    ]


def _moments(
    expected: Expected, family: Family, means: Mapping[str, Array], counts: Array, shift: Array | None
) -> Moments:
    parts = list(zip(*((vertex, *regressors) for vertex, regressors in family.members), strict=True))
    index: list[Index] = [None] * len(parts) if family.rows is None else [family.rows.place, *family.rows.reads]
    positions = 1 if family.rows is None else family.rows.count
    weights = counts if len(family.members) == 1 else np.tile(counts, len(family.members))
    total = float(weights.sum()) * positions
    whole = [means[names[0]] if len(names) == 1 else np.concatenate([means[n] for n in names]) for names in parts]
    if shift is None:
        centres = [gather((weights @ one)[None], at).sum(axis=0) for one, at in zip(whole, index, strict=True)]
        shift = np.concatenate([*(centre / (total or 1.0) for centre in centres), [0.0]])
    second = np.zeros((len(shift), len(shift)))
    width = max(1, _GATHERED_AT_ONCE // (positions * len(shift)))
    for start in range(0, len(weights), width):
        part = slice(start, start + width)
        columns = [gather(one[part], at) for one, at in zip(whole, index, strict=True)]
        z = np.concatenate([*columns, np.ones((len(columns[0]), 1))], axis=1) - shift
        repeated = np.repeat(weights[part], positions) if positions > 1 else weights[part]
        second += z.T @ z if (repeated == 1).all() else z.T @ (z * repeated[:, None])
    ends = np.cumsum([0, family.size, *family.sizes])
    # Those of each with itself first: they tell whether rounding has left digits, before others are taken.
    pairs = [(i, i) for i in range(len(parts))] + list(combinations(range(len(parts)), 2))
    for i, j in pairs:
        cov = expected.summed_covariance(list(zip(parts[i], parts[j], strict=True)), counts, (index[i], index[j]))
        if cov is not None:
            rows, across = slice(ends[i], ends[i + 1]), slice(ends[j], ends[j + 1])
            second[rows, across] += (cov + cov.T) / 2 if i == j else cov
            if i != j:
                second[across, rows] += cov.T
    if not np.isfinite(second).all():
        raise InferenceError(f"{family.name!r}: its expected second moments are not finite; rescale the data")
    return Moments(total, second, shift, family.size)
