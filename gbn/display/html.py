"""Static HTML: no scripts, nothing loaded from elsewhere, readable in light and in dark.

Building blocks return :class:`Markup`; everything else that goes into them is escaped, so a name is only ever text.
"""

from __future__ import annotations

import base64
import html
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.errors import GbnError, ShapeError

if TYPE_CHECKING:
    from gbn.equivalence.report import Report
    from gbn.net import GaussianBayesNet, Vertex
    from gbn.posterior import Posterior

__all__ = [
    "Markup",
    "escape",
    "facts",
    "fragment",
    "image",
    "net_html",
    "page",
    "posterior_html",
    "report_html",
    "table",
]

Array = np.ndarray[Any, Any]
_MAX_ROWS = 200
_MAX_PARENTS = 8
# Entries whose variance a drawing may ask for: on a large net they cost a sweep each.
_STD_BUDGET = 512

_LIGHT = "--fg:#1c1e21;--dim:#5c636b;--line:#d4d8dd;--head:#f1f3f5;--good:#17753a;--bad:#b3261e;--bar:#3b78c3"
_DARK = "--fg:#e6e6e6;--dim:#a2a8b0;--line:#4a4f57;--head:#2a2e34;--good:#6cc788;--bad:#ff8f85;--bar:#5b93d6"
_STYLE = f"""
.gbn{{{_LIGHT};color:var(--fg);font:14px/1.45 system-ui,sans-serif;overflow-x:auto}}
@media (prefers-color-scheme:dark){{.gbn{{{_DARK}}}}}
[data-jp-theme-light=true] .gbn,.vscode-light .gbn{{{_LIGHT}}}
[data-jp-theme-light=false] .gbn,.vscode-dark .gbn{{{_DARK}}}
.gbn .gbn-title{{font-size:15px;font-weight:600;margin:0 0 4px}}
.gbn .gbn-note{{color:var(--dim);margin:4px 0}}
.gbn .gbn-good{{color:var(--good)}}
.gbn .gbn-bad{{color:var(--bad)}}
.gbn dl.gbn-facts{{display:grid;grid-template-columns:max-content 1fr;gap:1px 12px;margin:4px 0 8px}}
.gbn .gbn-facts dt{{color:var(--dim)}}
.gbn .gbn-facts dd{{margin:0}}
.gbn table.gbn-table{{border-collapse:collapse;margin:4px 0;font-variant-numeric:tabular-nums;color:var(--fg)}}
.gbn .gbn-table th{{background:var(--head);text-align:left;font-weight:600;white-space:nowrap}}
.gbn .gbn-table th,.gbn .gbn-table td{{padding:2px 10px;border-bottom:1px solid var(--line);vertical-align:top}}
.gbn .gbn-table td{{text-align:left;max-width:32em;overflow-wrap:break-word}}
.gbn .gbn-table .gbn-number{{text-align:right;white-space:nowrap}}
.gbn .gbn-bar{{display:inline-block;height:8px;background:var(--bar);border-radius:2px}}
.gbn figure.gbn-image{{display:inline-block;margin:4px 8px 4px 0}}
.gbn .gbn-image img{{image-rendering:pixelated;display:block}}
.gbn .gbn-image figcaption{{color:var(--dim);font-size:12px}}
""".strip()
_PAGE_STYLE = (
    ":root{color-scheme:light dark}"
    "body{margin:24px auto;max-width:1100px;padding:0 16px;font-family:system-ui,sans-serif}"
)


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def escape(value: Any) -> Markup:
    """A value as HTML text, safe in attributes too; :class:`Markup` stays as it is."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value), quote=True))


def fragment(*sections: Any) -> Markup:
    """Sections below one another, with their style: what a notebook shows."""
    return Markup(f'<div class="gbn"><style>{_STYLE}</style>{_joined(sections)}</div>')


def page(title: str, *sections: Any) -> str:
    """A whole document, complete in itself."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_PAGE_STYLE}{_STYLE}</style></head>"
        f'<body><div class="gbn"><h1>{escape(title)}</h1>{_joined(sections)}</div></body></html>\n'
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], limit: int = _MAX_ROWS) -> Markup:
    """A table; numbers stand to the right, and rows beyond ``limit`` are counted instead of shown."""
    rows = list(rows)
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows[:limit])
    more = _note(f"{len(rows) - limit} more rows are not shown.") if len(rows) > limit else ""
    return Markup(f'<table class="gbn-table"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}')


def facts(entries: Iterable[tuple[str, Any]]) -> Markup:
    """Labels and what they say, in two columns."""
    items = "".join(f"<dt>{escape(label)}</dt><dd>{escape(text)}</dd>" for label, text in entries)
    return Markup(f'<dl class="gbn-facts">{items}</dl>')


def image(
    array: Any,
    *,
    limits: tuple[float, float] | None = None,
    diverging: bool | None = None,
    scale: int = 4,
    caption: str = "",
) -> Markup:
    """An array as a picture that is part of the document.

    Args:
        array: shape (rows, columns), or (columns,) for one row; NaN is transparent.
        limits: values of the two ends (default: those of the array; symmetric about zero when diverging).
        diverging: blue for negative, white for zero, red for positive (default: where values are negative); else from
            black to white.
        scale: screen pixels a pixel.

    Raises:
        ShapeError: another number of axes.
    """
    values = np.atleast_2d(np.asarray(array, dtype=np.float64))
    if values.ndim != 2 or not values.size:
        raise ShapeError(f"image: got an array of shape {np.shape(array)}, expected (rows, columns)")
    known = values[np.isfinite(values)]
    diverging = bool((known < 0).any()) if diverging is None else diverging
    if limits is None:
        bound = float(np.abs(known).max(initial=0))
        limits = (-bound, bound) if diverging or not known.size else (float(known.min()), float(known.max()))
    data = base64.b64encode(_png(_colours(values, limits, diverging))).decode("ascii")
    height, width = (scale * size for size in values.shape)
    label = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return Markup(
        f'<figure class="gbn-image"><img src="data:image/png;base64,{data}" width="{width}" height="{height}" '
        f'alt="{escape(caption or "array")}">{label}</figure>'
    )


def net_html(net: GaussianBayesNet) -> str:
    """A net: what goes in and out, and its vertices in topological order."""
    entries = sum(net[name].size for name in net.parameters)
    summary = facts(
        [
            ("inputs", _listed(net.inputs)),
            ("outputs", _listed(net.outputs)),
            ("parameters", f"{len(net.parameters)} arrays, {entries:,} numbers"),
            ("with noise", f"{len(net.latents)} of {len(net)} vertices"),
            ("dtype", net.dtype),
        ]
    )
    rows = [(v.name, v.title, _shape(v), _noise(net, v), _listed(v.parents)) for v in list(net.vertices.values())]
    return fragment(_title("Gaussian Bayes net"), summary, table(["vertex", "kind", "shape", "noise", "parents"], rows))


def posterior_html(post: Posterior) -> str:
    """A posterior: a line for every target, and what the engine says about itself."""
    said = [(name.replace("_", " "), _short(value)) for name, value in post.diagnostics.items()]
    state = Markup('<span class="gbn-good">converged</span>')
    if not post.converged:
        state = Markup('<span class="gbn-bad">not converged</span>')
    summary = facts([("engine", post.engine), ("state", state), ("samples", post.evidence.samples), *said])
    budget = _STD_BUDGET
    rows = []
    for name in post.targets[:_MAX_ROWS]:
        budget -= post.net[name].size
        rows.append(_target_row(post, name, with_std=budget >= 0))
    rows += [(name,) for name in post.targets[_MAX_ROWS:]]
    columns = ["vertex", "kind", "shape", "observed", "mean", "std", "surprise (nats a sample)"]
    note = _note("Standard deviations that are left out here are computed by post.std[name].") if budget < 0 else ""
    return fragment(_title("Posterior"), summary, table(columns, rows), note)


def report_html(report: Report) -> str:
    """A comparison with backprop: verdict, what it took, and every parameter."""
    tone, mark = ("good", "✓") if report.agrees else ("bad", "✗")
    verdict = Markup(f'<p class="gbn-title gbn-{tone}">{mark} {escape(report.verdict)}</p>')
    columns = ["parameter", "shape", *(name.replace("_", " ") for name in report.overall), "error", "verdict"]
    rows = [
        (name, shape, *figures.values(), _bar(figures["relative_error"]), _agreement(agrees))
        for name, shape, figures, agrees in report.rows()
    ]
    return fragment(verdict, facts(report.summary().items()), table(columns, rows))


def _joined(sections: Iterable[Any]) -> str:
    return "".join(escape(section) for section in sections)


def _title(text: str) -> Markup:
    return Markup(f'<p class="gbn-title">{escape(text)}</p>')


def _note(text: str) -> Markup:
    return Markup(f'<p class="gbn-note">{escape(text)}</p>')


def _cell(value: Any) -> str:
    if isinstance(value, (float, np.floating)):
        return f'<td class="gbn-number">{float(value):.4g}</td>'
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return f'<td class="gbn-number">{int(value)}</td>'
    return f"<td>{escape(value)}</td>"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MAX_PARENTS])
    return shown + (f" and {len(names) - _MAX_PARENTS} more" if len(names) > _MAX_PARENTS else "") or "—"


def _shape(vertex: Vertex) -> str:
    sizes = [*(["N"] if vertex.plated else []), *map(str, vertex.shape)]
    return " × ".join(sizes) or "scalar"


def _noise(net: GaussianBayesNet, vertex: Vertex) -> str:
    noise = net.noise(vertex.name)
    if noise is None:
        return "—"
    shared = f" ({vertex.noise})" if vertex.noise != vertex.name else ""
    if noise.form == "scalar":
        return f"{float(noise.value):.4g}{shared}"
    return f"{noise.form}, variances {_range(noise.diagonal())}{shared}"


def _range(values: Array) -> str:
    if not values.size:
        return "—"
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 200 else text[:199] + "…"


def _target_row(post: Posterior, name: str, with_std: bool) -> tuple[Any, ...]:
    vertex = post.net[name]
    std = _tried(lambda: _range(post.std[name])) if with_std and vertex.kind != "likelihood" else "—"
    nats = _tried(lambda: f"{float(np.mean(post.surprise[name])):.4g}") if name in post.surprise else "—"
    mean = _tried(lambda: _range(post.mean[name]))
    return name, vertex.title, _shape(vertex), _observed_share(post, name), mean, std, nats


def _tried(figure: Callable[[], str]) -> str:
    """A figure, or a dash where the engine does not give it."""
    try:
        return figure()
    except GbnError:
        return "—"


def _observed_share(post: Posterior, name: str) -> str:
    evidence = post.evidence
    if name in evidence.do:
        return "set"
    return f"{post.observed(name).mean():.0%}"


def _bar(error: float) -> Markup:
    """An error from 1e-17 to 1 on a log scale."""
    share = 1.0 if not np.isfinite(error) else float(np.clip((np.log10(max(error, 1e-17)) + 17) / 17, 0, 1))
    return Markup(f'<span class="gbn-bar" style="width:{60 * share:.0f}px" title="{error:.3g}"></span>')


def _agreement(agrees: bool) -> Markup:
    return Markup('<span class="gbn-good">agrees</span>' if agrees else '<span class="gbn-bad">differs</span>')


def _colours(values: Array, limits: tuple[float, float], diverging: bool) -> Array:
    """RGBA bytes.  Shape: (rows, columns, 4)."""
    low, high = limits
    known = np.isfinite(values)
    share = np.clip((np.where(known, values, low) - low) / (high - low if high > low else 1.0), 0, 1)
    if diverging and high <= low:
        share = np.full_like(share, 0.5)
    ends = np.array(
        [[33, 102, 172], [255, 255, 255], [178, 24, 43]] if diverging else [[0] * 3, [127.5] * 3, [255] * 3]
    )
    rgb = np.stack([np.interp(share, (0, 0.5, 1), ends[:, channel]) for channel in range(3)], axis=-1)
    return np.concatenate([np.rint(rgb), np.where(known, 255, 0)[..., None]], axis=-1).astype(np.uint8)


def _png(rgba: Array) -> bytes:
    """The bytes of a PNG file: 8 bits a channel, red, green, blue, opacity."""
    height, width = rgba.shape[:2]
    # Every row begins with the number of its filter: 0, none.
    rows = np.concatenate([np.zeros((height, 1), np.uint8), rgba.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
