"""The plate layer: source graphs may move or merge the axis of the samples, vertices never do.

Every vertex of a net carries samples on axis 0, ``(N, *event)``.  A source graph need not: recurrent layers want
``(T, N, H)``, attention ``(N * heads, T, d)``, a layer applied to each time step ``(N * T, C, H, W)``.  A converter
therefore keeps, beside the vertex of a tensor, its *layout*: the one source axis that has the number of samples as a
factor, of size ``before * N * after`` in flat order.  The event of the vertex is the other axes in source order, with
that axis replaced by ``before`` and ``after`` where they are not 1.  So a transposition that only moves the samples is
no vertex, and a reshape, which keeps flat order, is one of the event alone.

Interface, for tables of ATen and ONNX operations alike::

    plates = Plates(net)                        # or Plates(net, baked=n): sizes of the source were fixed at n samples
    x = plates.input("x", (3, 8), sample_axis=0)            # source shape (N, 3, 8); None: the event is all there is
    w = plates.parameter("fc.weight", array)
    c = plates.constant("mask", array)                      # folded as far as possible, a vertex where it is used
    y = plates.emit("Softmax", [x], name="att", axis=-1)    # ONNX semantics on the axes of the *source* tensor
    y.shape                                                 # (Samples(1), 3, 8): the source shape, N symbolic
    plates.vertex(y)                                        # the name of its vertex; plates.named(y, "att") insists
    plates.output(y)                                        # the vertex of an output of the net

``emit`` adds what is needed, the last vertex under ``name`` and others as ``name.part``; it may add none.  Sizes among
its attributes (``shape`` of Reshape and Expand, ``repeats`` of Tile, ``starts`` and ``ends`` of Slice) may be
:class:`Samples`.  What cannot be said sample by sample raises :class:`Refused`; the message is the reason.  How each
op acts on layouts is in ``converters/_plate_*.py``; an op that is in none of them is taken where samples are plainly
on axis 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from converters._rules import Table
from gbn import ops
from gbn.errors import ConversionError, UnsupportedLayer
from gbn.net import GaussianBayesNet

__all__ = [
    "OUTSIDE",
    "PLAIN",
    "RULES",
    "Call",
    "Constant",
    "Layout",
    "Plates",
    "Refused",
    "Samples",
    "Value",
    "refusal",
    "rule",
]

Array = np.ndarray[Any, Any]


class Refused(Exception):
    """An operation cannot be expressed; the message is the reason."""


def refusal(what: str, faults: Collection[UnsupportedLayer], remedy: str = "") -> ConversionError:
    """The error that lists the layers, or nodes, that cannot be expressed."""
    several = f"{len(faults)} {what}{'s' if len(faults) > 1 else ''}"
    if any("samples" in fault.reason for fault in faults):
        remedy = f"{remedy}\n{_AXIS}" if remedy else _AXIS
    return ConversionError(f"{several} of the model cannot be converted", faults, remedy)


_AXIS = (
    "Where the samples of the model are not on axis 0 of its inputs, say which axis it is, sample_axis=1, or None for "
    "inputs that are one sample as a whole."
)


@dataclass(frozen=True)
class Samples:
    """The size ``factor * N`` of an axis, N being the number of samples; it is no number."""

    factor: int = 1

    def __mul__(self, other: int) -> Samples:
        return Samples(self.factor * int(other))

    __rmul__ = __mul__

    def __floordiv__(self, other: int | Samples) -> int | Samples:
        divisor = other.factor if isinstance(other, Samples) else int(other)
        quotient, rest = divmod(self.factor, divisor)
        if rest:
            raise Refused(f"it divides {self} by {other}")
        return quotient if isinstance(other, Samples) else Samples(quotient)

    def __index__(self) -> int:
        raise Refused("it computes with the number of samples")

    def __float__(self) -> float:
        raise Refused("it computes with the number of samples")

    def __repr__(self) -> str:
        return "N" if self.factor == 1 else f"{self.factor}*N"


Size = int | Samples
Sizes = tuple[Size, ...]


def at_one(size: Size) -> int:
    """The size where there is one sample."""
    return size.factor if isinstance(size, Samples) else int(size)


@dataclass(frozen=True)
class Layout:
    """Where a source tensor has its samples.

    axis: the source axis of size before * N * after, in this flat order; None: the whole tensor is one sample's.
    """

    axis: int | None
    before: int = 1
    after: int = 1

    @cached_property
    def factors(self) -> tuple[int, ...]:
        """What stands in the event for the axis of the samples."""
        return tuple(size for size in (self.before, self.after) if size != 1)

    def shifted(self, steps: int) -> Layout:
        """The same, ``steps`` axes further to the right."""
        return self if self.axis is None or not steps else replace(self, axis=self.axis + steps)


PLAIN, OUTSIDE = Layout(0), Layout(None)


@dataclass(frozen=True, eq=False)
class Constant:
    """A number or table that the graph holds; a vertex, of this name, is made where one is needed."""

    name: str
    data: Array
    source: str | None = None


Handle = str | Constant


@dataclass(frozen=True)
class Value:
    """A tensor of the source graph.

    handle: its vertex, or the constant it is.
    layout: where the source has the samples; None: nowhere, the event is the source shape.
    event: shape of the vertex without samples.
    plated: whether it differs between samples.  Where it does not, but the source has an axis for them (initial states
        of zeros, a class token repeated for all), the handle has an axis of size 1 in their place.
    """

    handle: Handle
    layout: Layout | None
    event: tuple[int, ...]
    plated: bool

    @cached_property
    def row(self) -> tuple[int, ...]:
        """The source shape where there is one sample."""
        if self.layout is None or self.layout.axis is None:
            return self.event
        axis, factors = self.layout.axis, self.layout.factors
        return (*self.event[:axis], math.prod(factors), *self.event[axis + len(factors) :])

    @property
    def shape(self) -> Sizes:
        """The source shape."""
        if self.layout is None or self.layout.axis is None:
            return self.event
        row = self.row
        return (*row[: self.layout.axis], Samples(row[self.layout.axis]), *row[self.layout.axis + 1 :])

    @property
    def data(self) -> Array | None:
        """The array of a constant, without an axis for the samples; None for a vertex."""
        if not isinstance(self.handle, Constant):
            return None
        return self.handle.data if self.layout is None else self.handle.data[0]

    def position(self, axis: int) -> int:
        """The axis of the handle that is a source axis.

        Raises:
            Refused: it is the one of the samples.
        """
        axis = axis % len(self.row)
        if self.layout is None:
            return axis
        if self.layout.axis is None:
            return 1 + axis
        if axis == self.layout.axis:
            raise Refused(f"axis {axis} holds the samples, so it mixes samples")
        return 1 + axis if axis < self.layout.axis else axis + len(self.layout.factors)


@dataclass
class Call:
    """One emission, as a rule of the layer sees it: the op with its operands, on source axes."""

    plates: Plates
    op: str
    operands: list[Value]
    attributes: dict[str, Any]
    name: str

    def apply(self, op: str, handles: Sequence[Handle], part: str = "", **attributes: Any) -> Handle:
        """An op on handles: a vertex named after the call (or its part), or a folded constant."""
        return self.plates.apply(op, handles, f"{self.name}.{part}" if part else self.name, **attributes)

    def done(self, handles: Sequence[Handle], layout: Layout | None, part: str = "", **changes: Any) -> Value:
        """The op itself on handles, with attributes changed where axes moved (None takes one away)."""
        attributes = {key: value for key, value in (self.attributes | changes).items() if value is not None}
        return self.plates.wrap(self.apply(self.op, handles, part, **attributes), layout)

    def reshape(self, handle: Handle, event: Sequence[int], shared: bool, part: str = "") -> Handle:
        """A handle with another event; itself where that is its shape."""
        if self.plates.event_of(handle, shared) == tuple(event):
            return handle
        return self.apply("Reshape", [handle], part, shape=list(event) if shared else [0, *event])


Rule = Callable[[Call], Value]
# How ops act on layouts.
RULES: Table[Rule] = Table()
rule = RULES.rule


class Plates:
    """Adds vertices to a net by operations on source axes.

    Args:
        net: what the vertices are added to.
        baked: the number of samples for which sizes in the source graph were fixed; None where they are symbolic.
    """

    def __init__(self, net: GaussianBayesNet, baked: int | None = None) -> None:
        self.net, self.baked = net, baked
        self._made: dict[Constant, str] = {}
        self._numbers: dict[str, int] = {}

    def input(self, name: str, event: Sequence[int], sample_axis: int | None = 0) -> Value:
        """A data input.

        Args:
            event: the source shape without its axis of samples; the whole of it for ``sample_axis=None``.
            sample_axis: where the source has that axis, counted in the whole shape.
        """
        if sample_axis is not None and not -len(event) - 1 <= sample_axis <= len(event):
            raise Refused(f"sample_axis is {sample_axis}, but the input has {len(event) + 1} axes")
        layout = OUTSIDE if sample_axis is None else Layout(sample_axis % (len(event) + 1))
        name = self.net.add_input(self.unique(name), list(event))
        if not event:  # a number per sample is an event of shape (1,) in the net, and has no axis in the source
            name = self.net.add(self.unique(f"{name}.flat"), "Reshape", [name], shape=[-1])
        return Value(name, layout, tuple(event), True)

    def parameter(self, name: str, array: Array, trainable: bool = True) -> Value:
        """A weight, shared by all samples."""
        name = self.net.add_parameter(self.unique(name), array, trainable=trainable)
        self.net.describe(name, source=name)
        return Value(name, None, self.net[name].shape, False)

    def constant(self, name: str, array: Any, layout: Layout | None = None, source: str | None = None) -> Value:
        """A table the graph holds; with a layout, its source shape for one sample, equal for all samples."""
        data = np.asarray(array)
        if layout is None:
            return Value(Constant(name, data, source), None, data.shape, False)
        before, axis = data.shape, layout.axis
        event = before if axis is None else (*before[:axis], *layout.factors, *before[axis + 1 :])
        return Value(Constant(name, data.reshape((1, *event)), source), layout, event, False)

    def emit(self, op: str, operands: Sequence[Value], *, name: str, **attributes: Any) -> Value:
        """An operation of the source graph, with ONNX semantics on source axes.

        Raises:
            Refused: it mixes samples, or its operands hold them in ways that do not meet; the message is the reason.
            GraphError: as :meth:`gbn.net.GaussianBayesNet.add`.
        """
        return RULES.get(op, _where_plain)(Call(self, op, list(operands), attributes, name))

    def apply(self, op: str, handles: Sequence[Handle], name: str, **attributes: Any) -> Handle:
        """An op on vertices as they are; folded where all are constants."""
        if all(isinstance(handle, Constant) for handle in handles):
            arrays = [handle.data for handle in handles if isinstance(handle, Constant)]
            with np.errstate(all="ignore"):
                return Constant(name, np.asarray(ops.get(op)(*arrays, **attributes)[0]))
        return self.net.add(self.unique(name), op, [self.made(handle) for handle in handles], **attributes)

    def vertex(self, value: Value) -> str:
        """The vertex that holds the value."""
        return self.made(value.handle)

    def made(self, handle: Handle) -> str:
        """The vertex of a handle, made where it was a constant so far."""
        if not isinstance(handle, Constant):
            return handle
        if handle not in self._made:
            # Masks hold -inf, whose exponential is that of any very negative number.
            finite = np.nan_to_num(handle.data.astype(self.net.dtype), nan=np.nan, posinf=1e30, neginf=-1e30)
            self._made[handle] = self.net.add_constant(self.unique(handle.name), finite)
            if handle.source is not None:
                self.net.describe(self._made[handle], source=handle.source)
        return self._made[handle]

    def named(self, value: Value, name: str) -> Value:
        """The value under a name of its own."""
        vertex = self.vertex(value)
        if vertex == name:
            return value
        return replace(value, handle=self.net.add(self.unique(name), "Identity", [vertex]))

    def output(self, value: Value) -> str:
        """A vertex for an output of the net, one for each: an op, with the event of one sample."""
        vertex = self.vertex(value)
        if not value.plated and value.layout is not None:
            return self.net.add(self.unique(f"{vertex}.output"), "Reshape", [vertex], shape=list(value.event))
        if self.net[vertex].kind == "op":
            return vertex
        return self.net.add(self.unique(f"{vertex}.output"), "Identity", [vertex])

    def source(self, value: Value, array: Array) -> Array:
        """What the source graph has where the vertex has ``array``, shape (samples, *event)."""
        if value.layout is None or value.layout.axis is None:
            return array if value.layout is None else array[0]
        axis, step = value.layout.axis, int(value.layout.before != 1)
        moved = np.moveaxis(array, 0, axis + step)
        return moved.reshape(*value.row[:axis], value.row[axis] * len(array), *value.row[axis + 1 :])

    def rows(self, value: Value, array: Array) -> Array:
        """What the vertex has where the source graph has ``array``: the inverse of :meth:`source`."""
        if value.layout is None or value.layout.axis is None:
            return array if value.layout is None else array[None]
        axis, before, after = value.layout.axis, value.layout.before, value.layout.after
        split = array.reshape(*value.row[:axis], before, -1, after, *value.row[axis + 1 :])
        return np.moveaxis(split, axis + 1, 0).reshape(-1, *value.event)

    def wrap(self, handle: Handle, layout: Layout | None) -> Value:
        """The source tensor that a handle holds in a layout."""
        plated = not isinstance(handle, Constant) and self.net.vertices[handle].plated
        return Value(handle, layout, self.event_of(handle, layout is None), plated)

    def event_of(self, handle: Handle, shared: bool) -> tuple[int, ...]:
        """The shape of a handle without samples, which a ``shared`` one has no axis for."""
        if isinstance(handle, Constant):
            return handle.data.shape if shared else handle.data.shape[1:]
        vertex = self.net.vertices[handle]
        return vertex.shape if shared or vertex.plated else vertex.shape[1:]

    def unique(self, name: str) -> str:
        """The name, numbered where it is taken."""
        found = name
        while found in self.net:
            self._numbers[name] = self._numbers.get(name, 1) + 1
            found = f"{name}#{self._numbers[name]}"
        return found


def _where_plain(call: Call) -> Value:
    """An op without a rule: taken where samples are on axis 0 of all that varies."""
    layouts = {value.layout for value in call.operands} - {None}
    if layouts - {PLAIN}:
        raise Refused(f"{call.op} has no rule for samples that are not on axis 0 alone (converters/_plate_rules.py)")
    return call.done([value.handle for value in call.operands], PLAIN if layouts else None)


from converters import _plate_layers, _plate_rules, _plate_shapes  # noqa: E402, F401 - enter their rules into the table
