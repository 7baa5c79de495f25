"""Names and functions of an ONNX model: what a name stands for where, and what an operator is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from onnx import AttributeProto, TensorProto, helper

from converters._onnx_call import Call, Node, Value
from converters._plates import Refused
from gbn.errors import ConversionError

__all__ = ["DEPTH", "NODES", "TOO_DEEP", "TOO_MANY", "Library", "Scope", "names_read", "parse"]

DEPTH, NODES = 24, 50_000
TOO_DEEP = f"graphs and functions are nested more than {DEPTH} deep; no exporter makes such"
TOO_MANY = (
    f"the model has more than {NODES} nodes when its functions and loops are written out; convert a part of it, or a "
    "shorter sequence"
)
_STANDARD = ("", "ai.onnx")
_PLAIN = {
    AttributeProto.FLOAT: "f",
    AttributeProto.INT: "i",
    AttributeProto.TENSOR: "t",
    AttributeProto.GRAPH: "g",
    AttributeProto.SPARSE_TENSOR: "sparse_tensor",
}
_LISTS = {AttributeProto.FLOATS: "floats", AttributeProto.INTS: "ints"}


class Scope:
    """The names of one graph or function body.

    prefix: what stands before its names where they become names of vertices.
    imports: domain -> version of its operators.
    attributes: of the function call, for its nodes to refer to.
    """

    def __init__(
        self,
        prefix: str,
        imports: dict[str, int],
        parent: Scope | None = None,
        attributes: dict[str, Any] | None = None,
        renamed: dict[str, str] | None = None,
        depth: int = 0,
    ) -> None:
        self.prefix, self.imports, self.parent = prefix, imports, parent
        self.attributes, self.renamed, self.depth = attributes, renamed or {}, depth
        self.values: dict[str, Value | None] = {}
        self.absent: set[str] = set()
        self.used: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.values or (self.parent is not None and name in self.parent)

    def get(self, name: str) -> Value | None:
        """What a name stands for; None for what could not be converted."""
        if name in self.values:
            return self.values[name]
        return self.parent.get(name) if self.parent is not None else None

    def define(self, name: str, value: Value | None) -> None:
        """Give a name its one value.

        Raises:
            ConversionError: it has one.
        """
        if name in self.values:
            raise ConversionError(f"{name!r} is defined twice in the graph; names of values must be unique")
        self.values[name] = value

    def fail(self, name: str) -> None:
        """A name whose value could not be made."""
        self.values[name] = None

    def leave_out(self, name: str) -> None:
        """A parameter of a function that the call does not give."""
        self.absent.add(name)

    def lacks(self, name: str) -> bool:
        """Whether a name is a parameter that was left out."""
        return name in self.absent or (self.parent is not None and name not in self.values and self.parent.lacks(name))

    def name(self, name: str) -> str:
        """The name of the vertex of a value."""
        return self.renamed.get(name, f"{self.prefix}{name}")

    def place(self, node: Node) -> str:
        """Where a node is, for messages."""
        return f"{self.prefix}{node.place}"

    def function(self, call: Call, function: onnx.FunctionProto, imports: dict[str, int]) -> Scope:
        """The scope of a function that a node calls."""
        prefix = f"{call.label()}."
        renamed = {inner: outer for inner, outer in zip(function.output, call.names, strict=False) if outer}
        attributes = {a.name: value_of(a) for a in function.attribute_proto} | call.node.attributes
        versions = {_domain(entry.domain): entry.version for entry in function.opset_import}
        return Scope(prefix, imports | versions, None, attributes, renamed, self.depth + 1)

    def block(self, prefix: str, renamed: dict[str, str] | None = None) -> Scope:
        """The scope of a subgraph, which sees the names around it."""
        return Scope(prefix, self.imports, self, self.attributes, renamed, self.depth + 1)


def _domain(domain: str) -> str:
    return "" if domain in _STANDARD else domain


def value_of(attribute: AttributeProto) -> Any:
    """The value of an attribute; tensors and graphs stay messages."""
    if attribute.type in _PLAIN:
        return getattr(attribute, _PLAIN[attribute.type])
    if attribute.type in _LISTS:
        return list(getattr(attribute, _LISTS[attribute.type]))
    if attribute.type == AttributeProto.STRING:
        return attribute.s.decode("utf-8", "replace")
    if attribute.type == AttributeProto.STRINGS:
        return [entry.decode("utf-8", "replace") for entry in attribute.strings]
    return None


def parse(message: onnx.NodeProto, scope: Scope) -> Node:
    """A node, its references to the attributes of the function around it resolved."""
    attributes: dict[str, Any] = {}
    for attribute in message.attribute:
        if attribute.ref_attr_name:
            given = (scope.attributes or {}).get(attribute.ref_attr_name)
            if given is not None:
                attributes[attribute.name] = given
        else:
            attributes[attribute.name] = value_of(attribute)
    inputs = tuple("" if scope.lacks(name) else name for name in message.input)
    domain = _domain(message.domain)
    version = scope.imports.get(domain, 0)
    return Node(message.op_type, domain, version, message.name, inputs, tuple(message.output), attributes)


class Library:
    """The functions of a model, and of the operators that ONNX defines by others.

    Raises:
        ConversionError: the model imports no operators, or older ones than are supported.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.imports = {_domain(entry.domain): entry.version for entry in model.opset_import}
        self.functions = {(_domain(f.domain), f.name): f for f in model.functions}
        version, newest = self.imports.get("", 0), onnx.defs.onnx_opset_version()
        if version and not 6 <= version <= newest:
            raise ConversionError(
                f"operator set: got version {version}, expected 6 to {newest}; "
                "onnx.version_converter.convert_version changes it"
                if version < 6
                else f"operator set: got version {version}, newer than the installed onnx knows ({newest}); update onnx"
            )

    def check_size(self, nodes: Sequence[onnx.NodeProto]) -> None:
        """Raise ConversionError where functions within functions come to more nodes than can be meant."""
        sizes: dict[tuple[str, str], int] = {}

        def size_of(key: tuple[str, str], depth: int) -> int:
            if depth > DEPTH:
                raise ConversionError(TOO_DEEP)
            if key not in sizes:
                sizes[key] = total(self.functions[key].node, depth)
            return sizes[key]

        def total(nodes: Sequence[onnx.NodeProto], depth: int) -> int:
            keys = [(_domain(node.domain), node.op_type) for node in nodes]
            return len(keys) + sum(size_of(key, depth + 1) for key in keys if key in self.functions)

        if total(nodes, 0) > NODES:
            raise ConversionError(TOO_MANY)

    def find(self, node: Node) -> onnx.FunctionProto | None:
        """The model's own function of this name."""
        return self.functions.get((node.domain, node.op))

    @staticmethod
    def is_composite(node: Node) -> bool:
        """Whether ONNX defines an operator by others."""
        try:
            schema = onnx.defs.get_schema(node.op, node.version, node.domain)
        except onnx.defs.SchemaError:
            return False
        return bool(schema.has_function or schema.has_context_dependent_function)

    def body(self, call: Call) -> onnx.FunctionProto | None:
        """What ONNX says an operator consists of; None for a primitive one."""
        node, inputs = call.node, call.inputs
        try:
            schema = onnx.defs.get_schema(node.op, node.version, node.domain)
        except onnx.defs.SchemaError:
            return None
        if schema.has_function:
            versions = [
                v for v in schema.function_opset_versions if v <= node.version
            ] or schema.function_opset_versions
            return _function(schema.get_function_with_opset_version(max(versions)), schema)
        if schema.has_context_dependent_function:
            known = schema.context_dependent_function_opset_versions
            version = max([v for v in known if v <= node.version] or known)
            message, types = _message(node), [_type(value) for value in inputs]
            return _function(schema.get_context_dependent_function_with_opset_version(version, message, types), schema)
        return None


def _function(data: bytes, schema: Any) -> onnx.FunctionProto | None:
    """A function with the defaults of the operator's attributes."""
    function = onnx.FunctionProto()
    function.ParseFromString(data)
    function.attribute_proto.extend(a.default_value for a in schema.attributes.values() if a.default_value.name)
    return function if function.node else None


def names_read(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    """The names that nodes read, those in their subgraphs included."""
    found: set[str] = set()
    todo = list(nodes)
    while todo:
        node = todo.pop()
        found.update(node.input)
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                todo += attribute.g.node
                found.update(info.name for info in attribute.g.output)
    return found


def _message(node: Node) -> bytes:
    if any(isinstance(value, onnx.GraphProto) for value in node.attributes.values()):
        raise Refused("a function of a graph is not supported")
    message = helper.make_node(node.op, node.inputs, node.outputs, node.name, domain=node.domain)
    message.attribute.extend(helper.make_attribute(key, value) for key, value in node.attributes.items())
    return bytes(message.SerializeToString())


def _type(value: Value | None) -> bytes:
    if value is None:
        return bytes(onnx.TypeProto().SerializeToString())
    kinds = {"f": TensorProto.FLOAT, "b": TensorProto.BOOL}
    kind = kinds.get(value.dtype.kind, TensorProto.INT64)
    return bytes(helper.make_tensor_type_proto(kind, value.shapes[0]).SerializeToString())
