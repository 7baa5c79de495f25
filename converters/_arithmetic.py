"""ATen rules of arithmetic, reductions, and operations that only move entries."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from converters._call import END, RULES, Call, Ref, Refused, Rule, rule, scaled, spread, target_shape

__all__ = ["ALIASES", "PARTS", "is_alias"]

# At inference these return their input.
ALIASES = frozenset(
    {
        "clone",
        "contiguous",
        "detach",
        "alias",
        "dropout",
        "feature_dropout",
        "alpha_dropout",
        "feature_alpha_dropout",
        "lift_fresh",
        "lift_fresh_copy",
        "_to_copy",
        "to",
        "type_as",
    }
)
# Operations with several results, each a slice of the input.
PARTS = frozenset({"split", "split_with_sizes", "chunk", "unbind"})


def is_alias(packet: str, arguments: dict[str, Any]) -> bool:
    """Whether an operation returns its first argument unchanged."""
    if packet == "slice":
        end, step = arguments.get("end"), arguments.get("step", 1)
        return arguments.get("start") in (None, 0) and (end is None or end == END) and step == 1
    return packet in ALIASES


@rule(*sorted(ALIASES))
def _alias(call: Call) -> str:
    if call.get("train", False) or call.get("training", False):
        raise Refused("it draws at random in training mode; export the model after model.eval()")
    return call.emit("Identity", call.first)


def _arithmetic(op: str, reverse: bool = False) -> Rule:
    def compute(call: Call) -> str:
        if call.get("rounding_mode"):
            raise Refused("division that rounds has no derivative")
        alpha = call.get("alpha", 1)
        if reverse:
            x: Ref | str = scaled(call, call["self"], alpha, "alpha")
            return call.emit(op, call.operand(call["other"], "other"), x)
        a, b = call.operand(call["self"], "self"), call["other"]
        if not isinstance(b, Ref):
            return call.emit(op, a, call.constant("other", b if alpha == 1 else b * alpha))
        return call.emit(op, a, scaled(call, b, alpha, "alpha"))

    return compute


RULES.update(
    {
        "add": _arithmetic("Add"),
        "sub": _arithmetic("Sub"),
        "rsub": _arithmetic("Sub", reverse=True),
        "mul": _arithmetic("Mul"),
        "div": _arithmetic("Div"),
        "true_divide": _arithmetic("Div"),
    }
)


@rule("reciprocal")
def _reciprocal(call: Call) -> str:
    return call.emit("Div", call.constant("one", 1.0), call.first)


@rule("rsqrt")
def _rsqrt(call: Call) -> str:
    return call.emit("Div", call.constant("one", 1.0), call.emit("Sqrt", call.first, part="root"))


@rule("square")
def _square(call: Call) -> str:
    return call.emit("Mul", call.first, call.first)


@rule("pow")
def _pow(call: Call) -> str:
    exponent = call["exponent"]
    if exponent == 0.5:
        return call.emit("Sqrt", call.first)
    if exponent == -1:
        return _reciprocal(call)
    if exponent == -0.5:
        return _rsqrt(call)
    if exponent not in (2, 3, 4):
        raise Refused("only the exponents 2, 3, 4, -1, 0.5 and -0.5 are supported")
    if exponent == 2:
        return _square(call)
    square = call.emit("Mul", call.first, call.first, part="square")
    return call.emit("Mul", square, call.first if exponent == 3 else square)


@rule("view", "_unsafe_view", "reshape", "flatten", "unflatten", "view_copy")
def _reshape(call: Call) -> str:
    target = target_shape(call)
    if None in call.first.shape and None not in call.shape:
        raise Refused(f"its shape {tuple(target)} fixes the number of samples; use -1 or x.shape[0] there")
    if target[0] == 0 and len(target) == 2 and len(call.first.shape) > 2:
        return call.emit("Flatten", call.first, axis=1)
    return call.emit("Reshape", call.first, shape=target)


@rule("squeeze", "squeeze_copy")
def _squeeze(call: Call) -> str:
    rank = len(call.first.shape)
    dims = range(rank) if call.get("dim") is None else spread(call["dim"], 1)
    axes = sorted(dim % rank for dim in dims if call.first.shape[dim % rank] == 1)
    return call.emit("Squeeze", call.first, axes=axes) if axes else call.emit("Identity", call.first)


@rule("unsqueeze")
def _unsqueeze(call: Call) -> str:
    return call.emit("Unsqueeze", call.first, axes=[int(call["dim"]) % len(call.shape)])


@rule("permute", "transpose", "t", "numpy_T", "mT", "swapaxes")
def _permute(call: Call) -> str:
    rank = len(call.first.shape)
    order = list(range(rank))
    if "dims" in call.arguments:
        order = [dim % rank for dim in call["dims"]]
    else:
        a, b = (call.get("dim0", call.get("axis0", -2)) % rank, call.get("dim1", call.get("axis1", -1)) % rank)
        order[a], order[b] = order[b], order[a]
    return call.emit("Transpose", call.first, perm=order)


@rule("cat", "concat", "concatenate")
def _cat(call: Call) -> str:
    axis = int(call.get("dim", 0)) % len(call.shape)
    return call.emit("Concat", *call["tensors"], axis=axis)


@rule("stack")
def _stack(call: Call) -> str:
    axis = int(call.get("dim", 0)) % len(call.shape)
    rows = [call.emit("Unsqueeze", x, part=str(k), axes=[axis]) for k, x in enumerate(call["tensors"])]
    return call.emit("Concat", *rows, axis=axis)


@rule("slice", "narrow")
def _slice(call: Call) -> str:
    start = int(call.get("start", 0))
    end = start + int(call["length"]) if "length" in call.arguments else int(call.get("end", END))
    axis = int(call.get("dim", 0)) % len(call.shape)
    return call.emit("Slice", call.first, starts=[start], ends=[end], axes=[axis], steps=[int(call.get("step", 1))])


@rule("select")
def _select(call: Call) -> str:
    axis, index = int(call["dim"]) % len(call.first.shape), int(call["index"])
    end = END if index == -1 else index + 1
    row = call.emit("Slice", call.first, part="slice", starts=[index], ends=[end], axes=[axis])
    return call.emit("Squeeze", row, axes=[axis])


@rule(*sorted(PARTS))
def _part(call: Call) -> str:
    """One result of several: ``index`` says which."""
    axis, index = int(call.get("dim", 0)) % len(call.first.shape), call["index"]
    sizes, whole = call["sizes"], call["squeeze"]
    start = sum(sizes[:index])
    cut: dict[str, Any] = {"starts": [start], "ends": [start + sizes[index]], "axes": [axis]}
    if not whole:
        return call.emit("Slice", call.first, **cut)
    return call.emit("Squeeze", call.emit("Slice", call.first, part="slice", **cut), axes=[axis])


@rule("expand", "broadcast_to")
def _expand(call: Call) -> str:
    """Multiplication by ones of the new event shape."""
    before = (1,) * (len(call.shape) - len(call.first.shape)) + call.first.shape
    if before == call.shape:
        return call.emit("Identity", call.first)
    if any(new is None and old is not None for old, new in zip(before, call.shape, strict=True)):
        raise Refused("a value shared by all samples is repeated for each of them")
    ones = np.ones([1 if size is None else size for size in call.shape])
    return call.emit("Mul", call.first, call.constant("ones", ones))


_PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@rule("pad", "constant_pad_nd")
def _pad(call: Call) -> str:
    """Torch lists pads in pairs from the last axis on, ONNX all begins and then all ends."""
    pads = list(call["pad"])
    axes = [len(call.shape) - 1 - k for k in range(len(pads) // 2)]
    mode = _PAD_MODES[call.get("mode", "constant")]
    value = float(call.get("value", 0.0))
    return call.emit("Pad", call.first, pads=pads[0::2] + pads[1::2], axes=axes, mode=mode, value=value)


def _reduction(op: str) -> Rule:
    return lambda call: call.emit(op, call.first, **_axes(call))


def _axes(call: Call) -> dict[str, Any]:
    dims, rank = call.get("dim"), len(call.first.shape)
    axes = list(range(rank)) if dims is None or dims == [] else [dim % rank for dim in spread(dims, 1)]
    return {"axes": axes, "keepdims": int(call.get("keepdim", False))}


RULES["mean"] = _reduction("ReduceMean")
RULES["sum"] = _reduction("ReduceSum")


@rule("linalg_vector_norm")
def _norm(call: Call) -> str:
    if call.get("ord", 2) != 2:
        raise Refused("only the Euclidean norm is supported")
    square = call.emit("Mul", call.first, call.first, part="square")
    return call.emit("Sqrt", call.emit("ReduceSum", square, part="sum", **_axes(call)))


@rule("var")
def _var(call: Call) -> str:
    """Σ (x - mean)² / (n - correction)."""
    axes = _axes(call)
    sizes = [call.first.shape[axis] for axis in axes["axes"]]
    if None in sizes:
        raise Refused("a variance over the samples mixes them")
    correction = call.get("correction", int(call.get("unbiased", True)))
    count = math.prod(size or 0 for size in sizes)
    mean = call.emit("ReduceMean", call.first, part="mean", axes=axes["axes"], keepdims=1)
    centred = call.emit("Sub", call.first, mean, part="centred")
    total = call.emit("ReduceMean", call.emit("Mul", centred, centred, part="square"), part="moment", **axes)
    return call.emit("Mul", total, call.constant("factor", count / (count - correction)))
