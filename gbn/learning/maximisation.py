"""The M-step: weights by (generalised) least squares on expected moments, then noises from what is left.

A family's share of the expected log-density is -½ tr Λ R(A) - ½ w log |Q|, R(A) = Σ w E[(x - A u)(x - A u)ᵀ].

One family whose parameters fill whole columns of A has A = C_xu C_uu⁻¹, whatever its noise.  Otherwise (parameters
tied over different noises, masked entries, ridge, convolutions) vec A = vec F + T θ and the normal equations are
Σ Tᵀ (C_uu ⊗ Λ) T θ = Σ Tᵀ vec Λ (C_xu - F C_uu).  What the data say nothing about stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import linalg, sparse
from scipy.sparse import csgraph

from gbn.errors import LearningError
from gbn.learning.numbers import with_noise, with_values

if TYPE_CHECKING:
    from gbn.gaussian import Covariance
    from gbn.learning.design import Coefficients
    from gbn.learning.expectations import Moments
    from gbn.learning.regressions import Family
    from gbn.learning.sharing import Group
    from gbn.net import GaussianBayesNet

__all__ = ["Priors", "maximise", "solve_spd"]

Array = np.ndarray[Any, Any]
Values = dict[str, Array]
Parts = Sequence[tuple["Family", "Moments"]]

# Relative size of a direction of C_uu (of unit diagonal) below which the data say nothing about it.
_SINGULAR = 1e-13
_MOST_DENSE = 2**13


@dataclass(frozen=True)
class Priors:
    """What is wished for besides the data.

    ridge: parameter -> α of the prior N(0, 1/α) on each of its entries.
    masks: parameter -> True at the entries that are learned.
    noise: noise -> (count, variance): as if so many rows had shown errors of this variance.
    floor: noise -> the least variance in any direction.
    fixed: noises that are not learned.
    """

    ridge: Mapping[str, float] = field(default_factory=dict)
    masks: Mapping[str, Array] = field(default_factory=dict)
    noise: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    floor: Mapping[str, float] = field(default_factory=dict)
    fixed: frozenset[str] = frozenset()

    def log_density(self, net: GaussianBayesNet) -> float:
        """Log of the priors, but for constants."""
        total = 0.0
        for name, alpha in self.ridge.items():
            value = np.asarray(net.vertices[name].value, np.float64)
            free = value[self.masks[name]] if name in self.masks else value
            total -= 0.5 * alpha * float((free * free).sum())
        for name, (count, variance) in self.noise.items():
            q = net.noises[name]
            total -= 0.5 * count * (q.logdet + variance * float(np.trace(np.linalg.inv(q.matrix()))))
        return total


def maximise(
    net: GaussianBayesNet,
    parts: Parts,
    groups: Sequence[Group],
    priors: Priors,
    notes: set[str],
) -> GaussianBayesNet:
    """The net that maximises the expected log-density, one group of parameters after another, then the noises.

    Args:
        parts: families with their moments.
        groups: of :func:`gbn.learning.sharing.parameter_groups`.
        notes: takes a sentence for each thing that the data did not determine.
    """
    values = {n: v.value for n, v in net.vertices.items() if v.value is not None}
    users: dict[str, list[int]] = {}
    for number, (family, _) in enumerate(parts):
        for name in family.learned:
            users.setdefault(name, []).append(number)
    for group in groups:
        concerned = [parts[number] for number in sorted({k for name in group.names for k in users.get(name, ())})]
        if not concerned:
            continue
        values |= _weights(net, concerned, group, values, priors, notes)
    learned = {name for family, _ in parts for name in family.learned}
    out = with_values(net, {n: values[n] for n in learned})
    return with_noise(out, _noises(net, parts, values, priors, notes))


def _weights(
    net: GaussianBayesNet, parts: Parts, group: Group, values: Values, priors: Priors, notes: set[str]
) -> Values:
    """New values of one group of parameters, all others given."""
    names = group.names
    theta = np.concatenate([np.asarray(values[n], np.float64).reshape(-1) for n in names])
    ends = np.cumsum([0, *(values[n].size for n in names)])
    where = {n: np.arange(a, b) for n, a, b in zip(names, ends[:-1], ends[1:], strict=True)}
    blocks = [tuple(p for p in family.learned if p in where) for family, _ in parts]
    coefficients = [family.as_function_of(block, values) for (family, _), block in zip(parts, blocks, strict=True)]
    columns = [np.concatenate([where[p] for p in block]) for block in blocks]
    free = np.concatenate([priors.masks.get(n, np.ones(values[n].shape, bool)).reshape(-1) for n in names])
    alpha = np.concatenate([np.full(values[n].size, priors.ridge.get(n, 0.0)) for n in names])
    reached = np.zeros(len(theta), bool)
    for component in group.components(coefficients, columns, len(theta)):
        some = [_Share(*parts[k], coefficients[k], columns[k]) for k in component.families]
        inside = component.unknowns
        reached[inside] = True
        whole = bool(free[inside].all())
        plain = whole and not bool(alpha[inside].any())
        if len(some) == 1 and plain:
            found = _whole_columns(some[0].coefficients, some[0].moments, some[0].family, values, notes)
            if found is not None:
                theta[some[0].columns] = found
                continue
        if component.theta is not None and whole and _alike(net, some, plain, alpha[component.theta]):
            place, factors = component.theta, component.factors
            theta[place] += _shared_equations(net, some, place, factors, theta, alpha, notes)
            continue
        index = inside[free[inside]]
        hessian, gradient = _normal_equations(net, some, theta)
        hessian = sparse.csr_array(hessian[index][:, index] + sparse.diags_array(alpha[index]))
        theta[index] += _solved_by_parts(hessian, gradient[index] - alpha[index] * theta[index], some[0].name, notes)
    if not reached.all():
        notes.add(_undetermined(parts[0][0].name))
    out = _split(net, names, theta)
    for name in names:
        if name in priors.masks:
            # What is masked is kept as it was, not as float64 would have it.
            out[name] = np.where(priors.masks[name], out[name], values[name])
    return out


@dataclass(frozen=True, eq=False)
class _Share:
    """What a family says of a group's parameters.

    columns: the group's stacked entries that its coefficients are a function of.
    """

    family: Family
    moments: Moments
    coefficients: Coefficients
    columns: Array

    @property
    def name(self) -> str:
        return self.family.name

    def about(self, theta: Array) -> Array:
        """Its coefficients, in coordinates about the point that its moments are taken about."""
        return self.moments.about(self.coefficients.at(theta[self.columns]))


def _alike(net: GaussianBayesNet, shares: Sequence[_Share], plain: bool, alpha: Array) -> bool:
    """Whether all columns of Θ have the same normal equations.  alpha: shape (rows, columns)."""
    scalar = all(net.noises[share.family.noise].form == "scalar" for share in shares)
    return (scalar or (len(shares) == 1 and plain)) and bool((alpha == alpha[:, :1]).all())


def _shared_equations(
    net: GaussianBayesNet,
    shares: Sequence[_Share],
    place: Array,
    factors: Sequence[Array],
    theta: Array,
    alpha: Array,
    notes: set[str],
) -> Array:
    """By how much Θ moves, all of its columns at once."""
    rows, size = place.shape
    square, slope = np.zeros((rows, rows)), np.zeros((rows, size))
    for share, factor in zip(shares, factors, strict=True):
        noise, moments = net.noises[share.family.noise], share.moments
        precision = 1 / float(noise.value) if noise.form == "scalar" else 1.0
        factor = factor @ moments.transport
        square += precision * (factor @ moments.uu @ factor.T)
        slope += precision * (factor @ (moments.xu - share.about(theta) @ moments.uu).T)
    held = alpha[place]
    square[np.diag_indices(rows)] += held[:, 0]
    slope -= held * theta[place]
    return solve_spd(square, slope, np.zeros_like(slope), shares[0].name, notes)


def _split(net: GaussianBayesNet, names: Sequence[str], theta: Array) -> Values:
    sizes = [net.vertices[n].size for n in names]
    parts = np.split(theta, np.cumsum(sizes)[:-1])
    return {n: part.reshape(net.vertices[n].shape).astype(net.dtype) for n, part in zip(names, parts, strict=True)}


def _whole_columns(
    coefficients: Coefficients, moments: Moments, family: Family, values: Values, notes: set[str]
) -> Array | None:
    """θ where it fills whole columns J of A: A_J = (C_xJ - A_K C_KJ) C_JJ⁻¹, K the other columns."""
    layout = coefficients.whole_columns
    if layout is None:
        return None
    chosen, entry, factor = layout
    if family.columns - 1 not in chosen:
        # Without a free constant the moments about zero are the ones that count.
        moments = moments.about_zero
    now = moments.about(family.coefficients(values))
    rest = now.copy()
    rest[:, chosen] = 0
    right = (moments.xu - rest @ moments.uu)[:, chosen]
    square = moments.uu[np.ix_(chosen, chosen)]
    about = now
    about[:, chosen] = solve_spd(square, right.T, now[:, chosen].T, family.name, notes).T
    found = moments.back(about)[:, chosen] - coefficients.fixed[:, chosen]
    theta = np.empty(entry.size)
    theta[entry] = found / factor
    return theta


def _normal_equations(net: GaussianBayesNet, shares: Sequence[_Share], theta: Array) -> tuple[sparse.csr_array, Array]:
    """The Hessian of the group's quadratic, and its gradient at θ."""
    hessian: Any = sparse.csr_array((len(theta), len(theta)))
    gradient = np.zeros(len(theta))
    for share in shares:
        family, moments, columns, about = share.family, share.moments, share.columns, share.about(theta)
        # In coordinates about s the constant column takes its part of the others: vec (A P) = (Pᵀ ⊗ I) vec A.
        move = sparse.kron(sparse.csr_array(moments.transport.T), sparse.eye_array(family.size))
        design = sparse.csc_array(move @ share.coefficients.design)
        noise = net.noises[family.noise]
        gap = moments.xu - about @ moments.uu
        pull = gap.T / noise.value if noise.form == "scalar" else noise.solve(gap.T.reshape(-1, *noise.event))
        gradient[columns] += design.T @ pull.reshape(-1)
        square = sparse.coo_array(design.T @ _curvature(family, moments, noise) @ design)
        spread = (square.data, (columns[square.row], columns[square.col]))
        hessian = hessian + sparse.csr_array(spread, shape=hessian.shape)
    return hessian, gradient


def _curvature(family: Family, moments: Moments, noise: Covariance) -> Any:
    """C_uu ⊗ Λ."""
    if noise.form != "full":
        variance = np.full(family.size, noise.value) if noise.form == "scalar" else noise.diagonal().reshape(-1)
        precision = sparse.diags_array(1 / variance)
        return sparse.csr_array(sparse.kron(sparse.csr_array(moments.uu), precision))
    if family.size * family.columns > _MOST_DENSE:
        raise LearningError(
            f"{family.name!r}: with a full covariance its {family.size * family.columns} coefficients have to be "
            f"solved for together, and at most {_MOST_DENSE} can; give it a diagonal one"
        )
    return np.kron(moments.uu, noise.precision)


def _solved_by_parts(hessian: sparse.csr_array, gradient: Array, name: str, notes: set[str]) -> Array:
    """H⁻¹ g, each set of unknowns that hang together on its own."""
    count, label = csgraph.connected_components(hessian, directed=False)
    out = np.zeros(len(gradient))
    order = np.argsort(label, kind="stable")
    for index in np.split(order, np.cumsum(np.bincount(label, minlength=count))[:-1]):
        square = hessian[index][:, index].toarray()
        out[index] = solve_spd(square, gradient[index, None], np.zeros((len(index), 1)), name, notes)[:, 0]
    return out


def solve_spd(square: Array, right: Array, now: Array, name: str, notes: set[str]) -> Array:
    """The solution X of S X = right; along directions in which S is nothing but rounding, as ``now``.

    Shapes: (n, n), (n, k), (n, k) -> (n, k).
    """
    diagonal = np.diagonal(square)
    scale = np.where(diagonal > 0, 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1)), 0.0)
    scaled = square * scale[:, None] * scale
    factor, failed = linalg.lapack.dpotrf(scaled, lower=1)
    if not failed and np.diagonal(factor).min(initial=1) ** 2 > _SINGULAR:
        inner = linalg.cho_solve((factor, True), right * scale[:, None])
        return np.asarray(inner * scale[:, None])
    notes.add(_undetermined(name))
    values, vectors = np.linalg.eigh(scaled)
    kept = values > _SINGULAR * len(values)
    basis = vectors[:, kept]
    gap = (right - square @ now) * scale[:, None]
    return np.asarray(now + scale[:, None] * (basis @ ((basis.T @ gap) / values[kept, None])))


def _undetermined(name: str) -> str:
    return f"{name!r}: some weights are not determined by the data, and stay as they were in those directions"


def _noises(net: GaussianBayesNet, parts: Parts, values: Values, priors: Priors, notes: set[str]) -> dict[str, Array]:
    """New covariances: the mean squared residual of all families that share a noise, in its form."""
    residuals: dict[str, list[Array]] = {}
    weights: dict[str, list[float]] = {}
    for family, moments in parts:
        if family.noise not in priors.fixed:
            left = moments.residual(moments.about(family.coefficients(values)))
            residuals.setdefault(family.noise, []).append(left)
            weights.setdefault(family.noise, []).append(moments.weight)
    out = {}
    for name, found in residuals.items():
        count, variance = priors.noise.get(name, (0.0, 0.0))
        noise = net.noises[name]
        if noise.form == "scalar":
            # Of all entries at all positions together.
            square = sum(float(np.trace(one)) for one in found) + count * variance * noise.size
            number = sum(w * len(one) for w, one in zip(weights[name], found, strict=True)) + count * noise.size
            mean = np.array([[square / number]])
        else:
            mean = (sum(found[1:], found[0]) + count * variance * np.eye(noise.size)) / (sum(weights[name]) + count)
        out[name] = _in_form(noise, mean, priors.floor.get(name, 0.0), name, notes)
    return out


def _in_form(noise: Covariance, mean: Array, floor: float, name: str, notes: set[str]) -> Array:
    """The most likely covariance of a form, given the mean squared residual; no variance below the floor."""
    if noise.form == "full":
        values, vectors = np.linalg.eigh(mean)
        if values[0] >= floor:
            return mean
        notes.add(_at_floor(name, floor))
        lifted = (vectors * np.maximum(values, floor)) @ vectors.T
        return np.asarray((lifted + lifted.T) / 2)
    diagonal = np.diagonal(mean)
    found = np.asarray(diagonal.mean()) if noise.form == "scalar" else diagonal
    if (found < floor).any():
        notes.add(_at_floor(name, floor))
    return np.asarray(np.maximum(found, floor))


def _at_floor(name: str, floor: float) -> str:
    return f"the noise of {name!r} is held at variance_floor, here {floor:.3g}: its rows are fitted exactly"
