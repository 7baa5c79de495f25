"""Parameter expansion (PX-EM): latent roots get a covariance and a mean of their own, which their children take up.

A latent root z ~ N(m, C) is a gauge: z = μ + M (z' - m) with z' ~ N(m, C) again describes the same data when the
children's weights W become W M and their biases b + W μ - W M m.  The M-step that also learns z's mean and covariance,
followed by this change of variables, still never lowers the log-evidence, and takes far longer steps.
Source: Liu, Rubin & Wu, *Parameter expansion to accelerate EM: the PX-EM algorithm*, Biometrika 85 (1998).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.learning.numbers import with_values

if TYPE_CHECKING:
    from gbn.learning.expectations import Moments
    from gbn.learning.maximisation import Priors
    from gbn.learning.regressions import Family
    from gbn.net import GaussianBayesNet

__all__ = ["Gauge", "find_gauges"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Gauge:
    """A latent root that is a gauge.

    root: its name.
    children: the families that it is a regressor of.
    moves: whether the children's biases take up its mean; otherwise that is zero and stays so.
    """

    root: str
    children: tuple[Family, ...]
    moves: bool

    def apply(self, net: GaussianBayesNet, moments: Moments) -> GaussianBayesNet:
        """The children's parameters after the change of variables that the root's moments ask for.

        Args:
            moments: of the root itself, Σ w E[(z - s)(z - s)ᵀ].
        """
        vertex, noise = net.vertices[self.root], net.noises[str(net.vertices[self.root].noise)]
        about = moments.about_zero
        size, weight = vertex.size, moments.weight
        centre = np.asarray(vertex.value, np.float64).reshape(-1)
        mean = about.second[:size, size] / weight if self.moves else centre
        gap = moments.about(mean[:, None])
        spread = moments.residual(gap) / weight
        try:
            factor = np.linalg.cholesky(spread)
        except np.linalg.LinAlgError:
            return net
        if np.diagonal(factor).min() <= 1e-12 * np.diagonal(factor).max():
            return net
        move = np.linalg.solve(np.linalg.cholesky(noise.matrix()).T, factor.T).T
        changed: dict[str, Array] = {}
        values = {n: v.value for n, v in net.vertices.items() if v.value is not None}
        for family in self.children:
            changed |= _taken_up(family, values, self.root, mean, move, centre, self.moves)
        return with_values(net, changed)


def _taken_up(
    family: Family, values: Mapping[str, Array], root: str, mean: Array, move: Array, centre: Array, moves: bool
) -> dict[str, Array]:
    """New parameters of one child: its columns of the root times M, and its constant."""
    coefficients = family.as_function_of(family.learned, dict(values))
    chosen, entry, factor = coefficients.whole_columns  # type: ignore[misc]
    columns = _columns(family, root)
    a = family.coefficients(values)
    before = a[:, columns]
    after = before @ move
    a[:, columns] = after
    if moves:
        a[:, -1] += before @ mean - after @ centre
    theta = np.empty(entry.size)
    theta[entry] = (a - coefficients.fixed)[:, chosen] / factor
    sizes = [values[p].size for p in family.learned]
    return dict(zip(family.learned, np.split(theta, np.cumsum(sizes)[:-1]), strict=True))


def _columns(family: Family, root: str) -> Array:
    regressors = family.members[0][1]
    start = sum(family.sizes[: regressors.index(root)])
    return np.arange(start, start + family.sizes[regressors.index(root)])


def find_gauges(
    net: GaussianBayesNet, seen: Collection[str], families: Sequence[Family], priors: Priors
) -> list[Gauge]:
    """The latent roots whose mean and covariance their children can take up.

    All weights on the root must be free: not frozen, masked, held back by a ridge, or tied to anything else.

    Args:
        seen: vertices of which anything is known in any row.
    """
    uses: dict[str, int] = {}
    for family in families:
        for parameter in family.learned:
            uses[parameter] = uses.get(parameter, 0) + 1
    values = {n: v.value for n, v in net.vertices.items() if v.value is not None}
    sharing: dict[str, int] = {}
    for vertex in net.vertices.values():
        if vertex.noise is not None:
            sharing[vertex.noise] = sharing.get(vertex.noise, 0) + 1
    found = []
    for name, vertex in net.vertices.items():
        if vertex.kind != "input" or vertex.noise is None or name in seen or sharing[vertex.noise] > 1:
            continue
        gauge = _gauge(net, name, families, uses, values, priors)
        if gauge is not None:
            found.append(gauge)
    return found


def _gauge(
    net: GaussianBayesNet,
    root: str,
    families: Sequence[Family],
    uses: Mapping[str, int],
    values: Mapping[str, Array],
    priors: Priors,
) -> Gauge | None:
    children = [f for f in families if any(root in regressors for _, regressors in f.members)]
    direct = {vertex for f in children for vertex in (f.mean.through if f.mean else ())}
    if not children or any(root in v.parents and n not in direct for n, v in net.vertices.items()):
        return None
    moves = True
    for family in children:
        tied = any(uses[p] > 1 or p in priors.masks or priors.ridge.get(p) for p in family.learned)
        if len(family.members) > 1 or family.rows is not None or tied or not family.learned or len(family.blocks()) > 1:
            return None
        layout = family.as_function_of(family.learned, dict(values)).whole_columns
        if layout is None or not set(_columns(family, root)) <= set(layout[0]):
            return None
        moves &= family.columns - 1 in layout[0]
    if not moves and np.any(net.vertices[root].value):
        return None
    return Gauge(root, tuple(children), moves)
