"""Small pictures of a Gaussian, before and after: curves, intervals, heat maps, bars."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gbn.display.html.drawing import Panel
from gbn.display.html.image import Limits, data_uri, limits_of
from gbn.display.html.markup import Markup

__all__ = ["Belief", "belief_panel", "probability_panel"]

Array = np.ndarray[Any, Any]
_CURVES, _INTERVALS, _BARS = 3, 24, 40
# Heat maps: sides of a picture in pixels, at most so many values a side, and channels that are shown.
_SIDE, _CELLS, _CHANNELS = 54.0, 56, 16
_APART = 3.0
_WIDTH, _HEIGHT, _CAPTION = 104.0, 30.0, 54.0


@dataclass(frozen=True)
class Belief:
    """Mean and standard deviation of each entry of a vertex, in one sample.

    mean, std: shape: the event's; std is None where it is not known.
    observed: where the entry is given.
    """

    mean: Array
    std: Array | None
    observed: Array


def belief_panel(prior: Belief | None, posterior: Belief) -> Panel:
    """A few entries as densities, more as intervals of two standard deviations, many as heat maps."""
    size = posterior.mean.size
    if size <= _CURVES:
        return _curves(prior, posterior)
    return _intervals(prior, posterior) if size <= _INTERVALS else _heat_maps(prior, posterior)


def probability_panel(prior: Array | None, posterior: Array) -> Panel:
    """Probabilities of classes as bars, from 0 to 1; those before as lines across.  Shapes: (classes,)."""
    after = posterior.reshape(-1)[:_BARS]
    before = None if prior is None or prior.size != posterior.size else prior.reshape(-1)[:_BARS]
    step = max(min(10.0, _WIDTH / max(after.size, 1)), 2.5)
    parts = [_line(0, _HEIGHT, step * after.size, _HEIGHT, "axis")]
    for k, share in enumerate(np.clip(np.nan_to_num(after), 0, 1)):
        tall = float(share) * (_HEIGHT - 1)
        parts.append(
            f'<rect x="{k * step + 0.15 * step:.1f}" y="{_HEIGHT - tall:.1f}" width="{0.7 * step:.1f}" '
            f'height="{tall:.1f}" class="gbn-after" stroke="none"/>'
        )
    if before is not None:
        for k, share in enumerate(np.clip(np.nan_to_num(before), 0, 1)):
            y = _HEIGHT - float(share) * (_HEIGHT - 1)
            parts.append(_line(k * step, y, (k + 1) * step, y, "before"))
    return Panel(Markup("".join(parts)), step * after.size, _HEIGHT)


def _curves(prior: Belief | None, posterior: Belief) -> Panel:
    """The density of each entry, prior dashed and posterior filled; an observed value is a line."""
    rows = []
    for k in range(posterior.mean.size):
        rows.append(f'<g transform="translate(0 {k * (_HEIGHT + 2):g})">{_density_row(prior, posterior, k)}</g>')
    return Panel(Markup("".join(rows)), _WIDTH, posterior.mean.size * (_HEIGHT + 2))


def _density_row(prior: Belief | None, posterior: Belief, k: int) -> str:
    known = [belief for belief in (prior, posterior) if belief is not None]
    centres = [(_at(b.mean, k), _at(b.std, k)) for b in known]
    low, high = _window([(m - 3 * s, m + 3 * s) for m, s in centres])
    tallest = max((1 / s for _, s in centres if s > 0), default=1.0)
    parts = [_line(0, _HEIGHT, _WIDTH, _HEIGHT, "axis")]
    for belief, (mean, std) in zip(known, centres, strict=True):
        css = "after" if belief is posterior else "before"
        if std > 0:
            parts.append(_bell(mean, std, low, high, tallest, css))
        else:
            x = _WIDTH * (mean - low) / (high - low)
            parts.append(_line(x, 2, x, _HEIGHT, css, 2.0 if css == "after" else 1.2))
    return "".join(parts)


def _bell(mean: float, std: float, low: float, high: float, tallest: float, css: str) -> str:
    """A density; heights are its square root's share, or a narrow posterior would leave nothing of a wide prior."""
    x = np.linspace(low, high, 49)
    # The peak is on the grid, however narrow it is.
    x = np.unique(np.concatenate([x, mean + std * np.linspace(-3, 3, 25)]))
    x = x[(x >= low) & (x <= high)]
    share = np.sqrt(np.exp(-0.5 * ((x - mean) / std) ** 2) / std / tallest)
    points = " ".join(
        f"{_WIDTH * (a - low) / (high - low):.1f},{_HEIGHT - (_HEIGHT - 2) * s:.1f}"
        for a, s in zip(x, share, strict=True)
    )
    fill = ' fill-opacity="0.25"' if css == "after" else ' fill="none"'
    return f'<polyline points="{points}" class="gbn-{css}"{fill}/>'


def _intervals(prior: Belief | None, posterior: Belief) -> Panel:
    """Each entry as a column: two standard deviations about its mean, prior dashed, posterior solid."""
    size = posterior.mean.size
    step = max(_WIDTH / size, 6.0)
    known = [belief for belief in (prior, posterior) if belief is not None]
    ends = [
        (_at(b.mean, k) - 2 * _at(b.std, k), _at(b.mean, k) + 2 * _at(b.std, k)) for b in known for k in range(size)
    ]
    low, high = _window(ends)
    tall = 1.5 * _HEIGHT

    def y(value: float) -> float:
        return 2 + (tall - 4) * (high - value) / (high - low)

    parts = [_line(0, y(0.0), step * size, y(0.0), "axis")] if low < 0 < high else []
    for k in range(size):
        for belief in known:
            css, shift = ("after", 0.6) if belief is posterior else ("before", 0.3)
            x, mean, std = (k + shift) * step, _at(belief.mean, k), _at(belief.std, k)
            if std > 0:
                parts.append(_line(x, y(mean - 2 * std), x, y(mean + 2 * std), css, 1.6))
            radius = 1.9 if belief is posterior else 1.2
            parts.append(f'<circle cx="{x:.1f}" cy="{y(mean):.1f}" r="{radius}" class="gbn-{css}"/>')
    return Panel(Markup("".join(parts)), step * size, tall)


def _heat_maps(prior: Belief | None, posterior: Belief) -> Panel:
    """Prior mean, posterior mean and standard deviation as pictures of one scale each."""
    means = _as_image(posterior.mean)
    before = None if prior is None else _as_image(np.broadcast_to(prior.mean, posterior.mean.shape))
    both = means if before is None else np.concatenate([means.reshape(-1), before.reshape(-1)])
    shown = both[np.isfinite(both)]
    # A mean image that dips below zero in places is still an image.
    diverging = bool(shown.min(initial=0.0) < -0.1 * shown.max(initial=0.0))
    limits = limits_of(both, diverging)
    maps: list[tuple[str, Array, Limits, bool]] = []
    if before is not None:
        maps.append(("prior", before, limits, diverging))
    maps.append(("mean" if before is None else "posterior", means, limits, diverging))
    if posterior.std is not None:
        std = _as_image(posterior.std)
        maps.append(("std", std, (0.0, float(np.nanmax(std, initial=0.0)) or 1.0), False))
    height, width = means.shape
    scale = _SIDE / max(height, width)
    wide, tall = max(scale * width, _CAPTION), max(scale * height, 4.0)
    parts = []
    for k, (caption, values, ends, signed) in enumerate(maps):
        x = k * (wide + _APART)
        parts.append(
            f'<image x="{x:.1f}" y="0" width="{wide:.1f}" height="{tall:.1f}" preserveAspectRatio="none" '
            f'href="{data_uri(values, ends, signed)}"/>'
            f'<text x="{x + wide / 2:.1f}" y="{tall + 10:.1f}" text-anchor="middle" class="gbn-small">{caption}</text>'
        )
    return Panel(Markup("".join(parts)), len(maps) * (wide + _APART) - _APART, tall + 13)


def _as_image(values: Array) -> Array:
    """An event as rows and columns: channels of images beside one another, vectors folded, large ones averaged."""
    if values.ndim >= 2 and min(values.shape[-2:]) > 1:
        tiles = values.reshape(-1, *values.shape[-2:])[:_CHANNELS]
        across = math.ceil(math.sqrt(len(tiles)))
        blank = np.full((-len(tiles) % across, *tiles.shape[1:]), np.nan)
        grid = np.concatenate([tiles, blank]).reshape(-1, across, *tiles.shape[1:])
        image = grid.swapaxes(1, 2).reshape(grid.shape[0] * tiles.shape[1], across * tiles.shape[2])
    else:
        flat = values.reshape(-1)
        columns = math.ceil(math.sqrt(flat.size))
        image = np.full((math.ceil(flat.size / columns), columns), np.nan)
        image.reshape(-1)[: flat.size] = flat
    return _coarse(_coarse(image).T).T


def _coarse(image: Array) -> Array:
    """Rows averaged in groups, so that there are not too many."""
    if len(image) <= _CELLS:
        return image
    starts = np.linspace(0, len(image), _CELLS, endpoint=False).astype(int)
    sums = np.add.reduceat(np.nan_to_num(image), starts, axis=0)
    counts = np.add.reduceat(np.isfinite(image).astype(float), starts, axis=0)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _at(values: Array | None, k: int) -> float:
    """An entry; 0 where it is not known."""
    if values is None:
        return 0.0
    value = float(values.reshape(-1)[k if values.size > 1 else 0])
    return value if math.isfinite(value) else 0.0


def _window(ends: list[tuple[float, float]]) -> Limits:
    """What all the intervals span, with some room where they have no length."""
    low, high = min(a for a, _ in ends), max(b for _, b in ends)
    room = 0.05 * (high - low) or max(abs(low), 1.0) * 0.5
    return low - room, high + room


def _line(x: float, y: float, to_x: float, to_y: float, css: str, width: float = 1.0) -> str:
    return (
        f'<path d="M{x:.1f} {y:.1f}L{to_x:.1f} {to_y:.1f}" class="gbn-{css}" stroke="currentColor" '
        f'stroke-width="{width:g}"/>'
    )
