"""What a rule of the ATen table reads and returns: one call of an exported PyTorch graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from converters._plates import Layout, Plates, Refused, Samples, Sizes, Value
from converters._rules import Table, part_name

__all__ = ["END", "ODD", "RULES", "Call", "Many", "Refused", "Rule", "Samples", "Sizes", "Value", "rule", "spread"]

END = 2**63 - 1


class _Odd:
    """A number that depends on the number of samples N, but is no multiple of it."""

    def __repr__(self) -> str:
        return "(computed from the number of samples)"

    def __index__(self) -> int:
        raise Refused("it computes with the number of samples")

    def __float__(self) -> float:
        raise Refused("it computes with the number of samples")


ODD = _Odd()

# Several results: each is made, under the name given, only if the graph uses it.
Many = list[Callable[[str], Value]]


@dataclass
class Call:
    """One operation of the exported graph.

    packet: the ATen name, without its overload.
    name: of the vertex that will hold its result.
    arguments: by schema name, defaults filled in; tensors are :class:`Value`, multiples of the number of samples
        :class:`Samples`.
    shape: of the result, or of the first one.
    kinds: "f", "i" or "b" for tensors of floating-point numbers, integers and truth values, by argument; "" is the
        result.
    """

    plates: Plates
    packet: str
    name: str
    arguments: dict[str, Any]
    shape: Sizes
    kinds: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, argument: str) -> Any:
        return self.arguments[argument]

    def get(self, argument: str, default: Any = None) -> Any:
        """The argument, or the default where the overload has none or it is None."""
        value = self.arguments.get(argument)
        return default if value is None else value

    @property
    def first(self) -> Value:
        """The tensor the operation works on."""
        return next(value for value in self.arguments.values() if isinstance(value, Value))

    def emit(self, op: str, *operands: Value, part: str = "", **attributes: Any) -> Value:
        """An operation: the result itself, or its ``part``."""
        return self.plates.emit(op, operands, name=part_name(self.name, part, self.plates.net), **attributes)

    def constant(self, part: str, value: Any, layout: Layout | None = None) -> Value:
        """A constant that the model holds as a number in its code."""
        if value is ODD or isinstance(value, Samples):
            raise Refused("it computes with the number of samples")
        return self.plates.constant(part_name(self.name, part, self.plates.net), value, layout)

    def operand(self, value: Any, part: str) -> Value:
        """An argument that may be a tensor or a number."""
        return value if isinstance(value, Value) else self.constant(part, value)

    def scaled(self, x: Value, factor: Any, part: str) -> Value:
        """factor · x; x itself where the factor is 1."""
        return x if factor == 1 else self.emit("Mul", x, self.constant(part, factor), part=f"{part}.scaled")

    def within(self, name: str) -> Call:
        """The same call under another name: for one of its results, or a step of it."""
        return replace(self, name=name)


Rule = Callable[[Call], Value | Many]
# By the names of ATen operations, without their overloads.
RULES: Table[Rule] = Table()
rule = RULES.rule


def spread(value: Any, rank: int) -> list[int]:
    """One number for each axis, where torch lets one stand for all."""
    values = [value] if isinstance(value, int) else list(value)
    return values * rank if len(values) == 1 else values
