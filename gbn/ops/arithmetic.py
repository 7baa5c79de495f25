"""Arithmetic and choice between arrays, entry by entry, with numpy broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np

from gbn.maps import Diagonal
from gbn.ops.base import Array, Maps, Varying, always, first_only, op, product

__all__: list[str] = []


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


def _power_by_base(x: Array, y: Array) -> Array:
    """y x^(y-1); a constant power 0 has slope 0 at 0, too."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(y == 0, 0, y * np.power(x, y - 1)).astype(x.dtype)


def _power_by_exponent(x: Array, y: Array, value: Array) -> Array:
    """x^y log x, and its limit 0 at x = 0 for y >= 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((x == 0) & (y >= 0), 0, value * np.log(x)).astype(value.dtype)


@op("Pow")
def power(x: Array, y: Array) -> tuple[Array, Maps]:
    """x to the power y."""
    z = np.asarray(np.power(x, y))
    return z, (
        lambda: Diagonal(_power_by_base(x, y), x.shape, z.shape),
        lambda: Diagonal(_power_by_exponent(x, y, z), y.shape, z.shape),
    )


@op("Mod")
def mod(a: Array, b: Array, *, fmod: int = 0) -> tuple[Array, Maps]:
    """a - n b, where n is a / b rounded towards zero (``fmod``), else down."""
    y = np.fmod(a, b) if fmod else np.mod(a, b)
    rounded = np.trunc if fmod else np.floor
    return y, (lambda: Diagonal(1.0, a.shape, y.shape), lambda: Diagonal(-rounded(a / b), b.shape, y.shape))


def _input_constant(varying: Varying) -> bool:
    return not varying[0]


@op("PRelu", linear=_input_constant)
def prelu(x: Array, slope: Array) -> tuple[Array, Maps]:
    """x where it is not negative, else slope x; ``slope`` broadcasts to x."""
    y = np.where(x < 0, slope * x, x)
    if y.shape != x.shape:
        raise ValueError(f"slope of shape {slope.shape} does not broadcast to the input's {x.shape}")
    one, zero = x.dtype.type(1), x.dtype.type(0)
    return y, (
        lambda: Diagonal(np.where(x < 0, slope, one), x.shape, y.shape),
        lambda: Diagonal(np.where(x < 0, x, zero), slope.shape, y.shape),
    )


@op("Where", linear=_input_constant)
def where(condition: Array, x: Array, y: Array) -> tuple[Array, Maps]:
    """x where the condition is not 0, else y."""
    chosen = condition != 0
    z = np.where(chosen, x, y)

    def part(of: Array, mask: Array) -> Diagonal:
        return Diagonal(np.asarray(mask).astype(of.dtype), of.shape, z.shape)

    return z, (None, lambda: part(x, chosen), lambda: part(y, ~chosen))


def _alone(varying: Varying) -> bool:
    """The greatest or least of one input is that input."""
    return len(varying) == 1 or not any(varying)


def _extreme(inputs: tuple[Array, ...], choose: Callable[[Array, Array], Array]) -> tuple[Array, Maps]:
    """The greatest or least of the inputs; those that are equal share the derivative in equal parts."""
    y = np.asarray(reduce(choose, inputs))

    def share(x: Array) -> Diagonal:
        holders = sum(np.equal(other, y).astype(y.dtype) for other in inputs)
        return Diagonal(np.equal(x, y) / holders, x.shape, y.shape)

    return y, tuple((lambda x=x: share(x)) for x in inputs)


@op("Max", linear=_alone)
def maximum(*inputs: Array) -> tuple[Array, Maps]:
    """The greatest of the inputs."""
    return _extreme(inputs, np.maximum)


@op("Min", linear=_alone)
def minimum(*inputs: Array) -> tuple[Array, Maps]:
    """The least of the inputs."""
    return _extreme(inputs, np.minimum)


def _total(inputs: tuple[Array, ...], factor: float) -> tuple[Array, Maps]:
    y = np.asarray(reduce(np.add, inputs)) * factor
    return y, tuple((lambda x=x: Diagonal(factor, x.shape, y.shape)) for x in inputs)


@op("Sum", linear=always)
def sum_(*inputs: Array) -> tuple[Array, Maps]:
    """The sum of the inputs."""
    return _total(inputs, 1.0)


@op("Mean", linear=always)
def mean(*inputs: Array) -> tuple[Array, Maps]:
    """The mean of the inputs."""
    return _total(inputs, 1 / len(inputs))
