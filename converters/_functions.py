"""ATen rules of functions of one entry, of comparisons, and of choice between entries."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from converters._call import RULES, Call, Refused, Rule, Value, rule

__all__ = ["truncated"]


def _unary(op: str, **attributes: Any) -> Rule:
    return lambda call: call.emit(op, call.first, **attributes)


for _aten, _op in {
    "relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "silu": "Swish", "exp": "Exp", "log": "Log", "sqrt": "Sqrt",
    "abs": "Abs", "erf": "Erf", "neg": "Neg", "sin": "Sin", "cos": "Cos", "tan": "Tan", "asin": "Asin",
    "acos": "Acos", "atan": "Atan", "sinh": "Sinh", "cosh": "Cosh", "asinh": "Asinh", "acosh": "Acosh",
    "atanh": "Atanh", "mish": "Mish", "hardswish": "HardSwish", "softsign": "Softsign", "reciprocal": "Reciprocal",
    "floor": "Floor", "ceil": "Ceil", "round": "Round", "sign": "Sign", "sgn": "Sign",
    "logical_not": "Not", "bitwise_not": "Not", "isnan": "IsNaN", "isinf": "IsInf",
}.items():  # fmt: skip
    RULES[_aten] = _unary(_op)
RULES["hardsigmoid"] = _unary("HardSigmoid", alpha=1 / 6, beta=0.5)


def _binary(op: str, negated: bool = False) -> Rule:
    def compute(call: Call) -> Value:
        a, b = call["self"], call.operand(call["other"], "other")
        if call.packet.startswith("bitwise") and call.kinds.get("") != "b":
            raise Refused("arithmetic of bits has no counterpart")
        if not negated:
            return call.emit(op, call.operand(a, "self"), b)
        return call.emit("Not", call.emit(op, call.operand(a, "self"), b, part="equal"))

    return compute


for _aten, _op in {
    "eq": "Equal", "gt": "Greater", "ge": "GreaterOrEqual", "lt": "Less", "le": "LessOrEqual", "logical_and": "And",
    "bitwise_and": "And", "logical_or": "Or", "bitwise_or": "Or", "logical_xor": "Xor", "maximum": "Max",
    "minimum": "Min", "fmax": "Max", "fmin": "Min", "remainder": "Mod",
}.items():  # fmt: skip
    RULES[_aten] = _binary(_op)
RULES["ne"] = _binary("Equal", negated=True)


@rule("fmod")
def _fmod(call: Call) -> Value:
    return call.emit("Mod", call.operand(call["self"], "self"), call.operand(call["other"], "other"), fmod=1)


@rule("exp2")
def _exp2(call: Call) -> Value:
    return call.emit("Exp", call.scaled(call.first, math.log(2), "factor"))


@rule("expm1")
def _expm1(call: Call) -> Value:
    """(exp(x) - 1), which loses digits near 0 that nets do not need."""
    return call.emit("Sub", call.emit("Exp", call.first, part="exp"), call.constant("one", 1.0))


@rule("log1p")
def _log1p(call: Call) -> Value:
    return call.emit("Log", call.emit("Add", call.first, call.constant("one", 1.0), part="shifted"))


def _logarithm(base: float) -> Rule:
    return lambda call: call.emit(
        "Div", call.emit("Log", call.first, part="log"), call.constant("base", math.log(base))
    )


RULES["log2"], RULES["log10"] = _logarithm(2), _logarithm(10)


@rule("erfc")
def _erfc(call: Call) -> Value:
    return call.emit("Sub", call.constant("one", 1.0), call.emit("Erf", call.first, part="erf"))


def truncated(call: Call) -> Value:
    """sign(x) floor(|x|)."""
    whole = call.emit("Floor", call.emit("Abs", call.first, part="size"), part="floor")
    return call.emit("Mul", call.emit("Sign", call.first, part="sign"), whole)


@rule("trunc", "fix")
def _trunc(call: Call) -> Value:
    return truncated(call)


@rule("frac")
def _frac(call: Call) -> Value:
    return call.emit("Sub", call.first, truncated(call.within(f"{call.name}.trunc")))


@rule("atan2")
def _atan2(call: Call) -> Value:
    """2 atan(y / (r + x)), r² = x² + y²; undefined on the negative axis alone."""
    y, x = call["self"], call["other"]
    squares = [call.emit("Mul", v, v, part=f"{n}.square") for v, n in ((x, "x"), (y, "y"))]
    r = call.emit("Sqrt", call.emit("Add", *squares, part="sum"), part="radius")
    ratio = call.emit("Div", y, call.emit("Add", r, x, part="reach"), part="ratio")
    return call.emit("Mul", call.emit("Atan", ratio, part="half"), call.constant("two", 2.0))


@rule("hypot")
def _hypot(call: Call) -> Value:
    squares = [call.emit("Mul", call[k], call[k], part=f"{k}.square") for k in ("self", "other")]
    return call.emit("Sqrt", call.emit("Add", *squares, part="sum"))


@rule("rrelu", "rrelu_with_noise", "rrelu_with_noise_functional")
def _rrelu(call: Call) -> Value:
    """Outside training the slope is the mean of its bounds."""
    if call.get("training", False):
        raise Refused("it draws at random in training mode; export the model after model.eval()")
    return call.emit("LeakyRelu", call.first, alpha=(float(call["lower"]) + float(call["upper"])) / 2)


@rule("rsqrt")
def _rsqrt(call: Call) -> Value:
    return call.emit("Div", call.constant("one", 1.0), call.emit("Sqrt", call.first, part="root"))


@rule("square")
def _square(call: Call) -> Value:
    return call.emit("Mul", call.first, call.first)


@rule("pow")
def _pow(call: Call) -> Value:
    base, exponent = call.operand(call["self"], "base"), call["exponent"]
    if isinstance(exponent, Value) or base is not call["self"]:
        return call.emit("Pow", base, call.operand(exponent, "exponent"))
    if exponent == 0.5:
        return call.emit("Sqrt", base)
    if exponent == -1:
        return call.emit("Reciprocal", base)
    if exponent == -0.5:
        return _rsqrt(call)  # type: ignore[return-value]
    if exponent == 2:
        return call.emit("Mul", base, base)
    if exponent not in (3, 4):
        return call.emit("Pow", base, call.constant("exponent", float(exponent)))
    square = call.emit("Mul", base, base, part="square")
    return call.emit("Mul", square, base if exponent == 3 else square)


@rule("leaky_relu")
def _leaky_relu(call: Call) -> Value:
    return call.emit("LeakyRelu", call.first, alpha=float(call["negative_slope"]))


@rule("prelu", "_prelu_kernel")
def _prelu(call: Call) -> Value:
    """A slope for each channel."""
    x, weight = call.first, call["weight"]
    if len(weight.row) == 1 and weight.row[0] != 1 and len(x.row) > 2:
        view = [weight.row[0]] + [1] * (len(x.row) - 2)
        weight = call.emit("Reshape", weight, part="weight.view", shape=view)
    return call.emit("PRelu", x, weight)


@rule("elu")
def _elu(call: Call) -> Value:
    """scale · max(x, 0) + scale · alpha (exp(k min(x, 0)) - 1), with k = input_scale; ONNX's Elu has only alpha."""
    k, alpha, scale = float(call["input_scale"]), float(call["alpha"]), float(call["scale"])
    x = call.scaled(call.first, k, "input_scale")
    if scale == k:
        return call.emit("Elu", x, alpha=alpha * k)
    y = call.emit("Elu", x, part="elu", alpha=alpha * k)
    return call.emit("Mul", y, call.constant("scale", scale / k))


@rule("celu")
def _celu(call: Call) -> Value:
    """alpha Elu(x / alpha)."""
    alpha = float(call["alpha"])
    y = call.emit("Elu", call.scaled(call.first, 1 / alpha, "divisor"), part="elu" if alpha != 1 else "")
    return y if alpha == 1 else call.emit("Mul", y, call.constant("alpha", alpha))


@rule("gelu")
def _gelu(call: Call) -> Value:
    return call.emit("Gelu", call.first, approximate=str(call["approximate"]))


@rule("softplus")
def _softplus(call: Call) -> Value:
    beta = float(call["beta"])
    if beta == 1:
        return call.emit("Softplus", call.first)
    y = call.emit("Softplus", call.scaled(call.first, beta, "beta"), part="softplus")
    return call.emit("Div", y, call.constant("divisor", beta))


@rule("log_sigmoid", "log_sigmoid_forward")
def _log_sigmoid(call: Call) -> Value:
    y = call.emit("Softplus", call.emit("Neg", call.first, part="negative"), part="softplus")
    return call.emit("Neg", y)


@rule("logaddexp")
def _logaddexp(call: Call) -> Value:
    """b + softplus(a - b)."""
    a, b = call["self"], call["other"]
    return call.emit("Add", b, call.emit("Softplus", call.emit("Sub", a, b, part="gap"), part="softplus"))


@rule("hardshrink")
def _hardshrink(call: Call) -> Value:
    return call.emit("Shrink", call.first, lambd=float(call["lambd"]), bias=0.0)


@rule("softshrink")
def _softshrink(call: Call) -> Value:
    return call.emit("Shrink", call.first, lambd=float(call["lambd"]), bias=float(call["lambd"]))


@rule("threshold")
def _threshold(call: Call) -> Value:
    """x where it is above the threshold, else a value."""
    above = call.emit("Greater", call.first, call.constant("threshold", float(call["threshold"])), part="above")
    return call.emit("Where", above, call.first, call.constant("value", float(call["value"])))


@rule("hardtanh", "relu6", "clamp", "clamp_min", "clamp_max")
def _clip(call: Call) -> Value:
    """Clipping to [a, b] is a + relu(x - a) - relu(x - b); with bounds that are tensors, max and min."""
    defaults = (0.0, 6.0) if "min" not in call.arguments and "max" not in call.arguments else (None, None)
    low = call.get("min_val", call.get("min", defaults[0]))
    high = call.get("max_val", call.get("max", defaults[1]))
    if isinstance(low, Value) or isinstance(high, Value):
        y = call.first
        if low is not None:
            y = call.emit("Max", y, call.operand(low, "min"), part="" if high is None else "low")
        return y if high is None else call.emit("Min", y, call.operand(high, "max"))
    y = call.first
    if low is not None:
        last = "" if high is None else "low"
        if low:
            floor = call.constant("min", low)
            y = call.emit("Relu", call.emit("Sub", y, floor, part="above"), part="relu")
            y = call.emit("Add", y, floor, part=last)
        else:
            y = call.emit("Relu", y, part=last)
    if high is None:
        return y
    cut = call.emit("Relu", call.emit("Sub", call.first, call.constant("max", high), part="over"), part="cut")
    return call.emit("Sub", y, cut)


@rule("where")
def _where(call: Call) -> Value:
    return call.emit(
        "Where", call["condition"], call.operand(call["self"], "self"), call.operand(call["other"], "other")
    )


@rule("masked_fill")
def _masked_fill(call: Call) -> Value:
    """A value where the mask is set; -1e30 stands for -inf, since nets hold finite numbers."""
    value = call["value"]
    if not isinstance(value, Value):
        value = call.constant("value", np.clip(float(value), -1e30, 1e30))
    return call.emit("Where", call["mask"], value, call["self"])
