"""Sequences of tensors: lists that exist only while the graph is read, for their lengths are constants."""

from __future__ import annotations

from typing import Any

import numpy as np

from converters._onnx_call import Call, Value, rule
from converters._onnx_rules import pieces, shape_of
from converters._plates import Refused

__all__: list[str] = []


def _sequence(call: Call, items: list[Value]) -> Value:
    return Value(call.label(), ((), ()), np.dtype(np.float32), items=items)


def _items(call: Call, k: int = 0) -> list[Value]:
    items = call[k].items
    if items is None:
        raise Refused(f"its input {call[k].name!r} is no sequence")
    return list(items)


def _position(call: Call, k: int, count: int, limit: int, default: int | None = None) -> int:
    """A constant position below ``limit`` in a sequence, counted from the front."""
    position = call.option("position", k, default)
    position = int(np.ravel(position)[0])
    if not -count <= position < limit:
        raise Refused(f"got the position {position} in a sequence of {count}")
    return position + count if position < 0 else position


@rule("SequenceEmpty")
def _empty(call: Call) -> Value:
    return _sequence(call, [])


@rule("SequenceConstruct")
def _construct(call: Call) -> Value:
    return _sequence(call, [call[k] for k in range(len(call.inputs))])


@rule("SequenceInsert")
def _insert(call: Call) -> Value:
    items = _items(call)
    place = len(items) if call.input(2) is None else _position(call, 2, len(items), len(items) + 1)
    return _sequence(call, [*items[:place], call[1], *items[place:]])


@rule("SequenceErase")
def _erase(call: Call) -> Value:
    items = _items(call)
    del items[_position(call, 1, len(items), len(items), -1)]
    return _sequence(call, items)


@rule("SequenceAt")
def _at(call: Call) -> Value:
    items = _items(call)
    if not items:
        raise Refused("the sequence is empty")
    return items[_position(call, 1, len(items), len(items))]


@rule("SequenceLength")
def _length(call: Call) -> Value:
    return Value.of(call.label(), np.array(len(_items(call)), dtype=np.int64))


@rule("ConcatFromSequence")
def _concat(call: Call) -> Value:
    items = _items(call)
    rank = items[0].rank + call.attribute("new_axis", 0)
    axis = call.axis(int(call.attribute("axis")), rank)
    if call.attribute("new_axis", 0):
        items = [call.emit("Unsqueeze", item, part="row", axes=[axis]) for item in items]
    return call.emit("Concat", *items, axis=axis)


@rule("SplitToSequence")
def _split(call: Call) -> Value:
    x = call[0]
    axis = call.axis(call.attribute("axis", 0), x.rank)
    total, lengths = shape_of(call, x)[axis], call.option("split", 1)
    if not isinstance(total, int):
        raise Refused("it splits the samples")
    if not isinstance(lengths, list):
        size = 1 if lengths is None else int(lengths)
        if size < 1:
            raise Refused(f"it splits into parts of {size}")
        lengths = [min(size, total - start) for start in range(0, total, size)]
    squeeze = call.input(1) is None and not call.attribute("keepdims", 1)
    found: list[Any] = pieces(call, x, axis, lengths)
    return _sequence(call, [call.emit("Squeeze", f, part="entry", axes=[axis]) if squeeze else f for f in found])
