"""Exported graphs that need no decomposition, which takes torch longer than the export itself."""

from __future__ import annotations

import operator

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from converters._aten import RULES
from converters._opaque import NAMESPACE

__all__ = ["made_of_rules"]


def made_of_rules(program: ExportedProgram) -> bool:
    """Whether every operation has a rule.  Operations in place become functions where nothing else sees the change."""
    changed: list[tuple[Node, torch._ops.OpOverload]] = []
    for node in program.graph.nodes:
        if node.op == "get_attr" or (node.op == "call_function" and not _is_size(node)):
            function = _function(node)
            if function is None:
                return False
            if function is not node.target:
                changed.append((node, function))
    order = {node: k for k, node in enumerate(program.graph.nodes)}
    if any(_is_seen(node, order) for node, _ in changed):
        return False
    for node, function in changed:
        given = node.args[0]
        node.target = function
        given.replace_all_uses_with(node, lambda user, node=node: order[user] > order[node])  # type: ignore[union-attr, misc]
    return True


def _is_size(node: Node) -> bool:
    """Whether a node is no operation on tensors."""
    return node.target is operator.getitem or not isinstance(node.meta.get("val"), (torch.Tensor, tuple, list))


def _function(node: Node) -> torch._ops.OpOverload | None:
    """What the node calls, as a function; None where it has no rule."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return None
    namespace, _, packet = target._schema.name.partition("::")
    if namespace == NAMESPACE:
        return target
    if namespace != "aten":
        return None
    if not target._schema.is_mutable:
        return target if packet in RULES else None
    base = packet.removesuffix("_")
    if base == packet or base not in RULES:
        return None
    return getattr(getattr(torch.ops.aten, base), target._overloadname, None)


def _is_seen(node: Node, order: dict[Node, int]) -> bool:
    """Whether a change in place can be seen elsewhere: in an input, a parameter, or through a view."""
    given = node.args[0]
    if not isinstance(given, Node) or given.op != "call_function" or _may_share(given):
        return True
    return any(_may_share(user) for user in given.users if user is not node and order[user] < order[node])


def _may_share(node: Node) -> bool:
    """Whether the result may be a view of the first argument; operations in place, being functions, make none."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return True
    if target._schema.is_mutable:
        return False
    results = target._schema.returns
    # Reshapes and casts are views when they can be, whatever their schema says.
    name = target._schema.name.removeprefix("aten::")
    sharing = {"reshape", "flatten", "contiguous", "to", "type_as", "dropout", "feature_dropout", "expand_as"}
    return name in sharing or any(result.alias_info is not None for result in results)
