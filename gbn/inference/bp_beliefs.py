"""The posterior from the messages of Gaussian belief propagation.

belief:  K_i = K_ii + Σ_k P_{k→i},         mean K_i⁻¹ (h_i + Σ_k h_{k→i}),  covariance K_i⁻¹
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gbn.errors import InferenceError
from gbn.gaussian import LOG_2PI
from gbn.inference.bp_messages import Density, Messages
from gbn.inference.factored import FactoredPosterior
from gbn.inference.factors import Factors
from gbn.inference.precision import by_pattern
from gbn.inference.solution import per_sample

__all__ = ["Beliefs"]

Array = np.ndarray[Any, Any]


class Beliefs(FactoredPosterior):
    """The posterior from messages, as a Solution: computed as far as it is asked for."""

    def __init__(self, factors: Factors, targets: Sequence[str], messages: Messages) -> None:
        super().__init__(factors, targets)
        self.state, self.system = messages, messages.system
        self.tree = messages.order is not None
        self._belief: dict[str, Density] = {}
        means: dict[str, Array] = {}
        for name in self.system.hidden:
            potential = messages.cavity(name)[1]
            self._belief[name] = messages.density(name)
            means[name] = by_pattern(self._belief[name].cov, potential, self.pattern)
        self.hidden = self._shaped(means)

    def _shaped(self, flat: Mapping[str, Array]) -> dict[str, Array]:
        return {name: d.reshape(*d.shape[:-1], *self.net[name].shape) for name, d in flat.items()}

    def joint(self, first: int, second: int) -> Array:
        """Regressions along the path from one to the other."""
        j, k = self.system.hidden[first], self.system.hidden[second]
        cov, path = self._belief[k].cov, self._path(j, k)
        if path is None:
            return np.zeros((1, self.net[j].size, self.net[k].size))
        if not self.tree and len(path) > 2:
            raise InferenceError(
                f"the covariance of {j!r} and {k!r} is not known: they are not neighbours in a graph with loops, and "
                "belief propagation has it only within a vertex and between neighbours.  Use engine='exact'"
            )
        for near, far in zip(path[-2::-1], path[:0:-1], strict=True):
            cov = self.state.regression(near, far) @ cov
        return (cov + np.swapaxes(cov, 1, 2)) / 2 if j == k else cov

    def _path(self, j: str, k: str) -> list[str] | None:
        """A shortest path; None between components."""
        paths, seen = [[j]], {j}
        for path in paths:
            if path[-1] == k:
                return path
            further = [n for n in self.system.neighbours[path[-1]] if n not in seen]
            seen.update(further)
            paths += [[*path, n] for n in further]
        return None

    def draws(self, n: int, rng: np.random.Generator) -> Mapping[str, Array]:
        """From the roots outward, each vertex given the one before it."""
        if self.state.order is None:
            raise _refusal("there are no samples", "use engine='exact'")
        before = {child: parent for parent, child in self.state.order}
        d: dict[str, Array] = {}
        for name in [*(i for i in self.system.hidden if i not in before), *before]:
            parent = before.get(name)
            potential, density = self.state.cavity(name, parent)[1], self.state.density(name, parent)
            draw = rng.standard_normal((n, *potential.shape))
            draw = by_pattern(np.swapaxes(density.root, 1, 2), draw, self.pattern)
            d[name] = draw + by_pattern(density.cov, potential, self.pattern)
            if parent is not None:
                d[name] += by_pattern(self.state.regression(name, parent), d[parent], self.pattern)
            if name in self.evidence.masks:
                d[name] = np.where(self.evidence.masks[name].reshape(potential.shape), 0.0, d[name])
        deviations = self.spread(self._shaped(d))
        return {name: deviation.astype(self.net.dtype, copy=False) for name, deviation in deviations.items()}

    def free_energy(self) -> Array:
        """Bethe's: F at the means + ½ (Σ_i (1 - degree) log |K_i| + Σ_edges log |K_ij|) - ½ (free entries) log 2π.

        It is -log p(evidence) on a forest.  F at the means, and not a difference of large terms hᵀ K⁻¹ h.
        """
        state, logdet = self.state, np.zeros(1)
        place = {name: number for number, name in enumerate(self.system.hidden)}
        for name, others in self.system.neighbours.items():
            logdet = logdet + (1 - len(others)) * self._belief[name].logdet
        for i, j in state.edges:
            if place[i] > place[j]:
                continue
            precision, message = state.cavity(j, i)[0], state.fresh((i, j))[0]
            logdet = logdet + state.density(i, j).logdet + Density(precision + message, j).logdet
        total = self._energy() + 0.5 * (per_sample(logdet, self.pattern) - LOG_2PI * self.system.free)
        return total.astype(self.net.dtype)

    def log_evidence(self) -> Array:
        if not self.tree:
            raise _refusal(
                "there is no log-evidence",
                "post.free_energy is Bethe's approximation of -log p(evidence); for the exact one use engine='exact'",
            )
        return -self.free_energy()


def _refusal(what: str, remedy: str) -> InferenceError:
    return InferenceError(f"belief propagation: the hidden vertices have loops, so {what}; {remedy}")
