"""Einstein sums over any number of operands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gbn.maps import Chain, Einsum, LinearMap, Reshape, Shape
from gbn.ops.base import Array, Maps, Varying, op

__all__ = ["Equation", "read"]

Labels = tuple[int, ...]
_TERM = re.compile(r"([A-Za-z]*)(\.\.\.)?([A-Za-z]*)")


@dataclass(frozen=True)
class Equation:
    """An equation with its axes labelled by numbers.

    shapes: of the operands, without the axes of size 1 that an ellipsis broadcasts; terms: their labels.
    """

    shapes: tuple[Shape, ...]
    terms: tuple[Labels, ...]
    result: Labels
    sizes: dict[int, int]

    @property
    def out_shape(self) -> Shape:
        """Shape of the result."""
        return tuple(self.sizes[label] for label in self.result)


def read(equation: str, shapes: Sequence[Shape]) -> Equation:
    """An equation for operands of these shapes.

    Raises:
        ValueError: it does not fit them, or repeats an index within a term (a diagonal).
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    texts = left.split(",")
    if len(texts) != len(shapes):
        raise ValueError(f"equation {equation!r} has {len(texts)} terms for {len(shapes)} operands")
    names = [_names(text, len(shape), equation) for text, shape in zip(texts, shapes, strict=True)]
    widest = max((sum(name.isdigit() for name in each) for each in names), default=0)
    if arrow:
        wanted = _names(right, widest + sum(map(str.isalpha, right)) if "..." in right else len(right), equation)
    else:
        letters = [name for each in names for name in each if name.isalpha()]
        wanted = [str(k) for k in reversed(range(widest))]
        wanted += sorted(name for name in set(letters) if letters.count(name) == 1)
    sizes: dict[str, int] = {}
    for each, shape in zip(names, shapes, strict=True):
        for name, size in zip(each, shape, strict=True):
            known = sizes.setdefault(name, size)
            if name.isdigit() and 1 in (known, size):
                sizes[name] = max(known, size) if 0 not in (known, size) else 0
            elif known != size:
                raise ValueError(f"equation {equation!r}: index {name!r} has sizes {known} and {size}")
    unknown = [name for name in wanted if name not in sizes]
    if unknown:
        raise ValueError(f"equation {equation!r}: index {unknown[0]!r} of the result is in no term")
    number = {name: label for label, name in enumerate(sizes)}
    kept = [
        [(number[name], size) for name, size in zip(each, shape, strict=True) if size == sizes[name]]
        for each, shape in zip(names, shapes, strict=True)
    ]
    return Equation(
        tuple(tuple(size for _, size in each) for each in kept),
        tuple(tuple(label for label, _ in each) for each in kept),
        tuple(number[name] for name in wanted),
        {number[name]: size for name, size in sizes.items()},
    )


def _names(text: str, axes: int, equation: str) -> list[str]:
    """The indices of a term: letters, and for an ellipsis the number of each axis counted from its last."""
    match = _TERM.fullmatch(text)
    if match is None:
        raise ValueError(f"equation {equation!r}: {text!r} is no term of letters and at most one ellipsis")
    before, dots, after = match.groups()
    between = axes - len(before) - len(after)
    if between < 0 or (between and not dots):
        raise ValueError(f"equation {equation!r}: the term {text!r} does not fit an operand of {axes} axes")
    names = [*before, *(str(k) for k in reversed(range(between))), *after]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"equation {equation!r} takes a diagonal, index {twice[0]!r} of the term {text!r}: not taken")
    return names


def _one_operand(varying: Varying) -> bool:
    return sum(varying) <= 1


@op("Einsum", linear=_one_operand)
def einsum(*operands: Array, equation: str) -> tuple[Array, Maps]:
    """Σ over the indices that the result has not of the product of the operands, as ``np.einsum``; no diagonals."""
    read_as = read(equation, [x.shape for x in operands])
    factors = [x.reshape(shape) for x, shape in zip(operands, read_as.shapes, strict=True)]
    y = np.asarray(_sum(list(zip(factors, read_as.terms, strict=True)), read_as.result))
    return y, tuple((lambda k=k: _map(operands[k].shape, factors, read_as, k)) for k in range(len(operands)))


Operands = list[tuple[Array, Labels]]


def _sum(operands: Operands, result: Labels) -> Array:
    arguments: list[Any] = [part for pair in operands for part in pair]
    return np.einsum(*arguments, result, optimize=len(operands) > 1)


def _map(shape: Shape, factors: Sequence[Array], equation: Equation, position: int) -> LinearMap:
    """The map of one operand, the others fixed."""
    own = equation.terms[position]
    others = [(x, labels) for k, (x, labels) in enumerate(zip(factors, equation.terms, strict=True)) if k != position]
    fixed = _contracted(others, {*own, *equation.result})
    inner = Einsum(
        equation.shapes[position],
        equation.out_shape,
        own,
        equation.result,
        tuple(x for x, _ in fixed),
        tuple(labels for _, labels in fixed),
    )
    return inner if shape == inner.in_shape else Chain((Reshape(shape, inner.in_shape), inner))


def _contracted(operands: Operands, outer: set[int]) -> Operands:
    """Operands joined where they share an index that is not an outer one, with that summed over."""
    groups: list[Operands] = []
    for operand in operands:
        inner = set(operand[1]) - outer
        met = [group for group in groups if any(inner & set(labels) for _, labels in group)]
        groups = [group for group in groups if group not in met]
        groups.append([operand, *(each for group in met for each in group)])
    out: Operands = []
    for group in groups:
        labels = tuple(dict.fromkeys(label for _, labels in group for label in labels if label in outer))
        summed = any(label not in outer for _, each in group for label in each)
        out += [(_sum(group, labels), labels)] if summed else group
    return out
