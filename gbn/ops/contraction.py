"""Products: matrix multiplication, Gemm, and the mean of a textbook linear-Gaussian CPD."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce

import numpy as np

from gbn import arrays
from gbn.maps import Chain, Contraction, Diagonal, LinearMap, Reshape, Shape
from gbn.ops.base import Array, Maps, Varying, op, product

__all__: list[str] = []


@op("Gemm", linear=product)
def gemm(
    a: Array,
    b: Array,
    c: Array | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> tuple[Array, Maps]:
    """alpha A B + beta C, with A = aᵀ or a, B = bᵀ or b; ``a`` may have more than two axes."""
    left = a.swapaxes(-1, -2) if transA else a
    right = b.swapaxes(-1, -2) if transB else b
    y = arrays.matmul(left, right)
    if alpha != 1.0:
        y, left, right = y * alpha, left * alpha, right * alpha
    shape = y.shape
    maps = (
        lambda: Contraction(right, "left", a.shape, shape, bool(transA)),
        lambda: Contraction(left, "right", b.shape, shape, bool(transB)),
    )
    if c is None:
        return y, maps
    y += c if beta == 1.0 else beta * c
    return y, (*maps, lambda: Diagonal(float(beta), c.shape, shape))


@op("MatMul", linear=product)
def matmul(a: Array, b: Array) -> tuple[Array, Maps]:
    """a b as ``np.matmul`` defines it: batches broadcast, vectors are rows or columns."""
    left = a[None] if a.ndim == 1 else a
    right = b[:, None] if b.ndim == 1 else b
    y = np.matmul(a, b)
    full = (*np.broadcast_shapes(left.shape[:-2], right.shape[:-2]), left.shape[-2], right.shape[-1])

    def padded(x: Array, matrix: Array, inner: LinearMap) -> LinearMap:
        """Around the matrix product, the axes that a vector has not."""
        before = [Reshape(x.shape, matrix.shape)] if x.ndim == 1 else []
        after = [Reshape(full, y.shape)] if y.shape != full else []
        return Chain((*before, inner, *after)) if before or after else inner

    return y, (
        lambda: padded(a, left, Contraction(right, "left", left.shape, full)),
        lambda: padded(b, right, Contraction(left, "right", right.shape, full)),
    )


def _one_of_each_pair(varying: Varying) -> bool:
    return not any(u and w for u, w in zip(varying[0::2], varying[1::2], strict=False))


@op("Linear", linear=_one_of_each_pair)
def linear(*terms: Array, shape: Sequence[int] | None = None) -> tuple[Array, Maps]:
    """Σ_p W_p vec(u_p) + b.  Inputs: u_1, W_1, u_2, W_2, ..., and b where their number is odd.

    u_p shape: (samples, *event_p); W_p: (out, prod(event_p)); b: (out,).  ``shape``: the event shape of the result,
    where it is not (out,).
    """
    parents, weights = terms[0 : len(terms) - 1 : 2], terms[1::2]
    bias = terms[-1] if len(terms) % 2 else None
    rows = [u if u.ndim == 2 else u.reshape(len(u), -1) for u in parents]
    products = [arrays.matmul(u, w.T) for u, w in zip(rows, weights, strict=True)]
    y = reduce(np.add, products if bias is None else [*products, bias] if products else [bias[None]])
    flat = y.shape
    y = y if shape is None else y.reshape(len(y), *shape)
    maps: list[Callable[[], LinearMap]] = []
    for u, row, w in zip(parents, rows, weights, strict=True):
        maps.append(partial(_of_input, w, u.shape, row.shape, flat, y.shape))
        maps.append(partial(_of_weight, row, w.shape, flat, y.shape))
    if bias is not None:
        maps.append(partial(_of_bias, bias.shape, flat, y.shape))
    return y, tuple(maps)


def _of_input(weight: Array, given: Shape, row: Shape, flat: Shape, shape: Shape) -> LinearMap:
    return _around(given, Contraction(weight.T, "left", row, flat), shape)


def _of_weight(row: Array, weight: Shape, flat: Shape, shape: Shape) -> LinearMap:
    return _around(weight, Contraction(row, "right", weight, flat, transposed=True), shape)


def _of_bias(bias: Shape, flat: Shape, shape: Shape) -> LinearMap:
    return _around(bias, Diagonal(1.0, bias, flat), shape)


def _around(before: Shape, inner: LinearMap, after: Shape) -> LinearMap:
    """A map with its input and output flattened where they are not flat."""
    first = [] if before == inner.in_shape else [Reshape(before, inner.in_shape)]
    last = [] if after == inner.out_shape else [Reshape(inner.out_shape, after)]
    return Chain((*first, inner, *last)) if first or last else inner
