"""From an exported PyTorch graph to a net: vertices, and the names that a user knows them by."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Node

from converters._aten import ODD, RULES, Call, Refused, Samples, Value
from converters._export import Exported
from converters._names import PARTS, Names, innermost, is_tensor, kind_of, packet_of
from converters._plates import Layout, Plates, at_one, refusal
from converters._pt2 import MAX_ENTRIES
from gbn.errors import NO_COUNTERPART, ConversionError, GraphError, UnsupportedLayer
from gbn.net import GaussianBayesNet

__all__ = ["Builder"]

_FLOATS = (torch.float32, torch.float64)


class Builder:
    """Adds the vertices of an exported graph to a net, and gathers every layer that has no counterpart.

    inputs, outputs: the values of the user's tensors, in call order.
    """

    def __init__(self, exported: Exported, kinds: dict[str, str]) -> None:
        self.exported, self.kinds = exported, kinds
        self.program = exported.program
        self.names = Names(exported)
        self.faults: dict[tuple[str, str], UnsupportedLayer] = {}
        self.values: dict[Node, Any] = {}
        self.known: dict[Node, Any] = {}
        self.failed: set[Node] = set()
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.net = GaussianBayesNet(dtype=self._dtype())
        self.plates = Plates(self.net, exported.baked)

    def build(self) -> GaussianBayesNet:
        """The net.

        Raises:
            ConversionError: listing every operation that cannot be converted, with its path.
        """
        self._add_roots()
        for node in self.program.graph.nodes:
            if node.op == "call_function" and is_tensor(node):
                if node.users:
                    self._attempt(node, self._add_call)
            elif node.op not in ("placeholder", "output", "call_function"):
                self._fault(node, node.op, "control flow and submodules have no counterpart")
        outputs = self._outputs()
        if self.faults:
            raise refusal("layer", self.faults.values())
        self.outputs = [self._value(node) for node in outputs]
        taken = {parent for vertex in self.net.vertices.values() for parent in vertex.parents}
        names: list[str] = []
        for value in self.outputs:
            names.append(self._output(value, taken.union(names)))
        self.net.set_outputs(names)
        self._keep_sources()
        return self.net

    def _keep_sources(self) -> None:
        """Record the module's whole state: all names of tied weights, and what the graph does not use."""
        holder = {v.source: v.name for v in self.net.vertices.values() if v.kind in ("parameter", "constant")}
        first = _first_names(self.program.state_dict)
        for name, value in self.program.state_dict.items():
            # A vertex does not hold infinities as they are.
            kept = holder.get(first[name]) if value.isfinite().all() else None
            self.net.keep_source(name, _numpy(value), kept)

    def _dtype(self) -> np.dtype[Any]:
        """The dtype of the parameters; of the inputs where there are none."""
        specs = self.program.graph_signature.input_specs
        values = [v for s in specs if s.kind is InputKind.PARAMETER for v in [self._stored(s.target)]]
        values = values or [node.meta["val"] for node in self.exported.placeholders()]
        found = {value.dtype for value in values if isinstance(value, torch.Tensor) and kind_of(value) == "f"}
        if found - set(_FLOATS):
            raise ConversionError(
                f"dtype: got {', '.join(sorted(map(str, found)))}, expected float32 or float64; convert a copy of the "
                "module made with module.float() or module.double()"
            )
        return np.dtype(np.float64 if torch.float64 in found else np.float32)

    def _stored(self, target: str | None) -> Any:
        program = self.program
        return program.state_dict[target] if target in program.state_dict else program.constants.get(target)

    def _add_roots(self) -> None:
        nodes = {node.name: node for node in self.program.graph.nodes if node.op == "placeholder"}
        canonical = _first_names(self.program.state_dict)
        axes = iter(self.exported.axes)
        for spec in self.program.graph_signature.input_specs:
            node = nodes.get(getattr(spec.arg, "name", ""))
            if node is None or (not node.users and spec.kind is not InputKind.USER_INPUT):
                continue
            if spec.kind is InputKind.USER_INPUT:
                if isinstance(node.meta.get("val"), torch.Tensor):
                    axis = next(axes)
                    self._attempt(node, lambda node, axis=axis: self._add_input(node, axis))  # type: ignore[misc]
            elif spec.kind is InputKind.PARAMETER:
                self._add_parameter(node, canonical[str(spec.target)])
            else:
                self.known[node] = self._stored(spec.target)
                node.meta["source"] = str(spec.target)

    def _add_parameter(self, node: Node, name: str) -> None:
        if name in self.net:
            self.values[node] = self.plates.wrap(name, None)
            return
        value = self._stored(name)
        self.values[node] = self.plates.parameter(name, _numpy(value), trainable=bool(value.requires_grad))

    def _add_input(self, node: Node, axis: int | None) -> None:
        sizes = list(self.exported.shape(node))
        if axis is not None:
            sizes.pop(axis)
        if any(isinstance(size, Samples) or size is ODD for size in sizes):
            raise Refused("it needs a sample axis, and no other axis of varying size")
        value = self.plates.input(node.name, [int(size) for size in sizes], axis)
        self.values[node] = value
        self.inputs.append(value)

    def _attempt(self, node: Node, add: Callable[[Node], None]) -> None:
        """Run ``add``; where it fails, note the layer and go on, so that one error names them all."""
        if any(parent in self.failed for parent in node.all_input_nodes):
            self.failed.add(node)
            packet = packet_of(node)
            if node.op == "call_function" and packet not in RULES and packet not in PARTS and packet != "getitem":
                self._fault(node, packet, NO_COUNTERPART)
            return
        try:
            add(node)
        except Refused as error:
            self._fault(node, packet_of(node) if node.op == "call_function" else "input", str(error))
        except GraphError as error:
            self._fault(node, packet_of(node), str(error))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            self._fault(node, packet_of(node), f"arguments of a form that is not supported: {error}")

    def _fault(self, node: Node, operation: str, reason: str) -> None:
        self._stand_in(node)
        place = self.names.place(node)
        self.faults.setdefault((place, operation), UnsupportedLayer(place, self._described(node, operation), reason))

    def _stand_in(self, node: Node) -> None:
        """A root in place of a vertex that could not be made, so that the layers after it are tried as well."""
        shape = self.exported.shape(node)
        free = [k for k, size in enumerate(shape) if isinstance(size, Samples)]
        name = self.plates.unique(f"{node.name} (missing)")
        if not is_tensor(node) or len(free) > 1 or ODD in shape or node.op == "output" or self._is_too_large(node):
            self.failed.add(node)
        elif free:
            layout = Layout(free[0], 1, at_one(shape[free[0]]))
            row = [at_one(size) for size in shape]
            event = [*row[: free[0]], *layout.factors, *row[free[0] + 1 :]]
            self.values[node] = Value(self.net.add_input(name, event), layout, tuple(event), True)
        else:
            self.values[node] = self.plates.constant(name, np.ones([int(size) for size in shape]))

    def _is_too_large(self, node: Node) -> bool:
        sizes = [1 if size is ODD else at_one(size) for size in self.exported.shape(node)]
        return math.prod(sizes) > MAX_ENTRIES

    def _described(self, node: Node, operation: str) -> str:
        """The layer's class beside the operation, where the operation is inside a layer."""
        path = innermost(node)[1]
        kind = self.kinds.get(path) if path else None
        return f"{kind}: {operation}" if kind else operation

    def _add_call(self, node: Node) -> None:
        packet = packet_of(node)
        if packet == "getitem":
            self._add_item(node)
            return
        if not hasattr(node.target, "_schema"):
            raise Refused(NO_COUNTERPART)
        arguments = self.exported.arguments(node)
        if self._fold(node, arguments):
            return
        if packet not in RULES:
            raise Refused(_why_not(node, arguments))
        if self.names.silent(node) and not arguments.get("train") and not arguments.get("training"):
            self.values[node] = self._value(node.args[0])
            return
        name = self.names.of(node)
        resolved = {key: self._resolved(value) for key, value in arguments.items()}
        kinds = {key: kind_of(v.meta.get("val")) for key, v in arguments.items() if isinstance(v, Node)}
        call = Call(self.plates, packet, self.plates.unique(name), resolved, self.exported.shape(node),
                    kinds | {"": kind_of(node.meta["val"])})  # fmt: skip
        result = RULES[packet](call)
        if isinstance(result, Value):
            result = self._checked(node, result)
            if self.names.is_path(node) and result.handle in [v.handle for v in resolved.values() if _is_value(v)]:
                result = self.plates.named(result, name)
        self.values[node] = result

    def _checked(self, node: Node, value: Value, index: int = 0) -> Value:
        """The value, if its shape is that of the source graph."""
        baked, wanted = self.plates.baked, self.exported.shape(node, index)
        got = tuple(size.factor * baked if baked and isinstance(size, Samples) else size for size in value.shape)
        if got != wanted and (value.layout is not None or any(isinstance(size, Samples) for size in wanted)):
            broadcast = len(got) == len(wanted) and all(g == w or g == 1 for g, w in zip(got, wanted, strict=True))
            if not (broadcast and not value.plated):
                raise Refused(f"its shape is {got}, where the model has {wanted}")
        return value

    def _resolved(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._resolved(entry) for entry in value]
        return self._value(value) if isinstance(value, Node) else value

    def _value(self, node: Any) -> Value:
        if node not in self.values:
            source = node.meta.get("source")
            self.values[node] = self.plates.constant(source or node.name, _numpy(self.known[node]), source=source)
        return self.values[node]  # type: ignore[no-any-return]

    def _add_item(self, node: Node) -> None:
        source, index = node.args
        if source in self.known:
            self.known[node] = self.known[source][index]
            return
        results = self.values[source]
        if isinstance(results, Value):
            if index != 0:
                raise Refused(f"result {index} of {packet_of(source)} has no counterpart")
            self.values[node] = results
            return
        name = self.names.of(node) if packet_of(source) in PARTS else self.names.of(source)
        self.values[node] = self._checked(node, results[int(index)](self.plates.unique(name)))

    def _fold(self, node: Node, arguments: dict[str, Any]) -> bool:
        """Compute a node that depends on constants alone; whether it was one."""
        if any(parent not in self.known for parent in node.all_input_nodes if is_tensor(parent)):
            return False
        if torch.Tag.nondeterministic_seeded in node.target.tags:  # type: ignore[union-attr]
            raise Refused("it draws at random")
        if any(_is_free(entry) for value in arguments.values() for entry in (value if _is_list(value) else [value])):
            return False
        if self._is_too_large(node):
            raise Refused(f"a constant of shape {self.exported.shape(node)}, which would take all memory")
        values = torch.fx.node.map_arg(tuple(arguments.values()), lambda parent: self.known[parent])
        schema = node.target._schema.arguments  # type: ignore[union-attr]
        positional = [v for a, v in zip(schema, values, strict=True) if not a.kwarg_only]
        keywords = {a.name: v for a, v in zip(schema, values, strict=True) if a.kwarg_only}
        result = node.target(*positional, **keywords)  # type: ignore[operator]
        if not isinstance(result, (torch.Tensor, tuple, list)):
            return False
        self.known[node] = result
        return True

    def _outputs(self) -> list[Node]:
        """The nodes that the model returns."""
        (output,) = (node for node in self.program.graph.nodes if node.op == "output")
        found = []
        for spec, node in zip(self.program.graph_signature.output_specs, output.args[0], strict=True):
            if spec.kind is not OutputKind.USER_OUTPUT:
                self._fault(output, "buffer update", f"{spec.target} changes at each call; a net has no memory")
            elif isinstance(node, Node) and is_tensor(node):
                found.append(node)
                if kind_of(node.meta["val"]) != "f" and node not in self.failed:
                    kind = node.meta["val"].dtype
                    self._fault(node, packet_of(node), f"an output of {kind} is not a number with a derivative")
        return found

    def _output(self, value: Value, taken: set[str]) -> str:
        """The vertex of an output: an op of its own without children, since outputs are observed."""
        name = self.plates.output(value)
        if name not in taken:
            return name
        return self.net.add(self.plates.unique(f"{name}.output"), "Identity", [name])


def _is_value(argument: Any) -> bool:
    return isinstance(argument, Value)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_free(value: Any) -> bool:
    return isinstance(value, Samples) or value is ODD


def _why_not(node: Node, arguments: dict[str, Any]) -> str:
    if torch.Tag.nondeterministic_seeded in node.target.tags:  # type: ignore[union-attr]
        return "it draws at random"
    if any(map(_is_free, arguments.values())):
        return "it computes with the number of samples"
    return NO_COUNTERPART


def _numpy(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    tensor = tensor.detach().cpu()
    # Numpy has no bfloat16, which a buffer that nothing uses may be of.
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()


def _first_names(state: dict[str, Any]) -> dict[str, str]:
    """name -> the first name, in state_dict order, of the same tensor: tied weights share their storage."""
    first: dict[tuple[Any, ...], str] = {}
    names: dict[str, str] = {}
    for name, value in state.items():
        key = (value.data_ptr(), value.storage_offset(), tuple(value.shape), value.stride(), value.numel() or name)
        names[name] = first.setdefault(key, name)
    return names
