"""How much memory an op needs, told from shapes alone: what a reader of untrusted nets asks before it runs one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from gbn import arrays
from gbn.ops import einsum
from gbn.ops.base import OPS
from gbn.ops.resize import resized
from gbn.ops.windows import geometry, transposed_geometry

__all__ = ["entries", "footprint"]

Shape = tuple[int, ...]
Attributes = Mapping[str, Any]
_TAPS = 1 << 20


def footprint(op: str, shapes: Sequence[Shape], attributes: Attributes) -> tuple[int, ...]:
    """Entries of an op's result, then of the arrays it needs on the way.

    Empty for an op without a rule here: one that gives no more entries than it takes.

    Args:
        shapes: of the inputs, samples included.

    Raises:
        Exception: shapes or attributes that the op would not take, or must not be given.
    """
    return _NEEDS[op](shapes, attributes) if op in _NEEDS else ()


def entries(shape: Iterable[int]) -> int:
    """Number of entries, an empty axis counting as one: a sum over it leaves all the others."""
    return math.prod(max(1, size) for size in shape)


def _need_broadcast(shapes: Sequence[Shape], attributes: Attributes) -> tuple[int, ...]:
    return (entries(np.broadcast_shapes(*shapes)),)


def _need_statistics(shapes: Sequence[Shape], attributes: Attributes) -> tuple[int, ...]:
    x, *statistics = shapes
    if any(shape != x[1:2] for shape in statistics):
        raise ValueError(f"statistics of shapes {statistics} for channels {x[1:2]}")
    return (entries(x),)


def _product(a: Shape, b: Shape) -> Shape:
    left, right = (1, *a) if len(a) == 1 else a, (*b, 1) if len(b) == 1 else b
    if min(len(left), len(right)) < 2 or left[-1] != right[-2]:
        raise ValueError(f"there is no matrix product of shapes {a} and {b}")
    return (*np.broadcast_shapes(left[:-2], right[:-2]), left[-2], right[-1])


def _need_matmul(shapes: Sequence[Shape], attributes: Attributes) -> tuple[int, ...]:
    return (entries(_product(*shapes)),)


def _need_gemm(shapes: Sequence[Shape], attributes: Attributes) -> tuple[int, ...]:
    a, b = shapes[:2]
    a = (*a[:-2], a[-1], a[-2]) if attributes.get("transA") else a
    b = (*b[:-2], b[-1], b[-2]) if attributes.get("transB") else b
    return (entries(_product((math.prod(a[:-1]), a[-1]), b)),)


def _need_linear(shapes: Sequence[Shape], attributes: Attributes) -> tuple[int, ...]:
    pairs = zip(shapes[0 : len(shapes) - 1 : 2], shapes[1::2], strict=True)
    terms = [_product((u[0], math.prod(u[1:])), w[::-1]) for u, w in pairs]
    terms += [shapes[-1]] * (len(shapes) % 2)
    return (entries(np.broadcast_shapes(*terms)),)


def _need_concat(shapes: Sequence[Shape], attributes: Attributes) -> tuple[int, ...]:
    return (sum(map(math.prod, shapes)),)


def _need_pad(shapes: Sequence[Shape], attributes: Attributes) -> tuple[int, ...]:
    sizes, pads = list(shapes[0]), attributes["pads"]
    axes = attributes.get("axes")
    axes = range(len(sizes)) if axes is None else axes
    for axis, begin, end in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        sizes[axis] = max(0, sizes[axis] + min(0, begin) + min(0, end)) + max(0, begin) + max(0, end)
    return (entries(sizes),)


def _need_result(shapes: Sequence[Shape], attributes: Attributes) -> tuple[int, ...]:
    """The result is of the first input's size."""
    return (entries(shapes[0]),)


def _need_gather(shapes: Sequence[Shape], attributes: Attributes) -> tuple[int, ...]:
    x, indices = shapes
    axis = range(len(x))[attributes.get("axis", 0)]
    return entries((*x[:axis], *indices, *x[axis + 1 :])), entries(indices)


def _need_gather_nd(shapes: Sequence[Shape], attributes: Attributes) -> tuple[int, ...]:
    x, indices = shapes
    depth = attributes.get("batch_dims", 0) + indices[-1]
    if not attributes.get("batch_dims", 0) < depth <= len(x):
        raise ValueError(f"indices of shape {indices} for entries of shape {x}")
    return entries((*indices[:-1], *x[depth:])), entries(indices)


def _need_indices(shapes: Sequence[Shape], attributes: Attributes) -> tuple[int, ...]:
    return entries(shapes[1]), entries(shapes[1])


def _need_one_hot(shapes: Sequence[Shape], attributes: Attributes) -> tuple[int, ...]:
    return (entries((*shapes[0], _size(attributes["depth"]))),)


def _need_expand(shapes: Sequence[Shape], attributes: Attributes) -> tuple[int, ...]:
    return (entries(np.broadcast_shapes(shapes[0], tuple(attributes["shape"]))),)


def _need_tile(shapes: Sequence[Shape], attributes: Attributes) -> tuple[int, ...]:
    pairs = zip(shapes[0], attributes["repeats"], strict=True)
    return (entries(size * _size(repeat) for size, repeat in pairs),)


def _need_crop_pad(shapes: Sequence[Shape], attributes: Attributes) -> tuple[int, ...]:
    sizes, axes = list(shapes[0]), attributes.get("axes")
    for axis, size in zip(range(len(sizes)) if axes is None else axes, attributes["shape"], strict=True):
        sizes[axis] = _size(size)
    return (entries(sizes),)


def _size(value: Any) -> int:
    """A size given as an attribute: a whole number that is not negative."""
    if value != int(value) or value < 0:
        raise ValueError(f"got {value!r:.40} for a size")
    return int(value)


_RESIZED = ("scales", "sizes", "axes", "keep_aspect_ratio_policy")
_WINDOW = ("strides", "dilations", "pads", "auto_pad")


def _options(attributes: Attributes, names: Iterable[str] = _WINDOW) -> dict[str, Any]:
    return {name: attributes[name] for name in names if name in attributes}


def _positions(spatial: Shape, kernel: Sequence[int], attributes: Attributes) -> tuple[Shape, int]:
    """Window positions along each axis, and the entries of the padded axes together."""
    how = geometry(spatial, kernel, **_options(attributes))
    out = arrays.output_shape(spatial, kernel, ceil_mode=bool(attributes.get("ceil_mode", 0)), **how)
    return out, _padded(spatial, how["pads"])


def _padded(spatial: Shape, pads: Sequence[int]) -> int:
    return math.prod(size + pads[k] + pads[len(spatial) + k] for k, size in enumerate(spatial))


def _need_conv(shapes: Sequence[Shape], attributes: Attributes) -> tuple[int, ...]:
    x, w = _kernel(shapes, attributes)
    out, padded = _positions(x[2:], w[2:], attributes)
    row = math.prod(out[1:]) * x[1] * math.prod(w[2:])
    return x[0] * w[0] * math.prod(out), x[0] * x[1] * padded, row


def _need_conv_transpose(shapes: Sequence[Shape], attributes: Attributes) -> tuple[int, ...]:
    x, w = _kernel(shapes, attributes)
    names = (*_WINDOW, "output_padding", "output_shape")
    how, result, positions = transposed_geometry(x[2:], w[2:], **_options(attributes, names))
    channels = w[1] * attributes.get("group", 1)
    row = math.prod(positions[1:]) * channels * math.prod(w[2:])
    grown = math.prod((*x[:2], *positions))
    return x[0] * channels * math.prod(result), x[0] * channels * _padded(result, how["pads"]), row, grown


def _kernel(shapes: Sequence[Shape], attributes: Attributes) -> Sequence[Shape]:
    x, w = shapes[:2]
    if attributes.get("group", 1) < 1 or len(x) < 2 or len(w) != len(x):
        raise ValueError(f"a convolution of shapes {x} and {w} in {attributes.get('group', 1)} groups")
    return x, w


def _need_pool(shapes: Sequence[Shape], attributes: Attributes) -> tuple[int, ...]:
    x, kernel = shapes[0], attributes["kernel_shape"]
    out, padded = _positions(x[2:], kernel, attributes)
    if math.prod(kernel) > _TAPS:
        raise ValueError(f"a window of {math.prod(kernel)} entries, where at most {_TAPS} are taken")
    taps = max((o * k for o, k in zip(out, kernel, strict=True)), default=0)
    return math.prod(x[:2]) * math.prod(out), math.prod(x[:2]) * padded, taps


def _need_lrn(shapes: Sequence[Shape], attributes: Attributes) -> tuple[int, ...]:
    if not 1 <= attributes["size"] <= _TAPS:
        raise ValueError(f"a window of {attributes['size']} channels, where 1 to {_TAPS} are taken")
    return (entries(shapes[0]),)


def _need_resize(shapes: Sequence[Shape], attributes: Attributes) -> tuple[int, ...]:
    """The result, and what there is after each axis: three arrays of weights, four a position, come on top."""
    sizes, needed = list(shapes[0]), []
    for axis, out, _ in resized(shapes[0], **_options(attributes, _RESIZED)):
        sizes[axis] = out
        needed += [entries(sizes), 12 * out]
    return (entries(sizes), *needed)


def _need_einsum(shapes: Sequence[Shape], attributes: Attributes) -> tuple[int, ...]:
    """np.einsum lets no product on the way exceed the largest of operands and result."""
    out = entries(einsum.read(attributes["equation"], shapes).out_shape)
    return out, max(out, *map(entries, shapes))


# Ops that are not here give no more entries than they take.  Where the result is known beforehand, a false claim is
# refused before anything is allocated.
_NEEDS: dict[str, Callable[[Sequence[Shape], Attributes], tuple[int, ...]]] = {
    "Gemm": _need_gemm,
    "MatMul": _need_matmul,
    "Linear": _need_linear,
    "Concat": _need_concat,
    "Pad": _need_pad,
    "Gather": _need_gather,
    "GatherND": _need_gather_nd,
    "GatherElements": _need_indices,
    "OneHot": _need_one_hot,
    "Expand": _need_expand,
    "Tile": _need_tile,
    "CenterCropPad": _need_crop_pad,
    "Conv": _need_conv,
    "ConvTranspose": _need_conv_transpose,
    "MaxPool": _need_pool,
    "LpPool": _need_pool,
    "AveragePool": _need_pool,
    "BatchNormalization": _need_statistics,
    "GroupNormalization": _need_statistics,
    "InstanceNormalization": _need_statistics,
    "LayerNormalization": _need_broadcast,
    "RMSNormalization": _need_broadcast,
    "LRN": _need_lrn,
    "Resize": _need_resize,
    "Upsample": _need_resize,
    "Einsum": _need_einsum,
}
_SAME_SIZE = (
    "CumSum DepthToSpace Flatten Hardmax LogSoftmax LpNormalization MeanVarianceNormalization Reshape ReverseSequence "
    "ScatterElements ScatterND Softmax SpaceToDepth Squeeze Transpose Trilu Unsqueeze"
)
_NEEDS |= dict.fromkeys(_SAME_SIZE.split(), _need_result)
_NEEDS |= {name: _need_broadcast for name, op in OPS.items() if op.family in ("elementwise", "arithmetic", "logic")}
