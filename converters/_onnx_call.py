"""What a rule of the ONNX table reads and returns: one node of a graph, and the values it takes.

The number of samples is an unknown.  Integers that are computed from it (shapes, axes, repeats) are evaluated twice,
for two trial numbers of samples: what comes out the same is a constant, what comes out in proportion is a multiple of
the number of samples, and anything else is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from converters._plates import Refused
from converters._rules import Table

if TYPE_CHECKING:
    from converters._onnx_graph import Builder
    from converters._onnx_scope import Scope

__all__ = ["END", "RULES", "Array", "Call", "Failed", "Node", "Pair", "Refused", "Shape", "Value", "rule", "same"]

END = 2**63 - 1
Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
Pair = tuple[Array, Array]


class Failed(Exception):
    """A function or subgraph could not be converted, for what is noted of the nodes in it."""


@dataclass(frozen=True)
class Node:
    """A node of a graph, its attributes as plain Python values; graphs and tensors stay messages.

    version: of the operator set that defines it.
    """

    op: str
    domain: str
    version: int
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]

    @property
    def place(self) -> str:
        """Where in the model it is, for messages."""
        return self.name or next(filter(None, self.outputs), "") or self.op


@dataclass(eq=False)
class Value:
    """A tensor of the graph: a constant, a vertex, or a constant that becomes a vertex when it is first used as one.

    shapes: in the source, for either trial number of samples.
    read: the array of a constant, for either trial number.
    learned: whether it is a weight, i.e. a parameter when it becomes a vertex.
    source: the initialiser it is.
    ref: the vertex, as the plate layer knows it.
    items: of a sequence, which is no tensor.
    """

    name: str
    shapes: tuple[Shape, Shape]
    dtype: np.dtype[Any]
    read: Callable[[], Pair] | None = None
    learned: bool = False
    source: str | None = None
    ref: Any = None
    items: list[Value] | None = None

    @property
    def known(self) -> bool:
        """Whether it depends on no input."""
        return self.read is not None

    @cached_property
    def arrays(self) -> Pair:
        """Its entries, for either trial number of samples."""
        if self.read is None:
            raise Refused(f"{self.name!r} must be a constant")
        return self.read()

    @property
    def rank(self) -> int:
        """Number of its axes."""
        return len(self.shapes[0])

    @property
    def shape(self) -> Shape:
        """Where its shape does not depend on the number of samples: the shape."""
        if self.shapes[0] != self.shapes[1]:
            raise Refused(f"the shape of {self.name!r} depends on the number of samples")
        return self.shapes[0]

    @classmethod
    def of(cls, name: str, first: Array, second: Array | None = None, **more: Any) -> Value:
        """A constant of one array, or of two."""
        second = first if second is None or same(first, second) else second
        return cls(name, (first.shape, second.shape), first.dtype, lambda: (first, second), **more)


def same(a: Array, b: Array) -> bool:
    """Whether two arrays are equal, NaN equal to NaN."""
    return a is b or (a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f")))


@dataclass
class Call:
    """A node and its inputs.

    inputs: None where an optional one is left out.
    names: of the vertices of its outputs.
    scope: the names around it.
    """

    builder: Builder
    node: Node
    inputs: Sequence[Value | None]
    names: Sequence[str]
    scope: Scope
    parts: dict[str, int] = field(default_factory=dict)

    def __getitem__(self, k: int) -> Value:
        """Input k, which must be there."""
        value = self.input(k)
        if value is None:
            raise Refused(f"its input {k} is missing")
        return value

    def input(self, k: int) -> Value | None:
        """Input k, or None where it is left out."""
        return self.inputs[k] if k < len(self.inputs) else None

    @property
    def wanted(self) -> list[bool]:
        """Which of its outputs are used."""
        return [bool(name) and name in self.scope.used for name in self.node.outputs]

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute, or the default."""
        return self.node.attributes.get(name, default)

    def pair(self, name: str, k: int) -> Pair | None:
        """What is an attribute in some versions and input k in others, for either trial number of samples."""
        if name in self.node.attributes:
            array = np.asarray(self.node.attributes[name])
            return array, array
        value = self.input(k)
        if value is None:
            return None
        if not value.known:
            raise Refused(f"its {name} ({value.name!r}) is computed from the data")
        return value.arrays

    def option(self, name: str, k: int, default: Any = None) -> Any:
        """The same, as a number or a list of numbers; it must not depend on the number of samples."""
        pair = self.pair(name, k)
        if pair is None:
            return default
        if not same(*pair):
            raise Refused(f"its {name} depends on the number of samples")
        return pair[0].tolist()

    def axes(self, name: str, k: int, rank: int) -> list[int] | None:
        """The same for axes, none of them negative; None where they are left out."""
        given = self.option(name, k)
        if given is None:
            return None
        return [self.axis(axis, rank) for axis in ([given] if isinstance(given, int) else given)]

    @staticmethod
    def axis(axis: int, rank: int) -> int:
        """An axis counted from the front."""
        if not -rank <= axis < max(rank, 1):
            raise Refused(f"got the axis {axis} of {rank} axes")
        return axis % max(rank, 1)

    def emit(self, op: str, *values: Value, part: str = "", output: int = 0, **attributes: Any) -> Value:
        """Add a vertex: output number ``output`` of the node, or a ``part`` on the way to it."""
        return self.builder.emit(self, op, values, self.label(part, output), attributes)

    def cut(self, x: Value, start: Any, end: Any, axis: int, part: str = "", output: int = 0) -> Value:
        """Add a slice along one axis."""
        along: dict[str, Any] = {"starts": [start], "ends": [end], "axes": [axis], "steps": [1]}
        return self.emit("Slice", x, part=part, output=output, **along)

    def entry(self, x: Value, axis: int, k: int, part: str = "") -> Value:
        """Add entry k of an axis, which is gone then."""
        row = self.cut(x, k, k + 1 or END, axis, f"{part}.row" if part else "row")
        return self.emit("Squeeze", row, part=part, axes=[axis])

    def constant(self, part: str, value: Any) -> Value:
        """A number that the node holds as an attribute."""
        return Value.of(self.label(part), np.asarray(value, dtype=self.builder.dtype))

    def label(self, part: str = "", output: int = 0) -> str:
        """The name of the vertex of an output, or of a part of it; parts of one name are numbered."""
        name = self.names[output] if output < len(self.names) and self.names[output] else self.names[0]
        if not part:
            return name
        number = self.parts[part] = self.parts.get(part, 0) + 1
        return f"{name}.{part}" if number == 1 else f"{name}.{part}{number}"


Rule = Callable[[Call], "Value | list[Value | None]"]
# By the names of ONNX operators.
RULES: Table[Rule] = Table()
rule = RULES.rule
