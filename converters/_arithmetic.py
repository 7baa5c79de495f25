"""ATen rules of arithmetic and reductions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from converters._call import RULES, Call, Many, Refused, Rule, Samples, Value, rule, spread

__all__: list[str] = []


def _arithmetic(op: str, reverse: bool = False) -> Rule:
    def compute(call: Call) -> Value:
        mode = call.get("rounding_mode")
        if mode not in (None, "floor"):
            raise Refused(f"division that rounds by {mode!r} has no counterpart")
        alpha, last = call.get("alpha", 1), "quotient" if mode else ""
        if reverse:
            x = call.scaled(call["self"], alpha, "alpha")
            return call.emit(op, call.operand(call["other"], "other"), x)
        a, b = call.operand(call["self"], "self"), call["other"]
        if isinstance(b, Value):
            b = call.scaled(b, alpha, "alpha")
        else:
            b = call.constant("other", b if alpha == 1 else b * alpha)
        y = call.emit(op, a, b, part=last)
        return call.emit("Floor", y) if mode else y

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


@rule("floor_divide")
def _floor_divide(call: Call) -> Value:
    return call.emit("Floor", call.emit("Div", call["self"], call.operand(call["other"], "other"), part="quotient"))


@rule("addcmul", "addcdiv")
def _addc(call: Call) -> Value:
    """self + value · tensor1 (times or over) tensor2."""
    op = "Mul" if call.packet == "addcmul" else "Div"
    term = call.emit(op, call["tensor1"], call["tensor2"], part="term")
    return call.emit("Add", call["self"], call.scaled(term, call.get("value", 1), "value"))


@rule("lerp")
def _lerp(call: Call) -> Value:
    gap = call.emit("Sub", call["end"], call["self"], part="gap")
    step = call.emit("Mul", gap, call.operand(call["weight"], "weight"), part="step")
    return call.emit("Add", call["self"], step)


def _reduction(op: str) -> Rule:
    return lambda call: call.emit(op, call.first, **axes_of(call))


def axes_of(call: Call) -> dict[str, Any]:
    """The axes a reduction goes over, none being all of them, and whether they stay."""
    dims, rank = call.get("dim"), len(call.first.row)
    axes = list(range(rank)) if dims is None or dims == [] else [dim % rank for dim in spread(dims, 1)]
    return {"axes": axes, "keepdims": int(call.get("keepdim", False))}


for _aten, _op in {
    "mean": "ReduceMean", "sum": "ReduceSum", "amax": "ReduceMax", "amin": "ReduceMin", "prod": "ReduceProd",
    "logsumexp": "ReduceLogSumExp",
}.items():  # fmt: skip
    RULES[_aten] = _reduction(_op)


def _extreme(reduce: str, index: str) -> Rule:
    """torch.max and torch.min: of all entries, of two tensors, or along an axis with the indices."""

    def compute(call: Call) -> Value | Many:
        if isinstance(call.get("other"), Value):
            return call.emit(reduce.removeprefix("Reduce"), call["self"], call["other"])
        if call.get("dim") is None:
            return call.emit(reduce, call.first, axes=list(range(len(call.first.row))), keepdims=0)
        axes = axes_of(call)
        keep = axes["keepdims"]
        return [
            lambda name: call.within(name).emit(reduce, call.first, **axes),
            lambda name: call.within(name).emit(index, call.first, axis=axes["axes"][0], keepdims=keep),
        ]

    return compute


RULES["max"] = _extreme("ReduceMax", "ArgMax")
RULES["min"] = _extreme("ReduceMin", "ArgMin")


@rule("argmax", "argmin")
def _arg_extreme(call: Call) -> Value:
    if call.get("dim") is None:
        raise Refused("the index of the greatest entry of all samples mixes them; give it a dim")
    op = "ArgMax" if call.packet == "argmax" else "ArgMin"
    return call.emit(op, call.first, axis=int(call["dim"]), keepdims=int(call.get("keepdim", False)))


@rule("linalg_vector_norm", "norm")
def _norm(call: Call) -> Value:
    order = call.get("ord", call.get("p", 2))
    x, axes = call.first, axes_of(call)
    if order == 2:
        square = call.emit("Mul", x, x, part="square")
        return call.emit("Sqrt", call.emit("ReduceSum", square, part="sum", **axes))
    size = call.emit("Abs", x, part="size")
    if order in (math.inf, -math.inf):
        return call.emit("ReduceMax" if order > 0 else "ReduceMin", size, **axes)
    if order == 1:
        return call.emit("ReduceSum", size, **axes)
    if order == 0:
        raise Refused("the number of entries that are not 0 has no derivative")
    power = call.emit("Pow", size, call.constant("order", float(order)), part="power")
    total = call.emit("ReduceSum", power, part="sum", **axes)
    return call.emit("Pow", total, call.constant("root", 1 / float(order)))


def _moments(call: Call, name: str, root: bool) -> tuple[Value, Value]:
    """Variance (or its root), named like the call, and mean: Σ (x - mean)² / (n - correction)."""
    axes = axes_of(call)
    sizes = [call.first.shape[axis] for axis in axes["axes"]]
    if any(isinstance(size, Samples) for size in sizes):
        raise Refused("a variance over the samples mixes samples")
    correction = call.get("correction", int(call.get("unbiased", True)))
    count = math.prod(int(size) for size in sizes)
    here = call.within(name)
    mean = here.emit("ReduceMean", call.first, part="mean", axes=axes["axes"], keepdims=1)
    centred = here.emit("Sub", call.first, mean, part="centred")
    square = here.emit("Mul", centred, centred, part="square")
    total = here.emit("ReduceMean", square, part="moment", **axes)
    factor = here.constant("factor", count / (count - correction))
    spread_ = here.emit("Mul", total, factor, part="variance" if root else "")
    return (here.emit("Sqrt", spread_) if root else spread_), mean


@rule("var", "std")
def _var(call: Call) -> Value:
    return _moments(call, call.name, call.packet.startswith("std"))[0]


@rule("var_mean", "std_mean")
def _var_mean(call: Call) -> Many:
    return [
        lambda name: _moments(call, name, call.packet.startswith("std"))[0],
        lambda name: call.within(name).emit("ReduceMean", call.first, **axes_of(call)),
    ]


@rule("cumsum")
def _cumsum(call: Call) -> Value:
    return call.emit("CumSum", call.first, axis=int(call["dim"]) % len(call.first.row))


@rule("cumprod")
def _cumprod(call: Call) -> Value:
    """One entry after the other, as a product of parts."""
    axis, x = int(call["dim"]) % len(call.first.row), call.first
    size = x.row[axis]
    rows: list[Value] = []
    for k in range(size):
        part = call.emit("Slice", x, part=f"{k}.entry", starts=[k], ends=[k + 1], axes=[axis], steps=[1])
        rows.append(part if k == 0 else call.emit("Mul", rows[-1], part, part=f"{k}.product"))
    return call.emit("Concat", *rows, axis=axis)


@rule("logcumsumexp")
def _logcumsumexp(call: Call) -> Value:
    axis = int(call["dim"]) % len(call.first.row)
    total = call.emit("CumSum", call.emit("Exp", call.first, part="exp"), part="sum", axis=axis)
    return call.emit("Log", total)


@rule("any", "all")
def _any(call: Call) -> Value:
    """The greatest, or least, of truth values."""
    op = "ReduceMax" if call.packet == "any" else "ReduceMin"
    return call.emit(op, call.first, **axes_of(call))


@rule("linalg_cross", "cross")
def _cross(call: Call) -> Value:
    """a × b = roll(a, -1) roll(b, -2) - roll(a, -2) roll(b, -1)."""
    a, b = call["self"], call["other"]
    axis = int(call.get("dim", -1)) % len(a.row)

    def turned(x: Value, name: str, index: list[int]) -> Value:
        return call.emit("Gather", x, call.constant(f"{name}.order", np.array(index)), part=name, axis=axis)

    left = call.emit("Mul", turned(a, "a1", [1, 2, 0]), turned(b, "b2", [2, 0, 1]), part="left")
    right = call.emit("Mul", turned(a, "a2", [2, 0, 1]), turned(b, "b1", [1, 2, 0]), part="right")
    return call.emit("Sub", left, right)
