"""A variable of a net, as the net keeps it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Vertex"]

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Vertex:
    """One variable of the net.

    kind: "input" (a root), "parameter" or "constant" (shared by the samples), "op", or "likelihood" (a label).
    shape: the event, i.e. the shape of one sample.
    plated: whether it has a value per sample.
    op, attributes: the mean function of an "op"; ``op`` is the likelihood's name for a "likelihood".
    noise: name of its noise in ``net.noises``; None for a deterministic vertex.
    value: the array of a parameter or constant; the prior mean of an input (None: it must be observed).
    trainable: False for what the source model keeps frozen.
    source: where it comes from in the converted model; a parameter's name there, the first one of tied weights.
    """

    name: str
    kind: str
    shape: Shape
    plated: bool
    parents: tuple[str, ...] = ()
    op: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    noise: str | None = None
    value: Array | None = None
    trainable: bool = True
    source: str | None = None

    @property
    def random(self) -> bool:
        """Whether it has noise of its own."""
        return self.noise is not None

    @property
    def needs_data(self) -> bool:
        """Whether it must be observed: an input without a prior."""
        return self.kind == "input" and self.noise is None and self.value is None

    @property
    def title(self) -> str:
        """Its op, or its kind: what stands for it in tables."""
        if self.kind == "op":
            return str(self.op)
        if self.kind == "likelihood":
            return f"label ({self.op})"
        return self.kind if self.trainable or self.kind != "parameter" else "parameter (frozen)"

    @property
    def size(self) -> int:
        """Number of entries of one sample."""
        return math.prod(self.shape)
