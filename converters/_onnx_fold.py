"""Constants: what a graph computes from shapes and literals alone, mostly in integers, is computed when it is read.

Weights are not folded, for they are parameters; nor is anything that depends on an input.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto

from converters._onnx_call import Array, Node
from converters._onnx_read import CONSTANT_LIMIT, array_of
from converters._plates import Refused
from converters._rules import Table

__all__ = ["FOLDS", "dtype_of", "fold"]

Fold = Callable[[Node, "list[Array | None]"], Any]
FOLDS: Table[Fold] = Table()


def fold(node: Node, inputs: list[Array | None]) -> list[Array]:
    """The results of a node whose inputs are constants.

    Raises:
        Refused: the node does not take them, or its result is out of all proportion.
    """
    try:
        with np.errstate(all="ignore"):
            result = FOLDS[node.op](node, inputs)
    except Refused:
        raise
    except (ValueError, TypeError, IndexError, KeyError, ArithmeticError, MemoryError) as error:
        raise Refused(f"its constant inputs do not fit: {error}") from error
    return [np.asarray(r) for r in result] if isinstance(result, list) else [np.asarray(result)]


def dtype_of(number: int) -> np.dtype[Any]:
    """The dtype of an ONNX element type; half precision counts as single."""
    if number in _DTYPES:
        return np.dtype(_DTYPES[number])
    known = TensorProto.DataType.values()
    name = TensorProto.DataType.Name(number) if number in known else str(number)
    raise Refused(f"the element type {name} is not supported")


_DTYPES: dict[int, Any] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float32,
    TensorProto.BFLOAT16: np.float32,
    TensorProto.DOUBLE: np.float64,
    TensorProto.BOOL: np.bool_,
    **{getattr(TensorProto, k.upper()): getattr(np, k) for k in ("int8", "int16", "int32", "int64")},
    **{getattr(TensorProto, k.upper()): getattr(np, k) for k in ("uint8", "uint16", "uint32", "uint64")},
}


def _required(inputs: list[Array | None], k: int) -> Array:
    if k >= len(inputs) or inputs[k] is None:
        raise Refused(f"its input {k} is missing")
    return inputs[k]  # type: ignore[return-value]


def _option(node: Node, inputs: list[Array | None], name: str, k: int) -> list[int] | None:
    """What is an attribute in some versions and input k in others."""
    if name in node.attributes:
        return [int(entry) for entry in np.ravel(node.attributes[name])]
    given = inputs[k] if k < len(inputs) else None
    return None if given is None else [int(entry) for entry in np.ravel(given)]


def _bounded(count: int) -> None:
    if count > CONSTANT_LIMIT:
        raise Refused(f"its result has {count} entries, more than {CONSTANT_LIMIT}")


def _entrywise(function: Callable[..., Any], keep: bool = True) -> Fold:
    """A function of numpy; ``keep``: the result has the dtype of the first input."""

    def compute(node: Node, inputs: list[Array | None]) -> Any:
        arrays = [_required(inputs, k) for k in range(len(inputs))]
        _bounded(math.prod(np.broadcast_shapes(*(a.shape for a in arrays))))
        result = np.asarray(function(*arrays))
        return result.astype(arrays[0].dtype) if keep else result

    return compute


def _divide(a: Array, b: Array) -> Array:
    """Integers are divided towards zero."""
    if a.dtype.kind not in "iu":
        return np.asarray(a / b)
    if not np.all(b):
        raise Refused("it divides by zero")
    return np.asarray(np.trunc(a / b)) if abs(a).max(initial=0) < 2**52 else np.asarray(a // b)


def _mod(node: Node, inputs: list[Array | None]) -> Any:
    a, b = _required(inputs, 0), _required(inputs, 1)
    return np.fmod(a, b) if node.attributes.get("fmod") else np.mod(a, b)


def _reduce_over(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arrays: _folded(function, arrays)


def _folded(function: Callable[..., Any], arrays: tuple[Array, ...]) -> Any:
    result = arrays[0]
    for array in arrays[1:]:
        result = function(result, array)
    return result


_SAME: dict[str, Callable[..., Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": _divide,
    "Pow": lambda a, b: np.power(a.astype(np.float64), b),
    "Neg": np.negative,
    "Abs": np.abs,
    "Sqrt": np.sqrt,
    "Floor": np.floor,
    "Ceil": np.ceil,
    "Round": np.rint,
    "Sign": np.sign,
    "Exp": np.exp,
    "Log": np.log,
    "Sin": np.sin,
    "Cos": np.cos,
    "Reciprocal": np.reciprocal,
    "Identity": lambda x: x,
    "Min": _reduce_over(np.minimum),
    "Max": _reduce_over(np.maximum),
    "Sum": _reduce_over(np.add),
}
_OTHER: dict[str, Callable[..., Any]] = {
    "Equal": np.equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Xor": np.logical_xor,
    "Not": np.logical_not,
    "IsNaN": np.isnan,
    "IsInf": np.isinf,
    "Where": np.where,
}
FOLDS |= {name: _entrywise(function) for name, function in _SAME.items()}
FOLDS |= {name: _entrywise(function, keep=False) for name, function in _OTHER.items()}
FOLDS["Mod"] = _mod


@FOLDS.rule("Clip")
def _clip(node: Node, inputs: list[Array | None]) -> Any:
    x = _required(inputs, 0)
    low, high = (inputs[k] if k < len(inputs) else node.attributes.get(n) for k, n in ((1, "min"), (2, "max")))
    x = x if low is None else np.maximum(x, low).astype(x.dtype)
    return x if high is None else np.minimum(x, high).astype(x.dtype)


@FOLDS.rule("Cast", "CastLike")
def _cast(node: Node, inputs: list[Array | None]) -> Any:
    like = inputs[1] if node.op == "CastLike" and len(inputs) > 1 else None
    target = like.dtype if like is not None else dtype_of(int(node.attributes["to"]))
    return _required(inputs, 0).astype(target)


@FOLDS.rule("Gather")
def _gather(node: Node, inputs: list[Array | None]) -> Any:
    x, index = _required(inputs, 0), _required(inputs, 1).astype(np.int64)
    axis = int(node.attributes.get("axis", 0))
    _bounded(x.size // max(1, x.shape[axis]) * index.size)
    return np.take(x, index, axis=axis)


@FOLDS.rule("Concat")
def _concat(node: Node, inputs: list[Array | None]) -> Any:
    arrays = [_required(inputs, k) for k in range(len(inputs))]
    _bounded(sum(a.size for a in arrays))
    return np.concatenate(arrays, axis=int(node.attributes["axis"]))


@FOLDS.rule("Slice")
def _slice(node: Node, inputs: list[Array | None]) -> Any:
    x = _required(inputs, 0)
    starts, ends = _option(node, inputs, "starts", 1), _option(node, inputs, "ends", 2)
    axes, steps = _option(node, inputs, "axes", 3), _option(node, inputs, "steps", 4)
    if starts is None or ends is None:
        raise Refused("its starts or ends are missing")
    slices = [slice(None)] * x.ndim
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        stop = None if step < 0 and end < -x.shape[axis] else end
        slices[axis] = slice(start, stop, step)
    return x[tuple(slices)]


@FOLDS.rule("Split")
def _split(node: Node, inputs: list[Array | None]) -> Any:
    x, axis = _required(inputs, 0), int(node.attributes.get("axis", 0))
    sizes, count = _option(node, inputs, "split", 1), len(node.outputs)
    if sizes is None:
        each = -(-x.shape[axis] // count)
        return np.split(x, list(range(each, each * count, each)), axis=axis)
    return np.split(x, np.cumsum(sizes)[:-1].tolist(), axis=axis)


@FOLDS.rule("Squeeze")
def _squeeze(node: Node, inputs: list[Array | None]) -> Any:
    axes = _option(node, inputs, "axes", 1)
    return np.squeeze(_required(inputs, 0), None if axes is None else tuple(axes))


@FOLDS.rule("Unsqueeze")
def _unsqueeze(node: Node, inputs: list[Array | None]) -> Any:
    return np.expand_dims(_required(inputs, 0), tuple(_option(node, inputs, "axes", 1) or ()))


@FOLDS.rule("Reshape")
def _reshape(node: Node, inputs: list[Array | None]) -> Any:
    x, shape = _required(inputs, 0), _option(node, inputs, "shape", 1)
    if shape is None:
        raise Refused("its shape is missing")
    keep = not node.attributes.get("allowzero")
    return x.reshape([x.shape[k] if size == 0 and keep else size for k, size in enumerate(shape)])


@FOLDS.rule("Flatten")
def _flatten(node: Node, inputs: list[Array | None]) -> Any:
    x, axis = _required(inputs, 0), int(node.attributes.get("axis", 1))
    return x.reshape(math.prod(x.shape[:axis]), -1)


@FOLDS.rule("Transpose")
def _transpose(node: Node, inputs: list[Array | None]) -> Any:
    return np.transpose(_required(inputs, 0), node.attributes.get("perm"))


@FOLDS.rule("Expand")
def _expand(node: Node, inputs: list[Array | None]) -> Any:
    x, target = _required(inputs, 0), _required(inputs, 1)
    shape = np.broadcast_shapes(x.shape, tuple(int(size) for size in target))
    _bounded(math.prod(shape))
    return np.broadcast_to(x, shape).copy()


@FOLDS.rule("Tile")
def _tile(node: Node, inputs: list[Array | None]) -> Any:
    x, repeats = _required(inputs, 0), [int(r) for r in _required(inputs, 1)]
    if min(repeats, default=0) < 0:
        raise Refused(f"got the repeats {repeats}")
    _bounded(x.size * math.prod(repeats))
    return np.tile(x, repeats)


@FOLDS.rule("ConstantOfShape")
def _constant_of_shape(node: Node, inputs: list[Array | None]) -> Any:
    shape = [int(size) for size in _required(inputs, 0)]
    if min(shape, default=0) < 0:
        raise Refused(f"got the shape {shape}")
    _bounded(math.prod(shape))
    given = node.attributes.get("value")
    value = np.zeros(1, np.float32) if given is None else array_of(given, None)
    return np.full(shape, value.reshape(-1)[0], dtype=value.dtype)


@FOLDS.rule("Range")
def _range(node: Node, inputs: list[Array | None]) -> Any:
    start, limit, delta = (_required(inputs, k).reshape(()) for k in range(3))
    if delta == 0 or not all(np.isfinite(np.float64(x)) for x in (start, limit, delta)):
        raise Refused(f"got the range {start}, {limit}, {delta}")
    count = max(0, math.ceil((float(limit) - float(start)) / float(delta)))
    _bounded(count)
    return (start + np.arange(count) * delta).astype(start.dtype)


@FOLDS.rule("EyeLike")
def _eye(node: Node, inputs: list[Array | None]) -> Any:
    x = _required(inputs, 0)
    dtype = dtype_of(int(node.attributes["dtype"])) if "dtype" in node.attributes else x.dtype
    rows, columns = x.shape
    return np.eye(rows, columns, k=int(node.attributes.get("k", 0)), dtype=dtype)


@FOLDS.rule("OneHot")
def _one_hot(node: Node, inputs: list[Array | None]) -> Any:
    index, depth, values = (_required(inputs, k) for k in range(3))
    size, axis = int(depth.reshape(-1)[0]), int(node.attributes.get("axis", -1))
    _bounded(index.size * max(size, 0))
    index = np.where(index < 0, index + size, index)
    axis = axis + index.ndim + 1 if axis < 0 else axis
    hot = np.expand_dims(index, axis) == np.arange(size).reshape(
        [-1 if k == axis else 1 for k in range(index.ndim + 1)]
    )
    return np.where(hot, values[1], values[0]).astype(values.dtype)


@FOLDS.rule("Trilu")
def _trilu(node: Node, inputs: list[Array | None]) -> Any:
    k = _option(node, inputs, "k", 1) or [0]
    return (np.triu if node.attributes.get("upper", 1) else np.tril)(_required(inputs, 0), k[0])


@FOLDS.rule("CumSum")
def _cumsum(node: Node, inputs: list[Array | None]) -> Any:
    x, axis = _required(inputs, 0), int(np.ravel(_required(inputs, 1))[0])
    if node.attributes.get("exclusive") or node.attributes.get("reverse"):
        raise Refused("a constant that is summed exclusively or in reverse is not supported")
    return np.cumsum(x, axis=axis, dtype=x.dtype)


@FOLDS.rule("NonZero")
def _nonzero(node: Node, inputs: list[Array | None]) -> Any:
    return np.array(np.nonzero(_required(inputs, 0)), dtype=np.int64)


@FOLDS.rule("GatherND")
def _gather_nd(node: Node, inputs: list[Array | None]) -> Any:
    if node.attributes.get("batch_dims"):
        raise Refused("a constant gathered with batch_dims is not supported")
    index = _required(inputs, 1).astype(np.int64)
    return _required(inputs, 0)[tuple(np.moveaxis(index, -1, 0))]


@FOLDS.rule("ScatterND")
def _scatter_nd(node: Node, inputs: list[Array | None]) -> Any:
    if node.attributes.get("reduction", "none") != "none":
        raise Refused("a constant scattered with a reduction is not supported")
    data, index, updates = _required(inputs, 0).copy(), _required(inputs, 1).astype(np.int64), _required(inputs, 2)
    data[tuple(np.moveaxis(index, -1, 0))] = updates
    return data


def _reduction(function: Callable[..., Any]) -> Fold:
    def compute(node: Node, inputs: list[Array | None]) -> Any:
        x, axes = _required(inputs, 0), _option(node, inputs, "axes", 1)
        if not axes and node.attributes.get("noop_with_empty_axes"):
            return x
        chosen = tuple(axes) if axes else None
        return np.asarray(function(x, axis=chosen, keepdims=bool(node.attributes.get("keepdims", 1)))).astype(x.dtype)

    return compute


_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "Sum": np.sum,
    "Prod": np.prod,
    "Max": np.max,
    "Min": np.min,
    "Mean": np.mean,
}
FOLDS |= {f"Reduce{name}": _reduction(function) for name, function in _REDUCTIONS.items()}
