"""ATen rules of operations that move, repeat or pick entries."""

from __future__ import annotations

from typing import Any

import numpy as np

from converters._call import END, RULES, Call, Many, Refused, Samples, Value, rule, spread
from converters._functions import truncated
from converters._plates import Layout, at_one

__all__ = ["ALIASES", "is_alias"]

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
        "positive",
        "real",
        "_conj",
        "conj",
        "resolve_conj",
        "resolve_neg",
    }
)


def is_alias(packet: str, arguments: dict[str, Any]) -> bool:
    """Whether an operation returns its first argument unchanged."""
    if packet == "slice":
        end, step = arguments.get("end"), arguments.get("step", 1)
        return arguments.get("start") in (None, 0) and (end is None or end == END) and step == 1
    return packet in ALIASES


@rule(*sorted(ALIASES))
def _alias(call: Call) -> Value:
    if call.get("train", False) or call.get("training", False):
        raise Refused("it draws at random in training mode; export the model after model.eval()")
    before = next(iter(call.kinds.values()), "f")
    if call.kinds.get("") == "b" != before:
        zero = call.emit("Equal", call.first, call.constant("zero", 0.0), part="is_zero")
        return call.emit("Not", zero)
    if call.kinds.get("") == "i" and before == "f":
        return truncated(call)
    return call.emit("Identity", call.first)


@rule("view", "_unsafe_view", "reshape", "flatten", "unflatten", "view_copy", "_reshape_alias")
def _reshape(call: Call) -> Value:
    x, target = call.first, list(call.shape)
    plain = x.layout == Layout(0) and isinstance(target[0], Samples) and target[0].factor == 1
    if plain and len(target) == 2 and len(x.row) > 2:
        return call.emit("Flatten", x, axis=1)
    return call.emit("Reshape", x, shape=target)


@rule("squeeze", "squeeze_copy")
def _squeeze(call: Call) -> Value:
    rank = len(call.first.row)
    dims = range(rank) if call.get("dim") is None else spread(call["dim"], 1)
    axes = sorted(dim % rank for dim in dims if call.first.shape[dim % rank] == 1)
    return call.emit("Squeeze", call.first, axes=axes) if axes else call.first


@rule("unsqueeze")
def _unsqueeze(call: Call) -> Value:
    return call.emit("Unsqueeze", call.first, axes=[int(call["dim"]) % len(call.shape)])


@rule("movedim", "moveaxis")
def _movedim(call: Call) -> Value:
    rank = len(call.first.row)
    moves = [[dim % rank for dim in spread(call[key], 1)] for key in ("source", "destination")]
    order = [axis for axis in range(rank) if axis not in moves[0]]
    for target, axis in sorted(zip(moves[1], moves[0], strict=True)):
        order.insert(target, axis)
    return call.emit("Transpose", call.first, perm=order)


@rule("permute", "transpose", "t", "numpy_T", "mT", "swapaxes", "swapdims")
def _permute(call: Call) -> Value:
    rank = len(call.first.row)
    order = list(range(rank))
    if "dims" in call.arguments:
        order = [dim % rank for dim in call["dims"]]
    elif rank > 1:
        a, b = (call.get("dim0", call.get("axis0", -2)) % rank, call.get("dim1", call.get("axis1", -1)) % rank)
        order[a], order[b] = order[b], order[a]
    return call.emit("Transpose", call.first, perm=order)


@rule("cat", "concat", "concatenate")
def _cat(call: Call) -> Value:
    axis = int(call.get("dim", 0)) % len(call.shape)
    return call.emit("Concat", *call["tensors"], axis=axis)


@rule("stack")
def _stack(call: Call) -> Value:
    axis = int(call.get("dim", 0)) % len(call.shape)
    rows = [call.emit("Unsqueeze", x, part=str(k), axes=[axis]) for k, x in enumerate(call["tensors"])]
    return call.emit("Concat", *rows, axis=axis)


@rule("slice", "narrow")
def _slice(call: Call) -> Value:
    start = call.get("start", 0)
    end = start + call["length"] if "length" in call.arguments else call.get("end", END)
    axis = int(call.get("dim", 0)) % len(call.shape)
    return call.emit("Slice", call.first, starts=[start], ends=[end], axes=[axis], steps=[int(call.get("step", 1))])


@rule("slice_scatter")
def _slice_scatter(call: Call) -> Value:
    """A tensor with a slice of it replaced, as assignment to ``x[:, a:b]`` does."""
    x, axis = call["self"], int(call.get("dim", 0)) % len(call.shape)
    start, end = call.get("start", 0), call.get("end", END)
    if int(call.get("step", 1)) != 1:
        raise Refused("assignment to every other entry has no counterpart")
    size = x.shape[axis]
    if start == 0 and (end == size or (not isinstance(end, Samples) and end >= END)):
        return call["src"]  # type: ignore[no-any-return]
    begin, stop, _ = slice(int(start), int(end)).indices(int(size))
    return _replaced(call, x, call["src"], axis, begin, max(begin, stop))


@rule("select_scatter")
def _select_scatter(call: Call) -> Value:
    """A tensor with one entry along an axis replaced, as assignment to ``x[:, k]`` does."""
    x, axis = call["self"], int(call["dim"]) % len(call.shape)
    index = int(call["index"]) % int(x.shape[axis])
    row = call.emit("Unsqueeze", call["src"], part="row", axes=[axis])
    return _replaced(call, x, row, axis, index, index + 1)


def _replaced(call: Call, x: Value, part: Value, axis: int, begin: int, end: int) -> Value:
    size, pieces = x.row[axis], []
    for name, low, high in (("before", 0, begin), ("after", end, size)):
        if name == "after":
            pieces.append(part)
        if high > low:
            cut: dict[str, Any] = {"starts": [low], "ends": [high], "axes": [axis], "steps": [1]}
            pieces.append(call.emit("Slice", x, part=name, **cut))
    return call.emit("Concat", *pieces, axis=axis)


@rule("copy")
def _copy(call: Call) -> Value:
    """What is assigned, in the shape of what it is assigned to."""
    return call.emit("Expand", call["src"], shape=list(call.shape))


@rule("select")
def _select(call: Call) -> Value:
    return _selected(call, int(call["dim"]) % len(call.first.row), int(call["index"]))


def _selected(call: Call, axis: int, index: int) -> Value:
    end = END if index == -1 else index + 1
    row = call.emit("Slice", call.first, part="slice", starts=[index], ends=[end], axes=[axis], steps=[1])
    return call.emit("Squeeze", row, axes=[axis])


@rule("unbind")
def _unbind(call: Call) -> Many:
    axis = int(call.get("dim", 0)) % len(call.first.row)
    return [lambda name, k=k: _selected(call.within(name), axis, k) for k in range(call.first.row[axis])]  # type: ignore[misc]


@rule("split", "split_with_sizes", "chunk")
def _split(call: Call) -> Many:
    axis = int(call.get("dim", 0)) % len(call.first.row)
    size = call.first.shape[axis]
    sizes = call.get("split_sizes", call.get("split_size", call.get("split_size_or_sections")))
    if "chunks" in call.arguments:
        sizes = -(-at_one(size) // int(call["chunks"]))
        sizes = Samples(sizes) if isinstance(size, Samples) else sizes
    if not isinstance(sizes, list):
        whole, step = at_one(size), at_one(sizes)
        counts = [min(step, whole - start) for start in range(0, whole, step)]
        sizes = [Samples(c) for c in counts] if isinstance(size, Samples) else counts
    edges = [0]
    for entry in sizes:
        edges.append(edges[-1] + at_one(entry))
    ends = [Samples(edge) if isinstance(size, Samples) and edge else edge for edge in edges]

    def part(name: str, k: int) -> Value:
        cut: dict[str, Any] = {"starts": [ends[k]], "ends": [ends[k + 1]], "axes": [axis], "steps": [1]}
        return call.within(name).emit("Slice", call.first, **cut)

    return [lambda name, k=k: part(name, k) for k in range(len(sizes))]  # type: ignore[misc]


@rule("expand", "broadcast_to", "expand_as")
def _expand(call: Call) -> Value:
    return call.emit("Expand", call.first, shape=list(call.shape))


@rule("repeat", "tile")
def _repeat(call: Call) -> Value:
    counts = list(call.get("repeats", call.get("dims")))
    x = call.first
    missing = len(counts) - len(x.row)
    if missing > 0:
        x = call.emit("Reshape", x, part="axes", shape=[*[1] * missing, *x.shape])
    return call.emit("Tile", x, repeats=[1] * -missing + counts)


@rule("repeat_interleave")
def _repeat_interleave(call: Call) -> Value:
    """Each entry several times in a row."""
    if isinstance(call["repeats"], Value) or call.get("dim") is None:
        raise Refused("only a number of repeats along one dim has a counterpart")
    x, count = call.first, int(call["repeats"])
    axis = int(call["dim"]) % len(x.row)
    rows = call.emit("Unsqueeze", x, part="rows", axes=[axis + 1])
    copies = [1] * (len(x.row) + 1)
    copies[axis + 1] = count
    tiled = call.emit("Tile", rows, part="copies", repeats=copies)
    return call.emit("Reshape", tiled, shape=[*x.shape[:axis], x.shape[axis] * count, *x.shape[axis + 1 :]])


@rule("flip")
def _flip(call: Call) -> Value:
    axes = [dim % len(call.first.row) for dim in call["dims"]]
    count = len(axes)
    return call.emit("Slice", call.first, starts=[-1] * count, ends=[-END] * count, axes=axes, steps=[-1] * count)


@rule("roll")
def _roll(call: Call) -> Value:
    """The end of each axis before its beginning."""
    y, rank = call.first, len(call.first.row)
    if not call.get("dims"):
        raise Refused("a roll of the flattened tensor mixes samples; give it dims")
    steps = [(dim % rank, shift % y.row[dim % rank]) for dim, shift in zip(call["dims"], call["shifts"], strict=True)]
    steps = [(axis, shift) for axis, shift in steps if shift]
    for k, (axis, shift) in enumerate(steps):
        where = f"{k}." if len(steps) > 1 else ""
        edge = y.row[axis] - shift
        tail = call.emit("Slice", y, part=f"{where}tail", starts=[edge], ends=[END], axes=[axis], steps=[1])
        head = call.emit("Slice", y, part=f"{where}head", starts=[0], ends=[edge], axes=[axis], steps=[1])
        last = "" if k == len(steps) - 1 else f"{where}rolled"
        y = call.emit("Concat", tail, head, part=last, axis=axis)
    return y


_PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@rule("pad", "constant_pad_nd")
def _pad(call: Call) -> Value:
    """Torch lists pads in pairs from the last axis on, ONNX all begins and then all ends."""
    pads = list(call["pad"])
    axes = [len(call.shape) - 1 - k for k in range(len(pads) // 2)]
    mode = _PAD_MODES[call.get("mode", "constant")]
    value = float(np.clip(float(call.get("value", 0.0)), -1e30, 1e30))
    return call.emit("Pad", call.first, pads=pads[0::2] + pads[1::2], axes=axes, mode=mode, value=value)


@rule("embedding")
def _embedding(call: Call) -> Value:
    return call.emit("Gather", call["weight"], call["indices"], axis=0)


@rule("index_select")
def _index_select(call: Call) -> Value:
    return call.emit("Gather", call.first, call["index"], axis=int(call["dim"]) % len(call.first.row))


@rule("gather")
def _gather(call: Call) -> Value:
    x, index, axis = call.first, call["index"], int(call["dim"]) % len(call.first.row)
    if x.plated and index.data is not None and index.layout == x.layout and len(index.event) == 1:
        picked = call.constant("index", index.data)  # one row of numbers for all samples
        return call.emit("Gather", x, picked, axis=axis)
    return call.emit("GatherElements", x, index, axis=axis)


@rule("index")
def _index(call: Call) -> Value:
    """One index tensor along one axis, or constant ones along neighbouring axes."""
    x = call.first
    given = [(axis, index) for axis, index in enumerate(call["indices"]) if index is not None]
    axes, tables = [axis for axis, _ in given], [index.data for _, index in given]
    if len(given) == 1:
        return call.emit("Gather", x, given[0][1], axis=axes[0])
    if axes != list(range(axes[0], axes[0] + len(axes))) or any(table is None for table in tables):
        raise Refused("indexing with several tensors that are no constants; use gather or index_select")
    sizes = tuple(int(x.shape[axis]) for axis in axes)
    flat = call.emit("Reshape", x, part="flat", shape=[*x.shape[: axes[0]], -1, *x.shape[axes[-1] + 1 :]])
    tables = [np.where(t < 0, t + n, t) for t, n in zip(tables, sizes, strict=True)]
    index = np.ravel_multi_index(tuple(t.astype(int) for t in np.broadcast_arrays(*tables)), sizes)
    return call.emit("Gather", flat, call.constant("index", index), axis=axes[0])


@rule("tril", "triu")
def _triangle(call: Call) -> Value:
    """The triangle of a matrix, by a mask of ones and zeros."""
    shape = [at_one(size) for size in call.first.row[-2:]]
    cut = np.tril if call.packet == "tril" else np.triu
    mask = call.constant("mask", cut(np.ones(shape), int(call.get("diagonal", 0))))
    return call.emit("Mul", call.first, mask)


@rule("diagonal")
def _diagonal(call: Call) -> Value:
    """Entries (k, k + offset) of two axes, which give way to one at the end."""
    x, rank = call.first, len(call.first.row)
    a, b = (int(call.get(key, default)) % rank for key, default in (("dim1", 0), ("dim2", 1)))
    offset = int(call.get("offset", 0))
    rows, columns = x.row[a], x.row[b]
    count = min(rows, columns - offset) if offset >= 0 else min(rows + offset, columns)
    first = offset if offset >= 0 else -offset * columns
    kept = [k for k in range(rank) if k not in (a, b)]
    turned = call.emit("Transpose", x, part="turned", perm=[*kept, a, b])
    flat = call.emit("Reshape", turned, part="flat", shape=[*[x.shape[k] for k in kept], rows * columns])
    index = call.constant("index", first + np.arange(count) * (columns + 1))
    return call.emit("Gather", flat, index, axis=rank - 2)


@rule("pixel_shuffle")
def _pixel_shuffle(call: Call) -> Value:
    """(C r², H, W) as (C, H r, W r)."""
    return _blocks(call, int(call["upscale_factor"]), True)


@rule("pixel_unshuffle")
def _pixel_unshuffle(call: Call) -> Value:
    """(C, H r, W r) as (C r², H, W)."""
    return _blocks(call, int(call["downscale_factor"]), False)


def _blocks(call: Call, r: int, up: bool) -> Value:
    x = call.first
    *lead, c, h, w = x.shape
    n = len(lead)
    split = [*lead, c // (r * r), r, r, h, w] if up else [*lead, c, h // r, r, w // r, r]
    order = [n, n + 3, n + 1, n + 4, n + 2] if up else [n, n + 2, n + 4, n + 1, n + 3]
    y = call.emit("Reshape", x, part="split", shape=split)
    y = call.emit("Transpose", y, part="turned", perm=[*range(n), *order])
    return call.emit("Reshape", y, shape=list(call.shape))


@rule("unfold")
def _unfold(call: Call) -> Value:
    """Windows along one axis, as a last axis."""
    x, rank = call.first, len(call.first.row)
    axis, size, step = int(call["dimension"]) % rank, int(call["size"]), int(call["step"])
    starts = np.arange(0, x.row[axis] - size + 1, step)
    index = call.constant("index", starts[:, None] + np.arange(size))
    y = call.emit("Gather", x, index, part="windows", axis=axis)
    order = [k for k in range(rank + 1) if k != axis + 1]
    return call.emit("Transpose", y, perm=[*order, axis + 1])


def filled(call: Call, value: float) -> Value:
    """A table of one number: a row of it where it has one for each sample."""
    sizes = call["size"] if "size" in call.arguments else list(call.first.shape)
    free = [k for k, size in enumerate(sizes) if isinstance(size, Samples)]
    if len(free) > 1:
        raise Refused("a table of samples by samples")
    row = [at_one(size) for size in sizes]
    if not free:
        return call.constant("", np.full(row, value))
    if row[free[0]] != 1:  # a broadcast says it whatever the order
        row[free[0]] = 1
        return call.constant("", np.full(row, value))
    return call.constant("", np.full(row, value), Layout(free[0]))


for _name, _value in {"zeros": 0.0, "ones": 1.0, "zeros_like": 0.0, "ones_like": 1.0, "new_zeros": 0.0,
                      "new_ones": 1.0, "empty": 0.0, "new_empty": 0.0, "empty_like": 0.0}.items():  # fmt: skip
    RULES[_name] = lambda call, value=_value: filled(call, value)  # type: ignore[misc]


@rule("full", "full_like", "new_full")
def _full(call: Call) -> Value:
    return filled(call, float(call["fill_value"]))


@rule("scalar_tensor")
def _scalar(call: Call) -> Value:
    return call.constant("", float(call["s"]))
