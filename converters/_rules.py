"""What the converters' tables have in common: rules under names, names for parts of a layer, steps of a sequence."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator
from typing import TypeVar

__all__ = ["Table", "in_blocks", "part_name"]

R = TypeVar("R")
X = TypeVar("X")
_SHORT = 16


class Table(dict[str, R]):
    """Rules by the names of what they convert."""

    def rule(self, *names: str) -> Callable[[R], R]:
        """Enter a function under names."""

        def enter(function: R) -> R:
            self.update(dict.fromkeys(names, function))
            return function

        return enter


def part_name(name: str, part: str, taken: Container[str]) -> str:
    """The vertex of a part of a layer, or without one, of the layer; a part gives way to what has its name already."""
    if not part:
        return name
    found = f"{name}.{part}"
    while found in taken:
        found += "_"
    return found


def in_blocks(x: X, steps: int, cut: Callable[[X, int, int], X]) -> Iterator[tuple[X, int]]:
    """Each step of a sequence as a place in a tensor: in the sequence, or where it is long, in a block of it.

    A message to a part of a tensor costs as much as the whole tensor, so that steps cut from a sequence of T would cost
    T²; from blocks of √T steps they cost T √T.

    Args:
        cut: the sequence, first step, and the one after the last -> the block.
    """
    size = steps if steps <= _SHORT else math.isqrt(steps)
    block = x
    for step in range(steps):
        place = step % size
        if place == 0 and size < steps:
            block = cut(x, step, min(step + size, steps))
        yield block, place
