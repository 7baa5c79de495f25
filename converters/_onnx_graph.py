"""From an ONNX graph to a net: nodes in order, each by the rule of its operator, its function body, or its subgraph."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from converters import _onnx_control, _onnx_recurrent, _onnx_rules, _onnx_sequences  # noqa: F401 - enter their rules
from converters._onnx_call import RULES, Array, Call, Failed, Node, Pair, Value
from converters._onnx_fold import FOLDS, dtype_of, fold
from converters._onnx_read import LIMIT, array_of, sparse_array_of
from converters._onnx_scope import DEPTH, NODES, TOO_DEEP, TOO_MANY, Library, Scope, names_read, parse
from converters._onnx_vertices import Vertices, clean
from converters._plates import Refused, refusal
from gbn import ops
from gbn.errors import NO_COUNTERPART, ConversionError, GraphError, UnsupportedLayer
from gbn.net import GaussianBayesNet

__all__ = ["Builder"]

_REMEDY = (
    "An op under its ONNX name needs no rule; an operator that is a function of others may be one of the model "
    "(onnx.FunctionProto)."
)
# Their results are numbers even where the inputs are weights.
_COUNTS = frozenset(
    {"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Not", "And", "Or", "IsNaN", "NonZero"}
)


class Builder(Vertices):
    """Adds the vertices of a model to a net, and gathers every node that has no counterpart.

    Args:
        model, folder: the model, and where its external data is.
        sizes: input -> shape in the source, None at the axis of the samples.
        baked: the number of samples the model was exported for; None where it takes any.
    """

    def __init__(
        self, model: onnx.ModelProto, folder: Path | None, sizes: dict[str, list[int | None]], baked: int | None
    ) -> None:
        super().__init__(_dtype(model), baked)
        self.model, self.folder, self.sizes = model, folder, sizes
        self.library = Library(model)
        self.library.check_size(model.graph.node)
        self.faults: dict[tuple[str, str], UnsupportedLayer] = {}
        self.count = 0
        self.results: list[Any] = []
        self.declared = {v.name: v for v in [*model.graph.value_info, *model.graph.output]}

    def build(self) -> GaussianBayesNet:
        """The net.

        Raises:
            ConversionError: listing every node that cannot be converted.
        """
        scope = Scope("", self.library.imports)
        graph = self.model.graph
        self._add_initialisers(graph, scope)
        for info in graph.input:
            if info.name not in scope:
                self._add_input(info, scope)
        self.run(graph.node, scope, [info.name for info in graph.output])
        outputs = [self._fetch(info.name, scope) for info in graph.output]
        for info, value in zip(graph.output, outputs, strict=True):
            if value is not None:
                self._guarded(info.name, "output", partial(self._make, value))
        if self.faults:
            missing = any(fault.reason == NO_COUNTERPART for fault in self.faults.values())
            raise refusal("node", self.faults.values(), _REMEDY if missing else "")
        self.net.set_outputs([self._output(i.name, v) for i, v in zip(graph.output, outputs, strict=True)])
        return self.net

    def _add_initialisers(self, graph: onnx.GraphProto, scope: Scope) -> None:
        for tensor in graph.initializer:
            if not self._guarded(tensor.name, "initialiser", partial(self.add_tensor, tensor, scope)):
                scope.fail(tensor.name)
        for sparse in graph.sparse_initializer:
            name = sparse.values.name
            array = sparse_array_of(sparse, self.folder)
            scope.define(name, Value.of(name, array, learned=array.dtype.kind == "f", source=name))

    def add_tensor(self, tensor: TensorProto, scope: Scope) -> None:
        """A weight is read when it is used; a scalar is a number that the exporter took out of the code."""
        shape, dtype = tuple(tensor.dims), dtype_of(tensor.data_type)

        def read() -> Pair:
            array = array_of(tensor, self.folder)
            return array, array

        learned = dtype.kind == "f" and len(shape) > 0
        source = tensor.name if scope.parent is None else None
        scope.define(tensor.name, Value(scope.name(tensor.name), (shape, shape), dtype, read, learned, source))

    def _add_input(self, info: onnx.ValueInfoProto, scope: Scope) -> None:
        def add() -> None:
            sizes = self.sizes[info.name]
            dtype = dtype_of(info.type.tensor_type.elem_type)
            axis = sizes.index(None) if None in sizes else None
            event = [size for size in sizes if size is not None]
            if math.prod(event) > LIMIT:
                raise Refused(f"its shape {tuple(event)} has more than {LIMIT} entries")
            ref = self.plates.input(clean(info.name), tuple(event), sample_axis=axis)
            self._note(ref, info.name)
            scope.define(info.name, Value(info.name, self.trial_shapes(ref.shape), dtype, ref=ref))

        self._guarded(info.name, "input", add)
        if info.name not in scope:
            scope.fail(info.name)

    def _note(self, ref: Any, source: str) -> None:
        """Record the name in the source, where the vertex could not have it."""
        vertex = self.plates.vertex(ref)
        if vertex != source:
            self.net.describe(vertex, source=source)

    def _guarded(self, place: str, operation: str, action: Callable[[], None]) -> bool:
        """Run an action; where it is refused, note what for and go on, so that one error names them all."""
        try:
            action()
        except Failed:
            return False
        except Refused as error:
            self._fault(place, operation, str(error))
        except GraphError as error:
            self._fault(place, operation, str(error))
        except (ValueError, TypeError, KeyError, IndexError, ArithmeticError, AttributeError) as error:
            if isinstance(error, ConversionError):
                raise
            self._fault(place, operation, f"a form that is not supported: {type(error).__name__}: {error}")
        else:
            return True
        return False

    def _fault(self, place: str, operation: str, reason: str) -> None:
        """Note a node that cannot be converted."""
        self.faults.setdefault((place, operation), UnsupportedLayer(place, operation, reason))

    def run(self, nodes: Sequence[onnx.NodeProto], scope: Scope, results: Iterable[str]) -> None:
        """Convert the nodes of a graph or of a function whose results are named."""
        if scope.depth > DEPTH:
            raise ConversionError(TOO_DEEP)
        scope.used = names_read(nodes) | set(results)
        for message in nodes:
            self.count += 1
            if self.count > NODES:
                raise ConversionError(TOO_MANY)
            node = parse(message, scope)
            if not self._guarded(scope.place(node), node.op, partial(self._convert, node, scope)):
                for name in node.outputs:
                    self._stand_in(name, scope)

    def _stand_in(self, name: str, scope: Scope) -> None:
        """A value in place of one that could not be made, so that the nodes after it are tried as well."""
        if name and name not in scope.values:
            scope.fail(name)

    def _fetch(self, name: str, scope: Scope) -> Value | None:
        value = scope.get(name)
        if value is None and not self.faults:
            raise ConversionError(f"{name!r} is computed by no node before it is used: the graph is unsorted or cyclic")
        return value

    def _convert(self, node: Node, scope: Scope) -> None:
        inputs: list[Value | None] = []
        for name in node.inputs:
            if not name:
                inputs.append(None)
            elif name not in scope:
                raise Refused(f"its input {name!r} is computed by no node before it: the graph is unsorted or cyclic")
            else:
                inputs.append(scope.get(name))
        missing = any(value is None and name for value, name in zip(inputs, node.inputs, strict=True))
        function = self.library.find(node)
        if missing:
            # What could not be made upstream has been noted there.
            if function is None and not self._has_counterpart(node):
                raise Refused(self._why_not(node))
            for name in node.outputs:
                self._stand_in(name, scope)
            return
        call = Call(self, node, inputs, [scope.name(name) if name else "" for name in node.outputs], scope)
        results = self._evaluate(call) if function is None else self._inline(call, function)
        for k, name in enumerate(node.outputs):
            result = results[k] if k < len(results) else None
            if name:
                scope.define(name, self._absent(node, k, name) if result is None else result)
                if result is not None:
                    self._check_declared(name, result, scope)

    def _absent(self, node: Node, k: int, name: str) -> Value:
        """A result that has no counterpart: an error only where it is used."""

        def read() -> Pair:
            raise Refused(f"result {k} of {node.op}, {name!r}, has no counterpart")

        return Value(name, ((), ()), np.dtype(np.float32), read)

    def _check_declared(self, name: str, value: Value, scope: Scope) -> None:
        """The model's own shapes, where it has any, are those of the net."""
        info = self.declared.get(name) if scope.parent is None else None
        if (
            info is None
            or info.type.WhichOneof("value") != "tensor_type"
            or not info.type.tensor_type.HasField("shape")
        ):
            return
        dims = info.type.tensor_type.shape.dim
        # What varies with the number of samples was declared for the model's own, if at all.
        sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]
        fits = len(sizes) == value.rank and all(
            size is None or size in (a, a if a == b else size) for size, a, b in zip(sizes, *value.shapes, strict=True)
        )
        if not fits:
            got = tuple(a if a == b else "N" for a, b in zip(*value.shapes, strict=False))
            raise Refused(f"its result {name!r} has the shape {got}, but the model declares {tuple(sizes)}")

    def _evaluate(self, call: Call) -> Sequence[Value | None]:
        node = call.node
        ours = self._standard(node) and node.op in ops.OPS
        if self._standard(node):
            folded = self._folded(call)
            if folded is not None:
                return folded
            if node.op in RULES:
                result = RULES[node.op](call)
                return result if isinstance(result, list) else [result]
        # An op has one result; where more are used, they come from what the operator consists of.
        body = None if ours and sum(call.wanted) < 2 else self.library.body(call)
        if ours and body is None:
            return [_onnx_rules.generic(call)]
        if body is None:
            raise Refused(self._why_not(node))
        return self._inline(call, body)

    @staticmethod
    def _standard(node: Node) -> bool:
        return node.domain == ""

    def _has_counterpart(self, node: Node) -> bool:
        ours = self._standard(node) and (node.op in RULES or node.op in ops.OPS)
        return ours or self.library.is_composite(node)

    def _why_not(self, node: Node) -> str:
        if not self._standard(node):
            return f"the domain {node.domain!r} is not ONNX's own, and the model has no function of this name"
        if node.op in FOLDS:
            return "no counterpart, unless its inputs are constants: here they are computed from the data"
        return NO_COUNTERPART

    def _folded(self, call: Call) -> list[Value | None] | None:
        """The results of a node whose inputs are constants but no weights; None for any other."""
        node, given = call.node, [value for value in call.inputs if value is not None]
        if node.op not in FOLDS or not all(value.known for value in given):
            return None
        if any(value.learned for value in given) and not self._is_count(node):
            return None
        pairs = [None if value is None else value.arrays for value in call.inputs]
        first = fold(node, [None if pair is None else pair[0] for pair in pairs])
        self.spend(sum(array.size for array in first))
        fixed = all(pair is None or pair[0] is pair[1] for pair in pairs)
        second = first if fixed else self._fold_again(node, pairs)
        return [Value.of(n or call.label(), a, b) for n, a, b in zip(call.names, first, second, strict=False)]

    def _fold_again(self, node: Node, pairs: Sequence[Pair | None]) -> list[Array]:
        """The results for the other trial number of samples; literals that were fixed to one number follow it."""
        arrays = [None if pair is None else pair[1] for pair in pairs]
        try:
            return fold(node, arrays)
        except Refused:
            return fold(node, [None if array is None else self._one_row(array) for array in arrays])

    def _one_row(self, array: Array) -> Array:
        """An array with one row in place of as many equal ones as the model was fixed to."""
        axes = [axis for axis, size in enumerate(array.shape) if size == self.plates.baked and array.ndim > 1]
        for axis in axes:
            row = array.take([0], axis=axis)
            array = row if (row == array).all() else array
        return array

    @staticmethod
    def _is_count(node: Node) -> bool:
        cast = node.op == "Cast" and dtype_of(int(node.attributes["to"])).kind != "f"
        return cast or node.op in _COUNTS

    def _inline(self, call: Call, function: onnx.FunctionProto) -> list[Value | None]:
        """The nodes of a function, in a scope of their own; its results keep the names of the call's."""
        scope = call.scope.function(call, function, self.library.imports)
        for name, value in zip(function.input, call.inputs, strict=False):
            if value is not None:
                scope.define(name, value)
        for name in function.input[len(call.inputs) :]:
            scope.leave_out(name)
        for name, value in zip(function.input, call.inputs, strict=False):
            if value is None:
                scope.leave_out(name)
        wanted = [inner for inner, outer in zip(function.output, call.wanted, strict=False) if outer]
        self.run(function.node, scope, wanted)
        if any(scope.get(name) is None for name in wanted):
            raise Failed
        return [scope.get(name) for name in function.output]

    def _make(self, value: Value) -> None:
        self.plates.vertex(self.ref(value))

    def _output(self, name: str, value: Value | None) -> str:
        if value is None:
            raise ConversionError(f"output {name!r} is computed by no node")
        ref = self.ref(value)
        if self.net[self.plates.vertex(ref)].kind == "op":
            ref = self.plates.named(ref, clean(name))
        self.results.append(ref)
        return self.plates.output(ref)


def _dtype(model: onnx.ModelProto) -> np.dtype[Any]:
    """Of the weights; of the inputs where there are none."""
    weights = [tensor.data_type for tensor in model.graph.initializer]
    inputs = [info.type.tensor_type.elem_type for info in model.graph.input]
    return np.dtype(np.float64 if TensorProto.DOUBLE in [*weights, *inputs] else np.float32)


def build(
    model: onnx.ModelProto, folder: Path | None, sizes: dict[str, list[int | None]], baked: int | None
) -> Builder:
    """The builder of a model, its net complete.

    Raises:
        ConversionError: listing every node that cannot be converted.
    """
    builder = Builder(model, folder, sizes, baked)
    builder.build()
    return builder
