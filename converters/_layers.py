"""ATen rules of layers: products, convolutions, pooling, normalisation, attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from converters._call import Call, Refused, Value, rule, spread

__all__: list[str] = []


@rule("linear")
def _linear(call: Call) -> Value:
    bias = [call["bias"]] if call.get("bias") else []
    return call.emit("Gemm", call["input"], call["weight"], *bias, transB=1)


@rule("addmm")
def _addmm(call: Call) -> Value:
    scale: dict[str, Any] = {key: float(call[key]) for key in ("alpha", "beta") if call.get(key, 1) != 1}
    return call.emit("Gemm", call["mat1"], call["mat2"], call["self"], **scale)


@rule("addmv")
def _addmv(call: Call) -> Value:
    return _added(call, call.emit("MatMul", call["mat"], call["vec"], part="product"))


@rule("matmul", "mm", "bmm", "mv", "dot")
def _matmul(call: Call) -> Value:
    left, right = [value for value in call.arguments.values() if isinstance(value, Value)]
    return call.emit("MatMul", left, right)


@rule("baddbmm")
def _baddbmm(call: Call) -> Value:
    return _added(call, call.emit("MatMul", call["batch1"], call["batch2"], part="product"))


def _added(call: Call, product: Value) -> Value:
    """alpha · product + beta · self."""
    product = call.scaled(product, call.get("alpha", 1), "alpha")
    beta = call.get("beta", 1)
    return call.emit("Add", product, call.scaled(call["self"], beta, "beta")) if beta else product


@rule("einsum")
def _einsum(call: Call) -> Value:
    """An ellipsis is spelled out."""
    equation, operands = str(call["equation"]).replace(" ", ""), call["tensors"]
    if "..." in equation:
        equation = _spelled_out(equation, [len(x.row) for x in operands])
    return call.emit("Einsum", *operands, equation=equation)


@rule("bilinear")
def _bilinear(call: Call) -> Value:
    """x1 W_o x2 for each output o."""
    rows = "abcdefgh"[: len(call["input1"].row) - 1]
    operands, equation = [call["input1"], call["weight"], call["input2"]], f"{rows}i,oij,{rows}j->{rows}o"
    if not call.get("bias"):
        return call.emit("Einsum", *operands, equation=equation)
    return call.emit("Add", call.emit("Einsum", *operands, part="product", equation=equation), call["bias"])


def _spelled_out(equation: str, ranks: Sequence[int]) -> str:
    left, arrow, right = equation.partition("->")
    spare = [letter for letter in "abcdefghijklmnopqrstuvwxyz" if letter not in equation]
    terms = left.split(",")
    widths = [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True)]
    most = max(width for term, width in zip(terms, widths, strict=True) if "..." in term)
    letters = "".join(spare[:most])
    terms = [t.replace("...", letters[most - width :]) for t, width in zip(terms, widths, strict=True)]
    if not arrow:
        plain = left.replace("...", "").replace(",", "")
        right = "..." + "".join(sorted(letter for letter in set(plain) if plain.count(letter) == 1))
    return ",".join(terms) + "->" + right.replace("...", letters)


def _pads(call: Call, kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    padding = call.get("padding", 0)
    if padding == "valid":
        padding = 0
    if padding == "same":
        total = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
        return [t // 2 for t in total] + [t - t // 2 for t in total]
    return spread(padding, len(kernel)) * 2


_DEEP = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


@rule("conv1d", "conv2d", "conv3d", "convolution", *_DEEP)
def _conv(call: Call) -> Value:
    kernel = [int(size) for size in call["weight"].row[2:]]
    dilation = spread(call.get("dilation", 1), len(kernel))
    bias = [call["bias"]] if call.get("bias") else []
    attributes: dict[str, Any] = {
        "strides": spread(call.get("stride", 1), len(kernel)),
        "dilations": dilation,
        "pads": _pads(call, kernel, dilation),
        "group": int(call.get("groups", 1)),
    }
    if not call.get("transposed", call.packet in _DEEP):
        return call.emit("Conv", call["input"], call["weight"], *bias, **attributes)
    extra = spread(call.get("output_padding", 0), len(kernel))
    return call.emit("ConvTranspose", call["input"], call["weight"], *bias, output_padding=extra, **attributes)


@rule("max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices")
def _max_pool(call: Call) -> Value:
    return call.emit("MaxPool", call.first, dilations=_window(call, "dilation"), **_pooling(call))


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _avg_pool(call: Call) -> Value:
    divisor, include = call.get("divisor_override"), int(call["count_include_pad"])
    if not divisor:
        return call.emit("AveragePool", call.first, count_include_pad=include, **_pooling(call))
    pooling = _pooling(call)
    if pooling["ceil_mode"]:
        raise Refused("divisor_override with ceil_mode has no counterpart")
    mean = call.emit("AveragePool", call.first, part="mean", count_include_pad=1, **pooling)
    return call.emit("Mul", mean, call.constant("divisor", math.prod(pooling["kernel_shape"]) / divisor))


def _window(call: Call, key: str) -> list[int]:
    return spread(call.get(key, 1), len(call.first.row) - 2)


def _pooling(call: Call) -> dict[str, Any]:
    return {
        "kernel_shape": _window(call, "kernel_size"),
        "strides": _window(call, "stride" if call.get("stride") else "kernel_size"),
        "pads": _window(call, "padding") * 2,
        "ceil_mode": int(call.get("ceil_mode", False)),
    }


def _even_windows(before: Sequence[int], after: Sequence[int]) -> dict[str, Any] | None:
    """Kernel and strides of an adaptive pooling whose windows do not overlap; None where they do."""
    if any(size % out for size, out in zip(before, after, strict=True)):
        return None
    kernel = [size // out for size, out in zip(before, after, strict=True)]
    return {"kernel_shape": kernel, "strides": kernel}


def _uneven(size: int, out: int) -> list[tuple[int, int]]:
    """Begin and end of each window of an adaptive pooling along one axis."""
    return [(k * size // out, -(-(k + 1) * size // out)) for k in range(out)]


def _targets(call: Call) -> tuple[list[int], list[int]]:
    before = [int(size) for size in call.first.row[2:]]
    wanted = spread(call.get("output_size"), len(before))
    return before, [size if out is None else int(out) for size, out in zip(before, wanted, strict=True)]


@rule("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d",
      "_adaptive_avg_pool3d")  # fmt: skip
def _adaptive_avg_pool(call: Call) -> Value:
    """Overlapping windows of unequal size are one matrix of averages along each axis."""
    before, after = _targets(call)
    if all(size == 1 for size in after):
        return call.emit("GlobalAveragePool", call.first)
    even = _even_windows(before, after)
    if even:
        return call.emit("AveragePool", call.first, **even)
    y, rank = call.first, len(call.first.row)
    steps = [k for k, (size, out) in enumerate(zip(before, after, strict=True)) if size != out]
    for k in steps:
        matrix = np.zeros((before[k], after[k]))
        for column, (begin, end) in enumerate(_uneven(before[k], after[k])):
            matrix[begin:end, column] = 1 / (end - begin)
        turn = list(range(rank))
        turn[2 + k], turn[-1] = turn[-1], turn[2 + k]
        last, where = k == steps[-1], f"axis{k}"
        here = turn == list(range(rank))
        y = y if here else call.emit("Transpose", y, part=f"{where}.last", perm=turn)
        means = call.constant(f"{where}.windows", matrix)
        y = call.emit("MatMul", y, means, part="" if last and here else f"{where}.mean")
        y = y if here else call.emit("Transpose", y, part="" if last else f"{where}.back", perm=turn)
    return y


@rule("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def _adaptive_max_pool(call: Call) -> Value:
    """Overlapping windows of unequal size: for each axis, the greatest of the entries of each window."""
    before, after = _targets(call)
    even = _even_windows(before, after)
    if even:
        return call.emit("MaxPool", call.first, **even)
    y = call.first
    steps = [k for k, (size, out) in enumerate(zip(before, after, strict=True)) if size != out]
    for k in steps:
        windows = _uneven(before[k], after[k])
        reach = max(end - begin for begin, end in windows)
        # A shorter window repeats its last entry, which its maximum does not notice.
        index = np.array([[min(begin + j, end - 1) for j in range(reach)] for begin, end in windows])
        picked = call.emit("Gather", y, call.constant(f"axis{k}.index", index), part=f"axis{k}.windows", axis=2 + k)
        y = call.emit("ReduceMax", picked, part="" if k == steps[-1] else f"axis{k}.max", axes=[3 + k], keepdims=0)
    return y


@rule("batch_norm", "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training")
def _batch_norm(call: Call) -> Value:
    if call.get("training", False) or not call.get("running_mean"):
        raise Refused("it normalises by the batch's own statistics, which mixes samples; use stored statistics")
    size = call["running_mean"].row[0]
    scale = call.get("weight") or call.constant("scale", np.ones(size))
    bias = call.get("bias") or call.constant("shift", np.zeros(size))
    # Only the schema of the decomposed forms has no default for epsilon, and each form spells it "eps".
    return call.emit(
        "BatchNormalization", call.first, scale, bias, call["running_mean"], call["running_var"], epsilon=call["eps"]
    )


@rule("layer_norm", "native_layer_norm")
def _layer_norm(call: Call) -> Value:
    shape = list(call["normalized_shape"])
    scale = call.get("weight") or call.constant("scale", np.ones(shape))
    bias = [call["bias"]] if call.get("bias") else []
    return call.emit("LayerNormalization", call.first, scale, *bias, axis=-len(shape), epsilon=call["eps"])


@rule("rms_norm", "_fused_rms_norm")
def _rms_norm(call: Call) -> Value:
    """weight x / sqrt(mean x² + eps)."""
    x = call.first
    axes = [len(x.row) - 1 - k for k in range(len(call["normalized_shape"]))]
    eps = call.get("eps", float(np.finfo(call.plates.net.dtype).eps))
    square = call.emit("Mul", x, x, part="square")
    mean = call.emit("ReduceMean", square, part="mean", axes=axes, keepdims=1)
    root = call.emit("Sqrt", call.emit("Add", mean, call.constant("eps", eps), part="shifted"), part="root")
    weight = call.get("weight")
    y = call.emit("Div", x, root, part="normal" if weight else "")
    return call.emit("Mul", y, weight) if weight else y


@rule("group_norm")
def _group_norm(call: Call) -> Value:
    return _grouped(call, int(call["num_groups"]), call["eps"])


@rule("instance_norm")
def _instance_norm(call: Call) -> Value:
    if call.get("running_mean") and not call.get("use_input_stats", True):
        return _batch_norm(call)  # type: ignore[return-value]
    return _grouped(call, call.first.row[1], call["eps"])


def _grouped(call: Call, groups: int, eps: float) -> Value:
    """Each group is a row of a layer normalisation; scale and bias are per channel."""
    x = call.first
    view = [x.row[1]] + [1] * (len(x.row) - 2)
    rows = call.emit("Reshape", x, part="groups", shape=[x.shape[0], groups, -1])
    ones = call.constant("ones", np.ones(1))
    rows = call.emit("LayerNormalization", rows, ones, part="normal", axis=-1, epsilon=eps)
    steps = [(op, call[key], key) for op, key in (("Mul", "weight"), ("Add", "bias")) if call.get(key)]
    y = call.emit("Reshape", rows, part="normalised" if steps else "", shape=list(x.shape))
    for k, (op, weight, key) in enumerate(steps):
        along = call.emit("Reshape", weight, part=f"{key}.view", shape=view)
        y = call.emit(op, y, along, part="" if k == len(steps) - 1 else "scaled")
    return y


@rule("softmax", "_softmax", "_safe_softmax")
def _softmax(call: Call) -> Value:
    return call.emit("Softmax", call.first, axis=int(call["dim"]))


@rule("log_softmax", "_log_softmax")
def _log_softmax(call: Call) -> Value:
    return call.emit("LogSoftmax", call.first, axis=int(call["dim"]))


@rule("scaled_dot_product_attention")
def _attention(call: Call) -> Value:
    """softmax(q kᵀ scale + mask) v."""
    query, key, value = call["query"], call["key"], call["value"]
    if call.get("dropout_p", 0.0):
        raise Refused("attention with dropout is not supported")
    if call.get("enable_gqa", False):
        key, value = (_repeated_heads(call, x, query.row[-3], n) for x, n in ((key, "key"), (value, "value")))
    rank = len(key.row)
    order = [*range(rank - 2), rank - 1, rank - 2]
    turned = call.emit("Transpose", key, part="key", perm=order)
    scores = call.emit("MatMul", query, turned, part="scores")
    scale = call.get("scale", 1 / math.sqrt(query.row[-1]))
    scores = call.emit("Mul", scores, call.constant("scale", scale), part="scaled")
    mask = call.get("attn_mask")
    if call.get("is_causal", False):
        # exp(-1e30) is 0 in either precision, and a net holds finite numbers only.
        mask = call.constant("mask", np.triu(np.full((query.row[-2], key.row[-2]), -1e30), 1))
    if mask is not None and call.kinds.get("attn_mask") == "b":
        far = call.constant("far", -1e30)
        mask = call.emit("Where", mask, call.constant("near", 0.0), far, part="mask.scores")
    if mask is not None:
        scores = call.emit("Add", scores, mask, part="masked")
    return call.emit("MatMul", call.emit("Softmax", scores, part="weights", axis=-1), value)


def _repeated_heads(call: Call, x: Value, heads: int, name: str) -> Value:
    """Each head of keys or values serves several of the queries."""
    count = heads // x.row[-3]
    axis = len(x.row) - 3
    index = call.constant(f"{name}.heads", np.repeat(np.arange(x.row[-3]), count))
    return x if count == 1 else call.emit("Gather", x, index, part=f"{name}.repeated", axis=axis)


@rule("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d",
      "_upsample_nearest_exact2d", "_upsample_nearest_exact3d")  # fmt: skip
def _nearest(call: Call) -> Value:
    """Output k is input floor(k / scale), or floor((k + 1/2) / scale) in the exact form: a pick along each axis."""
    half = 0.5 if "exact" in call.packet else 0.0
    x, y = call.first, call.first
    steps = list(range(2, len(x.row)))
    for axis in steps:
        out, scale = int(call.shape[axis]), _factor(call, axis)
        index = np.minimum(np.floor((np.arange(out) + half) * scale), x.row[axis] - 1).astype(int)
        picked = call.constant(f"axis{axis - 2}.index", index)
        y = call.emit("Gather", y, picked, part="" if axis == steps[-1] else f"axis{axis - 2}", axis=axis)
    return y


def _factor(call: Call, axis: int) -> float:
    """Input entries for each output entry along an axis."""
    given = call.get("scale_factors")
    if given is None:
        keys = {2: "scales_h", 3: "scales_w"} if len(call.first.row) == 4 else {}
        one = call.get(keys.get(axis, "scales"))
        return 1 / float(one) if one else call.first.row[axis] / int(call.shape[axis])
    return 1 / float(given[axis - 2])


@rule("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d")
def _interpolation(call: Call) -> Value:
    """Interpolation is a matrix of weights along each axis, one after the other."""
    cubic, corners = "cubic" in call.packet, bool(call["align_corners"])
    y, rank = call.first, len(call.first.row)
    steps = list(range(rank - 1, 1, -1))
    for axis in steps:
        matrix = _weights(call.first.row[axis], int(call.shape[axis]), _factor(call, axis), corners, cubic)
        last, where = axis == steps[-1], f"axis{axis - 2}"
        weights = call.constant(f"{where}.weights", matrix.T if axis == rank - 1 else matrix)
        if axis == rank - 1:
            y = call.emit("MatMul", y, weights, part="" if last else where)
        elif axis == rank - 2:
            y = call.emit("MatMul", weights, y, part="" if last else where)
        else:
            turn = [*range(axis), *range(axis + 1, rank), axis]
            back = [*range(axis), rank - 1, *range(axis, rank - 1)]
            y = call.emit("Transpose", y, part=f"{where}.last", perm=turn)
            y = call.emit("MatMul", y, call.constant(f"{where}.turned", matrix.T), part=where)
            y = call.emit("Transpose", y, part="" if last else f"{where}.back", perm=back)
    return y


def _weights(size: int, out: int, scale: float, corners: bool, cubic: bool) -> np.ndarray[Any, Any]:
    """Each output entry as a mean of input entries.  shape: (out, size); Keys' kernel with a = -3/4 where cubic."""
    k = np.arange(out)
    place = k * ((size - 1) / (out - 1) if out > 1 else 0.0) if corners else (k + 0.5) * scale - 0.5
    place = place if corners or cubic else np.maximum(place, 0.0)
    first = np.floor(place).astype(int)
    matrix = np.zeros((out, size))
    for tap in range(-1, 3) if cubic else range(2):
        distance = np.abs(place - first - tap)
        weight = _keys(distance) if cubic else 1 - distance
        np.add.at(matrix, (k, np.clip(first + tap, 0, size - 1)), weight)
    return matrix


def _keys(t: np.ndarray[Any, Any], a: float = -0.75) -> np.ndarray[Any, Any]:
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))
