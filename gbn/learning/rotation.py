"""Parameter expansion for variational Bayes: latent roots are turned, stretched and moved so that the bound rises most.

A latent root z is a gauge (:mod:`gbn.learning.expansion`): with z' = R z + t, weights w' = R⁻ᵀ w and constants
c' = c - tᵀ w', the children's likelihood is what it was under any q.  What changes is how q agrees with the priors::

    bound(R, t) = E log N(z'; m, C) + (rows of data - rows of weights) log |R| + E log p(w') + E log p(c')

with relevance precisions at their optimum for R.  It is maximised over R and t between rounds of coordinate ascent,
which alone goes there in many small steps.
Source: Luttinen & Ilin, *Transformations in variational Bayesian factor analysis to speed up learning*,
Neurocomputing 73 (2010).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import optimize

from gbn.learning.expansion import find_gauges
from gbn.learning.maximisation import Priors

if TYPE_CHECKING:
    from gbn.learning.assumed import Assumptions
    from gbn.learning.beliefs import Beliefs, Couplings, Prior
    from gbn.learning.counted import Part
    from gbn.learning.data import Data

__all__ = ["Rotation", "rotations"]

Array = np.ndarray[Any, Any]
_OPTIONS = {"maxiter": 100, "ftol": 1e-14, "gtol": 1e-7}


@dataclass(frozen=True, eq=False)
class _Child:
    """The weights of a family on the root, a row for each of its entries.

    entry: numbers in θ of all weights of each row, in the order of their columns; on: which of these columns are the
    root's; bias: which is the constant, None where it has none.
    """

    noise: str
    entry: Array
    on: Array
    bias: int | None


@dataclass(frozen=True, eq=False)
class _Share:
    """What the prior of one child's weights adds: second moments, and the precisions they meet.

    square: Σ E λ (w, c)(w, c)ᵀ, of w and c in this order.
    shape, rate: of the α's of the columns of w, None where they have none; known: κ of these columns; bias: κ of c.
    """

    rows: int
    square: Array
    shape: Array | None
    rate: Array | None
    known: Array
    bias: float


class Rotation:
    """The change of variables of one root."""

    def __init__(self, number: int, mean: Array, precision: Array, children: Sequence[_Child], moves: bool) -> None:
        self.number, self.mean, self.precision, self.children, self.moves = number, mean, precision, children, moves

    def apply(self, q: Beliefs, prior: Prior, couplings: Couplings, parts: Sequence[Part]) -> Beliefs:
        """q after the best change of variables that is found.

        Args:
            parts: the moments of the root.
        """
        moments = parts[0].moments.about_zero
        k, weight = moments.size, moments.weight
        if not weight:
            return q
        shares = [self._share(child, q, prior, couplings) for child in self.children]
        square, first = moments.xx, moments.second[:k, k]

        def minus(x: Array) -> tuple[float, Array]:
            r, t = x[: k * k].reshape(k, k), x[k * k :]
            sign, logdet = np.linalg.slogdet(r)
            if sign <= 0:
                return np.inf, np.zeros_like(x)
            inverse = np.linalg.inv(r)
            gap = t - self.mean if self.moves else -self.mean
            rs = r @ first
            cross = np.outer(rs, gap)
            spread = r @ square @ r.T + cross + cross.T + weight * np.outer(gap, gap)
            value = weight * logdet - 0.5 * float(np.sum(self.precision * spread))
            slope = weight * inverse.T - self.precision @ (r @ square + np.outer(gap, first))
            along = -self.precision @ (rs + weight * gap)
            for share in shares:
                v, dr, dt = _prior_share(share, r, inverse, logdet, t, k)
                value, slope, along = value + v, slope + dr, along + dt
            return -value, -np.concatenate([slope.reshape(-1), along if self.moves else np.zeros(k)])

        begin = np.concatenate([np.eye(k).reshape(-1), np.zeros(k)])
        before = minus(begin)[0]
        aligned = self._aligned(square, first, weight, np.sum([share.square[:k, :k] for share in shares], axis=0))
        start = min(begin, aligned, key=lambda x: minus(x)[0])
        found = optimize.minimize(minus, start, jac=True, method="L-BFGS-B", options=_OPTIONS)
        if not np.isfinite(found.fun) or not found.fun < before:
            return q
        r, t = found.x[: k * k].reshape(k, k), found.x[k * k :]
        for child in self.children:
            q = _turned(q, couplings, child, np.linalg.inv(r), t if self.moves else 0 * t)
        return couplings.relevance(q, prior)

    def _aligned(self, square: Array, first: Array, weight: float, weights: Array) -> Array:
        """The root with its prior's mean and covariance, turned so that its columns of weights are orthogonal.

        There the bound is best where one precision serves each column; from elsewhere a turn begins on a saddle.
        """
        k = len(first)
        centre = first / weight if self.moves else self.mean
        cross = np.outer(first, centre)
        spread = (square - cross - cross.T) / weight + np.outer(centre, centre)
        try:
            root, target = np.linalg.cholesky(spread), np.linalg.cholesky(np.linalg.inv(self.precision))
        except np.linalg.LinAlgError:
            return np.concatenate([np.eye(k).reshape(-1), np.zeros(k)])
        turn = np.linalg.eigh(root.T @ weights @ root)[1].T
        r = target @ turn @ np.linalg.inv(root)
        if np.linalg.det(r) < 0:
            r[:, :] = target @ np.diag([-1.0, *[1.0] * (k - 1)]) @ np.linalg.solve(target, r)
        move = self.mean - r @ centre if self.moves else np.zeros(k)
        return np.concatenate([r.reshape(-1), move])

    def _share(self, child: _Child, q: Beliefs, prior: Prior, couplings: Couplings) -> _Share:
        columns = [*child.on, *([] if child.bias is None else [child.bias])]
        entry = child.entry[:, columns]
        mean, blocks = q.mean[entry], couplings.blocks
        if child.noise in couplings.rows:
            weighed = q.noises[child.noise].mean @ mean
        else:
            weighed = mean * couplings.block_precision(q)[blocks.label[entry[:, :1]]]
        cov = q.covariance[blocks.place(entry[:, :, None], entry[:, None, :])].sum(axis=0)
        square = mean.T @ weighed + cov
        diagonal, relevance = blocks.diagonal(prior.precision), prior.relevance[child.entry[0, child.on]]
        chosen = relevance[0] >= 0
        return _Share(
            rows=len(entry),
            square=square,
            shape=q.relevance_shape[relevance] if chosen else None,
            rate=prior.relevance_rate[relevance] if chosen else None,
            known=diagonal[child.entry[0, child.on]],
            bias=0.0 if child.bias is None else float(diagonal[child.entry[0, child.bias]]),
        )


def _prior_share(
    share: _Share, r: Array, inverse: Array, logdet: float, t: Array, k: int
) -> tuple[float, Array, Array]:
    """-rows log |R| + E log p(w') + E log p(c'), and its slopes by R and t."""
    turned = inverse.T @ share.square[:k, :k] @ inverse
    diagonal = np.diagonal(turned)
    if share.shape is not None and share.rate is not None:
        rate = share.rate + diagonal / 2
        value, precision = -float((share.shape * np.log(rate)).sum()), share.shape / rate
    else:
        value, precision = -0.5 * float(share.known @ diagonal), share.known
    value -= share.rows * logdet
    slope = (turned * precision) @ inverse.T - share.rows * inverse.T
    along = np.zeros(k)
    if share.bias:
        p = inverse @ t
        gap = share.square[:k, :k] @ p - share.square[:k, k]
        value -= (
            0.5 * share.bias * float(share.square[k, k] - 2 * p @ share.square[:k, k] + p @ (gap + share.square[:k, k]))
        )
        along = -share.bias * (inverse.T @ gap)
        slope = slope + share.bias * np.outer(inverse.T @ gap, p)
    return value, slope, along


def _turned(q: Beliefs, couplings: Couplings, child: _Child, inverse: Array, t: Array) -> Beliefs:
    """q with w' = R⁻ᵀ w and c' = c - tᵀ w' in each row."""
    blocks, entry = couplings.blocks, child.entry
    k = entry.shape[1]
    change, back = np.eye(k), np.eye(k)
    change[np.ix_(child.on, child.on)] = inverse.T
    back[np.ix_(child.on, child.on)] = np.linalg.inv(inverse.T)
    if child.bias is not None:
        change[child.bias, child.on] = -t @ inverse.T
        back[child.bias, child.on] = t
    mean, covariance, precision, logdet = q.mean.copy(), q.covariance.copy(), q.precision.copy(), q.logdet.copy()
    mean[entry] = mean[entry] @ change.T
    place = blocks.place(entry[:, :, None], entry[:, None, :])
    covariance[place] = change @ covariance[place] @ change.T
    precision[place] = back.T @ precision[place] @ back
    logdet[blocks.label[entry[:, 0]]] -= 2 * np.linalg.slogdet(inverse)[1]
    return replace(q, mean=mean, covariance=covariance, precision=precision, logdet=logdet)


def rotations(assumed: Assumptions, couplings: Couplings, prior: Prior, data: Data) -> list[Rotation]:
    """The roots that can be turned: free weights under a zero-mean prior that all rows share."""
    out = []
    families = list(assumed.families)
    for gauge in find_gauges(assumed.net, data, families, Priors(masks=assumed.settings.masks)):
        number = next((n for n, f in enumerate(families) if f.mean is None and f.name == gauge.root), None)
        children = [_child(assumed, couplings, prior, families.index(f), gauge.root) for f in gauge.children]
        if number is None or families[number].learned or any(child is None for child in children):
            continue
        mean = np.asarray(assumed.net.vertices[gauge.root].value, np.float64).reshape(-1)
        precision = np.linalg.inv(assumed.net.noises[families[number].noise].matrix())
        out.append(Rotation(number, mean, precision, [c for c in children if c is not None], gauge.moves))
    return out


def _child(assumed: Assumptions, couplings: Couplings, prior: Prior, number: int, root: str) -> _Child | None:
    family, term, blocks = assumed.families[number], couplings.terms[number], couplings.blocks
    layout = family.as_function_of(family.learned, assumed.values(prior.mean)).whole_columns
    if layout is None or (term.entries < 0).any():
        return None
    columns, numbers, factor = layout
    entry = term.entries[numbers]
    regressors = family.members[0][1]
    start = sum(family.sizes[: regressors.index(root)])
    root_columns = np.arange(start, start + family.sizes[regressors.index(root)])
    on = np.flatnonzero(np.isin(columns, root_columns))
    bias = np.flatnonzero(columns == family.columns - 1)
    chosen = entry[:, [*on, *bias]]
    flat = prior.precision[blocks.place(entry[:, :, None], entry[:, None, :])] if _by_row(blocks, entry) else None
    if flat is None or prior.mean[chosen].any() or (factor != 1).any():
        return None
    off = flat * (1 - np.eye(entry.shape[1]))
    alike = (flat == flat[:1]).all() and (prior.relevance[entry] == prior.relevance[entry][:1]).all()
    mixed = len(np.unique(prior.relevance[entry[0, on]] >= 0)) > 1
    if off.any() or not alike or mixed:
        return None
    return _Child(family.noise, entry, on, int(bias[0]) if len(bias) else None)


def _by_row(blocks: Any, entry: Array) -> bool:
    label = blocks.label[entry]
    each = (label == label[:, :1]).all() and (blocks.size[label[:, 0]] == entry.shape[1]).all()
    return bool(each)
