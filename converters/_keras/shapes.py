"""Rules of the Keras layers that combine, move, cut and repeat entries, and of those that do nothing at inference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from converters._keras.call import Call, Refused, rule
from converters._keras.layers import channels_first, channels_last

__all__: list[str] = []

_END = 2**31 - 1


@rule(
    "Dropout",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "AlphaDropout",
    "GaussianDropout",
    "GaussianNoise",
    "ActivityRegularization",
    "Identity",
)
def _identity(call: Call) -> str:
    call.option("mask")
    return call.emit("Identity", call.input)


def _terms(call: Call, fewest: int = 2) -> list[str]:
    """The inputs of a merging layer, which must have equally many axes."""
    call.option("mask")
    names = call.inputs
    ranks = {len(call.shape(name)) for name in names}
    if len(names) < fewest or len(ranks) != 1:
        raise Refused(
            f"its inputs have the events {[call.shape(name) for name in names]}, expected equal numbers of axes"
        )
    return names


@rule("Add", "Multiply")
def _fold(call: Call) -> str:
    op = "Add" if call.layer.kind == "Add" else "Mul"
    first, *rest = _terms(call)
    for k, term in enumerate(rest, start=1):
        first = call.emit(op, first, term, part="" if k == len(rest) else f"first{k + 1}")
    return first


@rule("Subtract")
def _subtract(call: Call) -> str:
    a, b = _terms(call)
    return call.emit("Sub", a, b)


_MERGES = {"Average": "Mean", "Maximum": "Max", "Minimum": "Min"}


@rule(*_MERGES)
def _merge(call: Call) -> str:
    return call.emit(_MERGES[call.layer.kind], *_terms(call))


@rule("Concatenate")
def _concatenate(call: Call) -> str:
    terms = _terms(call, fewest=1)
    (axis,) = _one_axis(call, terms[0], "axis", -1)
    return call.emit("Concat", *terms, axis=axis)


def _one_axis(call: Call, x: str, key: str, default: Any) -> list[int]:
    axes = call.config.axes(key, len(call.shape(x)) + 1, default)
    if len(axes) != 1:
        raise Refused(f"{key}: got {call.config.get(key)}, expected one axis")
    return axes


@rule("Dot")
def _dot(call: Call) -> str:
    """Products summed over one axis of each of two inputs."""
    names = call.inputs
    if len(names) != 2:
        raise Refused(f"it is called with {len(names)} tensors, where two are expected")
    given = call.config.get("axes")
    pair = given if isinstance(given, list) else [given, given]
    matrices, rest = [], []
    for side, (name, axis) in enumerate(zip(names, pair, strict=False)):
        event = call.shape(name)
        rank = len(event) + 1
        if not isinstance(axis, int) or not -rank <= axis < rank or axis % rank == 0:
            raise Refused(f"axes: got {given!r}, expected an axis of each input, not that of the samples")
        axis %= rank
        others = [k for k in range(1, rank) if k != axis]
        x = _unit(call, name, axis, side) if call.config.flag("normalize") else name
        x = call.transposed(x, [0, *others, axis], f"rows{side}")
        left = math.prod(event[k - 1] for k in others)
        x = call.emit("Reshape", x, part=f"matrix{side}", shape=[0, left, event[axis - 1]])
        matrices.append(x if side == 0 else call.emit("Transpose", x, part="columns", perm=[0, 2, 1]))
        rest += [event[k - 1] for k in others]
    product = call.emit("MatMul", *matrices, part="product")
    return call.emit("Reshape", product, shape=[0, *(rest or [1])])


def _unit(call: Call, x: str, axis: int, side: int) -> str:
    """x over its norm along an axis."""
    square = call.emit("Mul", x, x, part=f"square{side}")
    total = call.emit("ReduceSum", square, part=f"sum{side}", axes=[axis], keepdims=1)
    floor = call.emit("Clip", total, part=f"floor{side}", min=1e-14)
    return call.emit("Div", x, call.emit("Sqrt", floor, part=f"norm{side}"), part=f"unit{side}")


def _last(call: Call) -> bool:
    return call.config.choice("data_format", ("channels_last", "channels_first"), "channels_last") == "channels_last"


@rule("Flatten")
def _flatten(call: Call) -> str:
    """One axis per sample, channels varying fastest."""
    event = call.shape(call.input)
    x = call.input
    if not _last(call) and len(event) > 1:
        x = call.transposed(x, channels_last(len(event) - 1), "channels_last")
    return call.emit("Reshape", x, shape=[0, math.prod(event)])


@rule("Reshape")
def _reshape(call: Call) -> str:
    target, size = call.config.get("target_shape"), math.prod(call.shape(call.input))
    if not isinstance(target, (list, tuple)) or not all(isinstance(n, int) and (n > 0 or n == -1) for n in target):
        raise Refused(f"target_shape: got {target!r}, expected sizes, of which one may be -1")
    known = math.prod(n for n in target if n > 0)
    sizes = [size // known if n == -1 else n for n in target]
    if list(target).count(-1) > 1 or math.prod(sizes) != size:
        raise Refused(f"target_shape: got {target}, which does not hold the {size} entries of a sample")
    return call.emit("Reshape", call.input, shape=[0, *sizes])


@rule("Permute")
def _permute(call: Call) -> str:
    dims = call.config.axes("dims", len(call.shape(call.input)) + 1)
    return call.transposed(call.input, [0, *dims])


@rule("RepeatVector")
def _repeat_vector(call: Call) -> str:
    x = call.emit("Unsqueeze", call.input, part="row", axes=[1])
    return call.emit("Mul", x, call.constant("ones", np.ones((_times(call, call.config.integer("n")), 1))))


def _times(call: Call, times: int) -> int:
    """A number of repetitions; the result must fit into the memory that is allowed."""
    if 2 * times * math.prod(call.shape(call.input)) * call.state.net.dtype.itemsize > call.state.max_bytes:
        raise Refused(f"its input, {times} times, needs more than max_bytes={call.state.max_bytes}")
    return times


def _spatial_axes(call: Call) -> list[int]:
    """The axes of the layer's digit, samples counted."""
    rank = next(int(character) for character in call.layer.kind if character.isdigit())
    if len(call.shape(call.input)) != rank + 1:
        raise Refused(f"its input has the event {call.shape(call.input)}, expected {rank} spatial axes and channels")
    return list(range(1, rank + 1)) if rank == 1 or _last(call) else list(range(2, rank + 2))


def _margins(call: Call, key: str, axes: list[int]) -> list[tuple[int, int]]:
    """(before, after) for each axis: one number for all, one for each axis, or a pair for each."""
    value = call.config.get(key)
    sides = value if isinstance(value, (list, tuple)) else [value] * len(axes)
    if len(axes) == 1 and len(sides) == 2:
        sides = [sides]
    pairs = [side if isinstance(side, (list, tuple)) else [side, side] for side in sides]
    whole = all(len(pair) == 2 and all(isinstance(n, int) and n >= 0 for n in pair) for pair in pairs)
    if len(pairs) != len(axes) or not whole:
        raise Refused(f"{key}: got {value!r}, expected numbers from 0 on for {len(axes)} axes")
    return [(int(before), int(after)) for before, after in pairs]


@rule("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D")
def _zero_padding(call: Call) -> str:
    axes = _spatial_axes(call)
    before, after = zip(*_margins(call, "padding", axes), strict=True)
    return call.emit("Pad", call.input, pads=[*before, *after], axes=axes)


@rule("Cropping1D", "Cropping2D", "Cropping3D")
def _cropping(call: Call) -> str:
    axes = _spatial_axes(call)
    margins = _margins(call, "cropping", axes)
    starts = [before for before, _ in margins]
    ends = [-after if after else _END for _, after in margins]
    if any(sum(margin) >= call.shape(call.input)[axis - 1] for margin, axis in zip(margins, axes, strict=True)):
        raise Refused(f"cropping: got {margins}, which leaves nothing of {call.shape(call.input)}")
    return call.emit("Slice", call.input, starts=starts, ends=ends, axes=axes)


@rule("UpSampling1D", "UpSampling2D", "UpSampling3D")
def _up_sampling(call: Call) -> str:
    axes = _spatial_axes(call)
    sizes = call.config.integers("size", len(axes), 2)
    _times(call, math.prod(sizes))
    mode = call.config.choice("interpolation", ("nearest", "bilinear"), "nearest")
    return _bilinear(call, axes, sizes) if mode == "bilinear" else _nearest(call, axes, sizes)


def _nearest(call: Call, axes: list[int], sizes: list[int]) -> str:
    """Every entry repeated: multiplication by ones along new axes, which are then merged with the old."""
    factor = dict(zip(axes, sizes, strict=True))
    split: list[int] = []
    ones: list[int] = []
    for axis, size in enumerate(call.shape(call.input), start=1):
        split += [size, 1] if axis in factor else [size]
        ones += [1, factor[axis]] if axis in factor else [1]
    x = call.emit("Reshape", call.input, part="split", shape=[0, *split])
    repeated = call.emit("Mul", x, call.constant("ones", np.ones(ones)), part="repeated")
    event = [size * factor.get(axis, 1) for axis, size in enumerate(call.shape(call.input), start=1)]
    return call.emit("Reshape", repeated, shape=[0, *event])


def _bilinear(call: Call, axes: list[int], sizes: list[int]) -> str:
    """One interpolation matrix along each of the two axes."""
    height, width = (call.shape(call.input)[axis - 1] for axis in axes)
    rows, columns = (_interpolation(n, s) for n, s in zip((height, width), sizes, strict=True))
    last = axes[0] == 1
    x = call.transposed(call.input, channels_first(2), "channels_first") if last else call.input
    x = call.emit("MatMul", call.constant("rows", rows), x, part="tall")
    x = call.emit("MatMul", x, call.constant("columns", columns.T), part="resized" if last else "")
    return call.transposed(x, channels_last(2)) if last else x


def _interpolation(size: int, factor: int) -> Any:
    """Weights of ``size`` entries in size * factor points between their centres, the ends held.

    Shape: (size * factor, size).
    """
    place = np.clip((np.arange(size * factor) + 0.5) / factor - 0.5, 0, size - 1)
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, size - 1)
    weights = np.zeros((size * factor, size))
    points = np.arange(size * factor)
    weights[points, low] += 1 - (place - low)
    weights[points, high] += place - low
    return weights
