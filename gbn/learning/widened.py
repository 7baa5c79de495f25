"""The E-step of variational Bayes: the exact posterior of a net whose weights and noises are uncertain.

Under q(A) q(Λ) the expected log-density of a CPD x = A u + e is that of the CPD with the mean coefficients and E Λ,
less a penalty on regressors along which A is uncertain::

    E log N(x; A u, Λ⁻¹) = log N(x; Ā u, (E Λ)⁻¹) - ½ uᵀ D u + ½ (E log |Λ| - log |E Λ|),   D = E (A - Ā)ᵀ Λ (A - Ā)

The penalty is that of one more observation, 0 = G u + e' with Gᵀ G = D and e' white; a net that is wider by these
observations has the q over latents that is wanted for its posterior, and every engine serves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.evidence import Evidence
from gbn.gaussian import LOG_2PI, Covariance
from gbn.graph import uncertain_given
from gbn.learning.data import Data
from gbn.vertex import Vertex

if TYPE_CHECKING:
    from gbn.learning.counted import Group, Part
    from gbn.learning.precisions import Precision
    from gbn.learning.regressions import Family
    from gbn.net import GaussianBayesNet

__all__ = ["Widened"]

Array = np.ndarray[Any, Any]
# Spreads of a family by group of entries, each of shape (columns, columns).
Spreads = Sequence[Sequence[Array]]


class Widened:
    """A net and data with the observations that stand for uncertain weights.

    data: of the wider net.
    hidden: family -> whether its regressors are uncertain, so that the penalty is in the wider net.
    """

    def __init__(self, data: Data, families: Sequence[Family], groups: Sequence[Sequence[Group]]) -> None:
        evidence = data.evidence
        moving = uncertain_given(evidence)
        self.families = families
        self.hidden = [any(r in moving for _, regressors in f.members for r in regressors) for f in families]
        self._extra: dict[str, Vertex] = {}
        self._units: dict[str, Covariance] = {}
        values, masks = dict(evidence.values), dict(evidence.masks)
        self.constant = 0.0
        for family, chosen, hidden in zip(families, groups, self.hidden, strict=True):
            if hidden and family.learned:
                self._add(family, chosen, evidence, values, masks, data.counts)
        wider = Evidence(self._with_extra(evidence.net), evidence.samples, values, masks, evidence.do)
        self.data = Data(wider, data.weights)

    def _add(
        self,
        family: Family,
        groups: Sequence[Group],
        evidence: Evidence,
        values: dict[str, Array],
        masks: dict[str, Array],
        counts: Array,
    ) -> None:
        """A vertex for each member, with an entry for each group and column, missing where the group does not count."""
        columns, roots = family.columns, _roots(family)
        size = len(groups) * columns
        for root, width in zip(roots, (*family.sizes, None), strict=True):
            shape = (size,) if width is None else (size, width)
            self._extra[root] = Vertex(root, "constant", shape, plated=False, value=np.zeros(shape), trainable=False)
        unit = f"\0unit{size}"
        self._units.setdefault(unit, Covariance(1.0, (size,), unit))
        for member, (name, regressors) in enumerate(family.members):
            every = np.ones(evidence.samples, bool)
            seen = np.stack([every if g.seen is None else g.seen[member] for g in groups], axis=1)
            if not seen.any():
                continue
            parents = tuple(part for pair in zip(regressors, roots, strict=False) for part in pair)
            made = f"{name}\0spread"
            self._extra[made] = Vertex(made, "op", (size,), True, (*parents, roots[-1]), "Linear", noise=unit)
            values[made] = np.zeros((evidence.samples, size), evidence.net.dtype)
            if not seen.all():
                masks[made] = np.repeat(seen, columns, axis=1)
            self.constant += 0.5 * columns * LOG_2PI * float(counts @ seen.sum(axis=1))

    def _with_extra(self, net: GaussianBayesNet) -> GaussianBayesNet:
        out = net.copy()
        out.set_outputs(net.outputs)
        out.vertices.update(self._extra)
        out.noises.update(self._units)
        return out

    def rest(self, noises: Mapping[str, Precision], spreads: Spreads, statistics: Sequence[Sequence[Part]]) -> float:
        """What the expected log-density of rows is besides the wider net's log-evidence and ``constant``, in nats."""
        total = 0.0
        for family, parts, spread, hidden in zip(self.families, statistics, spreads, self.hidden, strict=True):
            slack = noises[family.noise].slack
            for number, part in enumerate(parts):
                total += 0.5 * part.moments.weight * float(slack[part.rows].sum())
                if family.learned and not hidden:
                    total -= 0.5 * float(np.sum(spread[number] * part.moments.about_zero.uu))
        return total

    def net(self, net: GaussianBayesNet, spreads: Spreads) -> GaussianBayesNet:
        """The wider net of one with the mean weights and expected precisions, for these D."""
        if not self._extra:
            return net
        out = self._with_extra(net)
        for family, found, hidden in zip(self.families, spreads, self.hidden, strict=True):
            if not (hidden and family.learned):
                continue
            root = np.concatenate([_root(spread) for spread in found]).astype(net.dtype)
            ends = np.cumsum([0, *family.sizes, 1])
            for name, start, stop in zip(_roots(family), ends[:-1], ends[1:], strict=True):
                vertex = out.vertices[name]
                out.vertices[name] = replace(vertex, value=root[:, start:stop].reshape(vertex.shape))
        return out


def _roots(family: Family) -> list[str]:
    """Names of the blocks of G, the constant's last."""
    return [f"{family.name}\0root{k}" for k in range(len(family.sizes) + 1)]


def _root(spread: Array) -> Array:
    """G with Gᵀ G = D, for D positive semi-definite; scaled first, for regressors may differ by many orders of size."""
    scale = np.sqrt(np.maximum(np.diagonal(spread), 0.0))
    safe = np.where(scale > 0, scale, 1.0)
    scaled = spread / safe[:, None] / safe
    values, vectors = np.linalg.eigh((scaled + scaled.T) / 2)
    return np.asarray(np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T * scale)
