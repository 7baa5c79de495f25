"""Local messages beside backprop of the original model."""

from __future__ import annotations

from gbn.equivalence.compare import METRICS, compare
from gbn.equivalence.losses import LOSSES
from gbn.equivalence.oracles import difference_gradients, sklearn_gradients, torch_gradients
from gbn.equivalence.report import Report

__all__ = [
    "LOSSES",
    "METRICS",
    "Report",
    "compare",
    "difference_gradients",
    "sklearn_gradients",
    "torch_gradients",
]
