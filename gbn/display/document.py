"""Things that draw themselves, put together: shown in a notebook, or written as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gbn.errors import ShapeError

if TYPE_CHECKING:
    from gbn.posterior import Posterior

__all__ = ["Document", "posterior_drawing", "side_by_side"]


@dataclass(frozen=True, repr=False)
class Document:
    """Static HTML that loads nothing from elsewhere.

    title: of the file.
    body: the HTML, its style included.
    text: what stands for it where there is no HTML.
    """

    title: str
    body: str
    text: str

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return self.body

    def to_html(self) -> str:
        """A whole document."""
        from gbn.display.html import Markup, page

        return page(self.title, Markup(self.body))

    def save_html(self, path: str | PathLike[str]) -> None:
        """Write one HTML file that loads nothing else."""
        # What no file can hold of a name, half a pair of surrogates, is written as its number.
        Path(path).write_text(self.to_html(), encoding="utf-8", errors="backslashreplace")


def side_by_side(*items: Any, titles: Sequence[str] = ()) -> Document:
    """Nets, posteriors, reports and whatever else draws itself, beside one another; on a narrow page, below.

    Args:
        items: objects with ``_repr_html_``; others are shown as text.
        titles: one for each.

    Raises:
        ShapeError: another number of titles.
    """
    from gbn.display.html import columns

    if titles and len(titles) != len(items):
        raise ShapeError(f"titles: got {len(titles)}, expected one for each of {len(items)} items")
    text = "\n\n".join(f"{titles[k]}\n{item!r}" if titles else repr(item) for k, item in enumerate(items))
    return Document(", ".join(titles) or "Side by side", columns(items, titles), text)


def posterior_drawing(post: Posterior, sample: int = 0) -> Document:
    """A posterior with one of its samples drawn in the net.

    Raises:
        InferenceError: there is no such sample.
    """
    from gbn.display.html import posterior_html

    return Document(f"Posterior, sample {sample}", posterior_html(post, sample), repr(post))
