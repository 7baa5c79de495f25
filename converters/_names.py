"""The names that a user knows the vertices of an exported PyTorch graph by."""

from __future__ import annotations

import operator
from collections import defaultdict
from typing import Any

import torch
from torch.fx import Node
from torch.utils import _pytree as pytree

from converters._aten import ALIASES, is_alias
from converters._export import Exported
from converters._opaque import NAMESPACE

__all__ = ["PARTS", "Names", "innermost", "is_tensor", "kind_of", "packet_of"]

# Operations with several results of equal rank: the operation is no vertex, each result is one.
PARTS = frozenset({"split", "split_with_sizes", "chunk", "unbind", "var_mean", "std_mean"})


def packet_of(node: Node) -> str:
    """The ATen name without its overload; other namespaces keep theirs."""
    if node.target is operator.getitem:
        return "getitem"
    if str(node.target) == "with_effects":  # a token, and the operation it orders
        return str(node.args[1]).removeprefix("aten.").partition(".")[0]
    schema = getattr(node.target, "_schema", None)
    name = schema.name if schema is not None else str(node.target)
    return name.removeprefix("aten::").removeprefix(f"{NAMESPACE}::")


def is_tensor(node: Node) -> bool:
    """Whether a node holds one tensor or several, rather than a size or nothing."""
    return isinstance(node.meta.get("val"), (torch.Tensor, tuple, list))


def kind_of(value: Any) -> str:
    """ "f" for floating-point numbers, "b" for truth values, "i" for integers; of several tensors the first."""
    value = value[0] if isinstance(value, (tuple, list)) and value else value
    if not isinstance(value, torch.Tensor):
        return ""
    return "f" if value.is_floating_point() else "b" if value.dtype == torch.bool else "i"


class Names:
    """Vertex names: the last operation of a module call is the module's path, others are inside it or the graph's.

    An operation outside every module that the model returns under a key of a dict has that key.
    """

    def __init__(self, exported: Exported) -> None:
        self.exported = exported
        self.calls: dict[str, list[Node]] = defaultdict(list)
        for node in exported.program.graph.nodes:
            if node.op == "call_function" and is_tensor(node):
                for key, _ in _module_stack(node):
                    self.calls[key].append(node)
        self.last = {key: self._last(nodes) for key, nodes in self.calls.items()}
        self.keys = _keys(exported, {path for nodes in self.calls.values() for path in _paths(nodes[0])})

    def passes(self, node: Node) -> bool:
        """Whether a node is no operation: it returns its input, or several results of which others take one."""
        packet = packet_of(node)
        if packet == "getitem":
            return packet_of(node.args[0]) not in PARTS  # type: ignore[arg-type]
        if packet in PARTS:
            return True
        if packet in ALIASES and kind_of(node.meta["val"]) != "f" == kind_of(node.args[0].meta.get("val")):  # type: ignore[union-attr]
            return False
        return hasattr(node.target, "_schema") and is_alias(packet, self.exported.arguments(node))

    def silent(self, node: Node) -> bool:
        """Whether a node makes no vertex: it passes its input on, and is not all that a module of the user's does."""
        return packet_of(node) not in PARTS and self.passes(node) and not self.is_path(node)

    def _last(self, nodes: list[Node]) -> Node:
        busy = [node for node in nodes if not self.passes(node)]
        return (busy or nodes)[-1]

    def is_path(self, node: Node) -> bool:
        """Whether the node's result is that of a module of the user's."""
        key, path = innermost(node)
        return bool(path) and self.last[key] is node

    def of(self, node: Node) -> str:
        """The name of the vertex that holds the node's result."""
        key, path = innermost(node)
        if path and self.last[key] is node:
            return path + _call_number(key)
        name = node.name
        if packet_of(node) == "getitem" and packet_of(node.args[0]) in PARTS:  # type: ignore[arg-type]
            name = f"{node.args[0].name}.{node.args[1]}"  # type: ignore[union-attr]
        return f"{path}.{name}" if path else self.keys.get(node, name)

    def place(self, node: Node) -> str:
        """Where in the model a node is, for messages."""
        path = innermost(node)[1]
        return path or node.name


def _paths(node: Node) -> list[str]:
    return [path for _, path in _module_stack(node)]


def _keys(exported: Exported, taken: set[str]) -> dict[Node, str]:
    """The keys of a dict, joined by dots where dicts are nested, under which nodes are returned."""
    program = exported.program
    tree = program.call_spec.out_spec
    (output,) = (node for node in program.graph.nodes if node.op == "output")
    nodes = [n for n, s in zip(output.args[0], program.graph_signature.output_specs, strict=True)
             if s.kind.name == "USER_OUTPUT"]  # fmt: skip
    if tree is None or tree.num_leaves != len(nodes):
        return {}
    paths, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(list(range(len(nodes))), tree))
    taken = taken | {node.name for node in program.graph.nodes}
    found: dict[Node, str] = {}
    for path, k in paths:
        keys = [str(entry.key) for entry in path if isinstance(entry, pytree.MappingKey)]
        name = ".".join(keys)
        if keys and isinstance(nodes[k], Node) and name not in taken and not set(name) & set("/\\"):
            found.setdefault(nodes[k], name)
    return found


def _module_stack(node: Node) -> list[tuple[str, str]]:
    """(key of the call, path of the module), outermost first."""
    stack = node.meta.get("nn_module_stack") or {}
    return [(key, path) for key, (path, _) in stack.items() if not key.startswith("_empty")]


def innermost(node: Node) -> tuple[str, str]:
    """The call of the module that an operation is in, and the module's path."""
    stack = _module_stack(node)
    return stack[-1] if stack else ("", "")


def _call_number(key: str) -> str:
    """Torch numbers the repeated calls of a module from @1; the second one is #2 here."""
    number = key.rpartition("@")[2] if "@" in key else ""
    return f"#{int(number) + 1}" if number.isdigit() else ""
