"""Block elimination of a sparse symmetric positive definite system, and the entries of its inverse that a net asks for.

The system is a sum of small dense *elements*, K = Σ_e E_e, each over a few variables (blocks of entries).  Variables
are eliminated along a plan (:mod:`gbn.inference.plan`); what remains of the elements around one is a new element over
its neighbours::

    front = [P C; Cᵀ R],  L Lᵀ = P,  gain G = P⁻¹ C,  update R - Cᵀ G            (the multifrontal method)
    Σ_vr = -G Σ_rr,  Σ_vv = P⁻¹ + G Σ_rr Gᵀ,  r = the rest of the front          (Takahashi's equations, downward)

On a net this is the upward and the downward pass of a junction tree in information form.  Fronts of equal shape that do
not wait for one another are stacked, and factored in one call.  Sources: Duff & Reid (1983); Takahashi, Fagan & Chin
(1973).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from scipy.linalg import lapack

from gbn.errors import IllConditionedError
from gbn.inference.plan import Group, Index, Link, Plan, make_plan, minimum_degree

__all__ = ["Factorization", "Plan", "make_plan", "minimum_degree"]

Array = np.ndarray[Any, Any]
# The largest relative error of a pivot that passes: about eight digits are right then.
_MOST_ERROR = 1e-8


class Factorization:
    """K factored along a plan, for a batch of systems of one structure.

    Arrays of matrices have shape (batch, fronts of a group, rows, columns).

    Args:
        plan: from :func:`make_plan`.
        elements: E_e over the variables ``plan.elements[e]``, each of shape (batch or 1, f, f).
        names: of the variables, for messages.

    rounding: the largest relative error of a pivot, to first order.

    Raises:
        IllConditionedError: a pivot is lost to rounding.
    """

    def __init__(self, plan: Plan, elements: Sequence[Array | None], names: Sequence[str]) -> None:
        self.plan = plan
        self.batch = max((len(e) for e in elements if e is not None), default=1)
        self._inverses: list[Array] = []
        self._gains: list[Array] = []
        self.logdet = np.zeros(self.batch)
        self.rounding = 0.0
        error = np.zeros((self.batch, plan.size, 1))
        updates: list[Array] = []
        uses = Counter(link.source for group in plan.groups for link in group.children)
        for group in plan.groups:
            m = group.size
            matrix = self._assembled(group, elements, updates, error)
            for link in group.children:
                uses[link.source] -= 1
                if not uses[link.source]:
                    updates[link.source] = _NOTHING  # type: ignore[index]
            root, pivots = _inverse_root(matrix[..., :m, :m])
            # Rounding errors travel as first-order perturbations do, dU = [-G; I]ᵀ dF [-G; I]; their diagonal is
            # followed, for a pivot may look sound and yet be the small rest of what was computed wrongly before.
            own = error[:, group.own].reshape(self.batch, group.count, m, 1)
            lost = (root * root) @ own
            sound = lost <= _MOST_ERROR
            if not sound.all():
                entry = group.own.start + int(np.argmin(sound.all(axis=0)))
                raise _lost(names[next(v for v, span in enumerate(plan.spans) if span.start <= entry < span.stop)])
            self.rounding = max(self.rounding, float(lost.max()))
            inverse, coupling = root.swapaxes(2, 3) @ root, matrix[..., :m, m:]
            gain = inverse @ coupling
            if group.width:
                half = root @ coupling
                updates.append(matrix[..., m:, m:] - half.swapaxes(2, 3) @ half)
                _update(np.add, error, group, (gain * gain).swapaxes(2, 3) @ own)
            else:
                updates.append(_NOTHING)
            self._inverses.append(inverse)
            self._gains.append(gain)
            self.logdet += np.log(pivots).sum(axis=(1, 2))

    def _assembled(
        self, group: Group, elements: Sequence[Array | None], updates: Sequence[Array], error: Array
    ) -> Array:
        """The fronts: the elements that begin here, and the updates of their children."""
        m, size = group.size, group.size + group.width
        matrix = np.zeros((self.batch, group.count, size, size))
        for link in group.elements:
            _put(matrix, link, _stacked([elements[e] for e in link.members]))  # type: ignore[index, union-attr]
        rounding = np.finfo(float).eps * np.einsum("bgii->bgi", matrix)[..., None]
        error[:, group.own] += rounding[:, :, :m].reshape(self.batch, -1, 1)
        if group.width:
            _update(np.add, error, group, rounding[:, :, m:])
        for link in group.children:
            _put(matrix, link, updates[link.source][:, link.members])  # type: ignore[index]
        return matrix

    def solve(self, right: Array, which: Array | None = None) -> Array:
        """K⁻¹ right.

        Args:
            right: entries in the order of elimination.  Shape: (systems, columns, size); no copy is made of an array
                that has its columns last in memory, and it is overwritten.
            which: the member of the batch that stands for each system (default: they are the batch).

        Returns:
            the solution, of the same shape.
        """
        x = np.ascontiguousarray(right.swapaxes(1, 2))
        systems, _, columns = x.shape
        for group, inverse, gain in zip(self.plan.groups, self._inverses, self._gains, strict=True):
            own = x[:, group.own].reshape(systems, group.count, group.size, columns)
            if group.width:
                _update(np.subtract, x, group, _taken(gain, which).swapaxes(2, 3) @ own)
            x[:, group.own] = (_taken(inverse, which) @ own).reshape(systems, -1, columns)
        for group, gain in zip(reversed(self.plan.groups), reversed(self._gains), strict=True):
            if group.width:
                rest = x[:, group.rest].reshape(systems, group.count, group.width, columns)
                x[:, group.own] -= (_taken(gain, which) @ rest).reshape(systems, -1, columns)
        return x.swapaxes(1, 2)

    @cached_property
    def _inverse(self) -> list[Array]:
        """The rows of the inverse that belong to the variables of each group, over the entries of their fronts."""
        groups = self.plan.groups
        rests = [np.empty((self.batch, g.count, g.width, g.width)) for g in groups]
        out = [_NOTHING] * len(groups)
        for k in reversed(range(len(groups))):
            group, own, gain, rest = groups[k], self._inverses[k], self._gains[k], rests[k]
            rests[k] = _NOTHING
            m, size = group.size, group.size + group.width
            if not group.width:
                whole = out[k] = (own + own.swapaxes(2, 3)) / 2
            else:
                cross = -gain @ rest
                whole = np.empty((self.batch, group.count, size, size))
                block = own - cross @ gain.swapaxes(2, 3)
                whole[..., :m, :m] = (block + block.swapaxes(2, 3)) / 2
                whole[..., :m, m:] = cross
                whole[..., m:, :m] = cross.swapaxes(2, 3)
                whole[..., m:, m:] = rest
                out[k] = whole[..., :m, :].copy()
            out[k].flags.writeable = False
            for link in group.children:
                taken = whole[_square(link)]
                if link.starts is not None:
                    taken = np.repeat(taken, np.diff([*link.starts, _count(link.members)]), axis=1)
                rests[link.source][:, link.members] = taken  # type: ignore[index]
        return out

    def together(self, a: int, b: int) -> bool:
        """Whether two variables are neighbours, so that :meth:`covariance` has their block."""
        first, other = (a, b) if self.plan.place[a] <= self.plan.place[b] else (b, a)
        return other in self.plan.fronts[first]

    def covariance(self, a: int, b: int) -> Array:
        """The block (a, b) of K⁻¹ for two variables that are together; read-only, and symmetric where they are one.

        Shape: (batch, size of a, size of b).
        """
        plan = self.plan
        if plan.place[a] > plan.place[b]:
            return self.covariance(b, a).swapaxes(1, 2)
        (k, number), first, second = plan.where[a], plan.spans[a], plan.spans[b]
        group, rows = plan.groups[k], self._inverse[k][:, number]
        start = first.start - group.own.start - number * group.size
        rows = rows[:, start : start + first.stop - first.start]
        if k == plan.where[b][0]:
            column = start + second.start - first.start
        else:
            front = plan.fronts[a]
            column = sum(plan.spans[v].stop - plan.spans[v].start for v in front[: front.index(b)])
        return rows[..., column : column + second.stop - second.start]


_NOTHING = np.zeros((0, 0, 0, 0))


def _count(index: Index) -> int:
    return int(index.stop - index.start) if isinstance(index, slice) else len(index)


def _stacked(matrices: Sequence[Array]) -> Array:
    """(batch or 1, f, f) of each -> (batch or 1, count, f, f)."""
    if len(matrices) == 1:
        return matrices[0][:, None]
    batch = max(map(len, matrices))
    if any(len(matrix) != batch for matrix in matrices):
        matrices = [np.broadcast_to(matrix, (batch, *matrix.shape[1:])) for matrix in matrices]
    return np.concatenate(matrices).reshape(len(matrices), batch, *matrices[0].shape[1:]).swapaxes(0, 1)


def _square(link: Link) -> tuple[Any, ...]:
    """Where the members of a link lie in the fronts of its group."""
    if isinstance(link.index, slice):
        return slice(None), link.targets, link.index, link.index
    targets = link.targets if isinstance(link.targets, slice) else link.targets[:, None, None]
    return slice(None), targets, link.index[:, None], link.index


def _put(matrix: Array, link: Link, parts: Array) -> None:
    """Add the parts where they lie."""
    matrix[_square(link)] += parts if link.starts is None else np.add.reduceat(parts, link.starts, axis=1)


def _update(change: np.ufunc, x: Array, group: Group, parts: Array) -> None:
    """Add parts to the entries of neighbours, or subtract them.

    Shapes: (systems, size, columns), (systems, fronts, width, columns).
    """
    flat = parts.reshape(len(parts), group.count * group.width, x.shape[2])
    rest: Index = group.rest
    if group.runs is not None:
        order, starts, rest = group.runs
        flat = np.add.reduceat(flat[:, order], starts, axis=1)
    if isinstance(rest, slice):
        change(x[:, rest], flat, out=x[:, rest])
    else:
        x[:, rest] = change(x[:, rest], flat)


def _taken(matrix: Array, which: Array | None) -> Array:
    return matrix if which is None or len(matrix) == 1 else matrix[which]


def _inverse_root(matrix: Array) -> tuple[Array, Array]:
    """L⁻¹ and the squared diagonal of L, with L Lᵀ the matrix; NaN from where it is not positive definite."""
    if matrix.shape[:2] == (1, 1):
        factor, failed = lapack.dpotrf(matrix[0, 0], lower=1)
        if failed:
            root, pivots = np.zeros_like(matrix), np.ones(matrix.shape[:3])
            root[..., failed - 1 :, :] = pivots[..., failed - 1 :] = np.nan
            return root, pivots
        inverse, _ = lapack.dtrtri(factor, lower=1)
        return inverse[None, None], factor.diagonal()[None, None] ** 2
    # A unit diagonal keeps the general inverse of numpy, which pivots, as good as a triangular one.
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.sqrt(np.einsum("bgii->bgi", matrix))
        scaled = matrix / (spread[..., :, None] * spread[..., None, :])
    try:
        factor = np.linalg.cholesky(scaled)
    except np.linalg.LinAlgError:
        each = [_inverse_root(matrix[b : b + 1, g : g + 1]) for b, g in np.ndindex(matrix.shape[:2])]
        roots, pivots = (np.concatenate(parts) for parts in zip(*each, strict=True))
        return roots.reshape(matrix.shape), pivots.reshape(matrix.shape[:3])
    return np.linalg.inv(factor) / spread[..., None, :], (np.einsum("bgii->bgi", factor) * spread) ** 2


def _lost(name: str) -> IllConditionedError:
    return IllConditionedError(
        f"{name!r}: its precision given its neighbours is lost to rounding in the information form (noises of very "
        "different size, or near-deterministic relations); ask with solver='observations', or rescale the noise"
    )
