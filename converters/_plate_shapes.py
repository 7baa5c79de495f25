"""How ops that change shapes act on layouts: transposition, reshape, broadcasting and repetition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from converters._plate_rules import aligned, explicit, place
from converters._plates import PLAIN, Call, Handle, Layout, Refused, Samples, Value, at_one, rule

__all__: list[str] = []


@rule("Transpose")
def transpose(call: Call) -> Value:
    """Axes in another order; the samples stay in front."""
    (x,) = call.operands
    rank = len(x.row)
    perm = call.attributes.get("perm")
    perm = list(range(rank))[::-1] if perm is None else [axis % rank for axis in perm]
    if x.layout is None:
        return call.done([x.handle], None, perm=perm)
    order, layout = [0], x.layout
    for axis in perm:
        if axis == layout.axis:
            order += range(1 + axis, 1 + axis + len(layout.factors))
        else:
            order.append(x.position(axis))
    if layout.axis is not None:
        layout = Layout(perm.index(layout.axis), layout.before, layout.after)
    if order == list(range(len(order))):
        return call.plates.wrap(x.handle, layout)
    return call.done([x.handle], layout, perm=order)


@rule("Reshape")
def reshape(call: Call) -> Value:
    """Another shape of the same flat order: what is before the samples and what is after them re-factor apart."""
    (x,) = call.operands
    copied = not call.attributes.get("allowzero", 0)
    target = [x.shape[k] if copied and size == 0 else size for k, size in enumerate(call.attributes["shape"])]
    return reshaped(call, target)


@rule("Squeeze")
def squeeze(call: Call) -> Value:
    """Without axes of size 1."""
    (x,) = call.operands
    rank, axes = len(x.row), call.attributes.get("axes")
    chosen = [k for k, size in enumerate(x.shape) if size == 1] if axes is None else [axis % rank for axis in axes]
    for axis in chosen:
        if x.shape[axis] != 1:
            raise Refused(f"axis {axis} has size {x.shape[axis]}, so it cannot be squeezed")
    return reshaped(call, [size for k, size in enumerate(x.shape) if k not in chosen])


@rule("Unsqueeze")
def unsqueeze(call: Call) -> Value:
    """With new axes of size 1."""
    (x,) = call.operands
    axes = {axis % (len(x.row) + len(call.attributes["axes"])) for axis in call.attributes["axes"]}
    sizes = iter(x.shape)
    return reshaped(call, [1 if k in axes else next(sizes) for k in range(len(x.row) + len(axes))])


@rule("Flatten")
def flatten(call: Call) -> Value:
    """Two axes: the product of those before ``axis``, and of the others."""
    (x,) = call.operands
    axis = call.attributes.get("axis", 1)
    axis = axis % len(x.row) if axis < 0 else axis
    halves = (x.shape[:axis], x.shape[axis:])
    return reshaped(call, [_product(half) for half in halves])


def _product(sizes: Sequence[Any]) -> Any:
    total = math.prod(map(at_one, sizes))
    return Samples(total) if any(isinstance(size, Samples) for size in sizes) else total


def reshaped(call: Call, target: Sequence[Any]) -> Value:
    """The operand with another source shape; -1 for one size that is to be inferred."""
    (x,) = call.operands
    if x.layout is None or x.layout.axis is None:
        if any(isinstance(size, Samples) for size in target):
            raise Refused(f"its shape {tuple(target)} depends on the number of samples, its operand does not")
        event = _inferred(target, math.prod(x.event))
        layout = x.layout
    else:
        row, axis, before = _refactored(x, target, call.plates.baked)
        layout = Layout(axis, before, row[axis] // before)
        event = [*row[:axis], *layout.factors, *row[axis + 1 :]]
    if tuple(event) == x.event and layout is not None:
        return call.plates.wrap(x.handle, layout)
    if x.layout == layout and layout in (None, PLAIN) and call.op != "Reshape":
        return call.done([x.handle], layout)
    return call.plates.wrap(call.reshape(x.handle, event, layout is None), layout)


def _inferred(target: Sequence[int], total: int) -> list[int]:
    known = math.prod(size for size in target if size != -1)
    if -1 in target and known and total % known == 0:
        target = [total // known if size == -1 else size for size in target]
    if -1 in target or math.prod(target) != total:
        raise Refused(f"{total} entries do not fill the shape {tuple(target)}")
    return list(target)


def _refactored(x: Value, target: Sequence[Any], baked: int | None) -> tuple[list[int], int, int]:
    """The target for one sample, its axis that has the samples, and what is before them there."""
    layout = x.layout or PLAIN
    left = math.prod(x.row[: layout.axis]) * layout.before
    total = math.prod(x.row)
    free = [k for k, size in enumerate(target) if isinstance(size, Samples)]
    if len(free) > 1:
        raise Refused(f"the number of samples is in several axes of its shape {tuple(target)}")
    if not free and baked is not None:
        return _baked(_inferred(target, total * baked), x, left, baked)
    free = free or [k for k, size in enumerate(target) if size == -1]
    if not free:
        raise Refused(f"its shape {tuple(target)} fixes the number of samples; use -1 or x.shape[0] there")
    row = _inferred([at_one(size) for size in target], total)
    before, rest = divmod(left, math.prod(row[: free[0]]))
    if rest or before == 0 or row[free[0]] % before:
        raise Refused(f"a reshape of {x.shape} to {tuple(target)} mixes samples")
    return row, free[0], before


def _baked(sizes: list[int], x: Value, left: int, baked: int) -> tuple[list[int], int, int]:
    """Where the samples may be in a shape of numbers; of several places the likeliest.

    That is an axis of just them; else not the last one, which has features; else one that leaves the axes behind it,
    or those before it, as they were; else the first.
    """
    layout, fits = x.layout or PLAIN, []
    axis = layout.axis or 0
    for k, size in enumerate(sizes):
        before, rest = divmod(left, math.prod(sizes[:k]))
        if not rest and size % baked == 0 and before and size // baked % before == 0:
            kept_behind, kept_before = sizes[k + 1 :] == list(x.row[axis + 1 :]), sizes[:k] == list(x.row[:axis])
            unlikely = (before != 1 or size != baked, k == len(sizes) - 1, not kept_behind, not kept_before)
            fits.append((unlikely, k, before))
    if not fits:
        raise Refused(
            f"its shape {tuple(sizes)} has no place for the {baked} samples it was fixed for: it mixes samples"
        )
    _, axis, before = min(fits)
    return [size // baked if k == axis else size for k, size in enumerate(sizes)], axis, before


@rule("Expand")
def expand(call: Call) -> Value:
    """Broadcast to a shape; along the samples, a row for each of them is the same row."""
    (x,) = call.operands
    target = list(call.attributes["shape"])
    rank = max(len(x.row), len(target))
    wanted = [1] * (rank - len(target)) + target
    own = [1] * (rank - len(x.row)) + list(x.row)
    free = [k for k, size in enumerate(wanted) if isinstance(size, Samples)]
    layout = None if x.layout is None else x.layout.shifted(rank - len(x.row))
    if layout is None and free:
        layout = Layout(free[0], 1, wanted[free[0]].factor)
    row = [max(a, at_one(b)) if b != -1 else a for a, b in zip(own, wanted, strict=True)]
    if layout is not None and layout.axis is not None and call.plates.baked is not None:
        # A literal size there is that of the samples it was fixed for.
        count = math.prod(layout.factors)
        if wanted[layout.axis] == count * call.plates.baked:
            row[layout.axis] = count
    if layout is None:
        return call.plates.wrap(_expanded(call, x.handle, row, True), None)
    handle = aligned(call, 0, layout, rank)
    axis = layout.axis
    event = row if axis is None else [*row[:axis], *layout.factors, *row[axis + 1 :]]
    if axis is not None and row[axis] != math.prod(layout.factors):
        raise Refused(f"it repeats the samples on axis {axis}, {wanted[axis]} in place of {x.shape[axis]}")
    return call.plates.wrap(_expanded(call, handle, event, False, x.layout is None), layout)


def _expanded(call: Call, handle: Handle, event: Sequence[int], shared: bool, new: bool = False) -> Handle:
    """``new``: the handle has no axis for the samples yet."""
    if not new and call.plates.event_of(handle, shared) == tuple(event):
        return handle
    return call.apply("Expand", [handle], shape=list(event) if shared else [1, *event])


@rule("Tile")
def tile(call: Call) -> Value:
    """Copies one after the other along each axis."""
    (x,) = call.operands
    repeats = list(call.attributes["repeats"])
    free = [k for k, count in enumerate(repeats) if isinstance(count, Samples)]
    if x.layout is None and free:
        axis = free[0]
        layout = Layout(axis, 1, x.event[axis] * repeats[axis].factor)
        counts = [1, *(at_one(c) for c in repeats)]
        handle = call.apply("Unsqueeze", [x.handle], "row", axes=[0])
        handle = call.apply("Tile", [handle], "copies", repeats=counts) if max(counts) > 1 else handle
        sizes = [s * at_one(c) for s, c in zip(x.event, repeats, strict=True)]
        sizes[axis : axis + 1] = layout.factors
        return call.plates.wrap(call.reshape(handle, sizes, False), layout)
    if x.layout is None:
        return call.done([x.handle], None)
    layout, handle, event = x.layout, x.handle, x.event
    if layout.axis is not None and repeats[layout.axis] != 1:
        event = explicit(x)
        handle = call.reshape(handle, event, False, "blocks")
        layout = Layout(layout.axis, layout.before * repeats[layout.axis], layout.after)
    counts = [1] * (len(event) + 1)
    for axis, count in enumerate(repeats):
        counts[1 + axis if axis == layout.axis else place(layout, axis)] = int(count)
    if max(counts) == 1:
        return x
    return call.done([handle], layout, repeats=counts)
