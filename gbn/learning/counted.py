"""Which entries of which rows say something of a CPD, and expected second moments over just these.

Under a factorised q, a vertex of which nothing is observed, nor anything below it, would count as data for its own
weights, and make them look better known than they are.  Such rows are left out: what they add to the joint density
integrates to one.  So do single missing entries of a vertex with nothing observed below, where noise does not couple
entries.  Entries that are missing but heard of from below are latent, and count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.errors import InferenceError
from gbn.learning.expectations import Expected, Moments

if TYPE_CHECKING:
    from gbn.evidence import Evidence
    from gbn.learning.regressions import Family

__all__ = ["Group", "Part", "groups_of", "parts_of"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Group:
    """Entries of the vertices of a family that count in the same rows.

    rows: their numbers.  Shape: (entries,).
    seen: member and row -> whether they count there, shape (members, samples); None: everywhere.
    latent: whether some of them are hidden where they count.
    """

    rows: Array
    seen: Array | None
    latent: bool

    def weights(self, counts: Array, members: int) -> Array:
        """How often each member and row counts.  Shape: (members, samples)."""
        every = np.broadcast_to(counts, (members, len(counts)))
        return every if self.seen is None else every * self.seen


@dataclass(frozen=True, eq=False)
class Part:
    """Moments Σ w E[(z - s)(z - s)ᵀ] of a group of entries, z = (x at these entries, u, 1)."""

    rows: Array
    moments: Moments


def groups_of(evidence: Evidence, families: Sequence[Family]) -> list[list[Group]]:
    """For each family its entries, grouped by where they count."""
    heard = _heard(evidence)
    return [_groups(evidence, family, heard) for family in families]


def _heard(evidence: Evidence) -> dict[str, Array]:
    """Vertex -> rows where something below it was observed.  Shape: (samples,)."""
    net, below = evidence.net, dict[str, Array]()
    nothing = np.zeros(evidence.samples, bool)
    for name in reversed(net.vertices):
        vertex = net.vertices[name]
        if name in evidence.do:
            continue
        here = below.get(name, nothing)
        if name in evidence.values:
            here = here | _known(evidence, name).any(axis=1)
        if here.any():
            for parent in vertex.parents:
                below[parent] = below[parent] | here if parent in below else here
    return {name: below.get(name, nothing) for name in net.vertices}


def _known(evidence: Evidence, name: str) -> Array:
    """Which entries were observed.  Shape: (samples, size)."""
    if name not in evidence.values:
        return np.zeros((evidence.samples, evidence.net.vertices[name].size), bool)
    found = evidence.masks.get(name)
    if found is None:
        value = evidence.values[name]
        label = evidence.net.vertices[name].kind == "likelihood"
        found = ~np.isnan(value) if label else np.ones(value.shape, bool)
    return found.reshape(evidence.samples, -1)


def _groups(evidence: Evidence, family: Family, heard: Mapping[str, Array]) -> list[Group]:
    every = np.arange(family.size)
    coupled = evidence.net.noises[family.noise].form == "full"
    seen: list[Array] = []
    hidden = np.zeros(family.size, bool)
    for name, _ in family.members:
        known, below = _known(evidence, name), heard[name][:, None]
        together = np.broadcast_to(known.any(axis=1, keepdims=True), known.shape) if coupled else known
        counts: Array = np.logical_or(below, together)
        hidden |= np.any(counts & ~known, axis=0)
        seen.append(np.asarray(counts))
    whole: Array = np.stack(seen)
    if whole.all():
        return [Group(every, None, bool(hidden.any()))]
    flat = whole.reshape(-1, family.size)
    kinds, which = np.unique(flat, axis=1, return_inverse=True)
    members, samples = whole.shape[:2]
    out = []
    for number, column in enumerate(kinds.T):
        rows = np.flatnonzero(which.reshape(-1) == number)
        out.append(Group(rows, column.reshape(members, samples), bool(hidden[rows].any())))
    return out


def parts_of(
    expected: Expected,
    families: Sequence[Family],
    groups: Sequence[Sequence[Group]],
    counts: Array,
) -> list[list[Part]]:
    """The moments of every group, about the mean of (x, u) over all rows."""
    means: dict[str, Array] = {}

    def mean(name: str) -> Array:
        if name not in means:
            means[name] = np.asarray(expected.mean(name), np.float64).reshape(len(counts), -1)
        return means[name]

    out = []
    for family, chosen in zip(families, groups, strict=True):
        names = list(zip(*((vertex, *regressors) for vertex, regressors in family.members), strict=True))
        columns = [np.concatenate([mean(n) for n in part]) if len(part) > 1 else mean(part[0]) for part in names]
        weights = np.tile(counts, len(family.members)) / (counts.sum() * len(family.members))
        shift = np.concatenate([*(weights @ column for column in columns), [0.0]])
        z = np.concatenate([*columns, np.ones((len(columns[0]), 1))], axis=1) - shift
        ends = np.cumsum([0, *(column.shape[1] for column in columns)])
        out.append([_part(expected, family, names, z, ends, shift, group, counts) for group in chosen])
    return out


def _part(
    expected: Expected,
    family: Family,
    names: Sequence[tuple[str, ...]],
    z: Array,
    ends: Array,
    shift: Array,
    group: Group,
    counts: Array,
) -> Part:
    weights, size = group.weights(counts, len(family.members)), family.size
    flat = weights.reshape(-1)
    chosen = np.concatenate([group.rows, np.arange(size, len(shift))])
    few = z[:, chosen] if len(group.rows) < size else z
    second = few.T @ few if (flat == 1).all() else few.T @ (few * flat[:, None])
    place = np.full(len(shift), -1)
    place[chosen] = np.arange(len(chosen))
    alike = group.seen is None or bool((group.seen == group.seen[:1]).all())
    for i in range(0 if group.latent else 1, len(names)):
        for j in range(i, len(names)):
            cov = _covariance(expected, names[i], names[j], weights, alike)
            if cov is None:
                continue
            cov = (cov + cov.T) / 2 if i == j else cov
            a, b = place[ends[i] : ends[i + 1]], place[ends[j] : ends[j + 1]]
            cov = cov[np.ix_(a >= 0, b >= 0)]
            a, b = a[a >= 0], b[b >= 0]
            second[np.ix_(a, b)] += cov
            if i != j:
                second[np.ix_(b, a)] += cov.T
    if not np.isfinite(second).all():
        raise InferenceError(f"{family.name!r}: its expected second moments are not finite; rescale the data")
    return Part(group.rows, Moments(float(flat.sum()), second, shift[chosen], len(group.rows)))


def _covariance(
    expected: Expected, first: Sequence[str], second: Sequence[str], weights: Array, alike: bool
) -> Array | None:
    """Σ over members and rows of weight times covariance."""
    if alike:
        return expected.summed_covariance(list(zip(first, second, strict=True)), weights[0])
    total: Array | None = None
    for a, b, part in zip(first, second, weights, strict=True):
        found = expected.summed_covariance([(a, b)], part) if part.any() else None
        if found is not None:
            total = found if total is None else total + found
    return total
