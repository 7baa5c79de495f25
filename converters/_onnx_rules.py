"""The ONNX table: operators that are more than the op of the same name.

Most are that op and no more: :func:`generic` tells inputs from attributes by the names that ONNX gives them.  What is
here brings the forms of older versions to that of the newest, and takes apart what has several results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from converters._onnx_call import END, Array, Call, Value, rule, same
from converters._onnx_fold import dtype_of
from converters._onnx_read import array_of, sparse_array_of
from converters._plates import Refused, Samples
from gbn import ops

__all__ = ["dtype_after", "generic"]

_TRUTHS = frozenset(
    {"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Not", "And", "Or", "Xor", "IsNaN", "IsInf"}
)
# What the ops here call otherwise.
_ALIASES = {"constant_value": "value"}
# Attributes that say how something is computed or stored, not what.
_SILENT = frozenset(
    {"storage_order", "stash_type", "consumed_inputs", "seed", "saturate", "round_mode", "precision", "broadcast"}
)
# From this version on these act along one axis; before, on a matrix of all that is before and after it.
_ONE_AXIS = 13


def dtype_after(op: str, values: Sequence[Value], attributes: dict[str, Any]) -> np.dtype[Any]:
    """What type the source gives a result."""
    if op in _TRUTHS:
        return np.dtype(np.bool_)
    if op == "Cast":
        return dtype_of(int(attributes["to"]))
    return values[1 if op == "Where" else 0].dtype if values else np.dtype(np.float32)


def formal_inputs(call: Call) -> list[str]:
    """The names ONNX gives the inputs of a node."""
    try:
        schema = onnx.defs.get_schema(call.node.op, call.node.version, call.node.domain)
    except onnx.defs.SchemaError:
        raise Refused(f"version {call.node.version} of the operator set has no such operator") from None
    names = [formal.name for formal in schema.inputs]
    return names + names[-1:] * (len(call.inputs) - len(names))


def generic(call: Call, /, op: str = "", **given: Any) -> Value:
    """The op of the node's name (or ``op``): inputs that it has as attributes must be constants.

    given: attributes in place of the node's (None leaves one out).
    """
    entry = ops.get(op or call.node.op)
    attributes = {_ALIASES.get(key, key): value for key, value in call.node.attributes.items() if key not in _SILENT}
    values: list[Value] = []
    for k, (name, value) in enumerate(zip(formal_inputs(call), call.inputs, strict=False)):
        attribute = _ALIASES.get(name, name)
        if attribute in given:
            continue
        if attribute in entry.attributes:
            if value is not None:
                attributes[attribute] = sizes(call, name, k)
        elif value is not None:
            values.append(value)
        elif any(later is not None for later in call.inputs[k + 1 :]):
            raise Refused(f"its input {name} is left out, but not those after it")
    attributes = {key: value for key, value in (attributes | given).items() if value is not None}
    unknown = sorted(set(attributes) - entry.attributes)
    if unknown:
        raise Refused(f"its attribute {', '.join(unknown)} is not supported")
    return call.emit(entry.name, *values, **attributes)


def sizes(call: Call, name: str, k: int) -> Any:
    """A constant input that may hold multiples of the number of samples."""
    pair = call.pair(name, k)
    if pair is None:
        return None
    if same(*pair):
        return pair[0].tolist()
    if pair[0].shape != pair[1].shape or pair[0].dtype.kind not in "iu":
        raise Refused(f"its {name} depends on the number of samples")
    found = [call.builder.size(int(a), int(b)) for a, b in zip(pair[0].flat, pair[1].flat, strict=True)]
    return found if pair[0].ndim else found[0]


@rule("Identity")
def _identity(call: Call) -> Value:
    return call[0]


@rule("Constant")
def _constant(call: Call) -> Value:
    given, folder = call.node.attributes, call.builder.folder
    if "value" in given:
        array: Array = array_of(given["value"], folder)
    elif "sparse_value" in given:
        array = sparse_array_of(given["sparse_value"], folder)
    elif "value_float" in given or "value_floats" in given:
        array = np.array(given.get("value_float", given.get("value_floats")), dtype=np.float32)
    elif "value_int" in given or "value_ints" in given:
        array = np.array(given.get("value_int", given.get("value_ints")), dtype=np.int64)
    else:
        raise Refused("text has no counterpart")
    return Value.of(call.label(), array)


@rule("Shape")
def _shape(call: Call) -> Value:
    start, end = call.attribute("start", 0), call.attribute("end", END)
    first, second = (np.array(shape[start:end], dtype=np.int64) for shape in call[0].shapes)
    return Value.of(call.label(), first, second)


@rule("Size")
def _size(call: Call) -> Value:
    first, second = (np.array(np.prod(shape, dtype=object), dtype=np.int64) for shape in call[0].shapes)
    return Value.of(call.label(), first, second)


@rule("Cast", "CastLike")
def _cast(call: Call) -> Value:
    target = call[1].dtype if call.node.op == "CastLike" else dtype_of(int(call.attribute("to")))
    return converted(call, call[0], target)


def converted(call: Call, value: Value, target: np.dtype[Any]) -> Value:
    """The value as of another type; from truth or whole numbers to any that holds them it is the same number."""
    if value.known and not value.learned:
        first, second = (array.astype(target) for array in value.arrays)
        return Value.of(call.label(), first, second)
    if target.kind == "f" or value.dtype == target or (value.dtype.kind == "b" and target.kind in "iu"):
        return replace(value, dtype=target, ref=call.builder.ref(value))
    return call.emit("Cast", value, to=int(onnx.helper.np_dtype_to_tensor_dtype(target)))


@rule("Dropout")
def _dropout(call: Call) -> list[Value | None]:
    """The input; the mask says that all of it was kept."""
    if call.option("training_mode", 2, False) and call.option("ratio", 1, 0.5):
        raise Refused("in training mode it draws at random; export the model in inference mode")
    mask = None
    if len(call.wanted) > 1:
        shapes = call[0].shapes
        first, second = (np.broadcast_to(np.True_, shape) for shape in shapes)
        mask = Value.of(call.names[1] or call.label("mask"), first, second)
    return [call[0], mask]


@rule("BatchNormalization")
def _batch_normalization(call: Call) -> Value:
    """With the stored statistics, which are no weights."""
    trained = call.node.version < 14 and sum(call.wanted) > 1
    if call.attribute("training_mode", 0) or trained or call.attribute("is_test", 1) == 0:
        raise Refused("in training mode it mixes the samples of a batch; export the model in inference mode")
    if call.attribute("spatial", 1) != 1:
        raise Refused("statistics for each place (spatial=0) are not supported")
    for k in (3, 4):
        if call[k].ref is None:
            call[k].learned = False
    values = [call[k] for k in range(5)]
    return call.emit("BatchNormalization", *values, epsilon=call.attribute("epsilon", 1e-5))


@rule("Softmax", "LogSoftmax", "Hardmax")
def _softmax(call: Call) -> Value:
    x, rank = call[0], call[0].rank
    if call.node.version >= _ONE_AXIS:
        return call.emit(call.node.op, x, axis=call.axis(call.attribute("axis", -1), rank))
    axis = call.axis(call.attribute("axis", 1), rank)
    if axis >= rank - 1:
        return call.emit(call.node.op, x, axis=axis)
    flat = call.emit("Reshape", x, part="flat", shape=[*shape_of(call, x)[:axis], -1])
    rows = call.emit(call.node.op, flat, part="rows", axis=axis)
    return call.emit("Reshape", rows, shape=shape_of(call, x))


def shape_of(call: Call, value: Value) -> list[Any]:
    """The shape of a value, with multiples of the number of samples."""
    return [call.builder.size(a, b) for a, b in zip(*value.shapes, strict=True)]


@rule("Clip")
def _clip(call: Call) -> Value:
    given = {k: call.input(k) for k in (1, 2)}
    if all(value is None or value.known for value in given.values()):
        # What is left out, and the bounds of older versions, are attributes as well.
        bounds = {"min": call.option("min", 1), "max": call.option("max", 2)}
        return call.emit("Clip", call[0], **{key: bound for key, bound in bounds.items() if bound is not None})
    low, high, y = given[1], given[2], call[0]
    if low is not None:
        y = call.emit("Max", y, low, part="" if high is None else "above")
    return y if high is None else call.emit("Min", y, high)


@rule("Split")
def _split(call: Call) -> list[Value | None]:
    """A slice for each result."""
    x = call[0]
    axis = call.axis(call.attribute("axis", 0), x.rank)
    lengths = sizes(call, "split", 1)
    total, count = shape_of(call, x)[axis], call.attribute("num_outputs", len(call.node.outputs))
    if lengths is None:
        each = -(-total // count) if isinstance(total, int) else total // count
        lengths = [each] * count
    return pieces(call, x, axis, lengths, call.wanted)


def pieces(call: Call, x: Value, axis: int, lengths: Sequence[Any], outputs: Sequence[bool] = ()) -> list[Value | None]:
    """Parts of a value along an axis: the outputs of the node that are wanted, or parts on the way to it."""
    start: Any = 0
    found: list[Value | None] = []
    for k, length in enumerate(lengths):
        end = _sum(start, length)
        if not outputs:
            found.append(call.cut(x, start, end, axis, "part"))
        else:
            found.append(call.cut(x, start, end, axis, output=k) if k < len(outputs) and outputs[k] else None)
        start = end
    return found


def _sum(a: Any, b: Any) -> Any:
    if isinstance(b, Samples):
        return Samples(b.factor + (a.factor if isinstance(a, Samples) else 0))
    return a + b


@rule("Slice")
def _slice(call: Call) -> Value:
    starts, ends = sizes(call, "starts", 1), sizes(call, "ends", 2)
    axes, steps = call.axes("axes", 3, call[0].rank), call.option("steps", 4)
    axes = list(range(len(starts))) if axes is None else axes
    kept = [k for k, axis in enumerate(axes) if not _whole(starts[k], ends[k], steps and steps[k])]
    if not kept:
        return call.emit("Identity", call[0])
    picked: dict[str, Any] = {"starts": starts, "ends": ends, "axes": axes, "steps": steps or [1] * len(axes)}
    picked = {key: [values[k] for k in kept] for key, values in picked.items()}
    return call.emit("Slice", call[0], **picked)


def _whole(start: Any, end: Any, step: Any) -> bool:
    """Whether all of an axis is taken, however long it is."""
    return start == 0 and step in (None, 1) and isinstance(end, int) and end >= 2**31 - 1


@rule("Squeeze", "Unsqueeze")
def _squeeze(call: Call) -> Value:
    given = call.option("axes", 1)
    if given is None:
        first, second = call[0].shapes
        given = [k for k, size in enumerate(first) if size == 1 == second[k]]
    rank = call[0].rank + (len(given) if call.node.op == "Unsqueeze" else 0)
    axes = [call.axis(axis, rank) for axis in ([given] if isinstance(given, int) else given)]
    if not axes:
        return call.emit("Identity", call[0])
    return call.emit(call.node.op, call[0], axes=sorted(axes))


@rule("Pad")
def _pad(call: Call) -> Value:
    """Negative pads cut; a pad of nothing at all is left out for the axes that have none."""
    pads = call.option("pads", 1)
    axes = call.axes("axes", 3, call[0].rank)
    axes = list(range(len(pads) // 2)) if axes is None else axes
    value = call.option("value", 2, call.attribute("value", 0.0))
    value = float(np.ravel(value)[0]) if np.size(value) else 0.0
    half = len(pads) // 2
    kept = [k for k in range(half) if pads[k] or pads[half + k]]
    if not kept:
        return call.emit("Identity", call[0])
    chosen = [pads[k] for k in kept] + [pads[half + k] for k in kept]
    mode = call.attribute("mode", "constant")
    return call.emit("Pad", call[0], pads=chosen, axes=[axes[k] for k in kept], mode=mode, value=value)


@rule(*(name for name in ops.OPS if name.startswith("Reduce")))
def _reduce(call: Call) -> Value:
    axes = call.axes("axes", 1, call[0].rank)
    if not axes and call.attribute("noop_with_empty_axes", 0) and call.node.op in ("ReduceSum", "ReduceMean"):
        return call.emit("Identity", call[0])
    axes = axes or list(range(call[0].rank))
    return call.emit(call.node.op, call[0], axes=axes, keepdims=call.attribute("keepdims", 1))


@rule("Upsample")
def _upsample(call: Call) -> Value:
    """The forerunner of Resize: entry k of the result is entry k / scale of the input."""
    scales = [float(scale) for scale in call.option("scales", 1)]
    mode = {"linear": "linear", "bilinear": "linear"}.get(call.attribute("mode", "nearest"), "nearest")
    return _resized(call, scales=scales, mode=mode, **_ASYMMETRIC)


_ASYMMETRIC = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


@rule("Resize")
def _resize(call: Call) -> Value:
    given = {key: value for key, value in call.node.attributes.items() if key not in _SILENT}
    if call.node.version < 11:
        scales = [float(scale) for scale in call.option("scales", 1)]
        return _resized(call, scales=scales, mode=given.get("mode", "nearest"), **_ASYMMETRIC)
    roi, scales, target = call.option("roi", 1), call.option("scales", 2), sizes(call, "sizes", 3)
    if roi and given.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        given["roi"] = roi
    return _resized(call, **given | ({"sizes": target} if target else {"scales": scales}))


def _resized(call: Call, **attributes: Any) -> Value:
    return call.emit("Resize", call[0], **attributes)


@rule("Gather")
def _gather(call: Call) -> Value:
    """One entry of an axis is a slice of it; other constant indices are those of the op."""
    x, index = call[0], call[1]
    axis = call.axis(call.attribute("axis", 0), x.rank)
    if not index.known or index.rank > 0 or not same(*index.arrays):
        return generic(call, axis=axis)
    return call.entry(x, axis, int(index.arrays[0]))


@rule("Scatter")
def _scatter(call: Call) -> Value:
    """What ScatterElements was called before operator set 11."""
    return call.emit("ScatterElements", call[0], call[1], call[2], axis=call.attribute("axis", 0))


@rule("Compress")
def _compress(call: Call) -> Value:
    """The entries of an axis that a constant condition keeps."""
    x, axis = call[0], call.attribute("axis")
    kept = np.flatnonzero(call.option("condition", 1))
    if axis is None:
        x, axis = call.emit("Reshape", x, part="flat", shape=[-1]), 0
    return call.emit("Gather", x, Value.of(call.label("kept"), kept), axis=call.axis(axis, x.rank))


@rule("DequantizeLinear")
def _dequantize(call: Call) -> Value:
    """(x - zero point) scale, these for all entries or for each one of an axis."""
    if call.attribute("block_size", 0):
        raise Refused("scales for blocks of an axis are not supported")
    x = call[0]
    axis = call.axis(call.attribute("axis", 1), x.rank) if call[1].rank else 0
    view = [1] * (x.rank - axis - 1)
    zero = call.input(2)
    shifted = x if zero is None else call.emit("Sub", x, _behind(call, zero, view), part="shifted")
    return replace(call.emit("Mul", shifted, _behind(call, call[1], view)), dtype=call[1].dtype)


def _behind(call: Call, value: Value, view: list[int]) -> Value:
    """A vector with axes of size 1 behind its own; a number as it is."""
    axes = list(range(1, 1 + len(view)))
    return call.emit("Unsqueeze", value, part="view", axes=axes) if axes and value.rank else value


@rule("OptionalGetElement")
def _element(call: Call) -> Value:
    """A value that may be missing, where it is not."""
    return call[0]


@rule("PRelu")
def _prelu(call: Call) -> Value:
    """Before operator set 7, one slope for each channel, of axis 1."""
    x, slope = call[0], call[1]
    if call.node.version < 7 and slope.rank == 1 and slope.shape != (1,) and x.rank > 2:
        slope = call.emit("Unsqueeze", slope, part="slope", axes=list(range(1, x.rank - 1)))
    return call.emit("PRelu", x, slope)


@rule("Add", "Sub", "Mul", "Div", "Pow")
def _arithmetic(call: Call) -> Value:
    """Before operator set 7, the second operand is aligned at an axis of the first."""
    first, second, op = call[0], call[1], call.node.op
    axis = call.attribute("axis")
    if axis is not None and call.attribute("broadcast", 0):
        behind = first.rank - call.axis(axis, first.rank) - second.rank
        if behind > 0:
            axes = list(range(second.rank, second.rank + behind))
            second = call.emit("Unsqueeze", second, part="aligned", axes=axes)
    if op != "Div" or first.dtype.kind == "f":
        return call.emit(op, first, second)
    # Integers are divided towards zero, which is what a conversion to integers does.
    return call.emit("Cast", call.emit("Div", first, second, part="quotient"), to=onnx.TensorProto.INT64)
