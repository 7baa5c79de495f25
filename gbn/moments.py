"""Moments of entry-wise nonlinearities under a Gaussian: E f(x), E f'(x) and Var f(x) for x ~ N(m, v).

Closed forms where they are known: what is linear in pieces, Elu and its kin, Exp, Sin, Cos, Sinh, Cosh, Erf and exact
Gelu.  Gauss-Hermite quadrature for other smooth functions.  Φ and φ are the standard normal distribution function and
density; T is Owen's function, by which E Φ(a)² = Φ(h) - 2 T(h, (1 + 2s²)^-½) for a ~ N(μ, s²), h = μ (1 + s²)^-½ (Owen,
*A table of normal integrals*, 1980).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy import special

from gbn import ops
from gbn.maps import Diagonal
from gbn.ops.elementwise import SELU

__all__ = ["has_moments", "moments"]

Array = np.ndarray[Any, Any]
Moments = tuple[Array, Array, Array]

_NODES = 96
# Below this variance, relative to the entry's own square, a Gaussian is a point.
_POINT = 1e-24
_QUADRATURE = frozenset({"Asinh", "Atan", "Gelu", "Mish", "Sigmoid", "Softplus", "Swish", "Tanh"})


def has_moments(op: str | None) -> bool:
    """Whether the op is an entry-wise nonlinearity that :func:`moments` knows."""
    return op in _CLOSED or op in _QUADRATURE


def moments(op: str, mean: Array, variance: Array, attributes: Mapping[str, Any] | None = None) -> Moments:
    """E f(x), E f'(x) and Var f(x), entry by entry, for x ~ N(mean, variance).

    Args:
        op: a name for which :func:`has_moments` holds.
        mean, variance: of one shape; a variance may be 0.
        attributes: of the op.
    """
    attributes = dict(attributes or {})
    if op in _CLOSED and attributes.get("approximate", "none") == "none":
        value, slope, spread = _CLOSED[op](mean, np.maximum(variance, _POINT * (1 + mean * mean)), **attributes)
    else:
        value, slope, spread = _quadrature(op, mean, variance, attributes)
    return value, slope, np.maximum(spread, 0)


def _density(z: Array) -> Array:
    return np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)


def _relu(m: Array, v: Array) -> Moments:
    s = np.sqrt(v)
    z = m / s
    above, tail = special.ndtr(z), s * _density(z)
    value = m * above + tail
    return value, above, (m * m + v) * above + m * tail - value * value


def _leaky(m: Array, v: Array, alpha: float = 0.01) -> Moments:
    """αx + (1 - α) relu(x), with Cov(x, relu(x)) = v Φ by Stein's lemma."""
    value, above, spread = _relu(m, v)
    rest = 1 - alpha
    return (
        alpha * m + rest * value,
        alpha + rest * above,
        alpha**2 * v + 2 * alpha * rest * v * above + rest**2 * spread,
    )


def _bent(m: Array, v: Array, above: float, below: float, scale: float) -> Moments:
    """``above`` x for x > 0, ``below`` (e^(x / scale) - 1) for x < 0: the Elu, and its kin.

    E[e^(k x / scale); x < 0] is the mean of a lognormal times the mass that its tilted normal has below 0.
    """
    s = np.sqrt(v)
    z = m / s
    positive, negative, tail = special.ndtr(z), special.ndtr(-z), s * _density(z)

    def tilted(k: int) -> Array:
        rate = k / scale
        return np.exp(m * rate + v * (rate * rate / 2) + special.log_ndtr(-z - s * rate))

    value = above * (m * positive + tail) + below * (tilted(1) - negative)
    square = above**2 * ((m * m + v) * positive + m * tail) + below**2 * (tilted(2) - 2 * tilted(1) + negative)
    return value, above * positive + below / scale * tilted(1), square - value * value


def _selu(m: Array, v: Array, alpha: float = SELU["alpha"], gamma: float = SELU["gamma"]) -> Moments:
    return _bent(m, v, gamma, gamma * alpha, 1.0)


def _clip(m: Array, v: Array, min: float = -math.inf, max: float = math.inf) -> Moments:
    """x between its bounds, by the moments of the truncated normal."""
    s, min = np.sqrt(v), min if min < max else max
    low, high = (min - m) / s, (max - m) / s
    inside = special.ndtr(high) - special.ndtr(low)
    value, square = m * inside, (m * m + v) * inside
    ends = (min, special.ndtr(low), s * _density(low)), (max, special.ndtr(-high), -s * _density(high))
    for bound, mass, edge in ends:
        if math.isfinite(bound):
            value = value + bound * mass + edge
            square = square + bound * bound * mass + (m + bound) * edge
    return value, inside, square - value * value


def _hard_sigmoid(m: Array, v: Array, alpha: float = 0.2, beta: float = 0.5) -> Moments:
    value, slope, spread = _clip(alpha * m + beta, alpha * alpha * v, 0.0, 1.0)
    return value, alpha * slope, spread


def _exp(m: Array, v: Array) -> Moments:
    value = np.exp(m + v / 2)
    return value, value, np.expm1(v) * value * value


def _sine(m: Array, v: Array) -> Moments:
    """E sin(x) = e^(-v/2) sin(m), and E sin² = ½ (1 - E cos(2x))."""
    damped, shrink = np.exp(-v / 2), np.exp(-v)
    spread = -0.5 * np.expm1(-v) * (1 + shrink * np.cos(2 * m))
    return damped * np.sin(m), damped * np.cos(m), spread


def _cosine(m: Array, v: Array) -> Moments:
    """cos(x) = sin(x + π/2)."""
    damped, shrink = np.exp(-v / 2), np.exp(-v)
    spread = -0.5 * np.expm1(-v) * (1 - shrink * np.cos(2 * m))
    return damped * np.cos(m), -damped * np.sin(m), spread


def _sinh(m: Array, v: Array) -> Moments:
    """E sinh(x) = e^(v/2) sinh(m), and E sinh² = ½ (E cosh(2x) - 1)."""
    grown = np.exp(v / 2)
    return grown * np.sinh(m), grown * np.cosh(m), 0.5 * np.expm1(v) * (np.exp(v) * np.cosh(2 * m) + 1)


def _cosh(m: Array, v: Array) -> Moments:
    """E cosh(x) = e^(v/2) cosh(m), and E cosh² = ½ (E cosh(2x) + 1)."""
    grown = np.exp(v / 2)
    return grown * np.cosh(m), grown * np.sinh(m), 0.5 * np.expm1(v) * (np.exp(v) * np.cosh(2 * m) - 1)


def _erf(m: Array, v: Array) -> Moments:
    """erf(x) = 2 Φ(√2 x) - 1."""
    wide = 1 + 2 * v
    value = special.erf(m / np.sqrt(wide))
    slope = 2 / np.sqrt(np.pi * wide) * np.exp(-m * m / wide)
    square = 1 - 8 * special.owens_t(m * np.sqrt(2 / wide), 1 / np.sqrt(1 + 4 * v))
    return value, slope, square - value * value


def _gelu(m: Array, v: Array, approximate: str = "none") -> Moments:
    """x Φ(x); its square by Stein's lemma, E x² g = (m² + v) E g + 2 m v E g' + v² E g'' with g = Φ²."""
    root = np.sqrt(1 + v)
    h = m / root
    mass, density = special.ndtr(h), _density(h) / root
    value = m * mass + v * density
    slope = mass + density * m / (1 + v)
    # φ(x) N(x; m, v) = density · N(x; mu, tau)
    mu, tau = m / (1 + v), v / (1 + v)
    k = mu / np.sqrt(1 + tau)
    first = 2 * density * special.ndtr(k)
    inner = mu * special.ndtr(k) + tau / np.sqrt(1 + tau) * _density(k)
    second = np.exp(-m * m / (1 + 2 * v)) / (np.pi * np.sqrt(1 + 2 * v)) - 2 * density * inner
    square_of_mass = mass - 2 * special.owens_t(h, 1 / np.sqrt(1 + 2 * v))
    square = (m * m + v) * square_of_mass + 2 * m * v * first + v * v * second
    return value, slope, square - value * value


_CLOSED: dict[str, Callable[..., Moments]] = {
    "Abs": lambda m, v: _leaky(m, v, -1.0),
    "Celu": lambda m, v, alpha=1.0: _bent(m, v, 1.0, alpha, alpha),
    "Clip": _clip,
    "Cos": _cosine,
    "Cosh": _cosh,
    "Elu": lambda m, v, alpha=1.0: _bent(m, v, 1.0, alpha, 1.0),
    "Erf": _erf,
    "Exp": _exp,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "LeakyRelu": _leaky,
    "Relu": _relu,
    "Selu": _selu,
    "Sin": _sine,
    "Sinh": _sinh,
}


def _quadrature(op: str, mean: Array, variance: Array, attributes: Mapping[str, Any]) -> Moments:
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    weights = weights / weights.sum()
    points = mean + np.sqrt(variance) * nodes.reshape(-1, *(1,) * np.ndim(mean))
    y, maps = ops.get(op)(points, **attributes)
    jacobian = maps[0]() if maps[0] is not None else None
    slopes = jacobian.factor if isinstance(jacobian, Diagonal) else np.zeros_like(y)
    value = np.tensordot(weights, y, 1)
    return value, np.tensordot(weights, slopes, 1), np.tensordot(weights, (y - value) ** 2, 1)
