"""What is observed, as one vector for each sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gbn.linearize import Linearization

__all__ = ["Coordinates"]

Array = np.ndarray[Any, Any]


class Coordinates:
    """The observed quantities in one vector per sample: Gaussian entries, then pseudo-observations of labels.

    ``present``: which of them each sample has.  Shape: (samples, size).
    """

    def __init__(self, point: Linearization) -> None:
        self.point = point
        net, evidence = point.net, point.evidence
        samples = evidence.samples
        self.parts: list[tuple[str, Array]] = []
        present: list[Array] = []
        unit: list[Array] = []
        for name, value in evidence.values.items():
            label = net[name].kind == "likelihood"
            known = ~np.isnan(value) if label else evidence.masks.get(name, np.True_)
            known = np.broadcast_to(known, value.shape).reshape(samples, -1)
            index = np.flatnonzero(known.any(axis=0))
            self.parts.append((name, index))
            present.append(known[:, index])
            unit.append(np.full(len(index), float(label)))
        self.present = np.concatenate([*present, np.zeros((samples, 0), bool)], axis=1)
        self.unit_noise = np.concatenate([*unit, np.zeros(0)])
        self.size = self.present.shape[1]

    def scatter(self, u: Array) -> dict[str, Array]:
        """What each observed vertex sends.  u shape: (*lead, samples, size) -> (*lead, samples, *event)."""
        net, out, start = self.point.net, {}, 0
        u = (u * self.present).astype(net.dtype, copy=False)
        for name, index in self.parts:
            vertex = net[name]
            full = np.zeros((*u.shape[:-1], vertex.size), net.dtype)
            full[..., index] = u[..., start : start + len(index)]
            full = full.reshape(*u.shape[:-1], *vertex.shape)
            out[name] = self._label(name, full, "root") if vertex.kind == "likelihood" else full
            start += len(index)
        return out

    def gather(self, reactions: Mapping[str, Array], lead: tuple[int, ...] = ()) -> Array:
        """The observed entries of what each vertex received.  Shape: (*lead, samples, size), in float64."""
        net, samples = self.point.net, self.point.evidence.samples
        columns = [np.zeros((*lead, samples, 0))]
        for name, index in self.parts:
            y = reactions.get(name)
            if y is None:
                columns.append(np.zeros((*lead, samples, len(index))))
                continue
            y = self._label(name, y, "root_adjoint") if net[name].kind == "likelihood" else y
            columns.append(y.reshape(*lead, samples, -1)[..., index])
        return np.concatenate(columns, axis=-1, dtype=np.float64) * self.present

    def _label(self, name: str, v: Array, factor: str) -> Array:
        net = self.point.net
        present = ~np.isnan(self.point.evidence.values[name])
        apply: Callable[..., Array] = getattr(net.label_of(name), factor)
        return apply(self.point.values[net[name].parents[0]], v, present.astype(net.dtype))

    def whitened_scores(self) -> Array:
        """s of the labels, zero elsewhere.  Shape: (samples, size)."""
        point = self.point
        scores = {
            name: point.net.label_of(name).whitened_score(point.values[point.net[name].parents[0]], value)
            for name, value in point.evidence.values.items()
            if point.net[name].kind == "likelihood"
        }
        columns = [np.zeros((point.evidence.samples, 0))]
        for name, index in self.parts:
            score = scores.get(name)
            shape = (point.evidence.samples, len(index))
            columns.append(np.zeros(shape) if score is None else score.reshape(len(score), -1)[:, index])
        return np.concatenate(columns, axis=1, dtype=np.float64)
