"""How well a net predicts rows by its forward pass, and the free energy at a point."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.inference.point_estimate import energies
from gbn.linearize import Linearization

if TYPE_CHECKING:
    from gbn.learning.data import Data
    from gbn.learning.row_blocks import Blocks
    from gbn.net import GaussianBayesNet

__all__ = ["free_energy", "log_density", "observed_density"]

Array = np.ndarray[Any, Any]
_AT_ONCE = 1024


def log_density(net: GaussianBayesNet, data: Data | Blocks) -> float:
    """Log-density of what was observed given the forward pass, per unit of weight, in nats."""
    total = 0.0
    for part in data.batches(_AT_ONCE):
        total += float(part.counts @ observed_density(Linearization.forward(replace(part.evidence, net=net))))
    return total / data.total


def observed_density(point: Linearization) -> Array:
    """Σ log p(observed | its parents' values at the point).  Shape: (samples,)."""
    total = np.zeros(point.evidence.samples)
    for name in point.evidence.values:
        total -= energies(point, point.errors, name)
    return total


def free_energy(point: Linearization) -> Array:
    """F of each row at a point, without the priors of parameters.  Shape: (samples,)."""
    total = np.zeros(point.evidence.samples)
    for name, vertex in point.net.vertices.items():
        if vertex.plated and (vertex.random or vertex.kind == "likelihood"):
            total += energies(point, point.errors, name)
    return total
