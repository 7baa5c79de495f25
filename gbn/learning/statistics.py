"""Expected statistics of all rows, wherever the rows are: sums, so that blocks of rows add up.

A method of learning asks for them net by net, and does not see whether the rows are in one piece, in blocks that are
read one after the other, or on a cluster (:mod:`gbn.learning.row_blocks`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gbn.learning.condensation import condensed
from gbn.learning.data import Data
from gbn.learning.expectations import Moments, estep, moments_of

if TYPE_CHECKING:
    from gbn.learning.regressions import Family
    from gbn.learning.row_blocks import Blocks
    from gbn.net import GaussianBayesNet

__all__ = ["InOnePiece", "Statistics", "Sums", "statistics"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Sums:
    """What an E-step says of some rows.

    moments: of every family.
    objective: the log-evidence, or its bound, in nats.
    """

    moments: tuple[Moments, ...]
    objective: float

    @classmethod
    def merged(cls, parts: Sequence[Sums]) -> Sums:
        """That of all rows together."""
        moments = zip(*(part.moments for part in parts), strict=True)
        return cls(tuple(Moments.merged(found) for found in moments), sum(part.objective for part in parts))


class Statistics(Protocol):
    """The E-step for one set of rows."""

    def __call__(self, net: GaussianBayesNet) -> Sums:
        """The sums in a net that differs from the first one in its numbers alone; moments are about their means."""

    def objective(self, net: GaussianBayesNet) -> float:
        """The log-evidence, or its bound, in nats."""


class InOnePiece:
    """The E-step for rows in one piece; see :class:`Statistics` and :func:`gbn.learning.expectations.estep`."""

    def __init__(self, data: Data, families: Sequence[Family], engine: str, options: Mapping[str, Any]) -> None:
        sums_suffice = engine == "exact" and data.evidence.net.is_linear()
        self.data, self.families = condensed(data) if sums_suffice else data, families
        self.estep = estep(self.data, families, engine, options)

    def __call__(self, net: GaussianBayesNet) -> Sums:
        expected = self.estep(net)
        moments = moments_of(expected, self.families, self.data)
        return Sums(tuple(moments), expected.objective(self.data.counts))

    def objective(self, net: GaussianBayesNet) -> float:
        return self.estep(net).objective(self.data.counts)


def statistics(
    data: Data | Blocks, families: Sequence[Family], engine: str = "exact", options: Mapping[str, Any] | None = None
) -> Statistics:
    """The E-step for some rows.

    Raises:
        As :func:`gbn.learning.expectations.estep`.
    """
    if isinstance(data, Data):
        return InOnePiece(data, families, engine, options or {})
    return data.statistics(families, engine, options or {})
