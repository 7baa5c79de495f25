"""Many symmetric positive semi-definite systems at once, known by their products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["conjugate_gradients"]

Array = np.ndarray[Any, Any]
_TOLERANCE = 1e-12


def conjugate_gradients(
    product: Callable[[Array], Array], right: Array, resolution: float
) -> tuple[Array, Array, Array]:
    """Solve S u = right, every row on its own.  Hestenes & Stiefel (1952), with all rows in one product.

    Returns:
        u; the residual of each row, relative to its right side; and whether a direction was met along which S is zero,
        to ``resolution`` of its largest: shape (*lead, samples).  A row stops there, for none is left that would help.
    """
    u, residual = np.zeros_like(right), right.copy()
    direction = residual.copy()
    square = (residual * residual).sum(axis=-1, keepdims=True)
    start, goal = square, square * _TOLERANCE**2
    steepest, flat = np.zeros_like(square), np.zeros(square.shape, bool)
    for _ in range(10 * right.shape[-1]):
        active = (square > goal) & ~flat
        if not active.any():
            break
        image = product(direction)
        curvature = (direction * image).sum(axis=-1, keepdims=True)
        length = (direction * direction).sum(axis=-1, keepdims=True)
        steepest = np.maximum(steepest, curvature / np.where(length > 0, length, 1))
        flat |= active & (curvature <= resolution * steepest * length)
        active &= ~flat
        step = np.where(active, square / np.where(active, curvature, 1), 0)
        u += step * direction
        residual -= step * image
        before, square = square, (residual * residual).sum(axis=-1, keepdims=True)
        direction = residual + np.where(active, square / np.where(before > 0, before, 1), 0) * direction
    gap = np.sqrt(square / np.where(start > 0, start, 1))[..., 0]
    return u, gap, flat[..., 0]
