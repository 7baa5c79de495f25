"""Comparisons, logic and rounding: values that jump, so that they have no derivative, or none but zero.

Truth values are held as the numbers 0 and 1 of the inputs' dtype, and integers as whole numbers of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gbn.maps import Diagonal
from gbn.ops.base import Array, Maps, op

__all__: list[str] = []


def _steps(name: str, value: Callable[[Array], Array]) -> None:
    """Register a function that is constant between its jumps: its derivative is 0."""

    @op(name)
    def compute(x: Array) -> tuple[Array, Maps]:
        y = value(x)
        return y, (lambda: Diagonal(0.0, x.shape, y.shape),)


_steps("Ceil", np.ceil)
_steps("Floor", np.floor)
_steps("Round", np.rint)
_steps("Sign", np.sign)

_INTEGERS = {2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32, 7: np.int64, 12: np.uint32, 13: np.uint64}
_FLOATS = (1, 10, 11, 16)
_BOOLEAN = 9


@op("Cast")
def cast(x: Array, *, to: int, saturate: int = 1, round_mode: str = "up") -> tuple[Array, Maps]:
    """The value in another type of ``onnx.TensorProto``, held in the dtype of the input.

    Between floating-point types: the value itself.  To integers: towards zero, modulo the range of the type.  To
    booleans: 1 where it is not 0.
    """
    if to in _FLOATS:
        return x, (lambda: Diagonal(1.0, x.shape, x.shape),)
    if to == _BOOLEAN:
        return _truth(x != 0, x), (None,)
    if to not in _INTEGERS:
        known = sorted([*_FLOATS, _BOOLEAN, *_INTEGERS])
        raise ValueError(f"to: got {to!r}, expected one of the onnx.TensorProto types {known}")
    with np.errstate(invalid="ignore"):
        whole = np.asarray(x).astype(np.int64 if to != 13 else np.uint64)
    return whole.astype(_INTEGERS[to]).astype(x.dtype), (None,)


def _truth(mask: Any, *inputs: Array) -> Array:
    """A mask as numbers 0 and 1, in the dtype of the inputs."""
    return np.asarray(mask).astype(np.result_type(*inputs))


def _compared(name: str, relation: Callable[[Array, Array], Array]) -> None:
    @op(name)
    def compute(a: Array, b: Array) -> tuple[Array, Maps]:
        return _truth(relation(a, b), a, b), (None, None)


_compared("Equal", np.equal)
_compared("Greater", np.greater)
_compared("GreaterOrEqual", np.greater_equal)
_compared("Less", np.less)
_compared("LessOrEqual", np.less_equal)
_compared("And", np.logical_and)
_compared("Or", np.logical_or)
_compared("Xor", np.logical_xor)


@op("Not")
def not_(x: Array) -> tuple[Array, Maps]:
    """1 where the input is 0, else 0."""
    return _truth(x == 0, x), (None,)


@op("IsNaN")
def is_nan(x: Array) -> tuple[Array, Maps]:
    """1 where the input is no number."""
    return _truth(np.isnan(x), x), (None,)


@op("IsInf")
def is_inf(x: Array, *, detect_negative: int = 1, detect_positive: int = 1) -> tuple[Array, Maps]:
    """1 where the input is infinite, of a sign asked for."""
    found = np.isposinf(x) & bool(detect_positive) | np.isneginf(x) & bool(detect_negative)
    return _truth(found, x), (None,)
