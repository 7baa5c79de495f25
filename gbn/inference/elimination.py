"""Block elimination of a sparse symmetric positive definite system, and the entries of its inverse that a net asks for.

The system is a sum of small dense *elements*, K = Σ_e E_e, each over a few variables (blocks of entries).  Variables
are eliminated one by one; what remains of the elements around one is a new element over its neighbours::

    front = [P C; Cᵀ R],  L Lᵀ = P,  gain G = P⁻¹ C,  update R - Cᵀ G            (the multifrontal method)
    Σ_vr = -G Σ_rr,  Σ_vv = P⁻¹ + G Σ_rr Gᵀ,  r = the rest of the front          (Takahashi's equations, downward)

On a net this is the upward and the downward pass of a junction tree in information form.  Sources: Duff & Reid (1983);
Takahashi, Fagan & Chin (1973); Amestoy, Davis & Duff (1996) for the approximate degrees of the order.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from scipy.linalg import lapack

from gbn.errors import IllConditionedError

__all__ = ["Factorization", "Front", "Plan", "make_plan", "minimum_degree"]

Array = np.ndarray[Any, Any]
Index = slice | Array
# The largest relative error of a pivot that passes: about eight digits are right then.
_MOST_ERROR = 1e-8


@dataclass(frozen=True, eq=False)
class Front:
    """A variable at its elimination.

    own: its entries among all, in the order of elimination.
    rest: the entries of its neighbours then.
    variables: it and its neighbours, in the order of elimination.
    elements: numbers of the elements that it is the first of, and where their entries lie in the front.
    children: numbers of the fronts whose updates it takes, and where the updates lie.
    parent: the front that takes its update, and where it lies there; None at a root.
    """

    own: slice
    rest: Index
    variables: tuple[int, ...]
    elements: tuple[tuple[int, Index], ...]
    children: tuple[tuple[int, Index], ...]
    parent: tuple[int, Index] | None

    @property
    def size(self) -> int:
        """Entries of the variable."""
        return int(self.own.stop - self.own.start)


@dataclass(frozen=True, eq=False)
class Plan:
    """Who is eliminated when, and where everything goes; it depends on the structure alone.

    order: the variables as they are eliminated; front k eliminates ``order[k]``.
    place: variable -> its number in the order.
    elements: for each element its variables in the order of elimination.
    entries: stored numbers; flops: multiplications of a factorisation.
    """

    order: tuple[int, ...]
    place: tuple[int, ...]
    fronts: tuple[Front, ...]
    elements: tuple[tuple[int, ...], ...]
    size: int
    entries: int
    flops: float


def minimum_degree(sizes: Sequence[int], elements: Sequence[Sequence[int]]) -> tuple[list[int], list[set[int]]]:
    """An order of elimination that keeps fronts small, and each variable's neighbours when its turn comes.

    The variable with the fewest neighbouring entries goes next, by the approximate degrees of Amestoy, Davis & Duff
    (1996): elements stand for the cliques they are, and one within another is absorbed.
    """
    content: dict[int, set[int]] = {e: set(variables) for e, variables in enumerate(elements)}
    of: list[set[int]] = [set() for _ in sizes]
    for e, variables in content.items():
        for v in variables:
            of[v].add(e)
    weight = {e: sum(sizes[v] for v in variables) for e, variables in content.items()}
    degree = [sum(weight[e] - sizes[v] for e in of[v]) for v in range(len(sizes))]
    heap = [(degree[v], v) for v in range(len(sizes))]
    heapq.heapify(heap)
    order: list[int] = []
    neighbours: list[set[int]] = [set() for _ in sizes]
    done = [False] * len(sizes)
    while heap:
        d, v = heapq.heappop(heap)
        if done[v] or d != degree[v]:
            continue
        done[v] = True
        order.append(v)
        taken = of[v]
        front = set[int]().union(*(content.pop(e) for e in taken))
        front.discard(v)
        neighbours[v] = front
        if not front:
            continue
        new = len(elements) + len(order)
        for u in front:
            of[u] -= taken
        outside = _outside(front, of, weight, sizes)
        for e, left in outside.items():
            if not left:
                for u in content.pop(e):
                    of[u].discard(e)
        content[new], weight[new] = set(front), sum(sizes[u] for u in front)
        for u in front:
            degree[u] = weight[new] - sizes[u] + sum(outside[e] for e in of[u])
            of[u].add(new)
            heapq.heappush(heap, (degree[u], u))
    return order, neighbours


def _outside(front: set[int], of: list[set[int]], weight: dict[int, int], sizes: Sequence[int]) -> dict[int, int]:
    """Entries that each element touching the front has outside it (eliminated variables are in no element)."""
    out: dict[int, int] = {}
    for u in front:
        for e in of[u]:
            out[e] = out.get(e, weight[e]) - sizes[u]
    return out


@lru_cache(maxsize=16)
def make_plan(sizes: tuple[int, ...], elements: tuple[tuple[int, ...], ...]) -> Plan:
    """The plan of an elimination; cached, for a net is asked again and again with the same evidence pattern.

    Args:
        sizes: entries of each variable.
        elements: the variables of each element; every variable must be in one.
    """
    order, neighbours = minimum_degree(sizes, elements)
    place = np.empty(len(order), int)
    place[order] = np.arange(len(order))
    starts = np.concatenate([[0], np.cumsum([sizes[v] for v in order])]).astype(int)

    def entries(variables: Sequence[int]) -> Array:
        return np.concatenate(
            [np.arange(starts[k], starts[k + 1]) for k in (place[v] for v in variables)] or [np.zeros(0, int)]
        )

    sorted_ = [tuple(sorted(e, key=place.__getitem__)) for e in elements]
    owned: list[list[int]] = [[] for _ in order]
    for e, variables in enumerate(sorted_):
        if variables:
            owned[place[variables[0]]].append(e)
    members = [(v, *sorted(neighbours[v], key=place.__getitem__)) for v in order]
    everything = [entries(variables) for variables in members]
    rests = [entries_[sizes[v] :] for v, entries_ in zip(order, everything, strict=True)]
    parents = [int(place[variables[1]]) if len(variables) > 1 else None for variables in members]
    children: list[list[tuple[int, Index]]] = [[] for _ in order]
    within: list[tuple[int, Index] | None] = []
    for k, parent in enumerate(parents):
        if parent is None:
            within.append(None)
            continue
        index = _index(np.searchsorted(everything[parent], rests[k]))
        within.append((parent, index))
        children[parent].append((k, index))
    fronts = tuple(
        Front(
            slice(int(starts[k]), int(starts[k + 1])),
            _index(rests[k]),
            members[k],
            tuple((e, _index(np.searchsorted(everything[k], entries(sorted_[e])))) for e in owned[k]),
            tuple(children[k]),
            within[k],
        )
        for k in range(len(order))
    )
    figures = [(sizes[v], len(rest)) for v, rest in zip(order, rests, strict=True)]
    flops = float(sum(m**3 + 2.0 * m * m * s + m * s * s for m, s in figures))
    stored = sum((m + s) ** 2 + m * (m + s) for m, s in figures)
    return Plan(tuple(order), tuple(place.tolist()), fronts, tuple(sorted_), int(starts[-1]), stored, flops)


def _index(positions: Array) -> Index:
    """The same positions as a slice, which numpy reads without a copy, where they are consecutive."""
    if len(positions) and positions[-1] - positions[0] == len(positions) - 1:
        return slice(int(positions[0]), int(positions[-1]) + 1)
    return positions


def _square(index: Index) -> tuple[Any, ...]:
    return (slice(None), index, index) if isinstance(index, slice) else (slice(None), index[:, None], index[None, :])


class Factorization:
    """K factored along a plan, for a batch of systems of one structure.

    Args:
        plan: from :func:`make_plan`.
        elements: E_e over the variables ``plan.elements[e]``, each of shape (batch or 1, f, f).
        names: of the variables, for messages.

    Raises:
        IllConditionedError: a pivot is lost to rounding.
    """

    def __init__(self, plan: Plan, elements: Sequence[Array | None], names: Sequence[str]) -> None:
        self.plan = plan
        self.batch = max((len(e) for e in elements if e is not None), default=1)
        self._inverses: list[Array] = []
        self._gains: list[Array] = []
        self.logdet = np.zeros(self.batch)
        error = np.zeros((self.batch, plan.size, 1))
        updates: list[Array | None] = []
        for k, front in enumerate(plan.fronts):
            matrix = self._assembled(front, elements, updates, error)
            m = front.size
            root, pivots = _inverse_root(matrix[:, :m, :m])
            # Rounding errors travel as first-order perturbations do, dU = [-G; I]ᵀ dF [-G; I]; their diagonal is
            # followed, for a pivot may look sound and yet be the small rest of what was computed wrongly before.
            own = error[:, front.own]
            if not ((root * root) @ own <= _MOST_ERROR).all():
                raise _lost(names[plan.order[k]])
            inverse, coupling = root.swapaxes(1, 2) @ root, matrix[:, :m, m:]
            gain = inverse @ coupling
            if front.parent:
                half = root @ coupling
                updates.append(matrix[:, m:, m:] - half.swapaxes(1, 2) @ half)
                error[:, front.rest] += (gain * gain).swapaxes(1, 2) @ own
            else:
                updates.append(None)
            self._inverses.append(inverse)
            self._gains.append(gain)
            self.logdet += np.log(pivots).sum(axis=1)

    def _assembled(
        self, front: Front, elements: Sequence[Array | None], updates: list[Array | None], error: Array
    ) -> Array:
        """The front: the elements that begin here, and the updates of its children, which are let go."""
        size = front.size + (front.rest.stop - front.rest.start if isinstance(front.rest, slice) else len(front.rest))
        matrix = np.zeros((self.batch, size, size))
        for e, index in front.elements:
            matrix[_square(index)] += elements[e]  # type: ignore[arg-type]
        rounding = np.finfo(float).eps * np.einsum("bii->bi", matrix)[:, :, None]
        error[:, front.own] += rounding[:, : front.size]
        error[:, front.rest] += rounding[:, front.size :]
        for k, index in front.children:
            matrix[_square(index)] += updates[k]  # type: ignore[arg-type]
            updates[k] = None
        return matrix

    def solve(self, right: Array, which: Array | None = None) -> Array:
        """K⁻¹ right.

        Args:
            right: entries in the order of elimination.  Shape: (systems, columns, size); it is overwritten.
            which: the member of the batch that stands for each system (default: they are the batch).

        Returns:
            ``right``, which now holds the solution.
        """
        x = right
        for front, inverse, gain in zip(self.plan.fronts, self._inverses, self._gains, strict=True):
            own = x[:, :, front.own]
            if front.parent:
                x[:, :, front.rest] -= own @ _taken(gain, which)
            x[:, :, front.own] = own @ _taken(inverse, which)
        for front, gain in zip(reversed(self.plan.fronts), reversed(self._gains), strict=True):
            if front.parent:
                x[:, :, front.own] -= x[:, :, front.rest] @ _taken(gain, which).swapaxes(1, 2)
        return x

    @cached_property
    def _inverse(self) -> list[Array]:
        """The inverse over each front.  Shapes: (batch, f, f)."""
        out: list[Array] = [np.zeros(0)] * len(self.plan.fronts)
        for k in reversed(range(len(out))):
            front, own, gain = self.plan.fronts[k], self._inverses[k], self._gains[k]
            if front.parent is None:
                out[k] = own
                continue
            parent, index = front.parent
            rest = out[parent][_square(index)]
            cross = -gain @ rest
            m = front.size
            out[k] = whole = np.empty((self.batch, m + rest.shape[1], m + rest.shape[1]))
            whole[:, :m, :m] = own - cross @ gain.swapaxes(1, 2)
            whole[:, :m, m:] = cross
            whole[:, m:, :m] = cross.swapaxes(1, 2)
            whole[:, m:, m:] = rest
        return out

    def together(self, a: int, b: int) -> bool:
        """Whether two variables are neighbours, so that :meth:`covariance` has their block."""
        first = a if self.plan.place[a] <= self.plan.place[b] else b
        return (b if first == a else a) in self.plan.fronts[self.plan.place[first]].variables

    def covariance(self, a: int, b: int) -> Array:
        """The block (a, b) of K⁻¹ for two variables that are together.  Shape: (batch, size of a, size of b)."""
        if self.plan.place[a] > self.plan.place[b]:
            return self.covariance(b, a).swapaxes(1, 2)
        k = self.plan.place[a]
        front, start = self.plan.fronts[k], 0
        for variable in front.variables:
            size = self.plan.fronts[self.plan.place[variable]].size
            if variable == b:
                return self._inverse[k][:, : front.size, start : start + size]
            start += size
        raise KeyError((a, b))


def _taken(matrix: Array, which: Array | None) -> Array:
    return matrix if which is None or len(matrix) == 1 else matrix[which]


def _inverse_root(matrix: Array) -> tuple[Array, Array]:
    """L⁻¹ and the squared diagonal of L, with L Lᵀ the matrix; both are NaN where it is not positive definite."""
    if len(matrix) == 1:
        factor, failed = lapack.dpotrf(matrix[0], lower=1)
        if failed:
            return _nowhere(matrix)
        inverse, _ = lapack.dtrtri(factor, lower=1)
        return inverse[None], factor.diagonal()[None] ** 2
    diagonal = np.einsum("bii->bi", matrix)
    if not (diagonal > 0).all():
        return _nowhere(matrix)
    # A unit diagonal keeps the general inverse of numpy, which pivots, as good as a triangular one.
    spread = np.sqrt(diagonal)
    try:
        factor = np.linalg.cholesky(matrix / (spread[:, :, None] * spread[:, None, :]))
    except np.linalg.LinAlgError:
        return _nowhere(matrix)
    return np.linalg.inv(factor) / spread[:, None, :], (np.einsum("bii->bi", factor) * spread) ** 2


def _nowhere(matrix: Array) -> tuple[Array, Array]:
    return np.full_like(matrix, np.nan), np.full(matrix.shape[:2], np.nan)


def _lost(name: str) -> IllConditionedError:
    return IllConditionedError(
        f"{name!r}: its precision given its neighbours is lost to rounding in the information form (noises of very "
        "different size, or near-deterministic relations); ask with solver='observations', or rescale the noise"
    )
