"""One call of a Keras layer, and how its rule adds vertices to the net."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from converters._keras.records import Config, Layer, Shape, Variable
from converters._plates import Refused
from converters._rules import Table, part_name
from gbn.errors import NO_COUNTERPART, GbnError
from gbn.net import GaussianBayesNet
from gbn.ops.footprint import entries, footprint

__all__ = ["RULES", "Call", "Ref", "Refused", "Result", "Rule", "State", "rule"]

_MOST_VERTICES = 200_000


@dataclass(frozen=True)
class Ref:
    """A tensor among the arguments of a call: the vertex it is."""

    vertex: str


@dataclass
class State:
    """What the calls of one conversion share.

    known: vertex of each variable that was read.
    derived: vertices computed from parameters alone.
    """

    net: GaussianBayesNet
    max_bytes: int
    known: dict[object, str] = field(default_factory=dict)
    derived: set[str] = field(default_factory=set)

    def add(self, name: str, op: str, parents: Sequence[str], attributes: Mapping[str, Any]) -> str:
        """A vertex, once it is clear that trying its op takes no more memory than is allowed."""
        vertices = [self.net[parent] for parent in parents]
        shapes = [(2, *vertex.shape) if vertex.plated else vertex.shape for vertex in vertices]
        try:
            needed = 2 * sum(footprint(op, shapes, attributes)) + sum(map(entries, shapes))
        except Exception as error:
            raise Refused(f"{op} does not take shapes {[vertex.shape for vertex in vertices]}: {error}") from error
        if needed * self.net.dtype.itemsize > self.max_bytes:
            raise Refused(
                f"{op} needs {needed * self.net.dtype.itemsize} bytes for two samples, more than max_bytes="
                f"{self.max_bytes}"
            )
        if len(self.net) >= _MOST_VERTICES:
            raise Refused(f"the net would have more than {_MOST_VERTICES} vertices")
        return self.net.add(name, op, parents, **attributes)


@dataclass
class Call:
    """One call of a layer.

    name: of the vertex that will hold its result.
    arguments: what it is called with, in order: Ref, lists of them, numbers.
    options: keyword arguments; those that a rule does not ask for are refused.
    """

    state: State
    layer: Layer
    name: str
    arguments: list[Any]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> Config:
        """The layer's configuration."""
        return self.layer.config

    @property
    def inputs(self) -> list[str]:
        """Vertices of all tensors among the positional arguments."""
        return [ref.vertex for ref in refs(self.arguments)]

    @property
    def input(self) -> str:
        """The vertex of the one tensor that it reads."""
        found = self.inputs
        if len(found) != 1:
            raise Refused(f"it is called with {len(found)} tensors, where one is expected")
        return found[0]

    def shape(self, vertex: str) -> Shape:
        """Shape of one sample."""
        return self.state.net[vertex].shape

    def option(self, name: str, default: Any = None) -> Any:
        """A keyword argument, which thereby counts as understood."""
        value = self.options.pop(name, None)
        return default if value is None else value

    def emit(self, op: str, *parents: str, part: str = "", **attributes: Any) -> str:
        """Add a vertex: the result itself, or its ``part``."""
        return self.state.add(part_name(self.name, part, self.state.net), op, parents, attributes)

    def constant(self, part: str, value: Any) -> str:
        """Add a constant of the layer's configuration."""
        return self.state.net.add_constant(part_name(self.name, part, self.state.net), value)

    def within(self, part: str, layer: Layer | None = None, *inputs: str) -> Call:
        """A call inside this one, whose vertices are named by ``part``."""
        name = f"{self.name}.{part}" if part else self.name
        return Call(self.state, layer or self.layer, name, [Ref(vertex) for vertex in inputs])

    def transposed(self, x: str, perm: Sequence[int], part: str = "") -> str:
        """Axes in the order ``perm``, samples included; x itself where the order is its own and no name is due."""
        if part and list(perm) == sorted(perm):
            return x
        return self.emit("Transpose", x, part=part, perm=list(perm))

    def variables(self, layer: Layer | None = None, frozen: Sequence[str] = (), /, **shapes: Shape | None) -> list[str]:
        """The vertices of the layer's variables, in Keras's order.

        Args:
            layer: whose variables (default: the one called).
            frozen: names of statistics, which become constants.
            shapes: name -> expected shape, or None for one that the layer does without.

        Raises:
            Refused: another number of variables, or other shapes.
        """
        layer = layer or self.layer
        expected = {name: shape for name, shape in shapes.items() if shape is not None}
        found = layer.weights.own(layer.path, expected)
        if len(found) != len(expected) or any(
            variable.shape != shape for variable, shape in zip(found, expected.values(), strict=False)
        ):
            got = ", ".join(str(variable.shape) for variable in found) or "none"
            wanted = ", ".join(f"{name} {shape}" for name, shape in expected.items())
            raise Refused(f"variables: got {got}; expected {wanted or 'none'} by its configuration")
        return [
            self._variable(layer, name, variable, name in frozen)
            for name, variable in zip(expected, found, strict=True)
        ]

    def _variable(self, layer: Layer, name: str, variable: Variable, frozen: bool) -> str:
        known = self.state.known
        if variable.key not in known:
            net, vertex = self.state.net, f"{layer.path}.{name}"
            while vertex in net:
                vertex += "_"
            value = variable.read()
            if frozen:
                net.add_constant(vertex, value)
            else:
                net.add_parameter(vertex, value, trainable=variable.trainable and layer.trainable)
            net.describe(vertex, source=variable.source)
            known[variable.key] = vertex
        return known[variable.key]

    def derived(self, parameter: str, op: str, part: str, **attributes: Any) -> str:
        """A parameter in the layout that an op wants; made once for all calls of a layer."""
        name = f"{parameter}.{part}"
        if name not in self.state.derived:
            if name in self.state.net:
                raise Refused(f"its vertex {name!r} has the name of another layer's")
            self.state.derived.add(self.state.add(name, op, [parameter], attributes))
        return name


Result = str | list[str]
Rule = Callable[[Call], Result]
# By the class names of Keras layers.
RULES: Table[Rule] = Table()
rule = RULES.rule


def refs(arguments: Any) -> list[Ref]:
    """All tensors in nested lists and mappings, those of a mapping in the order of its keys."""
    if isinstance(arguments, Ref):
        return [arguments]
    if isinstance(arguments, Mapping):
        return [ref for key in sorted(arguments, key=str) for ref in refs(arguments[key])]
    if isinstance(arguments, (list, tuple)):
        return [ref for item in arguments for ref in refs(item)]
    return []


def run(call: Call) -> list[str]:
    """Apply the rule of a call's layer; the vertices of its results.

    Raises:
        Refused: no rule, or one that cannot express this call.
    """
    if call.layer.kind not in RULES:
        raise Refused(_REASONS.get(call.layer.kind, NO_COUNTERPART))
    try:
        result = RULES[call.layer.kind](call)
    except GbnError as error:
        raise Refused(str(error)) from error
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        raise Refused(f"its configuration has a form that is not supported: {error!s:.200}") from error
    if call.option("training"):
        raise Refused("it is called with training=True, where it draws at random or mixes samples")
    left = [name for name, value in call.options.items() if value is not None and value is not False]
    if left:
        raise Refused(f"it is called with {', '.join(left)}, which the conversion does not know")
    return [result] if isinstance(result, str) else result


_REASONS = {
    "Lambda": "it holds Python code, which is not run; use a layer of Keras instead",
    "Masking": "masks that follow from the data have no counterpart",
}


def to_array(value: Any) -> np.ndarray[Any, Any]:
    """Numbers of a configuration as an array."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise Refused(f"got {str(value)[:60]}, expected numbers") from None
    return array
