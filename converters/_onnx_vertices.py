"""The vertices of a net that is made from an ONNX graph: constants when they are used, ops within bounds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from converters import _onnx_rules
from converters._onnx_call import Call, Shape, Value, same
from converters._onnx_read import LIMIT
from converters._plates import Layout, Plates, Refused, Samples
from gbn import ops
from gbn.errors import NO_COUNTERPART, ConversionError
from gbn.net import GaussianBayesNet
from gbn.ops.footprint import footprint

__all__ = ["Vertices", "clean"]

# Of all vertices together, for one sample, and of the constants that are computed.
_ENTRIES = 1 << 29


class Vertices:
    """A net, and the source graph's view of it.

    Args:
        dtype: of the net.
        baked: the number of samples the model was exported for; None where it takes any.

    Attributes:
        trials: the numbers of samples with which sizes are computed, to see what becomes of them.
    """

    def __init__(self, dtype: np.dtype[Any], baked: int | None) -> None:
        self.dtype, self.entries = dtype, 0
        self.trials = (6, 35) if baked is None else (baked, 6 * baked + 5)
        self.net = GaussianBayesNet(dtype=dtype)
        self.plates = Plates(self.net, baked=baked)

    def trial_shapes(self, shape: Iterable[Any]) -> tuple[Shape, Shape]:
        """A source shape, for either trial number of samples."""
        first, second = (
            tuple(size.factor * n if isinstance(size, Samples) else int(size) for size in shape) for n in self.trials
        )
        return first, second

    def ref(self, value: Value) -> Any:
        """The value as a vertex: what is a constant becomes one when it is first used as such."""
        if value.items is not None:
            raise Refused(f"{value.name!r} is a sequence of tensors, where a tensor is needed")
        if value.ref is None:
            value.ref = self._parameter(value) if value.learned else self._constant(value)
        return value.ref

    def _parameter(self, value: Value) -> Any:
        array = value.arrays[0].astype(self.dtype)
        if not np.isfinite(array).all():  # a mask
            return self._constant(value)
        ref = self.plates.parameter(clean(value.name), array)
        self.net.describe(self.plates.vertex(ref), source=value.source)
        return ref

    def _constant(self, value: Value) -> Any:
        first, second = (array.astype(self.dtype) for array in value.arrays)
        if same(first, second):
            return self.plates.constant(clean(value.name), first, source=value.source)
        sizes = [self.size(a, b) for a, b in zip(*value.shapes, strict=True)]
        axes = [k for k, size in enumerate(sizes) if isinstance(size, Samples)]
        if len(axes) != 1:
            raise Refused(f"the constant {value.name!r} depends on the number of samples")
        axis, count = axes[0], sizes[axes[0]].factor
        row = first.take(range(count), axis=axis)
        whole = (np.tile(row, [n if k == axis else 1 for k in range(row.ndim)]) for n in self.trials)
        if not all(same(a, b) for a, b in zip(whole, (first, second), strict=True)):
            raise Refused(f"the constant {value.name!r} differs between samples")
        return self.plates.constant(clean(value.name), row, Layout(axis, 1, count), source=value.source)

    def size(self, a: int, b: int) -> Any:
        """One size from those of the two trials: a number, or a multiple of the number of samples."""
        if a == b:
            return int(a)
        first, second = self.trials
        if a % first or a // first * second != b:
            raise Refused("it computes a size from the number of samples that is no multiple of it")
        return Samples(int(a) // first)

    def emit(self, call: Call, op: str, values: Sequence[Value], label: str, attributes: dict[str, Any]) -> Value:
        """Add the vertices of an op on the axes of the source."""
        if op not in ops.OPS:
            raise Refused(NO_COUNTERPART if op == call.node.op else f"there is no op {op}")
        refs = [self.ref(value) for value in values]
        self._check_footprint(op, values, attributes)
        name = self.plates.unique(clean(label))
        result = self.plates.emit(op, refs, name=name, **attributes)
        shapes = self.trial_shapes(result.shape)
        if label != name and name in self.net:
            self.net.describe(name, source=label)
        data = result.data if result.layout is None else None
        read = None if data is None else lambda: (data, data)
        return Value(label, shapes, _onnx_rules.dtype_after(op, values, attributes), read, ref=result)

    def _check_footprint(self, op: str, values: Sequence[Value], attributes: dict[str, Any]) -> None:
        """Refuse what would need memory out of all proportion, before it takes any."""
        first = self.trials[0]
        given = {key: _at(entry, first) for key, entry in attributes.items()}
        try:
            needed = footprint(op, [value.shapes[0] for value in values], given)
        except Exception as error:
            raise Refused(str(error)) from error
        rows = first if any(value.shapes[0] != value.shapes[1] for value in values) else 1
        stored = sum(math.prod(value.shapes[0]) for value in values if value.source is not None)
        if max(needed, default=0) > max(rows * LIMIT, stored):
            raise Refused(f"it would need {max(needed) // rows} entries of memory, more than {LIMIT}")
        self.spend(max(needed, default=0) // rows)

    def spend(self, entries: int) -> None:
        """Raise ConversionError where all that has been made comes to more than can be meant."""
        self.entries += entries
        if self.entries > _ENTRIES:
            raise ConversionError(f"the vertices of this model have more than {_ENTRIES} entries for one sample")


def clean(label: str) -> str:
    """The name of a value as the name of a vertex, which has no slashes."""
    return label.replace("\\", "/").strip("/").replace("/", ".").replace("\0", "") or "value"


def _at(value: Any, samples: int) -> Any:
    """An attribute for a given number of samples."""
    if isinstance(value, (list, tuple)):
        return [_at(entry, samples) for entry in value]
    return value.factor * samples if isinstance(value, Samples) else value
