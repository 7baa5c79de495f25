"""What a net learns from: evidence of many rows, in the forms a query takes, with a weight for each row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.errors import EvidenceError, ShapeError
from gbn.evidence import Evidence

if TYPE_CHECKING:
    from gbn.net import GaussianBayesNet

__all__ = ["Data"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Data:
    """Rows to learn from.

    evidence: the rows; NaN was missing.
    weights: how often each row counts, shape (samples,); None: once each.
    """

    evidence: Evidence
    weights: Array | None = None

    @classmethod
    def read(cls, net: GaussianBayesNet, data: Any, weights: Any = None) -> Data:
        """Check and normalise what a person gives.

        Args:
            data: name -> array of shape (samples, *event), NaN where missing, or a pandas DataFrame: the forms of
                evidence, see :meth:`gbn.evidence.Evidence.read`.
            weights: numbers of at least 0, shape (samples,).  A row of weight 2 counts as the row given twice.

        Raises:
            UnknownNameError, ShapeError, EvidenceError: naming the vertex or the argument.
        """
        if isinstance(data, Data):
            return data
        evidence = Evidence.read(net, data)
        return cls(evidence, None if weights is None else _read_weights(weights, evidence.samples))

    @property
    def samples(self) -> int:
        """Number of rows."""
        return self.evidence.samples

    @property
    def counts(self) -> Array:
        """The weight of every row.  Shape: (samples,)."""
        return np.ones(self.samples) if self.weights is None else self.weights

    @property
    def total(self) -> float:
        """The weights of all rows together."""
        return float(self.samples if self.weights is None else self.weights.sum())

    def rows(self, index: Array) -> Data:
        """Some of the rows."""
        return Data(self.evidence.rows(index), None if self.weights is None else self.weights[index])

    def of(self, net: GaussianBayesNet) -> Data:
        """The same rows for a net that differs from theirs in its numbers alone."""
        return replace(self, evidence=replace(self.evidence, net=net))

    def batches(self, size: int | None, rng: np.random.Generator, shuffle: bool = True) -> Iterator[Data]:
        """All rows that count once, in random order or their own, ``size`` at a time (None: all, in theirs)."""
        whole = self if self.counts.all() else self.rows(np.flatnonzero(self.counts))
        if size is None or size >= whole.samples:
            yield whole
            return
        order = rng.permutation(whole.samples) if shuffle else np.arange(whole.samples)
        for start in range(0, whole.samples, size):
            yield whole.rows(order[start : start + size])


def _read_weights(weights: Any, samples: int) -> Array:
    try:
        array = np.array(weights, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise EvidenceError(f"weights: expected numbers, got {type(weights).__name__} ({error})") from None
    if array.shape != (samples,):
        raise ShapeError(f"weights: got shape {array.shape}, expected ({samples},), a weight for each row")
    if not np.isfinite(array).all() or (array < 0).any() or not array.any():
        raise EvidenceError("weights: expected finite numbers of at least 0, and one above it")
    return array
