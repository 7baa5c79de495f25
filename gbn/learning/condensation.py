"""Fewer rows that say the same: sufficient statistics, in the form of data.

In a linear-Gaussian net the log-evidence of rows that miss the same entries, and every expected second moment, depend
on these rows through Σ w, Σ w y and Σ w y yᵀ alone, y what they observe.  So n rows of d numbers are replaced by d + 1
rows of equal weight with the same three sums: y_k = ȳ + √((d + 1) / Σw) (H R)_k, with Rᵀ R the scatter about the mean
ȳ, and H the d last columns of an orthogonal matrix whose first one is constant (a Helmert matrix).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import linalg

from gbn.learning.data import Data

__all__ = ["condensed"]

Array = np.ndarray[Any, Any]
# Multiplications that are spent on it at most.
_MOST_WORK = 1e11


def condensed(data: Data) -> Data:
    """Data with at most d + 1 rows for each pattern of missing entries, for a linear net without observed labels."""
    evidence = data.evidence
    held = [(kind, name, a) for kind in ("values", "do") for name, a in getattr(evidence, kind).items()]
    held = [(kind, name, a) for kind, name, a in held if evidence.net.vertices[name].plated]
    size = sum(a[0].size for _, _, a in held)
    first, pattern = evidence.patterns()
    counts = np.bincount(pattern, minlength=len(first))
    if not held or (counts <= size + 1).all() or data.samples * float(size) ** 2 > _MOST_WORK:
        return data
    rows = np.concatenate([a.reshape(len(a), -1).astype(np.float64) for _, _, a in held], axis=1)
    found = [_few(rows[pattern == k], data.counts[pattern == k]) for k in range(len(first))]
    source = np.repeat(first, [len(few) for few, _ in found])
    values, weights = np.concatenate([few for few, _ in found]), np.concatenate([w for _, w in found])
    arrays: dict[str, dict[str, Array]] = {"values": {}, "do": dict(evidence.do)}
    start = 0
    for kind, name, a in held:
        part = values[:, start : start + a[0].size].reshape(-1, *a.shape[1:])
        start += a[0].size
        if name in evidence.masks:
            part = np.where(evidence.masks[name][source], part, 0.0)
        arrays[kind][name] = part.astype(a.dtype)
    masks: Mapping[str, Array] = {name: mask[source] for name, mask in evidence.masks.items()}
    few = replace(evidence, samples=len(source), masks=masks, values=arrays["values"], do=arrays["do"])
    return Data(few, weights)


def _few(rows: Array, weights: Array) -> tuple[Array, Array]:
    """At most d + 1 rows with the sums of these, d their entries, and their weights."""
    n, d = rows.shape
    total = weights.sum()
    if n <= d + 1 or not total:
        return rows, weights
    mean = weights @ rows / total
    root = np.linalg.qr((rows - mean) * np.sqrt(weights)[:, None], mode="r")
    spread = linalg.helmert(d + 1).T @ root
    return mean + np.sqrt((d + 1) / total) * spread, np.full(d + 1, total / (d + 1))
