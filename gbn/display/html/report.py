"""A comparison with backprop as a table with a verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gbn.display.html.markup import Markup, escape, facts, fragment, table

if TYPE_CHECKING:
    from gbn.equivalence.report import Report

__all__ = ["report_html"]


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


def _bar(error: float) -> Markup:
    """An error from 1e-17 to 1 on a log scale."""
    share = 1.0 if not np.isfinite(error) else float(np.clip((np.log10(max(error, 1e-17)) + 17) / 17, 0, 1))
    return Markup(f'<span class="gbn-bar" style="width:{60 * share:.0f}px" title="{error:.3g}"></span>')


def _agreement(agrees: bool) -> Markup:
    return Markup('<span class="gbn-good">agrees</span>' if agrees else '<span class="gbn-bad">differs</span>')
