"""Where an op does the same thing at many positions: a convolution at each place, a matrix product for each row.

There is a table of such ops, beside the ops themselves, in which each tells from shapes alone what it reads where.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from gbn import arrays
from gbn.ops.windows import geometry

__all__ = ["Positions", "positions"]

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
Attributes = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Positions:
    """One function at many positions: the entries ``place[p]`` of a result depend on ``reads[p]`` of the first input.

    reads: entry of the first input's event, -1 for what is read of padding.  Shape: (positions, entries read).
    place: entry of the result's event.  Shape: (positions, entries made).
    """

    reads: Array
    place: Array


def positions(op: str, shapes: Sequence[Shape], attributes: Attributes) -> list[Positions]:
    """The groups of positions of an op; groups are different functions.  Empty: none are known.

    Args:
        shapes: of the inputs, the first one with its sample axis.
    """
    return _POSITIONS[op](shapes, attributes) if op in _POSITIONS else []


def _conv(shapes: Sequence[Shape], attributes: Attributes) -> list[Positions]:
    (_, channels, *spatial), (made, per_group, *kernel) = shapes[:2]
    names = ("strides", "dilations", "pads", "auto_pad")
    how = geometry(spatial, kernel, **{name: attributes[name] for name in names if name in attributes})
    out = arrays.output_shape(spatial, kernel, **how)
    index, inside = np.zeros((1,) * 2 * len(out), int), np.array(True)
    for axis, size in enumerate(spatial):
        start = np.arange(out[axis]) * how["strides"][axis] - how["pads"][axis]
        at = start[:, None] + np.arange(kernel[axis]) * how["dilations"][axis]
        view = [1] * 2 * len(out)
        view[axis], view[len(out) + axis] = at.shape
        index = index * size + at.reshape(view)
        inside = inside & ((at >= 0) & (at < size)).reshape(view)
    count, taps = prod(out), prod(kernel)
    index, inside = index.reshape(count, 1, taps), np.broadcast_to(inside, (*out, *kernel)).reshape(count, 1, taps)
    groups = channels // per_group
    found = []
    for group in range(groups):
        channel = np.arange(group * per_group, (group + 1) * per_group)[:, None]
        reads = np.where(inside, channel * prod(spatial) + index, -1).reshape(count, -1)
        which = np.arange(group * (made // groups), (group + 1) * (made // groups))
        found.append(Positions(reads, which * count + np.arange(count)[:, None]))
    return found


def _rows(shapes: Sequence[Shape], attributes: Attributes) -> list[Positions]:
    """A matrix on the right of an array of rows."""
    a, b = shapes[:2]
    if len(a) < 3 or len(b) != 2 or attributes.get("transA"):
        return []
    count, read = prod(a[1:-1]), a[-1]
    made = b[0] if attributes.get("transB") else b[1]
    return [Positions(np.arange(count * read).reshape(count, read), np.arange(count * made).reshape(count, made))]


_POSITIONS: dict[str, Callable[[Sequence[Shape], Attributes], list[Positions]]] = {
    "Conv": _conv,
    "Gemm": _rows,
    "MatMul": _rows,
}
