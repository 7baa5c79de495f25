"""Entry-wise functions and arithmetic with numpy broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from gbn.maps import Diagonal
from gbn.ops.base import OPS, Array, Maps, Varying, always, first_only, op, product

__all__ = ["activations"]

_SQRT_HALF = 0.7071067811865476
_SQRT_2_OVER_PI = 0.7978845608028654
_INV_SQRT_2PI = 0.3989422804014327


def activations() -> tuple[str, ...]:
    """Names of the nonlinear functions of one number: what the activation of a neuron can be."""
    ours = [entry for entry in OPS.values() if entry.function.__module__ == __name__ and entry.most == 1]
    return tuple(entry.name for entry in ours if not entry.linear([True]))


def _unary(
    name: str,
    value: Callable[..., Array],
    derivative: Callable[..., Array | float],
    linear: Callable[[Varying], bool] | None = None,
    **defaults: Any,
) -> None:
    """Register y = value(x) with dy/dx = derivative(x, y); attributes are passed to both by keyword."""

    def compute(x: Array, attributes: dict[str, Any]) -> tuple[Array, Maps]:
        y = value(x, **attributes)
        return y, (lambda: Diagonal(derivative(x, y, **attributes), x.shape, y.shape),)

    register = op(name, linear) if linear else op(name)
    # The registry reads attribute names off the signature, so each function carries its own.
    if not defaults:
        register(lambda x: compute(x, {}))
    elif "alpha" in defaults:
        register(lambda x, *, alpha=defaults["alpha"]: compute(x, {"alpha": alpha}))
    else:
        register(lambda x, *, approximate="none": compute(x, {"approximate": approximate}))


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


@op("Dropout", linear=always)
def dropout(x: Array, *, ratio: float = 0.5, training_mode: int = 0) -> tuple[Array, Maps]:
    """The identity: at inference nothing is dropped."""
    if training_mode:
        raise ValueError("Dropout in training mode draws at random; convert the model in inference mode")
    return x, (lambda: Diagonal(1.0, x.shape, x.shape),)


@op("Add", linear=always)
def add(a: Array, b: Array) -> tuple[Array, Maps]:
    """a + b."""
    y = a + b
    return y, (lambda: Diagonal(1.0, a.shape, y.shape), lambda: Diagonal(1.0, b.shape, y.shape))


@op("Sub", linear=always)
def sub(a: Array, b: Array) -> tuple[Array, Maps]:
    """a - b."""
    y = a - b
    return y, (lambda: Diagonal(1.0, a.shape, y.shape), lambda: Diagonal(-1.0, b.shape, y.shape))


@op("Mul", linear=product)
def mul(a: Array, b: Array) -> tuple[Array, Maps]:
    """a b, entry by entry."""
    y = a * b
    return y, (lambda: Diagonal(b, a.shape, y.shape), lambda: Diagonal(a, b.shape, y.shape))


@op("Div", linear=first_only)
def div(a: Array, b: Array) -> tuple[Array, Maps]:
    """a / b, entry by entry."""
    y = a / b
    return y, (lambda: Diagonal(1 / b, a.shape, y.shape), lambda: Diagonal(-y / b, b.shape, y.shape))
