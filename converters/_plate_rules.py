"""How ops act on layouts: each rule takes an op on source axes to one on vertices with samples on axis 0."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from converters._plates import OUTSIDE, PLAIN, Call, Constant, Handle, Layout, Refused, Samples, Value, rule

__all__ = ["aligned", "common", "explicit", "place"]

END = 2**31


def common(values: Iterable[Value], rank: int) -> Layout | None:
    """The layout of an entry-wise result of this rank.

    Raises:
        Refused: the operands hold their samples on different axes.
    """
    found = {value.layout.shifted(rank - len(value.row)) for value in values if value.layout is not None}
    inside = found - {OUTSIDE}
    if len(inside) > 1:
        where = sorted(
            f"axis {x.axis} of size {Samples(x.before * x.after)} ({x.before}, N, {x.after})" for x in inside
        )
        raise Refused(f"its operands have their samples on {' and '.join(where)}; it mixes samples")
    return next(iter(inside or found), None)


def aligned(call: Call, k: int, layout: Layout | None, rank: int) -> Handle:
    """Operand k as it broadcasts against a result of this layout and rank."""
    value = call.operands[k]
    missing, own = rank - len(value.row), value.layout
    if own is None and (layout is None or layout.axis is None):
        return value.handle
    if own is not None and (own.axis is not None or layout == OUTSIDE):
        return call.reshape(value.handle, (1,) * missing + value.event, False, f"operand{k}")
    # The source has no samples here: its size on their axis is 1, or it has no such axis.
    layout = layout or OUTSIDE
    axis = (layout.axis or 0) - missing
    value = _one_row(call, value, axis) if axis >= 0 else value
    event = value.event
    if axis >= 0:
        if event[axis] != 1 and not (call.plates.baked == 1 and event[axis] == math.prod(layout.factors)):
            raise Refused(f"a table of {event[axis]} rows meets the samples on axis {axis}; use one row, or x.shape")
        factors = layout.factors if event[axis] != 1 else (1,) * len(layout.factors)
        event = (*event[:axis], *factors, *event[axis + 1 :])
    if own == OUTSIDE:
        width = rank - 1 + len(layout.factors)
        return call.reshape(value.handle, (1,) * (width - len(event)) + event, False, f"operand{k}")
    if _without_ones(event) == _without_ones(value.event):
        return value.handle
    return call.reshape(value.handle, event, True, f"operand{k}")


def _one_row(call: Call, value: Value, axis: int) -> Value:
    """A table fixed to a number of samples, with the same row for each of them, as that row."""
    baked, where = call.plates.baked, axis + int(value.layout is not None)
    if baked in (None, 1) or value.event[axis] != baked:
        return value
    table = value.handle
    data = table.data if isinstance(table, Constant) else call.plates.net.vertices[table].value
    if data is None or value.plated or (data.take([0], axis=where) != data).any():
        return value
    row = call.apply("Slice", [table], "row", starts=[0], ends=[1], axes=[where])
    return replace(value, handle=row, event=(*value.event[:axis], 1, *value.event[axis + 1 :]))


def place(layout: Layout, axis: int) -> int:
    """The axis of a vertex in this layout that is a source axis, not that of the samples."""
    if layout.axis is None or axis < layout.axis:
        return 1 + axis
    return axis + len(layout.factors)


def _without_ones(shape: Sequence[int]) -> Sequence[int]:
    """Leading axes of size 1 say nothing in a broadcast."""
    first = next((k for k, size in enumerate(shape) if size != 1), len(shape))
    return shape[first:]


_ENTRYWISE = (
    "Identity Neg Relu LeakyRelu Elu Selu Celu Gelu Sigmoid HardSigmoid HardSwish Swish Mish Tanh Softplus Softsign "
    "ThresholdedRelu Shrink Exp Expm1 Log Log1p Sqrt Reciprocal Abs Sign Erf Floor Ceil Round Sin Cos Tan Asin Acos "
    "Atan Sinh Cosh Asinh Acosh Atanh Dropout Cast Not IsNaN IsInf Add Sub Mul Div Pow Mod Atan2 Max Min Sum Mean "
    "Clip Where PRelu Equal Greater GreaterOrEqual Less LessOrEqual And Or Xor"
)


@rule(*_ENTRYWISE.split())
def entrywise(call: Call) -> Value:
    """Operands broadcast against one another."""
    rank = max(len(value.row) for value in call.operands)
    layout = common(call.operands, rank)
    return call.done([aligned(call, k, layout, rank) for k in range(len(call.operands))], layout)


def moved(value: Value, axis: int) -> int:
    """A source axis as the handle has it, counted from the end where it was."""
    position = value.position(axis)
    return position if axis >= 0 else position - len(value.event) - int(value.layout is not None)


@rule("Split")
def split(call: Call) -> Value:
    """One part of an axis."""
    (x,) = call.operands
    return call.done([x.handle], x.layout, axis=moved(x, int(call.attributes.get("axis", 0))))


@rule("Softmax", "LogSoftmax", "Hardmax", "CumSum", "CumProd", "LpNormalization")
def along(call: Call) -> Value:
    """One axis; the shape stays."""
    (x,) = call.operands
    return call.done([x.handle], x.layout, axis=moved(x, int(call.attributes.get("axis", -1))))


@rule("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum",
      "ReduceLogSumExp", "ReduceSumSquare")  # fmt: skip
def reduction(call: Call) -> Value:
    """Several axes go, or keep size 1."""
    (x,) = call.operands
    axes = call.attributes.get("axes")
    axes = range(len(x.row)) if axes is None else [axis % len(x.row) for axis in axes]
    chosen = None if x.layout is None and "axes" not in call.attributes else [x.position(axis) for axis in axes]
    return call.done([x.handle], _after_loss(x.layout, axes, call.attributes.get("keepdims", 1)), axes=chosen)


@rule("ArgMax", "ArgMin")
def arg_reduction(call: Call) -> Value:
    """The index of an entry along one axis."""
    (x,) = call.operands
    axis = int(call.attributes.get("axis", 0)) % len(x.row)
    layout = _after_loss(x.layout, [axis], call.attributes.get("keepdims", 1))
    return call.done([x.handle], layout, axis=x.position(axis))


def _after_loss(layout: Layout | None, axes: Iterable[int], keepdims: Any) -> Layout | None:
    if layout is None or layout.axis is None or keepdims:
        return layout
    return layout.shifted(-sum(axis < layout.axis for axis in axes))


@rule("LayerNormalization", "RMSNormalization")
def normalization(call: Call) -> Value:
    """The axes from ``axis`` to the last; scale and bias broadcast against them."""
    x, *weights = call.operands
    _shared(call, weights)
    axis = int(call.attributes.get("axis", -1))
    count = -axis if axis < 0 else len(x.row) - axis
    for k in range(1, count + 1):
        x.position(-k)
    return call.done([x.handle, *[w.handle for w in weights]], x.layout, axis=-count)


def _shared(call: Call, weights: Iterable[Value]) -> None:
    if any(weight.layout is not None for weight in weights):
        raise Refused(f"weights of {call.op} that depend on the samples are not supported")


@rule("Concat")
def concat(call: Call) -> Value:
    """One after the other; along the samples only as whole blocks of them."""
    rank = len(call.operands[0].row)
    axis = int(call.attributes["axis"]) % rank
    if any(value.layout is not None and value.layout.axis == axis for value in call.operands):
        return _concat_blocks(call, axis)
    layout = common(call.operands, rank)
    handles = [aligned(call, k, layout, rank) for k in range(len(call.operands))]
    if layout is None:
        return call.done(handles, None, axis=axis)
    position = place(layout, axis)
    sizes = [value.row[axis] for value in call.operands]
    return call.plates.wrap(_joined(call, handles, sizes, position - _rank(layout, rank)), layout)


def _rank(layout: Layout, rank: int) -> int:
    """Axes of a handle, samples included, of a source tensor of this rank."""
    return rank + 1 if layout.axis is None else rank + len(layout.factors)


def _joined(call: Call, handles: list[Handle], sizes: list[int], axis: int) -> Handle:
    """Concatenation along an axis counted from the end; of what varies with what does not, a sum of padded parts."""
    varying = [not isinstance(h, Constant) and call.plates.net.vertices[h].plated for h in handles]
    if all(varying) or not any(varying):
        plain = axis + _width(call, handles[0])
        return call.apply("Concat", handles, axis=plain)
    total, start, result = sum(sizes), 0, None
    for k, (handle, size) in enumerate(zip(handles, sizes, strict=True)):
        width = _width(call, handle)
        pads = [start, total - start - size]
        part = call.apply("Pad", [handle], f"pad{k}", pads=pads, axes=[axis + width])
        last = k == len(handles) - 1
        result = part if result is None else call.apply("Add", [result, part], "" if last else f"sum{k}")
        start += size
    return result if result is not None else handles[0]


def _width(call: Call, handle: Handle) -> int:
    if isinstance(handle, Constant):
        return handle.data.ndim
    vertex = call.plates.net.vertices[handle]
    return len(vertex.shape) + int(vertex.plated)


def _concat_blocks(call: Call, axis: int) -> Value:
    """(a N b) and (c N b) rows are ((a + c) N b) rows."""
    layouts = [value.layout for value in call.operands if value.layout is not None]
    afters = {layout.after for layout in layouts}
    if len(layouts) < len(call.operands) or any(layout.axis != axis for layout in layouts) or len(afters) > 1:
        raise Refused(f"along axis {axis} it puts rows beside the samples that are none")
    handles = [call.reshape(v.handle, explicit(v), False, f"block{k}") for k, v in enumerate(call.operands)]
    sizes = [layout.before for layout in layouts]
    width = len(explicit(call.operands[0])) + 1
    return call.plates.wrap(_joined(call, handles, sizes, axis + 1 - width), Layout(axis, sum(sizes), *afters))


def explicit(value: Value) -> tuple[int, ...]:
    """The event with an axis for ``before`` even where that is 1."""
    layout = value.layout or PLAIN
    if layout.before != 1:
        return value.event
    return (*value.event[: layout.axis], 1, *value.event[layout.axis :])


@rule("Slice")
def slice_(call: Call) -> Value:
    """Parts of some axes; of that of the samples all, or whole blocks of them."""
    (x,) = call.operands
    given = call.attributes
    axes = given.get("axes")
    axes = range(len(given["starts"])) if axes is None else axes
    steps = given.get("steps") or [1] * len(given["starts"])
    handle, layout = x.handle, x.layout
    cuts: list[tuple[Any, Any, int, int]] = []
    for axis, start, end, step in zip(axes, given["starts"], given["ends"], steps, strict=True):
        if layout is not None and layout.axis == axis % len(x.row):
            begin, stop = _blocks(x, start, end, step)
            if (begin, stop) == (0, layout.before):
                continue
            layout = Layout(axis % len(x.row), stop - begin, 1)
            position = 1 + axis % len(x.row)
            event = list(x.event)
            handle = call.apply("Slice", [handle], "blocks", starts=[begin], ends=[stop], axes=[position], steps=[1])
            if stop - begin == 1:
                del event[position - 1]
                handle = call.reshape(handle, event, False)
        else:
            cuts.append((int(start), min(int(end), END), axis, step))
    if not cuts:
        return call.plates.wrap(handle, layout)
    now = call.plates.wrap(handle, layout)
    begins, stops, where, strides = (list(column) for column in zip(*cuts, strict=True))
    places = [now.position(axis) for axis in where]
    return call.done([handle], layout, starts=begins, ends=stops, axes=places, steps=strides)


def _blocks(x: Value, start: Any, end: Any, step: int) -> tuple[int, int]:
    """Which blocks of N rows a slice takes."""
    layout = x.layout or PLAIN
    total = layout.before * layout.after
    whole = start == 0 and step == 1
    if whole and ((isinstance(end, Samples) and end.factor >= total) or (not isinstance(end, Samples) and end >= END)):
        return 0, layout.before
    edges = [edge.factor if isinstance(edge, Samples) else 0 if edge == 0 else None for edge in (start, end)]
    if not isinstance(end, Samples) and end >= END:
        edges[1] = total
    if None in edges or step != 1 or layout.after != 1:
        raise Refused(f"it takes some of the samples, [{start}:{end}:{step}] of axis {layout.axis}")
    begin, stop = (min(edge % (total + 1) if edge < 0 else edge, total) for edge in edges if edge is not None)
    return begin, stop


@rule("Pad")
def pad(call: Call) -> Value:
    """Entries around each axis; none around the samples."""
    (x,) = call.operands
    pads, axes = call.attributes["pads"], call.attributes.get("axes")
    axes = list(range(len(x.row))) if axes is None else [axis % len(x.row) for axis in axes]
    half, sample_axis = len(axes), None if x.layout is None else x.layout.axis
    chosen = [(axis, pads[k], pads[half + k]) for k, axis in enumerate(axes)]
    chosen = [entry for entry in chosen if entry[0] != sample_axis or entry[1] or entry[2]]
    places = [x.position(axis) for axis, _, _ in chosen]
    both = [b for _, b, _ in chosen] + [e for _, _, e in chosen]
    return call.done([x.handle], x.layout, pads=both, axes=places)
