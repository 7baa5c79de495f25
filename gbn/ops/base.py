"""The op table and the form of its entries.

An op is a function of arrays that returns its value and, for each input, a function that makes the input's
:class:`~gbn.maps.LinearMap` when asked (None for an input that has no derivative)::

    @op("Tanh")
    def tanh(x):
        y = np.tanh(x)
        return y, (lambda: Diagonal(1 - y * y, x.shape, y.shape),)

Registering it is all it takes: nets, engines and the table-driven tests find it by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gbn.errors import GraphError, UnknownNameError
from gbn.maps import LinearMap

__all__ = ["OPS", "Array", "Maps", "Op", "always", "first_only", "get", "never", "op", "product"]

Array = np.ndarray[Any, Any]
Maps = tuple[Callable[[], LinearMap] | None, ...]
Varying = Sequence[bool]


def never(varying: Varying) -> bool:
    """The Jacobian depends on the value of the input."""
    return not any(varying)


def always(varying: Varying) -> bool:
    """Linear (affine) in all inputs jointly: the Jacobians are constants."""
    return True


def product(varying: Varying) -> bool:
    """Bilinear in the first two inputs, linear in the rest."""
    return sum(varying[:2]) <= 1


def first_only(varying: Varying) -> bool:
    """Linear in the first input while all others are constants."""
    return not any(varying[1:])


@dataclass(frozen=True)
class Op:
    """An entry of the op table.

    name: the ONNX operator name.
    function: inputs and attributes to ``(value, maps)``.
    linear: whether the maps of the varying inputs are constants, given which inputs vary over samples or are random.
    fewest, most: the number of inputs it takes (``most`` None: any).
    attributes: names it accepts.
    """

    name: str
    function: Callable[..., tuple[Array, Maps]]
    linear: Callable[[Varying], bool]
    fewest: int
    most: int | None
    attributes: frozenset[str]

    @property
    def family(self) -> str:
        """The module that defines it, in short where it is one of ours: "elementwise", "arithmetic", ..."""
        return self.function.__module__.removeprefix("gbn.ops.")

    def __call__(self, *inputs: Array, **attributes: Any) -> tuple[Array, Maps]:
        return self.function(*inputs, **attributes)

    def check(self, inputs: int, attributes: Sequence[str]) -> None:
        """Raise GraphError where the number of inputs or an attribute's name does not fit."""
        if inputs < self.fewest or (self.most is not None and inputs > self.most):
            expected = f"{self.fewest}" if self.fewest == self.most else f"{self.fewest} to {self.most or 'any number'}"
            raise GraphError(f"{self.name} takes {expected} parents, got {inputs}")
        for name in attributes:
            if name not in self.attributes:
                raise UnknownNameError(f"attribute of {self.name}", name, sorted(self.attributes))


OPS: dict[str, Op] = {}


def op(
    name: str, linear: Callable[[Varying], bool] = never
) -> Callable[[Callable[..., tuple[Array, Maps]]], Callable[..., tuple[Array, Maps]]]:
    """Enter a function into the op table under its ONNX name."""

    def register(function: Callable[..., tuple[Array, Maps]]) -> Callable[..., tuple[Array, Maps]]:
        parameters = inspect.signature(function).parameters.values()
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        OPS[name] = Op(
            name=name,
            function=function,
            linear=linear,
            fewest=sum(p.default is p.empty for p in positional) or int(variadic),
            most=None if variadic else len(positional),
            attributes=frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY),
        )
        return function

    return register


def get(name: str) -> Op:
    """The op of that name.

    Raises:
        UnknownNameError: no such op; the message lists near matches.
    """
    try:
        return OPS[name]
    except KeyError:
        remedy = "register it with gbn.ops.op (see gbn/ops/base.py)"
        raise UnknownNameError("op", name, OPS, remedy) from None
