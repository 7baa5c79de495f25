"""What learning returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas

    from gbn.learning.weights_posterior import WeightPosterior
    from gbn.net import GaussianBayesNet

__all__ = ["FitResult", "History"]

Array = np.ndarray[Any, Any]


class History(list[dict[str, float]]):
    """The figures of every round, in order; each has its number as ``round``, 0 for where learning began."""

    def column(self, name: str) -> Array:
        """One figure over the rounds, NaN where a round has none.  Shape: (rounds,)."""
        return np.array([figures.get(name, np.nan) for figures in self])

    def to_frame(self) -> pandas.DataFrame:
        """A table with a row for each round."""
        import pandas as pd

        if not self:
            return pd.DataFrame()
        frame = pd.DataFrame(list(self))
        return frame.astype({"round": int}).set_index("round")


@dataclass(frozen=True, eq=False, repr=False)
class FitResult:
    """A net that has learned.

    net: a copy with the learned numbers, those of the best round; the net that was given is unchanged.
    method: how it learned.
    history: the figures of every round.
    converged: whether the method arrived; ``reason`` says why it stopped, in a sentence.
    best_round: the round whose numbers ``net`` has.
    diagnostics: the method's own figures.
    """

    net: GaussianBayesNet
    method: str
    history: History
    converged: bool
    reason: str
    best_round: int
    diagnostics: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        arrived = "" if self.converged else ", not converged"
        return f"FitResult({self.method}, {max(len(self.history) - 1, 0)} rounds{arrived})"

    @property
    def posterior(self) -> WeightPosterior | None:
        """Of weights and noises, where the method has one ("vb"); else None."""
        found: WeightPosterior | None = self.diagnostics.get("posterior")
        return found

    @property
    def standard_errors(self) -> Mapping[str, Array]:
        """Parameter, or noise -> standard error of each entry, where the method was asked for them; else empty."""
        found: Mapping[str, Array] = self.diagnostics.get("standard_errors", {})
        return found
