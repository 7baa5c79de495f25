"""The score by Fisher's identity, and standard errors from its slope.

∂ log p(evidence) / ∂θ is the posterior expectation of the complete-data score: with A the coefficients of a family,
C its expected moments and R = Σ w E[(x - A u)(x - A u)ᵀ]::

    ∂/∂A = Λ (C_xu - A C_uu),     ∂/∂Q = ½ (Λ R Λ - w Λ)

The observed information is minus the score's Jacobian, taken by central differences of these exact gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gbn.learning.data import Data
from gbn.learning.maximisation import Priors
from gbn.learning.numbers import Frozen, with_noise, with_values
from gbn.learning.regressions import Family, read_families
from gbn.learning.statistics import Statistics, statistics

if TYPE_CHECKING:
    from gbn.net import GaussianBayesNet

__all__ = ["Score", "score", "standard_errors"]

Array = np.ndarray[Any, Any]

_STEP = 1e-5
# Relative size of an eigenvalue of the (unit-diagonal) information below which its direction is undetermined.
_FLAT = 1e-8


class Score(NamedTuple):
    """Gradient of the log-evidence.

    values: parameter, or input (its prior mean) -> gradient, of its shape.
    noises: noise -> gradient by the entries of Q, of shape (size, size), each counted on its own.
    """

    values: dict[str, Array]
    noises: dict[str, Array]


def score(net: GaussianBayesNet, data: Any, weights: Any = None, freeze: Sequence[str] = ()) -> Score:
    """The gradient of log p(data), summed over rows, by all that EM learns: law 4.

    Args:
        data, weights, freeze: as in :func:`gbn.learning.fit`.

    Raises:
        As :func:`gbn.learning.fit` with method "em".
    """
    rows, families = Data.read(net, data, weights), read_families(net, Frozen.read(net, freeze), by_positions=False)
    return _score(net, families, statistics(rows, families))


def _score(net: GaussianBayesNet, families: Sequence[Family], expected: Statistics) -> Score:
    values = {n: v.value for n, v in net.vertices.items() if v.value is not None}
    out = Score({}, {})
    for family, moments in zip(families, expected(net).moments, strict=True):
        noise = net.noises[family.noise]
        about = moments.about(family.coefficients(values))
        positions = family.rows is not None
        precision = np.eye(family.size) / float(noise.value) if positions else np.linalg.inv(noise.matrix())
        slope = precision @ moments.gradient(about)
        for block in family.blocks():
            flat = family.as_function_of(block, values).design.T @ slope.T.reshape(-1)
            sizes = np.cumsum([net.vertices[p].size for p in block])[:-1]
            for name, part in zip(block, np.split(flat, sizes), strict=True):
                part = part.reshape(net.vertices[name].shape)
                out.values[name] = out.values[name] + part if name in out.values else part
        curve = 0.5 * (precision @ moments.residual(about) @ precision - moments.weight * precision)
        if positions:
            # One variance for all entries at all positions: only the sum over them counts.
            curve = np.eye(noise.size) * (np.trace(curve) / noise.size)
        out.noises[family.noise] = out.noises[family.noise] + curve if family.noise in out.noises else curve
    return out


@dataclass(frozen=True)
class _Slot:
    """Where some of the numbers stand in one vector: entries of a value, or of a noise."""

    kind: str
    name: str
    index: tuple[Array, ...]

    @property
    def label(self) -> str:
        return self.name if self.kind == "value" else f"{self.name}.{self.kind}"


class _Vector:
    """All that is learned, as one vector θ; a full covariance by its lower triangle."""

    def __init__(self, net: GaussianBayesNet, families: Sequence[Family], priors: Priors, gauges: set[str]) -> None:
        self.net, self.slots, self.priors = net, list[_Slot](), priors
        for name in dict.fromkeys(p for f in families for p in f.learned if f.name not in gauges):
            free = priors.masks.get(name, np.ones(net.vertices[name].shape, bool))
            kind = "mean" if net.vertices[name].kind == "input" else "value"
            self.slots.append(_Slot(kind, name, np.nonzero(np.atleast_1d(free))))
        for name in dict.fromkeys(f.noise for f in families if f.name not in gauges):
            if name not in priors.fixed:
                value = net.noises[name].value
                index = (
                    np.tril_indices(len(value))
                    if net.noises[name].form == "full"
                    else np.indices(np.atleast_1d(value).shape)
                )
                self.slots.append(_Slot("noise", name, tuple(part.reshape(-1) for part in index)))

    def _numbers(self, slot: _Slot) -> Array:
        held = self.net.noises[slot.name].value if slot.kind == "noise" else self.net.vertices[slot.name].value
        return np.atleast_1d(np.asarray(held, np.float64))

    def read(self) -> Array:
        return np.concatenate([np.zeros(0), *(self._numbers(slot)[slot.index] for slot in self.slots)])

    def scales(self) -> Array:
        """The size of each number, for steps."""
        parts = [np.zeros(0)]
        for slot in self.slots:
            if slot.kind == "noise":
                spread = np.sqrt(self.net.noises[slot.name].diagonal().reshape(-1))
                full = self.net.noises[slot.name].form == "full"
                parts.append(spread[slot.index[0]] * spread[slot.index[1]] if full else self._numbers(slot)[slot.index])
            else:
                value = self._numbers(slot)
                parts.append(np.maximum(np.abs(value), np.sqrt((value * value).mean()) or 1.0)[slot.index])
        return np.concatenate(parts)

    def _split(self, theta: Array) -> Iterator[tuple[_Slot, Array]]:
        ends = np.cumsum([len(slot.index[0]) for slot in self.slots])[:-1]
        return zip(self.slots, np.split(theta, ends), strict=True)

    def put(self, theta: Array) -> GaussianBayesNet:
        values, noises = {}, {}
        for slot, part in self._split(theta):
            whole = self._numbers(slot).copy()
            whole[slot.index] = part
            if slot.kind != "noise":
                values[slot.name] = whole
                continue
            if self.net.noises[slot.name].form == "full":
                whole[slot.index[::-1]] = part
            noises[slot.name] = whole.reshape(self.net.noises[slot.name].value.shape)
        return with_noise(with_values(self.net, values), noises)

    def gradient(self, net: GaussianBayesNet, found: Score) -> Array:
        """The score in θ's coordinates, that of the priors included."""
        parts = [np.zeros(0)]
        for slot in self.slots:
            if slot.kind != "noise":
                alpha = self.priors.ridge.get(slot.name, 0.0)
                value = np.atleast_1d(np.asarray(net.vertices[slot.name].value, np.float64))
                parts.append((np.atleast_1d(found.values[slot.name]) - alpha * value)[slot.index])
                continue
            count, variance = self.priors.noise.get(slot.name, (0.0, 0.0))
            precision = np.linalg.inv(net.noises[slot.name].matrix())
            slope = found.noises[slot.name] - 0.5 * count * (precision - variance * precision @ precision)
            form = net.noises[slot.name].form
            if form == "full":
                both = np.where(slot.index[0] == slot.index[1], 1.0, 2.0)
                parts.append(both * slope[slot.index])
            else:
                diagonal = np.diagonal(slope)
                parts.append(diagonal if form == "diagonal" else diagonal.sum(keepdims=True))
        return np.concatenate(parts)

    def named(self, theta: Array) -> dict[str, Array]:
        """By name; NaN at entries that are not learned."""
        out = {}
        for slot, part in self._split(theta):
            whole = np.full(self._numbers(slot).shape, np.nan)
            whole[slot.index] = part
            if slot.kind == "noise" and self.net.noises[slot.name].form == "full":
                whole[slot.index[::-1]] = part
            noise = slot.kind == "noise"
            shape = self.net.noises[slot.name].value.shape if noise else self.net.vertices[slot.name].shape
            out[slot.label] = whole.reshape(shape)
        return out


def standard_errors(
    net: GaussianBayesNet, expected: Statistics, families: Sequence[Family], priors: Priors, gauges: Sequence[str] = ()
) -> Mapping[str, Array]:
    """Standard errors at a maximum: roots of the diagonal of the inverse observed information.

    Args:
        net: with what was learned.
        expected: the exact E-step of the rows.
        gauges: latent roots whose own prior is only a convention, and not learned.

    Returns:
        parameter -> shape of it; ``<input>.mean`` for a prior mean and ``<noise>.noise`` for a covariance, in its
        form.  ∞ where the data do not determine a number (the factors of an analysis may be rotated); NaN at entries
        that were not learned.
    """
    vector = _Vector(net, families, priors, set(gauges))
    theta, steps = vector.read(), _STEP * vector.scales()
    information = np.empty((len(theta), len(theta)))
    for k, step in enumerate(steps):
        slopes = []
        for sign in (1, -1):
            moved = theta.copy()
            moved[k] += sign * step
            there = vector.put(moved)
            slopes.append(vector.gradient(there, _score(there, families, expected)))
        information[k] = (slopes[1] - slopes[0]) / (2 * step)
    return vector.named(_roots((information + information.T) / 2))


def _roots(information: Array) -> Array:
    """Roots of the inverse's diagonal; ∞ for numbers with a part in a flat direction."""
    if not len(information):
        return np.zeros(0)
    scale = 1 / np.sqrt(np.maximum(np.abs(np.diagonal(information)), np.finfo(float).tiny))
    values, vectors = np.linalg.eigh(information * scale[:, None] * scale)
    kept = values > _FLAT * values[-1]
    found = scale * np.sqrt(((vectors[:, kept] ** 2) / values[kept]).sum(axis=1))
    loose = (vectors[:, ~kept] ** 2).sum(axis=1) > _FLAT
    return np.where(loose, np.inf, found)
