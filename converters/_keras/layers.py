"""Rules of the Keras layers that hold weights over features: dense, convolution, pooling, embedding, normalisation.

Keras keeps channels on the last axis unless ``data_format`` says otherwise, and ONNX's ops want them first: a Transpose
goes before and after.  Kernels stay in Keras's shape, and Transpose or Reshape makes the op's from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from converters._keras.activations import activated
from converters._keras.call import Call, Refused, rule, to_array
from converters._keras.records import Shape

__all__ = ["channels_first", "channels_last"]


@rule("Dense")
def _dense(call: Call) -> str:
    """φ(x K + b) over the last axis.  K: (in, units)."""
    units, config = call.config.integer("units"), call.config
    features = call.shape(call.input)[-1]
    bias = (units,) if config.flag("use_bias", True) else None
    weights = call.variables(kernel=(features, units), bias=bias)
    return activated(call, lambda part: call.emit("Gemm", call.input, *weights, part=part), config.get("activation"))


@rule("Embedding")
def _embedding(call: Call) -> str:
    """The rows of the table that the numbers choose.  Table: (input_dim, output_dim)."""
    config = call.config
    if config.flag("mask_zero"):
        raise Refused("mask_zero=True: masks that follow from the data have no counterpart")
    (table,) = call.variables(embeddings=(config.integer("input_dim"), config.integer("output_dim")))
    return call.emit("Gather", table, call.input, axis=0)


def _is_last(call: Call) -> bool:
    options = ("channels_last", "channels_first")
    return call.config.choice("data_format", options, "channels_last") == "channels_last"


def _rank(call: Call) -> int:
    """Number of spatial axes: the digit in the layer's name, which the input must have."""
    rank = next(int(character) for character in call.layer.kind if character.isdigit())
    if len(call.shape(call.input)) != rank + 1:
        raise Refused(f"its input has the event {call.shape(call.input)}, expected {rank} spatial axes and channels")
    return rank


def channels_first(rank: int) -> list[int]:
    """The order of axes that brings channels from the last place to the one after the samples."""
    return [0, rank + 1, *range(1, rank + 1)]


def channels_last(rank: int) -> list[int]:
    """The order that takes them back."""
    return [0, *range(2, rank + 2), 1]


def _around(call: Call, rank: int, emit: Callable[[str, str], str], part: str = "", inner: str = "core") -> str:
    """``emit(x, part)`` on the input with channels first, its result in the layer's own layout."""
    if not _is_last(call):
        return emit(call.input, part)
    x = call.transposed(call.input, channels_first(rank), "channels_first")
    return call.emit("Transpose", emit(x, inner), part=part, perm=channels_last(rank))


def _event(call: Call, rank: int) -> tuple[int, list[int]]:
    """Channels and spatial sizes of the input."""
    event = call.shape(call.input)
    return (event[-1], list(event[:-1])) if _is_last(call) else (event[0], list(event[1:]))


def _windows(call: Call, rank: int, kernel: Sequence[int], key: str, default: Any) -> dict[str, Any]:
    """Strides, dilations and pads; "same" puts the larger half of the padding at the end."""
    config, options = call.config, ["valid", "same"]
    causal = call.layer.kind in ("Conv1D", "SeparableConv1D")
    padding = config.choice("padding", [*options, "causal"] if causal else options, "valid")
    strides = config.integers(key, rank, default)
    dilations = config.integers("dilation_rate", rank, 1)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    begins, ends = [0] * rank, [0] * rank
    if padding == "same":
        sizes = _event(call, rank)[1]
        total = [max(0, (-(-n // s) - 1) * s + r - n) for n, s, r in zip(sizes, strides, reach, strict=True)]
        begins, ends = [t // 2 for t in total], [t - t // 2 for t in total]
    if padding == "causal":
        begins = [reach[0] - 1]
    return {"strides": strides, "dilations": dilations, "pads": begins + ends}


def _kernel(call: Call, parameter: str, rank: int) -> str:
    """(*kernel, in, out) as (out, in, *kernel)."""
    return call.derived(parameter, "Transpose", "channels_first", perm=[rank + 1, rank, *range(rank)])


@rule("Conv1D", "Conv2D", "Conv3D")
def _conv(call: Call) -> str:
    """φ(x * K + b).  K: (*kernel, in / groups, filters)."""
    rank, config = _rank(call), call.config
    filters, groups = config.integer("filters"), config.integer("groups", 1)
    kernel = config.integers("kernel_size", rank)
    channels = _event(call, rank)[0]
    if channels % groups or filters % groups:
        raise Refused(f"groups: {groups} do not divide {channels} channels and {filters} filters")
    bias = (filters,) if config.flag("use_bias", True) else None
    weight, *rest = call.variables(kernel=(*kernel, channels // groups, filters), bias=bias)
    weight = _kernel(call, weight, rank)
    windows = _windows(call, rank, kernel, "strides", 1) | {"group": groups}

    def conv(x: str, part: str) -> str:
        return call.emit("Conv", x, weight, *rest, part=part, **windows)

    return activated(call, lambda part: _around(call, rank, conv, part, "conv"), config.get("activation"))


def _depthwise(call: Call, parameter: str, rank: int, channels: int, multiplier: int, kernel: Sequence[int]) -> str:
    """(*kernel, channels, multiplier) as (channels * multiplier, 1, *kernel)."""
    weight = call.derived(parameter, "Transpose", "channels_first", perm=[rank, rank + 1, *range(rank)])
    return call.derived(weight, "Reshape", "filters", shape=[channels * multiplier, 1, *kernel])


@rule("DepthwiseConv1D", "DepthwiseConv2D")
def _depthwise_conv(call: Call) -> str:
    """A filter for each channel.  K: (*kernel, channels, multiplier)."""
    rank, config = _rank(call), call.config
    channels, multiplier = _event(call, rank)[0], config.integer("depth_multiplier", 1)
    kernel = config.integers("kernel_size", rank)
    bias = (channels * multiplier,) if config.flag("use_bias", True) else None
    weight, *rest = call.variables(kernel=(*kernel, channels, multiplier), bias=bias)
    weight = _depthwise(call, weight, rank, channels, multiplier, kernel)
    windows = _windows(call, rank, kernel, "strides", 1) | {"group": channels}

    def conv(x: str, part: str) -> str:
        return call.emit("Conv", x, weight, *rest, part=part, **windows)

    return activated(call, lambda part: _around(call, rank, conv, part, "conv"), config.get("activation"))


@rule("SeparableConv1D", "SeparableConv2D")
def _separable_conv(call: Call) -> str:
    """A depthwise convolution, then one of single points over the channels."""
    rank, config = _rank(call), call.config
    channels, multiplier = _event(call, rank)[0], config.integer("depth_multiplier", 1)
    filters, kernel = config.integer("filters"), config.integers("kernel_size", rank)
    depthwise, pointwise, *rest = call.variables(
        depthwise_kernel=(*kernel, channels, multiplier),
        pointwise_kernel=(*[1] * rank, channels * multiplier, filters),
        bias=(filters,) if config.flag("use_bias", True) else None,
    )
    depthwise = _depthwise(call, depthwise, rank, channels, multiplier, kernel)
    pointwise = _kernel(call, pointwise, rank)
    windows = _windows(call, rank, kernel, "strides", 1) | {"group": channels}

    def conv(x: str, part: str) -> str:
        x = call.emit("Conv", x, depthwise, part="depthwise", **windows)
        return call.emit("Conv", x, pointwise, *rest, part=part)

    return activated(call, lambda part: _around(call, rank, conv, part, "conv"), config.get("activation"))


@rule("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
def _conv_transpose(call: Call) -> str:
    """The adjoint of a convolution.  K: (*kernel, filters, in)."""
    rank, config = _rank(call), call.config
    filters, kernel = config.integer("filters"), config.integers("kernel_size", rank)
    channels = _event(call, rank)[0]
    bias = (filters,) if config.flag("use_bias", True) else None
    weight, *rest = call.variables(kernel=(*kernel, filters, channels), bias=bias)
    weight = _kernel(call, weight, rank)
    geometry = _transpose_geometry(call, rank, kernel)

    def conv(x: str, part: str) -> str:
        return call.emit("ConvTranspose", x, weight, *rest, part=part, **geometry)

    return activated(call, lambda part: _around(call, rank, conv, part, "conv"), config.get("activation"))


def _transpose_geometry(call: Call, rank: int, kernel: Sequence[int]) -> dict[str, Any]:
    """Strides, dilations, and what is cut (pads) or added (output_padding) of the full result.

    "valid" keeps all of it, and adds up to the stride; "same" makes it stride times the input.
    """
    config = call.config
    padding = config.choice("padding", ("valid", "same"), "valid")
    strides, dilations = config.integers("strides", rank, 1), config.integers("dilation_rate", rank, 1)
    added = config.get("output_padding")
    extra = [None] * rank if added is None else config.integers("output_padding", rank, least=0)
    begins, ends, output = [], [], []
    for size, stride, dilation, more in zip(kernel, strides, dilations, extra, strict=True):
        reach = (size - 1) * dilation + 1
        # The full result has (n - 1) stride + reach entries; surplus > 0 of them are cut.
        if padding == "valid":
            surplus = -max(0, stride - reach) if more is None else -more
        elif more is None:
            surplus = reach - stride
        else:
            surplus = reach - reach % 2 - more
        begin = max(0, surplus // 2) if padding == "same" else 0
        begins.append(begin)
        ends.append(max(0, surplus - begin))
        output.append(max(0, begin - surplus))
    if any(more >= max(s, d) for more, s, d in zip(output, strides, dilations, strict=True)):
        raise Refused(f"output_padding: got {added!r}, which adds more than a stride")
    return {"strides": strides, "dilations": dilations, "pads": begins + ends, "output_padding": output}


@rule("MaxPooling1D", "MaxPooling2D", "MaxPooling3D", "AveragePooling1D", "AveragePooling2D", "AveragePooling3D")
def _pooling(call: Call) -> str:
    rank = _rank(call)
    kernel = call.config.integers("pool_size", rank)
    windows = _windows(call, rank, kernel, "strides", kernel) | {"kernel_shape": kernel}
    op = "MaxPool" if call.layer.kind.startswith("Max") else "AveragePool"
    return _around(call, rank, lambda x, part: call.emit(op, x, part=part, **windows), inner="pool")


@rule("GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D")
def _global_average(call: Call) -> str:
    rank = _rank(call)
    axes = list(range(1, rank + 1)) if _is_last(call) else list(range(2, rank + 2))
    return call.emit("ReduceMean", call.input, axes=axes, keepdims=int(call.config.flag("keepdims")))


@rule("GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D")
def _global_max(call: Call) -> str:
    rank = _rank(call)
    channels, sizes = _event(call, rank)
    keep = [1] * rank if call.config.flag("keepdims") else []
    x = call.transposed(call.input, channels_first(rank), "channels_first") if _is_last(call) else call.input
    most = call.emit("MaxPool", x, part="pool", kernel_shape=sizes, strides=[1] * rank)
    return call.emit("Reshape", most, shape=[0, *keep, channels] if _is_last(call) else [0, channels, *keep])


def _affine_pair(call: Call, shape: Shape, *flags: str, **statistics: Shape) -> tuple[list[str], list[str]]:
    """gamma and beta, ones and zeros in the place of those that the layer does without; and its statistics."""
    used = [call.config.flag(flag, True) for flag in flags]
    wanted = {name: shape if use else None for name, use in zip(("gamma", "beta"), used, strict=True)}
    found = call.variables(None, list(statistics), **wanted, **statistics)
    pair = []
    for name, use, value in zip(("gamma", "beta"), used, (1.0, 0.0), strict=True):
        pair.append(found.pop(0) if use else call.constant(name, np.full(shape, value)))
    return pair, found


@rule("BatchNormalization")
def _batch_normalization(call: Call) -> str:
    """With the stored statistics, per entry of one axis."""
    call.option("mask")
    rank = len(call.shape(call.input)) + 1
    axes = call.config.axes("axis", rank, -1)
    if len(axes) != 1:
        raise Refused("a batch normalisation over several axes has no counterpart")
    (axis,) = axes
    shape = (call.shape(call.input)[axis - 1],)
    affine, statistics = _affine_pair(call, shape, "scale", "center", moving_mean=shape, moving_variance=shape)
    order = [0, axis, *(k for k in range(1, rank) if k != axis)]
    x = call.transposed(call.input, order, "channels_first")
    epsilon = call.config.number("epsilon", 1e-3)
    moved = x != call.input
    y = call.emit("BatchNormalization", x, *affine, *statistics, part="normal" if moved else "", epsilon=epsilon)
    return call.transposed(y, np.argsort(order).tolist()) if moved else y


def _to_the_end(call: Call, key: str, default: Any = -1) -> tuple[list[int], list[int]]:
    """The axes of a configuration, and the order of all axes that puts them last."""
    rank = len(call.shape(call.input)) + 1
    axes = sorted(call.config.axes(key, rank, default))
    return axes, [k for k in range(rank) if k not in axes] + axes


@rule("LayerNormalization")
def _layer_normalization(call: Call) -> str:
    call.option("mask")
    if call.config.flag("rms_scaling"):
        raise Refused("rms_scaling=True has no counterpart; use RMSNormalization")
    axes, order = _to_the_end(call, "axis")
    shape = tuple(call.shape(call.input)[axis - 1] for axis in axes)
    pair, _ = _affine_pair(call, shape, "scale", "center")
    x = call.transposed(call.input, order, "axes_last")
    epsilon, moved = call.config.number("epsilon", 1e-3), x != call.input
    y = call.emit("LayerNormalization", x, *pair, part="normal" if moved else "", axis=-len(axes), epsilon=epsilon)
    return call.transposed(y, np.argsort(order).tolist()) if moved else y


@rule("GroupNormalization")
def _group_normalization(call: Call) -> str:
    """Each sample and group of channels is normalised over its positions."""
    axes, order = _to_the_end(call, "axis")
    event, config = call.shape(call.input), call.config
    if len(axes) != 1:
        raise Refused("a group normalisation over several axes has no counterpart")
    channels = event[axes[0] - 1]
    groups = channels if config.get("groups") == -1 else config.integer("groups", 32)
    if channels % groups:
        raise Refused(f"groups: {groups} do not divide {channels} channels")
    pair, _ = _affine_pair(call, (channels,), "scale", "center")
    # Channels come first, so that a group's entries lie side by side.
    first = [0, axes[0], *(k for k in order[1:] if k != axes[0])]
    x = call.transposed(call.input, first, "channels_first")
    rows = call.emit("Reshape", x, part="groups", shape=[0, groups, math.prod(event) // groups])
    ones = call.constant("ones", np.ones(1))
    normal = call.emit("LayerNormalization", rows, ones, part="normal", epsilon=config.number("epsilon", 1e-3))
    back = call.emit("Reshape", normal, part="entries", shape=[0, *call.shape(x)])
    last = call.transposed(back, [0, *range(2, len(order)), 1], "channels_last")
    scaled = call.emit("Mul", last, pair[0], part="scaled")
    if order == sorted(order):
        return call.emit("Add", scaled, pair[1])
    return call.transposed(call.emit("Add", scaled, pair[1], part="shifted"), np.argsort(order).tolist())


@rule("RMSNormalization")
def _rms_normalization(call: Call) -> str:
    """x / √(mean x² + ε), times a scale."""
    axes, _ = _to_the_end(call, "axis")
    event = call.shape(call.input)
    (scale,) = call.variables(scale=tuple(event[axis - 1] for axis in axes))
    aligned = [size if k in axes else 1 for k, size in enumerate(event, start=1)]
    scale = call.derived(scale, "Reshape", "aligned", shape=aligned)
    square = call.emit("Mul", call.input, call.input, part="square")
    mean = call.emit("ReduceMean", square, part="mean", axes=axes, keepdims=1)
    shifted = call.emit("Add", mean, call.constant("epsilon", call.config.number("epsilon", 1e-6)), part="shifted")
    normal = call.emit("Div", call.input, call.emit("Sqrt", shifted, part="root"), part="normal")
    return call.emit("Mul", normal, scale)


@rule("UnitNormalization")
def _unit_normalization(call: Call) -> str:
    """x / max(|x|, 1e-12)."""
    axes, _ = _to_the_end(call, "axis")
    square = call.emit("Mul", call.input, call.input, part="square")
    total = call.emit("ReduceSum", square, part="sum", axes=axes, keepdims=1)
    floor = call.emit("Clip", total, part="floor", min=1e-24)
    return call.emit("Div", call.input, call.emit("Sqrt", floor, part="norm"))


@rule("Rescaling")
def _rescaling(call: Call) -> str:
    scale, offset = (to_array(call.config.get(key, default)) for key, default in (("scale", 1.0), ("offset", 0.0)))
    scaled = call.emit("Mul", call.input, call.constant("scale", scale), part="scaled")
    return call.emit("Add", scaled, call.constant("offset", offset))


@rule("Normalization")
def _normalization(call: Call) -> str:
    """(x - mean) / max(√variance, 1e-7), or the inverse."""
    event, config = call.shape(call.input), call.config
    axes = [] if config.values.get("axis", -1) is None else sorted(config.axes("axis", len(event) + 1, -1))
    kept = tuple(event[axis - 1] for axis in axes)
    if config.get("mean") is None:
        found = call.layer.weights.own(call.layer.path, {})
        if [variable.shape for variable in found] != [kept, kept, ()]:
            got = [variable.shape for variable in found]
            raise Refused(
                f"variables: got {got}, expected mean {kept}, variance {kept} and a count; call adapt() first"
            )
        mean, variance = (to_array(variable.read()) for variable in found[:2])
    else:
        mean, variance = (np.broadcast_to(to_array(config.get(key)), kept) for key in ("mean", "variance"))
    aligned = [size if k in axes else 1 for k, size in enumerate(event, start=1)]
    center = call.constant("mean", mean.reshape(aligned))
    spread = call.constant("deviation", np.maximum(np.sqrt(variance), 1e-7).reshape(aligned))
    if config.flag("invert"):
        return call.emit("Add", call.emit("Mul", call.input, spread, part="scaled"), center)
    return call.emit("Div", call.emit("Sub", call.input, center, part="centred"), spread)
