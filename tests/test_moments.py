"""Moments of nonlinearities against adaptive quadrature of the defining integrals."""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from scipy import integrate, special

from gbn.moments import has_moments, moments


def softplus(x):
    return float(np.logaddexp(x, 0))


def selu_slope(x):
    return 2.0 if x > 0 else 3 * math.exp(x)


def mish_slope(x):
    t = math.tanh(softplus(x))
    return t + x * (1 - t * t) * special.expit(x)


FUNCTIONS = {
    "Relu": (lambda x: max(x, 0.0), lambda x: float(x > 0), {}),
    "LeakyRelu": (lambda x: x if x > 0 else 0.2 * x, lambda x: 1.0 if x > 0 else 0.2, {"alpha": 0.2}),
    "Abs": (abs, lambda x: math.copysign(1.0, x), {}),
    "Exp": (math.exp, math.exp, {}),
    "Erf": (math.erf, lambda x: 2 / math.sqrt(math.pi) * math.exp(-x * x), {}),
    "Gelu": (
        lambda x: x * special.ndtr(x),
        lambda x: special.ndtr(x) + x * math.exp(-x * x / 2) / math.sqrt(2 * math.pi),
        {},
    ),
    "Tanh": (math.tanh, lambda x: 1 - math.tanh(x) ** 2, {}),
    "Sigmoid": (special.expit, lambda x: special.expit(x) * special.expit(-x), {}),
    "Asinh": (math.asinh, lambda x: 1 / math.hypot(1, x), {}),
    "Atan": (math.atan, lambda x: 1 / (1 + x * x), {}),
    "Celu": (lambda x: x if x > 0 else 1.5 * math.expm1(x / 1.5), lambda x: math.exp(min(x, 0) / 1.5), {"alpha": 1.5}),
    "Clip": (lambda x: min(max(x, -0.5), 1.2), lambda x: float(-0.5 < x < 1.2), {"min": -0.5, "max": 1.2}),
    "Clip, above": (lambda x: min(x, 0.7), lambda x: float(x < 0.7), {"max": 0.7}),
    "Elu": (
        lambda x: x if x > 0 else 0.7 * math.expm1(x),
        lambda x: 1.0 if x > 0 else 0.7 * math.exp(x),
        {"alpha": 0.7},
    ),
    "HardSigmoid": (lambda x: min(max(0.25 * x + 0.5, 0), 1), lambda x: 0.25 * (-2 < x < 2), {"alpha": 0.25}),
    "Selu": (lambda x: 2 * x if x > 0 else 3 * math.expm1(x), selu_slope, {"alpha": 1.5, "gamma": 2.0}),
    "Cos": (math.cos, lambda x: -math.sin(x), {}),
    "Cosh": (math.cosh, math.sinh, {}),
    "Mish": (lambda x: x * math.tanh(softplus(x)), mish_slope, {}),
    "Sin": (math.sin, math.cos, {}),
    "Sinh": (math.sinh, math.cosh, {}),
    "Softplus": (softplus, special.expit, {}),
    "Swish": (
        lambda x: x * special.expit(3 * x),
        lambda x: special.expit(3 * x) * (1 + 3 * x * special.expit(-3 * x)),
        {"alpha": 3.0},
    ),
}
GROWING = {"Exp", "Sinh", "Cosh"}
KINKS = (-2.0, -0.5, 0.0, 0.7, 1.2, 2.0)
POINTS = [(0.0, 0.5), (1.3, 0.2), (-0.7, 0.9), (2.5, 0.4), (-3.0, 0.3)]


def expectation(function, m, v):
    """∫ f(x) N(x; m, v) dx, split at the kinks, and where the function bends."""
    s = math.sqrt(v)

    def integrand(x):
        return function(x) * math.exp(-0.5 * ((x - m) / s) ** 2) / (s * math.sqrt(2 * math.pi))

    low, high = m - 12 * s, m + 12 * s
    marks = [low, m, high, -20.0, -4.0, -1.0, 1.0, 4.0, 20.0, *KINKS]
    cuts = sorted({min(max(mark, low), high) for mark in marks})
    return sum(integrate.quad(integrand, a, b, epsabs=1e-14, epsrel=1e-13, limit=200)[0] for a, b in pairwise(cuts))


@pytest.mark.parametrize("op", FUNCTIONS)
@pytest.mark.parametrize("m,v", POINTS)
def test_moments_are_the_integrals(op, m, v):
    function, derivative, attributes = FUNCTIONS[op]
    value, slope, spread = moments(op.partition(",")[0], np.array([m]), np.array([v]), attributes)
    mean = expectation(function, m, v)
    close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10)
    close(value, mean)
    close(slope, expectation(derivative, m, v))
    close(spread, expectation(lambda x: (function(x) - mean) ** 2, m, v))


@pytest.mark.parametrize("op", [op for op in FUNCTIONS if op not in GROWING | {"Sin", "Cos"}])
@pytest.mark.parametrize("m,s", [(0.7, 2.0), (-1.0, 5.0), (2.0, 20.0), (1.0, 200.0)])
def test_wide_gaussians(op, m, s):
    """Far wider than the bend of the function, where few nodes would step over it."""
    function, derivative, attributes = FUNCTIONS[op]
    value, slope, spread = moments(op.partition(",")[0], np.array([m]), np.array([s * s]), attributes)
    mean = expectation(function, m, s * s)
    np.testing.assert_allclose(value, mean, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(slope, expectation(derivative, m, s * s), rtol=1e-10, atol=1e-10)
    exact = expectation(lambda x: (function(x) - mean) ** 2, m, s * s)
    np.testing.assert_allclose(spread, exact, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("op", FUNCTIONS)
@pytest.mark.parametrize("m", [-30.0, -0.65, 0.65, 30.0])
def test_narrow_gaussians(op, m):
    """Var f is f'² v to first order: no squares of m may cancel."""
    if op in GROWING and abs(m) > 1:
        return
    function, derivative, attributes = FUNCTIONS[op]
    value, slope, spread = moments(op.partition(",")[0], np.array([m]), np.array([1e-10]), attributes)
    np.testing.assert_allclose(value, function(m), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(slope, derivative(m), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(spread / 1e-10, derivative(m) ** 2, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("op", FUNCTIONS)
def test_without_variance_they_are_the_function_itself(op):
    function, _, attributes = FUNCTIONS[op]
    x = np.array([-1.5, 0.4, 2.0])
    value, _, spread = moments(op.partition(",")[0], x, np.zeros(3), attributes)
    np.testing.assert_allclose(value, [function(float(k)) for k in x], atol=1e-10)
    np.testing.assert_allclose(spread, 0, atol=1e-10)


def test_the_tanh_form_of_gelu_is_integrated_by_quadrature():
    exact = moments("Gelu", np.array([0.3]), np.array([0.5]))
    close = moments("Gelu", np.array([0.3]), np.array([0.5]), {"approximate": "tanh"})
    np.testing.assert_allclose(close, exact, atol=1e-3)
    assert np.abs(np.subtract(close, exact)).max() > 1e-7


def test_functions_without_entries_are_not_known():
    assert has_moments("Relu")
    assert not has_moments("Softmax")
    assert not has_moments("Log")
