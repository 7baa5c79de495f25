"""From an exported PyTorch graph to a net: vertices, and the names that a user knows them by."""

from __future__ import annotations

import math
import operator
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Node

from converters._aten import FREE, PARTS, RULES, Call, Ref, Refused, is_alias
from converters._export import Exported
from converters._pt2 import MAX_ENTRIES
from gbn.errors import NO_COUNTERPART, ConversionError, GraphError, UnsupportedLayer
from gbn.net import GaussianBayesNet

__all__ = ["Builder"]

_FLOATS = (torch.float32, torch.float64)


def packet_of(node: Node) -> str:
    """The ATen name without its overload; other namespaces keep theirs."""
    if node.target is operator.getitem:
        return "getitem"
    schema = getattr(node.target, "_schema", None)
    name = schema.name if schema is not None else str(node.target)
    return name.removeprefix("aten::")


def is_tensor(node: Node) -> bool:
    """Whether a node holds one tensor or several, rather than a size or nothing."""
    return isinstance(node.meta.get("val"), (torch.Tensor, tuple, list))


class Names:
    """Vertex names: the last operation of a module call is the module's path, others are inside it or the graph's."""

    def __init__(self, exported: Exported) -> None:
        self.exported = exported
        self.calls: dict[str, list[Node]] = defaultdict(list)
        for node in exported.program.graph.nodes:
            if node.op == "call_function" and is_tensor(node):
                for key, _ in _module_stack(node):
                    self.calls[key].append(node)
        self.last = {key: self._last(nodes) for key, nodes in self.calls.items()}

    def passes(self, node: Node) -> bool:
        """Whether a node is no operation: it returns its input, or several results of which others take one."""
        packet = packet_of(node)
        if packet == "getitem":
            return packet_of(node.args[0]) not in PARTS
        return packet in PARTS or (hasattr(node.target, "_schema") and is_alias(packet, self.exported.arguments(node)))

    def silent(self, node: Node) -> bool:
        """Whether a node makes no vertex: it passes its input on, and is not all that a module of the user's does."""
        key, path = _innermost(node)
        return self.passes(node) and (not path or self.last[key] is not node)

    def _last(self, nodes: list[Node]) -> Node:
        busy = [node for node in nodes if not self.passes(node)]
        return (busy or nodes)[-1]

    def of(self, node: Node) -> str:
        """The name of the vertex that holds the node's result."""
        key, path = _innermost(node)
        if path and self.last[key] is node:
            return path + _call_number(key)
        name = node.name
        if packet_of(node) == "getitem" and packet_of(node.args[0]) in PARTS:
            name = f"{node.args[0].name}.{node.args[1]}"
        return f"{path}.{name}" if path else name

    def place(self, node: Node) -> str:
        """Where in the model a node is, for messages."""
        path = _innermost(node)[1]
        return path or node.name


def _module_stack(node: Node) -> list[tuple[str, str]]:
    """(key of the call, path of the module), outermost first."""
    stack = node.meta.get("nn_module_stack") or {}
    return [(key, path) for key, (path, _) in stack.items() if not key.startswith("_empty")]


def _innermost(node: Node) -> tuple[str, str]:
    stack = _module_stack(node)
    return stack[-1] if stack else ("", "")


def _call_number(key: str) -> str:
    """Torch numbers the repeated calls of a module from @1; the second one is #2 here."""
    number = key.rpartition("@")[2] if "@" in key else ""
    return f"#{int(number) + 1}" if number.isdigit() else ""


class Builder:
    """Adds the vertices of an exported graph to a net, and gathers every layer that has no counterpart."""

    def __init__(self, exported: Exported, kinds: dict[str, str]) -> None:
        self.exported, self.kinds = exported, kinds
        self.program = exported.program
        self.names = Names(exported)
        self.faults: dict[tuple[str, str], UnsupportedLayer] = {}
        self.vertex: dict[Node, str] = {}
        self.known: dict[Node, torch.Tensor] = {}
        self.failed: set[Node] = set()
        self.net = GaussianBayesNet(dtype=self._dtype())

    def build(self) -> GaussianBayesNet:
        """The net.

        Raises:
            ConversionError: listing every operation that cannot be converted, with its path.
        """
        self._add_roots()
        for node in self.program.graph.nodes:
            if node.op == "call_function" and is_tensor(node):
                self._attempt(node, self._add_call)
            elif node.op not in ("placeholder", "output", "call_function"):
                self._fault(node, node.op, "control flow and submodules have no counterpart")
        outputs = self._outputs()
        if self.faults:
            count = len(self.faults)
            raise ConversionError(
                f"{count} layer{'s' if count > 1 else ''} of the model cannot be converted", self.faults.values()
            )
        names: list[str] = []
        for node in outputs:
            names.append(self._output(node, names))
        self.net.set_outputs(names)
        self._keep_sources()
        return self.net

    def _dtype(self) -> np.dtype[Any]:
        """The dtype of the parameters; of the inputs where there are none."""
        specs = self.program.graph_signature.input_specs
        values = [v for s in specs if s.kind is InputKind.PARAMETER for v in [self._stored(s.target)]]
        values = values or [node.meta["val"] for node in self.exported.placeholders()]
        found = {value.dtype for value in values if isinstance(value, torch.Tensor)}
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
        for spec in self.program.graph_signature.input_specs:
            node = nodes.get(getattr(spec.arg, "name", ""))
            if node is None or (not node.users and spec.kind is not InputKind.USER_INPUT):
                continue
            if spec.kind is InputKind.USER_INPUT:
                self._attempt(node, self._add_input)
            elif spec.kind is InputKind.PARAMETER:
                self._add_parameter(node, canonical[str(spec.target)])
            else:
                self.known[node] = self._stored(spec.target)
                node.meta["source"] = str(spec.target)

    def _add_parameter(self, node: Node, name: str) -> None:
        if name not in self.net:
            value = self._stored(name)
            self.net.add_parameter(name, _numpy(value), trainable=bool(value.requires_grad))
            self.net.describe(name, source=name)
        self.vertex[node] = name

    def _keep_sources(self) -> None:
        """Record the module's whole state: all names of tied weights, and what the graph does not use."""
        holder = {v.source: v.name for v in self.net.vertices.values() if v.kind in ("parameter", "constant")}
        first = _first_names(self.program.state_dict)
        for name, value in self.program.state_dict.items():
            # A vertex does not hold infinities as they are.
            kept = holder.get(first[name]) if value.isfinite().all() else None
            self.net.keep_source(name, _numpy(value), kept)

    def _add_input(self, node: Node) -> None:
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            return
        shape = self.exported.shape(node)
        if value.dtype not in _FLOATS:
            raise Refused(f"its dtype is {value.dtype}; only floating-point inputs have a Gaussian")
        if not shape or None in shape[1:]:
            raise Refused("it needs a sample axis, and no other axis of varying size")
        name = self._unique(node.name)
        self.net.add_input(name, [int(size or 0) for size in shape[1:]])
        # A number per sample is an event of shape (1,) in the net and has no axis in torch.
        flat = len(shape) == 1
        self.vertex[node] = self.net.add(f"{name}.flat", "Reshape", [name], shape=[-1]) if flat else name

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
        except (KeyError, TypeError, ValueError) as error:
            self._fault(node, packet_of(node), f"arguments of a form that is not supported: {error}")

    def _fault(self, node: Node, operation: str, reason: str) -> None:
        self._stand_in(node)
        place = self.names.place(node)
        self.faults.setdefault((place, operation), UnsupportedLayer(place, self._described(node, operation), reason))

    def _stand_in(self, node: Node) -> None:
        """A root in place of a vertex that could not be made, so that the layers after it are tried as well."""
        shape = self.exported.shape(node)
        name = self._unique(f"{node.name} (missing)")
        if not is_tensor(node) or None in shape[1:] or node.op == "output" or self._is_too_large(node):
            self.failed.add(node)
        elif shape[:1] == (None,):
            self.vertex[node] = self.net.add_input(name, [int(size or 0) for size in shape[1:]])
        else:
            self.vertex[node] = self.net.add_constant(name, np.ones([int(size or 0) for size in shape]))

    def _is_too_large(self, node: Node) -> bool:
        return math.prod(size or 1 for size in self.exported.shape(node)) > MAX_ENTRIES

    def _described(self, node: Node, operation: str) -> str:
        """The layer's class beside the operation, where the operation is inside a layer."""
        path = _innermost(node)[1]
        kind = self.kinds.get(path) if path else None
        return f"{kind}: {operation}" if kind else operation

    def _add_call(self, node: Node) -> None:
        packet = packet_of(node)
        if packet in PARTS:
            return
        if packet == "getitem":
            self._add_item(node)
            return
        arguments = self.exported.arguments(node)
        if self._fold(node, arguments):
            return
        if packet not in RULES:
            raise Refused(NO_COUNTERPART)
        value = node.meta["val"]
        value = value[0] if isinstance(value, (tuple, list)) else value
        if value.dtype not in _FLOATS:
            raise Refused(f"its result is {value.dtype}, not a number with a derivative")
        if self.names.silent(node) and not arguments.get("train") and not arguments.get("training"):
            self.vertex[node] = self._ref(node.args[0]).vertex
            return
        self._emit(node, packet, arguments)

    def _emit(self, node: Node, packet: str, arguments: dict[str, Any]) -> None:
        name = self._unique(self.names.of(node))
        resolved = {key: self._resolved(value) for key, value in arguments.items()}
        self.vertex[node] = RULES[packet](Call(self.net, name, resolved, self.exported.shape(node)))

    def _resolved(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._resolved(entry) for entry in value]
        return self._ref(value) if isinstance(value, Node) else value

    def _ref(self, node: Any) -> Ref:
        if node not in self.vertex and node in self.known:
            name = self._unique(node.meta.get("source", node.name))
            # Masks hold -inf, whose exponential is that of any very negative number.
            finite = np.nan_to_num(_numpy(self.known[node]), nan=np.nan, posinf=1e30, neginf=-1e30)
            self.vertex[node] = self.net.add_constant(name, finite)
            self.net.describe(name, source=node.meta.get("source"))
        return Ref(self.vertex[node], self.exported.shape(node))

    def _add_item(self, node: Node) -> None:
        source, index = node.args
        packet = packet_of(source)
        if packet not in PARTS:
            if index != 0:
                raise Refused(f"result {index} of {packet} has no counterpart")
            self.vertex[node] = self.vertex[source]
            return
        arguments = self.exported.arguments(source)
        axis = int(arguments.get("dim") or 0)
        results = source.meta["val"]
        whole = packet == "unbind"
        sizes = [1 if whole else int(value.shape[axis]) for value in results]
        self._emit(node, packet, arguments | {"index": index, "sizes": sizes, "squeeze": whole})

    def _fold(self, node: Node, arguments: dict[str, Any]) -> bool:
        """Compute a node that depends on constants alone; whether it was one."""
        if any(parent not in self.known for parent in node.all_input_nodes if is_tensor(parent)):
            return False
        if torch.Tag.nondeterministic_seeded in node.target.tags:
            raise Refused("it draws at random")
        if any(value is FREE or (isinstance(value, list) and FREE in value) for value in arguments.values()):
            arguments = _one_row(packet_of(node), arguments)
        if self._is_too_large(node):
            raise Refused(f"a constant of shape {self.exported.shape(node)}, which would take all memory")
        values = torch.fx.node.map_arg(tuple(arguments.values()), lambda parent: self.known[parent])
        schema = node.target._schema.arguments
        positional = [v for a, v in zip(schema, values, strict=True) if not a.kwarg_only]
        keywords = {a.name: v for a, v in zip(schema, values, strict=True) if a.kwarg_only}
        result = node.target(*positional, **keywords)
        if not isinstance(result, torch.Tensor):
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
        return found

    def _output(self, node: Node, taken: list[str]) -> str:
        """The vertex of an output: an op, and one for each output, since outputs carry noise."""
        name = self._ref(node).vertex
        if self.net[name].kind == "op" and name not in taken:
            return name
        return self.net.add(self._unique(f"{name}.output"), "Identity", [name])

    def _unique(self, name: str) -> str:
        found, number = name, 1
        while found in self.net:
            number += 1
            found = f"{name}#{number}"
        return found


def _one_row(packet: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """A table filled with one number for each sample, as one row that broadcasts."""
    size = arguments.get("size")
    if packet not in ("full", "zeros", "ones") or not isinstance(size, list):
        raise Refused("a constant whose size depends on the number of samples")
    return arguments | {"size": [1 if entry is FREE else entry for entry in size]}


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
