"""What variational Bayes assumes of a net before it sees data: from options to priors, and where q begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from gbn.errors import LearningError
from gbn.learning.beliefs import Beliefs, Couplings, Prior, Term
from gbn.learning.blocks import Blocks, Quadratic
from gbn.learning.design import Coefficients
from gbn.learning.numbers import with_noise, with_values
from gbn.learning.precisions import Gamma, Known, Precision, Wishart

if TYPE_CHECKING:
    from gbn.gaussian import Covariance
    from gbn.learning.counted import Group
    from gbn.learning.regressions import Family
    from gbn.learning.weights_posterior import WeightPosterior
    from gbn.net import GaussianBayesNet

__all__ = ["Assumptions", "Settings", "posterior_net"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Settings:
    """The priors by name, checked.

    precisions: learned parameter, or input whose prior mean is learned -> prior precision of its entries.
    centred: parameters with a prior of their own -> its mean and covariance.
    masks: parameter -> True at the entries that are learned.
    fixed: noises that are not learned.
    noise_shape, noise_rates: of the Gamma prior of each noise's precision.
    ard: parameters with relevance precisions; named: whether a person asked for just these; ard_shape, ard_rate: of
        their Gamma prior.
    conjugate: whether priors of weights scale with the noise, where they can.
    before: an earlier posterior, in place of these priors for all that it speaks of.
    """

    precisions: Mapping[str, float]
    centred: Mapping[str, tuple[Array, Covariance]]
    masks: Mapping[str, Array]
    fixed: frozenset[str]
    noise_shape: float
    noise_rates: Mapping[str, float]
    ard: Sequence[str]
    named: bool
    ard_shape: float
    ard_rate: float
    conjugate: bool
    before: WeightPosterior | None = None


@dataclass(eq=False)
class Assumptions:
    """Priors, and how they hang together with the families of a net.

    where: parameter -> number in θ of each of its entries, -1 where it is not learned.  Shape: (size,).
    relevant: parameter with relevance precisions -> number of the α of each column it is on.
    """

    net: GaussianBayesNet
    families: Sequence[Family]
    groups: Sequence[Sequence[Group]]
    settings: Settings
    where: dict[str, Array] = field(default_factory=dict)
    relevant: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._values = {n: np.asarray(v.value, np.float64) for n, v in self.net.vertices.items() if v.value is not None}
        start = 0
        for name in dict.fromkeys(p for f in self.families for p in f.learned):
            free = self.settings.masks.get(name, np.ones(self._values[name].shape, bool)).reshape(-1)
            self.where[name] = np.where(free, start + np.cumsum(free) - 1, -1)
            start += int(free.sum())
        self.entries = start
        faults = [
            f"{f.name!r}: its mean is a product of {a[0]!r} and {b[0]!r}; freeze one of them"
            for f in self.families
            for a, b in pairwise(f.blocks())
        ]
        if faults:
            raise LearningError(
                "\n  - ".join(["method 'vb' learns means that are linear in all that is uncertain:", *faults])
            )
        self._wholes = [self._coefficients(f) for f in self.families]
        self._numbers = [self._stacked(f) for f in self.families]
        self._assign_relevance()

    def _coefficients(self, family: Family) -> Any:
        if not family.learned:
            return Coefficients(family.coefficients(self._values), sparse.csc_array((family.size * family.columns, 0)))
        return family.as_function_of(family.learned, self._values)

    def _stacked(self, family: Family) -> Array:
        return np.concatenate([np.zeros(0, int), *(self.where[p] for p in family.learned)])

    def values(self, mean: Array) -> dict[str, Array]:
        """The values of all parameters, learned ones at a θ."""
        out = dict(self._values)
        for name, where in self.where.items():
            free, flat = where >= 0, self._values[name].reshape(-1).copy()
            flat[free] = mean[where[free]]
            out[name] = flat.reshape(self._values[name].shape)
        return out

    def _assign_relevance(self) -> None:
        """An α for each column that a parameter is on."""
        count = 0
        for name in self.settings.ard:
            number = next(k for k, f in enumerate(self.families) if name in f.learned)
            family, t = self.families[number], self._wholes[number].design.tocoo()
            start = sum(self._values[p].size for p in family.learned[: family.learned.index(name)])
            mine = (t.col >= start) & (t.col < start + self._values[name].size)
            entry, column = t.col[mine] - start, t.row[mine] // family.size
            on = np.full(self._values[name].size, -1)
            on[entry] = column
            if (on[entry] != column).any() or (on < 0).any():
                if not self.settings.named:
                    continue
                raise LearningError(
                    f"ard: the entries of {name!r} are weights of several regressors each; expected a parameter that "
                    "has its columns for regressors, as a layer's weights do"
                )
            _, index = np.unique(on, return_inverse=True)
            self.relevant[name] = count + index.reshape(-1)
            count += int(index.max()) + 1
        self.relevances = count

    @cached_property
    def prior_parts(self) -> tuple[Array, Array, list[tuple[Array, Array, Array]], Array]:
        """Mean; diagonal precision; further blocks of it as (e, f, values); and the number of each entry's α."""
        mean, diagonal = np.zeros(self.entries), np.zeros(self.entries)
        relevance, blocks = np.full(self.entries, -1), list[tuple[Array, Array, Array]]()
        for name, where in self.where.items():
            free = where >= 0
            numbers = where[free]
            if name in self.settings.centred:
                value, cov = self.settings.centred[name]
                mean[numbers] = value.reshape(-1)[free]
                # The entries that stay are where they are: the prior of the others is given them.
                full = np.linalg.inv(cov.matrix())[np.ix_(free, free)]
                gap = (self._values[name] - value).reshape(-1)
                if not free.all():
                    cross = np.linalg.inv(cov.matrix())[np.ix_(free, ~free)]
                    mean[numbers] -= np.linalg.solve(full, cross @ gap[~free])
                e, f = (a.reshape(-1) for a in np.broadcast_arrays(numbers[:, None], numbers))
                chosen = full.reshape(-1) != 0
                blocks.append((e[chosen], f[chosen], full.reshape(-1)[chosen]))
            else:
                diagonal[numbers] = self.settings.precisions[name]
                if name in self.relevant:
                    relevance[numbers] = self.relevant[name][free]
        if self.settings.before is not None:
            e, f, values, means = self.settings.before.as_prior(self.where)
            told = np.unique(e)
            mean[told], diagonal[told], relevance[told] = means[told], 0.0, -1
            blocks.append((e, f, values))
        return mean, diagonal, blocks, relevance

    def couplings(self) -> tuple[Couplings, Prior]:
        """How everything hangs together, and the prior over it."""
        joint = self._matrices() if self.settings.conjugate else {}
        while True:
            found = self._couplings(joint)
            blocks, owner, row = found.blocks, found.owner, found.row
            # A full noise is conjugate where each block is a row, and a row of it alone.
            broken = [
                key
                for key, matrices in joint.items()
                for entry in matrices
                if any(owner[blocks.label[entry[i]]].min() < 0 for i in range(len(entry)))
                or (row[blocks.label[entry[:, 0]]] != np.arange(len(entry))).any()
                or (blocks.size[blocks.label[entry[:, 0]]] != entry.shape[1]).any()
            ]
            if not broken:
                return found, self._prior(found)
            joint = {key: matrices for key, matrices in joint.items() if key not in broken}

    def _matrices(self) -> dict[str, list[Array]]:
        """Full noises, and the matrices of weights whose rows could scale with them."""
        diagonal = self.prior_parts[1]
        out: dict[str, list[Array]] = {}
        refused: set[str] = set()
        for family, coefficients, numbers in zip(self.families, self._wholes, self._numbers, strict=True):
            if self.net.noises[family.noise].form != "full" or not family.learned:
                continue
            layout = coefficients.whole_columns
            if layout is None or (numbers < 0).any() or any(p in self.settings.centred for p in family.learned):
                refused.add(family.noise)
                continue
            _, entry, factor = layout
            entry = numbers[entry]
            even = (factor == factor[:1]).all() and (diagonal[entry] == diagonal[entry][:1]).all()
            if not even:
                refused.add(family.noise)
            elif not any(np.array_equal(entry, other) for other in out.setdefault(family.noise, [])):
                out[family.noise].append(entry)
        return {key: matrices for key, matrices in out.items() if key not in refused}

    def _couplings(self, joint: Mapping[str, list[Array]]) -> Couplings:
        keys = list(dict.fromkeys(f.noise for f in self.families))
        terms = []
        for family, coefficients, numbers, groups in zip(
            self.families, self._wholes, self._numbers, self.groups, strict=True
        ):
            across = self.net.noises[family.noise].form == "full" and family.noise not in joint
            group = np.zeros(family.size, int)
            for k, part in enumerate(groups):
                group[part.rows] = k
            products = Quadratic.of(coefficients, numbers, across, family.name)
            terms.append(Term(family, coefficients.design, numbers, products, group))
        pairs = [(t.quadratic.first, t.quadratic.second) for t in terms]
        pairs += [(e, f) for e, f, _ in self.prior_parts[2]]
        blocks = Blocks(self.entries, pairs)
        owner, row = self._owners(blocks, terms, keys)
        return Couplings(terms, blocks, keys, owner, row, joint, self.values)

    def _owners(self, blocks: Blocks, terms: Sequence[Term], keys: Sequence[str]) -> tuple[Array, Array]:
        """The noise, and the row of it, that each block's prior scales with; -1 where it does not."""
        owner, row = np.full(blocks.count, -1), np.zeros(blocks.count, int)
        if not self.settings.conjugate:
            return owner, row
        refused = np.zeros(blocks.count, bool)
        for name in self.settings.centred:
            where = self.where.get(name, np.zeros(0, int))
            refused[blocks.label[where[where >= 0]]] = True
        if self.settings.before is not None:
            refused[blocks.label[self.settings.before.unscaled(self.where)]] = True
        for term in terms:
            number, q = keys.index(term.family.noise), term.quadratic
            scalar = self.net.noises[term.family.noise].form == "scalar"
            for i in (q.i, q.j):
                block, line = blocks.label[q.first], np.zeros_like(i) if scalar else i
                new = owner[block] < 0
                owner[block[new]], row[block[new]] = number, line[new]
                refused[block[(owner[block] != number) | (row[block] != line)]] = True
        owner[refused] = -1
        return owner, row

    def _prior(self, found: Couplings) -> Prior:
        mean, diagonal, parts, relevance = self.prior_parts
        blocks = found.blocks
        flat = blocks.with_diagonal(np.zeros(blocks.length), np.where(relevance >= 0, 0.0, diagonal))
        for e, f, values in parts:
            flat[blocks.place(e, f)] = values
        noises = {n: self._noise_prior(n) for n in found.keys if n not in self.settings.fixed}
        if self.settings.before is not None:
            noises |= self.settings.before.noise_priors(noises)
            self.settings.before.check_scales(self.where, found)
        shape, rate = (np.full(self.relevances, x) for x in (self.settings.ard_shape, self.settings.ard_rate))
        return Prior(mean, flat, relevance, shape, rate, noises)

    def _noise_prior(self, name: str) -> Precision:
        noise, shape, rate = self.net.noises[name], self.settings.noise_shape, self.settings.noise_rates[name]
        if noise.form == "full":
            return Wishart(noise.size - 1 + 2 * shape, 2 * rate * np.eye(noise.size))
        count = 1 if noise.form == "scalar" else noise.size
        return Gamma(noise.size, np.full(count, shape), np.full(count, rate))

    def start(self, found: Couplings, prior: Prior, counts: Array) -> Beliefs:
        """q before any round: weights where the net has them, as sure as rows of unit regressors would make them."""
        blocks, mean = found.blocks, np.zeros(self.entries)
        for name, where in self.where.items():
            mean[where[where >= 0]] = self._values[name].reshape(-1)[where >= 0]
        weights = [[g.weights(counts, len(f.members)).sum() for g in gs] for f, gs in self._grouped()]
        rows: dict[str, Array] = {}
        for term, per_group in zip(found.terms, weights, strict=True):
            rows[term.family.noise] = rows.get(term.family.noise, 0) + np.array(per_group)[term.group]
        noises = {key: _begun(self.net.noises[key], prior.noises.get(key), rows[key]) for key in found.keys}
        ones = np.ones(self.relevances)
        alpha = ones * max(self.settings.precisions.values(), default=1.0)
        empty = np.zeros(blocks.length)
        q = Beliefs(mean, empty, empty, np.zeros(blocks.count), noises, prior.relevance_shape, ones)
        q.relevance_rate[:] = q.relevance_shape / alpha
        precision = found.prior_precision(q, prior)
        for number, (term, per_group) in enumerate(zip(found.terms, weights, strict=True)):
            products = term.quadratic
            square = np.where(products.c == products.d, np.array(per_group)[term.group[products.i]], 0.0)
            precision = precision + found.weighed(q, number, square)
        covariance, logdet = blocks.inverse(precision)
        q = Beliefs(mean, precision, covariance, logdet, noises, q.relevance_shape, q.relevance_rate)
        return found.relevance(q, prior)

    def _grouped(self) -> list[tuple[Family, Sequence[Group]]]:
        return list(zip(self.families, self.groups, strict=True))


def _begun(noise: Covariance, prior: Precision | None, rows: Array) -> Precision:
    """A precision whose mean is that of the net's noise, as sure as so many rows make it."""
    if prior is None:
        return Known(noise.form, noise.precision if noise.form == "full" else 1 / noise.diagonal().reshape(-1))
    if isinstance(prior, Wishart):
        dof = prior.dof + float(rows[0])
        return Wishart(dof, dof * noise.value)
    if not isinstance(prior, Gamma):
        return prior
    scalar = noise.form == "scalar"
    shape = prior.shape + (rows.sum(keepdims=True) if scalar else rows) / 2
    value = noise.value.reshape(-1) if not scalar else np.full(1, float(noise.value))
    return Gamma(noise.size, shape, shape * value)


def posterior_net(
    net: GaussianBayesNet, values: Mapping[str, Array], noises: Mapping[str, Precision]
) -> GaussianBayesNet:
    """A net with these values of parameters and prior means, and the inverse of each noise's mean precision."""
    found: dict[str, Array] = {}
    for key, noise in noises.items():
        if isinstance(noise, Wishart):
            found[key] = noise.scatter / noise.dof
        elif isinstance(noise, Gamma):
            value = noise.rate / noise.shape
            found[key] = value[0] if net.noises[key].form == "scalar" else value
    return with_noise(with_values(net, values), found)
