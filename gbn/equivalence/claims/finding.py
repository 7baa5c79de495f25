"""What an experiment found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gbn.errors import MissingDependencyError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["Finding"]


@dataclass(frozen=True, eq=False)
class Finding:
    """The outcome of one experiment.

    claim: the statement that was tested.
    answer: a sentence or two on what came out, with the figures of this run in them.
    holds: whether the statement is true as it stands; None where that is not a matter of yes or no.
    figures: name -> number, what the answer rests on.
    table: records with equal keys, one a row.
    series: name -> array, what the plot shows.
    draw: draws the finding onto Axes.
    """

    claim: str
    answer: str
    holds: bool | None
    figures: Mapping[str, float]
    table: Sequence[Mapping[str, Any]] = ()
    series: Mapping[str, Any] = field(default_factory=dict, repr=False)
    draw: Callable[[Finding, Axes], Any] | None = field(default=None, repr=False)

    @property
    def verdict(self) -> str:
        """ "holds", "does not hold as stated", or "it depends"."""
        return {True: "holds", False: "does not hold as stated", None: "it depends"}[self.holds]

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the finding.

        Raises:
            MissingDependencyError: matplotlib is absent.
            ValueError: this finding has no picture.
        """
        from gbn.display.plots import axes

        if self.draw is None:
            raise ValueError("this finding has no picture; its numbers are in .figures and .table")
        ax = axes(ax)
        self.draw(self, ax)
        return ax

    def to_frame(self) -> pd.DataFrame:
        """The table, or the figures where there is none, as a data frame.

        Raises:
            MissingDependencyError: pandas is absent.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise MissingDependencyError("pandas", "all", "a finding as a data frame") from error
        return pd.DataFrame(list(self.table) or [dict(self.figures)])

    def __str__(self) -> str:
        figures = "\n".join(f"  {name:<40} {value:.6g}" for name, value in self.figures.items())
        return f"Claim: {self.claim}\nFound: {self.verdict}. {self.answer}\n{figures}"

    def _repr_html_(self) -> str:
        from gbn.display.html import facts, fragment, table

        told = facts(
            [
                ("claim", self.claim),
                ("found", f"{self.verdict}: {self.answer}"),
                *((name, f"{value:.6g}") for name, value in self.figures.items()),
            ]
        )
        rows = [tuple(record.values()) for record in self.table]
        return fragment(told, *([table(list(self.table[0]), rows)] if rows else []))
