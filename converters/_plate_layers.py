"""How layers act on layouts: products, windows over space, and look-ups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from converters._plate_rules import aligned, common
from converters._plates import OUTSIDE, PLAIN, Call, Handle, Layout, Refused, Value, rule

__all__: list[str] = []


@rule("MatMul")
def matmul(call: Call) -> Value:
    """Samples may be in a batch axis, or be rows of the left or columns of the right factor."""
    a, b = call.operands
    if a.layout is not None and b.layout is None and _is_row(a) and len(b.row) <= 2:
        layout = a.layout
        return call.done([a.handle, b.handle], layout)
    if a.layout is not None and b.layout is None and _is_row(a):
        return _lifted(call, 0)
    if b.layout is not None and a.layout is None and _is_column(b):
        return _lifted(call, 1)
    return _batched(call)


def _is_row(x: Value) -> bool:
    """Whether the samples count rows; as the axis that is summed over they would be mixed."""
    return x.layout is not None and x.layout.axis is not None and len(x.row) > 1 and x.layout.axis == len(x.row) - 2


def _is_column(x: Value) -> bool:
    return x.layout is not None and x.layout.axis is not None and len(x.row) > 1 and x.layout.axis == len(x.row) - 1


def _batched(call: Call) -> Value:
    """Samples are in a batch axis, the same one for both factors, or outside."""
    a, b = call.operands
    rank = max(len(a.row), len(b.row), 2)
    layout = common([_with_matrix(a, 0), _with_matrix(b, 1)], rank)
    if layout is not None and layout.axis is not None and layout.axis >= rank - 2:
        where = "the axis that the product sums over" if _is_contracted(a, b) else "rows of one and columns of another"
        raise Refused(f"samples are {where}; it mixes samples")
    handles = [_factor(call, k, layout, rank) for k in (0, 1)]
    vectors = [k for k in (0, 1) if len(call.operands[k].row) == 1]
    lifted = [k for k in vectors if call.operands[k].layout == OUTSIDE]
    if not lifted:
        return call.done(handles, layout)
    y = call.plates.wrap(call.apply("MatMul", handles, "product"), layout)
    event = [size for k, size in enumerate(y.event) if k - len(y.event) not in [k - 2 for k in lifted]]
    return call.plates.wrap(call.reshape(y.handle, event, False), layout)


def _is_contracted(a: Value, b: Value) -> bool:
    of_a = a.layout is not None and a.layout.axis == len(a.row) - 1
    return of_a or (b.layout is not None and b.layout.axis == max(0, len(b.row) - 2))


def _with_matrix(x: Value, column: int) -> Value:
    """A vector as the row or column that it stands for."""
    if len(x.row) != 1:
        return x
    if x.layout is not None and x.layout.axis is not None:
        raise Refused("the product sums over the samples; it mixes samples")
    event = (*x.event, 1) if column else (1, *x.event)
    return Value(x.handle, x.layout, event, x.plated)


def _factor(call: Call, k: int, layout: Layout | None, rank: int) -> Handle:
    x = call.operands[k]
    if len(x.row) == 1 and x.layout is None:
        return x.handle
    if len(x.row) == 1:
        event = (*x.event, 1) if k else (1, *x.event)
        return call.reshape(x.handle, (1,) * (rank - 2) + event, False, f"operand{k}")
    return aligned(call, k, layout, rank)


def _lifted(call: Call, which: int) -> Value:
    """Samples as rows (or columns) become a batch axis in front; each sample keeps ``before * after`` rows."""
    x, other = call.operands[which], call.operands[1 - which]
    layout = x.layout or PLAIN
    count, batch = math.prod(layout.factors), max(len(x.row), len(other.row)) - 2
    matrix = (*x.row[: len(x.row) - 2], *((count, x.row[-1]) if which == 0 else (x.row[-2], count)))
    lead = (1,) * (batch + 2 - len(matrix))
    handles = [call.reshape(x.handle, lead + matrix, False, f"operand{which}"), other.handle]
    product = call.apply("MatMul", handles if which == 0 else handles[::-1], "product")
    y = call.plates.wrap(product, OUTSIDE).event
    vector = len(other.row) == 1
    axis = batch + which * (1 - vector)
    event = [*y[:axis], *layout.factors, *y[axis + 1 :]]
    return call.plates.wrap(call.reshape(product, event, False), Layout(axis, layout.before, layout.after))


@rule("Gemm")
def gemm(call: Call) -> Value:
    """alpha A B + beta C, with any number of leading axes of A."""
    a, b, *rest = call.operands
    if b.layout is not None or (a.layout is None and any(c.layout is not None for c in rest)):
        return _gemm_in_steps(call)
    layout, turned = a.layout, bool(call.attributes.get("transA", 0))
    changes: dict[str, Any] = {}
    if layout is not None and layout.axis is not None:
        if layout.axis == (0 if turned else len(a.row) - 1):
            raise Refused("the product sums over the samples; it mixes samples")
        if turned:
            changes["transA"], layout = None, Layout(0, layout.before, layout.after)
    handles = [a.handle, b.handle]
    if turned and "transA" in changes and len(a.event) > 1:  # (K, a N b): the event is (K, a, b)
        order = [0, *range(2, len(a.event) + 1), 1]
        handles[0] = call.apply("Transpose", [a.handle], "rows", perm=order)
    if rest:
        handles.append(aligned(call, 2, layout, len(a.row)))
    return call.done(handles, layout, **changes)


def _gemm_in_steps(call: Call) -> Value:
    """For a second factor that depends on the samples."""
    a, b, *rest = call.operands
    emit, name, given = call.plates.emit, call.name, call.attributes
    factors = []
    for x, flag in ((a, "transA"), (b, "transB")):
        turned = [*range(len(x.row) - 2), len(x.row) - 1, len(x.row) - 2]
        factors.append(emit("Transpose", [x], name=f"{name}.{flag}", perm=turned) if given.get(flag) else x)
    scale = [(key, given[key]) for key in ("alpha", "beta") if given.get(key, 1.0) != 1.0]
    constants = {key: call.plates.constant(f"{name}.{key}", value) for key, value in scale}
    alone = not rest and "alpha" not in constants
    y = emit("MatMul", factors, name=name if alone else f"{name}.product")
    if "alpha" in constants:
        y = emit("Mul", [y, constants["alpha"]], name=f"{name}.scaled" if rest else name)
    if not rest:
        return y
    if "beta" in constants:
        rest = [emit("Mul", [rest[0], constants["beta"]], name=f"{name}.shift")]
    return emit("Add", [y, *rest], name=name)


def _spread(call: Call) -> tuple[int, Layout | None]:
    """How many images each sample of the first operand has, and its layout.

    Raises:
        Refused: samples in an axis of channels or of space, or weights that depend on them.
    """
    x, *weights = call.operands
    if any(weight.layout is not None for weight in weights):
        raise Refused(f"weights of {call.op} that depend on the samples are not supported")
    if x.layout is None or x.layout == PLAIN:
        return 1, x.layout
    if x.layout.axis not in (0, None):
        raise Refused(f"{call.op} works on axis {x.layout.axis}, which holds the samples; it mixes samples")
    return (x.row[0] if x.layout.axis is None else math.prod(x.layout.factors)), x.layout


def _images(layout: Layout, row: Sequence[int]) -> list[int]:
    """The event of a tensor of images, of this shape for one sample."""
    return [*(layout.factors if layout.axis == 0 else row[:1]), *row[1:]]


@rule("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "Resize", "Upsample")
def per_channel(call: Call) -> Value:
    """Each channel by itself: several images of a sample are so many more channels."""
    x = call.operands[0]
    images, layout = _spread(call)
    if layout in (None, PLAIN):
        return call.done([v.handle for v in call.operands], layout)
    channels = x.row[1]
    merged = call.reshape(x.handle, (images * channels, *x.row[2:]), False, "images")
    y = call.done([merged, *[v.handle for v in call.operands[1:]]], PLAIN, "channels", **_sizes_of(call))
    event = _images(layout or PLAIN, [images, channels, *y.event[1:]])
    return call.plates.wrap(call.reshape(y.handle, event, False), layout)


def _sizes_of(call: Call) -> dict[str, Any]:
    """Attributes of Resize that list the axes, samples and channels included, without those two."""
    changes: dict[str, Any] = {}
    for key in ("sizes", "scales"):
        value = call.attributes.get(key)
        if value is not None and call.attributes.get("axes") is None and len(value) == len(call.operands[0].row):
            changes |= {key: list(value)[2:], "axes": list(range(2, len(value)))}
    return changes


_PER_AXIS = {"kernel_shape": 1, "strides": 1, "dilations": 1, "output_padding": 0, "output_shape": None}


@rule("Conv", "ConvTranspose", "BatchNormalization", "LRN")
def across_channels(call: Call) -> Value:
    """Several images of a sample lie along one more axis of space, over which windows have size 1."""
    x, *weights = call.operands
    images, layout = _spread(call)
    if layout in (None, PLAIN):
        return call.done([v.handle for v in call.operands], layout)
    handles: list[Handle] = [v.handle for v in weights]
    changes: dict[str, Any] = {}
    if call.op.startswith("Conv") and images > 1:
        shape = weights[0].event
        handles[0] = call.apply("Reshape", handles[:1], "kernel", shape=[*shape[:2], 1, *shape[2:]])
        changes = _with_axis(call, images)
    rest = list(range(3, len(x.row) + 1))
    z = call.reshape(x.handle, (images, *x.row[1:]) if images > 1 else x.row[1:], False, "images")
    if images > 1:
        z = call.apply("Transpose", [z], "space", perm=[0, 2, 1, *rest])
    y = call.done([z, *handles], PLAIN, "result", **changes)
    if images == 1:
        return call.plates.wrap(call.reshape(y.handle, _images(layout or PLAIN, [1, *y.event]), False), layout)
    event = _images(layout or PLAIN, [images, y.event[0], *y.event[2:]])
    back = call.apply("Transpose", [y.handle], "back", perm=[0, 2, 1, *rest])
    if call.plates.event_of(back, False) == tuple(event):
        return call.plates.wrap(back, layout)
    return call.plates.wrap(call.reshape(back, event, False), layout)


def _with_axis(call: Call, images: int) -> dict[str, Any]:
    """Attributes of a convolution with an axis of images before those of space."""
    changes: dict[str, Any] = {}
    for key, size in _PER_AXIS.items():
        value = call.attributes.get(key)
        if value:
            changes[key] = [images if size is None else size, *value]
    pads = call.attributes.get("pads")
    if pads:
        half = len(pads) // 2
        changes["pads"] = [0, *pads[:half], 0, *pads[half:]]
    return changes


@rule("InstanceNormalization", "GroupNormalization")
def per_group(call: Call) -> Value:
    """Statistics of each channel, or group: several images of a sample are so many more channels."""
    x, *weights = call.operands
    images, layout = _spread(call)
    if layout in (None, PLAIN):
        return call.done([v.handle for v in call.operands], layout)
    channels = x.row[1]
    merged = call.reshape(x.handle, (images * channels, *x.row[2:]), False, "images")
    tiled = [call.apply("Tile", [w.handle], f"weight{k}", repeats=[images]) for k, w in enumerate(weights)]
    groups = call.attributes.get("num_groups")
    changes = {} if groups is None else {"num_groups": groups * images}
    y = call.done([merged, *tiled], PLAIN, "channels", **changes)
    event = _images(layout or PLAIN, [images, channels, *y.event[1:]])
    return call.plates.wrap(call.reshape(y.handle, event, False), layout)


@rule("DepthToSpace", "SpaceToDepth")
def blocks(call: Call) -> Value:
    """Channels to space: one image for each sample."""
    images, layout = _spread(call)
    if images > 1:
        raise Refused(f"{call.op} of several images for each sample is not supported")
    (x,) = call.operands
    if layout in (None, PLAIN):
        return call.done([x.handle], layout)
    y = call.done([call.reshape(x.handle, x.row[1:], False, "image")], PLAIN, "result")
    return call.plates.wrap(call.reshape(y.handle, _images(layout or PLAIN, [1, *y.event]), False), layout)


@rule("Gather")
def gather(call: Call) -> Value:
    """Entries of a table by numbers: either of the two may depend on the samples."""
    table, index = call.operands
    axis = int(call.attributes.get("axis", 0)) % len(table.row)
    count = len(index.row)
    if index.layout is None:
        layout = table.layout
        position = table.position(axis)
        if layout is not None and layout.axis is not None and axis < layout.axis:
            layout = layout.shifted(count - 1)
        return call.done([table.handle, index.handle], layout, axis=position)
    if table.layout is not None:
        raise Refused("both the table and the numbers depend on the samples; use GatherElements")
    rank = len(table.row)
    if axis == 0:
        return call.done([table.handle, index.handle], index.layout)
    turned = call.apply("Transpose", [table.handle], "table", perm=[axis, *[k for k in range(rank) if k != axis]])
    rows = call.apply("Gather", [turned, index.handle], "rows", axis=0)
    width = len(index.event)
    before = range(1 + width, 1 + width + axis)
    order = [0, *before, *range(1, 1 + width), *range(1 + width + axis, width + rank)]
    return call.plates.wrap(call.apply("Transpose", [rows], perm=order), index.layout.shifted(axis))


@rule("GatherElements", "ScatterElements")
def gather_elements(call: Call) -> Value:
    """Entries along one axis, by numbers at each place."""
    rank = len(call.operands[0].row)
    layout = common(call.operands, rank)
    axis = int(call.attributes.get("axis", 0)) % rank
    for value in call.operands:
        value.position(axis)
    handles = [aligned(call, k, layout, rank) for k in range(len(call.operands))]
    position = Value(handles[0], layout, call.plates.event_of(handles[0], layout is None), True).position(axis)
    return call.done(handles, layout, axis=position)


@rule("Trilu")
def trilu(call: Call) -> Value:
    """The triangle of each matrix."""
    x = call.operands[0]
    for axis in (-1, -2):
        x.position(axis)
    return call.done([v.handle for v in call.operands], x.layout)


@rule("Einsum")
def einsum(call: Call) -> Value:
    """The letter of the samples comes first in every term that has it; blocks of them get letters of their own."""
    equation = str(call.attributes["equation"]).replace(" ", "")
    if "." in equation:
        raise Refused("einsum with an ellipsis is not supported")
    left, _, right = equation.partition("->")
    terms = left.split(",")
    if "->" not in equation:
        letters = left.replace(",", "")
        right = "".join(sorted(letter for letter in set(letters) if letters.count(letter) == 1))
    spare = iter(letter for letter in "ZYXWVUTSRQPONMLKJIHGFEDCBA" if letter not in equation)
    if any(value.layout == OUTSIDE for value in call.operands):
        if any(value.layout not in (None, OUTSIDE) for value in call.operands):
            raise Refused("einsum of a whole tensor for each sample with one that has an axis of them")
        letter = next(spare)
        inputs = [letter + t if v.layout is not None else t for t, v in zip(terms, call.operands, strict=True)]
        new = ",".join(inputs) + "->" + letter + right
        return call.done([v.handle for v in call.operands], OUTSIDE, equation=new)
    found = {
        (term[v.layout.axis], v.layout.before, v.layout.after)
        for term, v in zip(terms, call.operands, strict=True)
        if v.layout is not None and v.layout.axis is not None
    }
    if not found:
        return call.done([v.handle for v in call.operands], None)
    if len(found) > 1 or next(iter(found))[0] not in right:
        raise Refused(f"einsum {equation!r} sums over the samples or pairs them; it mixes samples")
    ((letter, before, after),) = found
    layout = Layout(right.index(letter), before, after)
    inner = "".join(next(spare) for _ in layout.factors)

    def turned(term: str) -> str:
        return letter + term.replace(letter, inner)

    for term, value in zip(terms, call.operands, strict=True):
        if (value.layout is None and letter in term) or term.count(letter) > 1:
            raise Refused(f"einsum {equation!r} reads a table of one row for each sample, or a diagonal of samples")
    inputs = [t if v.layout is None else turned(t) for t, v in zip(terms, call.operands, strict=True)]
    return call.done([v.handle for v in call.operands], layout, equation=",".join(inputs) + "->" + turned(right))
