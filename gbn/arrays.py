"""What numpy lacks or does slowly: convolutions, pooling windows, the inverse of broadcasting, with their adjoints.

Shapes are those of ONNX, ``(samples, channels, *spatial)``, but convolutions lie in memory *sample-last*, as
``(channels, *spatial, samples)``, and are returned as transposed views. A row of windows is then one contiguous run,
flattening the features of a sample costs no copy, and numpy's elementwise functions keep the order, as the pooling
functions do: a chain of layers never copies from one layout to another. Any memory order is accepted; sample-last input
is the cheapest.

Everything here is a function of floating-point arrays; the dtype that goes in comes out. ``pads`` follows ONNX: the
beginnings of all spatial axes, then their ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "convolve",
    "convolve_pull_input",
    "convolve_pull_weight",
    "detached",
    "matmul",
    "max_pool",
    "output_shape",
    "pool_scatter",
    "pool_select",
    "unbroadcast",
    "window_scatter",
    "window_sum",
]

Array = NDArray[Any]
Sizes = Sequence[int]
Index = tuple[Any, ...]

# A block of columns of this many entries stays in the second-level cache between its gathering and its product.
_BLOCK_ENTRIES = 1 << 18
# Where one row of positions of all samples has more entries than this, fewer samples are taken at a time, to bound the
# memory used.
_ROW_ENTRIES = 1 << 22
# See _short_runs.
_BUFFER = 1024


@contextmanager
def _short_runs() -> Iterator[None]:
    """Ufuncs on runs of a few hundred entries without needless copies, in a ``with`` block or as a decorator.

    Where the contiguous runs of its operands are shorter than its buffer, numpy copies operands through that buffer
    even when nothing has to be cast or aligned; with a small buffer the same addition is two to four times as fast.
    """
    before = np.setbufsize(_BUFFER)
    try:
        yield
    finally:
        np.setbufsize(before)


def output_shape(
    spatial: Sizes, kernel: Sizes, *, strides: Sizes, dilations: Sizes, pads: Sizes, ceil_mode: bool = False
) -> tuple[int, ...]:
    """Number of window positions along each spatial axis.

    ``1 + (size + pad_begin + pad_end - dilation (kernel - 1) - 1) / stride``, rounded down, or up with ``ceil_mode``,
    where a last window that would start in the end padding is dropped, as ONNX and torch do.

    Raises ``ValueError`` if the window is larger than the padded axis, or the geometry makes no sense.
    """
    d = len(kernel)
    if len(spatial) != d or len(strides) != d or len(dilations) != d or len(pads) != 2 * d:
        raise ValueError(
            f"{d}-dimensional window {tuple(kernel)} needs {d} spatial axes, strides and dilations, {2 * d} pads; got "
            f"{len(spatial)} axes, strides {tuple(strides)}, dilations {tuple(dilations)}, pads {tuple(pads)}"
        )
    if min((*kernel, *strides, *dilations), default=1) < 1 or min(pads, default=0) < 0:
        raise ValueError(
            f"kernel {tuple(kernel)}, strides {tuple(strides)}, dilations {tuple(dilations)} must be positive and pads "
            f"{tuple(pads)} not negative"
        )
    return tuple(
        _output_size(spatial[i], kernel[i], strides[i], dilations[i], pads[i], pads[d + i], ceil_mode) for i in range(d)
    )


def _output_size(size: int, kernel: int, stride: int, dilation: int, begin: int, end: int, ceil_mode: bool) -> int:
    extent = dilation * (kernel - 1) + 1
    room = size + begin + end - extent
    if room < 0:
        raise ValueError(
            f"a window of extent {extent} (kernel {kernel}, dilation {dilation}) does not fit an axis of size {size} "
            f"with padding ({begin}, {end}); use a smaller kernel or dilation, or more padding"
        )
    if not ceil_mode:
        return room // stride + 1
    count = -(-room // stride) + 1
    return count - 1 if (count - 1) * stride >= size + begin else count


# A convolution gathers the windows of a block of positions as the columns of a matrix, so that a block costs one matrix
# product. The matrices of all blocks share one scratch array: mapping fresh pages for each can take longer than the
# products.


def convolve(x: Array, w: Array, *, strides: Sizes, dilations: Sizes, pads: Sizes, groups: int) -> Array:
    """Cross-correlation of x with w, without bias, as ONNX ``Conv``.

    x: ``(samples, channels, *spatial)``; w: ``(outputs, channels // groups, *kernel)``; result:
    ``(samples, outputs, *positions)``. Raises ``ValueError`` if the kernel does not fit.
    """
    kernel = w.shape[2:]
    out = output_shape(x.shape[2:], kernel, strides=strides, dilations=dilations, pads=pads)
    weight = w.reshape(groups, len(w) // groups, -1)
    width, height = _block_size(out, len(x), x.shape[1] * math.prod(kernel))
    dtype = np.result_type(x, w)

    def block(samples: slice) -> Array:
        windows = _windows(_pad_sample_last(x[samples], pads), kernel, out, strides, dilations)
        y = np.empty((len(w), *out, windows.shape[-1]), dtype)
        flat = y.reshape(*weight.shape[:2], math.prod(y.shape[1:]))
        for columns, positions in _columns(windows, groups, height):
            np.matmul(weight, columns, out=flat[:, :, positions])
        return y

    return _by_samples(block, len(x), width)


@_short_runs()
def convolve_pull_input(
    g: Array, w: Array, input_shape: Sizes, *, strides: Sizes, dilations: Sizes, pads: Sizes, groups: int
) -> Array:
    """Adjoint of ``convolve`` with respect to x.

    g: ``(samples, outputs, *positions)``; w: ``(outputs, channels // groups, *kernel)``; result: ``input_shape``,
    which is ``(samples, channels, *spatial)``.
    """
    kernel, out = w.shape[2:], g.shape[2:]
    channels, *spatial = input_shape[1:]
    weight = np.swapaxes(w.reshape(groups, len(w) // groups, -1), 1, 2)
    width, height = _block_size(out, len(g), channels * math.prod(kernel))
    # With one output per group the product is an outer one, at which BLAS is slow.
    multiply = np.multiply if len(w) == groups else np.matmul
    inside = _inside(spatial, pads)
    padded_shape = [size + pads[i] + pads[len(out) + i] for i, size in enumerate(spatial)]
    dtype = np.result_type(g, w)

    def block(samples: slice) -> Array:
        upstream = np.ascontiguousarray(np.moveaxis(g[samples], 0, -1))
        flat = upstream.reshape(groups, len(w) // groups, math.prod(upstream.shape[1:]))
        padded = np.zeros((channels, *padded_shape, upstream.shape[-1]), dtype)
        scratch = np.empty(0, dtype)
        for target, positions in _row_blocks(_windows(padded, kernel, out, strides, dilations), height):
            scratch = scratch if scratch.size else np.empty(target.size, dtype)
            columns = scratch[: target.size].reshape(target.shape)
            matrix = columns.reshape(*weight.shape[:2], positions.stop - positions.start)
            multiply(weight, flat[:, :, positions], out=matrix)
            for tap in np.ndindex(*kernel):
                target[:, *tap] += columns[:, *tap]
        return padded[inside]

    return _by_samples(block, len(g), width)


def convolve_pull_weight(
    g: Array, x: Array, kernel_shape: Sizes, *, strides: Sizes, dilations: Sizes, pads: Sizes, groups: int
) -> Array:
    """Adjoint of ``convolve`` with respect to w, summed over the samples.

    g: ``(*lead, samples, outputs, *positions)``; x: ``(samples, channels, *spatial)``; kernel_shape: ``(*kernel)``;
    result: ``(*lead, outputs, channels // groups, *kernel)``.
    """
    d = len(kernel_shape)
    lead, outputs, out = g.shape[: -d - 2], g.shape[-d - 1], g.shape[-d:]
    taps = x.shape[1] // groups * math.prod(kernel_shape)
    # Leading axes join the outputs, as further columns of the one product:
    # (groups, lead, outputs per group, *positions, samples).
    by_group = g.reshape(math.prod(lead), len(x), groups, outputs // groups, *out)
    upstream = np.moveaxis(by_group, (2, 0, 1), (0, 1, -1))
    columns_of_g = math.prod(lead) * outputs // groups
    width, height = _block_size(out, len(x), groups * taps)
    total = np.zeros((groups, taps, columns_of_g), np.result_type(g, x))
    part = np.empty_like(total)
    for samples in _sample_slices(len(x), width):
        windows = _windows(_pad_sample_last(x[samples], pads), kernel_shape, out, strides, dilations)
        part_of_g = np.ascontiguousarray(upstream[..., samples])
        flat = part_of_g.reshape(groups, columns_of_g, math.prod(part_of_g.shape[3:]))
        for columns, positions in _columns(windows, groups, height):
            np.matmul(columns, np.swapaxes(flat[:, :, positions], 1, 2), out=part)
            total += part
    by_lead = np.moveaxis(total.reshape(groups, taps, math.prod(lead), outputs // groups), (2, 0, 3), (0, 1, 2))
    return by_lead.reshape(*lead, outputs, x.shape[1] // groups, *kernel_shape)


def _by_samples(block: Callable[[slice], Array], samples: int, width: int) -> Array:
    """Results of ``block``, ``(channels, *spatial, some samples)`` each, as one ``(samples, channels, *spatial)``."""
    parts = [block(part) for part in _sample_slices(samples, width)]
    return np.moveaxis(parts[0] if len(parts) == 1 else np.concatenate(parts, -1), -1, 0)


def _sample_slices(samples: int, width: int) -> list[slice]:
    return [slice(start, min(start + width, samples)) for start in range(0, max(1, samples), width)]


def _inside(spatial: Sizes, pads: Sizes) -> Index:
    """Where the entries that are not padding lie in ``(channels, *padded, samples)``."""
    return (slice(None), *(slice(begin, begin + size) for begin, size in zip(pads, spatial, strict=False)))


def _pad_sample_last(x: Array, pads: Sizes) -> Array:
    """x ``(samples, channels, *spatial)`` as a contiguous, zero-padded array ``(channels, *padded, samples)``."""
    last = np.moveaxis(x, 0, -1)
    if not any(pads):
        return np.ascontiguousarray(last)
    channels, *spatial, samples = last.shape
    padded_shape = [size + pads[i] + pads[len(spatial) + i] for i, size in enumerate(spatial)]
    padded = np.zeros((channels, *padded_shape, samples), x.dtype)
    padded[_inside(spatial, pads)] = last
    return padded


def _windows(padded: Array, kernel: Sizes, out: Sizes, strides: Sizes, dilations: Sizes) -> Array:
    """All windows of ``(channels, *padded, samples)`` as one view, ``(channels, *kernel, *positions, samples)``."""
    channel_step, *steps, sample_step = padded.strides
    tap_steps = [step * dilation for step, dilation in zip(steps, dilations, strict=True)]
    position_steps = [step * stride for step, stride in zip(steps, strides, strict=True)]
    return np.lib.stride_tricks.as_strided(
        padded,
        (len(padded), *kernel, *out, padded.shape[-1]),
        (channel_step, *tap_steps, *position_steps, sample_step),
    )


def _block_size(out: Sizes, samples: int, entries: int) -> tuple[int, int]:
    """How many samples, and rows of the first axis of positions, to gather at a time, for columns of ``entries``."""
    row = max(1, math.prod(out[1:]) * entries)
    width = max(1, min(samples, _ROW_ENTRIES // row))
    return width, max(1, _BLOCK_ENTRIES // (row * width))


def _row_blocks(windows: Array, height: int) -> Iterator[tuple[Array, slice]]:
    """Cut ``(channels, *kernel, *positions, samples)`` along the first axis of positions, ``height`` rows at a time.

    Yields each block of windows, and its place among the flattened positions and samples.
    """
    first = windows.ndim // 2
    row = math.prod(windows.shape[first + 1 :])
    for start in range(0, windows.shape[first], height):
        block = windows[(slice(None),) * first + (slice(start, start + height),)]
        yield block, slice(start * row, (start + block.shape[first]) * row)


def _columns(windows: Array, groups: int, height: int) -> Iterator[tuple[Array, slice]]:
    """The blocks of ``_row_blocks`` as matrices ``(groups, taps, positions)``, each valid until the next is drawn."""
    taps = math.prod(windows.shape[: windows.ndim // 2]) // groups
    scratch = np.empty(0, windows.dtype)
    for block, positions in _row_blocks(windows, height):
        if not block.flags.c_contiguous:
            scratch = scratch if scratch.size else np.empty(block.size, windows.dtype)
            gathered = scratch[: block.size].reshape(block.shape)
            gathered[...] = block
            block = gathered
        yield block.reshape(groups, taps, positions.stop - positions.start), positions


@_short_runs()
def max_pool(
    x: Array, *, kernel: Sizes, strides: Sizes, dilations: Sizes, pads: Sizes, ceil_mode: bool = False
) -> tuple[Array, Array]:
    """Maximum of each window, and which tap of the window (in row-major order) holds it.

    x: ``(*any, *spatial)``; both results: ``(*any, *positions)``. The first of equal maxima wins and padding never
    does; a window that lies in the padding altogether has the value -inf and the index ``prod(kernel)``, which selects
    nothing.
    """
    d = len(kernel)
    spatial = x.shape[-d:]
    out = output_shape(spatial, kernel, strides=strides, dilations=dilations, pads=pads, ceil_mode=ceil_mode)
    y = np.full_like(x, -np.inf, shape=x.shape[:-d] + out)
    index_type = np.min_scalar_type(math.prod(kernel))
    index = np.empty_like(y, index_type)
    index[...] = _first_taps(spatial, out, kernel, strides, dilations, pads)
    for tap, source, target in _taps(spatial, out, kernel, strides, dilations, pads):
        better = x[source] > y[target]
        np.maximum(y[target], x[source], out=y[target])
        # Taps come in rising order, so the later winner is the larger number.
        np.maximum(index[target], better.view(np.uint8) * index_type.type(tap), out=index[target])
    return y, index


@_short_runs()
def pool_select(v: Array, index: Array, *, kernel: Sizes, strides: Sizes, dilations: Sizes, pads: Sizes) -> Array:
    """Entries of v at the positions that won ``max_pool``: the derivative of the maximum, applied to v.

    v: ``(*lead, *any, *spatial)``; index: ``(*any, *positions)``; result: ``(*lead, *any, *positions)``.
    """
    d = len(kernel)
    out = index.shape[-d:]
    y = np.zeros_like(v, shape=v.shape[:-d] + out)
    for tap, source, target in _taps(v.shape[-d:], out, kernel, strides, dilations, pads):
        y[target] += _masked(v[source], index[target] == tap)
    return y


@_short_runs()
def pool_scatter(
    g: Array, index: Array, input_shape: Sizes, *, kernel: Sizes, strides: Sizes, dilations: Sizes, pads: Sizes
) -> Array:
    """Adjoint of ``pool_select``: put each entry of g where the maximum came from, adding where windows overlap.

    g: ``(*lead, *any, *positions)``; index: ``(*any, *positions)``; input_shape: ``(*any, *spatial)``; result:
    ``(*lead, *any, *spatial)``.
    """
    d = len(kernel)
    spatial = tuple(input_shape[-d:])
    v = np.zeros_like(g, shape=g.shape[:-d] + spatial)
    for tap, source, target in _taps(spatial, g.shape[-d:], kernel, strides, dilations, pads):
        v[source] += _masked(g[target], index[target] == tap)
    return v


def _masked(v: Array, mask: Array) -> Array:
    """v where the mask holds, zero elsewhere; the mask broadcasts.

    Bit by bit: a product would turn infinities into nan, and ``where`` costs five times as much, on masks that no
    processor can predict.
    """
    bits = np.dtype(f"i{v.dtype.itemsize}")
    return (v.view(bits) & (-mask.view(np.int8)).astype(bits)).view(v.dtype)


@_short_runs()
def window_sum(
    x: Array, *, kernel: Sizes, strides: Sizes, dilations: Sizes, pads: Sizes, ceil_mode: bool = False
) -> Array:
    """Sum over each window, where padding counts as zero; one axis at a time.

    x: ``(*any, *spatial)``; result: ``(*any, *positions)``.
    """
    d = len(kernel)
    out = output_shape(x.shape[-d:], kernel, strides=strides, dilations=dilations, pads=pads, ceil_mode=ceil_mode)
    for i in range(d):
        last = np.moveaxis(x, i - d, -1)
        y = np.zeros_like(last, shape=(*last.shape[:-1], out[i]))
        for _, source, target in _axis_taps(last.shape[-1], out[i], kernel[i], strides[i], dilations[i], pads[i]):
            y[..., target] += last[..., source]
        x = np.moveaxis(y, -1, i - d)
    return x


@_short_runs()
def window_scatter(
    g: Array, input_shape: Sizes, *, kernel: Sizes, strides: Sizes, dilations: Sizes, pads: Sizes
) -> Array:
    """Adjoint of ``window_sum``: add each entry of g to every position of its window.

    g: ``(*any, *positions)``; input_shape: ``(*any, *spatial)``, of which the spatial axes are used; result:
    ``(*any, *spatial)``.
    """
    d = len(kernel)
    for i in range(d):
        last = np.moveaxis(g, i - d, -1)
        v = np.zeros_like(last, shape=(*last.shape[:-1], input_shape[i - d]))
        for _, source, target in _axis_taps(v.shape[-1], last.shape[-1], kernel[i], strides[i], dilations[i], pads[i]):
            v[..., source] += last[..., target]
        g = np.moveaxis(v, -1, i - d)
    return g


def _axis_taps(
    size: int, out: int, kernel: int, stride: int, dilation: int, begin: int
) -> Iterator[tuple[int, slice, slice]]:
    """For each tap that meets the axis: (tap, input entries it reads, output positions it serves), padding left out."""
    for tap in range(kernel):
        offset = tap * dilation - begin
        first = max(0, -(offset // stride))
        stop = min(out, (size - 1 - offset) // stride + 1)
        if first < stop:
            start = first * stride + offset
            yield tap, slice(start, start + (stop - first - 1) * stride + 1, stride), slice(first, stop)


def _taps(
    spatial: Sizes, out: Sizes, kernel: Sizes, strides: Sizes, dilations: Sizes, pads: Sizes
) -> Iterator[tuple[int, Index, Index]]:
    """For each tap of the window, in row-major order: (number, index of the input, index of the output)."""
    axes = [
        list(_axis_taps(spatial[i], out[i], kernel[i], strides[i], dilations[i], pads[i])) for i in range(len(kernel))
    ]
    for combination in product(*axes):
        number = 0
        for (tap, _, _), size in zip(combination, kernel, strict=True):
            number = number * size + tap
        yield number, (..., *(source for _, source, _ in combination)), (..., *(target for _, _, target in combination))


def _first_taps(spatial: Sizes, out: Sizes, kernel: Sizes, strides: Sizes, dilations: Sizes, pads: Sizes) -> Array:
    """First tap of each window that is not padding, or ``prod(kernel)`` where there is none; ``(*positions)``."""
    first = np.full(tuple(out), math.prod(kernel))
    for number, _, target in _taps(spatial, out, kernel, strides, dilations, pads):
        first[target] = np.minimum(first[target], number)
    return first


def unbroadcast(g: Array, shape: Sizes, lead: int = 0) -> Array:
    """Sum g down to ``shape``: the adjoint of broadcasting an array of that shape.

    g: ``(*lead, *full)`` with ``lead`` leading axes that are kept; result: ``(*lead, *shape)``, g itself if there is
    nothing to sum.
    """
    if g.ndim == 2 and len(shape) == 1 and lead == 0 and g.shape[1] == shape[0]:
        # A product with ones runs at BLAS speed in either memory order.
        return np.ones(len(g), g.dtype) @ g
    kept, full = g.shape[:lead], g.shape[lead:]
    extra = len(full) - len(shape)
    axes = tuple(lead + i for i, size in enumerate(full) if i < extra or (shape[i - extra] == 1 and size != 1))
    if not axes:
        return g
    return g.sum(axis=axes).reshape((*kept, *shape))


def matmul(a: Array, b: Array) -> Array:
    """a @ b, as one product when b is a single matrix.

    A plain product comes out with its rows last in memory: measured on OpenBLAS, products of thin batches are up to
    twice as fast in that layout, and entry-wise functions keep it from layer to layer.
    """
    if b.ndim == 2 and a.ndim > 2:
        return (a.reshape(-1, a.shape[-1]) @ b).reshape(*a.shape[:-1], b.shape[-1])
    return (b.T @ a.T).T if a.ndim == 2 == b.ndim else np.matmul(a, b)


def detached(value: Any) -> Any:
    """A torch tensor as an array, without its gradient graph; anything else as it is."""
    return value.detach().cpu().numpy() if hasattr(value, "detach") and hasattr(value, "cpu") else value
