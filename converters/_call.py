"""What a rule of the ATen table reads and returns: one call of an exported PyTorch graph."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gbn.net import GaussianBayesNet

__all__ = [
    "END",
    "FREE",
    "RULES",
    "Call",
    "Ref",
    "Refused",
    "Rule",
    "Shape",
    "rule",
    "scaled",
    "spread",
    "target_shape",
]

# None stands for the size that varies with the number of samples.
Shape = tuple[int | None, ...]
END = 2**63 - 1


class Refused(Exception):
    """A rule cannot express this call; the message is the reason."""


class _Free:
    """An argument whose value depends on the number of samples."""

    def __repr__(self) -> str:
        return "(the number of samples)"

    def __index__(self) -> int:
        raise Refused("it computes with the number of samples")

    def __float__(self) -> float:
        raise Refused("it computes with the number of samples")


FREE = _Free()


@dataclass(frozen=True)
class Ref:
    """A tensor argument: the vertex it is, and its shape in the exported graph."""

    vertex: str
    shape: Shape


@dataclass
class Call:
    """One operation of the exported graph.

    name: of the vertex that will hold its result.
    arguments: by schema name, defaults filled in; tensors are :class:`Ref`, what depends on the batch is FREE.
    shape: of the result.
    """

    net: GaussianBayesNet
    name: str
    arguments: dict[str, Any]
    shape: Shape

    def __getitem__(self, argument: str) -> Any:
        return self.arguments[argument]

    def get(self, argument: str, default: Any = None) -> Any:
        """The argument, or the default where the overload has none or it is None."""
        value = self.arguments.get(argument)
        return default if value is None else value

    @property
    def first(self) -> Ref:
        """The tensor the operation works on."""
        return next(value for value in self.arguments.values() if isinstance(value, Ref))

    def emit(self, op: str, *parents: Ref | str, part: str = "", **attributes: Any) -> str:
        """Add a vertex: the result itself, or its ``part``."""
        names = [parent.vertex if isinstance(parent, Ref) else parent for parent in parents]
        return self.net.add(self._name(part), op, names, **attributes)

    def constant(self, part: str, value: Any) -> str:
        """Add a constant that the model holds as a number in its code."""
        if value is FREE:
            raise Refused("it computes with the number of samples")
        return self.net.add_constant(self._name(part), value)

    def operand(self, value: Any, part: str) -> str:
        """The vertex of an argument that may be a tensor or a number."""
        return value.vertex if isinstance(value, Ref) else self.constant(part, value)

    def _name(self, part: str) -> str:
        """A part gives way to a parameter that happens to have its name."""
        if not part:
            return self.name
        name = f"{self.name}.{part}"
        while name in self.net:
            name += "_"
        return name


Rule = Callable[[Call], str]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Enter a function into the table under the names of ATen operations, without their overloads."""

    def enter(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return enter


def spread(value: Any, rank: int) -> list[int]:
    """One number for each axis, where torch lets one stand for all."""
    values = [value] if isinstance(value, int) else list(value)
    return values * rank if len(values) == 1 else values


def scaled(call: Call, x: Ref | str, factor: float, part: str) -> Ref | str:
    """The vertex of factor · x; x itself where the factor is 1."""
    return x if factor == 1 else call.emit("Mul", x, call.constant(part, factor), part=f"{part}.scaled")


def target_shape(call: Call) -> list[int]:
    """A Reshape target for any number of samples: at most one size is free."""
    free = [k for k, size in enumerate(call.shape) if size is None]
    if len(free) > 1:
        raise Refused("the number of samples is in several axes of its result")
    # A free first size is the input's own only where the other axes hold as many entries as before.
    kept = free == [0] and call.first.shape[:1] == (None,) and _entries(call.shape) == _entries(call.first.shape)
    return [(0 if kept else -1) if size is None else size for size in call.shape]


def _entries(shape: Shape) -> int:
    return math.prod(size or 1 for size in shape[1:])
