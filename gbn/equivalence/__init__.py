"""Local messages beside backprop of the original model."""

from __future__ import annotations

from gbn.equivalence.compare import METRICS, compare
from gbn.equivalence.losses import LOSSES
from gbn.equivalence.oracles import difference_gradients, sklearn_gradients, torch_gradients
from gbn.equivalence.report import Report
from gbn.equivalence.rounds import (
    gradient_by_path_length,
    gradients_by_round,
    latents_on_paths,
    predicted_errors,
    rounds_needed,
)

__all__ = [
    "LOSSES",
    "METRICS",
    "Report",
    "compare",
    "difference_gradients",
    "gradient_by_path_length",
    "gradients_by_round",
    "latents_on_paths",
    "predicted_errors",
    "rounds_needed",
    "sklearn_gradients",
    "torch_gradients",
]
