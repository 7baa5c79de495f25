"""A net as a drawing and a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.display.html.drawing import Box, draw, legend
from gbn.display.html.markup import Markup, facts, fold, fragment, heading, note, table

if TYPE_CHECKING:
    from gbn.net import GaussianBayesNet, Vertex

__all__ = ["chosen", "drawn", "listed", "net_html", "noise_text", "plain_box", "range_text", "shape_text"]

Array = np.ndarray[Any, Any]
_MAX_PARENTS = 8
# Boxes in a drawing, and how many are unfolded without being asked.
_MAX_BOXES, _MAX_UNFOLDED = 120, 60


def net_html(net: GaussianBayesNet) -> str:
    """A net: what goes in and out, a drawing, and its vertices in topological order."""
    entries = sum(net[name].size for name in net.parameters)
    summary = facts(
        [
            ("inputs", listed(net.inputs)),
            ("outputs", listed(net.outputs)),
            ("parameters", f"{len(net.parameters)} arrays, {entries:,} numbers"),
            ("with noise", f"{len(net.latents)} of {len(net)} vertices"),
            ("dtype", net.dtype),
        ]
    )
    rows = [(v.name, v.title, shape_text(v), noise_text(net, v), listed(v.parents)) for v in net.vertices.values()]
    vertices = table(["vertex", "kind", "shape", "noise", "parents"], rows)
    picture = drawn(net, chosen(net), lambda name: plain_box(net, name))
    return fragment(heading("Gaussian Bayes net"), summary, picture, fold("Vertices", vertices, shown=not len(net)))


def chosen(net: GaussianBayesNet) -> tuple[list[str], str]:
    """The vertices that a drawing shows, in the net's order, and what it leaves out, in a sentence.

    A large net is drawn without what is shared by the samples; if that is not enough, by its first and last vertices.
    """
    names = list(net)
    if len(names) <= _MAX_BOXES:
        return names, ""
    kept = [name for name in names if net[name].plated]
    left = f"{len(names) - len(kept)} parameters and constants"
    if len(kept) <= _MAX_BOXES:
        return kept, f"The net is large: {left} are not drawn."
    half = _MAX_BOXES // 2
    between = len(kept) - 2 * half
    return kept[:half] + kept[-half:], f"The net is large: {left} are not drawn, nor {between} vertices in the middle."


def drawn(net: GaussianBayesNet, choice: tuple[list[str], str], box: Callable[[str], Box], *remarks: Any) -> Markup:
    """The drawing of some vertices, folded when it is long, with its legend."""
    names, omitted = choice
    if not names:
        return Markup("")
    boxes = [box(name) for name in names]
    place = {name: k for k, name in enumerate(names)}
    edges = [(place[p], place[name]) for name in names for p in net[name].parents if p in place]
    gap = _between(net, names)
    if gap is not None:
        boxes, edges = _with_gap(boxes, edges, *gap)
    # A weight that many vertices share would bind them all together.
    light = [(a, b) for a, b in edges if a < len(names) and boxes[a].kind == "parameter"]
    label = f"A graph of {len(names)} vertices with arrows from parents to children; the table below lists them."
    title = f"Drawing: {len(names)} of {len(net)} vertices" if omitted else f"Drawing: {len(names)} vertices"
    notes = [note(text) for text in (omitted,) if text]
    return fold(
        title, draw(boxes, edges, light, label), legend(boxes, *remarks), *notes, shown=len(names) <= _MAX_UNFOLDED
    )


def plain_box(net: GaussianBayesNet, name: str, mark: str = "", more: str = "") -> Box:
    """A vertex by its name, op and shape; its noise is in the tip."""
    vertex = net[name]
    noise = noise_text(net, vertex)
    tip = [name, f"{vertex.title}, shape {shape_text(vertex)}"]
    tip += [f"noise: {noise}"] if vertex.random else []
    tip += [f"parents: {listed(vertex.parents)}"] if vertex.parents else []
    tip += [more] if more else []
    title = f"{vertex.op} · " if vertex.op else ""
    return Box(_kind(vertex), (name, title + shape_text(vertex)), "\n".join(tip), mark)


def _kind(vertex: Vertex) -> str:
    if vertex.kind == "likelihood":
        return "label"
    if vertex.kind in ("input", "parameter"):
        return vertex.kind
    if not vertex.plated and not vertex.parents:
        return "parameter"
    return "latent" if vertex.random else "deterministic"


def _between(net: GaussianBayesNet, names: Sequence[str]) -> tuple[int, list[int], list[int]] | None:
    """What is left out in the middle: after how many boxes, which of them lead there, and which come from there."""
    place = {name: k for k, name in enumerate(names)}
    hidden = [name for name in net if name not in place and net[name].plated]
    if not hidden:
        return None
    inside = set(hidden)
    into = {place[p] for name in hidden for p in net[name].parents if p in place}
    out = {place[name] for name in names if not inside.isdisjoint(net[name].parents)}
    at = min(out, default=len(names))
    return at, sorted(k for k in into if k < at), sorted(k for k in out if k >= at)


def _with_gap(
    boxes: Sequence[Box], edges: Iterable[tuple[int, int]], at: int, into: Sequence[int], out: Sequence[int]
) -> tuple[list[Box], list[tuple[int, int]]]:
    """The same with a box in place of what is left out."""

    def moved(k: int) -> int:
        return k + (k >= at)

    lines = [(moved(a), moved(b)) for a, b in edges]
    lines += [(k, at) for k in into] + [(at, moved(k)) for k in out]
    gap = Box("gap", ("…",), "vertices that are not drawn")
    return [*boxes[:at], gap, *boxes[at:]], lines


def listed(names: Sequence[str]) -> str:
    """Names in a line, the first few."""
    shown = ", ".join(names[:_MAX_PARENTS])
    return shown + (f" and {len(names) - _MAX_PARENTS} more" if len(names) > _MAX_PARENTS else "") or "—"


def shape_text(vertex: Vertex) -> str:
    """The shape of a vertex, N for its samples."""
    sizes = [*(["N"] if vertex.plated else []), *map(str, vertex.shape)]
    return " × ".join(sizes) or "scalar"


def noise_text(net: GaussianBayesNet, vertex: Vertex) -> str:
    """The noise of a vertex, in short."""
    noise = net.noise(vertex.name)
    if noise is None:
        return "—"
    shared = f" ({vertex.noise})" if vertex.noise != vertex.name else ""
    if noise.form == "scalar":
        return f"{float(noise.value):.4g}{shared}"
    return f"{noise.form}, variances {range_text(noise.diagonal())}{shared}"


def range_text(values: Array) -> str:
    """The least and the greatest of some numbers."""
    known = values[~np.isnan(values)] if values.size else values
    if not known.size:
        return "—"
    low, high = float(known.min()), float(known.max())
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
