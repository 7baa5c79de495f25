"""Moments of entry-wise nonlinearities under a Gaussian: E f(x), E f'(x) and Var f(x) for x ~ N(m, v).

Closed forms where they are known: what is linear in pieces, Elu and its kin, Exp, Sin, Cos, Sinh, Cosh, Erf and exact
Gelu.  The trapezoidal rule for other smooth functions: on a Gaussian times a function that is analytic in a strip it
converges geometrically (Trefethen & Weideman, *The exponentially convergent trapezoidal rule*, SIAM Review 56, 2014),
to rounding here for standard deviations up to 256.  Φ and φ are the standard normal distribution function and density;
T is Owen's function, by which E Φ(a)² = Φ(h) - 2 T(h, (1 + 2s²)^-½) for a ~ N(μ, s²), h = μ (1 + s²)^-½ (Owen, *A table
of normal integrals*, 1980).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy import special

from gbn import ops
from gbn.ops.elementwise import SELU

__all__ = ["has_moments", "moments"]

Array = np.ndarray[Any, Any]
Moments = tuple[Array, Array, Array]

# Step of the trapezoidal rule in standard deviations, for those up to 1, and where the Gaussian's tail is cut off.
_STEP, _TAIL, _MOST_OCTAVES = 0.25, 9.0, 8
_BLOCK_ENTRIES = 2**21
# Below this variance, relative to the entry's own square, a Gaussian is a point.
_POINT = 1e-24
# Below this variance the closed forms of smooth functions are differences of nearly equal numbers.
_NARROW = 1e-4
_QUADRATURE = frozenset({"Asinh", "Atan", "Gelu", "Mish", "Sigmoid", "Softplus", "Swish", "Tanh"})
_SMOOTH = frozenset({"Erf", "Gelu"})


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
    if op not in _CLOSED or attributes.get("approximate", "none") != "none":
        return _quadrature(op, mean, variance, attributes)
    floor = np.maximum(variance, _POINT * (1 + mean * mean))
    value, slope, spread = (np.asarray(part) for part in _CLOSED[op](mean, floor, **attributes))
    narrow = variance < _NARROW if op in _SMOOTH else np.zeros(np.shape(variance), bool)
    if narrow.any():
        exact = _quadrature(op, mean[narrow], variance[narrow], attributes)
        for part, better in zip((value, slope, spread), exact, strict=True):
            part[narrow] = better
    return value, slope, np.maximum(spread, 0)


def _density(z: Array) -> Array:
    return np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)


def _relu(m: Array, v: Array) -> Moments:
    """With r - n = x, r n = 0 and Cov(x, n) = -v Φ(-z): the variance without squares of m, which would cancel."""
    s = np.sqrt(v)
    z = m / s
    above, density = special.ndtr(z), _density(z)
    below, far = special.ndtr(-np.abs(z)), np.abs(z)
    smaller = (z * z + 1) * below - far * density - (density - far * below) ** 2
    return m * above + s * density, above, v * np.where(z > 0, 1 - 2 * below + smaller, smaller)


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
    """``above`` relu(x) + g(x), g = ``below`` (e^(x / scale) - 1) for x < 0, whose product is 0: the Elu, and its kin.

    E[e^(k x / scale); x < 0] is the mean of a lognormal times the mass that its tilted normal has below 0.
    """
    s = np.sqrt(v)
    value, positive, spread = _relu(m, v)

    def tilted(k: int) -> Array:
        rate = k / scale
        return np.exp(m * rate + v * (rate * rate / 2) + special.log_ndtr(-m / s - s * rate))

    once, negative = tilted(1), special.ndtr(-m / s)
    g, square = below * (once - negative), below**2 * (tilted(2) - 2 * once + negative)
    spread = above**2 * spread - 2 * above * value * g + square - g * g
    return above * value + g, above * positive + below / scale * once, spread


def _selu(m: Array, v: Array, alpha: float = SELU["alpha"], gamma: float = SELU["gamma"]) -> Moments:
    return _bent(m, v, gamma, gamma * alpha, 1.0)


def _clip(m: Array, v: Array, min: float = -math.inf, max: float = math.inf) -> Moments:
    """x between its bounds, by the moments of the truncated normal, taken about clip(m): squares of m would cancel."""
    s, min = np.sqrt(v), min if min < max else max
    centre = np.clip(m, min, max)
    m, low, high = m - centre, (min - m) / s, (max - m) / s
    inside = special.ndtr(high) - special.ndtr(low)
    value, square = m * inside, (m * m + v) * inside
    ends = (
        (min - centre, special.ndtr(low), s * _density(low)),
        (max - centre, special.ndtr(-high), -s * _density(high)),
    )
    for bound, mass, edge in ends:
        if np.isfinite(bound).all():
            value = value + bound * mass + edge
            square = square + bound * bound * mass + (m + bound) * edge
    return centre + value, inside, square - value * value


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
    m, s = np.reshape(mean, -1), np.sqrt(np.reshape(variance, -1))
    out = np.empty((3, m.size))
    # The step follows the narrowest feature of f: its poles, π/2 from the real axis (π/α for Swish).
    width = s * max(1.0, abs(attributes.get("alpha", 1.0)) / 2)
    octaves = np.clip(np.ceil(np.log2(np.maximum(width, 1))), 0, _MOST_OCTAVES).astype(int)
    for octave in np.unique(octaves):
        step = _STEP / 2.0**octave
        nodes = np.arange(-_TAIL, _TAIL + step / 2, step)[:, None]
        weights = step * _density(nodes[:, 0])
        entries, block = np.flatnonzero(octaves == octave), _BLOCK_ENTRIES // len(nodes)
        for start in range(0, len(entries), block):
            index = entries[start : start + block]
            y, maps = ops.get(op)(m[index] + s[index] * nodes, **attributes)
            slopes = maps[0]().factor  # type: ignore[misc, union-attr]
            value = weights @ y
            out[:, index] = value, weights @ slopes, weights @ (y - value) ** 2
    value, slope, spread = out.reshape(3, *np.shape(mean))
    return value, slope, spread
