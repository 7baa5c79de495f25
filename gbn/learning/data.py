"""What a net learns from: evidence of many rows, in the forms a query takes, with a weight for each row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.errors import EvidenceError, ShapeError
from gbn.evidence import Evidence
from gbn.learning.facts import Digest, Facts, digests_of

if TYPE_CHECKING:
    from gbn.net import GaussianBayesNet

__all__ = ["Data", "joined"]

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
    def read(cls, net: GaussianBayesNet, data: Any, weights: Any = None, part: bool = False) -> Data:
        """Check and normalise what a person gives.

        Args:
            data: name -> array of shape (samples, *event), NaN where missing, or a pandas DataFrame: the forms of
                evidence, see :meth:`gbn.evidence.Evidence.read`.
            weights: numbers of at least 0, shape (samples,).  A row of weight 2 counts as the row given twice.
            part: whether there are other rows besides, so that all of these may have weight 0.

        Raises:
            UnknownNameError, ShapeError, EvidenceError: naming the vertex or the argument.
        """
        if isinstance(data, Data):
            return data
        evidence = Evidence.read(net, data)
        return cls(evidence, None if weights is None else _read_weights(weights, evidence.samples, part))

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

    @cached_property
    def facts(self) -> Facts:
        """Sums over the rows, which are known before the first round."""
        return Facts.of(self)

    @cached_property
    def digests(self) -> Mapping[str, Digest]:
        """What tells the rows from others, by vertex."""
        return digests_of(self)

    def rows(self, index: Array) -> Data:
        """Some of the rows."""
        return Data(self.evidence.rows(index), None if self.weights is None else self.weights[index])

    def of(self, net: GaussianBayesNet) -> Data:
        """The same rows for a net that differs from theirs in its numbers alone."""
        return replace(self, evidence=replace(self.evidence, net=net))

    def batches(self, size: int | None, rng: np.random.Generator | None = None, shuffle: bool = True) -> Iterator[Data]:
        """All rows that count once, ``size`` at a time, in random order, or without a generator or shuffling in theirs.

        size: None: all together, in their own order.
        """
        whole = self if self.counts.all() else self.rows(np.flatnonzero(self.counts))
        if not whole.samples:
            return
        if size is None or size >= whole.samples:
            yield whole
            return
        order = rng.permutation(whole.samples) if shuffle and rng is not None else np.arange(whole.samples)
        for start in range(0, whole.samples, size):
            yield whole.rows(order[start : start + size])


def joined(parts: Sequence[Data]) -> Data:
    """The rows of several pieces in one.

    Args:
        parts: of one net, with the same vertices set from outside.
    """
    net, samples = parts[0].evidence.net, sum(part.samples for part in parts)
    evidences = [part.evidence for part in parts]
    values, masks = {}, {}
    for name in dict.fromkeys(n for evidence in evidences for n in evidence.values):
        vertex = net.vertices[name]
        label = vertex.kind == "likelihood"
        rows = [(e.samples, *vertex.shape) for e in evidences]
        gap = net.dtype.type(np.nan if label else 0)
        held = [e.values.get(name, np.full(s, gap)) for e, s in zip(evidences, rows, strict=True)]
        values[name] = np.concatenate(held)
        if not label and any(name in e.masks or name not in e.values for e in evidences):
            known = [e.masks.get(name, np.full(s, name in e.values)) for e, s in zip(evidences, rows, strict=True)]
            masks[name] = np.concatenate(known)
    fixed = {name: np.concatenate([e.do[name] for e in evidences]) for name in evidences[0].do}
    weights = None if all(part.weights is None for part in parts) else np.concatenate([part.counts for part in parts])
    return Data(Evidence(net, samples, values, masks, fixed), weights)


def _read_weights(weights: Any, samples: int, part: bool) -> Array:
    try:
        array = np.array(weights, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise EvidenceError(f"weights: expected numbers, got {type(weights).__name__} ({error})") from None
    if array.shape != (samples,):
        raise ShapeError(f"weights: got shape {array.shape}, expected ({samples},), a weight for each row")
    if not np.isfinite(array).all() or (array < 0).any() or not (part or array.any()):
        raise EvidenceError("weights: expected finite numbers of at least 0, and one above it")
    return array
