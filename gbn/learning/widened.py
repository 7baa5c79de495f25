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
            for number, group in enumerate(chosen if hidden and family.learned else ()):
                self._add(family, number, group, evidence, values, masks, data.counts)
        wider = Evidence(self._with_extra(evidence.net), evidence.samples, values, masks, evidence.do)
        self.data = Data(wider, data.weights)

    def _add(
        self,
        family: Family,
        number: int,
        group: Group,
        evidence: Evidence,
        values: dict[str, Array],
        masks: dict[str, Array],
        counts: Array,
    ) -> None:
        columns, roots = family.columns, _roots(family, number)
        for root, size in zip(roots, (*family.sizes, None), strict=True):
            shape = (columns,) if size is None else (columns, size)
            self._extra[root] = Vertex(root, "constant", shape, plated=False, value=np.zeros(shape), trainable=False)
        unit = f"\0unit{columns}"
        self._units.setdefault(unit, Covariance(1.0, (columns,), unit))
        for member, (name, regressors) in enumerate(family.members):
            seen = None if group.seen is None else group.seen[member]
            if seen is not None and not seen.any():
                continue
            parents = tuple(part for pair in zip(regressors, roots, strict=False) for part in pair)
            made = f"{name}\0spread{number}"
            self._extra[made] = Vertex(made, "op", (columns,), True, (*parents, roots[-1]), "Linear", noise=unit)
            values[made] = np.zeros((evidence.samples, columns), evidence.net.dtype)
            if seen is not None and not seen.all():
                masks[made] = np.broadcast_to(seen[:, None], values[made].shape)
            rows = counts if seen is None else counts * seen
            self.constant += 0.5 * columns * LOG_2PI * float(rows.sum())

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
            for number, spread in enumerate(found if hidden and family.learned else ()):
                root = _root(spread).astype(net.dtype)
                ends = np.cumsum([0, *family.sizes, 1])
                for name, start, stop in zip(_roots(family, number), ends[:-1], ends[1:], strict=True):
                    vertex = out.vertices[name]
                    out.vertices[name] = replace(vertex, value=root[:, start:stop].reshape(vertex.shape))
        return out


def _roots(family: Family, number: int) -> list[str]:
    """Names of the blocks of G, the constant's last."""
    return [f"{family.name}\0root{number}.{k}" for k in range(len(family.sizes) + 1)]


def _root(spread: Array) -> Array:
    """G with Gᵀ G = D, for D positive semi-definite."""
    values, vectors = np.linalg.eigh((spread + spread.T) / 2)
    return np.asarray(np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T)
