"""Plots with matplotlib: each takes Axes (or makes them) and returns them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["axes", "bars", "curves"]

Array = np.ndarray[Any, Any]


def axes(ax: Axes | None = None, *, size: tuple[float, float] = (6.0, 3.8)) -> Axes:
    """The Axes given, or those of a new figure of that size in inches.

    Raises:
        MissingDependencyError: matplotlib is absent.
    """
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise MissingDependencyError("matplotlib", "plot", "plotting") from error
    made: Axes = plt.subplots(figsize=size, layout="constrained")[1]
    return made


def curves(
    lines: Mapping[str, Any],
    *,
    x: Any = None,
    band: Mapping[str, Any] | None = None,
    ax: Axes | None = None,
    **settings: Any,
) -> Axes:
    """Lines with a legend.

    Args:
        lines: label -> values, or (x, values).  Shape of each: (points,).
        x: of the lines that do not bring their own; None: 0, 1, ...
        band: label -> (low, high), drawn as a shade around that line.
        settings: of the Axes: xlabel, ylabel, xscale, yscale, title, ...
    """
    ax = axes(ax)
    for label, values in lines.items():
        across, up = values if isinstance(values, tuple) else (x, values)
        across = np.arange(len(up)) if across is None else across
        (line,) = ax.plot(across, up, label=label)
        if band is not None and label in band:
            ax.fill_between(across, *band[label], color=line.get_color(), alpha=0.2, linewidth=0)
    ax.set(**settings)
    if len(lines) > 1:
        ax.legend()
    return ax


def bars(
    values: Mapping[str, float], *, errors: Mapping[str, float] | None = None, ax: Axes | None = None, **settings: Any
) -> Axes:
    """One horizontal bar a label, from top to bottom.

    Args:
        errors: label -> half the length of its error bar.
        settings: of the Axes: xlabel, xscale, title, ...
    """
    ax = axes(ax, size=(6.0, 1.2 + 0.28 * len(values)))
    spread = None if errors is None else [errors.get(label, 0.0) for label in values]
    ax.barh(list(values), list(values.values()), xerr=spread)
    ax.invert_yaxis()
    ax.set(**settings)
    return ax
