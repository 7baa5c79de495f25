"""What the converters' tables have in common: rules under names, and names for the steps of a layer."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import TypeVar

__all__ = ["Table", "part_name"]

R = TypeVar("R")


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
