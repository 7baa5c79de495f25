"""Functions of one number, entry by entry."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from gbn.maps import Diagonal
from gbn.ops.base import OPS, Array, Maps, Varying, always, never, op

__all__ = ["SELU", "activations"]

SELU = {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875}
_SQRT_HALF = 0.7071067811865476
_SQRT_2_OVER_PI = 0.7978845608028654
_INV_SQRT_2PI = 0.3989422804014327


def activations() -> tuple[str, ...]:
    """Names of the nonlinear functions of one number: what the activation of a neuron can be."""
    ours = [entry for entry in OPS.values() if entry.family == "elementwise" and entry.most == 1]
    return tuple(entry.name for entry in ours if not entry.linear([True]))


def _unary(
    name: str,
    value: Callable[..., Array],
    derivative: Callable[..., Array | float],
    linear: Callable[[Varying], bool] = never,
    **defaults: Any,
) -> None:
    """Register y = value(x) with dy/dx = derivative(x, y); attributes are passed to both by keyword."""

    def compute(x: Array, **given: Any) -> tuple[Array, Maps]:
        attributes = defaults | given
        y = value(x, **attributes)
        return y, (lambda: Diagonal(derivative(x, y, **attributes), x.shape, y.shape),)

    # The table reads the names and defaults of attributes off the signature.
    kinds = inspect.Parameter
    parameters = [kinds("x", kinds.POSITIONAL_ONLY)]
    parameters += [kinds(key, kinds.KEYWORD_ONLY, default=default) for key, default in defaults.items()]
    compute.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    op(name, linear)(compute)


def _softplus(x: Array) -> Array:
    return np.logaddexp(x, x.dtype.type(0))


def _gelu(x: Array, approximate: str) -> Array:
    if approximate == "tanh":
        return 0.5 * x * (1 + np.tanh(_SQRT_2_OVER_PI * (x + 0.044715 * x * x * x)))
    return 0.5 * x * (1 + special.erf(x * _SQRT_HALF))


def _gelu_derivative(x: Array, y: Array, approximate: str) -> Array:
    if approximate == "tanh":
        t = np.tanh(_SQRT_2_OVER_PI * (x + 0.044715 * x * x * x))
        return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * _SQRT_2_OVER_PI * (1 + 3 * 0.044715 * x * x)
    return 0.5 * (1 + special.erf(x * _SQRT_HALF)) + x * _INV_SQRT_2PI * np.exp(-0.5 * x * x)


def _tanh_derivative(x: Array, y: Array) -> Array:
    """1 - y², in one buffer: fresh memory costs as much as the arithmetic."""
    square = np.asarray(y * y)
    return np.subtract(1, square, out=square)


def _swish_derivative(x: Array, y: Array, alpha: float) -> Array:
    s = special.expit(alpha * x)
    return s + alpha * y * (1 - s)


def _hard_sigmoid(x: Array, alpha: float, beta: float) -> Array:
    return np.clip(alpha * x + beta, 0, 1)


def _ramp(x: Array, alpha: float, beta: float) -> Array:
    """The derivative of a hard sigmoid: alpha between its kinks."""
    line = alpha * x + beta
    return np.where((line > 0) & (line < 1), x.dtype.type(alpha), x.dtype.type(0))


def _hard_swish_derivative(x: Array, y: Array) -> Array:
    return _hard_sigmoid(x, 1 / 6, 0.5) + x * _ramp(x, 1 / 6, 0.5)


def _mish_derivative(x: Array, y: Array) -> Array:
    t = np.tanh(_softplus(x))
    return t + x * (1 - t * t) * special.expit(x)


def _shrink(x: Array, bias: float, lambd: float) -> Array:
    return np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, x.dtype.type(0)))


def _indicator(x: Array, where: Array) -> Array:
    return np.asarray(where).astype(x.dtype)


_unary("Identity", lambda x: x, lambda x, y: 1.0, always)
_unary("Neg", np.negative, lambda x, y: -1.0, always)
_unary("Relu", lambda x: np.maximum(x, 0), lambda x, y: (x > 0).astype(x.dtype))
_unary(
    "LeakyRelu",
    lambda x, alpha: np.where(x > 0, x, alpha * x),
    lambda x, y, alpha: np.where(x > 0, x.dtype.type(1), x.dtype.type(alpha)),
    alpha=0.01,
)
_unary(
    "Elu",
    lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
    lambda x, y, alpha: np.where(x > 0, x.dtype.type(1), y + x.dtype.type(alpha)),
    alpha=1.0,
)
_unary("Gelu", _gelu, _gelu_derivative, approximate="none")
_unary("Sigmoid", special.expit, lambda x, y: y * (1 - y))
_unary("Swish", lambda x, alpha: x * special.expit(alpha * x), _swish_derivative, alpha=1.0)
_unary("Tanh", np.tanh, _tanh_derivative)
_unary("Softplus", _softplus, lambda x, y: special.expit(x))
_unary("Exp", np.exp, lambda x, y: y)
_unary("Log", np.log, lambda x, y: 1 / x)
_unary("Sqrt", np.sqrt, lambda x, y: 0.5 / y)
_unary("Abs", np.abs, lambda x, y: np.sign(x))
_unary("Erf", special.erf, lambda x, y: 2 * _SQRT_2_OVER_PI * _SQRT_HALF * np.exp(-x * x))
_unary(
    "Selu",
    lambda x, alpha, gamma: gamma * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
    lambda x, y, alpha, gamma: np.where(x > 0, x.dtype.type(gamma), y + x.dtype.type(gamma * alpha)),
    alpha=SELU["alpha"],
    gamma=SELU["gamma"],
)
_unary(
    "Celu",
    lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0) / alpha)),
    lambda x, y, alpha: np.where(x > 0, x.dtype.type(1), y / alpha + 1),
    alpha=1.0,
)
_unary(
    "ThresholdedRelu",
    lambda x, alpha: np.where(x > alpha, x, x.dtype.type(0)),
    lambda x, y, alpha: _indicator(x, x > alpha),
    alpha=1.0,
)
_unary("HardSigmoid", _hard_sigmoid, lambda x, y, alpha, beta: _ramp(x, alpha, beta), alpha=0.2, beta=0.5)
_unary("HardSwish", lambda x: x * _hard_sigmoid(x, 1 / 6, 0.5), _hard_swish_derivative)
_unary("Mish", lambda x: x * np.tanh(_softplus(x)), _mish_derivative)
_unary("Softsign", lambda x: x / (1 + np.abs(x)), lambda x, y: 1 / (1 + np.abs(x)) ** 2)
_unary("Shrink", _shrink, lambda x, y, bias, lambd: _indicator(x, np.abs(x) > lambd), bias=0.0, lambd=0.5)
_unary(
    "Clip",
    lambda x, min, max: np.minimum(np.maximum(x, min), max),
    lambda x, y, min, max: _indicator(x, (x >= min) & (x <= max)),
    min=-math.inf,
    max=math.inf,
)
_unary("Reciprocal", np.reciprocal, lambda x, y: -y * y)
_unary("Sin", np.sin, lambda x, y: np.cos(x))
_unary("Cos", np.cos, lambda x, y: -np.sin(x))
_unary("Tan", np.tan, lambda x, y: 1 + y * y)
_unary("Asin", np.arcsin, lambda x, y: 1 / np.sqrt(1 - x * x))
_unary("Acos", np.arccos, lambda x, y: -1 / np.sqrt(1 - x * x))
_unary("Atan", np.arctan, lambda x, y: 1 / (1 + x * x))
_unary("Sinh", np.sinh, lambda x, y: np.cosh(x))
_unary("Cosh", np.cosh, lambda x, y: np.sinh(x))
_unary("Asinh", np.arcsinh, lambda x, y: 1 / np.sqrt(1 + x * x))
_unary("Acosh", np.arccosh, lambda x, y: 1 / np.sqrt(x * x - 1))
_unary("Atanh", np.arctanh, lambda x, y: 1 / (1 - x * x))


@op("Dropout", linear=always)
def dropout(x: Array, *, ratio: float = 0.5, training_mode: int = 0) -> tuple[Array, Maps]:
    """The identity: at inference nothing is dropped."""
    if training_mode:
        raise ValueError("Dropout in training mode draws at random; convert the model in inference mode")
    return x, (lambda: Diagonal(1.0, x.shape, x.shape),)
