"""Moments of entry-wise nonlinearities under a Gaussian: E f(x), E f'(x) and Var f(x) for x ~ N(m, v).

Closed forms where they are known (Relu, LeakyRelu, Abs, Elu, Exp, Erf, exact Gelu), the trapezoidal rule for other
smooth functions: on a Gaussian times a function that is analytic in a strip it converges geometrically (Trefethen &
Weideman, *The exponentially convergent trapezoidal rule*, SIAM Review 56, 2014), to rounding here for standard
deviations up to 256.  Φ and φ are the standard normal distribution function and density; T is Owen's function, by which
E Φ(a)² = Φ(h) - 2 T(h, (1 + 2s²)^-½) for a ~ N(μ, s²), h = μ (1 + s²)^-½ (Owen, *A table of normal integrals*, 1980).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy import special

from gbn import ops

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
_QUADRATURE = frozenset({"Elu", "Gelu", "Sigmoid", "Softplus", "Swish", "Tanh"})
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


def _exp(m: Array, v: Array) -> Moments:
    value = np.exp(m + v / 2)
    return value, value, np.expm1(v) * value * value


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


def _elu(m: Array, v: Array, alpha: float = 1.0) -> Moments:
    """relu(x) + g(x), g = α (e^x - 1) for x < 0, whose product is 0; E[e^kx; x < 0] = e^(km + k²v/2) Φ(-(m + kv)/s)."""
    s = np.sqrt(v)
    value, above, spread = _relu(m, v)
    once, twice = (np.exp(k * m + k * k * v / 2 + special.log_ndtr(-(m + k * v) / s)) for k in (1, 2))
    below = special.ndtr(-m / s)
    g, square = alpha * (once - below), alpha**2 * (twice - 2 * once + below)
    return value + g, above + alpha * once, spread - 2 * value * g + square - g * g


_CLOSED: dict[str, Callable[..., Moments]] = {
    "Abs": lambda m, v: _leaky(m, v, -1.0),
    "Elu": _elu,
    "Erf": _erf,
    "Exp": _exp,
    "Gelu": _gelu,
    "LeakyRelu": _leaky,
    "Relu": _relu,
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
