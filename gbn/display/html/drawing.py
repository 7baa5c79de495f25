"""A graph as one SVG picture: boxes, arrows, and a legend.  No scripts, no references: several fit on a page."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gbn.display.html.layout import Edge, Layout, Point, layered
from gbn.display.html.markup import Markup, escape

__all__ = ["KINDS", "Box", "Panel", "draw", "legend"]

_MARGIN, _PADDING = 6.0, 8.0
_LINE, _SMALLEST = 14.0, 44.0
# Of a name, and of the smaller lines below it: the width of a character in pixels, and how many are shown.
_CHARACTER, _LONGEST = (6.7, 5.8), (20, 26)
# What tells kinds apart: not only by colour.
KINDS = {
    "input": "input",
    "latent": "with noise: a random variable",
    "deterministic": "without noise: a function of its parents",
    "parameter": "parameter or constant",
    "label": "label",
    "gap": "not drawn",
}
_MARKS = {"observed": "observed (shaded)", "set": "set from outside (shaded)"}


@dataclass(frozen=True)
class Panel:
    """A picture inside a box, of that size in pixels; its own coordinates begin at its upper left corner."""

    content: Markup
    width: float
    height: float


@dataclass(frozen=True)
class Box:
    """A vertex in a drawing.

    kind: of :data:`KINDS`.
    lines: what stands in it, its name first.
    tip: what a mouse held over it shows, and a screen reader says.
    mark: "observed", "set" or nothing.
    tint: 0 to 1, how strongly it is coloured.
    """

    kind: str
    lines: tuple[str, ...]
    tip: str
    mark: str = ""
    tint: float = 0.0
    panel: Panel | None = None

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in pixels."""
        text = max((_columns(_clipped(k, t)) * _CHARACTER[k > 0] for k, t in enumerate(self.lines)), default=0)
        inner = max(text, self.panel.width if self.panel else 0.0)
        below = self.panel.height + 4 if self.panel else 0.0
        return max(inner + 2 * _PADDING, _SMALLEST), len(self.lines) * _LINE + _PADDING + below


def draw(boxes: Sequence[Box], edges: Iterable[Edge], light: Iterable[Edge], label: str) -> Markup:
    """The picture; it scrolls where the place for it is too narrow.

    Args:
        boxes: parents before children.
        edges: (parent, child), as indices into ``boxes``.
        light: those that may be drawn straight across layers.
        label: the picture in a sentence, for those who do not see it.
    """
    layout = layered([box.size for box in boxes], edges, light)
    width, height = layout.width + 2 * _MARGIN, layout.height + 2 * _MARGIN
    incoming: dict[int, list[Edge]] = {}
    for edge in layout.bends:
        incoming.setdefault(edge[1], []).append(edge)
    parts = [_arrow(boxes, layout, edge, _port(layout, edge, incoming[edge[1]])) for edge in layout.bends]
    parts += [_box(box, centre) for box, centre in zip(boxes, layout.centres, strict=True)]
    return Markup(
        f'<div class="gbn-drawing"><svg width="{width:.0f}" height="{height:.0f}" role="img" '
        f'viewBox="{-_MARGIN:g} {-_MARGIN:g} {width:.1f} {height:.1f}" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg></div>"
    )


def legend(boxes: Sequence[Box], *entries: Any) -> Markup:
    """What the shapes in a drawing mean, those that occur in it."""
    shown = [Box(kind, (), text) for kind, text in KINDS.items() if any(box.kind == kind for box in boxes)]
    shown += [Box("latent", (), text, mark) for mark, text in _MARKS.items() if any(box.mark == mark for box in boxes)]
    items = "".join(f"<span>{_swatch(box)}{escape(box.tip)}</span>" for box in shown)
    items += "".join(f"<span>{escape(entry)}</span>" for entry in entries)
    return Markup(f'<div class="gbn-legend">{items}</div>')


def _swatch(box: Box) -> str:
    frame = _frame(box, 24.0, 14.0)
    return (
        f'<svg width="26" height="16" viewBox="-1 -1 26 16" aria-hidden="true">'
        f'<g class="{_classes(box)}">{frame}</g></svg>'
    )


def _box(box: Box, centre: Point) -> str:
    width, height = box.size
    x, y = centre[0] - width / 2, centre[1] - height / 2
    text = "".join(
        f'<text x="{width / 2:.1f}" y="{_PADDING / 2 + 11 + k * _LINE:.1f}" text-anchor="middle" '
        f'fill="currentColor"{_small(k)}>{escape(_clipped(k, line))}</text>'
        for k, line in enumerate(box.lines)
    )
    inside = ""
    if box.panel is not None:
        left, top = (width - box.panel.width) / 2, len(box.lines) * _LINE + _PADDING / 2 + 2
        inside = (
            f'<svg x="{left:.1f}" y="{top:.1f}" width="{box.panel.width:g}" height="{box.panel.height:g}">'
            f"{box.panel.content}</svg>"
        )
    return (
        f'<g class="{_classes(box)}" transform="translate({x:.1f} {y:.1f})"><title>{escape(box.tip)}</title>'
        f"{_frame(box, width, height)}{text}{inside}</g>"
    )


def _classes(box: Box) -> str:
    return f"gbn-box gbn-{box.kind}" + (" gbn-observed" if box.mark else "")


def _small(line: int) -> str:
    return ' class="gbn-small"' if line else ""


def _frame(box: Box, width: float, height: float) -> str:
    """The outline: round for random variables, doubled for labels, with a bar on top for inputs, dashed for weights."""
    corner = {"latent": min(height / 2, 16.0), "label": min(height / 2, 16.0), "input": 4.0}.get(box.kind, 2.0)

    def outline(inset: float, css: str, more: str = "") -> str:
        return (
            f'<rect x="{inset:g}" y="{inset:g}" width="{width - 2 * inset:.1f}" height="{height - 2 * inset:.1f}" '
            f'rx="{max(corner - inset, 0):g}" class="{css}"{more}/>'
        )

    out = outline(0, "gbn-frame", ' fill="none" stroke="currentColor"')
    if box.tint:
        out += outline(0, "gbn-tint", f' fill-opacity="{0.55 * box.tint:.3f}"')
    if box.kind == "label":
        out += outline(3, "gbn-rim", ' fill="none" stroke="currentColor"')
    if box.kind == "input":
        out += f'<path d="M4 3H{width - 4:.1f}" class="gbn-rim" stroke="currentColor" stroke-width="2"/>'
    return out


def _port(layout: Layout, edge: Edge, beside: list[Edge]) -> float:
    """Where a line enters its box, from -0.5 to 0.5 of the width: as the lines come from above."""
    if len(beside) == 1:
        return 0.0

    def comes_from(one: Edge) -> float:
        return (layout.bends[one] or [layout.centres[one[0]]])[-1][0]

    rank = sorted(beside, key=comes_from).index(edge)
    return 0.6 * ((rank + 0.5) / len(beside) - 0.5)


def _arrow(boxes: Sequence[Box], layout: Layout, edge: Edge, port: float) -> str:
    """A line from box to box; it turns between layers only, so that it does not run behind a taller neighbour."""
    a, b = edge
    (x, y), (end, bottom) = layout.centres[a], layout.centres[b]
    width, height = boxes[b].size
    end, tip = end + port * width, bottom - height / 2
    path, row = f"M{x:.1f} {y + boxes[a].size[1] / 2:.1f}", layout.layer[a]
    for across, middle in layout.bends[edge]:
        half = layout.heights[row] / 2
        path += f"V{y + half:.1f}" + _curve((x, y + half), (across, middle - layout.heights[row + 1] / 2))
        x, y, row = across, middle, row + 1
    half, top = layout.heights[row] / 2, bottom - layout.heights[layout.layer[b]] / 2
    path += f"V{y + half:.1f}" + _curve((x, y + half), (end, top - 5)) + f"V{tip - 5:.1f}"
    faint = ' stroke-opacity="0.45"' if layout.layer[b] > row + 1 else ""
    return (
        f'<path d="{path}" class="gbn-edge" fill="none" stroke="currentColor"{faint}/>'
        f'<path d="M{end:.1f} {tip:.1f}l-3.5 -6h7z" class="gbn-head"/>'
    )


def _curve(start: Point, end: Point) -> str:
    half = (start[1] + end[1]) / 2
    return f"C{start[0]:.1f} {half:.1f} {end[0]:.1f} {half:.1f} {end[0]:.1f} {end[1]:.1f}"


def _clipped(line: int, text: str) -> str:
    """A long name by its end, which tells more than its beginning; other lines by their beginning."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    if _columns(text) <= _LONGEST[bool(line)]:
        return text
    kept = ""
    for character in text if line else reversed(text):
        if _columns(kept + character) >= _LONGEST[bool(line)]:
            break
        kept = kept + character if line else character + kept
    return f"{kept}…" if line else f"…{kept}"


def _columns(text: str) -> int:
    """Columns of a fixed-width font; wide characters take two, combining ones none."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)
