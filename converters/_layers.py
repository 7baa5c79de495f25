"""ATen rules of layers: products, convolutions, pooling, normalisation, activations, attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from converters._call import RULES, Call, Ref, Refused, Rule, rule, scaled, spread, target_shape

__all__: list[str] = []


def _unary(op: str) -> Rule:
    return lambda call: call.emit(op, call.first)


for _aten, _op in {
    "relu": "Relu",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "silu": "Swish",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "abs": "Abs",
    "erf": "Erf",
    "neg": "Neg",
}.items():
    RULES[_aten] = _unary(_op)


@rule("linear")
def _linear(call: Call) -> str:
    bias = [call["bias"]] if call.get("bias") else []
    return call.emit("Gemm", call["input"], call["weight"], *bias, transB=1)


@rule("addmm")
def _addmm(call: Call) -> str:
    scale: dict[str, Any] = {key: float(call[key]) for key in ("alpha", "beta") if call.get(key, 1) != 1}
    return call.emit("Gemm", call["mat1"], call["mat2"], call["self"], **scale)


@rule("matmul", "mm", "bmm", "mv", "dot")
def _matmul(call: Call) -> str:
    left, right = [value for value in call.arguments.values() if isinstance(value, Ref)]
    return call.emit("MatMul", left, right)


@rule("baddbmm")
def _baddbmm(call: Call) -> str:
    product = call.emit("MatMul", call["batch1"], call["batch2"], part="product")
    return call.emit(
        "Add",
        scaled(call, product, call.get("alpha", 1), "alpha"),
        scaled(call, call["self"], call.get("beta", 1), "beta"),
    )


def _pads(call: Call, kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    padding = call.get("padding", 0)
    if padding == "valid":
        padding = 0
    if padding == "same":
        total = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
        return [t // 2 for t in total] + [t - t // 2 for t in total]
    return spread(padding, len(kernel)) * 2


@rule("conv1d", "conv2d", "conv3d", "convolution")
def _conv(call: Call) -> str:
    if call.get("transposed", False):
        raise Refused("transposed convolutions have no op yet")
    kernel = [int(size or 0) for size in call["weight"].shape[2:]]
    dilation = spread(call.get("dilation", 1), len(kernel))
    bias = [call["bias"]] if call.get("bias") else []
    return call.emit(
        "Conv",
        call["input"],
        call["weight"],
        *bias,
        strides=spread(call.get("stride", 1), len(kernel)),
        dilations=dilation,
        pads=_pads(call, kernel, dilation),
        group=int(call.get("groups", 1)),
    )


@rule("max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices")
def _max_pool(call: Call) -> str:
    return call.emit("MaxPool", call.first, dilations=_window(call, "dilation"), **_pooling(call))


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _avg_pool(call: Call) -> str:
    if call.get("divisor_override"):
        raise Refused("divisor_override has no counterpart")
    return call.emit("AveragePool", call.first, count_include_pad=int(call["count_include_pad"]), **_pooling(call))


def _window(call: Call, key: str) -> list[int]:
    return spread(call.get(key, 1), len(call.first.shape) - 2)


def _pooling(call: Call) -> dict[str, Any]:
    return {
        "kernel_shape": _window(call, "kernel_size"),
        "strides": _window(call, "stride" if call.get("stride") else "kernel_size"),
        "pads": _window(call, "padding") * 2,
        "ceil_mode": int(call.get("ceil_mode", False)),
    }


def _even_windows(call: Call) -> dict[str, Any]:
    """Kernel and strides of an adaptive pooling whose windows do not overlap."""
    before, after = ([int(size or 0) for size in shape[2:]] for shape in (call.first.shape, call.shape))
    if any(size % out for size, out in zip(before, after, strict=True)):
        raise Refused(f"adaptive pooling of {before} to {after} has overlapping windows; sizes must divide evenly")
    kernel = [size // out for size, out in zip(before, after, strict=True)]
    return {"kernel_shape": kernel, "strides": kernel}


@rule("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d")
def _adaptive_avg_pool(call: Call) -> str:
    if all(size == 1 for size in call.shape[2:]):
        return call.emit("GlobalAveragePool", call.first)
    return call.emit("AveragePool", call.first, **_even_windows(call))


@rule("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def _adaptive_max_pool(call: Call) -> str:
    return call.emit("MaxPool", call.first, **_even_windows(call))


@rule("batch_norm", "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training")
def _batch_norm(call: Call) -> str:
    if call.get("training", False) or not call.get("running_mean"):
        raise Refused("it normalises by the batch's own statistics, which mixes samples; use stored statistics")
    size = call["running_mean"].shape[0]
    scale = call.get("weight") or call.constant("scale", np.ones(size))
    bias = call.get("bias") or call.constant("shift", np.zeros(size))
    # Only the schema of the decomposed forms has no default for epsilon, and each form spells it "eps".
    return call.emit(
        "BatchNormalization", call.first, scale, bias, call["running_mean"], call["running_var"], epsilon=call["eps"]
    )


@rule("layer_norm", "native_layer_norm")
def _layer_norm(call: Call) -> str:
    shape = list(call["normalized_shape"])
    scale = call.get("weight") or call.constant("scale", np.ones(shape))
    bias = [call["bias"]] if call.get("bias") else []
    return call.emit("LayerNormalization", call.first, scale, *bias, axis=-len(shape), epsilon=call["eps"])


@rule("group_norm")
def _group_norm(call: Call) -> str:
    """Each group is a row of a layer normalisation; scale and bias are per channel."""
    channels = call.first.shape[1]
    view = [channels] + [1] * (len(call.shape) - 2)
    rows = call.emit("Reshape", call.first, part="groups", shape=[0, int(call["num_groups"]), -1])
    ones = call.constant("ones", np.ones(1))
    rows = call.emit("LayerNormalization", rows, ones, part="normal", axis=-1, epsilon=call["eps"])
    steps = [(op, call[key], key) for op, key in (("Mul", "weight"), ("Add", "bias")) if call.get(key)]
    y = call.emit("Reshape", rows, part="normalised" if steps else "", shape=target_shape(call))
    for k, (op, weight, key) in enumerate(steps):
        along = call.emit("Reshape", weight, part=f"{key}.view", shape=view)
        y = call.emit(op, y, along, part="" if k == len(steps) - 1 else "scaled")
    return y


@rule("leaky_relu")
def _leaky_relu(call: Call) -> str:
    return call.emit("LeakyRelu", call.first, alpha=float(call["negative_slope"]))


@rule("prelu")
def _prelu(call: Call) -> str:
    """relu(x) - weight · relu(-x), a weight for each channel."""
    weight = call["weight"]
    if weight.shape and weight.shape[0] != 1:
        view = [weight.shape[0]] + [1] * (len(call.shape) - 2)
        weight = call.emit("Reshape", weight, part="weight.view", shape=view)
    below = call.emit("Relu", call.emit("Neg", call.first, part="negative"), part="below")
    above = call.emit("Relu", call.first, part="above")
    return call.emit("Sub", above, call.emit("Mul", below, weight, part="leak"))


@rule("elu")
def _elu(call: Call) -> str:
    """scale · max(x, 0) + scale · alpha (exp(k min(x, 0)) - 1), with k = input_scale; ONNX's Elu has only alpha."""
    k, alpha, scale = float(call["input_scale"]), float(call["alpha"]), float(call["scale"])
    x: Ref | str = scaled(call, call.first, k, "input_scale")
    if scale == k:
        return call.emit("Elu", x, alpha=alpha * k)
    y = call.emit("Elu", x, part="elu", alpha=alpha * k)
    return call.emit("Mul", y, call.constant("scale", scale / k))


@rule("gelu")
def _gelu(call: Call) -> str:
    return call.emit("Gelu", call.first, approximate=str(call["approximate"]))


@rule("softplus")
def _softplus(call: Call) -> str:
    beta = float(call["beta"])
    if beta == 1:
        return call.emit("Softplus", call.first)
    y = call.emit("Softplus", scaled(call, call.first, beta, "beta"), part="softplus")
    return call.emit("Div", y, call.constant("divisor", beta))


@rule("log_sigmoid", "log_sigmoid_forward")
def _log_sigmoid(call: Call) -> str:
    y = call.emit("Softplus", call.emit("Neg", call.first, part="negative"), part="softplus")
    return call.emit("Neg", y)


@rule("mish")
def _mish(call: Call) -> str:
    gate = call.emit("Tanh", call.emit("Softplus", call.first, part="softplus"), part="gate")
    return call.emit("Mul", call.first, gate)


@rule("celu")
def _celu(call: Call) -> str:
    """alpha Elu(x / alpha)."""
    alpha = float(call["alpha"])
    y = call.emit("Elu", scaled(call, call.first, 1 / alpha, "divisor"), part="elu" if alpha != 1 else "")
    return y if alpha == 1 else call.emit("Mul", y, call.constant("alpha", alpha))


@rule("hardtanh", "relu6", "clamp", "clamp_min", "clamp_max")
def _clip(call: Call) -> str:
    """Clipping to [a, b] is a + relu(x - a) - relu(x - b)."""
    defaults = (0.0, 6.0) if "min" not in call.arguments and "max" not in call.arguments else (None, None)
    low = call.get("min_val", call.get("min", defaults[0]))
    high = call.get("max_val", call.get("max", defaults[1]))
    if isinstance(low, Ref) or isinstance(high, Ref):
        raise Refused("bounds that are tensors have no counterpart")
    y: Ref | str = call.first
    if low is not None:
        last = "" if high is None else "low"
        floor = call.constant("min", low) if low else ""
        x = call.emit("Sub", y, floor, part="above") if low else y
        y = call.emit("Relu", x, part="relu" if low else last)
        y = call.emit("Add", y, floor, part=last) if low else y
    if high is None:
        return str(y)
    cut = call.emit("Relu", call.emit("Sub", call.first, call.constant("max", high), part="over"), part="cut")
    return call.emit("Sub", y, cut)


@rule("softmax", "_softmax")
def _softmax(call: Call) -> str:
    return call.emit("Softmax", call.first, axis=int(call["dim"]))


@rule("log_softmax", "_log_softmax")
def _log_softmax(call: Call) -> str:
    return call.emit("LogSoftmax", call.first, axis=int(call["dim"]))


@rule("scaled_dot_product_attention")
def _attention(call: Call) -> str:
    """softmax(q kᵀ scale + mask) v."""
    query, key = call["query"], call["key"]
    if call.get("dropout_p", 0.0) or call.get("enable_gqa", False):
        raise Refused("attention with dropout or grouped heads is not supported")
    rank = len(key.shape)
    order = [*range(rank - 2), rank - 1, rank - 2]
    turned = call.emit("Transpose", key, part="key", perm=order)
    scores = call.emit("MatMul", query, turned, part="scores")
    scale = call.get("scale", 1 / math.sqrt(query.shape[-1]))
    scores = call.emit("Mul", scores, call.constant("scale", scale), part="scaled")
    mask = call.get("attn_mask")
    if call.get("is_causal", False):
        # exp(-1e30) is 0 in either precision, and a net holds finite numbers only.
        mask = call.constant("mask", np.triu(np.full((query.shape[-2], key.shape[-2]), -1e30), 1))
    if mask is not None:
        scores = call.emit("Add", scores, mask, part="masked")
    return call.emit("MatMul", call.emit("Softmax", scores, part="weights", axis=-1), call["value"])
