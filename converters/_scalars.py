"""What converters of graphs over scalar variables share: the order of the nodes, and numbers checked one by one."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

from gbn.errors import ConversionError

if TYPE_CHECKING:
    import networkx

__all__ = ["number", "ordered", "square"]


def ordered(graph: networkx.DiGraph) -> list[str]:
    """The nodes, parents first.

    Raises:
        ConversionError: a node that is not a string, or a cycle, by name.
    """
    import networkx

    for node in graph:
        if not isinstance(node, str):
            raise ConversionError(
                f"node {node!r}: got a name of type {type(node).__name__}, expected a string; vertices are named by "
                "strings, so rename the nodes"
            )
    try:
        return list(networkx.topological_sort(graph))
    except networkx.NetworkXUnfeasible:
        cycle = networkx.find_cycle(graph)
        path = " -> ".join(repr(node) for node in [*(edge[0] for edge in cycle), cycle[-1][1]])
        raise ConversionError(f"got the cycle {path}, expected a graph without cycles; remove an edge of it") from None


def number(value: Any, what: str) -> float:
    """A finite number; numpy's scalars and arrays of one entry count.

    Raises:
        ConversionError: anything else.
    """
    try:
        found = float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError):
        raise ConversionError(f"{what}: got {value!r}, expected a number") from None
    if not math.isfinite(found):
        raise ConversionError(f"{what}: got {found}, expected a finite number")
    return found


def square(std: float, what: str) -> float | None:
    """The variance of a standard deviation; None for 0.

    Raises:
        ConversionError: negative, or its square is no normal float, so that the root of that would be another number.
    """
    if std == 0:
        return None
    variance = std * std
    if std < 0 or not sys.float_info.min <= variance <= sys.float_info.max:
        raise ConversionError(f"{what}: got {std}, expected 0 or a positive number whose square floats can hold")
    return variance
