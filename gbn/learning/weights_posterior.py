"""What variational Bayes learned of weights and noises: the posterior as a person reads it, and as the next prior."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from gbn.errors import LearningError, UnknownNameError
from gbn.learning.blocks import Blocks
from gbn.learning.precisions import Known, Precision, Wishart, student_quantile

if TYPE_CHECKING:
    import pandas

    from gbn.learning.beliefs import Couplings
    from gbn.learning.predictive import Predictive
    from gbn.net import GaussianBayesNet

__all__ = ["WeightPosterior"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False, repr=False)
class WeightPosterior:
    """q(weights) q(noises) of a net, from :func:`gbn.learning.fit` with method "vb".

    Weights are Gaussian given the noise that their prior scales with, so that each is Student-t distributed by itself;
    Gaussian where it scales with none, or with a noise that was not learned.

    Attributes:
        net: with the weights at their mean, and the inverse of each noise's mean precision.
        elbo: the lower bound of the log-evidence of the data it was learned from, in nats.
        values: learned parameter, or input whose prior mean was learned -> mean, entries that stayed included.
        where: name -> number in θ of each of its entries, -1 where it stayed.  Shape: (size,).
        blocks: which entries of θ hang together; theta: mean of θ; precision: P, a flat matrix.
        keys: noises; owner, row: block -> the noise, and the row of it, that it is in units of (-1: of none).
        noises: noise -> what is believed of its precision.
        relevance: parameter with relevance precisions -> (shape, rate) of α for each of its columns.
    """

    net: GaussianBayesNet
    elbo: float
    values: Mapping[str, Array]
    where: Mapping[str, Array]
    blocks: Blocks
    theta: Array
    precision: Array
    keys: tuple[str, ...]
    owner: Array
    row: Array
    noises: Mapping[str, Precision]
    relevance: Mapping[str, tuple[Array, Array]] = field(default_factory=dict)

    def __repr__(self) -> str:
        learned = sum(not isinstance(q, Known) for q in self.noises.values())
        return f"WeightPosterior({self.blocks.entries} weights, {learned} noises, elbo {self.elbo:.6g})"

    @cached_property
    def covariance(self) -> Array:
        """P⁻¹, a flat matrix."""
        return self.blocks.inverse(self.precision)[0]

    @property
    def mean(self) -> Mapping[str, Array]:
        """Name -> posterior mean, of the parameter's shape."""
        return self.values

    @cached_property
    def _marginals(self) -> tuple[Array, Array]:
        """Degrees of freedom and scale of each entry's Student-t distribution (∞: Gaussian)."""
        dof, square = np.full(self.blocks.count, np.inf), np.ones(self.blocks.count)
        for number, key in enumerate(self.keys):
            mine, noise = self.owner == number, self.noises[key]
            dof[mine], square[mine] = (part[self.row[mine]] for part in spread_of(noise))
        label = self.blocks.label
        return dof[label], np.sqrt(square[label] * self.blocks.diagonal(self.covariance))

    def _named(self, name: str) -> Array:
        if name not in self.where:
            raise UnknownNameError("learned parameter", name, self.where)
        return self.where[name]

    def _filled(self, name: str, theta: Array, rest: Any = 0.0) -> Array:
        where = self._named(name)
        out = np.where(where >= 0, theta[where], np.asarray(rest).reshape(-1))
        return np.asarray(out.reshape(self.values[name].shape))

    @cached_property
    def std(self) -> Mapping[str, Array]:
        """Name -> posterior standard deviation of each entry; 0 where it was not learned, ∞ where it has none."""
        dof, scale = self._marginals
        with np.errstate(divide="ignore", invalid="ignore"):
            wider = np.where(np.isinf(dof), 1.0, np.where(dof > 2, np.sqrt(dof / (dof - 2)), np.inf))
        return {name: self._filled(name, scale * wider) for name in self.where}

    def interval(self, name: str, level: float = 0.9) -> tuple[Array, Array]:
        """The central interval that holds each entry of a parameter with this probability."""
        _check_level(level)
        self._named(name)
        dof, scale = self._marginals
        half = scale * student_quantile(dof, (1 + level) / 2)
        low, high = (self._filled(name, self.theta + sign * half, self.values[name]) for sign in (-1, 1))
        return low, high

    def cov(self, name: str) -> Array:
        """Covariance of the entries of a parameter.  Shape: (size, size)."""
        where = self._named(name)
        free = np.flatnonzero(where >= 0)
        e, f = where[free][:, None], where[free]
        label, out = self.blocks.label, np.zeros((len(where), len(where)))
        e, f = np.broadcast_arrays(e, f)
        together = label[e] == label[f]
        flat = np.zeros(e.shape)
        flat[together] = self.covariance[self.blocks.place(e[together], f[together])]
        flat *= self._unit[label][e]
        for key in self._coupled():
            flat = flat + self._across(key, e, f)
        out[np.ix_(free, free)] = flat
        return out

    @cached_property
    def _unit(self) -> Array:
        """E 1/λ of the noise that each block is in units of; 1 where it is in units of none."""
        out = np.ones(self.blocks.count)
        for number, key in enumerate(self.keys):
            dof, square = spread_of(self.noises[key])
            with np.errstate(divide="ignore", invalid="ignore"):
                found = np.where(np.isinf(dof), square, np.where(dof > 2, square * dof / (dof - 2), np.inf))
            mine = self.owner == number
            out[mine] = found[self.row[mine]]
        return out

    def filled(self, theta: Array) -> dict[str, Array]:
        """Parameters and prior means at some θ."""
        return {name: self._filled(name, theta, self.values[name]) for name in self.where}

    def matrices(self, number: int) -> list[Array]:
        """The weights in units of a full noise, by its number: entries of θ, a block in each row."""
        mine = np.flatnonzero(self.owner == number)
        of = np.empty(self.blocks.entries, object)
        for name, where in self.where.items():
            of[where[where >= 0]] = name
        alike: dict[Any, list[int]] = {}
        for block in mine[np.argsort(self.row[mine], kind="stable")]:
            alike.setdefault(tuple(of[self.blocks.label == block]), []).append(int(block))
        return [
            np.stack([self.blocks.entry(np.array(b), np.arange(self.blocks.size[b])) for b in group])
            for group in alike.values()
        ]

    def _coupled(self) -> list[str]:
        """Full noises in units of which rows of weights are: these covary."""
        return [k for n, k in enumerate(self.keys) if self.noises[k].form == "full" and (self.owner == n).any()]

    def _across(self, key: str, e: Array, f: Array) -> Array:
        """Covariance of weights of different rows: E Q_ij V_cd."""
        label, local = self.blocks.label, self.blocks.local
        mine = (self.owner == self.keys.index(key))[label]
        chosen = mine[e] & mine[f] & (label[e] != label[f])
        # Rows of a matrix hold their columns in the same order, and have the same V.
        out = np.zeros(e.shape)
        twin = self.blocks.entry(label[e[chosen]], local[f[chosen]])
        expected = noise_mean(self.noises[key])
        square = self.covariance[self.blocks.place(e[chosen], twin)]
        out[chosen] = square * expected[self.row[label[e[chosen]]], self.row[label[f[chosen]]]]
        return out

    def noise(self, name: str) -> Array:
        """E Q, the posterior mean of a covariance, in its form (∞ where it has none)."""
        if name not in self.noises:
            raise UnknownNameError("learned noise", name, self.noises)
        found = noise_mean(self.noises[name])
        form = self.net.noises[name].form
        return found if form == "full" else np.asarray(found[0] if form == "scalar" else found)

    def noise_interval(self, name: str, level: float = 0.9) -> tuple[Array, Array]:
        """The central interval that holds each variance with this probability; of a full noise its diagonal."""
        _check_level(level)
        if name not in self.noises:
            raise UnknownNameError("learned noise", name, self.noises)
        found = self.noises[name]
        if isinstance(found, Known):
            same = noise_mean(found)
            same = np.diagonal(same) if same.ndim == 2 else same
            return same, same
        if isinstance(found, Wishart):
            shape = np.full(found.size, (found.dof - found.size + 1) / 2)
            rate = np.diagonal(found.scatter) / 2
        else:
            shape, rate = found.shape, found.rate
        ends = ((1 - level) / 2, (1 + level) / 2)
        low, high = (np.asarray(rate / special.gammainccinv(shape, end)) for end in ends)
        return low, high

    def to_frame(self, level: float = 0.9) -> pandas.DataFrame:
        """A table with a row for each learned entry: parameter, index, mean, std, and the ends of its interval."""
        import pandas as pd

        rows = []
        for name in self.where:
            low, high = self.interval(name, level)
            for index in np.ndindex(self.values[name].shape):
                if self.where[name].reshape(self.values[name].shape)[index] >= 0:
                    figures = (a[name][index] for a in (self.values, self.std))
                    rows.append((name, index, *figures, low[index], high[index]))
        return pd.DataFrame(rows, columns=["parameter", "index", "mean", "std", "low", "high"])

    def sample(self, n: int = 1, seed: int | np.random.Generator | None = None) -> Iterator[GaussianBayesNet]:
        """Nets with weights and noises drawn from the posterior; see :func:`gbn.learning.predictive.draws`."""
        from gbn.learning.predictive import draws

        return draws(self, n, np.random.default_rng(seed))

    def predict(
        self, evidence: Any, targets: Any = None, *, do: Any = None, draws: int = 100, seed: Any = 0
    ) -> Predictive:
        """What is to be expected of vertices, weights being uncertain; see :func:`gbn.learning.predictive.predict`."""
        from gbn.learning.predictive import predict

        return predict(self, evidence, targets, do, draws, np.random.default_rng(seed))

    def log_predictive(self, data: Any, *, draws: int = 100, seed: Any = 0) -> Array:
        """Log p(row | what was learned from) of each row; see :func:`gbn.learning.predictive.log_predictive`."""
        from gbn.learning.predictive import log_predictive

        return log_predictive(self, data, draws, np.random.default_rng(seed))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to one file without pickles; see :func:`gbn.learning.posterior_file.save`."""
        from gbn.learning.posterior_file import save

        save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], net: GaussianBayesNet) -> WeightPosterior:
        """Read what :meth:`save` wrote, for the net it is of; see :func:`gbn.learning.posterior_file.load`."""
        from gbn.learning.posterior_file import load

        return load(path, net)

    def digest(self) -> str:
        """A text that another posterior does not have."""
        parts = (self.theta, self.precision, *(a for q in self.noises.values() for a in (q.diagonal, q.slack)))
        return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()

    # As the prior of the next fit.

    def as_prior(self, where: Mapping[str, Array]) -> tuple[Array, Array, Array, Array]:
        """P as elements (e, f, value) in the numbering of another fit, and the means by that numbering.

        Raises:
            LearningError: a parameter of another shape, or one that is learned in part of a block only.
        """
        to = self._translated(where)
        total = max((int(w.max(initial=-1)) for w in where.values()), default=-1) + 1
        means = np.zeros(total)
        means[to[to >= 0]] = self.theta[to >= 0]
        left, right, values = [np.zeros(0, int)], [np.zeros(0, int)], [np.zeros(0)]
        for (_, index, _), matrix in zip(self.blocks.stacks, self.blocks.stacked(self.precision), strict=True):
            there = to[index]
            kept = (there >= 0).all(axis=1)
            if ((there >= 0).any(axis=1) & ~kept).any():
                raise LearningError(
                    "prior: weights that it holds to be correlated are in part frozen or masked now; freeze what was "
                    "frozen in the fit that it is the posterior of, or leave out prior"
                )
            e, f = np.broadcast_arrays(there[kept][:, :, None], there[kept][:, None, :])
            left.append(e.reshape(-1))
            right.append(f.reshape(-1))
            values.append(matrix[kept].reshape(-1))
        return np.concatenate(left), np.concatenate(right), np.concatenate(values), means

    def _translated(self, where: Mapping[str, Array]) -> Array:
        """Entry of θ -> its number there, -1 where it is not learned."""
        to = np.full(self.blocks.entries, -1)
        for name, mine in self.where.items():
            if name not in where:
                continue
            if len(where[name]) != len(mine):
                raise LearningError(
                    f"prior: {name!r} has {len(mine)} entries there and {len(where[name])} in this net; expected the "
                    "posterior of a net of the same shapes"
                )
            to[mine[mine >= 0]] = where[name][mine >= 0]
        return to

    def unscaled(self, where: Mapping[str, Array]) -> Array:
        """Entries, in another fit's numbering, that are in units of no noise."""
        to = self._translated(where)
        return np.asarray(to[(self.owner[self.blocks.label] < 0) & (to >= 0)])

    def check_scales(self, where: Mapping[str, Array], found: Couplings) -> None:
        """Raise LearningError where weights are in units of a noise here, and of none or another there."""
        to = self._translated(where)
        mine = np.flatnonzero((to >= 0) & (self.owner[self.blocks.label] >= 0))
        here = [self.keys[k] for k in self.owner[self.blocks.label[mine]]]
        owners = found.owner[found.blocks.label[to[mine]]]
        there = [found.keys[k] if k >= 0 else None for k in owners]
        wrong = [entry for entry, a, b in zip(mine, here, there, strict=True) if a != b]
        if wrong:
            name = next(n for n, w in self.where.items() if wrong[0] in w)
            raise LearningError(
                f"prior: the weights {name!r} are in units of their noise there, and cannot be in this fit; use the "
                "options of the fit that it is the posterior of (conjugate, masks, noises), or conjugate=False in both"
            )

    def noise_priors(self, default: Mapping[str, Precision]) -> dict[str, Precision]:
        """What is known here of another fit's noises."""
        out: dict[str, Precision] = {}
        for name, prior in default.items():
            mine = self.noises.get(name)
            if mine is None or isinstance(mine, Known):
                continue
            alike = type(mine) is type(prior) and mine.size == prior.size and mine.form == prior.form
            if not alike:
                raise LearningError(
                    f"prior: the noise of {name!r} is {mine.form} of {mine.size} entries there, and {prior.form} of "
                    f"{prior.size} here"
                )
            out[name] = mine
        return out


def spread_of(noise: Precision) -> tuple[Array, Array]:
    """Degrees of freedom and squared scale that each row of a noise gives a Student-t variable."""
    if isinstance(noise, Known):
        found = noise_mean(noise)
        return np.full(noise.size, np.inf), np.diagonal(found) if found.ndim == 2 else found
    if isinstance(noise, Wishart):
        left = noise.dof - noise.size + 1
        return np.full(noise.size, left), np.diagonal(noise.scatter) / left
    square = noise.rate / noise.shape
    return np.broadcast_to(2 * noise.shape, (noise.size,)), np.broadcast_to(square, (noise.size,))


def noise_mean(noise: Precision) -> Array:
    """E Q: its diagonal, or of a full noise the matrix; ∞ where there is none."""
    if isinstance(noise, Known):
        return np.linalg.inv(noise.precision) if noise.form == "full" else 1 / noise.precision
    if isinstance(noise, Wishart):
        left = noise.dof - noise.size - 1
        return noise.scatter / left if left > 0 else np.full_like(noise.scatter, np.inf)
    with np.errstate(divide="ignore"):
        found = np.where(noise.shape > 1, noise.rate / np.maximum(noise.shape - 1, 0), np.inf)
    return np.broadcast_to(found, (noise.size,))


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise LearningError(f"level: got {level}, expected a probability above 0 and below 1")
