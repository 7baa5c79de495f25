"""Static HTML: no scripts, nothing loaded from elsewhere, readable in light and in dark."""

from gbn.display.html.image import image
from gbn.display.html.markup import Markup, columns, escape, facts, fragment, page, section, table
from gbn.display.html.net import net_html
from gbn.display.html.posterior import posterior_html
from gbn.display.html.report import report_html

__all__ = [
    "Markup",
    "columns",
    "escape",
    "facts",
    "fragment",
    "image",
    "net_html",
    "page",
    "posterior_html",
    "report_html",
    "section",
    "table",
]
