"""Building blocks of documents: no scripts, nothing loaded from elsewhere.

They return :class:`Markup`; everything else that goes into them is escaped, so a name is only ever text.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from gbn.display.html.style import PAGE_STYLE, STYLE

__all__ = [
    "Markup",
    "columns",
    "escape",
    "facts",
    "fold",
    "fragment",
    "heading",
    "joined",
    "note",
    "page",
    "section",
    "table",
]

MAX_ROWS = 200


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def escape(value: Any) -> Markup:
    """A value as HTML text, safe in attributes too; :class:`Markup` stays as it is."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value), quote=True))


def fragment(*sections: Any) -> Markup:
    """Sections below one another, with their style: what a notebook shows."""
    return Markup(f'<div class="gbn"><style>{STYLE}</style>{joined(sections)}</div>')


def page(title: str, *sections: Any) -> str:
    """A whole document, complete in itself."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{PAGE_STYLE}{STYLE}</style></head>"
        f'<body><div class="gbn"><h1>{escape(title)}</h1>{joined(sections)}</div></body></html>\n'
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], limit: int = MAX_ROWS) -> Markup:
    """A table; numbers stand to the right, and rows beyond ``limit`` are counted instead of shown."""
    rows = list(rows)
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows[:limit])
    more = note(f"{len(rows) - limit} more rows are not shown.") if len(rows) > limit else ""
    cells = f'<table class="gbn-table"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return Markup(f'<div class="gbn-wide">{cells}</div>{more}')


def facts(entries: Iterable[tuple[str, Any]]) -> Markup:
    """Labels and what they say, in two columns."""
    items = "".join(f"<dt>{escape(label)}</dt><dd>{escape(text)}</dd>" for label, text in entries)
    return Markup(f'<dl class="gbn-facts">{items}</dl>')


def columns(items: Sequence[Any], titles: Sequence[str] = ()) -> Markup:
    """Things beside one another, each as it draws itself; where the page is too narrow, below one another.

    titles: one for each, or none.
    """
    sections = []
    for k, item in enumerate(items):
        draw = getattr(item, "_repr_html_", None)
        drawing = draw() if draw is not None else None
        body = f"<pre>{escape(item)}</pre>" if drawing is None else drawing
        head = heading(titles[k]) if titles else ""
        sections.append(f"<section>{head}{body}</section>")
    return fragment(Markup(f'<div class="gbn-columns">{"".join(sections)}</div>'))


def fold(summary: str, *sections: Any, shown: bool = True) -> Markup:
    """Sections that a click on their summary shows and hides."""
    state = " open" if shown else ""
    return Markup(f'<details class="gbn-fold"{state}><summary>{escape(summary)}</summary>{joined(sections)}</details>')


def joined(sections: Iterable[Any]) -> str:
    """Sections one after the other."""
    return "".join(escape(section) for section in sections)


def heading(text: str) -> Markup:
    """A heading in a notebook's cell."""
    return Markup(f'<p class="gbn-title">{escape(text)}</p>')


def section(title: str, body: str) -> Markup:
    """A part of a document, HTML already, under its heading."""
    return Markup(f"<section><h2>{escape(title)}</h2>{body}</section>")


def note(text: str) -> Markup:
    """A remark."""
    return Markup(f'<p class="gbn-note">{escape(text)}</p>')


def _cell(value: Any) -> str:
    if isinstance(value, (float, np.floating)):
        return f'<td class="gbn-number">{float(value):.4g}</td>'
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return f'<td class="gbn-number">{int(value)}</td>'
    return f"<td>{escape(value)}</td>"
