"""Operations of ``keras.ops`` in a functional graph, such as the sum of ``x + y``.

They are entered under ``ops.<class name>``, for layers have the same names.
"""

from __future__ import annotations

import math
from typing import Any

from converters._keras.activations import FUNCTIONS, Activation
from converters._keras.call import Call, Ref, Refused, Rule, rule, to_array

__all__ = ["PREFIX"]

PREFIX = "ops."
_BINARY = {
    "Add": "Add",
    "Subtract": "Sub",
    "Multiply": "Mul",
    "Divide": "Div",
    "TrueDivide": "Div",
    "Matmul": "MatMul",
    "Maximum": "Max",
    "Minimum": "Min",
}
_UNARY = {
    "Negative": "Neg",
    "Exp": "Exp",
    "Log": "Log",
    "Sqrt": "Sqrt",
    "Absolute": "Abs",
    "Abs": "Abs",
    "Erf": "Erf",
    "Sin": "Sin",
    "Cos": "Cos",
}
_ACTIVATIONS = {
    "Relu": "relu",
    "Relu6": "relu6",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Silu": "silu",
    "Selu": "selu",
    "HardSigmoid": "hard_sigmoid",
    "HardSilu": "hard_silu",
    "LogSigmoid": "log_sigmoid",
    "HardTanh": "hard_tanh",
    "Squareplus": "squareplus",
}


def _operand(call: Call, position: int, *names: str) -> Any:
    """An argument by position or by one of its names."""
    if position < len(call.arguments):
        return call.arguments[position]
    for name in names:
        if name in call.options:
            return call.option(name)
    return None


def _vertex(call: Call, value: Any, part: str) -> str:
    """The vertex of a tensor or a number."""
    if isinstance(value, Ref):
        return value.vertex
    if isinstance(value, dict):
        value = value.get("config", {}).get("value") if isinstance(value.get("config"), dict) else None
    if value is None:
        raise Refused("an argument is neither a tensor nor numbers")
    return call.constant(part, to_array(value))


def _binary(op: str) -> Rule:
    def apply(call: Call) -> str:
        a, b = (_vertex(call, _operand(call, k, f"x{k + 1}"), f"x{k + 1}") for k in (0, 1))
        return call.emit(op, a, b)

    return apply


def _unary(op: str) -> Rule:
    return lambda call: call.emit(op, call.input)


def _activation(function: Activation) -> Rule:
    return lambda call: function(call, call.input)


for _kind, _name in _BINARY.items():
    rule(PREFIX + _kind)(_binary(_name))
for _kind, _name in _UNARY.items():
    rule(PREFIX + _kind)(_unary(_name))
for _kind, _name in _ACTIVATIONS.items():
    rule(PREFIX + _kind)(_activation(FUNCTIONS[_name]))


@rule("ops.Square")
def _square(call: Call) -> str:
    return call.emit("Mul", call.input, call.input)


@rule("ops.Gelu", "ops.LeakyRelu", "ops.Elu", "ops.Softmax", "ops.LogSoftmax")
def _with_attribute(call: Call) -> str:
    """Functions whose attribute the operation holds itself, in its configuration."""
    kind, config = call.layer.kind.removeprefix(PREFIX), call.config
    if kind == "Gelu":
        return call.emit("Gelu", call.input, approximate="tanh" if config.flag("approximate", True) else "none")
    if kind == "LeakyRelu":
        return call.emit("LeakyRelu", call.input, alpha=config.number("negative_slope", 0.2))
    if kind == "Elu":
        return call.emit("Elu", call.input, alpha=config.number("alpha", 1.0))
    (axis,) = config.axes("axis", len(call.shape(call.input)) + 1, -1)
    return call.emit(kind, call.input, axis=axis)


@rule("ops.Mean", "ops.Sum")
def _reduction(call: Call) -> str:
    axes = call.config.axes("axis", len(call.shape(call.input)) + 1)
    keepdims = int(call.config.flag("keepdims"))
    return call.emit(f"Reduce{call.layer.kind.removeprefix(PREFIX)}", call.input, axes=axes, keepdims=keepdims)


@rule("ops.Concatenate")
def _concatenate(call: Call) -> str:
    (axis,) = call.config.axes("axis", len(call.shape(call.inputs[0])) + 1, -1)
    return call.emit("Concat", *call.inputs, axis=axis)


@rule("ops.Reshape")
def _reshape(call: Call) -> str:
    shape = call.config.get("newshape", call.config.get("new_shape"))
    size = math.prod(call.shape(call.input))
    free = isinstance(shape, (list, tuple)) and shape and shape[0] in (-1, None)
    if not free or not all(isinstance(n, int) and n > 0 for n in shape[1:]) or math.prod(shape[1:]) != size:
        raise Refused(f"newshape: got {shape!r}, expected -1 for the samples, then sizes with {size} entries")
    return call.emit("Reshape", call.input, shape=[0, *shape[1:]])


@rule("ops.Transpose")
def _transpose(call: Call) -> str:
    order, rank = call.config.get("axes"), len(call.shape(call.input)) + 1
    if not isinstance(order, (list, tuple)) or sorted(order) != list(range(rank)) or order[0] != 0:
        raise Refused(f"axes: got {order!r}, expected an order of {rank} axes that leaves the samples first")
    return call.emit("Transpose", call.input, perm=list(order))


@rule("ops.ExpandDims", "ops.Squeeze")
def _one_axis(call: Call) -> str:
    more = call.layer.kind == "ops.ExpandDims"
    axes = call.config.axes("axis", len(call.shape(call.input)) + 1 + more)
    return call.emit("Unsqueeze" if more else "Squeeze", call.input, axes=axes)
