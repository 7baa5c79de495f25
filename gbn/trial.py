"""What an op makes of its parents, found out by trying it on a few numbers before it becomes a vertex."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from gbn import ops
from gbn.errors import GraphError
from gbn.vertex import Array, Shape, Vertex

__all__ = ["tried"]

_SMALL = 1 << 20


def tried(
    name: str, entry: ops.Op, vertices: Sequence[Vertex], attributes: Mapping[str, Any], dtype: np.dtype[Any]
) -> tuple[Shape, bool]:
    """Event shape of an op's result and whether it is per sample, by a run on two samples and on one.

    The first of two samples must come out as it does alone: an op that mixes samples or moves their axis fails.

    Args:
        name: of the vertex to be, for messages.
        vertices: its parents.

    Raises:
        GraphError: the op does not take them, or mixes samples.
    """
    plated = any(vertex.plated for vertex in vertices)
    two = [
        _trial(k, (2, *v.shape) if v.plated else v.shape, dtype) if v.value is None or v.plated else v.value
        for k, v in enumerate(vertices)
    ]
    one = [value[:1] if v.plated else value for value, v in zip(two, vertices, strict=True)]
    try:
        with np.errstate(all="ignore"):
            pair = entry(*two, **attributes)[0]
            single = entry(*one, **attributes)[0] if plated else pair
    except (ValueError, IndexError, TypeError, ArithmeticError) as error:
        shapes = ", ".join(f"{v.name!r} {('N, ' if v.plated else '')!s}{v.shape}" for v in vertices)
        raise GraphError(f"{name!r}: {entry.name} does not take its parents ({shapes}): {error}") from None
    if entry.name == "Linear" and any(not vertex.plated for vertex in vertices[: len(vertices) - 1 : 2]):
        raise GraphError(f"{name!r}: parents of a linear CPD have a value per sample; use MatMul between weights")
    if not plated:
        # Linear without parents has a row axis already: its vertex is a root with a value per sample.
        return (pair.shape[1:], True) if entry.name == "Linear" else (pair.shape, False)
    fits = pair.ndim > 0 and pair.shape[0] == 2 and single.shape == (1, *pair.shape[1:])
    if not fits or not _alike(pair[:1], single):
        raise GraphError(
            f"{name!r}: {entry.name} moves the sample axis or mixes samples (two samples give shape {pair.shape}, "
            f"one gives {single.shape}); every vertex must keep its samples on axis 0, independent of one another"
        )
    return pair.shape[1:], True


def _trial(seed: int, shape: Shape, dtype: np.dtype[Any]) -> Array:
    """Numbers to try an op on; what is small is kept, for a deep net asks for the same again and again."""
    return (_small_trial if math.prod(shape) < _SMALL else _new_trial)(seed, shape, dtype)


def _new_trial(seed: int, shape: Shape, dtype: np.dtype[Any]) -> Array:
    values: Array = np.random.default_rng(seed).uniform(0.25, 1.0, shape).astype(dtype)
    values.flags.writeable = False
    return values


_small_trial = lru_cache(maxsize=32)(_new_trial)


def _alike(a: Array, b: Array) -> bool:
    """np.allclose at single precision, NaN equal to NaN, without its overhead where all is plain."""
    with np.errstate(invalid="ignore", over="ignore"):
        if (np.abs(a - b) < 1e-5 + 1e-3 * np.abs(b)).all():
            return True
    return np.allclose(a, b, rtol=1e-3, atol=1e-5, equal_nan=True)
