"""Oracles for people who add an op or a map: run them on a few inputs, and they name what is wrong.

They raise ``AssertionError`` and need no test framework::

    from gbn.testing import check_op

    check_op("Softmax", [np.random.default_rng(0).normal(size=(3, 5))], {"axis": 1})

Everything is compared with the op's value alone, by differences, or with dense matrices built column by column: keep
the inputs small, tens of entries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gbn import ops
from gbn.maps import LinearMap

__all__ = ["check_map", "check_op"]

Array = np.ndarray[Any, Any]

# What an exact identity may lose to rounding, relative to the largest figure involved.
_EXACT = {np.dtype(np.float64): 1e-12, np.dtype(np.float32): 1e-4}
# Cube root of the rounding error, where truncation and rounding of central differences balance.
_STEP = 6e-6
_LEADS = ((), (2,), (3, 2))


def check_op(
    op: str | ops.Op,
    inputs: Sequence[Array],
    attributes: Mapping[str, Any] | None = None,
    *,
    rtol: float = 1e-6,
    rng: np.random.Generator | None = None,
) -> None:
    """Check the maps of an op against its value, for every floating-point input that has a map.

    Verified: shapes; push against central differences of the value, in float64; all that :func:`check_map` verifies;
    that float32 inputs give float32 everywhere, and the same value within rounding; that inputs are left as they are;
    that read-only and non-contiguous inputs give the same.

    Args:
        op: its name, or the op itself.
        inputs: its arrays, away from kinks of the op and from the ends of its domain, by 1e-4 or more.
        attributes: its attributes.
        rtol: what differences may miss, relative to the largest entry of the directional derivative.
        rng: the source of random directions; a fixed one if not given.

    Raises:
        AssertionError: naming the op, the position of the input, and the figures.
        UnknownNameError: there is no op of that name.
    """
    entry = ops.get(op) if isinstance(op, str) else op
    rng = _directions(rng)
    attributes = dict(attributes or {})
    arrays = [_wide(x) for x in inputs]
    value, maps = _apply(entry, arrays, attributes)
    _require(len(maps) == len(arrays), entry.name, f"returned {len(maps)} maps for {len(arrays)} inputs")
    for position, linear_map in _maps(arrays, maps):
        where = f"{entry.name}, input {position}"
        _check_shapes(linear_map, arrays[position].shape, np.shape(value), where)
        check_map(linear_map, name=where, rng=rng)

        def shifted(v: Array, position: int = position) -> Array:
            moved = [*arrays[:position], arrays[position] + v, *arrays[position + 1 :]]
            return _apply(entry, moved, attributes)[0]

        _check_differences(shifted, linear_map, value, rtol, where, rng)
    _check_layouts(entry, arrays, attributes, value, maps, rng)
    _check_single_precision(entry, arrays, attributes, value, rng)


def check_map(
    linear_map: LinearMap, *, name: str = "map", dtype: Any = np.float64, rng: np.random.Generator | None = None
) -> None:
    """Check that a map is linear and consistent with itself.

    Verified, with none, one and two leading axes: shapes, dtype and linearity of push and pull; <push v, g> =
    <v, pull g>; ``squared()`` against the squares of ``dense()``, both ways; ``blocks()`` against the blocks of
    ``dense()``, where both sides carry the samples on axis 0 and these do not mix; that arguments are left as they
    are, and may be read-only or non-contiguous.

    Raises:
        AssertionError: naming the map and the figures.
    """
    rng = _directions(rng)
    dtype = np.dtype(dtype)
    sides = ((linear_map.push, "push", *_sides(linear_map)), (linear_map.pull, "pull", *_sides(linear_map)[::-1]))
    for apply, verb, source, target in sides:
        _check_linear(apply, source, target, dtype, f"{name}: {verb}", rng)
    _check_adjoint(linear_map, dtype, name, rng)
    matrix = linear_map.dense(dtype)
    _require(
        matrix.shape == (math.prod(linear_map.out_shape), math.prod(linear_map.in_shape)),
        name,
        f"dense() has shape {matrix.shape}",
    )
    squared = linear_map.squared()
    _check_shapes(squared, linear_map.in_shape, linear_map.out_shape, f"{name}: squared()")
    _check_adjoint(squared, dtype, f"{name}: squared()", rng)
    _check_close(squared.dense(dtype), matrix**2, _EXACT[dtype], f"{name}: squared() against the squares of dense()")
    _check_blocks(linear_map, matrix, dtype, name)


def _directions(rng: np.random.Generator | None) -> np.random.Generator:
    """A stream of its own: with that of the inputs, a direction could be the input, which some maps send to zero."""
    return (np.random.default_rng(0) if rng is None else rng).spawn(1)[0]


def _require(condition: bool, where: str, message: str) -> None:
    if not condition:
        raise AssertionError(f"{where}: {message}")


def _wide(x: Array) -> Array:
    """A writeable copy, in double precision where it is floating-point."""
    x = np.asarray(x)
    return np.array(x, dtype=np.float64 if np.issubdtype(x.dtype, np.floating) else x.dtype)


def _sides(linear_map: LinearMap) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return linear_map.in_shape, linear_map.out_shape


def _maps(arrays: Sequence[Array], maps: ops.Maps) -> Iterator[tuple[int, LinearMap]]:
    for position, (x, make) in enumerate(zip(arrays, maps, strict=True)):
        if make is not None and np.issubdtype(x.dtype, np.floating):
            yield position, make()


def _apply(entry: ops.Op, arrays: Sequence[Array], attributes: dict[str, Any]) -> tuple[Array, ops.Maps]:
    """Value and maps; the maps are made, too, before it is verified that the inputs are as they were."""
    before = [x.copy() for x in arrays]
    value, maps = entry(*arrays, **attributes)
    for _ in _maps(arrays, maps[: len(arrays)]) if len(maps) == len(arrays) else ():
        pass
    for position, (x, old) in enumerate(zip(arrays, before, strict=True)):
        _require(np.array_equal(x, old, equal_nan=True), f"{entry.name}, input {position}", "was changed in place")
    return value, maps


def _check_shapes(linear_map: LinearMap, in_shape: tuple[int, ...], out_shape: tuple[int, ...], where: str) -> None:
    got, expected = _sides(linear_map), (tuple(in_shape), tuple(out_shape))
    _require(got == expected, where, f"the map goes from {got[0]} to {got[1]}, expected {expected[0]} to {expected[1]}")


def _check_close(got: Array, expected: Array, rtol: float, what: str, atol: float = 0.0) -> None:
    """Entries differ by no more than rtol times the largest expected entry, plus atol."""
    _require(np.shape(got) == np.shape(expected), what, f"got shape {np.shape(got)}, expected {np.shape(expected)}")
    if not np.size(expected):
        return
    gap, scale = np.abs(got - expected), np.abs(expected).max()
    worst = np.unravel_index(np.argmax(np.where(np.isnan(gap), np.inf, gap)), gap.shape)
    _require(
        bool(gap[worst] <= rtol * scale + atol),
        what,
        f"at {tuple(map(int, worst))} got {got[worst]:.10g}, expected {expected[worst]:.10g}; "
        f"they differ by {gap[worst]:.3g}, allowed are {rtol * scale + atol:.3g}",
    )


def _check_linear(
    apply: Callable[[Array], Array],
    source: tuple[int, ...],
    target: tuple[int, ...],
    dtype: np.dtype[Any],
    where: str,
    rng: np.random.Generator,
) -> None:
    """Shape, dtype and linearity; leading axes are carried along; the argument's memory does not matter."""
    for lead in _LEADS:
        u, w = (rng.standard_normal((*lead, *source)).astype(dtype) for _ in range(2))
        before = u.copy()
        got = apply(u)
        _require(np.array_equal(u, before), where, "changed its argument in place")
        _require(np.shape(got) == (*lead, *target), where, f"of {u.shape} has shape {np.shape(got)}")
        _require(got.dtype == dtype, where, f"of {dtype} is {got.dtype}")
        double, triple = 2 * got, 3 * apply(w)
        # Where the two nearly cancel, rounding is that of the terms.
        rounding = _EXACT[dtype] * float(np.abs(double).max(initial=0) + np.abs(triple).max(initial=0))
        _check_close(apply(2 * u - 3 * w), double - triple, _EXACT[dtype], f"{where} is not linear", rounding)
        _check_close(apply(_read_only(_strided(u))), got, _EXACT[dtype], f"{where} of a non-contiguous array")
        each = [apply(u[index]) for index in np.ndindex(*lead)]
        _check_close(got, np.reshape(each, got.shape), _EXACT[dtype], f"{where} with leading axes {lead}")


def _check_adjoint(linear_map: LinearMap, dtype: np.dtype[Any], where: str, rng: np.random.Generator) -> None:
    """<push v, g> = <v, pull g>, relative to the sum of the terms' magnitudes."""
    for lead in _LEADS:
        v = rng.standard_normal((*lead, *linear_map.in_shape)).astype(dtype)
        g = rng.standard_normal((*lead, *linear_map.out_shape)).astype(dtype)
        forth, back = linear_map.push(v) * g, v * linear_map.pull(g)
        gap, scale = abs(float(forth.sum()) - float(back.sum())), float(np.abs(forth).sum() + np.abs(back).sum())
        _require(
            gap <= _EXACT[dtype] * scale,
            where,
            f"with leading axes {lead}, <push v, g> = {forth.sum():.15g} and <v, pull g> = {back.sum():.15g}",
        )


def _check_blocks(linear_map: LinearMap, matrix: Array, dtype: np.dtype[Any], name: str) -> None:
    (samples, *_), (rows, *_) = (*linear_map.in_shape, 0), (*linear_map.out_shape, 0)
    if not samples or rows != samples:
        return
    by_sample = matrix.reshape(samples, matrix.shape[0] // samples, samples, matrix.shape[1] // samples)
    own = np.stack([by_sample[n, :, n] for n in range(samples)])
    if np.count_nonzero(by_sample) != np.count_nonzero(own):
        return
    blocks = linear_map.blocks(dtype)
    expected = f"{(1, *own.shape[1:])} or {own.shape}"
    fits = blocks.ndim == 3 and blocks.shape[1:] == own.shape[1:] and len(blocks) in (1, samples)
    _require(fits, name, f"blocks() has shape {blocks.shape}, expected {expected}")
    _require(blocks.dtype == dtype, name, f"blocks({dtype}) is {blocks.dtype}")
    _check_close(np.broadcast_to(blocks, own.shape), own, _EXACT[dtype], f"{name}: blocks() against dense()")


def _check_differences(
    shifted: Callable[[Array], Array],
    linear_map: LinearMap,
    value: Array,
    rtol: float,
    where: str,
    rng: np.random.Generator,
) -> None:
    """push against central differences along random directions of largest entry below one."""
    for _ in range(2):
        v = rng.uniform(-1, 1, linear_map.in_shape)
        differences = (shifted(_STEP * v) - shifted(-_STEP * v)) / (2 * _STEP)
        rounding = 10 * np.finfo(np.float64).eps * float(np.abs(value).max(initial=0.0)) / _STEP
        _check_close(linear_map.push(v), differences, rtol, f"{where}: push against central differences", rounding)


def _check_layouts(
    entry: ops.Op,
    arrays: Sequence[Array],
    attributes: dict[str, Any],
    value: Array,
    maps: ops.Maps,
    rng: np.random.Generator,
) -> None:
    """Read-only inputs, and inputs in another memory order, give the same value and the same pulls."""
    layouts = {"read-only": _read_only, "non-contiguous": lambda x: _read_only(_strided(x))}
    for layout, arrange in layouts.items():
        arranged = [arrange(x) for x in arrays]
        other, other_maps = _apply(entry, arranged, attributes)
        _check_close(other, value, 1e-12, f"{entry.name}: value of {layout} inputs")
        g = rng.standard_normal(np.shape(value))
        pairs = zip(_maps(arrays, maps), _maps(arranged, other_maps), strict=True)
        for (position, expected), (_, got) in pairs:
            what = f"{entry.name}, input {position}: pull after {layout} inputs"
            _check_close(got.pull(g), expected.pull(g), 1e-12, what)


def _check_single_precision(
    entry: ops.Op, arrays: Sequence[Array], attributes: dict[str, Any], value: Array, rng: np.random.Generator
) -> None:
    """float32 in, float32 out: the value, push and pull, of the maps and of their squares."""
    single = np.dtype(np.float32)
    narrow = [x.astype(single) if np.issubdtype(x.dtype, np.floating) else x for x in arrays]
    got, maps = _apply(entry, narrow, attributes)
    _require(got.dtype == single, entry.name, f"value of float32 inputs is {got.dtype}")
    _check_close(got, value, 1e-3, f"{entry.name}: value in float32")
    for position, linear_map in _maps(narrow, maps):
        v = rng.standard_normal(linear_map.in_shape).astype(single)
        g = rng.standard_normal(linear_map.out_shape).astype(single)
        for kind, each in (("", linear_map), (" of squared()", linear_map.squared())):
            for verb, result in (("push", each.push(v)), ("pull", each.pull(g))):
                where = f"{entry.name}, input {position}"
                _require(result.dtype == single, where, f"{verb}{kind} of float32 is {result.dtype}")


def _read_only(x: Array) -> Array:
    view = x.view()
    view.flags.writeable = False
    return view


def _strided(x: Array) -> Array:
    """The same entries with gaps between them and the axes in reverse order in memory."""
    memory = np.zeros(tuple(2 * size for size in reversed(x.shape)), x.dtype)
    every_other: tuple[Any, ...] = (..., *(slice(None, None, 2),) * x.ndim)
    view = memory[every_other].transpose()
    view[...] = x
    return view
